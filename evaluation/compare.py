"""Two runs against each other: the difference of every metric on the test patients they have in common.

    python eval.py runs/A --against runs/B             prints a table, and writes runs/A/against-B.json

Whether B is better cannot be read off two intervals: both runs find the same patients hard, so their errors
rise and fall together. Here each resample draws patients once and scores both runs on them; the interval is
that of the 1,000 differences.
"""
import numpy as np

from evaluation.metrics import UNDEFINED, mean_defined
from evaluation.other_table import saved_results
from evaluation.predictions_file import read_predictions
from evaluation.result_tables import questions
from evaluation.scores import NO_UNIT, bootstrap_weights, known_units, replicates, score, summary
from evaluation.verdict import rare_warnings
from plumbing.patients import identity
from plumbing.saved_run import evaluated, read_metrics


def compare(a, b, resamples=1000):
    """Two run folders -> {"patients": n, task: {metric: {a, b, difference, constant}, "per_label": ...}}.

    a, b and difference are {value, low, high}; constant is that of always predicting the same,
    as a's training patients say. Both runs are scored on the test patients that they have in common, from
    their predictions.csv (nine digits). The same patients are drawn for both, so what makes a patient hard
    for either cancels. ValueError when there are none, or the two mean different targets."""
    tasks, first = read_predictions(a)
    other_tasks, second = read_predictions(b)
    rows, other_rows = common_units(a, b, first, second)
    patients = first["patient"][rows]
    # files of before do not say whether their patients are known
    known = all(read_metrics(run).get("patient_ids", True) for run in (a, b))
    result = {"a": a, "b": b, "patients": len(set(patients)), "patient_ids": known}
    others = {task.name: task for task in other_tasks}
    _, constants = saved_results(a)
    alone = len(first["patient"]) + len(second["patient"]) - 2 * len(rows)
    shared = [task for task in tasks if task.name in others]
    if not shared:
        names = ", ".join(task.name for task in tasks)
        raise ValueError(f"{a} predicts {names} and {b} {', '.join(others)}: no task in common")
    for task in shared:
        name = task.name
        other = others[name]
        if task.text != other.text:
            raise ValueError(f"{name} is {task.text} in {a}, and {other.text} in {b}")
        targets = first["target"][name][rows], second["target"][name][other_rows]
        agree = np.isclose(*targets, rtol=1e-6, atol=0, equal_nan=True)
        if not agree.all():
            row = np.argwhere(~agree)[0][0]
            raise ValueError(f"{name} of patient {patients[row]} is not the same in {a} and in {b}: "
                             "other targets, or other patients")
        with evaluated(a):
            units = known_units(task, first, rows)
        with evaluated(b):
            other_units = known_units(task, second, other_rows)
        scores = compare_task(task, units, other_units, resamples, constants.get(name))
        warnings = rare_warnings(questions(task, score(task, first, resamples=0, keep=rows)))
        if alone:
            warnings.append(f"Left out: {alone} that only one of the two runs was tested on.")
        if np.array_equal(units[0], other_units[0]):
            warnings.append("Both predict the same.")
        result[task.key] = {**scores, "warnings": warnings}
    return result


def common_units(a, b, first, second):
    """-> rows of the units that both predictions hold, in each of the two; ValueError when there are none."""
    unit = "patient"
    keys = [identity(patient) for patient in first["patient"]]     # 7 is 7.0
    other_keys = [identity(patient) for patient in second["patient"]]
    if len(set(keys)) < len(keys) or len(set(other_keys)) < len(other_keys):
        unit = "image"                                             # a patient has several units
        keys = zip(keys, first["images"])
        other_keys = zip(other_keys, second["images"])
    row_of = {key: row for row, key in enumerate(other_keys)}
    pairs = [(row, row_of[key]) for row, key in enumerate(keys) if key in row_of]
    if not pairs:
        raise ValueError(f"{a} and {b} have no test {unit} in common")
    return np.transpose(pairs)


def compare_task(task, first, second, resamples, constant):
    """`known_units` of two runs -> {units, metric: {a, b, difference, constant}}, for labels also
    {"per_label": ...}. constant: a prediction that is the same for all, None where there is none."""
    prediction, target, patients = first
    weights = bootstrap_weights(patients, resamples)
    scores = {"units": len(target)}
    measured = replicates(task, second[0], target, weights)        # {metric: (L or 1, 1 + resamples)}
    without = {}
    if constant is not None:
        without = replicates(task, np.broadcast_to(constant, prediction.shape), target, weights[:1])
    for name, a in replicates(task, prediction, target, weights).items():
        b = measured[name]
        reason = UNDEFINED.get(name, NO_UNIT)
        scores[name] = difference(mean_defined(a), mean_defined(b), reason)
        if without:
            scores[name]["constant"] = summary(mean_defined(without[name]), reason)
        if task.kind == "labels":
            per_label = scores.setdefault("per_label", {label: {} for label in task.classes})
            for label, own_a, own_b in zip(task.classes, a, b):
                per_label[label][name] = difference(own_a, own_b, reason)
    return scores


def difference(a, b, reason):
    """Two (1 + resamples,) -> {a, b, difference}, entries as of `summary`."""
    return {
        "a": summary(a, reason),
        "b": summary(b, reason),
        "difference": summary(a - b, reason),
    }
