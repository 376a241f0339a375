"""Subgroups of patients by columns of the table: which there are, and their scores.

A patient is in the group of the first image.
"""
import re
from collections import Counter

import numpy as np

from evaluation.scores import score, score_constant, subset
from plumbing.cells import by_number, places_in, spellings_of
from plumbing.saved_run import read_metrics


DEFAULT = "fst"                  # the Fitzpatrick skin types, where there is such a column
SMALL = 20                       # patients: the metrics of a smaller subgroup say little
CROWD = 2                        # patients per group on average, at least: names, numbers and whatever
                                 # else tells one patient from another make no subgroups


def columns_of(by, cohort, images, folder):
    """--by a,b -> {column: patients within whom it varies}, and the columns of an earlier evaluation of the
    same folder, which stay. ValueError for a column that is not there, or tells patients from one another."""
    columns = {}
    typed = re.split(" *, *", by.strip()) if by else []
    if by in cohort.columns:                                       # its own name may have a comma
        typed = [by]
    for name in [DEFAULT, *read_metrics(folder).get("by", {}), *typed]:
        problem = f"no such column, there are {', '.join(cohort.columns)}"
        if name in cohort.columns:
            groups = subgroups(name, cohort.columns[name])
            groups_of = {}                                         # of each patient's images
            for i in images:
                groups_of.setdefault(cohort.patients[i], set()).add(groups[i])
            count = len(set().union(*groups_of.values()))
            if count <= 2 or count * CROWD <= len(groups_of):
                columns[name] = sum(len(names) > 1 for names in groups_of.values())
                continue
            problem = (f"{count} values for {len(groups_of)} patients; what tells patients from one another "
                       "makes no subgroups")
        if name in typed:
            raise ValueError(f"--by {name}: {problem}")
    return columns


def score_subgroups(task, predictions, columns, cohort, constant=None):
    """-> {"COLUMN GROUP": scores} of all columns, the groups in the order of their numbers, or of the
    alphabet. constant: as in scores.score; its scores stand beside those of every group."""
    result = {}
    for column in columns:
        groups = subgroups(column, cohort.columns[column])
        group_of = np.array([groups[images[0]] for images in predictions["images"]])
        for name in sorted(set(group_of), key=by_number):
            own = subset(predictions, group_of == name)
            scores = result[f"{column} {name}"] = score(task, own)
            scores["small"] = scores["patients"] < SMALL
            if constant is not None:
                scores["constant"] = score_constant(task, own, constant)
    return result


def subgroups(column, cells):
    """-> the group of every cell of a column. Spellings of a word, as F, f and female, are one group, which
    has the name of the most frequent."""
    groups = [subgroup(column, cell) for cell in cells]
    names = list(spellings_of(Counter(groups)))
    return [names[place] for place in places_in(names, groups)]


def subgroup(column, value):
    """The group that a cell of the table belongs to.

    Fitzpatrick skin types are grouped as in MultiViT's Table 2, ages in three, if they are no days."""
    column = column.lower()
    if re.search("fst|fit[sz]patrick", column):                    # PAD-UFES-20 spells it with an s
        if re.fullmatch(r"(?i)[1-4](\.0)?|I{1,3}|IV", value):
            return "I-IV"
        if re.fullmatch(r"(?i)[56](\.0)?|VI?", value):
            return "V-VI"
    if re.search(r"(^|[ _])age($|[ _])", column) and re.fullmatch(r"(0?\d?|1[0-2])\d(\.\d+)?Y?", value):
        years = float(value.rstrip("Y"))                           # 058Y in older NIH tables
        if years < 40:
            return "0-39"
        return "40-59" if years < 60 else "60+"
    return value or "(blank)"
