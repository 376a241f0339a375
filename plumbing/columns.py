"""Columns of a table as the input of a model: numbers and categories -> one vector per image.
"""
from collections import Counter
from dataclasses import replace

import numpy as np

from plumbing.cells import (count_pairs, is_number, odd_cell, places_in, read_numbers, reading_notes,
                            same_word, spellings_of, ways_out)
from plumbing.cohort import Column
from plumbing.tables import names_and_kinds, require_column, shortlist


def fit_columns(cohort, wanted, train):
    """--tabular NAME[:number|category],... -> list of Columns, with the statistics of the training images.

    Without a kind, a column that holds a word is a category. ValueError where a column does not exist, is to
    be predicted, has nothing to learn from, or may be either."""
    columns = {}
    for name, kind in names_and_kinds(wanted, cohort.columns):
        require_column(cohort.name, cohort.columns, name, "--tabular")
        if kind not in ("", "number", "category"):
            raise ValueError(f"--tabular {name}: kind {kind!r}, need number or category")
        if name in [*cohort.predicted, *cohort.targets, *columns]:
            raise ValueError(f"--tabular {name}: {name} is what is to be predicted, or is named twice")
        columns[name] = fit_column(cohort, name, kind, train)
    return list(columns.values())


def fit_column(cohort, name, kind, train):
    """-> Column. kind: number, category, or "" where the cells decide."""
    cells = [cohort.columns[name][i] for i in train]
    known = Counter(filter(None, cells))
    if not kind:
        odd = odd_cell(sorted(known))
        if odd:
            cell, problem = odd
            raise ValueError(f"--tabular {name}: {cell!r} {problem}; "
                             + ways_out(f"--tabular {name}", cell, "category", "number"))
        kind = "number" if all(map(is_number, known)) else "category"
    if kind == "number":
        x = to_numbers(cohort, name)[train]
        x = x[~np.isnan(x)]
        values = set(x)
    else:
        values = sorted(spellings_of(known))
    if len(values) < 2 or kind == "category" and len(values) > 50:
        raise ValueError(f"--tabular {name}: {len(values)} different values in the training split "
                         f"({shortlist(known)}), need at least 2 to learn from, and of words at most 50")
    if kind == "number":
        return Column(name, kind, mean=float(x.mean()), std=float(x.std()), blanks="" in cells)
    words, _, pairs = count_pairs(map(same_word, cohort.columns[name]), cohort.patients)
    if words == pairs > 2:                                         # config.json would hold them
        raise ValueError(f"--tabular {name}: no two patients share a value, as with ids; a category needs "
                         "values that patients share, and a model holds no ids of patients")
    return Column(name, kind, values=tuple(values), blanks="" in cells)


def to_numbers(cohort, name):
    """-> float (images,), the cells of a column; NaN where they are blank."""
    places = [f"{cohort.name} patient {patient}" for patient in cohort.patients]
    return read_numbers(name, cohort.columns[name], places, f"--tabular {name}:category allows words")


def tabulate(cohort, columns):
    """-> the cohort with `tabular`, float32 (images, P), its columns as numbers; notes on what was filled in,
    and on what looks wrong.

    ValueError where a column is not in the table, or holds words where it held numbers in training."""
    if not columns:
        return cohort, []
    parts = []                                                     # (images,) each
    notes = []
    for column in columns:
        name = column.name
        if name not in cohort.columns:
            raise ValueError(f"{cohort.name} has no column {name!r}, which the model takes as input; "
                             f"there are {shortlist(cohort.columns)}")
        cells = cohort.columns[name]
        if column.kind == "number":
            x = to_numbers(cohort, name)                           # refuses words
            far = x[np.abs(x - column.mean) > 10 * column.std]
            if len(far):
                notes.append(f"WARNING: {name}: {len(far)} rows are far from those of training, as "
                             f"{far[0]:g} from {column.mean:.3g}: in another unit?")
            parts.append(np.nan_to_num((x - column.mean) / column.std))
            if "" in cells:
                notes.append(f"{name}: {cells.count('')} rows blank, filled with the mean")
        else:
            places = places_in(column.values, cells)
            parts += [places == place for place in range(len(column.values))]
            others = [cell or "blank" for cell, place in zip(cells, places) if place < 0]
            if others:
                notes.append(f"{name}: {len(others)} rows of {shortlist(sorted(set(others)))} count as none "
                             f"of {shortlist(column.values)}, which training knows")
        notes += reading_notes(name, Counter(filter(None, cells)), column.kind)
        words = list(map(same_word, cells))
        for target, table in cohort.targets.items():
            for values in table.reshape(len(cells), -1).T:
                inputs, answers, pairs = count_pairs(words, values)
                if 1 < answers <= inputs == pairs <= len(cells) / 3:
                    notes.append(f"WARNING: {name} alone says {target}: is it the answer in other words?")
        if column.blanks:
            parts.append([not cell for cell in cells])
    return replace(cohort, tabular=np.stack(parts, 1).astype(np.float32)), notes
