"""Rows are not images: several images in a cell become rows, and several rows of an image one.
"""
import re

import numpy as np

from plumbing.cells import hold_labels, list_parts, same_word
from plumbing.tables import blank_out, cell_error, require_column, shortlist


SEVERAL = re.compile(r"\||^[\[({].*[\])}]$|\.\w{2,6}\s*[;,]\s*\S")    # a.png|b.png, ['a', 'b'], a.png, b.png


def plain_rows(path, header, rows, names, missing):
    """-> the rows with one image in each, and blanks for the words in `missing`; the column of the images,
    which `names` says, one or several as A,B; {(column, word): rows in which it became a blank}; notes."""
    notes = []
    blanks = blank_out(rows, missing)
    words = [f"{name} {word!r} {count}" for (name, word), count in blanks.items()]
    if words:
        notes.append(f"words that count as blanks (--missing): {shortlist(words)}")
    columns = [names]
    if names not in header:
        columns = [require_column(path, header, name, "--image-column") for name in names.split(",")]
    image = ",".join(columns)
    if len(columns) > 1:
        header.append(image)
    plain = []
    for row in rows:
        row[image] = "|".join(filter(None, map(row.get, columns)))
        if SEVERAL.search(row[image]):
            plain += [row | {image: name} for name in list_parts(row[image])]
        elif row[image]:
            plain.append(row)
    if plain != rows:
        notes.insert(0, f"{len(rows)} rows name {len(plain)} images, several in a cell; a row with none is "
                     "left out")
    return plain or rows, image, blanks, notes


def merge_rows(rows, cohort, split=None):
    """Rows that name the same image of the same patient count once, with what is known before blanks.

    -> the rows that stay, the first of each image; the cohort is changed in place, and has a note. Words in
    lists of labels are joined. split: the column of the official split, or None. ValueError where two rows
    say different splits or answers."""
    row_of = {}                                                    # image -> the first of its rows
    first_of = [row_of.setdefault(image, i) for i, image in enumerate(zip(cohort.paths, cohort.patients))]
    kept = list(row_of.values())
    if len(kept) == len(rows):
        return rows
    answers = {split}                                              # columns that must agree, lists apart
    labels = {}                                                    # label: what the rows say of it
    for task in cohort.tasks:
        answers.update([task.name], task.classes)
        if task.kind == "labels":
            labels.update(zip(task.classes, cohort.targets[task.name].T))
    differing = []
    for name, cells in cohort.columns.items():
        known = {}                                                 # first row -> the first that is not blank
        for i, first in enumerate(first_of):
            other = known.setdefault(first, i) if cells[i] else i
            if name in differing or cells[i] == cells[other]:
                continue
            differ = same_word(cells[i]) != same_word(cells[other])
            if name in labels:                                     # yes is 1, and -1 what --uncertain says
                differ = abs(labels[name][i] - labels[name][other]) > 0      # NaN differs from none
            if differ and (name in answers or name.replace(".", "_") in answers):
                remedy = "one row per image is needed"
                if name in cohort.targets and not hold_labels(cells):
                    remedy = f"--target {name}:labels allows several words"
                raise cell_error(rows[i], name, f"is not {cells[other]!r}, as in {rows[other][None]}, "
                                 f"of the same image; {remedy}")
            if differ and name not in cohort.predicted:
                differing.append(name)
        cohort.columns[name] = [cells[known.get(i, i)] for i in kept]
    for name, values in cohort.targets.items():
        merged = np.full_like(values, np.nan)
        np.fmax.at(merged, first_of, values)                       # leaves NaN out
        cohort.targets[name] = merged[kept]
    note = f"{len(rows)} rows name {len(kept)} images: each counts once"
    if differing:
        note += f", with its first row where they differ ({shortlist(differing)})"
    cohort.notes.insert(0, note)                                   # before all that counts patients
    cohort.paths = [cohort.paths[i] for i in kept]
    cohort.patients = [cohort.patients[i] for i in kept]
    return [rows[i] for i in kept]
