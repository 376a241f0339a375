import json
import math
import re
from dataclasses import asdict, replace

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from plumbing.flags import parse
from plumbing.weights import from_dict
from q2l import Q2L, EncoderLayer, GroupWiseLinear, Q2LConfig, QueryDecoder, sine_position
from tests.golden import unit, values
from vit import ViT, ViTConfig

VIT = ViTConfig(image=(32, 32), patch=(8, 8), dim=32, depth=2, heads=4, mlp=64)
GOLDEN = {  # released code: (encoder layers, decoder self-attention): tensors, their sum, parameters, hs[0, 0, :4], logits (2, 5)
    (1, False): (38, 237.653642, 25696, [-1.784741009, 1.99519626, 0.350552927, -1.554815709],
                 [-2.887715185, -1.504799246, -2.859027609, 0.291280668, 0.10482694,
                  -2.753685892, -3.063138882, -1.982909214, 0.955208141, 0.715354947]),
    (0, False): (26, 174.986617, 17152, [-1.321387574, 0.743599096, 0.567224738, -1.207032863],
                 [-1.030665978, -2.691422141, -4.000980549, 0.422330222, 0.216449745,
                  -0.334125456, -1.540570217, -1.561722248, 1.10037446, 2.734457133]),
    (1, True): (50, 271.900231, 34272, [-1.563868929, 1.497834958, -0.511226514, -0.420020357],
                [-0.921475723, -5.066687083, -1.777397658, -1.623352933, -0.272937665,
                 0.212885778, -4.58712709, -1.262336347, -2.622130725, -1.22008697]),
}
CTRAN = [-3.236376694, -0.196155064, 0.6679654, -1.597657014, -0.380147217, 0.840532702]    # C-Tran's layer, y[0, 0, :6]


def released(key):
    """Our name -> the released one, which sets the order of the fill."""
    return re.sub(r"^encoder\.", "encoder.layers.", re.sub(r"^(layers|norm)\.", r"decoder.\1.", key))


def filled(encoder_layers, label_self):
    """The transformer of the goldens, width 32, 5 labels, filled by rule over the released names."""
    config = Q2LConfig(VIT, ff=64, encoder_layers=encoder_layers, decoder_layers=2, label_self=label_self)
    decoder = QueryDecoder(5, config).double().eval()
    state = decoder.state_dict()
    query = {"query": unit((5, 32), 50)}
    fill = values({released(key): value.shape for key, value in state.items() if key != "query"})
    decoder.load_state_dict({key: query[key] if key in query else fill[released(key)] for key in state})
    return decoder


def small(label_self=False, tasks=None, vit=VIT):
    """A float64 model in eval mode with random weights."""
    torch.manual_seed(0)
    return Q2L(Q2LConfig(vit, ff=64, label_self=label_self), tasks or {"labels": 5}).double().eval()


def images():
    return unit((2, 3, 32, 32), 9999)


