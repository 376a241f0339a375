"""daft.py, the network: the released implementation's outputs and parameter counts, and what each fusion may depend on."""
import json
from copy import deepcopy
from dataclasses import asdict, replace

import pytest
import torch

from daft import FUSIONS, LOCATIONS, DAFTConfig, ResNet
from plumbing.cohort import Column
from plumbing.flags import parse
from plumbing.weights import from_dict
from tests.golden import unit, values
from tests.plumbing.small_checkpoints import write
from tests.small_runs import slow_but

GOLDEN = {  # name: parameters, logits (2, 3) row by row
    "resnet": (56535, [-1.119542387, -0.178680958, -0.484370076, -1.08815841, -0.151532302, -0.432519076]),
    "concat1fc": (56580, [-0.87624918, -0.982300079, 0.08282808, -0.972962756, -0.869515054, 0.653141008]),
    "concat2fc": (56643, [-0.020415014, -0.073675026, -0.035770407, 0.274262381, -0.185988306, -0.174497363]),
    "mlpcatmlp": (56611, [-0.82892975, -0.649675432, 0.177974897, -1.03033095, -0.563315246, -0.080583569]),
    "duanmu": (56863, [0.132725325, -0.062125739, 0.066614922, 0.16900711, -0.049102942, 0.022116978]),
    "film_loc0": (56723, [-0.457341491, 0.36346607, -0.489948539, -0.418287576, 0.378560814, -0.786716328]),
    "daft_loc0": (56787, [-0.015016803, -0.033075253, -0.03569118, -0.058601889, 0.017898959, -0.04394081]),
    "film_loc1": (56723, [-0.407160768, 0.370764984, -0.551850152, -0.461379264, 0.297778132, -0.787780424]),
    "daft_loc1": (56787, [-0.092157967, 0.067522128, -0.190130929, -0.110280927, 0.102609098, -0.203439473]),
    "film_loc2": (56723, [0.068287543, -0.246615744, -0.180862014, 0.175741361, -0.270179285, -0.273744162]),
    "daft_loc2": (56787, [0.055796098, -0.306544937, -0.151540687, 0.096970119, -0.409028578, -0.176900941]),
    "film_loc3": (56787, [-1.13934612, -0.137333587, -0.369727554, -1.001245404, 0.007353011, -0.2985106]),
    "daft_loc3": (56915, [-1.128768235, -0.134786046, -0.365595232, -1.084129169, -0.094384711, -0.318117784]),
    "film_loc4": (56851, [0.118055093, -0.41593408, -0.150422981, 0.541295461, -0.685619232, -0.27429014]),
    "daft_loc4": (56979, [0.192717685, -0.334920075, -0.122730803, 0.091966986, -0.493956878, -0.156637258]),
    "daft_loc2_tanh": (56787, [0.05579295, -0.306542537, -0.151541282, 0.096970119, -0.409028578, -0.176900941]),
    "daft_loc2_sigmoid": (56787, [0.038518359, -0.271713747, -0.161466254, 0.095111023, -0.373463258, -0.2037419]),
    "daft_loc2_noscale": (56723, [0.041296678, -0.225992361, -0.18630155, 0.110085003, -0.330325171, -0.234323952]),
    "daft_loc2_noshift": (56723, [0.056483385, -0.308444265, -0.152542322, 0.096970119, -0.409028578, -0.176900941]),
}
SMALL = DAFTConfig(image=(32, 32, 32))


def config_of(name):
    """ "daft_loc2_noscale" -> its config."""
    fusion, *words = name.split("_")
    config = DAFTConfig((32,) * 3, fusion={"resnet": "image", "concat1fc": "concat-1fc", "concat2fc": "concat-2fc",
                                           "mlpcatmlp": "1fc-concat-1fc"}.get(fusion, fusion), tabular=15 * (fusion != "resnet"))
    said = {**{f"loc{i}": dict(location=i) for i in LOCATIONS}, "noscale": dict(scale=False), "noshift": dict(shift=False),
            "tanh": dict(activation="tanh"), "sigmoid": dict(activation="sigmoid")}
    for word in words:
        config = replace(config, **said[word])
    return config


