"""A trained run at work: predictions for new images, and a folder for the Hub. Both are called through eval.py.

    python eval.py runs/NAME --predict FOLDER_or_CSV --out new.csv        a row a patient, no targets needed
    python eval.py runs/NAME --export FOLDER                              weights, config, model card; never uploaded

    new images     a CSV whose patient and image columns are called as in the run's own table, or a folder: what lies in one of
                   its sub-folders is one patient, a picture beside them is a patient of its own
    skipped        without --skip-broken a picture that cannot be read stops everything, with its name; with it, it is left out
                   and stands in the last column of its patient's row, also of a patient of whom nothing is left
    transformers   a plain ViT with one task of classes or labels gets the names of transformers 4, which 5 reads too, and gives
                   the same logits there; any other model keeps ours, which train.py --pretrained reads
"""
import os
import re
import sys
from dataclasses import replace

import numpy as np
from huggingface_hub.utils import tqdm

from data import Samples, make_loader
from evaluation.figures import draw_figures, watcher
from evaluation.predict import predict
from plumbing.cohort import Cohort
from plumbing.columns import tabulate
from plumbing.device import fast_float32, find_device
from plumbing.models import open_model
from plumbing.prepare import run_options
from plumbing.public_tables import KNOWN
from plumbing.run_folder import write_csv
from plumbing.splits import read_run_split
from plumbing.tables import PICTURES, at, finder, pick, read_csv


def load_images(source, args, images=None):
    """Folder or CSV -> Cohort without targets. args: flags of the run, which say what its columns are called."""
    if os.path.isdir(source):
        if getattr(args, "tabular", None) or args.model == "daft" and args.fusion != "image":
            raise ValueError(f"--predict {source}: the run takes columns of a table as input; give a CSV with them")
        paths = sorted(os.path.join(place, file) for place, _, files in os.walk(source) for file in files
                       if file.lower().endswith(PICTURES) and not file.startswith("."))
        patients = [os.path.relpath(path, source).split(os.sep)[0] for path in paths]
        if not paths:
            raise ValueError(f"--predict {source}: no picture ({' '.join(PICTURES)}) below it")
        return Cohort(os.path.basename(os.path.abspath(source)), [], patients, paths, {})
    if not os.path.isfile(source):
        raise ValueError(f"--predict {source}: no such file or folder")
    header, rows = read_csv(source)
    known = KNOWN.get(args.data) or next((known for known in KNOWN.values() if all(pick(header, names) for names in known["header"])), {})
    named = {"patient": args.patient_column or known.get("patient", "patient_id"),
             "image": args.image_column or known.get("image", "image")}
    column = {role: pick(header, names) for role, names in named.items()}
    if lost := next((role for role in column if column[role] is None), None):
        raise ValueError(f"{source}: no column {named[lost]!r}, which is what the run calls the {lost}; there are {', '.join(header[:20])}")
    images = images or os.path.dirname(os.path.abspath(source))
    find, regex = finder(images), ".+" if args.patient_column else known.get("patient_regex", ".+")
    paths = [find(row[column["image"]], at(source, row, column["image"])) for row in rows]
    patients = [(re.search(regex, row[column["patient"]], re.DOTALL) or [""])[0] for row in rows]
    for values, role, missing in ((paths, "image", f"no such image under {images}; --images names the folder"),
                                  (patients, "patient", "no patient")):
        if lost := next((row for row, value in zip(rows, values) if not value), None):
            raise ValueError(f"{at(source, lost, column[role])}: {lost[column[role]]!r}, {missing}")
    return Cohort(os.path.basename(source), [], patients, paths, {}, {name: [row[name] for row in rows] for name in header})


def unreadable(cohort, options):
    """-> {image: why it cannot be read}: every file is read once before the model sees any."""
    found, samples = {}, Samples(cohort, range(len(cohort.paths)), options["size"], channels=options["channels"])
    for i in tqdm(range(len(cohort.paths)), desc="reading", leave=False, disable=None):
        try:
            samples[0, i]
        except ValueError as error:
            found[i] = str(error)
    return found


def predict_new(run, source, out, images=None, skip_broken=False, figures=0, device="auto"):
    """Write what the run's best model says of new images to a CSV, and its pictures beside it; -> the number of its rows."""

    if os.path.exists(out):
        raise ValueError(f"--out {out}: exists; it is not overwritten")
    device = find_device(device)
    model, tasks, args = open_model(run)
    cohort = load_images(source, args, images)
    shapes = {task.name: (len(cohort.paths), *[len(task.classes)] * (task.kind in ("labels", "survival"))) for task in tasks}
    cohort = replace(cohort, tasks=tasks, targets={name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()})
    cohort, notes = tabulate(cohort, model.columns)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    learned = {patient for patient, split in read_run_split(run).items() if split != "test"} & set(cohort.patients)
    if learned:
        print(f"note: {len(learned)} of these patients, {min(learned)} first, have names that are in {run}'s train or val split: "
              "if they are the same people, this is no test", file=sys.stderr)
    options = run_options(args, model, cohort, device)
    fast_float32(model, device)                                    # as in training
    if "features" in model.inputs:                                 # a probe takes images too, and these are seen once
        model.inputs = ("image",)
    broken = unreadable(cohort, options) if skip_broken else {}
    for reason in broken.values():
        print(f"skipped: {reason}", file=sys.stderr)
    good = [i for i in range(len(cohort.paths)) if i not in broken]
    table, shown = {"patient": [], "images": [], "prediction": {}}, {}
    if good:
        samples = Samples(cohort, good, options["size"], options["n"], options["r"], options["channels"])
        loader, _ = make_loader(samples, options["batch_size"], workers=options["workers"])
        table = predict(model.to(device), tasks, loader, device, False, options["autocast"], watcher(shown, figures, tasks, model.config),
                        progress="predicting")
    lines = new_rows(tasks, table, cohort, broken)
    write_csv(out, lines)
    if figures and good:
        draw_figures(os.path.splitext(out)[0] + "-figures", tasks, table, cohort, shown, model.config, options["size"])
    return len(lines) - 1


def new_rows(tasks, table, cohort, broken):
    """-> lines of the CSV: patient, images, prediction of every task, images that were skipped; patients in the order of the source."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in cohort.paths])
    names = [name for task in tasks for name in ([f"{task.name} risk"] if task.kind == "survival" else
                                                 [f"{task.name}[{c}] predicted" for c in task.classes] or [f"{task.name} predicted"])]
    row_of = {patient: i for i, patient in enumerate(table["patient"])}
    lines = [["patient", "images", *names, "skipped"]]
    for patient, images in cohort.groups().items():
        parts = ["|".join(os.path.relpath(cohort.paths[i], root) for i in images if (i in broken) == out) for out in (False, True)]
        said = [""] * len(names)
        if patient in row_of:
            said = [f"{p:.9g}" for task in tasks for p in np.atleast_1d(table["prediction"][task.name][row_of[patient]])]
        lines.append([patient, parts[0], *said, parts[1]])
    return lines
