"""What a trained model is worth: metrics with intervals, beside a constant, by subgroup; predictions; pictures.

    python eval.py runs/NAME                       the test split of the run, again
    python eval.py runs/NAME --by sex              subgroups; without --by it is fst, Fitzpatrick I-IV against V-VI, if there
    python eval.py runs/NAME --data other.csv      another table, refused when it holds a patient the run learned from
    python eval.py runs/NAME --against runs/OTHER  the differences of two runs on the test patients they have in common: compare.py
    python eval.py runs/NAME --predict SOURCE --out new.csv        new images, a folder or a CSV, without targets: deploy.py
    python eval.py runs/NAME --export FOLDER       the best model as a folder for the Hub: deploy.py

The unit is the patient: the predictions for his images, or groups of N images, are averaged. Only where the images of a
patient have targets of their own (`follow-up` films, say) is it the image. What a number is worth: metrics.py.
"""
import argparse
import json
import os
import re
from dataclasses import replace

import numpy as np

from data import Samples, make_loader
from evaluation.card import write_card
from evaluation.compare import compare, print_comparison
from evaluation.export import export
from evaluation.figures import draw_figures, findings_of, grids_of, looked_at, maps_of
from evaluation.localization import each_map, look, read_boxes, score_maps
from evaluation.new_images import predict_new
from evaluation.metrics import METRICS, ratio
from evaluation.predict import predict, write_predictions
from evaluation.printing import print_table
from evaluation.report import write_report
from evaluation.scores import choose_thresholds, details, score
from plumbing.cohort import SPLITS, per_patient
from plumbing.command import run_main
from plumbing.device import fast_float32, find_device
from plumbing.models import open_model
from plumbing.prepare import add_features, load_data, run_options
from plumbing.columns import tabulate
from plumbing.run_folder import write_json
from plumbing.splits import read_run_split


SMALL = 20                                                         # patients: of fewer a subgroup's metrics say little


def constant_prediction(task, target):
    """The best that can be said without looking: the median of the training targets, the shares of the classes or labels, or
    the same risk for all."""
    known = ~np.isnan(target)
    if task.kind == "survival":
        return 0.0
    if task.kind == "labels":
        return np.nan_to_num(ratio(np.nansum(target, 0), known.sum(0)))      # 0 for a label never known: any constant ranks alike
    if task.kind == "regression":
        return np.median(target[known])
    return np.bincount(target[known].astype(int), minlength=len(task.classes)) / known.sum()


def subgroup(column, value):
    """The group a table cell belongs to. Fitzpatrick types are grouped as in MultiViT's Table 2, ages in three."""
    if re.search(r"fst|fitzpatrick", column.lower()) and re.fullmatch(r"[1-6](\.0)?", value):
        return "I-IV" if float(value) <= 4 else "V-VI"
    if re.search(r"(^|[ _])age($|[ _])", column.lower()) and re.fullmatch(r"\d+(\.\d+)?Y?", value):       # 058Y in older NIH tables
        years = float(value.rstrip("Y"))
        return "0-39" if years < 40 else "40-59" if years < 60 else "60+"
    return value or "(blank)"


