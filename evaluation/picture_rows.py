"""Photographs beside each other with captions, heat, boxes and kept patches.
"""
import numpy as np
from PIL import Image, ImageDraw

from evaluation.canvas import (
    AXIS, BAR, HEAT, INK, MARGIN, MARK, PALE, Page, SCALE, SMALL, TITLE, block_height, font, wrap,
)


def to_picture(image):
    """A photograph -> an RGB copy."""
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        if image.dtype != np.uint8 or not image.size or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
            raise ValueError(f"an image is (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}")
        image = Image.fromarray(image)
    return image.convert("RGB")


def draw_heat(image, weights, alpha=0.5):
    """A (rows, cols) map over an image, from least (dark) to most (light); NaN and a constant map count as least."""
    image, weights = to_picture(image), np.asarray(weights, float)
    if weights.ndim != 2 or not weights.size:
        raise ValueError(f"a heat map is (rows, cols), not {weights.shape}")
    known = weights[np.isfinite(weights)]
    low, high = (known.min(), known.max()) if len(known) else (0, 0)
    span = high - low if high - low > 1e-6 * abs(high) else np.inf  # rounding is not a pattern
    weights = np.where(np.isfinite(weights), (weights - low) / span, 0).astype(np.float32)
    weights = np.asarray(Image.fromarray(weights).resize(image.size, Image.Resampling.BICUBIC))
    weights = weights / max(weights.max(), 1)  # bicubic overshoots: without this the peak is a plateau
    colors = np.stack([np.interp(weights, np.linspace(0, 1, len(HEAT)), channel) for channel in zip(*HEAT)], -1)
    return Image.fromarray(((1 - alpha) * np.asarray(image) + alpha * colors).round().astype(np.uint8))


def outline_patches(image, cells, grid, color=MARK, numbers=None):
    """Frames just inside these patches of a (rows, cols) grid; numbers, such as ranks, need patches of 20 px."""
    image, (rows, cols) = to_picture(image), grid
    if any(not 0 <= cell < rows * cols for cell in cells):
        raise ValueError(f"patches of a {rows} x {cols} grid are 0 to {rows * cols - 1}, not {list(cells)}")
    if numbers is not None and len(numbers) != len(cells):
        raise ValueError(f"{len(numbers)} numbers for {len(cells)} patches; need one for each")
    draw, side = ImageDraw.Draw(image), min(image.width / cols, image.height / rows)
    for i, cell in enumerate(cells):
        x0, x1 = (round((cell % cols + e) * image.width / cols) for e in (0, 1))
        y0, y1 = (round((cell // cols + e) * image.height / rows) for e in (0, 1))
        draw.rectangle([x0, y0, x1 - 1, y1 - 1], outline=color, width=max(1, round(side / 12)))
        if numbers is not None:
            draw.text(((x0 + x1) / 2, (y0 + y1) / 2), str(numbers[i]), "white", font(max(8, side * 0.45)), "mm",
                      stroke_width=max(1, side / 30), stroke_fill=INK)
    return image


def draw_boxes(image, rectangles, color=MARK):
    """Frames around (x0, y0, x1, y1), px; x1 and y1 are the first column and row outside."""
    image = to_picture(image)
    draw, width = ImageDraw.Draw(image), max(1, round(min(image.size) / 120))
    for box in rectangles:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"a box is (x0, y0, x1, y1) with x0 < x1 and y0 < y1, not {tuple(box)}")
        draw.rectangle([x0, y0, x1 - 1, y1 - 1], outline=color, width=width)
    return image


def fit_height(image, height):
    """A photograph -> the same, this high."""
    image = to_picture(image)
    return image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC)


def side_by_side(images, captions=None, height=240, title=None):
    """Pictures side by side at one height (None: an empty frame), a title above, captions below, margins all round."""
    captions = [""] * len(images) if captions is None else captions
    if not len(images) or len(captions) != len(images):
        raise ValueError(f"{len(images)} images and {len(captions)} captions; need one for each, and one at least")
    images = [None if image is None else fit_height(image, height) for image in images]
    widths = [height if image is None else max(image.width, 60) for image in images]  # 60 px: a caption needs some
    captions = [wrap(caption, width, SMALL) for caption, width in zip(captions, widths)]
    title = wrap(title or "", sum(widths) + MARGIN * (len(widths) - 1), TITLE)
    top = MARGIN + block_height(title, TITLE) + 8 * bool(title)
    below = max(block_height(lines, SMALL) + 8 * bool(lines) for lines in captions)
    page, x = Page(sum(widths) + MARGIN * (len(widths) + 1), top + height + below + MARGIN), MARGIN
    page.text(MARGIN, MARGIN, title, TITLE)
    places = []
    for image, lines, width in zip(images, captions, widths):
        page.text(x + width / 2, top + height + 8, lines, SMALL, AXIS, "ma")
        if image is None:
            page.box(x, top, x + width, top + height, BAR)
            page.box(x + 1, top + 1, x + width - 1, top + height - 1, PALE)
        else:
            places.append((image, (x + (width - image.width) // 2, top)))
        x += width + MARGIN
    sheet = page.done()
    for image, place in places:  # after the reduction, so that photographs keep their pixels
        sheet.paste(image, place)
    return sheet


def stack(rows):
    """Rows on top of each other, left edges in line; neighbours share a margin."""
    if not len(rows):
        raise ValueError("a grid needs at least one row")
    y, size = 0, (max(image.width for image in rows), sum(image.height - MARGIN for image in rows) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    for image in rows:
        sheet.paste(image, (0, y))
        y += image.height - MARGIN
    return sheet


def filter_figure(photos, kept, grid, composite, title="", height=240):
    """MultiViT's picture: one patient's photographs (None: absent), kept patches framed -> the composite made of them.

    kept: for each photograph a list of patches of the (rows, cols) grid."""
    if len(kept) != len(photos):
        raise ValueError(f"{len(kept)} lists of kept patches for {len(photos)} photographs; need one for each")
    if any(image is None and len(cells) for image, cells in zip(photos, kept)):
        raise ValueError("a photograph is None, absent, and yet has kept patches")
    framed = [None if image is None else outline_patches(fit_height(image, height), cells, grid) for image, cells in zip(photos, kept)]
    captions = ["absent" if image is None else f"{len(cells)} kept" for image, cells in zip(photos, kept)]
    arrow, middle = Page(60, height), height / 2
    arrow.line([(4, middle), (50, middle)], AXIS, 2)
    arrow.draw.polygon([(x * SCALE, y * SCALE) for x, y in ((56, middle), (44, middle - 7), (44, middle + 7))], AXIS)
    words = f"composite of {sum(len(cells) for cells in kept)} patches"
    return side_by_side([*framed, arrow.done(), composite], [*captions, "", words], height, title)
