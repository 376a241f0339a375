"""data.py: images, targets and names of a sample belong together, and nothing random depends on workers or order."""
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import data
from data import AUGMENT, Batches, Samples, collate, make_loader
from plumbing import pictures
from plumbing.headers import axes_of
from plumbing.cohort import Cohort, Task
from plumbing.pictures import read_image
from tests.photographs import CELLS, COUNTS, bag_cohort, epochs, photographs, same, save, texture, volume


@pytest.fixture
def cohort(tmp_path):
    return photographs(tmp_path)


# -----------------------------------------------------------------------------
# samples


def shown(sample):
    """Which photographs are in a sample, read from the pixels."""
    return [round(int(image[2].mean()) / 10) for image, here in zip(sample["images"], sample["present"]) if here]


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
    crops, real = [], pictures.read_image
    monkeypatch.setattr(pictures, "read_image", lambda *args: crops.append(args[4]) or real(*args))
    samples = Samples(cohort, range(18), (4, 4), n=3, augment=("crop",), train=True)
    for epoch in range(40):
        samples[epoch, 4]
    crops = np.array(crops)
    assert crops.shape == (120, 4) and (crops >= 0).all() and (crops < 0.1).all() and len(np.unique(crops)) == 480
    assert (crops.max(0) > 0.09).all() and (crops.min(0) < 0.01).all() and np.abs(np.corrcoef(crops.T) - np.eye(4)).max() < 0.4


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


def test_a_sample_that_only_fills_a_batch_counts_for_nothing(cohort):
    """~number: the pictures of sample number, no known target, and of no image."""
    samples = Samples(cohort, range(18), (8, 8))
    real, filler = samples[0, 4], samples[0, ~4]
    assert np.array_equal(real["image"], filler["image"]) and filler["index"] == [] and filler["number"] == 4
    assert real["index"] == [4] and all(np.isnan(target).all() for target in filler["targets"].values())


def test_arrays_as_samples():
    """A cohort of arrays gives the same samples as one of files."""
    pixels = np.stack([texture(28, 28, seed)[..., 0] for seed in range(4)])
    cohort = Cohort("made", [Task("y", "regression")], list("abcd"), [f"x.npz:{i}" for i in range(4)],
                    {"y": np.zeros(4, np.float32)}, pixels=pixels)
    sample = Samples(cohort, range(4), (28, 28), channels=1)[0, 2]
    np.testing.assert_array_equal(sample["image"][0], pixels[2])
    assert sample["path"] == ["x.npz:2"]


# -----------------------------------------------------------------------------
# batches


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


# -----------------------------------------------------------------------------
# the loader


@pytest.mark.slow
@pytest.mark.parametrize("workers, context", ((2, None), (1, "spawn")))
def test_the_number_of_workers_changes_nothing(cohort, workers, context):
    """Two epochs with draws, crops, flips and turns are equal bit for bit in this process, in forked and in spawned ones."""
    samples = Samples(cohort, range(18), (8, 8), n=3, r=2, augment=AUGMENT, train=True, seed=2)
    expected, found = epochs(samples, 0), epochs(samples, workers, context)
    assert len(expected) == len(found) == 6 and all(same(a, b) for a, b in zip(expected, found))


def test_reading_processes_share_what_is_in_memory(cohort, monkeypatch):
    """Since Python 3.14 they would be sent a copy on Linux, too: of 100,000 pictures of 64 px, 1.3 GB to each of 16."""
    loader, _ = make_loader(Samples(cohort, range(18), (8, 8)), 4, workers=1)
    assert loader.multiprocessing_context.get_start_method() == ("fork" if sys.platform == "linux" else "spawn")


@pytest.mark.parametrize("batch_size, expected", ((18, 0), (9, 1), (5, 2), (1, 8)))
def test_few_batches_start_few_processes(cohort, batch_size, expected):
    """Each of the evaluations before the first step, of one batch, started eight, which takes seconds where they import PyTorch anew."""
    assert make_loader(Samples(cohort, range(18), (8, 8)), batch_size, workers=8)[0].num_workers == expected


def test_a_loader_draws_no_random_number_of_the_model(cohort):
    """Dropout after a pass over the data is the same with and without the pass, so a resumed run stays equal."""
    loader, _ = make_loader(Samples(cohort, range(18), (4, 4)), 9)
    torch.manual_seed(0)
    list(loader)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.slow
