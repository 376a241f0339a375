"""evaluation/probabilities.py: confusion, reliability and operating points against loops."""
import math

import numpy as np
import pytest

from evaluation.probabilities import choose_thresholds, conformal, details, operating_point, youden
from plumbing.cohort import Task
from tests.evaluation.toy import FINDINGS, GRADE, NAN, PASI, draw, table_of


def test_confusion_counts_what_was_there_and_what_was_said():
    """Rows are the truth, columns the largest probability; unknown targets are in no cell."""
    said, true = draw("classes", np.random.default_rng(0), 50)
    true[::7] = NAN
    counts = details(GRADE, table_of(GRADE, said, true))["confusion"]
    for actual in range(3):
        for called in range(3):
            assert counts[actual][called] == sum(t == actual and max(range(3), key=lambda c: p[c]) == called for p, t in zip(said, true))


def test_reliability_bins_are_of_equal_width():
    """A loop over the ten bins, 0 and 1 included; empty bins say None; two classes are one question, more are one each."""
    rng = np.random.default_rng(0)
    said, true = np.column_stack([rng.integers(11, size=300) / 10, rng.uniform(0.2, 0.4, 300)]), rng.integers(2, size=(300, 2)).astype(float)
    true[::5, 1] = NAN
    result = details(FINDINGS, table_of(FINDINGS, said, true))["reliability"]
    for i, name in enumerate(FINDINGS.classes):
        pairs = [(p, y) for p, y in zip(said[:, i], true[:, i]) if not math.isnan(y)]
        assert sum(result[name]["units"]) == len(pairs)
        for b in range(10):
            mine = [(p, y) for p, y in pairs if b <= p * 10 < b + 1 or b == 9 and p == 1]
            assert result[name]["units"][b] == len(mine)
            for key, column in (("predicted", 0), ("observed", 1)):
                assert result[name][key][b] == (pytest.approx(np.mean([pair[column] for pair in mine])) if mine else None)
    assert list(details(GRADE, table_of(GRADE, *draw("classes", rng, 9)))["reliability"]) == list(GRADE.classes)
    yes = Task("yes", "classes", ("no", "yes"))
    assert details(yes, table_of(yes, [[0.25, 0.75]], [1]))["reliability"]["yes"]["predicted"][7] == 0.75
    assert set(details(PASI, table_of(PASI, [1], [1]))) == {"ccc"}


def test_youden_is_the_best_of_every_threshold():
    """Tried one by one, with ties: the largest J, and of equals the lowest threshold; with one class there is none."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 30, 30, 30):
        said, true = rng.integers(6, size=n) / 4, (np.arange(n) % (2 if n < 4 else 5) == 1).astype(float)     # few positives
        J = {t: np.mean(said[true == 1] >= t) + np.mean(said[true == 0] < t) - 1 for t in sorted(set(said))}
        best = max(round(j, 12) for j in J.values())
        assert youden(said, true) == next(t for t in J if round(J[t], 12) == best)
    assert youden(np.array([0.1, 0.2]), np.ones(2)) is None and youden(np.zeros(0), np.zeros(0)) is None


def test_the_conformal_interval_holds_nine_of_ten():
    """Of 2,000 studies of 19 validation patients it holds the next patient in 90 %; 8 patients are too few, of 9 it is the largest."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        errors = rng.standard_t(3, 20)
        held += abs(errors[19]) <= conformal(PASI, table_of(PASI, errors[:19], np.zeros(19)))["half_width"]
    assert 0.88 < held / 2000 < 0.92
    assert conformal(PASI, table_of(PASI, np.arange(8.0), np.zeros(8))) == {"half_width": None, "patients": 8}
    assert conformal(PASI, table_of(PASI, np.arange(9.0), np.zeros(9)))["half_width"] == 8


def test_agreement_is_that_of_the_slow_loop():
    """Quadratic kappa from the table of counts, as Cohen's is defined; Lin's concordance from its moments; names are no order."""
    rng = np.random.default_rng(0)
    grade = Task("grade", "classes", ("0", "1", "2"))
    said, true = draw("classes", rng, 60)
    called = [max(range(3), key=lambda c: p[c]) for p in said]
    observed = sum((a - b) ** 2 for a, b in zip(called, true)) / 60
    expected = sum((a - b) ** 2 for a in called for b in true) / 3600
    kappa = details(grade, table_of(grade, said, true))["kappa"]
    assert kappa["value"] == pytest.approx(1 - observed / expected) and kappa["low"] < kappa["value"] < kappa["high"]
    assert "kappa" not in details(GRADE, table_of(GRADE, said, true))
    a, b = rng.normal(3, 2, 60), rng.normal(2, 1, 60)
    covariance = sum((x - a.mean()) * (y - b.mean()) for x, y in zip(a, b)) / 60
    expected = 2 * covariance / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert details(PASI, table_of(PASI, a, b))["ccc"]["value"] == pytest.approx(expected)
    assert details(PASI, table_of(PASI, [1.0, 1.0], [1.0, 1.0]))["ccc"]["reason"] == "all predictions and all targets are equal"


