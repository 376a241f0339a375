import numpy as np
import pytest

from evaluation.canvas import ACCENT
from evaluation.chart import Axis, Chart, limits, round_edges, round_ticks, to_step


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


@pytest.mark.parametrize("low, high, texts", [
    (-0.0003, 0.0007, ["-0.0002", "0", "0.0002", "0.0004", "0.0006"]),
    (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    (0, 1e5, ["0", "20,000", "40,000", "60,000", "80,000", "100,000"]),
    (-1e6, 1e6, ["-1,000,000", "-500,000", "0", "500,000", "1,000,000"]),
    (0.5, 1.5, ["0.6", "0.8", "1.0", "1.2", "1.4"])])
def test_ticks_are_round(low, high, texts):
    """The labels a person would choose."""
    assert list(round_ticks((low, high)).values()) == texts


def test_ticks_are_few_inside_and_distinct():
    """For any range: 2 to 7 ticks, within it, no two with the same text."""
    dice = np.random.default_rng(0)
    for _ in range(300):
        low = dice.normal() * 10 ** dice.uniform(-6, 6)
        high = low + 10 ** dice.uniform(-6, 6) + abs(low) * 1e-3
        found = round_ticks((low, high))
        assert 2 <= len(found) <= 7 and len(set(found.values())) == len(found), (low, high, found)
        assert all(low - 1e-9 * (high - low) <= v <= high + 1e-9 * (high - low) for v in found)
    assert all(float(name).is_integer() for name in round_ticks((0, 1.2), whole=True).values())


def test_number_is_short():
    """As many digits as tell neighbours apart."""
    for value, step, text in ((0.5, 0.5, "0.5"), (12, 1, "12"), (2e-5, 1e-5, "0.00002"), (3e7, 1e7, "30,000,000"), (0, 1, "0")):
        assert to_step(value, step) == text


def test_edges_of_bars_are_round_and_one_is_zero():
    """Of 9 to 21 bars around all values, also where all are on one side of 0."""
    for values in ([-1.0, 3.2], [5.0, 6.0], [-0.0031, -0.002]):
        edges = round_edges(values)
        assert 0 in edges and edges[0] <= min(0, *values) and edges[-1] >= max(0, *values) and 9 <= len(edges) - 1 <= 21
    assert limits([]) == (0, 1)
