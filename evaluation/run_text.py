"""What a run folder says, in words and tables: the document that report and model card share.
"""
import math
import shlex
from os.path import abspath, basename, isabs, join, normpath
from types import SimpleNamespace

import numpy as np
from safetensors import safe_open

from evaluation.metrics import LOWER_IS_BETTER, NAMES
from evaluation.result_tables import MOST, counts, legend, map_tables, number, people, tables
from evaluation.scores import chosen_metric
from evaluation.verdict import verdicts
from plumbing.checkpoints import read_json
from plumbing.command import readable
from plumbing.saved_run import evaluated, read_metrics, tasks_and_columns
from plumbing.simulate import COHORTS
from plumbing.spreadsheet import read_cells
from plumbing.weight_files import refuse_strangers
from plumbing.words import MISSING


SETTINGS = {                                         # flag: how it is said
    "image": "{} px",
    "patch": "patches of {} px",
    "n": "N = {}",
    "r": "R = {}",
    "fusion": "fusion {}",
    "head": "head {}",
    "label_layers": "label layers {}",
    "attention": "attention {}",
}


ON_OR_OFF = ("balanced", "check_files")              # flags that also have a --no- form


def read_run(folder, results=None, public=False):
    """Run folder -> a namespace with what its files hold; results: a folder in it with the evaluation of
    another table or split, from which metrics and predictions come; public: without the warnings about the
    data, which may name patients and files.

    args, config, metrics: the JSON files; own_metrics: those of the run's own test patients, or `metrics`
    before there are any; log, split, predictions: the rows of the CSV files; tasks: those that were
    evaluated; first_task: of the run, which chose the best epoch; parameters: how many; name, folder.
    ValueError for a folder that is not an evaluated run."""
    results = results or folder
    with evaluated(folder):
        run = SimpleNamespace(
            args=publishable(read_json(join(folder, "args.json"))),
            config=read_json(join(folder, "best", "config.json")),
            metrics=read_json(join(results, "metrics.json")),
            log=read_cells(join(folder, "log.csv")),
            split=read_cells(join(folder, "split.csv")),
            predictions=read_cells(join(results, "predictions.csv")),
            folder=results,
            name=basename(abspath(folder)),
        )
        weights = join(folder, "best", "model.safetensors")
        refuse_strangers(weights)
        with readable(weights, "weight file"), safe_open(weights, "numpy") as file:
            run.parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
        tasks, _ = tasks_and_columns(run.config, folder)
        run.first_task = tasks[0]
        run.own_metrics = read_metrics(folder) or run.metrics
        run.tasks = [task for task in tasks if task.key in run.metrics]
        run.tested_on = f"the {run.metrics['split']} split"
        run.metrics.setdefault("unit", "patient")
        if public:
            run.metrics.pop("warnings", None)
    if results != folder:
        run.tested_on = basename(results)
        run.name += f" on {run.tested_on}"
    return run


def publishable(args):
    """args.json without the folders of one's own machine."""
    for name, value in args.items():
        if isinstance(value, str) and (isabs(value) or value.startswith("..")):
            args[name] = basename(normpath(value))
    return args


def command(args):
    """args.json -> the command that makes this run again.

    train.py's defaults are spelled out, since they may change, but for the long one of --missing."""
    words = ["python", "train.py"]
    for name, value in args.items():
        flag = "--" + name.replace("_", "-")
        if name in ("resume", "overwrite") or value in (None, MISSING):
            continue
        if value is False and name in ON_OR_OFF:
            words.append(flag.replace("--", "--no-"))
        elif value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif str(value).startswith("-"):             # would be taken for another flag
            words.append(f"{flag}={value}")
        elif value is not False:
            words += [flag, str(value)]
    return shlex.join(words)


# -----------------------------------------------------------------------------
# the document


