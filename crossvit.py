"""CrossViT: one image cut into small and into large patches, for two ViTs that exchange their class tokens.

    X_b = ViT blocks(X_b)                        for both branches b
    X_b = [fused class token ; patches_b]        see cross_attention.py; K times these two lines
    logits = mean over b of head_b(LN(cls_b))    Chen et al. 2021, arXiv 2103.14899, section 3.3

B samples, P patch side in pixels, T patches, D width, H heads of a branch; K encoders of N and M blocks; r
ratio of the MLP. Branch 0 is S (small patches, narrow, N blocks), branch 1 is L (large, wide, M blocks). A
pair is always (S, L).
Differs: the first of several cross attentions in a row returns the class token alone, so that the next ones
see one key. The released code does so, and row D of Table 7 was measured with it: kept. Parameter names are
the released ones, but for the heads, of which there is one for each task. Run: python crossvit.py
"""
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from attention import KINDS, Attention
from cross_attention import (FUSIONS, Attend, AttendAgain, CrossAttention, all_fusion, class_fusion,
                             cross_fusion, pairwise_fusion, project)
from vit import Block, Normalize, PatchEmbed, ViTConfig, init_weights, make_heads, sides

VARIANTS = {  # Table 1: stem, D of S and L, H, M, r, image in px; N = 1, K = 3; + is the paper's dagger
    "Ti": ("linear", (96, 192), 3, 4, 4, 240),
    "S": ("linear", (192, 384), 6, 4, 4, 240),
    "B": ("linear", (384, 768), 12, 4, 4, 240),
    "9": ("linear", (128, 256), 4, 3, 3, 240),
    "15": ("linear", (192, 384), 6, 5, 3, 240),
    "18": ("linear", (224, 448), 7, 6, 3, 240),
    "9+": ("conv", (128, 256), 4, 3, 3, 240),
    "15+": ("conv", (192, 384), 6, 5, 3, 240),
    "18+": ("conv", (224, 448), 7, 6, 3, 240),
    "15+@384": ("conv", (192, 384), 6, 5, 3, 408),                 # named after the pixels that L sees
    "18+@384": ("conv", (224, 448), 7, 6, 3, 408),
    "18+@480": ("conv", (224, 448), 7, 6, 3, 504),
}
STEMS = {12: (3, 0, 1, 1), 16: (2, 1, 2, 1)}                       # P: stride, padding, stride, padding


@dataclass(frozen=True)
class CrossViTConfig:
    """Architecture only; asdict() of it is what config.json stores. Pairs are (S, L)."""
    grids: tuple = ((20, 20), (14, 14))    # (rows, columns) of patches
    patch: tuple = (12, 16)                # P, px
    channels: int = 3
    dims: tuple = (192, 384)               # D
    depths: tuple = (1, 5)                 # N, M: blocks of an encoder
    encoders: int = 3                      # K
    heads: int = 6                         # H, in both branches
    mlp: int = 3                           # r, hidden units of the MLP / D
    stem: str = "linear"                   # or conv: three convolutions cut the patches, not one
    fusion: str = "cross"                  # one of FUSIONS
    cross_depth: int = 1                   # the paper's L, cross attentions in a row
    attention: str = "softmax"             # of the self-attention, one of attention.KINDS
    dropout: float = 0.0
    drop_path: float = 0.0                 # stochastic depth, rising to this rate in the last encoder
    mean: tuple = (0.485, 0.456, 0.406)    # of ImageNet
    std: tuple = (0.229, 0.224, 0.225)

    def __post_init__(self):
        object.__setattr__(self, "grids", tuple(tuple(grid) for grid in self.grids))
        for name in ("patch", "dims", "depths", "mean", "std"):    # lists, when read from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        pairs = (self.grids, self.patch, self.dims, self.depths)
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"{self}: grids, patch, dims and depths are pairs, of S and L")
        for count in (self.encoders, self.mlp, self.cross_depth):
            if not isinstance(count, int) or not 0 < count < 100:
                raise ValueError(f"{self}: encoders, mlp and cross_depth are whole numbers from 1 to 99")
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion {self.fusion!r} is not known; use one of {', '.join(FUSIONS)}")
        if self.cross_depth > 1 and self.fusion != "cross":
            raise ValueError(f"fusion {self.fusion!r}, cross_depth {self.cross_depth}: only cross is repeated")
        no_stem = self.stem == "conv" and not set(self.patch) <= set(STEMS)
        if no_stem or self.stem not in ("linear", "conv"):
            raise ValueError(f"stem {self.stem!r}, patches of {self.patch} px: use linear, "
                             "or conv with 12 or 16 px")
        self.branches                                              # where ViTConfig checks the rest

    @property
    def branches(self):
        """(S, L): each branch as a ViT."""
        return self.branch(0), self.branch(1)

    def branch(self, b):
        P, D = self.patch[b], self.dims[b]
        return ViTConfig(
            image=tuple(side * P for side in self.grids[b]),
            patch=(P, P),
            channels=self.channels,
            dim=D,
            depth=self.depths[b],
            heads=self.heads,
            mlp=self.mlp * D,
            attention=self.attention,
            dropout=self.dropout,
            mean=self.mean,
            std=self.std,
        )

    @property
    def image(self):
        """(height, width) in px of the images that forward() takes: those of S."""
        return self.branch(0).image