def evaluate(model, tasks, cohort, indices, run, options, split="test", by=None, figures=3, thresholds=None, boxes=None):
    """Predict a split and write metrics.json, predictions.csv and figures/ to the run folder; -> the metrics.

    indices: {split: images}, of which train gives the constant predictor, and val the thresholds of operating points, unless
    they are given; options: dict of size, n, r, channels, batch_size, workers, device, autocast, by_image, and folder where there
    is a cache; by: column of the subgroups, a patient is in that of his first image; boxes: a CSV of boxes, see localization.py,
    by default boxes.csv beside the table; images that have some are drawn."""
    if by and by not in cohort.columns:
        raise ValueError(f"--by {by}: no such column, there are {', '.join(cohort.columns)}")
    device, by_image = options["device"], options["by_image"]

    def loader(part):
        samples = Samples(cohort, indices[part], options["size"], options["n"], options["r"], options["channels"], folder=options.get("folder"))
        return make_loader(samples, options["batch_size"], workers=options["workers"])[0]

    shown = {}                                                     # patient -> images, what the model looked at
    grids, (findings, first) = grids_of(model.config), findings_of(tasks)
    beside = os.path.join(cohort.folder, "boxes.csv") if cohort.folder else ""
    boxes = boxes or beside * os.path.isfile(beside)
    boxes = read_boxes(boxes, cohort, findings.classes) if boxes and findings and options["n"] is None else {}
    seen_boxes = []                                                # (patient, label, {map: its numbers})

    def watch(batch, out):
        """Keep what the model looked at of the first patients, and hold every map against the boxes."""
        for i, patient in enumerate(batch["patient"]):
            marked = boxes.get(batch["index"][i][0], {})
            draw = len(shown) < figures and patient not in shown and (marked or not boxes)
            maps = each_map(out, i, grids, first) if marked or draw and findings and "label_map" in out else {}
            seen_boxes.extend((patient, label, {name: look(map(label), box) for name, map in maps.items()}) for label, box in marked.items() if maps)
            if draw:
                there = marked or {label: [] for label in batch["targets"][findings.name][i].eq(1).nonzero()[:, 0].tolist()} if maps else {}
                shown[patient] = batch["index"][i], {**looked_at(out, i), "findings": maps_of(findings, there, maps)}

    table = predict(model, tasks, loader(split), device, by_image, options["autocast"], watch, f"evaluating {split}")
    thresholds = thresholds or {}
    if not thresholds and split != "val" and indices.get("val") and any(task.kind in ("classes", "labels") for task in tasks):
        chosen = predict(model, tasks, loader("val"), device, by_image, options["autocast"], progress="choosing thresholds on val")
        thresholds = {task.name: choose_thresholds(task, chosen) for task in tasks}
    result = {"split": split, "patients": len(set(table["patient"])), "images": sum(map(len, table["images"])),
              "unit": "image" if by_image else "patient", "device": str(device)}
    member = np.array([subgroup(by, cohort.columns[by][images[0]]) for images in table["images"]]) if by else ()
    train = list(indices["train"]) if by_image else [images[0] for images in cohort.groups(indices["train"]).values()]
    agreed = cohort if by_image else per_patient(cohort)           # where a patient's first image has no target, another may
    for task in tasks:
        result[task.name] = {**score(task, table), **details(task, table, thresholds.get(task.name))}
        if train:
            value = constant_prediction(task, agreed.targets[task.name][train])
            constant = {**table, "prediction": {task.name: np.broadcast_to(value, table["prediction"][task.name].shape)}}
            constant = score(task, constant, resamples=0)
            result[task.name]["constant"] = {name: constant[name] for name in METRICS[task.kind]}
        if by:
            groups = {f"{by} {name}": score(task, table, keep=np.flatnonzero(member == name)) for name in sorted(set(member))}
            result[task.name]["subgroups"] = {name: {**group, "small": group["patients"] < SMALL} for name, group in groups.items()}
    if seen_boxes:
        result["localization"] = score_maps(seen_boxes, findings.classes)
    write_predictions(os.path.join(run, "predictions.csv"), tasks, table, cohort)
    write_json(os.path.join(run, "metrics.json"), result)
    draw_figures(os.path.join(run, "figures"), tasks, table, cohort, shown, model.config, options["size"])
    return result


def match(cohort, tasks, run):
    """The cohort with those of the run's tasks that it has targets of. Classes and labels are found by name, whatever their
    order in this table; a label that it lacks is unknown, a class that the run has not learned is an error."""
    theirs, targets = {task.name: task for task in cohort.tasks}, {}
    tasks = [task for task in tasks if task.name in theirs]
    if not tasks:
        raise ValueError(f"{cohort.name} has targets of {', '.join(theirs)}, of which {run} predicts none")
    for task in tasks:
        there, values = theirs[task.name], cohort.targets[task.name]
        if there.kind != task.kind:
            raise ValueError(f"{cohort.name}: {task.name} is a task of {there.kind}, in {run} of {task.kind}; --target says which")
        place = [task.classes.index(c) if c in task.classes else None for c in there.classes]
        if task.kind == "classes":
            if None in place:
                raise ValueError(f"{cohort.name}: {task.name} {there.classes[place.index(None)]!r} is unknown to {run}, "
                                 f"which knows {', '.join(task.classes)}")
            values = np.where(np.isnan(values), values, np.array(place)[np.nan_to_num(values).astype(int)])
        elif task.kind == "labels":
            if not set(place) - {None}:
                raise ValueError(f"{cohort.name}: has none of the labels of {run}, {', '.join(task.classes)}")
            values = np.stack([values[:, place.index(i)] if i in place else np.full(len(values), np.nan) for i in range(len(task.classes))], 1)
        targets[task.name] = values.astype(np.float32)
    return replace(cohort, tasks=tasks, targets=targets)


