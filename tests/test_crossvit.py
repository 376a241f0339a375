"""crossvit.py: the released code's logits, sizes and names, what it refuses, and how weights come in."""
import json
import re
from dataclasses import asdict, replace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from attention import KINDS
from crossvit import FUSIONS, CrossViT, CrossViTConfig, variant
from plumbing.architecture import crossvit_fields
from plumbing.flags import parse
from plumbing.names import crossvit_names
from plumbing.sizes import VARIANTS, grids_at
from plumbing.weights import from_dict
from tests.golden import unit, values
from tests.small_runs import slow_but

MINI = CrossViTConfig(grids=((4, 4), (2, 2)), dims=(24, 48), depths=(1, 2), encoders=2, heads=3, mlp=4)      # 48 and 32 px
GOLDEN = {  # of the released code: logits, first 3 logits of S and of L; 10 classes
    "Ti": ([-0.174188675, -0.564936131, -0.751983842, -0.959503874, 1.291119658,
            0.994521524, 0.474545928, 0.932424171, 0.302467205, 0.562899762],
           [-1.788284745, 0.438715798, -0.816831497], [1.439907396, -1.56858806, -0.687136187]),
    "S": ([-0.065829292, -1.121842711, 0.623735422, 0.051432112, 0.585064454,
           -0.45416245, -0.373312229, 0.078260905, 0.661119463, 0.213268168],
          [-0.089828209, -1.159872524, 0.184571546], [-0.041830376, -1.083812898, 1.062899298]),
    "9": ([1.118554047, -0.496195459, 0.318348393, 0.395693156, 0.824018062,
           0.132054845, -0.20155494, -0.144241369, 0.386736607, -0.30002018],
          [1.245040061, -1.041689867, 0.740983874], [0.992068034, 0.049298949, -0.104287088]),
    "15": ([-0.519537904, 0.43232452, 0.012851916, -0.796265201, -0.153959535,
            0.085615821, 0.843144072, 0.633229201, 0.391166333, -0.413533419],
           [-0.961618054, 1.133270198, 0.18832296], [-0.077457755, -0.268621158, -0.162619128]),
    "18": ([0.947696802, 1.739235349, 0.616577806, 0.782206958, -0.029470362,
            -0.137578376, 0.488931595, -0.278804169, -0.1089673, -0.549405119],
           [-0.477707231, 0.524674312, 1.178874801], [2.373100835, 2.953796385, 0.05428081]),
    "9+": ([0.287709803, 0.587370177, 0.211100543, -0.566172367, 0.35091055,
            -0.538748937, -0.807290024, -0.502585456, 1.187714006, 0.21458512],
           [-0.501924901, 0.942298775, -0.345947799], [1.077344508, 0.232441579, 0.768148886]),
    "15+": ([-0.125593081, 0.958483059, -0.262388607, -0.156055709, 0.016135117,
             -0.429604667, 1.069556001, 0.836194665, 1.498911229, -0.798866388],
            [1.025613406, 1.009318588, 0.269793406], [-1.276799568, 0.907647529, -0.794570621]),
    "18+": ([-0.434351807, 1.131714663, -0.284045779, 0.318433384, -0.139289962,
             -0.075862883, -0.109374408, -0.333214684, -0.397238277, -1.398466482],
            [-1.264156537, 0.119085199, 0.794289552], [0.395452923, 2.144344126, -1.362381111]),
}
MINI_GOLDEN = {  # cross_depth: keys, logits (2, 10) row by row
    1: (160, [-0.600253054, 0.294346586, 0.059021966, 1.675343691, -0.381351691, -0.60325643, -0.952840227, 0.856362802,
              -1.070046178, 0.69844258, -0.858019177, 0.417387846, 0.317168691, 2.020684995, -0.693574025, 0.163133854,
              -1.192137273, 0.984109442, -0.495662827, 1.00833454]),
    2: (200, [-1.292904397, -1.229422281, 0.008596162, 0.513650286, 0.739452493, 0.80177496, -0.101894969, 0.197600619,
              -0.389840196, -0.791484938, -0.835298457, -1.6089209, -0.308222958, 0.091209056, 0.880577506, 0.417819372,
              -0.390575327, 0.807963218, -0.609273814, -0.731792479]),
}
PUBLISHED = {  # parameters with 1000 and with 2 classes, keys, multiply-adds in G of the released code
    "Ti": (7014800, 6725380, 304, 1.563), "S": (26856272, 26279428, 304, 5.616), "B": (105025232, 103873540, 304, 21.191),
    "9": (8553296, 8168068, 268, 1.841), "15": (27528464, 26951620, 340, 5.791), "18": (43271408, 42598756, 376, 9.031),
    "9+": (8776592, 8391364, 276, 1.979), "15+": (28209008, 27632164, 348, 6.112), "18+": (44266976, 43594324, 384, 9.473),
    "15+@384": (28500080, 27923236, 348, 21.399), "18+@384": (44606560, 43933908, 384, 32.409),
    "18+@480": (44887904, 44887904 - 672 * 998 - 2 * 998, 384, 56.602),
}
ABLATIONS = {  # changes to CrossViT-S: multiply-adds in G, parameters (None: not known)
    "fusion none": (dict(fusion="none"), 5.3497, 23738960), "fusion class": (dict(fusion="class"), 5.3501, 24186512),
    "fusion pairwise": (dict(fusion="pairwise"), 5.527, 24186512), "fusion all": (dict(fusion="all"), 7.583, 26854544),
    "Table 7 A": (dict(patch=(8, 16), image=(224, 224)), 6.731, None), "Table 7 C": (dict(depths=(2, 4)), 6.333, None),
    "Table 7 D": (dict(cross_depth=2), 5.618, None), "Table 7 E": (dict(encoders=6, depths=(1, 2)), 6.599, None),
}
WITHOUT_POSITIONS = {"Table 7 A": 26.657e6, "Table 7 C": 28.04e6, "Table 7 D": 28.93e6, "Table 7 E": 31.15e6}