def variant(name, image=None, **changes):
    """-> CrossViTConfig of one of VARIANTS; image: (height, width) in px; changes: other fields."""
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} is not known; use one of {', '.join(VARIANTS)}")
    stem, dims, heads, depth, mlp, side = VARIANTS[name]
    config = CrossViTConfig(dims=dims, depths=(1, depth), heads=heads, mlp=mlp, stem=stem)
    config = replace(at_size(config, (side, side)), **changes)
    return at_size(config, image) if image else config


def at_size(config, image):
    """The config for images of (height, width) px, multiples of S's patch. L sees 14/15 of S's pixels,
    rounded up to whole patches: 240 -> 224, 408 -> 384, 504 -> 480 as in the paper."""
    P, Q = config.patch
    if any(side < P or side % P for side in image):
        smaller = tuple(max(side // P, 1) * P for side in image)
        larger = tuple((side // P + 1) * P for side in image)
        raise ValueError(f"image {tuple(image)} px is not a multiple of CrossViT's small patch, {P} px; "
                         f"use {smaller} or {larger}")
    if tuple(image) == config.image:
        return config
    small = [side // P for side in image]
    large = [math.ceil(14 * side / (15 * Q)) for side in image]
    return replace(config, grids=(small, large))


# -----------------------------------------------------------------------------
# modules


class Encoder(nn.Module):
    """A pair of tokens (B, 1 + T_b, D_b) -> the same, and maps: N blocks in S, M in L, then one fusion.

    drop_path: the rate of each block, the last is also that of the fusion."""

    def __init__(self, config: CrossViTConfig, drop_path):
        super().__init__()
        self.fuse, self.grids = config.fusion, config.grids
        vits = config.branches
        self.blocks = nn.ModuleList()
        for vit in vits:
            blocks = [Block(vit, rate) for rate in drop_path[:vit.depth]]
            self.blocks.append(nn.ModuleList(blocks))
        self.projs = nn.ModuleList()                               # f
        self.revert_projs = nn.ModuleList()                        # g
        for source, target in FUSIONS[config.fusion]:
            self.projs.append(project(vits[source], vits[target]))
            self.revert_projs.append(project(vits[target], vits[source]))
        S, L = vits
        if config.fusion == "all":
            attn = Attention(L.dim, L.heads, kind=L.attention)
            self.fusion = Attend(attn, L, drop_path[-1])
        if config.fusion == "cross":
            self.fusion = nn.ModuleList()
            for vit in (L, S):                                     # S attends to L, and L to S
                layers = AttendAgain()
                for _ in range(config.cross_depth):
                    layers.append(Attend(CrossAttention(vit.dim, vit.heads), vit, drop_path[-1]))
                self.fusion.append(layers[0] if config.cross_depth == 1 else layers)

    def forward(self, tokens):
        cls, patches, maps = [], [], {"map": []}
        for blocks, x in zip(self.blocks, tokens):
            for block in blocks[:-1]:
                x = block(x)
            x, class_map = blocks[-1](x, want_map=True)
            cls.append(x[:, :1])
            patches.append(x[:, 1:])
            maps["map"].append(class_map)
        f, g = self.projs, self.revert_projs
        if self.fuse == "class":
            cls, patches = class_fusion(cls, patches, f, g)
        elif self.fuse == "pairwise":
            cls, patches = pairwise_fusion(cls, patches, f, g, self.grids)
        elif self.fuse == "all":
            cls, patches = all_fusion(cls, patches, f, g, self.fusion)
        elif self.fuse == "cross":
            cls, patches, maps["cross_map"] = cross_fusion(cls, patches, f, g, self.fusion)
        return [torch.cat(halves, 1) for halves in zip(cls, patches)], maps


def patch_embed(vit: ViTConfig, stem):
    """One convolution, or three with ReLU between them."""
    embed = PatchEmbed(vit)
    if stem == "conv":
        D = vit.dim
        stride2, padding2, stride3, padding3 = STEMS[vit.patch[0]]
        first = nn.Conv2d(vit.channels, D // 4, 7, stride=4, padding=3)
        second = nn.Conv2d(D // 4, D // 2, 3, stride2, padding2)
        third = nn.Conv2d(D // 2, D, 3, stride3, padding3)
        embed.proj = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
    return embed


class CrossViT(nn.Module):
    """forward(image) -> dict; tasks: {name: outputs}, for each a Linear head on the class token of a branch.

    logits         {task: (B, outputs)}, the mean of both branches
    branch_logits  {task: (B, 2, outputs)}, S and L apart (Table 6: does one branch do all the work?)
    map            (B, H, T_S), (B, H, T_L): class token to the patches of its branch, last self-attention
    cross_map      the same from the class token of the other branch, last cross attention: figure 4"""
    Config = CrossViTConfig
    inputs = ("image",)
    defaults = {"image": "60", "epochs": 16}
    report = "weights drawn at random"

    def __init__(self, config: CrossViTConfig, tasks=None):
        super().__init__()
        self.config = config
        self.vits = vits = config.branches
        self.patch_embed = nn.ModuleList([patch_embed(vit, config.stem) for vit in vits])
        self.cls_token, self.pos_embed = nn.ParameterList(), nn.ParameterList()
        for vit in vits:
            self.cls_token.append(torch.zeros(1, 1, vit.dim))
            self.pos_embed.append(torch.zeros(1, 1 + vit.tokens, vit.dim))
        self.blocks = nn.ModuleList()
        steps = max(config.depths)
        if config.cross_depth > 1:
            steps += config.cross_depth                            # note: as released
        total = config.encoders * steps
        rates = [config.drop_path * i / max(1, total - 1) for i in range(total)]
        for first in range(0, total, steps):
            self.blocks.append(Encoder(config, rates[first:first + steps]))
        self.norm = nn.ModuleList([nn.LayerNorm(vit.dim, eps=vit.eps) for vit in vits])
        self.head = nn.ModuleList([make_heads(vit.dim, tasks) for vit in vits])
        self.drop = nn.Dropout(config.dropout)
        self.normalize = Normalize(config.mean, config.std, axes=2)
        self.apply(init_weights)
        for tokens in (self.cls_token, self.pos_embed):
            for token in tokens:
                nn.init.trunc_normal_(token, std=0.02)

    def embed(self, image):
        """(B, C, height, width) at S's size -> a pair of tokens (B, 1 + T_b, D_b); for L it is resized."""
        size = tuple(image.shape[-2:])
        if size != self.vits[0].image:
            raise ValueError(f"image of {size} px, this CrossViT takes {self.vits[0].image}")
        image = self.normalize(image)
        tokens = []
        for b, vit in enumerate(self.vits):
            x = image
            if vit.image != size:
                x = F.interpolate(image, size=vit.image, mode="bicubic")
            x = self.patch_embed[b](x)                             # (B, T_b, D_b)
            cls = self.cls_token[b].expand(len(x), -1, -1)
            x = torch.cat([cls, x], 1) + self.pos_embed[b]
            tokens.append(self.drop(x))
        return tokens

    def forward(self, image):
        tokens = self.embed(image)
        for encoder in self.blocks:
            tokens, maps = encoder(tokens)
        cls = [norm(x[:, 0]) for norm, x in zip(self.norm, tokens)]  # (B, D_S), (B, D_L)
        logits, branch_logits = {}, {}
        for task in self.head[0]:
            both = [head[task](x) for head, x in zip(self.head, cls)]
            branch_logits[task] = torch.stack(both, 1)             # (B, 2, outputs)
            logits[task] = branch_logits[task].mean(1)
        return {"logits": logits, "branch_logits": branch_logits, **maps}  # maps of the last encoder

    @classmethod
    def from_pretrained(cls, name, image=None, channels=None, tasks=None, **changes):
        """-> CrossViT with the weights of `name`, of IBM/CrossViT, timm or ours, as ViT.from_pretrained.

        image: (height, width) in px, both position embeddings are resized; channels: the kernels are summed
        or spread; changes: other fields of CrossViTConfig. `.report`: what was loaded, resized and new."""
        from plumbing.weights import load_weights, read_crossvit

        heads_of = {dims: heads for _, dims, heads, *_ in VARIANTS.values()}
        task = None
        if tasks and len(tasks) == 1:                              # it gets the one head of a released file
            task = list(tasks)[0]
        tensors, config, notes = read_crossvit(name, CrossViT, heads_of, at_size, task, image, channels)
        model = cls(replace(config, **changes), tasks)
        model.report = load_weights(model, tensors, name, ("head.", "seq_scale", "seq_shift"), notes)
        return model

    @staticmethod
    def add_flags(group):
        group.add_argument(
            "--pretrained",
            help="weights to start from, of IBM's CrossViT, timm's, or a run: Hub id, folder, or file")
        group.add_argument(
            "--variant", choices=VARIANTS,
            help="row of the paper's Table 1; default 9, or the checkpoint's")
        group.add_argument("--fusion", choices=FUSIONS, default="cross", help="the paper's Table 6")
        group.add_argument(
            "--attention", choices=KINDS, default="softmax", help="of the self-attention, see attention.py")
        group.add_argument(
            "--dropout", type=float, default=0.1, help="after embedding, attention and MLP, share of 1")
        group.add_argument(
            "--drop-path", type=float, default=0.0, help="stochastic depth: rate in the last encoder")
        group.add_argument("--train-blocks", type=int, help="train only the last k encoders; default: all")

    @staticmethod
    def check_flags(args):
        if args.pretrained and args.variant:
            raise ValueError(f"--variant is fixed by --pretrained {args.pretrained}; leave it out")
        if not args.pretrained:
            args.variant = args.variant or "9"

    @classmethod
    def from_args(cls, args, tasks, columns=()):
        image = sides(args.image)
        changes = dict(fusion=args.fusion, attention=args.attention,
                       dropout=args.dropout, drop_path=args.drop_path)
        if args.pretrained:
            return cls.from_pretrained(args.pretrained, image, args.channels, tasks, **changes)
        half = (0.5,) * args.channels
        config = variant(args.variant, image, channels=args.channels, mean=half, std=half, **changes)
        return cls(config, tasks)


if __name__ == "__main__":
    for name in VARIANTS:
        with torch.device("meta"):                                 # shapes without numbers
            model = CrossViT(variant(name), {"label": 1000})
        line = f"{name:7}"
        for vit in model.vits:
            tokens = f"({1 + vit.tokens}, {vit.dim})"
            line += f"   {vit.image[0]} px / {vit.patch[0]} -> {tokens:11}"
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{line}   params {parameters:11,}")
    model = CrossViT(variant("Ti"), {"grade": 5}).eval()
    with torch.no_grad():
        out = model(torch.zeros(1, 3, 240, 240, dtype=torch.uint8))
    print("\nTi   logits", tuple(out["logits"]["grade"].shape))
    print("     of both branches", tuple(out["branch_logits"]["grade"].shape))
    for weights in out["cross_map"]:
        print("     cross_map", tuple(weights.shape))
