"""Metrics with intervals: what a table of predictions is worth.

Every metric takes weights, (W, n) numbers of times that each of n units counts, and gives W values: the point estimate is a row of
ones, the bootstrap a thousand rows of multiplicities. Intervals are percentile bootstraps over patients, 95 %, 1,000 resamples:
what one patient's images say is not independent. A metric that is undefined (one class only) is NaN, never 0.5 and never a
crash; it is null, with the reason, in metrics.json. A prediction that is no number is refused.
"""
import numpy as np


def mae(prediction, target, weights):
    """Mean absolute error."""
    return ratio(weights @ np.abs(prediction - target), weights.sum(1))


def mean_error(prediction, target, weights):
    """Mean signed error: below 0 the model underestimates."""
    return ratio(weights @ (prediction - target), weights.sum(1))


def mse(prediction, target, weights):
    """Mean squared error; of the probability of a label, the Brier score."""
    return ratio(weights @ (prediction - target) ** 2, weights.sum(1))


def rmse(prediction, target, weights):
    return np.sqrt(mse(prediction, target, weights))


def r2(prediction, target, weights):
    """1 - residual / total sum of squares about the weighted mean of the target; NaN when all targets are equal."""
    mean = ratio(weights @ target, weights.sum(1))
    total = (weights * (target - mean[:, None]) ** 2).sum(1)
    total[total <= 1e-24 * (weights @ target ** 2)] = 0            # rounding of the mean is no variance
    return 1 - ratio(weights @ (prediction - target) ** 2, total)


def spearman(prediction, target, weights):
    """Correlation of the ranks; NaN when all predictions or all targets are equal."""
    a, b = ranks(prediction, weights), ranks(target, weights)
    return ratio((weights * a * b).sum(1), np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1)))


def ranks(values, weights):
    """(W, n) ranks about their mean, which are 0 where all values are equal; ties share the mean of theirs."""
    at, _ = by_score(values, np.ones(len(values)), weights)        # (W, distinct values)
    upto = np.cumsum(at, 1)
    return (upto - at / 2 - upto[:, -1:] / 2)[:, np.unique(values, return_inverse=True)[1]]


def auroc(prediction, target, weights):
    """Chance that a positive unit scores above a negative one, ties count half; NaN with one class."""
    positive, negative = by_score(prediction, target, weights)     # (W, distinct scores), lowest first
    below = np.cumsum(negative, 1) - negative
    return ratio((positive * (below + negative / 2)).sum(1), positive.sum(1) * negative.sum(1))


def auprc(prediction, target, weights):
    """Average precision: the precision at each distinct score, weighted by the positives found there; NaN without a positive."""
    positive, negative = by_score(-prediction, target, weights)    # (W, distinct scores), highest first
    found, false = np.cumsum(positive, 1), np.cumsum(negative, 1)
    precision = np.nan_to_num(ratio(found, found + false))         # 0 / 0 where a resample has nothing yet
    return ratio((positive * precision).sum(1), positive.sum(1))


def by_score(prediction, target, weights):
    """Weights of positives and of negatives, (W, distinct scores), scores rising."""
    order = np.argsort(prediction, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(prediction[order]) > 0])
    target, weights = target[order], weights[:, order]
    return (np.add.reduceat(weights * side, starts, axis=1) for side in (target, 1 - target))


def accuracy(prediction, target, weights):
    """prediction: (n, classes) probabilities."""
    return ratio(weights @ (prediction.argmax(1) == target), weights.sum(1))


def balanced_accuracy(prediction, target, weights):
    """Mean over the classes present of the share of their units that are recognized."""
    hit = prediction.argmax(1) == target
    return mean_defined([ratio(weights @ (hit & (target == c)), weights @ (target == c)) for c in np.unique(target)])


def macro_auroc(prediction, target, weights):
    """Unweighted mean of the one-against-rest AUROC over the classes that have both sides."""
    return mean_defined([auroc(prediction[:, c], (target == c).astype(float), weights) for c in range(prediction.shape[1])])


def c_index(prediction, target, weights):
    """Harrell's concordance: of the pairs whose order is known, the share in which the higher risk came first. target: (n, 2)
    time and event. The order of a pair is known when the earlier time is that of an event; of equal times an event comes before
    a last look, and two events have no order. Equal risks count half. NaN without such a pair."""
    time, event = target.T
    agreed, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for rows in np.array_split(np.flatnonzero(event == 1), 1 + len(time) ** 2 // 1_000_000):
        t, risk = time[rows, None], prediction[rows, None]
        before = (t < time) | (t == time) & (event == 0)           # (rows, n)
        right = before * ((risk > prediction) + (risk == prediction) / 2)
        pairs += (weights[:, rows] * (weights @ before.T)).sum(1)
        agreed += (weights[:, rows] * (weights @ right.T)).sum(1)
    return ratio(agreed, pairs)


def brier(prediction, target, weights):
    """Half the squared distance of the probabilities from the truth, which of two classes is (p - y)^2; 0 is best, 1 worst."""
    truth = np.eye(prediction.shape[1])[target.astype(int)]
    return ratio(weights @ ((prediction - truth) ** 2).sum(1), 2 * weights.sum(1))


def sensitivity(called, target, weights):
    """Share of the positive that are called so."""
    return ratio(weights @ (called * target), weights @ target)


def specificity(called, target, weights):
    """Share of the negative that are not called positive."""
    return sensitivity(1 - called, 1 - target, weights)


def ratio(a, b):
    """a / b, NaN where b is 0."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b != 0)


def mean_defined(values):
    """(k, W) -> (W,): the mean over those of k that are not NaN, NaN when all are."""
    return ratio(np.nansum(values, 0), np.isfinite(values).sum(0))


METRICS = {  # kind of task -> name -> function; the first decides which epoch is the best
    "regression": {"mae": mae, "mean_error": mean_error, "rmse": rmse, "r2": r2, "spearman": spearman},
    "classes": {"auroc": macro_auroc, "accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "brier": brier},
    "labels": {"auroc": auroc, "auprc": auprc, "brier": mse},
    "survival": {"c_index": c_index},
}
LOWER_IS_BETTER = ("mae",)
UNDEFINED = {"r2": "all targets are equal", "spearman": "all predictions or all targets are equal", "auroc": "one class only",
             "auprc": "no positive", "sensitivity": "no positive", "specificity": "no negative",                   # where there are units
             "c_index": "no pair with a known order"}
