"""plumbing/features.py: tokens of a frozen model are computed once, kept in the order of the cohort, and read again."""
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import Samples, collate
from plumbing.features import cached_features
from tests.photographs import photographs
from vit import ViT, ViTConfig

TINY = ViTConfig(image=(16, 16), patch=(8, 8), dim=8, depth=1, heads=2, mlp=8)


class Frozen(torch.nn.Module):
    """What cached_features needs of a model."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.vit, self.config, self.calls = ViT(TINY), SimpleNamespace(vit=TINY), 0

    @torch.inference_mode()
    def tokens(self, image):
        self.calls += 1
        return self.vit.embed(image)


@pytest.mark.parametrize("workers", (0, 1))
def test_tokens_of_every_image_in_order_computed_once(tmp_path, workers):
    """18 images are two batches; the second time the file is read, which the line says."""
    cohort, model = photographs(tmp_path), Frozen()
    arguments = (cohort, model, str(tmp_path / "cache"), (16, 16), 3, torch.device("cpu"), workers)
    features, note = cached_features(*arguments)
    path = os.path.join(tmp_path, "cache", "features", os.listdir(tmp_path / "cache/features")[0])
    assert isinstance(features, np.memmap) and features.shape == (18, 5, 8) and features.dtype == np.float32 and model.calls == 2
    assert note.startswith("features of 18 images computed, ") and note.endswith(f" now in {path}")
    samples = Samples(cohort, range(18), (16, 16))
    for batch in (range(16), (16, 17)):
        images = collate([samples[0, i] for i in batch])["image"]
        assert np.array_equal(model.tokens(images).numpy(), features[list(batch)])
    model.calls = 0
    again, note = cached_features(*arguments)
    assert np.array_equal(again, features) and model.calls == 0 and note == f"features of 18 images read from {path}"
    assert os.listdir(tmp_path / "cache/features") == [os.path.basename(path)]
