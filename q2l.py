"""Query2Label: a small decoder asks a ViT's finished patch tokens one question per label. LT-ViT's comparison.

    encoder   x = LN(x + attn(x + pos, x + pos, x))       x = LN(x + W2 relu(W1 x))      on the patch tokens x
    decoder   y = LN(y + attn(y + query, x + pos, x))     y = LN(y + W2 relu(W1 y))      y starts at 0, one row a label
    logit_k = w_k . y_k + b_k

Liu et al. 2021, "Query2Label", and its released code: the transformer of DETR (Carion et al. 2020) without
self-attention in the decoder, so that no label knows of another. (LT-ViT's label tokens live inside the ViT, look at
its last blocks, and need no further layers.)
B samples, T patches, D width, H heads, L labels; attn(queries, keys, values).
Differs: the released code works on the map of a convolutional network, D = 2048 wide; here the map is that of the patch
tokens after the ViT's final norm, without class token and registers, so that D is the ViT's and its 1 x 1 convolution
falls away (there, too, when both widths agree). Trained with the binary cross entropy that LT-ViT has; the released
recipe is an asymmetric loss (gamma- 2, gamma+ 0), AdamW at 1e-4 on one cycle, weight decay 0.01, EMA 0.9997, 80 epochs.
Run: python q2l.py
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from plumbing.weights import from_dict
from vit import ViT, ViTConfig

SIZES = {  # fields of Q2LConfig: parameters on ViT-S/16 with 14 labels
    "default": dict(),                                             # 25.82 M; Table 1 of LT-ViT has 26 M, how is not said
    "no encoder": dict(ff=2048, encoder_layers=0),                 # 26.01 M, another way to 26 M
    "released": dict(ff=8192, heads=4),                            # 42.36 M, the defaults of the released code
}


@dataclass(frozen=True)
class Q2LConfig:
    vit: ViTConfig
    ff: int = 1024                   # hidden units of the feed-forward layers
    heads: int = 0                   # H of encoder and decoder; 0: as the ViT
    encoder_layers: int = 1
    decoder_layers: int = 2
    dropout: float = 0.1             # in encoder and decoder: attention weights, hidden units, residuals
    label_self: bool = False         # self-attention between the label queries; the released code removes it

    def __post_init__(self):
        if isinstance(self.vit, dict):
            object.__setattr__(self, "vit", from_dict(ViTConfig, self.vit, "vit"))
        if self.encoder_layers < 0 or self.decoder_layers < 1 or self.ff < 1:
            raise ValueError(f"Query2Label with {self.encoder_layers} encoder layers, {self.decoder_layers} decoder layers "
                             f"and {self.ff} hidden units: needs at least 0, 1 and 1")
        D, heads, axes = self.vit.dim, self.heads or self.vit.heads, len(self.vit.grid)
        if heads < 1 or D % heads or not axes or D % (2 * axes):
            raise ValueError(f"width {D} does not divide into {heads} heads, or not into sine and cosine for {axes} axes")


# -----------------------------------------------------------------------------
# DETR's transformer, post-norm


def sine_position(grid, dim):
    """-> (T, D), fixed: D / 2 features for the row, D / 2 for the column, sine and cosine in turns.

    The last row or column is at 1, and the wavelengths grow geometrically from 1 towards 10,000."""
    width = dim // len(grid)
    wavelength = 10000 ** (torch.arange(0, width, 2) / width)
    parts = []
    for axis in torch.meshgrid(*(torch.arange(1, size + 1) / size for size in grid), indexing="ij"):
        angle = 2 * torch.pi * axis.flatten()[:, None] / wavelength
        parts.append(torch.stack([angle.sin(), angle.cos()], -1).flatten(1))    # (T, width)
    return torch.cat(parts, -1)


class EncoderLayer(nn.Module):
    """(B, T, D) -> same; pos: broadcastable to it, added to queries and keys, never to values."""

    def __init__(self, dim, heads, ff, dropout=0.0):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, ff), nn.Linear(ff, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, pos):
        x = self.norm1(x + self.drop(self.self_attn(x + pos, x + pos, x, need_weights=False)[0]))
        return self.norm2(x + self.drop(self.linear2(self.drop(F.relu(self.linear1(x))))))


class DecoderLayer(nn.Module):
    """y (B, L, D), query (L, D), x (B, T, D) -> y and, with want_map=True, its attention to x, (B, L, T), mean of the heads."""

    def __init__(self, dim, heads, ff, dropout=0.0, label_self=False):
        super().__init__()
        if label_self:
            self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
            self.norm1 = nn.LayerNorm(dim)
        self.label_self = label_self
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, ff), nn.Linear(ff, dim)
        self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, y, query, x, pos, want_map=False):
        if self.label_self:
            y = self.norm1(y + self.drop(self.self_attn(y + query, y + query, y, need_weights=False)[0]))
        seen, map = self.multihead_attn(y + query, x + pos, x, need_weights=want_map)
        y = self.norm2(y + self.drop(seen))
        return self.norm3(y + self.drop(self.linear2(self.drop(F.relu(self.linear1(y)))))), map


class QueryDecoder(nn.Module):
    """x (B, T, D), pos (T, D) -> y (B, L, D) after the final norm and the last layer's map (B, L, T)."""

    def __init__(self, labels, dim, heads, ff, encoder_layers=1, decoder_layers=2, dropout=0.1, label_self=False):
        super().__init__()
        self.encoder = nn.ModuleList([EncoderLayer(dim, heads, ff, dropout) for _ in range(encoder_layers)])
        self.layers = nn.ModuleList([DecoderLayer(dim, heads, ff, dropout, label_self) for _ in range(decoder_layers)])
        self.norm = nn.LayerNorm(dim)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
        self.query = nn.Parameter(torch.randn(labels, dim))

    def forward(self, x, pos):
        for layer in self.encoder:
            x = layer(x, pos)
        y = torch.zeros_like(self.query).expand(len(x), -1, -1)
        for layer in self.layers[:-1]:
            y, _ = layer(y, self.query, x, pos)
        y, map = self.layers[-1](y, self.query, x, pos, want_map=True)
        return self.norm(y), map


