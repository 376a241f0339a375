"""Targets: columns of a table -> tasks and their values.
"""
from dataclasses import replace

import numpy as np

from plumbing.cohort import KINDS, Task
from plumbing.tables import cell_error, name_and_kind, require_column, shortlist


POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}     # what -1 or a blank says of a label
BINARY = {"0", "1", "0.0", "1.0", "-1", "-1.0"}                    # cells of a column of labels


def policy(flag, text, header):
    """ "zeros,Edema=ones" -> {None: 0.0, "Edema": 1.0}: the value for every label, and for single ones."""
    values = {None: POLICIES["zeros"]}
    for part in text.split(","):
        label, _, word = part.rpartition("=")
        if word not in POLICIES or (label and label not in header):
            raise ValueError(f"--{flag} {text}: {part!r} is none of {', '.join(POLICIES)}, "
                             "or LABEL=one of these with a column of the table")
        values[label or None] = POLICIES[word]
    return values


def is_number(text):
    """Is it a number that float32 can hold? Python alone would take 1_0 for ten."""
    try:
        return abs(float(text)) < 3.4e38 and "_" not in text
    except ValueError:
        return False


def numbers(path, rows, name):
    """A column of the table -> float32 (rows,), NaN where the cell is blank."""
    values = []
    for row in rows:
        cell = row[name]
        if cell and not is_number(cell):
            raise cell_error(path, row, name, "is not a number")
        values.append(float(cell or "nan"))
    return np.array(values, dtype=np.float32)


# -----------------------------------------------------------------------------
# --target -> tasks and values


def read_targets(path, header, rows, target, labels, uncertain, blank):
    """-> tasks, {task: float32 (rows,), or (rows, L) of labels, or (rows, 2) of survival; NaN where unknown}.

    target: --target, or "" for the columns called target, label or label_*. labels: columns that are labels
    where --target gives no kind. uncertain, blank: from `policy`, for a label of -1 and for an empty one."""
    kinds, events = parse_targets(path, header, target)
    infer_kinds(path, rows, kinds, labels)
    tasks, targets = [], {}
    label_names = ()
    for name, kind in kinds.items():
        if kind == "labels":
            label_names += (name,)
            continue
        if not any(row[name] for row in rows):
            raise ValueError(f"{path}, column {name}: no value in {len(rows)} rows")
        classes = ()
        if kind == "survival":
            classes = (name, events[name])
            values = read_survival(path, rows, name, events[name])
        elif kind == "classes":
            classes, values = read_classes(rows, name)
        else:
            values = numbers(path, rows, name)
        task = Task(name.replace(".", "_"), kind, classes)         # the name of a module has no dot
        tasks.append(task)
        targets[task.name] = values
    if label_names:
        tasks.append(Task("findings", "labels", label_names))
        targets["findings"] = read_labels(path, rows, label_names, uncertain, blank)
    if len(targets) < len(tasks):
        raise ValueError(f"--target {target}: two of them would have the same name; a dot becomes a _, "
                         "and all labels together are called findings")
    return tasks, targets


def parse_targets(path, header, target):
    """ "age,days/died:survival" -> {column: kind, "" if none is given}, {column of times: events}."""
    if not target:
        names = [name for name in header if name in ("target", "label") or name.startswith("label_")]
        target = ",".join(names)
    if not target:
        raise ValueError(f"{path}: what is to be predicted? --target NAME[:regression|classes|labels],... "
                         f"of {shortlist(header)}")
    kinds, events = {}, {}
    for spec in map(str.strip, target.split(",")):
        name, kind = name_and_kind(spec, header)
        if kind not in ("",) + KINDS:
            raise ValueError(f"--target {spec}: kind {kind!r}, need one of {', '.join(KINDS)}")
        if kind == "survival":
            name, _, event = name.partition("/")
            if not event:
                raise ValueError(f"--target {spec}: need two columns, TIME/EVENT:survival, with EVENT 1 "
                                 "where TIME is that of the event, 0 where it is that of the last look")
            events[name] = require_column(path, header, event, "--target")
        kinds[require_column(path, header, name, "--target")] = kind
    return kinds, events


