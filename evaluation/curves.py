"""The points of curves, and what their keys say: fit, agreement, calibration, ROC, Kaplan-Meier, learning.

Nothing is drawn here. Bands and intervals are 95 %.
"""
from typing import NamedTuple

import numpy as np

from evaluation.metrics import METRICS, NAMES, by_score
from evaluation.scales import number
from evaluation.scores import bootstrap_weights


GRID = np.linspace(0, 1, 101)                        # where the band of a rate is measured
RESAMPLES = 200                                      # a band is looked at: it needs fewer than a number


class Line(NamedTuple):
    """name: what the key says of it. low, high: its band over `over`, which is xs unless given. mark: a point
    on it. points: marks with intervals instead of a line with a band."""
    name: str
    xs: list
    ys: list
    low: list = None
    high: list = None
    over: list = None
    mark: tuple = None
    points: bool = False


# -----------------------------------------------------------------------------
# numbers


def fit(actual, predicted):
    """-> the least-squares line of predicted over actual; none where all actual values are the same."""
    ends = np.array([actual.min(), actual.max()])
    if ends[0] == ends[1]:
        return []
    slope, start = np.polyfit(actual, predicted, 1)
    text = f"fit: {slope:.2f} x + {number(start, np.ptp(ends) / 1000)}, n {len(actual):,}"
    return [Line(text, ends, slope * ends + start)]


def agreement(mean, difference):
    """-> the bias as a line, the limits of agreement as its band. Bland and Altman 1986."""
    bias, spread = difference.mean(), 1.96 * difference.std(ddof=1)
    low, high = bias - spread, bias + spread
    step = max(np.ptp(difference), 1e-9) / 1000
    text = f"bias {number(bias, step)}, limits of agreement {number(low, step)} to {number(high, step)}"
    ends = np.array([mean.min(), mean.max()])
    return Line(text, ends, [bias, bias], [low, low], [high, high])


# -----------------------------------------------------------------------------
# probabilities


def calibration(name, bins):
    """Bins of metrics.json -> share observed over mean prediction, with Wilson's intervals of 1927."""
    filled = [row for row in zip(bins["predicted"], bins["observed"], bins["units"]) if row[2]]
    predicted, share, n = map(np.array, zip(*filled))
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Line(name, predicted, share, middle - half, middle + half, points=True)


def roc(positive, negative):
    """Weights of the positives and negatives per score, highest first -> false and true positive rates.

    From (0, 0) to (1, 1), a point at every threshold."""
    true = np.append(0, positive.cumsum()) / positive.sum()
    false = np.append(0, negative.cumsum()) / negative.sum()
    return false, true


def precision_recall(positive, negative):
    """The same weights -> recall and precision at every threshold, from recall 0 on."""
    drawn = positive + negative > 0                  # a resample lacks some scores
    true = positive[drawn].cumsum()
    precision = true / (true + negative[drawn].cumsum())
    return np.append(0, true / positive.sum()), np.append(precision[0], precision)


def rates(points, metric, name, question, point=None):
    """A curve of `points`, roc or precision_recall, its band by resampling patients, its operating point.

    question: as in probabilities.py; metric: the area, for the key; point: of metrics.json, or None."""
    probability, answer, patients = question
    draws = []
    for weights in bootstrap_weights(patients, RESAMPLES).astype(float):
        [positive], [negative] = by_score(-probability, answer, weights[None])
        if positive.any() and negative.any():
            draws.append(points(positive, negative))
    low = high = mark = None
    if len(draws) > 1:
        bands = [np.interp(GRID, xs, ys) for xs, ys in draws[1:]]
        low, high = np.percentile(bands, [2.5, 97.5], axis=0)
    if point and point["threshold"] is not None:
        called = probability >= point["threshold"]
        right, wrong = called[answer == 1].sum(), called[answer == 0].sum()
        mark = wrong / (answer == 0).sum(), right / (answer == 1).sum()
        if points is precision_recall:
            mark = mark[1], right / max(1, right + wrong)
    [area] = METRICS["labels"][metric](probability, answer, np.ones((1, len(answer))))
    text = f"{name}: {NAMES[metric]} {area:.2f}, {int(answer.sum())} of {len(answer)}"
    return Line(text, *draws[0], low, high, GRID, mark)


# -----------------------------------------------------------------------------
# times


def kaplan_meier(risk, time, event):
    """-> the share without the event over time, a line per third of the predicted risks. Kaplan, Meier 1958."""
    third = np.searchsorted(np.quantile(risk, [1 / 3, 2 / 3]), risk)       # equal risks stay together
    lines = []
    for k, name in enumerate(("lowest", "middle", "highest")):
        own = third == k
        if not own.any():
            continue
        xs, ys = [0.0], [1.0]
        for moment in np.unique(time[own & (event == 1)]):
            events = np.sum(own & (time == moment) & (event == 1))
            xs += [moment, moment]
            ys += [ys[-1], ys[-1] * (1 - events / np.sum(own & (time >= moment)))]
        text = f"{name} third of the risk, n {own.sum()}, events {int(event[own].sum())}"
        lines.append(Line(text, [*xs, time[own].max()], [*ys, ys[-1]]))
    return lines
