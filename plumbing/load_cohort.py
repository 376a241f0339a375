"""--data -> Cohort: a CSV file, a public table, class folders, the arrays of MedMNIST or, without targets, a
folder of any images.
"""
import os
import re
from collections import defaultdict
from os.path import abspath, basename, dirname, isdir, isfile, join, relpath, splitext
from shlex import quote

from plumbing.cells import count_pairs, same_word
from plumbing.class_folders import read_class_folders, with_target
from plumbing.cohort import Cohort
from plumbing.folders import left_out_note, without_masks
from plumbing.formats import ENDING, IMAGE_ENDINGS, without_ending
from plumbing.image_paths import find_images
from plumbing.medmnist import read_medmnist
from plumbing.patients import (NOBODY, compile_regex, first_group, one_spelling, parts_note,
                               patients_of_files)
from plumbing.public_tables import (PUBLIC_TABLES, findings_to_labels, join_table, majority, recognize,
                                    table_path)
from plumbing.rows import merge_rows, plain_rows
from plumbing.splits import read_splits, split_in
from plumbing.tables import cell_error, first_column, read_csv, require_column
from plumbing.target_kinds import policy
from plumbing.targets import read_targets
from plumbing.words import MISSING, PATIENT_COLUMNS, SITE_COLUMN, SPLIT_COLUMN


def load_cohort(data, images=None, patient=None, image=None, target=None, split=None, uncertain="zeros",
                blank="zeros", cache="data_cache", regex=None, missing=MISSING, needs_targets=True):
    """-> Cohort. ValueError says what is missing or wrong, with file, row and column.

    data         a CSV file, a folder of class folders, medmnist:FLAG[:SIDE], or a name in PUBLIC_TABLES
    images       the folder in which the paths of images start; by default that of the table
    patient, image, target, split      columns; target as NAME[:regression|classes|labels],... or as
                 TIME/EVENT:survival; image may be several, A,B; split also CLAM's file splits_K.csv
    uncertain    what a label of -1 means: zeros, ones or ignore (unknown, left out of the loss); for single
                 labels as zeros,LABEL=ones,...
    blank        the same for an empty label of CheXpert
    cache        the folder to which MedMNIST is downloaded
    regex        the part of a cell, or of a file's path, that says who the patient is: its first group
    missing      words that stand for a blank cell, with commas between them
    needs_targets    False: a table without targets, or a folder without classes, will do"""
    known = PUBLIC_TABLES.get(data, {})
    is_medmnist = data.startswith("medmnist:")
    if is_medmnist or isdir(data) and not known:
        if images or patient or image or split not in (None, "none") or is_medmnist and target:
            raise ValueError(f"--data {data} is no CSV table: --images, --patient-column and --image-column "
                             "do not apply to it, nor --split-column but none, nor --target to MedMNIST")
        if is_medmnist:
            cohort = read_medmnist(data, cache)
            if split == "none":
                cohort.splits = None
            return cohort
        try:
            return with_target(read_class_folders(data, regex, split), target)
        except ValueError:
            if needs_targets:
                raise
            return read_any_folder(data, regex)

    # the rows, with what stands beside the table
    path = table_path(data, known, images)
    header, rows = read_csv(path)
    known = known or recognize(header)
    notes = twin_columns(header)
    if "joins" in known:
        notes += join_table(dirname(path), *known["joins"].split(":"), header, rows)
    labels = known.get("labels", "").split(",")
    findings = first_column(header, known.get("findings", ""))
    if findings:
        notes += findings_to_labels(header, rows, findings, labels)
    image = image or known.get("image", "image")
    rows, image, blanks, row_notes = plain_rows(path, header, rows, image, missing)
    split_column = find_split_column(path, header, rows, image, split, known.get("lists", ""))
    if "readers" in known:
        notes.append(f"{len(rows)} rows of readers: in each column counts what most say of an image")
        rows = majority(rows, image)

    # what is to be predicted
    uncertain_policy = policy("uncertain", uncertain, header)
    blank_policy = policy("blank", blank, header)
    if "blanks" not in known:
        blank_policy[None] = "ignore"                              # but for labels that --blank names
    try:
        task_parts = read_targets(path, header, rows, target or known.get("target") or ",".join(labels),
                                  [*labels, "No Finding"], uncertain_policy, blank_policy)
    except ValueError:
        if needs_targets or target:
            raise
        task_parts = [], {}, [], []

    # images and patients, and what looks wrong with them
    cohort = cohort_of_rows(path, header, rows, known, images, patient, image, regex)
    cohort.tasks, cohort.targets, cohort.predicted, target_notes = task_parts
    for name, word in blanks:
        if name in cohort.predicted and word in ("None", "none", "NAT"):     # normal adjacent tissue
            notes.append(f"WARNING: {name}: {word} counts as a blank; where it is a class, say "
                         "--missing=na,nan")
    cohort.notes += row_notes + target_notes + notes
    for name in filter(SITE_COLUMN.fullmatch, header):
        _, patients, pairs = count_pairs(cohort.columns[name], cohort.patients)
        if pairs > 1.1 * patients:
            cohort.notes.append(f"WARNING: patients have images of several {name}: where ids begin anew in "
                                "each, --patient-column needs a column that holds both")
    kinds = [task.kind for task in cohort.tasks]
    if kinds and "labels" not in kinds and {uncertain, blank} != {"zeros"}:
        cohort.notes.append(f"WARNING: --uncertain {uncertain} and --blank {blank} decide nothing: no target "
                            "is labels; COLUMN:labels makes one")

    # every image once, and its split
    rows = merge_rows(rows, cohort, split_column)
    if split_column:
        cohort.splits = list(map(split_in, cohort.columns[split_column]))
        if None in cohort.splits:
            raise cell_error(rows[cohort.splits.index(None)], split_column, "is none of train, val and test; "
                             "--split-column none deals the patients anew")
        cohort.notes += other_folders(cohort, image)
    elif split != "none":
        cohort.notes += unused_split(cohort)
    cohort.inputs = known.get("tabular", "")
    return cohort


