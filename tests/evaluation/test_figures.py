"""evaluation/figures.py: heat over the right photograph, the right slices of a volume, one scale."""
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation import figures
from evaluation.picture_file import read_picture
from plumbing.cohort import NO_PATIENTS, Cohort, Reading, Task
from tests.evaluation.toy import VIT
from tests.photographs import ramp
from vit import ViTConfig


@pytest.fixture
def drawn(monkeypatch):
    """[(shade of the photograph, map in multiples of chance, top of the scale)] of every heat that is drawn."""
    calls = []

    def draw_heat(photo, times, top):
        calls.append((int(photo[0, 0, 0]), np.asarray(times), top))
        return photo

    monkeypatch.setattr(figures, "draw_heat", draw_heat)
    return calls


def sample(views, weights, config):
    """What a model without labels shows of a sample."""
    return figures.sample_figure(views, {"map": weights}, 0, config, [Task("y", "regression")], {}, {}, "title")


def test_every_photograph_gets_its_own_heat_on_one_scale(drawn):
    """Mean over heads of the size of the weights (softmax-free ones have a sign), image by image, or branch by branch;
    1 is chance."""
    views = [("", np.full((48, 48, 3), shade, np.uint8), None) for shade in (10, 20)]
    image, joint, branches = torch.randn(2, 16), torch.randn(3, 2, 16), [torch.randn(2, 16), torch.randn(2, 4)]
    sample(views[:1], image[None], VIT)
    sample(views, joint[None], SimpleNamespace(vit=VIT))           # two of three photographs
    sample(views[:1], [weights[None] for weights in branches], SimpleNamespace(grids=((4, 4), (2, 2))))
    expected = [(10, image), (10, joint[0]), (20, joint[1]), (10, branches[0]), (10, branches[1])]
    assert len(drawn) == len(expected)
    for (shade, times, _), (photo, weights) in zip(drawn, expected):
        flat = weights.abs().mean(0).numpy()
        assert shade == photo and np.allclose(times.ravel(), flat / flat.mean(), rtol=1e-5)
    assert drawn[1][2] == drawn[2][2] == max(2, drawn[1][1].max(), drawn[2][1].max())


def test_a_flat_map_is_chance(drawn):
    """Everywhere 1, and the scale does not shrink to it."""
    sample([("", np.zeros((8, 8, 3), np.uint8), None)], torch.full((1, 2, 16), 0.01), VIT)
    assert np.allclose(drawn[0][1], 1) and drawn[0][2] == 2


@pytest.mark.parametrize("r", (1, 2))
def test_the_words_below_kept_patches_are_of_what_is_shown(r):
    """Of a composite where there is one: with --mode multi and R = 1 tokens pass alone."""
    out = {"image": torch.zeros(1, 1, dtype=torch.int), "token": torch.zeros(1, 1, dtype=torch.int)}
    if r > 1:
        out["composite"] = torch.zeros(1, 3, 16, 16)
    views = [("", np.zeros((8, 8, 3), np.uint8), None)]
    figure, text = figures.sample_figure(views, out, 0, SimpleNamespace(vit=VIT), [], {}, {}, "title")
    assert "attention filter keeps" in text and ("composite" in text + str(figure.info["pieces"])) == (r > 1)


def test_what_a_model_without_maps_looked_at_is_not_drawn(drawn):
    """A ResNet: no picture, and no words."""
    assert figures.sample_figure([], {"logits": {}}, 0, VIT, [Task("y", "regression")], {}, {}, "title") == (None, "")


