"""eval.py: metrics against loops, intervals that cover what they should, one prediction a patient, and what a run leaves behind."""
import csv
import json
import math
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
import train
from compare import compare
from crossvit import CrossViT, CrossViTConfig
from data import Samples, make_loader
from eval import answers, constant_prediction, evaluate, match, predict, print_table, saved_thresholds, subgroup, write_predictions
from lt_vit import LTViT, LTViTConfig
from metrics import METRICS, bootstrap_weights, details, main_metric, measure, operating_point, score, youden
from multivit import MultiViT, MultiViTConfig
from tables import Cohort, Task
from vit import ViT, ViTConfig

NAN = float("nan")
PASI = Task("pasi", "regression", center=10.0, scale=5.0)
GRADE = Task("grade", "classes", ("mild", "medium", "severe"))
FINDINGS = Task("findings", "labels", ("edema", "mass"))
CPU = torch.device("cpu")


def table_of(task, prediction, target, patients=None):
    """What predict returns, for one task."""
    patients = [f"p{i}" for i in range(len(target))] if patients is None else patients
    return {"patient": np.array(patients), "images": [[i] for i in range(len(target))],
            "prediction": {task.name: np.asarray(prediction, float)}, "target": {task.name: np.asarray(target, float)}}


# -----------------------------------------------------------------------------
# metrics, each against loops that share nothing with it


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
}


def draw(kind, rng, n):
    """Predictions with many ties, and targets."""
    if kind == "classes":
        return rng.dirichlet((1, 1, 1), n).round(1) + [0, 1e-4, 2e-4], rng.integers(3, size=n).astype(float)
    prediction = rng.integers(6, size=n) / 4
    if kind == "survival":
        return prediction, np.stack([rng.integers(1, 8, n), rng.integers(0, 2, n)], 1).astype(float)
    return prediction, rng.integers(2, size=n).astype(float) if kind == "labels" else prediction + rng.integers(-2, 3, size=n) / 2


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
    assert point["sensitivity"]["value"] == pytest.approx(sk.recall_score(answer, prediction[:, 1] >= 0.3), rel=1e-9)
    assert point["specificity"]["value"] == pytest.approx(sk.recall_score(1 - answer, prediction[:, 1] < 0.3), rel=1e-9)


@pytest.mark.parametrize("value", (0.0, 0.1, 3.3, 1e7))
def test_r2_without_variance_is_undefined_also_when_the_mean_is_rounded(value):
    """Equal targets have no variance, whatever rounding says; a variance that is small beside the mean counts."""
    weights = np.random.default_rng(0).integers(1, 9, (50, 77)).astype(float)
    assert np.isnan(METRICS["regression"]["r2"](np.arange(77.0), np.full(77, value), weights)).all()
    target = np.float32(value or 1) * (1 + np.arange(77) * np.finfo(np.float32).eps)
    assert np.allclose(METRICS["regression"]["r2"](target, target, weights), 1)


@pytest.mark.parametrize("task, prediction, target, reasons", (
    (PASI, [1.0, 2.0], [3.0, 3.0], {"mae": None, "r2": "all targets are equal", "spearman": "all predictions or all targets are equal"}),
    (PASI, [2.0, 2.0], [1.0, 3.0], {"r2": None, "spearman": "all predictions or all targets are equal"}),
    (PASI, [2.0], [1.0], {"mae": None, "r2": "all targets are equal", "spearman": "all predictions or all targets are equal"}),
    (PASI, [1.0, 2.0], [NAN, NAN], {"mae": "no unit with a known target", "r2": "no unit with a known target"}),
    (PASI, [], [], {"mae": "no unit with a known target"}),
    (GRADE, [[0.2, 0.3, 0.5]] * 2, [1, 1], {"auroc": "one class only", "accuracy": None, "balanced_accuracy": None}),
    (FINDINGS, [[0.2, 0.3]] * 2, [[0, 0], [0, NAN]], {"auroc": "one class only, for every label", "auprc": "no positive, for every label"}),
    (FINDINGS, [[0.2, 0.3]] * 2, [[1, 1], [1, 1]], {"auroc": "one class only, for every label", "auprc": None}),
    (FINDINGS, np.zeros((0, 2)), np.zeros((0, 2)), {"auroc": "no unit with a known target, for every label"}),
))
@pytest.mark.filterwarnings("error")
def test_what_is_undefined_is_null_with_a_reason(task, prediction, target, reasons):
    """One class, no unit, no variance: None and why, no warning, no crash, and valid JSON."""
    result = score(task, table_of(task, prediction, target))
    for name, reason in reasons.items():
        assert result[name].get("reason") == reason and (result[name]["value"] is None) == bool(reason)
        assert not reason or result[name]["low"] is result[name]["high"] is None
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("task", (PASI, GRADE, FINDINGS), ids=lambda task: task.kind)
def test_units_without_a_target_count_for_nothing(task):
    """Estimates and intervals are those of the table without them."""
    rng = np.random.default_rng(0)
    said, true = (rng.random((60, 2)), rng.integers(2, size=(60, 2)).astype(float)) if task is FINDINGS else draw(task.kind, rng, 60)
    true[::3] = NAN
    patients = np.array([f"p{i // 2}" for i in range(60)])
    keep = np.flatnonzero(np.arange(60) % 3)
    assert score(task, table_of(task, said, true, patients)) == score(task, table_of(task, said[keep], true[keep], patients[keep]))


@pytest.mark.parametrize("value", (NAN, float("inf")))
def test_a_prediction_that_is_no_number_is_never_scored(value):
    """Wherever the table comes from: the message names task and patient. Where the target is unknown it does not matter."""
    with pytest.raises(ValueError, match="pasi of patient p1: the prediction is"):
        score(PASI, table_of(PASI, [1.0, value], [1.0, 2.0]))
    assert score(PASI, table_of(PASI, [1.0, value], [1.0, NAN]))["mae"]["value"] == 0


# -----------------------------------------------------------------------------
# what the probabilities are worth


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
    assert details(PASI, table_of(PASI, [1], [1])) == {}


