"""Every picture of the project: charts, maps over images, sheets of pictures. Functions return PIL images.

Charts and captions are drawn SCALE times too large and reduced once, which makes lines and letters smooth.
Photographs are (H, W) or (H, W, 3) uint8 arrays or PIL images; patches are counted in raster order, as in vit.py.
Pillow's built-in font has only ASCII: accents are dropped, long dashes become "-", what is left "?".
Run: python plots.py
"""
import math
import tempfile
import textwrap
import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 3
WIDTH, HEIGHT, MARGIN = 720, 480, 20  # of a chart, px
TITLE, TEXT, SMALL, LEADING = 21, 17, 15, 1.3  # sizes of letters, px; line height over size
INK, AXIS, GREY, BAR, PALE = (35, 35, 35), (95, 95, 95), (125, 125, 125), (198, 203, 208), (240, 240, 240)
ACCENT, MARK = (0, 114, 178), (0, 190, 255)  # of charts; of patches and boxes: seen on skin and on film
PALETTE = ACCENT, (213, 94, 0), (110, 110, 110), (0, 158, 115), (204, 121, 167), (230, 159, 0)  # Okabe and Ito 2008
HEAT = (38, 18, 84), (48, 72, 140), (30, 124, 142), (62, 172, 112), (172, 212, 62), (254, 238, 110)  # dark to light

# -----------------------------------------------------------------------------
# letters and the page


@lru_cache
def font(size):
    return ImageFont.load_default(size)


def plain(text):
    """The text in letters that the font has."""
    text = unicodedata.normalize("NFKD", str(text).translate({0x2212: "-", 0x2013: "-", 0x2014: "-", 0xD7: "x"}))
    return "".join(c if c.isascii() else "?" for c in text if not unicodedata.combining(c))


def text_width(text, size):
    return font(size * SCALE).getbbox(text)[2] / SCALE


def wrap(text, width, size):
    """The fullest lines that fit in width px; a word longer than a line is cut."""
    text = plain(text)
    for letters in range(min(len(text), 200), 0, -1):
        lines = [line for part in text.split("\n") for line in textwrap.wrap(part, letters) or [""]]
        if letters == 1 or max(text_width(line, size) for line in lines) <= width:
            return lines
    return []


def block_height(lines, size):
    return math.ceil(len(lines) * size * LEADING)


class Page:
    """A white page; its units are final pixels."""

    def __init__(self, width, height):
        self.size = math.ceil(width), math.ceil(height)
        self.image = Image.new("RGB", (self.size[0] * SCALE, self.size[1] * SCALE), "white")
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def line(self, points, color, width=1.0):
        self.draw.line([(x * SCALE, y * SCALE) for x, y in points], color, round(width * SCALE), joint="curve")

    def box(self, x0, y0, x1, y1, color):
        x0, y0, x1, y1 = (round(v * SCALE) for v in (x0, y0, x1, y1))
        if x0 < x1 and y0 < y1:
            self.draw.rectangle([x0, y0, x1 - 1, y1 - 1], color)  # Pillow draws the last pixel too

    def dot(self, x, y, radius, color):
        self.draw.ellipse([v * SCALE for v in (x - radius, y - radius, x + radius, y + radius)], color)

    def text(self, x, y, lines, size=TEXT, color=INK, anchor="la"):
        for i, line in enumerate([lines] if isinstance(lines, str) else lines):
            self.draw.text((x * SCALE, (y + i * size * LEADING) * SCALE), line, color, font(size * SCALE), anchor)

    def done(self):
        return self.image.resize(self.size, Image.Resampling.LANCZOS)


# -----------------------------------------------------------------------------
# charts


def limits(values, log=False, pad=0.04):
    """(low, high) around the values with some air, or None when there are none."""
    if not len(values):
        return None
    low, high = (math.log10(v) if log else float(v) for v in (np.min(values), np.max(values)))
    air = (high - low) * pad if high - low > 1e-9 * max(abs(low), abs(high)) else abs(low) / 10 or 0.5
    return (10 ** (low - air), 10 ** (high + air)) if log else (low - air, high + air)


