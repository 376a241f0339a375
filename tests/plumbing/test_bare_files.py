"""Weight files without any config.json, as their authors release them: the right tokens, the right mean, the right read-out."""
import argparse
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from plumbing.preprocessing import IMAGENET, OPENAI
from tests.plumbing.small_checkpoints import DECODER, SMALL, images, prefixed, refusal, write
from vit import ViT

LABELS = {"head.weight": torch.ones(10, 192), "head.bias": torch.ones(10)}
TEXT = {"logit_scale": torch.ones(()), "text.proj.weight": torch.ones(3, 3), "visual.head.proj.weight": torch.ones(5, 192)}
BESIDE = {"epoch": 7, "args": argparse.Namespace(lr=1e-3), "loss": np.float64(0.5), "optimizer": {"state": {}}}
TORCHVISION = [(r"^cls_token$", "class_token"), (r"^pos_embed$", "encoder.pos_embedding"), (r"^patch_embed\.proj", "conv_proj"),
               (r"^blocks\.(\d+)", r"encoder.layers.encoder_layer_\1"), (r"\.norm([12])", r".ln_\1"), (r"attn\.qkv\.", "self_attention.in_proj_"),
               (r"attn\.proj", "self_attention.out_proj"), (r"mlp\.fc1", "mlp.0"), (r"mlp\.fc2", "mlp.3"), (r"^norm", "encoder.ln")]
