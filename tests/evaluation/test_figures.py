"""evaluation/figures.py: heat over the right photograph, and the right slice of a volume."""
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation import figures
from plumbing.cohort import Cohort, Reading
from tests.evaluation.toy import VIT
from tests.photographs import ramp
from vit import ViTConfig


def test_every_photograph_gets_its_own_heat(monkeypatch):
    """Mean over heads of the size of the weights (softmax-free ones have a sign), image by image, or branch by branch."""
    drawn = []
    monkeypatch.setattr(figures, "draw_heat", lambda photo, weights: drawn.append((photo[0, 0, 0], weights.numpy())) or photo)
    photos = [np.full((48, 48, 3), shade, np.uint8) for shade in (10, 20)]
    image, joint, branches = torch.randn(2, 16), torch.randn(3, 2, 16), [torch.randn(2, 16), torch.randn(2, 4)]
    figures.map_figure(photos[:1], [image], VIT, "a plain ViT")
    figures.map_figure(photos, [joint], SimpleNamespace(vit=VIT), "two of three photographs")
    figures.map_figure(photos[:1], branches, SimpleNamespace(grids=((4, 4), (2, 2))), "CrossViT")
    expected = [(10, image), (10, joint[0]), (20, joint[1]), (10, branches[0]), (10, branches[1])]
    assert len(drawn) == len(expected)
    for (shade, weights), (photo, map) in zip(drawn, expected):
        side = int(map.shape[1] ** 0.5)
        assert shade == photo and np.allclose(weights, [[map[:, r * side + c].abs().mean() for c in range(side)] for r in range(side)])


@pytest.mark.parametrize("depth, patch", ((12, 4), (8, 4), (5, 1)))
def test_a_volume_is_drawn_by_its_middle_slice_under_the_heat_of_that_slab(monkeypatch, tmp_path, depth, patch):
    """The slab of patches drawn is the one that holds the slice drawn."""
    config = ViTConfig(image=(depth, 8, 8), patch=(patch, 4, 4), channels=1, dim=24, depth=1, heads=2, mlp=8, mean=(.5,), std=(.5,))
    volume = np.repeat(np.arange(depth, dtype=np.uint8) * 9, 64).reshape(1, depth, 8, 8)
    cohort = Cohort("v", [], ["p"], ["v:0"], {}, pixels=volume)
    drawn = []
    monkeypatch.setattr(figures, "draw_heat", lambda photo, weights: drawn.append((photo[0, 0, 0], weights.numpy())) or photo)
    slab = torch.arange(config.grid[0]).repeat_interleave(4).expand(2, -1).float()               # each weight is its slab's number
    table = {"images": [[0]], "prediction": {}, "target": {}}
    figures.draw_figures(str(tmp_path), [], table, cohort, {"p": ([0], {"map": [slab]})}, config, config.image)
    (shade, weights), = drawn
    assert weights.shape == (2, 2) and shade == 9 * (depth // 2) and (weights == depth // 2 // patch).all()
    assert os.listdir(tmp_path) == ["patient_p.png"]


@pytest.mark.parametrize("fit, shape", (("stretch", (240, 480, 3)), ("pad", (240, 240, 3)), ("crop", (240, 240, 3))))
def test_a_photograph_keeps_its_proportions(fit, shape):
    """A ramp twice as wide as high for a square model: all of it; with black borders; its middle."""
    cohort = Cohort("c", [], ["p"], ["a"], {}, pixels=ramp(80, 40)[None], reading=Reading(fit=fit))
    photo = figures.read_photo(cohort, 0, (64, 64), VIT)
    assert photo.shape == shape
    row = photo[120, :, 0].astype(int)                             # red rises from 0 to 255 over the photograph
    first, last = {"stretch": (0, 255), "pad": (0, 255), "crop": (64, 191)}[fit]
    assert abs(row[0] - first) < 4 and abs(row[-1] - last) < 4 and (not photo[:50].any()) == (fit == "pad")
