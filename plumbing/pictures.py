"""Pictures: one file is decoded once, turned upright, cropped, and resized to one or two resolutions.
"""
import math
import warnings

import numpy as np
from PIL import Image, ImageOps

from plumbing.arrays import NO_CROP, read_volume, stretch
from plumbing.weight_files import first_line


FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
CROP = 0.1                                                         # at most this share is cut off each border


def read_image(source, size, r=1, channels=3, crop=NO_CROP, name=None):
    """File or uint8 array -> uint8 (C, h, w), and (C, R h, R w) of the same pixels, or None when R = 1.

    size: (h, w); the aspect ratio is not kept. crop: shares cut off left, top, right, bottom. name: for
    messages. The picture is decoded once, with JPEG's own downscaling to what the larger result needs; the
    smaller is the R x R mean of the larger, so a low-resolution patch and its R x R high-resolution ones show
    the same skin. 16-bit and float pictures are stretched from their own range. ValueError, one line, for
    everything that can go wrong."""
    left, top, right, bottom = crop
    share = 1 - max(left + right, top + bottom)                    # of a side that the crop leaves, or more
    need = math.ceil(r * max(size) / share)                        # px of both sides: it may be turned
    mode = "L" if channels == 1 else "RGB"
    try:
        picture = decode(source, mode, need)
        width, height = picture.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        high = picture.resize((r * size[1], r * size[0]), Image.Resampling.BILINEAR,
                              box=box, reducing_gap=2.0)
        low = high.reduce(r)                                       # a copy when R = 1
    except Exception as error:                                     # Pillow raises many kinds for broken files
        raise ValueError(f"{name or source}: not a readable image ({first_line(error)})") from error
    if r == 1:
        return to_array(low, channels), None
    return to_array(low, channels), to_array(high, channels)


def decode(source, mode, need):
    """File or uint8 array -> upright picture of that mode. need: px that a JPEG's sides keep, or more."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)       # Pillow's limit on pixels
        if isinstance(source, np.ndarray):
            picture = Image.fromarray(source)
        else:
            picture = Image.open(source, formats=FORMATS)
    picture.draft(mode, (need, need))                              # without effect on formats other than JPEG
    ImageOps.exif_transpose(picture, in_place=True)                # not in place it would copy in any case
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("holds values that are not finite")
        picture = Image.fromarray(stretch(values))
    if picture.mode != mode:                                       # convert copies in any case
        picture = picture.convert(mode)
    return picture


def to_array(picture, channels):
    width, height = picture.size
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)           # (C, h, w)


def read(cohort, i, size, r=1, channels=3, crop=NO_CROP):
    """Image i of a cohort -> as read_image, or for volumes as read_volume, and None."""
    name = cohort.paths[i]
    source = name if cohort.pixels is None else cohort.pixels[i]
    if len(size) == 3:
        return read_volume(source, size, channels, crop, name), None
    return read_image(source, size, r, channels, crop, name)
