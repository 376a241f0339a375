"""data.py: both resolutions of a picture come from one decode and one crop, and nothing random depends on workers or order."""
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import data
from data import AUGMENT, Batches, Decoded, Samples, axes_of, collate, make_loader, mapped, read_bag, read_image, read_volume
from tables import Cohort, Task

NO_CROP = (0.0, 0.0, 0.0, 0.0)


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


# -----------------------------------------------------------------------------
# pictures


def test_high_resolution_holds_what_low_does_not(tmp_path):
    """The bug of MultiViT's released code: the high resolution must not be the enlarged low one."""
    stripes = np.zeros((96, 96), np.uint8)
    stripes[:, ::2] = 255                                          # 48 cycles a side: 96 px show them, 48 px average them away
    low, high = read_image(save(tmp_path / "a.png", stripes), (48, 48), 2, 1)
    assert low.std() < 2 and high.std() > 100
    assert np.abs(high - low.repeat(2, 1).repeat(2, 2).astype(float)).mean() > 100


@pytest.mark.parametrize("r", (2, 3, 4))
@pytest.mark.parametrize("channels", (1, 3))
def test_low_is_the_mean_of_high(tmp_path, r, channels):
    """Every low-resolution pixel is the mean of its R x R high-resolution ones, to rounding (Pillow's thirds: 5/9)."""
    low, high = read_image(save(tmp_path / "a.jpg", texture(333, 257)), (24, 40), r, channels, (0.03, 0.1, 0.07, 0.0))
    assert low.shape == (channels, 24, 40) and high.shape == (channels, 24 * r, 40 * r) and low.dtype == high.dtype == np.uint8
    assert np.abs(low - high.reshape(channels, 24, r, 40, r).mean((2, 4))).max() <= 0.56


def test_one_resolution_has_no_second():
    """R = 1 gives None for the high resolution, with the same first."""
    low, high = read_image(texture(60, 40), (20, 20))
    assert high is None and low.shape == (3, 20, 20)


@pytest.mark.parametrize("name", ("a.jpg", "a.png"))
def test_one_decode_and_one_crop(tmp_path, monkeypatch, name):
    """A picture is opened, decoded and resized once for both resolutions."""
    path, calls = save(tmp_path / name, texture(200, 150)), []
    for owner, function in ((Image, "open"), (ImageFile.ImageFile, "load_end"), (Image.Image, "resize")):
        def counted(*args, real=getattr(owner, function), function=function, **options):
            calls.append(function)
            return real(*args, **options)
        monkeypatch.setattr(owner, function, counted)
    read_image(path, (32, 32), 2, crop=(0.1, 0.0, 0.05, 0.02))
    assert calls.count("open") == 1 and calls.count("resize") == 1 and calls.count("load_end") <= 1


CROPS = (NO_CROP, (0.1, 0.1, 0.1, 0.1), (0.1, 0.0, 0.0, 0.0), (0.0, 0.0, 0.1, 0.0), (0.0, 0.1, 0.0, 0.0), (0.0, 0.0, 0.0, 0.1))


@pytest.mark.parametrize("width, height", ((1000, 450), (450, 1000), (500, 500), (6016, 480)))
@pytest.mark.parametrize("ending", ("png", "jpg"))
def test_a_crop_keeps_most_of_both_sides(tmp_path, width, height, ending):
    """Positions read back from a ramp: the region is the crop's, 80 to 100 % of either side, the same in both resolutions."""
    path = save(tmp_path / f"a.{ending}", ramp(width, height), **({"quality": 98, "subsampling": 0} if ending == "jpg" else {}))
    for crop in CROPS:
        left, top, right, bottom = crop
        for array in read_image(path, (48, 64), 2, 3, crop):
            for axis, (start, end) in enumerate(((left, 1 - right), (top, 1 - bottom))):
                line = array[axis].mean(axis).astype(float) / 255  # along the axis, from start to end
                n = len(line)
                slope, first = np.polyfit((np.arange(n) + 0.5) / n, line, 1)
                assert abs(first - start) < 0.012 and abs(first + slope - end) < 0.012
                assert 0.79 < slope < 1.01


