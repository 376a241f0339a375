"""What the simulated pictures are drawn with: smooth noise, soft shapes, JPEG files.
"""
import io
import math

import numpy as np
from PIL import Image


def resize(image, height, width):
    """(h, w) -> (height, width), bicubic; averages when it shrinks."""
    return np.asarray(Image.fromarray(np.asarray(image, np.float32)).resize((width, height), Image.Resampling.BICUBIC))


def noise(rng, height, width, cells):
    """(height, width) smooth noise of about unit variance, with features of 1 / cells of a side."""
    return resize(rng.standard_normal((cells, cells), np.float32), height, width)


def frame(rng, height, width, tilt=6, zoom=0.06, shift=0.05):
    """x, y: two (height, width) grids from -1 to 1, as a camera held not quite straight sees them; tilt in degrees."""
    angle = math.radians(rng.uniform(-tilt, tilt))
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] + np.float32(rng.uniform(-shift, shift))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] + np.float32(rng.uniform(-shift, shift))
    c, s = math.cos(angle) * (1 + rng.uniform(-zoom, zoom)), math.sin(angle)
    return c * x - s * y, s * x + c * y


def limbs(parts, x, y):
    """Tapered capsules (x0, y0, r0, x1, y1, r1) -> depth inside their union: 1 on an axis, 0 on the outline."""
    depth = np.full(x.shape, -9, np.float32)
    for x0, y0, r0, x1, y1, r1 in parts:
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        depth = np.maximum(depth, 1 - np.hypot(x - x0 - t * dx, y - y0 - t * dy) / (r0 + t * (r1 - r0)))
    return depth


def ramp(x, width):
    """0 below -width / 2, 1 above width / 2, straight between: a soft edge."""
    return np.clip(x / width + 0.5, 0, 1)


def save_jpeg(path, pixels):
    """Through memory: Pillow itself leaves half a JPEG on a full disk and says nothing."""
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=92)
    with open(path, "wb") as file:
        file.write(buffer.getvalue())
