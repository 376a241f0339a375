"""What a run folder says, in words and tables: the part that report and model card share.
"""
import csv
import json
import os
import shlex
import struct
import time
from types import SimpleNamespace

import numpy as np


NAMES = {"mae": "mean absolute error", "mean_error": "mean error", "rmse": "root mean squared error", "r2": "R²",
         "spearman": "Spearman's correlation", "auroc": "AUROC", "auprc": "average precision", "brier": "Brier score",
         "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "c_index": "concordance"}
CONSTANT = {"regression": "the training median", "classes": "the training shares of the classes",
            "labels": "the training share of each label", "survival": "the same risk for all"}


def read_run(folder):
    """Run folder -> its JSON files, the rows of its CSV files, and the number of its parameters."""
    run = SimpleNamespace(folder=folder, name=os.path.basename(os.path.abspath(folder)))
    try:
        for name, path in (("args", "args.json"), ("config", "best/config.json"), ("metrics", "metrics.json")):
            with open(os.path.join(folder, path), encoding="utf-8") as file:
                setattr(run, name, json.load(file))
        for name in ("log", "split", "predictions"):
            with open(os.path.join(folder, name + ".csv"), newline="", encoding="utf-8") as file:
                setattr(run, name, list(csv.DictReader(file)))
        with open(os.path.join(folder, "best", "model.safetensors"), "rb") as file:          # 8 bytes: length of the JSON head
            head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    except (OSError, ValueError, struct.error) as error:
        raise ValueError(f"{folder}: no evaluated run ({error}); python eval.py {folder} evaluates it") from error
    run.parameters = sum(int(np.prod(tensor["shape"])) for name, tensor in head.items() if name != "__metadata__")
    run.date = time.strftime("%Y-%m-%d", time.localtime(os.path.getmtime(os.path.join(folder, "metrics.json"))))
    run.tasks = [SimpleNamespace(**task, scores=run.metrics[task["name"]]) for task in run.config["tasks"] if task["name"] in run.metrics]
    run.unit = run.metrics.get("unit", "patient")
    return run


def command(args):
    """args.json -> the command that makes this run again; train.py's defaults are spelled out, since they may change."""
    words = ["python", "train.py"]
    for name, value in args.items():
        if name not in ("resume", "overwrite") and value is not None and value is not False:
            words += ["--" + name.replace("_", "-")] + [str(value)] * (value is not True)
    return shlex.join(words)


def number(x):
    return f"{x:.3f}" if x == 0 or 0.01 <= abs(x) < 1000 else f"{x:.3g}"


def interval(entry):
    return f"({number(entry['low'])} to {number(entry['high'])})" if entry["low"] is not None else ""


def metric_names(scores):
    return [name for name, entry in scores.items() if isinstance(entry, dict) and "value" in entry]


def headline(run):
    """The first metric of the first task, in a sentence."""
    task = run.tasks[0]
    name = metric_names(task.scores)[0]
    entry, constant = task.scores[name], task.scores.get("constant", {}).get(name)
    if entry["value"] is None:
        return f"{NAMES.get(name, name)} of {task.name} is undefined: {entry['reason']}."
    said = f"{NAMES.get(name, name)} of {task.name}, {number(entry['value'])} {interval(entry)}, on {task.scores['units']} test {run.unit}s"
    if constant and constant["value"] is not None:
        said += f"; always predicting {CONSTANT.get(task.kind, 'a constant')} gives {number(constant['value'])}"
    return said[0].upper() + said[1:] + "."


def validated(run):
    """-> the values in log.csv that chose the best epoch, [] without, and what they are called."""
    task = run.config["tasks"][0]["name"]
    metric = next((name.removeprefix(f"val_{task}_") for name in (run.log[0] if run.log else ()) if name.startswith("val_")), None)
    return [float(row[f"val_{task}_{metric}"]) for row in run.log if metric], metric, f"{NAMES.get(metric, metric)} of {task}"


def facts(run):
    """[(what, text)]: what was trained on what."""
    args, best, (values, metric, name) = run.args, "", validated(run)
    if np.isfinite(values).any():
        i = (np.nanargmin if metric == "mae" else np.nanargmax)(values)
        best = f"; the best on the validation patients is epoch {run.log[i]['epoch']}, {name} {number(values[i])}"
    shape = [f"{name.upper()} = {args[name]}" for name in ("n", "r") if args.get(name)]
    shape += [f"{name.replace('_', ' ')} {args[name]}" for name in ("fusion", "head", "label_layers") if args.get(name)]
    shape += [f"attention {args['attention']}"] * (args.get("attention", "softmax") != "softmax")
    model = " ".join(str(args[name]) for name in ("model", "mode", "variant", "size") if args.get(name))
    unit = "voxels" if (args.get("image") or "").count("x") == 2 else "px"
    sides = [f"{text}{args[name]} {unit}" for name, text in (("image", ""), ("patch", "patches of ")) if args.get(name)]
    seconds = sum(float(row.get("seconds") or 0) for row in run.log)
    took = f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.2g} seconds"
    epochs = f"{len(run.log)} epoch{'s' * (len(run.log) != 1)}"
    return [("Model", ", ".join([model, *sides, *shape])), ("Parameters", f"{run.parameters:,}"),
            ("Started from", args.get("pretrained") or "weights drawn at random"),
            ("Data", args["data"] + (f", images in {args['images']}" if args.get("images") else "")),
            ("Predicts", "; ".join(f"{task.name} ({task.kind}{': ' * bool(task.classes)}{', '.join(task.classes)})" for task in run.tasks)),
            ("Training", f"{epochs}, {took}{best}"), ("Seed", str(args["seed"])),
            ("Device", ", evaluated on ".join(dict.fromkeys([args["device"], run.metrics.get("device", args["device"])]))),
            ("Evaluated", run.date)]


