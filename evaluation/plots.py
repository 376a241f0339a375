"""Charts: errors, predicted against actual, curves, and a row of dots per name. Functions return PIL images.

Run: python -m evaluation.plots
"""
import os
import tempfile

import numpy as np

from evaluation.canvas import ACCENT, BAR, INK, LEADING, PALE, PALETTE, text_width
from evaluation.chart import Axis, Chart, GAP, HEIGHT, TEXT, finite, limits, nice, number
from evaluation.picture_rows import stack


ROW = 48                                             # height of a row of dots, px
SEE_THROUGH = ACCENT + (130,)


def histogram(errors, title="", xlabel="", ylabel="count"):
    """About 20 bars for the finite errors, predicted - actual, lines at 0 and at their mean."""
    errors = finite(errors)
    if len(errors) == 0:
        chart = Chart(Axis(None, xlabel), Axis(None, ylabel), title)
        return chart.done()
    edges = round_edges(errors)
    counts, _ = np.histogram(errors.clip(edges[0], edges[-1]), edges)
    x = Axis(limits(edges), xlabel)
    y = Axis((0, 1.05 * counts.max()), ylabel, whole=True)
    chart = Chart(x, y, title)
    draw_bars(chart, edges, counts)
    mean = errors.mean()
    chart.vertical(0, INK)
    chart.vertical(mean, ACCENT, width=4)
    step = edges[1] - edges[0]
    words = f"mean {number(mean, step / 100)}, n {len(errors):,}"
    chart.text(chart.right, chart.top - GAP, words, TEXT, ACCENT, anchor="rd")
    return chart.done()


def round_edges(values):
    """-> the edges of about 20 bars around the values; they are round numbers, and one of them is 0."""
    low, high = limits(np.append(values, 0), pad=0)
    step = nice((high - low) / 20)
    first = np.floor(low / step + 1e-9)
    last = np.ceil(high / step - 1e-9)
    return step * np.arange(first, last + 1)


def draw_bars(chart, edges, counts):
    for i, count in enumerate(counts):
        left = chart.x_px(edges[i])
        right = chart.x_px(edges[i + 1])
        top = chart.y_px(count)
        chart.box(left + 1, top, right - 1, chart.bottom - 1, BAR)


def scatter(x, y, title="", xlabel="", ylabel=""):
    """One dot per pair, such as actual and predicted, in a square with one scale and the line y = x."""
    x, y = pairs(x, y)
    both = limits(np.append(x, y))
    x_axis, y_axis = Axis(both, xlabel), Axis(both, ylabel)
    chart = Chart(x_axis, y_axis, title, width=HEIGHT)
    chart.diagonal()
    radius = 7
    if len(x) > 500:
        radius = 4
    for a, b in zip(x, y):
        if np.isfinite(a):
            chart.mark(a, b, radius, SEE_THROUGH)
    return chart.done()


def curves(
    series, title="", xlabel="", ylabel="",
    log_x=False, log_y=False, epochs=False,
):
    """{name: (xs, ys)} -> lines with their names at the right.

    NaN leaves a gap, as does what is <= 0 on a log axis; epochs: x has whole numbers only."""
    lines, all_x, all_y = {}, [], []
    for name, (xs, ys) in series.items():
        xs, ys = pairs(xs, ys, log_x, log_y)
        lines[name] = xs, ys
        all_x.extend(xs)
        all_y.extend(ys)
    x = Axis(limits(all_x, log_x), xlabel, log_x, whole=epochs)
    y = Axis(limits(all_y, log_y), ylabel, log_y)
    names = [text_width(name, TEXT) for name in series]
    chart = Chart(x, y, title, room=max(names, default=0) + GAP)
    draw_curves(chart, lines)
    name_curves(chart, lines)
    return chart.done()


def share_curves(series, xlabel="", ylabel=""):
    """{name: (xs, ys)} -> lines without names in a square from 0 to 1, with the line y = x.

    Such are ROC and reliability."""
    both = limits([0, 1])
    x, y = Axis(both, xlabel), Axis(both, ylabel)
    chart = Chart(x, y, width=HEIGHT)
    chart.diagonal()
    draw_curves(chart, series)
    return chart.done()


