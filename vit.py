"""The Vision Transformer, from scratch, and the weights other people trained for it.

    x = [cls ; patches W + b] + pos                     Dosovitskiy et al. 2021, eq. 1
    x = x + Attention(LayerNorm(x))                     eq. 2, `depth` times with
    x = x + MLP(LayerNorm(x))                           eq. 3
    logits = head(LayerNorm(x)[cls])                    eq. 4

B samples, C channels, P patch side in pixels, G patches per side, T = G G patch tokens, D width, H heads.
(Other codebases call the tokens N; here N is the number of images of one patient.)
Images have two axes or, volumes, three: depth, height, width. A bag of S feature vectors, say of the tiles of a whole-slide
image, is a ViT without axes: its vectors pass one Linear and become tokens without position, S may differ from bag to bag, and
a mask (B, S) tells real vectors from the padding of a batch.
Parameter names are timm's. uint8 images are normalized by the model itself, with the mean and std that belong to its
weights; float images are taken as normalized. Pretrained weights: weights.py finds and renames them, from_pretrained
reads their architecture and resizes what must be resized.
Run: python vit.py
"""
import math
from attention import Attention
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn



SIZES = {  # name: D, depth, H; the MLP has 4 D hidden units
    "micro": (64, 4, 4), "mini": (128, 6, 4),                      # for a laptop CPU and the tests
    "tiny": (192, 12, 3), "small": (384, 12, 6),                   # DeiT, Table 1
    "base": (768, 12, 12), "large": (1024, 24, 16),                # ViT, Table 1
}
SOFTMAX_FREE = {  # name: fields of ViTConfig; Khader et al. 2024, Table 1: 8 heads of 64 whatever the width
    "vit2d": dict(image=(224, 224), patch=(16, 16), dim=1024, depth=8, heads=8, head_dim=64, mlp=1024, qkv_bias=False),
    "vit3d": dict(image=(32, 256, 256), patch=(4, 16, 16), channels=1, mean=(0.5,), std=(0.5,), dim=1024, depth=8, heads=8,
                  head_dim=64, mlp=1024, qkv_bias=False),
    "vit_wsi": dict(image=(), patch=(), channels=2048, dim=512, depth=2, heads=8, head_dim=64, mlp=512, qkv_bias=False),
}
CONV = {2: nn.Conv2d, 3: nn.Conv3d}                                # by the axes of an image