@pytest.mark.parametrize("size, r", (((384, 384), 2), ((224, 224), 1), ((100, 60), 2), ((33, 57), 3)))
@pytest.mark.parametrize("crop", CROPS[:2])
def test_draft_is_never_smaller_than_the_high_resolution(tmp_path, monkeypatch, size, r, crop):
    """JPEG's own downscaling leaves at least as many pixels in the crop as the larger picture has, either way up."""
    resized, real = [], Image.Image.resize

    def resize(self, size, resample=None, box=None, reducing_gap=None):
        resized.append((self.size, size, box))
        return real(self, size, resample, box, reducing_gap)

    for width, height in ((2000, 1500), (1500, 2000), (970, 1600)):
        for orientation in (1, 6):
            exif = Image.Exif()
            exif[274] = orientation
            path = save(tmp_path / "a.jpg", Image.new("RGB", (width, height), "gray"), exif=exif)
            with monkeypatch.context() as patch:
                patch.setattr(Image.Image, "resize", resize)
                read_image(path, size, r, crop=crop)
            decoded, asked, box = resized.pop()
            assert asked == (r * size[1], r * size[0])
            real_size = (width, height) if orientation == 1 else (height, width)
            kept = (box[2] - box[0], box[3] - box[1])
            for axis in (0, 1):                                    # a side is smaller only where the file's own is
                assert kept[axis] >= min(asked[axis], 0.999 * (real_size[axis] * (1 - crop[axis] - crop[axis + 2]))) - 1e-6
    save(tmp_path / "b.jpg", Image.new("RGB", (4000, 3000)))
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        read_image(str(tmp_path / "b.jpg"), (100, 100), 2)
    assert resized.pop()[0] == (500, 375)                          # and no larger than it needs to be: an eighth


@pytest.mark.parametrize("width, height", ((1600, 1200), (700, 900), (50, 40)))
@pytest.mark.parametrize("ending", ("jpg", "png"))
def test_close_to_the_plain_way(tmp_path, width, height, ending):
    """The same pictures as open, crop and one antialiased resize for each resolution, but for a gray level or two."""
    path, crop = save(tmp_path / f"a.{ending}", texture(width, height)), (0.05, 0.1, 0.0, 0.08)
    low, high = read_image(path, (64, 64), 2, 3, crop)
    box = (crop[0] * width, crop[1] * height, (1 - crop[2]) * width, (1 - crop[3]) * height)
    for array, side in ((low, 64), (high, 128)):
        plain = np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1)
        assert np.abs(array.astype(float) - plain).mean() < 1.5


# -----------------------------------------------------------------------------
# kinds of files

CELLS = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 16), np.uint8))      # four gray squares


