"""Pictures: one file is decoded once, turned upright, cropped, and resized to one or two resolutions.
"""
import math
import re
import warnings
from dataclasses import replace
from os.path import getsize

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from plumbing.arrays import NO_CROP, as_values, check_finite, read_values, read_volume
from plumbing.command import readable
from plumbing.fit import frame
from plumbing.formats import check_regular, check_size, format_of
from plumbing.grey import Values, to_grey


FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
CROP = 0.1                                                         # at most this share is cut off each border
SCANS = 100                                                        # of a progressive JPEG; usual are ten
PHOTOMETRIC = 262                                                  # numbers of TIFF tags, and a value
SIGNED = 339
BITS = 258
WHITE_IS_ZERO = 0
DEEP = re.compile(r";16| 65535\)")   # in Pillow's words for the pixels of a file

warnings.simplefilter("ignore", Image.DecompressionBombWarning)    # open_picture refuses what it warns of


def read_image(source, size, r=1, channels=3, crop=NO_CROP, name=None, window="auto", fit="stretch"):
    """File or array -> uint8 (C, h, w), and (C, R h, R w) of the same pixels, or None when R = 1.

    size: (h, w). crop: shares cut off left, top, right, bottom. name: for messages. fit: see fit.py. The
    picture is decoded once, with JPEG's own downscaling to what the larger result needs; the smaller is the
    R x R mean of the larger, so a low-resolution patch and its R x R high-resolution ones show the same skin.
    Numbers of more than 8 bits become grey by a window (grey.py), of 16-bit colors the upper 8 are taken,
    what is transparent is black. ValueError, one line, for everything that can go wrong."""
    left, top, right, bottom = crop
    share = 1 - max(left + right, top + bottom)                    # of a side that the crop leaves, or more
    need = math.ceil(r * max(size) / share)                        # px of both sides: it may be turned
    mode = "L" if channels == 1 else "RGB"
    path = name or source
    source = as_values(source)
    with readable(path):
        picture = decode(source, mode, need, window, size, fit)
        width, height = picture.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        high = picture.resize((r * size[1], r * size[0]), Image.BILINEAR, box=box, reducing_gap=2.0)
    if r == 1:
        return to_array(high, channels), None
    return to_array(high.reduce(r), channels), to_array(high, channels)


# -----------------------------------------------------------------------------
# decoding


def open_picture(path):
    """File -> Pillow's picture, not decoded yet. ValueError where that would take too long or too much."""
    check_regular(path)
    try:
        picture = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        problem = f"it is none of the {', '.join(FORMATS)} files that Pillow reads"
        if not getsize(path):
            problem = "the file is empty"
        raise ValueError(problem) from error
    has_16_bits = is_deep(picture) or has_16_bit_colors(picture)
    if has_16_bits and "transparency" in picture.info:
        raise ValueError("one of its 16-bit colors is transparent (tRNS), which Pillow misreads; save it "
                         "with 8 bits, or without that")
    if picture.format == "TIFF":
        picture.filename = ""                        # else Pillow maps plain pixels, and mixes up turned ones
        tags = picture.tag_v2
        if not has_16_bits and (2 in tags.get(SIGNED, ()) or max(tags.get(BITS, (1,))) > 8):
            raise ValueError("Pillow misreads signed numbers of 8 bits, and 16-bit colors plane by plane; "
                             "save it as grey of 16 bits, or as colors of 8")
    pixels = math.prod(picture.size)
    if pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"Image size ({pixels} pixels) exceeds limit of {Image.MAX_IMAGE_PIXELS} pixels")
    if picture.info.get("progressive"):
        with open(path, "rb") as file:
            scans = file.read().count(b"\xff\xda")
        if scans > SCANS:
            raise ValueError(f"a JPEG of {scans} scans, more than {SCANS}")
    return picture


