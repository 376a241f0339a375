"""Columns of the table as input of a model: numbers and categories -> one vector per image.
"""
from dataclasses import replace

import numpy as np

from plumbing.cohort import Column
from plumbing.targets import is_number


def fit_columns(cohort, wanted, train):
    """NAME[:number|category],... -> [Column], with the statistics of the training images. Without a kind, words are categories."""
    columns, targets = [], {name for task in cohort.tasks for name in (task.name, *(task.classes if task.kind != "classes" else ()))}
    for spec in map(str.strip, wanted.split(",")):
        name, _, kind = (spec, "", "") if spec in cohort.columns or ":" not in spec else spec.rpartition(":")
        if name not in cohort.columns:
            raise ValueError(f"--tabular {spec}: {cohort.name} has no column {name!r}, "
                             f"there are {', '.join(list(cohort.columns)[:20]) or 'none'}")
        if kind not in ("", "number", "category"):
            raise ValueError(f"--tabular {spec}: kind {kind!r}, need number or category")
        if name.replace(".", "_") in targets or name in targets or name in (column.name for column in columns):
            raise ValueError(f"--tabular {spec}: {name} is {'what is to be predicted' if name in targets else 'named twice'}")
        cells = [cohort.columns[name][i] for i in train]
        known = {cell for cell in cells if cell}
        words = {cell for cell in known if not is_number(cell)}
        kind = kind or ("category" if words else "number")
        x = np.array([to_number(cohort, name, i) for i in train if cohort.columns[name][i]]) if kind == "number" else ()
        if len(set(x) or known) < 2:
            raise ValueError(f"--tabular {name}: {min(known, default='blank')} in every row of the training split, nothing to learn from")
        if kind == "category" and len(known) > 50:
            raise ValueError(f"--tabular {name}: {len(known)} different words in the training split, at most 50 make a category; "
                             f"{min(words or known)!r} is one of them")
        fitted = dict(mean=float(x.mean()), std=float(x.std())) if kind == "number" else dict(values=tuple(sorted(known)))
        columns.append(Column(name, kind, blanks="" in cells, **fitted))
    return columns


def to_number(cohort, name, i):
    """The cell of a column in row i -> float, NaN where blank."""
    cell = cohort.columns[name][i]
    if cell and not is_number(cell):
        raise ValueError(f"{cohort.name}, column {name}, patient {cohort.patients[i]}: {cell!r} is not a number; --tabular {name}:category "
                         "allows words")
    return float(cell or "nan")


def tabulate(cohort, columns):
    """-> the cohort with `tabular` (images, P), the columns as numbers beside each other; notes on what was filled in."""
    parts, notes = [], []
    for column in columns:
        if column.name not in cohort.columns:
            raise ValueError(f"{cohort.name} has no column {column.name!r}, which the model takes as input; "
                             f"there are {', '.join(list(cohort.columns)[:20]) or 'none'}")
        cells = cohort.columns[column.name]
        blank = np.array([not cell for cell in cells])
        if column.kind == "number":
            x = np.array([to_number(cohort, column.name, i) for i in range(len(cells))])
            parts.append(np.nan_to_num((x - column.mean) / column.std)[:, None])
        else:
            parts.append(np.array([[cell == value for value in column.values] for cell in cells]))
            unseen = [cell for cell in cells if cell and cell not in column.values]
            if unseen:
                notes.append(f"{column.name}: {len(unseen)} rows of {', '.join(sorted(set(unseen))[:5])}, unknown to the training split, "
                             "count as none of its values")
        if column.blanks:
            parts.append(blank[:, None])
        if blank.any():
            notes.append(f"{column.name}: {blank.sum()} rows blank, "
                         + ("filled with the mean" if column.kind == "number" else "they count as none of its values"))
    return replace(cohort, tabular=np.concatenate(parts, 1).astype(np.float32) if parts else None), notes