def test_youden_is_the_best_of_every_threshold():
    """Tried one by one, with ties: the largest J, and of equals the lowest threshold; with one class there is none."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 30, 30, 30):
        said, true = rng.integers(6, size=n) / 4, (np.arange(n) % (2 if n < 4 else 5) == 1).astype(float)     # few positives
        J = {t: np.mean(said[true == 1] >= t) + np.mean(said[true == 0] < t) - 1 for t in sorted(set(said))}
        best = max(round(j, 12) for j in J.values())
        assert youden(said, true) == next(t for t in J if round(J[t], 12) == best)
    assert youden(np.array([0.1, 0.2]), np.ones(2)) is None and youden(np.zeros(0), np.zeros(0)) is None


def test_operating_point_is_chosen_on_val_and_counted_on_test(tmp_path):
    """The four counts give sensitivity and specificity; the threshold does not move with the test targets; intervals hold it."""
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
    assert found["mass"] == {"threshold": None, "reason": "one class only in the validation split"}
    sure = operating_point(np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([1, 1, 1, 0, 0.0]), np.array(["a", "b", "c", "d", "e"]), 0.5)
    assert sure["sensitivity"]["low"] ** 3 == pytest.approx(0.025) and sure["sensitivity"]["high"] == 1      # three of three could be luck
    sure = operating_point(np.array([0.9, 0.1]), np.array([0, 1.0]), np.array(["a", "b"]), 0.5)["sensitivity"]
    assert sure["value"] == 0 and (1 - sure["high"]) == pytest.approx(0.025) and sure["low"] == 0
    at = operating_point(np.array([0.5, 0.5, 0.4]), np.array([1, 0, 0.0]), np.array(["a", "b", "c"]), 0.5)    # at the threshold is called
    assert (at["true_positives"], at["false_positives"], at["true_negatives"], at["false_negatives"]) == (1, 1, 1, 0)
    none = operating_point(said[:3, 0], np.zeros(3), np.array(["a", "b", "c"]), 0.4)
    assert none["sensitivity"]["reason"] == "no positive" and none["specificity"]["value"] is not None
    cohort, indices = photographs(tmp_path)
    torch.manual_seed(0)
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort.targets["findings"][:, 1] = cohort.targets["findings"][:, 0]
    indices = {"train": indices["train"], "val": indices["train"], "test": indices["test"]}
    first = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), figures=0)["findings"]["operating_point"]
    held = predict(model, TASKS, make_loader(Samples(cohort, indices["val"], (16, 16)), 4)[0], CPU)
    assert first["edema"]["threshold"] == youden(held["prediction"]["findings"][:, 0], held["target"]["findings"][:, 0])
    cohort.targets["findings"][indices["test"]] = 1 - cohort.targets["findings"][indices["test"]]
    second = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), figures=0)["findings"]["operating_point"]
    assert second["edema"]["threshold"] == first["edema"]["threshold"] and second["edema"]["true_positives"] == first["edema"]["false_positives"]
    assert "operating_point" not in evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), "val", figures=0)["findings"]


def test_another_table_is_judged_at_the_thresholds_of_the_run(tmp_path):
    """It has no validation split: the thresholds are read from the run's metrics.json, and there are none where it has none."""
    cohort, indices = photographs(tmp_path)
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    evaluate(model, TASKS, cohort, {**indices, "val": indices["train"]}, str(tmp_path), options_of(model), figures=0)
    saved = saved_thresholds(str(tmp_path))
    assert saved["findings"]["edema"] > 0 and saved["findings"]["mass"] is None and saved["pasi"] == saved["grade"] == {}
    os.makedirs(tmp_path / "other")
    there = {"train": [], "test": indices["test"]}
    again = evaluate(model, TASKS, cohort, there, str(tmp_path / "other"), options_of(model), figures=0, thresholds=saved)
    assert again["findings"]["operating_point"]["edema"]["threshold"] == saved["findings"]["edema"]
    assert "reason" in again["findings"]["operating_point"]["mass"] and saved_thresholds(str(tmp_path / "none")) == {}


# -----------------------------------------------------------------------------
# intervals


def test_patients_are_drawn_not_images():
    """A row draws as many patients as there are, and all images of a patient carry the same weight; the seed is fixed."""
    patients = np.random.default_rng(0).permutation(np.repeat([f"p{i}" for i in range(9)], range(1, 10)))
    weights = bootstrap_weights(patients, 200)
    first = [list(patients).index(name) for name in sorted(set(patients))]
    assert weights.shape == (200, 45) and (weights[:, first].sum(1) == 9).all()
    for name in set(patients):
        assert (weights[:, patients == name] == weights[:, patients == name][:, :1]).all()
    assert np.array_equal(weights, bootstrap_weights(patients, 200)) and not np.array_equal(weights, bootstrap_weights(patients, 200, seed=1))
    assert abs(bootstrap_weights(patients, 5000)[:, first].var() - 8 / 9) < 0.03                     # of a count, 1 - 1 / n
    assert bootstrap_weights(["a", "a"], 50).shape == (0, 2) and bootstrap_weights([], 50).shape == (0, 0)


def test_images_of_one_patient_widen_the_interval():
    """The same 40 patients photographed once or five times over: the interval does not pretend to know more."""
    rng = np.random.default_rng(0)
    said, true = rng.normal(size=40), rng.normal(size=40)
    patients = [f"p{i}" for i in range(40)]
    once = score(PASI, table_of(PASI, said, true, patients))["mae"]
    often = score(PASI, table_of(PASI, np.repeat(said, 5), np.repeat(true, 5), np.repeat(patients, 5)))["mae"]
    assert often == pytest.approx(once)


def test_the_interval_holds_the_estimate_and_is_the_same_again():
    """In ordinary data low < value < high for every metric; a second call gives the same numbers."""
    rng = np.random.default_rng(0)
    tables = (table_of(PASI, *draw("regression", rng, 60)), table_of(GRADE, *draw("classes", rng, 60)),
              table_of(FINDINGS, rng.random((60, 2)), rng.integers(2, size=(60, 2))))
    for task, table in zip((PASI, GRADE, FINDINGS), tables):
        result = score(task, table)
        assert result == score(task, table) and result["units"] == result["patients"] == 60
        for name in METRICS[task.kind]:
            assert result[name]["low"] < result[name]["value"] < result[name]["high"] and "skipped" not in result[name], name