def cohort_of_rows(path, header, rows, known, images, patient, image, regex):
    """Rows with one image in each -> Cohort of these, without targets.

    known: the table's entry in PUBLIC_TABLES, or {}; the others: see load_cohort."""
    folder = dirname(abspath(path))
    patients, notes = read_patients(path, header, rows, image, patient, known, regex)
    root = abspath(images or folder)
    paths, path_notes = find_images(rows, image, root)
    notes += path_notes
    columns = {name: [row[name] for row in rows] for name in header}
    for name, cells in columns.items():
        if name not in (image, *image.split(",")) and any(map(ENDING.search, cells[:100])):
            notes.append(f"column {name} names files too, which are not read; --image-column "
                         f"{image},{name} makes them images of the same row")
    columns[image] = [file.removeprefix(root).lstrip(os.sep) for file in paths]        # with their folders
    return Cohort(splitext(basename(path))[0], [], patients, paths, {}, columns, folder=folder, notes=notes)


def read_patients(path, header, rows, image, patient, known, regex):
    """-> the patient of every row; lines about them.

    image: the column of the images; patient, regex: --patient-column and --patient-regex, or None."""
    notes = []
    if not patient:
        patient = known.get("patient") or first_column(header, "patient_id|lesion_id")
        regex = regex or known.get("patient_regex")
    if not patient and regex:
        patient = image                                            # names of files say who the patients are
        unread = first_column(header, PATIENT_COLUMNS)
        if unread:
            notes = [f"WARNING: --patient-regex is looked for in the names of images, not in {unread}; "
                     f"--patient-column={quote(unread)} turns it round"]
    patient = require_column(path, header, patient or PATIENT_COLUMNS,
                             f"--patient-column (where there are no ids: {image})")
    if patient == image and not regex:
        return patients_of_files([row[image] for row in rows])
    expression = compile_regex(regex or ".+")
    cells = [first_group(expression.search(row[patient])) for row in rows]
    if "alone" in known and "" in cells:
        notes = [f"{cells.count('')} images without {patient} count as patients of their own"]
        cells = [cell or row[image] for row, cell in zip(rows, cells)]
    for row, cell in zip(rows, cells):
        if NOBODY.fullmatch(cell):
            raise cell_error(row, patient, "names no patient; a row of an unknown one needs an id "
                             "of its own")
    patients, spelling_notes = one_spelling(cells)
    notes += spelling_notes
    if not regex:
        notes += parts_note(patients)
    if patient == "lesion_id":
        notes.append("lesion_id says which images belong together; a patient may have several")
    return patients, notes


