"""CrossViT: an image in small and in large patches, two Vision Transformers that exchange class tokens.

    X_b = ViT blocks(X_b)                               for both branches b; o is the other branch
    u   = [f_b(cls_b) ; patches_o]                      b's class token before the patches of o
    y   = u[0] + softmax(q K' / sqrt(d)) V              q from LN(u[0]) alone, K and V from LN(u): linear in T
    X_b = [g_b(y) ; patches_b]                          only the class token changes; these lines K times
    logits = mean over b of head_b(LN(cls_b))           Chen et al. 2021, arXiv 2103.14899, section 3.3

B samples, P patch side in pixels, T patches, D width, H heads; K encoders of N and M blocks; r ratio of the
MLP. Pairs are (S, L): S has small patches, is narrow and has N blocks; L has large ones, is wide and has M.
The other fusions of Table 6 are in plumbing/fusions.py, the published sizes (Table 1) in plumbing/sizes.py.

Differs: f and g, projections in the paper, are LayerNorm, GELU, Linear in the released code and here, even
between equal widths: row B of Table 7 has 33.2 M parameters, not 31.4 M. Of several cross attentions in a
row the first returns the class token alone, so the others see a single key; so does the released code, and
row D was measured with it. Parameters have the released names, but each task has a head.
"""
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from attention import KINDS, softmax_weights
from vit import Block, Normalize, PatchEmbed, Residual, ViTConfig, init_weights, make_heads

FUSIONS = ("cross", "none", "class", "pairwise", "all")             # Table 6


@dataclass(frozen=True)
class CrossViTConfig:
    """Architecture only; asdict() of it is what config.json stores."""
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
    cross_depth: int = 1                   # cross attentions in a row, L in Table 7
    attention: str = "softmax"             # of the self-attention, one of attention.KINDS
    dropout: float = 0.0
    drop_path: float = 0.0                 # stochastic depth, rising to this rate in the last encoder
    mean: tuple = (0.485, 0.456, 0.406)    # of ImageNet
    std: tuple = (0.229, 0.224, 0.225)

    def __post_init__(self):
        object.__setattr__(self, "grids", tuple(map(tuple, self.grids)))  # lists, when read from JSON
        from plumbing.checks import check_crossvit
        check_crossvit(self, FUSIONS)
        self.branches                                              # ViTConfig checks the rest

    @property
    def branches(self):
        """(S, L): each branch as a ViT."""
        vits = []
        for grid, P, D, depth in zip(self.grids, self.patch, self.dims, self.depths):
            vits.append(ViTConfig(
                image=tuple(side * P for side in grid), patch=(P, P), channels=self.channels, dim=D,
                depth=depth, heads=self.heads, mlp=self.mlp * D, attention=self.attention,
                dropout=self.dropout, mean=self.mean, std=self.std))
        return vits

    @property
    def image(self):
        """(height, width) in px of the images that forward() takes: those of S."""
        return self.branches[0].image


def variant(name, image=None, **changes):
    """-> CrossViTConfig of a published variant; image: (height, width) in px, changes: other fields; None
    leaves them as published."""
    from plumbing.sizes import fields_of
    return CrossViTConfig(**fields_of(name, image, changes))


def cross_fusion(cls, patches, f, g, attend):
    """Pairs cls (B, 1, D_b), patches (B, T_b, D_b) -> the same, and {"cross_map": [map_S, map_L]}, each
    (B, H, T_b): how much the other branch's class token attends to each patch. f[b] projects from branch b
    into the width of the other, g[b] back; attend[b] attends to the other. Both see the tokens from before
    the fusion."""
    S, L = patches
    u_S = torch.cat([f[0](cls[0]), L], 1)                          # (B, 1 + T_L, D_L)
    u_L = torch.cat([f[1](cls[1]), S], 1)                          # (B, 1 + T_S, D_S)
    y_S, map_L = attend[0](u_S)                                    # (B, 1, D_L), (B, H, T_L)
    y_L, map_S = attend[1](u_L)                                    # (B, 1, D_S), (B, H, T_S)
    return (g[0](y_S), g[1](y_L)), patches, {"cross_map": [map_S, map_L]}


class CrossAttention(nn.Module):
    """(B, 1 + T, D) -> (B, 1, D): token 0 is the only query; and its attention to the others, (B, H, T)."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(dim, dim)
        self.wk = nn.Linear(dim, dim)
        self.wv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        qkv = self.wq(x[:, :1]), self.wk(x), self.wv(x)
        q, k, v = [y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in qkv]  # (B, H, 1 or 1 + T, d)
        weights = softmax_weights(q, k)                            # (B, H, 1, 1 + T)
        y = self.proj((weights @ v).transpose(1, 2).flatten(2))    # (B, 1, D)
        return y, weights[:, :, 0, 1:]


class Attend(nn.Module):
    """A ViT block without MLP: x -> x + attn(LN(x)), as many tokens as attn returns, and its weights."""

    def __init__(self, attn, vit, drop_path):
        super().__init__()
        self.norm1 = nn.LayerNorm(vit.dim, vit.eps)
        self.attn = attn
        self.residual = Residual(vit, drop_path)

    def forward(self, x):
        y, weights = self.attn(self.norm1(x))
        return x[:, :y.shape[1]] + self.residual(y), weights


class AttendAgain(nn.ModuleList):
    """Several Attend in a row, the paper's L > 1; the weights are those of the first."""

    def forward(self, x):
        x, weights = self[0](x)
        for attend in self[1:]:
            x, _ = attend(x)                                       # note: x is one token here, as released
        return x, weights