def test_blocks_of_resamples_change_nothing(monkeypatch):
    """A metric over many resamples is computed in blocks; one block gives the same."""
    rng = np.random.default_rng(0)
    weights = rng.integers(3, size=(1001, 1500))
    said, true = draw("labels", rng, 1500)
    whole = METRICS["labels"]["auroc"](said, true, weights.astype(float))
    assert np.array_equal(measure(METRICS["labels"]["auroc"], said, true, weights), whole)


def test_resamples_of_one_class_are_left_out_and_counted():
    """With one positive among ten, about (9 / 10)^10 of the resamples have none; one patient alone has no interval."""
    result = score(FINDINGS, table_of(FINDINGS, np.tile(np.arange(10.0)[:, None] / 10, 2), [[i == 5, i == 5] for i in range(10)]))
    assert 300 < result["per_label"]["edema"]["auroc"]["skipped"] < 400 and result["auroc"]["low"] is not None
    alone = score(PASI, table_of(PASI, [1, 2], [3, 4], ["a", "a"]))["mae"]
    assert alone == {"value": 2.0, "low": None, "high": None}


def covered(studies, patients=60):
    """Share of simulated studies, 1 to 4 images a patient with something in common, whose interval for AUROC holds the truth."""
    rng = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(1.2 / math.sqrt(2 * 1.5) / math.sqrt(2)))    # P(N(1.2, 2 (1 + 0.5)) > 0)
    task, inside = Task("x", "labels", ("x",)), 0
    for _ in range(studies):
        who = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        target = (rng.random(patients) < 0.4)[who]
        said = 1.2 * target + rng.normal(0, 1, patients)[who] + rng.normal(0, math.sqrt(0.5), len(who))
        entry = score(task, table_of(task, said[:, None], target[:, None], [f"{i}" for i in who]))["auroc"]
        inside += entry["low"] <= truth <= entry["high"]
    return inside / studies


def test_the_interval_covers_the_truth():
    """95 % intervals of 50 small studies hold the true AUROC in 44 to all of them."""
    assert 0.88 <= covered(50)


@pytest.mark.slow
def test_the_interval_covers_the_truth_more_exactly():
    """Of 500 studies of 200 patients it is 93 to 97 %. (With 40 patients it is 92 %: a percentile bootstrap is short with few.)"""
    assert 0.93 <= covered(500, 200) <= 0.97


def test_macro_is_over_the_labels_that_are_defined():
    """Mean of the defined labels, with their count; unknown targets are left out label by label."""
    task = Task("f", "labels", ("a", "b", "never", "unknown"))
    rng = np.random.default_rng(0)
    said, true = rng.random((30, 4)), rng.integers(2, size=(30, 4)).astype(float)
    true[:, 2], true[:, 3], true[:10, 1] = 0, NAN, NAN
    result = score(task, table_of(task, said, true))
    each = [loop_auroc(said[:, 0], true[:, 0]), loop_auroc(said[10:, 1], true[10:, 1])]
    assert result["auroc"]["value"] == pytest.approx(sum(each) / 2) and result["auroc"]["labels"] == 2
    assert [result["per_label"][name]["auroc"]["value"] for name in "ab"] == pytest.approx(each)
    assert result["per_label"]["never"]["auroc"]["reason"] == "one class only" and result["per_label"]["never"]["auprc"]["reason"] == "no positive"
    assert result["per_label"]["unknown"]["auroc"]["reason"] == "no unit with a known target"
    assert [result["per_label"][name]["positives"] for name in task.classes] == [true[:, 0].sum(), true[10:, 1].sum(), 0, 0]
    result = score(GRADE, table_of(GRADE, *(x[:20] for x in ([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]] * 10, [0, 2] * 10))))
    assert result["auroc"]["value"] == 0 and result["auroc"]["classes"] == 2


def test_main_metric_chooses_the_epoch():
    """The first task's first metric, and its direction; NaN, never a crash, where it is undefined."""
    assert main_metric([PASI, GRADE], table_of(PASI, [1, 2], [2, 4])) == ("pasi_mae", 1.5, True)
    assert main_metric([FINDINGS], table_of(FINDINGS, [[0.1, 0.1], [0.9, 0.2]], [[0, 0], [1, 1]])) == ("findings_auroc", 1.0, False)
    name, value, lower = main_metric([GRADE], table_of(GRADE, [[1, 0, 0]], [0]))
    assert name == "grade_auroc" and math.isnan(value) and not lower


# -----------------------------------------------------------------------------
# predictions


def test_answers_are_in_the_units_of_the_targets():
    """Center and scale undone, softmax over classes, sigmoid of labels; float64, whatever the model computes in."""
    logits = {"pasi": torch.tensor([[2.0], [-1.0]], dtype=torch.bfloat16), "grade": torch.log(torch.tensor([[1.0, 2.0, 1.0]] * 2)),
              "findings": torch.log(torch.tensor([[1.0, 3.0]] * 2))}
    said = answers([PASI, GRADE, FINDINGS], logits)
    assert said["pasi"].tolist() == [20, 5] and all(x.dtype == np.float64 for x in said.values())
    assert np.allclose(said["grade"], [[0.25, 0.5, 0.25]] * 2) and np.allclose(said["findings"], [[0.5, 0.75]] * 2)


def cohort_of(counts, tasks, targets, columns=None, side=8):
    """counts: images of each patient, who are mixed up in the table; image i is of the one color 10 i."""
    patients = [f"p{k}" for j in range(max(counts)) for k, count in enumerate(counts) if j < count]
    pixels = np.array([np.full((side, side, 3), 10 * i, np.uint8) for i in range(len(patients))])
    targets = {task.name: np.array([targets[task.name][int(p[1:])] for p in patients], np.float32) for task in tasks}
    columns = {name: [values[int(p[1:])] for p in patients] for name, values in (columns or {}).items()}
    return Cohort("toy", tasks, patients, [f"toy:{i}" for i in range(len(patients))], targets, columns, pixels=pixels)


