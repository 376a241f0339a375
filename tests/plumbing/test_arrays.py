"""plumbing/arrays.py: volumes and bags come from files as they are, and what is neither is named in one line."""
import numpy as np
import pytest
import torch

from data import Samples
from plumbing.arrays import check_finite, read_bag, read_volume
from plumbing.cohort import Cohort
from tests.photographs import bag_cohort, volume


# -----------------------------------------------------------------------------
# volumes


def test_a_volume_of_the_right_size_is_read_as_it_is(tmp_path):
    """.npy and .npz, with a channel axis or without, and one channel copied to as many as asked."""
    x = volume()
    np.save(tmp_path / "a.npy", x), np.savez_compressed(tmp_path / "b.npz", x), np.save(tmp_path / "c.npy", np.stack([x, 255 - x]))
    for name in ("a.npy", "b.npz"):
        np.testing.assert_array_equal(read_volume(str(tmp_path / name), x.shape), x[None])
        np.testing.assert_array_equal(read_volume(str(tmp_path / name), x.shape, 3), np.stack([x] * 3))
    np.testing.assert_array_equal(read_volume(str(tmp_path / "c.npy"), x.shape, 2), np.stack([x, 255 - x]))


@pytest.mark.parametrize("dtype", (np.int16, np.float32, np.float16, np.float64, bool))
def test_other_types_are_stretched_channel_by_channel(dtype):
    """The lowest value of each channel becomes 0, the highest 255, whatever the units."""
    x = np.stack([volume(), volume(seed=1)])
    x = x > 99 if dtype is bool else x.astype(dtype)
    if dtype is not bool:
        x[0] = x[0] * dtype(7) - dtype(1000)
    y = read_volume(x, x.shape[1:], 2, window="own")
    assert y.dtype == np.uint8 and y.min((1, 2, 3)).tolist() == [0, 0] and y.max((1, 2, 3)).tolist() == [255, 255]
    wide = x.astype(float)
    for c in range(2):
        np.testing.assert_array_equal(y[c], np.uint8(255 * (wide[c] - wide[c].min()) / (wide[c].max() - wide[c].min())))
    assert not read_volume(np.full((2, 2, 2), 3.5), (2, 2, 2)).any()         # a constant has no range


def test_shrinking_averages_and_growing_interpolates():
    """Halves are means of eight voxels; a ramp twice as deep stays a ramp; both at once on different axes."""
    x = volume((4, 6, 8))
    mean = x.reshape(2, 2, 3, 2, 4, 2).mean((1, 3, 5))
    assert np.abs(read_volume(x, (2, 3, 4))[0] - mean).max() <= 0.5
    ramp = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 16).reshape(5, 4, 4)
    y = read_volume(ramp, (10, 2, 2))[0]
    assert y.shape == (10, 2, 2) and np.array_equal(y[:, 0, 0], [0, 12, 38, 62, 88, 112, 138, 162, 188, 200])


def test_a_crop_of_a_volume_is_of_its_slices():
    """Shares are cut off left, top, right, bottom of every slice; depth stays."""
    x = volume((3, 20, 10))
    np.testing.assert_array_equal(read_volume(x, (3, 16, 8), crop=(0.1, 0.05, 0.1, 0.15))[0], x[:, 1:17, 1:9])


@pytest.mark.parametrize("content, message", (
    (np.zeros((4, 4)), r"\(4, 4\), need a volume \(D, H, W\) or"), (np.zeros((2, 3, 4, 4, 4)), "need numbers, at least one, along 2, 3 or 4 axes"),
    (np.zeros((5, 4, 4, 4)), r"\(5, 4, 4, 4\), need .* channels in front, 1 if --channels"), (np.full((4, 4, 4), np.nan), "not finite"),
    (np.zeros((5, 6, 6, 3)), r"holds float64 \(5, 6, 6, 3\), need .* the channels of a volume are the first"), (np.zeros((1, 6, 6, 1)), "along 2, 3 or 4 axes"),
    (np.array([{}], dtype=object), "not a readable image .*Python objects"), (np.full((4, 4, 4), "x"), "need numbers"),
    (np.zeros((0, 4, 4)), "need numbers"), (b"", "not a readable image"), (b"PK\x03\x04", "not a readable image")))
def test_what_is_no_volume_is_named_in_one_line(tmp_path, content, message):
    """Wrong axes or channels, not a number, objects, text, nothing, and what is no array at all."""
    path = tmp_path / "a.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as error:
        read_volume(str(path), (4, 4, 4))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_two_arrays_in_one_file_are_refused(tmp_path):
    """Nobody says which of them is the volume."""
    np.savez(tmp_path / "a.npz", a=volume(), b=volume())
    with pytest.raises(ValueError, match="holds 2 arrays, need one"):
        read_volume(str(tmp_path / "a.npz"), (4, 6, 8))


# -----------------------------------------------------------------------------
# bags


@pytest.mark.parametrize("array, message", (
    (np.zeros((3, 4)), r"\(3, 4\), need a bag of vectors \(S, 2\)"), (np.zeros((3, 2, 2)), "need a bag of vectors"),
    (np.zeros((0, 2)), r"\(0, 2\), need numbers, at least one"), (np.array([[1, np.inf]]), "not finite"),
    (torch.zeros(2), "along 2, 3 or 4 axes"), (torch.zeros(1, 2, dtype=torch.complex64), "need numbers")))
def test_what_is_no_bag_is_named_in_one_line(tmp_path, array, message):
    """Another width, more axes, no vector, not finite."""
    cohort = bag_cohort(tmp_path, array)
    with pytest.raises(ValueError, match=message) as error:
        Samples(cohort, [0], (), channels=2)[0, 0]
    assert cohort.paths[0] in str(error.value) and "\n" not in str(error.value)


def test_a_pt_file_is_a_tensor_and_runs_nothing(tmp_path):
    """A dict is no bag, and an object is not unpickled."""
    torch.save({"features": torch.zeros(1, 2)}, tmp_path / "a.pt"), torch.save(Cohort("x", [], [], [], {}), tmp_path / "b.pt")
    for name, message in (("a.pt", "holds a dict, need one tensor"), ("b.pt", "not a readable image")):
        with pytest.raises(ValueError, match=message) as error:
            read_bag(str(tmp_path / name), 2)
        assert "\n" not in str(error.value)


def test_numbers_that_are_not_finite_are_found_wherever_they_stand():
    for value in (np.nan, np.inf, -np.inf):
        for place in (0, 5, 11):
            array = np.arange(12, dtype=np.float32)
            array[place] = value
            with pytest.raises(ValueError, match="holds values that are not finite"):
                check_finite(array.reshape(3, 4))
    check_finite(np.arange(3)), check_finite(np.arange(12.0).reshape(3, 4))