CLIP = [(r"^cls_token$", "class_embedding"), (r"^pos_embed$", "positional_embedding"), (r"^patch_embed\.proj", "conv1"), (r"^norm_pre", "ln_pre"),
        (r"^blocks\.", "transformer.resblocks."), (r"\.norm([12])", r".ln_\1"), (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj", "attn.out_proj"),
        (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"), (r"^norm", "ln_post"), (r"^", "visual.")]
BEIT = [(r"\.ls([12])\.gamma", r".gamma_\1")]
DINOV2 = [("^reg_token", "register_tokens"), (r"^blocks\.", "blocks.0."), ("^", "backbone.")]


def renamed(t, table):
    result = {}
    for key, tensor in t.items():
        for pattern, name in table:
            key = re.sub(pattern, name, key)
        result[key] = tensor
    return result


def other(t):
    return {key: tensor + 1 for key, tensor in t.items()}


def without_key_bias(t):
    """BEiT's attention: q_bias and v_bias beside qkv, and no bias of the keys."""
    result = {}
    for key, tensor in renamed(t, BEIT).items():
        if key.endswith("qkv.bias"):
            q, k, v = tensor.chunk(3)
            k.zero_()
            result[key.replace("qkv.bias", "q_bias")], result[key.replace("qkv.bias", "v_bias")] = q, v
        else:
            result[key] = tensor
    return result


def clip(t):
    """OpenAI's: no bias of the patches, a class token (D,), positions (1 + T, D)."""
    t["patch_embed.proj.bias"].zero_()
    flat = {**t, "cls_token": t["cls_token"].flatten(), "pos_embed": t["pos_embed"][0]}
    flat.pop("patch_embed.proj.bias")
    return {**renamed(flat, CLIP), "visual.proj": torch.ones(192, 5), "token_embedding.weight": torch.ones(4, 4), "logit_scale": torch.ones(())}


# whose file; what its ViT has besides; how its tensors are written; mean and std
FILES = {
    "DINO, backbone": ({}, lambda t: t, IMAGENET),
    "DINO, training": ({}, lambda t: {"student": prefixed(other(t), "module.backbone."), "teacher": {**prefixed(t, "module.backbone."),
                                                                                                 "module.head.mlp.0.weight": torch.ones(3, 192)}, **BESIDE}, IMAGENET),
    "DeiT": ({}, lambda t: {"model": {**t, **LABELS}}, IMAGENET),
    "MAE": ({}, lambda t: {"model": {**t, **DECODER}, **BESIDE}, IMAGENET),
    "MAE, fine-tuned and averaged": ({}, lambda t: {"model": {**other(t), **LABELS}, "model_ema": {**t, **LABELS}, **BESIDE}, IMAGENET),
    "RETFound": ({}, lambda t: {"model": {**t, **DECODER}, "optimizer": {}, "scaler": {}, **BESIDE}, IMAGENET),
    "RETFound, fine-tuned": ({"pool": "mean-norm"}, lambda t: {"model": {**renamed(t, [("^norm", "fc_norm")]), **LABELS}, **BESIDE}, IMAGENET),
    "DINOv2": ({"layer_scale": True}, lambda t: {**t, "mask_token": torch.ones(1, 192)}, IMAGENET),
    "DINOv2, teacher": ({"layer_scale": True, "registers": 4}, lambda t: {"teacher": {
        **renamed(t, DINOV2), "backbone.mask_token": torch.ones(1, 192), "dino_head.mlp.0.weight": torch.ones(3, 192)}}, IMAGENET),
    "MoCo v3": ({}, lambda t: {"arch": "vit_small", "state_dict": {**prefixed(t, "module.base_encoder."), **prefixed(other(t), "module.momentum_encoder."),
                                                                   "module.predictor.0.weight": torch.ones(3, 192)}, **BESIDE}, IMAGENET),
    "PanDerm": ({"layer_scale": True}, lambda t: {"model": prefixed(without_key_bias(t), "encoder."), **BESIDE}, IMAGENET),
    "open_clip, of timm": ({}, lambda t: {**prefixed(t, "visual.trunk."), **TEXT}, OPENAI),
    "open_clip, OpenAI CLIP": ({"pre_norm": True, "eps": 1e-5}, clip, OPENAI),
    "torchvision": ({}, lambda t: {**renamed(t, TORCHVISION), "heads.head.weight": torch.ones(10, 192), "heads.head.bias": torch.ones(10)}, IMAGENET),
    "I-JEPA": ({"class_token": False, "positions": "patches", "pool": "mean"}, lambda t: {
        "encoder": prefixed(other(t), "module."), "target_encoder": prefixed(t, "module."), "predictor": {"module.mask_token": torch.ones(1, 1, 9)}, **BESIDE}, IMAGENET),
}


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_a_bare_file_gives_the_tokens_of_its_model(tmp_path, name):
    """The plain reference is our ViT itself with the same tensors under its own names."""
    fields, write, numbers = FILES[name]
    torch.manual_seed(0)
    model = ViT(replace(SMALL, **fields)).eval()
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter) + 0.5 * (parameter.dim() == 1))
    path = str(tmp_path / "file.pth")
    torch.save(write(dict(model.state_dict())), path)
    loaded = ViT.from_pretrained(path).eval()
    x = images().float()
    assert torch.allclose(loaded.encode(loaded.embed(x)), model.encode(model.embed(x)), atol=1e-5)
    config = loaded.config
    assert {"mean": config.mean, "std": config.std} == numbers and "(assumed)" in loaded.report
    assert (config.pool, config.heads, config.eps) == (fields.get("pool", "class"), 3, fields.get("eps", 1e-6))
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    expected = (pixels / 255 - torch.tensor(numbers["mean"]).view(3, 1, 1)) / torch.tensor(numbers["std"]).view(3, 1, 1)
    assert torch.allclose(loaded.normalize(pixels), expected, atol=1e-6)


def monai_vit(t, image, heads):
    """One image -> tokens, as MONAI's ViT (proj_type "conv") computes them: rows of qkv are (q, k, v), then heads, then features; eps is torch's."""
    patch = t["patch_embedding.patch_embeddings.weight"]
    x = [piece.flatten() for piece in image.unfold(1, 4, 4).unfold(2, 4, 4).unfold(3, 4, 4).flatten(1, 3).unbind(1)]        # one channel: (64, 4, 4, 4)
    x = torch.stack(x) @ patch.flatten(1).T + t["patch_embedding.patch_embeddings.bias"] + t["patch_embedding.position_embeddings"][0]
    if "cls_token" in t:                                           # has no position
        x = torch.cat([t["cls_token"][0], x])
    d = x.shape[1] // heads

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, x.shape[1:], t[f"{name}.weight"], t[f"{name}.bias"])
    for b in ("blocks.0", "blocks.1"):
        rows, parts = norm(x, f"{b}.norm1") @ t[f"{b}.attn.qkv.weight"].T, []
        for h in range(heads):
            q, k, v = (rows[:, (part * heads + h) * d:(part * heads + h + 1) * d] for part in range(3))
            parts.append((q @ k.T / d ** 0.5).softmax(-1) @ v)
        x = x + torch.cat(parts, 1) @ t[f"{b}.attn.out_proj.weight"].T + t[f"{b}.attn.out_proj.bias"]
        hidden = torch.nn.functional.gelu(norm(x, f"{b}.norm2") @ t[f"{b}.mlp.linear1.weight"].T + t[f"{b}.mlp.linear1.bias"])
        x = x + hidden @ t[f"{b}.mlp.linear2.weight"].T + t[f"{b}.mlp.linear2.bias"]
    return norm(x, "norm")


