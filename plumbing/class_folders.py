"""A folder with one folder of images per class -> Cohort.
"""
import os
import re
from collections import Counter

import numpy as np

from plumbing.cohort import Cohort, NO_PATIENTS, SPLITS, SPLIT_NAMES, Task
from plumbing.tables import PICTURES


FILM = re.compile(r"person\d+(?=_(bacteria|virus)_\d+)|(NORMAL2-)?IM-\d+(?=-\d+)")            # chest_xray: person12_bacteria_34.jpeg


def read_class_folders(folder):
    """folder/CLASS/*.jpg or folder/SPLIT/CLASS/*.jpg -> Cohort of one task, `class`. Every file counts as a patient, but where the
    names say whose it is, as in Kermany's chest_xray. There an official split stays, and its patients are told apart by it, for
    the same number on two sides need not be the same child: how many there are is a note."""
    found = []                                                     # (split or None, class, file)
    for place, inside, files in os.walk(folder):
        inside.sort()
        parts = os.path.relpath(place, folder).split(os.sep)
        split = SPLIT_NAMES.get(parts[0].lower()) if len(parts) > 1 else None
        name = parts[1] if split else parts[0]
        found += [(split, name, os.path.join(place, file)) for file in sorted(files)
                  if name != "." and file.lower().endswith(PICTURES) and not file.startswith(".")]
    splits, names, paths = zip(*found) if found else ((), (), ())
    classes = sorted(set(names))
    if len(classes) < 2:
        raise ValueError(f"--data {folder}: need a CSV file, or folders of images, one a class (found {', '.join(classes) or 'none'})")
    if None in splits and set(splits) != {None}:
        raise ValueError(f"--data {folder}: {names[splits.index(None)]} is beside the folders of a split, and none of {', '.join(SPLITS)}")
    films = [FILM.match(os.path.basename(path)) for path in paths]
    patients = [os.path.join(split or "", film[0]) if film else os.path.relpath(path, folder)
                for split, film, path in zip(splits, films, paths)]
    notes, named = list(NO_PATIENTS), [(film[0], split) for split, film in zip(splits, films) if film]
    if named:
        notes = [f"patients from the names of {len(named)} files, as {named[0][0]}" + (
            f"; {len(paths) - len(named)} other files count as a patient each" if len(named) < len(paths) else "")]
    if crossing := sum(count > 1 for count in Counter(name for name, _ in set(named)).values()):
        notes.append(f"WARNING: {crossing} of these numbers are on two sides of the official split, of the same patients or not; without "
                     "the folders train, val and test they would be kept together")
    return Cohort(os.path.basename(os.path.abspath(folder)), [Task("class", "classes", tuple(classes))],
                  patients, list(paths),
                  {"class": np.array([classes.index(name) for name in names], dtype=np.float32)},
                  {"class": list(names)}, None if None in splits else list(splits), notes=notes)