class Brightness(torch.nn.Module):
    """Says as pasi the mean color of what it sees, in units of center and scale."""

    def __init__(self, n=None):
        super().__init__()
        self.inputs, self.config = (("images", "present") if n else ("image",)), SimpleNamespace()

    def forward(self, images, present=None):
        color = images.float().flatten(1).mean(1) if present is None else (images[:, :, 0, 0, 0] * present).sum(1) / present.sum(1)
        return {"logits": {"pasi": (color[:, None] - PASI.center) / PASI.scale}}


def predicted(cohort, n=None, batch_size=4, by_image=False, model=None):
    loader, _ = make_loader(Samples(cohort, range(len(cohort.paths)), (8, 8), n), batch_size)
    return predict(model or Brightness(n), cohort.tasks, loader, CPU, by_image)


@pytest.mark.parametrize("n", (None, 1, 2, 3))
@pytest.mark.parametrize("batch_size", (1, 3, 50))
def test_a_patients_prediction_is_the_mean_over_his_groups(n, batch_size):
    """Images alone, or ceil(images / N) groups of N: every image is used once, whatever the batches are."""
    counts, true = (5, 1, 2, 4), [3.0, 7.0, NAN, 9.0]
    cohort = cohort_of(counts, [PASI], {"pasi": true})
    table = predicted(cohort, n, batch_size)
    for patient, images, said, target in zip(table["patient"], table["images"], table["prediction"]["pasi"], table["target"]["pasi"]):
        mine = cohort.groups()[patient]
        groups = [mine[i:i + (n or 1)] for i in range(0, len(mine), n or 1)]
        assert images == mine and said == pytest.approx(np.mean([np.mean([10 * i for i in group]) for group in groups]), rel=1e-5)
        assert target == true[int(patient[1:])] or math.isnan(target)
    assert sorted(table["patient"]) == ["p0", "p1", "p2", "p3"]


def test_by_image_every_image_is_a_unit():
    """Images of a patient stay apart, each with its own target; patients still are what is resampled."""
    cohort = cohort_of((2, 3), [PASI], {"pasi": [0.0, 0.0]})
    cohort.targets["pasi"] = np.arange(5, dtype=np.float32)
    table = predicted(cohort, by_image=True)
    assert table["patient"].tolist() == cohort.patients and table["images"] == [[i] for i in range(5)]
    assert table["target"]["pasi"].tolist() == [0, 1, 2, 3, 4] and np.allclose(table["prediction"]["pasi"], 10 * np.arange(5))
    assert score(PASI, table)["units"] == 5 and score(PASI, table)["patients"] == 2


def test_a_target_that_only_a_later_image_has_counts():
    """Where a patient's first image has no target, the first that is known is his, also in the constant predictor."""
    cohort = cohort_of((3, 2), [PASI], {"pasi": [0.0, 5.0]})
    cohort.targets["pasi"][cohort.groups()["p0"]] = [NAN, 4.0, 4.0]
    table = predicted(cohort)
    assert dict(zip(table["patient"], table["target"]["pasi"])) == {"p0": 4, "p1": 5}


def test_a_prediction_that_is_no_number_stops_with_the_patient():
    """NaN is never sorted into a metric: the message says task, patient and image."""
    class Broken(Brightness):
        def forward(self, image):
            out = super().forward(image)
            out["logits"]["pasi"][image[:, 0, 0, 0] == 20] = NAN
            return out
    with pytest.raises(ValueError, match=r"predicts nan as pasi of patient p2 \(toy:2\)"):
        predicted(cohort_of((1, 1, 1), [PASI], {"pasi": [1, 2, 3]}), model=Broken())


@pytest.mark.parametrize("column, value, group", (
    *(("fst", str(i), "I-IV" if i < 5 else "V-VI") for i in range(1, 7)), ("Fitzpatrick", "5.0", "V-VI"), ("fst", "", "(blank)"),
    ("fst", "-1", "-1"), ("fst", "IV", "IV"), ("age", "39.5", "0-39"), ("Age", "40", "40-59"), ("age", "60", "60+"), ("age", "", "(blank)"),
    ("Patient Age", "058Y", "40-59"), ("age_approx", "85.0", "60+"), ("image", "1", "1"), ("dosage", "7", "7"), ("sex", "F", "F")))
def test_subgroups(column, value, group):
    """Fitzpatrick types I-IV and V-VI as in the paper's Table 2, three ages, blanks, otherwise the cell itself."""
    assert subgroup(column, value) == group


def test_constant_predictor():
    """The median, the shares of the classes, the shares of the labels: over what is known."""
    assert constant_prediction(PASI, np.array([1, 2, NAN, 9.0])) == 2
    assert constant_prediction(GRADE, np.array([0, 0, 2, NAN])).tolist() == [2 / 3, 0, 1 / 3]
    assert constant_prediction(FINDINGS, np.array([[1, NAN], [0, NAN], [NAN, NAN]])).tolist() == [0.5, 0]


# -----------------------------------------------------------------------------
# a whole evaluation

TASKS = [Task("pasi", "regression", center=100.0, scale=50.0), GRADE, FINDINGS]
VIT = ViTConfig(image=(16, 16), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32)
MODELS = {
    "vit": lambda out: ViT(VIT, out),
    "sima": lambda out: ViT(ViTConfig(image=(16, 24), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32, attention="sima"), out),
    "lt_vit": lambda out: LTViT(LTViTConfig(VIT, label_layers=1), out),
    "crossvit": lambda out: CrossViT(CrossViTConfig(((4, 4), (2, 2)), (4, 8), dims=(8, 16), depths=(1, 1), encoders=1, heads=2, mlp=2), out),
    "baseline": lambda out: MultiViT(MultiViTConfig(VIT, "baseline", 1), out),
    "joint": lambda out: MultiViT(MultiViTConfig(VIT, "joint", 2), out),
    "partial": lambda out: MultiViT(MultiViTConfig(VIT, "partial", 2, 2), out),
    "multi": lambda out: MultiViT(MultiViTConfig(VIT, "multi", 2, 1), out),
    "multi-grey": lambda out: MultiViT(MultiViTConfig(ViTConfig(image=(16, 16), patch=(4, 4), channels=1, dim=16, depth=2, heads=2, mlp=32,
                                                               mean=(0.5,), std=(0.5,)), "multi", 3, 2), out),
}