def split_table(run):
    rows = []
    for split in ("train", "val", "test"):
        mine = [row for row in run.split if row["split"] == split]
        counted = [int(row["images"]) for row in mine if row.get("images")]
        rows.append([{"val": "validation"}.get(split, split), len(mine), sum(counted) if counted else ""])
    return "Split by patient: nobody is in two of them", ["split", "patients", "images"], rows


def tables(task, unit):
    """[(caption, head, rows)] of one task; a cell is a text, a number, or an entry {value, low, high}."""
    def said(entry):
        return entry if entry and entry["value"] is not None else "undefined"

    scores, names, found = task.scores, metric_names(task.scores), []
    constant = scores.get("constant", {})
    count = f"{scores['units']} {unit}s" + f" of {scores['patients']} patients" * (unit != "patient")
    rows = [[NAMES.get(name, name.replace("_", " ")), scores[name], *[said(constant.get(name))] * bool(constant)] for name in names]
    without = f". Constant: always predicting {CONSTANT.get(task.kind, 'the same')}" * bool(constant)
    found.append((f"{count}; 95 % intervals, patients resampled{without}", ["metric", "test", *["constant"] * bool(constant)], rows))
    short = names[:2]
    for caption, what, groups in (("Label by label", "positives", scores.get("per_label")),
                                  ("Subgroups", "patients", scores.get("subgroups"))):
        if groups:
            rows = [[name, f"{group[what]}{', small' * group.get('small', False)}", *(group[metric] for metric in short)]
                    for name, group in groups.items()]
            found.append((caption, ["", what, *(NAMES.get(name, name).split(",")[0] for name in short)], rows))
    if points := scores.get("operating_point"):
        rows = []
        for name, point in points.items():
            rows.append([name, "", {"value": None, **point}, ""])
            if point["threshold"] is not None:
                (tp, tn), (fp, fn) = ([point[f"{a}_{b}s"] for b in ("positive", "negative")] for a in ("true", "false"))
                rows[-1][1:] = (number(point["threshold"]), {**point["sensitivity"], "of": f"{tp} of {tp + fn}"},
                                {**point["specificity"], "of": f"{tn} of {tn + fp}"})
        found.append(("At or above a threshold, chosen on the validation split (Youden's J)",
                      ["", "threshold", "sensitivity", "specificity"], rows))
    if "confusion" in scores:
        found.append((f"Confusion: {unit}s by what was there (rows) and what was said (columns)", ["", *task.classes],
                      [[name, *counts] for name, counts in zip(task.classes, scores["confusion"])]))
    return found


def caveats(run):
    """What these numbers do not say."""
    said = ["Not for clinical use. The model has been tested on this split only, not on another clinic's patients.",
            "Intervals say how much the result depends on which patients are in the test split, not what another training would give: "
            f"this is one seed ({run.args['seed']})."]
    if run.args["data"] in ("psoriasis", "chest", "brain", "bag"):
        said.append("The patients are simulated. The result says that the method works, not how well it does on people.")
    if run.metrics["patients"] < 100:
        said.append(f"{run.metrics['patients']} test patients are few: intervals are wide, and a little too narrow for what they promise.")
    small = [name for task in run.tasks for name, group in task.scores.get("subgroups", {}).items() if group.get("small")]
    if small:
        said.append(f"Fewer than 20 patients, so that little can be said: {', '.join(dict.fromkeys(small))}.")
    for task in run.tasks:
        undefined = {name: entry for name, entry in task.scores.items() if isinstance(entry, dict) and entry.get("value", 0) is None}
        if missing := [f"{name} ({entry['reason']})" for name, entry in undefined.items()]:
            said.append(f"Undefined for {task.name}: {', '.join(missing)}.")
        labels = task.scores.get("per_label", {}).items()
        if missing := [label for label, each in labels if any(each[name]["value"] is None for name in metric_names(each))]:
            said.append(f"Not measurable in this split: {', '.join(missing)}.")
    return said
