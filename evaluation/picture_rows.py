"""Photographs beside each other with captions, heat, boxes and kept patches.

A photograph is an (H, W) or (H, W, 3) uint8 array or a PIL image. Patches are counted in raster order, as in
vit.py.
"""
import itertools
import math

import numpy as np
from PIL import Image, ImageDraw

from evaluation.canvas import AXIS, INK, MARGIN, Page, block_height, wrap


TITLE = 22                                           # sizes of letters, px
CAPTION = 18
GAP = 8                                              # between a picture and its letters, px
HEIGHT = 240                                         # of a photograph, px
LEAST_TOP = 2                                        # multiples of chance: a map below it looks flat
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


def heat_colors(shares):
    """Numbers from 0 (dark) to 1 (light) -> their colors, (..., 3) from 0 to 255."""
    steps = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(shares, steps, channel) for channel in np.transpose(HEAT)], axis=-1)


def heat_color(share):
    """-> the color of a number, as Pillow takes it."""
    return tuple(heat_colors(share).round().astype(int).tolist())


def draw_heat(image, times, top=LEAST_TOP):
    """Half an image, half a (rows, cols) map in multiples of chance, dark up to 1, light from `top` on."""
    image = to_picture(image)
    heat = (np.asarray(times, np.float32) - 1) / (top - 1)
    heat = Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR)
    blend = (np.asarray(image) + heat_colors(heat)) / 2
    return Image.fromarray(blend.round().astype(np.uint8))


def color_bar(top):
    """-> the scale of `draw_heat`, with chance at its left end."""
    page = Page(HEIGHT, 48)
    for x in range(HEIGHT):
        page.box(x, 0, x + 1, 20, heat_color(x / (HEIGHT - 1)))
    page.text(0, 26, "chance", 16)
    page.text(HEIGHT, 26, f"{top:.1f} x chance", 16, anchor="ra")
    return page.done()


def outline_patches(image, cells, grid, colors=itertools.repeat(MARK)):
    """Frames just inside these patches of a (rows, cols) grid."""
    image = to_picture(image)
    rows, cols = grid
    row, col = np.divmod(cells, cols)
    patches = np.transpose([col / cols, row / rows, (col + 1) / cols, (row + 1) / rows])
    line = min(image.width / cols, image.height / rows) / 12
    return draw_boxes(image, patches, line, colors)


def draw_boxes(image, boxes, line, colors=itertools.repeat(MARK)):
    """Frames around (x0, y0, x1, y1), in shares of the picture, just inside it. line: px"""
    image = to_picture(image)
    draw = ImageDraw.Draw(image)
    width = max(1, round(line))
    for box, color in zip(boxes, colors):
        x0, y0, x1, y1 = (round(float(share * side)) for share, side in zip(box, image.size * 2))
        draw.rectangle([x0, y0, x1 - 1, y1 - 1], outline=color, width=width)
    return image


def side_by_side(images, captions, height=HEIGHT, title=""):
    """Pictures side by side at one height, a title above, captions below, margins all round. height: px

    info["pieces"] of the sheet says where each picture is: see picture_file.py."""
    columns = []                                     # (picture, middle, lines, text)
    page_width = MARGIN
    for image, text in zip(images, captions, strict=True):
        picture = fit_height(image, height)
        width = max(picture.width, 60)               # px: a caption needs some
        columns.append((picture, page_width + width // 2, wrap(text, width, CAPTION), text))
        page_width += width + MARGIN
    title = wrap(title, page_width - 2 * MARGIN, TITLE)
    top = MARGIN
    if title:
        top += block_height(title, TITLE) + GAP
    bottom = top + height + GAP
    most = max(block_height(lines, CAPTION) for _, _, lines, _ in columns)
    page = Page(page_width, top + height + MARGIN + most + min(most, GAP))
    page.block(MARGIN, MARGIN, title, TITLE)
    for _, middle, lines, _ in columns:
        page.block(middle, bottom, lines, CAPTION, AXIS, anchor="ma")
    sheet = page.done()
    pieces = sheet.info["pieces"] = []
    for picture, middle, _, text in columns:         # after the reduction: photographs keep their pixels
        left = middle - picture.width // 2
        sheet.paste(picture, (left, top))
        pieces.append((left, top, picture.width, picture.height, text))
    return sheet


def stack(rows):
    """Rows on top of each other, left edges in line; neighbours share a margin."""
    height = sum(image.height - MARGIN for image in rows) + MARGIN
    sheet = Image.new("RGB", (max(image.width for image in rows), height), "white")
    pieces = sheet.info["pieces"] = []
    y = 0
    for image in rows:
        sheet.paste(image, (0, y))
        pieces += [(left, top + y, *rest) for left, top, *rest in image.info.get("pieces", [])]
        y += image.height - MARGIN
    return sheet


def filter_figure(photos, kept, grid, composite, title=""):
    """MultiViT's picture: one patient's photographs with the kept patches framed -> the composite of these.

    kept: [(number of the photograph, patch of the (rows, columns) grid)], the best first. composite: its
    picture in a list, [] where there is none."""
    pictures = []
    captions = []
    for number, photo in enumerate(photos):
        own = {rank: cell for rank, (image, cell) in enumerate(kept) if image == number}
        colors = [heat_color(1 - rank / max(1, len(kept) - 1)) for rank in own]
        pictures.append(outline_patches(fit_height(photo, HEIGHT), list(own.values()), grid, colors))
        captions.append(f"{len(own)} of {math.prod(grid)} kept")
    if composite:
        pictures += [arrow(HEIGHT), *composite]
        captions += ["", f"composite of {len(kept)} patches, by rank, row by row; the second stage sees it"]
    return side_by_side(pictures, captions, title=title)


def arrow(height):
    """-> a picture of an arrow that points to the right."""
    page = Page(60, height)
    y = height / 2
    page.line([(4, y), (56, y)], INK)
    page.line([(44, y - 8), (56, y), (44, y + 8)], INK)
    return page.done()
