"""Two runs against each other: the difference of every metric on the test patients they have in common, with an interval.

    python eval.py runs/A --against runs/B             prints a table, and writes runs/A/against-B.json

Whether B is better cannot be read off two intervals: both runs find the same patients hard, so their errors rise and fall
together. Here each resample draws patients once and scores both runs on them; the interval is that of the 1,000 differences.
"""
import csv
import json
import os

import numpy as np

from evaluation.metrics import METRICS, UNDEFINED, mean_defined
from evaluation.scores import entry_text, replicates, summary, with_resamples
from plumbing.cohort import Task


NOTHING = "no unit with a known target"


def read_predictions(run):
    """Run folder -> its tasks, and the table of predictions of its test split."""
    try:
        with open(os.path.join(run, "best", "config.json"), encoding="utf-8") as file:
            tasks = [Task(**{**task, "classes": tuple(task["classes"])}) for task in json.load(file)["tasks"]]
        with open(os.path.join(run, "predictions.csv"), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        table = {"patient": np.array([row["patient"] for row in rows]), "images": [row["images"] for row in rows],
                 "prediction": {}, "target": {}}
        for task in tasks:
            if task.kind == "survival":
                table["prediction"][task.name] = np.array([float(row[f"{task.name} risk"]) for row in rows])
                table["target"][task.name] = np.array([[float(row[name] or "nan") for name in task.classes] for row in rows])
                continue
            names = [f"{task.name}[{c}]" for c in task.classes] or [task.name]
            code = {c: i for i, c in enumerate(task.classes)} if task.kind == "classes" else {}
            asked = names if task.kind == "labels" else [task.name]
            said = np.array([[float(row[f"{name} predicted"]) for name in names] for row in rows])
            true = np.array([[float(code.get(cell := row[f"{name} target"], cell or "nan")) for name in asked] for row in rows])
            table["prediction"][task.name] = said if task.classes else said[:, 0]
            table["target"][task.name] = true if task.kind == "labels" else true[:, 0]
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{run}: no evaluated run, its best/config.json and predictions.csv cannot be read ({error!r})") from error
    return tasks, table


def compare(a, b, resamples=1000):
    """Two run folders -> {"patients": n, task: {metric: {a, b, difference: {value, low, high}}, "per_label": {label: ...}}}.

    What each said of the test patients that both have (predictions.csv, nine digits); the same patients are drawn for both, so
    what makes a patient hard for either cancels. ValueError when there are none, or when the two mean different targets."""
    (tasks, one), (others, two) = read_predictions(a), read_predictions(b)
    by_image = [len(set(table["patient"])) < len(table["patient"]) for table in (one, two)]
    keys = [list(zip(table["patient"], table["images"] if any(by_image) else table["patient"])) for table in (one, two)]
    place = {key: i for i, key in enumerate(keys[1])}
    pairs = [(i, place[key]) for i, key in enumerate(keys[0]) if key in place]
    if not pairs:
        raise ValueError(f"{a} and {b} have no test {'image' if any(by_image) else 'patient'} in common")
    mine, theirs = map(list, zip(*pairs))
    patients = one["patient"][mine]
    result = {"a": a, "b": b, "patients": len(set(patients))}
    shared = [(task, other) for task in tasks for other in others if task.name == other.name]
    if not shared:
        raise ValueError(f"{a} predicts {', '.join(task.name for task in tasks)} and {b} {', '.join(task.name for task in others)}: "
                         "no task in common")
    for task, other in shared:
        if (task.kind, task.classes) != (other.kind, other.classes):
            raise ValueError(f"{task.name} is {task.kind} {' '.join(task.classes)} in {a}, "
                             f"and {other.kind} {' '.join(other.classes)} in {b}")
        target = one["target"][task.name][mine]
        same = np.isclose(target, two["target"][task.name][theirs], rtol=1e-6, atol=0, equal_nan=True).reshape(len(target), -1).all(1)
        if not same.all():
            raise ValueError(f"{task.name} of patient {patients[~same][0]} is not the same in {a} and in {b}: other targets, or other "
                             "patients")
        known = ~np.isnan(target).reshape(len(target), -1).all(1)
        said = [table["prediction"][task.name][rows][known] for table, rows in ((one, mine), (two, theirs))]
        weights = with_resamples(patients[known], resamples)
        scores = result[task.name] = {"units": int(known.sum())}
        for name, function in METRICS[task.kind].items():
            each = [replicates(task, function, prediction, target[known], weights) for prediction in said]   # (L or 1, 1 + resamples)
            scores[name] = difference(*map(mean_defined, each), UNDEFINED.get(name, NOTHING))
            for i, label in enumerate(task.classes if task.kind == "labels" else ()):
                entry = scores.setdefault("per_label", {}).setdefault(label, {})
                entry[name] = difference(each[0][i], each[1][i], UNDEFINED.get(name, NOTHING))
    return result


def difference(a, b, reason):
    """Two (1 + resamples,) -> {a, b, difference}, entries as of `summary`."""
    return {"a": summary(a, reason), "b": summary(b, reason), "difference": summary(a - b, reason)}


def print_comparison(result):
    """A line a metric: the first run, the second, and the first minus the second."""
    print(f"a {result['a']}, b {result['b']}: {result['patients']} test patients in common; 95 % intervals, the same resamples for both")

    def line(*cells):
        print(("  " + "".join(f"{cell:29}" for cell in cells)).rstrip())

    def lines(indent, entries):
        for name, entry in entries.items():
            line(indent + name, *(entry_text(entry[key]) for key in ("a", "b", "difference")))

    for task, entries in result.items():
        if isinstance(entries, dict):
            line(f"{task}, {entries['units']} units", "a", "b", "a - b")
            lines("  ", {name: entry for name, entry in entries.items() if isinstance(entry, dict) and name != "per_label"})
            for label, each in entries.get("per_label", {}).items():
                lines(f"  {label} ", each)
