"""The figures of a paper: curves with bands, errors, confusion, and rows of values. Functions return PIL images.
"""
import numpy as np

from evaluation.canvas import ACCENT, AXIS, BAR, INK, LEADING, PALE, PALETTE
from evaluation.chart import Axis, Chart, SMALL, WIDTH
from evaluation.scales import finite, limits, number, round_edges


ROW = 48                                             # height of a row of dots, px
CELL = 104                                           # side of a cell of a confusion matrix, px
SEE_THROUGH = ACCENT + (110,)


def line_chart(lines, x, y, width=WIDTH, dots=((), ()), reference=((), ()), labels=()):
    """Lines of curves.py in the colors of PALETTE. dots: xs and ys of pairs; reference: of a grey line;
    labels: [(x, y, text)]."""
    colors = PALETTE[len(dots[0]) > 0:]              # dots have the first
    colored = list(zip(lines, colors))
    chart = Chart(x, y, width, key=[(line.name, color) for line, color in colored])
    chart.curve(*reference, BAR)
    radius = 4 if len(dots[0]) > 500 else 7
    opacity = 20 if len(lines) > 2 else 45           # of bands, which overlap
    chart.marks(*dots, radius, SEE_THROUGH)
    for a, b, text in labels:
        [place] = chart.points([a], [b])
        chart.text(*place, text, 24, AXIS, anchor="mm")
    for line, color in reversed(colored):            # the first line ends on top
        if line.points:
            for a, low, high in zip(line.xs, line.low, line.high):
                chart.curve([a, a], [low, high], color)
            chart.marks(line.xs, line.ys, 9, color)
            continue
        if line.low is not None:
            over = line.xs if line.over is None else line.over
            chart.band(over, line.low, line.high, (*color, opacity))
        chart.curve(line.xs, line.ys, color)
        if line.mark:
            chart.marks(*np.transpose([line.mark]), 12, INK)
            chart.marks(*np.transpose([line.mark]), 8, color)
    return chart.done()


def histogram(errors, xlabel=""):
    """About 20 bars for the errors, predicted - actual, lines at 0 and at their mean."""
    edges = round_edges(errors)
    inside = np.clip(errors, edges[0], edges[-1])    # rounding
    counts, _ = np.histogram(inside, edges)
    mean = np.mean(errors)
    key = f"mean {number(mean, (edges[1] - edges[0]) / 100)}, n {len(errors):,}"
    x = Axis(limits(edges), xlabel)
    y = Axis((0, 1.05 * counts.max()), "count", whole=True)
    chart = Chart(x, y, key=[(key, ACCENT)])
    for left, right, count in zip(edges, edges[1:], counts):
        chart.box(x.px(left) + 1, y.px(count), x.px(right) - 1, chart.bottom - 1, BAR)
    chart.curve([0, 0], y.limits, INK, width=2)
    chart.curve([mean, mean], y.limits, ACCENT)
    return chart.done()


def confusion(counts, classes):
    """Counts, and shares of the row, which shade; rows are actual classes, columns predicted ones; totals."""
    counts = np.array(counts)
    n = len(counts)
    table = np.pad(counts, (0, 1))
    table[:n, n] = counts.sum(1)
    table[n] = table.sum(0)
    rows = {n + 0.5 - i: f"{i + 1} {name}" for i, name in enumerate(classes)}
    columns = {i + 0.5: str(i + 1) for i in range(n)}
    x = Axis((0, n + 1), "predicted class", names={**columns, n + 0.5: "total"})
    y = Axis((0, n + 1), "actual class", names={**rows, 0.5: "total"})
    chart = Chart(x, y, width=CELL * (n + 1), height=CELL * (n + 1))
    chart.key = "; ".join(f"{name}: {row}" for name, row in zip(classes, counts.tolist()))
    for (i, j), count in np.ndenumerate(table):
        (left, top), (right, bottom) = chart.points([j, j + 1], [n + 1 - i, n - i])
        texts, color = [f"{count:,}"], INK
        if max(i, j) < n and table[i, n]:
            share = count / table[i, n]
            chart.box(left + 2, top + 2, right - 2, bottom - 2, (*ACCENT, round(255 * share)))
            texts.append(f"{share:.0%}")
            color = "white" if share > 0.5 else INK
        first = (top + bottom - SMALL * LEADING * (len(texts) - 1)) / 2
        chart.block((left + right) / 2, first, texts, SMALL, color, anchor="mm")
    return chart.done()


def dots(rows, title="", intervals=None, reference=None):
    """{name: values} -> a row per name, a dot per value, a bar at their mean; NaN and None are left out.

    intervals: {name: (low, high)}, lines in the rows; reference: where a grey line stands."""
    intervals = intervals or {}
    count = max(len(rows), 1)
    every = [finite(values) for values in (*rows.values(), *intervals.values(), [reference])]
    x = Axis(limits(np.concatenate(every)))
    y = Axis((0, count), title, names={count - i - 0.5: name for i, name in enumerate(rows)})
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
            chart.curve([values.mean(), values.mean()], [middle - 0.3, middle + 0.3], INK)
    return chart.done()