def middles(array):
    """The four squares' gray levels, as they lie."""
    h, w = array.shape[1:]
    return array[0, [h // 4, 3 * h // 4]][:, [w // 4, 3 * w // 4]].astype(int).ravel().tolist()


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("mode, ending", (("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("CMYK", "jpg"),
                                          ("L", "jpg"), ("I;16", "png"), ("I;16", "tif"), ("F", "tif"), ("RGB", "webp"), ("RGB", "bmp"),
                                          ("L", "pgm")))
def test_modes(tmp_path, mode, ending, channels):
    """Every mode becomes gray or RGB of the same levels; 16 bits and floats are stretched, not cut off."""
    if mode in ("I;16", "F"):
        picture = Image.fromarray(CELLS.astype(np.uint16) * 17 if mode == "I;16" else CELLS.astype(np.float32) / 7)
    else:
        picture = Image.fromarray(CELLS).convert("RGB" if mode == "CMYK" else mode).convert(mode)
    assert picture.mode == mode
    path = save(tmp_path / f"a.{ending}", picture)
    low, high = read_image(path, (16, 16), 2, channels)
    expected = [0, 85, 170, 255] if mode in ("I;16", "F") else [0, 80, 160, 240]
    for array in (low, high):
        assert array.dtype == np.uint8 and len(array) == channels and np.abs(np.subtract(middles(array), expected)).max() <= 2
        assert np.ptp(array.astype(int), axis=0).max() <= 2        # gray stays gray


def test_one_bit_constant_and_tiny_pictures(tmp_path):
    """1-bit is black and white; a flat 16-bit picture is black, no division by zero; one pixel fills the picture."""
    low, _ = read_image(save(tmp_path / "a.png", Image.fromarray(CELLS > 100)), (16, 16), channels=1)
    assert middles(low) == [0, 0, 255, 255]
    low, _ = read_image(save(tmp_path / "b.png", np.full((8, 8), 900, np.uint16)), (16, 16), channels=1)
    assert low.max() == 0
    low, high = read_image(save(tmp_path / "c.png", Image.new("RGB", (1, 1), (9, 8, 7))), (4, 4), 2, crop=(0.1,) * 4)
    assert (high == np.array([9, 8, 7]).reshape(3, 1, 1)).all() and low.shape == (3, 4, 4)


@pytest.mark.parametrize("orientation, expected", ((1, [0, 80, 160, 240]), (2, [80, 0, 240, 160]), (3, [240, 160, 80, 0]),
                                                   (6, [160, 0, 240, 80]), (8, [80, 240, 0, 160])))
@pytest.mark.parametrize("ending", ("jpg", "png"))
def test_a_turned_photograph_is_turned_back(tmp_path, orientation, expected, ending):
    """The orientation that a phone notes is applied before the crop."""
    exif = Image.Exif()
    exif[274] = orientation
    low, _ = read_image(save(tmp_path / f"a.{ending}", CELLS, exif=exif), (16, 16), channels=1)
    assert np.abs(np.subtract(middles(low), expected)).max() <= 2


@pytest.mark.parametrize("ending", ("png", "webp", "tif", "mpo"))
def test_the_first_of_several_frames(tmp_path, ending):
    """Animations, stacks and the double pictures of phones give their first frame."""
    frames = [Image.fromarray(CELLS).convert("RGB"), Image.new("RGB", (32, 32), "white")]
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:], **options)
    if ending == "mpo":
        os.rename(path, path := str(tmp_path / "a.jpg"))           # as phones call them
    assert np.abs(np.subtract(middles(read_image(path, (16, 16))[0]), [0, 80, 160, 240])).max() <= 2


def test_arrays_are_pictures_too():
    """Rows of MedMNIST, gray or in color, at any size."""
    for array in (CELLS, np.stack([CELLS] * 3, -1)):
        for channels in (1, 3):
            low, high = read_image(array, (32, 32), 2, channels)
            assert np.abs(np.subtract(middles(high), [0, 80, 160, 240])).max() <= 1 and high.shape == (channels, 64, 64)
            assert low.shape == (channels, 32, 32)


def broken(folder):
    """{name: path} of files that are no pictures."""
    jpeg, png = save(folder / "whole.jpg", texture(300, 200)), save(folder / "whole.png", texture(300, 200))
    files = {"cut.jpg": open(jpeg, "rb").read()[:4000], "cut.png": open(png, "rb").read()[:4000], "empty.jpg": b"",
             "text.jpg": b"hello\nthere\n", "head.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
             "vector.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in [*files, "absent.png"]}


@pytest.mark.parametrize("name", ("cut.jpg", "cut.png", "empty.jpg", "text.jpg", "head.png", "vector.jpg", "absent.png"))
def test_what_is_no_picture_is_named_in_one_line(tmp_path, name):
    """Cut short, empty, text, another format: ValueError, the file and the reason in one line."""
    path = broken(tmp_path)[name]
    with pytest.raises(ValueError) as error:
        read_image(path, (16, 16), 2)
    assert str(error.value).startswith(f"{path}: not a readable image (") and "\n" not in str(error.value)


@pytest.mark.parametrize("side", (30, 50))
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, side):
    """Pillow's limit stops at once, also where Pillow itself would only warn; the limit is Pillow's own, not ours."""
    path = save(tmp_path / "bomb.png", Image.new("1", (side, side)))
    assert Image.MAX_IMAGE_PIXELS == 1024 ** 3 // 12 and not ImageFile.LOAD_TRUNCATED_IMAGES
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)            # 30 x 30 is over it, 50 x 50 is over twice of it
    with pytest.raises(ValueError, match=r"bomb.png: not a readable image \(Image size .* exceeds limit of \d+ pixels"):
        read_image(path, (16, 16))


# -----------------------------------------------------------------------------
# samples

COUNTS = (1, 2, 3, 5, 7)                                           # images of patients a .. e


@pytest.fixture
def cohort(tmp_path):
    """18 photographs of 5 patients; photograph i is a ramp whose blue is 10 i."""
    paths, patients = [], []
    for patient, count in zip("abcde", COUNTS):
        for _ in range(count):
            array = ramp(60, 40)
            array[..., 2] = 10 * len(paths)
            paths.append(save(tmp_path / f"{len(paths):02}.png", array))
            patients.append(patient)
    score = np.arange(18, dtype=np.float32)
    findings = np.stack([score % 2, np.where(score > 9, np.nan, 1)], 1).astype(np.float32)
    return Cohort("made", [Task("score", "regression"), Task("findings", "labels", ("x", "y"))], patients, paths,
                  {"score": score, "findings": findings})


