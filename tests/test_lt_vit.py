import json
from dataclasses import asdict, replace

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from attention import softmax_weights
from lt_vit import LABEL_ATTENTION, LTViT, LTViTConfig
from plumbing.flags import parse
from plumbing.weights import from_dict
from tests.golden import unit, values
from vit import ViT, ViTConfig

KINDS = tuple(LABEL_ATTENTION)
VIT = ViTConfig(image=(32, 32), patch=(8, 8), dim=32, depth=4, heads=4, mlp=128)
GOLDEN = {  # a reference reading of the paper, not released numbers: (attention, N2): logits (2, 5) row by row
    ("one-way", 2): [2.354797279, -2.853784011, -1.171157099, 1.051521891, -2.6657514,
                     1.611741239, -1.973515283, -0.922454086, 0.95893754, -2.604247317],
    ("one-way", 4): [2.453271933, -1.468895317, -0.353135592, 0.826797291, -1.662743207,
                     2.477145384, -0.554288067, 0.140545738, 1.090275368, -1.653058439],
    ("no-label-self", 2): [2.477539026, -3.039785198, -1.267498087, 1.102460253, -2.245088291,
                           1.668381413, -1.871463745, -0.719290637, 0.914848131, -2.519918227],
    ("no-label-self", 4): [2.376215727, -1.318360654, -0.275396612, 0.229509458, -1.458736261,
                           2.090465091, -0.139064723, 0.0446736, 0.78499436, -1.886490506],
    ("full", 2): [2.253436982, -2.694501183, -1.114106321, 0.888509053, -2.791497258,
                  1.589487183, -1.847602895, -0.905725988, 0.850183273, -2.71522589],
    ("full", 4): [2.566746269, -1.030147166, -0.109495827, 0.767851554, -2.021496602,
                  2.430229917, -0.0379406, 0.278961944, 1.328030811, -1.974956045],
}
GOLDEN_CLS = {  # class token of sample 0 after the final norm; the plain ViT's is that of the two one-way kinds
    ("full", 2): [0.250102635, -0.945592905, 2.035894933, 0.896983131],
    ("full", 4): [0.129814604, -0.65346432, 1.864113816, 1.051716877],
}
PLAIN_CLS = [0.084402549, -0.61280612, 2.172490214, 0.963536511]


def filled(kind="one-way", label_layers=2, vit=VIT, tasks=None, shared_head=False):
    """A float64 model in eval mode, filled by the rule of the goldens over timm's names and ours."""
    model = LTViT(LTViTConfig(vit, label_layers, kind, shared_head), tasks or {"labels": 5}).double().eval()
    state = model.state_dict()
    flat = values({key.removeprefix("vit."): value.shape for key, value in state.items()})
    model.load_state_dict({key: flat[key.removeprefix("vit.")] for key in state})
    return model


def images(idx=9999):
    return unit((2, 3, 32, 32), idx)


def slow_block(block, z, mask):
    """One masked softmax over all of [X ; Y]: (B, S + L, D) -> same, and the whole matrix (B, H, S + L, S + L)."""
    q, k, v = block.attn.qkv(block.norm1(z)).unflatten(-1, (3, block.attn.heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf")).softmax(-1)
    z = z + block.ls1(block.attn.proj((scores @ v).transpose(1, 2).flatten(2)))
    return z + block.ls2(block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(z))))), scores


def slow_forward(model, image):
    """-> tokens [X ; Y] after the final norm, and the attention matrices of the last N2 blocks."""
    vit, kind, N2 = model.vit, model.config.label_attention, model.config.label_layers
    z = vit.embed(image)
    S, L = z.shape[1], model.label_tokens.shape[1]
    mask = torch.ones(S + L, S + L, dtype=torch.bool)
    if kind != "full":
        mask[:S, S:] = False                                       # image queries, label keys
    if kind == "no-label-self":
        mask[S:, S:] = False
    each = []
    for i, block in enumerate(vit.blocks):
        if i == len(vit.blocks) - N2:
            z = torch.cat([z, model.label_tokens.expand(len(z), -1, -1)], 1)
        z, scores = slow_block(block, z, mask[:z.shape[1], :z.shape[1]])
        each.append(scores)
    return vit.norm(z), torch.stack(each[-N2:])


