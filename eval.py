"""What a trained model is worth: a run in; metrics, predictions and pictures out.

    python eval.py runs/NAME                       the test split of the run, again
    python eval.py runs/NAME --by sex              subgroups; the default is fst, the Fitzpatrick skin types
                                                   I-IV against V-VI, where there is such a column
    python eval.py runs/NAME --data other.csv      another table, refused if it holds a patient that the run
                                                   learned from: evaluation/other_table.py
    python eval.py runs/NAME --against runs/OTHER  the differences between two runs on the test patients that
                                                   they have in common: evaluation/compare.py
    python eval.py runs/NAME --predict SOURCE --out new.csv
                                                   new images, a folder or a CSV, without targets:
                                                   evaluation/new_images.py
    python eval.py runs/NAME --share FOLDER        report and card without patients' pictures, ids and paths
    python eval.py runs/NAME --export FOLDER       the best model as a folder for the Hub:
                                                   evaluation/export.py

The unit is the patient: the predictions for a patient's images, or groups of N images, are averaged. It is
the image only where the images of a patient have different targets, such as films of several visits, or where
nothing says who the patients are.
Intervals: evaluation/scores.py.
"""
import copy
import math
import os
import shutil
from collections import Counter
from os.path import abspath, basename, isdir, isfile, join
from shlex import quote

os.environ.setdefault("GOMP_SPINCOUNT", "1000")    # as in train.py

import torch

from evaluation.card import USE, write_card
from evaluation.compare import compare
from evaluation.export import export
from evaluation.figures import draw_figures, findings_in, findings_of
from evaluation.localization import find_boxes, score_maps
from evaluation.new_images import had_class_folders, predict_new
from evaluation.other_table import refuse_learned, saved_results
from evaluation.predict import merge_samples, predict_images, read_branches
from evaluation.predictions_file import write_predictions
from evaluation.printing import print_comparison, print_table
from evaluation.probabilities import choose_thresholds, conformal, details
from evaluation.report import share, write_report
from evaluation.scores import constant_predictions, score, score_constant, validation_loss
from evaluation.subgroups import columns_of, score_subgroups
from plumbing.cohort import NO_PATIENTS, SPLITS
from plumbing.columns import tabulate
from plumbing.command import Parser, refuse_empty, run_main
from plumbing.device import find_device
from plumbing.flags import check_ranges
from plumbing.inside import say_outside, stay_inside
from plumbing.lock import EVALUATION_LOCK, lock
from plumbing.match import match
from plumbing.prepare import add_features, load_data, run_options, seen_before
from plumbing.reading import look_at_new
from plumbing.run_folder import save_model, write_json
from plumbing.saved_run import open_model, read_metrics, read_model
from plumbing.splits import read_run_split, sort_by_split
from plumbing.words import PATIENT_COLUMNS

GOES_WITH = {  # flag: what must be asked for; the run alone is its own table
    "split": "the run alone",
    "images": "--data or --predict",
    "target": "--data",
    "by": "--data or the run alone",
    "boxes": "--data or the run alone",
    "figures": "--data or --predict or the run alone",
    "out": "--predict",
    "skip_broken": "--predict",
}


# -----------------------------------------------------------------------------
# the evaluation of a split


