"""What CrossViT's cross attention is compared with: the other fusions of its Table 6.

cls (B, 1, D_b) and patches (B, T_b, D_b) are pairs, of the branches S and L, and come back as pairs, with {}:
there is no map to look at. f leads from a branch into the width of L, D_L, and g back. None of these was
released: here they have the published FLOPs, and the paper's "interpolate" is bilinear, a guess.
"""
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from attention import Attention


def no_fusion(cls, patches):
    return cls, patches, {}


def class_fusion(cls, patches, f, g):
    """Both class tokens become their sum, taken in the width of L."""
    cls_S, cls_L = cls
    total = f[0](cls_S) + cls_L                                    # (B, 1, D_L)
    return (g[0](total), total), patches, {}


def pairwise_fusion(cls, patches, f, g, grids):
    """The same, and each patch is added to what the other branch has at its place in the image."""
    cls, _, _ = class_fusion(cls, patches, f, g)
    grid_S, grid_L = grids
    S, L = patches
    S = f[0](S)                                                    # (B, T_S, D_L)
    new_S = S + resize(L, grid_L, grid_S)
    new_L = L + resize(S, grid_S, grid_L)
    return cls, (g[0](new_S), new_L), {}


def resize(x, old, new):
    """(B, T, D) on the grid `old` -> on the grid `new`, bilinear."""
    x = x.transpose(1, 2).unflatten(2, old)                        # (B, D, rows, columns)
    x = F.interpolate(x, size=new, mode="bilinear")
    return x.flatten(2).transpose(1, 2)


def all_fusion(cls, patches, f, g, attend):
    """Self-attention over all tokens of both branches, in the width of L: quadratic in T_S + T_L."""
    from_S, from_L = f
    to_S, to_L = g
    cls_S, cls_L = cls
    S, L = patches
    x = torch.cat([from_L(cls_L), from_L(L), from_S(cls_S), from_S(S)], 1)  # (B, 1 + T_L + 1 + T_S, D_L)
    x, _ = attend(x)
    cls_L, L, cls_S, S = x.split([1, L.shape[1], 1, S.shape[1]], 1)
    return (to_S(cls_S), to_L(cls_L)), (to_S(S), to_L(L)), {}


def vary(encoder, config, drop_path, project, Attend):
    """Give an Encoder the fusion that its config asks for; project and Attend are those of crossvit.py."""
    S, L = config.branches
    sources = {"none": [], "class": [S], "pairwise": [S], "all": [S, L]}
    f = encoder.projs = nn.ModuleList()
    g = encoder.revert_projs = nn.ModuleList()
    for source in sources[config.fusion]:
        f.append(project(source, L))
        g.append(project(L, source))
    if config.fusion == "class":
        encoder.fuse = partial(class_fusion, f=f, g=g)
    elif config.fusion == "pairwise":
        encoder.fuse = partial(pairwise_fusion, f=f, g=g, grids=config.grids)
    elif config.fusion == "all":
        encoder.fusion = Attend(Attention(L.dim, L.heads, kind=L.attention), L, drop_path)
        encoder.fuse = partial(all_fusion, f=f, g=g, attend=encoder.fusion)
    else:
        encoder.fuse = no_fusion
