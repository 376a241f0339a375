"""crossvit.py: each fusion against the loop or the sum that it stands for, and what it leaves alone."""
from dataclasses import replace

import torch

from crossvit import CrossAttention, cross_fusion
from plumbing.fusions import all_fusion, class_fusion, pairwise_fusion, resize
from tests.test_crossvit import MINI, filled


def pair(T=(16, 4), D=(24, 48), B=2):
    """cls and patches of random tokens."""
    return [torch.randn(B, 1, d) for d in D], [torch.randn(B, t, d) for t, d in zip(T, D)]


def slow_cross(module, x):
    """CrossAttention of one sample, head by head and key by key: (1 + T, D) -> (D,), weights (H, 1 + T)."""
    attn = module.attn
    u = module.norm1(x)
    q, k, v = attn.wq(u[0]), attn.wk(u), attn.wv(u)
    d = len(q) // attn.heads
    heads, rows = [], []
    for h in range(attn.heads):
        part = slice(h * d, (h + 1) * d)
        weights = torch.stack([(q[part] * key[part]).sum() / d ** 0.5 for key in k]).softmax(0)
        rows.append(weights)
        heads.append(sum(w * value[part] for w, value in zip(weights, v)))
    return x[0] + attn.proj(torch.cat(heads)), torch.stack(rows)


@torch.no_grad()
def test_cross_fusion_is_the_equation():
    """Against the slow loop; C5: only class tokens change; C9: softmax over 1 + T_o keys, in the other branch's width."""
    encoder = filled(MINI).float().blocks[0]
    cls, patches = pair()
    f, g = encoder.projs, encoder.revert_projs
    new, same, maps = cross_fusion(cls, patches, f, g, encoder.fusion)
    assert all(a is b for a, b in zip(same, patches))
    for b, o in ((0, 1), (1, 0)):
        for i in range(2):
            y, rows = slow_cross(encoder.fusion[b], torch.cat([f[b](cls[b][i]), patches[o][i]]))
            assert rows.shape == (3, 1 + patches[o].shape[1])
            torch.testing.assert_close(new[b][i, 0], g[b](y), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(maps["cross_map"][o][i], rows[:, 1:])
            torch.testing.assert_close(rows.sum(1), torch.ones(3))


@torch.no_grad()
def test_patches_pass_a_whole_encoder_as_the_blocks_leave_them():
    """C5 on the encoder: with and without the fusion, the patch tokens are the same and the class tokens are not."""
    encoder = filled(MINI).float().blocks[0]
    tokens = [torch.cat(halves, 1) for halves in zip(*pair())]
    fused, _ = encoder(tokens)
    encoder.fuse = lambda cls, patches: (cls, patches, {})
    plain, _ = encoder(tokens)
    for b in (0, 1):
        assert torch.equal(fused[b][:, 1:], plain[b][:, 1:]) and not torch.allclose(fused[b][:, :1], plain[b][:, :1])


@torch.no_grad()
def test_branches_are_fused_at_the_same_time():
    """C8: naming the branches the other way round gives the same tokens: neither sees what the other has become."""
    encoder = filled(MINI).float().blocks[0]
    cls, patches = pair()
    f, g, attend = encoder.projs, encoder.revert_projs, encoder.fusion
    new, _, maps = cross_fusion(cls, patches, f, g, attend)
    turned = cross_fusion(cls[::-1], patches[::-1], f[::-1], g[::-1], attend[::-1])
    for a, b in ((new, turned[0]), (maps["cross_map"], turned[2]["cross_map"])):
        assert torch.equal(a[0], b[1]) and torch.equal(a[1], b[0])


@torch.no_grad()
def test_later_cross_attentions_see_the_class_token_alone():
    """As released: their softmax has one key, so each adds proj(wv(LN(y))), and only the first gives the map."""
    encoder = filled(replace(MINI, cross_depth=3)).float().blocks[0]
    cls, patches = pair()
    first = [layers[0] for layers in encoder.fusion]
    identity = [torch.nn.Identity()] * 2
    once, _, first_maps = cross_fusion(cls, patches, encoder.projs, identity, first)
    thrice, _, maps = cross_fusion(cls, patches, encoder.projs, identity, encoder.fusion)
    for b in (0, 1):
        expected = once[b]
        for layer in encoder.fusion[b][1:]:
            expected = expected + layer.attn.proj(layer.attn.wv(layer.norm1(expected)))
        torch.testing.assert_close(thrice[b], expected)
        assert torch.equal(first_maps["cross_map"][b], maps["cross_map"][b])


def test_cross_attention_needs_no_patches():
    """One token is its own only key."""
    row = CrossAttention(8, 2)(torch.randn(3, 1, 8))[1]
    assert row.shape == (3, 2, 0)


def test_class_fusion_is_a_sum_in_the_width_of_l():
    """c = f(cls_S) + cls_L; S gets g(c), L gets c; patches are left."""
    f, g = torch.nn.Linear(24, 48), torch.nn.Linear(48, 24)
    cls, patches = pair()
    (S, L), same, _ = class_fusion(cls, patches, [f], [g])
    assert torch.equal(L, f(cls[0]) + cls[1]) and torch.equal(S, g(L)) and same is patches


def test_pairwise_fusion_adds_what_is_at_the_same_place():
    """Patches on grids of 4 x 4 and 2 x 2, f and g the identity: each sum is made by hand, bilinear weights included."""
    cls, patches = pair(D=(1, 1), B=1)
    f = g = [torch.nn.Identity()]
    (S_cls, L_cls), (S, L), _ = pairwise_fusion(cls, patches, f, g, ((4, 4), (2, 2)))
    assert torch.equal(S_cls, L_cls) and torch.equal(L_cls, cls[0] + cls[1])
    small, large = patches[0].view(4, 4), patches[1].view(2, 2)
    ahead = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])           # 2 -> 4, half pixel centers
    behind = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])                  # 4 -> 2
    torch.testing.assert_close(S.view(4, 4), small + ahead @ large @ ahead.T)
    torch.testing.assert_close(L.view(2, 2), large + behind @ small @ behind.T)


def test_resize_keeps_rows_and_columns_apart():
    """A grid that is not square: a ramp along the columns stays a ramp along the columns."""
    ramp = torch.arange(6.).repeat(4, 1).flatten()[None, :, None]                # 4 rows, 6 columns
    out = resize(ramp, (4, 6), (2, 3)).view(2, 3)
    torch.testing.assert_close(out, torch.tensor([0.5, 2.5, 4.5]).repeat(2, 1))


def test_all_fusion_hands_every_token_back_to_its_branch():
    """With identities for f, g and attention nothing changes; the order inside is L, then S."""
    seen = []
    cls, patches = pair(D=(8, 8))
    same = [torch.nn.Identity()] * 2
    new_cls, new_patches, _ = all_fusion(cls, patches, same, same, lambda x: (seen.append(x) or x, None))
    assert all(torch.equal(a, b) for a, b in zip((*new_cls, *new_patches), (*cls, *patches)))
    assert torch.equal(seen[0], torch.cat([cls[1], patches[1], cls[0], patches[0]], 1))
