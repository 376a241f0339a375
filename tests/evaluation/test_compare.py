"""evaluation/compare.py: differences of two runs over the same resamples."""
import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.compare import compare, compare_task
from evaluation.metrics import METRICS
from evaluation.predictions_file import write_predictions
from evaluation.printing import print_comparison
from evaluation.scores import bootstrap_weights, score
from plumbing.cohort import Task
from tests.evaluation.toy import FINDINGS, GRADE, NAN, PASI, draw, table_of


def made_run(folder, task, patients, prediction, target, images=None):
    """A run folder with what `compare` reads. images: names, by default those of the patients."""
    os.makedirs(folder / "best")
    json.dump({"tasks": [vars(task)]}, open(folder / "best/config.json", "w"))
    table = table_of(task, prediction, target, patients)
    write_predictions(str(folder / "predictions.csv"), [task], table, SimpleNamespace(paths=[f"/x/{name}.png" for name in images or patients]))
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
    weights = bootstrap_weights(names[known], 200)[1:]
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


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    """No patient in common, other targets, other classes, no task in common, not a run: one line each."""
    a = made_run(tmp_path / "a", PASI, ["p1", "p2"], [1, 2], [1, 2])
    grade = Task("pasi", "classes", ("low", "high"))
    for name, task, patients, said, true, message in (
            ("b", PASI, ["q1"], [1], [1], "no test patient in common"), ("c", PASI, ["p1", "p2"], [1, 2], [1, 3], "pasi of patient p2 is not the same"),
            ("d", grade, ["p1"], [[0.5, 0.5]], [1], "predicts {'pasi': 'regression'}, and .* {'pasi': 'classes: low, high'}: need"), ("e", Task("age", "regression"), ["p1"], [1], [1], "need a task in common, of one kind")):
        with pytest.raises(ValueError, match=message) as error:
            compare(a, made_run(tmp_path / name, task, patients, said, true))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no evaluated run.*; a run folder holds an args.json$"):       # and eval.py is not advised
        compare(a, str(tmp_path))


def test_pairing_narrows(tmp_path):
    """Of two models with the same hard patients the interval of the difference is narrower than either interval."""
    rng = np.random.default_rng(0)
    true, hard = rng.normal(size=60), rng.normal(size=60)
    names = [f"p{i}" for i in range(60)]
    a, b = (made_run(tmp_path / name, PASI, names, true + share * hard, true) for name, share in (("a", 1), ("b", 0.9)))
    pair = compare(a, b)["pasi"]["mae"]
    assert pair["difference"]["low"] > 0 and pair["a"]["low"] < pair["b"]["high"]


def test_patients_are_compared_as_numbers_and_images_are_no_patients(tmp_path, capsys):
    """7 in one run is 7.0 in the other; where one of them knows no patients, the line says images."""
    a, b = (made_run(tmp_path / name, PASI, ids, [1, 2, 3], [1, 2, 3]) for name, ids in (("a", ["7", "8", "9"]), ("b", ["9.0", "07", "11"])))
    with pytest.raises(ValueError, match="pasi of patient 7 is not the same"):
        compare(a, b)
    c = made_run(tmp_path / "c", PASI, ["9.0", "07", "11"], [2, 1, 0], [3, 1, 0])
    assert compare(a, c, 10)["patients"] == 2 and compare(a, c, 10)["patient_ids"]
    (tmp_path / "c/metrics.json").write_text('{"patient_ids": false}')
    print_comparison(compare(a, c, 10))
    assert "2 test images, not patients, in common" in capsys.readouterr().out


def test_runs_by_image_are_compared_image_by_image(tmp_path):
    """Where a patient has several rows, the images say which rows belong together."""
    a = made_run(tmp_path / "a", PASI, ["7", "7", "8"], [1, 2, 3], [1, 2, 5], ["x", "y", "z"])
    b = made_run(tmp_path / "b", PASI, ["8", "7", "7"], [4, 2, 1], [5, 2, 1], ["z", "y", "x"])
    mae = compare(a, b, 10)["pasi"]["mae"]
    assert (mae["a"]["value"], mae["b"]["value"]) == pytest.approx((2 / 3, 1 / 3))


