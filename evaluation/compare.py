"""Two runs against each other: the difference of every metric on the test patients they have in common.

    python eval.py runs/A --against runs/B             prints a table, and writes runs/A/against-B.json

Whether B is better cannot be read off two intervals: both runs find the same patients hard, so their errors
rise and fall together. Here each resample draws patients once and scores both runs on them; the interval is
that of the 1,000 differences.
"""
import numpy as np

from evaluation.metrics import METRICS
from evaluation.other_table import saved_results
from evaluation.predictions_file import read_predictions
from evaluation.result_tables import questions
from evaluation.scores import (
    bootstrap_weights, known_units, metric_values, score, score_constant, subset, summary,
)
from evaluation.verdict import rare_warnings
from plumbing.patients import identity
from plumbing.saved_run import read_metrics


def compare(a, b, resamples=1000):
    """Two run folders -> {"patients": n, task: {metric: {a, b, difference, constant}, "per_label": ...}}.

    a, b and difference are {value, low, high}; constant is that of always predicting the same,
    as a's training patients say. Both runs are scored on the test patients that they have in common, from
    their predictions.csv (nine digits). The same patients are drawn for both, so what makes a patient hard
    for either cancels. ValueError when there are none, or the two mean different targets."""
    tasks, first = read_predictions(a)
    other_tasks, second = read_predictions(b)
    rows, other_rows = common_units(a, b, first, second)
    alone = len(first["patient"]) + len(second["patient"]) - 2 * len(rows)
    first = subset(first, rows)
    second = subset(second, other_rows)
    patients = first["patient"]
    result = {
        "a": a,
        "b": b,
        "patients": len(set(patients)),
        # files of before do not say whether their patients are known
        "patient_ids": all(read_metrics(run).get("patient_ids", True) for run in (a, b)),
    }
    _, constants = saved_results(a)
    kinds, other_kinds = [{task.name: task.text for task in own} for own in (tasks, other_tasks)]
    shared = [task for task in tasks if other_kinds.get(task.name) == task.text]
    if len(shared) < max(1, len(kinds.keys() & other_kinds.keys())):
        raise ValueError(f"{a} predicts {kinds}, and {b} {other_kinds}: need a task in common, of one kind")
    others = sorted(kinds.keys() ^ other_kinds.keys())
    for task in shared:
        name = task.name
        agree = np.isclose(first["target"][name], second["target"][name], rtol=1e-6, atol=0, equal_nan=True)
        if not agree.all():
            raise ValueError(f"{name} of patient {patients[np.argwhere(~agree)[0][0]]} is not the same "
                             f"in {a} and in {b}: other targets, or other patients")
        prediction, target, names = known_units(task, first)
        other, _, _ = known_units(task, second)
        scores = compare_task(task, (prediction, other), target, bootstrap_weights(names, resamples))
        if name in constants:
            alike = score_constant(task, first, constants[name])
            for metric in METRICS[task.kind]:
                scores[metric]["constant"] = alike[metric]
        warnings = scores["warnings"] = rare_warnings(questions(task, score(task, first, 0)))
        warnings += [f"{run}: {line}" for run in (a, b) for line in read_metrics(run).get("seen_before", [])]
        if alone:
            warnings.append(f"Left out: {alone} that only one of the two runs was tested on.")
        if others:
            warnings.append(f"Left out: {', '.join(others)}, which only one of the two runs predicts.")
        if np.array_equal(prediction, other):
            warnings.append("Both predict the same.")
        result[task.key] = scores
    return result


def common_units(a, b, first, second):
    """-> rows of the units that both predictions hold, in each of the two; ValueError when there are none."""
    both = [[identity(patient) for patient in own["patient"]] for own in (first, second)]      # 7 is 7.0
    unit = "patient"
    if any(len(set(keys)) < len(keys) for keys in both):
        unit = "image"                                             # a patient has several units
        both = [list(zip(keys, own["images"])) for keys, own in zip(both, (first, second))]
    row_of = {key: row for row, key in enumerate(both[1])}
    pairs = [(row, row_of[key]) for row, key in enumerate(both[0]) if key in row_of]
    if not pairs:
        raise ValueError(f"{a} and {b} have no test {unit} in common")
    return np.transpose(pairs)


def compare_task(task, predictions, target, weights):
    """The predictions of two runs -> {units, metric: {a, b, difference}}, for labels also
    {"per_label": ...}"""
    scores = {"units": len(target)}
    both = [metric_values(task, prediction, target, weights) for prediction in predictions]
    for (name, label, a, reason), (_, _, b, _) in zip(*both):
        place = scores
        if label is not None:
            place = scores.setdefault("per_label", {}).setdefault(label, {})
        place[name] = {
            "a": summary(a, reason),
            "b": summary(b, reason),
            "difference": summary(a - b, reason),
        }
    return scores
