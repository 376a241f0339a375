from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.metrics import METRICS
from evaluation.predictions_file import read_rows
from evaluation.probabilities import questions
from evaluation.run_charts import learning_curves, roc, task_charts
from plumbing.cohort import Task


def test_roc_is_every_threshold():
    """One point a distinct threshold, counted one by one, from corner to corner; its area is the AUROC."""
    rng = np.random.default_rng(0)
    said, true = rng.integers(6, size=40) / 5, np.arange(40) % 2 * 1.0
    x, y = roc(said, true)
    expected = [(0, 0)] + [(np.mean(said[true == 0] >= t), np.mean(said[true == 1] >= t)) for t in sorted(set(said), reverse=True)]
    assert np.allclose(np.stack([x, y], 1), expected) and (x[-1], y[-1]) == (1, 1)
    assert np.trapezoid(y, x) == pytest.approx(METRICS["labels"]["auroc"](said, true, np.ones((1, 40)))[0])


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
    row = {"patient": "p", "images": "", "a target": "1", "a predicted": "2", "l[x] target": "1", "l[x] predicted": "0.5"}
    number, label = Task("a", "regression"), Task("l", "labels", ("x",))
    run = SimpleNamespace(metrics={"unit": "patient"}, predictions=[row], log=[], tasks=[number, label])
    assert task_charts(run, number) == []
    assert task_charts(run, label) == []
    assert learning_curves(run) == []
