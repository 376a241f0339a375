"""Pictures whose pixels say where they come from, and cohorts of them, for the tests of data.py and of its readers."""
import numpy as np
import torch
from PIL import Image

from data import make_loader
from plumbing.cohort import Cohort, Task

CELLS = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 16), np.uint8))      # four gray squares
COUNTS = (1, 2, 3, 5, 7)                                           # images of patients a .. e


def ramp(width, height):
    """(height, width, 3) uint8: red rises from 0 to 255 to the right, green downwards, blue is 128."""
    x, y = (np.arange(width) + 0.5) * 255 / width, (np.arange(height) + 0.5) * 255 / height
    return np.uint8(np.rint(np.stack(np.broadcast_arrays(x[None], y[:, None], np.full((1, 1), 128.0)), -1)))


def texture(width, height, seed=0):
    """(height, width, 3) uint8 smooth colors with fine noise on top."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.uint8(np.clip(np.asarray(coarse) + rng.normal(0, 12, (height, width, 3)), 0, 255))


def save(path, array, **options):
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return str(path)


def photographs(folder):
    """18 photographs of 5 patients; photograph i is a ramp whose blue is 10 i."""
    paths, patients = [], []
    for patient, count in zip("abcde", COUNTS):
        for _ in range(count):
            array = ramp(60, 40)
            array[..., 2] = 10 * len(paths)
            paths.append(save(folder / f"{len(paths):02}.png", array))
            patients.append(patient)
    score = np.arange(18, dtype=np.float32)
    findings = np.stack([score % 2, np.where(score > 9, np.nan, 1)], 1).astype(np.float32)
    return Cohort("made", [Task("score", "regression"), Task("findings", "labels", ("x", "y"))], patients, paths,
                  {"score": score, "findings": findings})


def volume(shape=(4, 6, 8), seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def bag_cohort(folder, *arrays):
    """One file a bag: .npy, and .pt for tensors."""
    paths = [str(folder / f"{i}.{'pt' if isinstance(array, torch.Tensor) else 'npy'}") for i, array in enumerate(arrays)]
    for path, array in zip(paths, arrays):
        torch.save(array, path) if path.endswith("pt") else np.save(path, array)
    return Cohort("bags", [Task("y", "regression")], list("abcdef"[:len(paths)]), paths, {"y": np.arange(len(paths), dtype=np.float32)})


def same(a, b):
    """Are two samples or batches equal, bit for bit?"""
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], dict):
            same(a[key], b[key])
        elif isinstance(a[key], (np.ndarray, torch.Tensor)):
            np.testing.assert_array_equal(np.asarray(a[key]), np.asarray(b[key]))
        else:
            assert a[key] == b[key]
    return True


def epochs(samples, workers, context=None):
    """All batches of two epochs."""
    loader, batches = make_loader(samples, 2, seed=5, shuffle=True, workers=workers)
    if context:
        loader.multiprocessing_context = context
    out = []
    for batches.epoch in (0, 1):
        out += list(loader)
    return out
