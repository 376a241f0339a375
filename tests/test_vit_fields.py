"""What pretrained ViTs differ in, each field of ViTConfig against a ViT written with loops, image by image and head by head."""
import math
from dataclasses import asdict

import pytest
import torch

from plumbing.resize import fit
from plumbing.variants import Rotary, angles
from vit import ViT, ViTConfig

TINY = dict(image=(16, 24), patch=(8, 8), dim=24, depth=2, heads=3, mlp=20)              # 2 x 3 patches, heads of 8
ACTIVATIONS = {
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))) / 2,
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
    "swiglu": lambda x: x[:, :20] / (1 + torch.exp(-x[:, :20])) * x[:, 20:],
}


def norm(t, x, name, eps=1e-6):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]


def linear(t, x, name):
    return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)


def turned(x, rotary, first, columns=3):
    """Queries or keys (S, 8) of one head, turned one pair after the other; the first stay."""
    x = x.clone()
    for s in range(first, len(x)):
        place = divmod(s - first, columns)                         # row, column of 2 x 3
        for axis in (0, 1):
            size = (2, 3)[axis]
            for i in range(2):                                     # 4 pairs: 2 for each axis
                if rotary.centered:
                    w = 2 * math.pi * (2 * (place[axis] + 0.5) / size - 1)
                else:
                    w = (place[axis] + rotary.offset) * (rotary.reference[axis] / size if rotary.reference else 1)
                w = w / rotary.theta ** (i / 2)
                pair = 2 * (1 - axis if rotary.columns_first else axis) + i
                j, k = (pair, pair + 4) if rotary.halves else (2 * pair, 2 * pair + 1)
                a, b = x[s, j].item(), x[s, k].item()
                x[s, j], x[s, k] = a * math.cos(w) - b * math.sin(w), b * math.cos(w) + a * math.sin(w)
    return x


def slow_vit(t, image, config):
    """One image -> tokens after the final norm, the vector that is read, and the map (H, T)."""
    D, first = config.dim, config.class_token + config.registers
    start = [*t.get("cls_token", torch.zeros(1, 0, D))[0], *t.get("reg_token", torch.zeros(1, 0, D))[0]]
    kernel = t["patch_embed.proj.weight"].flatten(1)
    patches = [kernel @ image[:, r:r + 8, c:c + 8].flatten() + t["patch_embed.proj.bias"] for r in (0, 8) for c in (0, 8, 16)]
    rows = {"class": [0, *range(first, first + 6)], "all": range(first + 6), "patches": range(first, first + 6), "none": []}
    x = torch.stack(start + patches)
    for row, s in enumerate(rows[config.positions]):
        x[s] = x[s] + t["pos_embed"][0, row]
    if config.pre_norm:
        x = norm(t, x, "norm_pre")
    for b in (f"blocks.{i}" for i in range(config.depth)):
        q, k, v = linear(t, norm(t, x, f"{b}.norm1"), f"{b}.attn.qkv").split(D, -1)
        parts, weights = [], []
        for h in range(config.heads):
            q_h, k_h, v_h = (y[:, 8 * h:8 * h + 8] for y in (q, k, v))
            if config.qk_norm:
                q_h, k_h = norm(t, q_h, f"{b}.attn.q_norm"), norm(t, k_h, f"{b}.attn.k_norm")
            if config.rotary:
                q_h, k_h = turned(q_h, Rotary(**config.rotary), first), turned(k_h, Rotary(**config.rotary), first)
            weights.append((q_h @ k_h.T / math.sqrt(8)).softmax(-1))
            parts.append(weights[-1] @ v_h)
        y = torch.cat(parts, -1)
        if config.attention_norm:
            y = norm(t, y, f"{b}.attn.norm")
        x = x + linear(t, y, f"{b}.attn.proj")
        y = ACTIVATIONS[config.activation](linear(t, norm(t, x, f"{b}.norm2"), f"{b}.mlp.fc1"))
        if config.mlp_norm:
            y = norm(t, y, f"{b}.mlp.norm")
        x = x + linear(t, y, f"{b}.mlp.fc2")
    tokens = norm(t, x, "norm") if config.final_norm else x
    read = {"class": tokens[0], "prefix": tokens[:first].mean(0), "mean": tokens[first:].mean(0), "mean-norm": x[first:].mean(0)}
    y = read[config.pool]
    if config.pool == "mean-norm":
        y = norm(t, y, "norm")
    weights = torch.stack(weights)[:, :, first:]                   # (H, S, T)
    return tokens, y, weights[:, first:].mean(1) if config.pool.startswith("mean") else weights[:, 0]


