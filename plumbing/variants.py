"""What pretrained ViTs have besides the plain block: tokens, activations, norms, rotary positions, pooling.

    (a, b) -> (a cos w - b sin w, b cos w + a sin w)      each pair of features of q and k, Su et al. 2021,
    w = place / theta^(i / F)                             eq. 34; i = 0 .. F - 1, F pairs per image axis
    swiglu(x) = W2 (silu(W1 x) * W3 x)                    W1 and W3 one matrix, Shazeer 2020, eq. 6

Rotary positions turn queries and keys by angles that grow with the place of their patch, so that a product
of the two depends on how far apart the patches are; class token and registers have none. Kinds of places:
    index      0, 1, 2 ..., stretched to the grid of the pretraining      EVA-02, Fang et al. 2023
    centered   2 pi times -1 .. 1, at the centers of the patches          DINOv3, Siméoni et al. 2025
B samples, H heads, S tokens of which the last T are patches, d width of a head. `config` is a ViTConfig.
Differs: DINOv3's random shift, jitter and scale of the places in training are left out.
"""
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def swiglu(x):
    """(..., 2 hidden) -> (..., hidden): W1 x in the first half is the gate of W2 x in the second."""
    gate, x = x.chunk(2, -1)
    return F.silu(gate) * x


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),              # SigLIP
    "quick_gelu": quick_gelu,                                      # CLIP
    "swiglu": swiglu,                                              # Shazeer 2020, eq. 6: DINOv2 giant
}


class LayerScale(nn.Module):
    """(B, S, D) -> a learned factor per feature times it, Touvron et al. 2021, eq. 4; then `residual`."""

    def __init__(self, residual, dim):
        super().__init__()
        self.residual = residual
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, y):
        return self.residual(y * self.gamma)


def placed_rows(config):
    """How many of class token and registers have a position: the first rows of pos_embed."""
    return {"class": 1, "all": config.prefix}.get(config.positions, 0)


def first_tokens(vit, B):
    """Class token and registers, as far as the ViT has them: a list of (B, tokens, D)."""
    return [getattr(vit, name).expand(B, -1, -1) for name in ("cls_token", "reg_token") if hasattr(vit, name)]


def place(vit, x):
    """(B, T, D) -> class token, registers and patches, (B, S, D), with positions for those that have one."""
    x = torch.cat([*first_tokens(vit, len(x)), x], 1)
    if vit.config.positions == "none":
        return x
    rows = placed_rows(vit.config)
    pos = vit.pos_embed
    nowhere = pos.new_zeros(1, vit.config.prefix - rows, vit.config.dim)         # of class token or registers
    pos = torch.cat([pos[:, :rows], nowhere, pos[:, rows:]], 1)
    if not vit.config.image:                                       # the vectors of a bag have no position
        pos = F.pad(pos, (0, 0, 0, x.shape[1] - pos.shape[1]))
    return x + pos


@dataclass(frozen=True)
class Rotary:
    theta: float = 10000.0
    centered: bool = False           # kind of places, see above
    reference: tuple = ()            # grid of the pretraining, to which index places are stretched; (): none
    offset: float = 0.0              # of the first index place
    columns_first: bool = False      # the first F pairs turn with the column, not with the row
    halves: bool = False             # a pair is feature i and i + d / 2, not two neighbours

    def __post_init__(self):
        if not self.theta > 0:
            raise ValueError(f"rotary positions of theta {self.theta}: need a number above 0")


def angles(rotary, grid, d):
    """-> (T, d / 2), the angle of each pair of features at each patch."""
    axes = len(grid)
    if not axes or d % (2 * axes):
        raise ValueError(f"rotary positions on {axes} axes: the width of a head, {d}, must be a multiple of "
                         f"{max(2 * axes, 2)}, and a bag has no places")
    pairs = d // (2 * axes)                          # F
    periods = rotary.theta ** (torch.arange(pairs, dtype=torch.float64) / pairs)
    places = []
    for size, reference in zip(grid, rotary.reference or grid, strict=True):
        line = torch.arange(size, dtype=torch.float64)
        if rotary.centered:
            places.append(2 * math.pi * (2 * (line + 0.5) / size - 1))
        else:
            places.append((line + rotary.offset) * (reference / size))
    coordinates = list(torch.meshgrid(*places, indexing="ij"))
    if rotary.columns_first:
        coordinates.reverse()
    return torch.cat([coordinate.flatten()[:, None] / periods for coordinate in coordinates], 1)


