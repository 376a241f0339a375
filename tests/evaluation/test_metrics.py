"""evaluation/metrics.py: every metric against loops that share nothing with it, and against scikit-learn."""
import itertools
import math

import numpy as np
import pytest

from evaluation.metrics import METRICS, random_precision
from evaluation.probabilities import details, operating_point
from plumbing.cohort import Task
from tests.evaluation.toy import GRADE, NAN, draw, table_of


def loop_auroc(scores, labels):
    pairs = [(p, q) for p, y in zip(scores, labels) if y == 1 for q, z in zip(scores, labels) if z == 0]
    return sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs) if pairs else NAN


def loop_auprc(scores, labels):
    """Average precision: the step function through (recall, precision) at every threshold."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = [y for p, y in zip(scores, labels) if p >= threshold]
        if not sum(labels):
            return NAN
        area += (sum(called) / sum(labels) - recall) * sum(called) / len(called)
        recall = sum(called) / sum(labels)
    return area if len(labels) else NAN


def loop_r2(said, true):
    mean = sum(true) / len(true)
    return 1 - sum((p - t) ** 2 for p, t in zip(said, true)) / sum((t - mean) ** 2 for t in true) if len(set(true)) > 1 else NAN


def loop_recalls(said, true):
    """Share of each class that is recognized, of the classes that are there."""
    best = [max(range(len(p)), key=lambda c: p[c]) for p in said]
    return [sum(b == c for b, t in zip(best, true) if t == c) / sum(t == c for t in true) for c in set(true)]


def loop_macro(said, true):
    each = [loop_auroc([p[c] for p in said], [int(t == c) for t in true]) for c in range(3)]
    each = [x for x in each if not math.isnan(x)]
    return sum(each) / len(each) if each else NAN


def loop_c_index(risk, target):
    """Over every ordered pair: who had the event first, at a time when the other was still watched?"""
    agreed = []
    for p, (time, event) in zip(risk, target):
        for q, (later, too) in zip(risk, target):
            if event and (time < later or time == later and not too):
                agreed.append(1.0 if p > q else 0.5 if p == q else 0.0)
    return sum(agreed) / len(agreed) if agreed else NAN


def loop_spearman(said, true):
    """Pearson's correlation of ranks that are counted one by one."""
    def rank(values):
        return [sum(v < x for v in values) + sum(v == x for v in values) / 2 for x in values]
    a, b = rank(said), rank(true)
    (p, q), n = (sum(a) / len(a), sum(b) / len(b)), len(a)
    spread = sum((x - p) ** 2 for x in a) * sum((y - q) ** 2 for y in b)
    return sum((a[i] - p) * (b[i] - q) for i in range(n)) / math.sqrt(spread) if spread else NAN


LOOPS = {
    ("regression", "mae"): lambda said, true: sum(abs(p - t) for p, t in zip(said, true)) / len(true),
    ("regression", "mean_error"): lambda said, true: sum(p - t for p, t in zip(said, true)) / len(true),
    ("regression", "rmse"): lambda said, true: math.sqrt(sum((p - t) ** 2 for p, t in zip(said, true)) / len(true)),
    ("regression", "r2"): loop_r2,
    ("regression", "spearman"): loop_spearman,
    ("classes", "auroc"): loop_macro,
    ("classes", "accuracy"): lambda said, true: sum(max(range(3), key=lambda c: p[c]) == t for p, t in zip(said, true)) / len(true),
    ("classes", "balanced_accuracy"): lambda said, true: sum(loop_recalls(said, true)) / len(loop_recalls(said, true)),
    ("classes", "brier"): lambda said, true: sum(sum((p[c] - (t == c)) ** 2 for c in range(3)) / 2 for p, t in zip(said, true)) / len(true),
    ("labels", "brier"): lambda said, true: sum((p - t) ** 2 for p, t in zip(said, true)) / len(true),
    ("labels", "auroc"): loop_auroc,
    ("labels", "auprc"): loop_auprc,
    ("survival", "c_index"): loop_c_index,
    ("loss", "loss"): lambda said, true: sum(said) / len(said),
}


def test_every_metric_has_its_loop():
    """No metric comes in without an independent formula."""
    assert {(kind, name) for kind, metrics in METRICS.items() for name in metrics} == set(LOOPS)


@pytest.mark.parametrize("kind, name", LOOPS)
def test_a_weight_of_k_is_the_row_k_times(kind, name):
    """With weights 0..3 and ties, every metric equals the loop over physically repeated rows, also where few rows are left."""
    rng = np.random.default_rng(0)
    undefined = 0
    for n in (1, 2, 3, 12, 30):
        prediction, target = draw(kind, rng, n)
        weights = rng.integers(4, size=(12, n)) * (rng.random((12, n)) < 0.8)
        weights[:, 0] += weights.sum(1) == 0
        ours = METRICS[kind][name](prediction, target, weights.astype(float))
        theirs = [LOOPS[kind, name](np.repeat(prediction, w, 0).tolist(), np.repeat(target, w, 0).tolist()) for w in weights]
        assert ours.shape == (12,) and np.allclose(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True), n
        undefined += np.isnan(theirs).sum()
    assert undefined or name not in ("r2", "auroc", "auprc", "c_index", "spearman")


