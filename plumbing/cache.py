"""Decoded pixels, kept on disk for later epochs and runs (train.py --cache).
"""
import hashlib
import math
import os
from functools import cache

import PIL
import numpy as np
import torch

from plumbing.pictures import CROP, read, read_image


VERSION = 1                                                        # of what read_image and read_volume make: one more, and caches start anew


def digest(cohort, *what):
    """-> 32 digits, other ones when anything in `what` differs, the version of a reader, or path, length or time of an image file
    (or the pixels)."""
    key = hashlib.sha256(repr((what, VERSION, PIL.__version__, torch.__version__)).encode())
    if cohort.pixels is not None:
        key.update(repr(cohort.pixels.shape).encode()), key.update(np.ascontiguousarray(cohort.pixels))
    for path in cohort.paths if cohort.pixels is None else ():
        about = os.stat(path)
        key.update(repr((os.path.abspath(path), about.st_size, about.st_mtime_ns)).encode())
    return key.hexdigest()[:32]


@cache
def mapped(path, shape):
    """uint8 file of that shape, mapped into memory; made, with holes that take no disk, where there is none."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        if os.fstat(file.fileno()).st_size != math.prod(shape):
            file.truncate(math.prod(shape))
    return np.memmap(path, np.uint8, "r", shape=shape)


class Decoded:
    """What reading made of the images, kept as folder/decoded/KEY.u8, one row an image, which the first to read an image fills.

    crop False: a row holds the pixels as the model takes them, both resolutions, and reading is a copy. crop True: a picture as
    large as the largest crop needs, from which every epoch cuts its own; cut from there a picture differs by about a grey value
    from one cut from the file. A row's last byte becomes 1 when the others are in place, so any number of workers, processes
    and runs may fill the file at once: they write the same. KEY is the digest of the image files and of all that is
    done to them; what is no longer wanted can be deleted, and after a power failure all should be: nothing waits for the disk."""

    def __init__(self, cohort, folder, size, r, channels, crop):
        self.cohort, self.size, self.r, self.channels, self.crop = cohort, size, r, channels, crop
        self.wide = [math.ceil(r * side / (1 - 2 * CROP)) for side in size]
        shape = len(cohort.paths), 1 + channels * (math.prod(self.wide) if crop else math.prod(size) * (1 if r == 1 else 1 + r ** 2))
        self.file = os.path.join(folder, "decoded", digest(cohort, size, r, channels, crop) + ".u8"), shape
        try:
            mapped(*self.file)
        except OSError as error:
            raise OSError(f"{self.file[0]}: the cache of decoded images cannot be made ({error}); --cache-dir says where it goes") from error

    def read(self, i, crop):
        """-> as read_image."""
        row = mapped(*self.file)[i]
        if not row[-1]:
            row = self.fill(i)
        if self.crop:
            row = row[:-1].reshape(*self.wide, self.channels)
            return read_image(row[:, :, 0] if self.channels == 1 else row, self.size, self.r, self.channels, crop, self.cohort.paths[i])
        low, high = np.split(row[:-1], [self.channels * math.prod(self.size)])
        return low.reshape(self.channels, *self.size), high.reshape(self.channels, *(self.r * side for side in self.size)) if self.r > 1 else None

    def fill(self, i):
        """Read image i and write its row -> the row."""
        if self.crop:
            pictures = [read(self.cohort, i, self.wide, 1, self.channels)[0].transpose(1, 2, 0)]
        else:
            pictures = [picture for picture in read(self.cohort, i, self.size, self.r, self.channels) if picture is not None]
        row = np.concatenate([*(np.ravel(picture) for picture in pictures), np.ones(1, np.uint8)])
        path, shape = self.file
        try:
            with open(path, "r+b", buffering=0) as file:
                for start, part in ((i * shape[1], row[:-1]), ((i + 1) * shape[1] - 1, row[-1:])):
                    file.seek(start)
                    if file.write(part) < len(part):
                        raise OSError("the disk is full")
        except OSError as error:
            raise OSError(f"{path}: the cache of decoded images cannot grow ({error}); make room, or leave out --cache") from error
        return row
