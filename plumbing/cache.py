"""Decoded pixels, kept on disk for later epochs and runs (train.py --cache), and the key to what is kept.
"""
import hashlib
import math
import os
from functools import cache
from os.path import abspath, dirname, getsize, join

import PIL
import numpy as np
import torch

from plumbing.cohort import Reading
from plumbing.pictures import CROP, read, read_image


VERSION = 2                                                        # of the readers: one more for other pixels


def cache_key(cohort, *settings):
    """-> 32 hexadecimal digits that name what was made of the images of a cohort.

    They change with any of the settings, the version of a reader, and path, length or time of an image file
    (or with the pixels). So nothing is ever out of date, and what is no longer wanted can be deleted."""
    if cohort.reading != Reading(axes=cohort.reading.axes):
        settings = settings, cohort.reading
    key = hashlib.sha256(repr((settings, VERSION, PIL.__version__, torch.__version__)).encode())
    if cohort.pixels is not None:
        key.update(repr(cohort.pixels.shape).encode())
        key.update(np.ascontiguousarray(cohort.pixels))
    else:
        for path in cohort.paths:
            file = os.stat(path)
            key.update(repr((abspath(path), file.st_size, file.st_mtime_ns)).encode())
    return key.hexdigest()[:32]


@cache
def mapped(path, shape):
    """uint8 file of that shape, mapped into memory; made, with holes that take no disk, if there is none."""
    os.makedirs(dirname(path), exist_ok=True)
    size = math.prod(shape)
    with open(path, "ab") as file:
        if getsize(path) != size:
            file.truncate(size)                                    # makes a short file longer, too
    return np.memmap(path, np.uint8, "r", shape=shape)


class Decoded:
    """Decoded images, kept as folder/decoded/KEY.u8, one row per image, which the first to read it fills.

    crop False: a row holds the pixels as the model takes them, both resolutions, and reading is a copy.
    crop True: it holds a picture as large as the largest crop needs, from which every epoch cuts its own; a
    picture cut from there differs by about a grey value from one cut from the file.
    The last byte of a row becomes 1 when the others are in place, so any number of workers, processes and
    runs may fill the file at once: they write the same. After a power failure it should be deleted: nothing
    waits for the disk."""

    def __init__(self, cohort, folder, size, r, channels, crop):
        self.cohort, self.size, self.r, self.channels, self.crop = cohort, size, r, channels, crop
        self.wide = [math.ceil(r * side / (1 - 2 * CROP)) for side in size]
        if crop:
            self.shapes = [(*self.wide, channels)]                 # of the arrays in a row
        else:
            self.shapes = [(channels, *size)]
            if r > 1:
                self.shapes.append((channels, *[r * side for side in size]))
        self.path = join(folder, "decoded", cache_key(cohort, size, r, channels, crop) + ".u8")
        self.shape = len(cohort.paths), 1 + sum(map(math.prod, self.shapes))
        try:
            mapped(self.path, self.shape)
        except OSError as error:
            raise OSError(f"{self.path}: the cache of decoded images cannot be made ({error}); "
                          "--cache-dir says where it goes") from error

    def read(self, i, crop):
        """Image i -> as read_image."""
        row = mapped(self.path, self.shape)[i]                     # anew, as every process has its own map
        pixels = row[:-1]
        if not row[-1]:
            pixels = self.fill(i)
        pictures = []
        for shape in self.shapes:
            array, pixels = np.split(pixels, [math.prod(shape)])
            pictures.append(array.reshape(shape))
        if self.crop:
            picture = pictures[0]
            if self.channels == 1:
                picture = picture[:, :, 0]
            return read_image(picture, self.size, self.r, self.channels, crop, self.cohort.paths[i])
        if self.r == 1:
            pictures.append(None)
        return pictures

    def fill(self, i):
        """Decode image i and write its row -> its pixels."""
        if self.crop:
            picture, _ = read(self.cohort, i, self.wide, channels=self.channels)
            pictures = [picture.transpose(1, 2, 0)]
        else:
            pictures = read(self.cohort, i, self.size, self.r, self.channels)
        pixels = np.concatenate([picture.ravel() for picture in pictures if picture is not None])
        try:
            with open(self.path, "r+b", buffering=0) as file:
                file.seek(i * self.shape[1])
                for part in (pixels, b"\1"):                       # the last byte only behind all the others
                    if file.write(part) < len(part):
                        raise OSError("the disk is full")
        except OSError as error:
            raise OSError(f"{self.path}: the cache of decoded images cannot grow ({error}); "
                          "make room, or leave out --cache") from error
        return pixels
