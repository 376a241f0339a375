"""Columns of a table -> tasks and their values.
"""
from collections import Counter
from dataclasses import replace

import numpy as np

from plumbing.cohort import KINDS, Task
from plumbing.tables import at, column


POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}     # what -1 or a blank says of a label


def policy(flag, text, header):
    """ "zeros,Edema=ones" -> {None: 0.0, "Edema": 1.0}: the value for every label, and for single ones."""
    says = {None: POLICIES["zeros"]}
    for part in text.split(","):
        label, _, what = part.rpartition("=")
        if what not in POLICIES or label and label not in header:
            wrong = f"{label!r} is no column of the table" if what in POLICIES else f"{what!r} is none of {', '.join(POLICIES)}"
            raise ValueError(f"--{flag} {text}: {wrong}; need e.g. zeros or zeros,Edema=ones")
        says[label or None] = POLICIES[what]
    return says


def numbers(path, rows, name):
    """A column -> floats, "" -> NaN."""
    for row in rows:
        if row[name] and not is_number(row[name]):
            raise ValueError(f"{at(path, row, name)}: {row[name]!r} is not a number")
    return np.array([float(row[name] or "nan") for row in rows], dtype=np.float32)


def is_number(text):
    """Is it one that float32 can hold? Python alone would take 1_0 for ten."""
    try:
        return abs(float(text)) < 3.4e38 and "_" not in text
    except ValueError:
        return False


def read_targets(path, header, rows, target, labels, uncertain, blank):
    """-> tasks, {task: values}. Without a kind: words and a lone 0/1 column are classes; several 0/1 columns, and those of
    `labels`, are labels; other numbers are regression. uncertain, blank: what `policy` makes of a label of -1 and of an empty one."""
    target = target or ",".join(name for name in header if name in ("target", "label") or name.startswith("label_"))
    if not target:
        raise ValueError(f"{path}: what is to be predicted? --target NAME[:regression|classes|labels],... of {', '.join(header[:20])}")
    kinds, events = {}, {}                                         # column -> kind, column of times -> column of events
    for spec in map(str.strip, target.split(",")):
        name, _, kind = (spec, "", "") if spec in header or ":" not in spec else spec.rpartition(":")
        if kind not in ("", *KINDS):
            raise ValueError(f"--target {spec}: kind {kind!r}, need one of {', '.join(KINDS)}")
        if kind == "survival":
            name, _, event = name.partition("/")
            if not event:
                raise ValueError(f"--target {spec}: need two columns, TIME/EVENT:survival, EVENT 1 where TIME is that of the event, "
                                 "0 where it is that of the last look")
            events[name] = column(path, header, event, "target")
        kinds[column(path, header, name, "target")] = kind
    cells = {name: {row[name] for row in rows} - {""} for name in kinds}
    binary = [name for name, kind in kinds.items() if not kind and cells[name] <= {"0", "1", "0.0", "1.0", "-1", "-1.0"}]
    tasks, targets = [], {}
    for name in kinds:
        words = {cell for cell in cells[name] if not is_number(cell)}
        if not kinds[name] and words and words != cells[name]:
            row = next(row for row in rows if row[name] in words)
            raise ValueError(f"{at(path, row, name)}: {row[name]!r} is not a number, others are; --target {name}:classes allows it")
        kinds[name] = kinds[name] or ("labels" if name in labels or name in binary and len(binary) > 1 else
                                      "classes" if words or name in binary else "regression")
        if kinds[name] == "labels":
            continue
        if not cells[name]:
            raise ValueError(f"{path}, column {name}: no value in {len(rows)} rows")
        task = Task(name.replace(".", "_"), kinds[name], (name, events[name]) if name in events else ())      # a module name has no dot
        if task.kind == "survival":
            tasks.append(task)
            targets[task.name] = read_survival(path, rows, name, events[name])
            continue
        if task.kind == "classes":
            order = sorted(cells[name] - words, key=float) + sorted(words)
            task = replace(task, classes=tuple(order))
            code = {"": float("nan"), **{cell: i for i, cell in enumerate(order)}}
        tasks.append(task)
        targets[task.name] = np.array([code[row[name]] for row in rows], dtype=np.float32) if task.classes else numbers(path, rows, name)
    if chosen := tuple(name for name, kind in kinds.items() if kind == "labels"):
        values = np.stack([numbers(path, rows, name) for name in chosen], 1)
        wrong = np.argwhere(~np.isnan(values) & ~np.isin(values, (0, 1, -1)))
        if len(wrong):
            row, name = rows[wrong[0][0]], chosen[wrong[0][1]]
            raise ValueError(f"{at(path, row, name)}: {row[name]!r} is no label, need 0, 1, -1 or blank")
        tasks.append(Task("findings", "labels", chosen))
        doubt, empty = ([says.get(name, says[None]) for name in chosen] for says in (uncertain, blank))
        targets["findings"] = np.where(np.isnan(values), empty, np.where(values == -1, doubt, values)).astype(np.float32)
    if len(targets) < len(tasks):
        raise ValueError(f"--target {target}: two of them would be called {Counter(task.name for task in tasks).most_common(1)[0][0]!r}")
    return tasks, targets


def read_survival(path, rows, time, event):
    """-> (rows, 2): time and event, both NaN where one is blank."""
    values = np.stack([numbers(path, rows, time), numbers(path, rows, event)], 1)
    for row, (t, e) in zip(rows, values):
        if t < 0 or not np.isnan(e) and e not in (0, 1):
            name, need = (time, "a time of at least 0") if t < 0 else (event, "1 (the event came) or 0 (it had not, when last looked)")
            raise ValueError(f"{at(path, row, name)}: {row[name]!r}, need {need}")
    return np.where(np.isnan(values).any(1, keepdims=True), np.nan, values).astype(np.float32)


def fit_tasks(tasks, cohort, train, positive_weight=False):
    """Tasks with what the training images say: mean and standard deviation of regression targets, and with positive_weight
    negatives / positives of every label (1 for a label without positives)."""
    fitted = []
    for task in tasks:
        values = cohort.targets[task.name][train].astype(float)
        known = values[~np.isnan(values)]
        if not len(known):
            raise ValueError(f"no known value of {task.name} in the training split")
        if task.kind == "survival" and not (values[:, 1] == 1).any():
            raise ValueError(f"{task.name}: no event in the training split")
        if task.kind in ("regression", "classes") and known.min() == known.max():
            said = f"{known[0]:g}" if task.kind == "regression" else task.classes[int(known[0])]
            raise ValueError(f"{task.name} is {said} for every patient of the training split: nothing to learn")
        if task.kind == "regression":
            task = replace(task, center=float(known.mean()), scale=float(known.std()))
        elif task.kind == "labels" and positive_weight:
            positives, negatives = (values == 1).sum(0), (values == 0).sum(0)
            task = replace(task, positive_weight=tuple((np.where(positives, negatives, 1) / np.maximum(positives, 1)).tolist()))
        fitted.append(task)
    return fitted