def shown(sample):
    """Which photographs are in a sample, read from the pixels."""
    return [round(int(image[2].mean()) / 10) for image, here in zip(sample["images"], sample["present"]) if here]


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


def test_a_sample_of_a_patient(cohort):
    """Photographs, targets and names belong together; absent slots are zero and not present."""
    samples = Samples(cohort, range(18), (16, 24), n=3, r=2, augment=AUGMENT, train=True)
    assert len(samples) == 5
    for number, (patient, count) in enumerate(zip("abcde", COUNTS)):
        sample = samples[0, number]
        assert sample["images"].shape == (3, 3, 16, 24) and sample["images_hr"].shape == (3, 3, 32, 48)
        assert sample["patient"] == patient and sample["present"].tolist() == [i < count for i in range(3)]
        assert not sample["images"][count:].any() and not sample["images_hr"][count:].any()
        assert shown(sample) == sample["index"] and [cohort.patients[i] for i in sample["index"]] == [patient] * min(3, count)
        assert sample["path"] == [cohort.paths[i] for i in sample["index"]]
        assert sample["targets"]["score"] == cohort.targets["score"][sample["index"][0]]
    assert "images_hr" not in Samples(cohort, range(18), (16, 24), n=3)[0, 0]


def test_training_draws_anew_each_epoch(cohort):
    """N of the patient's photographs without replacement, another draw each epoch, the same for (seed, epoch, sample)."""
    samples, again = (Samples(cohort, range(18), (8, 8), n=3, train=True, seed=1) for _ in range(2))
    draws = [tuple(samples[epoch, 4]["index"]) for epoch in range(40)]
    assert draws == [tuple(again[epoch, 4]["index"]) for epoch in range(40)]
    assert all(len(set(draw)) == 3 and list(draw) == sorted(draw) for draw in draws)
    assert len(set(draws)) > 15 and {i for draw in draws for i in draw} == set(range(11, 18))
    assert draws != [tuple(Samples(cohort, range(18), (8, 8), n=3, train=True, seed=2)[epoch, 4]["index"]) for epoch in range(40)]


@pytest.mark.parametrize("n", (1, 2, 3, 6, 9))
def test_evaluation_shows_every_photograph_once(cohort, n):
    """ceil(images / N) samples a patient, the same in every epoch."""
    samples = Samples(cohort, range(18), (8, 8), n=n)
    seen = [samples[0, i] for i in range(len(samples))]
    assert len(samples) == sum(math.ceil(count / n) for count in COUNTS)
    assert [i for sample in seen for i in sample["index"]] == list(range(18)) == [i for sample in seen for i in shown(sample)]
    assert all(len({cohort.patients[i] for i in sample["index"]}) == 1 for sample in seen)
    assert same(samples[0, 3], samples[7, 3])


def test_one_image_a_sample(cohort):
    """Without N a sample is one image with its own target."""
    samples = Samples(cohort, [3, 7, 5], (8, 12), channels=1)
    assert len(samples) == 3
    sample = samples[0, 1]
    assert sample["image"].shape == (1, 8, 12) and sample["index"] == [7] and sample["targets"]["score"] == 7 and "images" not in sample
    assert sample["patient"] == "d"


def test_evaluation_is_not_augmented(cohort):
    """Whatever --augment says, evaluation sees the plain picture."""
    plain = Samples(cohort, range(18), (16, 16), n=3, r=2)
    assert same(plain[0, 2], Samples(cohort, range(18), (16, 16), n=3, r=2, augment=AUGMENT)[5, 2])
    np.testing.assert_array_equal(plain[0, 0]["images"][0], read_image(cohort.paths[0], (16, 16), 2)[0])


@pytest.mark.parametrize("augment", AUGMENT)
def test_augmentation_is_one_for_both_resolutions(cohort, augment):
    """The crop, flips and turns of the low resolution are those of the high one, photograph by photograph; all kinds occur."""
    samples = Samples(cohort, range(18), (16, 16), n=3, r=2, augment=(augment,), train=True)
    kinds = {"hflip": {(1, 1), (-1, 1)}, "vflip": {(1, 1), (1, -1)}, "rot90": {(1, 1), (-1, -1), (0, 0)},
             "dflip": {(1, 1)}}                                    # a picture has no depth
    found = set()                                                  # where red and green rise; after a quarter turn, across
    for epoch in range(12):
        sample = samples[epoch, 2]
        assert np.abs(sample["images"] - sample["images_hr"].reshape(3, 3, 16, 2, 16, 2).mean((3, 5))).max() <= 0.51
        for image in sample["images"].astype(int):
            right, down = image[0].mean(0), image[1].mean(1)       # red along x, green along y
            rises = tuple(int(np.sign(line[-1] - line[0]) * (np.ptp(line) > 50)) for line in (right, down))
            found.add(rises if augment != "crop" else (image[0].min(), image[0].max()))
    assert len(found) > 20 if augment == "crop" else found == kinds[augment]


