"""Which patients are drawn: a typical one and the worst errors on both sides, by a rule, not by hand.
"""
import numpy as np


WHY = {  # kind of task -> the middle one, the one predicted most too high, the one most too low
    "regression": ("a typical error", "predicted most too high", "predicted most too low"),
    "classes": ("a typical case", "surest of what is not there", "least sure of what is there"),
    "labels": ("a typical case", "surest of what is not there", "least sure of what is there"),
    "loss": ("a typical loss", "the highest loss", "the lowest loss"),
    "survival": ("the middle risk", "the highest risk", "the lowest risk"),
}
UNKNOWN = ("a middle prediction", "the highest prediction", "the lowest prediction")


def choose(task, predictions, count, candidates):
    """-> {unit: why it is drawn}, at most `count`, each of another patient: typical, too high, too low, and
    again the next of each. candidates: units that may be drawn."""
    candidates = np.array(candidates, int)
    if not len(candidates):
        return {}
    high, low = (errors[candidates] for errors in signed_errors(task, predictions))
    size = np.maximum(high, -low)
    orders = [np.argsort(values, kind="stable") for values in (np.abs(size - np.median(size)), -high, low)]
    words = WHY[task.kind]
    if np.isnan(predictions["target"][task.name]).all():
        words = UNKNOWN
    chosen = {}
    patients = set()
    for turn in range(count):
        for unit in candidates[orders[turn % 3]].tolist():
            patient = predictions["patient"][unit]
            if patient not in patients:
                patients.add(patient)
                chosen[unit] = words[turn % 3]
                break
    return chosen


def signed_errors(task, predictions):
    """-> (units,) twice: the largest and the smallest of predicted - actual of a unit's classes or labels.

    A risk, and predictions of a unit whose target is unknown, stand as they are; of labels some of which are
    known, the unknown have no error."""
    error = predictions["prediction"][task.name]
    target = predictions["target"][task.name]
    if task.kind in ("regression", "loss"):
        error = error - np.nan_to_num(target)
    elif task.kind == "classes":
        error = error - (target[:, None] == np.arange(len(task.classes)))
    elif task.kind == "labels" and not np.isnan(target).all():
        error = np.nan_to_num(error - target)
    error = error.reshape(len(error), -1)
    return error.max(1), error.min(1)
