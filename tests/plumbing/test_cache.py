"""plumbing/cache.py: what was decoded once is read from the disk, the same, by any number of processes."""
import os

import numpy as np
import pytest
from PIL import Image

from data import Samples, collate
from plumbing.arrays import NO_CROP
from plumbing.cache import Decoded, mapped
from plumbing.cohort import Cohort, Task
from plumbing.pictures import read_image
from tests.photographs import epochs, photographs, same, save, texture


@pytest.fixture
def cohort(tmp_path):
    return photographs(tmp_path)


def blind(monkeypatch):
    """From here on a picture can only come from memory: opening a file is an error."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a file was opened"))


@pytest.mark.parametrize("workers", (0, 2))
def test_the_cache_gives_the_same_bits_and_opens_no_file_twice(cohort, tmp_path, monkeypatch, workers):
    """Without crop: draws, flips and turns of both resolutions are as without the cache, in every process, in this run and the next."""
    augment = ("hflip", "vflip", "rot90")
    plain, kept = (Samples(cohort, range(18), (8, 8), n=3, r=2, augment=augment, train=True, seed=2, folder=folder) for folder in (None, tmp_path))
    all(kept.decoded.read(i, NO_CROP) for i in range(0, 18, 2))       # another process was here before
    assert all(same(a, b) for a, b in zip(epochs(plain, 0), epochs(kept, workers)))
    val = Samples(cohort, range(18), (8, 8), n=3, r=2)
    expected, found = [val[0, i] for i in range(len(val))], Samples(cohort, range(18), (8, 8), n=3, r=2, folder=tmp_path)
    [found[0, i] for i in range(len(val))]                         # of patients with more than N some photographs were not drawn yet
    blind(monkeypatch)
    mapped.cache_clear()                                           # as in a new process
    assert all(same(collate([sample]), collate([found[0, i]])) for i, sample in enumerate(expected))
    assert len(os.listdir(tmp_path / "decoded")) == 1              # one file for training and validation


def test_crops_from_the_cache_are_those_from_the_file_to_a_grey_value_or_two(tmp_path, monkeypatch):
    """A picture is kept large enough for the largest crop, so that none is enlarged; the same crop differs by rounding and one more resize."""
    path = save(tmp_path / "a.png", np.asarray(Image.fromarray(texture(300, 200)).resize((600, 400), Image.Resampling.BICUBIC)))
    cohort = Cohort("made", [Task("y", "regression")], ["a"], [path], {"y": np.zeros(1, np.float32)})
    kept = Decoded(cohort, tmp_path, (64, 64), 2, 3, True)
    assert kept.wide == [160, 160] and kept.rows().shape == (1,) and kept.row_type.itemsize == 1 + 3 * 160 * 160
    kept.read(0, NO_CROP)
    expected = {crop: read_image(path, (64, 64), 2, 3, crop) for crop in (NO_CROP, (0.1, 0.1, 0.1, 0.1), (0.03, 0.0, 0.1, 0.06))}
    blind(monkeypatch)
    for crop, pictures in expected.items():
        with np.printoptions(formatter={"all": lambda _: pytest.fail("pixels became a text")}):
            found = kept.read(0, crop)
        for a, b in zip(pictures, found):
            assert a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 2 and np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", ("volumes", "colors", "arrays", "grey"))
def test_the_cache_keeps_volumes_arrays_and_grey_pictures(tmp_path, kind):
    """Whatever Samples reads, it reads the same from the cache, in the same order in memory: with another one a convolution rounds its sums
    otherwise, and GMML draws other noise."""
    rng, tasks = np.random.default_rng(0), [Task("y", "regression")]
    shape, size, channels = {"volumes": ((6, 12, 10), (4, 8, 8), 1), "colors": ((6, 12, 10), (4, 8, 8), 3), "arrays": ((28, 28, 3), (8, 12), 3), "grey": ((28, 20), (8, 12), 1)}[kind]
    paths = [str(tmp_path / f"{i}.npy") for i in range(3)]
    pixels = rng.integers(256, size=(3, *shape), dtype=np.uint8)
    for path, volume in zip(paths, pixels):
        np.save(path, volume)
    cohort = Cohort("made", tasks, list("abc"), paths, {"y": np.zeros(3, np.float32)}, pixels=pixels if kind in ("arrays", "grey") else None)
    plain, kept = (Samples(cohort, range(3), size, channels=channels, folder=folder) for folder in (None, str(tmp_path)))
    for _ in range(2):
        assert all(same(collate([plain[0, i]]), collate([kept[0, i]])) for i in range(3))
        layouts = [collate([samples[0, i] for i in range(3)])["image"].stride() for samples in (plain, kept)]
        assert layouts[0] == layouts[1]


def test_a_changed_picture_or_another_size_is_another_cache(cohort, tmp_path):
    """The name of the file depends on length and time of every picture, size, R, channels and crop."""
    def name(**other):
        return Decoded(cohort, tmp_path, *{"size": (8, 8), "r": 2, "channels": 3, "crop": False, **other}.values()).path
    names = [name(), name(size=(8, 4)), name(r=1), name(channels=1), name(crop=True)]
    assert len(set(names)) == 5 and name() == names[0]
    Image.fromarray(texture(20, 20, 9)).save(cohort.paths[3])
    assert name() != names[0]


def test_a_row_that_was_not_finished_is_written_again(cohort, tmp_path):
    """A process that was killed while it wrote leaves bytes without the one that says they are all there; a file that was cut has zeros."""
    kept = Decoded(cohort, tmp_path, (8, 8), 1, 3, False)
    path, size = kept.path, kept.row_type.itemsize
    whole = [kept.read(i, NO_CROP)[0].copy() for i in range(18)]
    with open(path, "r+b") as file:
        file.seek(5 * size + 7)
        file.write(bytes(size - 7))                            # the second half of row 5 and its last byte
    assert np.array_equal(kept.read(5, NO_CROP)[0], whole[5])
    os.truncate(path, 9 * size + 5)
    mapped.cache_clear()
    again = Decoded(cohort, tmp_path, (8, 8), 1, 3, False)
    assert all(np.array_equal(again.read(i, NO_CROP)[0], whole[i]) for i in range(18))