def test_quarter_turns_need_squares(cohort):
    """A picture that is not square is turned by half a turn or not at all, so that it keeps its shape."""
    samples = Samples(cohort, range(18), (16, 24), n=3, r=2, augment=("rot90",), train=True)
    found = {bool(samples[epoch, 2]["images"][0, 0, :, 0].mean() > 128) for epoch in range(10)}
    assert found == {True, False} and samples[0, 2]["images"].shape == (3, 3, 16, 24)


def test_crop_is_up_to_a_tenth_of_each_border(cohort, monkeypatch):
    """Four independent uniform draws from 0 to 0.1 for every photograph."""
    crops, real = [], data.read_image
    monkeypatch.setattr(data, "read_image", lambda *args: crops.append(args[4]) or real(*args))
    samples = Samples(cohort, range(18), (4, 4), n=3, augment=("crop",), train=True)
    for epoch in range(40):
        samples[epoch, 4]
    crops = np.array(crops)
    assert crops.shape == (120, 4) and (crops >= 0).all() and (crops < 0.1).all() and len(np.unique(crops)) == 480
    assert (crops.max(0) > 0.09).all() and (crops.min(0) < 0.01).all() and np.abs(np.corrcoef(crops.T) - np.eye(4)).max() < 0.4


# -----------------------------------------------------------------------------
# batches


# -----------------------------------------------------------------------------
# volumes


def volume(shape=(4, 6, 8), seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


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
    y = read_volume(x, x.shape[1:], 2)
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
    (np.zeros((4, 4)), r"\(4, 4\), need a volume \(D, H, W\) or"), (np.zeros((2, 3, 4, 4, 4)), "need a volume"),
    (np.zeros((5, 4, 4, 4)), "5 channels of .* need 1 or 1; --channels"), (np.full((4, 4, 4), np.nan), "all of them finite"),
    (np.array([{}], dtype=object), "not a readable array .*Python objects"), (np.full((4, 4, 4), "x"), "need numbers"),
    (np.zeros((0, 4, 4)), "need numbers"), (b"", "not a readable array"), (b"PK\x03\x04", "not a readable array")))
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


def test_samples_of_volumes(tmp_path):
    """Flips on three axes, each seen and each drawn from (seed, epoch, sample); one batch is (B, C, D, H, W) uint8."""
    x = volume((4, 6, 6))
    np.save(tmp_path / "a.npy", x)
    cohort = Cohort("v", [Task("y", "regression")], ["p", "q"], [str(tmp_path / "a.npy")] * 2, {"y": np.zeros(2, np.float32)})
    assert axes_of(cohort) == 3
    samples = Samples(cohort, [0, 1], (4, 6, 6), channels=1, augment=("hflip", "vflip", "dflip"), train=True)
    flips = {tuple(axes): np.flip(x, axes) for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))}
    seen = {next(axes for axes, flipped in flips.items() if np.array_equal(samples[epoch, 0]["image"][0], flipped)) for epoch in range(80)}
    assert seen == set(flips)
    np.testing.assert_array_equal(samples[3, 1]["image"], samples[3, 1]["image"])
    turned = Samples(cohort, [0], (4, 6, 6), channels=1, augment=("rot90",), train=True)
    assert any(np.array_equal(turned[epoch, 0]["image"][0], np.rot90(x, 1, (1, 2))) for epoch in range(20))
    batch = collate([samples[0, 0], samples[0, 1]])
    assert batch["image"].shape == (2, 1, 4, 6, 6) and batch["image"].dtype == torch.uint8


# -----------------------------------------------------------------------------
# bags


def bag_cohort(folder, *arrays):
    """One file a bag: .npy, and .pt for tensors."""
    paths = [str(folder / f"{i}.{'pt' if isinstance(array, torch.Tensor) else 'npy'}") for i, array in enumerate(arrays)]
    for path, array in zip(paths, arrays):
        torch.save(array, path) if path.endswith("pt") else np.save(path, array)
    return Cohort("bags", [Task("y", "regression")], list("abcdef"[:len(paths)]), paths, {"y": np.arange(len(paths), dtype=np.float32)})


