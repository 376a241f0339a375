"""Rows are not images: several images in a cell become rows, and several rows of an image one.
"""
import os
import re
from collections import defaultdict

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
        names = [row[column]]
        if SEVERAL.search(row[column]):
            names = list_parts(row[column])
        for name in names:
            result.append(row | {column: name})
    if len(result) == len(rows):
        return rows, []
    return result, [f"{len(rows)} rows name {len(result)} images, several in a cell"]


def merge_rows(path, rows, cohort, split=None):
    """Rows that name the same image of the same patient count once, with the answer that they agree on.

    -> the rows that stay, the first of each image; the cohort is changed in place, and has a note. Words in
    lists of labels are joined. split: the column of the official split, or None. ValueError where the answers
    differ, or the splits."""
    rows_of = defaultdict(list)
    for i, key in enumerate(zip(cohort.paths, cohort.patients)):
        rows_of[key].append(i)
    if len(rows_of) == len(rows):
        return rows
    groups = list(rows_of.values())
    for task in cohort.tasks:
        values = cohort.targets[task.name]
        lowest = [np.fmin.reduce(values[group]) for group in groups]   # fmin and fmax leave NaN out
        highest = [np.fmax.reduce(values[group]) for group in groups]
        merged = np.stack(highest)
        differ = (np.stack(lowest) < merged).reshape(len(groups), -1)  # (images, 1 or L)
        for number, column in np.argwhere(differ):
            label = task.name
            if task.kind == "labels":
                label = task.classes[column]
            if task.kind != "labels" or label in rows[0]:          # else a word in a list
                answers = values.reshape(len(rows), -1)[:, column]
                raise ValueError(disagreement(path, rows, cohort.paths, task, label, answers, groups[number]))
        cohort.targets[task.name] = merged
    differing = differing_columns(path, rows, cohort, groups, split)
    for name, cells in cohort.columns.items():
        cohort.columns[name] = [cells[group[0]] for group in groups]
    differing = [name for name in differing if name not in cohort.predicted]
    note = f"{len(rows)} rows name {len(groups)} images: each counts once"
    if differing:
        note += f", with its first row where they differ ({shortlist(differing)})"
    cohort.notes.insert(0, note)                                   # before all that counts patients
    rows, cohort.paths, cohort.patients = [[items[group[0]] for group in groups]
                                           for items in (rows, cohort.paths, cohort.patients)]
    return rows


def differing_columns(path, rows, cohort, groups, split):
    """-> the columns in which rows of an image differ. ValueError where that is the official split."""
    differing = []
    for name, cells in cohort.columns.items():
        for group in groups:
            other = [i for i in group if cells[i] != cells[group[0]]]
            if other and name == split:
                raise cell_error(path, rows[other[0]], name, f"is another split than in row "
                                 f"{rows[group[0]][None]}, of the same image")
            if other:
                differing.append(name)
                break
    return differing


def disagreement(path, rows, paths, task, label, answers, group):
    """-> what two rows of an image, whose rows are `group`, answer."""
    low = group[np.nanargmin(answers[group])]
    high = group[np.nanargmax(answers[group])]
    words = f"{answers[low]:g}", f"{answers[high]:g}"
    remedy = "one row per image is needed"
    if task.kind == "classes":
        words = task.classes[int(answers[low])], task.classes[int(answers[high])]
        if not is_number(words[0]):
            remedy = f"--target {label}:labels allows several answers"
    return (f"{cell_place(path, rows[high], label)}: {os.path.basename(paths[low])} is {words[1]} here and "
            f"{words[0]} in row {rows[low][None]}; {remedy}")
