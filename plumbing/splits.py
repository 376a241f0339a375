"""Splits: patients, never images, are dealt into train, val and test, together with those who share an image;
and splits are read from files and from names of folders.
"""
import hashlib
import re
from collections import defaultdict
from functools import cache
from itertools import repeat
from os.path import basename, getsize, join

import numpy as np

from plumbing.cohort import SPLITS
from plumbing.formats import without_ending
from plumbing.spreadsheet import plain
from plumbing.tables import read_csv, shortlist
from plumbing.words import SPLIT_WORDS


# in the name of a folder, what may stand before and behind the word for a split
AROUND_SPLIT = re.compile(r"^(\d+[ _.-]+|(public|private|internal|external)[ _-]*)"
                          r"|[ _-]*(set|data|images?|public|private|internal|external)?[ _-]*\d*(\.\w+)?$")


def read_splits(path):
    """CLAM's splits_K.csv, three columns of image names called train, val and test -> {image without its
    ending: split}."""
    header, rows = read_csv(path)
    if not set(SPLITS).issubset(header):
        raise ValueError(f"{path}: need the columns train, val and test, there are {shortlist(header)}")
    split_of = {}
    for split in SPLITS:
        for row in rows:
            image = without_ending(row[split])
            if image in split_of:
                raise ValueError(f"{path}: {image!r} appears twice; below train, val and test each image "
                                 "stands once, by its name")
            if image:                                              # the columns differ in length
                split_of[image] = split
    return split_of


def read_run_split(run):
    """split.csv of a run folder -> {patient: split}."""
    return {patient: row["split"] for patient, row in read_split_rows(run).items()}


def read_split_rows(run):
    """split.csv of a run folder -> {patient: row}."""
    _, rows = read_csv(join(run, "split.csv"))
    for row in rows:
        if row.get("split") not in SPLITS or "patient" not in row:
            raise ValueError(f"{row[None]}: need the columns patient and split, "
                             "which is train, val or test")
    return {plain(row["patient"]): row for row in rows}


def split_name(folder):
    """ "Testing", "test_set", "test2017", "test_17.png", "PublicTest" or "02_test" -> "test"; None for a
    folder that is not of a split."""
    match = SPLIT_WORDS.fullmatch(AROUND_SPLIT.sub("", folder.strip().lower()))
    return match and SPLITS[match.lastindex - 1]


@cache
def split_in(cell):
    """ "train" or "data/Training/17.png" -> "train"; None for a cell that names no split."""
    return next(filter(None, map(split_name, re.split(r"[\\/]", cell))), None)


# -----------------------------------------------------------------------------
# images that two patients share


def find_copies(images, owners):
    """-> lists of indices of images (paths or arrays) that are the same and belong to different owners."""
    groups = [range(len(images))]
    for length in (0, 4096, None):                                 # few files are read whole
        equal = defaultdict(list)
        for number, group in enumerate(groups):
            for i in group:
                equal[number, fingerprint(images[i], length)].append(i)
        groups = [group for group in equal.values() if len({owners[i] for i in group}) > 1]
    return groups


def learned_copies(own, run, cohort, splits=("train", "val")):
    """-> [(index in the run's own cohort, index in the other)] of images that are byte for byte the same,
    and in the run in these of its splits. An image of the other cohort appears once."""
    split_of = read_run_split(run)
    learned = [i for i, patient in enumerate(own.patients) if split_of.get(patient) in splits]
    own_images = own.images
    images = [own_images[i] for i in learned] + cohort.images
    pairs = []
    for group in find_copies(images, [i < len(learned) for i in range(len(images))]):
        # the run's images come first
        pairs += [(learned[group[0]], i - len(learned)) for i in group if i >= len(learned)]
    return pairs


def fingerprint(image, length):
    """-> what tells the first bytes of two files or arrays apart; with None all of them, with 0 the sizes."""
    is_file = isinstance(image, str)
    if length == 0:
        return getsize(image) if is_file else image.nbytes
    if is_file:
        with open(image, "rb") as file:
            content = file.read(length)
    else:
        content = image.tobytes()[:length]
    return hashlib.blake2b(content).digest()


def link_patients(cohort, duplicates):
    """-> {patient: the first of the patients linked to this one by duplicates, also through others}."""
    parent = {}                                                    # of all but the first of a group

    def first(patient):
        while patient in parent:
            patient = parent[patient]
        return patient

    for images in duplicates:
        linked = {first(cohort.patients[i]) for i in images}
        parent |= dict.fromkeys(linked - {min(linked)}, min(linked))
    return {patient: first(patient) for patient in cohort.patients}