@torch.no_grad()
@pytest.mark.parametrize("kind", ("UNETR of earlier versions", "classifier", "classifier, perceptron"))
def test_monai_vit_against_a_plain_one(tmp_path, kind):
    """Volumes. What its code keeps and never uses (cross attention; in earlier versions a class token among the patches) is ignored."""
    D, shapes = 48, {"patch_embedding.position_embeddings": (1, 64, 48), "patch_embedding.patch_embeddings.weight": (48, 1, 4, 4, 4),
                     "patch_embedding.patch_embeddings.bias": (48,), "norm.weight": (48,), "norm.bias": (48,)}
    for b in ("blocks.0", "blocks.1"):
        shapes[f"{b}.attn.qkv.weight"] = (3 * D, D)
        for name, shape in {"norm1": (D,), "norm2": (D,), "attn.out_proj": (D, D), "mlp.linear1": (80, D), "mlp.linear2": (D, 80)}.items():
            shapes[f"{b}.{name}.weight"], shapes[f"{b}.{name}.bias"] = shape, shape[:1]
        if kind != "UNETR of earlier versions":
            shapes[f"{b}.norm_cross_attn.weight"], shapes[f"{b}.cross_attn.to_q.weight"] = (D,), (D, D)
    unused = {"patch_embedding.cls_token": (1, 1, D)} if kind == "UNETR of earlier versions" else {"classification_head.0.weight": (2, D), "cls_token": (1, 1, D)}
    torch.manual_seed(0)
    t = {name: 0.3 * torch.randn(shape) for name, shape in {**shapes, **unused}.items()}
    if kind == "classifier, perceptron":
        del t["patch_embedding.patch_embeddings.weight"]
        t["patch_embedding.patch_embeddings.1.weight"] = torch.ones(D, 64)
    decoder = {"decoder5.conv.weight": torch.ones(3)}
    torch.save({**prefixed(t, "vit."), **decoder} if kind == "UNETR of earlier versions" else t, tmp_path / "vit.pt")
    if kind == "classifier, perceptron":
        assert "patches by a Linear layer, whose pixels have no known order (MONAI)" in refusal(ViT.from_pretrained, str(tmp_path / "vit.pt"), heads=4)
        return
    loaded, image = ViT.from_pretrained(str(tmp_path / "vit.pt"), heads=4).eval(), torch.randn(1, 1, 16, 16, 16)
    assert torch.allclose(loaded.encode(loaded.embed(image))[0], monai_vit(t, image[0], 4), atol=1e-5)
    assert (loaded.config.eps, loaded.config.class_token) == (1e-5, kind == "classifier") and "activation gelu, eps 1e-05 (assumed)" in loaded.report


