"""gmml.py: which patches, what stands there, the loss, and a run of it as a start of the other models."""
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import eval as evaluation
import train
from gmml import CORRUPTIONS, GMML, GMMLConfig, corrupt, cover, draw_groups, rebuild_loss, to_pixels
from plumbing.cohort import Task
from plumbing.flags import parse
from plumbing.models import build_model
from plumbing.saved_run import open_model
from plumbing.splits import read_run_split
from plumbing.weights import from_dict
from tests.small_runs import fails, fit
from vit import ViT, ViTConfig

VIT = ViTConfig(image=(32, 48), patch=(4, 8), dim=32, depth=4, heads=4, mlp=64)          # a grid of 8 x 6


def slow_cover(corner, size, grid, share):
    """One image, rectangle by rectangle and patch by patch, until the share is reached -> set of patches, of rectangles."""
    covered, kept = set(), []
    for first, sides in zip(corner.tolist(), size.tolist()):
        if len(covered) / np.prod(grid) >= share:
            break
        rectangle = set()
        for place in np.ndindex(*grid):
            if all(a <= x < a + side for x, a, side in zip(place, first, sides)):
                rectangle.add(place)
        kept.append(rectangle)
        covered |= rectangle
    return covered, kept


def connected(patches):
    """Can one walk from each patch to each other, side by side?"""
    todo, reached = [next(iter(patches))], set()
    while todo:
        place = todo.pop()
        if place in patches and place not in reached:
            reached.add(place)
            for axis in range(len(place)):
                for step in (-1, 1):
                    todo.append(place[:axis] + (place[axis] + step,) + place[axis + 1:])
    return reached == patches


@pytest.mark.parametrize("grid", [(8, 6), (14, 14), (12, 12), (3, 5, 4), (1, 1), (2, 16, 16)])
def test_groups_are_those_of_the_slow_loop(grid):
    """Rectangles until the share is reached, the one that reaches it included; each is connected, its sides within 0.3."""
    torch.manual_seed(0)
    groups = draw_groups(12, grid, 0.3)
    share = 0.5 + 0.25 * torch.rand(12)
    mask = cover(*groups, grid, share)
    corner, size = (torch.cat(axes, 2) for axes in groups)
    assert mask.shape == (12, *grid)
    for i in range(4):
        covered, kept = slow_cover(corner[i], size[i], grid, share[i].item())
        assert {tuple(place) for place in mask[i].nonzero().tolist()} == covered
        without_last = set().union(*kept[:-1])
        assert len(without_last) / np.prod(grid) < share[i] <= len(covered) / np.prod(grid)
        assert all(connected(rectangle) for rectangle in kept)
    longest = torch.tensor([max(1, int(0.3 * side)) for side in grid])
    assert (size >= 1).all() and (size <= longest).all() and (corner >= 0).all() and (corner < torch.tensor(grid)).all()
    assert (size.amax((0, 1)) == longest).all()                    # each length comes


def test_patches_become_pixels():
    """Every patch of 4 x 8 px is all inside or all outside."""
    patches = torch.rand(2, 8, 6) < 0.5
    mask = to_pixels(patches, (4, 8))
    assert mask.shape == (2, 1, 32, 48)
    assert torch.equal(mask[:, 0].unflatten(1, (8, 4)).unflatten(3, (6, 8)), patches[:, :, None, :, None].expand(2, 8, 4, 6, 8))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_corruption_stands_in_the_groups_only(kind):
    """Clean pixels stay bit for bit; inside: zeros, the same place of another image, or noise of mean 0 and deviation 1."""
    torch.manual_seed(0)
    images = torch.rand(40, 3, 32, 48) + 5
    result, mask = corrupt(images, GMMLConfig(VIT, (kind,)))
    inside = mask.expand_as(images)
    assert torch.equal(result[~inside], images[~inside])
    share = mask.float().mean((1, 2, 3))
    low, high = (0.3, 0.3) if kind == "alien" else (0.5, 0.75)
    assert (share >= low).all() and (share <= high + 4 / 48).all()           # the last rectangle is of at most 2 x 1 patches
    if kind == "zeros":
        assert not result[inside].any()
    elif kind == "alien":
        assert torch.equal(result[inside], torch.roll(images, 1, 0)[inside])
    else:
        noise = result[inside]
        assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(1, abs=0.02)


