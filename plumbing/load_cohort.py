"""--data -> Cohort: a CSV, a public table, a folder of class folders, or MedMNIST arrays.
"""
import os
import re
import sys

import numpy as np

from plumbing.class_folders import read_class_folders
from plumbing.cohort import Cohort, NO_PATIENTS, SPLIT_NAMES
from plumbing.medmnist import read_medmnist
from plumbing.public_tables import KNOWN, majority, official_lists
from plumbing.splits import read_splits, split_patients
from plumbing.tables import PICTURES, at, column, finder, pick, read_csv
from plumbing.targets import policy, read_targets


def load_cohort(data, images=None, patient=None, image=None, target=None, split=None, uncertain="zeros", blank="zeros",
                cache="data_cache"):
    """-> Cohort. data: a CSV, a folder of class folders, `medmnist:FLAG[:SIDE]`, or a name of KNOWN with `images`, its folder.

    images: folder the image paths start from (the table's own by default); patient, image, target, split: column names,
    target as NAME[:regression|classes|labels],... or TIME/EVENT:survival; split may also be CLAM's splits_K.csv; uncertain:
    what a label of -1 means, and blank what an empty label of CheXpert means: zeros, ones or ignore (unknown, left out of the
    loss), for single labels as zeros,LABEL=ones,..."""
    known = KNOWN.get(data, {})
    if data.startswith("medmnist:") or os.path.isdir(data) and not known:
        given = {"images": images, "patient-column": patient, "image-column": image, "target": target, "split-column": split}
        if wrong := [flag for flag, value in given.items() if value]:
            raise ValueError(f"--{wrong[0]} is of a CSV table, --data {data} has none")
        return read_class_folders(data) if os.path.isdir(data) else read_medmnist(data, cache)
    if files := known.get("files"):
        found = [path for file in files if os.path.isfile(path := os.path.join(images or "", file))]
        if not images or not found:
            raise ValueError(f"--data {data} needs --images, the folder that holds {' or '.join(files)}{f', not {images}' * bool(images)}")
        data = found[0]
    elif not os.path.isfile(data):
        raise ValueError(f"--data {data}: no such file or folder, and none of medmnist:FLAG[:SIDE], {', '.join(KNOWN)}")
    header, rows = read_csv(data)
    known = known or next((known for known in KNOWN.values() if all(pick(header, names) for names in known["header"])), {})
    labels = known["labels"].split(",") if "labels" in known else []
    regex = ".+" if patient else known.get("patient_regex", ".+")
    patient = column(data, header, patient or known.get("patient", "patient_id"), "patient")
    image = column(data, header, image or known.get("image", "image"), "image")
    if split and os.path.isfile(split):
        where = read_splits(split)
        for row in rows:
            if row[image] not in where:
                raise ValueError(f"{at(data, row, image)}: {row[image]!r} is in none of train, val, test of {split}")
            row["split"] = where[row[image]]
        header, split = header + ["split"] * ("split" not in header), "split"
    split = column(data, header, split, "split") if split else pick(header, "split")
    if findings := pick(header, known.get("findings", "")):        # "Edema|Mass" -> a column a label
        for row in rows:
            said = row[findings].split("|")
            row.update((name, str(int(name in said))) for name in labels)
            row["pneumonia"] = "1" if "Pneumonia" in said else "0" if said == ["No Finding"] else ""         # against healthy films
        header = header + [name for name in (*labels, "pneumonia") if name not in header]
    if "readers" in known:
        rows = majority(rows, image)
    tasks, targets = read_targets(data, header, rows, target or known.get("target") or ",".join(labels), labels,
                                  policy("uncertain", uncertain, header), policy("blank", blank if "blanks" in known else "ignore", header))
    images = images or os.path.dirname(os.path.abspath(data))
    find = finder(images)
    paths = [find(row[image], at(data, row, image)) for row in rows]
    if None in paths:
        row = rows[paths.index(None)]
        raise ValueError(f"{at(data, row, image)}: no image {row[image]!r} ({' '.join(PICTURES)}) under {images} "
                         f"({paths.count(None)} of {len(rows)} rows); --images names the folder")
    patients = [(re.search(regex, row[patient], re.DOTALL) or [""])[0] for row in rows]
    if "" in patients:
        raise ValueError(f"{at(data, rows[patients.index('')], patient)}: no patient")
    splits = [SPLIT_NAMES.get(row[split].lower()) for row in rows] if split else None
    if "lists" in known and not split:                             # NIH's: val is cut from train, by patient
        splits = official_lists(os.path.dirname(os.path.abspath(data)), known["lists"], data, rows, image)
    if split and None in splits:
        row = rows[splits.index(None)]
        raise ValueError(f"{at(data, row, split)}: {row[split]!r}, need train, val or test")
    return Cohort(os.path.splitext(os.path.basename(data))[0], tasks, patients, paths, targets,
                  {name: [row[name] for row in rows] for name in header}, splits, notes=NO_PATIENTS * (patient == image and regex == ".+"),
                  folder=os.path.dirname(os.path.abspath(data)), inputs=known.get("tabular", ""))


def main(data=None, images=None):
    """Print how a table is understood, or without one the public tables."""
    if not data:
        for name, known in KNOWN.items():
            print(f"{name:10} image in {known.get('image', 'image')!r}, patient in {known.get('patient', 'patient_id')!r}, "
                  f"target {known.get('target') or str(known['labels'].count(',') + 1) + ' labels'}")
        return
    cohort = load_cohort(data, images)
    print(f"{cohort.name}: {len(cohort.paths)} images of {len(set(cohort.patients))} patients")
    for task in cohort.tasks:
        values = cohort.targets[task.name]
        counts = np.nansum(values, 0) if task.kind == "labels" else [(values == i).sum() for i in range(len(task.classes))]
        said = ", ".join(f"{name} {count:.0f}" for name, count in zip(task.classes, counts))
        print(f"{task.name} ({task.kind}): {said or f'{np.nanmin(values):g} .. {np.nanmax(values):g}'}, {np.isnan(values).sum()} unknown")
    print(*split_patients(cohort)[1], sep="\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except ValueError as error:
        sys.exit(str(error))
