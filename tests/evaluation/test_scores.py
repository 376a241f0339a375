"""evaluation/scores.py: reasons for what is undefined, intervals that cover what they should, constants and subgroups."""
import json
import math

import numpy as np
import pytest
import torch

from evaluation.metrics import METRICS
from evaluation.predict import answers
from evaluation.scores import bootstrap_weights, constant_prediction, constant_predictions, main_metric, measure, measure_labels, \
    score, summary, validation_loss
from evaluation.subgroups import columns_of, score_subgroups, subgroup, subgroups
from plumbing.cells import by_number
from plumbing.cohort import Task
from tests.evaluation.test_metrics import loop_auroc
from tests.evaluation.toy import FINDINGS, GRADE, NAN, PASI, cohort_of, draw, table_of
from train import known_counts, task_loss


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


def test_patients_are_drawn_not_images():
    """A row draws as many patients as there are, and all images of a patient carry the same weight; the seed is fixed."""
    patients = np.random.default_rng(0).permutation(np.repeat([f"p{i}" for i in range(9)], range(1, 10)))
    weights = bootstrap_weights(patients, 200)
    first = [list(patients).index(name) for name in sorted(set(patients))]
    assert weights.shape == (201, 45) and (weights[:, first].sum(1) == 9).all() and (weights[0] == 1).all()
    for name in set(patients):
        assert (weights[:, patients == name] == weights[:, patients == name][:, :1]).all()
    assert np.array_equal(weights, bootstrap_weights(patients, 200))
    assert abs(bootstrap_weights(patients, 5000)[1:, first].var() - 8 / 9) < 0.03                    # of a count, 1 - 1 / n
    assert bootstrap_weights(["a", "a"], 50).tolist() == [[1, 1]] and bootstrap_weights([], 50).shape == (1, 0)
    rng = np.random.default_rng(0)
    rows = [np.bincount(rng.integers(2000, size=2000), minlength=2000) for _ in range(1000)]
    assert np.array_equal(bootstrap_weights(range(2000))[1:], rows)


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


@pytest.mark.parametrize("step", (1, 2, 5, 40))
def test_the_fast_form_of_many_resamples_is_the_plain_one(step):
    """AUROC, average precision and Brier of every resample, with ties, clusters of patients, unknown targets, a label without
    positives and one without negatives: the estimate to the last bit, the others to twelve digits."""
    rng = np.random.default_rng(step)
    task, n = Task("f", "labels", ("a", "b", "none", "all", "unknown", "rare")), 200
    said, true = (rng.random((n, 6)) * step).round() / step, rng.integers(2, size=(n, 6)).astype(float)
    true[:, 2], true[:, 3], true[:, 4], true[:, 5], true[::7, 1] = 0, 1, NAN, np.arange(n) == 50, NAN
    weights = bootstrap_weights(rng.integers(60, size=n), 150)
    found = measure_labels(said, true, weights)
    for name, function in METRICS["labels"].items():
        for i in range(6):
            known = ~np.isnan(true[:, i])
            expected = measure(function, said[known, i], true[known, i], weights[:, known])
            assert name == "brier" or found[name][i][0] == expected[0] or np.isnan(expected[0])      # a matrix product rounds as it likes
            assert np.allclose(found[name][i], expected, rtol=1e-12, atol=1e-12, equal_nan=True), (name, i)
    assert np.isnan(found["auroc"][5]).any()


def test_an_interval_is_the_middle_of_the_defined_resamples():
    """From 2.5 to 97.5 % of them; those that are undefined are counted."""
    assert summary(np.array([500.0, *range(1001), NAN]), "") == {"value": 500.0, "low": 25.0, "high": 975.0, "skipped": 1}


def test_cases_are_counted_class_by_class():
    """How many patients are of a class and of the others, beside the metrics."""
    result = score(GRADE, table_of(GRADE, np.eye(3)[[0, 0, 1, 2]], [0, 0, 0, 2]))
    assert result["per_class"] == {"mild": {"positives": 3, "negatives": 1}, "medium": {"positives": 0, "negatives": 4},
                                   "severe": {"positives": 1, "negatives": 3}}


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


@pytest.mark.slow
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
    assert main_metric([PASI], table_of(PASI, [1, 2], [2, 4]), "rmse") == ("pasi_rmse", pytest.approx(2.5 ** 0.5), True)
    right = table_of(GRADE, [[1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]], [0, 0, 2, 2])
    assert main_metric([GRADE], right, "balanced_accuracy") == ("grade_balanced_accuracy", 0.75, False)
    name, value, lower = main_metric([GRADE], table_of(GRADE, [[1, 0, 0]], [0]))
    assert name == "grade_auroc" and math.isnan(value) and not lower


@pytest.mark.parametrize("kind", ("regression", "classes", "labels", "survival"))
def test_the_validation_loss_is_the_loss_of_training(kind):
    """Of predictions without a first stage it is train.py's own, from the logits; unknown targets are left out, none at all is 0."""
    rng = np.random.default_rng(0)
    task = {"regression": PASI, "classes": GRADE, "labels": FINDINGS, "survival": Task("days", "survival", ("days", "died"))}[kind]
    logits = torch.tensor(rng.normal(size=(30, task.outputs)), dtype=torch.float64)
    target = {"regression": rng.normal(size=30), "classes": rng.integers(3, size=30), "labels": rng.integers(2, size=(30, 2)),
              "survival": np.stack([rng.integers(1, 9, 30), rng.integers(2, size=30)], 1)}[kind].astype(float)
    target[:4] = NAN
    table = table_of(task, answers([task], {task.name: logits})[task.name], target)
    targets = {task.name: torch.tensor(target)}
    expected = task_loss([task], {task.name: logits}, targets, known_counts([task], targets)[0]).item()
    assert validation_loss([task], table) == pytest.approx(expected, rel=1e-6)
    assert validation_loss([task], table_of(task, table["prediction"][task.name], target * NAN)) == 0


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


