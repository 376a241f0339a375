"""A folder with one folder of images per class -> Cohort.
"""
import os
import re
from collections import defaultdict

import numpy as np

from plumbing.cohort import Cohort, NO_PATIENTS, SPLITS, SPLIT_NAMES, Task
from plumbing.folders import list_images
from plumbing.tables import shortlist


# in the names of chest_xray, as person12_bacteria_34.jpeg and NORMAL2-IM-0012-0001.jpeg
FILM = re.compile(r"person\d+(?=_(bacteria|virus)_\d+)|(NORMAL2-)?IM-\d+(?=-\d+)")


def read_class_folders(folder):
    """folder/CLASS/*.jpg or folder/SPLIT/CLASS/*.jpg -> Cohort with one task, `class`.

    Every file counts as a patient, except where the names of files say whose they are, as in Kermany's
    chest_xray. An official split is kept, and its patients are told apart by it: the same number in two
    splits need not be the same child. A note says how many such numbers there are."""
    splits, names, paths = read_layout(folder)
    classes = sorted(set(names))
    if len(classes) < 2:
        raise ValueError(f"--data {folder}: need a CSV file, or one folder of images per class "
                         f"(there are {shortlist(classes)})")
    if None in splits and any(splits):
        raise ValueError(f"--data {folder}: {names[splits.index(None)]} is beside the folders of a split "
                         f"and none of {', '.join(SPLITS)}")
    patients, notes = name_patients(folder, splits, paths)
    targets = np.array([classes.index(name) for name in names], dtype=np.float32)
    return Cohort(name=os.path.basename(os.path.abspath(folder)),
                  tasks=[Task("class", "classes", tuple(classes))], patients=patients, paths=paths,
                  targets={"class": targets}, columns={"class": names},
                  splits=splits if all(splits) else None, notes=notes)


def read_layout(folder):
    """-> three lists with an entry per image below the folder: its split or None, its class, its path."""
    splits, names, paths = [], [], []
    for path in list_images(folder):
        split, name, *rest = [None] + os.path.relpath(path, folder).split(os.sep)
        if len(rest) > 1 and name.lower() in SPLIT_NAMES:
            split, name = SPLIT_NAMES[name.lower()], rest[0]
        if rest:                                                   # not beside the folders of classes
            splits.append(split)
            names.append(name)
            paths.append(path)
    return splits, names, paths


def name_patients(folder, splits, paths):
    """-> the patient of every image, from its name where it is one of chest_xray; notes."""
    patients = []
    splits_of = defaultdict(set)                                   # patient -> splits
    unnamed = 0
    for split, path in zip(splits, paths):
        film = FILM.match(os.path.basename(path))
        if film:
            patients.append(os.path.join(split or "", film[0]))
            splits_of[film[0]].add(split)
        else:
            patients.append(os.path.relpath(path, folder))
            unnamed += 1
    if not splits_of:
        return patients, [NO_PATIENTS]
    notes = [f"patients from the names of {len(paths) - unnamed} files, as {next(iter(splits_of))}"]
    if unnamed:
        notes[0] += f"; {unnamed} other files count as a patient each"
    crossing = [patient for patient in splits_of if len(splits_of[patient]) > 1]
    if crossing:
        notes.append(f"WARNING: {len(crossing)} of these numbers are on two sides of the official split, of "
                     "the same patients or not; without the folders train, val and test they would be kept "
                     "together")
    return patients, notes