def test_a_comparison_of_two_patients_is_no_comparison(tmp_path, capsys):
    """It says so before the numbers, and in which metrics less is better."""
    a, b = (made_run(tmp_path / name, PASI, ["p1", "p2"], said, [1, 2]) for name, said in (("a", [1, 2]), ("b", [3, 5])))
    print_comparison(compare(a, b, 10))
    text = capsys.readouterr().out
    assert "no interval is trustworthy: pasi (patients: 2)." in " ".join(text.split()) and "; *: less is better" in text and "root mean squared error *" in text and "R² *" not in text


def test_the_same_predictions_those_left_out_and_the_constant_are_said(tmp_path, capsys):
    """Two runs that predict the same, one of which was tested on three patients more; the constant is the median of a's training patients."""
    names = [f"p{i}" for i in range(15)]
    true, told = np.arange(15.0), np.arange(15.0) + 2
    a, b = (made_run(tmp_path / name, PASI, names[:n], told[:n], true[:n]) for name, n in (("a", 12), ("b", 15)))
    (tmp_path / "a/metrics.json").write_text('{"pasi": {"constant": {"prediction": 4.0}}}')
    result = compare(a, b, 10)["pasi"]
    assert result["warnings"] == ["Left out: 3 that only one of the two runs was tested on.", "Both predict the same."]
    assert result["mae"]["constant"]["value"] == np.abs(true[:12] - 4).mean() and result["mae"]["a"]["value"] == 2
    other = made_run(tmp_path / "c", PASI, names, told + 1, true)
    assert compare(b, other, 10)["pasi"]["warnings"] == []
    print_comparison(compare(a, b, 10))
    assert re.search(r"a - b +constant\n +mean absolute error \* +0.000 \(0.000 to 0.000\) +3.167\n", capsys.readouterr().out)


def test_a_run_that_began_with_one_that_knew_the_test_patients_says_so_here_too(tmp_path):
    """The difference is too good as well."""
    a, b = (made_run(tmp_path / name, PASI, ["p1", "p2"], [1, 2], [1, 2]) for name in "ab")
    (tmp_path / "b/metrics.json").write_text(json.dumps({"seen_before": ["WARNING: c, from which it started, learned from them"]}))
    assert f"{b}: WARNING: c, from which it started, learned from them" in compare(a, b, 10)["pasi"]["warnings"]


def test_targets_that_only_one_run_predicts_are_named(tmp_path):
    age = Task("age", "regression")
    a, b = (made_run(tmp_path / name, task, ["p1", "p2"], [1, 2], [1, 2]) for name, task in (("a", PASI), ("b", age)))
    json.dump({"tasks": [vars(PASI), vars(age)]}, open(tmp_path / "b/best/config.json", "w"))
    one, two = (table_of(task, [1, 2], [1, 2], ["p1", "p2"]) for task in (PASI, age))
    both = {**one, **{key: one[key] | two[key] for key in ("prediction", "target")}}
    write_predictions(str(tmp_path / "b/predictions.csv"), [PASI, age], both, SimpleNamespace(paths=["/x/p1.png", "/x/p2.png"]))
    for result in (compare(a, b, 10), compare(b, a, 10)):
        assert "Left out: age, which only one of the two runs predicts." in result["pasi"]["warnings"] and "age" not in result


def test_a_label_that_nobody_knows_says_so():
    """Not "one class only": of such a label there is no class at all."""
    target = np.stack([np.arange(6) % 2, np.full(6, NAN)], 1)
    scores = compare_task(FINDINGS, (np.zeros((6, 2)), np.ones((6, 2))), target, np.ones((1, 6)))
    assert scores["per_label"]["mass"]["auroc"]["difference"]["reason"] == "no unit with a known target"


def test_a_mean_over_no_label_gives_the_reason_that_metrics_json_gives():
    """Where no label has both classes, the mean of two runs is undefined for the same reason as that of one."""
    target = np.zeros((6, 2))
    scores = compare_task(FINDINGS, (target, target + 1), target, np.ones((1, 6)))
    alone = score(FINDINGS, table_of(FINDINGS, target, target))
    assert scores["auroc"]["difference"]["reason"] == alone["auroc"]["reason"] == "one class only, for every label"