@torch.no_grad()
@pytest.mark.parametrize("kind, N2", GOLDEN)
def test_reference_logits_and_class_token(kind, N2):
    """L9: the mini net filled by rule gives the logits and the class token of the reference reading."""
    model = filled(kind, N2)
    x = model.encode(model.vit.embed(images()))[0]
    logits = model(images())["logits"]["labels"]
    torch.testing.assert_close(logits.flatten(), torch.tensor(GOLDEN[kind, N2], dtype=torch.float64), atol=1e-8, rtol=0)
    cls = torch.tensor(GOLDEN_CLS.get((kind, N2), PLAIN_CLS), dtype=torch.float64)
    torch.testing.assert_close(x[0, 0, :4], cls, atol=1e-8, rtol=0)


def test_the_reference_net_is_the_reference_net():
    """The fill of the mini net has the known number of tensors and sum."""
    state = filled().state_dict()
    assert len(state) == 57
    assert sum(value.sum().item() for value in state.values()) == pytest.approx(281.996481, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["one-way", "no-label-self"])
@pytest.mark.parametrize("N2", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_way_image_tokens_are_the_plain_vits(kind, N2, dtype):
    """L1: image tokens equal the plain ViT's in every bit, registers and layer scale included."""
    for vit in (VIT, replace(VIT, registers=2, layer_scale=True)):
        model, image = filled(kind, N2, vit).to(dtype), images().to(dtype)
        x, _, _ = model.encode(model.vit.embed(image))
        assert torch.equal(x, model.vit.encode(model.vit.embed(image)))


@torch.no_grad()
def test_full_image_tokens_have_seen_the_labels():
    """L1: with full attention they differ from the plain ViT's."""
    model = filled("full")
    tokens = model.vit.embed(images())
    assert (model.encode(tokens)[0] - model.vit.encode(tokens)).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("N2", [1, 3, 4])
def test_two_part_attention_is_one_masked_attention(kind, N2):
    """L2: tokens, and the labels' maps of every label block, agree with one explicit, masked softmax over image and label tokens."""
    for vit in (VIT, replace(VIT, registers=2, layer_scale=True)):
        model = filled(kind, N2, vit)
        x, y, label_maps = model.encode(model.vit.embed(images()))
        z, scores = slow_forward(model, images())
        S, first, T = x.shape[1], 1 + vit.registers, vit.tokens
        torch.testing.assert_close(torch.cat([x, y], 1), z, atol=1e-12, rtol=0)
        torch.testing.assert_close(label_maps, scores.mean(2)[:, :, S:, first:first + T], atol=1e-12, rtol=0)


def slow_linear_block(block, z):
    """slow_block without softmax: every feature of q, k and v is normalized over all of [X ; Y], and each weight is written out."""
    attn, T = block.attn, z.shape[1]
    q, k, v = attn.qkv(block.norm1(z)).unflatten(-1, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4)      # (B, H, T, d) each
    if attn.kind == "sima":
        weights = (q / q.abs().sum(2, keepdim=True)) @ (k / k.abs().sum(2, keepdim=True)).mT
    else:
        q, k, v = (gamma.view(attn.heads, 1, -1) * (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
                   + beta.view(attn.heads, 1, -1) for x, gamma, beta in zip((q, k, v), attn.seq_scale, attn.seq_shift))
        weights = q @ k.mT / T
    z = z + block.ls1(attn.proj((weights @ v).transpose(1, 2).flatten(2)))
    return z + block.ls2(block.mlp(block.norm2(z))), weights


@torch.no_grad()
@pytest.mark.parametrize("attention", ["seqnorm", "sima"])
@pytest.mark.parametrize("registers", [0, 2])
def test_full_without_softmax_is_one_sequence(attention, registers):
    """Tokens, label maps and logits agree with the formula over image and label tokens together, after blocks that see the image alone."""
    model = filled("full", 2, replace(VIT, attention=attention, registers=registers))
    z = model.vit.embed(images())
    S, slow_maps = z.shape[1], []
    for i, block in enumerate(model.vit.blocks):
        if i == 2:
            z = torch.cat([z, model.label_tokens.expand(2, -1, -1)], 1)
        z, weights = slow_linear_block(block, z)
        slow_maps.append(weights.mean(1)[:, S:, 1 + registers:S])
    z = model.vit.norm(z)
    x, y, label_maps = model.encode(model.vit.embed(images()))
    torch.testing.assert_close(torch.cat([x, y], 1), z, atol=1e-10, rtol=0)
    torch.testing.assert_close(label_maps, torch.stack(slow_maps[2:]), atol=1e-10, rtol=0)
    torch.testing.assert_close(model(images())["logits"]["labels"], model.label_head(z[:, S:]), atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_labels_see_each_other_unless_told_not_to(kind):
    """L3: another label's token changes a label's logit with one-way and full, and not with no-label-self."""
    model = filled(kind)
    before = model(images())["logits"]["labels"]
    model.label_tokens[:, 3] += torch.linspace(-1, 1, 32)      # a constant would not pass LayerNorm
    moved = (model(images())["logits"]["labels"] - before).abs().amax(0)
    others = moved[[0, 1, 2, 4]]
    assert moved[3] > 1e-3
    assert (others < 1e-12).all() if kind == "no-label-self" else (others > 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_image_tokens_get_no_gradient_to_labels(kind):
    """L4: d X / d Y is exactly nothing with the one-way kinds, and something with full."""
    model = filled(kind, 4)
    x = model.encode(model.vit.embed(images()))[0]
    grad, = torch.autograd.grad(x.square().sum(), model.label_tokens, allow_unused=True)
    assert (grad is not None and grad.abs().max() > 1e-3) if kind == "full" else grad is None


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_permuted_labels_give_permuted_logits(kind):
    """L5: labels in another order, tokens and heads alike, give logits and maps in that order."""
    model, order = filled(kind), torch.tensor([3, 0, 4, 1, 2])
    before = model(images())
    for parameter in (model.label_tokens, model.label_head.W, model.label_head.b):
        parameter.copy_(parameter[:, order])
    after = model(images())
    torch.testing.assert_close(after["logits"]["labels"], before["logits"]["labels"][:, order], atol=1e-12, rtol=0)
    torch.testing.assert_close(after["label_map"], before["label_map"][:, order], atol=1e-12, rtol=0)


def from_flags(path, *more, tasks=None, image=None, channels=None):
    """The model that train.py makes of these flags, once the data has settled image and channels."""
    args = parse(["--model", "lt_vit", "--pretrained", str(path), *more])
    args.image, args.channels = image, channels
    return LTViT.from_args(args, tasks or {"labels": 5})


@torch.no_grad()
def test_a_vanilla_file_loads_with_only_labels_new(tmp_path):
    """L6: of a plain ViT's file every backbone tensor is used, its head ignored; label tokens and head are new."""
    vit = replace(VIT, dim=192, heads=3, dropout=0.1)              # a width whose heads timm's files imply
    donor = ViT(vit, {"grade": 7}).eval()
    state = {key.replace("head.grade.", "head."): value for key, value in donor.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "vit.safetensors")
    model = from_flags(tmp_path / "vit.safetensors", "--label-layers", "2").eval()
    ours = {key.removeprefix("vit.") for key in model.state_dict()}
    assert ours - set(state) == {"label_tokens", "label_head.W", "label_head.b"}
    assert set(state) - ours == {"head.weight", "head.bias"}
    assert model.report.startswith(f"loaded {len(state) - 2}/{len(state) - 2} tensors") and model.report.endswith("ignored head")
    assert model.config == LTViTConfig(replace(vit, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), label_layers=2)
    x = model.encode(model.vit.embed(images().float()))[0]
    assert torch.equal(x, donor.encode(donor.embed(images().float())))


def test_pretrained_at_another_size_and_channels(tmp_path):
    """Image size, channels and changes of the ViT pass through; the fields of LTViTConfig go to it."""
    safetensors.torch.save_file(ViT(replace(VIT, dim=192, heads=3)).state_dict(), tmp_path / "vit.safetensors")
    model = from_flags(tmp_path / "vit.safetensors", "--label-layers", "1", "--label-attention", "full", "--shared-head",
                       "--drop-path", "0.1", image="48x32", channels=1)
    assert model.config.vit.image == (48, 32) and model.config.vit.channels == 1 and model.config.vit.drop_path == 0.1
    assert model.config.label_attention == "full" and model.label_head.weight.shape == (1, 192)
    assert "resized pos_embed 4x4 -> 6x4" in model.report
    assert model(torch.zeros(2, 1, 48, 32, dtype=torch.uint8))["label_map"].shape == (2, 5, 24)


@pytest.mark.parametrize("fields, words", [
    (dict(label_layers=0), "label_layers 0"), (dict(label_layers=5), "1 .. 4 last blocks"), (dict(label_attention="oneway"), "one-way"),
    (dict(vit=replace(VIT, attention="sima")), "'sima'"), (dict(vit=replace(VIT, attention="seqnorm")), "all tokens at once"),
    (dict(vit=replace(VIT, attention="seqnorm"), label_attention="no-label-self"), "not no-label-self; or --attention softmax"),
    (dict(vit=replace(VIT, image=(), patch=())), "not bags")])
def test_what_cannot_be_is_refused_in_one_line(fields, words):
    """L7: no label layers, more than there are, unknown and linear attention raise with what was given or is possible."""
    with pytest.raises(ValueError) as error:
        LTViTConfig(**{"vit": VIT, **fields})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_no_label_is_refused():
    """A model without tasks has no label token and says so."""
    with pytest.raises(ValueError, match="needs a task"):
        LTViT(LTViTConfig(VIT), {})


@torch.no_grad()
def test_label_queries_share_one_softmax():
    """L8: a label's attention sums to 1 over image and label keys together; over the patches alone it is less."""
    q, k = unit((2, 4, 5, 8), 1), unit((2, 4, 22, 8), 2)
    torch.testing.assert_close(softmax_weights(q, k).mean(1).sum(-1), torch.ones(2, 5, dtype=torch.float64), atol=1e-12, rtol=0)
    shares = {kind: filled(kind)(images())["label_map"].sum(-1) for kind in KINDS}
    assert all((0 < share).all() and (share < 1).all() for share in shares.values())
    assert (shares["no-label-self"] > shares["one-way"]).all()     # nothing goes to labels there


@pytest.mark.parametrize("labels, own, shared", [(5, 21_669_509, 21_667_969), (13, 21_675_661, 21_671_041), (14, 21_676_430, 21_671_425)])
def test_parameters_of_vit_s(labels, own, shared):
    """ViT-S/16 with 5, 13 and 14 labels has the known number of parameters, heads per label or one for all."""
    for shared_head, expected in ((False, own), (True, shared)):
        with torch.device("meta"):
            model = LTViT(LTViTConfig(ViTConfig(), shared_head=shared_head), {"labels": labels})
        assert sum(p.numel() for p in model.parameters()) == expected


@torch.no_grad()
def test_a_shared_head_reads_every_label_alike():
    """With shared_head every logit is the same linear function of its label token."""
    model = filled(shared_head=True)
    y = model.encode(model.vit.embed(images()))[1]
    expected = y @ model.label_head.weight[0] + model.label_head.bias
    torch.testing.assert_close(model(images())["logits"]["labels"], expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_tasks_split_the_labels_in_order():
    """Two tasks are the labels of one, cut in two; label_map keeps all of them in that order."""
    one, two = filled()(images()), filled(tasks={"findings": 3, "devices": 2})(images())
    assert torch.equal(torch.cat([two["logits"]["findings"], two["logits"]["devices"]], 1), one["logits"]["labels"])
    assert torch.equal(two["label_map"], one["label_map"])


def test_shapes_and_pixels():
    """uint8 is normalized by the ViT; logits (B, L), label_map (B, L, T), no map of the class token; the entry needed is `image`."""
    model = LTViT(LTViTConfig(VIT), {"labels": 5}).eval()
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    out, same = model(pixels), model((pixels / 255 - 0.5) / 0.5)
    assert model.inputs == ("image",)
    assert out["logits"]["labels"].shape == (2, 5) and "map" not in out and out["label_map"].shape == (2, 5, 16)
    torch.testing.assert_close(out["logits"], same["logits"])
    label_maps = model.encode(model.vit.embed(pixels))[2]
    assert len(label_maps) == model.config.label_layers == 4
    torch.testing.assert_close(out["mean_label_map"], sum(label_maps) / 4), torch.testing.assert_close(out["label_map"], label_maps[3])


def test_config_survives_json():
    """asdict -> JSON -> config gives an equal config, the ViT's included."""
    config = LTViTConfig(VIT, 2, "full", True)
    assert from_dict(LTViTConfig, json.loads(json.dumps(asdict(config))), "run") == config


def test_label_tokens_start_apart():
    """Drawn as the class token is, std 0.02: equal tokens would read the same from the image, label by label."""
    tokens = LTViT(LTViTConfig(VIT), {"labels": 50}).label_tokens
    assert 0.015 < tokens.std() < 0.025


def test_every_parameter_learns():
    """A training step's gradient reaches label tokens, heads and every weight of the ViT."""
    torch.manual_seed(0)
    model = LTViT(LTViTConfig(replace(VIT, dropout=0.1, drop_path=0.1)), {"labels": 5}).train()
    F.binary_cross_entropy_with_logits(model(torch.randn(8, 3, 32, 32))["logits"]["labels"], torch.ones(8, 5)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize("size, typed, layers", [("micro", (), 2), ("mini", (), 3), ("tiny", (), 4), ("micro", ("--label-layers", "4"), 4)])
def test_some_blocks_see_the_image_alone(size, typed, layers):
    """N2 is the paper's 4, but at most half of the blocks: N1 >= 1; args.json says what it became."""
    args = parse(["--model", "lt_vit", "--size", size, "--image", "32x32", "--patch", "8x8", *typed])
    args.channels = 3
    assert LTViT.from_args(args, {"labels": 5}).config.label_layers == args.label_layers == layers
