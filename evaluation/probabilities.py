"""What the probabilities of classes and labels are worth: confusion, reliability, operating points; and of
numbers the agreement with their rater, and an interval for new patients.

An operating point is a threshold, chosen on the validation split, and what comes of calling every probability
at or above it positive. `predictions` are those of predict.py.
"""
import math

import numpy as np

from evaluation.metrics import UNDEFINED, by_score, concordance, ratio, share
from evaluation.scores import bootstrap_weights, known_units, measure, summary, why_undefined
from plumbing.cells import is_number


RATES = {  # name: how often right, and how often wrong
    "sensitivity": ("true_positives", "false_negatives"),
    "specificity": ("true_negatives", "false_positives"),
    "ppv": ("true_positives", "false_positives"),
    "npv": ("true_negatives", "false_negatives"),
}


def details(task, predictions, thresholds=None):
    """-> {"confusion": ..., "reliability": {name: ...}, "operating_point": {name: ...}} of classes and
    labels, "kappa" of classes that are numbers, "ccc" of a number: the agreement with the targets' rater.

    thresholds: {label, or the second of two classes: threshold}. Without it, and with more classes, there is
    no operating point."""
    prediction, target, patients = known_units(task, predictions)
    result = {}
    if task.kind == "classes":
        n = len(task.classes)
        named = prediction.argmax(1)
        counts = np.bincount(target.astype(int) * n + named, minlength=n * n)
        result["confusion"] = counts.reshape(n, n).tolist()        # [actual class][most probable class]
        if all(map(is_number, task.classes)):
            result["kappa"] = agreement("kappa", named.astype(float), target, patients)
    if task.kind == "regression":
        result["ccc"] = agreement("ccc", prediction, target, patients)
    for name, question in questions(task, predictions).items():
        result.setdefault("reliability", {})[name] = reliability(*question[:2])
        if thresholds:
            result.setdefault("operating_point", {})[name] = operating_point(*question, thresholds.get(name))
    return result


def agreement(name, prediction, target, patients):
    """-> {value, low, high} of the concordance, which is called so."""
    draws = measure(concordance, prediction, target, bootstrap_weights(patients))
    return summary(draws, why_undefined(name, target))


def questions(task, predictions):
    """A task as yes-or-no questions -> {label or class: (probability, answer, patients)} of the known units.

    Each class is asked against the rest, of two classes only the second."""
    if task.kind not in ("classes", "labels"):
        return {}
    prediction, answers, patients = known_units(task, predictions)
    if task.kind == "classes":
        answers = np.eye(len(task.classes))[answers.astype(int)]
    result = {}
    for name, probability, answer in zip(task.classes, prediction.T, answers.T):
        known = ~np.isnan(answer)
        if known.any():
            result[name] = probability[known], answer[known], patients[known]
    if task.kind == "classes" and len(task.classes) <= 2:
        result.pop(task.classes[0], None)
    return result


def reliability(probability, answer):
    """Ten bins of equal width: mean prediction and share of yes, None in an empty bin, and count of units."""
    bin_of = (probability * 10).astype(int).clip(max=9)            # 1 is in the last bin
    units = np.bincount(bin_of, minlength=10)
    result = {"predicted": probability, "observed": answer}
    for name, values in result.items():
        result[name] = np.where(units, ratio(np.bincount(bin_of, values, 10), units), None).tolist()
    return {**result, "units": units.tolist()}


def choose_thresholds(task, predictions):
    """-> {label, or the second of two classes: Youden's threshold}, {} for other tasks."""
    if task.kind == "classes" and len(task.classes) != 2:
        return {}
    return {name: youden(probability, answer)
            for name, (probability, answer, _) in questions(task, predictions).items()}


def conformal(task, predictions):
    """What to add to a predicted number, up and down, so that 90 % of new patients like those of the
    validation split, whose `predictions` these are, lie within -> {"half_width", "patients"}.

    The split conformal rule: of n errors without sign the ceil(0.9 (n + 1))-th from below; None where there
    are fewer than that, for 8 patients or less."""
    prediction, target, _ = known_units(task, predictions)
    errors = np.sort(np.abs(prediction - target))
    place = math.ceil(0.9 * (len(errors) + 1) - 1e-9)
    half_width = None
    if place <= len(errors):
        half_width = float(errors[place - 1])
    return {"half_width": half_width, "patients": len(errors)}


def youden(probability, answer):
    """The threshold, one of the probabilities, for which "at or above it is yes" has the largest
    sensitivity + specificity.

    Of equals it is the most sensitive; None with one class."""
    if len(set(answer)) < 2:
        return None
    [positive], [negative] = by_score(probability, answer, np.ones((1, len(answer))))
    caught = positive[::-1].cumsum()[::-1]                         # positives at or above each score: whole
    cleared = negative.cumsum() - negative                         # numbers, so that equals are equal
    best = np.argmax(caught * negative.sum() + cleared * positive.sum())
    return float(np.unique(probability)[best])


def operating_point(probability, answer, patients, threshold):
    """What calling everything at or above a threshold positive comes to: four counts and five rates.

    The threshold is chosen elsewhere, on the validation split. The interval of a rate of 0 or 1 is that of
    Clopper and Pearson, with as many trials as there are patients on that side: resamples never hold what
    nobody in the sample has."""
    if threshold is None:
        return {"threshold": None, "reason": "not both classes in the validation split"}
    called = probability >= threshold
    actual = answer == 1
    units = {
        "true_positives": called & actual,
        "true_negatives": ~called & ~actual,
        "false_positives": called & ~actual,
        "false_negatives": ~called & actual,
    }
    point = {"threshold": threshold, **{name: int(own.sum()) for name, own in units.items()}}
    for name, (right, wrong) in RATES.items():
        asked = units[right] | units[wrong]
        point[name] = rate(name, units[right], asked, asked, patients)
    # The harmonic mean of sensitivity and PPV: each true positive is both called and actual.
    point["f1"] = rate("f1", 2 * units["true_positives"], called + answer, actual, patients)
    return point


def rate(name, part, whole, asked, patients):
    """-> {value, low, high} of the share of the part in the whole, and how many `patients` are asked; of 0 or
    1 with the interval of Clopper and Pearson, a trial per patient."""
    draws = measure(share, part.astype(float), whole.astype(float), bootstrap_weights(patients))
    entry = summary(draws, UNDEFINED[name])
    entry["patients"] = len(set(patients[asked]))
    unseen = 0.025 ** (1 / max(1, entry["patients"]))
    if entry["value"] == 0:
        entry.update(low=0.0, high=1 - unseen)
    elif entry["value"] == 1:
        entry.update(low=unseen, high=1.0)
    return entry
