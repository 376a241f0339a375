"""The charts of a run: what was predicted, from predictions.csv, and the learning curves, from log.csv.
"""
from typing import NamedTuple

import numpy as np
from PIL import Image

from evaluation import curves
from evaluation.canvas import PALETTE
from evaluation.chart import Axis, HEIGHT
from evaluation.metrics import METRICS, NAMES
from evaluation.plots import confusion, dots, histogram, line_chart
from evaluation.predictions_file import read_rows
from evaluation.probabilities import questions
from evaluation.run_text import best_epoch, validated
from evaluation.scales import limits
from evaluation.scores import known_units


SHARES = (-0.02, 1.02)                               # limits of an axis from 0 to 1
RARE = 0.1                                           # share of positives below which ROC curves flatter
RATES = {  # name: points, area, axes, a grey line, caption
    "roc": (curves.roc, "auroc", "1 - specificity", "sensitivity", ((0, 1), (0, 1)),
            "ROC, with positives in the key; grey: chance"),
    "precision_recall": (curves.precision_recall, "auprc", "recall", "precision", ((), ()),
                         "Precision and recall of what is rare, with positives in the key: their share is chance"),
}
BAND = ". Band: 95 % of resamples; dot: the operating point"


class Figure(NamedTuple):
    """name: of its file; text: its caption."""
    name: str
    picture: Image.Image
    text: str

    def alt(self):
        """What is to be seen, in words."""
        return f"{self.text}. {self.picture.info['key']}"


def task_charts(run, task):
    """-> the figures of one task."""
    predictions = read_rows([task], run.predictions)
    scores, unit = run.metrics[task.name], run.metrics["unit"]
    if task.kind == "regression":
        charts = regression_charts(task, predictions, unit)
    elif task.kind == "survival":
        charts = survival_charts(task, predictions)
    else:
        charts = probability_charts(task, predictions, scores, unit)
    return charts + subgroup_charts(task, scores)


def regression_charts(task, predictions, unit):
    """Predicted over actual, agreement, errors; none of a single unit."""
    name = task.name
    predicted, actual, _ = known_units(task, predictions)
    if len(actual) < 2:
        return []
    ends = limits([actual, predicted])
    mean, difference = (actual + predicted) / 2, predicted - actual
    bias = curves.agreement(mean, difference)
    scatter = line_chart(
        curves.fit(actual, predicted),
        Axis(ends, f"actual {name}"),
        Axis(ends, f"predicted {name}"),
        width=HEIGHT,
        dots=(actual, predicted),
        reference=(ends, ends),
    )
    errors = f"predicted - actual {name}"
    agreement = line_chart(
        [bias],
        Axis(limits(mean), f"mean of actual and predicted {name}"),
        Axis(limits([*difference, *bias.low, *bias.high, 0]), errors),
        dots=(mean, difference),
        reference=(limits(mean), (0, 0)),
    )
    return [
        Figure(f"{name}_scatter", scatter, f"Predicted over actual {name}, a dot per {unit}; on the grey line "
               "both are the same"),
        Figure(f"{name}_agreement", agreement, "Bland-Altman: error over the mean of actual and predicted; "
               "95 % of normal errors lie in the band"),
        Figure(f"{name}_errors", histogram(difference, errors), f"Errors of the predicted {name}; "
               "black: no error, blue: their mean"),
    ]


def survival_charts(task, predictions):
    """Kaplan-Meier by thirds of the predicted risk."""
    risk, target, _ = known_units(task, predictions)
    if len(risk) < 3:
        return []
    time, event = target.T
    x, y = Axis((0, 1.04 * time.max()), task.classes[0]), Axis((0, 1.04), "share without the event")
    picture = line_chart(curves.kaplan_meier(risk, time, event), x, y)
    return [Figure(f"{task.name}_kaplan_meier", picture, "Kaplan-Meier by thirds of the predicted risk: "
                   "good predictions keep the lines apart, the lowest risk on top")]