def photographs(folder):
    """A cohort of 12 patients as files, 1 to 3 each, some targets unknown; train is the first half."""
    rng = np.random.default_rng(0)
    cohort = cohort_of([1 + k % 3 for k in range(12)], TASKS, {
        "pasi": rng.random(12) * 200, "grade": [NAN, *(k % 3 for k in range(11))], "findings": [[k % 2, NAN if k < 9 else 0] for k in range(12)]},
        {"fst": [str(1 + k % 6) for k in range(12)], "sex": ["F", "M"] * 6})
    for i in range(len(cohort.paths)):
        cohort.paths[i] = str(folder / "in" / cohort.patients[i] / f"{i}.png")                        # a folder a patient
        os.makedirs(os.path.dirname(cohort.paths[i]), exist_ok=True)
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(cohort.paths[i])
    cohort.pixels = None
    half = {f"p{k}" for k in range(6)}
    return cohort, {split: [i for i, p in enumerate(cohort.patients) if (p in half) == (split == "train")] for split in ("train", "test")}


def options_of(model, by_image=False):
    vit, n = getattr(model.config, "vit", model.config), getattr(model.config, "n", None)
    return dict(size=vit.image, n=n if "images" in model.inputs else None, r=getattr(model.config, "r", 1), channels=vit.channels, batch_size=3,
                workers=0, device=CPU, autocast=None, by_image=by_image)


@pytest.mark.parametrize("first", ("regression", "labels"))
def test_a_label_is_drawn_with_its_probability_wherever_its_task_stands(first, tmp_path, monkeypatch):
    """The labels' task may come before others: captions are of the labels, 0 to 1, as in predictions.csv."""
    torch.manual_seed(0)
    tasks = TASKS if first == "regression" else TASKS[::-1]
    model = MODELS["lt_vit"]({task.name: task.outputs for task in tasks})
    cohort, indices = photographs(tmp_path)
    said, row = [], evaluation.plots.row
    monkeypatch.setattr(evaluation.plots, "row", lambda pictures, captions=None, **rest: said.extend(captions[:1]) or row(pictures, captions, **rest))
    evaluate(model, tasks, cohort, indices, str(tmp_path), options_of(model), figures=6)
    expected = [f"{name}, predicted {float(line[f'findings[{name}] predicted']):.2f}" for line in csv.DictReader(open(tmp_path / "predictions.csv"))
                for name in FINDINGS.classes if line[f"findings[{name}] target"] == "1"]
    assert [caption for caption in said if caption] == expected and len(expected) > 2


@pytest.mark.parametrize("name", MODELS)
def test_evaluate_leaves_metrics_predictions_and_pictures(name, tmp_path, capsys):
    """Every model on a tiny cohort: valid metrics.json, a row a patient, charts, and a picture of what it looked at."""
    torch.manual_seed(0)
    model = MODELS[name]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    result = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), by="fst", figures=2)
    def refuse(text):
        raise AssertionError(f"metrics.json holds {text}")
    assert json.load(open(tmp_path / "metrics.json"), parse_constant=refuse) == result
    assert (result["split"], result["patients"], result["images"], result["unit"]) == ("test", 6, 12, "patient")
    assert set(result["pasi"]["subgroups"]) == {"fst I-IV", "fst V-VI"} and result["pasi"]["subgroups"]["fst V-VI"]["small"]
    assert result["pasi"]["constant"]["mae"]["value"] > 0 and result["findings"]["per_label"]["edema"]["positives"] == 3
    rows = list(csv.DictReader(open(tmp_path / "predictions.csv")))
    assert sorted(row["patient"] for row in rows) == ["p10", "p11", "p6", "p7", "p8", "p9"]
    assert rows[0]["images"].split("|")[0].startswith(rows[0]["patient"])
    assert not [file for file in os.listdir(tmp_path) if file.endswith(".part")]
    pictures = sorted(os.listdir(tmp_path / "figures"))
    assert pictures == ["pasi_errors.png", "pasi_scatter.png", "patient_p6.png", "patient_p7.png"]
    sizes = {file: Image.open(tmp_path / "figures" / file).size for file in pictures}
    assert all(min(size) > 200 for size in sizes.values())
    if name in ("vit", "crossvit"):                                # one heat map a branch, beside the photograph
        assert sizes["patient_p6.png"][0] == 20 + 260 * (2 + (name == "crossvit"))
    print_table(TASKS, result)
    out = capsys.readouterr().out
    assert "constant" in out and "fst V-VI" in out and max(map(len, out.splitlines())) <= 125


def test_predictions_read_back_to_the_same_metrics(tmp_path):
    """predictions.csv alone gives the numbers of metrics.json, to eight digits; ties are still ties."""
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    for by_image in (False, True):
        result = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model, by_image), figures=0)
        rows = list(csv.DictReader(open(tmp_path / "predictions.csv")))
        assert len(rows) == (12 if by_image else 6) and result["unit"] == ("image" if by_image else "patient")
        known = lambda text: float(text) if text else NAN
        read = {"pasi": ([float(row["pasi predicted"]) for row in rows], [known(row["pasi target"]) for row in rows]),
                "grade": ([[float(row[f"grade[{c}] predicted"]) for c in GRADE.classes] for row in rows],
                          [GRADE.classes.index(row["grade target"]) if row["grade target"] else NAN for row in rows]),
                "findings": ([[float(row[f"findings[{c}] predicted"]) for c in FINDINGS.classes] for row in rows],
                             [[known(row[f"findings[{c}] target"]) for c in FINDINGS.classes] for row in rows])}
        for task in TASKS:
            again = score(task, table_of(task, *read[task.name], [row["patient"] for row in rows]))
            for name in METRICS[task.kind]:
                for key in ("value", "low", "high"):
                    assert again[name][key] == pytest.approx(result[task.name][name][key], rel=1e-6, abs=1e-7), (task.name, name)
        truth = [cohort.targets["pasi"][i] for i in indices["test"]]
        assert all(np.float32(row["pasi target"]) in truth for row in rows)


def test_constant_predictor_knows_patients_whose_first_image_has_no_target(tmp_path):
    """One target a patient, the first that is known, so that each counts once."""
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    plain = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), figures=0)
    for images in cohort.groups().values():
        if len(images) > 1:
            for values in cohort.targets.values():
                values[images[0]] = NAN
    assert evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), figures=0) == plain


