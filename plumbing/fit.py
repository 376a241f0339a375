"""--fit: which part of a photograph the model sees when their shapes differ, and the way back from its grid.

A frame is (x0, y0, x1, y1) in px of the photograph: what lies in it is resized to what the model sees.

    stretch    the photograph as it is; its shape is not kept
    pad        the smallest frame of the model's shape around it; what is outside the photograph is black
    crop       the largest frame of the model's shape inside it, in its middle
"""
import numpy as np


FITS = ("stretch", "pad", "crop")


def frame(width, height, size, fit):
    """Sides of a photograph, px, and the model's (h, w) -> (x0, y0, x1, y1)."""
    if fit == "stretch":
        return 0, 0, width, height
    across = width / size[1]                                       # px of the photograph per px of the model
    down = height / size[0]
    scale = min(across, down)
    if fit == "pad":
        scale = max(across, down)
    x = (width - scale * size[1]) / 2
    y = (height - scale * size[0]) / 2
    return x, y, width - x, height - y


def to_model(box, frame):
    """Box in px of the photograph -> in shares of what the model sees, outside of which it may lie."""
    start, end = np.reshape(frame, (2, 2))
    return (box - np.tile(start, 2)) / np.tile(end - start, 2)


def lost_shape(sides, size, fit):
    """(height, width) of a photograph and of what the model sees -> the share of its shape that is lost.

    stretch: how much narrower one side becomes against the other; crop: how much of the area is cut off."""
    if fit == "pad":
        return 0.0
    shape = sides[1] / sides[0]
    seen = size[1] / size[0]
    return 1 - min(shape, seen) / max(shape, seen)
