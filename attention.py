"""Attention three ways: softmax, and two linear ones that never compare every token with every other.

    softmax   O = softmax(Q K^T / sqrt(d)) V          Vaswani et al. 2017, eq. 1
    seqnorm   O = 1/T Q~ (K~^T V~)                    Khader et al. 2024, "softmax-free" attention
              X~ = gamma (X - mean(X)) / sqrt(var(X) + eps) + beta,  for Q, K and V, gamma and beta learned
    sima      O = Q^ (K^^T V),  X^ = X / sum |X|      Koohpayegani and Pirsiavash 2024, eq. 3

Mean, variance and sum run over the T tokens of one sample, one feature at a time: there is nothing to share
between samples, and no running statistics. K^T V is a d x d matrix, so the cost is O(T d^2) instead of O(T^2 d).
Q~, K~, V~, Q^ and K^ are never made: what one feature is multiplied with acts on its row or column of the d x d matrix,
which leaves few passes over the tokens, and few tensors to keep for the gradient.

B samples, T tokens (class token included), D width, H heads, d width of a head.
Differs: the paper of seqnorm is silent on eps (1e-5 here, as BatchNorm). The released code of SimA multiplies Q K^T first
when T < d: the same result, and little to win. Both are computed in float32 under autocast: the products of 16,384 tokens
leave float16.
Run: python attention.py
"""
import torch
import torch.nn.functional as F
from torch import nn

KINDS = ("softmax", "seqnorm", "sima")

# -----------------------------------------------------------------------------
# functions: (B, H, T, d) tensors; mask is (B, T) bool, True for real tokens, or None when all are real