def infer_kinds(path, rows, kinds, labels):
    """Fill in the kinds that are not given. Words and a lone column of 0 and 1 are classes; several such
    columns, and those of `labels`, are labels; other numbers are regression."""
    cells = {name: {row[name] for row in rows} - {""} for name, kind in kinds.items() if not kind}
    binary = [name for name in cells if cells[name] <= BINARY]
    for name in cells:
        words = {cell for cell in cells[name] if not is_number(cell)}
        if words and words != cells[name]:
            row = next(row for row in rows if row[name] in words)
            raise cell_error(path, row, name,
                             f"is not a number, others are; --target {name}:classes allows it")
        if name in labels or (name in binary and len(binary) > 1):
            kinds[name] = "labels"
        elif words or name in binary:
            kinds[name] = "classes"
        else:
            kinds[name] = "regression"


def read_classes(rows, name):
    """-> the classes in order; float32 (rows,), the index of the class."""
    classes = sorted({row[name] for row in rows} - {""}, key=class_order)
    index = {cell: i for i, cell in enumerate(classes)}
    index[""] = np.nan
    return tuple(classes), np.array([index[row[name]] for row in rows], dtype=np.float32)


def class_order(cell):
    """Numbers by their values, then words by the alphabet."""
    if is_number(cell):
        return 0, float(cell), cell
    return 1, 0.0, cell


def read_labels(path, rows, names, uncertain, blank):
    """-> float32 (rows, labels)."""
    columns = []
    for name in names:
        column = numbers(path, rows, name)
        is_blank = np.isnan(column)
        wrong = np.flatnonzero(~is_blank & ~np.isin(column, (0, 1, -1)))
        if len(wrong):
            raise cell_error(path, rows[wrong[0]], name, "is no label, need 0, 1, -1 or blank")
        column[column == -1] = uncertain.get(name, uncertain[None])
        column[is_blank] = blank.get(name, blank[None])
        columns.append(column)
    return np.stack(columns, 1)


def read_survival(path, rows, time, event):
    """-> float32 (rows, 2): time and event, both NaN where one of them is blank."""
    times = numbers(path, rows, time)
    events = numbers(path, rows, event)
    for row, t, e in zip(rows, times, events):
        if t < 0:
            raise cell_error(path, row, time, "is no time, need at least 0")
        if not np.isnan(e) and e not in (0, 1):
            raise cell_error(path, row, event, "is no event, need 1 (it came) or 0 (not until the last look)")
    values = np.stack([times, events], 1)
    values[np.isnan(values).any(1)] = np.nan
    return values


# -----------------------------------------------------------------------------
# what the training split says of them


def fit_tasks(tasks, cohort, train, positive_weight=False):
    """-> the tasks with the statistics of the training images, whose indices are `train`.

    These are mean and standard deviation of regression targets and, with positive_weight, negatives /
    positives of every label (1 without positives). ValueError where there is nothing to learn from."""
    fitted = []
    for task in tasks:
        values = cohort.targets[task.name][train].astype(float)
        known = values[~np.isnan(values)]
        if not len(known):
            raise ValueError(f"no known value of {task.name} in the training split")
        if task.kind == "survival" and not (values[:, 1] == 1).any():
            raise ValueError(f"{task.name}: no event in the training split")
        if task.kind in ("regression", "classes") and known.min() == known.max():
            only = f"{known[0]:g}"
            if task.classes:
                only = task.classes[int(known[0])]
            raise ValueError(f"{task.name} is {only} for every patient of the training split: "
                             "nothing to learn")
        if task.kind == "regression":
            task = replace(task, center=float(known.mean()), scale=float(known.std()))
        elif task.kind == "labels" and positive_weight:
            positives = (values == 1).sum(0)
            negatives = (values == 0).sum(0)
            weights = np.where(positives, negatives, 1) / np.maximum(positives, 1)
            task = replace(task, positive_weight=tuple(weights.tolist()))
        fitted.append(task)
    return fitted
