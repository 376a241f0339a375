"""A trained run at work: predictions for new images that have no targets.

    python eval.py runs/NAME --predict FOLDER_or_CSV --out new.csv             one row per patient

    new images     a CSV whose patient and image columns have the names of the run's own table, or a folder:
                   the images in one of its sub-folders are one patient, an image beside them is a patient
                   of its own; for a run of class folders every image is, or the names of files say who
    broken images  stop everything, the first by its name; with --skip-broken they are left out, and listed in
                   the last column of their patient's row, even if nothing is left of the patient
"""
import os
import sys
from contextlib import suppress
from dataclasses import replace
from os.path import abspath, dirname, exists, isdir, isfile, splitext
from shlex import quote
from tempfile import TemporaryFile

import numpy as np
from huggingface_hub.utils import tqdm

from data import Samples
from evaluation.figures import draw_figures
from evaluation.other_table import learned_patients
from evaluation.predict import predict_images
from evaluation.predictions_file import image_names, unit_rows
from plumbing.columns import tabulate
from plumbing.command import in_one_line, shown
from plumbing.device import find_device
from plumbing.inside import stay_inside
from plumbing.load_cohort import cohort_of_rows, read_any_folder
from plumbing.patients import identity
from plumbing.prepare import run_options
from plumbing.public_tables import PUBLIC_TABLES, recognize
from plumbing.reading import look_at_new, reading_of
from plumbing.rows import merge_rows, plain_rows
from plumbing.run_folder import write_csv
from plumbing.saved_run import open_model, read_metrics
from plumbing.tables import read_csv
from plumbing.words import PATIENT_COLUMNS


RESIDUALS = ", 90 % of the validation residuals"


# -----------------------------------------------------------------------------
# the images

def load_images(source, args, images=None, columns=()):
    """Folder or CSV -> Cohort without targets.

    args: the run's flags, which say what its columns are called, and who a patient is: of class folders every
    image, or whom its name says, also in a CSV without patient_id; of a table the sub-folder. images: folder
    of a CSV's images, by default its own; columns: of the table, which the model takes as input. ValueError
    names what is missing."""
    if isdir(source):
        if columns:
            raise ValueError(f"--predict {source}: the run takes columns of a table as input; "
                             "give a CSV with them")
        return read_any_folder(source, args.patient_regex, by_folder=not had_class_folders(args))
    if not isfile(source):
        raise ValueError(f"--predict {source}: no such file or folder")
    header, rows = read_csv(source)
    known = PUBLIC_TABLES.get(args.data) or recognize(header)
    if not known and isfile(args.data):                            # its columns of targets may tell
        known = recognize(read_csv(args.data)[0])
    image = args.image_column or known.get("image", "image")
    rows, image, _, notes = plain_rows(source, header, rows, image, args.missing)
    patient = args.patient_column
    if not (patient or known.get("patient")) and had_class_folders(args):
        patient = f"{PATIENT_COLUMNS}|{image}"                     # the first of these that is a column
    cohort = cohort_of_rows(source, header, rows, known, images, patient, image, args.patient_regex)
    cohort.notes += notes
    merge_rows(rows, cohort)
    return cohort


def had_class_folders(args):
    """Was a run trained on class folders, or on MedMNIST, rather than on a table? They may be gone by now."""
    if isfile(args.data) or args.data in PUBLIC_TABLES:
        return False
    return isdir(args.data) or not splitext(args.data)[1]


def without_targets(cohort, tasks):
    """-> the cohort with the run's tasks, all of whose targets are unknown."""
    targets = {}
    for task in tasks:
        shape = len(cohort.paths)
        if task.kind in ("labels", "survival"):
            shape = shape, len(task.classes)
        targets[task.name] = np.full(shape, np.nan, np.float32)
    return replace(cohort, tasks=tasks, targets=targets)


def unreadable(cohort, options):
    """-> the images that cannot be read, of which a line says why; all are read before the model sees any."""
    images = range(len(cohort.paths))
    samples = Samples(cohort, images, options["size"], channels=options["channels"])
    broken = set()
    for i in tqdm(images, desc="reading", leave=False, disable=None):
        try:
            samples[0, i]
        except ValueError as error:
            note(f"skipped: {error}")
            broken.add(i)
    return broken


# -----------------------------------------------------------------------------
# predictions