def evaluate(model, tasks, cohort, indices, run, options, split="test", by=None, figures=3,
             learned=({}, {}), boxes=None, table=None):
    """Predict a split and write metrics.json, predictions.csv and figures/ to the run folder; -> the metrics.

    indices: {split: images}. val gives the thresholds of operating points, train the constant predictions;
    where these are empty, learned holds both, as saved_results returns them. options: see run_options. by:
    columns of subgroups, besides earlier ones, see subgroups.py. figures: how many patients to draw, of those
    with boxes where there are any. boxes: a CSV, see localization.py; the default is boxes.csv next to the
    table. table: the path of a table other than the run's own. ValueError for an unknown column."""
    thresholds, constants = learned
    columns = columns_of(by, cohort, indices[split], run)
    findings = []
    samples = {}                                                   # predictions of each branch (CrossViT)
    boxes_of = {}                                                  # image -> label -> boxes
    labels_task, _ = findings_of(tasks)
    if labels_task and options["n"] is None:
        boxes_of = find_boxes(boxes, cohort, labels_task.classes, options["size"])
    elif boxes:
        raise ValueError(f"--boxes {boxes}: boxes are of labels, "
                         "and of a model that sees one image at a time")

    def watch(batch, out):
        findings.extend(findings_in(batch, out, tasks, model.config, boxes_of))
        read_branches(tasks, batch, out, samples)

    predictions = predict_images(model, tasks, cohort, indices[split], options, watch, f"evaluating {split}")
    branches = {name: merge_samples(tasks, own, options["by_image"]) for name, own in samples.items()}
    held_out = None
    if split != "val" and indices["val"]:
        held_out = predict_images(model, tasks, cohort, indices["val"], options, progress="looking at val")
        thresholds = {task.name: choose_thresholds(task, held_out) for task in tasks}
    if indices["train"]:
        constants = constant_predictions(tasks, cohort, indices["train"], options["by_image"])
    result = {
        "split": split,
        "patients": len(set(predictions["patient"])),
        "images": sum(map(len, predictions["images"])),
        "unit": "image" if options["by_image"] or not cohort.patients_known else "patient",
        "device": str(options["device"]),
        "patient_ids": cohort.patients_known,
        "by": columns,
    }
    if not cohort.patients_known:
        result["patient_note"] = NO_PATIENTS
    if table:
        result["table"] = table
    for kind in ("seen_before", "warnings"):
        if options.get(kind):
            result[kind] = options[kind]
    for task in tasks:
        constant = constants.get(task.name)
        scores = result[task.key] = score(task, predictions, constant=constant)
        scores.update(details(task, predictions, thresholds.get(task.name)))
        if held_out and task.kind == "regression":
            scores["conformal"] = conformal(task, held_out)
        if options["by_image"]:
            scores["largest"] = max(Counter(predictions["patient"].tolist()).values())
        if constant is not None:
            scores["constant"] = score_constant(task, predictions, constant)
        if "alone" in predictions and options["n"] is None:        # of a model that sees one image at a time
            scores["per_image"] = score(task, predictions["alone"])
        if columns:
            scores["subgroups"] = score_subgroups(task, predictions, columns, cohort, constant)
        if branches:
            scores["branches"] = {name: score(task, alone) for name, alone in branches.items()}
    if findings:
        result["localization"] = score_maps(findings, labels_task.classes)
    write_predictions(join(run, "predictions.csv"), tasks, predictions, cohort)
    write_json(join(run, "metrics.json"), result)
    draw_figures(join(run, "figures"), model, tasks, cohort, predictions, options, figures, boxes_of)
    return result