NO_CLASS = dict(class_token=False, positions="patches", pool="mean")
FIELDS = {
    "rows for all tokens (distilled DeiT)": dict(registers=1, positions="all", pool="prefix"),
    "rows for all registers": dict(registers=3, positions="all"),
    "rows for patches (DeiT III)": dict(positions="patches"),
    "rows for patches, registers (UNI2)": dict(positions="patches", registers=3),
    "no class token (I-JEPA, SigLIP)": NO_CLASS,
    "registers alone": dict(NO_CLASS, registers=2, positions="all"),
    "mean pooling (fc_norm)": dict(pool="mean-norm"),
    "norm before (CLIP)": dict(pre_norm=True, activation="quick_gelu"),
    "no norm after (RADIO)": dict(final_norm=False, registers=2),
    "tanh": dict(activation="gelu_tanh"),
    "SwiGLU": dict(activation="swiglu"),
    "EVA-02": dict(activation="swiglu", mlp_norm=True, rotary=asdict(Rotary(reference=(4, 4))), pool="mean-norm"),
    "EVA-02 for CLIP": dict(activation="swiglu", mlp_norm=True, attention_norm=True, rotary=asdict(Rotary(reference=(4, 4)))),
    "norm of q and k": dict(qk_norm=True),
    "DINOv3": dict(positions="none", registers=4, rotary=asdict(Rotary(100.0, centered=True, halves=True))),
    "PE": dict(pre_norm=True, rotary=asdict(Rotary(reference=(2, 3), offset=1.0, columns_first=True))),
    "norm of q and k, turned": dict(qk_norm=True, rotary=asdict(Rotary(100.0, columns_first=True)), **NO_CLASS),
}


def random_vit(config, tasks=None):
    torch.manual_seed(0)
    model = ViT(config, tasks).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
@pytest.mark.parametrize("field", FIELDS)
def test_every_field_against_the_slow_vit(field):
    """Tokens, what is read, map and logits, on images that are not square."""
    config = ViTConfig(**TINY, **FIELDS[field])
    model, images = random_vit(config, {"grade": 5}), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    tokens, y, maps = model.run_blocks(model.embed(images), want_map=True)
    out = model(images)
    for i, image in enumerate(images):
        slow = slow_vit(model.state_dict(), image, config)
        for ours, theirs in zip((tokens[i], y[i], maps[i]), slow):
            assert torch.allclose(ours, theirs, atol=1e-6)         # cos and sin are float32
        assert torch.allclose(out["logits"]["grade"][i], model.head["grade"](slow[1]), atol=1e-5)
        assert torch.equal(out["map"][i], maps[i]) and out["map"].shape == (2, 3, 6)


def test_rotary_products_depend_on_the_distance_alone():
    """Moving query and key by the same rows and columns leaves their product as it is."""
    w = angles(Rotary(100.0), (4, 5), 16).unflatten(0, (4, 5))     # (rows, columns, pairs)
    difference = w[1:, 2:] - w[:-1, :-2]                           # one row and two columns apart
    assert torch.allclose(difference, difference[:1, :1].expand_as(difference))
    with pytest.raises(ValueError, match="multiple of 6"):
        ViT(ViTConfig(image=(8, 8, 8), patch=(4, 4, 4), channels=1, mean=(0,), std=(1,), dim=24, heads=3, rotary=asdict(Rotary())))


@pytest.mark.parametrize("changes, words", [
    (dict(class_token=False), "need a class token"), (dict(pool="max"), "pool 'max' is not known"),
    (dict(positions="some"), "positions 'some'"), (dict(activation="relu"), "activation 'relu'"),
    (dict(attention="seqnorm", rotary=asdict(Rotary())), "'seqnorm' is not defined with rotary"),
    (dict(attention="sima", qk_norm=True), "'sima' is not defined with rotary positions or qk_norm")])
def test_fields_that_do_not_go_together(changes, words):
    with pytest.raises(ValueError, match=words):
        ViT(ViTConfig(**TINY, **changes))


@torch.no_grad()
@pytest.mark.parametrize("field", ["mean pooling (fc_norm)", "registers alone", "SwiGLU", "norm before (CLIP)"])
def test_fields_with_attention_of_linear_cost(field):
    """Other attention, same fields: finite logits, and a map of the patches."""
    model = random_vit(ViTConfig(**TINY, **FIELDS[field], attention="seqnorm"), {"y": 2})
    out = model(torch.randn(2, 3, 16, 24, dtype=torch.float64))
    assert out["map"].shape == (2, 3, 6) and out["logits"]["y"].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("axes", (2, 3))
def test_resizing_image_and_kernel_together_keeps_the_embeddings(axes):
    """To larger patches: FlexiViT's property. Images of one patch each, so that no pixel of another one is mixed in."""
    small = ViTConfig(**dict(TINY, image=(4,) * axes, patch=(4,) * axes))
    model = random_vit(small).float()
    tensors = {"patch_embed.proj.weight": model.patch_embed.proj.weight.clone(), "pos_embed": model.pos_embed.clone()}
    config = fit(tensors, small, (6,) * axes, (6,) * axes, [])
    large = ViT(config).eval()
    large.load_state_dict({**model.state_dict(), **tensors})
    image = torch.randn(2, 3, *small.image)
    if axes == 2:
        resized = torch.nn.functional.interpolate(image, size=(6, 6), mode="bicubic", antialias=True)
    else:
        resized = torch.nn.functional.interpolate(image, size=(6, 6, 6), mode="trilinear")
    assert torch.allclose(large.embed(resized), model.embed(image), atol=1e-4)
