"""From pictures and volumes to batches: decode, crop, augment, stack.

    picture        one decode and one crop give the low and the high resolution
    volume, bag    an array (D, H, W), (C, D, H, W) or (S, F) of a .npy, .npz or .pt file
    Samples        one sample is one patient with up to N photographs, or one image
    batch          dict: images (B, N, C, h, w), images_hr (B, N, C, R h, R w) and present (B, N), or image (B, C, h, w),
                   for volumes (B, C, d, h, w), or bag (B, S, F) and bag_mask (B, S), True for the S vectors a bag has,
                   or features (B, 1 + T, D), what a frozen model once said of the image, read from disk;
                   tabular (B, P), the patient's table, where columns were asked for;
                   targets {task: (B,), or (B, L) for labels, (B, 2) for time and event}, float, NaN where unknown;
                   patient, path, index, number: lists

Images and volumes stay uint8 until they are on the device: the model normalizes them.
Everything random is drawn from (seed, epoch, sample), so neither the number of workers or processes nor a resumed run changes anything.
Run: python data.py [IMAGE ...]                    times the reading of pictures, or of a drawn one of 12 megapixels
"""
import io
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from plumbing.arrays import read_bag
from plumbing.cache import Decoded
from plumbing.pictures import CROP, read, read_image


AUGMENT = ("crop", "hflip", "vflip", "dflip", "rot90")             # flips of width, height and depth


class Samples(torch.utils.data.Dataset):
    """Samples of a cohort, to be asked for by (epoch, number).

    n None: one image a sample, batch entry `image`. n = N: one patient a sample, `images` and `present`, also `images_hr`
    when r > 1; with more than N images, training draws N anew each epoch, and evaluation has ceil(images / N) samples of
    the patient. size: (h, w) of pictures, (d, h, w) of volumes, () of bags, then `channels` is the width of a vector and the
    batch entry `bag`. augment: any of AUGMENT, for training only; crop cuts up to 10 % off each border. folder: where decoded images
    are kept for the next time, see Decoded. Sample ~number stands for sample number where a batch needs one more: no target is
    known, and it is of no image (`index` is empty)."""

    def __init__(self, cohort, indices, size, n=None, r=1, channels=3, augment=(), train=False, seed=0, folder=None):
        self.cohort, self.size, self.n, self.r, self.channels, self.seed = cohort, size, n, r, channels, seed
        self.augment = augment if train else ()
        self.kept = Decoded(cohort, folder, size, r, channels, "crop" in self.augment) if folder else None
        self.samples = [[i] for i in indices]
        if n:
            groups = cohort.groups(indices).values()
            self.samples = list(groups) if train else [group[i:i + n] for group in groups for i in range(0, len(group), n)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, key):
        epoch, number = key
        if number < 0:
            sample = self[epoch, ~number]
            return {**sample, "index": [], "targets": {task: np.full_like(target, np.nan) for task, target in sample["targets"].items()}}
        chosen = self.samples[number]
        rng = np.random.default_rng((self.seed, epoch, number))
        if self.n and len(chosen) > self.n:
            chosen = [chosen[i] for i in sorted(rng.choice(len(chosen), self.n, replace=False))]
        sample = {"targets": {task.name: self.cohort.targets[task.name][chosen[0]] for task in self.cohort.tasks},
                  "patient": self.cohort.patients[chosen[0]], "path": [self.cohort.paths[i] for i in chosen],
                  "index": chosen, "number": number}
        if self.cohort.tabular is not None:
            sample["tabular"] = self.cohort.tabular[chosen[0]]
        if self.cohort.features is not None:
            return {**sample, "features": self.cohort.features[chosen[0]]}
        if not self.size:
            return {**sample, "bag": read_bag(self.cohort.paths[chosen[0]], self.channels)}
        pictures = [self.picture(i, rng) for i in chosen]
        if not self.n:
            return {**sample, "image": pictures[0][0]}
        sample["present"] = np.arange(self.n) < len(chosen)
        for j, name in enumerate(("images", "images_hr")[:1 + (self.r > 1)]):
            sample[name] = np.zeros((self.n, *pictures[0][j].shape), dtype=np.uint8)
            for slot, picture in zip(sample[name], pictures):
                slot[:] = picture[j]
        return sample

    def picture(self, i, rng):
        crop = rng.uniform(0, CROP, 4) if "crop" in self.augment else (0.0,) * 4
        if self.kept:
            low, high = self.kept.read(i, crop)
        else:
            low, high = read(self.cohort, i, self.size, self.r, self.channels, crop)
        for name, axis in (("hflip", -1), ("vflip", -2), ("dflip", -3))[:len(self.size)]:
            if name in self.augment and rng.random() < 0.5:
                low, high = np.flip(low, axis), None if high is None else np.flip(high, axis)
        if "rot90" in self.augment:
            turns = rng.integers(4) if self.size[-2] == self.size[-1] else 2 * rng.integers(2)     # a quarter needs a square
            low, high = np.rot90(low, turns, (-2, -1)), None if high is None else np.rot90(high, turns, (-2, -1))
        return low, high