def test_a_worker_outlives_a_signal_but_not_its_loader():
    """SIGINT does nothing; SIGTERM, which is also what Python sends at its end to workers that are left, ends it after 5 s at most."""
    code = ("import os, signal, time, data, torch; "
            "stream = iter(torch.utils.data.DataLoader(range(9), num_workers=1, worker_init_fn=data.ignore_signals, persistent_workers=True)); next(stream); "
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


def test_shared_memory_that_is_full_is_said(cohort, monkeypatch):
    """Docker gives a container 64 MB. PyTorch's queue met that in a thread, whose error nobody heard, and the training waited forever."""
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    loader, _ = make_loader(Samples(cohort, range(18), (8, 8)), 4, workers=1)
    with pytest.raises(ValueError) as error:
        list(loader)
    line = str(error.value).strip().splitlines()[-1]
    assert line.startswith("ValueError: --workers: no shared memory is left") and "--shm-size" in line and line.endswith("device (28))")


def test_the_file_times_pictures(tmp_path, capsys):
    """python data.py IMAGE: shapes and milliseconds."""
    data.main([save(tmp_path / "a.png", CELLS)])
    assert "a.png: (3, 384, 384) and (3, 768, 768) in " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        data.main(["--help"])
    assert "usage: " in capsys.readouterr().out


# -----------------------------------------------------------------------------
# batches with as many of each class


def test_balanced_batches_hold_as_many_of_each_class():
    """To within one; every rare sample is drawn as often as another, give or take one, and a resumed epoch goes on where it was."""
    classes = np.array([0.0] * 50 + [1.0] * 10)
    batches = Batches(60, 8, seed=3, shuffle=True, classes=classes)
    epochs = []
    for batches.epoch in range(20):
        epoch = [[number for _, number in batch] for batch in batches]
        assert [len(batch) for batch in epoch] == [8] * 7 + [4]
        assert all(abs(sum(classes[batch]) - len(batch) / 2) <= 0.5 for batch in epoch)
        counts = np.bincount(sum(epoch, []), minlength=60)
        assert counts[:50].max() == 1 and set(counts[50:]) == {3}
        epochs.append(epoch)
    assert epochs[0] != epochs[1] and set(sum(sum(epochs, []), [])) == set(range(60))
    batches.epoch, batches.start = 7, 3
    assert [[number for _, number in batch] for batch in batches] == epochs[7][3:]


def test_balanced_batches_of_three_classes():
    """Three of each in a batch of nine."""
    classes = np.repeat([0.0, 1.0, 2.0], (40, 15, 5))
    for batch in Batches(60, 9, shuffle=True, classes=classes):
        counts = np.bincount(classes[[number for _, number in batch]].astype(int), minlength=3)
        assert counts.tolist() == [len(batch) // 3] * 3


def test_rotation_turns_every_slice_alike(tmp_path):
    """A quarter turn is np.rot90; none without the flag and none at evaluation; volumes turn within their slices."""
    rng = np.random.default_rng(0)
    picture, volume = rng.integers(0, 256, (3, 8, 8)).astype(np.uint8), rng.integers(0, 256, (1, 4, 6, 6)).astype(np.uint8)
    assert np.array_equal(data.rotate(picture, 90), np.rot90(picture, 1, (1, 2)))
    assert np.array_equal(data.rotate(volume, 90), np.rot90(volume, 1, (2, 3)))
    assert data.rotate(picture, 45)[:, 0, 0].max() == 0            # what comes in is black
    np.save(tmp_path / "a.npy", volume[0])
    cohort = Cohort("x", [Task("y", "regression")], ["p"], [str(tmp_path / "a.npy")], {"y": np.zeros(1, np.float32)})
    plain, turned, test = (Samples(cohort, [0], (4, 6, 6), channels=1, rotate=angle, train=train)
                           for angle, train in ((0, True), (30, True), (30, False)))
    assert not np.array_equal(turned[0, 0]["image"], plain[0, 0]["image"]) and np.array_equal(test[0, 0]["image"], plain[0, 0]["image"])
    assert not np.array_equal(turned[0, 0]["image"], turned[1, 0]["image"])