def read_any_folder(folder, regex, by_folder=False):
    """Whatever images are below a folder -> Cohort without targets.

    by_folder: each of the uppermost folders is a patient; without it, or with a regular expression, names of
    files say who the patients are."""
    paths, left_out = without_masks(folder)
    left_out_notes = left_out_note(paths, left_out)
    if not paths:
        raise ValueError("; ".join([f"{folder}: no picture ({' '.join(IMAGE_ENDINGS)}) below it",
                                    *left_out_notes]))
    names = [relpath(path, folder) for path in paths]
    if by_folder and not regex:
        patients = [name.split(os.sep)[0] for name in names]
        notes = []
        alone = sum(os.sep not in name for name in names)
        deep = [name for name in names if name.count(os.sep) > 1]
        if alone:
            notes.append(f"{alone} of {len(names)} images lie in no sub-folder: each is taken as a patient")
        if deep:
            notes.append(f"{len(deep)} images lie in folders of folders, as {deep[0]}: the uppermost folder "
                         "is taken as the patient")
    else:
        patients, notes = patients_of_files(names, regex)
    return Cohort(basename(abspath(folder)), [], patients, paths, {},
                  notes=notes + left_out_notes)


def twin_columns(header):
    """-> warnings of names that differ only in case, or in the number that pandas adds to a second target."""
    twins = defaultdict(list)
    for name in header:
        base = re.sub(r"\.\d+$", "", name)
        twins[same_word(base if base in header else name)].append(name)
    return [f"WARNING: the columns {' and '.join(names)} may be one that is there twice; each counts by its "
            "own name" for names in twins.values() if len(names) > 1]


def find_split_column(path, header, rows, image, split, lists):
    """-> the column that holds the official split, or None.

    split: a column, or a file that lists the images of every split; lists: such files beside the table. From
    these a column is made."""
    if split == "none":
        return None
    if not split:
        own = first_column(header, "split|Split|SPLIT")
        if own:
            return own
        split_of = {}
        for part, file in zip(("train", "test"), lists.split(", ")):
            place = join(dirname(path), file)
            if not isfile(place):
                return None
            with open(place, encoding="utf-8", errors="replace") as names:
                split_of |= dict.fromkeys(map(without_ending, map(str.strip, names)), part)
    elif isfile(split):
        split_of = read_splits(split)
    else:
        return require_column(path, header, split, "--split-column")
    for row in rows:
        name = without_ending(row[image])
        if name not in split_of:
            raise cell_error(row, image, f"is in none of {split or lists}; --split-column names "
                             "another split")
        row["split"] = split_of[name]
    header.append("split")
    return "split"


def other_folders(cohort, image):
    """-> a warning where test images lie in the folder of another split, or others in that of test, in a
    list. image: the column of their names."""
    wrong = []
    for place, split in zip(cohort.columns[image], cohort.splits):
        other = split_in(dirname(place)) or split
        if other != split and "test" in (other, split):
            wrong.append(f"{place}, which is of {split} in the table")
    if not wrong:
        return []
    return [f"WARNING: {len(wrong)} images lie in the folder of another split, as {wrong[0]}"]


def unused_split(cohort):
    """-> a warning where a column, or the folders of the images, say a split that is not used, in a list."""
    for name, cells in cohort.columns.items():
        cells = cells[::max(1, len(cells) // 1000)]                # of many these will do
        words = list(filter(split_in, cells))
        holds_words = len(set(map(split_in, words))) > 1
        holds_few = 1 < len(set(cells)) <= 20 and name not in cohort.predicted
        holds_one = {word.lower() for word in words} - {"valid"}   # which has invalid beside it
        if holds_words or holds_few and (holds_one or SPLIT_COLUMN.fullmatch(name)):
            return [f"WARNING: column {name} is not used as a split; with train, val and test in it "
                    f"--split-column {name} keeps it, none takes away this line"]
    return []