def test_metrics_equal_scikit_learn():
    """The same, against the library everyone uses, to nine digits: with fractional weights where it takes some, and ties."""
    sk = pytest.importorskip("sklearn.metrics")
    from scipy.stats import spearmanr
    from sklearn.calibration import calibration_curve
    rng = np.random.default_rng(0)
    for kind, name, theirs in (("regression", "mae", sk.mean_absolute_error), ("regression", "r2", sk.r2_score),
                               ("regression", "rmse", sk.root_mean_squared_error),
                               ("labels", "auroc", sk.roc_auc_score), ("labels", "auprc", sk.average_precision_score),
                               ("labels", "brier", lambda y, p, sample_weight: sk.brier_score_loss(y, p / 2, sample_weight=sample_weight)),
                               ("classes", "accuracy", sk.accuracy_score), ("classes", "balanced_accuracy", sk.balanced_accuracy_score)):
        prediction, target = draw(kind, rng, 200)
        weight, said = rng.random(200), prediction.argmax(1) if kind == "classes" else prediction
        expected = theirs(target, said, sample_weight=weight)
        prediction = prediction / 2 if name == "brier" else prediction       # draw's are 0 to 1.25
        assert METRICS[kind][name](prediction, target, weight[None])[0] == pytest.approx(expected, rel=1e-9), name
    prediction, target = draw("regression", rng, 200)
    ours = METRICS["regression"]["spearman"](prediction, target, np.ones((1, 200)))[0]
    assert ours == pytest.approx(spearmanr(prediction, target)[0], rel=1e-9)
    prediction, target = draw("classes", rng, 200)
    prediction /= prediction.sum(1, keepdims=True)
    for name, expected in (("auroc", sk.roc_auc_score(target, prediction, multi_class="ovr", average="macro")),
                           ("brier", sk.brier_score_loss(target, prediction, labels=[0, 1, 2], scale_by_half=True))):
        assert METRICS["classes"][name](prediction, target, np.ones((1, 200)))[0] == pytest.approx(expected, rel=1e-9)
    found = details(GRADE, table_of(GRADE, prediction, target))
    assert found["confusion"] == sk.confusion_matrix(target, prediction.argmax(1)).tolist()
    observed, predicted = calibration_curve(target == 1, prediction[:, 1], n_bins=10)
    bins = found["reliability"]["medium"]
    assert [x for x in bins["observed"] if x is not None] == pytest.approx(observed, rel=1e-9)
    assert [x for x in bins["predicted"] if x is not None] == pytest.approx(predicted, rel=1e-9)
    answer, names = (target == 1).astype(float), np.arange(200).astype(str)
    point = operating_point(prediction[:, 1], answer, names, 0.3)
    called = prediction[:, 1] >= 0.3
    for name, expected in (("ppv", sk.precision_score(answer, called)), ("npv", sk.precision_score(1 - answer, ~called)),
                           ("f1", sk.f1_score(answer, called))):
        assert point[name]["value"] == pytest.approx(expected, rel=1e-9)
    ordered = Task("grade", "classes", ("0", "1", "2"))
    kappa = details(ordered, table_of(ordered, prediction, target))["kappa"]["value"]
    assert kappa == pytest.approx(sk.cohen_kappa_score(target, prediction.argmax(1), weights="quadratic"), rel=1e-9)
    assert point["sensitivity"]["value"] == pytest.approx(sk.recall_score(answer, prediction[:, 1] >= 0.3), rel=1e-9)
    assert point["specificity"]["value"] == pytest.approx(sk.recall_score(1 - answer, prediction[:, 1] < 0.3), rel=1e-9)


@pytest.mark.parametrize("value", (0.0, 0.1, 3.3, 98765432.1))
def test_r2_without_variance_is_undefined_also_when_the_mean_is_rounded(value):
    """Equal targets have no variance, whatever rounding says; a variance that is small beside the mean counts."""
    weights = np.random.default_rng(0).integers(1, 9, (50, 77)).astype(float)
    assert np.isnan(METRICS["regression"]["r2"](np.arange(77.0), np.full(77, value), weights)).all()
    target = np.float32(value or 1) * (1 + np.arange(77) * np.finfo(np.float32).eps)
    assert np.allclose(METRICS["regression"]["r2"](target, target, weights), 1)


def test_the_average_precision_of_a_random_order_is_the_mean_over_all_orders():
    """Tried one by one; it is above the share of positives."""
    for positives, negatives in ((1, 4), (2, 3), (3, 3)):
        orders = set(itertools.permutations([1] * positives + [0] * negatives))
        n = positives + negatives
        mean = np.mean([loop_auprc(list(range(n, 0, -1)), order) for order in orders])
        assert random_precision(positives, negatives) == pytest.approx(mean) and mean > positives / n
    assert random_precision(3, 0) == random_precision(1, 0) == 1