@dataclass(frozen=True)
class ViTConfig:
    """Architecture only; asdict() of it is what config.json stores."""
    image: tuple = (224, 224)        # px, one entry an axis: (height, width), (depth, height, width), or () for bags
    patch: tuple = (16, 16)          # P, px
    channels: int = 3                # C; of bags the width of a vector
    dim: int = 384                   # D
    depth: int = 12
    heads: int = 6                   # H
    head_dim: int = 0                # d; 0: dim // heads
    mlp: int = 1536                  # hidden units of the MLP
    qkv_bias: bool = True
    eps: float = 1e-6                # of LayerNorm; google/vit has 1e-12
    attention: str = "softmax"       # one of attention.KINDS
    layer_scale: bool = False        # DINOv2: a learned factor per feature on every residual
    registers: int = 0               # DINOv2: extra tokens after the class token, without position
    dropout: float = 0.0             # after the embedding, the attention and the MLP (Hugging Face's "hidden dropout")
    drop_path: float = 0.0           # stochastic depth, rising linearly to this rate in the last block
    mean: tuple = (0.5, 0.5, 0.5)    # of the normalization, in units of 0..1, one entry a channel
    std: tuple = (0.5, 0.5, 0.5)     # google/vit and timm's augreg have 0.5; DeiT, DINO, DINOv2, MAE those of ImageNet

    def __post_init__(self):
        for name in ("image", "patch", "mean", "std"):             # lists, when read from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.image:                                         # vectors are taken as they come
            object.__setattr__(self, "mean", ()), object.__setattr__(self, "std", ())
        sizes = (*self.image, *self.patch, self.channels, self.dim, self.depth, self.heads, self.mlp)
        if any(not isinstance(size, int) or not 0 < size < 2 ** 16 for size in sizes) or self.depth > 999:
            raise ValueError(f"a ViT of image {self.image}, patch {self.patch}, channels {self.channels}, dim {self.dim}, "
                             f"depth {self.depth}, heads {self.heads}, mlp {self.mlp}: need whole numbers in 1 .. 65535, and "
                             "a depth below 1000")
        if any(not isinstance(share, (int, float)) or not 0 <= share < 1 for share in (self.eps, self.dropout, self.drop_path)):
            raise ValueError(f"eps {self.eps!r}, dropout {self.dropout!r}, drop_path {self.drop_path!r}: need numbers 0 <= x < 1")
        if len(self.image) != len(self.patch) or any(i % p for i, p in zip(self.image, self.patch)):
            raise ValueError(f"image {self.image} px is not a multiple of the patch {self.patch} px on every axis")
        if len(self.image) not in (0, *CONV):
            raise ValueError(f"image {self.image}: a ViT sees pictures of 2 axes, volumes of 3, or bags, ()")
        if not self.head_dim and self.dim % self.heads:
            raise ValueError(f"width {self.dim} does not divide into {self.heads} heads")
        if not len(self.mean) == len(self.std) == self.channels * bool(self.image) or not all(std > 0 for std in self.std):
            raise ValueError(f"{self.channels} channels need as many means and stds above 0, not {self.mean}, {self.std}")

    @property
    def grid(self):
        """Patches along each axis: (rows, columns), or (slabs, rows, columns)."""
        return tuple(i // p for i, p in zip(self.image, self.patch))

    @property
    def tokens(self):
        """T, patches of an image; 0 for bags, each of which has a number of its own."""
        return math.prod(self.grid) if self.image else 0


class Mlp(nn.Module):
    """(..., D) -> (..., D), exact (erf) GELU."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """(..., D) -> (..., D), a learned factor per feature (Touvron et al. 2021, "Going deeper", eq. 4)."""

    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    """(B, T, D) -> (B, T, D), pre-norm; with want_map=True also the class token's attention, (B, H, T - 1)."""

    def __init__(self, config: ViTConfig, drop_path=0.0):
        super().__init__()
        D = config.dim
        self.norm1 = nn.LayerNorm(D, eps=config.eps)
        self.attn = Attention(D, config.heads, config.head_dim, config.qkv_bias, config.attention)
        self.norm2 = nn.LayerNorm(D, eps=config.eps)
        self.mlp = Mlp(D, config.mlp)
        self.ls1 = LayerScale(D) if config.layer_scale else nn.Identity()
        self.ls2 = LayerScale(D) if config.layer_scale else nn.Identity()
        self.drop = nn.Dropout(config.dropout)
        self.drop_path = drop_path

    def forward(self, x, mask=None, want_map=False):
        y = self.attn(self.norm1(x), mask, want_map)
        y, map = y if want_map else (y, None)
        x = x + self.residual(self.ls1, y)
        x = x + self.residual(self.ls2, self.mlp(self.norm2(x)))
        return (x, map) if want_map else x

    def residual(self, scale, y):
        """What a residual branch adds: scaled, dropped out, and left out whole for some samples (stochastic depth)."""
        y = self.drop(scale(y))
        if self.training and self.drop_path:
            y = y * (torch.rand(len(y), 1, 1, device=y.device) >= self.drop_path) / (1 - self.drop_path)
        return y


class PatchEmbed(nn.Module):
    """(B, C, G P, G P) -> (B, T, D): cut into patches, one Linear for all; a convolution of stride P does both.

    Also (B, C, G P, G P, G P), T = G G G. A bag (B, S, C) is cut already: -> (B, S, D)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        if config.patch:
            self.proj = CONV[len(config.patch)](config.channels, config.dim, config.patch, stride=config.patch)
        else:
            self.proj = nn.Linear(config.channels, config.dim)

    def forward(self, x):
        return self.proj(x) if isinstance(self.proj, nn.Linear) else self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """forward(image) -> dict: logits {task: (B, outputs)}, map (B, H, T) the class token's attention in the last block.

    tasks: {name: outputs}, one Linear head each on the class token. Of bags forward(bag, bag_mask), map (B, H, S)."""
    inputs = ("image",)

    def __init__(self, config: ViTConfig, tasks=None):
        super().__init__()
        self.config = config
        if not config.image:
            self.inputs = ("bag", "bag_mask")
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.tokens, config.dim))
        if config.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.dim))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList([Block(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.dim, eps=config.eps)
        self.head = nn.ModuleDict({task: nn.Linear(config.dim, outputs) for task, outputs in (tasks or {}).items()})
        self.drop = nn.Dropout(config.dropout)
        ones = [1] * len(config.image)
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, *ones), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, *ones), persistent=False)
        self.apply(init_weights)
        for token in (self.cls_token, self.pos_embed, *([self.reg_token] if config.registers else [])):
            nn.init.trunc_normal_(token, std=0.02)

    def normalize(self, images):
        """uint8 (..., C, side, side), or with three sides -> float, (x / 255 - mean) / std; float images pass as they are."""
        return (images / 255 - self.mean) / self.std if images.dtype == torch.uint8 else images

    def embed(self, images):
        """(B, C, side, side) -> (B, 1 + T, D); DINOv2's registers come between class token and patches."""
        x = self.patch_embed(self.normalize(images))
        pos = self.pos_embed if self.config.image else F.pad(self.pos_embed, (0, 0, 0, x.shape[1]))        # vectors have none
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + pos
        if self.config.registers:
            x = torch.cat([x[:, :1], self.reg_token.expand(len(x), -1, -1), x[:, 1:]], 1)
        return self.drop(x)

    def encode(self, tokens, want_map=False, mask=None):
        """(B, 1 + T, D) -> (B, 1 + T, D) after the final norm; want_map=True also gives the last block's class map."""
        for block in self.blocks[:-1]:
            tokens = block(tokens, mask)
        tokens = self.blocks[-1](tokens, mask, want_map)
        tokens, map = tokens if want_map else (tokens, None)
        tokens = self.norm(tokens)
        return (tokens, map[:, :, self.config.registers:]) if want_map else tokens

    def forward(self, image, mask=None):
        if mask is not None:                                       # of the vectors; class token and registers are real
            mask = F.pad(mask, (1 + self.config.registers, 0), value=True)
        tokens, map = self.encode(self.embed(image), True, mask)
        return {"logits": {task: head(tokens[:, 0]) for task, head in self.head.items()}, "map": map}

    @classmethod
    def from_pretrained(cls, name, image=None, channels=None, tasks=None, **changes):
        """-> ViT with the weights of `name`: a Hub id (ORG/NAME or ORG/NAME@revision), a folder, or one file.

        image: (height, width), or with a depth before them, in px, position embeddings are resized to it; channels: the kernel is
        summed or spread; changes: other fields of ViTConfig (dropout, drop_path, attention). What was loaded, resized, new and ignored
        stands in one line in `.report`. ValueError when the file cannot be had, is broken, or lacks a backbone tensor."""
        from plumbing.architecture import read_config, vit_inside
        from plumbing.checkpoints import read_checkpoint
        from plumbing.weights import check_size, load_weights, resize_pos_embed, spread_channels, timm_names

        tensors, config, preprocessor = read_checkpoint(name)
        tensors, config, notes = vit_inside(tensors, config)
        tensors, layout = timm_names(tensors)
        config = read_config(name, tensors, layout, config, preprocessor)
        if image and len(image) != len(config.image):
            raise ValueError(f"{name} is for images of {len(config.image)} axes, {config.image} px, not for {tuple(image)}")
        if image and tuple(image) != config.image:
            new = replace(config, image=tuple(image))
            if "pos_embed" in tensors and tensors["pos_embed"].shape[1:2] == (1 + config.tokens,):       # else refused below
                tensors["pos_embed"] = resize_pos_embed(tensors["pos_embed"], config.grid, new.grid)
            notes.append(f"resized pos_embed {'x'.join(map(str, config.grid))} -> {'x'.join(map(str, new.grid))}")
            config = new
        if channels and channels != config.channels:
            if not config.image:
                raise ValueError(f"{name} is for bags of vectors {config.channels} wide, not {channels}")
            if "patch_embed.proj.weight" in tensors:
                tensors["patch_embed.proj.weight"] = spread_channels(tensors["patch_embed.proj.weight"], channels)
            notes.append(f"patch_embed from {config.channels} to {channels} channels")
            config = replace(config, channels=channels, mean=(sum(config.mean) / len(config.mean),) * channels,
                             std=(sum(config.std) / len(config.std),) * channels)
        notes.append(" ".join(["mean", *(f"{x:g}" for x in config.mean), "std", *(f"{x:g}" for x in config.std)]))
        check_size(lambda: cls(config), tensors, name)
        model = cls(replace(config, **changes), tasks)
        new = ("head.", *(["seq_scale", "seq_shift"] if model.config.attention == "seqnorm" else []))
        model.report = load_weights(model, tensors, name, new, notes)
        return model


def init_weights(module):
    """Truncated normal of std 0.02, zero biases, as DeiT. Attention then starts uniform and grows by content: with the ViT
    paper's larger Xavier start, small class tokens come to rest on background, and their maps point at nothing."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def named(size):
    """A name of SIZES or SOFTMAX_FREE -> fields of ViTConfig."""
    if size in SOFTMAX_FREE:
        return SOFTMAX_FREE[size]
    dim, depth, heads = SIZES[size]
    return dict(dim=dim, depth=depth, heads=heads, mlp=4 * dim)


if __name__ == "__main__":
    for size in (*SIZES, *SOFTMAX_FREE):
        with torch.device("meta"):                                 # shapes without numbers
            model = ViT(ViTConfig(**named(size)), {"grade": 5}).eval()
            config = model.config
            image = torch.empty(1, config.channels, *config.image) if config.image else torch.empty(1, 11039, config.channels)
            tokens = model.embed(image)
        print(f"{size:7} {sum(p.numel() for p in model.parameters()) / 1e6:6.2f} M params   {tuple(image.shape)} -> tokens "
              f"{tuple(tokens.shape)} -> grade {tuple(model.head['grade'](tokens[:, 0]).shape)}")