def released_name(key, fusion):
    """Our name -> the released one, whose sorted order says which numbers a tensor is filled with."""
    last = "blockX" if fusion in ("film", "daft") else "block4"
    hidden = {"concat-2fc": "fc.fc1.", "1fc-concat-1fc": "mlp."}.get(fusion, "")
    pairs = {"stem.0.": "conv1.conv.", "stem.1.": "conv1.bn.", "blocks.0.": "block1.", "blocks.1.": "block2.", "blocks.2.": "block3.",
             "blocks.3.": f"{last}.", "shortcut.": "downsample.", "daft.W1.": "aux.aux_base.", "daft.W2.": "aux.aux_out.",
             "factors.0.0.": "aux.aux_base.", "factors.0.2.": "aux.aux_1.", "factors.1.": "aux_2.", "factors.2.": "aux_3.",
             "factors.3.": "aux_4.", "hidden.": hidden, "head.y.": "fc.fc2." if fusion == "concat-2fc" else "fc."}
    for ours, theirs in pairs.items():
        key = key.replace(ours, theirs)
    return key


def filled(config, outputs=3):
    """A float64 network in eval mode, filled by the rule of the goldens."""
    model = ResNet(config, {"y": outputs}).double().eval()
    names = {key: released_name(key, config.fusion) for key in model.state_dict()}
    flat = values({names[key]: value.shape for key, value in model.state_dict().items()})
    model.load_state_dict({key: flat[name] for key, name in names.items() if name in flat}, strict=False)
    return model


def inputs_of(model):
    batch = {"image": unit((2, 1, 32, 32, 32), 9999), "tabular": unit((2, 15), 777)}
    return [batch[name] for name in model.inputs]


@torch.no_grad()
@pytest.mark.parametrize("name", GOLDEN)
def test_released_outputs_and_parameter_counts(name):
    """D1, D2: nineteen networks filled by rule give the released implementation's logits, and have as many parameters."""
    model = filled(config_of(name))
    count, logits = GOLDEN[name]
    assert sum(p.numel() for p in model.parameters()) == count
    assert torch.allclose(model(*inputs_of(model))["logits"]["y"].flatten(), torch.tensor(logits, dtype=torch.float64), atol=1e-8, rtol=0)


def test_one_output_and_fourteen_columns_have_the_published_counts():
    """D2: 66 parameters fewer with one output; P = 14 as in the released README."""
    def count(outputs, **fields):
        return sum(p.numel() for p in ResNet(DAFTConfig(**fields), {"y": outputs}).parameters())
    for fusion in ("image", "film", "daft"):
        P = 15 * (fusion != "image")
        assert count(3, fusion=fusion, tabular=P) - count(1, fusion=fusion, tabular=P) == 66
    counts = [count(3, fusion=fusion, tabular=14) for fusion in ("concat-1fc", "concat-2fc", "1fc-concat-1fc", "duanmu", "film", "daft")]
    assert counts == [56577, 56639, 56607, 56855, 56719, 56783]
    assert count(3, fusion="linear") == 48


@torch.no_grad()
def test_who_sees_what():
    """`inputs` is true: only the entries it names are taken, and each of them changes the logits."""
    torch.manual_seed(0)
    image, tabular = torch.rand(2, 1, 16, 16, 16), torch.randn(2, 15)
    for fusion in FUSIONS:
        model = ResNet(DAFTConfig((16,) * 3, fusion=fusion, tabular=15 * (fusion != "image"), identity_init=True), {"y": 2}).eval()
        if fusion in ("film", "daft"):                             # identity_init starts it at zero
            torch.nn.init.normal_(model.blocks[3].daft.W2.weight)
        batch, other = {"image": image, "tabular": tabular}, {"image": image.flip(0), "tabular": tabular.flip(0)}
        logits = model(*(batch[name] for name in model.inputs))["logits"]["y"]
        for name in model.inputs:
            mixed = {**batch, name: other[name]}
            assert not torch.equal(logits, model(*(mixed[key] for key in model.inputs))["logits"]["y"]), (fusion, name)


@torch.no_grad()
def test_identity_init_starts_as_the_plain_network():
    """With it the networks with and without DAFT agree at the start; without it they do not."""
    plain = filled(replace(SMALL, fusion="image", tabular=0))
    image, tabular = inputs_of(filled(SMALL))
    for identity_init in (True, False):
        model = ResNet(replace(SMALL, identity_init=identity_init), {"y": 3}).double().eval()
        model.load_state_dict(plain.state_dict(), strict=False)
        same = torch.allclose(model(image, tabular)["logits"]["y"], plain(image)["logits"]["y"], atol=1e-12)
        assert same == identity_init


