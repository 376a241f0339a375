import numpy as np
import pytest

from evaluation.canvas import ACCENT
from evaluation.chart import Axis, Chart


def test_a_chart_is_a_square_where_its_width_is_its_height():
    """Both axes have one length then, and one scale where their limits are the same."""
    chart = Chart(Axis((-1, 3), "x"), Axis((-1, 3), "y"), width=420, height=420)
    assert chart.x.end - chart.x.start == chart.y.start - chart.y.end
    assert chart.x.px(2) - chart.x.px(0) == pytest.approx(chart.y.px(0) - chart.y.px(2))


def test_names_of_ticks_do_not_overlap():
    """Of long numbers below a narrow axis some are left out, and there is white between the others."""
    x = Axis((0, 6e5))
    chart = Chart(x, Axis((0, 1)), width=300)
    names = np.asarray(chart.done())[round(chart.y.start) + 16:round(chart.y.start) + 50]
    inked = (names < 200).any((0, 2))
    gaps = np.diff(np.flatnonzero(inked)) >= 8       # px, more than between the figures of a number
    assert list(x.ticks.values())[:2] == ["0", "100,000"] and gaps.sum() + 1 == 3


def test_a_key_stands_above_the_axes_and_goes_with_the_picture():
    """Its lines make the page higher, not the chart; its colors and words are there."""
    bare = Chart(Axis((0, 1)), Axis((0, 1)))
    chart = Chart(Axis((0, 1)), Axis((0, 1)), key=[("one", ACCENT), ("two", (200, 0, 0))])
    assert chart.y.start - chart.y.end == bare.y.start - bare.y.end and chart.y.end > bare.y.end + 50
    image = chart.done()
    assert image.info["key"] == "one; two" and image.getpixel((25, 37)) == ACCENT


def test_nan_leaves_a_gap_in_a_curve():
    """No line over the NaN, a line on both sides, and a point between two gaps is a dot."""
    x, y = np.arange(21), np.where(np.isin(np.arange(21), [8, 9, 10, 12]), np.nan, 1.0)
    chart = Chart(Axis((0, 20)), Axis((0, 2)))
    chart.curve(x, y, ACCENT)
    across = (np.abs(np.asarray(chart.done()).astype(int) - ACCENT).max(-1) <= 40)[round(chart.y.px(1)) - 1]
    drawn = [bool(across[round(chart.x.px(v))]) for v in (3, 6.5, 7.5, 9, 10.5, 11, 11.5, 12.5, 15)]
    assert drawn == [True, True, False, False, False, True, False, False, True]