def probability_charts(task, predictions, scores, unit):
    """ROC, precision-recall of what is rare, calibration, and the confusion of classes."""
    asked = {}
    for name, question in questions(task, predictions).items():
        if len(set(question[1])) == 2:               # otherwise there is nothing to tell apart
            asked[name] = question
    charts = []
    for kind, (points, area, x, y, reference, text) in RATES.items():
        lines = []
        for name, question in asked.items():
            if kind == "roc" or question[1].mean() < RARE:
                point = scores.get("operating_point", {}).get(name)
                lines.append(curves.rates(points, area, name, question, point))
        together = len(PALETTE) if len(lines) <= len(PALETTE) else 1           # lines in a chart
        for i in range(0, len(lines), together):
            axes = Axis(SHARES, x), Axis(SHARES, y)
            picture = line_chart(lines[i:i + together], *axes, HEIGHT, reference=reference)
            charts.append(Figure(f"{task.name}_{kind}_{i + 1}", picture, text + BAND))
    for name in asked:
        if name in scores.get("reliability", {}):
            charts.append(calibration_chart(task, name, scores["reliability"][name], unit))
    if "confusion" in scores:
        picture = confusion(scores["confusion"], task.classes)
        charts.append(Figure(f"{task.name}_confusion", picture, f"Confusion: {unit}s by their actual class, "
                             "a row each, and the predicted one; shades and percentages are shares of the row"))
    return charts


def calibration_chart(task, name, bins, unit):
    x = Axis(SHARES, "predicted probability")
    y = Axis((-0.04, 1.14), "share observed", names={k / 5: f"{k / 5:.1f}" for k in range(6)})
    counts = [((i + 0.5) / len(bins["units"]), 1.09, count_text(n)) for i, n in enumerate(bins["units"])]
    picture = line_chart([curves.calibration(name, bins)], x, y, reference=((0, 1), (0, 1)), labels=counts)
    text = f"Calibration: on the grey line a probability means what it says; above, the {unit}s in each bin"
    return Figure(f"{task.name}_calibration_{name}", picture, text)


def count_text(n):
    return f"{n}" if n < 10_000 else f"{n // 1000}k"


def subgroup_charts(task, scores):
    """A forest plot of the first metric, a row per subgroup."""
    metric = list(METRICS[task.kind])[0]
    values, intervals = {}, {}
    for name, group in scores.get("subgroups", {}).items():
        row = f"{name}, n {group['patients']}"
        values[row] = [group[metric]["value"]]
        intervals[row] = [group[metric]["low"], group[metric]["high"]]
    if not values:
        return []
    picture = dots(values, f"{NAMES[metric]} of {task.name}", intervals, scores[metric]["value"])
    return [Figure(f"{task.name}_subgroups", picture, "Subgroups: value, 95 % interval, patients; grey: all")]


def learning_curves(run):
    """Training and validation loss, and the number that chose the best epoch; none of a single epoch."""
    epochs = [float(row["epoch"]) for row in run.log]
    if len(epochs) < 2:
        return []
    values, metric, name = validated(run)
    best = best_epoch(values, metric)
    columns = {"training": "train_loss", "validation": "val_loss"}         # old runs lack the second
    losses = {text: [float(row.get(column) or "nan") for row in run.log] for text, column in columns.items()}
    charts = []
    for label, series in (("loss", losses), (NAMES[metric], {f"{name}, validation": values})):
        lines = []
        for text, ys in series.items():
            mark = None
            if best is not None and np.isfinite(ys[best]):
                mark = epochs[best], ys[best]
            if np.isfinite(ys).any():
                lines.append(curves.Line(text, epochs, ys, mark=mark))
        if lines:
            every = [y for line in lines for y in line.ys]
            picture = line_chart(lines, Axis(limits(epochs), "epoch", whole=True), Axis(limits(every), label))
            charts.append(Figure(f"learning_{len(charts) + 1}", picture, f"{label} over the epochs; "
                                 "dot: the epoch that is kept"))
    return charts
