"""What the simulated pictures are drawn with: smooth noise and soft shapes.

A shape is (height, width). Positions x and y are grids that run from -1 to 1 over the picture.
"""
import math

import numpy as np
from PIL import Image


def resize(image, shape):
    """(h, w) -> `shape`, bicubic, as float32; averages when it shrinks."""
    image = Image.fromarray(np.asarray(image, np.float32))
    return np.asarray(
        image.resize(shape[::-1], Image.Resampling.BICUBIC))


def noise(rng, shape, cells):
    """Smooth noise of about unit variance, with features of 1 / cells of a side."""
    return resize(
        rng.standard_normal((cells, cells), np.float32),
        shape)


def axis(rng, length, shift):
    """Positions of `length` pixels, from -1 to 1 and then all moved by up to `shift`."""
    ticks = np.linspace(-1, 1, length, dtype=np.float32)
    return ticks + np.float32(rng.uniform(-shift, shift))


def frame(rng, shape, tilt=6, zoom=0.06, shift=0.05):
    """Return the grids x and y of a camera that is not held quite straight; tilt is in degrees."""
    height, width = shape
    angle = math.radians(rng.uniform(-tilt, tilt))
    x = axis(rng, width, shift)
    y = axis(rng, height, shift)[:, None]
    cosine = math.cos(angle) * (1 + rng.uniform(-zoom, zoom))
    sine = math.sin(angle)
    return (
        cosine * x - sine * y,
        sine * x + cosine * y)


def limbs(parts, x, y, build=1):
    """Depth inside a union of tapered capsules: 1 on an axis, 0 on the outline, negative outside.

    parts is a text with one capsule per line, "x0 y0 r0 x1 y1 r1": position and radius of one round end and
    of the other. All radii are multiplied by `build`."""
    depth = np.full(x.shape, -9, np.float32)
    numbers = np.array(parts.split(), float)
    for x0, y0, r0, x1, y1, r1 in numbers.reshape(-1, 6).tolist():
        dx = x1 - x0
        dy = y1 - y0
        r0 *= build
        r1 *= build
        along = (
            ((x - x0) * dx + (y - y0) * dy)
            / (dx * dx + dy * dy)
        ).clip(0, 1)                            # 0 at the first end, 1 at the other
        distance = np.hypot(
            x - x0 - along * dx,
            y - y0 - along * dy)
        depth = np.maximum(
            depth,
            1 - distance / (r0 + along * (r1 - r0)))
    return depth


def ramp(x, width):
    """0 below -width / 2, 1 above width / 2, straight between: a soft edge."""
    return np.clip(x / width + 0.5, 0, 1)


def bell(x, width, power=2):
    """1 at x = 0, 1/e at `width` to either side, 0 far away."""
    return np.exp(-(x / width) ** power)


def to_image(pixels):
    """Grey values 0..255 of any number type -> a Pillow image of whole numbers."""
    return Image.fromarray(
        pixels.clip(0, 255).astype(np.uint8))