@pytest.mark.parametrize("depth, patch", ((12, 4), (8, 4), (5, 1)))
def test_a_volume_is_drawn_by_its_middle_slices_under_the_heat_of_those_slabs(drawn, tmp_path, depth, patch, monkeypatch):
    """The slab of patches drawn is the one that holds the slice drawn, on every axis."""
    config = ViTConfig(image=(depth, 8, 8), patch=(patch, 4, 4), channels=1, dim=24, depth=1, heads=2, mlp=8, mean=(.5,), std=(.5,))
    volume = np.repeat(np.arange(depth, dtype=np.uint8) * 9, 64).reshape(1, depth, 8, 8)
    cohort = Cohort("v", [], ["p"], ["v:0"], {}, pixels=volume, notes=[NO_PATIENTS] if depth == 5 else [])
    slab = torch.arange(config.grid[0]).repeat_interleave(4).expand(2, -1).float() + 1           # each weight is its slab's number
    table = {"patient": ["p"], "images": [[0]], "prediction": {"y": np.zeros(1)}, "target": {"y": np.ones(1)}}
    monkeypatch.setattr(figures, "predict_images", lambda *args: args[-1]({"index": [[0]]}, {"map": slab[None]}))
    model, options = SimpleNamespace(config=config), {"size": config.image}
    figures.draw_figures(str(tmp_path), model, [Task("y", "regression")], cohort, table, options, 1, {})
    assert len(drawn) == 3
    shade, times, _ = drawn[0]
    mean = slab[0].mean().item()
    assert shade == 9 * (depth // 2) and np.allclose(times, (depth // 2 // patch + 1) / mean) and times.shape == (2, 2)
    for _, times, _ in drawn[1:]:
        assert np.allclose(times, (np.arange(config.grid[0])[:, None] + 1) / mean)
    assert os.listdir(tmp_path) == ["patient_p.png"]
    title, text, rows = read_picture(tmp_path / "patient_p.png")
    assert title == ("image" if depth == 5 else "patient") + " p, a typical error; y 1, predicted 0" and "multiples of chance" in text
    assert [caption.split(" ")[-2] for (_, caption), _ in rows[:-1]] == ["first", "second", "third"]


@pytest.mark.parametrize("fit, shape", (("stretch", (240, 480, 3)), ("pad", (240, 240, 3)), ("crop", (240, 240, 3))))
def test_a_photograph_keeps_its_proportions(fit, shape):
    """A ramp twice as wide as high for a square model: all of it; with black borders; its middle."""
    cohort = Cohort("c", [], ["p"], ["a"], {}, pixels=ramp(80, 40)[None], reading=Reading(fit=fit))
    [(_, photo, _)] = figures.views_of(cohort, 0, (64, 64), VIT)
    assert photo.shape == shape
    row = photo[120, :, 0].astype(int)                             # red rises from 0 to 255 over the photograph
    first, last = {"stretch": (0, 255), "pad": (0, 255), "crop": (64, 191)}[fit]
    assert abs(row[0] - first) < 4 and abs(row[-1] - last) < 4 and (not photo[:50].any()) == (fit == "pad")


def test_pictures_of_an_earlier_evaluation_are_removed(tmp_path):
    """Only those of patients."""
    for name in ("patient_old.png", "pasi_scatter.png"):
        (tmp_path / name).write_bytes(b"")
    predictions = {"images": [], "prediction": {"y": np.zeros(0)}, "target": {"y": np.zeros(0)}}
    figures.draw_figures(str(tmp_path), None, [Task("y", "regression")], Cohort("none", [], [], [], {}), predictions, {}, 3, {})
    assert os.listdir(tmp_path) == ["pasi_scatter.png"]


def test_a_loss_has_no_true_value():
    """The reconstruction of GMML is captioned with its loss alone."""
    answers = {"reconstruction": (np.zeros(1)[0], np.array([0.1684])[0])}
    assert list(figures.answer_texts([Task("reconstruction", "loss")], answers)) == ["reconstruction, loss 0.168"]


def test_unknown_labels_are_not_absent_and_nothing_is_certain():
    """All labels of a patient unknown; 0.999 is not 1.00."""
    task = Task("findings", "labels", ("edema", "mass"))
    unknown, none = [{"findings": (np.array(target), np.array(prediction))} for target, prediction in (
        ([np.nan, np.nan], [0.999, 0.2]), ([0, np.nan], [0.1, 0.3]))]
    assert list(figures.answer_texts([task], unknown)) == ["findings unknown, surest edema (0.99)"]
    assert list(figures.answer_texts([task], none)) == ["findings none, surest mass (0.30)"]
