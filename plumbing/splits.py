"""Patients, never images, are dealt into train, val and test.
"""
import hashlib
import os
from collections import Counter, defaultdict

import numpy as np

from plumbing.cohort import SPLITS
from plumbing.medmnist import digest
from plumbing.tables import read_csv


def read_splits(path):
    """CLAM's splits_K.csv, three columns of image names, train, val and test -> {image: split}."""
    header, rows = read_csv(path)
    if not set(SPLITS) <= set(header):
        raise ValueError(f"{path}: need the columns train, val and test, there are {', '.join(header[:20])}")
    named = [(row[split], split) for split in SPLITS for row in rows if row[split]]
    doubles = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if doubles:
        raise ValueError(f"{path}: {doubles[0]!r} stands there twice")
    return dict(named)


def read_run_split(run):
    """split.csv of a run folder -> {patient: split}."""
    path = os.path.join(run, "split.csv")
    header, rows = read_csv(path)
    for row in rows:
        if row.get("split") not in SPLITS or "patient" not in row:
            raise ValueError(f"{path} row {row[None]}: need the columns patient and split, which is train, val or test")
    return {row["patient"]: row["split"] for row in rows}


def find_duplicates(cohort):
    """-> lists of images that are byte for byte the same and belong to different patients."""
    images, keys = cohort.paths, (os.path.getsize, lambda path: digest(path, 4096), digest)  # few files are read whole
    if cohort.pixels is not None:
        images, keys = cohort.pixels, (lambda image: hashlib.blake2b(image.tobytes()).digest(),)
    groups = [range(len(images))]
    for key in keys:
        finer = defaultdict(list)
        for number, group in enumerate(groups):
            for i in group:
                finer[number, key(images[i])].append(i)
        groups = [group for group in finer.values() if len({cohort.patients[i] for i in group}) > 1]
    return groups


def split_patients(cohort, folds=5, fold=0, val=0.125, seed=0):
    """-> {train, val, test: indices of images}, notes. An official split is kept; what it lacks is cut from its train.

    Cut are for test one of `folds` parts of the patients and for val the share `val` (to the nearest 1/k) of the rest, both
    spread evenly over the first task's target; patients with byte-identical images stay together."""
    where = {}                                                     # patient -> split
    for patient, split in zip(cohort.patients, cohort.splits or ["train"] * len(cohort.patients)):
        if where.setdefault(patient, split) != split:
            raise ValueError(f"patient {patient} is in {where[patient]} and in {split} of the official split")
    official, head = set(where.values()), {patient: patient for patient in where}

    def first(patient):
        """Of the group of patients who share images."""
        while head[patient] != patient:
            patient = head[patient]
        return patient

    twins = find_duplicates(cohort)
    for group in twins:
        heads = {first(cohort.patients[i]) for i in group}
        head.update(dict.fromkeys(heads, min(heads)))

    def cut(split, parts, part, seed):
        chosen = deal(cohort, sorted({first(p) for p in where if where[p] == "train"}), parts, part, seed)
        where.update({p: split for p in where if where[p] == "train" and first(p) in chosen})

    if not 0 <= fold < folds or fold and "test" in official:
        need = "0, the table has its own test split" if "test" in official else f"0 .. {folds - 1}"
        raise ValueError(f"--fold {fold} of --folds {folds}: need {need}")
    if "test" not in official:
        cut("test", folds, fold, seed)
    if "val" not in official:
        if not 0 < val <= 0.5:
            raise ValueError(f"--val {val}: need 0 < share <= 0.5")
        cut("val", round(1 / val), 0, seed + 1)
    indices = {split: [i for i, patient in enumerate(cohort.patients) if where[patient] == split] for split in SPLITS}
    patients = {split: {cohort.patients[i] for i in part} for split, part in indices.items()}
    if not all(patients.values()):
        raise ValueError(f"{cohort.name}: no patient in the train split, only {', '.join(sorted(official))}")
    assert sum(map(len, patients.values())) == len(set(cohort.patients))                     # disjoint and complete

    notes = list(cohort.notes)
    if twins:
        twins.sort(key=lambda group: -len({where[cohort.patients[i]] for i in group}))       # first what crosses the official split
        crossing = sum(len({where[cohort.patients[i]] for i in group}) > 1 for group in twins)
        shown = [" = ".join(f"{os.path.basename(cohort.paths[i])} (patient {cohort.patients[i]}, {where[cohort.patients[i]]})"
                            for i in group) for group in twins[:4]]
        notes.append(f"{len(twins)} sets of byte-identical images across patients: {'; '.join(shown)}" + " ..." * (len(twins) > 4)
                     + f"; WARNING: {crossing} cross the official split" * bool(crossing))
    counts = ", ".join(f"{split} {len(patients[split])} patients {len(part)} images" for split, part in indices.items())
    return indices, [*notes, f"split by patient, none in two: {counts}"]


def deal(cohort, groups, parts, part, seed):
    """The groups of one of `parts` equal parts: shuffled, sorted by the first target, one of every `parts` neighbors."""
    if len(groups) < parts:
        raise ValueError(f"{cohort.name}: {len(groups)} patients do not fill {parts} parts (--folds, --val)")
    rng = np.random.default_rng((seed, len(groups)))
    first = cohort.targets[cohort.tasks[0].name].reshape(len(cohort.patients), -1)
    if cohort.tasks[0].kind == "survival":
        first = first * (1e-9, 1)                                  # by event, then by time
    value = dict(zip(cohort.patients[::-1], np.nan_to_num(first).sum(1)[::-1]))              # of the patient's first image
    order = sorted((groups[i] for i in rng.permutation(len(groups))), key=value.get)
    place = [rng.permutation(parts) for _ in range(0, len(order), parts)]
    return {group for i, group in enumerate(order) if place[i // parts][i % parts] == part}
