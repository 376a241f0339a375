"""Charts: errors, predicted against actual, curves, and a row of dots per name. Functions return PIL images.
"""
import numpy as np

from evaluation.canvas import ACCENT, BAR, INK, PALE, PALETTE
from evaluation.chart import Axis, Chart, GAP, HEIGHT, TEXT, finite, limits, nice, number


ROW = 48                                             # height of a row of dots, px
SEE_THROUGH = ACCENT + (130,)


def histogram(errors, xlabel=""):
    """About 20 bars for the finite errors, predicted - actual, lines at 0 and at their mean.

    There must be one error at least."""
    errors = finite(errors)
    edges = round_edges(errors)
    inside = errors.clip(edges[0], edges[-1])        # rounding
    counts, _ = np.histogram(inside, edges)
    x = Axis(limits(edges), xlabel)
    y = Axis((0, 1.05 * counts.max()), "count", whole=True)
    chart = Chart(x, y)
    for left, right, count in zip(edges, edges[1:], counts):
        x0 = chart.x_px(left) + 1
        x1 = chart.x_px(right) - 1
        y0 = chart.y_px(count)
        chart.box(x0, y0, x1, chart.bottom - 1, BAR)
    mean = errors.mean()
    chart.vertical(0, INK)
    chart.vertical(mean, ACCENT, width=4)
    width = edges[1] - edges[0]
    words = f"mean {number(mean, width / 100)}, n {len(errors):,}"
    chart.text(chart.right, chart.top - GAP, words, TEXT, ACCENT, anchor="rd")
    return chart.done()


def round_edges(values):
    """-> the edges of about 20 bars around the values; they are round numbers, and one of them is 0."""
    low, high = limits(np.append(values, 0), pad=0)
    step = nice((high - low) / 20)
    first = np.floor(low / step + 1e-9)
    last = np.ceil(high / step - 1e-9)
    multiples = np.arange(first, last + 1)
    return step * multiples


def scatter(x, y, xlabel="", ylabel=""):
    """One dot per pair, such as actual and predicted, in a square with one scale and the line y = x."""
    dots = np.stack([x, y], axis=1, dtype=float)
    dots = dots[np.isfinite(dots).all(1)]
    chart = square(limits(dots), xlabel, ylabel)
    radius = 7
    if len(dots) > 500:
        radius = 4
    for a, b in dots:
        chart.mark(a, b, radius, SEE_THROUGH)
    return chart.done()


def square(limits, xlabel, ylabel):
    """-> a chart with one scale for both axes, and the line y = x."""
    x = Axis(limits, xlabel)
    y = Axis(limits, ylabel)
    chart = Chart(x, y, width=HEIGHT)
    chart.diagonal()
    return chart


def curve(epochs, y, ylabel=""):
    """A line over the epochs; NaN leaves a gap."""
    x_axis = Axis(limits(epochs), "epoch", whole=True)
    y_axis = Axis(limits(y), ylabel)
    chart = Chart(x_axis, y_axis)
    draw_curve(chart, epochs, y, ACCENT)
    return chart.done()


def share_curves(curves, xlabel="", ylabel=""):
    """[(xs, ys)] -> lines in the colors of PALETTE in a square from 0 to 1, with the line y = x.

    Such are ROC and reliability."""
    chart = square(limits([0, 1]), xlabel, ylabel)
    colored = list(zip(curves, PALETTE))
    for (xs, ys), color in reversed(colored):        # the first line ends on top
        draw_curve(chart, xs, ys, color)
    return chart.done()


def dots(rows, title=""):
    """{name: values} -> a row per name, a dot per value, a bar at their mean; NaN is left out."""
    count = max(len(rows), 1)
    all_values = sum(map(list, rows.values()), [])
    x_axis = Axis(limits(all_values))
    y_axis = Axis((0, count), title)
    y_axis.ticks = {count - i - 0.5: name for i, name in enumerate(rows)}
    chart = Chart(x_axis, y_axis, height=ROW * count)
    for value in x_axis.ticks:
        chart.vertical(value, PALE)
    for middle, values in zip(y_axis.ticks, rows.values()):
        values = finite(values)
        for value in values:
            chart.mark(value, middle, 9, SEE_THROUGH)
        if len(values):
            x = chart.x_px(values.mean())
            y = chart.y_px(middle)
            ends = [(x, y - 14), (x, y + 14)]
            chart.line(ends, INK, width=4)
    return chart.done()


def draw_curve(chart, xs, ys, color):
    """A line with gaps at NaN. Up to 12 points are marked, and so is one between two gaps."""
    runs = [[]]                                      # of points without a gap between them
    for a, b in zip(xs, ys):
        if np.isfinite(b):
            point = chart.x_px(a), chart.y_px(b)
            runs[-1].append(point)
        else:
            runs.append([])
    for run in runs:
        if len(run) > 1:
            chart.line(run, color, 4)
        if len(run) == 1 or len(finite(ys)) <= 12:
            for x, y in run:
                chart.dot(x, y, 7, color)
