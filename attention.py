"""Attention three ways: softmax, and two linear ones that never compare every token with every other.

    softmax   O = softmax(Q K^T / sqrt(d)) V          Vaswani et al. 2017, eq. 1
    seqnorm   O = 1/T Q~ (K~^T V~)                    Khader et al. 2024, "softmax-free" attention
              X~ = gamma (X - mean(X)) / sqrt(var(X) + eps) + beta,  for Q, K and V, gamma and beta learned
    sima      O = Q^ (K^^T V),  X^ = X / sum |X|      Koohpayegani and Pirsiavash 2024, eq. 3

Mean, variance and sum run over the T tokens of one sample, one feature at a time: there is nothing to share
between samples, and no running statistics. K^T V is a d x d matrix, so the cost is O(T d^2) instead of O(T^2 d).

B samples, T tokens (class token included), D width, H heads, d width of a head.
Differs: the paper of seqnorm is silent on eps (1e-5 here, as BatchNorm) and always multiplies K^T V first; here
the cheaper order is taken. Both are computed in float32 under autocast: the products of 16,384 tokens leave float16.
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


def sequence_norm(x, scale, shift, mask=None, eps=1e-5):
    """(B, H, T, d) -> same, every feature normalised over the T tokens; scale, shift: (H, 1, d), gamma and beta.

    Biased variance over the real tokens; masked tokens become 0, so that they add nothing to K^T V."""
    if mask is None:
        mean, var = x.mean(-2, keepdim=True), x.var(-2, keepdim=True, unbiased=False)
        return (x - mean) * (scale * (var + eps).rsqrt()) + shift
    real = mask[:, None, :, None]                                  # (B, 1, T, 1)
    count = real.sum(-2, keepdim=True)
    mean = (x * real).sum(-2, keepdim=True) / count
    var = ((x - mean).square() * real).sum(-2, keepdim=True) / count
    return ((x - mean) * (scale * (var + eps).rsqrt()) + shift) * real


def l1_norm(x, mask=None, eps=1e-12):
    """(B, H, T, d) -> same, every feature divided by the sum of its absolute values over the T tokens."""
    if mask is not None:
        x = x * mask[:, None, :, None]
    return F.normalize(x, p=1.0, dim=-2, eps=eps)


def linear_attention(q, k, v):
    """Three (B, H, T, d) -> Q (K^T V): the same product in whichever order costs less."""
    T, d = q.shape[-2:]
    return (q @ k.transpose(-2, -1)) @ v if T < d else q @ (k.transpose(-2, -1) @ v)


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

    def forward(self, x, mask=None, want_map=False):
        q, k, v = self.project(x)
        if self.kind == "softmax":
            y = softmax_attention(q, k, v, mask)
        else:
            with torch.autocast(x.device.type, enabled=False):
                q, k, v = self.normalize(q, k, v, mask)
                y = linear_attention(q, k, v)
        y = self.proj(y.transpose(1, 2).flatten(2).to(x.dtype))    # (B, T, D)
        return (y, self.class_map(q, k, mask)) if want_map else y

    def project(self, x):
        """(B, T, D) -> q, k, v: (B, H, T, d) each."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def normalize(self, q, k, v, mask=None):
        """The step of the two linear kinds that takes the place of softmax; the 1/T of seqnorm goes into q."""
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, v = (x.to(wide) for x in (q, k, v))
        if self.kind == "sima":
            return l1_norm(q, mask), l1_norm(k, mask), v
        scale, shift = (p.to(wide).unflatten(-1, (self.heads, 1, -1)) for p in (self.seq_scale, self.seq_shift))
        q, k, v = (sequence_norm(x, scale[i], shift[i], mask) for i, x in enumerate((q, k, v)))
        count = q.shape[-2] if mask is None else mask.sum(-1)[:, None, None, None]
        return q / count, k, v

    def class_map(self, q, k, mask=None):
        """q, k as they enter the product -> (B, H, T - 1), row 0 of the weights without the class token's own."""
        wide = torch.promote_types(q.dtype, torch.float32)         # in float16 SimA's products are 0, in bfloat16 many tie
        with torch.autocast(q.device.type, enabled=False):
            row = q[:, :, :1].to(wide) @ k.to(wide).transpose(-2, -1)                # (B, H, 1, T)
        if self.kind == "softmax":
            row = row * q.shape[-1] ** -0.5
            if mask is not None:
                row = row.masked_fill(~mask[:, None, None, :], float("-inf"))
            row = row.softmax(-1)
        return row[:, :, 0, 1:]


if __name__ == "__main__":
    for kind in KINDS:
        layer = Attention(64, heads=4, kind=kind)
        x = torch.randn(2, 197, 64)
        y, row = layer(x, want_map=True)
        params = sum(p.numel() for p in layer.parameters())
        print(f"{kind:8} {params:6,} params   {tuple(x.shape)} -> {tuple(y.shape)}   class map {tuple(row.shape)}, "
              f"a row sums to {row.sum(-1).mean().item():+.3f}")