def dots(rows, title="", xlabel=""):
    """{name: values} -> a row per name, a dot per value, a bar at their mean; NaN is left out."""
    all_values = []
    for values in rows.values():
        all_values.extend(values)
    count = max(len(rows), 1)
    x = Axis(limits(all_values), xlabel)
    y = Axis((0, count))
    y.ticks = {count - i - 0.5: name for i, name in enumerate(rows)}
    chart = Chart(x, y, title, height=ROW * count)
    for value in x.ticks:
        chart.vertical(value, PALE)
    for middle, values in zip(y.ticks, rows.values()):
        values = finite(values)
        for value in values:
            chart.mark(value, middle, 9, SEE_THROUGH)
        if len(values):
            x = chart.x_px(values.mean())
            y = chart.y_px(middle)
            ends = [(x, y - 14), (x, y + 14)]
            chart.line(ends, INK, width=4)
    return chart.done()


def pairs(x, y, log_x=False, log_y=False):
    """Two lists of one length -> the same as floats, both NaN where a pair cannot be drawn.

    That is where one is not finite, or not positive on a log axis."""
    x, y = np.array(x, float), np.array(y, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; need two lists of one length")
    drawable = np.isfinite(x) & np.isfinite(y)
    if log_x:
        drawable &= x > 0
    if log_y:
        drawable &= y > 0
    x[~drawable] = y[~drawable] = np.nan
    return x, y


def draw_curves(chart, series):
    """Lines with gaps at NaN. Up to 12 points of a line are marked, and so is one between two gaps."""
    colors = curve_colors(series)
    for name in reversed(series):                    # the first line ends on top
        xs, ys = series[name]
        runs = [[]]                                  # of points without a gap between them
        for a, b in zip(xs, ys):
            if np.isfinite(b):
                point = chart.x_px(a), chart.y_px(b)
                runs[-1].append(point)
            else:
                runs.append([])
        for run in runs:
            if len(run) > 1:
                chart.line(run, colors[name], 4)
            if len(run) == 1 or len(finite(ys)) <= 12:
                for x, y in run:
                    chart.dot(x, y, 7, colors[name])


def curve_colors(series):
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(series)}


def name_curves(chart, series):
    """Names at the ends of their lines; where they would overlap, below the name above."""
    ends = {}                                        # name: y, px
    for name, (_, ys) in series.items():
        ends[name] = chart.bottom
        if len(finite(ys)):
            ends[name] = chart.y_px(finite(ys)[-1])
    colors = curve_colors(series)
    height = chart.bottom - chart.top
    gap = min(TEXT * LEADING, height / max(len(series), 1))
    lowest = chart.bottom - len(series) * gap        # leaves room for the names below
    above = -np.inf
    for name in sorted(ends, key=ends.get):
        lowest += gap
        above = max(ends[name], above + gap)
        above = min(above, lowest)
        chart.text(chart.right + GAP, above, name, TEXT, colors[name], anchor="lm")


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    actual = rng.gamma(2, 6, 300)
    predicted = actual + rng.normal(0.8, 3, 300)
    epoch = np.arange(1, 31)
    losses = {
        "train": (epoch, 9 / epoch + 0.5),
        "validation": (epoch, 7 / epoch + 1.2),
    }
    tokens = 2.0 ** np.arange(6, 15)
    times = {
        "softmax": (tokens, tokens**2 / 1e7),
        "sima": (tokens, tokens / 1e5),
    }
    sheet = stack([
        histogram(predicted - actual, "Error on the test set", "predicted - actual, PASI"),
        scatter(actual, predicted, "PASI of 300 patients", "actual", "predicted"),
        curves(losses, "Learning curve", "epoch", "loss", epochs=True),
        curves(times, "Time of one layer", "tokens", "seconds", log_x=True, log_y=True),
        dots({"softmax": [3.1, 2.9], "sima": [2.0, 1.8]}, "Two runs", "seconds"),
    ])
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "plots.png")
    sheet.save(path)
    print(f"{path}  {sheet.width} x {sheet.height} px")