def project(source, target):
    """f or g, from the width of one branch to that of the other."""
    return nn.Sequential(nn.LayerNorm(source.dim, source.eps), nn.GELU(), nn.Linear(source.dim, target.dim))


class Encoder(nn.Module):
    """A pair of tokens (B, 1 + T_b, D_b) -> the same, and maps: N blocks in S, M in L, then one fusion.
    drop_path: the rate of each block; the last is also that of the fusion."""

    def __init__(self, config: CrossViTConfig, drop_path):
        super().__init__()
        S, L = config.branches
        self.blocks = nn.ModuleList()
        for vit in (S, L):
            self.blocks.append(nn.ModuleList([Block(vit, rate) for rate in drop_path[:vit.depth]]))
        if config.fusion == "cross":
            self.projs = nn.ModuleList([project(S, L), project(L, S)])         # f
            self.revert_projs = nn.ModuleList([project(L, S), project(S, L)])  # g
            self.fusion = nn.ModuleList()
            for vit in (L, S):                                     # S attends to L, and L to S
                attends = [Attend(CrossAttention(vit.dim, vit.heads), vit, drop_path[-1])
                           for _ in range(config.cross_depth)]
                self.fusion.append(attends[0] if config.cross_depth == 1 else AttendAgain(attends))
        else:
            from plumbing.fusions import vary
            vary(self, config, drop_path[-1], project, Attend)

    def fuse(self, cls, patches):
        """The paper's; for another fusion plumbing/fusions.py replaces it."""
        return cross_fusion(cls, patches, self.projs, self.revert_projs, self.fusion)

    def forward(self, tokens, want_map=False):
        cls, patches, class_maps = [], [], []
        for blocks, x in zip(self.blocks, tokens):
            for block in blocks[:-1]:
                x, _ = block(x)
            x, class_map = blocks[-1](x, want_map=want_map)
            class_maps.append(class_map)
            cls.append(x[:, :1])
            patches.append(x[:, 1:])
        cls, patches, maps = self.fuse(cls, patches)
        tokens = [torch.cat(halves, 1) for halves in zip(cls, patches)]
        return tokens, {"map": class_maps, **maps}


def patch_embed(vit, stem):
    """One convolution cuts the patches; in the variants with a +, three."""
    embed = PatchEmbed(vit)
    if stem == "conv":
        from plumbing.sizes import conv_stem
        embed.proj = conv_stem(vit)
    return embed


