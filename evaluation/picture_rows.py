"""Photographs beside each other with captions, heat, boxes and kept patches.

A photograph is an (H, W) or (H, W, 3) uint8 array or a PIL image. Patches are counted in raster order, as in
vit.py.
"""
import numpy as np
from PIL import Image, ImageDraw

from evaluation.canvas import AXIS, BAR, INK, MARGIN, PALE, Page, block_height, wrap


TITLE, CAPTION = 22, 18                              # sizes of letters, px
GAP = 8                                              # between a picture and its letters, px
MARK = (0, 190, 255)                                 # of patches and boxes: visible on skin and on X-rays
HEAT = [                                             # from dark to light
    (38, 18, 84),
    (48, 72, 140),
    (30, 124, 142),
    (62, 172, 112),
    (172, 212, 62),
    (254, 238, 110),
]


def to_picture(image):
    """A photograph -> an RGB copy."""
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        shape_fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or image.size == 0 or not shape_fits:
            raise ValueError(f"an image is (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}")
        image = Image.fromarray(image)
    return image.convert("RGB")


def fit_height(image, height):
    """A photograph -> the same, this high."""
    image = to_picture(image)
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def draw_heat(image, weights, alpha=0.5):
    """A (rows, cols) map over an image, from least (dark) to most (light).

    NaN and a constant map count as least; alpha: 0 shows the image alone, 1 the map alone."""
    image = to_picture(image)
    weights = np.asarray(weights, float)
    if weights.ndim != 2 or weights.size == 0:
        raise ValueError(f"a heat map is (rows, cols), not {weights.shape}")
    known = np.isfinite(weights)
    heat = np.zeros_like(weights, np.float32)
    if known.any():
        low = weights[known].min()
        high = weights[known].max()
        if high - low > 1e-6 * abs(high):            # rounding is not a pattern
            heat[known] = (weights[known] - low) / (high - low)
    heat = Image.fromarray(heat)
    heat = np.asarray(heat.resize(image.size, Image.Resampling.BICUBIC))
    heat = heat / max(heat.max(), 1)                 # bicubic overshoots: without this the peak is a plateau
    steps = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(heat, steps, channel) for channel in np.transpose(HEAT)]
    colors = np.stack(channels, axis=-1)             # (H, W, 3)
    blend = (1 - alpha) * np.asarray(image) + alpha * colors
    return Image.fromarray(blend.round().astype(np.uint8))


def outline_patches(image, cells, grid):
    """Frames just inside these patches of a (rows, cols) grid."""
    image = to_picture(image)
    rows, cols = grid
    width, height = image.width / cols, image.height / rows      # of a patch, px
    line = max(1, round(min(width, height) / 12))
    draw = ImageDraw.Draw(image)
    for cell in cells:
        if not 0 <= cell < rows * cols:
            raise ValueError(f"patches of a {rows} x {cols} grid are 0 to {rows * cols - 1}, "
                             f"not {cell}")
        row, col = divmod(cell, cols)
        x0 = round(col * width)
        x1 = round((col + 1) * width)
        y0 = round(row * height)
        y1 = round((row + 1) * height)
        draw.rectangle([x0, y0, x1 - 1, y1 - 1], outline=MARK, width=line)
    return image


def draw_boxes(image, rectangles):
    """Frames around (x0, y0, x1, y1), px; x1 and y1 are the first column and row outside."""
    image = to_picture(image)
    draw = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 120))
    for box in rectangles:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"a box is (x0, y0, x1, y1) with x0 < x1 and y0 < y1, not {tuple(box)}")
        draw.rectangle([x0, y0, x1 - 1, y1 - 1], outline=MARK, width=width)
    return image


def side_by_side(images, captions=None, height=240, title=""):
    """Pictures side by side at one height, a title above, captions below, margins all round.

    None instead of a picture is an empty frame. height: px"""
    if captions is None:
        captions = [""] * len(images)
    if len(images) == 0 or len(captions) != len(images):
        raise ValueError(f"{len(images)} images and {len(captions)} captions; "
                         "need one for each, and one at least")
    pictures = []
    for image in images:
        if image is None:
            pictures.append(empty_frame(height))
        else:
            pictures.append(fit_height(image, height))
    widths = [max(picture.width, 60) for picture in pictures]    # px: a caption needs some
    captions = [wrap(text, width, CAPTION) for text, width in zip(captions, widths)]
    page_width = MARGIN + sum(width + MARGIN for width in widths)
    title = wrap(title, page_width - 2 * MARGIN, TITLE)
    top = MARGIN
    if title:
        top += block_height(title, TITLE) + GAP
    bottom = top + height
    page_height = bottom + MARGIN
    if any(captions):
        most = max(captions, key=len)                # lines
        page_height += GAP + block_height(most, CAPTION)
    page = Page(page_width, page_height)
    page.block(MARGIN, MARGIN, title, TITLE)
    middles = []
    left = MARGIN
    for lines, width in zip(captions, widths):
        middle = left + width // 2
        page.block(middle, bottom + GAP, lines, CAPTION, AXIS, anchor="ma")
        middles.append(middle)
        left += width + MARGIN
    sheet = page.done()
    for picture, middle in zip(pictures, middles):   # after the reduction: photographs keep their pixels
        left = middle - picture.width // 2
        sheet.paste(picture, (left, top))
    return sheet


def empty_frame(side):
    """-> a picture where there is no photograph."""
    page = Page(side, side)
    page.box(0, 0, side, side, BAR)
    page.box(1, 1, side - 1, side - 1, PALE)
    return page.done()


def stack(rows):
    """Rows on top of each other, left edges in line; neighbours share a margin."""
    if len(rows) == 0:
        raise ValueError("a grid needs at least one row")
    width = max(image.width for image in rows)
    height = sum(image.height - MARGIN for image in rows) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    y = 0
    for image in rows:
        sheet.paste(image, (0, y))
        y += image.height - MARGIN
    return sheet


def filter_figure(photos, kept, grid, composite, title="", height=240):
    """MultiViT's picture: one patient's photographs with the kept patches framed -> the composite of these.

    photos: None for one that is absent; kept: for each a list of patches of the (rows, cols) grid; composite:
    None where there is no picture of it."""
    if len(kept) != len(photos):
        raise ValueError(f"{len(kept)} lists of kept patches for {len(photos)} photographs; "
                         "need one for each")
    pictures, captions = [], []
    for photo, cells in zip(photos, kept):
        if photo is not None:
            photo = fit_height(photo, height)
            pictures.append(outline_patches(photo, cells, grid))
            captions.append(f"{len(cells)} kept")
        elif len(cells):
            raise ValueError("a photograph is None, absent, and yet has kept patches")
        else:
            pictures.append(None)
            captions.append("absent")
    if composite is not None:
        count = sum(len(cells) for cells in kept)
        pictures += [arrow(height), composite]
        captions += ["", f"composite of {count} patches"]
    return side_by_side(pictures, captions, height, title)


def arrow(height):
    """-> a picture of an arrow that points to the right."""
    page = Page(60, height)
    y = height / 2
    tip = 56, y
    page.line([(4, y), tip], INK)
    page.line([(44, y - 8), tip, (44, y + 8)], INK)
    return page.done()
