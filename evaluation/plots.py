"""The figures of a paper: curves with bands, errors, confusion, rows of values. Functions return PIL images.
"""
import numpy as np

from evaluation.canvas import ACCENT, AXIS, BAR, INK, LEADING, PALE, PALETTE, text_width
from evaluation.chart import Axis, Chart, GAP, SMALL, WIDTH
from evaluation.scales import finite, limits, number, round_edges


ROW = 48                                             # height of a row of dots, px
CELL = 104                                           # side of a cell of a confusion matrix, px
SEE_THROUGH = ACCENT + (110,)


def line_chart(lines, x, y, width=WIDTH, dots=((), ()), reference=((), ()), labels=()):
    """Lines of curves.py in the colors of PALETTE. dots: xs and ys of pairs; reference: of a grey line;
    labels: [(x, y, text)]."""
    colors = PALETTE
    if len(dots[0]):
        colors = PALETTE[1:]                         # dots have the first
    lines = list(zip(lines, colors))
    key = [(line.name, color) for line, color in lines]
    chart = Chart(x, y, width, key=key)
    chart.curve(*reference, BAR)
    radius = 7
    if len(dots[0]) > 500:
        radius = 4
    chart.marks(*dots, radius, SEE_THROUGH)
    for a, b, text in labels:
        [place] = chart.points([a], [b])
        chart.text(*place, text, 24, AXIS, anchor="mm")
    opacity = 45
    if len(lines) > 2:                               # bands overlap
        opacity = 20
    for line, color in reversed(lines):              # the first line ends on top
        if line.points:
            draw_points(chart, line, color)
        else:
            draw_line(chart, line, color, opacity)
    return chart.done()


def draw_line(chart, line, color, opacity):
    if line.low is not None:
        chart.band(line.over, line.low, line.high, (*color, opacity))
    chart.curve(line.xs, line.ys, color)
    if line.mark:
        x, y = line.mark
        chart.marks([x], [y], 12, INK)
        chart.marks([x], [y], 8, color)


def draw_points(chart, line, color):
    for x, low, high in zip(line.xs, line.low, line.high):
        chart.curve([x, x], [low, high], color)
    chart.marks(line.xs, line.ys, 9, color)


def histogram(errors, xlabel=""):
    """About 20 bars for the errors, predicted - actual, lines at 0 and at their mean."""
    edges = round_edges(errors)
    inside = np.clip(errors, edges[0], edges[-1])    # rounding
    counts, _ = np.histogram(inside, edges)
    mean = np.mean(errors)
    width = edges[1] - edges[0]
    key = f"mean {number(mean, width / 100)}, n {len(errors):,}"
    x = Axis(limits(edges), xlabel)
    y = Axis((0, 1.05 * counts.max()), "count", whole=True)
    chart = Chart(x, y, key=[(key, ACCENT)])
    for left, right, count in zip(edges, edges[1:], counts):
        start = x.px(left) + 1
        end = x.px(right) - 1
        top = y.px(count)
        chart.box(start, top, end, chart.bottom - 1, BAR)
    chart.curve([0, 0], y.limits, INK, width=2)
    chart.curve([mean, mean], y.limits, ACCENT)
    return chart.done()


def confusion(counts, classes):
    """Counts, and shares of the row, which shade; rows are actual classes, columns predicted ones; totals."""
    counts = np.array(counts)
    n = len(counts)
    table = np.vstack([counts, counts.sum(0)])
    totals = table.sum(1)
    table = np.column_stack([table, totals])
    columns = rows = list(classes)
    if max(text_width(name, SMALL) for name in classes) > CELL - GAP:
        columns = [str(i + 1) for i in range(n)]     # which the names of the rows explain
        rows = [f"{i} {name}" for i, name in enumerate(classes, 1)]
    middles = np.arange(n + 1) + 0.5
    ends = 0, n + 1
    columns = dict(zip(middles, [*columns, "total"]))
    rows = dict(zip(middles[::-1], [*rows, "total"]))
    x = Axis(ends, "predicted class", names=columns)
    y = Axis(ends, "actual class", names=rows)
    side = CELL * (n + 1)
    chart = Chart(x, y, side, side)
    texts = [f"{name}: {row}" for name, row in zip(classes, counts.tolist())]
    chart.key = "; ".join(texts)
    for (i, j), count in np.ndenumerate(table):
        [(left, top)] = chart.points([j], [n + 1 - i])
        texts = [f"{count:,}"]
        color = INK
        if max(i, j) < n and totals[i]:
            share = count / totals[i]
            shade = *ACCENT, round(255 * share)
            right = left + CELL
            bottom = top + CELL
            chart.box(left + 2, top + 2, right - 2, bottom - 2, shade)
            texts.append(f"{share:.0%}")
            if share > 0.5:
                color = "white"
        height = SMALL * LEADING * (len(texts) - 1)
        middle = left + CELL / 2
        first = top + (CELL - height) / 2
        chart.block(middle, first, texts, SMALL, color, anchor="mm")
    return chart.done()


def dots(rows, title="", intervals=None, reference=None):
    """{name: values} -> a row per name, a dot per value, a bar at their mean; NaN and None are left out.

    intervals: {name: (low, high)}, lines in the rows; reference: where a grey line stands."""
    intervals = intervals or {}
    count = max(len(rows), 1)
    every = [reference]
    for values in (*rows.values(), *intervals.values()):
        every += [*values]
    x = Axis(limits(every))
    names = {}
    for i, name in enumerate(rows):
        names[count - i - 0.5] = name
    y = Axis((0, count), title, names=names)
    chart = Chart(x, y, height=ROW * count)
    for value in x.ticks:
        chart.curve([value, value], y.limits, PALE, width=2)
    if reference is not None:
        chart.curve([reference, reference], y.limits, BAR)
    for middle, (name, values) in zip(y.ticks, rows.items()):
        values = finite(values)
        ends = finite(intervals.get(name, []))
        chart.curve(ends, [middle for _ in ends], ACCENT)
        chart.marks(values, [middle for _ in values], 9, SEE_THROUGH)
        if len(values):
            mean = values.mean()
            bar = middle - 0.3, middle + 0.3
            chart.curve([mean, mean], bar, INK)
    return chart.done()