@pytest.mark.parametrize("column, value, group", (
    *(("fst", str(i), "I-IV" if i < 5 else "V-VI") for i in range(1, 7)), ("Fitzpatrick", "5.0", "V-VI"), ("fst", "", "(blank)"),
    ("fst", "-1", "-1"), ("fitspatrick", "1.0", "I-IV"), *(("fst", i, "I-IV") for i in ("I", "ii", "III", "IV")), ("fst", "V", "V-VI"),
    ("fitzpatrick_skin_type", "VI", "V-VI"), ("fst", "7", "7"), ("fst", "VII", "VII"), ("side", "V", "V"), ("age", "39.5", "0-39"), ("Age", "40", "40-59"), ("age", "60", "60+"), ("age", "", "(blank)"),
    ("Patient Age", "058Y", "40-59"), ("age", "101.5", "60+"), ("age_at_diagnosis", "365", "365"), ("age_at_diagnosis", "24106.0", "24106.0"), ("age_approx", "85.0", "60+"), ("image", "1", "1"), ("dosage", "7", "7"), ("sex", "F", "F")))
def test_subgroups(column, value, group):
    """Fitzpatrick types I-IV and V-VI as in the paper's Table 2, three ages, blanks, otherwise the cell itself."""
    assert subgroup(column, value) == group


def test_spellings_of_a_word_are_one_subgroup():
    """F, f and female are one group, under the most frequent; so are 1 and 1.0. Another word and blanks stay apart."""
    cells = ["f", "F", "F", "M", "", "female", "m", "x"]
    assert subgroups("sex", cells) == ["F", "F", "F", "M", "(blank)", "F", "M", "x"]
    assert subgroups("site", ["1", "1.0", "2", "10"]) == ["1", "1", "2", "10"]
    assert subgroups("fst", ["4", "IV", "iv", "6.0"]) == ["I-IV", "I-IV", "I-IV", "V-VI"]
    predictions = table_of(PASI, np.zeros(4), np.arange(4.0))
    cohort = cohort_of([1] * 4, [PASI], {"pasi": [0, 1, 2, 3]}, {"sex": ["F", "M", "f", "F"]})
    scores = score_subgroups(PASI, predictions, columns_of("sex", cohort, range(4), "nowhere"), cohort)
    assert {name: entry["patients"] for name, entry in scores.items()} == {"sex F": 3, "sex M": 1}


def test_several_columns_make_subgroups_and_names_make_none(tmp_path):
    """--by a,b side by side, numbers in their order; a column that varies within a patient is counted; names of patients are
    refused, also those of an older evaluation; that evaluation's columns stay; a name may have a comma."""
    columns = {"site": [str(k % 3 + 9) for k in range(12)], "sex": list("FM" * 6), "name": [f"Ann {k}" for k in range(12)], "fst": ["1", "6"] * 6}
    cohort = cohort_of([2] * 12, [PASI], {"pasi": list(range(12))}, columns)
    cohort.columns["sex"][12] = "M"                                # the second image of p0
    images = range(24)
    found = columns_of("site,sex", cohort, images, str(tmp_path))
    assert columns_of(" site , sex ", cohort, images, str(tmp_path)) == found
    assert found == {"fst": 0, "site": 0, "sex": 1}
    table = table_of(PASI, np.zeros(12), np.arange(12.0))
    errors = {name: scores["mae"]["value"] for name, scores in score_subgroups(PASI, table, found, cohort).items()}
    assert list(errors) == ["fst I-IV", "fst V-VI", "site 9", "site 10", "site 11", "sex F", "sex M"]
    assert list(errors.values()) == [5, 6, 4.5, 5.5, 6.5, 5, 6]      # patient k is wrong by k
    with pytest.raises(ValueError, match="--by name: 12 values for 12 patients"):
        columns_of("name", cohort, images, str(tmp_path))
    with pytest.raises(ValueError, match="--by colour: no such column, there are site, sex"):
        columns_of("colour", cohort, images, str(tmp_path))
    (tmp_path / "metrics.json").write_text(json.dumps({"by": {"name": 0, "sex": 1, "gone": 0}}))
    assert columns_of("site", cohort, images, str(tmp_path)) == {"fst": 0, "sex": 1, "site": 0}
    cohort.columns["site, side"] = cohort.columns["site"]
    assert columns_of("site, side", cohort, images, "nowhere") == {"fst": 0, "site, side": 0}
    assert sorted(["10", "9", "b", "1.5", "a"], key=by_number) == ["1.5", "9", "10", "a", "b"]


def test_constant_predictor():
    """The median, the shares of the classes, the shares of the labels: over what is known."""
    assert constant_prediction(PASI, np.array([1, 2, NAN, 9.0])) == 2
    assert constant_prediction(GRADE, np.array([0, 0, 2, NAN])).tolist() == [2 / 3, 0, 1 / 3]
    assert constant_prediction(FINDINGS, np.array([[1, NAN], [0, NAN], [NAN, NAN]])).tolist() == [0.5, 0]
    cohort = cohort_of((3, 1, 1), [PASI], {"pasi": [1, 9, 5]})     # of patients 5, of images 1
    assert constant_predictions([PASI], cohort, range(5), by_image=False) == {"pasi": 5}
    assert constant_predictions([PASI], cohort, range(5), by_image=True) == {"pasi": 1}
