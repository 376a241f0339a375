"""A folder with one folder of images per class -> Cohort.
"""
import filecmp
import glob
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import groupby
from os.path import abspath, basename, commonprefix, join, relpath

from plumbing.cells import spelling_notes
from plumbing.cohort import Cohort, SPLITS, Task
from plumbing.families import look_up
from plumbing.folders import BARE_IMAGE_FOLDER, MASK_FOLDER, left_out_note, without_masks
from plumbing.formats import without_ending
from plumbing.patients import patients_of_files
from plumbing.public_tables import NAME_TARGETS
from plumbing.splits import split_name
from plumbing.tables import shortlist
from plumbing.targets import read_classes


def read_class_folders(folder, regex, split):
    """folder/CLASS/*.jpg, with folders of an official split above or below CLASS or without -> Cohort.

    It has one task, `class`. Every file counts as a patient, except where names say whose they are: see
    patients.py; regex: --patient-regex. The official split is kept, unless split is "none"."""
    images, left_out = without_masks(folder)
    splits, names, paths, notes = read_layout(folder, images, left_out)
    notes += left_out_note(paths, left_out)
    classes, values = read_classes(names)
    notes += spelling_notes("class", Counter(names)) + note_on_drawings(names, paths)
    if len(classes) < 2:
        tables = shortlist(sorted(glob.glob("*.csv", root_dir=folder)))
        raise ValueError("; ".join([f"--data {folder}: need a CSV file (in it: {tables}), or one folder of "
                                    f"images per class (there are {shortlist(classes)})", *notes]))
    stray = {name for name in classes if split_name(name) or BARE_IMAGE_FOLDER.fullmatch(name)}
    if len(classes) - len(stray) == 1:                             # control and test may be classes
        stray = set()
    if any(splits):
        stray |= {name for name, side in zip(names, splits) if not side}
    if stray:
        raise ValueError(f"--data {folder}: {shortlist(sorted(stray))}: images there are in no folder of a "
                         f"class, or not in one of {', '.join(SPLITS)} as others are; they must lie "
                         "elsewhere")
    if split == "none" or not any(splits):
        splits = None
    patients, who = name_patients(folder, splits, paths, regex)
    units = len(set(zip(names, patients)))
    if len(classes) > 5 and 2 * len(classes) > units:
        raise ValueError(f"--data {folder}: {len(classes)} folders, as {classes[0]}, with {units} patients "
                         "or images in all look like patients; folders of classes must be the upper ones, "
                         "or a table says which image is of which class")
    return Cohort(basename(abspath(folder)), [Task("class", "classes", classes)], patients, paths,
                  {"class": values}, {"class": names}, splits=splits, notes=who + notes)


def with_target(cohort, target):
    """-> the cohort with the target that the names of its files say, see NAME_TARGETS. target: --target."""
    name = (target or "class").removesuffix(":classes")
    if name == "class":
        return cohort
    patterns = NAME_TARGETS.get(name, {}).items()
    words = [look_up(patterns, basename(path)) or "" for path in cohort.paths]
    classes, values = read_classes(words)
    if not classes:
        raise ValueError(f"--target {target}: class folders say only class, and names of files as those of "
                         f"chest_xray {shortlist(NAME_TARGETS)}; none of {cohort.name} says it")
    return replace(cohort, tasks=[Task(name, "classes", classes)], targets={name: values},
                   columns=cohort.columns | {name: words})


# -----------------------------------------------------------------------------
# which folder says what