def test_bags_are_padded_to_the_longest(tmp_path):
    """float16, bfloat16 and integers of either byte order become float32; the mask says which vectors are real, the rest is zero."""
    arrays = [np.float16([[1, 2], [3, 4], [5, 6]]), torch.tensor([[7.0, 8]], dtype=torch.bfloat16, requires_grad=True), np.array([[9, 9], [8, 8]], ">i2")]
    cohort = bag_cohort(tmp_path, *arrays)
    assert axes_of(cohort) == 0 and axes_of(bag_cohort(tmp_path, arrays[1])) == 0
    cohort = bag_cohort(tmp_path, *arrays)
    samples = Samples(cohort, [0, 1, 2], (), channels=2)
    batch = collate([samples[0, i] for i in range(3)])
    assert batch["bag"].dtype == torch.float32 and batch["bag"].tolist() == [[[1, 2], [3, 4], [5, 6]], [[7, 8], [0, 0], [0, 0]],
                                                                             [[9, 9], [8, 8], [0, 0]]]
    assert batch["bag_mask"].tolist() == [[True] * 3, [True, False, False], [True, True, False]] and "image" not in batch


@pytest.mark.parametrize("array, message", (
    (np.zeros((3, 4)), r"\(3, 4\), need a bag of vectors \(S, 2\)"), (np.zeros((3, 2, 2)), "need a bag of vectors"),
    (np.zeros((0, 2)), r"\(0, 2\), need numbers, at least one"), (np.array([[1, np.inf]]), "all of them finite"),
    (torch.zeros(2), "need a bag"), (torch.zeros(1, 2, dtype=torch.complex64), "need numbers")))
def test_what_is_no_bag_is_named_in_one_line(tmp_path, array, message):
    """Another width, more axes, no vector, not finite."""
    cohort = bag_cohort(tmp_path, array)
    with pytest.raises(ValueError, match=message) as error:
        Samples(cohort, [0], (), channels=2)[0, 0]
    assert cohort.paths[0] in str(error.value) and "\n" not in str(error.value)


def test_a_pt_file_is_a_tensor_and_runs_nothing(tmp_path):
    """A dict is no bag, and an object is not unpickled."""
    torch.save({"features": torch.zeros(1, 2)}, tmp_path / "a.pt"), torch.save(Cohort("x", [], [], [], {}), tmp_path / "b.pt")
    for name, message in (("a.pt", "holds a dict, need one tensor"), ("b.pt", "not a readable array")):
        with pytest.raises(ValueError, match=message) as error:
            read_bag(str(tmp_path / name), 2)
        assert "\n" not in str(error.value)


def test_collate(cohort):
    """Images stay uint8, presence is bool, targets are float32, names are lists."""
    samples = Samples(cohort, range(18), (8, 12), n=2, r=2)
    batch = collate([samples[0, i] for i in range(4)])
    assert {key: (tuple(batch[key].shape), batch[key].dtype) for key in ("images", "images_hr", "present")} == {
        "images": ((4, 2, 3, 8, 12), torch.uint8), "images_hr": ((4, 2, 3, 16, 24), torch.uint8), "present": ((4, 2), torch.bool)}
    assert {name: (tuple(y.shape), y.dtype) for name, y in batch["targets"].items()} == {
        "score": ((4,), torch.float32), "findings": ((4, 2), torch.float32)}
    assert batch["patient"] == ["a", "b", "c", "c"] and batch["index"] == [[0], [1, 2], [3, 4], [5]]
    assert batch["path"][0] == [cohort.paths[0]]
    one = Samples(cohort, range(18), (8, 12), channels=1, augment=AUGMENT, train=True)
    batch = collate([one[0, i] for i in range(4)])
    assert batch["image"].shape == (4, 1, 8, 12) and batch["image"].dtype == torch.uint8 and "images" not in batch


