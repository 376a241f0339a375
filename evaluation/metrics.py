"""The metrics: predictions and targets in, one number per row of weights out.

Every metric takes weights, (W, n): how many times each of n units counts. It gives W values. A row of ones
is the point estimate, a thousand rows of multiplicities are the bootstrap (scores.py). A metric that is
undefined (one class only) is NaN, never 0.5 and never a crash; in metrics.json it is null, with the reason.
"""
import numpy as np


# -----------------------------------------------------------------------------
# numbers


def mae(prediction, target, weights):
    """Mean absolute error."""
    return weighted_mean(np.abs(prediction - target), weights)


def mean_error(prediction, target, weights):
    """Mean signed error: below 0 the model underestimates."""
    return weighted_mean(prediction - target, weights)


def mse(prediction, target, weights):
    """Mean squared error; of the probability of a label it is the Brier score."""
    return weighted_mean((prediction - target) ** 2, weights)


def rmse(prediction, target, weights):
    return np.sqrt(mse(prediction, target, weights))


def r2(prediction, target, weights):
    """1 - residual / total sum of squares about the weighted mean of the target.

    NaN when all targets are equal."""
    total = sum_of_squares(target, weights)
    total[total <= 1e-24 * (weights @ target ** 2)] = 0            # rounding of the mean is no variance
    return 1 - ratio(weights @ (prediction - target) ** 2, total)


def concordance(prediction, target, weights):
    """Lin's concordance correlation coefficient; of the numbers of classes it is the quadratic kappa.

    1 - mean (a - b)^2 / (var a + var b + (mean a - mean b)^2); NaN when both are one and the same number."""
    total = (weighted_mean(prediction, weights) - weighted_mean(target, weights)) ** 2
    for values in (prediction, target):
        total = total + ratio(sum_of_squares(values, weights), weights.sum(1))
    return 1 - ratio(mse(prediction, target, weights), total)


def sum_of_squares(values, weights):
    """(n,) -> (W,): of the distances from the weighted mean."""
    mean = weighted_mean(values, weights)
    return (weights * (values - mean[:, None]) ** 2).sum(1)


def spearman(prediction, target, weights):
    """Correlation of the ranks; NaN when all predictions or all targets are equal."""
    a = ranks(prediction, weights)
    b = ranks(target, weights)
    covariance = (weights * a * b).sum(1)
    variances = (weights * a * a).sum(1) * (weights * b * b).sum(1)
    return ratio(covariance, np.sqrt(variances))


def ranks(values, weights):
    """-> (W, n) ranks about their mean, 0 where all values are equal; ties share the mean of their ranks."""
    count, _ = by_score(values, np.ones(len(values)), weights)     # (W, distinct values)
    upto = count.cumsum(1)
    middle = upto - count / 2 - upto[:, -1:] / 2
    _, value_of_unit = np.unique(values, return_inverse=True)
    return middle[:, value_of_unit]


# -----------------------------------------------------------------------------
# yes or no


def auroc(prediction, target, weights):
    """Area under the ROC curve: the chance that a positive unit scores above a negative one, ties count half.

    NaN with one class."""
    positive, negative = by_score(prediction, target, weights)     # (W, distinct scores), lowest first
    below = negative.cumsum(1) - negative
    won = (positive * (below + negative / 2)).sum(1)
    return ratio(won, positive.sum(1) * negative.sum(1))


def auprc(prediction, target, weights):
    """Average precision: the precision at each distinct score, weighted by the positives there.

    NaN without a positive."""
    positive, negative = by_score(-prediction, target, weights)    # (W, distinct scores), highest first
    true = positive.cumsum(1)
    false = negative.cumsum(1)
    precision = np.nan_to_num(ratio(true, true + false))           # 0 / 0 where a resample has nothing yet
    return ratio((positive * precision).sum(1), positive.sum(1))


def random_precision(positives, negatives):
    """The average precision to expect of a random order: above the share of positives, which the same
    probability for all has, the more so the fewer they are."""
    n = positives + negatives
    harmonic = (1 / np.arange(1, n + 1)).sum()
    return (harmonic + (positives - 1) / max(1, n - 1) * (n - harmonic)) / n


def by_score(prediction, target, weights):
    """-> weights of the positives and of the negatives, (W, distinct scores) each, scores rising."""
    order = np.argsort(prediction, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(prediction[order]) > 0])           # of every distinct score
    target = target[order]
    weights = weights[:, order]
    positive = np.add.reduceat(weights * target, starts, 1)
    negative = np.add.reduceat(weights * (1 - target), starts, 1)
    return positive, negative


