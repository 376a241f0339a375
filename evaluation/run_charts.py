"""The charts of a run: what was predicted, from predictions.csv, and the learning curves, from log.csv.

A chart is a tuple (picture, alternative text, caption, names of its lines in the order of their colors).
"""
import numpy as np

from evaluation.canvas import PALETTE
from evaluation.entry_text import number
from evaluation.plots import curves, histogram, scatter, share_curves
from evaluation.run_text import NAMES, validated


def task_charts(run, task):
    """-> the charts of one task; none for times to an event."""
    if task.kind == "regression":
        return regression_charts(run, task)
    answers = {}
    for name, (probability, answer) in questions(task, run.predictions).items():
        if len(set(answer)) == 2:                    # otherwise there is nothing to tell apart
            answers[name] = probability, answer
    if not answers:
        return []
    return probability_charts(run, task, answers)


def regression_charts(run, task):
    """Predicted against actual, and the errors."""
    rows = [row for row in run.predictions if row[f"{task.name} target"]]
    if len(rows) < 2:
        return []
    actual = np.array([float(row[f"{task.name} target"]) for row in rows])
    predicted = np.array([float(row[f"{task.name} predicted"]) for row in rows])
    errors = predicted - actual
    dots = scatter(actual, predicted, xlabel="actual", ylabel="predicted")
    bars = histogram(errors, xlabel="predicted - actual", ylabel=f"{run.unit}s")
    return [
        (dots, "predicted over actual values", f"Predicted and actual {task.name}", []),
        (bars, "histogram of the errors", f"Errors, whose mean is {number(errors.mean())}", []),
    ]


def probability_charts(run, task, answers):
    """ROC and reliability of as many labels or classes as there are colors, those with the most positives.

    answers: {label or class: (probability, answer)}."""
    positives = {name: answer.sum() for name, (_, answer) in answers.items()}
    most = sorted(answers, key=positives.get, reverse=True)[:len(PALETTE)]
    names = [name for name in answers if name in most]
    note = ""
    if len(answers) > len(names):
        note = f", the {len(names)} with the most positives of {len(answers)}"
    rates = {name: roc(*answers[name]) for name in names}
    picture = share_curves(rates, xlabel="1 - specificity", ylabel="sensitivity")
    charts = [(picture, "sensitivity over 1 - specificity", f"ROC{note}", names)]
    bins = task.scores.get("reliability")
    if bins:
        points = {}
        for name in names:
            points[name] = known(bins[name]["predicted"]), known(bins[name]["observed"])
        picture = share_curves(points, xlabel="predicted probability", ylabel="share observed")
        caption = (f"Reliability{note}, in ten bins: on the grey line a probability means what it says; "
                   f"bins of few {run.unit}s scatter")
        charts.append((picture, "share observed over predicted probability", caption, names))
    return charts


def known(values):
    """Empty bins are None."""
    return [value for value in values if value is not None]


def questions(task, rows):
    """-> {label or class: (probability, answer)} of the units where the answer is known.

    Of two classes it is the second only."""
    if task.kind not in ("classes", "labels"):
        return {}
    names = task.classes
    if task.kind == "classes" and len(names) == 2:
        names = names[1:]
    answers = {}
    for name in names:
        column = f"{task.name} target"
        if task.kind == "labels":
            column = f"{task.name}[{name}] target"
        probability, answer = [], []
        for row in rows:
            if row[column] == "":
                continue
            probability.append(float(row[f"{task.name}[{name}] predicted"]))
            if task.kind == "labels":
                answer.append(float(row[column]))
            else:
                answer.append(float(row[column] == name))
        answers[name] = np.array(probability), np.array(answer)
    return answers


def roc(probability, answer):
    """-> false positive rate, true positive rate at every threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-probability, kind="stable")
    is_last = np.append(np.diff(probability[order]) != 0, True)  # of those with one probability
    true = np.cumsum(answer[order])[is_last]
    false = np.cumsum(1 - answer[order])[is_last]
    false_rate = np.append(0, false / false[-1])
    true_rate = np.append(0, true / true[-1])
    return false_rate, true_rate


def learning_curves(run):
    """Training loss, and the number that chose the best epoch."""
    epochs = [float(row["epoch"]) for row in run.log]
    losses = [float(row["train_loss"]) for row in run.log]
    values, metric, name = validated(run)
    charts = []
    if np.isfinite(losses).any():
        picture = curves({"": (epochs, losses)}, xlabel="epoch", ylabel="loss", epochs=True)
        charts.append((picture, "training loss over epochs", "Training loss", []))
    if np.isfinite(values).any():
        label = NAMES.get(metric, metric)
        picture = curves({"": (epochs, values)}, xlabel="epoch", ylabel=label, epochs=True)
        caption = f"Validation, which chose the best epoch: {name}"
        charts.append((picture, f"{name} over epochs", caption, []))
    return charts
