import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from attention import (KINDS, Attention, center, seqnorm_factor, seqnorm_formula, sima_attention, sima_factor, sima_formula,
                       softmax_attention, softmax_formula, softmax_weights)
from tests.golden import unit, values
from vit import ViTConfig

LINEAR = ("seqnorm", "sima")


def random_layer(kind, dim=12, heads=3, head_dim=0, qkv_bias=True, seed=0):
    """A float64 layer all of whose parameters, seq_scale and seq_shift too, are random."""
    torch.manual_seed(seed)
    layer = Attention(dim, heads, head_dim, qkv_bias, kind).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def random_tokens(B=2, T=7, D=12, seed=1):
    return torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow(layer, tokens):
    """(T, D) of one sample -> (T, D) and the weights (H, T, T): one head, one query, one key, one number at a time."""
    T, D = tokens.shape
    inner = layer.proj.in_features
    d = inner // layer.heads
    q, k, v = (tokens @ layer.qkv.weight[i * inner:(i + 1) * inner].T + layer.qkv.bias[i * inner:(i + 1) * inner]
               for i in range(3))                                  # (T, H d) each
    if layer.kind == "seqnorm":
        for i, x in enumerate((q, k, v)):
            for f in range(inner):
                mean = sum(x[t, f].item() for t in range(T)) / T
                var = sum((x[t, f].item() - mean) ** 2 for t in range(T)) / T
                for t in range(T):
                    x[t, f] = layer.seq_scale[i, f] * (x[t, f] - mean) / math.sqrt(var + 1e-5) + layer.seq_shift[i, f]
    if layer.kind == "sima":
        for x in (q, k):
            for f in range(inner):
                x[:, f] /= sum(abs(x[t, f].item()) for t in range(T))
    weights = torch.zeros(layer.heads, T, T, dtype=torch.float64)
    y = torch.zeros(T, inner, dtype=torch.float64)
    for h in range(layer.heads):
        for i in range(T):
            for j in range(T):
                weights[h, i, j] = sum(q[i, f].item() * k[j, f].item() for f in range(h * d, (h + 1) * d))
            if layer.kind == "softmax":
                shares = [math.exp(w / math.sqrt(d)) for w in weights[h, i].tolist()]
                weights[h, i] = torch.tensor(shares, dtype=torch.float64) / sum(shares)
            if layer.kind == "seqnorm":
                weights[h, i] /= T
            for j in range(T):
                y[i, h * d:(h + 1) * d] += weights[h, i, j] * v[j, h * d:(h + 1) * d]
    return y @ layer.proj.weight.T + layer.proj.bias, weights