def duplicates_note(cohort, duplicates, split_of):
    """-> a line that shows up to four sets of duplicates, of those that cross the official split if there are
    any."""
    note = f"{len(duplicates)} sets of byte-identical images across patients, "
    split_of_image = [split_of[patient] for patient in cohort.patients]
    crossing = [images for images in duplicates if len({split_of_image[i] for i in images}) > 1]
    if crossing:
        note += f"WARNING: {len(crossing)} cross the official split, "
    examples = []
    for images in (crossing or duplicates)[:4]:
        twins = [f"{basename(cohort.paths[i])} (patient {cohort.patients[i]}, {split_of_image[i]})"
                 for i in images]
        examples.append(" = ".join(twins))
    return note + "as " + "; ".join(examples)


# -----------------------------------------------------------------------------
# dealing


def split_patients(cohort, folds=5, fold=0, val=0.125, seed=0):
    """-> {train, val, test: indices of images}, notes for the reader.

    An official split is kept; what it lacks is cut from its train split: for test one of `folds` parts of the
    patients, for val the share `val` (to the nearest 1/k) of the rest, both spread evenly over the first
    task's target. Patients with byte-identical images stay together. ValueError where that cannot be."""
    split_of = {}                                                  # patient -> split
    for patient, split in zip(cohort.patients, cohort.splits or repeat("train")):
        if split_of.setdefault(patient, split) != split:
            raise ValueError(f"patient {patient} is in {split_of[patient]} and in {split} "
                             "of the official split; --split-column none deals the patients anew")
    official = set(split_of.values())
    if "train" not in official:
        raise ValueError(f"{cohort.name}: no patient in the train split, only {', '.join(sorted(official))}")
    if not 0 <= fold < folds or (fold and "test" in official):
        raise ValueError(f"--fold {fold} of --folds {folds}: need 0 .. {folds - 1}, "
                         "and 0 where the table has its own test split")
    duplicates = find_copies(cohort.images, cohort.patients)
    group_of = link_patients(cohort, duplicates)

    def cut(split, parts, part, seed):
        """Move one of `parts` equal parts of the training patients to `split`."""
        train = [patient for patient in split_of if split_of[patient] == "train"]
        chosen = deal(cohort, sorted({group_of[patient] for patient in train}), parts, part, seed)
        for patient in train:
            if group_of[patient] in chosen:
                split_of[patient] = split

    if "test" not in official:
        cut("test", folds, fold, seed)
    if "val" not in official:
        if not 0 < val <= 0.5:
            raise ValueError(f"--val {val}: need 0 < share <= 0.5")
        cut("val", round(1 / val), 0, seed + 1)

    notes = list(cohort.notes)
    if duplicates:
        notes.append(duplicates_note(cohort, duplicates, split_of))
    indices, line = sort_by_split(cohort, split_of)
    notes.append(line)
    return indices, notes


def sort_by_split(cohort, split_of):
    """{patient: split} -> {split: indices of images}, and a line with the counts. A patient who is not in
    split_of is left out."""
    indices = {}
    counts = []
    line = "split by image, not by patient: "
    if cohort.patients_known:
        line = "split by patient, none in two: "
    for split in SPLITS:
        indices[split] = [i for i, patient in enumerate(cohort.patients) if split_of.get(patient) == split]
        count = f"{len(indices[split])} images"
        if cohort.patients_known:
            count = f"{list(split_of.values()).count(split)} patients {count}"
        counts.append(f"{split} {count}")
    return indices, line + ", ".join(counts)


def files_of(cohort):
    """-> {patient: digest of the names and sizes of all images}, to see whether they are still the same."""
    images_of = defaultdict(list)
    for patient, path in zip(cohort.patients, cohort.paths):
        size = getsize(path) if cohort.pixels is None else 0
        images_of[patient].append((basename(path), size))
    return {patient: hashlib.blake2b(repr(sorted(images)).encode(), digest_size=8).hexdigest()
            for patient, images in images_of.items()}


def deal(cohort, groups, parts, part, seed):
    """-> the set of groups in one of `parts` equal parts. A group of patients goes by the name of its first.

    The groups are shuffled and sorted by the first target; of every `parts` neighbors each part gets one."""
    if len(groups) < parts:
        raise ValueError(f"{cohort.name}: {len(groups)} patients without an image in common do not fill "
                         f"{parts} parts (--folds, --val: at least {1 / len(groups):.2g})")
    rng = np.random.default_rng((seed, len(groups)))
    task = (cohort.dealt_by or cohort.tasks)[0]
    values = cohort.targets[task.name].reshape(len(cohort.patients), -1)
    if task.kind == "survival":
        values = values * (1e-9, 1)                                # by event, then by time
    sums = np.nan_to_num(values).sum(1)
    value_of = dict(zip(cohort.patients[::-1], sums[::-1]))        # of each patient's first image
    order = sorted((groups[i] for i in rng.permutation(len(groups))), key=value_of.get)
    chosen = set()
    for start in range(0, len(order), parts):
        place = start + list(rng.permutation(parts)).index(part)
        chosen.update(order[place:place + 1])
    return chosen
