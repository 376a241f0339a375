"""The charts of a run: what was predicted, from predictions.csv, and the learning curves, from log.csv."""
import numpy as np

from evaluation import curves
from evaluation.canvas import PALETTE
from evaluation.chart import Axis, HEIGHT, limits
from evaluation.metrics import METRICS, NAMES
from evaluation.picture_file import Figure
from evaluation.plots import confusion, dots, histogram, line_chart
from evaluation.predictions_file import read_rows
from evaluation.probabilities import questions
from evaluation.result_tables import MOST, capital
from evaluation.run_text import validated
from evaluation.scores import FEW, known_units


SHARES = (-0.02, 1.02)                               # limits of an axis from 0 to 1
RARE = 0.1                                           # share of positives below which ROC curves flatter
DIAGONAL = (0, 1), (0, 1)
LOSS = ("; training loss: of augmented images, with that of a first stage, survival batch by batch; compare "
        "shapes, not heights")
FEW_TEXT = f"(few: under {FEW} cases or controls, do not trust the curve)"
APART = {  # unit: what the formulas of Wilson and Greenwood take for granted
    "patient": "",
    "image": "; intervals as if no two images were of one person",
}
RATES = {  # name: points, area, axes, a grey line, caption
    "roc": (curves.roc, "auroc", "1 - specificity", "sensitivity", DIAGONAL,
            f"ROC of {{}}, positives in the key {FEW_TEXT}; grey: chance, band: 95 %"),
    "precision_recall": (curves.precision_recall, "auprc", "recall", "precision", None,
                         f"Precision and recall of what is rare in {{}} {FEW_TEXT}; chance is its share, "
                         "band: 95 %"),
}


def task_charts(run, task):
    """-> the figures of one task."""
    predictions = read_rows([task], run.predictions)
    scores = run.metrics[task.key]
    return [*CHARTS[task.kind](task, predictions, scores, run.metrics["unit"]),
            *subgroup_charts(task, scores)]


def regression_charts(task, predictions, scores, unit):
    """Yield predicted over actual, agreement, errors; none of a single unit."""
    name = task.name
    predicted, actual, _ = known_units(task, predictions)
    if len(actual) < 2:
        return
    ends = limits([actual, predicted])
    scatter = line_chart(
        curves.fit(actual, predicted),
        Axis(ends, f"actual {name}"),
        Axis(ends, f"predicted {name}"),
        HEIGHT,
        dots=(actual, predicted),
        reference=(ends, ends),
    )
    yield Figure(f"{name}_scatter", scatter,
                 f"Predicted over actual {name}, a dot per {unit}; on the grey line both are the same")
    mean = (actual + predicted) / 2
    error = predicted - actual
    bias = curves.agreement(mean, error)
    label = f"predicted - actual {name}"
    x = Axis(limits(mean), f"mean of actual and predicted {name}")
    y = Axis(limits([*error, *bias.low, *bias.high, 0]), label)
    agreement = line_chart([bias], x, y, dots=(mean, error), reference=(x.limits, (0, 0)))
    yield Figure(f"{name}_agreement", agreement,
                 "Bland-Altman: error over the mean of both; 95 % of normal errors lie in the band")
    yield Figure(f"{name}_errors", histogram(error, label),
                 f"Errors of the predicted {name}; black: no error, blue: their mean")


def survival_charts(task, predictions, scores, unit):
    """Yield Kaplan-Meier by thirds of the predicted risk."""
    risk, target, _ = known_units(task, predictions)
    if len(risk) < 3:
        return
    time, event = target.T
    x = Axis((0, 1.04 * time.max()), task.classes[0])
    picture = line_chart(curves.kaplan_meier(risk, time, event), x,
                         Axis((0, 1.04), "share without the event"))
    yield Figure(f"{task.name}_kaplan_meier", picture, "Kaplan-Meier by predicted risk: the further apart "
                 f"the lines, the lowest risk on top, the better; bands are 95 %{APART[unit]}")