@torch.no_grad()
@pytest.mark.parametrize("encoder_layers, label_self", GOLDEN)
def test_released_transformer_and_head(encoder_layers, label_self):
    """Q1: the released transformer, filled by rule, gives these hidden states and logits, and has as many parameters."""
    tensors, total, parameters, hidden, logits = GOLDEN[encoder_layers, label_self]
    decoder, head = filled(encoder_layers, label_self), GroupWiseLinear(5, 32).double()
    head.load_state_dict(values({"W": (1, 5, 32), "b": (1, 5)}))
    weights = [p for name, p in decoder.named_parameters() if name != "query"]
    assert len(weights) == tensors and sum(p.numel() for p in weights) == parameters
    assert sum(p.sum().item() for p in weights) == pytest.approx(total, abs=1e-6)
    x, pos = (unit((2, 32, 3, 3), idx).flatten(2).transpose(1, 2) for idx in (9999, 60))
    y, _ = decoder(x, pos)
    torch.testing.assert_close(y[0, 0, :4], torch.tensor(hidden, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(head(y).flatten(), torch.tensor(logits, dtype=torch.float64), atol=1e-8, rtol=0)


@torch.no_grad()
def test_ctran_layer_is_an_encoder_layer_without_position():
    """C-Tran's released layer (post-norm, feed-forward as wide as the model) is our encoder layer with pos = 0."""
    layer = EncoderLayer(Q2LConfig(VIT, ff=32)).double().eval()
    layer.load_state_dict(values({key: value.shape for key, value in layer.state_dict().items()}))
    y = layer(unit((2, 9, 32), 9999), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(y[0, 0, :6], torch.tensor(CTRAN, dtype=torch.float64), atol=1e-8, rtol=0)


def test_the_decoder_has_no_self_attention_by_default():
    """Q2: neither self-attention nor its norm is among the decoder's parameters, unless asked for."""
    keys = {label_self: [key for key in small(label_self).state_dict() if re.match(r"decoder\.layers\.\d\.(self_attn|norm1)", key)]
            for label_self in (False, True)}
    assert not keys[False] and len(keys[True]) == 2 * 6


@torch.no_grad()
@pytest.mark.parametrize("label_self", [False, True])
def test_permuted_labels_give_permuted_logits(label_self):
    """Q3: labels in another order, queries and heads alike, give logits and maps in that order."""
    model, order = small(label_self), torch.tensor([3, 0, 4, 1, 2])
    before = model(images())
    model.decoder.query.copy_(model.decoder.query[order])
    for parameter in (model.label_head.W, model.label_head.b):
        parameter.copy_(parameter[:, order])
    after = model(images())
    torch.testing.assert_close(after["logits"]["labels"], before["logits"]["labels"][:, order], atol=1e-12, rtol=0)
    torch.testing.assert_close(after["label_map"], before["label_map"][:, order], atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("label_self", [False, True])
def test_labels_are_independent_without_self_attention(label_self):
    """Q4: another label's query changes a label's logit only with decoder self-attention."""
    model = small(label_self)
    before = model(images())["logits"]["labels"]
    model.decoder.query[3] += torch.linspace(-1, 1, 32)
    moved = (model(images())["logits"]["labels"] - before).abs().amax(0)
    others = moved[[0, 1, 2, 4]]
    assert moved[3] > 1e-3
    assert (others > 1e-6).all() if label_self else (others < 1e-12).all()


@torch.no_grad()
def test_label_map_is_the_last_cross_attention():
    """The map is the explicit softmax of queries against patches, mean over heads; each row is a share of 1."""
    model = small()
    x = model.vit.encode(model.vit.embed(images()))[:, 1:]
    last = model.decoder.layers[-1].multihead_attn
    for layer in model.decoder.encoder:
        x = layer(x, model.position)
    y, _ = model.decoder.layers[0](torch.zeros_like(model.decoder.query).expand(2, -1, -1), model.decoder.query, x, model.position)
    weights, biases = last.in_proj_weight.chunk(3), last.in_proj_bias.chunk(3)
    q = F.linear(y + model.decoder.query, weights[0], biases[0]).unflatten(-1, (4, 8)).transpose(1, 2)
    k = F.linear(x + model.position, weights[1], biases[1]).unflatten(-1, (4, 8)).transpose(1, 2)
    expected = (q @ k.mT / 8 ** 0.5).softmax(-1).mean(1)
    label_map = model(images())["label_map"]
    torch.testing.assert_close(label_map, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(label_map.sum(-1), torch.ones(2, 5, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows, columns, dim", [(14, 14, 384), (3, 5, 8)])
def test_sine_position_against_a_loop(rows, columns, dim):
    """Feature by feature: angle 2 pi (place / places) / 10000^(2 floor(i / 2) / half), sine if i is even, else cosine."""
    position, half = sine_position((rows, columns), dim), dim // 2
    assert position.shape == (rows * columns, dim)
    for row, column in {(0, 0), (1, 2), (rows - 1, columns - 1)}:
        for i in range(half):
            for offset, place, places in ((0, row, rows), (half, column, columns)):
                angle = 2 * math.pi * (place + 1) / places / 10000 ** (2 * (i // 2) / half)
                expected = math.cos(angle) if i % 2 else math.sin(angle)
                assert position[row * columns + column, offset + i].item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("fields, expected", [
    ({}, 25_819_406), ({"ff": 2048, "encoder_layers": 0}, 26_013_582), ({"ff": 8192, "heads": 4}, 42_355_982)],
    ids=["default", "no encoder", "released"])
def test_parameters_on_vit_s(fields, expected):
    """ViT-S/16 with 14 labels: two ways to the 26 M of LT-ViT's Table 1, and the released widths."""
    with torch.device("meta"):
        model = Q2L(Q2LConfig(ViTConfig(), **fields), {"labels": 14})
    assert sum(p.numel() for p in model.parameters()) == expected


@torch.no_grad()
def test_the_decoder_reads_patch_tokens_only():
    """Class token and registers do not enter the decoder: the logits are those of the patch tokens after the final norm."""
    model = small(vit=replace(VIT, registers=2))
    x = model.vit.encode(model.vit.embed(images()))[:, 3:]
    y, _ = model.decoder(x, model.position)
    torch.testing.assert_close(model(images())["logits"]["labels"], model.label_head(y), atol=1e-12, rtol=0)


@torch.no_grad()
def test_starts_from_a_vanilla_file(tmp_path):
    """Of a plain ViT's file every backbone tensor is used, and its head ignored; decoder and head are new."""
    donor = ViT(replace(VIT, dim=192, heads=3, dropout=0.1), {"grade": 7}).eval()
    state = {key.replace("head.grade.", "head."): value for key, value in donor.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "vit.safetensors")
    args = parse(["--model", "q2l", "--pretrained", str(tmp_path / "vit.safetensors"), "--drop-path", "0.1"])
    model = Q2L.from_args(args, {"labels": 5}).eval()
    assert model.report.startswith(f"loaded {len(state) - 2}/{len(state) - 2} tensors") and model.report.endswith("ignored head")
    new = {key.split(".")[0] for key in model.state_dict() if key.removeprefix("vit.") not in state}
    assert new == {"decoder", "label_head"}
    imagenet = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))     # of a bare file whose head is called head
    assert model.config == Q2LConfig(replace(donor.config, drop_path=0.1, **imagenet), dropout=0.1)
    x = images().float()
    assert torch.equal(model.vit.encode(model.vit.embed(x)), donor.encode(donor.embed(x)))


def test_flags_reach_the_decoder():
    """--dropout, --ff, heads and layers: of the decoder too; the released size by flags."""
    args = parse(["--model", "q2l", "--dropout", "0.3", "--ff", "8192", "--decoder-heads", "4", "--encoder-layers", "0",
                  "--decoder-layers", "1"])
    args.image, args.patch, args.channels = "32x32", "8x8", 3
    config = Q2L.from_args(args, {"labels": 5}).config
    assert (config.dropout, config.ff, config.heads, config.encoder_layers, config.decoder_layers) == (0.3, 8192, 4, 0, 1)
    assert config.vit.dropout == 0.3


@pytest.mark.parametrize("fields, words", [(dict(decoder_layers=0), "decoder_layers 0"), (dict(ff=0), "ff 0"),
                                           (dict(heads=5), "5 heads"), (dict(vit=replace(VIT, dim=30, heads=3)), "width 30")])
def test_what_cannot_be_is_refused_in_one_line(fields, words):
    """Sizes that do not fit raise with the number given."""
    with pytest.raises(ValueError) as error:
        Q2LConfig(**{"vit": VIT, **fields})
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 110     # not the whole config


def test_no_label_is_refused():
    """A model without tasks has no query and says so."""
    with pytest.raises(ValueError, match="needs a task"):
        Q2L(Q2LConfig(VIT), {})


@torch.no_grad()
def test_shapes_pixels_and_tasks():
    """As LT-ViT: uint8 in; logits of several tasks split in order; label_map (B, L, T), no map of the class token."""
    model = Q2L(Q2LConfig(VIT), {"findings": 3, "devices": 2}).eval()
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    out, same = model(pixels), model((pixels / 255 - 0.5) / 0.5)
    assert model.inputs == ("image",) and list(out["logits"]) == ["findings", "devices"]
    assert out["logits"]["findings"].shape == (2, 3) and out["logits"]["devices"].shape == (2, 2)
    assert "map" not in out and out["label_map"].shape == (2, 5, 16)
    torch.testing.assert_close(out["logits"], same["logits"])


def test_config_survives_json():
    """asdict -> JSON -> config gives an equal config, the ViT's included."""
    config = Q2LConfig(VIT, ff=2048, encoder_layers=0, label_self=True)
    assert from_dict(Q2LConfig, json.loads(json.dumps(asdict(config))), "run") == config


def test_the_head_starts_as_released():
    """Weights and biases uniform within 1 / sqrt(D)."""
    model = Q2L(Q2LConfig(VIT, ff=64), {"labels": 500})
    bound = VIT.dim ** -0.5
    for parameter in model.label_head.parameters():
        assert parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.1)


def test_every_parameter_learns():
    """A training step's gradient reaches every parameter of ViT, encoder, decoder, queries and heads."""
    torch.manual_seed(0)
    model = Q2L(Q2LConfig(VIT, ff=64), {"labels": 5}).train()
    F.binary_cross_entropy_with_logits(model(torch.randn(8, 3, 32, 32))["logits"]["labels"], torch.ones(8, 5)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
