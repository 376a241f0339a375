"""Targets: columns of a table -> tasks and their values. What kinds they are: target_kinds.py.
"""
import re
from collections import Counter
from dataclasses import replace
from shlex import quote

import numpy as np

from plumbing.cells import (by_number, divide, hold_labels, label_of, places_in, positive_of, read_numbers,
                            reading_notes, same_word, spellings_of)
from plumbing.cohort import Task
from plumbing.tables import known_cells, refuse_cells, shortlist
from plumbing.target_kinds import POLICIES, infer_kinds, parse_targets, refuse_too_many
from plumbing.words import NO_EVENT, NO_FINDING


OBJECT = re.compile(r"\{.*:.*\}")


def numbers(rows, name):
    """A column of the table -> float32 (rows,), NaN where the cell is blank."""
    values = read_numbers(name, [row[name] for row in rows], [row[None] for row in rows],
                          "a number is needed, as 1500.5, or a blank, for which --missing names words")
    return values.astype(np.float32)


# -----------------------------------------------------------------------------
# --target -> tasks and values


def read_targets(path, header, rows, target, labels, uncertain, blank):
    """-> tasks; {task: float32 (rows,), or (rows, L) of labels, or (rows, 2) of survival; NaN where unknown};
    the columns that say it; notes on what was not plain.

    target: --target, or "" for the columns called target, label or label_*. labels: columns that are labels
    where --target gives no kind. uncertain, blank: from `policy`, for a label of -1 and for an empty one."""
    kinds, events = parse_targets(path, header, target)
    notes = infer_kinds(path, rows, kinds, labels)
    tasks = []
    targets = {}
    columns = list(kinds) + [event for event, _ in events.values()]
    findings = {}                                                  # label -> float32 (rows,)
    counts = Counter()                                             # of labels whose value a flag says
    for name, kind in kinds.items():
        if kind == "labels":
            cells = known_cells(rows, name)
            if not cells or hold_labels(cells):
                at_minus_one = uncertain.get(name, uncertain[None])
                at_blank = blank.get(name, blank[None])
                values = read_labels(rows, name, POLICIES[at_blank])
                counts[f"-1: --uncertain {at_minus_one}"] += (values == -1).sum()
                counts[f"blank: --blank {at_blank}"] += len(rows) - cells.total()
                values[values == -1] = POLICIES[at_minus_one]
                values_of = {name: values}
            else:
                values_of, more = read_lists(path, rows, name, cells)
                notes += more
            twice = findings.keys() & values_of.keys()
            if twice:
                raise ValueError(f"{path}, column {name}: the label {min(twice)!r} is in another column too; "
                                 f"--target {name}:classes keeps them apart")
            findings |= values_of
        elif kind == "one-hot":
            names = name.split("/")
            columns += names
            tasks.append(Task("class", "classes", tuple(names)))
            targets["class"] = read_one_hot(rows, names)
        else:
            task, values, more = read_column(path, rows, name, kind, events.get(name))
            tasks.append(task)
            targets[task.name] = values
            notes += more
    if findings:
        tasks.append(Task("findings", "labels", tuple(findings)))
        targets["findings"] = np.stack(list(findings.values()), 1)
    notes += [f"{count} labels are {cell}" for cell, count in counts.items() if count]
    if len(targets) < len(tasks):
        raise ValueError(f"--target {target}: two of them would have the same name; a dot becomes a _, "
                         "and all labels together are called findings")
    return tasks, targets, columns, notes + note_on_one_choice(rows, kinds, labels)


def read_column(path, rows, name, kind, event):
    """A column that is a task of its own, of regression, classes or survival -> Task, its values, notes.

    event: of survival, the column of events and the value in it that is one."""
    cells = known_cells(rows, name)
    if not cells:
        raise ValueError(f"{path}, column {name}: no value in {len(rows)} rows with an image")
    classes = ()
    notes = []
    if kind == "survival":
        classes = (name, event[0])
        values, note = read_survival(path, rows, name, *event)
        notes.append(note)
    elif kind == "classes":
        classes, values = read_classes([row[name] for row in rows])
    else:
        values = numbers(rows, name)
    task = Task(name.replace(".", "_"), kind, classes)             # the name of a module has no dot
    return task, values, notes + reading_notes(name, cells, kind)


