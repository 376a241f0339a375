"""daft.py: the block against loops, its five places in a residual block, and DAFT on the tokens of a ViT."""
import json
from dataclasses import asdict

import pytest
import torch
from torch.nn import functional as F

from daft import DAFT, LOCATIONS, DAFTViT, DAFTViTConfig, ResBlock
from plumbing.weights import from_dict
from vit import ViT, ViTConfig


@torch.no_grad()
@pytest.mark.parametrize("looked", (5, 0))
@pytest.mark.parametrize("scale, shift", ((True, True), (True, False), (False, True)))
def test_daft_equals_a_loop_over_samples_and_channels(looked, scale, shift):
    """F'[c] = sigma(alpha_c) F[c] + beta_c with every sum written out; looked = 0 is FiLM."""
    torch.manual_seed(0)
    daft = DAFT(5, looked, 3, 4, scale, shift, "tanh")
    x, t = torch.randn(2, 5, 2, 3, 4), torch.randn(2, 3)
    for b in range(2):
        u = [x[b, c].mean() for c in range(looked)] + list(t[b])
        hidden = [max(0, sum(daft.W1.weight[i, j] * u[j] for j in range(len(u)))) for i in range(4)]
        a = [sum(daft.W2.weight[k, i] * hidden[i] for i in range(4)) for k in range(5 * (scale + shift))]
        for c in range(5):
            alpha, beta = torch.tanh(torch.as_tensor(a[c])) if scale else 1, a[c + 5 * scale] if shift else 0
            assert torch.allclose(daft(x, t)[b, c], alpha * x[b, c] + beta, atol=1e-5)


@torch.no_grad()
def test_location_1_leaves_the_main_path_alone():
    """D3: with DAFT before the shortcut only, what bn2 sees equals that of the same block without DAFT."""
    torch.manual_seed(0)
    plain, block = ResBlock(3, 4, 8, 2).eval(), ResBlock(3, 4, 8, 2, DAFT(4, 4, 3, 2), 1).eval()
    block.load_state_dict(plain.state_dict(), strict=False)
    seen = []
    for module in (plain, block):
        module.bn2.register_forward_hook(lambda module, given, result: seen.append(result))
    x, t = torch.randn(2, 4, 8, 8, 8), torch.randn(2, 3)
    out = plain(x), block(x, t)
    assert torch.equal(*seen) and not torch.equal(*out)
    assert torch.allclose(out[1], F.relu(seen[0] + block.shortcut(block.daft(x, t))))


@torch.no_grad()
@pytest.mark.parametrize("location", LOCATIONS)
def test_each_location_changes_what_it_should(location):
    """The block, written out step by step, with DAFT called at one place."""
    torch.manual_seed(0)
    C = 8 if location > 2 else 4
    block = ResBlock(3, 4, 8, 2, DAFT(C, C, 3, 6), location).eval()
    x, t = torch.randn(2, 4, 8, 8, 8), torch.randn(2, 3)
    change = [(lambda z: block.daft(z, t)) if place == location else (lambda z: z) for place in range(5)]
    inner = change[0](x)
    y = change[4](F.relu(change[3](block.bn1(block.conv1(change[2](inner))))))
    expected = F.relu(block.bn2(block.conv2(y)) + block.shortcut(change[1](inner)))
    assert torch.allclose(block(x, t), expected, atol=1e-6) and not torch.allclose(block(x, t), block(x, t + 1), atol=1e-3)
    assert block.bn1.affine == (location != 3)


def test_switched_off_scale_or_shift_is_one_or_zero_and_halves_W2():
    """D4: alpha = 1 or beta = 0, and W2 gives C numbers instead of 2 C."""
    x, t = torch.randn(2, 4, 3, 3, 3), torch.randn(2, 3)
    assert (DAFT(4, 4, 3, 2, scale=False).affine(x, t)[0] == 1.0).all() and (DAFT(4, 4, 3, 2, shift=False).affine(x, t)[1] == 0.0).all()
    assert [tuple(DAFT(4, 4, 3, 2, *on).W2.weight.shape) for on in ((True, True), (True, False), (False, True))] == [(8, 2), (4, 2), (4, 2)]