def document(run):
    """Yield what page and card say, from top to bottom: (kind, content), a text or a table as in
    result_tables.py.

    At "charts", of a task, and "pictures", of the run, the page shows pictures and the card does not."""
    yield "title", run.name
    for sentence, warnings in verdicts(run.tasks, run.metrics):
        yield "lead", sentence
        for text in warnings:
            yield "warning", text
    yield "facts", ("", ["", ""], facts(run))
    yield "count", split_table(run)
    for task in run.tasks:
        yield "heading", f"Results: {task.name}"
        yield from with_legend(tables(task, run.metrics))
        yield "charts", task
        if len(task.classes) > MOST:
            yield "legend", (f"Charts are of the {MOST} most frequent of {len(task.classes)}, without "
                             "confusion; the numbers of all are in metrics.json")
    if "localization" in run.metrics:
        yield "heading", "Where the maps point"
        yield from with_legend(map_tables(run.metrics["localization"]))
    yield "pictures", None
    yield "heading", "Limits"
    for text in caveats(run):
        yield "limit", text
    yield "heading", "The command"
    yield "command", command(run.args)


def with_legend(made):
    """Yield tables of results, and below them what their marks mean."""
    for table in made:
        yield "entry", table
    for text in legend(made):
        yield "legend", text


def caveats(run):
    """Yield what these numbers do not say, in sentences."""
    yield "Not for clinical use. These numbers are of these patients only."
    yield ("Intervals say how much the result depends on which patients these are, "
           f"not what another training would give: this is one seed ({run.args['seed']}).")
    if run.args["data"] in COHORTS:
        yield ("The model learned from simulated patients. The result says that the method works, "
               "not how well it does on people.")
    if run.metrics["patients"] < 100:
        yield (f"{run.metrics['patients']} {people(run.metrics)} are few: intervals are wide, "
               "and a little too narrow for what they promise.")
    if run.args.get("pretrained"):
        yield f"The weights it started from, {run.args['pretrained']}, have a license of their own."


# -----------------------------------------------------------------------------
# what was trained on what

def facts(run):
    """-> [(name, text or number)]: what was trained on what."""
    args = run.args
    data = args["data"]
    device = args["device"]
    if args.get("images"):
        data += f", images in {args['images']}"
    if run.metrics.get("device", device) != device:                # as of "auto"
        device += f", evaluated on {run.metrics['device']}"
    return [
        ("Model", model_text(args)),
        ("Parameters", f"{run.parameters:,}"),
        ("Started from", args.get("pretrained") or "weights drawn at random"),
        ("Data", data),
        ("Predicts", "; ".join(f"{task.name} ({task.text})" for task in run.tasks)),
        ("Training", training_text(run)),
        ("Seed", args["seed"]),
        ("Device", device),
        ("Tested", f"on {run.tested_on}: {counts(run.metrics)}"),
    ]


def model_text(args):
    """args.json -> the model, the size of its images and patches, and its settings."""
    parts = [" ".join(str(args[name]) for name in ("model", "mode", "variant", "size") if args.get(name))]
    for name, words in SETTINGS.items():
        value = args.get(name)
        if value and value != "softmax":             # the usual attention
            parts.append(words.format(value))
    return ", ".join(parts)


def training_text(run):
    """How many epochs, and which was the best. Not how long they took, nor when: a run that was killed and
    resumed ends with the same bytes."""
    text = f"{len(run.log)} of {run.args['epochs']} epochs"
    values, best, metric = validated(run)
    if best is not None:
        text += (f"; the best on the validation split of {sum(row['split'] == 'val' for row in run.split)} "
                 f"{people(run.own_metrics)} is epoch {run.log[best]['epoch']}, "
                 f"{NAMES[metric]} of {run.first_task.name} {number(values[best])}")
    return text


def validated(run):
    """-> the values in log.csv that chose the best epoch, the index of the best, None where all are NaN, and
    their metric."""
    metric = chosen_metric([run.first_task], run.args.get("select"))
    values = [float(row[f"val_{run.first_task.name}_{metric}"]) for row in run.log]
    if np.isnan(values).all():
        return values, None, metric
    best = np.nanargmax(values)
    if metric in LOWER_IS_BETTER:
        best = np.nanargmin(values)
    return values, int(best), metric


def split_table(run):
    """How many patients and images each split has: a table as in result_tables.py."""
    rows = []
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        patients = [row for row in run.split if row["split"] == split]
        images = [int(row["images"]) for row in patients if row.get("images")]
        rows.append([name, len(patients), sum(images) or ""])
    if run.own_metrics.get("patient_ids", True):
        return "The run's split by patient: nobody is in two parts", ["split", "patients", "images"], rows
    caption = "The run's split by image: one person may be in two parts"
    return caption, ["split", "images, not patients"], [row[:2] for row in rows]