def note_on_one_choice(rows, kinds, labels):
    """-> a line where exactly one of the columns that say yes or no says yes in every row, in a list. kinds:
    {column: kind}; labels: columns of a public table, of which this is not asked."""
    names = [name for name, kind in kinds.items() if kind in ("labels", "classes") and name not in labels
             and {0, 1}.issuperset(map(label_of, known_cells(rows, name)))]
    counts = {[label_of(row[name]) for name in names].count(1) for row in rows}
    if len(names) < 2 or counts != {1}:
        return []
    return [f"exactly one of {', '.join(names)} is 1 in every row: "
            f"--target {'/'.join(names)}:classes makes one choice of them"]


def read_classes(column):
    """-> the classes in order; float32 (rows,), the index of the class, NaN where the cell is blank."""
    classes = sorted(spellings_of(Counter(filter(None, column))), key=by_number)
    places = places_in(classes, column)
    return tuple(classes), np.where(places < 0, np.nan, places).astype(np.float32)


def read_one_hot(rows, names):
    """Columns of 0 and 1, no and yes, or marks, of which one is 1 in every row, or all are blank -> float32
    (rows,), its index."""
    values = np.stack([read_labels(rows, name) for name in names], 1)
    unknown = np.isnan(values).all(1)
    values = np.nan_to_num(values)                                 # a blank beside a mark is a 0
    has_one = (values.sum(1) == 1) & (values.min(1) == 0)
    for row, is_fine in zip(rows, unknown | has_one):
        if not is_fine:
            raise ValueError(f"{row[None]}: need one 1 and else 0 in {', '.join(names)}; "
                             f"--target {':labels,'.join(names)}:labels makes each of them a label")
    return np.where(unknown, np.nan, values.argmax(1)).astype(np.float32)


def read_labels(rows, name, blank=np.nan):
    """A column of labels -> float32 (rows,) of 0, 1 and -1. blank: what a blank counts as, or NaN."""
    value_of = {cell: label_of(cell) for cell in known_cells(rows, name)}
    refuse_cells(rows, name, [cell for cell in value_of if value_of[cell] is None],
                 "is no label, need 0, 1, -1 or blank; --missing names words for a blank")
    value_of[""] = blank
    return np.float32([value_of[row[name]] for row in rows])


def read_lists(path, rows, name, cells):
    """A column of words, one or several in a cell -> {word: float32 (rows,), is it there?}, notes."""
    refuse_cells(rows, name, list(filter(OBJECT.fullmatch, cells)),
                 "is a JSON object; need a column with the words themselves")
    words_of = divide(cells)
    counts = Counter()                                             # word: rows
    notes = [f"{name}: cells are lists of labels; --target {name}:classes makes each a class"]
    for cell, words in words_of.items():
        counts.update(dict.fromkeys(words, cells[cell]))
        if not words:
            notes.append(f"{name}: {cell} ({cells[cell]} rows) counts as none of the labels; where it stands "
                         f"for a blank, say --missing=default,{quote(cell.lower())}")
    refuse_too_many(path, name, counts)
    labels = sorted(word for word in spellings_of(counts) if not NO_FINDING.fullmatch(word))
    if not labels:
        refuse_cells(rows, name, cells, "is no label, nor is any other cell: nothing to learn from")
    answers_of = {"": [np.nan] * len(labels)}
    for cell, words in words_of.items():
        answers_of[cell] = np.isin(range(len(labels)), places_in(labels, words))
    columns = np.float32([answers_of[row[name]] for row in rows]).T
    return dict(zip(labels, columns)), notes + reading_notes(name, counts, "classes")


def read_survival(path, rows, time, event, event_value):
    """-> float32 (rows, 2): time and event, both NaN where one of them is blank; a note that counts them.

    event_value: of the column of events where it is not 1. ValueError where it must be said."""
    times = numbers(rows, time)
    refuse_cells(rows, time, [row[time] for row, t in zip(rows, times) if t < 0],
                 "is no time, need at least 0")
    cells = known_cells(rows, event)
    wanted = same_word(event_value or "1")
    is_event = {cell: float(same_word(cell) == wanted) for cell in cells} | {"": np.nan}
    result = np.float32([times, [is_event[row[event]] for row in rows]]).T
    others = [cell for cell in cells if not is_event[cell]]
    counts = (f"{event} = {event_value or 1} in {np.nansum(result[:, 1]):.0f} of {cells.total()} rows "
              f"(not: {shortlist(others)})")
    is_plain = {wanted, *map(same_word, cells)} <= {0.0, 1.0} and not NO_EVENT.search(event)
    if not is_plain and not (event_value and len(others) < len(cells)):      # a value that is there is taken
        raise ValueError(f"{path}: {counts}: is that the event? --target {time}/{event}=VALUE:survival says "
                         f"which of {shortlist(cells)} it is")
    result[np.isnan(result).any(1)] = np.nan
    if not (result[:, 1] == 0).any():
        counts += "; WARNING: no row without it has a time, which is that of the last look"
    return result, f"{time}: the event is {counts}"