def test_batches_depend_on_seed_and_epoch_only():
    """A shuffled order for each (seed, epoch), every sample once; start leaves out exactly that many batches."""
    torch.manual_seed(0), np.random.seed(0)
    batches = Batches(23, 5, seed=3, shuffle=True)
    first = list(batches)
    assert len(batches) == len(first) == 5 and sorted(number for batch in first for _, number in batch) == list(range(23))
    torch.rand(9), np.random.rand(9)
    assert list(batches) == first == list(Batches(23, 5, 3, True))
    batches.start = 3
    assert list(batches) == first[3:] and len(batches) == 2
    batches.start, batches.epoch = 0, 1
    second = list(batches)
    assert {epoch for batch in second for epoch, _ in batch} == {1}
    orders = [[number for batch in all_of for _, number in batch] for all_of in (first, second, list(Batches(23, 5, 4, True)))]
    assert orders[0] != orders[1] and orders[0] != orders[2]
    assert [number for batch in Batches(23, 5) for _, number in batch] == list(range(23))


def epochs(samples, workers, context=None):
    """All batches of two epochs."""
    loader, batches = make_loader(samples, 2, seed=5, shuffle=True, workers=workers)
    if context:
        loader.multiprocessing_context = context
    out = []
    for batches.epoch in (0, 1):
        out += list(loader)
    return out


@pytest.mark.parametrize("workers, context", ((2, None), (1, "spawn")))
def test_the_number_of_workers_changes_nothing(cohort, workers, context):
    """Two epochs with draws, crops, flips and turns are equal bit for bit in this process, in forked and in spawned ones."""
    samples = Samples(cohort, range(18), (8, 8), n=3, r=2, augment=AUGMENT, train=True, seed=2)
    expected, found = epochs(samples, 0), epochs(samples, workers, context)
    assert len(expected) == len(found) == 6 and all(same(a, b) for a, b in zip(expected, found))


def test_a_loader_draws_no_random_number_of_the_model(cohort):
    """Dropout after a pass over the data is the same with and without the pass, so a resumed run stays equal."""
    loader, _ = make_loader(Samples(cohort, range(18), (4, 4)), 9)
    torch.manual_seed(0)
    list(loader)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