def test_operating_point_is_counted():
    """The four counts give sensitivity and specificity; intervals hold them."""
    rng = np.random.default_rng(0)
    said, true = rng.random((80, 2)), rng.integers(2, size=(80, 2)).astype(float)
    true[:5, 0] = NAN
    found = details(FINDINGS, table_of(FINDINGS, said, true), {"edema": 0.4, "mass": None})["operating_point"]
    point, known = found["edema"], ~np.isnan(true[:, 0])
    tp, fp, tn, fn = (point[f"{a}_{b}s"] for a, b in (("true", "positive"), ("false", "positive"), ("true", "negative"), ("false", "negative")))
    called, answer = said[known, 0] >= 0.4, true[known, 0] == 1
    assert (tp, fp, tn, fn) == ((called & answer).sum(), (called & ~answer).sum(), (~called & ~answer).sum(), (~called & answer).sum())
    assert point["sensitivity"]["value"] == pytest.approx(tp / (tp + fn)) and point["specificity"]["value"] == pytest.approx(tn / (tn + fp))
    assert all(point[name]["low"] < point[name]["value"] < point[name]["high"] for name in ("sensitivity", "specificity"))
    assert [point[name]["value"] for name in ("ppv", "npv", "f1")] == pytest.approx([tp / (tp + fp), tn / (tn + fn), 2 * tp / (2 * tp + fp + fn)])
    assert found["mass"] == {"threshold": None, "reason": "not both classes in the validation split"}
    sure = operating_point(np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([1, 1, 1, 0, 0.0]), np.array(["a", "b", "c", "d", "e"]), 0.5)
    assert sure["sensitivity"]["low"] ** 3 == pytest.approx(0.025) and sure["sensitivity"]["high"] == 1      # three of three could be luck
    sure = operating_point(np.array([0.9, 0.1]), np.array([0, 1.0]), np.array(["a", "b"]), 0.5)["sensitivity"]
    assert sure["value"] == 0 and (1 - sure["high"]) == pytest.approx(0.025) and sure["low"] == 0
    at = operating_point(np.array([0.5, 0.5, 0.4]), np.array([1, 0, 0.0]), np.array(["a", "b", "c"]), 0.5)    # at the threshold is called
    assert (at["true_positives"], at["false_positives"], at["true_negatives"], at["false_negatives"]) == (1, 1, 1, 0)
    none = operating_point(said[:3, 0], np.zeros(3), np.array(["a", "b", "c"]), 0.4)
    assert none["sensitivity"]["reason"] == "no positive" and none["specificity"]["value"] is not None


def test_a_label_that_nobody_knows_in_validation_has_no_operating_point_and_no_false_reason():
    """Not one class only: none at all."""
    validation = table_of(FINDINGS, np.full((8, 2), 0.5), np.transpose([np.arange(8) % 2, np.full(8, NAN)]))
    test = table_of(FINDINGS, np.full((8, 2), 0.5), np.ones((8, 2)))
    points = details(FINDINGS, test, choose_thresholds(FINDINGS, validation))["operating_point"]
    assert points["edema"]["threshold"] == 0.5
    assert points["mass"] == {"threshold": None, "reason": "not both classes in the validation split"}
    choice = Task("y", "classes", ("no", "yes"))
    assert choose_thresholds(choice, table_of(choice, np.full((8, 2), 0.5), np.full(8, NAN))) == {}


def test_every_label_has_a_threshold():
    """However many labels there are; of classes only the second of two."""
    prediction, answer = np.full((8, 3), 0.5), np.arange(8.0) % 2
    three = Task("findings", "labels", ("a", "b", "c"))
    assert list(choose_thresholds(three, table_of(three, prediction, np.stack([answer] * 3, 1)))) == ["a", "b", "c"]
    assert choose_thresholds(GRADE, table_of(GRADE, prediction, answer)) == {}
    two = Task("y", "classes", ("no", "yes"))
    assert list(choose_thresholds(two, table_of(two, prediction[:, :2], answer))) == ["yes"]
