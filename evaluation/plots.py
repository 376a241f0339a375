"""Every picture of the project: charts, maps over images, sheets of pictures. Functions return PIL images.

Charts and captions are drawn SCALE times too large and reduced once, which makes lines and letters smooth.
Photographs are (H, W) or (H, W, 3) uint8 arrays or PIL images; patches are counted in raster order, as in vit.py.
Pillow's built-in font has only ASCII: accents are dropped, long dashes become "-", what is left "?".
Run: python plots.py
"""
import math
import tempfile
from pathlib import Path

import numpy as np

from evaluation.canvas import (
    ACCENT, AXIS, BAR, GREY, HEIGHT, INK, LEADING, MARGIN, PALETTE, Page, SMALL, TEXT, TITLE, WIDTH,
    block_height, plain, text_width, wrap,
)
from evaluation.picture_rows import draw_boxes, draw_heat, filter_figure, fit_height, outline_patches, side_by_side, stack


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
    sheet = stack([
        side_by_side([histogram(predicted - actual, "Error on the test set", "predicted - actual, PASI"),
             scatter(actual, predicted, "PASI of 300 patients", "actual", "predicted")], height=HEIGHT),
        side_by_side([curves(losses, "Learning curve", "epoch", "loss"),
             curves(times, "Time of one layer", "tokens", "seconds", log_x=True, log_y=True)], height=HEIGHT),
        filter_figure([*photos, None], [*kept, []], (14, 14), composite, "Patches that the attention filter keeps"),
        side_by_side([photos[0], draw_heat(photos[0], weights), draw_boxes(photos[0], [(20, 90, 110, 180)]),
             outline_patches(fit_height(photos[0], 480), kept[0][:9], (14, 14), numbers=range(1, 10))],
            ["photograph", "attention", "lesion", "best patches"])])
    path = Path(tempfile.mkdtemp()) / "plots.png"
    sheet.save(path)
    print(f"{path}  {sheet.width} x {sheet.height} px")
