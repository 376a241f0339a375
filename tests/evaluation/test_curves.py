"""Curves against slow loops and known numbers."""
import numpy as np
import pytest

from evaluation.curves import GRID, agreement, calibration, fit, kaplan_meier, precision_recall, rates, roc, survival
from evaluation.metrics import METRICS


RNG = np.random.default_rng(0)
PROBABILITY, ANSWER = RNG.integers(6, size=40) / 5, np.arange(40) % 2 * 1.0
PATIENTS = np.array([f"p{i // 2}" for i in range(40)])


def test_rates_are_those_of_every_threshold():
    """A point a distinct threshold, counted one by one; the area below ROC is the AUROC, and stands in the name."""
    thresholds = sorted(set(PROBABILITY), reverse=True)
    positive, negative = PROBABILITY[ANSWER == 1], PROBABILITY[ANSWER == 0]
    line = rates(roc, "auroc", "edema", (PROBABILITY, ANSWER, PATIENTS))
    expected = [(0, 0)] + [(np.mean(negative >= t), np.mean(positive >= t)) for t in thresholds]
    assert np.allclose(np.transpose([line.xs, line.ys]), expected)
    area = METRICS["labels"]["auroc"](PROBABILITY, ANSWER, np.ones((1, 40)))[0]
    below = np.diff(line.xs) @ (line.ys[1:] + line.ys[:-1]) / 2
    assert below == pytest.approx(area) and line.name == f"edema: AUROC {area:.3f}, 20 of 40"
    line = rates(precision_recall, "auprc", "edema", (PROBABILITY, ANSWER, PATIENTS))
    expected = [(np.mean(positive >= t), np.mean(ANSWER[PROBABILITY >= t])) for t in thresholds]
    assert np.allclose(np.transpose([line.xs, line.ys])[1:], expected) and line.xs[0] == 0


def test_a_band_holds_its_curve_and_an_operating_point_lies_on_it():
    """Patients are resampled: with one patient per side there is no band."""
    line = rates(roc, "auroc", "x", (PROBABILITY, ANSWER, PATIENTS), 0.6)
    middle = np.interp(GRID[5:-5], line.xs, line.ys)
    assert (line.low[5:-5] <= middle + 1e-9).all() and (middle <= line.high[5:-5] + 1e-9).all() and len(line.over) == len(line.low) == 101
    called = PROBABILITY >= 0.6
    rates_there = called[ANSWER == 0].mean(), called[ANSWER == 1].mean()
    assert (line.xs[line.mark], line.ys[line.mark]) == pytest.approx(rates_there)
    alone = rates(roc, "auroc", "x", (PROBABILITY, ANSWER, np.array(["one"] * 40)), 2.0)
    assert alone.low is None and alone.mark is None
    line = rates(precision_recall, "auprc", "x", (PROBABILITY, ANSWER, PATIENTS), 0.6)
    assert (line.xs[line.mark], line.ys[line.mark]) == pytest.approx((called[ANSWER == 1].mean(), ANSWER[called].mean()))


@pytest.mark.parametrize("positives, mark", ((10, ""), (9, " (few)")))
def test_a_curve_of_few_cases_is_marked(positives, mark):
    """Perfect on nine patients is no finding; twenty images of them do not make it one."""
    patients = np.array([f"p{min(i, positives - 1) if i < 20 else i}" for i in range(40)])
    answer = (np.arange(40) < 20) * 1.0
    assert rates(roc, "auroc", "x", (answer, answer, patients)).name == "x: AUROC 1.000, 20 of 40" + mark


def test_wilson_intervals():
    """5 of 10: 0.237 to 0.763, 0 of 10: 0 to 0.278, as in Newcombe's paper of 1998 to three digits; empty bins have none."""
    line = calibration("x", {"predicted": [0.1, None, 0.5], "observed": [0.0, None, 0.5], "units": [10, 0, 10]})
    assert np.allclose(line.low, [0, 0.2366], atol=1e-4) and np.allclose(line.high, [0.2775, 0.7634], atol=1e-4) and len(line.xs) == 2


def test_fit_and_limits_of_agreement():
    """A line through points on a line; bias and 1.96 standard deviations of the differences."""
    actual = np.array([1.0, 2, 3, 4])
    [line] = fit(actual, 2 * actual + 1)
    assert np.allclose(line.ys, [3, 9]) and line.name == "fit: 2.00 x + 1.000, n 4" and fit(np.ones(3), actual[:3]) == []
    line = agreement(actual, np.array([1.0, -1, 1, -1]))
    assert agreement(actual, np.full(4, 0.5)).name == "bias 0.5000, limits of agreement 0.5000 to 0.5000, n 4"      # not twelve digits of nothing
    half = 1.96 * np.sqrt(4 / 3)
    assert np.allclose([line.ys[0], line.low[0], line.high[0]], [0, -half, half]) and f"to {half:.2f}" in line.name


def test_kaplan_meier_by_thirds():
    """Steps against a loop over days; equal risks stay in one third."""
    time, event = RNG.integers(1, 9, 60) * 1.0, RNG.integers(0, 2, 60) * 1.0
    risk = RNG.normal(size=60)
    lines = list(kaplan_meier(risk, time, event))
    order = np.argsort(risk)
    for line, own in zip(lines, (order[:20], order[20:40], order[40:])):
        for day in np.arange(0.5, time[own].max()):
            share = 1.0
            for moment in range(1, int(day) + 1):
                at_risk = sum(time[i] >= moment for i in own)
                share *= 1 - sum(time[i] == moment and event[i] == 1 for i in own) / max(1, at_risk)
            assert np.interp(day, line.xs, line.ys) == pytest.approx(share)
        assert f"n {len(own)}, events {int(event[own].sum())}" in line.name
    assert len(list(kaplan_meier(np.zeros(6), time[:6], event[:6]))) == 1


def test_bands_of_survival_are_those_of_r():
    """survfit(Surv(1:4, c(1, 1, 1, 1)) ~ 1, conf.type = "log-log"): 0.75 (0.1279 to 0.9605), 0.5 (0.0578 to 0.8449)."""
    _, shares, low, high = survival(np.arange(1.0, 5), np.ones(4))
    assert shares[2:9:2] == pytest.approx([0.75, 0.5, 0.25, 0])
    assert [low[2], high[2], low[4], high[4]] == pytest.approx([0.1279, 0.9605, 0.0578, 0.8449], abs=2e-4)
    assert (low[8], high[8]) == (0, high[6])                       # nobody is left


def test_equal_risks_are_no_thirds():
    """A model that gives all the same risk has one line, and it is not called the lowest third."""
    [line] = kaplan_meier(np.zeros(6), np.arange(1.0, 7), np.ones(6))
    assert line.name == "all, no thirds: too many have the same risk, n 6, events 6"
