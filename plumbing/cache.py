"""Decoded pixels, kept on disk for later epochs and runs (train.py --cache), and the key to what is kept.
"""
import hashlib
import math
import os
from functools import cache
from os.path import abspath, dirname, join

import PIL
import numpy as np
import torch

from plumbing.command import in_one_line
from plumbing.pictures import CROP, read, read_image


VERSION = 3                          # raise it when rows hold other pixels, or in another order


def cache_key(cohort, *settings):
    """-> 32 hexadecimal digits that name what was made of the images of a cohort.

    They change with any of the settings, --window, --fit, the version of a reader, and path, length or time
    of an image file (or with the pixels). So nothing is ever out of date, and what is no longer wanted can
    be deleted."""
    reading = cohort.reading
    versions = VERSION, PIL.__version__, torch.__version__
    key = hashlib.sha256(repr((settings, reading.window, reading.fit, versions)).encode())
    if cohort.pixels is not None:
        key.update(repr(cohort.pixels.shape).encode())
        key.update(np.ascontiguousarray(cohort.pixels))
    else:
        for path in cohort.paths:
            file = os.stat(path)
            key.update(repr((abspath(path), file.st_size, file.st_mtime_ns)).encode())
    return key.hexdigest()[:32]


@cache
def mapped(path, images, row_type):
    """-> the file of so many rows, of that numpy type, mapped into memory; it is made, with holes that take
    no disk, if there is none."""
    os.makedirs(dirname(path), exist_ok=True)
    with open(path, "ab") as file:
        file.truncate(images * row_type.itemsize)                  # makes a short file longer, too
    return np.memmap(path, row_type, "r", shape=images)


def colors_last(image):
    """A picture (C, h, w) -> (h, w, C), as decoded pixels lie in memory; a volume stays as it is."""
    return image.transpose(1, 2, 0) if image.ndim == 3 else image


def colors_first(image):
    """The inverse."""
    return image.transpose(2, 0, 1) if image.ndim == 3 else image


class Decoded:
    """Decoded images, kept as folder/decoded/KEY.u8, one row per image, which the first to read it fills.

    crop False: a row holds the pixels as the model takes them, in both resolutions, and nothing is computed.
    They lie as decoding leaves them, since sums of a convolution are rounded by the order in memory.
    crop True: it holds a picture large enough for the narrowest crop, from which every epoch cuts its own;
    what is cut from there differs by about a grey value from what is cut from the file.
    The last byte of a row becomes 1 when the others are in place, so any number of workers, processes and
    runs may fill the file at once: they write the same. After a power failure it should be deleted: nothing
    waits for the disk."""

    def __init__(self, cohort, folder, size, r, channels, crop):
        self.cohort, self.size, self.r, self.channels, self.crop = cohort, size, r, channels, crop
        self.wide = [math.ceil(r * side / (1 - 2 * CROP)) for side in size]
        sides_of = {"low": size}
        if crop:
            sides_of = {"picture": self.wide}
        elif r > 1:
            sides_of["high"] = [r * side for side in size]
        parts = []
        for name, sides in sides_of.items():
            shape = (*sides, channels) if len(sides) == 2 else (channels, *sides)
            parts.append((name, np.uint8, shape))
        self.row_type = np.dtype(parts + [("whole", np.uint8)])
        self.path = join(folder, "decoded", cache_key(cohort, size, r, channels, crop) + ".u8")
        with in_one_line(f"{self.path}: the cache of decoded images cannot be made; --cache-dir says where "
                         "it goes", OSError):
            self.rows()

    def rows(self):
        """-> all rows. They are not kept in self: a process that it is sent to would get a copy of them."""
        return mapped(self.path, len(self.cohort.paths), self.row_type)

    def read(self, i, crop):
        """-> image i as read_image gives it. crop: its, with crop True."""
        row = self.rows()[i]
        if not row["whole"]:
            row = self.fill(i)
        if self.crop:
            # without a name the pixels would become a text, for an error that does not happen
            return read_image(row["picture"], self.size, self.r, self.channels, crop, self.path)
        if self.r == 1:
            return colors_first(row["low"]), None
        return colors_first(row["low"]), colors_first(row["high"])

    def fill(self, i):
        """Decode image i and write its row -> the row."""
        row = np.zeros((), self.row_type)
        if self.crop:
            picture, _ = read(self.cohort, i, self.wide, channels=self.channels)
            row["picture"] = colors_last(picture)
        else:
            low, high = read(self.cohort, i, self.size, self.r, self.channels)
            row["low"] = colors_last(low)
            if self.r > 1:
                row["high"] = colors_last(high)
        with in_one_line(f"{self.path}: the cache of decoded images cannot grow; make room, or leave out "
                         "--cache", OSError), open(self.path, "r+b", buffering=0) as file:
            file.seek(i * self.row_type.itemsize)
            for part in (row.tobytes()[:-1], b"\1"):               # the last byte after all the others
                if file.write(part) < len(part):
                    raise OSError("the disk is full")
        return row
