"""The figures of a paper: curves with bands, errors, confusion, rows of values. Functions return PIL images.
"""
from itertools import repeat

import numpy as np

from evaluation.canvas import ACCENT, AXIS, BAR, INK, LEADING, PALE, PALETTE, text_width
from evaluation.chart import Axis, Chart, GAP, SMALL, WIDTH, finite, limits, round_edges, to_step


ROW = 48                                             # height of a row of dots, px
CELL = 104                                           # side of a cell of a confusion matrix, px
SEE_THROUGH = ACCENT + (110,)


def line_chart(lines, x, y, width=WIDTH, dots=None, reference=None, labels=()):
    """Lines of curves.py in the colors of PALETTE. dots: xs and ys of pairs; reference: xs and ys of a grey
    line; labels: [(x, y, text)]."""
    colors = PALETTE
    if dots:
        colors = PALETTE[1:]                         # dots have the first
    lines = list(zip(lines, colors))
    chart = Chart(x, y, width, key=[(line.name, color) for line, color in lines])
    if reference:
        chart.curve(*reference, BAR)
    if dots:
        radius = 7 if len(dots[0]) <= 500 else 4
        chart.marks(*dots, radius, SEE_THROUGH)
    for a, b, text in labels:
        chart.text(x.px(a), y.px(b), text, 24, AXIS, "mm")
    for line, color in reversed(lines):              # the first line ends on top
        if line.points:
            for value, *interval in zip(line.xs, line.low, line.high):
                chart.upright(value, color, interval)
            chart.marks(line.xs, line.ys, 9, color)
            continue
        if line.low is not None:
            opacity = 90 // max(2, len(lines))       # bands overlap
            lower = chart.points(line.over, line.low)
            upper = chart.points(line.over, line.high)
            chart.area(lower + upper[::-1], (*color, opacity))
        chart.curve(line.xs, line.ys, color)
        if line.mark is not None:
            point = chart.points(line.xs, line.ys)[line.mark]
            chart.dot(*point, 12, INK)
            chart.dot(*point, 8, color)
    return chart.done()


def histogram(errors, xlabel="", beside=()):
    """Bars for the errors, predicted - actual, lines at 0 and at their mean. beside: the errors of all
    histograms that are to have the same bars."""
    edges = round_edges(np.append(errors, beside))
    inside = np.clip(errors, edges[0], edges[-1])    # rounding
    counts, _ = np.histogram(inside, edges)
    mean = np.mean(errors)
    key = f"mean {to_step(mean, (edges[1] - edges[0]) / 100)}, n {len(errors):,}"
    x = Axis(limits(edges), xlabel)
    y = Axis((0, 1.05 * counts.max()), "count", whole=True)
    chart = Chart(x, y, key=[(key, ACCENT)])
    for left, right, count in zip(edges, edges[1:], counts):
        chart.box(
            x.px(left) + 1,
            y.px(count),
            x.px(right) - 1,
            y.start - 1,
            BAR,
        )
    chart.upright(0, INK)
    chart.upright(mean, ACCENT)
    return chart.done()


def confusion(counts, classes):
    """Counts, and shares of the row, which shade; rows are actual classes, columns predicted ones; totals."""
    n = len(counts)
    table = np.pad(counts, (0, 1))
    table[-1] = table.sum(0)
    table[:, -1] = table.sum(1)
    columns = rows = classes
    if max(text_width(name, SMALL) for name in classes) > CELL - GAP:
        columns = range(1, n + 1)                    # which the names of the rows explain
        rows = [f"{i} {name}" for i, name in enumerate(classes, 1)]
    middles = np.arange(n + 1) + 0.5
    columns = dict(zip(middles, [*columns, "total"]))
    rows = dict(zip(middles, [*rows, "total"]))
    x = Axis((0, n + 1), "predicted class", names=columns)
    y = Axis((n + 1, 0), "actual class", names=rows)
    side = CELL * (n + 1)
    chart = Chart(x, y, side, side)
    chart.image.info["key"] = "; ".join(f"{name}: {row}" for name, row in zip(classes, counts))
    for (i, j), count in np.ndenumerate(table):
        down = y.px(i + 0.5)
        texts = [f"{count:,}"]
        color = INK
        if max(i, j) < n and table[i, n]:
            share = count / table[i, n]
            left = x.px(j)
            top = y.px(i)
            chart.box(
                left + 2,
                top + 2,
                left + CELL - 2,
                top + CELL - 2,
                (*ACCENT, round(255 * share)),
            )
            percent = round(100 * share)
            if 0 < share < 1:                        # what is not all or nothing does not look so
                percent = min(max(percent, 1), 99)
            texts.append(f"{percent}%")
            down -= SMALL * LEADING / 2
            if share > 0.5:
                color = "white"
        chart.block(x.px(j + 0.5), down, texts, SMALL, color, "mm")
    return chart.done()


def dots(rows, title="", intervals=None, reference=None):
    """{name: values} -> a row per name, a dot per value, a bar at their mean; NaN and None are left out.

    intervals: {name: (low, high)}, lines in the rows; reference: where a grey line stands."""
    intervals = intervals or {}
    count = max(len(rows), 1)
    numbers = sum(map(list, [*rows.values(), *intervals.values()]), [reference])
    x = Axis(limits(numbers))
    y = Axis((count, 0), title, names={i + 0.5: name for i, name in enumerate(rows)})
    chart = Chart(x, y, height=ROW * count)
    for value in x.ticks:
        chart.upright(value, PALE)
    if reference is not None:
        chart.upright(reference, BAR)
    for middle, name in y.ticks.items():
        level = repeat(middle)
        chart.curve(finite(intervals.get(name, [])), level, ACCENT)
        values = finite(rows[name])
        chart.marks(values, level, 9, SEE_THROUGH)
        if len(values):
            chart.upright(values.mean(), INK, (middle + 0.3, middle - 0.3))
    return chart.done()
