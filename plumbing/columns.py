"""Columns of a table as the input of a model: numbers and categories -> one vector per image.
"""
from collections import Counter
from dataclasses import replace

import numpy as np

from plumbing.cells import (code_notes, is_number, odd_cell, read_numbers, same_word, spelling_notes,
                            spellings_of, ways_out)
from plumbing.cohort import Column
from plumbing.tables import name_and_kind, shortlist


def fit_columns(cohort, wanted, train):
    """--tabular NAME[:number|category],... -> list of Columns, with the statistics of the training images.

    Without a kind, a column that holds a word is a category. ValueError where a column does not exist, is to
    be predicted, or has nothing to learn from."""
    columns = {}
    for spec in map(str.strip, wanted.split(",")):
        name, kind = name_and_kind(spec, cohort.columns)
        problem = None
        if name not in cohort.columns:
            problem = f"{cohort.name} has no column {name!r}, there are {shortlist(cohort.columns)}"
        elif kind not in ("", "number", "category"):
            problem = f"kind {kind!r}, need number or category"
        elif name in cohort.predicted or name in cohort.targets:
            problem = f"{name} is what is to be predicted"
        elif name in columns:
            problem = f"{name} is named twice"
        if problem:
            raise ValueError(f"--tabular {spec}: {problem}")
        columns[name] = fit_column(cohort, name, kind, train)
    return list(columns.values())


def fit_column(cohort, name, kind, train):
    """-> Column. kind: number, category, or "" where the cells decide."""
    cells = [cohort.columns[name][i] for i in train]
    known = Counter(filter(None, cells))
    if not kind:
        kind = "number" if all(map(is_number, known)) else "category"
        odd = odd_cell(sorted(known))
        if odd:
            raise ValueError(f"--tabular {name}: {odd[0]!r} {odd[1]}; "
                             + ways_out(f"--tabular {name}", odd[0], "category", "number"))
    values = sorted(most_frequent for most_frequent, *_ in spellings_of(known))
    if kind == "number":
        x = to_numbers(cohort, name)[train]
        x = x[~np.isnan(x)]
        values = set(x)
    if len(values) < 2:
        raise ValueError(f"--tabular {name}: {min(known, default='blank')} in every row of the training "
                         "split, nothing to learn from")
    if kind == "number":
        return Column(name, kind, mean=float(x.mean()), std=float(x.std()), blanks="" in cells)
    if len(known) > 50:
        raise ValueError(f"--tabular {name}: {len(known)} different words in the training split, at most 50 "
                         f"make a category; {max(known)!r} is one of them")
    return Column(name, kind, values=tuple(values), blanks="" in cells)


def to_numbers(cohort, name):
    """-> float (images,), the cells of a column; NaN where they are blank."""
    cells = cohort.columns[name]
    values, fault = read_numbers(cells)
    if fault:
        i, problem = fault
        raise ValueError(f"{cohort.name}, column {name}, patient {cohort.patients[i]}: {cells[i]!r} "
                         f"{problem}; --tabular {name}:category allows words")
    return values


def tabulate(cohort, columns):
    """-> the cohort with `tabular`, float32 (images, P), its columns as numbers; notes on what was filled in.

    ValueError where a column is not in the table, or holds words where it held numbers in training."""
    if not columns:
        return replace(cohort, tabular=None), []
    parts, notes = [], []                                          # parts: (images,) each
    for column in columns:
        name = column.name
        if name not in cohort.columns:
            raise ValueError(f"{cohort.name} has no column {name!r}, which the model takes as input; "
                             f"there are {shortlist(cohort.columns)}")
        cells = cohort.columns[name]
        counts = Counter(filter(None, cells))
        blank = np.array([not cell for cell in cells])
        notes += code_notes(name, counts)
        if column.kind == "number":
            x = to_numbers(cohort, name)
            x = (x - column.mean) / column.std
            far = x[np.abs(x) > 10]
            if len(far):
                example = far[0] * column.std + column.mean
                notes.append(f"WARNING: {name}: {len(far)} rows are far from those of training, as "
                             f"{example:g} from {column.mean:.3g}: in another unit?")
            parts.append(np.nan_to_num(x))
            effect = "filled with the mean"
        else:
            notes += spelling_notes(name, counts, "value")
            value_of = {same_word(value): value for value in column.values}
            value_of |= {value: value for value in column.values}
            values = [value_of.get(cell, value_of.get(same_word(cell))) for cell in cells]
            parts += [np.equal(values, value) for value in column.values]
            effect = "they count as none of its values"
            unseen = [cell for cell, value in zip(cells, values) if cell and value is None]
            if unseen:
                notes.append(f"{name}: {len(unseen)} rows of {shortlist(sorted(set(unseen)))}, unknown to "
                             "the training split, count as none of its values")
        if column.blanks:
            parts.append(blank)
        if blank.any():
            notes.append(f"{name}: {blank.sum()} rows blank, {effect}")
    return replace(cohort, tabular=np.stack(parts, 1).astype(np.float32)), notes