def read_layout(folder, images, left_out):
    """-> three lists with an entry per image: its split or None, its class, its path; lines for the reader.

    Understood are folders in a folder of their own (chest_xray/chest_xray), a second copy of the same
    folders inside, and folders called images between the others."""
    places = {}                                                    # path -> the names of the folders above
    for path in images:
        above = relpath(path, folder).split(os.sep)[:-1]
        if above:
            places[path] = above
        else:
            left_out["images beside the folders of classes"] += 1
    wrapper_notes = unwrap(places)
    drop_copies(places, left_out)
    splits = []
    names = []
    below = defaultdict(set)                                       # of a class: the folders in it
    for path, above in places.items():
        words = [word for word, _ in groupby(above) if not BARE_IMAGE_FOLDER.fullmatch(word)] or above[-1:]
        split = None
        for place, word in enumerate(words[:2]):                   # train/CLASS or CLASS/train
            if split_name(word) and len(words) > 1:
                split = split_name(words.pop(place))
                break
        splits.append(split)
        names.append(words[0].strip())
        below[words[0]].update(words[1:2])
    return splits, names, list(places), notes_on_inner(folder, below) + wrapper_notes


def unwrap(places):
    """Take away the folders that hold all others; -> a line about it, in a list."""
    wrappers = []
    for name in commonprefix([above[:-1] for above in places.values()]):               # works on lists too
        if split_name(name):
            break
        wrappers.append(name)
    if not wrappers:
        return []
    for above in places.values():
        del above[:len(wrappers)]
    return [f"classes are the folders below {join(*wrappers)}"]


def drop_copies(places, left_out):
    """Leave out a folder beside the others that holds the same files again, as chest_xray does."""
    path_of = {(*above, basename(path)): path for path, above in places.items()}
    for parts, path in path_of.items():
        twin = path_of.get(parts[1:])
        if twin and filecmp.cmp(twin, path, shallow=False):
            del places[path]
            left_out["second copies of images"] += 1


def notes_on_inner(folder, below):
    """{class: names of the folders in it} -> a line, where these may be the patients, or the classes.

    ValueError where one of them holds the others again, as augmented/CLASS beside CLASS."""
    for name, inner in below.items():
        if len(inner) > 1 and inner <= below.keys():
            raise ValueError(f"--data {folder}: {name} is beside the classes and holds folders of the same "
                             f"names, {shortlist(sorted(inner))}; a split is called {', '.join(SPLITS)}, "
                             "what else there is must lie elsewhere")
    others = set().union(*below.values())
    if len(others) > 1:
        return [f"WARNING: the classes are the {len(below)} upper folders, as {min(below)}, with "
                f"{len(others)} others in them, as {min(others)}: if those are the classes, they must be the "
                "upper ones; if each is a patient, --patient-regex with a group around its name says so"]
    return []


def note_on_drawings(names, paths):
    """-> a warning where a class has the name of masks, and its files have those of other classes, in a list.

    names: the class of every path."""
    drawn = {name: set() for name in filter(MASK_FOLDER.fullmatch, names)}
    shown = set()
    for name, path in zip(names, paths):
        drawn.get(name, shown).add(without_ending(basename(path)))
    return [f"WARNING: {name} counts as a class, and all its files have namesakes in others: if they are "
            "drawings of these, they must lie elsewhere" for name, files in drawn.items() if files <= shown]


# -----------------------------------------------------------------------------
# patients


def name_patients(folder, splits, paths, regex):
    """-> the patient of every image; lines for the reader.

    The numbers of chest_xray start anew in every folder of its official split: there they are told apart by
    it, and a line says how many such numbers there are."""
    patients, notes = patients_of_files([relpath(path, folder) for path in paths], regex)
    if regex or not splits:
        return patients, notes
    splits_of = defaultdict(set)                                   # number -> splits
    for i, patient in enumerate(patients):
        if re.fullmatch(r"person\d+|(NORMAL2-)?IM-\d+", patient):
            splits_of[patient].add(splits[i])
            patients[i] = join(splits[i], patient)
    crossing = [number for number in splits_of if len(splits_of[number]) > 1]
    if crossing:
        notes.append(f"WARNING: {len(crossing)} of these numbers are on two sides of the official split, of "
                     "the same patients or not; --split-column none keeps them together")
    return patients, notes
