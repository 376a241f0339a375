"""Cross attention between two branches of tokens: the class token of each reads the patches of the other.

    u    = [f_b(cls_b) ; patches_o]              my class token among the other branch's patches
    y    = u[0] + softmax(q K^T / sqrt(d)) V     q from LN(u[0]) alone, K and V from LN(u): linear in T
    cls_b = g_b(y)                               back in my own width          Chen et al. 2021, section 3.3

It is one of five fusions, which the paper compares in Table 6. Two ViTs exchange their tokens this way in
crossvit.py. cls (B, 1, D_b) and patches (B, T_b, D_b) are pairs, (S, L), and so is what a fusion returns; b
is a branch and o the other one. S (branch 0) has small patches and is narrow, L (branch 1) has large ones
and is wide. f[b] leads from branch b into the width of the other (`all`: into the width of L), g[b] back.

B samples, T patches, D width, H heads, d width of a head.
Differs: f and g, projections in the paper, are LayerNorm, GELU, Linear in the released code and here. The
fusions other than cross were not released; here they have the published FLOPs: `class` and `pairwise`
project S into the width of L and back, `all` projects both branches. The paper's "interpolate" is bilinear
here, a guess. Parameter names are the released ones. Run: python cross_attention.py
"""
import torch
import torch.nn.functional as F
from torch import nn

from vit import ViTConfig

FUSIONS = {  # Table 6; name: from which branch into the width of which each f leads, the g lead back
    "cross": [(0, 1), (1, 0)],
    "none": [],
    "class": [(0, 1)],
    "pairwise": [(0, 1)],
    "all": [(0, 1), (1, 1)],
}

# -----------------------------------------------------------------------------
# the fusions


def class_fusion(cls, patches, f, g):
    """Both class tokens become their sum, taken in the width of L."""
    c = f[0](cls[0]) + cls[1]                                      # (B, 1, D_L)
    return (g[0](c), c), patches


def pairwise_fusion(cls, patches, f, g, grids):
    """The same, and each patch is added to what the other branch has at its place in the image."""
    grid_S, grid_L = grids                                         # (rows, columns) each
    S, L = f[0](patches[0]), patches[1]                            # both of width D_L
    new_S = S + resize(L, grid_L, grid_S)
    new_L = L + resize(S, grid_S, grid_L)
    cls, _ = class_fusion(cls, patches, f, g)
    return cls, (g[0](new_S), new_L)


def resize(x, old, new):
    """(B, T, D) on the grid `old` -> on the grid `new`."""
    x = x.transpose(1, 2).unflatten(2, old)                        # (B, D, rows, columns)
    x = F.interpolate(x, size=new, mode="bilinear")
    return x.flatten(2).transpose(1, 2)


def all_fusion(cls, patches, f, g, attend):
    """Self-attention over all tokens of both branches, in the width of L: quadratic in T_S + T_L."""
    cls_S, cls_L = cls
    S, L = patches
    f_S, f_L = f
    g_S, g_L = g
    x = torch.cat([f_L(cls_L), f_L(L), f_S(cls_S), f_S(S)], 1)     # (B, 1 + T_L + 1 + T_S, D_L)
    x, _ = attend(x)
    cls_L, L, cls_S, S = x.split([1, L.shape[1], 1, S.shape[1]], 1)
    return (g_S(cls_S), g_L(cls_L)), (g_S(S), g_L(L))


def cross_fusion(cls, patches, f, g, attend):
    """Each class token attends to the patches of the other branch; both see the tokens before fusion.

    Also returns the weights, (B, H, T_S) and (B, H, T_L): what each branch's patches got from the other's
    class token."""
    cls_S, cls_L = cls
    S, L = patches
    u = torch.cat([f[0](cls_S), L], 1)                             # (B, 1 + T_L, D_L)
    y_S, weights_L = attend[0](u)                                  # (B, 1, D_L), (B, H, T_L)
    u = torch.cat([f[1](cls_L), S], 1)                             # (B, 1 + T_S, D_S)
    y_L, weights_S = attend[1](u)                                  # (B, 1, D_S), (B, H, T_S)
    return (g[0](y_S), g[1](y_L)), patches, [weights_S, weights_L]


# -----------------------------------------------------------------------------
# modules


class CrossAttention(nn.Module):
    """(B, 1 + T, D) -> (B, 1, D): token 0 asks, all answer; and its weights of the others, (B, H, T).

    One query needs no keys and values: q (W_k x + b_k) = (W_k' q) x + q b_k, and the weights sum to 1, so
    that sum w (W_v x + b_v) = W_v (sum w x) + b_v. That leaves T D H products for T D^2 (attn is the same
    to the last digits)."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(dim, dim)
        self.wk = nn.Linear(dim, dim)
        self.wv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, want_map=True):                           # called as attention.Attention is
        shape = (self.heads, -1)
        q = self.wq(x[:, 0]).unflatten(-1, shape)                  # (B, H, d)
        q = q * q.shape[-1] ** -0.5
        b_k = self.wk.bias.unflatten(-1, shape)                    # (H, d)
        w_k = self.wk.weight.unflatten(0, shape)                   # (H, d, D)
        w_v = self.wv.weight.unflatten(0, shape)
        scores = torch.einsum("bhd,hdD->bhD", q, w_k) @ x.mT + (q * b_k).sum(-1, keepdim=True)
        weights = scores.softmax(-1)
        y = torch.einsum("bhD,hdD->bhd", weights @ x, w_v)
        return self.proj(y.flatten(1)[:, None] + self.wv.bias), weights[:, :, 1:]


class Attend(nn.Module):
    """x -> x + attn(LN(x)) for the tokens that attn answers for, and its map: a ViT block without MLP."""

    def __init__(self, attn, vit: ViTConfig, drop_path):
        super().__init__()
        self.norm1 = nn.LayerNorm(vit.dim, eps=vit.eps)
        self.attn = attn
        self.drop = nn.Dropout(vit.dropout)
        self.drop_path = nn.Dropout(drop_path)

    def forward(self, x):
        y, weights = self.attn(self.norm1(x), want_map=True)
        keep = self.drop_path(y.new_ones(len(y), 1, 1))            # stochastic depth, sample by sample
        return x[:, :y.shape[1]] + self.drop(y) * keep, weights


class AttendAgain(nn.ModuleList):
    """Several Attend in a row, the paper's L > 1, and the weights of the first."""

    def forward(self, x):
        x, weights = self[0](x)
        for attend in self[1:]:
            x, _ = attend(x)                                       # note: one token, itself, as released
        return x, weights


def project(source: ViTConfig, target: ViTConfig):
    """f or g, from the width of one branch into that of another."""
    norm = nn.LayerNorm(source.dim, eps=source.eps)
    return nn.Sequential(norm, nn.GELU(), nn.Linear(source.dim, target.dim))


if __name__ == "__main__":
    S, L = ViTConfig(dim=96, heads=3), ViTConfig(dim=192, heads=3)
    cls = torch.randn(2, 1, 96), torch.randn(2, 1, 192)
    patches = torch.randn(2, 400, 96), torch.randn(2, 196, 192)
    f = [project(S, L), project(L, S)]
    g = [project(L, S), project(S, L)]
    attend = [Attend(CrossAttention(vit.dim, vit.heads), vit, 0.0) for vit in (L, S)]
    fused, patches, weights = cross_fusion(cls, patches, f, g, attend)
    for b, name in enumerate("SL"):
        print(f"{name}   class token {tuple(cls[b].shape)} -> {tuple(fused[b].shape)}   "
              f"patches {tuple(patches[b].shape)}   seen by the other with {tuple(weights[b].shape)}")