# -----------------------------------------------------------------------------
# against the slow obvious loop


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_the_slow_loop(kind):
    """Output and class map are those of nested loops, for fewer tokens than a head is wide and for more."""
    layer = random_layer(kind, head_dim=5)
    for T in (1, 2, 4, 5, 6, 9):
        x = random_tokens(T=T)
        y, class_map = layer(x, want_map=True)
        assert class_map.shape == (2, 3, T - 1)
        for b in range(2):
            expected, weights = slow(layer, x[b])
            assert torch.allclose(y[b], expected, atol=1e-10) and torch.allclose(class_map[b], weights[:, 0, 1:], atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_want_map_does_not_change_the_output(kind):
    """The map comes from one query row beside the ordinary path, it is not another path."""
    layer, x = random_layer(kind), random_tokens()
    assert torch.equal(layer(x)[0], layer(x, want_map=True)[0])


@torch.no_grad()
def test_class_map_says_what_fused_attention_summed():
    """scaled_dot_product_attention never shows its weights: with one-hot values it must give the class map."""
    layer, x = random_layer("softmax", dim=8, heads=2, head_dim=9), random_tokens(T=9, D=8)
    q, k, _ = layer.project(x)
    summed = softmax_attention(q, k, torch.eye(9, dtype=torch.float64).expand(2, 2, 9, 9))
    assert torch.allclose(layer.class_map(q, k), summed[:, :, 0, 1:], atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_padded_batch_equals_the_samples_one_by_one(kind):
    """Masked tokens, whatever they hold, add nothing to the output or the map of the real ones."""
    layer, x, lengths = random_layer(kind), random_tokens(B=3, T=9), (9, 4, 1)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    x = torch.where(mask[:, :, None], x, 1e3 * x)
    y, class_map = layer(x, mask, want_map=True)
    for b, length in enumerate(lengths):
        alone, alone_map = layer(x[b:b + 1, :length], want_map=True)
        assert torch.allclose(y[b, :length], alone[0], atol=1e-12)
        assert torch.allclose(class_map[b, :, :length - 1], alone_map[0], atol=1e-12) and not class_map[b, :, length - 1:].any()
    assert torch.allclose(layer(x, torch.ones_like(mask))[0], layer(x)[0], atol=1e-12)


# -----------------------------------------------------------------------------
# the papers' formulas


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_agrees_with_the_formula_of_the_paper(kind):
    """The fused or folded form gives what the formula gives: the same layer, for T below, at and above d, large values and small."""
    layer = random_layer(kind)
    for T, size in ((1, 1), (3, 1), (4, 30), (9, 0.1), (50, 1)):
        x = size * random_tokens(T=T)
        q, k, v = layer.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)                     # (B, H, T, d)
        if kind == "softmax":
            y = softmax_formula(q, k, v)
        elif kind == "sima":
            y = sima_formula(q, k, v)
        else:
            gamma = layer.seq_scale.view(3, 1, 3, 1, 4)
            beta = layer.seq_shift.view(3, 1, 3, 1, 4)
            y = seqnorm_formula(q, k, v, gamma, beta)
        torch.testing.assert_close(layer(x)[0], layer.proj(y.transpose(1, 2).flatten(2)), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_has_the_gradient_of_what_runs(kind):
    """Of the tokens and of every parameter, so that training cannot tell them apart."""
    layer, x = random_layer(kind), random_tokens(T=9).requires_grad_()
    parameters = [p for p in layer.parameters() if p.requires_grad]
    q, k, v = layer.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    if kind == "softmax":
        y = softmax_formula(q, k, v)
    elif kind == "sima":
        y = sima_formula(q, k, v)
    else:
        y = seqnorm_formula(q, k, v, layer.seq_scale.view(3, 1, 3, 1, 4), layer.seq_shift.view(3, 1, 3, 1, 4))
    y = layer.proj(y.transpose(1, 2).flatten(2))
    expected = torch.autograd.grad(y.square().sum(), [x, *parameters])
    for one, other in zip(torch.autograd.grad(layer(x)[0].square().sum(), [x, *parameters]), expected):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("dtype, precision, tokens, plain", (
    (torch.float32, "highest", 9, False), (torch.float32, "medium", 9, True), (torch.bfloat16, "highest", 9, True),
    (torch.bfloat16, "highest", 64, True), (torch.bfloat16, "highest", 65, False)))
def test_short_sequences_take_the_formula_where_it_is_faster(dtype, precision, tokens, plain, monkeypatch):
    """By shape and precision alone; both say the same, with a mask and without, under autocast too."""
    q, k, v = torch.randn(3, 2, 2, tokens, 8, generator=torch.Generator().manual_seed(0)).to(dtype).unbind(0)
    mask = torch.arange(tokens) < torch.tensor([[tokens], [5]])
    fused = [F.scaled_dot_product_attention(q, k, v, attn_mask=m) for m in (None, mask[:, None, None, :])]
    torch.set_float32_matmul_precision(precision)
    try:
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: pytest.fail("fused") if plain else v)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = [softmax_attention(q, k, v, m) for m in (None, mask)]
    finally:
        torch.set_float32_matmul_precision("highest")
    for y, expected in zip(outputs, fused):
        assert y.dtype == dtype
        torch.testing.assert_close(y, expected if plain else v, atol=0.03 if dtype == torch.bfloat16 else 1e-5, rtol=0.03)


def test_masked_softmax_weights_are_those_of_the_real_tokens():
    """A masked key gets no weight, the others share 1 as if it were not there."""
    q, k = random_tokens(B=2, T=9)[:, None], random_tokens(B=2, T=9, seed=2)[:, None]
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    weights = softmax_weights(q, k, mask)
    assert torch.equal(weights[1, :, :, 5:], torch.zeros(1, 9, 4, dtype=torch.float64))
    assert torch.allclose(weights[1, :, :, :5], softmax_weights(q[1:], k[1:, :, :5])[0], atol=1e-12)
    assert torch.allclose(weights[:1], softmax_weights(q[:1], k[:1]), atol=1e-12)


# -----------------------------------------------------------------------------
# golden numbers of the released code of SimA, and of a reading of the softmax-free paper


@torch.no_grad()
@pytest.mark.parametrize("tokens, total, first, last", [
    (5, 2.430976057, (0.057623122, -0.091391111, -0.078344593, 0.155679352, 0.480711603, 0.189352148),
     (0.059904811, 0.056890606, 0.253712882, -0.029337434)),
    (20, 10.321874552, (0.038615456, -0.011145179, 0.035172493, 0.093777512, 0.012884391, 0.030161408),
     (0.043853453, -0.035154647, 0.002818844, 0.085877376))])
def test_sima_gives_the_numbers_of_the_released_code(tokens, total, first, last):
    """There, 5 tokens take one order of the product and 20 the other."""
    layer = Attention(32, heads=4, kind="sima").double()
    layer.load_state_dict(values({key: tensor.shape for key, tensor in layer.state_dict().items()}))
    y = layer(unit((2, tokens, 32), 9999))[0]
    assert abs(y.sum().item() - total) < 1e-8
    assert y[0, 0, :6].tolist() == pytest.approx(first, abs=1e-8) and y[-1, -1, :4].tolist() == pytest.approx(last, abs=1e-8)


@torch.no_grad()
def test_seqnorm_gives_the_reference_numbers():
    """The golden vector was computed apart from this code, from the equations of the paper."""
    layer = Attention(24, heads=4, head_dim=4, qkv_bias=False, kind="seqnorm").double()
    layer.load_state_dict({"qkv.weight": 0.5 * unit((48, 24), 1), "proj.weight": 0.5 * unit((24, 16), 2),
                           "proj.bias": 0.1 * unit((24,), 3), "seq_scale": 1 + 0.1 * unit((3, 16), 4),
                           "seq_shift": 0.1 * unit((3, 16), 5)})
    y = layer(unit((2, 11, 24), 9999))[0]
    assert abs(y.sum().item() + 6.092430981) < 1e-8
    assert y[0, 0, :6].tolist() == pytest.approx(
        (0.043574122, 0.246249106, 0.600220009, -0.285395919, -0.047900323, 0.085289723), abs=1e-8)
    assert y[-1, -1, :6].tolist() == pytest.approx(
        (-0.435920772, 1.519589859, 0.586607635, 1.321923135, -0.368328682, -0.088671189), abs=1e-8)


# -----------------------------------------------------------------------------
# algebra


def test_seqnorm_is_instance_norm_and_two_products():
    """Per sample and per feature over the tokens, with biased variance: InstanceNorm1d, channels second; then Q (K^T V) / T.
    Also the other order, (Q K^T) V: it is the same for fewer tokens than a head is wide, as many, and more."""
    for T in (7, 8, 9):
        layer, x = random_layer("seqnorm", dim=24), random_tokens(T=T, D=24)
        other = nn.InstanceNorm1d(72, affine=True, eps=1e-5).double()
        other.load_state_dict({"weight": layer.seq_scale.flatten(), "bias": layer.seq_shift.flatten()})
        q, k, v = other(layer.qkv(x).mT).unflatten(1, (3, 3, 8)).transpose(-2, -1).unbind(1)       # (B, H, T, d)
        for y in (q @ (k.mT @ v) / T, (q @ k.mT) @ v / T):
            assert torch.allclose(layer(x)[0], layer.proj(y.transpose(1, 2).flatten(2)), atol=1e-12)


def test_sima_is_an_l1_norm_and_two_products():
    """F.normalize with p = 1 over the tokens, in either order of the products."""
    for T in (7, 8, 9):
        q, k, v = random_tokens(B=3, T=T, D=8)[:, None]
        q1, k1 = (F.normalize(x, p=1.0, dim=-2) for x in (q, k))
        for y in (q1 @ (k1.mT @ v), (q1 @ k1.mT) @ v):
            assert torch.allclose(sima_attention(q, k, v), y, atol=1e-12)


def test_l1_norm_sums_to_one():
    """The absolute values of every feature sum to 1 over the tokens of a sample; a feature that is 0 stays 0."""
    x = random_tokens(B=4, T=9).view(2, 2, 9, 12)
    x[0, 0, :, 3] = 0
    total = (sima_factor(x) * x).abs().sum(-2)
    assert total[0, 0, 3] == 0 and torch.allclose(total.flatten().sort()[0][1:], torch.ones(47, dtype=torch.float64))


def test_center_gives_mean_zero_over_the_real_tokens():
    """Masked tokens become 0 and leave the mean alone."""
    x, mask = random_tokens(B=2, T=9), torch.arange(9) < torch.tensor([[9], [5]])
    assert torch.allclose(center(x)[0], x[0] - x[0].mean(0)) and torch.allclose(center(x, mask)[0], center(x)[0])
    assert torch.allclose(center(x, mask)[1, :5], x[1, :5] - x[1, :5].mean(0)) and not center(x, mask)[1, 5:].any()


@torch.no_grad()
def test_qkv_bias_has_no_effect_under_seqnorm():
    """Normalisation over the tokens removes whatever is the same for all of them."""
    layer, x = random_layer("seqnorm"), random_tokens()
    y = layer(x)[0]
    layer.qkv.bias.normal_(std=5)
    assert torch.allclose(layer(x)[0], y, atol=1e-12)


@torch.no_grad()
def test_scale_of_features_has_no_effect():
    """A feature of q, k (or v, under seqnorm with eps = 0) times a positive constant changes nothing."""
    x, factor = center(random_tokens(B=2, T=9, D=4))[:, None], torch.tensor([0.1, 2, 7, 30], dtype=torch.float64)
    for f in (lambda x: seqnorm_factor(x, 1, 9, eps=0), sima_factor):
        assert torch.allclose(f(x * factor) * x * factor, f(x) * x, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_order_of_tokens_does_not_matter(kind):
    """Tokens in another order give the same outputs in that order."""
    layer, x, order = random_layer(kind), random_tokens(), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert torch.allclose(layer(x[:, order])[0], layer(x)[0][:, order], atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_share_statistics(kind):
    """Another second sample, another batch size or training mode leave the first sample as it is."""
    layer, x = random_layer(kind), random_tokens()
    y, other = layer(x)[0], layer(torch.stack([x[0], 100 * x[1] + 3]))[0]
    assert torch.equal(y[0], other[0]) and torch.allclose(layer.eval()(x[:1])[0], y[:1], atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind, factor", [("softmax", 1), ("seqnorm", 1), ("sima", 0.5)])
def test_every_token_twice_keeps_or_halves_the_output(kind, factor):
    """softmax and seqnorm take means over the tokens, and do not change; SimA divides by two sums, and halves."""
    layer, x = random_layer(kind), random_tokens()
    nn.init.zeros_(layer.proj.bias)
    assert torch.allclose(layer(x.repeat(1, 2, 1))[0][:, :7], factor * layer(x)[0], atol=1e-12)


@pytest.mark.parametrize("kind", LINEAR)
def test_gradient_is_that_of_the_function(kind):
    """Analytic gradients equal finite differences, with a mask and through the map too."""
    layer, x = random_layer(kind, dim=4, heads=2), random_tokens(B=2, T=4, D=4).requires_grad_()
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    assert torch.autograd.gradcheck(lambda x: layer(x, mask, want_map=True), x)


# -----------------------------------------------------------------------------
# size, precision, parameters


@torch.no_grad()
@pytest.mark.parametrize("kind", LINEAR)
def test_linear_attention_never_makes_a_square_matrix(kind):
    """With 512 tokens of width 16 no tensor on the way is larger than q, k and v together."""
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            self.size = max([self.size, *(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out])
                                          if isinstance(x, torch.Tensor))])
            return out

    with Largest() as largest:
        Attention(16, heads=2, kind=kind)(torch.randn(1, 512, 16), torch.ones(1, 512, dtype=torch.bool), want_map=True)
    assert largest.size == 3 * 512 * 16 < 512 * 512


def test_memory_kept_for_the_gradient_is_linear_in_tokens():
    """Four times the tokens keep at most 4.3 times the bytes, and seqnorm no more than 1.15 times those of SimA."""
    def kept(kind, T):
        layer, sizes = Attention(64, heads=4, kind=kind), {}
        with torch.autograd.graph.saved_tensors_hooks(
                lambda x: sizes.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x):
            layer(torch.randn(1, T, 64, requires_grad=True))[0].sum()
            return sum(sizes.values())
    for kind in LINEAR:
        assert kept(kind, 2048) < 4.3 * kept(kind, 512)
    assert kept("seqnorm", 2048) < 1.15 * kept("sima", 2048) < 1.15 * 6 * 2048 * 64 * 4


@torch.no_grad()
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_is_right_at_16384_tokens(dtype):
    """Under autocast output and map of the linear kinds are finite and near those of float32, not 0."""
    for kind in LINEAR:
        layer, x = Attention(32, heads=2, kind=kind), torch.randn(1, 16384, 32)
        layer.qkv.weight[64:] = layer.qkv.weight[32:64]            # v = k: with gamma 3 K^T V is 147,456 on its diagonal
        if kind == "seqnorm":
            nn.init.constant_(layer.seq_scale, 3)
        expected, expected_map = layer(x, want_map=True)
        with torch.autocast("cpu", dtype):
            y, class_map = layer(x, want_map=True)
        assert class_map.dtype == torch.float32
        assert (y - expected).norm() < 0.02 * expected.norm() and (class_map - expected_map).norm() < 0.02 * expected_map.norm()


@torch.no_grad()
def test_softmax_map_is_float32_under_autocast():
    """A ranking by scores of 8 bits would be full of ties."""
    with torch.autocast("cpu", torch.bfloat16):
        _, class_map = Attention(32, heads=2)(torch.randn(1, 4097, 32), want_map=True)
    assert class_map.dtype == torch.float32 and len(class_map[0, 0].unique()) > 4000


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_whole_layer_runs_in_bfloat16(kind):
    """A layer converted to bfloat16, without autocast, keeps that type."""
    y = Attention(32, heads=2, kind=kind).bfloat16()(torch.randn(2, 9, 32).bfloat16())[0]
    assert y.dtype == torch.bfloat16 and y.isfinite().all()


def test_parameter_counts():
    """qkv and proj as everywhere; seqnorm adds 3 x 2 numbers per feature, 8 x 512 x 6 in the paper's 8 layers."""
    count = lambda **kwargs: sum(p.numel() for p in Attention(64, heads=4, **kwargs).parameters())
    for kind in KINDS:
        extra = 6 if kind == "seqnorm" else 0
        assert count(kind=kind) == 64 * 192 + 192 + 64 * 64 + 64 + extra * 64
        assert count(kind=kind, head_dim=8, qkv_bias=False) == 64 * 96 + 32 * 64 + 64 + extra * 32


def test_unknown_kind_is_refused_with_the_known_ones():
    """Where it is configured: the message says what was given and what could be."""
    with pytest.raises(ValueError, match="attention 'performer' is not known; use softmax, seqnorm, sima"):
        ViTConfig(attention="performer")
