"""Attention three ways: softmax, and two of linear cost, which never compare every token with every other.

    softmax   O = softmax(Q K' / sqrt(d)) V               Vaswani et al. 2017, eq. 1
    seqnorm   O = Q~ (K~' V~) / S                         Khader et al. 2024, eq. 2-7, "softmax-free"
              X~ = gamma (X - mean(X)) / sqrt(var(X) + eps) + beta,  gamma and beta learned
    sima      O = Q^ (K^' V),  X^ = X / sum |X|           Koohpayegani and Pirsiavash 2024, eq. 3

K' is K transposed, X any of Q, K, V. Mean, variance and sum run over the S tokens of a sample, feature by
feature. K' V is d x d: the cost grows with S d^2, not S^2 d. Each formula is followed by the faster form that
is used. B samples, S tokens of which the last T are patches, D width, H heads, d width of a head; mask:
(B, S), False for padding. Differs: eps, which Khader et al. do not name, is 1e-5; both linear kinds stay in
float32 under autocast, since sums over 16,384 tokens leave the range of float16.
"""
import torch
import torch.nn.functional as F
from torch import nn

KINDS = ("softmax", "seqnorm", "sima")


def softmax_weights(q, k, mask=None):
    """softmax(Q K' / sqrt(d)): q, k (B, H, S, d) -> (B, H, S, S); masked keys get no weight."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    return scores.softmax(-1)


def softmax_formula(q, k, v, mask=None):
    return softmax_weights(q, k, mask) @ v


def formula_is_faster(q):
    """On CPUs in bfloat16, and in oneDNN's float32 ("medium"), see docs/speed.md. For up to 8 d tokens the
    weights take at most half as much memory as the rest of a block."""
    if q.device.type != "cpu" or q.shape[-2] > 8 * q.shape[-1] or torch.compiler.is_compiling():
        return False                                               # torch.compile cannot ask for precision
    return q.dtype == torch.bfloat16 or torch.get_float32_matmul_precision() == "medium"


def softmax_attention(q, k, v, mask=None):
    """The formula as it stands, or by PyTorch's fused kernel, which never holds all of the weights."""
    if formula_is_faster(q):
        return softmax_formula(q, k, v, mask)
    if mask is not None:
        mask = mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def seqnorm_formula(q, k, v, gamma, beta):
    """gamma, beta: (3, 1, H, 1, d), those of q, k and v."""
    x = torch.stack([q, k, v])
    variance, mean = torch.var_mean(x, -2, correction=0, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt()
    q, k, v = gamma * x + beta
    return q @ (k.mT @ v) / q.shape[-2]


def center(x, mask=None):
    """(B, S, D) minus the mean of its real tokens; padding becomes 0, which adds nothing to any sum."""
    if mask is None:
        return x - x.mean(1, keepdim=True)
    real = mask[:, :, None]                                        # (B, S, 1)
    mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return (x - mean) * real


def seqnorm_factor(x, gamma, count, eps=1e-5):
    """x (B, H, S, d), of mean 0 over `count` tokens -> gamma / sqrt(var(x) + eps), (B, H, 1, d)."""
    variance = torch.linalg.vector_norm(x, dim=-2, keepdim=True).square() / count
    return gamma * (variance + eps).rsqrt()


def seqnorm_attention(q, k, v, gamma, beta, count):
    """seqnorm_formula for q, k, v of mean 0: then X~ = a X + beta, and K~' V~ / S = a_k' a_v * K' V / S +
    beta_k' beta_v, since K and V sum to 0. The layer takes a fifth less time and half the memory."""
    a_q = seqnorm_factor(q, gamma[0], count)
    a_k = seqnorm_factor(k, gamma[1], count)
    a_v = seqnorm_factor(v, gamma[2], count)
    kv = a_k.mT * a_v / count * (k.mT @ v)                         # (B, H, d, d)
    kv = kv + beta[1].mT @ beta[2]
    return q @ (a_q.mT * kv) + beta[0] @ kv


def sima_formula(q, k, v):
    q = F.normalize(q, p=1, dim=-2)                                # Q / sum |Q| over the tokens
    k = F.normalize(k, p=1, dim=-2)
    return q @ (k.mT @ v)


def sima_factor(x):
    """1 / sum |x|, (B, H, 1, d)."""
    return 1 / x.abs().sum(-2, keepdim=True).clamp(min=1e-12)


def sima_attention(q, k, v):
    """sima_formula with both factors on K' V, which is small; padding is 0 in q, k and v."""
    return q @ ((sima_factor(q) * sima_factor(k)).mT * (k.mT @ v))


class Attention(nn.Module):
    """Self-attention, (B, S, D) -> (B, S, D), and with want_map=True the class map, (B, H, T): how much the
    class token attends to each patch; softmax gives shares of 1, the linear kinds signed numbers."""

    def __init__(self, dim, heads, head_dim=0, qkv_bias=True, kind="softmax", prefix=1):
        super().__init__()
        self.heads, self.kind, self.prefix = heads, kind, prefix   # prefix: tokens before the patches
        inner = heads * (head_dim or dim // heads)
        self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, dim)
        self.q_norm = self.k_norm = self.rotate = self.norm = nn.Identity()  # or plumbing/variants.py's
        if kind == "seqnorm":
            self.seq_scale = nn.Parameter(torch.ones(3, inner))    # gamma of q, k, v
            self.seq_shift = nn.Parameter(torch.zeros(3, inner))   # beta
            if qkv_bias:
                self.qkv.bias.requires_grad_(False)                # X - mean(X) cancels it

    def forward(self, x, mask=None, want_map=False):
        q, k, v = self.project(x, mask)
        q = self.rotate(q)
        k = self.rotate(k)
        y = self.join(self.attend(q, k, v, mask))
        class_map = None
        if want_map:
            class_map = self.class_map(q, k, mask)
        return y, class_map

    def project(self, x, mask=None):
        """(B, S, D) -> q, k, v, (B, H, S, d) each. For the linear kinds in float32, and 0 at padding. For
        seqnorm x is centered, and so are all three, at a third of the cost."""
        if self.kind == "seqnorm":
            qkv = F.linear(center(x, mask), self.qkv.weight)
        else:
            qkv = self.qkv(x)                                      # (B, S, 3 H d)
        if self.kind != "softmax":
            qkv = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
        if self.kind == "sima" and mask is not None:
            qkv = qkv * mask[:, :, None]
        qkv = qkv.unflatten(-1, (3, self.heads, -1)).transpose(1, 3)  # (B, H, 3, S, d)
        q, k, v = qkv.unbind(2)
        return self.q_norm(q), self.k_norm(k), v

    def attend(self, q, k, v, mask=None):
        """q, k, v of project(), (B, H, S, d) each -> (B, H, S, d)."""
        if self.kind == "softmax":
            return softmax_attention(q, k, v, mask)
        with torch.autocast(q.device.type, enabled=False):
            if self.kind == "sima":
                y = sima_attention(q, k, v)
            else:
                y = seqnorm_attention(q, k, v, *self.norm_terms(q, mask))
        return y.to(self.proj.weight.dtype)

    def join(self, y):
        """The heads side by side, then W_O: (B, H, S, d) -> (B, S, D)."""
        y = y.transpose(1, 2).flatten(2)
        return self.proj(self.norm(y))

    def norm_terms(self, q, mask):
        """-> gamma and beta, (3, 1, H, 1, d), in the dtype of q, and the number of real tokens."""
        terms = torch.stack([self.seq_scale, self.seq_shift])
        gamma, beta = terms.to(q.dtype).unflatten(-1, (1, self.heads, 1, -1))
        if mask is None:
            return gamma, beta, q.shape[-2]
        return gamma, beta, mask.sum(-1)[:, None, None, None]

    def class_map(self, q, k, mask=None):
        """q, k as in attend() -> (B, H, T)."""
        return self.key_weights(q, k, slice(1), mask)[:, :, 0, self.prefix:]

    def key_weights(self, q, k, rows, mask=None):
        """Attention of the queries in `rows`, a slice, to all keys: (B, H, rows, S)."""
        wide = torch.promote_types(q.dtype, torch.float32)         # in bfloat16 many weights would tie
        with torch.autocast(q.device.type, enabled=False):
            q = q.to(wide)
            k = k.to(wide)
            if self.kind == "softmax":
                return softmax_weights(q[:, :, rows], k, mask)
            if self.kind == "sima":
                q = sima_factor(q) * q                             # Q^
                k = sima_factor(k) * k                             # K^
            else:
                gamma, beta, count = self.norm_terms(q, mask)
                a_q = seqnorm_factor(q, gamma[0], count)
                a_k = seqnorm_factor(k, gamma[1], count)
                q = (a_q * q + beta[0]) / count                    # Q~ / S
                k = a_k * k + beta[1]                              # K~
            weights = q[:, :, rows] @ k.mT
            if mask is not None:
                weights = weights * mask[:, None, None]
            return weights


if __name__ == "__main__":
    from torch.utils.benchmark import Timer
    for kind in KINDS:
        layer = Attention(64, heads=4, kind=kind)
        for S in (1024, 4096):
            x = torch.randn(1, S, 64)
            seconds = Timer("layer(x)", globals=globals()).timeit(3).mean
            print(f"{kind:8} {S} tokens {1000 * seconds:6.1f} ms")