class CrossViT(nn.Module):
    """forward(image) -> dict; tasks: {name: outputs}, for each a Linear head on each class token.

    logits         {task: (B, outputs)}, the mean of both branches
    branch_logits  {task: (B, 2, outputs)}, S and L apart (Table 6: does one branch do all the work?)
    map            (B, H, T_S), (B, H, T_L): attention of each class token to the patches of its own branch
                   in the last block; None each in training
    cross_map      of the other branch's class token in the last fusion (figure 4), if that is cross; in
                   training too"""
    Config = CrossViTConfig
    inputs = ("image",)
    defaults = {"image": "96", "epochs": 16}                       # px; at 60 L would be an enlarged S

    def __init__(self, config: CrossViTConfig, tasks=None):
        super().__init__()
        self.config = config
        self.vits = vits = config.branches
        self.patch_embed = nn.ModuleList([patch_embed(vit, config.stem) for vit in vits])
        self.cls_token = nn.ParameterList([torch.zeros(1, 1, vit.dim) for vit in vits])
        self.pos_embed = nn.ParameterList([torch.zeros(1, 1 + vit.tokens, vit.dim) for vit in vits])
        self.blocks = nn.ModuleList()
        steps = max(config.depths)
        if config.cross_depth > 1:
            steps += config.cross_depth                            # note: as released
        total = config.encoders * steps
        rates = [config.drop_path * i / max(1, total - 1) for i in range(total)]
        for first in range(0, total, steps):
            self.blocks.append(Encoder(config, rates[first:first + steps]))
        self.norm = nn.ModuleList([nn.LayerNorm(vit.dim, vit.eps) for vit in vits])
        self.head = nn.ModuleList([make_heads(vit.dim, tasks) for vit in vits])
        self.drop = nn.Dropout(config.dropout)
        self.normalize = Normalize(config.mean, config.std, axes=2)
        self.apply(init_weights)
        for token in [*self.cls_token, *self.pos_embed]:
            nn.init.trunc_normal_(token, std=0.02)

    def embed(self, image):
        """(B, C, height, width) in S's size, resized for L -> a pair of tokens (B, 1 + T_b, D_b)."""
        size = tuple(image.shape[-2:])
        if size != self.vits[0].image:
            raise ValueError(f"image of {size} px, this CrossViT takes {self.vits[0].image}")
        image = self.normalize(image)
        tokens = []
        for vit, embed, cls, pos in zip(self.vits, self.patch_embed, self.cls_token, self.pos_embed):
            x = image
            if vit.image != size:
                x = F.interpolate(image, size=vit.image, mode="bicubic")
            x = embed(x)                                           # (B, T_b, D_b)
            x = torch.cat([cls.expand(len(x), -1, -1), x], 1) + pos
            tokens.append(self.drop(x))
        return tokens

    def forward(self, image):
        tokens = self.embed(image)
        for encoder in self.blocks:
            want_map = encoder is self.blocks[-1] and not self.training
            tokens, maps = encoder(tokens, want_map)
        cls = [norm(x[:, 0]) for norm, x in zip(self.norm, tokens)]  # (B, D_S), (B, D_L)
        logits = {}
        branch_logits = {}
        for task in self.head[0]:
            both = torch.stack([head[task](x) for head, x in zip(self.head, cls)], 1)
            branch_logits[task] = both                             # (B, 2, outputs)
            logits[task] = both.mean(1)
        return {"logits": logits, "branch_logits": branch_logits, **maps}

    @classmethod
    def from_pretrained(cls, name, image=None, channels=None, tasks=None, **changes):
        """-> CrossViT with the weights of `name` (IBM/CrossViT, timm or a run), as ViT.from_pretrained."""
        from plumbing.weights import read_crossvit
        return read_crossvit(name, cls, image, channels, tasks, **changes)

    @staticmethod
    def add_flags(group):
        from plumbing.sizes import VARIANTS
        add = group.add_argument
        add("--pretrained", help="start from IBM's CrossViT, timm's, or a run: Hub id, folder, or file")
        add("--mean", help="of the images that --pretrained has seen, 0..1; default: the checkpoint's")
        add("--std", help="their standard deviation; default: the checkpoint's")
        add("--variant", choices=VARIANTS, help="row of Table 1; default 9, or the checkpoint's")
        add("--fusion", choices=FUSIONS, help="the paper's Table 6; default cross, or the checkpoint's")
        add("--patches", help="of S and L, px, as 8,16; this and the next four change the variant: Table 7")
        add("--dims", help="widths of S and L, as 384,384")
        add("--depths", help="blocks of S and L in an encoder, as 2,4")
        add("--encoders", type=int, help="K, how many; default 3")
        add("--cross-depth", type=int, help="cross attentions in a row; default 1")
        add("--attention", choices=KINDS, help="of the self-attention; default softmax, or the checkpoint's")
        add("--dropout", type=float, default=0.1, help="after embedding, attention and MLP, share of 1")
        add("--drop-path", type=float, default=0.0, help="stochastic depth: rate in the last encoder")
        add("--train-blocks", type=int, help="freeze all encoders but the last k; default: none")

    @staticmethod
    def check_flags(args):
        from plumbing.sizes import refuse_flags
        if not args.pretrained:
            refuse_flags(args, "mean", "std")
            args.variant = args.variant or "9"
            args.fusion = args.fusion or "cross"
            return
        refuse_flags(args, "variant", "patches", "dims", "depths", "encoders", "cross_depth")

    @classmethod
    def from_args(cls, args, tasks):
        from plumbing.sizes import sides
        image = sides(args.image)
        changes = dict(fusion=args.fusion, attention=args.attention,
                       dropout=args.dropout, drop_path=args.drop_path, mean=args.mean, std=args.std)
        if args.pretrained:
            return cls.from_pretrained(args.pretrained, image, args.channels, tasks, **changes)
        half = (0.5,) * args.channels
        changes.update(channels=args.channels, mean=half, std=half, patch=pair("patches", args.patches),
                       dims=pair("dims", args.dims), depths=pair("depths", args.depths),
                       encoders=args.encoders, cross_depth=args.cross_depth)
        return cls(variant(args.variant, image, **changes), tasks)


def pair(flag, text):
    """ "8,16" of a flag -> (8, 16); None -> None."""
    if text is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,4},[1-9][0-9]{0,4}", text):
        raise ValueError(f"--{flag} {text}: need two numbers from 1, of S and L, e.g. 8,16")
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    from plumbing.sizes import count
    model = CrossViT(variant("9"), {"label": 1000})
    print(f"CrossViT-9, 8.6 M in the paper: {count(model):,} parameters")
    for branch, tokens in zip("SL", model.embed(torch.zeros(1, 3, 240, 240))):
        print("tokens of", branch, tuple(tokens.shape))
