"""Query2Label: a small decoder asks a ViT's finished patch tokens one question per label.

    encoder   x = LN(x + attn(x + pos, x + pos, x))       x = LN(x + W2 relu(W1 x))    x: patch tokens
    decoder   y = LN(y + attn(y + query, x + pos, x))     y = LN(y + W2 relu(W1 y))    y starts at 0
    logit_k = w_k . y_k + b_k                                                          for label k

Liu et al. 2021 and its released code: the transformer of DETR (Carion et al. 2020) without self-attention in
the decoder, so that no label knows of another. LT-ViT is compared with it. B samples, T patches, D width, H
heads, L labels; attn(queries, keys, values). Differs: it reads the tokens of a ViT, not the 2,048 maps of a
CNN, and learns from the cross entropy of train.py, not from an asymmetric loss.
"""
from dataclasses import dataclass

import torch
from torch import nn

from vit import ViT, ViTConfig


@dataclass(frozen=True)
class Q2LConfig:
    vit: ViTConfig
    ff: int = 1024                   # hidden units of the feed-forward layers
    heads: int = 0                   # H of encoder and decoder; 0: as many as the ViT has
    encoder_layers: int = 1
    decoder_layers: int = 2
    dropout: float = 0.1             # in encoder and decoder: attention weights, hidden units, residuals
    label_self: bool = False         # self-attention between label queries; the released code removes it

    def make_attention(self):
        heads = self.heads or self.vit.heads
        return nn.MultiheadAttention(self.vit.dim, heads, self.dropout, batch_first=True)

    def __post_init__(self):
        from plumbing.checks import check_q2l
        check_q2l(self)


def sine_position(grid, dim):
    """-> (T, D), fixed: D / 2 features for the row, D / 2 for the column, sine and cosine alternating. The
    last row or column is at 1, and the wavelengths grow geometrically from 1 towards 10,000."""
    width = dim // len(grid)
    wavelength = 10000 ** (torch.arange(0, width, 2) / width)
    places = [torch.arange(1, size + 1) / size for size in grid]
    angle = 2 * torch.pi * torch.cartesian_prod(*places)[:, :, None] / wavelength  # (T, axes, width / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)  # (T, D)


class EncoderLayer(nn.Module):
    """x (B, T, D) -> (B, T, D); pos, broadcastable to it, is added to queries and keys, never to values."""

    def __init__(self, config: Q2LConfig):
        super().__init__()
        D = config.vit.dim
        self.self_attn = config.make_attention()
        self.linear1, self.linear2 = nn.Linear(D, config.ff), nn.Linear(config.ff, D)
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, pos):
        attended, _ = self.self_attn(x + pos, x + pos, x, need_weights=False)
        x = self.norm1(x + self.drop(attended))
        hidden = self.drop(self.linear1(x).relu())
        return self.norm2(x + self.drop(self.linear2(hidden)))


class DecoderLayer(nn.Module):
    """y (B, L, D), query (L, D), x (B, T, D), pos -> y; and with want_map=True its map of x, (B, L, T)."""

    def __init__(self, config: Q2LConfig):
        super().__init__()
        D = config.vit.dim
        if config.label_self:
            self.self_attn = config.make_attention()
            self.norm1 = nn.LayerNorm(D)
        self.multihead_attn = config.make_attention()
        self.linear1, self.linear2 = nn.Linear(D, config.ff), nn.Linear(config.ff, D)
        self.norm2, self.norm3 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, y, query, x, pos, want_map=False):
        if hasattr(self, "self_attn"):
            attended, _ = self.self_attn(y + query, y + query, y, need_weights=False)
            y = self.norm1(y + self.drop(attended))
        attended, label_map = self.multihead_attn(y + query, x + pos, x, need_weights=want_map)
        y = self.norm2(y + self.drop(attended))
        hidden = self.drop(self.linear1(y).relu())
        return self.norm3(y + self.drop(self.linear2(hidden))), label_map


class QueryDecoder(nn.Module):
    """x (B, T, D), pos (T, D) -> y (B, L, D) after the final norm, and the last layer's map (B, L, T)."""

    def __init__(self, labels, config: Q2LConfig):
        super().__init__()
        self.encoder = nn.ModuleList([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.decoder_layers)])
        self.norm = nn.LayerNorm(config.vit.dim)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
        self.query = nn.Parameter(torch.randn(labels, config.vit.dim))

    def forward(self, x, pos):
        for layer in self.encoder:
            x = layer(x, pos)
        y = torch.zeros_like(self.query).expand(len(x), -1, -1)
        for layer in self.layers:
            y, label_map = layer(y, self.query, x, pos, want_map=layer is self.layers[-1])
        return self.norm(y), label_map


class GroupWiseLinear(nn.Module):
    """(B, L, D) -> (B, L): every label has a weight vector of its own."""

    def __init__(self, labels, dim):
        super().__init__()
        bound = dim ** -0.5
        self.W = nn.Parameter(torch.empty(1, labels, dim).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(1, labels).uniform_(-bound, bound))

    def forward(self, y):
        return (self.W * y).sum(-1) + self.b


class Q2L(nn.Module):
    """forward(image) -> dict: logits {task: (B, outputs)}, one query per output, tasks in their order; and
    label_map (B, L, T), the queries' attention to the patches in the last layer, mean over heads."""
    Config = Q2LConfig
    inputs = ("image",)
    axes = (2, 3)
    check_flags = ViT.check_flags

    def __init__(self, config: Q2LConfig, tasks):
        super().__init__()
        if not tasks:
            raise ValueError("Query2Label needs a task: it has one query per label")
        self.config, self.tasks = config, dict(tasks)
        L, D = sum(tasks.values()), config.vit.dim
        self.vit = ViT(config.vit)
        self.decoder = QueryDecoder(L, config)
        self.label_head = GroupWiseLinear(L, D)
        self.register_buffer("position", sine_position(config.vit.grid, D), persistent=False)

    def forward(self, image):
        tokens = self.vit.encode(self.vit.embed(image))            # the class token is not read: no map
        y, label_map = self.decoder(tokens[:, self.config.vit.prefix:], self.position)
        logits = self.label_head(y).split(list(self.tasks.values()), -1)
        return {"logits": dict(zip(self.tasks, logits)), "label_map": label_map}

    @staticmethod
    def add_flags(group):
        add = group.add_argument
        add("--ff", type=int, default=1024, help="hidden units of encoder and decoder (released: 8192)")
        add("--decoder-heads", type=int, default=0, help="of both (released: 4); 0: those of the ViT")
        add("--encoder-layers", type=int, default=1, help="over the patch tokens")
        add("--decoder-layers", type=int, default=2, help="that the queries pass through")
        ViT.add_flags(group)

    @classmethod
    def from_args(cls, args, tasks):
        vit = ViT.from_args(args)
        layers = args.encoder_layers, args.decoder_layers
        model = cls(Q2LConfig(vit.config, args.ff, args.decoder_heads, *layers, args.dropout), tasks)
        model.vit, model.report = vit, vit.report
        return model


if __name__ == "__main__":
    from plumbing.sizes import count
    model = Q2L(Q2LConfig(ViTConfig()), {"labels": 14}).eval()
    print(f"26 M in LT-ViT's Table 1: {count(model):,} parameters")
    print("label map of an image", tuple(model(torch.zeros(1, 3, 224, 224))["label_map"].shape))