def released_names(tensors, timm=False):
    """Our names -> IBM's, or timm's; ValueError when there is more than one task."""
    tasks = {key.split(".")[2] for key in tensors if key.startswith("head.")}
    if len(tasks) > 1:
        raise ValueError(f"the released CrossViT has one head a branch, this model has the tasks {', '.join(sorted(tasks))}")
    names = {key: re.sub(r"^(head\.[01])\.[^.]+(?=\.\w+$)", r"\1", key) for key in tensors}
    if timm:
        names = {key: re.sub(r"^(pos_embed|cls_token)\.", r"\1_", name) for key, name in names.items()}
    return {names[key]: tensor for key, tensor in tensors.items()}


@pytest.fixture
def known_mini(monkeypatch):
    """MINI among the variants, whose widths give the number of heads of a released file."""
    monkeypatch.setitem(VARIANTS, "mini", ("linear", MINI.dims, MINI.heads, 2, MINI.mlp, 48))


def filled(config, outputs=10):
    """A float64 model in eval mode, filled by the rule of the goldens over the released names."""
    with torch.device("meta"):
        model = CrossViT(config, {"a": outputs})
    state = released_names(model.state_dict())
    model.load_state_dict(crossvit_names(values({key: value.shape for key, value in state.items()}), "a"), assign=True)
    for name in ("mean", "std"):                                   # not in the state
        setattr(model.normalize, name, torch.tensor(getattr(config, name)).view(-1, 1, 1))
    return model.double().eval()


def shapes_and_flops(config):
    """-> a model of 1000 classes without numbers, its output, and its multiply-adds in G."""
    def sdpa(q, k, v, *_, **__):                                   # which the counter does not know on the CPU
        return 4 * q[0] * q[1] * q[2] * k[2] * q[3]
    with torch.device("meta"):
        model = CrossViT(config, {"a": 1000})
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa})
    with FakeTensorMode(allow_non_fake_inputs=True), counter, torch.no_grad():
        out = model.to_empty(device="cpu").eval()(torch.empty(1, 3, *config.image))
    return model, out, counter.get_total_flops() / 2e9


