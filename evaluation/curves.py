"""The points of curves, and what their keys say: fit, agreement, calibration, ROC, survival.

Nothing is drawn here. Bands and intervals are 95 %.
"""
from typing import NamedTuple

import numpy as np

from evaluation.chart import to_step
from evaluation.metrics import METRICS, NAMES, by_score
from evaluation.result_tables import number
from evaluation.scores import FEW, bootstrap_weights


GRID = np.linspace(0, 1, 101)                        # where the band of a rate is measured
RESAMPLES = 200                                      # a band is looked at: it needs fewer than a number
Z = 1.96                                             # 95 % of a normal distribution are within
THIRDS = "lowest", "middle", "highest"


class Line(NamedTuple):
    """name: what the key says of it. low, high: the ends of its band over `over`; with `points` marks stand
    instead of a line, and these are the ends of their intervals. mark: number of a point that stands out."""
    name: str
    xs: list
    ys: list
    low: list = None
    high: list = None
    over: list = None
    mark: int = None
    points: bool = False


# -----------------------------------------------------------------------------
# numbers


def fit(actual, predicted):
    """-> the least-squares line of predicted over actual; none where all actual values are the same."""
    if np.ptp(actual) == 0:
        return []
    slope, start = np.polyfit(actual, predicted, 1)
    height = to_step(start, np.ptp(actual) / 1000)
    ends = np.array([actual.min(), actual.max()])
    return [Line(f"fit: {slope:.2f} x + {height}, n {len(actual):,}", ends, slope * ends + start)]


def agreement(mean, difference):
    """-> the bias as a line, the limits of agreement as its band. Bland and Altman 1986."""
    bias = difference.mean()
    spread = Z * difference.std(ddof=1)
    step = max(np.ptp(difference), abs(bias), 1e-9) / 1000
    low, middle, high = (to_step(value, step) for value in (bias - spread, bias, bias + spread))
    text = f"bias {middle}, limits of agreement {low} to {high}, n {len(difference):,}"
    ends = [mean.min(), mean.max()]
    line = np.full(2, bias)
    return Line(
        text,
        ends,
        line,
        line - spread,
        line + spread,
        over=ends,
    )


# -----------------------------------------------------------------------------
# probabilities


def calibration(name, bins):
    """Bins of metrics.json -> share observed over mean prediction, with Wilson's intervals of 1927."""
    rows = np.array([bins["predicted"], bins["observed"], bins["units"]], float)
    predicted, share, n = rows[:, rows[2] > 0]       # the others are empty
    scale = 1 + Z * Z / n
    middle = (share + Z * Z / (2 * n)) / scale
    variance = share * (1 - share) / n + Z * Z / (4 * n * n)
    half = Z * np.sqrt(variance) / scale
    return Line(name, predicted, share, middle - half, middle + half, points=True)


def roc(positive, negative):
    """Weights of the positives and negatives per score, highest first -> false and true positive rates.

    From (0, 0) to (1, 1), a point at every threshold."""
    true = np.append(0, positive.cumsum())
    false = np.append(0, negative.cumsum())
    return false / false[-1], true / true[-1]


def precision_recall(positive, negative):
    """The same weights -> recall and precision at every threshold, from recall 0 on."""
    called = np.cumsum(positive + negative)
    true = positive.cumsum()[called > 0]             # a resample may lack the highest scores
    precision = true / called[called > 0]
    recall = true / true[-1]
    return np.append(0, recall), np.append(precision[0], precision)


def rates(points, metric, name, question, threshold=None):
    """A curve of `points`, roc or precision_recall, with its band by resampling patients, and the point of a
    threshold.

    question: as in probabilities.py; metric: the area, for the key."""
    probability, answer, patients = question
    weights = bootstrap_weights(patients, RESAMPLES).astype(float)
    counts = zip(*by_score(-probability, answer, weights))         # of the units, and of every resample
    (xs, ys), *draws = [points(positive, negative) for positive, negative in counts
                        if positive.any() and negative.any()]
    low = high = None
    if draws:
        low, high = np.percentile([np.interp(GRID, *draw) for draw in draws], [2.5, 97.5], axis=0)
    mark = None
    if threshold is not None and probability.max() >= threshold:
        mark = (np.unique(probability) >= threshold).sum()         # the last of the scores that are called
    [area] = METRICS["labels"][metric](probability, answer, weights[:1])
    text = f"{name}: {NAMES[metric]} {number(area)}, {answer.sum():.0f} of {len(answer)}"
    if min(len(set(patients[answer == value])) for value in (0, 1)) < FEW:
        text += " (few)"
    return Line(
        text,
        xs,
        ys,
        low,
        high,
        GRID,
        mark,
    )


# -----------------------------------------------------------------------------
# times


def kaplan_meier(risk, time, event):
    """Yield lines of the share without the event, one per third of the predicted risks.

    Kaplan, Meier 1958."""
    third = np.searchsorted(np.quantile(risk, [1 / 3, 2 / 3]), risk)       # equal risks stay together
    for k in np.unique(third):
        own = third == k
        part = f"{THIRDS[k]} third of the risk"
        if own.all():
            part = "all, no thirds: too many have the same risk"
        xs, ys, low, high = survival(time[own], event[own])
        yield Line(f"{part}, n {own.sum()}, events {event[own].sum():.0f}", xs, ys, low, high, over=xs)


def survival(time, event):
    """-> times, shares without the event, and the ends of their bands, as steps. The variance is Greenwood's
    (1926), the interval symmetric for log(-log(share)), so that it stays within 0 and 1."""
    moments, events = np.unique(time[event == 1], return_counts=True)
    at_risk = (time >= moments[:, None]).sum(1)
    share = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(events / (at_risk * (at_risk - events)))
        exponent = np.exp(-Z * np.sqrt(variance) / np.log(share))
        low = share ** exponent
        high = share ** (1 / exponent)
    if 0 in share:                                   # nobody is left in the end
        low[-1] = 0
        high[-1] = np.append(1, high)[-2]
    edges = np.r_[0, moments, time.max()]
    return np.repeat(edges, 2)[1:-1], *[np.repeat(np.r_[1, values], 2) for values in (share, low, high)]

