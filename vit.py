"""The Vision Transformer, from scratch.

    x = [cls ; patches W + b] + pos                     Dosovitskiy et al. 2021, eq. 1
    x = x + Attention(LayerNorm(x))                     eq. 2, `depth` times with
    x = x + MLP(LayerNorm(x))                           eq. 3
    logits = head(LayerNorm(x)[cls])                    eq. 4

A token is a vector that stands for a patch; the answer is read from one more, learned, the class token.
Images have two axes, volumes three, a bag of vectors none: each vector is a token without position. Names are
timm's. B samples, C channels, P side of a patch, D width, H heads, S tokens: class, registers, T patches."""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from attention import KINDS, Attention


@dataclass(frozen=True)
class ViTConfig:
    """Architecture only; asdict() of it is what config.json stores."""
    image: tuple = (224, 224)        # px per axis: (height, width), (depth, height, width), or () for bags
    patch: tuple = (16, 16)          # P, px per axis
    channels: int = 3                # C; for bags the width of a vector
    dim: int = 384                   # D
    depth: int = 12
    heads: int = 6                   # H
    head_dim: int = 0                # d; 0: dim // heads
    mlp: int = 1536                  # hidden units of the MLP
    qkv_bias: bool = True
    eps: float = 1e-6                # of LayerNorm; google/vit has 1e-12
    attention: str = "softmax"       # one of attention.KINDS
    dropout: float = 0.0             # after the embedding, the attention and the MLP
    drop_path: float = 0.0           # stochastic depth, rising linearly to this rate in the last block
    mean: tuple = (0.5, 0.5, 0.5)    # of the normalization, in units of 0..1, one entry per channel
    std: tuple = (0.5, 0.5, 0.5)     # google/vit, timm's augreg: 0.5; DeiT, DINO(v2), MAE: ImageNet's
    # what pretrained ViTs have instead, put in place by plumbing/variants.py:
    class_token: bool = True         # SigLIP, I-JEPA have none
    registers: int = 0               # DINOv2: extra tokens after the class token
    positions: str = "class"         # learned, for class token and patches; "all" tokens, "patches", "none"
    pool: str = "class"              # what is read; or "prefix", "mean", "mean-norm": see pool() there
    layer_scale: bool = False        # DINOv2: a learned factor per feature on every residual
    pre_norm: bool = False           # CLIP: before the first block
    final_norm: bool = True          # RADIO has none after the last
    rotary: dict = None              # positions that turn q and k: fields of Rotary
    activation: str = "gelu"         # of the MLP
    mlp_norm: bool = False           # EVA-02: a LayerNorm before the last layer of the MLP
    attention_norm: bool = False     # EVA-02 for CLIP, BEiT-3: and before that of the attention
    qk_norm: bool = False            # of queries and keys, head by head: Dehghani et al. 2023

    def __post_init__(self):
        from plumbing.checks import check_vit
        check_vit(self)

    @property
    def grid(self):
        """Patches along each axis: (rows, columns), or (slabs, rows, columns)."""
        return tuple(side // P for side, P in zip(self.image, self.patch))

    @property
    def tokens(self):
        """T, patches of an image; 0 for bags, which differ in length."""
        return math.prod(self.grid) if self.image else 0

    @property
    def prefix(self):
        """Tokens before the patches: class token and registers."""
        return self.class_token + self.registers


class MLP(nn.Module):
    """(B, S, D) -> (B, S, D)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp)
        self.act = F.gelu
        self.norm = nn.Identity()
        self.fc2 = nn.Linear(config.mlp, config.dim)

    def forward(self, x):
        return self.fc2(self.norm(self.act(self.fc1(x))))


class Residual(nn.Module):
    """Dropout and stochastic depth on what a branch adds, (B, S, D): some samples in training go without."""

    def __init__(self, config: ViTConfig, drop_path):
        super().__init__()
        self.dropout, self.drop_path = config.dropout, drop_path

    def forward(self, y):
        y = F.dropout(y, self.dropout, self.training)
        if self.training and self.drop_path:
            keep = torch.rand(len(y), 1, 1, device=y.device) >= self.drop_path
            y = y * keep / (1 - self.drop_path)
        return y


class Block(nn.Module):
    """(B, S, D) -> (B, S, D), and the class map of its attention, (B, H, T), None unless want_map."""

    def __init__(self, config: ViTConfig, drop_path=0.0):
        super().__init__()
        D, H, d = config.dim, config.heads, config.head_dim
        self.norm1 = nn.LayerNorm(D, eps=config.eps)
        self.attn = Attention(D, H, d, config.qkv_bias, config.attention, config.prefix)
        self.norm2 = nn.LayerNorm(D, eps=config.eps)
        self.mlp = MLP(config)
        self.ls1 = Residual(config, drop_path)                     # where timm has LayerScale
        self.ls2 = Residual(config, drop_path)

    def forward(self, x, mask=None, want_map=False):
        y, class_map = self.attn(self.norm1(x), mask, want_map)
        x = x + self.ls1(y)
        x = x + self.ls2(self.mlp(self.norm2(x)))
        return x, class_map


class PatchEmbed(nn.Module):
    """(B, C, *image) -> (B, T, D): one Linear layer for all patches; for bags (B, S, C) -> (B, S, D)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        C, D, P = config.channels, config.dim, config.patch
        if P:
            conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(P)]
            self.proj = conv(C, D, P, stride=P)                    # Linear on patches that do not overlap
        else:
            self.proj = nn.Linear(C, D)

    def forward(self, x):
        x = self.proj(x)                                           # (B, D, *grid); of a bag (B, S, D)
        return x.flatten(2).transpose(1, 2) if x.dim() > 3 else x


