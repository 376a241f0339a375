"""What a run folder says, in words and tables: the part that report and model card share.

A cell of a table is a text, a number, or an entry of metrics.json: {value, low, high}, or {value: None,
reason}. Beside these an entry may hold `of`, the counts that it is made of.
"""
import csv
import json
import os
import shlex
from datetime import date
from types import SimpleNamespace

import numpy as np

from evaluation.entry_text import entry_text, number
from evaluation.metrics import LOWER_IS_BETTER
from plumbing.checkpoints import read_tensors


NAMES = {"mae": "mean absolute error", "mean_error": "mean error", "rmse": "root mean squared error",
         "r2": "R²", "spearman": "Spearman's correlation", "auroc": "AUROC", "auprc": "average precision",
         "brier": "Brier score", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy",
         "c_index": "concordance"}
CONSTANT = {"regression": "the training median", "classes": "the training shares of the classes",
            "labels": "the training share of each label", "survival": "the same risk for all"}
SETTINGS = {"image": "{value} {unit}", "patch": "patches of {value} {unit}", "n": "N = {value}",
            "r": "R = {value}", "fusion": "fusion {value}", "head": "head {value}",
            "label_layers": "label layers {value}", "attention": "attention {value}"}


def read_run(folder):
    """Run folder -> a namespace with what its files hold.

    args, config, metrics: the JSON files; log, split, predictions: the rows of the CSV files; tasks: those of
    the config that were evaluated, each with its scores; parameters: how many; date, unit, name, folder.
    ValueError for a folder that is not an evaluated run."""
    def read(name):
        with open(os.path.join(folder, name), newline="", encoding="utf-8") as file:
            if name.endswith(".json"):
                return json.load(file)
            return list(csv.DictReader(file))

    try:
        run = SimpleNamespace(
            args=read("args.json"), config=read("best/config.json"), metrics=read("metrics.json"),
            log=read("log.csv"), split=read("split.csv"), predictions=read("predictions.csv"))
        tensors = read_tensors(os.path.join(folder, "best", "model.safetensors"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no evaluated run ({error}); "
                         f"python eval.py {folder} evaluates it") from error
    run.folder, run.name = folder, os.path.basename(os.path.abspath(folder))
    run.date = str(date.fromtimestamp(os.path.getmtime(os.path.join(folder, "metrics.json"))))
    run.parameters = sum(tensor.numel() for tensor in tensors.values())
    run.unit = run.metrics.get("unit", "patient")
    run.tasks = []
    for task in run.config["tasks"]:
        if task["name"] in run.metrics:
            run.tasks.append(SimpleNamespace(**task, scores=run.metrics[task["name"]]))
    return run


def command(args):
    """args.json -> the command that makes this run again.

    train.py's defaults are spelled out, since they may change."""
    words = ["python", "train.py"]
    for name, value in args.items():
        if name in ("resume", "overwrite") or value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return shlex.join(words)


def metric_names(scores):
    """-> names of the metrics among the scores of a task or label."""
    return [name for name, entry in scores.items() if isinstance(entry, dict) and "value" in entry]


# -----------------------------------------------------------------------------
# sentences

def headline(run):
    """The first metric of the first task, in a sentence."""
    task = run.tasks[0]
    metric = metric_names(task.scores)[0]
    entry, constant = task.scores[metric], task.scores.get("constant")
    text = f"{NAMES[metric]} of {task.name}, {entry_text(entry)}"
    if entry["value"] is not None:
        text += f", on {task.scores['units']} test {run.unit}s"
        if constant and constant[metric]["value"] is not None:
            text += f"; always predicting {CONSTANT[task.kind]} gives {number(constant[metric]['value'])}"
    return text[0].upper() + text[1:] + "."


def caveats(run):
    """What these numbers do not say: a list of sentences."""
    texts = ["Not for clinical use. The model has been tested on this split only, "
             "not on the patients of another clinic.",
             "Intervals say how much the result depends on which patients are in the test split, "
             f"not what another training would give: this is one seed ({run.args['seed']})."]
    if run.args["data"] in ("psoriasis", "chest", "brain", "bag"):
        texts.append("The patients are simulated. The result says that the method works, "
                     "not how well it does on people.")
    if run.metrics["patients"] < 100:
        texts.append(f"{run.metrics['patients']} test patients are few: intervals are wide, "
                     "and a little too narrow for what they promise.")
    small = []
    for task in run.tasks:
        for name, group in task.scores.get("subgroups", {}).items():
            if group.get("small") and name not in small:
                small.append(name)
    if small:
        texts.append(f"Fewer than 20 patients, so that little can be said: {', '.join(small)}.")
    for task in run.tasks:
        texts += undefined(task)
    return texts


def undefined(task):
    """-> sentences that name the metrics and the labels of a task that could not be measured."""
    metrics, labels, texts = [], [], []
    for name in metric_names(task.scores):
        if task.scores[name]["value"] is None:
            metrics.append(f"{name} ({task.scores[name]['reason']})")
    for label, scores in task.scores.get("per_label", {}).items():
        if any(scores[name]["value"] is None for name in metric_names(scores)):
            labels.append(label)
    if metrics:
        texts.append(f"Undefined for {task.name}: {', '.join(metrics)}.")
    if labels:
        texts.append(f"Not measurable in this split: {', '.join(labels)}.")
    return texts


# -----------------------------------------------------------------------------
# what was trained on what

def facts(run):
    """-> [(name, text or number)]: what was trained on what."""
    args = run.args
    data, device = args["data"], args["device"]
    if args.get("images"):
        data += f", images in {args['images']}"
    if run.metrics.get("device", device) != device:
        device += f", evaluated on {run.metrics['device']}"
    return [("Model", model_text(args)), ("Parameters", f"{run.parameters:,}"),
            ("Started from", args.get("pretrained") or "weights drawn at random"), ("Data", data),
            ("Predicts", "; ".join(map(task_text, run.tasks))), ("Training", training_text(run)),
            ("Seed", args["seed"]), ("Device", device), ("Evaluated", run.date)]


def model_text(args):
    """args.json -> the model, the size of its images and patches, and its settings."""
    parts = [" ".join(args[name] for name in ("model", "mode", "variant", "size") if args.get(name))]
    unit = "px"
    if str(args.get("image")).count("x") == 2:       # 64x64x64
        unit = "voxels"
    for name, words in SETTINGS.items():
        value = args.get(name)
        if value and value != "softmax":             # the usual attention
            parts.append(words.format(value=value, unit=unit))
    return ", ".join(parts)


def task_text(task):
    """-> "grade (classes: low, high)"."""
    kind = task.kind
    if task.classes:
        kind += ": " + ", ".join(task.classes)
    return f"{task.name} ({kind})"


def training_text(run):
    """How many epochs, how long they took, and which was the best."""
    seconds = sum(float(row.get("seconds") or 0) for row in run.log)
    time = f"{seconds:.2g} seconds"
    if seconds > 90:
        time = f"{seconds / 60:.1f} minutes"
    text = f"{len(run.log)} of {run.args['epochs']} epochs, {time}"
    values, metric, name = validated(run)
    if np.isfinite(values).any():
        best = np.nanargmin(values) if metric in LOWER_IS_BETTER else np.nanargmax(values)
        epoch = run.log[best]["epoch"]
        text += f"; the best on the validation patients is epoch {epoch}, {name} {number(values[best])}"
    return text


def validated(run):
    """-> the values in log.csv that chose the best epoch, their metric, and what to call them."""
    task, metric, values = run.config["tasks"][0]["name"], None, []
    for row in run.log:
        for column, value in row.items():
            if column.startswith("val_"):            # there is one
                metric = column.removeprefix(f"val_{task}_")
                values.append(float(value))
    return values, metric, f"{NAMES.get(metric, metric)} of {task}"


# -----------------------------------------------------------------------------
# tables: (caption, head, rows)

def split_table(run):
    """How many patients and images each split has."""
    rows = []
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        patients = [row for row in run.split if row["split"] == split]
        images = [int(row["images"]) for row in patients if row.get("images")]
        rows.append([name, len(patients), sum(images) if images else ""])
    return "Split by patient: nobody is in two of them", ["split", "patients", "images"], rows


def tables(task, unit):
    """-> all tables of one task. unit: patient or image."""
    scores = task.scores
    names = metric_names(scores)[:2]
    result = [metric_table(task, unit)]
    if scores.get("per_label"):
        result.append(group_table("Label by label", "positives", scores["per_label"], names))
    if scores.get("subgroups"):
        result.append(group_table("Subgroups", "patients", scores["subgroups"], names))
    if scores.get("operating_point"):
        result.append(operating_table(scores["operating_point"]))
    if "confusion" in scores:
        caption = f"Confusion: {unit}s by their actual class (rows) and the predicted one (columns)"
        rows = [[name] + counts for name, counts in zip(task.classes, scores["confusion"])]
        result.append((caption, [""] + task.classes, rows))
    return result


def metric_table(task, unit):
    """Every metric on the test split, beside that of the constant predictor where there is one."""
    scores, constant = task.scores, task.scores.get("constant")
    caption, head, rows = f"{scores['units']} {unit}s", ["metric", "test"], []
    if unit != "patient":
        caption += f" of {scores['patients']} patients"
    caption += "; 95 % intervals, patients resampled"
    if constant:
        caption += f". Constant: always predicting {CONSTANT[task.kind]}"
        head.append("constant")
    for name in metric_names(scores):
        row = [NAMES[name], scores[name]]
        if constant and constant[name]["value"] is None:
            row.append("undefined")
        elif constant:
            row.append(constant[name])
        rows.append(row)
    return caption, head, rows


def group_table(caption, counted, groups, metrics):
    """One row per label or subgroup: its name, how many of what is counted, and some metrics."""
    head = ["", counted] + [NAMES[name] for name in metrics]
    rows = []
    for name, group in groups.items():
        count = str(group[counted])
        if group.get("small"):
            count += ", small"
        rows.append([name, count] + [group[metric] for metric in metrics])
    return caption, head, rows


def operating_table(points):
    """One row per label or class: its threshold, and sensitivity and specificity with their counts."""
    def rate(entry, right, wrong):
        return dict(entry, of=f"{right} of {right + wrong}")

    rows = []
    for name, point in points.items():
        if point["threshold"] is None:
            rows.append([name, "", dict(point, value=None), ""])
        else:
            rows.append([name, number(point["threshold"]),
                         rate(point["sensitivity"], point["true_positives"], point["false_negatives"]),
                         rate(point["specificity"], point["true_negatives"], point["false_positives"])])
    caption = "At or above a threshold, chosen on the validation split (Youden's J)"
    return caption, ["", "threshold", "sensitivity", "specificity"], rows
