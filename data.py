"""From images to batches: samples -> collate -> batch order -> loader.

    Samples        one sample is one patient with up to N photographs, or one image
    collate        list of samples -> batch
    Batches        which samples make up which batch
    make_loader    the batches, read ahead of the model

The images are pictures, volumes, or bags of vectors. A batch is a dict:

    image          (B, C, h, w) uint8, or (B, C, d, h, w) for volumes
    images         (B, N, C, h, w) uint8, for models that see up to N images of a patient at once
    images_hr      (B, N, C, R h, R w) uint8, when R > 1: the same images at R times the resolution
    present        (B, N) bool, False for the slots that a patient with fewer images leaves empty
    bag, bag_mask  (B, S, F) float, and (B, S) bool, True for the vectors that a bag has; bags of one length
                   come without a mask
    features       (B, 1 + T, D) float, the tokens that a frozen model made of the image, read from disk
    tabular        (B, P) float, the patient's table, where columns were asked for
    targets        {task: (B,), or (B, L) for labels, (B, 2) for time and event}, float, NaN where unknown
    patient, path, index, number         lists of B: the patient, its files, their indices in the cohort, and
                   the number of the sample

Images stay uint8 until they are on the device: the model normalizes them.
Everything random is drawn from (seed, epoch, sample), so that workers, processes and resuming change nothing.
Run: python data.py [IMAGE ...]        times the reading of pictures, or of a drawn one of 12 megapixels
"""
import math
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os.path import basename, join
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from plumbing.arrays import NO_CROP, read_bag
from plumbing.cache import Decoded
from plumbing.command import Parser, in_one_line, run_main
from plumbing.pictures import CROP, read, read_image

AUGMENT = ("crop", "hflip", "vflip", "dflip", "rot90")
FLIPS = (("hflip", -1), ("vflip", -2), ("dflip", -3))              # of width, height, depth
# on Linux a reading process shares the memory of this one, as by default until Python 3.14; elsewhere it is
# sent a copy of all that Samples hold
START = "fork" if sys.platform == "linux" else "spawn"


# -----------------------------------------------------------------------------
# samples