def rehearse(ready, run):
    """Save the model, open it again, and evaluate one batch of the validation and of the test images before
    the first step: what could not be saved, predicted, drawn or written at the end of a training ends it now.
    Nothing is kept.

    ready: what `prepare` returned. ValueError where the model that is opened answers otherwise."""
    options = ready.options
    folder = join(run, "rehearsal")
    few = {split: images[:options["batch_size"]] for split, images in ready.indices.items()}
    numbers = torch.get_rng_state()                  # training then draws as if this had not been
    try:
        save_model(folder, ready.model, ready.tasks)
        opened, tasks = read_model(folder)
        opened.to(options["device"])
        exact = options | {"autocast": None}
        losses = [validation_loss(tasks, predict_images(model, tasks, ready.cohort, few["val"], exact))
                  for model in (ready.model, opened)]
        if not math.isclose(*losses, rel_tol=1e-4, abs_tol=1e-6):
            raise ValueError("the model predicts something else once it is saved and opened again: is a flag "
                             "no field of its Config, are weights neither parameters nor buffers, or are "
                             "random numbers drawn in evaluation?")
        evaluate(opened, tasks, ready.cohort, {**few, "train": ready.indices["train"]}, folder, options,
                 figures=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        torch.set_rng_state(numbers)


# -----------------------------------------------------------------------------
# the command


def make_parser():
    parser = Parser(__doc__)
    add = parser.add_argument
    add_one_of = parser.add_mutually_exclusive_group().add_argument
    add("run", help="run folder, runs/NAME")
    add("--split", choices=SPLITS, default="test", help="which part of the run's own split")
    add_one_of("--data", help="another table than the run's; all its patients are evaluated")
    add("--images", help="image folder of the table of --data or --predict")
    add("--target", help="targets of the table of --data, as in train.py; default: those of the run")
    add("--by", help="columns of the table to make subgroups of, e.g. sex,age,site, besides "
        "earlier ones, and fst where there is such a column")
    add("--boxes", help="CSV of boxes to compare the maps with: image,label,x0,y0,x1,y1; "
        "default: boxes.csv next to the table")
    add_one_of("--against", metavar="RUN",
               help="another run: differences of the metrics on the test patients that both have")
    add_one_of("--predict", metavar="SOURCE",
               help="new images without targets: a CSV, or a folder with one sub-folder per patient")
    add("--out", metavar="CSV", help="where --predict writes")
    add("--skip-broken", action="store_true",
        help="with --predict: list pictures that cannot be read, and go on")
    add_one_of("--export", metavar="FOLDER",
               help="write the best model, its config and a model card to a new folder, for the Hub")
    add_one_of("--share", metavar="FOLDER",
               help="write report and model card to a new folder, without patients' pictures, ids and paths")
    add("--figures", type=int, help="patients to draw; default: 3, and 0 with --predict")
    add("--device", default="auto", help="auto, cpu, cuda, mps")
    return parser


def check_flags(args, default_of):
    """ValueError for an empty flag, a flag that what is asked for does not use, and --predict without
    --out."""
    refuse_empty(args, ("run",))
    check_ranges(args)
    asked = "the run alone"
    for flag in ("data", "predict", "against", "export", "share"):
        if getattr(args, flag):
            asked = f"--{flag}"
    for flag, owners in GOES_WITH.items():
        if getattr(args, flag) != default_of(flag) and asked not in owners:
            raise ValueError(f"--{flag.replace('_', '-')} goes together with {owners}, not with {asked}")
    if args.predict and not args.out:
        raise ValueError("--predict SOURCE and --out CSV go together")


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    check_flags(args, parser.get_default)
    if args.predict:
        predicted = predict_new(
            args.run,
            args.predict,
            args.out,
            images=args.images,
            skip_broken=args.skip_broken,
            figures=args.figures or 0,
            device=args.device,
        )
        print(f"{predicted} in {args.out}")
    elif args.export:
        print(USE[export(args.run, args.export)])
        print(f"{args.export} holds the model and its card. "
              f"Read the card, write its license into it, then: hf upload ORG/NAME {quote(args.export)} .")
    elif args.share:
        share(args.run, args.share)
        print(f"{args.share}: report.html and README.md, without patients' pictures, ids and paths")
    elif args.against:
        result = compare(args.run, args.against)
        path = join(args.run, f"against-{basename(abspath(args.against))}.json")
        write_json(path, result)
        print_comparison(result)
        print(path)
    else:
        evaluate_run(args)


def evaluate_run(args):
    """Evaluate a run on a part of its own split, or on another table, as the flags say."""
    device = find_device(args.device)
    model, tasks, saved = open_model(args.run)
    stay_inside(saved, args.run)
    learned = {}, {}
    own = copy.copy(saved)
    if args.data:
        if isfile(args.data) and had_class_folders(saved):         # then a table needs no ids either
            saved.patient_column = f"{PATIENT_COLUMNS}|image"
            saved.target = f"{tasks[0].name}:{tasks[0].kind}"
        elif isdir(args.data) and not had_class_folders(saved):    # it has no columns
            saved.patient_column = saved.patient_regex = saved.image_column = saved.target = None
        saved.data = args.data
        saved.images = args.images
        saved.target = args.target or saved.target
        saved.split_column = None if isdir(args.data) else "none"  # all of its patients are evaluated
        learned = saved_results(args.run)
    else:
        say_outside(saved.data, args.run)
    cohort = match(load_data(saved, trains=False), tasks, args.run)
    cohort, notes = tabulate(cohort, model.columns)
    if args.data:
        refuse_learned(cohort, args.run, own)
        notes = cohort.notes + notes + look_at_new(saved, cohort)
        indices = {"train": [], "val": [], "test": range(len(cohort.paths))}
    else:
        indices = own_split(cohort, saved.data, args.run)
    for note in notes:
        print(note)
    folder = result_folder(args, cohort)
    table = args.data and abspath(args.data)
    before = read_metrics(folder)
    if before.get("table", table) != table:
        raise ValueError(f"{folder} holds the results of another {cohort.name}; rename that folder")
    options = run_options(saved, model, cohort, device)
    # a run with which this one began, or its table, may be gone by now
    options["seen_before"] = before.get("seen_before") or seen_before(saved, cohort, indices)
    options["warnings"] = before.get("warnings") or [note for note in notes if "WARNING" in note]
    add_features(saved, model.to(device), cohort, options)
    figures = 3 if args.figures is None else args.figures
    with lock(join(folder, EVALUATION_LOCK), wait=True):
        result = evaluate(model, cohort.tasks, cohort, indices, folder, options, args.split,
                          by=args.by, figures=figures, learned=learned, boxes=args.boxes, table=table)
        page = write_report(args.run, folder)
        if folder == args.run:
            write_card(args.run)
        elif os.access(args.run, os.W_OK) and isfile(join(args.run, "metrics.json")):
            write_report(args.run)                                 # its page links to those in its folder
    print_table(cohort.tasks, result)
    print(page)


def result_folder(args, cohort):
    """-> the folder to write to: the run for the test patients of its own table, else a folder in it; if the
    run cannot be written, a folder in the current one."""
    name = f"{cohort.name}-{args.split}"
    folder = args.run
    if not os.access(args.run, os.W_OK):
        folder = f"{basename(abspath(args.run))}-{name}"
        print(f"{args.run} cannot be written: the results go to {folder}")
    elif args.data or args.split != "test":
        folder = join(args.run, name)
    os.makedirs(folder, exist_ok=True)
    return folder


def own_split(cohort, table, run):
    """-> {split: images} as in the run's split.csv. ValueError if its table has other patients by now."""
    split_of = read_run_split(run)
    changed = set(cohort.patients) ^ set(split_of)
    if changed:
        raise ValueError(f"{table} has changed: patient {min(changed)} is not both in it "
                         f"and in {run}/split.csv")
    return sort_by_split(cohort, split_of)[0]


if __name__ == "__main__":
    run_main(main, make_parser())
