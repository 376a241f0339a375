"""Which architecture is in a file: sizes from the tensors themselves, so that no config.json can lie about
them.

vit_fields and crossvit_fields take tensors under our names and the contents of the JSON files beside them,
and return the fields of ViTConfig or CrossViTConfig. What a run of this project wrote is taken as it stands
in its config.json.
"""
import re

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}  # of a ViT, by width: DeiT and ViT, where no config says it


def vit_inside(tensors, config):
    """Of a run whose model holds a ViT (LT-ViT, Query2Label, a probe, MultiViT's stage 1): its tensors,
    config, a note."""
    model = config.get("model")
    own = config.get(model) if isinstance(model, str) else None
    if not isinstance(own, dict) or "vit" not in own:
        return tensors, config, []
    part = "vit"
    if any(key.startswith("stage1.") for key in tensors):
        part = "stage1"
    prefix = part + "."
    inside = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return inside, {"vit": own["vit"]}, [f"only the {part} of its {model}"]


def vit_fields(name, tensors, layout, config):
    """Tensors under timm's names and config.json, {} where absent -> fields of ViTConfig, all but mean and
    std."""
    for key, axes in {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2,
                      "blocks.0.attn.qkv.weight": 2}.items():
        size_of(name, tensors, key, axes - 1, "ViT", exactly=True)
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"{name}: activation {config['hidden_act']!r}, only the exact \"gelu\" is here")
    D, C, *patch = tensors["patch_embed.proj.weight"].shape
    heads = config.get("num_attention_heads") or HEADS.get(D)
    if not heads:
        raise ValueError(f"{name}: the number of heads is not in the file; "
                         "give a folder with its config.json")
    timm = config
    if isinstance(config.get("pretrained_cfg"), dict):
        timm = config["pretrained_cfg"]
    eps = 1e-6
    if layout == "hf" and config.get("model_type", "vit") == "vit":
        eps = 1e-12                                                # google/vit was trained with it
    positions = tensors["pos_embed"].shape[1] - 1
    stated = config.get("image_size") or timm.get("input_size")
    depth = 1 + max(int(key.split(".")[1]) for key in tensors if re.match(r"blocks\.\d+\.", key))
    return {
        "image": image_size(name, positions, patch, stated),
        "patch": patch,
        "channels": C,
        "dim": D,
        "depth": depth,
        "heads": heads,
        "mlp": len(tensors["blocks.0.mlp.fc1.weight"]),
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "eps": config.get("layer_norm_eps", eps),
        "layer_scale": "blocks.0.ls1.gamma" in tensors,
        "registers": tensors["reg_token"].numel() // D if "reg_token" in tensors else 0,
    }


def image_size(name, positions, patch, stated=None):
    """(height, width) in px of the images that the position embeddings are for.

    stated: the size in config.json, a number or a list that ends with height and width; used where it
    fits."""
    grid = []
    if isinstance(stated, int):
        stated = [stated, stated]
    if isinstance(stated, list):
        grid = [size // p for size, p in zip(stated[-2:], patch) if isinstance(size, int)]
    if len(grid) != 2 or grid[0] * grid[1] != positions:           # not stated, or stated of another file
        grid = [round(max(positions, 0) ** 0.5)] * 2
    if grid[0] * grid[1] != positions:
        raise ValueError(f"{name}: {positions} patch positions are no square, "
                         "and config.json does not give image_size")
    return grid[0] * patch[0], grid[1] * patch[1]


def crossvit_fields(name, tensors, heads_of):
    """Tensors under our names -> fields of CrossViTConfig, all but
    mean and std.

    heads_of: {widths of both branches: heads}, those of the published variants."""
    conv = "patch_embed.0.proj.0.weight" in tensors  # three convolutions, whose kernels do not tell P
    kernels = ["patch_embed.0.proj.0.weight", "patch_embed.1.proj.0.weight"]
    patch = [12, 16]
    if not conv:
        kernels = ["patch_embed.0.proj.weight", "patch_embed.1.proj.weight"]
        patch = [size_of(name, tensors, key, 3, "CrossViT") for key in kernels]
    dims = tuple(size_of(name, tensors, f"pos_embed.{b}", 2, "CrossViT") for b in (0, 1))
    grids = []
    for b, P in enumerate(patch):
        height, width = image_size(name, size_of(name, tensors, f"pos_embed.{b}", 1, "CrossViT") - 1, (P, P))
        grids.append([height // P, width // P])
    channels = size_of(name, tensors, kernels[0], 1, "CrossViT")
    if dims not in heads_of:
        raise ValueError(f"{name}: widths {dims} are of no known variant, "
                         "and the number of heads is not in the file")
    return {
        "grids": grids,
        "patch": patch,
        "channels": channels,
        "dims": dims,
        "heads": heads_of[dims],
        "depths": [count(tensors, "blocks.0.blocks.0."), count(tensors, "blocks.0.blocks.1.")],
        "encoders": count(tensors, "blocks."),
        "mlp": size_of(name, tensors, "blocks.0.blocks.0.0.mlp.fc1.weight", 0, "CrossViT") // dims[0],
        "stem": "conv" if conv else "linear",
        "fusion": "cross" if count(tensors, "blocks.0.fusion.") else "none",
        "cross_depth": max(1, count(tensors, "blocks.0.fusion.0.")),
    }


def count(tensors, start):
    """How many numbered parts the names have after `start`."""
    numbers = [re.match(re.escape(start) + r"(\d+)\.", key) for key in tensors]
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)


def size_of(name, tensors, key, axis, model, exactly=False):
    """Length of an axis of a tensor; ValueError where the file lacks it, or exactly=True and it has more
    axes."""
    axes = tensors[key].dim() if key in tensors else 0
    if axes <= axis or exactly and axes != axis + 1:
        raise ValueError(f"{name} is not a {model} this code knows: {key} is missing or has the wrong number "
                         f"of axes (the file has {', '.join(list(tensors)[:4])} ...)")
    return tensors[key].shape[axis]
