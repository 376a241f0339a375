"""Cohort: images and what is known about them; Task: one thing to predict; Column: one input from the table.
"""
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np


KINDS = ("regression", "classes", "labels", "survival")
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Task:
    """One thing to predict. regression: MSE of (target - center) / scale, both from the training split;
    classes: cross entropy over `classes`; labels: one binary label for each of `classes`; survival: a risk, by Cox's partial
    likelihood of a time and whether it is that of an event (1) or of the last look (0), the two columns in `classes`."""
    name: str
    kind: str                        # one of KINDS
    classes: tuple = ()              # names of the classes or labels
    center: float = 0.0
    scale: float = 1.0
    positive_weight: tuple = ()      # of each label in the loss, () for 1

    @property
    def outputs(self):
        return 1 if self.kind == "survival" else len(self.classes) or 1


@dataclass(frozen=True)
class Column:
    """One column of a table as input of a model. number: (x - mean) / std, a blank counts as the mean; category: a 0/1 for each
    of `values`, all 0 where the cell is none of them. blanks: one more 0/1 that says whether the cell is blank."""
    name: str
    kind: str                        # number or category
    mean: float = 0.0                # all of the training split
    std: float = 1.0
    values: tuple = ()
    blanks: bool = False

    @property
    def width(self):
        return (len(self.values) or 1) + self.blanks


@dataclass
class Cohort:
    """Images and what is known about them; every list and array has one entry an image, in the order of the table."""
    name: str
    tasks: list
    patients: list                   # str
    paths: list                      # files, or names of the rows of `pixels`
    targets: dict                    # task -> float32 (images,), (images, L) or (images, 2) for time and event; NaN where unknown
    columns: dict = field(default_factory=dict)        # all columns of the table, column -> list of str
    splits: list = None              # official split of every image: train, val, test; None where there is none
    pixels: np.ndarray = None        # uint8 (images, h, w), (images, h, w, 3) or (images, d, h, w) when they are not files
    notes: list = field(default_factory=list)          # what the reader should know, one line each
    folder: str = None               # of the table, for what lies beside it
    features: np.ndarray = None      # float32 (images, ...), read instead of the images: data.cached_features
    inputs: str = ""                 # columns a known table offers to --tabular
    tabular: np.ndarray = None       # float32 (images, P), those columns as numbers: see tabulate

    def groups(self, indices=None):
        """{patient: [indices of its images]} in the order of the table."""
        groups = defaultdict(list)
        for i in range(len(self.patients)) if indices is None else indices:
            groups[self.patients[i]].append(i)
        return dict(groups)


NO_PATIENTS = ["no patient ids: every image counts as a patient of its own"]


def per_patient(cohort, how=None):
    """Cohort whose images all carry their patient's target, label by label. how: first, mean or max where a patient's images
    differ; None: they must not."""
    names, who = np.unique(cohort.patients, return_inverse=True)
    targets = {}
    for task in cohort.tasks:
        values = cohort.targets[task.name].reshape(len(who), -1)   # (images, 1 or L)
        L = values.shape[1]
        image, label = np.nonzero(~np.isnan(values))
        known = values[image, label]
        places, first, which = np.unique(who[image] * L + label, return_index=True, return_inverse=True)
        one = known[first]                                         # of every patient and label of which something is known
        differ = np.flatnonzero(one[which] != known)
        if len(differ):
            i = differ[0]
            if how is None:
                raise ValueError(f"patient {names[who[image[i]]]} has images with different targets for "
                                 f"{task.classes[label[i]] if task.kind == 'labels' else task.name} ({one[which[i]]:g} and {known[i]:g}); "
                                 "--patient-target first, mean or max says which counts")
            if how == "mean" and task.kind != "regression" or how == "max" and task.kind == "survival":
                raise ValueError(f"--patient-target {how} does not apply to {task.name}, a task of {task.kind}; "
                                 f"use first{' or max' * (task.kind != 'survival')}")
            if how == "mean":
                one = np.bincount(which, known) / np.bincount(which)
            elif how == "max":
                np.maximum.at(one, which, known)
        filled = np.full(len(names) * L, np.nan, dtype=np.float32)
        filled[places] = one
        targets[task.name] = filled.reshape(-1, L)[who].reshape(cohort.targets[task.name].shape)
    return replace(cohort, targets=targets)


def targets_agree(cohort):
    """Do all images of a patient carry the same targets?"""
    try:
        per_patient(cohort)
    except ValueError:
        return False
    return True
