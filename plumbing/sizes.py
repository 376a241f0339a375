"""Sizes by name, published ones above all: of ViTs and the flags that decide them, and of CrossViTs with the
grids of both branches and the stem of the +; and the counting of parameters.

CrossViT's pairs are of the branches S and L; P patch side in px, D width, H heads, r ratio of the MLP. Each
of its K = 3 encoders has N = 1 block in S and M in L.
"""
import math

from torch import nn

# the softmax-free paper's, Khader et al. 2024, Table 1, for pictures and for volumes
KHADER = dict(dim=1024, depth=8, heads=8, head_dim=64, mlp=1024, qkv_bias=False)
SIZES = {  # name: fields of ViTConfig
    "micro": dict(dim=64, depth=4, heads=4, mlp=256),              # for a laptop CPU and the tests
    "mini": dict(dim=128, depth=6, heads=4, mlp=512),
    "tiny": dict(dim=192, depth=12, heads=3, mlp=768),             # DeiT, Table 1
    "small": dict(dim=384, depth=12, heads=6, mlp=1536),
    "base": dict(dim=768, depth=12, heads=12, mlp=3072),           # ViT, Table 1
    "large": dict(dim=1024, depth=24, heads=16, mlp=4096),
    "vit2d": KHADER,
    "vit3d": KHADER,
    "vit_wsi": KHADER | dict(dim=512, depth=2, mlp=512),           # slides
}
PIXELS = {"vit2d": ("224", "16"), "vit3d": ("32x256x256", "4x16x16")}    # image and patch of that paper

VARIANTS = {  # CrossViT's Table 1: stem, D of S and L, H, M, r, image in px; + is the paper's dagger
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


def count(model):
    """-> how many parameters a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def sides(text):
    """ "96x64" -> (96, 64); no text -> ()."""
    return tuple(map(int, text.split("x"))) if text else ()


def check_size(args):
    """Fill in size, attention, image and patch of a ViT from scratch where no flag gives them. ValueError for
    flags that do not go with --pretrained, or only with it."""
    if args.pretrained:
        refuse_flags(args, "size")
        return
    refuse_flags(args, "heads", "mean", "std")
    args.size = args.size or "micro"
    args.attention = args.attention or "softmax"
    image, patch = PIXELS.get(args.size, (None, "8"))
    args.image = args.image or image
    args.patch = args.patch or patch


def refuse_flags(args, *names):
    """ValueError where one of these flags is given: --pretrained decides it, or nothing does without that."""
    reason = "is for --pretrained; without it mean and std are 0.5, and another flag decides the heads"
    if args.pretrained:
        reason = f"is fixed by --pretrained {args.pretrained}; leave it out"
    for name in names:
        value = getattr(args, name)
        if value:
            raise ValueError(f"--{name.replace('_', '-')} {value} {reason}")


def fields_of(name, image, changes):
    """-> fields of CrossViTConfig for one of VARIANTS, with the changes that are not None; image: (height,
    width) in px, None for its own."""
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} is not known; use one of {', '.join(VARIANTS)}")
    stem, dims, heads, depth, mlp, side = VARIANTS[name]
    fields = dict(patch=(12, 16), dims=dims, depths=(1, depth), heads=heads, mlp=mlp, stem=stem)
    fields |= {field: value for field, value in changes.items() if value is not None}
    return {"grids": grids_at(image or (side, side), fields["patch"]), **fields}


def grids_at(image, patch):
    """-> the grids of S and L at (height, width) px, multiples of S's patch. L sees 14/15 of S's pixels,
    rounded up to whole patches: 240 -> 224, 408 -> 384, 504 -> 480 as in the paper."""
    P, Q = patch
    smaller = tuple(max(side // P, 1) * P for side in image)
    if smaller != tuple(image):
        raise ValueError(f"image {tuple(image)} px is not a multiple of CrossViT's small patch, {P} px; "
                         f"use {smaller} or {tuple(side + P for side in smaller)}")
    grid_S = [side // P for side in image]
    return grid_S, [math.ceil(14 * side / (15 * Q)) for side in image]


def conv_stem(vit):
    """Three convolutions that cut the patches of a branch, with ReLU between them."""
    D = vit.dim
    stride2, padding2, stride3, padding3 = STEMS[vit.patch[0]]
    return nn.Sequential(
        nn.Conv2d(vit.channels, D // 4, 7, stride=4, padding=3),
        nn.ReLU(),
        nn.Conv2d(D // 4, D // 2, 3, stride2, padding2),
        nn.ReLU(),
        nn.Conv2d(D // 2, D, 3, stride3, padding3),
    )