def test_every_photograph_gets_its_own_heat(monkeypatch):
    """Mean over heads of the size of the weights (softmax-free ones have a sign), image by image, or branch by branch."""
    drawn = []
    monkeypatch.setattr(evaluation.plots, "heat", lambda photo, weights: drawn.append((photo[0, 0, 0], weights.numpy())) or photo)
    photos = [np.full((48, 48, 3), shade, np.uint8) for shade in (10, 20)]
    image, joint, branches = torch.randn(2, 16), torch.randn(3, 2, 16), [torch.randn(2, 16), torch.randn(2, 4)]
    evaluation.map_figure(photos[:1], [image], VIT, "a plain ViT")
    evaluation.map_figure(photos, [joint], SimpleNamespace(vit=VIT), "two of three photographs")
    evaluation.map_figure(photos[:1], branches, SimpleNamespace(grids=((4, 4), (2, 2))), "CrossViT")
    expected = [(10, image), (10, joint[0]), (20, joint[1]), (10, branches[0]), (10, branches[1])]
    assert len(drawn) == len(expected)
    for (shade, weights), (photo, map) in zip(drawn, expected):
        side = int(map.shape[1] ** 0.5)
        assert shade == photo and np.allclose(weights, [[map[:, r * side + c].abs().mean() for c in range(side)] for r in range(side)])


@pytest.mark.parametrize("depth, patch", ((12, 4), (8, 4), (5, 1)))
def test_a_volume_is_drawn_by_its_middle_slice_under_the_heat_of_that_slab(monkeypatch, tmp_path, depth, patch):
    """The slab of patches drawn is the one that holds the slice drawn."""
    config = ViTConfig(image=(depth, 8, 8), patch=(patch, 4, 4), channels=1, dim=24, depth=1, heads=2, mlp=8, mean=(.5,), std=(.5,))
    volume = np.repeat(np.arange(depth, dtype=np.uint8) * 9, 64).reshape(1, depth, 8, 8)
    cohort = Cohort("v", [], ["p"], ["v:0"], {}, pixels=volume)
    drawn = []
    monkeypatch.setattr(evaluation.plots, "heat", lambda photo, weights: drawn.append((photo[0, 0, 0], weights.numpy())) or photo)
    slab = torch.arange(config.grid[0]).repeat_interleave(4).expand(2, -1).float()               # each weight is its slab's number
    table = {"images": [[0]], "prediction": {}, "target": {}}
    evaluation.draw_figures(str(tmp_path), [], table, cohort, {"p": ([0], {"map": [slab]})}, config, config.image)
    (shade, weights), = drawn
    assert weights.shape == (2, 2) and shade == 9 * (depth // 2) and (weights == depth // 2 // patch).all()
    assert os.listdir(tmp_path) == ["patient_p.png"]


def test_an_unknown_column_is_refused_before_anything_is_computed(tmp_path):
    """--by names the columns there are."""
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    with pytest.raises(ValueError, match="--by age: no such column, there are fst, sex"):
        evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), by="age")
    assert not os.path.exists(tmp_path / "metrics.json")


def test_the_table_is_aligned_and_says_what_is_undefined(capsys):
    """Interval, value of the constant without one, small groups marked, labels with positives, reasons instead of numbers."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.integers(2, size=50), np.zeros(50)])
    table = {"patient": np.arange(50).astype(str), "prediction": {"pasi": rng.random(50) * 9, "findings": rng.random((50, 2))},
             "target": {"pasi": rng.random(50) * 9, "findings": labels}}
    groups = {"fst I-IV": np.arange(45), "fst V-VI": np.arange(45, 50)}
    result = {"split": "test", "patients": 50, "images": 50, "unit": "patient", **{task.name: score(task, table) for task in (PASI, FINDINGS)}}
    result["pasi"]["constant"] = {name: {"value": 1234.5, "low": None, "high": None} for name in METRICS["regression"]}
    result["pasi"]["subgroups"] = {name: {**score(PASI, table, keep=keep), "small": len(keep) < 20} for name, keep in groups.items()}
    print_table([PASI, FINDINGS], result)
    lines = capsys.readouterr().out.splitlines()
    find = {line[2:32].strip(): line for line in lines[1:]}        # the first column
    mae, low, high = (result["pasi"]["mae"][key] for key in ("value", "low", "high"))
    assert find["mae"].split()[1:] == [f"{mae:.3f}", f"({low:.3f}", "to", f"{high:.3f})", "1.23e+03"]
    assert lines[0] == "test: 50 patients, 50 images; 95 % intervals, patients resampled"
    assert find["fst I-IV"].endswith("   45") and find["fst V-VI"].endswith("   5, small")
    assert find["auroc, 1 of 2 labels"] and "undefined: one class only" in find["mass"] and find["mass"].endswith(" 0")
    assert all(line[31] == " " != line[32] for name, line in find.items() if name in METRICS["regression"] or "fst" in name)
    assert len(lines) == 17


# -----------------------------------------------------------------------------
# another table than the run's


def test_classes_and_labels_are_found_by_name():
    """In another order, with a class or label missing, they get the run's numbers; a label the run has not learned is left out."""
    there = [Task("grade", "classes", ("medium", "mild")), Task("findings", "labels", ("mass", "fracture"))]
    cohort = Cohort("other", there, ["a", "b", "c"], ["x"] * 3, {"grade": np.array([0, 1, NAN], np.float32),
                                                                 "findings": np.array([[1, 0], [NAN, 1], [0, 0]], np.float32)})
    found = match(cohort, [PASI, GRADE, FINDINGS], "runs/a")
    assert found.tasks == [GRADE, FINDINGS]                        # the run's own, and pasi is not in this table
    assert np.array_equal(found.targets["grade"], [1, 0, NAN], equal_nan=True)
    assert np.array_equal(found.targets["findings"], [[NAN, 1], [NAN, NAN], [NAN, 0]], equal_nan=True)