def nice(step):
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def number(value, step, largest=0):
    """Text that tells value from value + step; with an exponent once the largest on the axis reaches a million."""
    if value == 0:
        return "0"
    decimals = -math.floor(math.log10(step) + 1e-9)
    if step >= 1e-4 and max(abs(value), largest) < 1e6:
        return f"{value:,.{max(decimals, 0)}f}"
    digits = decimals + math.floor(math.log10(abs(value)) + 1e-9)
    mantissa, exponent = f"{value:.{max(digits, 0)}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def ticks(low, high, log=False, whole=False):
    """Two to eight {round value in [low, high]: its text}."""
    if log:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        found = [10.0**k for k in powers[::math.ceil(len(powers) / 7) or 1]]
        if len(found) < 3:
            found = [m * 10.0**k for k in range(powers.start - 1, powers.stop + 1) for m in (1, 2, 5)]
        found = [v for v in found if low <= v <= high]
        if len(found) > 1:
            return {v: number(v, v) for v in found}
    step = max(nice((high - low) / 6), int(whole))
    found = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return {v: number(v, step, max(-low, high)) for v in found}


def frame(x, y, title, xlabel, ylabel, log_x=False, log_y=False, right=0, square=False, whole=False):
    """Limits x, y (None: no data) -> page with axes; to_px, from values (a, b) to px; (left, top, end, bottom) in px.

    right: room for names beside the axes, px; whole: y counts something."""
    x_ticks, y_ticks = ({}, {}) if x is None else (ticks(*x, log_x), ticks(*y, log_y, whole))
    wide = (HEIGHT if square else WIDTH + right) - 2 * MARGIN
    title, xlabel, ylabel = wrap(title, wide, TITLE), wrap(xlabel, wide - 60, TEXT), wrap(ylabel, wide, TEXT)
    half = [text_width(name, SMALL) / 2 for name in x_ticks.values()] or [0]
    left = MARGIN + 10 + math.ceil(max([16, half[0]] + [text_width(name, SMALL) for name in y_ticks.values()]))
    top = MARGIN + block_height(title, TITLE) + 10 * bool(title) + block_height(ylabel, TEXT) + 12
    bottom = HEIGHT - MARGIN - block_height(xlabel, TEXT) - SMALL - 14
    end = left + bottom - top if square else WIDTH - MARGIN - math.ceil(max(10, half[-1]))
    page = Page(end + max(right, half[-1]) + MARGIN, HEIGHT)

    def to_px(a, b):
        parts = [np.log10([v, *lim]) if log else (v, *lim) for v, lim, log in ((a, x, log_x), (b, y, log_y))]
        u, v = [(value - low) / (high - low) for value, low, high in parts]
        return left + u * (end - left), bottom - v * (bottom - top)

    page.text(MARGIN, MARGIN, title, TITLE)
    page.text(MARGIN, top - 12 - block_height(ylabel, TEXT), ylabel, TEXT, AXIS)
    page.text((left + end) / 2, bottom + SMALL + 17, xlabel, TEXT, AXIS, "ma")
    page.line([(left, top), (left, bottom), (end, bottom)], AXIS)
    for value, name in x_ticks.items():
        at = to_px(value, y[0])[0]
        page.line([(at, bottom), (at, bottom + 5)], AXIS)
        page.text(at, bottom + 9, name, SMALL, AXIS, "ma")
    for value, name in y_ticks.items():
        at = to_px(x[0], value)[1]
        page.line([(left - 5, at), (left, at)], AXIS)
        page.text(left - 9, at, name, SMALL, AXIS, "rm")
    if x is None:
        page.text((left + end) / 2, (top + bottom) / 2, "no data", TEXT, GREY, "mm")
    return page, to_px, (left, top, end, bottom)