def blind(monkeypatch):
    """From here on a picture can only come from memory: opening a file is an error."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a file was opened"))


@pytest.mark.parametrize("workers", (0, 2))
def test_the_cache_gives_the_same_bits_and_opens_no_file_twice(cohort, tmp_path, monkeypatch, workers):
    """Without crop: draws, flips and turns of both resolutions are as without the cache, in every process, in this run and the next."""
    augment = ("hflip", "vflip", "rot90")
    plain, kept = (Samples(cohort, range(18), (8, 8), n=3, r=2, augment=augment, train=True, seed=2, folder=folder) for folder in (None, tmp_path))
    all(kept.kept.read(i, NO_CROP) for i in range(0, 18, 2))       # another process was here before
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
    assert kept.wide == [160, 160] and kept.file[1] == (1, 1 + 3 * 160 * 160)
    kept.read(0, NO_CROP)
    expected = {crop: read_image(path, (64, 64), 2, 3, crop) for crop in (NO_CROP, (0.1, 0.1, 0.1, 0.1), (0.03, 0.0, 0.1, 0.06))}
    blind(monkeypatch)
    for crop, pictures in expected.items():
        for a, b in zip(pictures, kept.read(0, crop)):
            assert a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 2 and np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", ("volumes", "arrays", "grey"))
def test_the_cache_keeps_volumes_arrays_and_grey_pictures(tmp_path, kind):
    """Whatever Samples reads, it reads the same from the cache."""
    rng, tasks = np.random.default_rng(0), [Task("y", "regression")]
    shape, size, channels = {"volumes": ((6, 12, 10), (4, 8, 8), 1), "arrays": ((28, 28, 3), (8, 12), 3), "grey": ((28, 20), (8, 12), 1)}[kind]
    paths = [str(tmp_path / f"{i}.npy") for i in range(3)]
    pixels = rng.integers(256, size=(3, *shape), dtype=np.uint8)
    for path, volume in zip(paths, pixels):
        np.save(path, volume)
    cohort = Cohort("made", tasks, list("abc"), paths, {"y": np.zeros(3, np.float32)}, pixels=None if kind == "volumes" else pixels)
    plain, kept = (Samples(cohort, range(3), size, channels=channels, folder=folder) for folder in (None, str(tmp_path)))
    for _ in range(2):
        assert all(same(collate([plain[0, i]]), collate([kept[0, i]])) for i in range(3))


def test_a_changed_picture_or_another_size_is_another_cache(cohort, tmp_path):
    """The name of the file depends on length and time of every picture, size, R, channels and crop."""
    def name(**other):
        return Decoded(cohort, tmp_path, *{"size": (8, 8), "r": 2, "channels": 3, "crop": False, **other}.values()).file[0]
    names = [name(), name(size=(8, 4)), name(r=1), name(channels=1), name(crop=True)]
    assert len(set(names)) == 5 and name() == names[0]
    Image.fromarray(texture(20, 20, 9)).save(cohort.paths[3])
    assert name() != names[0]


def test_a_row_that_was_not_finished_is_written_again(cohort, tmp_path):
    """A process that was killed while it wrote leaves bytes without the one that says they are all there; a file that was cut has zeros."""
    kept = Decoded(cohort, tmp_path, (8, 8), 1, 3, False)
    path, shape = kept.file
    whole = [kept.read(i, NO_CROP)[0].copy() for i in range(18)]
    with open(path, "r+b") as file:
        file.seek(5 * shape[1] + 7)
        file.write(bytes(shape[1] - 7))                            # the second half of row 5 and its last byte
    assert np.array_equal(kept.read(5, NO_CROP)[0], whole[5])
    os.truncate(path, 9 * shape[1] + 5)
    mapped.cache_clear()
    again = Decoded(cohort, tmp_path, (8, 8), 1, 3, False)
    assert all(np.array_equal(again.read(i, NO_CROP)[0], whole[i]) for i in range(18))


def test_a_sample_that_only_fills_a_batch_counts_for_nothing(cohort):
    """~number: the pictures of sample number, no known target, and of no image."""
    samples = Samples(cohort, range(18), (8, 8))
    real, filler = samples[0, 4], samples[0, ~4]
    assert np.array_equal(real["image"], filler["image"]) and filler["index"] == [] and filler["number"] == 4
    assert real["index"] == [4] and all(np.isnan(target).all() for target in filler["targets"].values())


def test_a_worker_outlives_a_signal_but_not_its_loader():
    """SIGINT does nothing; SIGTERM, which is also what Python sends at its end to workers that are left, ends it after 5 s at most."""
    code = ("import os, signal, time, data, torch; "
            "stream = iter(torch.utils.data.DataLoader(range(9), num_workers=1, worker_init_fn=data.patient, persistent_workers=True)); next(stream); "
            "pid = stream._workers[0].pid; os.kill(pid, signal.SIGINT); os.kill(pid, signal.SIGTERM); time.sleep(1); "
            "print(len(list(stream))); import builtins; builtins.left = stream")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(os.path.abspath(data.__file__)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "8\n" and time.monotonic() - began < 50, done.stderr


def test_a_thread_reads_ahead_and_its_errors_come_in_their_place(cohort, tmp_path):
    """The batches are those of the samples in order; the one that holds a broken picture raises, those before it have come."""
    samples = Samples(cohort, range(18), (8, 8))
    loader, _ = make_loader(samples, 4)
    assert [i for batch in loader for images in batch["index"] for i in images] == list(range(18)) and loader.waited > 0
    (tmp_path / "13.png").write_bytes(b"no picture")
    seen = []
    with pytest.raises(ValueError, match="13.png: not a readable image"):
        for batch in loader:
            seen += batch["patient"]
    assert len(seen) == 12


def test_a_broken_photograph_in_a_worker_is_named(cohort, tmp_path):
    """The last line of what the DataLoader raises is ours, with the file."""
    (tmp_path / "13.png").write_bytes(b"no picture")
    loader, _ = make_loader(Samples(cohort, range(18), (8, 8)), 4, workers=1)
    with pytest.raises(ValueError) as error:
        list(loader)
    assert str(error.value).strip().splitlines()[-1].startswith(f"ValueError: {cohort.paths[13]}: not a readable image (")


def test_arrays_as_samples():
    """A cohort of arrays gives the same samples as one of files."""
    pixels = np.stack([texture(28, 28, seed)[..., 0] for seed in range(4)])
    cohort = Cohort("made", [Task("y", "regression")], list("abcd"), [f"x.npz:{i}" for i in range(4)],
                    {"y": np.zeros(4, np.float32)}, pixels=pixels)
    sample = Samples(cohort, range(4), (28, 28), channels=1)[0, 2]
    np.testing.assert_array_equal(sample["image"][0], pixels[2])
    assert sample["path"] == ["x.npz:2"]


def test_the_file_times_pictures(tmp_path, capsys):
    """python data.py IMAGE: shapes and milliseconds."""
    data.main([save(tmp_path / "a.png", CELLS)])
    assert "a.png: (3, 384, 384) and (3, 768, 768) in " in capsys.readouterr().out
