"""multivit.py against the released implementation's numbers, and the properties the paper claims."""
import json
import os
from dataclasses import asdict

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from multivit import MODES, MultiViT, MultiViTConfig
from plumbing.cohort import Task
from plumbing.flags import parse
from tests.golden import unit, values
from plumbing.models import freeze
from train import known_counts, model_loss
from vit import ViT, ViTConfig

GOLDEN = json.load(open(os.path.join(os.path.dirname(__file__), "fixtures", "multivit.json")))
MINI = ViTConfig(image=(32, 32), patch=(8, 8), dim=32, depth=6, heads=4, mlp=64, eps=1e-12)
TASKS = [Task("pasi", "regression"), Task("pga", "classes", tuple("012345"))]
OUTPUTS = {"pasi": 1, "pga": 6}
CONFIGS = {"Baseline": ("baseline", 1), "Partial-3-1": ("partial", 1), "Partial-3-2": ("partial", 2),
           "Multi-3-1": ("multi", 1), "Multi-3-2": ("multi", 2)}


def make(mode, r, cls_token="stage2", vit=MINI, n=3):
    torch.manual_seed(0)
    return MultiViT(MultiViTConfig(vit, mode, n, r, cls_token, (16, 16)), OUTPUTS).eval()


def released_weights(model):
    """Fill the model by the hash rule of the golden files, which counts the released code's sorted names; -> their sum."""
    ours = {key: tensor.shape for key, tensor in model.state_dict().items()}
    names = {}                                                     # released name -> our name
    for stage in ("stage1", "stage2"):
        model_i = f"model_{int(stage[-1]) - 1}"
        for key in [key for key in ours if key.startswith(f"heads{stage[-1]}.")]:
            _, task, layer, kind = key.split(".")
            label = {"pasi": "n_pasi_0", "pga": "physician_category"}[task]
            names[f"{model_i}.task_head.task_heads.{label}.fc{int(layer) // 2}.{kind}"] = key
        for key in [key.removeprefix(stage + ".") for key in ours if key.startswith(stage + ".")]:
            embeddings = f"{model_i}.embeddings" if stage == "stage2" else f"{model_i}.vit.embeddings"
            if key == "cls_token":
                lone = stage == "stage2" and "stage2.pos_embed" not in ours
                names["model_1.cls_token" if lone else f"{embeddings}.cls_token"] = f"{stage}.{key}"
            elif key == "pos_embed":
                names[f"{embeddings}.position_embeddings"] = f"{stage}.{key}"
            elif key.startswith("patch_embed"):
                names[f"{embeddings}.patch_embeddings.projection.{key.rsplit('.', 1)[1]}"] = f"{stage}.{key}"
            elif key.startswith("norm."):
                names[f"{model_i}.vit.layernorm.{key.rsplit('.', 1)[1]}"] = f"{stage}.{key}"
            else:
                _, i, rest = key.split(".", 2)
                released = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
                            "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
                part, kind = rest.rsplit(".", 1)
                parts = [f"attention.attention.{x}" for x in ("query", "key", "value")] if part == "attn.qkv" else [released[part]]
                for j, name in enumerate(parts):
                    names[f"{model_i}.vit.encoder.layer.{i}.{name}.{kind}"] = f"{stage}.{key}" + (f"#{j}" if len(parts) > 1 else "")
    for key in ("fuse", "merge"):
        if f"{key}.weight" in ours:
            for kind in ("weight", "bias"):
                names[f"{ {'fuse': 'token_mapper', 'merge': 'model_1.concatenator'}[key]}.fc.{kind}"] = f"{key}.{kind}"
    shapes = {}
    for released, key in names.items():
        shape = tuple(ours[key.split("#")[0]])
        shapes[released] = (shape[0] // 3, *shape[1:]) if "#" in key else shape
    filled = values(shapes)
    state = {}
    for released, key in names.items():
        state.setdefault(key.split("#")[0], []).append((key, filled[released]))
    state = {key: torch.cat([tensor for _, tensor in sorted(parts, key=lambda part: part[0])]) if len(parts) > 1 else parts[0][1]
             for key, parts in state.items()}
    model.double().load_state_dict(state)
    return len(names), sum(tensor.sum().item() for tensor in filled.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_released_code(name):
    """Same weights by the hash rule, same inputs: logits, losses and mapping of the released implementation, float64, 1e-8."""
    golden, (mode, r) = GOLDEN[name], CONFIGS[name]
    model = make(mode, r, "fused")
    keys, total = released_weights(model)
    assert (keys, pytest.approx(total, abs=1e-6)) == {"Baseline": (110, 443.825267), "Partial-3-1": (220, 853.570193), "Partial-3-2": (220, 853.570193),
                                                      "Multi-3-1": (219, 874.831755), "Multi-3-2": (224, 806.219169)}[name]
    images, images_hr = unit((3, 2, 3, 32, 32), 9999).transpose(0, 1), unit((3, 2, 3, 64, 64), 21).transpose(0, 1)
    batch = {"image": images[:, 0], "images": images, "images_hr": images_hr, "present": torch.ones(2, 3, dtype=torch.bool)}
    pasi, pga = unit((3, 2, 1), 11)[..., 0].transpose(0, 1), torch.tensor([1.0, 4.0], dtype=torch.float64)
    float_loss = {}
    with torch.no_grad():
        out = model(*(batch[key] for key in model.inputs))
        y = {key: value.double() for key, value in out["logits"].items()}
        if mode == "baseline":
            float_loss["loss"] = F.mse_loss(y["pasi"][:, 0], pasi[:, 0]) + F.cross_entropy(y["pga"], pga.long())
            expected = {"pasi": golden["pasi"], "pga": golden["pga"]}
        else:
            float_loss["loss_1"] = F.mse_loss(y["pasi"][:, 0], pasi[:, 0]) + F.cross_entropy(y["pga"], pga.long())
            each = [F.mse_loss(out["stage1"]["pasi"][:, i, 0], pasi[:, i]) + F.cross_entropy(out["stage1"]["pga"][:, i], pga.long()) for i in range(3)]
            assert torch.allclose(torch.stack(each), torch.tensor(golden["losses_0"], dtype=torch.float64), atol=1e-8, rtol=0)
            float_loss["total"] = float_loss["loss_1"] + sum(each) / 3
            expected = {"pasi": golden["stage2_pasi"], "pga": golden["stage2_pga"]}
            assert out["image"].tolist() == golden["image"] and out["token"].tolist() == golden["token"]
            params = sum(p.numel() for p in model.parameters())
            assert params == golden["params"]
    for key, value in float_loss.items():
        assert value.item() == pytest.approx(golden[key], abs=1e-8)
    for key, value in expected.items():
        assert torch.allclose(y[key].flatten(), torch.tensor(value, dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize("mode, r", list(CONFIGS.values()) + [("joint", 1)])
def test_every_configuration_trains_all_its_parameters(mode, r):
    """One backward pass reaches every parameter: nothing is built that nothing uses."""
    model = make(mode, r).train()
    batch = batch_of(model)
    out = model(*batch.values())
    targets = {"pasi": torch.rand(2), "pga": torch.tensor([1.0, 4.0])}
    present = batch.get("present")
    model_loss(TASKS, out, targets, present, known_counts(TASKS, targets, present)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def batch_of(model, B=2, present=None):
    """Random inputs of a model, by name."""
    torch.manual_seed(1)
    N, r = model.config.n, model.config.r
    images = torch.randint(256, (B, N, 3, 32, 32), dtype=torch.uint8)
    images_hr = torch.randint(256, (B, N, 3, 32 * r, 32 * r), dtype=torch.uint8)
    present = torch.ones(B, N, dtype=torch.bool) if present is None else present
    batch = {"image": images[:, 0], "images": images, "present": present, "images_hr": images_hr}
    return {key: batch[key] for key in model.inputs}


def test_loss_is_stage_two_plus_the_mean_over_present_images():
    """model_loss against a loop over patients and images; an absent image counts for nothing, an unknown target neither."""
    model = make("multi", 2)
    present = torch.tensor([[True, True, False], [True, True, True]])
    targets = {"pasi": torch.tensor([0.3, float("nan")]), "pga": torch.tensor([1.0, 4.0])}
    out = model(**batch_of(model, present=present))
    pasi1 = [(out["stage1"]["pasi"][0, i, 0] - 0.3) ** 2 for i in (0, 1)]
    pga1 = [F.cross_entropy(out["stage1"]["pga"][b, i], torch.tensor(c)) for b, i, c in ((0, 0, 1), (0, 1, 1), (1, 0, 4), (1, 1, 4), (1, 2, 4))]
    pga2 = F.cross_entropy(out["logits"]["pga"], torch.tensor([1, 4]))
    expected = (out["logits"]["pasi"][0, 0] - 0.3) ** 2 + pga2 + sum(pasi1) / 2 + sum(pga1) / 5
    counts = known_counts(TASKS, targets, present)
    assert model_loss(TASKS, out, targets, present, counts).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("mode, flows", (("partial", False), ("multi", True)))
@pytest.mark.parametrize("r", (1, 2))
def test_gradient_of_stage_two_reaches_stage_one_only_through_tokens(mode, flows, r):
    """The paper's central claim: in Multi the loss of stage 2 trains stage 1, in Partial it cannot."""
    model = make(mode, r)
    out = model(*batch_of(model).values())
    out["logits"]["pasi"].sum().backward()
    reached = any(p.grad is not None and p.grad.abs().max() > 0 for p in model.stage1.parameters())
    assert reached == flows and all(p.grad is None for p in model.heads1.parameters())


def test_multi_with_one_image_hands_over_a_permutation_of_its_tokens():
    """N = 1, R = 1: stage 2 sees exactly the tokens of stage 1, best first."""
    model = make("multi", 1, n=1)
    images = torch.rand(2, 1, 3, 32, 32)
    tokens, _, map = model.stage1.run_blocks(model.stage1.embed(images[:, 0]), want_map=True)
    image, token, _ = model.filter(map[:, None], None, images)
    x = model.stage2_input(tokens[:, None], None, image, token, None)
    assert all(torch.equal(x[b, 1:], tokens[b, 1 + token[b]]) and sorted(token[b].tolist()) == list(range(16)) for b in range(2))
    fused = make("multi", 1, "fused", n=1)                         # identity as the fusing layer: the class token passes, too
    with torch.no_grad():
        fused.fuse.weight.copy_(torch.eye(32)), fused.fuse.bias.zero_()
    x = fused.stage2_input(tokens[:, None], None, image, token, None)
    assert torch.allclose(x[:, 0], tokens[:, 0], atol=1e-6)


@pytest.mark.parametrize("mode, cls_token, same", (("partial", "stage2", True), ("multi", "stage2", True), ("multi", "fused", False)))
def test_order_of_the_photographs(mode, cls_token, same):
    """Permuting the images permutes what the filter reports; the answer changes only where their class tokens are fused."""
    model = make(mode, 2, cls_token).double()
    if cls_token == "fused":                                       # it starts as a mean, for which order is nothing
        torch.nn.init.normal_(model.fuse.weight)
    batch, order = batch_of(model), torch.tensor([2, 0, 1])
    batch.update(images=unit((2, 3, 3, 32, 32), 1), images_hr=unit((2, 3, 3, 64, 64), 2))
    out = model(**batch)
    shuffled = model(batch["images"][:, order], batch["present"], batch["images_hr"][:, order])
    assert torch.equal(order[shuffled["image"]], out["image"]) and torch.equal(shuffled["token"], out["token"])
    assert torch.allclose(shuffled["logits"]["pasi"], out["logits"]["pasi"], atol=1e-12) == same


@pytest.mark.parametrize("mode, r, cls_token", [("joint", 1, "stage2"), ("partial", 2, "stage2"), ("multi", 1, "stage2"),
                                                ("multi", 1, "fused"), ("multi", 2, "fused")])
def test_pixels_of_an_absent_image_do_not_matter(mode, r, cls_token):
    """What stands in the slot of an image that is not there changes nothing."""
    model = make(mode, r, cls_token)
    present = torch.tensor([[True, True, False], [True, False, False]])
    batch = batch_of(model, present=present)
    first = model(**batch)["logits"]["pasi"]
    batch["images"] = torch.where(present[:, :, None, None, None], batch["images"], 255 - batch["images"])
    assert torch.equal(first, model(**batch)["logits"]["pasi"])


@pytest.mark.parametrize("mode, r, shows", [("baseline", 1, False), ("joint", 1, False), ("multi", 1, False), ("multi", 2, True), ("partial", 2, True)])
def test_the_composite_is_there_where_pixels_pass(mode, r, shows):
    """The picture that stage 2 looks at is in the output, as large as one photograph at R = 1."""
    model = make(mode, r)
    out = model(*batch_of(model).values())
    assert ("composite" in out) == shows
    if shows:
        assert out["composite"].shape == (2, 3, 32, 32)


def test_joint_with_one_image_is_the_plain_vit():
    """One image: the sequence of all images is the sequence of that image."""
    model = make("joint", 1, n=1).double()
    images = unit((2, 1, 3, 32, 32), 4)
    tokens = model.stage1.encode(model.stage1.embed(images[:, 0]))
    assert torch.allclose(model(images)["logits"]["pasi"], model.heads1["pasi"](tokens[:, 0]), atol=1e-12)


def test_composite_of_absent_resolution_and_impossible_r_are_refused():
    """R must divide the grid; modes with one resolution take no R; the message offers what fits."""
    with pytest.raises(ValueError, match="--r 3 does not divide the patch grid .*use 1 or 2 or 4"):
        MultiViTConfig(MINI, "multi", 3, 3)
    with pytest.raises(ValueError, match="one resolution"):
        MultiViTConfig(MINI, "joint", 3, 2)
    with pytest.raises(ValueError, match="mode 'full'"):
        MultiViTConfig(MINI, "full")
    with pytest.raises(ValueError, match=r"hidden \(\)"):
        MultiViTConfig(MINI, hidden=())


def large(mode, r, cls_token="fused", hidden=(512, 512)):
    """ViT-L/32-384 without memory."""
    vit = ViTConfig(image=(384, 384), patch=(32, 32), dim=1024, depth=24, heads=16, mlp=4096, eps=1e-12)
    with torch.device("meta"):
        return MultiViT(MultiViTConfig(vit, mode, 3, r, cls_token, hidden), {"pasi": 1, "pga": 5})


@pytest.mark.parametrize("mode, r, expected", (("baseline", 1, 306_660_358), ("partial", 1, 613_320_716), ("partial", 2, 613_320_716),
                                               ("multi", 1, 613_172_236), ("multi", 2, 618_565_644)))
def test_parameter_counts_of_the_released_configurations(mode, r, expected):
    """ViT-L/32-384 with the released heads of 512 units and 5 classes, N = 3."""
    assert sum(p.numel() for p in large(mode, r).parameters()) == expected


def test_parameter_counts_of_the_parts():
    """Heads, the fusing layer, the token concatenator, and what the paper leaves unfrozen."""
    size = lambda module: sum(p.numel() for p in module.parameters())
    model = large("multi", 2)
    assert size(model.fuse) == 3_146_752 and size(model.merge) == 2_098_176 and size(model.heads1) == 1_052_678
    assert size(large("baseline", 1, hidden=(256, 128)).heads1) == 394_502
    assert size(large("baseline", 1, hidden=(128,)).heads1) == 263_174
    assert size(large("multi", 2, "stage2")) == size(model) - 3_146_752      # the paper's reading has no fusing layer
    assert size(model.stage1) == 305_607_680
    freeze(model, 24 - 5)
    assert sum(p.numel() for p in model.stage1.parameters() if p.requires_grad) == 66_279_424


def test_frozen_blocks_stay_and_everything_else_moves():
    """--train-blocks: one optimizer step moves the embeddings, the last blocks, the norm, the heads and `merge`, nothing else."""
    model = make("multi", 2).train()
    frozen = freeze(model, 4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = batch_of(model)
    targets = {"pasi": torch.rand(2), "pga": torch.tensor([1.0, 4.0])}
    counts = known_counts(TASKS, targets, batch["present"])
    model_loss(TASKS, model(**batch), targets, batch["present"], counts).backward()
    optimizer.step()
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert still == {name for name in before if any(f".blocks.{i}." in name for i in range(4))}
    assert frozen == sum(before[name].numel() for name in still)


def from_run(folder, source, *flags):
    """A MultiViT made of the flags and --pretrained, a folder to which `source` is written as train.py does."""
    folder.mkdir()
    config = {"model": "fork", "fork": asdict(source.config), "tasks": []}                # whatever it is called in MODELS
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in source.state_dict().items()}, folder / "model.safetensors")
    args = parse(["--model", "multivit", "--pretrained", str(folder), *flags])
    args.image, args.channels = "32x32", 3
    return MultiViT.from_args(args, OUTPUTS)


@pytest.mark.parametrize("mode, r", (("partial", 2), ("multi", 1), ("multi", 2)))
def test_both_stages_start_from_the_donor_and_share_nothing(mode, r, tmp_path):
    """Each has a copy of its own; changing stage 1 leaves stage 2 alone."""
    torch.manual_seed(3)
    donor = ViT(MINI)
    model = from_run(tmp_path / "run", donor, "--mode", mode, "--r", str(r))
    for name, value in model.stage2.state_dict().items():
        expected = donor.state_dict()[name]
        if name == "cls_token" and (mode, r) == ("multi", 1):      # no positions there: the class token brings its own along
            expected = expected + donor.pos_embed[:, :1]
        assert torch.equal(value, expected)
    model.stage1.norm.weight.data.fill_(7.0)
    assert not (model.stage2.norm.weight == 7).any()


@pytest.mark.parametrize("mode, r, parts", (("partial", 2, "stage2"), ("multi", 1, "stage2 fuse"), ("multi", 2, "stage2 fuse merge")))
def test_a_multivit_starts_from_both_stages_of_another(mode, r, parts, tmp_path):
    """Of a run in the same mode everything but the heads is taken, and the report says so."""
    source = make(mode, r, "fused")
    for parameter in source.parameters():
        parameter.data.normal_()
    model = from_run(tmp_path / "run", source, "--mode", mode, "--r", str(r))
    state = source.state_dict()
    same = [key for key, tensor in model.state_dict().items() if torch.equal(tensor, state[key])]
    assert same == [key for key in state if not key.startswith("heads")]
    assert "only the stage1" in model.report and "only the stage2" in model.report and model.report.endswith(f"taken {parts}")


@pytest.mark.slow
def test_stage_two_of_another_mode_and_number_of_images(tmp_path):
    """From R = 1, which embeds nothing, to R = 2: blocks are stage 2's, the embedding is stage 1's, the class token with its position is
    what it was; `fuse` of three images does not fit two. From Baseline both stages are stage 1's."""
    source = make("multi", 1, "fused")
    for parameter in source.parameters():
        parameter.data.normal_()
    model = from_run(tmp_path / "run", source, "--n", "2", "--r", "2")
    torch.testing.assert_close(model.stage2.cls_token + model.stage2.pos_embed[:, :1], source.stage2.cls_token)
    assert torch.equal(model.stage2.blocks[5].mlp.fc1.weight, source.stage2.blocks[5].mlp.fc1.weight)
    assert torch.equal(model.stage2.pos_embed, source.stage1.pos_embed) and model.report.endswith("taken stage2")
    alone = make("baseline", 1)
    model = from_run(tmp_path / "baseline", alone, "--r", "2")
    assert torch.equal(model.stage2.norm.weight, alone.stage1.norm.weight)
    assert torch.equal(model.stage2.blocks[5].mlp.fc1.weight, alone.stage1.blocks[5].mlp.fc1.weight)


@pytest.mark.parametrize("kind", ("seqnorm", "sima"))
def test_softmax_free_stages_run_and_select(kind):
    """The filter works on the signed weights of linear attention: their size is the importance."""
    vit = ViTConfig(image=(32, 32), patch=(8, 8), dim=32, depth=2, heads=4, mlp=64, attention=kind)
    model = make("multi", 2, vit=vit)
    out = model(*batch_of(model).values())
    assert torch.equal(out["map"].abs().mean(2).flatten(1).argsort(dim=1, descending=True, stable=True)[:, :4],
                       out["image"] * 16 + out["token"])


def test_activation_memory_grows_linearly_with_the_number_of_images():
    """What backward keeps for 2 N images is at most twice what it keeps for N (section 1 of the paper); joint keeps no T x T either."""
    def kept(n):
        model, sizes = make("multi", 1, n=n), []
        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.rand(1, n, 3, 32, 32))
        return sum(sizes)
    assert kept(8) < 2 * kept(4) and kept(16) < 2 * kept(8)


def test_modes_are_the_papers():
    """The released code's names (simple, multi for Partial, full) are not used."""
    assert MODES == ("baseline", "joint", "partial", "multi")
    by_patient = [mode for mode in MODES if MultiViT.by_patient(parse(["--model", "multivit", "--mode", mode]))]
    assert by_patient == ["joint", "partial", "multi"]             # a sample of the baseline is a photograph


def test_merge_and_fuse_start_as_means():
    """At the start stage 2 sees the mean of kept token and embedded patch, and the mean class token, whatever the donor."""
    model = make("multi", 2, "fused")
    x = torch.rand(2, 5, 64)
    assert torch.allclose(model.merge(x), (x[..., :32] + x[..., 32:]) / 2, atol=1e-6)
    cls = torch.rand(2, 3, 32)
    assert torch.allclose(model.fuse(cls.flatten(1)), cls.mean(1), atol=1e-6)
