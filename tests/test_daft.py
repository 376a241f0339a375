"""daft.py: the released implementation's outputs and parameter counts, the block against loops, what may depend on what."""
import json
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F

from daft import DAFT, FUSIONS, LOCATIONS, DAFTConfig, DAFTViT, DAFTViTConfig, ResBlock, ResNet
from tests.golden import unit, values
from vit import ViT, ViTConfig

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
    assert DAFT(4, 4, 3, 2, scale=False).affine(x, t)[0] == 1.0 and DAFT(4, 4, 3, 2, shift=False).affine(x, t)[1] == 0.0
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
    x = vit.blocks[0](vit.embed(image))                            # (B, 1 + T, D)
    alpha, beta = (1 + model.daft.W2(F.relu(model.daft.W1(torch.cat([x.mean(1), tabular], 1))))).chunk(2, 1)
    x = vit.norm(vit.blocks[1](x * alpha[:, None] + beta[:, None] - 1))
    assert torch.allclose(model(image, tabular)["logits"]["y"], vit.head["y"](x[:, 0]), atol=1e-4)
    assert not torch.allclose(model(image, -tabular)["logits"]["y"], model(image, tabular)["logits"]["y"], atol=1e-3)


@pytest.mark.parametrize("fields, words", (
    (dict(fusion="sum"), "fusion 'sum' is not known"), (dict(location=5), "location 5"), (dict(activation="relu"), "'relu'"),
    (dict(scale=False, shift=False), "scale or shift"), (dict(tabular=0), "0 columns"), (dict(fusion="image"), "15 columns"),
    (dict(image=(64,)), "image (64,)"), (dict(std=(0.0,)), "stds above 0"), (dict(channels=3), "3 channels")))
def test_what_cannot_be_built_is_said(fields, words):
    """One line, with what was given."""
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")) as error:
        DAFTConfig(**fields)
    assert "\n" not in str(error.value)


def test_configs_survive_json():
    """config.json stores lists; both configs come back equal."""
    for config in (SMALL, DAFTViTConfig(ViTConfig(), 3)):
        assert type(config)(**json.loads(json.dumps(asdict(config)))) == config