def test_kinds_are_mixed_image_by_image():
    """Of noise and alien about half the images get each, an image one of them; a lone image gets noise."""
    torch.manual_seed(0)
    images = torch.full((400, 3, 32, 48), 9.0)
    images[1::2] = 7
    result, mask = corrupt(images, GMMLConfig(VIT))
    aliens = 0
    for clean, x, where in zip(images, result, mask):
        values = set(x[where.expand_as(x)].tolist())
        is_alien = values == {16 - clean[0, 0, 0].item()}
        assert is_alien or len(values) > 100
        aliens += is_alien
    assert 160 < aliens < 240
    result, mask = corrupt(images[:1], GMMLConfig(VIT, ("alien",)))
    assert result[mask.expand_as(result)].std() == pytest.approx(1, abs=0.1)


def test_loss_looks_at_corrupted_pixels_only():
    """Against a loop; what is rebuilt or clean elsewhere does not matter and gets no gradient; the clean image costs nothing."""
    torch.manual_seed(0)
    images, rebuilt = torch.randn(3, 2, 6, 6), torch.randn(3, 2, 6, 6, requires_grad=True)
    mask = torch.rand(3, 1, 6, 6) < 0.4
    loss = rebuild_loss(rebuilt, images, mask)
    for i in range(3):
        pixels = [abs(rebuilt[i, c, y, x] - images[i, c, y, x]).item()
                  for c in range(2) for y in range(6) for x in range(6) if mask[i, 0, y, x]]
        assert loss[i].item() == pytest.approx(sum(pixels) / len(pixels), rel=1e-5)
    [gradient] = torch.autograd.grad(loss.sum(), rebuilt)
    assert torch.equal(gradient != 0, mask.expand_as(gradient))
    assert torch.equal(rebuild_loss(rebuilt, torch.where(mask, images, 100.0), mask), loss)
    assert not rebuild_loss(images, images, mask).any()


@pytest.mark.parametrize("depth, taken", [(12, (6, 8, 10, 12)), (24, (12, 16, 20, 24)), (4, (1, 2, 3, 4)), (6, (3, 4, 5, 6)), (2, (1, 2))])
def test_four_blocks_are_averaged(depth, taken):
    """The recipe's blocks, evenly spaced at other depths; class token and registers are dropped after the norm."""
    model = GMML(GMMLConfig(replace(VIT, depth=depth, registers=2))).eval()
    images = torch.randn(2, 3, 32, 48)
    x, total = model.vit.embed(images), 0
    for number, block in enumerate(model.vit.blocks, 1):
        x, _ = block(x)
        if number in taken:
            total = total + x
    torch.testing.assert_close(model.encode(images), model.vit.norm(total / len(taken))[:, 3:])


def test_decoder_puts_every_token_in_its_place():
    """Against Linear, GELU and a product patch by patch."""
    model = GMML(GMMLConfig(VIT)).eval()
    z = torch.randn(1, 48, 32)
    image = model.decode(z)
    kernel, bias = model.decoder_pixels.weight, model.decoder_pixels.bias        # (D, C, 4, 8)
    y = model.decoder(z)[0]
    for token in (0, 5, 6, 47):
        row, column = divmod(token, 6)
        patch = torch.einsum("d,dcij->cij", y[token], kernel) + bias[:, None, None]
        torch.testing.assert_close(image[0, :, 4 * row:4 * row + 4, 8 * column:8 * column + 8], patch, atol=1e-5, rtol=1e-4)


