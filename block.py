"""A block of the Transformer: attention and an MLP, each behind a LayerNorm and added to what came in.

    x = x + Attention(LayerNorm(x))                     Dosovitskiy et al. 2021, eq. 2
    x = x + MLP(LayerNorm(x))                           eq. 3
    MLP(x) = W2 act(W1 x),   swiglu: W2 (silu(W1 x) * W3 x), W1 and W3 one matrix       Shazeer 2020, eq. 6

`config` is a ViTConfig (vit.py), which says what a block has besides. B samples, S tokens, of which the last
T are patches, D width, H heads. Run: python block.py
"""
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from attention import Attention
from rotary import Rotation


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


class MLP(nn.Module):
    """(B, S, D) -> (B, S, D)."""

    def __init__(self, config):
        super().__init__()
        D, hidden = config.dim, config.mlp
        self.act = ACTIVATIONS[config.activation]
        self.fc1 = nn.Linear(D, 2 * hidden if config.activation == "swiglu" else hidden)
        self.fc2 = nn.Linear(hidden, D)
        self.norm = nn.LayerNorm(hidden, config.eps) if config.mlp_norm else nn.Identity()

    def forward(self, x):
        return self.fc2(self.norm(self.act(self.fc1(x))))


def init_weights(module):
    """As DeiT: truncated normal of std 0.02, so that attention starts uniform and grows by content. With
    the ViT paper's larger Xavier start, class tokens come to rest on background: their maps are empty."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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


class Block(nn.Module):
    """(B, S, D) -> (B, S, D); with want_map=True also the last map of ViT, (B, H, T)."""

    def __init__(self, config, drop_path=0.0):
        super().__init__()
        D = config.dim
        self.norm1 = nn.LayerNorm(D, eps=config.eps)
        self.attn = make_attention(config)
        self.norm2 = nn.LayerNorm(D, eps=config.eps)
        self.mlp = MLP(config)
        self.ls1 = Residual(config, drop_path)                     # ls: timm's name
        self.ls2 = Residual(config, drop_path)

    def forward(self, x, mask=None, want_map=False):
        y = self.attn(self.norm1(x), mask, want_map)
        if want_map:
            y, class_map = y
        x = x + self.ls1(y)
        x = x + self.ls2(self.mlp(self.norm2(x)))
        return (x, class_map) if want_map else x


if __name__ == "__main__":
    x = torch.linspace(-4, 4, 9)
    print("x         " + " ".join(f"{value:6.2f}" for value in x))
    for name, activation in ACTIVATIONS.items():
        y = activation(torch.cat([x, torch.ones(9)])) if name == "swiglu" else activation(x)
        print(f"{name:10}" + " ".join(f"{value:6.2f}" for value in y))
