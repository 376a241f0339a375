import numpy as np
import pytest

from evaluation.scales import limits, number, round_edges, round_ticks


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
    """For any range: 2 to 8 ticks, within it, no two with the same text."""
    dice = np.random.default_rng(0)
    for _ in range(300):
        low = dice.normal() * 10 ** dice.uniform(-6, 6)
        high = low + 10 ** dice.uniform(-6, 6) + abs(low) * 1e-3
        found = round_ticks((low, high))
        assert 2 <= len(found) <= 8 and len(set(found.values())) == len(found), (low, high, found)
        assert all(low - 1e-9 * (high - low) <= v <= high + 1e-9 * (high - low) for v in found)
    assert all(float(name).is_integer() for name in round_ticks((0, 1.2), whole=True).values())


def test_number_is_short():
    """As many digits as tell neighbours apart."""
    for value, step, text in ((0.5, 0.5, "0.5"), (12, 1, "12"), (2e-5, 1e-5, "0.00002"), (3e7, 1e7, "30,000,000"), (0, 1, "0")):
        assert number(value, step) == text


def test_edges_of_bars_are_round_and_one_is_zero():
    """About 20 around all values, also where all are on one side of 0."""
    for values in ([-1.0, 3.2], [5.0, 6.0], [-0.0031, -0.002]):
        edges = round_edges(values)
        assert 0 in edges and edges[0] <= min(0, *values) and edges[-1] >= max(0, *values) and 10 <= len(edges) <= 42
    assert limits([]) == (0, 1)