@pytest.mark.parametrize("names, said", [
    (CLIP, "activation gelu, eps 1e-05 (assumed), "), ([(r"^blocks\.", "encoder.layers."), (r"^cls_token$", "embeddings.class_embedding"), (r"^pos_embed$", "embeddings.position_embedding.weight"),
                                            (r"^patch_embed\.proj", "embeddings.patch_embedding")],
            "activation quick_gelu, eps 1e-05 (assumed), "),
    (BEIT, "pre-norm blocks without rotary positions, activation gelu, eps 1e-06 (assumed), ")])
def test_what_a_bare_file_does_not_say_is_assumed_in_words(tmp_path, names, said):
    """open_clip's may have either GELU, transformers' CLIP mostly has the quick one; a config.json decides, and nothing is assumed."""
    model = ViT(replace(SMALL, layer_scale=names is BEIT, positions="patches" if names is BEIT else "class"))
    t = renamed(model.state_dict(), names)
    path = write(tmp_path / "bare", t, file="a.pth")
    report = ViT.from_pretrained(path).report
    assert "heads decides), image 32x32 px by its positions (assumed, no config.json says a size that fits), " in report and f"{said}mean" in report
    decided = {"architecture": "deit3_small_patch16_224"} if names is BEIT else {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    loaded = ViT.from_pretrained(write(tmp_path / "said", t, {**decided, "image_size": 32, "mean": 0.5, "std": 0.5}, file="a.pth"))
    assert "assumed" not in loaded.report and loaded.config.activation == ("gelu" if names is BEIT else "quick_gelu")


@pytest.mark.parametrize("scaled", (True, False))
@torch.no_grad()
def test_eva_x_needs_its_name_for_its_rotary_positions(tmp_path, scaled):
    """Its file alone does not say for which grid they were computed; the buffer that EVA-02's own code keeps, or a config.json, does."""
    torch.manual_seed(0)
    rotary = dict(theta=1e4, reference=[14, 14])
    model = ViT(replace(SMALL, activation="swiglu", mlp_norm=scaled, rotary=rotary)).eval()
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter) + 0.5 * (parameter.dim() == 1))
    t = dict(model.state_dict())
    for i in range(SMALL.depth):                                   # w1, w2 and w3 of the authors
        for kind in ("weight", "bias"):
            gate, up = t.pop(f"blocks.{i}.mlp.fc1.{kind}").chunk(2)
            t[f"blocks.{i}.mlp.w1.{kind}"], t[f"blocks.{i}.mlp.w2.{kind}"] = gate, up
            t[f"blocks.{i}.mlp.w3.{kind}"] = t.pop(f"blocks.{i}.mlp.fc2.{kind}")
    folder = write(tmp_path / "a", t, file="eva_x.pt")
    assert "only a config.json with an `architecture` that is known here" in refusal(ViT.from_pretrained, folder)
    angle = 14 / 4 * torch.arange(4.0)[:, None] / 1e4 ** (torch.arange(0, 32, 2) / 32)        # a quarter of a head, each twice
    rows, columns = (grid.repeat_interleave(2, -1) for grid in (angle[:, None].expand(4, 4, 16), angle[None].expand(4, 4, 16)))
    buffer = {"rope.freqs_cos": torch.cat([rows, columns], -1).flatten(0, 1).cos()}
    buffer |= {f"blocks.{i}.attn.rope.freqs_cos": buffer["rope.freqs_cos"].clone() for i in range(SMALL.depth)}      # EVA-CLIP has them
    named = write(tmp_path / "b", t, {"architecture": "eva_x_small_patch16"}, file="eva_x.pt")
    kept = write(tmp_path / "c", {**t, **buffer}, file="eva_x.pt")
    x = images().float()
    for name in (named, kept):
        loaded = ViT.from_pretrained(name).eval()
        assert torch.allclose(loaded.encode(loaded.embed(x)), model.encode(model.embed(x)), atol=1e-5)
    assert ViT.from_pretrained(named).config.mean == (0.49185243,) * 3
