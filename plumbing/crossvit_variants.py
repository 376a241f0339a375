"""The variants of CrossViT that were published: their sizes, the grids of both branches, the stem of the +.

Pairs are of the branches S and L; P patch side in px, D width, H heads, r ratio of the MLP. Each of the K = 3
encoders has N = 1 block in S and M in L.
"""
import math

from torch import nn

VARIANTS = {  # Table 1: stem, D of S and L, H, M, r, image in px; + is the paper's dagger
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


def fields_of(name, image, changes):
    """-> fields of CrossViTConfig for one of VARIANTS, with the changes that are not None; image: (height,
    width) in px, None for its own."""
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} is not known; use one of {', '.join(VARIANTS)}")
    stem, dims, heads, depth, mlp, side = VARIANTS[name]
    fields = dict(patch=(12, 16), dims=dims, depths=(1, depth), heads=heads, mlp=mlp, stem=stem)
    for field, value in changes.items():
        if value is not None:
            fields[field] = value
    return {"grids": grids_at(image or (side, side), fields["patch"]), **fields}


def grids_at(image, patch):
    """-> the grids of S and L at (height, width) px, multiples of S's patch. L sees 14/15 of S's pixels,
    rounded up to whole patches: 240 -> 224, 408 -> 384, 504 -> 480 as in the paper."""
    P, Q = patch
    smaller = tuple(max(side // P, 1) * P for side in image)
    if smaller != tuple(image):
        larger = tuple(side + P for side in smaller)
        raise ValueError(f"image {tuple(image)} px is not a multiple of CrossViT's small patch, {P} px; "
                         f"use {smaller} or {larger}")
    grid_S = [side // P for side in image]
    grid_L = [math.ceil(14 * side / (15 * Q)) for side in image]
    return grid_S, grid_L


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