def areas(prediction, target, blocks):
    """`auroc` and `auprc` of many units in many resamples, with one sort -> (2, W). Units whose target is NaN
    count for nothing.

    blocks: whole counts, (rows, n) each; their sums are exact in float32, below 2^24. Only the scores of
    positives matter: how many negatives lie below each of them, and how many not above it."""
    order = np.argsort(prediction)
    positive = order[target[order] == 1]
    negative = order[target[order] == 0]
    scores, starts = np.unique(prediction[positive], return_index=True)
    below = np.searchsorted(prediction[negative], scores, "left")
    upto = np.searchsorted(prediction[negative], scores, "right")
    result = []
    for block in blocks:
        counts = block.astype(np.float32)
        here = np.add.reduceat(counts.take(positive, 1), starts, 1).astype(float)   # (rows, scores), rising
        sums = np.zeros((len(counts), len(negative) + 1))
        np.cumsum(counts.take(negative, 1), 1, float, sums[:, 1:])
        lower = sums[:, below]                                     # weight of the negatives below each score
        middle = (lower + sums[:, upto]) / 2                       # ties count half
        positives = here.sum(1)
        negatives = sums[:, -1]
        true = positives[:, None] - here.cumsum(1) + here          # positives at or above each score
        precision = np.nan_to_num(ratio(true, true + negatives[:, None] - lower))
        result.append([ratio((here * middle).sum(1), positives * negatives),
                       ratio((here * precision).sum(1), positives)])
    return np.concatenate(result, 1)


def share(part, whole, weights):
    """Sum of the part over that of the whole: sensitivity is true positives over all positives."""
    return ratio(weights @ part, weights @ whole)


# -----------------------------------------------------------------------------
# classes and times


def accuracy(prediction, target, weights):
    """Share of the units whose largest probability is that of their class. prediction: (n, classes)."""
    return weighted_mean(prediction.argmax(1) == target, weights)


def balanced_accuracy(prediction, target, weights):
    """Mean over the classes present of the share of their units that are recognized."""
    recognized = prediction.argmax(1) == target
    return mean_defined([share(recognized & (target == c), target == c, weights) for c in np.unique(target)])


def macro_auroc(prediction, target, weights):
    """Unweighted mean of the one-against-rest AUROC over the classes that have both sides."""
    return mean_defined([auroc(probability, (target == c).astype(float), weights)
                         for c, probability in enumerate(prediction.T)])


def brier(prediction, target, weights):
    """Half the squared distance of the probabilities from the truth: 0 is best, 1 is worst.

    With two classes it is (p - y)^2."""
    truth = np.eye(prediction.shape[1])[target.astype(int)]
    return weighted_mean(((prediction - truth) ** 2).sum(1), weights) / 2


def c_index(prediction, target, weights):
    """Harrell's concordance: the share of the pairs of known order in which the higher risk came first.

    target: (n, 2), time and event. The order of a pair is known when the earlier time is that of an event.
    Of equal times an event comes before a last look, and two events have no order. Equal risks count half.
    NaN without such a pair."""
    time, event = target.T
    weights = weights.astype(np.float32)             # whole numbers: their sums are exact
    pairs = agreed = 0
    # In blocks of rows: n x n values may not fit into memory.
    for rows in np.array_split(np.flatnonzero(event == 1), 1 + len(time) ** 2 // 1_000_000):
        own_time = time[rows, None]
        own_risk = prediction[rows, None]
        later = (own_time < time) | (own_time == time) & (event == 0)                       # (rows, n)
        won = later * ((own_risk > prediction) + (own_risk == prediction) / np.float32(2))
        own = weights[:, rows].astype(float)
        pairs = pairs + (own * (weights @ later.T)).sum(1)
        agreed = agreed + (own * (weights @ won.T)).sum(1)
    return ratio(agreed, pairs)


def mean_loss(prediction, target, weights):
    """Of a model that brings its own loss, which is what it predicts."""
    return weighted_mean(prediction, weights)


# -----------------------------------------------------------------------------
# means, and the list


def weighted_mean(values, weights):
    """(n,) -> (W,)"""
    return ratio(weights @ values, weights.sum(1))


def mean_defined(values):
    """(k, W) -> (W,): the mean over those of k that are not NaN, NaN when all are."""
    return ratio(np.nansum(values, 0), np.isfinite(values).sum(0))


def ratio(a, b):
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b != 0)


METRICS = {  # kind of task -> name -> function; the first decides which epoch is the best, or --select
    "regression": {
        "mae": mae,
        "mean_error": mean_error,
        "rmse": rmse,
        "r2": r2,
        "spearman": spearman,
    },
    "classes": {
        "auroc": macro_auroc,
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "brier": brier,
    },
    "labels": {
        "auroc": auroc,
        "auprc": auprc,
        "brier": mse,
    },
    "survival": {
        "c_index": c_index,
    },
    "loss": {
        "loss": mean_loss,
    },
}
# in the order of the tables
NAMES = {"mae": "mean absolute error", "mean_error": "mean error", "rmse": "root mean squared error",
         "r2": "R²", "spearman": "Spearman's correlation", "auroc": "AUROC", "auprc": "average precision",
         "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "brier": "Brier score",
         "c_index": "concordance", "loss": "loss", "ccc": "Lin's concordance", "kappa": "quadratic kappa"}
LOWER_IS_BETTER = ("mae", "rmse", "brier", "loss")
UNDEFINED = {  # why a metric may be undefined where there are units
    "r2": "all targets are equal",
    "spearman": "all predictions or all targets are equal",
    "auroc": "one class only",
    "auprc": "no positive",
    "sensitivity": "no positive",
    "specificity": "no negative",
    "c_index": "no pair with a known order",
    "ppv": "nobody is called positive",
    "npv": "nobody is called negative",
    "f1": "no positive, and nobody is called so",
    "ccc": "all predictions and all targets are equal",
    "kappa": "all predictions and all targets are equal",
}
