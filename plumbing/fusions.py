"""What CrossViT's cross attention is compared with: the other fusions of its Table 6.

cls (B, 1, D_b) and patches (B, T_b, D_b) are pairs, of the branches S and L, and come back as pairs. f[b]
leads from branch b into the width of the other (`all`: into the width of L), g[b] back; D_L is the width of
L. None of these was released.
"""
import torch
import torch.nn.functional as F


def class_fusion(cls, patches, f, g):
    """Both class tokens become their sum, taken in the width of L."""
    c = f[0](cls[0]) + cls[1]                                      # (B, 1, D_L)
    return (g[0](c), c), patches


def pairwise_fusion(cls, patches, f, g, grids):
    """The same, and each patch is added to what the other branch has at its place in the image."""
    S, L = f[0](patches[0]), patches[1]                            # both of width D_L
    new_S = S + resize(L, grids[1], grids[0])
    new_L = L + resize(S, grids[0], grids[1])
    cls, _ = class_fusion(cls, patches, f, g)
    return cls, (g[0](new_S), new_L)


def resize(x, old, new):
    """(B, T, D) on the grid `old` -> on the grid `new`."""
    x = x.transpose(1, 2).unflatten(2, old)                        # (B, D, rows, columns)
    return F.interpolate(x, size=new, mode="bilinear").flatten(2).transpose(1, 2)


def all_fusion(cls, patches, f, g, attend):
    """Self-attention over all tokens of both branches, in the width of L: quadratic in T_S + T_L."""
    S, L = patches
    x = torch.cat([f[1](cls[1]), f[1](L), f[0](cls[0]), f[0](S)], 1)  # (B, 1 + T_L + 1 + T_S, D_L)
    x, _ = attend(x)
    cls_L, L, cls_S, S = x.split([1, L.shape[1], 1, S.shape[1]], 1)
    return (g[0](cls_S), g[1](cls_L)), (g[0](S), g[1](L))