def probability_charts(task, predictions, scores, unit):
    """Yield ROC, precision-recall of what is rare, calibration, and the confusion of classes; of many classes
    or labels those of the most frequent, and no confusion."""
    asked = {name: question for name, question in questions(task, predictions).items()
             if len(set(question[1])) == 2}          # otherwise there is nothing to tell apart
    frequent = sorted(asked, key=lambda name: asked[name][1].sum(), reverse=True)[:MOST]
    asked = {name: asked[name] for name in asked if name in frequent}
    for kind in RATES:
        yield from rate_charts(kind, task, asked, scores.get("operating_point", {}))
    for name, bins in scores.get("reliability", {}).items():
        if name in asked:
            yield calibration_chart(task, name, bins, unit)
    if "confusion" in scores and len(task.classes) <= MOST:
        yield Figure(f"{task.name}_confusion", confusion(scores["confusion"], task.classes),
                     f"Confusion of {task.name}, {unit}s; percentages are of the row, an actual class")


def rate_charts(kind, task, asked, operating):
    """Yield one chart with all labels or classes; when there are more than colors, one for each."""
    points, area, x, y, reference, text = RATES[kind]
    text = text.format(task.name)
    if operating:
        text += ", dot: the operating point"
    lines = []
    for name, question in asked.items():
        if kind == "roc" or question[1].mean() < RARE:
            threshold = operating.get(name, {}).get("threshold")
            lines.append(curves.rates(points, area, name, question, threshold))
    size = len(PALETTE)
    if len(lines) > size:
        size = 1
    for start in range(0, len(lines), size):
        picture = line_chart(lines[start:start + size], Axis(SHARES, x), Axis(SHARES, y), HEIGHT,
                             reference=reference)
        yield Figure(f"{task.name}_{kind}_{start // size + 1}", picture, text)


def calibration_chart(task, name, bins, unit):
    x = Axis(SHARES, "predicted probability")
    y = Axis((-0.04, 1.14), "share observed", names={0: "0", 0.5: "0.5", 1: "1.0"})
    counts = []
    for i, n in enumerate(bins["units"]):
        text = f"{n}" if n < 10_000 else f"{n // 1000}k"
        counts.append(((i + 0.5) / len(bins["units"]), 1.09, text))
    picture = line_chart([curves.calibration(name, bins)], x, y, reference=DIAGONAL, labels=counts)
    text = f"Calibration of {task.name}, {name}: on the grey line it is perfect; above, {unit}s per bin"
    text += APART[unit]
    return Figure(f"{task.name}_calibration_{name}", picture, text)


CHARTS = {  # kind of task: its charts
    "regression": regression_charts,
    "survival": survival_charts,
    "classes": probability_charts,
    "labels": probability_charts,
    "loss": probability_charts,                      # which asks nothing
}


def subgroup_charts(task, scores):
    """Yield a forest plot of the first metric, a row per subgroup."""
    metric = next(iter(METRICS[task.kind]))
    values = {}
    intervals = {}
    for name, group in scores.get("subgroups", {}).items():
        row = f"{name}, n {group['patients']}"
        if group.get("small"):
            row += " (small)"
        entry = group[metric]
        values[row] = [entry["value"]]
        intervals[row] = [entry["low"], entry["high"]]
    if values:
        picture = dots(values, f"{NAMES[metric]} of {task.name}", intervals, scores[metric]["value"])
        yield Figure(f"{task.name}_subgroups", picture,
                     "Subgroups: value, 95 % interval, patients; grey: all")


def learning_curves(run):
    """Yield training and validation loss, and the number that chose the best epoch; none of one epoch."""
    epochs = [float(row["epoch"]) for row in run.log]
    if len(epochs) < 2:
        return
    values, best, metric = validated(run)
    losses = {}
    for label, column in (("training", "train_loss"), ("validation", "val_loss")):
        losses[label] = [float(row.get(column) or "nan") for row in run.log]           # old runs lack one
    chosen = {f"{NAMES[metric]} of {run.first_task.name}, validation": values}
    for number, label, note, series in ((1, "loss", LOSS, losses), (2, NAMES[metric], "", chosen)):
        lines = []
        for text, ys in series.items():
            mark = None
            if best is not None and np.isfinite(ys[best]):
                mark = best
            if np.isfinite(ys).any():
                lines.append(curves.Line(text, epochs, ys, mark=mark))
        if lines:
            x = Axis(limits(epochs), "epoch", whole=True)
            y = Axis(limits([line.ys for line in lines]), label)
            text = f"{capital(label)} over the epochs; dot: the epoch that is kept{note}"
            yield Figure(f"learning_{number}", line_chart(lines, x, y), text)