def test_training_draws_anew_and_evaluation_does_not():
    """In evaluation two looks are equal, and the numbers that training draws go on as if nothing had been drawn."""
    model = GMML(GMMLConfig(VIT))
    images = torch.randint(256, (4, 3, 32, 48), dtype=torch.uint8)
    first, second = model(images)["logits"]["reconstruction"], model(images)["logits"]["reconstruction"]
    assert first.shape == (4, 1) and not torch.equal(first, second)
    model.eval()
    state = torch.get_rng_state()
    out, again = model(images), model(images)
    assert torch.equal(out["logits"]["reconstruction"], again["logits"]["reconstruction"])
    assert torch.equal(torch.get_rng_state(), state)
    changed = (out["corrupted"].round() != images).any(1)
    assert 0.2 < changed.float().mean() < 0.8 and out["rebuilt"].min() >= 0 and out["rebuilt"].max() <= 255
    assert torch.equal(out["rebuilt"].round()[:, 0][~changed], images[:, 0][~changed].float())


def test_evaluation_leaves_the_generators_of_all_devices_alone(monkeypatch):
    """It draws on the CPU: PyTorch can restore no Mac's generator, and warns where there are several cards, which a run on the CPU never starts."""
    def touched(*args):
        raise AssertionError("a generator of another device")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", touched)
    monkeypatch.setattr(torch, "manual_seed", touched)
    with torch.no_grad():
        assert GMML(GMMLConfig(VIT)).eval()(torch.randn(4, 3, 32, 48))["corrupted"].shape == (4, 3, 32, 48)


def test_training_compiles_without_a_break():
    """A generator in an argument split it into four graphs."""
    torch.compiler.reset()
    model = torch.compile(GMML(GMMLConfig(VIT)), backend="eager", fullgraph=True)
    assert model(torch.randn(4, 3, 32, 48))["logits"]["reconstruction"].shape == (4, 1)


def test_every_parameter_learns():
    """But no loss reads the last block's class token alone: what has no gradient would stop several processes."""
    model = GMML(GMMLConfig(VIT)).train()
    model(torch.randn(4, 3, 32, 48))["logits"]["reconstruction"].mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_what_cannot_be_is_refused():
    """Bags, kinds that are none, one twice; the config survives JSON."""
    for fields, words in ((dict(vit=replace(VIT, image=(), patch=())), "bags"), (dict(corrupt=("blur",)), "blur"),
                          (dict(corrupt=("zeros", "zeros")), "each once"), (dict(corrupt=()), "need some")):
        with pytest.raises(ValueError, match=words):
            GMMLConfig(**{"vit": VIT, **fields})
    config = GMMLConfig(VIT, ("zeros",))
    assert from_dict(GMMLConfig, json.loads(json.dumps(asdict(config))), "run") == config
    assert GMML.from_args(settled("--corrupt", "zeros,alien"), {}).config.corrupt == ("zeros", "alien")
    assert settled().dropout == 0


def settled(*argv):
    args = parse(["--model", "gmml", "--image", "32x32", "--patch", "8x8", *argv])
    args.channels = 3
    return args


def test_released_files_start_a_vit(tmp_path):
    """GMML's own names: the backbone is taken, what rebuilds is ignored."""
    donor = ViT(replace(VIT, image=(32, 32), patch=(8, 8), dim=192, heads=3))
    tensors = {"backbone." + key: tensor for key, tensor in donor.state_dict().items()}
    tensors["head_recons.mlp.0.weight"] = torch.zeros(192, 192)
    tensors["head_recons.convTrans.weight"] = torch.zeros(192, 3, 8, 8)
    safetensors.torch.save_file(tensors, tmp_path / "gmml.safetensors")
    model = ViT.from_pretrained(str(tmp_path / "gmml.safetensors"), tasks={"a": 2})
    assert torch.equal(model.blocks[3].mlp.fc2.weight, donor.blocks[3].mlp.fc2.weight)
    assert model.report.endswith("new head.a, ignored head_recons")


# -----------------------------------------------------------------------------
# runs


SMALL = ["--image", "16", "--patch", "8", "--epochs", "1", "--batch-size", "4", "--workers", "0", "--device", "cpu"]