@pytest.mark.parametrize("task, message", (
    (Task("grade", "classes", ("mild", "fatal")), "other: grade 'fatal' is unknown to runs/a, which knows mild, medium, severe"),
    (Task("grade", "regression"), "grade is a task of regression, in runs/a of classes"),
    (Task("findings", "labels", ("fracture",)), "none of the labels of runs/a, edema, mass"),
    (Task("age", "regression"), "targets of age, of which runs/a predicts none")))
def test_a_table_that_does_not_fit_the_run_is_refused(task, message):
    """What the run cannot know ends in one line."""
    values = np.zeros((1, len(task.classes)) if task.kind == "labels" else 1, np.float32)
    with pytest.raises(ValueError, match=message):
        match(Cohort("other", [task], ["a"], ["x"], {task.name: values}), [PASI, GRADE, FINDINGS], "runs/a")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """-> folder with photos.csv of 20 patients, and runs/a, trained on it for an epoch."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    lines = ["patient_id,image,redness,grade,sex"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        for photo in range(1 + patient % 2):
            pixels = np.uint8(rng.integers(0, 60, (16, 16, 3)) + [0.7 * red, 0, 0])
            Image.fromarray(pixels).save(folder / f"{patient}_{photo}.png")
            lines.append(f"p{patient},{patient}_{photo}.png,{red:.2f},{('low', 'middle', 'top')[int(red // 86)]},{'FM'[patient % 2]}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train.main(["--data", str(folder / "photos.csv"), "--target", "redness:regression,grade:classes", "--model", "vit", "--image", "16",
                "--epochs", "1", "--workers", "0", "--device", "cpu", "--runs", str(folder / "runs"), "--name", "a"])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return folder


def rows_of(path):
    return list(csv.DictReader(open(path)))


def test_another_table_is_evaluated_with_the_runs_own_scale_and_classes(run):
    """The test photographs as new patients with targets ten times as high and one class only: the predictions stay to the digit."""
    test = {row["patient"] for row in rows_of(run / "runs/a/split.csv") if row["split"] == "test"}
    rows = [row for row in rows_of(run / "photos.csv") if row["patient_id"] in test]
    with open(run / "other.csv", "w") as file:
        file.write("patient_id,image,redness,grade\n")
        file.writelines(f"new-{row['patient_id']},{row['image']},{10 * float(row['redness']):.1f},top\n" for row in rows)
    evaluation.main([str(run / "runs/a"), "--data", str(run / "other.csv"), "--device", "cpu"])
    before, after = ({row["patient"].removeprefix("new-"): row for row in rows_of(run / folder / "predictions.csv")}
                     for folder in ("runs/a", "runs/a/other-test"))
    assert set(before) == set(after) and len(before) == 4
    for patient, row in after.items():
        assert row["grade target"] == "top" and float(row["redness target"]) == pytest.approx(10 * float(before[patient]["redness target"]))
        assert {key: text for key, text in row.items() if "predicted" in key} == {key: before[patient][key] for key in row if "predicted" in key}
    metrics = json.load(open(run / "runs/a/other-test/metrics.json"))
    assert metrics["grade"]["auroc"]["reason"] == "one class only" and "constant" not in metrics["redness"]


def test_another_part_of_the_split_and_subgroups(run, capsys):
    """--split val goes to a folder of its own, and what the run wrote of its test split stays; --by sex makes two groups."""
    before = open(run / "runs/a/metrics.json").read()
    evaluation.main([str(run / "runs/a"), "--split", "val", "--by", "sex", "--figures", "0", "--device", "cpu"])
    metrics = json.load(open(run / "runs/a/photos-val/metrics.json"))
    assert metrics["split"] == "val" and open(run / "runs/a/metrics.json").read() == before and "sex" in capsys.readouterr().out
    assert set(metrics["redness"]["subgroups"]) <= {"sex F", "sex M"} and metrics["redness"]["constant"]["mae"]["value"] > 0


def test_a_patient_the_run_learned_from_is_refused(run, capsys, monkeypatch):
    """One such patient in another table is enough; so are a table that has changed and flags that do not go together: status 2."""
    split = {row["patient"]: row["split"] for row in rows_of(run / "runs/a/split.csv")}
    seen = next(patient for patient in split if split[patient] == "val")
    lines = (run / "photos.csv").read_text().splitlines()
    (run / "leak.csv").write_text("\n".join([lines[0], lines[1].replace("p0,", "new,", 1), *(x for x in lines if x.startswith(seen + ","))]))
    (run / "fatal.csv").write_text("\n".join([lines[0], "new,0_0.png,1.0,fatal,F"]))
    def fails(*argv):
        monkeypatch.setattr(sys, "argv", ["eval.py", str(run / "runs/a"), "--device", "cpu", *argv])
        with pytest.raises(SystemExit) as stop:
            train.run_main(evaluation.main)
        assert stop.value.code == 2
        return capsys.readouterr().err
    assert f"patient {seen} is in the val split of" in fails("--data", str(run / "leak.csv"))
    assert "grade 'fatal' is unknown to" in fails("--data", str(run / "fatal.csv"))
    assert "--split is of the run's own table" in fails("--data", str(run / "leak.csv"), "--split", "val")
    assert "--by size: no such column" in fails("--by", "size")
    args = json.load(open(run / "runs/a/args.json"))
    (run / "fewer.csv").write_text("\n".join([lines[0], *lines[2:]]))
    try:
        for file in ("leak.csv", "fewer.csv"):
            json.dump({**args, "data": str(run / file)}, open(run / "runs/a/args.json", "w"))
            assert "has changed: patient" in fails()
    finally:
        json.dump(args, open(run / "runs/a/args.json", "w"))


# -----------------------------------------------------------------------------
# times to an event


def test_survival_is_scored_with_intervals_beside_a_constant():
    """A thousand resamples of 200 patients; unknown targets are left out; no event: null with the reason."""
    rng, task = np.random.default_rng(0), Task("days", "survival", ("days", "died"))
    risk = rng.normal(size=200)
    time = rng.exponential(np.exp(-risk))
    target = np.stack([time, rng.random(200) < 0.7], 1).astype(float)
    target[:7] = NAN
    entry = score(task, table_of(task, risk, target))
    assert entry["units"] == 193 and 0.6 < entry["c_index"]["low"] < entry["c_index"]["value"] < entry["c_index"]["high"] < 0.9
    assert constant_prediction(task, target) == 0 and score(task, table_of(task, 0 * risk, target))["c_index"]["value"] == 0.5
    assert main_metric([task], table_of(task, risk, target)) == ("days_c_index", entry["c_index"]["value"], False)
    target[:, 1] = 0
    assert score(task, table_of(task, risk, target))["c_index"] == {"value": None, "low": None, "high": None, "reason": "no pair with a known order"}


def test_the_best_epochs_number_in_the_log_is_what_evaluation_finds(run):
    """--split val on the saved weights gives the log's lowest value, digit for digit."""
    evaluation.main([str(run / "runs/a"), "--split", "val", "--figures", "0", "--device", "cpu"])
    found = json.load(open(run / "runs/a/photos-val/metrics.json"))["redness"]["mae"]["value"]
    assert found == min(float(row["val_redness_mae"]) for row in rows_of(run / "runs/a/log.csv"))


