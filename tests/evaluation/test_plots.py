import numpy as np
import pytest

from evaluation.canvas import ACCENT, BAR, INK, PALETTE
from evaluation.chart import Axis, Chart, HEIGHT, limits
from evaluation.curves import Line
from evaluation.plots import CELL, confusion, dots, histogram, line_chart


def near(image, color, tolerance=40):
    return np.abs(np.asarray(image).astype(int) - color).max(-1) <= tolerance


def like_histogram(ends, most):
    """A chart with the axes that a histogram has."""
    return Chart(Axis(limits(ends)), Axis((0, 1.05 * most), "count", whole=True), key=[("mean", ACCENT)])


def test_zero_line_is_at_zero():
    """Above the bars one column of pixels only is black, and it is the one that the axes give to the value 0."""
    image = histogram([-1.0, -0.5, 0.4, 3.0])        # 0 is a quarter of the way
    chart = like_histogram([-1, 3], 1)
    above = near(image, INK, 50)[round(chart.y.end) + 1:round(chart.y.px(1)) - 1]
    columns = np.flatnonzero(above.all(0))
    assert 0 < len(columns) <= 4 and abs(columns.mean() + 0.5 - chart.x.px(0)) <= 1


def test_bars_are_as_high_as_their_counts():
    """Heights in pixels are as 1 : 2 : 4, and an empty bin has no bar."""
    image = histogram([0.5] + [1.5] * 2 + [3.9] * 4)
    chart = like_histogram([0, 4], 4)
    heights = [near(image, BAR, 3)[:, round(chart.x.px(v))].sum() for v in (0.5, 1.5, 2.5, 3.9)]
    unit = chart.y.px(0) - chart.y.px(1)
    assert np.allclose(heights, [unit, 2 * unit, 0, 4 * unit], atol=4)  # soft edges
    assert image.info["key"].startswith("mean 2.7") and image.info["key"].endswith("n 7")


def test_dots_lines_and_bands_are_where_the_axes_say():
    """A dot on its pair, a line on its points in the color of its key, its band around it and nowhere else."""
    x, y = Axis((0, 1), "x"), Axis((0, 1), "y")
    line = Line("a line", [0, 0.75, 1], [0.5, 0.5, 0.5], [0.4, 0.4], [0.6, 0.6], [0, 1], mark=1)
    image = line_chart([line], x, y, HEIGHT, dots=([0.25], [0.1]))
    pixels = np.asarray(image).astype(int)
    color = PALETTE[1]                               # dots have the first
    assert near(image, color)[round(y.px(0.5)), round(x.px(0.25))]
    tint = pixels[round(y.px(0.43)), round(x.px(0.6))]
    assert (tint != 255).any() and (pixels[round(y.px(0.37)), round(x.px(0.6))] == 255).all()
    dot = pixels[round(y.px(0.1)), round(x.px(0.25))]
    assert dot[2] - dot[0] > 60 and image.info["key"] == "a line"
    edge = pixels[round(y.px(0.5)) - 10, round(x.px(0.75))]
    assert edge.max() < 120                          # the ring of the mark


def test_points_have_intervals():
    """A vertical line from low to high instead of a band."""
    x, y = Axis((0, 1)), Axis((0, 1))
    image = line_chart([Line("", [0.5], [0.5], [0.2], [0.9], points=True)], x, y)
    column = near(image, ACCENT)[:, round(x.px(0.5))]
    ends = np.flatnonzero(column[round(y.px(1)):]) + round(y.px(1))
    assert abs(ends.min() - y.px(0.9)) <= 2 and abs(ends.max() - y.px(0.2)) <= 2


def test_cells_of_a_confusion_are_as_dark_as_their_share_of_the_row():
    """A row of 1 and 3: a quarter and three quarters of the color; a row without units and totals are white."""
    image = confusion([[1, 3], [0, 0]], ["a", "b"])
    pixels = np.asarray(image).astype(int)
    chart = Chart(Axis((0, 3), "p"), Axis((0, 3), "a", names={0.5: "total", 1.5: "2 b", 2.5: "1 a"}), width=3 * CELL, height=3 * CELL)
    for share, row, column in ((0.25, 0, 0), (0.75, 0, 1), (0, 0, 2), (0, 1, 0), (0, 2, 2)):
        [(left, bottom)] = chart.points([column], [2 - row])
        cell = pixels[round(bottom) - 8, round(left) + 8]
        assert np.abs(cell - (255 + share * (np.array(ACCENT) - 255))).max() <= 3, (row, column, cell)
    assert image.info["key"] == "a: [1, 3]; b: [0, 0]"


def test_same_call_same_bytes():
    """A chart depends on its arguments alone, and drawing leaves the arguments as they were."""
    x, y = np.array([1.0, 2, 0]), np.array([2.0, 3, 1])
    for draw in (lambda: histogram(y), lambda: dots({"a": y}), lambda: confusion([[1]], ["a"]),
                 lambda: line_chart([Line("", x, y)], Axis((0, 3)), Axis((0, 3)))):
        assert draw().tobytes() == draw().tobytes()
        assert x.tolist() == [1, 2, 0] and y.tolist() == [2, 3, 1]


@pytest.mark.parametrize("values", ([0.0], [1e9, -1e9], [1e-12], [5.0] * 600))
def test_errors_of_any_size_can_be_drawn(values):
    assert min(histogram(values, "x").size) > 200


def test_dots_stand_where_their_values_are():
    """A dot further right for more, one line a name from the top, a mean between; NaN is left out, nothing at all is said."""
    image = np.asarray(dots({"a": [0.0], "b": [1.0, 0.5], "c": [np.nan]})).astype(int)
    blue = (image[..., 2] - image[..., 0]) > 60
    rows = np.flatnonzero(blue.any(1))
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 5) + 1)
    assert len(lines) == 2 and np.flatnonzero(blue[lines[0]].any(0)).max() < np.flatnonzero(blue[lines[1]].any(0)).min()
    assert dots({"a": [np.nan]}).size == dots({"a": [1.0]}).size and dots({}).width > 0


def test_a_forest_has_intervals_and_a_line_for_all():
    """Without an interval there is a dot only; the grey line is at the reference."""
    image = dots({"a": [0.5], "b": [None]}, "t", {"a": [0.0, 1.0], "b": [None, None]}, reference=0.25)
    axis = Axis(limits([0, 1, 0.5, 0.25]))
    chart = Chart(axis, Axis((0, 2), "t", names={1.5: "a", 0.5: "b"}), height=96)
    row = near(image, ACCENT)[round(chart.y.px(1.5))]
    assert row[round(axis.px(0.05))] and row[round(axis.px(0.95))] and not near(image, ACCENT)[round(chart.y.px(0.5))].any()
    assert near(image, BAR)[round(chart.y.px(0.5)), round(axis.px(0.25))]


def test_a_share_that_is_not_all_is_not_100_percent(monkeypatch):
    """One of a thousand is not 0 %, and the others are not 100 %."""
    shown = []
    monkeypatch.setattr(Chart, "block", lambda self, x, y, lines, *rest, **more: shown.extend(lines))
    confusion([[999, 1], [0, 5]], ["a", "b"])
    assert [text for text in shown if text.endswith("%")] == ["99%", "1%", "0%", "100%"]