def test_a_run_starts_the_other_models(table, quiet):
    """It needs no target, has the split of the runs that learn one, is evaluated and drawn, and its ViT is theirs."""
    train.main(["--model", "gmml", "--data", table, "--target", "redness", *SMALL, "--name", "start"])
    result = json.load(open("runs/start/metrics.json"))
    loss = result["reconstruction"]["loss"]
    assert loss["low"] <= loss["value"] <= loss["high"] and "constant" not in result["reconstruction"]
    log = Path("runs/start/log.csv").read_text().splitlines()
    assert "val_reconstruction_loss" in log[0] and Path("runs/start/report.html").stat().st_size > 5000
    [first, *_] = sorted(os.listdir("runs/start/figures"))
    assert Image.open(f"runs/start/figures/{first}").width > 3 * 240           # image, corrupted, rebuilt
    evaluation.main(["runs/start", "--split", "val", "--device", "cpu"])
    best = open_model("runs/start")[0].vit
    assert "from runs/start" in GMML.from_args(settled("--pretrained", "runs/start", "--image", "16x16"), {}).report
    for argv in (["vit"], ["lt_vit"], ["q2l"], ["multivit", "--n", "2"], ["probe", "--head", "class"]):
        args = parse(["--model", *argv, "--pretrained", "runs/start"])
        args.image, args.channels = "16x16", 3
        model, _ = build_model(args, [Task("redness", "regression")])
        vit = model if argv == ["vit"] else getattr(model, "stage1", None) or model.vit
        assert torch.equal(vit.blocks[-1].mlp.fc1.weight, best.blocks[-1].mlp.fc1.weight), argv
    fit(["--model", "vit", "--data", table, "--target", "redness", *[x for x in SMALL if x not in ("--patch", "8")],
         "--pretrained", "runs/start", "--name", "after"])
    assert read_run_split("runs/after") == read_run_split("runs/start")


@pytest.mark.slow
def test_resume_draws_the_same(table, quiet):
    """Two epochs at once, and one after the other: the same weights, bit for bit."""
    argv = ["--model", "gmml", "--data", table, *SMALL]
    argv[argv.index("--epochs") + 1] = "2"
    fit([*argv, "--name", "whole"])
    before = train.write_log

    def stop(run, history):
        before(run, history)
        if len(history) == 1:
            raise KeyboardInterrupt

    train.write_log = stop
    with pytest.raises(KeyboardInterrupt):
        train.main([*argv, "--name", "parts"])
    train.write_log = before
    fit(["--resume", "runs/parts"])
    whole, parts = (open_model(f"runs/{name}")[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.slow
def test_images_without_a_table(quiet):
    """A folder of photographs, a folder per patient, and a table that has no target."""
    for patient in range(11):
        os.makedirs(f"photos/{patient}")
        for i in range(2):
            Image.effect_noise((20, 24), 50).convert("RGB").save(f"photos/{patient}/{i}.png")
    os.makedirs("flat")
    lines = ["patient_id,image"]
    for i in range(12):
        Image.effect_noise((20, 24), 60).convert("RGB").save(f"flat/{i}.png")
        lines.append(f"p{i},{i}.png")
    Path("flat/table.csv").write_text("\n".join(lines) + "\n")
    for data, images in (("flat", 12), ("flat/table.csv", 12), ("photos", 22)):
        train.main(["--model", "gmml", "--data", data, *SMALL, "--name", data.replace("/", "-")])
        rows = Path(f"runs/{data.replace('/', '-')}/split.csv").read_text().splitlines()[1:]
        assert sum(int(row.split(",")[2]) for row in rows) == images


def test_volumes(volumes, quiet):
    """Three axes: a group is a box of patches."""
    train.main(["--model", "gmml", "--data", volumes, "--image", "6x16x16", "--patch", "2x8x8", "--epochs", "1", "--workers", "0",
                "--device", "cpu", "--name", "v"])
    assert json.load(open("runs/v/metrics.json"))["reconstruction"]["loss"]["value"] > 0
    assert any(name.startswith("patient_") for name in os.listdir("runs/v/figures"))


def test_bags_are_refused(slides, quiet, monkeypatch, capsys):
    """One line."""
    assert "takes none" in fails(["--model", "gmml", "--data", slides, "--device", "cpu"], monkeypatch, capsys)