def decode(source, mode, need, window, size, fit):
    """File or Values -> upright picture of that mode, in the frame of fit.py.

    need: px that a JPEG's sides keep, or more, if all of it is seen."""
    if isinstance(source, Values):
        picture = from_values(source, window)
    else:
        picture = open_picture(source)
    if fit == "crop":                                              # then a part is seen, whichever way up
        need = math.ceil(need * max(picture.size) / min(picture.size) * max(size) / min(size))
    picture.draft(mode, (need, need))                              # without effect on formats other than JPEG
    has_upper_bytes = has_16_bit_colors(picture)
    ImageOps.exif_transpose(picture, in_place=True)                # not in place it would copy in any case
    if is_deep(picture):
        picture = Image.fromarray(to_grey(numbers_of(picture), window))
    if picture.has_transparency_data:                              # black, whatever the colors below
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture).convert("RGB")
    if has_upper_bytes:
        check_upper_bytes(picture)
    if picture.mode != mode:                                       # convert copies in any case
        picture = picture.convert(mode)
    if fit != "stretch":
        box = frame(picture.width, picture.height, size, fit)
        picture = picture.crop([round(x) for x in box])            # black outside of the picture
    return picture


def is_deep(picture):
    """Does it hold more than 8 bits of grey?"""
    return picture.mode.startswith(("I", "F"))


def numbers_of(picture):
    """-> Values of a picture that is_deep. ValueError where they are not finite."""
    numbers = np.asarray(picture)
    check_finite(numbers)
    tags = getattr(picture, "tag_v2", {})                          # of a TIFF
    if numbers.dtype == np.int32 and tags.get(SIGNED, (1,)) == (1,):
        numbers = numbers.view(np.uint32)                          # Pillow has no such mode
    return Values(numbers, inverted=tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)    # of 8-bit ones Pillow knows it


def has_16_bit_colors(picture):
    """Does Pillow keep the upper 8 of 16 bits?"""
    if is_deep(picture) or picture.format not in ("PNG", "TIFF", "PPM"):
        return False
    return any(DEEP.search(str(tile[3])) for tile in picture.tile)           # its decoder's arguments


def check_upper_bytes(picture):
    """ValueError for 16-bit colors of which only the lower bits are used, as by a 12-bit camera."""
    places = np.flatnonzero(picture.convert("RGB").histogram())    # of red, then of green, then of blue
    levels = set((places % 256).tolist())
    highest = max(levels - {0, 255} or levels)                     # a burnt-in marker is no brightness
    if highest < 64:
        raise ValueError(f"16-bit colors of which at most {8 + highest.bit_length()} bits are used; "
                         "convert it to 8 bits, or to 16-bit grey")


def from_values(values, window):
    """Values (H, W), (H, W, 1), (H, W, 3), (H, W, 4), (1, H, W) or (3, H, W) -> picture."""
    array = values.array
    if array.ndim == 3 and array.shape[2] > 4:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(to_grey(replace(values, array=array), window)))


def to_array(picture, channels):
    width, height = picture.size
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)           # (C, h, w)


def read_numbers(path, axes=3):
    """File -> Values; pictures as grey, (D, H, W) of all pages or frames, or with two axes of the first."""
    if format_of(path) != "picture":
        return read_values(path)
    with readable(path):
        picture = open_picture(path)
        count = getattr(picture, "n_frames", 1) if axes == 3 else 1
        check_size(path, count * math.prod(picture.size), packed=True)
        pages = []
        for number in range(count):
            picture.seek(number)
            if is_deep(picture):
                values = numbers_of(picture)
            else:
                values = Values(np.asarray(picture.convert("L")))
            pages.append(values)
        if len({(page.array.dtype, page.inverted) for page in pages}) > 1:
            raise ValueError("its pages differ in bits, or in what is white")
        return replace(values, array=np.stack([page.array for page in pages]))


# -----------------------------------------------------------------------------
# an image of a cohort


def read(cohort, i, size, r=1, channels=3, crop=NO_CROP):
    """Image i of a cohort -> as read_image, or for volumes as read_volume, and None."""
    name = source = cohort.paths[i]
    reading = cohort.reading
    if cohort.pixels is not None:
        source = cohort.pixels[i]
    elif len(size) == 3:
        source = read_numbers(name)
    if len(size) == 3:
        return read_volume(source, size, channels, crop, name, reading.window), None
    return read_image(source, size, r, channels, crop, name, reading.window, reading.fit)