def size(model):
    return sum(p.numel() for p in model.parameters())


# -----------------------------------------------------------------------------
# numbers


@pytest.mark.parametrize("name", slow_but(GOLDEN, "Ti", "9", "9+"))
def test_logits_are_those_of_the_released_code(name):
    """C1: the golden logits of 8 variants, and each branch's, in float64."""
    logits, S, L = (torch.tensor(numbers, dtype=torch.float64) for numbers in GOLDEN[name])
    model = filled(variant(name))
    assert len(model.state_dict()) == PUBLISHED[name][2]
    with torch.no_grad():
        out = model(unit((1, 3, 240, 240), 9999))
    torch.testing.assert_close(out["logits"]["a"][0], logits, atol=1e-8, rtol=0)
    torch.testing.assert_close(out["branch_logits"]["a"][0, :, :3], torch.stack([S, L]), atol=1e-8, rtol=0)


@pytest.mark.parametrize("cross_depth", MINI_GOLDEN)
def test_small_nets_give_the_released_logits(cross_depth):
    """C4: two small nets, of one and of two cross attentions."""
    keys, logits = MINI_GOLDEN[cross_depth]
    model = filled(replace(MINI, cross_depth=cross_depth))
    assert len(model.state_dict()) == keys
    out = model(unit((2, 3, 48, 48), 9999))["logits"]["a"]
    torch.testing.assert_close(out.flatten(), torch.tensor(logits, dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_keys_are_the_published_ones(name):
    """C2: exact counts with 1000 and with 2 classes, and keys."""
    parameters, two_classes, keys, _ = PUBLISHED[name]
    with torch.device("meta"):
        model, smaller = CrossViT(variant(name), {"a": 1000}), CrossViT(variant(name), {"a": 2})
    assert (size(model), len(model.state_dict()), size(smaller)) == (parameters, keys, two_classes)


@pytest.mark.parametrize("name", slow_but(VARIANTS))
def test_flops_are_the_published_ones(name):
    """C7: multiply-adds within 1 %; shapes of what comes back."""
    model, out, counted = shapes_and_flops(variant(name))
    assert counted == pytest.approx(PUBLISHED[name][3], rel=0.01)
    T = [vit.tokens for vit in model.config.branches]
    for key in ("map", "cross_map"):
        assert [tuple(map.shape) for map in out[key]] == [(1, model.config.heads, t) for t in T]


@pytest.mark.parametrize("name", slow_but(ABLATIONS))
def test_ablations_have_the_published_size(name):
    """Table 6 and Table 7: multiply-adds within 1 %, parameters exact where they are known."""
    changes, gmacs, parameters = ABLATIONS[name]
    model, _, counted = shapes_and_flops(variant("S", **changes))
    assert counted == pytest.approx(gmacs, rel=0.01)
    assert parameters is None or size(model) == parameters
    if name in WITHOUT_POSITIONS:
        tokens = sum(p.numel() for key, p in model.named_parameters() if key.startswith(("pos_embed", "cls_token")))
        assert size(model) - tokens == pytest.approx(WITHOUT_POSITIONS[name], abs=6e3)


def test_sizes_of_l_are_integers():
    """L is 14/15 of S, rounded up to whole patches: the published sizes, and no 89 px for 96."""
    sizes = {side: variant("15", image=(side, side)).branches[1].image[0] for side in (96, 120, 240, 408, 504)}
    assert sizes == {96: 96, 120: 112, 240: 224, 408: 384, 504: 480}
    for name, side in (("15+@384", 408), ("18+@480", 504)):
        assert variant(name).grids == variant("15", image=(side, side)).grids


# -----------------------------------------------------------------------------
# the model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_and_attention_trains(fusion, kind):
    """Small steps downhill lower the loss, every parameter has a gradient, and the attention is where it was asked for."""
    torch.manual_seed(0)
    model = CrossViT(replace(MINI, fusion=fusion, attention=kind), {"a": 3, "b": 1})
    assert all(block.attn.kind == kind for encoder in model.blocks for blocks in encoder.blocks for block in blocks)
    image, target = torch.randn(2, 3, 48, 48), torch.tensor([0, 1])
    optimizer, losses = torch.optim.SGD(model.parameters(), 1e-6), []
    for step in range(3):
        logits = model(image)["logits"]
        loss = F.cross_entropy(logits["a"], target) + logits["b"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        missing = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]
        assert all(p.requires_grad or kind == "seqnorm" and name.endswith("attn.qkv.bias") for name, p in model.named_parameters())
        assert not missing
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_logits_are_the_mean_of_the_branches():
    """C6, for several tasks; one branch's head moves only its own half."""
    model = CrossViT(MINI, {"a": 3, "b": 1}).eval()
    image = torch.randn(2, 3, 48, 48)
    out = model(image)
    assert {task: tuple(both.shape) for task, both in out["branch_logits"].items()} == {"a": (2, 2, 3), "b": (2, 2, 1)}
    for task in "ab":
        torch.testing.assert_close(out["logits"][task], (out["branch_logits"][task][:, 0] + out["branch_logits"][task][:, 1]) / 2)
    torch.nn.init.ones_(model.head[0]["a"].bias)
    moved = model(image)["branch_logits"]["a"] - out["branch_logits"]["a"]
    torch.testing.assert_close(moved, torch.tensor([1., 0])[None, :, None].expand(2, 2, 3))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_maps_are_of_the_last_encoder(fusion):
    """map: what the last block of each branch gives; cross_map: only where there is cross attention; shares below 1."""
    model = CrossViT(replace(MINI, fusion=fusion), {"a": 3}).eval()
    seen = []
    for blocks in model.blocks[-1].blocks:
        blocks[-1].register_forward_hook(lambda module, args, out: seen.append(out[1]))
    out = model(torch.randn(2, 3, 48, 48))
    assert all(map is got for map, got in zip(out["map"], seen)) and ("cross_map" in out) == (fusion == "cross")
    for map in (*out["map"], *out.get("cross_map", ())):
        assert map.shape[1] == 3 and (map > 0).all() and (map.sum(-1) < 1).all()


def test_bytes_and_normalized_floats_give_the_same():
    """uint8 is normalized inside, with the statistics of ImageNet."""
    model = CrossViT(MINI, {"a": 3}).eval()
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(model(image)["logits"]["a"], model((image / 255 - mean) / std)["logits"]["a"])


def test_images_need_not_be_square():
    """Rows and columns have their own grids, up to the maps."""
    config = replace(MINI, grids=grids_at((48, 72), MINI.patch))
    assert config.grids == ((4, 6), (3, 5)) and [vit.image for vit in config.branches] == [(48, 72), (48, 80)]
    for fusion in FUSIONS:
        out = CrossViT(replace(config, fusion=fusion), {"a": 3}).eval()(torch.randn(1, 3, 48, 72))
        assert [map.shape[-1] for map in out["map"]] == [24, 15]


def test_stochastic_depth_has_the_released_schedule():
    """CrossViT-15 at 0.1: an encoder's blocks have their slice of the ramp in either branch, the fusion its end."""
    with torch.device("meta"):
        model = CrossViT(variant("15", drop_path=0.1), {"a": 2})
    ramp = [0.1 * i / 14 for i in range(15)]
    for k, encoder in enumerate(model.blocks):
        S, L = ([block.ls1.drop_path for block in blocks] for blocks in encoder.blocks)
        assert L == pytest.approx(ramp[5 * k:5 * k + 5]) and S == pytest.approx(ramp[5 * k:5 * k + 1])
        assert [attend.residual.drop_path for attend in encoder.fusion] == pytest.approx([ramp[5 * k + 4]] * 2)
    assert [round(encoder.fusion[0].residual.drop_path, 4) for encoder in model.blocks] == [0.0286, 0.0643, 0.1]
    with torch.device("meta"):                                     # L cross attentions lengthen the ramp by L
        model = CrossViT(replace(MINI, cross_depth=2, drop_path=0.7), {"a": 2})
    assert [block.ls1.drop_path for block in model.blocks[1].blocks[1]] == pytest.approx([0.4, 0.5])
    assert [attend.residual.drop_path for attend in model.blocks[1].fusion[0]] == pytest.approx([0.7, 0.7])


def test_dropout_differs_between_samples():
    """Also for the class token, which all samples share until then."""
    model = CrossViT(replace(MINI, dropout=0.5), {"a": 2})
    image = torch.zeros(2, 3, 48, 48)
    assert not any(torch.equal(x[0, :1], x[1, :1]) for x in model.embed(image))
    assert all(torch.equal(x[0], x[1]) for x in model.eval().embed(image))


def test_drop_path_leaves_out_the_fusion_of_some_samples():
    """At a rate of 0.5 the fusion adds nothing or twice as much, sample by sample; in eval mode always once."""
    fusion = CrossViT(replace(MINI, drop_path=0.5), {"a": 2}).blocks[-1].fusion[0]
    x = torch.randn(64, 5, 48)
    once = fusion.eval()(x)[0] - x[:, :1]
    y = fusion.train()(x)[0] - x[:, :1]
    dropped = (y == 0).all(-1).squeeze(1)
    assert 10 < dropped.sum() < 54
    torch.testing.assert_close(y[~dropped], 2 * once[~dropped], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_bfloat16_autocast_comes_close(fusion):
    """The precision of training on a GPU: nearly the same logits, and gradients for all."""
    model = CrossViT(replace(MINI, fusion=fusion), {"a": 3})
    image = torch.randn(2, 3, 48, 48)
    expected = model(image)["logits"]["a"]
    with torch.autocast("cpu", torch.bfloat16):
        got = model(image)["logits"]["a"]
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.05)
    got.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_model_compiles_without_a_break():
    """One graph, the same numbers."""
    model = CrossViT(MINI, {"a": 3}).eval()
    image = torch.randn(2, 3, 48, 48)
    expected = model(image)["logits"]["a"]
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(image)["logits"]["a"], expected)


@pytest.mark.parametrize("make, words", [
    (lambda: variant("15", image=(224, 224)), ["224", "12 px", "(216, 216) or (228, 228)"]),
    (lambda: variant("15", image=(240, 250)), ["(240, 250)", "(240, 240) or (252, 252)"]),
    (lambda: variant("16"), ["'16'", "15+@384"]),
    (lambda: variant("15", fusion="sum"), ["'sum'", "pairwise"]),
    (lambda: variant("15", fusion="class", cross_depth=2), ["class", "2", "cross"]),
    (lambda: variant("15", patch=(8, 16), stem="conv"), ["conv", "(8, 16)", "12 or 16"]),
    (lambda: variant("15", attention="linear"), ["'linear'", "seqnorm"]),
    (lambda: variant("15", heads=5), ["192", "5 heads"]),
    (lambda: variant("15", encoders=0), ["encoders 0: need 1 <= x < 100"]),
    (lambda: variant("15", depths=(1, 2, 3)), ["pairs", "depths=(1, 2, 3)"]),
    (lambda: variant("15", channels=1), ["need 1", "std (0.229, 0.224, 0.225)"]),
    (lambda: CrossViT(MINI)(torch.zeros(1, 3, 48, 60)), ["(48, 60)", "(48, 48)"]),       # official: silently resized or a crash
])
def test_wrong_requests_end_in_words(make, words):
    """Each names what was given and what is needed, on one line."""
    with pytest.raises(ValueError) as error:
        CrossViT(config) if isinstance(config := make(), CrossViTConfig) else None
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), str(error.value)