def saved_thresholds(run):
    """The thresholds that the run chose on its own validation split: another table has none."""
    try:
        with open(os.path.join(run, "metrics.json"), encoding="utf-8") as file:
            return {task: {name: point["threshold"] for name, point in scores.get("operating_point", {}).items()}
                    for task, scores in json.load(file).items() if isinstance(scores, dict)}
    except (OSError, ValueError):
        return {}                                                  # not evaluated yet: no operating point


def main(argv=None):

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.add_argument("run", help="run folder, runs/NAME")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part of the run's own split")
    parser.add_argument("--data", help="another table than the run's; all its patients are evaluated")
    parser.add_argument("--images", help="image folder of that table")
    parser.add_argument("--target", help="targets of that table, as in train.py; default: as the run was told")
    parser.add_argument("--by", help="column of the table to make subgroups of, e.g. fst, sex, age, site; default: fst where there is one")
    parser.add_argument("--boxes", help="CSV of boxes to hold the maps against: image,label,x0,y0,x1,y1; default: boxes.csv beside the table")
    parser.add_argument("--against", metavar="RUN", help="another run: differences of the metrics on the test patients they have in common")
    parser.add_argument("--predict", metavar="SOURCE", help="new images without targets: a CSV, or a folder with a sub-folder a patient")
    parser.add_argument("--out", metavar="CSV", help="where --predict writes")
    parser.add_argument("--skip-broken", action="store_true", help="with --predict: list pictures that cannot be read, and go on")
    parser.add_argument("--export", metavar="FOLDER", help="write the best model, its config and a model card to a new folder, for the Hub")
    parser.add_argument("--figures", type=int, help="patients to draw; default 3, and 0 with --predict")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    if args.data and args.split != "test" or not (args.data or args.predict) and args.images or not args.data and args.target:
        raise ValueError("--split is of the run's own table, --images and --target belong to another one, --data")
    if bool(args.predict) != bool(args.out) or args.skip_broken and not args.predict:
        raise ValueError("--predict SOURCE, --out CSV and --skip-broken go together")
    if bool(args.data) + bool(args.predict) + bool(args.against) + bool(args.export) > 1:
        raise ValueError("--data, --predict, --against and --export are four things to do; give one")
    if args.predict:
        rows = predict_new(args.run, args.predict, args.out, args.images, args.skip_broken, args.figures or 0, args.device)
        return print(f"{rows} patients in {args.out}")
    if args.export:
        library = export(args.run, args.export)
        return print(f"{args.export} holds the model for {library}, and its card. Read the card, then: hf upload ORG/NAME {args.export} .")
    if args.against:
        result = compare(args.run, args.against)
        print_comparison(result)
        path = os.path.join(args.run, f"against-{os.path.basename(os.path.abspath(args.against))}.json")
        write_json(path, result)
        return print(path)
    device = find_device(args.device)
    model, tasks, saved = open_model(args.run)
    if args.data:
        saved.data, saved.images, saved.target, saved.split_column = args.data, args.images, args.target or saved.target, None
    cohort, notes = tabulate(match(load_data(saved), tasks, args.run), model.columns)
    print(*notes, sep="\n", end="\n" * bool(notes))
    where = read_run_split(args.run)
    if args.data:
        seen = sorted(patient for patient in set(cohort.patients) if where.get(patient) in ("train", "val"))
        if seen:
            raise ValueError(f"{args.data}: patient {seen[0]} is in the {where[seen[0]]} split of {args.run}"
                             + f" ({len(seen)} such patients)" * (len(seen) > 1))
        indices = {"train": [], "test": range(len(cohort.paths))}
    else:
        if changed := set(cohort.patients) ^ set(where):
            raise ValueError(f"{saved.data} has changed: patient {min(changed)} is not both there and in {args.run}/split.csv")
        indices = {split: [i for i, patient in enumerate(cohort.patients) if where[patient] == split] for split in SPLITS}
    thresholds = saved_thresholds(args.run) if args.data else None
    folder = args.run                                              # what the run itself wrote is of its test split
    if args.data or args.split != "test":
        folder = os.path.join(args.run, f"{cohort.name}-{args.split}")
        os.makedirs(folder, exist_ok=True)
    by, options = args.by or ("fst" if "fst" in cohort.columns else None), run_options(saved, model, cohort, device)
    fast_float32(model, device)                                    # as in training, to the last bit
    add_features(saved, model.to(device), cohort, options)
    figures = 3 if args.figures is None else args.figures
    result = evaluate(model, cohort.tasks, cohort, indices, folder, options, args.split, by, figures, thresholds, args.boxes)
    print_table(cohort.tasks, result)
    if folder == args.run:
        write_card(args.run)
        print(write_report(args.run))


if __name__ == "__main__":

    run_main(main)
