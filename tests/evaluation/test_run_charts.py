from types import SimpleNamespace

import pytest

from evaluation import run_charts
from evaluation.predictions_file import read_rows
from evaluation.probabilities import questions
from evaluation.run_charts import learning_curves, task_charts
from plumbing.cohort import Task


def test_the_second_of_two_classes_is_asked_for_and_units_without_a_target_are_left_out():
    """Of three classes each is; a label has its own column."""
    rows = [{"g target": "b", "g[a] predicted": "0.2", "g[b] predicted": "0.8", "l[x] target": "1", "l[x] predicted": "0.7"},
            {"g target": "", "g[a] predicted": "0.5", "g[b] predicted": "0.5", "l[x] target": "0", "l[x] predicted": "0.1"}]
    tasks = [Task("g", "classes", ("a", "b")), Task("l", "labels", ("x",))]
    predictions = read_rows(tasks, [{"patient": f"p{i}", "images": "", **row} for i, row in enumerate(rows)])
    two, label = (questions(task, predictions) for task in tasks)
    assert {name: [part.tolist() for part in parts[:2]] for name, parts in two.items()} == {"b": [[0.8], [1.0]]}
    assert {name: [part.tolist() for part in parts[:2]] for name, parts in label.items()} == {"x": [[0.7, 0.1], [1.0, 0.0]]}
    assert questions(Task("t", "survival", ("days", "died")), predictions) == {}


def test_a_run_with_nothing_to_draw_has_no_charts():
    """One unit, one answer only, no epoch."""
    row = {"patient": "p", "images": "", "n target": "1", "n predicted": "2", "l[x] target": "1", "l[x] predicted": "0.5"}
    number, label = Task("n", "regression"), Task("l", "labels", ("x",))
    run = SimpleNamespace(metrics={"unit": "patient", "n": {}, "l": {}}, predictions=[row], log=[], tasks=[number, label], args={})
    assert task_charts(run, number) == []
    assert task_charts(run, label) == []
    assert list(learning_curves(run)) == []


def test_of_many_classes_the_most_frequent_have_charts():
    """Of 300 there were 600 charts and a confusion of 300 x 300 squares, for which it took 20 GB to make a page of 56 MB."""
    names = [f"c{i:02}" for i in range(40)]
    rows = []
    for k in range(90):
        actual = k % 40 if k < 80 else 39
        row = {"patient": f"p{k}", "images": "", "y target": names[actual]}
        rows.append(row | {f"y[{name}] predicted": f"{1 / (2 + abs(i - k % 40))}" for i, name in enumerate(names)})
    confusion = [[0] * 40] * 40
    run = SimpleNamespace(metrics={"unit": "patient", "y": {"confusion": confusion}}, predictions=rows)
    made = task_charts(run, Task("y", "classes", tuple(names)))
    keys = [chart.picture.info["key"][:3] for chart in made if "_roc_" in chart.name]
    assert keys == [*names[:29], "c39"] and not any("confusion" in chart.name for chart in made)


@pytest.mark.parametrize("unit, words", (("patient", False), ("image", True)))
def test_intervals_of_formulas_that_know_no_patients_say_so(unit, words):
    """Wilson's and Greenwood's, where a unit is an image: those of one patient are no separate evidence."""
    rows = [{"patient": f"p{k}", "images": "", "l[x] target": str(k % 2), "l[x] predicted": f"{k / 9:.2f}", "days": str(k + 1), "died": "1", "t risk": f"{k}"}
            for k in range(9)]
    label, time = Task("l", "labels", ("x",)), Task("t", "survival", ("days", "died"))
    bins = {"predicted": [0.5], "observed": [0.4], "units": [9]}
    run = SimpleNamespace(metrics={"unit": unit, "l": {"reliability": {"x": bins}}, "t": {}}, predictions=rows)
    charts = [chart for task in (label, time) for chart in task_charts(run, task) if "roc" not in chart.name]
    assert [chart.name for chart in charts] == ["l_calibration_x", "t_kaplan_meier"]
    assert all(("as if no two images were of one person" in chart.text) == words for chart in charts)


@pytest.mark.parametrize("labels, charts", ((6, 1), (7, 7)))
def test_beyond_six_labels_every_one_has_a_chart_of_its_own(labels, charts):
    """No label is left out; what is rare has precision-recall too."""
    names = [f"f{i}" for i in range(labels)]
    rows = []
    for k in range(20):
        row = {"patient": f"p{k}", "images": ""}
        for i, name in enumerate(names):
            row |= {f"l[{name}] target": str(int(k == 0 if i == 0 else k % 2)), f"l[{name}] predicted": f"{(k * 7 + i) % 10 / 10}"}
        rows.append(row)
    run = SimpleNamespace(metrics={"unit": "patient", "l": {}}, predictions=rows)
    made = task_charts(run, Task("l", "labels", tuple(names)))
    assert [chart.name for chart in made] == [f"l_roc_{i + 1}" for i in range(charts)] + ["l_precision_recall_1"]
    keys = "; ".join(chart.picture.info["key"] for chart in made[:-1])
    assert all(f"{name}: AUROC" in keys for name in names) and made[-1].picture.info["key"].startswith("f0: average precision")


@pytest.mark.parametrize("column, losses", ((False, "training"), (True, "training; validation")))
def test_learning_curves_with_and_without_the_validation_loss(column, losses, monkeypatch):
    """Logs of older runs lack it; a single epoch has no curve; one without a value has no mark."""
    task = Task("a", "regression")
    log = [{"epoch": str(k), "train_loss": "1", "val_a_mae": f"{3 - k}"} for k in (1, 2)]
    for row in log:
        if column:
            row["val_loss"] = "0.5"
    run = SimpleNamespace(log=log, first_task=task, args={})
    loss, metric = learning_curves(run)
    assert loss.picture.info["key"] == losses and metric.text.startswith("Mean absolute error over the epochs")
    assert list(learning_curves(SimpleNamespace(log=log[:1]))) == []
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(run_charts, "line_chart", lambda lines, *rest: drawn.extend(lines))
        log[1]["val_loss"] = ""                      # of the epoch that is kept, and not of the other
        list(learning_curves(run))
    assert [line.name.partition(" ")[0] for line in drawn if line.mark is not None] == ["training", "mean"]
    for row in log:
        row["val_loss"] = ""
    assert next(learning_curves(run)).picture.info["key"] == losses.split("; ")[0]


def test_a_small_subgroup_is_called_small_in_the_forest_too(monkeypatch):
    """Three patients at 1.0 are not to look like a finding."""
    rows = {}
    monkeypatch.setattr(run_charts, "dots", lambda values, *rest: rows.update(values))
    entry = {"value": 1.0, "low": 1.0, "high": 1.0}
    groups = {"sex F": {"patients": 60, "small": False, "auroc": entry}, "sex M": {"patients": 3, "small": True, "auroc": entry}}
    list(run_charts.subgroup_charts(Task("l", "labels", ("x",)), {"auroc": entry, "subgroups": groups}))
    assert list(rows) == ["sex F, n 60", "sex M, n 3 (small)"]
