"""Pictures: one file is decoded once, turned upright, cropped, and resized to one or two resolutions.
"""
import math
import warnings

import numpy as np
from PIL import Image, ImageOps

from plumbing.arrays import read_volume


FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
CROP = 0.1                                                         # the largest share of a side that is cut off, at each of its ends


def read_image(source, size, r=1, channels=3, crop=(0.0, 0.0, 0.0, 0.0), name=None):
    """File or uint8 array -> uint8 (C, h, w), and (C, R h, R w) of the same pixels when R > 1, otherwise None.

    size: (h, w); the aspect ratio is not kept. crop: shares cut off left, top, right, bottom. One decode, with JPEG's own
    downscaling to what the larger picture needs; the smaller is the R x R mean of the larger, so a low-resolution patch and
    its R x R high-resolution ones show the same skin. 16-bit and float pictures are stretched from their own range."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)                   # Pillow's limit on pixels stops, here
            picture = Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(source, formats=FORMATS)
        mode = "L" if channels == 1 else "RGB"
        need = math.ceil(r * max(size) / (1 - max(crop[0] + crop[2], crop[1] + crop[3])))    # px a side, either way up
        picture.draft(mode, (need, need))                          # of use for JPEG, without effect otherwise
        ImageOps.exif_transpose(picture, in_place=True)            # without it the whole picture is copied, turned or not
        if picture.mode.startswith(("I", "F")):
            wide = np.asarray(picture, dtype=np.float64)
            if not np.isfinite(wide).all():
                raise ValueError("holds values that are not finite")
            picture = Image.fromarray(np.uint8(255 * (wide - wide.min()) / max(wide.max() - wide.min(), 1e-12)))
        picture = picture if picture.mode == mode else picture.convert(mode)     # convert copies in any case
        width, height = picture.size
        box = (crop[0] * width, crop[1] * height, (1 - crop[2]) * width, (1 - crop[3]) * height)
        high = picture.resize((r * size[1], r * size[0]), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
        low = high.reduce(r) if r > 1 else high
    except Exception as error:                                     # Pillow raises many kinds for broken files
        raise ValueError(f"{name or source}: not a readable image ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
    arrays = [np.asarray(image).reshape(*image.size[::-1], channels).transpose(2, 0, 1) for image in (low, high)]
    return arrays[0], arrays[1] if r > 1 else None


def read(cohort, i, size, r=1, channels=3, crop=(0.0, 0.0, 0.0, 0.0)):
    """Image i of a cohort -> as read_image, or read_volume and None."""
    source = cohort.paths[i] if cohort.pixels is None else cohort.pixels[i]
    if len(size) == 3:
        return read_volume(source, size, channels, crop, cohort.paths[i]), None
    return read_image(source, size, r, channels, crop, cohort.paths[i])