class GroupWiseLinear(nn.Module):
    """(B, L, D) -> (B, L): every label has a weight vector of its own."""

    def __init__(self, labels, dim):
        super().__init__()
        self.W = nn.Parameter(torch.empty(1, labels, dim).uniform_(-dim ** -0.5, dim ** -0.5))
        self.b = nn.Parameter(torch.empty(1, labels).uniform_(-dim ** -0.5, dim ** -0.5))

    def forward(self, y):
        return (self.W * y).sum(-1) + self.b


# -----------------------------------------------------------------------------
# the model


class Q2L(nn.Module):
    """forward(image) -> dict:

    logits     {task: (B, outputs)}, one query per output, tasks in their order
    map        (B, H, T), the class token's attention in the ViT's last block
    label_map  (B, L, T), the queries' attention to the patches in the last decoder layer, mean over heads, a share of 1"""
    inputs = ("image",)

    def __init__(self, config: Q2LConfig, tasks):
        super().__init__()
        if not tasks:
            raise ValueError("Query2Label needs a task: it has one query per label")
        self.config, self.tasks = config, dict(tasks)
        L, D = sum(tasks.values()), config.vit.dim
        self.vit = ViT(config.vit)
        self.decoder = QueryDecoder(L, D, config.heads or config.vit.heads, config.ff, config.encoder_layers,
                                    config.decoder_layers, config.dropout, config.label_self)
        self.label_head = GroupWiseLinear(L, D)
        self.register_buffer("position", sine_position(config.vit.grid, D), persistent=False)

    def forward(self, image):
        x, map = self.vit.encode(self.vit.embed(image), want_map=True)
        y, label_map = self.decoder(x[:, -self.config.vit.tokens:], self.position)
        logits = self.label_head(y).split(list(self.tasks.values()), -1)
        return {"logits": dict(zip(self.tasks, logits)), "map": map, "label_map": label_map}

    @classmethod
    def from_pretrained(cls, name, image=None, channels=None, tasks=None, changes=None, **fields):
        """-> Q2L on the weights of `name`, with image, channels and changes (a dict) as ViT.from_pretrained takes them.

        fields: those of Q2LConfig but vit. Decoder and head are new, and `.report` says so."""
        vit = ViT.from_pretrained(name, image, channels, **(changes or {}))
        model = cls(Q2LConfig(vit.config, **fields), tasks)
        model.vit, model.report = vit, f"{vit.report}, new decoder label_head"
        return model


if __name__ == "__main__":
    image = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)
    for size, fields in SIZES.items():
        model = Q2L(Q2LConfig(ViTConfig(), **fields), {"labels": 14}).eval()
        with torch.no_grad():
            out = model(image)
        print(f"{size:10} {sum(p.numel() for p in model.parameters()) / 1e6:5.2f} M params   {tuple(image.shape)} -> labels "
              f"{tuple(out['logits']['labels'].shape)}, label map {tuple(out['label_map'].shape)}, a row sums to "
              f"{out['label_map'].sum(-1).mean().item():.3f}")
