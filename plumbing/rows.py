"""Rows are not images: several images in a cell become rows, and several rows of an image one.
"""
import re
from os.path import basename

import numpy as np

from plumbing.cells import is_number, list_parts
from plumbing.tables import blank_out, cell_error, cell_place, shortlist


SEVERAL = re.compile(r"\||^\[.*\]$|\.\w{2,6}\s*[;,]\s*\S")         # a.png|b.png, ['a', 'b'], a.png, b.png


def plain_rows(rows, image, missing):
    """-> the rows with one image in each, and blanks for the words in `missing`; notes. image: its column."""
    rows, notes = split_cells(rows, image)
    counts = blank_out(rows, missing).items()
    words = [f"{name} {word!r} {count}" for (name, word), count in counts]
    if words:
        notes.append(f"words that count as blanks (--missing): {shortlist(words)}")
    return rows, notes


def split_cells(rows, column):
    """-> the rows, with one for each image of a cell that names several; notes."""
    result = []
    for row in rows:
        if SEVERAL.search(row[column]):
            result += [row | {column: name} for name in list_parts(row[column])]
        else:
            result.append(row)
    if len(result) == len(rows):
        return rows, []
    return result, [f"{len(rows)} rows name {len(result)} images, several in a cell"]


def merge_rows(path, rows, cohort, split=None):
    """Rows that name the same image of the same patient count once, with the answer that they agree on.

    -> the rows that stay, the first of each image; the cohort is changed in place, and has a note. Words in
    lists of labels are joined. split: the column of the official split, or None. ValueError where the answers
    differ, or the splits."""
    row_of = {}                                                    # image -> the first of its rows
    images = zip(cohort.paths, cohort.patients)
    first_of = [row_of.setdefault(image, i) for i, image in enumerate(images)]
    kept = list(row_of.values())
    if len(kept) == len(rows):
        return rows
    for task in cohort.tasks:
        values = cohort.targets[task.name]
        lowest = values.copy()
        highest = values.copy()
        np.fmin.at(lowest, first_of, values)                       # fmin and fmax leave NaN out
        np.fmax.at(highest, first_of, values)
        differ = (lowest < highest).reshape(len(rows), -1)         # (rows, 1 or L)
        for first, column in np.argwhere(differ):
            label = task.name
            if task.kind == "labels":
                label = task.classes[column]
                if label not in rows[0]:
                    continue                                       # a word in a list
            answers = values.reshape(differ.shape)[:, column]
            group = [i for i, other in enumerate(first_of) if other == first]
            raise ValueError(disagreement(path, rows, cohort.paths, task, label, answers, group))
        cohort.targets[task.name] = highest[kept]
    differing = []
    for name, cells in cohort.columns.items():
        others = [i for i, first in enumerate(first_of) if cells[i] != cells[first]]
        cohort.columns[name] = [cells[i] for i in kept]
        if others and name == split:
            row = rows[others[0]]
            first = rows[first_of[others[0]]]
            raise cell_error(path, row, name,
                             f"is another split than in row {first[None]}, of the same image")
        if others and name not in cohort.predicted:
            differing.append(name)
    note = f"{len(rows)} rows name {len(kept)} images: each counts once"
    if differing:
        note += f", with its first row where they differ ({shortlist(differing)})"
    cohort.notes.insert(0, note)                                   # before all that counts patients
    cohort.paths = [cohort.paths[i] for i in kept]
    cohort.patients = [cohort.patients[i] for i in kept]
    return [rows[i] for i in kept]


def disagreement(path, rows, paths, task, label, answers, group):
    """-> what two rows of an image, whose rows are `group`, answer."""
    low = group[np.nanargmin(answers[group])]
    high = group[np.nanargmax(answers[group])]
    lower, higher = f"{answers[low]:g}", f"{answers[high]:g}"
    remedy = "one row per image is needed"
    if task.kind == "classes":
        lower = task.classes[int(answers[low])]
        higher = task.classes[int(answers[high])]
        if not is_number(lower):
            remedy = f"--target {label}:labels allows several answers"
    place = cell_place(path, rows[high], label)
    image = basename(paths[low])
    return f"{place}: {image} is {higher} here and {lower} in row {rows[low][None]}; {remedy}"