def pairs(x, y, log_x=False, log_y=False):
    """Two lists of one length -> x, y as floats, and which can be drawn: finite, and positive on a log axis."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; need two lists of one length")
    return x, y, np.isfinite(x) & np.isfinite(y) & ((x > 0) | (not log_x)) & ((y > 0) | (not log_y))


def histogram(values, title="", xlabel="", bins=20, zero_line=True):
    """About this many bars for the finite values, such as predicted - actual; edges are round, and one of them is 0."""
    values = np.asarray(values, float).ravel()
    values = values[np.isfinite(values)]
    if not len(values):
        return frame(None, None, title, xlabel, "count")[0].done()
    low, high = limits(np.append(values, 0) if zero_line else values, pad=0)
    step = nice((high - low) / bins)
    edges = step * np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    page, to_px, (_, top, _, bottom) = frame(
        limits(edges), (0, counts.max() * 1.2), title, xlabel, "count", whole=True)  # 1.2: room for the mean
    for count, a, b in zip(counts, edges, edges[1:]):
        (x0, y0), (x1, _) = to_px(a, count), to_px(b, 0)
        gap = 0.5 if x1 - x0 > 4 else 0
        page.box(x0 + gap, y0, x1 - gap, bottom - 0.5, BAR)
    if zero_line:
        page.line([to_px(0, 0), to_px(0, counts.max() * 1.05)], INK)
    mean = values.mean()
    x, side = to_px(mean, 0)[0], 1 if mean < (edges[0] + edges[-1]) / 2 else -1
    page.line([(x, bottom), (x, top)], ACCENT, 2)
    words = f"mean {number(mean, (high - low) / 300)}, n {len(values):,}"
    page.text(x + 9 * side, top, words, TEXT, ACCENT, "la" if side > 0 else "ra")
    return page.done()


def scatter(x, y, title="", xlabel="", ylabel="", identity=True):
    """One dot a pair, such as actual and predicted; identity: a square with one scale and the line y = x."""
    x, y, good = pairs(x, y)
    x, y = x[good], y[good]
    x_lim, y_lim = [limits(np.append(x, y))] * 2 if identity else (limits(x), limits(y))
    page, to_px, _ = frame(x_lim, y_lim, title, xlabel, ylabel, square=identity)
    if identity and len(x):
        page.line([to_px(v, v) for v in x_lim], BAR, 1.5)
    for a, b in zip(x, y):
        page.dot(*to_px(a, b), 4 if len(x) < 500 else 2.5, (*ACCENT, 120))
    return page.done()


def curves(series, title="", xlabel="", ylabel="", log_x=False, log_y=False, identity=False):
    """{name: (xs, ys)} -> lines named at their right; NaN leaves a gap, as does what is <= 0 on a log axis.

    identity: the line y = x, for ROC and reliability. Up to 12 points are marked, and so is one between two gaps."""
    series = [(plain(name), *pairs(*xy, log_x, log_y)) for name, xy in series.items()]
    x_all = np.concatenate([x[good] for _, x, _, good in series] + [[]])
    y_all = np.concatenate([y[good] for _, _, y, good in series] + [[]])
    room = max([text_width(name, TEXT) + 12 for name, *_ in series], default=0)
    page, to_px, (_, top, end, bottom) = frame(
        limits(x_all, log_x), limits(y_all, log_y), title, xlabel, ylabel, log_x, log_y, room)
    both = identity and len(x_all) and (max(x_all.min(), y_all.min()), min(x_all.max(), y_all.max()))
    if both and both[0] < both[1]:  # the part of y = x that both axes show
        page.line([to_px(v, v) for v in both], BAR, 1.5)
    labels = []
    for i, (name, x, y, good) in reversed(list(enumerate(series))):  # the first line ends on top
        color, points = PALETTE[i % len(PALETTE)], {j: to_px(x[j], y[j]) for j in np.flatnonzero(good)}
        for run in np.split(np.arange(len(x)), np.flatnonzero(~good)):  # every run but the first opens with its gap
            run = [points[j] for j in run if j in points]
            if len(run) > 1:
                page.line(run, color, 2.2)
            for point in run if len(points) <= 12 or len(run) == 1 else []:
                page.dot(*point, 4, color)
        labels.append((points[max(points)][1] if points else bottom, i, name, color if points else BAR))
    labels, gap = sorted(labels), min(TEXT * LEADING, (bottom - top) / max(len(labels), 1))
    at = -math.inf
    for i, (y, _, name, color) in enumerate(labels):  # below the name above, with room for the names below
        at = min(max(y, at + gap), bottom - (len(labels) - 1 - i) * gap)
        page.text(end + 12, at, name, TEXT, color, "lm")
    return page.done()


def dots(rows, title="", xlabel=""):
    """{name: values} -> a line a name, a dot a value, a bar at their mean; NaN is left out."""
    rows = {plain(name): np.asarray(values, float) for name, values in rows.items()}
    rows = {name: values[np.isfinite(values)] for name, values in rows.items()}
    lim, step = limits(np.concatenate([*rows.values(), []])), 2 * TEXT
    title, xlabel = wrap(title, WIDTH - 2 * MARGIN, TITLE), wrap(xlabel, WIDTH / 2, TEXT)
    left, end = MARGIN + math.ceil(max([text_width(name, TEXT) for name in rows], default=0)) + 14, WIDTH - MARGIN - 10
    top = MARGIN + block_height(title, TITLE) + 10 * bool(title)
    bottom = top + step * max(len(rows), 1)
    page = Page(WIDTH, bottom + SMALL + 17 + block_height(xlabel, TEXT) + MARGIN)
    page.text(MARGIN, MARGIN, title, TITLE)
    page.text((left + end) / 2, bottom + SMALL + 17, xlabel, TEXT, AXIS, "ma")
    page.line([(left, top), (left, bottom), (end, bottom)], AXIS)
    if lim is None:
        page.text((left + end) / 2, (top + bottom) / 2, "no data", TEXT, GREY, "mm")
    to_px = lambda value: left + (value - lim[0]) / (lim[1] - lim[0]) * (end - left)
    for value, name in (ticks(*lim) if lim else {}).items():
        page.line([(to_px(value), top), (to_px(value), bottom + 5)], BAR)
        page.text(to_px(value), bottom + 9, name, SMALL, AXIS, "ma")
    for i, (name, values) in enumerate(rows.items()):
        y = top + (i + 0.5) * step
        page.text(left - 9, y, name, TEXT, INK, "rm")
        for value in values:
            page.dot(to_px(value), y, 5, (*ACCENT, 150))
        if len(values):
            page.line([(to_px(values.mean()), y - 10), (to_px(values.mean()), y + 10)], INK, 2)
    return page.done()


# -----------------------------------------------------------------------------
# over an image


def photo(image):
    """A photograph -> an RGB copy."""
    if not isinstance(image, Image.Image):
        image = np.asarray(image)
        if image.dtype != np.uint8 or not image.size or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
            raise ValueError(f"an image is (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}")
        image = Image.fromarray(image)
    return image.convert("RGB")


def heat(image, weights, alpha=0.5):
    """A (rows, cols) map over an image, from least (dark) to most (light); NaN and a constant map count as least."""
    image, weights = photo(image), np.asarray(weights, float)
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


def outline(image, cells, grid, color=MARK, numbers=None):
    """Frames just inside these patches of a (rows, cols) grid; numbers, such as ranks, need patches of 20 px."""
    image, (rows, cols) = photo(image), grid
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


def boxes(image, rectangles, color=MARK):
    """Frames around (x0, y0, x1, y1), px; x1 and y1 are the first column and row outside."""
    image = photo(image)
    draw, width = ImageDraw.Draw(image), max(1, round(min(image.size) / 120))
    for box in rectangles:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"a box is (x0, y0, x1, y1) with x0 < x1 and y0 < y1, not {tuple(box)}")
        draw.rectangle([x0, y0, x1 - 1, y1 - 1], outline=color, width=width)
    return image


# -----------------------------------------------------------------------------
# sheets


def fit(image, height):
    """A photograph -> the same, this high."""
    image = photo(image)
    return image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC)


def row(images, captions=None, height=240, title=None):
    """Pictures side by side at one height (None: an empty frame), a title above, captions below, margins all round."""
    captions = [""] * len(images) if captions is None else captions
    if not len(images) or len(captions) != len(images):
        raise ValueError(f"{len(images)} images and {len(captions)} captions; need one for each, and one at least")
    images = [None if image is None else fit(image, height) for image in images]
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


def grid(rows):
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
    framed = [None if image is None else outline(fit(image, height), cells, grid) for image, cells in zip(photos, kept)]
    captions = ["absent" if image is None else f"{len(cells)} kept" for image, cells in zip(photos, kept)]
    arrow, middle = Page(60, height), height / 2
    arrow.line([(4, middle), (50, middle)], AXIS, 2)
    arrow.draw.polygon([(x * SCALE, y * SCALE) for x, y in ((56, middle), (44, middle - 7), (44, middle + 7))], AXIS)
    words = f"composite of {sum(len(cells) for cells in kept)} patches"
    return row([*framed, arrow.done(), composite], [*captions, "", words], height, title)


if __name__ == "__main__":
    dice = np.random.default_rng(0)
    actual, epoch, tokens = dice.gamma(2, 6, 300), np.arange(1, 31), 2.0 ** np.arange(6, 15)
    predicted = actual + dice.normal(0.8, 3, 300)
    y, x = np.mgrid[:224, :224] / 224
    plaque = np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / 0.02)
    skin = np.array([225, 175, 145]) + plaque[..., None] * [-60, -115, -85] + dice.normal(0, 5, (224, 224, 1))
    photos = [np.clip(image, 0, 255).astype(np.uint8) for image in (skin, skin[:, ::-1] * 0.7, skin[::-1])]
    weights = plaque[8::16, 8::16]
    kept = [np.argsort(-m.ravel())[:k] for m, k in ((weights, 24), (weights[:, ::-1], 16), (weights[::-1], 9))]
    patches = [image.reshape(14, 16, 14, 16, 3).swapaxes(1, 2).reshape(196, 16, 16, 3) for image in photos]
    chosen = np.concatenate([p[k] for p, k in zip(patches, kept)])
    composite = chosen.reshape(7, 7, 16, 16, 3).swapaxes(1, 2).reshape(112, 112, 3)
    losses = {"train": (epoch, 9 / epoch + 0.5), "validation": (epoch, np.where(epoch == 12, np.nan, 7 / epoch + 1.2))}
    times = {"softmax": (tokens, tokens**2 / 1e7), "sima": (tokens, tokens / 1e5)}
    sheet = grid([
        row([histogram(predicted - actual, "Error on the test set", "predicted - actual, PASI"),
             scatter(actual, predicted, "PASI of 300 patients", "actual", "predicted")], height=HEIGHT),
        row([curves(losses, "Learning curve", "epoch", "loss"),
             curves(times, "Time of one layer", "tokens", "seconds", log_x=True, log_y=True)], height=HEIGHT),
        filter_figure([*photos, None], [*kept, []], (14, 14), composite, "Patches that the attention filter keeps"),
        row([photos[0], heat(photos[0], weights), boxes(photos[0], [(20, 90, 110, 180)]),
             outline(fit(photos[0], 480), kept[0][:9], (14, 14), numbers=range(1, 10))],
            ["photograph", "attention", "lesion", "best patches"])])
    path = Path(tempfile.mkdtemp()) / "plots.png"
    sheet.save(path)
    print(f"{path}  {sheet.width} x {sheet.height} px")
