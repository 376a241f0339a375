import numpy as np
import pytest

from evaluation.canvas import ACCENT, BAR, INK
from evaluation.chart import Axis, Chart, HEIGHT, limits
from evaluation.plots import curve, dots, histogram, scatter, share_curves


NAN = float("nan")


def pixels(image):
    return np.asarray(image).astype(int)


def near(image, color, tolerance=40):
    return np.abs(pixels(image) - color).max(-1) <= tolerance


def test_zero_line_is_at_zero():
    """Above the bars one column of pixels only is black, and it is the one that the axes give to the value 0."""
    image = histogram([-1.0, -0.5, 0.4, 3.0])        # 0 is a quarter of the way
    chart = Chart(Axis(limits([-1, 3])), Axis((0, 1.05), "count", whole=True))
    above = near(image, INK, 50)[round(chart.top) + 1:round(chart.y_px(1)) - 1]
    columns = np.flatnonzero(above.all(0))
    assert 0 < len(columns) <= 4 and abs(columns.mean() + 0.5 - chart.x_px(0)) <= 1
    assert abs(chart.x_px(0) - 0.75 * chart.x_px(-1) - 0.25 * chart.x_px(3)) < 1e-9


def test_bars_are_as_high_as_their_counts():
    """Heights in pixels are as 1 : 2 : 4, and an empty bin has no bar."""
    image = histogram([0.5] + [1.5] * 2 + [3.9] * 4)
    chart = Chart(Axis(limits([0, 4])), Axis((0, 4.2), "count", whole=True))
    heights = [near(image, BAR, 3)[:, round(chart.x_px(v))].sum() for v in (0.5, 1.5, 2.5, 3.9)]
    unit = chart.y_px(0) - chart.y_px(1)
    assert np.allclose(heights, [unit, 2 * unit, 0, 4 * unit], atol=4)  # soft edges
    assert abs(heights[1] - heights[0] - unit) <= 1 and abs(heights[3] - heights[1] - 2 * unit) <= 1


def test_mean_line_is_at_the_mean():
    """The column with the most accent colour is the mean's, outliers and NaN aside."""
    values = [1.0, 2.0, 6.0, NAN]
    columns = near(histogram(values), ACCENT, 60).sum(0)
    chart = Chart(Axis(limits([0, 6])), Axis((0, 1.05), "count", whole=True))
    assert abs(columns.argmax() - chart.x_px(3)) <= 2.5      # the line is 4 px wide


def test_scatter_puts_dots_where_the_axes_say():
    """The only dot is centred on its value; a pair with NaN is not drawn."""
    image = scatter([0, 1, 0.25], [0, 1, NAN])
    chart = Chart(Axis(limits([0, 1])), Axis(limits([0, 1])), width=HEIGHT)
    blue = pixels(image)[..., 2] - pixels(image)[..., 0] > 50
    left = np.argwhere(blue[:, :round(chart.x_px(0.5))]).mean(0) + 0.5
    assert np.allclose(left[::-1], (chart.x_px(0), chart.y_px(0)), atol=1)
    assert not blue[:, round(chart.x_px(0.2)):round(chart.x_px(0.8))].any()


def test_nan_leaves_a_gap_in_a_curve():
    """No line over the NaN, a line on both sides, and a point between two gaps is a dot."""
    x, y = np.arange(21), np.where(np.isin(np.arange(21), [8, 9, 10, 12]), NAN, 1.0)
    image = near(curve(x, y), ACCENT)
    chart = Chart(Axis(limits(x)), Axis(limits([1])))
    across = image[round(chart.y_px(1)) - 1]
    drawn = [bool(across[round(chart.x_px(v))]) for v in (3, 6.5, 7.5, 9, 10.5, 11, 11.5, 12.5, 15)]
    assert drawn == [True, True, False, False, False, True, False, False, True]


@pytest.mark.parametrize("draw", [
    lambda v: histogram([*v, 2.0], "x"), lambda v: histogram([*v, 2.0]),
    lambda v: scatter(v, v, "x", "y"), lambda v: scatter(v, v),
    lambda v: curve(v, v, "y"), lambda v: curve(v, v)])
def test_charts_take_anything(draw):
    """None, one, equal, tiny, huge and non-finite values: a page whose margin is white, so that nothing is cut."""
    for values in ([], [NAN], [3.0], [0, 0], [-0.0003, 0.0007], [1e5, 1e5 + 1], [1e12, -1e12], [np.inf, 1, 2]):
        image = draw(values)
        assert image.height == draw([5.0, 7.0]).height and (pixels(image)[[0, 1, -2, -1]] == 255).all()
        assert (pixels(image)[:, [0, 1, -2, -1]] == 255).all() and (pixels(image) < 200).any()


def test_same_call_same_bytes():
    """A chart depends on its arguments alone, and drawing leaves the arguments as they were."""
    x, y = np.array([1.0, 2, 0]), np.array([2.0, NAN, 1])
    for draw in (lambda: histogram(y), lambda: scatter(x, y), lambda: curve(x, y), lambda: dots({"a": y}),
                 lambda: share_curves([(x, y)])):
        assert draw().tobytes() == draw().tobytes()
        assert x.tolist() == [1, 2, 0] and np.array_equal(y, [2, NAN, 1], equal_nan=True)


def test_dots_stand_where_their_values_are():
    """A dot further right for more, one line a name from the top, a mean between; NaN is left out, nothing at all is said."""
    image = np.asarray(dots({"a": [0.0], "b": [1.0, 0.5], "c": [np.nan]})).astype(int)
    blue = (image[..., 2] - image[..., 0]) > 60
    rows = np.flatnonzero(blue.any(1))
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 5) + 1)
    assert len(lines) == 2 and np.flatnonzero(blue[lines[0]].any(0)).max() < np.flatnonzero(blue[lines[1]].any(0)).min()
    assert dots({"a": [np.nan]}).size == dots({"a": [1.0]}).size and dots({}).width > 0