# -----------------------------------------------------------------------------
# the positive one of two classes


def put_positive_last(cohort, positive=None, trains=True):
    """Order the classes of every task of two so that the positive one is the second, in place, and note it.

    positive: --positive, the name of a class; without it the usual names decide. ValueError where no task has
    such a class. trains: else the classes of a trained run count, and nothing is noted or refused."""
    named = False
    notes = []
    for i, task in enumerate(cohort.tasks):
        if task.kind != "classes" or len(task.classes) != 2:
            continue
        first, second = task.classes
        chosen = positive_of(task.classes)
        for name in task.classes:
            if positive and same_word(name) == same_word(positive):
                named, chosen = True, name
        if chosen is None:
            notes.append(f"WARNING: {task.name}: is {first!r} or {second!r} the positive class? "
                         f"The second is taken; --positive {quote(first)} turns it round")
        elif set(map(same_word, task.classes)) != {0.0, 1.0}:
            notes.append(f"{task.name}: the positive class is {chosen!r}")
        if chosen == first:
            cohort.tasks[i] = replace(task, classes=task.classes[::-1])
            cohort.targets[task.name] = 1 - cohort.targets[task.name]
    if not trains:
        return
    cohort.notes += notes
    if positive and not named:
        raise ValueError(f"--positive {positive}: no target has this class and one other; the targets are "
                         + ", ".join(f"{task.name} ({task.text})" for task in cohort.tasks))


# -----------------------------------------------------------------------------
# what the training split says of them


def fit_tasks(cohort, train, positive_weight=False):
    """-> the cohort's tasks with the statistics of the training images, whose indices are `train`.

    These are mean and standard deviation of regression targets and, with positive_weight, negatives /
    positives of every label (1 without positives). ValueError where there is nothing to learn from, or to
    weigh."""
    fitted = []
    for task in cohort.tasks:
        values = cohort.targets[task.name][train].astype(float)
        known = values[~np.isnan(values)]
        lack = None
        remedy = ""
        if not len(known):
            lack = "no known value"
        elif task.kind == "survival" and not (values[:, 1] == 1).any():
            lack = "no event"
        elif task.kind in ("regression", "classes") and known.min() == known.max():
            word = task.word(known[0])
            lack = f"nothing but {word}"
            if label_of(word) == 1:                                # a box to tick
                remedy = "; where a blank is a no, --target NAME:labels --blank NAME=zeros"
        if lack:
            raise ValueError(f"{task.name}: {lack} in the training split, nothing to learn from{remedy}")
        if task.kind == "regression":
            task = replace(task, center=float(known.mean()), scale=float(known.std()))
        elif task.kind == "labels" and positive_weight:
            positives = (values == 1).sum(0)
            weights = np.where(positives, (values == 0).sum(0), 1) / np.maximum(positives, 1)
            task = replace(task, positive_weight=tuple(weights.tolist()))
        fitted.append(task)
    if positive_weight and "labels" not in [task.kind for task in fitted]:
        raise ValueError("--positive-weight is for labels, and no target is of that kind; "
                         "COLUMN:labels makes one")
    return fitted


def training_notes(cohort, train):
    """-> warnings: classes and labels that the training images, whose indices are `train`, never show, and
    numbers whose spread a few of them carry."""
    notes = []
    for task in cohort.tasks:
        values = cohort.targets[task.name][train]
        names = np.array(task.classes)
        shown = True
        if task.kind == "classes":
            shown = np.isin(range(len(names)), values)
        elif task.kind == "labels":
            shown = (values == 1).any(0)
            never_zero = names[shown & (values != 0).all(0)]
            always = [name for name in never_zero if name in cohort.columns]
            if always:
                notes.append(f"WARNING: {task.name}: training sees no 0 of {shortlist(always)}; where a "
                             f"blank is one, --blank {always[0]}=zeros says so")
        if not np.all(shown):
            notes.append(f"WARNING: {task.name}: training never sees {shortlist(names[~shown])}, "
                         "which can therefore not be learned")
        known = values[~np.isnan(values)].astype(float)
        if task.kind == "regression" and len(known):
            squares = (known - np.median(known)) ** 2
            few = max(1, len(known) // 20)
            if np.sort(squares)[:-few].sum() < 0.01 * squares.sum():
                notes.append(f"WARNING: {task.name}: at most {few} of {len(known)} training values, as "
                             f"{known[squares.argmax()]:g}, carry 99 % of the spread that scales the loss")
    return notes