class Rotation(nn.Module):
    """(B, H, S, d) -> the same, with all but the first `prefix` tokens turned. Several images of T patches,
    one after the other, are each turned alike."""

    def __init__(self, rotary, grid, d, prefix):
        super().__init__()
        self.pairs = -1, 2                           # neighbours
        self.axis = -1
        if rotary.halves:
            self.pairs = 2, -1
            self.axis = -2
        self.prefix = prefix
        w = angles(rotary, grid, d)
        self.register_buffer("cos", w.cos().float(), persistent=False)
        self.register_buffer("sin", w.sin().float(), persistent=False)

    def forward(self, x):
        patches = x[:, :, self.prefix:]
        images = patches.shape[2] // len(self.cos)
        cos = self.cos.repeat(images, 1)
        sin = self.sin.repeat(images, 1)
        a, b = patches.unflatten(-1, self.pairs).unbind(self.axis)
        pair = a * cos - b * sin, b * cos + a * sin                # (B, H, T, d / 2) each
        turned = torch.stack(pair, self.axis).flatten(-2)
        return torch.cat([x[:, :, :self.prefix], turned.to(x.dtype)], 2)


def pool(vit, x, tokens, mask):
    """Tokens before and after the final norm, (B, S, D), mask (B, S) -> the vector that is read, (B, D): the
    mean of class token and registers (prefix: DeiT's distilled) or of the patches (mean: I-JEPA), or the norm
    of the latter (mean-norm: fc_norm of MAE, EVA, BEiT)."""
    kind = vit.config.pool
    prefix = vit.config.prefix
    if kind == "prefix":
        return tokens[:, :prefix].mean(1)
    patches = x[:, prefix:] if kind == "mean-norm" else tokens[:, prefix:]
    real = torch.ones_like(patches[..., :1]) if mask is None else mask[:, prefix:, None]
    mean = (patches * real).sum(1) / real.sum(1)
    return mean if kind == "mean" else vit.norm(mean)


def patch_map(attn, q, k, mask=None):
    """Attention.class_map where the patches' mean is read: the mean of what they get from each other."""
    patches = slice(attn.prefix, None)
    rows = attn.key_weights(q, k, patches, mask)[..., patches]     # (B, H, T, T)
    if mask is None:
        return rows.mean(2)
    real = mask[:, None, patches, None]
    return (rows * real).sum(2) / real.sum(2)


def vary(vit):
    """Put in place what the config asks for besides the plain block; ValueError if that is not defined."""
    config = vit.config
    if config.attention != "softmax" and (config.rotary is not None or config.qk_norm):
        raise ValueError(f"attention {config.attention!r} is not defined with rotary positions or qk_norm")
    D = config.dim
    d = config.head_dim or D // config.heads
    norm = partial(nn.LayerNorm, eps=config.eps)
    if (config.class_token, config.registers, config.positions) != (True, 0, "class"):
        vit.place = partial(place, vit)
    if not config.class_token:
        del vit.cls_token
    if config.registers:
        vit.reg_token = nn.Parameter(torch.zeros(1, config.registers, D))
    if config.positions == "none":
        del vit.pos_embed
    else:
        vit.pos_embed = nn.Parameter(torch.zeros(1, placed_rows(config) + config.tokens, D))
    if config.pre_norm:
        vit.norm_pre = norm(D)
    if not config.final_norm:
        vit.norm = nn.Identity()
    if config.pool != "class":
        vit.pool = partial(pool, vit)
    for block in vit.blocks:
        attn = block.attn
        mlp = block.mlp
        if config.layer_scale:
            block.ls1 = LayerScale(block.ls1, D)
            block.ls2 = LayerScale(block.ls2, D)
        mlp.act = ACTIVATIONS[config.activation]
        if config.activation == "swiglu":
            mlp.fc1 = nn.Linear(D, 2 * config.mlp)
        if config.mlp_norm:
            mlp.norm = norm(config.mlp)
        if config.pool.startswith("mean"):
            attn.class_map = partial(patch_map, attn)
        if config.rotary is not None:
            attn.rotate = Rotation(Rotary(**config.rotary), config.grid, d, config.prefix)
        if config.qk_norm:                                         # Dehghani et al. 2023
            attn.q_norm = norm(d)
            attn.k_norm = norm(d)
        if config.attention_norm:                                  # EVA-02 for CLIP, BEiT-3
            attn.norm = norm(config.heads * d)