def predict_new(run, source, out, images=None, skip_broken=False, figures=0, device="auto"):
    """Write what the run's best model predicts for new images to a CSV; -> what its rows are, in words.

    figures: of how many patients pictures are drawn, into a folder beside the CSV. ValueError in one line."""
    check_writable(out)
    device = find_device(device)
    model, tasks, args = open_model(run)
    stay_inside(args, run)
    cohort = without_targets(load_images(source, args, images, model.columns), tasks)
    cohort.reading = reading_of(args)
    cohort, notes = tabulate(cohort, model.columns)
    options = run_options(args, model, cohort, device)
    if "features" in model.inputs:                   # a probe takes images too, and these are seen once
        model.inputs = ("image",)
    broken = set()
    if skip_broken:
        broken = unreadable(cohort, options)
    good = [i for i in range(len(cohort.paths)) if i not in broken]
    try:
        notes += look_at_new(args, cohort, good)
    except ValueError as error:
        raise ValueError(f"{error}; --skip-broken lists such images and goes on") from error
    print_notes(cohort.notes + notes, cohort, run)

    options["folder"] = None                         # the next images will be others
    predictions = {"patient": []}
    if good:
        predictions = predict_images(model.to(device), tasks, cohort, good, options, progress="predicting")
    rows = list(new_rows(tasks, predictions, cohort, broken, half_widths(tasks, run)))
    write_csv(out, rows)
    if good and figures:
        folder = splitext(out)[0] + "-figures"
        draw_figures(folder, model, tasks, cohort, predictions, options, figures, boxes_of={})
        print(f"pictures of what the model looked at, in {folder}: {len(os.listdir(folder))}")
    unit = "patients" if cohort.patients_known else "images, not patients,"
    return f"{len(rows) - 1} {unit}"


def check_writable(out):
    """ValueError, before anything is predicted, where the CSV exists or cannot be written."""
    if exists(out):
        raise ValueError(f"--out {out}: exists; it is not overwritten")
    with in_one_line(f"--out {out}: cannot be written", OSError):
        TemporaryFile(dir=dirname(abspath(out))).close()           # it has no name: a kill leaves nothing
        with suppress(FileNotFoundError):
            os.lstat(f"{out}.part")                                # a name may be too long


def note(text):
    """A line on standard error, in which control characters of a name are shown, not obeyed."""
    print(shown(text), file=sys.stderr)


def print_notes(notes, cohort, run):
    """Print what was filled in, and whether the run knows patients of these names from its training."""
    for text in notes:
        note(f"note: {text}")
    learned = learned_patients(run)
    known = {patient for patient in cohort.patients if identity(patient) in learned}
    if known and cohort.patients_known:
        note(f"note: {len(known)} of these patients, {min(known)} first, have names that are in the train "
             f"or val split of {run}: if they are the same people, this is no test")


def half_widths(tasks, run):
    """-> {task: half the width of the 90 % interval of the validation residuals}, from the run's
    metrics.json; says of which number there is none."""
    widths = {}
    metrics = read_metrics(run)
    for task in tasks:
        width = metrics.get(task.key, {}).get("conformal", {}).get("half_width")
        if width is not None:
            widths[task.name] = width
        elif task.kind == "regression":
            note(f"note: no 90 % interval of {task.name}: {run} has too few validation patients, "
                 f"or is to be evaluated again (python eval.py {quote(run)})")
    return widths


def new_rows(tasks, predictions, cohort, broken, widths):
    """Yield the rows of the CSV: patient, images, predictions of every task, images that were skipped. Before
    the predictions stand the most probable class, or the ends of the interval. Patients keep the source's
    order.

    predictions: as `predict` returns them, of the patients of whom an image can be read; widths: of
    `half_widths`."""
    def answer(task, unit):
        prediction = predictions["prediction"][task.name][unit]
        if task.kind == "classes":
            return {f"{task.name} class": task.classes[prediction.argmax()]}
        if task.name not in widths:
            return {}
        width = widths[task.name]
        return {f"{task.name} from{RESIDUALS}": f"{prediction - width:.4g}",
                f"{task.name} to{RESIDUALS}": f"{prediction + width:.4g}"}

    row_of = {row["patient"]: row for row in unit_rows(tasks, predictions, cohort, 4, answer)}
    header = [*next(iter(row_of.values()), ("patient", "images")), "skipped"]
    yield header
    names = image_names(cohort)
    for patient, images in cohort.groups().items():
        row = {"patient": patient, "skipped": "|".join(names[i] for i in images if i in broken),
               **row_of.get(patient, {})}
        yield [row.get(column, "") for column in header]