def test_evaluating_a_run_again_writes_the_same_bytes(run):
    """What training wrote of its test split at its end, metrics and predictions, to the last digit."""
    before = {name: (run / "runs/a" / name).read_bytes() for name in ("metrics.json", "predictions.csv")}
    os.remove(run / "runs/a/metrics.json"), os.remove(run / "runs/a/predictions.csv")
    evaluation.main([str(run / "runs/a"), "--device", "cpu"])
    assert {name: (run / "runs/a" / name).read_bytes() for name in before} == before


# -----------------------------------------------------------------------------
# two runs


def made_run(folder, task, patients, prediction, target):
    """A run folder with what `compare` reads."""
    os.makedirs(folder / "best")
    json.dump({"tasks": [vars(task)]}, open(folder / "best/config.json", "w"))
    table = table_of(task, prediction, target, patients)
    write_predictions(str(folder / "predictions.csv"), [task], table, SimpleNamespace(paths=[f"/x/{p}.png" for p in patients]))
    return str(folder)


@pytest.mark.parametrize("task", (PASI, GRADE, FINDINGS, Task("days", "survival", ("days", "died"))), ids=lambda task: task.kind)
def test_a_difference_is_that_of_two_scores_over_the_same_resamples(task, tmp_path):
    """Values are those of `score` on the common patients, whatever the order; the interval is that of the paired loop."""
    rng = np.random.default_rng(0)
    n = 40
    names = np.array([f"p{i}" for i in range(n)])
    said, true = draw(task.kind, rng, n) if task is not FINDINGS else (rng.random((n, 2)), rng.integers(2, size=(n, 2)).astype(float))
    worse = np.clip(said + rng.normal(0, 0.3, said.shape), 0, 1) if task.kind in ("classes", "labels") else said + rng.normal(0, 2, n)
    true[3] = NAN
    order = rng.permutation(n)[:30]
    a = made_run(tmp_path / "a", task, names, said, true)
    b = made_run(tmp_path / "b", task, names[order], worse[order], true[order])
    result = compare(a, b, resamples=200)
    keep = np.array(sorted(order))
    tables = [table_of(task, x[keep], true[keep], names[keep]) for x in (said, worse)]
    assert result["patients"] == 30 and result[task.name]["units"] == 30 - (3 in keep)
    known = keep[keep != 3]
    weights = bootstrap_weights(names[known], 200)
    for name, function in METRICS[task.kind].items():
        entry = result[task.name][name]
        one, two = (score(task, table, 200)[name] for table in tables)
        for key in ("value", "low", "high"):
            assert entry["a"][key] == pytest.approx(one[key], rel=1e-6) and entry["b"][key] == pytest.approx(two[key], rel=1e-6)
        assert entry["difference"]["value"] == pytest.approx(one["value"] - two["value"], rel=1e-6, abs=1e-8)
        draws = []                                                 # resample by resample, each of the two by itself
        for w in weights.astype(float)[:, None]:
            pair = [np.mean([function(x[known, i], true[known, i], w)[0] for i in range(2)]) if task is FINDINGS else
                    function(x[known], true[known], w)[0] for x in (said, worse)]
            draws.append(pair[0] - pair[1])
        low, high = np.percentile(draws, [2.5, 97.5])
        assert [entry["difference"][key] for key in ("low", "high")] == pytest.approx([low, high], rel=1e-6, abs=1e-7), name
    if task is FINDINGS:
        assert set(result["findings"]["per_label"]) == {"edema", "mass"}


def test_a_run_does_not_differ_from_itself_and_pairing_narrows(run, tmp_path, capsys):
    """Against itself every difference is 0 to 0; of two models with the same hard patients it is narrower than either interval."""
    evaluation.main([str(run / "runs/a"), "--against", str(run / "runs/a")])
    result = json.load(open(run / "runs/a/against-a.json"))
    for task, kind in (("redness", "regression"), ("grade", "classes")):
        assert all(result[task][name]["difference"]["value"] in (0, None) for name in METRICS[kind])
    assert "against-a.json" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    true, hard = rng.normal(size=60), rng.normal(size=60)
    names = [f"p{i}" for i in range(60)]
    a, b = (made_run(tmp_path / name, PASI, names, true + share * hard, true) for name, share in (("a", 1), ("b", 0.9)))
    pair = compare(a, b)["pasi"]["mae"]
    assert pair["difference"]["low"] > 0 and pair["a"]["low"] < pair["b"]["high"]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    """No patient in common, other targets, other classes, no task in common, not a run: one line each."""
    a = made_run(tmp_path / "a", PASI, ["p1", "p2"], [1, 2], [1, 2])
    grade = Task("pasi", "classes", ("low", "high"))
    for name, task, patients, said, true, message in (
            ("b", PASI, ["q1"], [1], [1], "no test patient in common"), ("c", PASI, ["p1", "p2"], [1, 2], [1, 3], "pasi of patient p2 is not the same"),
            ("d", grade, ["p1"], [[0.5, 0.5]], [1], "pasi is regression"), ("e", Task("age", "regression"), ["p1"], [1], [1], "no task in common")):
        with pytest.raises(ValueError, match=message) as error:
            compare(a, made_run(tmp_path / name, task, patients, said, true))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no evaluated run"):
        compare(a, str(tmp_path))
