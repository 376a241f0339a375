"""Cohort: images and what is known of them; Task: one thing to predict; Column: one input from the table;
Reading: how image files are read; and one target for all images of a patient.
"""
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np


KINDS = ("regression", "classes", "labels", "survival")
SPLITS = ("train", "val", "test")
NO_PATIENTS = ("no patient ids: every image counts as a patient of its own; "
               "the numbers are of images, not patients")

# entries of metrics.json that are no tasks; a task of such a name is "target NAME" there
OTHER_ENTRIES = """split patients images unit device patient_ids patient_note by localization seen_before
    warnings table a b""".split()
TARGET = "target "


@dataclass(frozen=True)
class Task:
    """One thing to predict. What is learned depends on the kind:

    regression   a number, by the mean squared error of (target - center) / scale, both from the train split
    classes      one of `classes`, by cross entropy
    labels       yes or no for each of `classes`, by binary cross entropy
    loss         nothing: the model brings a loss of its own, and this is it (see MODELS)
    survival     a risk, by Cox's partial likelihood. `classes` names two columns: a time, and whether it is
                 that of the event (1) or of the last look at a patient who had not had it (0)"""
    name: str
    kind: str                        # one of KINDS, or loss
    classes: tuple = ()              # names of the classes or labels
    center: float = 0.0
    scale: float = 1.0
    positive_weight: tuple = ()      # of each label in the loss, () for 1

    @property
    def text(self):
        """ "regression", or "classes: 0, 1, 2"."""
        return f"{self.kind}: {', '.join(self.classes)}" if self.classes else self.kind

    @property
    def key(self):
        """Its entry in metrics.json: its name, but where another entry is called so."""
        if self.name in OTHER_ENTRIES or self.name.startswith(TARGET):
            return TARGET + self.name
        return self.name

    def word(self, value):
        """A value in words: the name of the class, or a number."""
        return self.classes[int(value)] if self.kind == "classes" else f"{value:g}"

    @property
    def outputs(self):
        if self.kind == "survival":
            return 1
        return max(1, len(self.classes))


@dataclass(frozen=True)
class Column:
    """One column of a table as the input of a model.

    number     (x - mean) / std; a blank counts as the mean
    category   a 0 or 1 for each of `values`, all 0 where the cell is none of them
    blanks     adds a 0 or 1 that says whether the cell is blank"""
    name: str
    kind: str                        # number or category
    mean: float = 0.0                # these are statistics of the training split
    std: float = 1.0
    values: tuple = ()
    blanks: bool = False

    @property
    def width(self):
        return max(1, len(self.values)) + self.blanks


@dataclass(frozen=True)
class Reading:
    """How the files of a cohort become what the model sees."""
    window: object = "auto"          # or "own", or a list of (low, high): see grey.py
    fit: str = "stretch"             # or pad, crop: see fit.py
    axes: int = None                 # 2 or 3, where a file may be read as a picture or as a volume


@dataclass
class Cohort:
    """Images and what is known about them. Lists and arrays have an entry per image, in the table's order."""
    name: str
    tasks: list
    patients: list                   # str
    paths: list                      # files, or names of the rows of `pixels`
    targets: dict                    # task -> float32 (images,), (images, L), survival (images, 2); or NaN
    columns: dict = field(default_factory=dict)        # all columns of the table, column -> list of str
    predicted: list = field(default_factory=list)      # the columns that say the targets
    splits: list = None              # official split of every image, train, val or test; None without one
    pixels: np.ndarray = None        # or uint8 (images, h, w), (images, h, w, 3) or (images, d, h, w)
    notes: list = field(default_factory=list)          # what the reader should know, one line each
    folder: str = None               # of the table, for what lies beside it
    features: np.ndarray = None      # float32 (images, ...), read instead of the images: see features.py
    inputs: str = ""                 # columns that a public table offers to --tabular
    tabular: np.ndarray = None       # float32 (images, P), those columns as numbers: see columns.py
    dealt_by: list = None            # tasks, over the first of which splits are spread; default: `tasks`
    reading: Reading = Reading()

    @property
    def patients_known(self):
        """Does anything say who the patients are? Where nothing does, NO_PATIENTS is a note."""
        return NO_PATIENTS not in self.notes

    @property
    def images(self):
        """-> the paths of the files, or the arrays of pixels."""
        return list(self.paths if self.pixels is None else self.pixels)

    def groups(self, indices=None):
        """-> {patient: [indices of images]} in the table's order, of all images or of those in `indices`."""
        if indices is None:
            indices = range(len(self.patients))
        groups = defaultdict(list)
        for i in indices:
            groups[self.patients[i]].append(i)
        return dict(groups)


def per_patient(cohort, how=None):
    """-> a cohort in which all images of a patient carry the same target, label by label.

    how: first, mean or max of the known values where a patient's images differ. ValueError where they differ
    and `how` is None or makes no sense for that kind of task."""
    targets = {}
    groups = cohort.groups()
    for task in cohort.tasks:
        values = cohort.targets[task.name]
        columns = values.reshape(len(values), -1).T                # (1 or L, images)
        names = task.classes if task.kind == "labels" else [task.name] * len(columns)
        unified = [unify(groups, column, task, name, how) for column, name in zip(columns, names)]
        targets[task.name] = np.stack(unified, 1).reshape(values.shape)
    return replace(cohort, targets=targets)


def unify(groups, values, task, name, how):
    """-> float32 (images,), one value for all images of a patient. groups: {patient: [indices of images]};
    name: of the target or the label."""
    choices = {"regression": "first or mean or max", "survival": "first"}.get(task.kind, "first or max")
    values = values.tolist()
    for patient, images in groups.items():
        options = [values[i] for i in images if not math.isnan(values[i])]
        if not options:
            continue
        if min(options) < max(options) and how not in choices.split():
            raise ValueError(f"patient {patient} has images with different targets for {name} "
                             f"({task.word(min(options))} and {task.word(max(options))}); --model vit sees "
                             "one image at a time, each with its own target, or --patient-target "
                             f"{choices} says which counts of a task of {task.kind}")
        chosen = options[0]
        if how == "mean":
            chosen = sum(options) / len(options)
        elif how == "max":
            chosen = max(options)
        for i in images:
            values[i] = chosen
    return np.float32(values)


def targets_agree(cohort):
    """Do all images of a patient carry the same targets?"""
    try:
        per_patient(cohort)
    except ValueError:
        return False
    return True
