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
        image = Image.fromarray(image)
    return image.convert("RGB")


def fit_height(image, height):
    """A photograph -> the same, this high."""
    image = to_picture(image)
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def draw_heat(image, weights, alpha=0.5):
    """A (rows, cols) map over an image, from least (dark) to most (light); a constant map is all least.

    alpha: 0 shows the image alone, 1 the map alone."""
    image = to_picture(image)
    weights = np.asarray(weights, float)
    low = weights.min()
    high = weights.max()
    heat = np.zeros_like(weights)
    if high - low > 1e-6 * abs(high):                # rounding is not a pattern
        heat = (weights - low) / (high - low)
    heat = Image.fromarray(heat.astype(np.float32))
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
    patches = []
    for cell in cells:
        row, col = divmod(cell, cols)
        patches.append((col * width, row * height, (col + 1) * width, (row + 1) * height))
    return draw_boxes(image, patches, line=min(width, height) / 12)


def draw_boxes(image, boxes, line=None):
    """Frames around (x0, y0, x1, y1), px; x1 and y1 are the first column and row outside. line: px."""
    image = to_picture(image)
    draw = ImageDraw.Draw(image)
    if line is None:
        line = min(image.size) / 120
    for box in boxes:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        draw.rectangle([x0, y0, x1 - 1, y1 - 1], outline=MARK, width=max(1, round(line)))
    return image


def side_by_side(images, captions, height=240, title=""):
    """Pictures side by side at one height, a title above, captions below, margins all round. height: px"""
    pictures = [fit_height(image, height) for image in images]
    widths = [max(picture.width, 60) for picture in pictures]    # px: a caption needs some
    captions = [wrap(text, width, CAPTION) for text, width in zip(captions, widths, strict=True)]
    middles = []
    page_width = MARGIN
    for width in widths:
        middles.append(page_width + width // 2)
        page_width += width + MARGIN
    title = wrap(title, page_width - 2 * MARGIN, TITLE)
    top = MARGIN
    if title:
        top += block_height(title, TITLE) + GAP
    bottom = top + height
    page_height = bottom + MARGIN
    most = max(captions, key=len)                    # lines
    if most:
        page_height += GAP + block_height(most, CAPTION)
    page = Page(page_width, page_height)
    page.block(MARGIN, MARGIN, title, TITLE)
    for middle, lines in zip(middles, captions):
        page.block(middle, bottom + GAP, lines, CAPTION, AXIS, anchor="ma")
    sheet = page.done()
    for middle, picture in zip(middles, pictures):   # after the reduction: photographs keep their pixels
        sheet.paste(picture, (middle - picture.width // 2, top))
    return sheet


def empty_frame(side):
    """-> a picture where there is no photograph."""
    page = Page(side, side)
    page.box(0, 0, side, side, BAR)
    page.box(1, 1, side - 1, side - 1, PALE)
    return page.done()


def stack(rows):
    """Rows on top of each other, left edges in line; neighbours share a margin."""
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

    kept: for each photograph a list of patches of the (rows, cols) grid; there are more lists than
    photographs where some are absent. composite: None where there is no picture of it."""
    pictures, captions = [], []
    for photo, cells in zip(photos, kept):
        photo = fit_height(photo, height)
        pictures.append(outline_patches(photo, cells, grid))
        captions.append(f"{len(cells)} kept")
    for _ in kept[len(photos):]:
        pictures.append(empty_frame(height))
        captions.append("absent")
    if composite is not None:
        pictures += [arrow(height), composite]
        captions += ["", f"composite of {sum(map(len, kept))} patches"]
    return side_by_side(pictures, captions, height, title)


def arrow(height):
    """-> a picture of an arrow that points to the right."""
    page = Page(60, height)
    y = height / 2
    tip = 56, y
    page.line([(4, y), tip], INK)
    page.line([(44, y - 8), tip, (44, y + 8)], INK)
    return page.done()