def test_linear_features_train_the_last_linear_only():
    """The ResNet gets no gradient, and its batch norms neither use the batch nor remember it."""
    model = ResNet(replace(SMALL, image=(16,) * 3, fusion="linear-features"), {"y": 2}).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image, tabular = torch.rand(4, 1, 16, 16, 16), torch.randn(4, 15)
    one = model(image[:1], tabular[:1])["logits"]["y"]
    out = model(image, tabular)["logits"]["y"]
    assert torch.allclose(one, out[:1], atol=1e-6)
    out.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.y.weight", "head.y.bias"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_volumes_of_bytes_are_normalized_and_photographs_work_too():
    """uint8 equals (x / 255 - mean) / std as float; two axes and three channels give a 2-D network."""
    torch.manual_seed(0)
    config = DAFTConfig((24, 16), 3, tabular=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    model = ResNet(config, {"a": 2, "b": 1}).eval()
    image, tabular = torch.randint(256, (2, 3, 24, 16), dtype=torch.uint8), torch.randn(2, 2)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (config.mean, config.std))
    out, same = model(image, tabular), model((image / 255 - mean) / std, tabular)
    assert all(torch.allclose(out["logits"][task], same["logits"][task], atol=1e-6) for task in "ab")
    assert out["logits"]["a"].shape == (2, 2) and out["features"].shape == (2, 32)


@pytest.mark.parametrize("fields, words", (
    (dict(fusion="sum"), "fusion 'sum' is not known"), (dict(location=5), "location 5"), (dict(activation="relu"), "'relu'"),
    (dict(scale=False, shift=False), "scale or shift"), (dict(tabular=0), "0 columns"), (dict(fusion="image"), "15 columns"),
    (dict(image=(64,)), "image (64,)"), (dict(std=(0.0,)), "stds above 0"), (dict(channels=3), "need 3 each")))
def test_what_cannot_be_built_is_said(fields, words):
    """One line, with what was given."""
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")) as error:
        DAFTConfig(**fields)
    assert "\n" not in str(error.value)


def test_config_survives_json():
    """config.json stores lists; the config comes back equal."""
    assert from_dict(DAFTConfig, json.loads(json.dumps(asdict(SMALL))), "run") == SMALL


@pytest.mark.slow
@pytest.mark.parametrize("fusion", slow_but(("linear", "concat-2fc", "duanmu", "daft"), "daft"))
def test_network_compiles_without_a_break(fusion):
    """One graph, the same numbers."""
    torch.compiler.reset()
    model = ResNet(DAFTConfig((8,) * 3, fusion=fusion), {"y": 2}).eval()
    batch = {"image": torch.rand(2, 1, 8, 8, 8), "tabular": torch.randn(2, 15)}
    inputs = [batch[name] for name in model.inputs]
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs)["logits"]["y"], model(*inputs)["logits"]["y"])


def test_a_copy_is_a_network_of_its_own():
    """deepcopy gives a network whose fusion reads the copy's layers, not those of the original."""
    model = ResNet(replace(SMALL, fusion="concat-2fc"), {"y": 3}).double().eval()
    image, tabular = inputs_of(model)
    before = model(image, tabular)["logits"]["y"]
    copy = deepcopy(model)
    torch.nn.init.zeros_(copy.hidden.weight)
    assert torch.equal(model(image, tabular)["logits"]["y"], before)
    assert not torch.equal(copy(image, tabular)["logits"]["y"], before)


def test_a_run_is_started_from_at_the_size_of_its_images(tmp_path):
    """--pretrained without --image: the sides that config.json states, and the run's weights but for its head and what read its table."""
    model = ResNet(replace(SMALL, tabular=1), {"y": 2})
    folder = write(tmp_path / "run", model.state_dict(), {"model": "fork", "fork": asdict(model.config)})
    for fusion in ("film", "daft"):
        args = parse(["--model", "daft", "--pretrained", str(folder), "--tabular", "a", "--fusion", fusion])
        again = ResNet.from_args(args, {"y": 2}, [Column("a", "number")])
        assert again.config.image == SMALL.image and torch.equal(again.stem[0].weight, model.stem[0].weight)
        assert again.head["y"].out_features == 2 and "new blocks.3.daft" in again.report


def test_only_the_image_alone_needs_no_table():
    """Every other row of Table 2 is refused without --tabular."""
    alone = [fusion for fusion in FUSIONS if not ResNet.needs_columns(parse(["--model", "daft", "--fusion", fusion, "--pretrained", "x"]))]
    assert alone == ["image"]


def test_a_run_without_an_image_network_starts_none(tmp_path):
    """--pretrained of a run of --fusion linear, which saw the table alone, is refused, not passed over."""
    model = ResNet(replace(SMALL, fusion="linear", tabular=2), {"y": 2})
    folder = write(tmp_path / "run", model.state_dict(), {"model": "daft", "daft": asdict(model.config)})
    args = parse(["--model", "daft", "--pretrained", str(folder), "--tabular", "a", "--image", "16x16x16", "--channels", "1"])
    with pytest.raises(ValueError, match="run: not a run of --model daft with a ResNet"):
        ResNet.from_args(args, {"y": 2}, [Column("a", "number")])