class Samples(torch.utils.data.Dataset):
    """The samples of a cohort. samples[epoch, number] is a dict: an entry of the batch, without the axis B.

    n: None for one image per sample, N for one patient per sample. A patient with more than N images has one
    sample in training, which draws N of them anew each epoch, and ceil(images / N) samples in evaluation.
    size: (h, w) of pictures, (d, h, w) of volumes, () of bags. r: the sides of images_hr are r times as long.
    channels: C of pictures and volumes, the width F of a bag's vectors.
    augment: any of AUGMENT, in training only; crop cuts up to 10 % off each border. rotate: by at most this
    many degrees, in training only; the corners that this opens are black.
    folder: where decoded images are kept for later epochs, see Decoded.
    Number ~i is a copy of sample i that only fills a batch: its targets are unknown, and `index` is empty."""

    def __init__(self, cohort, indices, size, n=None, r=1, channels=3, augment=(), rotate=0, train=False,
                 seed=0, folder=None):
        self.cohort, self.size, self.n = cohort, size, n
        self.r, self.channels, self.seed = r, channels, seed
        self.augment = augment if train else ()
        self.rotate = rotate if train else 0
        self.decoded = None
        if folder:
            self.decoded = Decoded(cohort, folder, size, r, channels, "crop" in self.augment)
        self.samples = [[i] for i in indices]                      # of each sample, the indices of its images
        if n:
            self.samples = []
            for images in cohort.groups(indices).values():
                step = len(images) if train else n
                self.samples += [images[i:i + step] for i in range(0, len(images), step)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, key):
        epoch, number = key
        if number < 0:
            sample = self[epoch, ~number]
            unknown = {task: np.full_like(target, np.nan) for task, target in sample["targets"].items()}
            return sample | {"index": [], "targets": unknown}
        images = self.samples[number]
        rng = np.random.default_rng((self.seed, epoch, number))
        if self.n and len(images) > self.n:
            drawn = rng.choice(len(images), self.n, replace=False)
            images = [images[i] for i in sorted(drawn)]
        cohort = self.cohort
        first = images[0]                                          # its targets and table are the patient's
        sample = {"patient": cohort.patients[first],
                  "path": [cohort.paths[i] for i in images],
                  "index": images,
                  "number": number,
                  "targets": {task.name: cohort.targets[task.name][first] for task in cohort.tasks}}
        if cohort.tabular is not None:
            sample["tabular"] = cohort.tabular[first]
        return sample | self.inputs(images, rng)

    def inputs(self, images, rng):
        """Indices of images -> the entries of the sample that hold these images."""
        if self.cohort.features is not None:
            return {"features": self.cohort.features[images[0]]}
        if not self.size:
            return {"bag": read_bag(self.cohort.paths[images[0]], self.channels)}
        pictures = [self.picture(i, rng) for i in images]
        if not self.n:
            return {"image": pictures[0][0]}
        sample = {"present": np.arange(self.n) < len(images)}
        for name, arrays in zip(("images", "images_hr"), zip(*pictures)):    # no images_hr when R = 1
            sample[name] = np.zeros((self.n, *arrays[0].shape), dtype=np.uint8)
            sample[name][:len(images)] = arrays                    # empty slots stay zero
        return sample

    def picture(self, i, rng):
        """Image i, augmented -> [low resolution], or [low, high] when R > 1, both in the same way."""
        crop = NO_CROP
        if "crop" in self.augment:
            crop = rng.uniform(0, CROP, 4)
        if self.decoded:
            pictures = self.decoded.read(i, crop)
        else:
            pictures = read(self.cohort, i, self.size, self.r, self.channels, crop)
        pictures = [picture for picture in pictures if picture is not None]
        for name, axis in FLIPS[:len(self.size)]:                  # a picture has no depth
            if name in self.augment and rng.random() < 0.5:
                pictures = [np.flip(picture, axis) for picture in pictures]
        if "rot90" in self.augment:
            is_square = self.size[-2] == self.size[-1]             # a quarter turn keeps its shape
            turns = rng.integers(4) if is_square else 2 * rng.integers(2)
            pictures = [np.rot90(picture, turns, axes=(-2, -1)) for picture in pictures]
        if self.rotate:
            angle = rng.uniform(-self.rotate, self.rotate)
            pictures = [rotate(picture, angle) for picture in pictures]
        return pictures


def rotate(picture, angle):
    """uint8 (..., h, w), rotated around its center, counterclockwise, by `angle` degrees, slice by slice."""
    slices = picture.reshape(-1, *picture.shape[-2:])
    turned = [Image.fromarray(plane).rotate(angle, Image.BILINEAR) for plane in slices]
    return np.reshape(turned, picture.shape)


def collate(samples):
    """List of samples -> batch."""
    batch = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key == "bag":
            bags = [torch.from_numpy(bag) for bag in values]
            lengths = torch.tensor([len(bag) for bag in bags])
            batch["bag"] = pad_sequence(bags, batch_first=True)    # (B, S, F), zeros behind the shorter bags
            if lengths.min() < lengths.max():
                batch["bag_mask"] = torch.arange(lengths.max()) < lengths[:, None]           # (B, S)
        elif key in ("patient", "path", "index", "number"):
            batch[key] = values
        elif key == "targets":
            batch[key] = {task: stack([targets[task] for targets in values]) for task in values[0]}
        else:
            batch[key] = stack(values)
    return batch


def stack(arrays):
    return torch.from_numpy(np.stack(arrays))


def collate_shared(samples):
    """collate in a reading process, into memory that it shares with the one that trains.

    PyTorch would do that in a thread whose errors nobody hears: the training would wait forever."""
    batch = collate(samples)
    with in_one_line("--workers: no shared memory is left for the batches of so many reading processes; a "
                     "container has more with docker run --shm-size=8g", RuntimeError):
        for value in [*batch.values(), *batch["targets"].values()]:
            if torch.is_tensor(value):
                value.share_memory_()
    return batch


# -----------------------------------------------------------------------------
# the order of the batches