@torch.no_grad()
def test_the_map_is_the_same_everywhere_in_space():
    """D5: alpha and beta depend on sample and channel only: moving the voxels about moves the result about."""
    daft, x, t = DAFT(4, 4, 3, 2), torch.randn(2, 4, 3, 3, 3), torch.randn(2, 3)
    order = torch.randperm(27)
    assert torch.allclose(daft(x, t).flatten(2)[..., order], daft(x.flatten(2)[..., order].view_as(x), t).flatten(2), atol=1e-6)
    alpha, beta = daft.affine(x, t)
    assert alpha.shape == beta.shape == (2, 4)


@torch.no_grad()
def test_film_ignores_the_image_and_daft_does_not():
    """D6: another image gives FiLM the same alpha and beta, and DAFT others."""
    torch.manual_seed(0)
    x, t = torch.rand(8, 4, 3, 3, 3), torch.randn(8, 3)
    for looked, same in ((0, True), (4, False)):
        daft = DAFT(4, looked, 3, 6)
        assert all(torch.equal(a, b) == same for a, b in zip(daft.affine(x, t), daft.affine(10 * x, t)))


@torch.no_grad()
def test_padding_of_a_bag_changes_nothing():
    """The table beside bags: what stands behind the shorter bag has no say in the mean that DAFT sees."""
    torch.manual_seed(0)
    model = DAFTViT(DAFTViTConfig(ViTConfig((), (), channels=6, dim=16, depth=2, heads=2, mlp=32, mean=(), std=()), 4),
                    {"y": 3}).eval()
    torch.nn.init.normal_(model.daft.W2.weight)
    assert model.inputs == ("bag", "tabular", "bag_mask") and DAFTViT.inputs == ("image", "tabular")
    assert model.daft.W1.weight.shape == (2, 20)                   # a seventh of D + P, as in the paper
    bag, tabular, mask = torch.randn(2, 5, 6), torch.randn(2, 4), torch.arange(5) < torch.tensor([[3], [5]])
    together = model(bag, tabular, mask)["logits"]["y"]
    alone = model(bag[:1, :3], tabular[:1], mask[:1, :3])["logits"]["y"]
    torch.testing.assert_close(together[:1], alone)
    bag[0, 3:] = 9
    torch.testing.assert_close(model(bag, tabular, mask)["logits"]["y"], together)


@torch.no_grad()
def test_daft_on_vit_tokens_starts_as_the_vit_and_then_sees_the_table():
    """At the start the logits and map are the ViT's for any table; the map is the tokens' mean and table through DAFT."""
    torch.manual_seed(0)
    vit = ViT(ViTConfig((16, 16), (8, 8), dim=16, depth=2, heads=2, mlp=32), {"y": 3}).eval()
    model = DAFTViT(DAFTViTConfig(vit.config, 4), vit=vit).eval()
    image, tabular = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8), torch.randn(2, 4)
    out, plain = model(image, tabular), vit(image)
    assert torch.allclose(out["logits"]["y"], plain["logits"]["y"], atol=1e-6) and torch.allclose(out["map"], plain["map"], atol=1e-6)
    torch.nn.init.normal_(model.daft.W2.weight)
    x, _ = vit.blocks[0](vit.embed(image))                         # (B, 1 + T, D)
    alpha, beta = (1 + model.daft.W2(F.relu(model.daft.W1(torch.cat([x.mean(1), tabular], 1))))).chunk(2, 1)
    x = vit.norm(vit.blocks[1](x * alpha[:, None] + beta[:, None] - 1)[0])
    assert torch.allclose(model(image, tabular)["logits"]["y"], vit.head["y"](x[:, 0]), atol=1e-4)
    assert not torch.allclose(model(image, -tabular)["logits"]["y"], model(image, tabular)["logits"]["y"], atol=1e-3)


def test_config_survives_json():
    """config.json stores lists and dicts; the config comes back equal."""
    config = DAFTViTConfig(ViTConfig(), 3)
    assert from_dict(DAFTViTConfig, json.loads(json.dumps(asdict(config))), "config.json") == config
