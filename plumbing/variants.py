"""What pretrained ViTs have besides the plain block: scaled branches, activations, norms, rotary positions.

    (a, b) -> (a cos w - b sin w, b cos w + a sin w)      each pair of features of q and k, Su et al. 2021,
    w = place / theta^(i / F)                             eq. 34; i = 0 .. F - 1, F pairs per image axis
    swiglu(x) = W2 (silu(W1 x) * W3 x)                    W1 and W3 one matrix, Shazeer 2020, eq. 6

Rotary positions turn queries and keys by angles that grow with the place of their patch, so that a product
of the two depends on how far apart the patches are; class token and registers have none. Kinds of places:
    index      0, 1, 2 ..., stretched to the grid of the pretraining      EVA-02, Fang et al. 2023
    centered   2 pi times -1 .. 1, at the centers of the patches          DINOv3, Siméoni et al. 2025
B samples, H heads, S tokens of which the last T are patches, d width of a head. `config` is a ViTConfig.
Differs: DINOv3's random shift, jitter and scale of the places in training are left out.
Run: python -m plumbing.variants                  how a product falls with the distance of the patches
"""
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from attention import Attention


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


class Residual(nn.Module):
    """What a branch adds: scaled (Touvron et al. 2021, eq. 4), dropped out, left out for some samples."""

    def __init__(self, config, drop_path):
        super().__init__()
        self.dropout, self.drop_path = config.dropout, drop_path
        self.gamma = nn.Parameter(torch.full((config.dim,), 1e-5)) if config.layer_scale else None

    def forward(self, y):
        if self.gamma is not None:
            y = y * self.gamma
        y = F.dropout(y, self.dropout, self.training)
        if self.training and self.drop_path:
            keep = torch.rand(len(y), 1, 1, device=y.device) >= self.drop_path
            y = y * keep / (1 - self.drop_path)
        return y


@dataclass(frozen=True)
class Rotary:
    theta: float = 10000.0
    centered: bool = False           # kind of places, see above
    reference: tuple = ()            # grid of the pretraining, to which index places are stretched; (): none
    offset: float = 0.0              # of the first index place
    columns_first: bool = False      # the first F pairs turn with the column, not with the row
    halves: bool = False             # a pair is feature i and i + d / 2, not two neighbours

    def __post_init__(self):
        object.__setattr__(self, "reference", tuple(self.reference))            # a list, when read from JSON


def places(rotary, grid):
    """-> a tensor of places for each axis of the grid."""
    lines = []
    for axis, size in enumerate(grid):
        line = torch.arange(size, dtype=torch.float64)
        if rotary.centered:
            lines.append(2 * math.pi * (2 * (line + 0.5) / size - 1))
            continue
        stretch = rotary.reference[axis] / size if rotary.reference else 1
        lines.append((line + rotary.offset) * stretch)
    return lines


def angles(rotary, grid, d):
    """-> (T, d / 2), the angle of each pair of features at each patch."""
    axes = len(grid)
    if not axes or d % (2 * axes):
        raise ValueError(f"rotary positions on {axes} axes: the width of a head, {d}, must be a multiple of "
                         f"{max(2 * axes, 2)}, and a bag has no places")
    pairs = d // (2 * axes)                          # F
    periods = rotary.theta ** (torch.arange(pairs, dtype=torch.float64) / pairs)
    coordinates = list(torch.meshgrid(*places(rotary, grid), indexing="ij"))
    if rotary.columns_first:
        coordinates.reverse()
    turned = [coordinate.flatten()[:, None] / periods for coordinate in coordinates]     # (T, F) each
    return torch.cat(turned, 1)


class Rotation(nn.Module):
    """(B, H, S, d) -> the same, with all but the first `prefix` tokens turned. Several images of T patches,
    one after the other, are each turned alike."""

    def __init__(self, rotary, grid, d, prefix):
        super().__init__()
        self.halves, self.prefix = rotary.halves, prefix
        w = angles(rotary, grid, d)
        self.register_buffer("cos", w.cos().float(), persistent=False)
        self.register_buffer("sin", w.sin().float(), persistent=False)

    def forward(self, x):
        patches = x[:, :, self.prefix:]
        images = patches.shape[2] // len(self.cos)
        cos, sin = self.cos.repeat(images, 1), self.sin.repeat(images, 1)
        if self.halves:
            a, b = patches.chunk(2, -1)
        else:
            a, b = patches.unflatten(-1, (-1, 2)).unbind(-1)
        pair = a * cos - b * sin, b * cos + a * sin                # (B, H, T, d / 2) each
        turned = torch.cat(pair, -1) if self.halves else torch.stack(pair, -1).flatten(-2)
        return torch.cat([x[:, :, :self.prefix], turned.to(x.dtype)], 2)


def make_attention(config):
    """The attention of a block, with what pretrained ViTs have besides: rotary positions; LayerNorms of the
    queries and keys (Dehghani et al. 2023), and of what the heads give (EVA-02 for CLIP, BEiT-3)."""
    attn = Attention(
        config.dim, config.heads, config.head_dim, config.qkv_bias, config.attention, config.prefix,
        mean_map=config.pool.startswith("mean"))
    d = config.head_dim or config.dim // config.heads
    if config.rotary:
        attn.turn = Rotation(config.rotary, config.grid, d, config.prefix)
    if config.qk_norm:
        attn.q_norm, attn.k_norm = nn.LayerNorm(d, config.eps), nn.LayerNorm(d, config.eps)
    if config.attention_norm:
        attn.norm = nn.LayerNorm(config.heads * d, config.eps)
    return attn


if __name__ == "__main__":
    turn = Rotation(Rotary(), (1, 6), d=8, prefix=0)
    q, k = torch.randn(8).expand(1, 1, 6, 8), torch.randn(8).expand(1, 1, 6, 8)
    products = turn(q) @ turn(k).mT
    print("products of one query and one key, by the columns where they stand:")
    for row in products[0, 0]:
        print(" ".join(f"{product:6.2f}" for product in row))