@dataclass
class Batches:
    """Batch sampler: yields lists of (epoch, number). The order depends on (seed, epoch) only.

    Set `epoch` before each pass; `start` is the number of batches to skip.
    classes: the class of every sample. With it each batch holds equally many samples of each class, to within
    one, and an epoch is as long as without: samples of rare classes come more than once, those of frequent
    classes not in every epoch.
    rank, world: of `world` processes, the one of that rank has every world-th sample of each batch, at least
    one (which may be a ~i, see Samples).
    fill: add ~i until all batches are equally long, as compiled models need it."""

    length: int
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    classes: np.ndarray = None
    rank: int = 0
    world: int = 1
    fill: bool = False
    epoch = 0
    start = 0

    def __len__(self):
        return math.ceil(self.length / self.batch_size) - self.start

    def __iter__(self):
        order = self.order()
        least = math.ceil(self.batch_size / self.world) if self.fill else 1
        for first in range(self.start * self.batch_size, self.length, self.batch_size):
            batch = order[first:first + self.batch_size]
            numbers = batch[self.rank::self.world]
            numbers += [~batch[0]] * (least - len(numbers))
            yield [(self.epoch, number) for number in numbers]

    def order(self):
        """-> the numbers of the samples of this epoch, one batch after the other."""
        if not self.shuffle:
            return list(range(self.length))
        rng = np.random.default_rng((self.seed, self.epoch, self.length))
        order = rng.permutation(self.length)
        if self.classes is not None:
            classes = [np.flatnonzero(self.classes == c) for c in np.unique(self.classes)]
            share = math.ceil(self.length / len(classes))
            columns = [np.resize(rng.permutation(numbers), share) for numbers in classes]    # resize repeats
            order = np.stack(columns, axis=1).ravel()[:self.length]          # a sample of each class in turn
        return order.tolist()


# -----------------------------------------------------------------------------
# the loader


class Loader(torch.utils.data.DataLoader):
    """A DataLoader that reads ahead even without worker processes.

    waited: seconds spent waiting for batches, over all passes."""
    waited = 0.0

    def __iter__(self):
        batches = super().__iter__()
        if self.num_workers == 0:
            batches = read_ahead(batches)
        began = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - began
            yield batch
            began = time.perf_counter()


def read_ahead(batches):
    """The same batches; a thread makes the next one while the model computes with this one.

    Decoding rarely holds Python's lock, and small models leave a core idle."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def ignore_signals(worker):
    """Leave signals to the process that trains; schedulers and terminals send them to all processes of a run.

    That process saves and ends its workers. A worker that still runs 5 s after a SIGTERM ends itself."""
    def wait(number, frame):
        signal.alarm(5)

    def end(number, frame):
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):                                 # not on Windows
        signal.signal(signal.SIGTERM, wait)
        signal.signal(signal.SIGALRM, end)


def make_loader(samples, batch_size, workers=0, pin_memory=False, **order):
    """-> Loader, and its Batches, whose `epoch` the caller sets. order: arguments of Batches."""
    batches = Batches(len(samples), batch_size, **order)
    workers = min(workers, len(batches) // 2)                      # their start takes longer than one batch
    loader = Loader(
        samples, batch_sampler=batches, collate_fn=collate_shared if workers else collate,
        num_workers=workers, pin_memory=pin_memory, persistent_workers=workers > 0,
        multiprocessing_context=START if workers else None, worker_init_fn=ignore_signals,
        generator=torch.Generator())                               # not the one that dropout draws from
    return loader, batches


def main(argv=None):
    """Time read_image on each of the files, or on a drawn picture."""
    parser = Parser(__doc__)
    parser.add_argument("images", nargs="*", help="files to time the reading of; without any, one is drawn")
    paths = parser.parse_args(argv).images
    with TemporaryDirectory() as folder:
        if not paths:
            paths = [join(folder, "4000x3000.jpg")]
            noise = Image.effect_noise((40, 30), 200).resize((4000, 3000))
            noise.convert("RGB").save(paths[0])
        for path in paths:
            start = time.perf_counter()
            low, high = read_image(path, (384, 384), r=2)
            milliseconds = 1000 * (time.perf_counter() - start)
            print(f"{basename(path)}: {low.shape} and {high.shape} in {milliseconds:.0f} ms")


if __name__ == "__main__":
    run_main(main)
