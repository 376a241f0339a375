"""predictions.csv: the predictions of a split as a table, written and read again.
"""
import os
from os.path import abspath, commonpath, dirname, join

import numpy as np

from evaluation.scores import known_units
from plumbing.checkpoints import read_json
from plumbing.run_folder import write_csv
from plumbing.saved_run import evaluated, tasks_and_columns
from plumbing.spreadsheet import read_cells


def target_names(task):
    """The columns of predictions.csv that hold the targets of a task."""
    if task.kind == "survival":
        return list(task.classes)
    if task.kind == "labels":
        return [f"{task.name}[{label}] target" for label in task.classes]
    return [f"{task.name} target"]


def prediction_names(task):
    """The columns of predictions.csv that hold the predictions of a task."""
    if task.kind == "survival":
        return [f"{task.name} risk"]
    if not task.classes:
        return [f"{task.name} predicted"]
    return [f"{task.name}[{name}] predicted" for name in task.classes]


def target_text(task, target):
    """Yield the target of a unit, () or (L,), as texts, empty where it is unknown.

    A text is a number, the name of a class, or 0 or 1 for a label."""
    for value in np.atleast_1d(target):
        if np.isnan(value):
            yield ""
        elif task.kind == "classes":
            yield task.classes[int(value)]
        else:
            yield np.format_float_positional(np.float32(value), trim="-")


def image_names(cohort):
    """-> the path of every image below the folder that holds them all."""
    paths = [abspath(path) for path in cohort.paths]
    root = commonpath({dirname(path) for path in paths})
    return [path.removeprefix(root).lstrip(os.sep) for path in paths]


def unit_rows(tasks, predictions, cohort, digits, beside):
    """Yield {column: text} of every unit: its patient, its images, and of every task what beside(task, unit)
    says, as pairs or a dict, and the prediction to so many digits."""
    names = image_names(cohort)
    for unit, patient in enumerate(predictions["patient"]):
        row = {"patient": patient, "images": "|".join(names[i] for i in predictions["images"][unit])}
        for task in tasks:
            values = np.atleast_1d(predictions["prediction"][task.name][unit])
            row |= beside(task, unit)
            row |= zip(prediction_names(task), [f"{value:.{digits}g}" for value in values])
        yield row


def write_predictions(path, tasks, predictions, cohort):
    """predictions.csv: one row per unit, its images, and target and prediction of every task."""
    def targets(task, unit):
        return zip(target_names(task), target_text(task, predictions["target"][task.name][unit]))

    rows = list(unit_rows(tasks, predictions, cohort, 9, targets))
    write_csv(path, [rows[0], *[row.values() for row in rows]])


def read_rows(tasks, rows):
    """Rows of predictions.csv -> the predictions, as `predict` gives them, but that `images` are texts."""
    predictions = {
        "patient": np.array([row["patient"] for row in rows]),
        "images": [row["images"] for row in rows],
        "prediction": {},
        "target": {},
    }
    for task in tasks:
        prediction = np.array([[float(row[name]) for name in prediction_names(task)] for row in rows])
        target = np.array([[read_target(task, row[name]) for name in target_names(task)] for row in rows])
        if task.kind not in ("classes", "labels"):                 # of which there may be a single one
            prediction = prediction[:, 0]
        if task.kind not in ("labels", "survival"):
            target = target[:, 0]
        predictions["prediction"][task.name] = prediction
        predictions["target"][task.name] = target
    return predictions


def read_target(task, cell):
    """The inverse of target_text, cell by cell."""
    if task.kind == "classes" and cell:
        return float(task.classes.index(cell))
    return float(cell or "nan")


def read_predictions(run):
    """Run folder -> its tasks, and the predictions of its test split.

    ValueError when the folder is not that of an evaluated run."""
    with evaluated(run):
        tasks, _ = tasks_and_columns(read_json(join(run, "best", "config.json")), run)
        predictions = read_rows(tasks, read_cells(join(run, "predictions.csv")))
        for task in tasks:
            known_units(task, predictions)           # refuses what is no number
        return tasks, predictions