def softmax_attention(q, k, v, mask=None):
    """Three (B, H, T, d) -> (B, H, T, d); masked keys get no weight."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :])


def center(x, mask=None):
    """(B, T, D) -> x - mean(x) over the real tokens; masked ones become 0, so that they add nothing to any sum."""
    if mask is None:
        return x - x.mean(1, keepdim=True)
    real = mask[:, :, None]                                        # (B, T, 1)
    return (x - (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)) * real


def seqnorm_factor(x, gamma, count, eps=1e-5):
    """(B, H, T, d) of mean 0 -> gamma / sqrt(var(x) + eps), (B, H, 1, d); the variance is biased, over `count` tokens."""
    return gamma * (torch.linalg.vector_norm(x, dim=-2, keepdim=True).square() / count + eps).rsqrt()


def seqnorm_attention(q, k, v, gamma, beta, count):
    """Three (B, H, T, d) of mean 0 -> (B, H, T, d); gamma, beta: three (H, 1, d) each; count: tokens that are real.

    With x~ = a x + beta the sums of k and v, being 0, drop out:  1/T K~^T V~ = a_k a_v (K^T V) / T + beta_k beta_v."""
    a_q, a_k, a_v = (seqnorm_factor(x, g, count) for x, g in zip((q, k, v), gamma))
    m = a_k.mT * a_v / count * (k.mT @ v) + beta[1].mT @ beta[2]   # (B, H, d, d)
    return q @ (a_q.mT * m) + beta[0] @ m


def sima_factor(x, eps=1e-12):
    """(B, H, T, d) -> 1 / sum |x|, (B, H, 1, d)."""
    return 1 / x.abs().sum(-2, keepdim=True).clamp(min=eps)


def sima_attention(q, k, v):
    """Three (B, H, T, d) -> (B, H, T, d); masked tokens are 0 in all three."""
    return q @ ((sima_factor(q) * sima_factor(k)).mT * (k.mT @ v))


# -----------------------------------------------------------------------------
# modules


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D): H heads of width d between two Linear layers; `kind` is one of KINDS.

    want_map=True also returns the class token's attention to the other tokens, (B, H, T - 1), computed from that one
    query row. For softmax it is a share of 1; for the other kinds it is signed, the weight each value is summed with."""

    def __init__(self, dim, heads, head_dim=0, qkv_bias=True, kind="softmax"):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"attention {kind!r} is not known; use one of {', '.join(KINDS)}")
        self.heads, self.kind = heads, kind
        inner = heads * (head_dim or dim // heads)
        self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, dim)
        if kind == "seqnorm":
            self.seq_scale = nn.Parameter(torch.ones(3, inner))    # gamma of q, k, v
            self.seq_shift = nn.Parameter(torch.zeros(3, inner))   # beta
            if qkv_bias:
                self.qkv.bias.requires_grad_(False)                # X - mean(X) is without it; it is there for checkpoints

    def forward(self, x, mask=None, want_map=False):
        q, k, v = self.project(x, mask)
        if self.kind == "softmax":
            y = softmax_attention(q, k, v, mask)
        else:
            with torch.autocast(x.device.type, enabled=False):
                y = sima_attention(q, k, v) if self.kind == "sima" else seqnorm_attention(q, k, v, *self.line(q), self.count(q, mask))
            y = y.to(x.dtype)
        y = self.proj(y.transpose(1, 2).flatten(2))                # (B, T, D)
        return (y, self.class_map(q, k, mask)) if want_map else y

    def project(self, x, mask=None):
        """(B, T, D) -> q, k, v: (B, H, T, d) each; for seqnorm of mean 0, for both linear kinds float32 and 0 where masked.

        A Linear layer and a mean can change places: centering x, a third as wide, centers all three, and needs no bias."""
        if self.kind == "seqnorm":
            qkv = F.linear(center(x, mask), self.qkv.weight)
        else:
            qkv = self.qkv(x)                                      # (B, T, 3 H d)
        if self.kind != "softmax":
            qkv = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
        if self.kind == "sima" and mask is not None:
            qkv = qkv * mask[:, :, None]
        return (z.transpose(1, 2) for z in qkv.unflatten(-1, (3, self.heads, -1)).unbind(2))

    def line(self, q):
        """gamma and beta in the type of q: (3, H, 1, d) each."""
        return (p.to(q.dtype).unflatten(-1, (self.heads, 1, -1)) for p in (self.seq_scale, self.seq_shift))

    def count(self, q, mask):
        """T, or how many tokens of each sample are real, (B, 1, 1, 1)."""
        return q.shape[-2] if mask is None else mask.sum(-1)[:, None, None, None]

    def class_map(self, q, k, mask=None):
        """q, k of project() -> (B, H, T - 1), row 0 of the weights without the class token's own."""
        wide = torch.promote_types(q.dtype, torch.float32)         # in bfloat16 many weights would be equal
        with torch.autocast(q.device.type, enabled=False):
            row, k = q[:, :, :1].to(wide), k.to(wide)              # (B, H, 1, d), (B, H, T, d)
            if self.kind == "softmax":
                row = row @ k.mT * q.shape[-1] ** -0.5             # (B, H, 1, T)
                row = (row if mask is None else row.masked_fill(~mask[:, None, None, :], float("-inf"))).softmax(-1)
            elif self.kind == "sima":
                row = sima_factor(q) * sima_factor(k) * row @ k.mT
            else:
                (gamma, beta), count = self.line(q), self.count(q, mask)
                row = (seqnorm_factor(q, gamma[0], count) * row + beta[0]) / count
                row = seqnorm_factor(k, gamma[1], count) * row @ k.mT + row @ beta[1].mT
                row = row if mask is None else row * mask[:, None, None, :]
        return row[:, :, 0, 1:]


if __name__ == "__main__":
    for kind in KINDS:
        layer = Attention(64, heads=4, kind=kind)
        x = torch.randn(2, 197, 64)
        y, row = layer(x, want_map=True)
        params = sum(p.numel() for p in layer.parameters())
        print(f"{kind:8} {params:6,} params   {tuple(x.shape)} -> {tuple(y.shape)}   class map {tuple(row.shape)}, "
              f"a row sums to {row.sum(-1).mean().item():+.3f}")