def collate(samples):
    """List of samples -> batch."""
    batch = {key: [sample[key] for sample in samples] for key in ("patient", "path", "index", "number")}
    for key in ("image", "images", "images_hr", "present", "features", "tabular"):
        if key in samples[0]:
            batch[key] = torch.from_numpy(np.stack([sample[key] for sample in samples]))
    if "bag" in samples[0]:
        longest = max(len(sample["bag"]) for sample in samples)
        batch["bag"] = torch.zeros(len(samples), longest, samples[0]["bag"].shape[1])
        batch["bag_mask"] = torch.zeros(len(samples), longest, dtype=torch.bool)
        for i, sample in enumerate(samples):
            batch["bag"][i, :len(sample["bag"])] = torch.from_numpy(sample["bag"])
            batch["bag_mask"][i, :len(sample["bag"])] = True
    batch["targets"] = {task: torch.from_numpy(np.stack([sample["targets"][task] for sample in samples]))
                        for task in samples[0]["targets"]}
    return batch


class Batches:
    """Batch sampler whose order depends on (seed, epoch) only; set `epoch` before each pass, `start` to skip batches.

    Of `world` processes the one of that rank has every world-th sample of each batch, at least one: see ~number in Samples.
    fill: so many more that all batches are equally long, as compiled models like it.

    classes: one entry a sample; with it every batch holds as many samples of each class, to within one. An epoch stays as long
    as it was: of the frequent classes other samples come in another epoch, those of the rare ones come more than once."""

    def __init__(self, length, batch_size, seed=0, shuffle=False, classes=None, rank=0, world=1, fill=False):
        self.length, self.batch_size, self.seed, self.shuffle, self.classes = length, batch_size, seed, shuffle, classes
        self.rank, self.world, self.least = rank, world, -(-batch_size // world) if fill else 1
        self.epoch = self.start = 0

    def __len__(self):
        return -(-self.length // self.batch_size) - self.start

    def __iter__(self):
        order = range(self.length)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch, self.length))
            order = rng.permutation(self.length).tolist()
            if self.classes is not None:
                each = [np.flatnonzero(self.classes == c) for c in np.unique(self.classes)]
                share = -(-self.length // len(each))
                turns = [np.resize(rng.permutation(numbers), share) for numbers in each]     # resize repeats
                order = np.stack(turns, 1).ravel()[:self.length].tolist()                    # one of each class in turn
        for i in range(self.start * self.batch_size, self.length, self.batch_size):
            batch = order[i:i + self.batch_size]
            mine = batch[self.rank::self.world]
            yield [(self.epoch, number) for number in [*mine, *[~batch[0]] * (self.least - len(mine))]]


def patient(worker):
    """A signal to a whole group of processes, as schedulers and terminals send it, is for the one that trains: it saves, and ends its
    workers. One that it did not end within 5 s of a SIGTERM ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):                                 # not on Windows
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(5))


class Loader(torch.utils.data.DataLoader):
    """Where no worker process reads, a thread makes the next batch while the model computes: decoding needs little of Python's lock,
    and small models leave a core idle. `waited`: seconds that whoever asked for a batch had to wait, all passes together."""
    waited = 0.0

    def __iter__(self):
        stream = super().__iter__()
        with ThreadPoolExecutor(1) as thread:
            ahead = None if self.num_workers else thread.submit(next, stream, None)
            while True:
                began = time.perf_counter()
                batch = ahead.result() if ahead else next(stream, None)
                self.waited += time.perf_counter() - began
                if batch is None:
                    return
                ahead = ahead and thread.submit(next, stream, None)
                yield batch


def make_loader(samples, batch_size, seed=0, shuffle=False, workers=0, pin_memory=False, classes=None, **share):
    """-> Loader, and its Batches, whose epoch is to be set. share: rank, world and fill of Batches."""
    batches = Batches(len(samples), batch_size, seed, shuffle, classes, **share)
    loader = Loader(samples, batch_sampler=batches, collate_fn=collate, num_workers=workers, pin_memory=pin_memory,
                    persistent_workers=workers > 0, worker_init_fn=patient,
                    generator=torch.Generator())                   # so that it draws no seed from dropout's random numbers
    return loader, batches


def main(paths):
    if not paths:
        picture = Image.effect_noise((40, 30), 200).resize((4000, 3000)).convert("RGB")
        picture.save(drawn := io.BytesIO(), "JPEG")
    for source in paths or [drawn]:
        start = time.perf_counter()
        low, high = read_image(source, (384, 384), r=2)
        print(f"{source if paths else '4000 x 3000 JPEG'}: {low.shape} and {high.shape} in {1000 * (time.perf_counter() - start):.0f} ms")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
