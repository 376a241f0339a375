"""The charts of a run: what was predicted, from predictions.csv, and the learning curves, from log.csv.

A chart is a tuple (picture, alternative text, caption, names of its lines in the order of their colors).
"""
import numpy as np

from evaluation.canvas import PALETTE
from evaluation.metrics import NAMES, by_score
from evaluation.plots import curve, histogram, scatter, share_curves
from evaluation.predictions_file import read_rows
from evaluation.probabilities import questions
from evaluation.run_text import validated
from evaluation.scores import known_units


def task_charts(run, task):
    """-> the charts of one task; none for times to an event."""
    if task.kind == "survival":
        return []
    predictions = read_rows([task], run.predictions)
    if task.kind == "regression":
        return regression_charts(task, predictions)
    answers = {}
    for name, (probability, answer, _) in questions(task, predictions).items():
        if len(set(answer)) == 2:                    # otherwise there is nothing to tell apart
            answers[name] = probability, answer
    if not answers:
        return []
    return probability_charts(run, task, answers)


def regression_charts(task, predictions):
    """Predicted against actual, and the errors; none of a single unit."""
    name = task.name
    predicted, actual, _ = known_units(task, predictions)
    if len(actual) < 2:
        return []
    dots = scatter(actual, predicted, xlabel=f"actual {name}", ylabel=f"predicted {name}")
    bars = histogram(predicted - actual, xlabel=f"predicted {name} - actual {name}")
    return [
        (dots, "predicted over actual values", f"Predicted and actual {name}", []),
        (bars, "histogram of the errors", f"Errors of the predicted {name}", []),
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
    rates = [roc(*answers[name]) for name in names]
    picture = share_curves(rates, xlabel="1 - specificity", ylabel="sensitivity")
    charts = [(picture, "sensitivity over 1 - specificity", f"ROC{note}", names)]
    bins = run.metrics[task.name].get("reliability")
    if bins:
        points = [(known(bins[name]["predicted"]), known(bins[name]["observed"])) for name in names]
        picture = share_curves(points, xlabel="predicted probability", ylabel="share observed")
        caption = (f"Reliability{note}, in ten bins: on the grey line a probability means what it says; "
                   f"bins of few {run.metrics['unit']}s scatter")
        charts.append((picture, "share observed over predicted probability", caption, names))
    return charts


def known(values):
    """Empty bins are None."""
    return [value for value in values if value is not None]


def roc(probability, answer):
    """-> false positive rate, true positive rate at every threshold, from (0, 0) to (1, 1)."""
    [positive], [negative] = by_score(-probability, answer, np.ones((1, len(answer))))
    false_rate = np.append(0, negative.cumsum() / negative.sum())
    true_rate = np.append(0, positive.cumsum() / positive.sum())
    return false_rate, true_rate


def learning_curves(run):
    """Training loss, and the number that chose the best epoch."""
    epochs = [float(row["epoch"]) for row in run.log]
    losses = [float(row["train_loss"]) for row in run.log]
    values, metric, name = validated(run)
    caption = f"Validation, which chose the best epoch: {name}"
    charts = []
    for ys, label, caption in ((losses, "loss", "Training loss"), (values, NAMES[metric], caption)):
        if np.isfinite(ys).any():
            charts.append((curve(epochs, ys, label), f"{label} over epochs", caption, []))
    return charts