class Normalize(nn.Module):
    """uint8 (..., C, *image) -> float, (x / 255 - mean) / std. Float images are taken as normalized."""

    def __init__(self, mean, std, axes):
        super().__init__()
        shape = (len(mean),) + (1,) * axes
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(shape), persistent=False)

    def forward(self, images):
        return (images / 255 - self.mean) / self.std if images.dtype == torch.uint8 else images


def make_heads(dim, tasks):
    """{task: outputs} -> a Linear layer for each."""
    return nn.ModuleDict({task: nn.Linear(dim, outputs) for task, outputs in (tasks or {}).items()})


def init_weights(module):
    """Truncated normal of std 0.02, as in DeiT: attention starts nearly uniform and learns from content. From
    the ViT paper's larger Xavier weights, class tokens came to attend to the background (docs/results.md)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ViT(nn.Module):
    """forward(image) -> dict: logits {task: (B, outputs)}; map (B, H, T), attention to each patch in the last
    block, of the class token or, where their mean is read, of the patches; None in training, to save time.
    tasks: {name: outputs}, a head for each. Bags: forward(bag, mask), mask (B, T) False for padding."""
    Config = ViTConfig
    inputs = ("image",)
    axes = (0, 2, 3)                                               # of bags, pictures, volumes
    report = "weights drawn at random"

    def __init__(self, config: ViTConfig, tasks=None):
        super().__init__()
        self.config = config
        self.inputs = ("image",) if config.image else ("bag", "bag_mask")
        D, depth = config.dim, config.depth
        self.normalize = Normalize(config.mean, config.std, len(config.image))
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.tokens, D))
        self.norm_pre = nn.Identity()
        rates = [config.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList([Block(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(D, config.eps)
        self.head = make_heads(D, tasks)
        self.drop = nn.Dropout(config.dropout)
        from plumbing.variants import vary
        vary(self)                                                 # to what the config asks for instead
        self.apply(init_weights)
        for token in self.parameters(recurse=False):               # cls_token, pos_embed, reg_token
            nn.init.trunc_normal_(token, std=0.02)

    def embed(self, images):
        """(B, C, *image) -> (B, S, D), with positions."""
        x = self.place(self.patch_embed(self.normalize(images)))
        return self.norm_pre(self.drop(x))

    def place(self, x):
        """(B, T, D) -> [cls ; x] + pos, (B, 1 + T, D). The vectors of a bag have no position."""
        pos = self.pos_embed
        if not self.config.image:
            pos = F.pad(pos, (0, 0, 0, x.shape[1]))
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + pos

    def run_blocks(self, x, want_map=False, mask=None):
        """(B, S, D) of embed() -> tokens after the final norm, what the head reads (B, D), map (B, H, T)."""
        for block in self.blocks[:-1]:
            x, _ = block(x, mask)
        x, class_map = self.blocks[-1](x, mask, want_map)
        tokens = self.norm(x)
        return tokens, self.pool(x, tokens, mask), class_map

    def pool(self, x, tokens, mask):
        """Tokens before and after the final norm, (B, S, D) -> what the head reads, (B, D)."""
        return tokens[:, 0]

    def encode(self, x):
        """The tokens alone, (B, S, D)."""
        return self.run_blocks(x)[0]

    def forward(self, image, mask=None):
        if mask is not None:                                       # class token and registers are no padding
            mask = F.pad(mask, (self.config.prefix, 0), value=True)
        _, y, class_map = self.run_blocks(self.embed(image), want_map=not self.training, mask=mask)
        return {"logits": {task: head(y) for task, head in self.head.items()}, "map": class_map}

    @classmethod
    def from_pretrained(cls, name, image=None, channels=None, tasks=None, **changes):
        """-> ViT with the weights of `name` (Hub id, folder or file) at `image` px per axis and `channels`;
        changes: other fields of ViTConfig. ValueError if the file is missing, broken, or not a ViT's."""
        from plumbing.weights import read_vit
        return read_vit(name, cls, image, channels, tasks, **changes)

    @staticmethod
    def add_flags(group):
        """The flags of every model that holds a ViT."""
        from plumbing.sizes import SIZES
        add = group.add_argument
        add("--pretrained", help="weights: file, or Hub id ORG/NAME[@revision], folder, run, also with :FILE")
        add("--mean", help="of the images that --pretrained has seen, 0..1; default: the checkpoint's")
        add("--std", help="their standard deviation; default: the checkpoint's")
        add("--size", choices=SIZES, help="of a ViT from scratch, default micro; vit2d, vit3d, vit_wsi are "
            "the softmax-free paper's, with its image and patch")
        add("--patch", help="P in px, written as --image; default 8, or the checkpoint's, which this resizes")
        add("--heads", type=int, help="H of --pretrained, where no config.json says it; default: a guess")
        add("--attention", choices=KINDS, help="see attention.py; default softmax, or the checkpoint's")
        add("--dropout", type=float, default=0.1, help="after embedding, attention and MLP, share of 1")
        add("--drop-path", type=float, default=0.0, help="stochastic depth: rate in the last block")
        add("--train-blocks", type=int, help="freeze all blocks but the last k; default: none")

    @staticmethod
    def check_flags(args):
        from plumbing.sizes import check_size
        check_size(args)

    @classmethod
    def from_args(cls, args, tasks=None, stage=1):
        """args.image, args.patch: "96x64", "" of bags, None: the checkpoint's; stage 1 or 2 of a MultiViT."""
        from plumbing.sizes import SIZES, sides
        image, patch, C = sides(args.image), sides(args.patch), args.channels
        changes = dict(patch=patch, dropout=args.dropout, drop_path=args.drop_path, attention=args.attention)
        if args.pretrained:
            changes.update(mean=args.mean, std=args.std, heads=args.heads, stage=stage)
            return cls.from_pretrained(args.pretrained, image, C, tasks, **changes)
        half = (0.5,) * C if image else ()                         # vectors are not normalized
        return cls(ViTConfig(image, channels=C, mean=half, std=half, **SIZES[args.size], **changes), tasks)


if __name__ == "__main__":
    from plumbing.sizes import count
    model = ViT(ViTConfig(), {"label": 1000})
    print(f"ViT-S/16, 22 M in DeiT's paper: {count(model):,} parameters")
    print("tokens of an image of 224 px", tuple(model.embed(torch.zeros(1, 3, 224, 224)).shape))