# -----------------------------------------------------------------------------
# files


def write(folder, state, config=None):
    """A folder as on the Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_names_survive_the_round_trip():
    """C3: ours -> IBM's -> ours and ours -> timm's -> ours, strict; no new name in what is released; one task only."""
    for name in VARIANTS:
        with torch.device("meta"):
            state = CrossViT(variant(name), {"a": 2}).state_dict()
        official, timm = released_names(state), released_names(state, timm=True)
        assert list(crossvit_names(official, "a")) == list(crossvit_names(timm, "a")) == list(state)
        assert {key for key in official if key not in timm} == {f"{x}.{b}" for x in ("pos_embed", "cls_token") for b in (0, 1)}
        assert {key for key in official if key.startswith("head")} == {f"head.{b}.{x}" for b in (0, 1) for x in ("weight", "bias")}
    model = CrossViT(MINI, {"a": 2})
    model.load_state_dict(crossvit_names({"module._orig_mod.net." + key: value for key, value in released_names(model.state_dict()).items()}, "a"))
    with pytest.raises(ValueError, match="tasks a, b"):
        released_names(CrossViT(MINI, {"a": 2, "b": 1}).state_dict())


def test_released_files_load_whole(tmp_path):
    """An IBM .pth and a timm folder: architecture from the tensors, every tensor loaded, the same logits."""
    model = CrossViT(variant("9", encoders=1, depths=(1, 2)), {"a": 7}).eval()
    torch.save(released_names(model.state_dict()), tmp_path / "crossvit_9_224.pth")
    timm = {"architecture": "crossvit_9_240", "num_classes": 7, "pretrained_cfg": {
        "input_size": [3, 240, 240], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "classifier": ["head.0", "head.1"]}}
    folder = write(tmp_path / "crossvit_9_240.in1k", released_names(model.state_dict(), timm=True), timm)
    image = torch.randn(1, 3, 240, 240)
    for name in (str(tmp_path / "crossvit_9_224.pth"), folder):
        loaded = CrossViT.from_pretrained(name, tasks={"a": 7}).eval()
        numbers = "mean 0.485 0.456 0.406 std 0.229 0.224 0.225 (assumed)" if name != folder else "mean 0.5 0.5 0.5 std 0.25 0.25 0.25"
        assert loaded.report == f"loaded {len(model.state_dict())}/{len(model.state_dict())} tensors from {name}, {numbers}, kept head.0.a head.1.a"
        assert torch.equal(loaded(image)["logits"]["a"], model(image)["logits"]["a"])
        assert replace(loaded.config, mean=model.config.mean, std=model.config.std) == model.config
    assert (loaded.config.mean, loaded.config.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("name", [*VARIANTS, "L2", "E"])
def test_architecture_is_read_from_the_tensors(name):
    """Every variant, without config.json, from IBM's and from timm's names; also rows D and E of Table 7."""
    config = {"L2": variant("S", cross_depth=2), "E": variant("S", encoders=6, depths=(1, 2))}.get(name) or variant(name)
    with torch.device("meta"):
        state = CrossViT(config, {"a": 2}).state_dict()
    for timm in (False, True):
        fields = crossvit_fields(crossvit_names(released_names(state, timm)))
        assert from_dict(CrossViTConfig, fields, name) == config


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_own_folder_round_trips(tmp_path, stem):
    """config.json keeps what tensors do not tell (fusion, attention, grids), as JSON; several tasks keep their heads."""
    config = replace(MINI, stem=stem, grids=grids_at((48, 72), MINI.patch), fusion="pairwise", attention="sima", drop_path=0.1)
    assert from_dict(CrossViTConfig, json.loads(json.dumps(asdict(config))), "run") == config
    model = CrossViT(config, {"a": 3, "weight": 1}).eval()
    folder = write(tmp_path / "run", model.state_dict(), {"model": "fork", "fork": asdict(config)})
    loaded = CrossViT.from_pretrained(folder, tasks={"a": 3, "weight": 1}).eval()
    keys = len(model.state_dict())
    assert loaded.config == config and loaded.report == (
        f"loaded {keys}/{keys} tensors from {folder}, mean 0.485 0.456 0.406 std 0.229 0.224 0.225, kept head.0.a head.0.weight head.1.a head.1.weight")
    image = torch.randn(1, 3, 48, 72)
    assert torch.equal(loaded(image)["logits"]["weight"], model(image)["logits"]["weight"])


def test_a_run_keeps_its_fusion_unless_a_flag_says_other(tmp_path):
    """--pretrained of a run with another fusion than the default needs no --fusion; one that fits its tensors is said to be another."""
    run = write(tmp_path / "run", CrossViT(replace(MINI, fusion="pairwise")).state_dict(),
                {"model": "crossvit", "crossvit": asdict(replace(MINI, fusion="pairwise"))})
    for more, kind in (((), "pairwise"), (("--fusion", "class"), "class")):
        model = CrossViT.from_args(parse(["--model", "crossvit", "--pretrained", run, *more]), {})
        assert model.config.fusion == kind and ("without its pairwise fusion" in model.report) == (kind == "class")
    assert parse(["--model", "crossvit"]).fusion == "cross"


def test_positions_are_resized_in_each_branch(tmp_path, known_mini):
    """48 -> 96 px: 4x4 -> 8x8 and 2x2 -> 6x6; a constant stays, the class token's row stays, a ramp keeps its direction."""
    model = CrossViT(MINI, {"a": 3})
    with torch.no_grad():
        for b, side in enumerate((4, 2)):
            model.pos_embed[b][0, 1:, 0] = 7.
            model.pos_embed[b][0, 1:, 1] = torch.arange(float(side)).repeat_interleave(side)
    folder = write(tmp_path / "m", released_names(model.state_dict(), timm=True))
    loaded = CrossViT.from_pretrained(folder, image=(96, 96), tasks={"a": 3})
    assert loaded.config.grids == ((8, 8), (6, 6))
    assert "resized pos_embed.0 4x4 -> 8x8 (antialiased, which transformers is not), resized pos_embed.1 2x2 -> 6x6 (" in loaded.report
    assert "mean 0.485 0.456 0.406 std 0.229 0.224 0.225 (assumed)" in loaded.report
    for b, side in enumerate((8, 6)):
        assert torch.equal(loaded.pos_embed[b][0, 0], model.pos_embed[b][0, 0])
        grid = loaded.pos_embed[b][0, 1:].unflatten(0, (side, side))
        torch.testing.assert_close(grid[..., 0], torch.full((side, side), 7.))
        assert (grid[1:, :, 1] > grid[:-1, :, 1]).all() and torch.allclose(grid[:, 1:, 1], grid[:, :-1, 1], atol=1e-5)
    assert loaded(torch.randn(1, 3, 96, 96))["logits"]["a"].shape == (1, 3)
    again = CrossViT.from_pretrained(folder, image=(48, 48), tasks={"a": 3})    # the size it has
    assert again.config.grids == MINI.grids                        # whatever the rule says
    assert again.report.startswith(f"loaded 160/160 tensors from {folder}, mean")


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_new_heads_and_one_channel(tmp_path, stem, known_mini):
    """Other classes get new heads, said in the report; a gray image gives what three equal channels give."""
    model = CrossViT(replace(MINI, stem=stem), {"a": 3}).eval()
    folder = write(tmp_path / "m", released_names(model.state_dict()))
    loaded = CrossViT.from_pretrained(folder, tasks={"x": 5, "y": 1}, channels=1).eval()
    assert "mean 0.485 0.456 0.406 std 0.229 0.224 0.225 (assumed), patch_embed from 3 to 1 channels" in loaded.report
    assert loaded.report.endswith("new head.0.x head.0.y head.1.x head.1.y, ignored head")
    gray = torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8)   # each model normalizes by its own mean and std
    for a, b in zip(loaded(gray)["map"], model(gray.expand(-1, 3, -1, -1))["map"]):
        border = 1e-3 if stem == "conv" else 1e-5                  # its padding is 0 in three channels, not in one
        torch.testing.assert_close(a, b, atol=border, rtol=0.01)
    assert loaded.config.mean == pytest.approx((sum(MINI.mean) / 3,)) and not loaded.head[0]["x"].bias.any()
    other = CrossViT.from_pretrained(folder, tasks={"x": 4})                             # one task, another size
    assert "new head.0.x head.1.x" in other.report
    bare = CrossViT.from_pretrained(folder, attention="seqnorm", dropout=0.1)
    assert "blocks.0.blocks.0.0.attn" in bare.report and not bare(torch.randn(1, 3, 48, 48))["logits"]


