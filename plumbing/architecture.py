"""Which ViT is in a file: its sizes from the tensors, the rest from config.json.
"""
import re

from plumbing.weights import from_dict
from vit import SIZES, ViTConfig


def vit_inside(tensors, config):
    """Of a run whose model holds a ViT (LT-ViT, Query2Label, a probe, MultiViT's stage 1): that ViT's tensors and config, and a note."""
    model = config.get("model")
    own = config.get(model) if isinstance(model, str) else None
    if not isinstance(own, dict) or "vit" not in own:
        return tensors, config, []
    part = "stage1" if any(key.startswith("stage1.") for key in tensors) else "vit"
    return ({key.removeprefix(part + "."): tensor for key, tensor in tensors.items() if key.startswith(part + ".")}, {"vit": own["vit"]},
            [f"only the {part} of its {model}"])


def read_config(name, tensors, layout, config, preprocessor):
    """Tensors under timm's names and the two JSON files, {} where absent -> ViTConfig."""
    if "vit" in config:                                            # written by train.py
        return from_dict(ViTConfig, config["vit"], name)
    need = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2, "blocks.0.attn.qkv.weight": 2}
    wrong = next((key for key, axes in need.items() if key not in tensors or tensors[key].dim() != axes), None)
    if wrong:
        raise ValueError(f"{name} is not a ViT this code knows: {wrong} is missing or has the wrong number of axes "
                         f"(the file has {', '.join(list(tensors)[:4])} ...)")
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"{name}: activation {config['hidden_act']!r}, only the exact \"gelu\" is here")
    D, C, *patch = tensors["patch_embed.proj.weight"].shape
    heads = config.get("num_attention_heads") or {dim: heads for dim, _, heads in SIZES.values() if dim > 128}.get(D)
    if not heads:
        raise ValueError(f"{name}: the number of heads is not in the file; give a folder with its config.json")
    timm = config["pretrained_cfg"] if isinstance(config.get("pretrained_cfg"), dict) else config
    mean, std = preprocessor.get("image_mean") or timm.get("mean"), preprocessor.get("image_std") or timm.get("std")
    if not mean or not std or isinstance(mean, list) and len(mean) != C:
        mean, std = (0.5,) * C, (0.5,) * C
    google = layout == "hf" and config.get("model_type", "vit") == "vit"           # google/vit was trained with 1e-12
    return from_dict(ViTConfig, dict(
        image=read_image_size(name, tensors["pos_embed"].shape[1] - 1, patch, config.get("image_size") or timm.get("input_size")),
        patch=patch, channels=C, dim=D, heads=heads, mlp=len(tensors["blocks.0.mlp.fc1.weight"]),
        depth=1 + max(int(key.split(".")[1]) for key in tensors if re.match(r"blocks\.\d+\.", key)),
        qkv_bias="blocks.0.attn.qkv.bias" in tensors, eps=config.get("layer_norm_eps", 1e-12 if google else 1e-6),
        layer_scale="blocks.0.ls1.gamma" in tensors, mean=mean, std=std,
        registers=tensors["reg_token"].numel() // D if "reg_token" in tensors else 0), name)


def read_image_size(name, tokens, patch, said):
    """(height, width) in px of the images the position embeddings are for; said: the size in config.json, or None."""
    said = [said, said] if isinstance(said, int) else said[-2:] if isinstance(said, list) else []
    grid = [size // p for size, p in zip(said, patch) if isinstance(size, int)]
    if len(grid) != 2 or grid[0] * grid[1] != tokens:              # not said, or said of another file
        grid = [round(max(tokens, 0) ** 0.5)] * 2
    if grid[0] * grid[1] != tokens:
        raise ValueError(f"{name}: {tokens} patch positions are no square, and config.json does not give image_size")
    return grid[0] * patch[0], grid[1] * patch[1]