def test_files_that_do_not_fit_are_refused(tmp_path, known_mini):
    """A tensor is missing, misshapen or not finite; another model's file; unknown heads: one line with name and shapes."""
    state = released_names(CrossViT(MINI, {"a": 3}).state_dict())
    query, norm = "blocks.1.fusion.0.attn.wq.weight", "blocks.0.projs.1.0.weight"
    cases = {
        "missing": ({k: v for k, v in state.items() if k != query}, f"{query}: model (48, 48), file has none"),
        "shape": ({**state, norm: torch.zeros(24)}, f"{norm}: model (48,), file (24,)"),
        "extra": ({**state, "blocks.7.norm": torch.zeros(2)}, "7"),
        "nan": ({**state, query: torch.full((48, 48), float("nan"))}, query),
        "vit": ({"cls_token": torch.zeros(1, 1, 8), "pos_embed": torch.zeros(1, 5, 8)}, "patch_embed.0.proj.weight is missing"),
        "axes": ({**state, "pos_embed.0": torch.zeros(3)}, "pos_embed.0 is missing or has the wrong number of axes"),
        "square": ({**state, "pos_embed.1": torch.zeros(1, 6, 48)}, "pos_embed.1: model (1, 5, 48), file (1, 6, 48)"),
    }
    for name, (tensors, words) in cases.items():
        with pytest.raises(ValueError) as error:
            CrossViT.from_pretrained(write(tmp_path / name, tensors), tasks={"a": 3})
        assert words in str(error.value) and name in str(error.value) and "\n" not in str(error.value), str(error.value)
    with pytest.raises(ValueError, match="run: is not a CrossViT this code knows: patch_embed.0.proj.weight is missing"):      # not of CrossViTConfig
        CrossViT.from_pretrained(write(tmp_path / "run", {"cls_token": torch.zeros(1, 1, 8)}, {"model": "vit", "vit": {"image": (8, 8)}}))
    good = write(tmp_path / "good", state)
    wide = released_names(CrossViT(replace(MINI, dims=(24, 60)), {"a": 3}).state_dict())
    with pytest.raises(ValueError, match=r"widths \(24, 60\) are of no known variant.*heads is not in the file"):
        CrossViT.from_pretrained(write(tmp_path / "wide", wide))
    with pytest.raises(ValueError, match="blocks.0.fusion.0.attn.proj.bias: model has none"):
        CrossViT.from_pretrained(good, fusion="class")
    with pytest.raises(ValueError, match="multiple of CrossViT's small patch, 12 px"):
        CrossViT.from_pretrained(good, image=(50, 50))
    with pytest.raises(ValueError, match="does not fit CrossViTConfig"):
        CrossViT.from_pretrained(write(tmp_path / "own", state, {"model": "crossvit", "crossvit": {"wings": 2}}))


def test_timm_agrees():
    """The model that a user would pick instead, when it is installed: random weights, the same logits."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("crossvit_9_240", num_classes=5).eval()
    ours = CrossViT(variant("9"), {"a": 5}).eval()
    ours.load_state_dict(crossvit_names(theirs.state_dict(), "a"))
    assert sorted(released_names(ours.state_dict(), timm=True)) == sorted(theirs.state_dict())
    image = torch.randn(2, 3, 240, 240)
    torch.testing.assert_close(ours(image)["logits"]["a"], theirs(image), atol=1e-5, rtol=1e-4)
