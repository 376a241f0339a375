"""Targets: columns of a table -> tasks and their values. What kinds they are: target_kinds.py.
"""
import re
from collections import Counter
from dataclasses import replace
from shlex import quote

import numpy as np

from plumbing.cells import (LABELS, NO_FINDING, by_number, code_notes, is_number, list_parts, odd_cell,
                            positive_of, read_number, read_numbers, same_word, separators_of, spelling_notes,
                            spellings_of)
from plumbing.cohort import Task
from plumbing.tables import cell_error, known_cells, shortlist
from plumbing.target_kinds import infer_kinds, parse_targets, refuse_too_many


FEW = 10                                                           # different numbers that may be classes
OBJECT = re.compile(r"\{.*:.*\}")


def numbers(path, rows, name):
    """A column of the table -> float32 (rows,), NaN where the cell is blank."""
    values, fault = read_numbers([row[name] for row in rows])
    if fault:
        i, problem = fault
        raise cell_error(path, rows[i], name, f"{problem}; --missing names words for a blank")
    return values.astype(np.float32)


# -----------------------------------------------------------------------------
# --target -> tasks and values


def read_targets(path, header, rows, target, labels, uncertain, blank):
    """-> tasks; {task: float32 (rows,), or (rows, L) of labels, or (rows, 2) of survival; NaN where unknown};
    the columns that say it; notes on what was not plain.

    target: --target, or "" for the columns called target, label or label_*. labels: columns that are labels
    where --target gives no kind. uncertain, blank: from `policy`, for a label of -1 and for an empty one."""
    kinds, events = parse_targets(path, header, target)
    guesses = [name for name, kind in kinds.items() if not kind]
    infer_kinds(path, rows, kinds, labels)
    tasks, targets, notes = [], {}, []
    columns = [event for event, _ in events.values()]
    findings, uncertain_cells = {}, 0                              # findings: label -> float32 (rows,)
    for name, kind in kinds.items():
        if kind == "one-hot":
            names = name.split("/")
            columns += names
            tasks.append(Task("class", "classes", tuple(names)))
            targets["class"] = read_one_hot(path, rows, names)
            continue
        columns.append(name)
        cells = known_cells(rows, name)
        if kind == "labels":
            uncertain_cells += cells["-1"] + cells["-1.0"]
            if is_list_column(cells):
                values_of = read_lists(path, rows, name, cells)
                notes.append(f"{name}: cells are lists of labels; --target {name}:classes makes each a class")
                notes += spelling_notes(name, words_in_lists(cells), "label")
            else:
                values_of = {name: read_labels(path, rows, name, cells, uncertain, blank)}
            twice = findings.keys() & values_of.keys()
            if twice:
                raise ValueError(f"{path}, column {name}: the label {min(twice)!r} is in another column too; "
                                 f"--target {name}:classes keeps them apart")
            findings.update(values_of)
            continue
        if not cells:
            raise ValueError(f"{path}, column {name}: no value in {len(rows)} rows")
        notes += reading_notes(name, kind, cells, name in guesses)
        classes = ()
        if kind == "survival":
            classes = (name, events[name][0])
            values, note = read_survival(path, rows, name, *events[name])
            notes.append(note)
        elif kind == "classes":
            classes, values = read_classes([row[name] for row in rows], cells)
        else:
            values = numbers(path, rows, name)
        task = Task(name.replace(".", "_"), kind, classes)         # the name of a module has no dot
        tasks.append(task)
        targets[task.name] = values
    if findings:
        tasks.append(Task("findings", "labels", tuple(findings)))
        targets["findings"] = np.stack(list(findings.values()), 1)
        if uncertain_cells:
            notes.append(f"{uncertain_cells} labels are -1: --uncertain says what they count as")
        if set(findings) <= set(header) - set(labels):
            notes += note_on_one_choice(path, rows, list(findings))
    if len(targets) < len(tasks):
        raise ValueError(f"--target {target}: two of them would have the same name; a dot becomes a _, "
                         "and all labels together are called findings")
    yes_or_no = [task.name for task in tasks
                 if task.kind == "classes" and all(name.lower() in LABELS for name in task.classes)]
    return tasks, targets, columns, notes + note_on_one_choice(path, rows, yes_or_no)


def note_on_one_choice(path, rows, names):
    """-> a line where exactly one of several columns says yes in every row, in a list."""
    if len(names) < 2:
        return []
    try:
        read_one_hot(path, rows, names)
    except (ValueError, KeyError):
        return []
    return [f"exactly one of {', '.join(names)} is 1 in every row: "
            f"--target {'/'.join(names)}:classes makes one choice of them"]


def reading_notes(name, kind, cells, is_guess):
    """-> notes on what was taken for what. is_guess: no kind was given."""
    if kind == "classes":
        return spelling_notes(name, cells, "class") + code_notes(name, cells)
    notes = code_notes(name, cells)
    cell, problem = odd_cell(cells) or ("", "")
    number, _ = read_number(cell)
    if number is not None:
        notes.append(f"{name}: {cell!r} {problem}, it is read as {number:g}")
    if is_guess and 1 < len(cells) <= FEW and 3 * len(cells) <= sum(cells.values()):
        notes.append(f"{name}: {len(cells)} different numbers are taken for amounts; --target {name}:classes "
                     "makes each a class")
    return notes


def read_classes(column, cells):
    """-> the classes in order; float32 (rows,), the index of the class. cells: as known_cells counts them."""
    index, classes = {"": np.nan}, []
    for spellings in sorted(spellings_of(cells), key=class_order):
        index |= dict.fromkeys(spellings, len(classes))
        classes.append(spellings[0])
    return tuple(classes), np.float32([index[cell] for cell in column])


def class_order(spellings):
    return by_number(spellings[0])


def read_one_hot(path, rows, names):
    """Columns of 0 and 1, no and yes, or marks, of which one is 1 in every row, or all are blank -> float32
    (rows,), its index."""
    columns = []
    for name in names:
        cells = known_cells(rows, name)
        columns.append(read_labels(path, rows, name, cells, uncertain={None: -1}, blank={None: np.nan}))
    values = np.stack(columns, 1)
    unknown = np.isnan(values).all(1)
    values = np.nan_to_num(values)                                 # a blank beside a mark is a 0
    has_one = (values.sum(1) == 1) & (values.min(1) == 0)
    for row, is_fine in zip(rows, unknown | has_one):
        if not is_fine:
            raise ValueError(f"{path} row {row[None]}: need one 1 and else 0 in {', '.join(names)}; "
                             f"--target {','.join(names)} makes each of them a label")
    return np.where(unknown, np.nan, values.argmax(1)).astype(np.float32)


def read_labels(path, rows, name, cells, uncertain, blank):
    """A column of labels -> float32 (rows,), NaN where they are unknown."""
    meaning = {0: 0.0, 1: 1.0, -1: uncertain.get(name, uncertain[None])}
    value_of = {"": blank.get(name, blank[None])}
    for cell in cells:
        number = LABELS.get(cell.lower(), cell)
        if is_number(number) and float(number) in meaning:
            value_of[cell] = meaning[float(number)]
    for row in rows:
        if row[name] not in value_of:
            raise cell_error(path, row, name, "is no label, need 0, 1, -1 or blank")
    return np.float32([value_of[row[name]] for row in rows])


def is_list_column(cells):
    """Are there words in a column of labels that are no label by themselves?"""
    return bool(cells) and not any(is_number(cell) or cell.lower() in LABELS for cell in cells)


def read_lists(path, rows, name, cells):
    """A column of words, one or several in a cell -> {word: float32 (rows,), is it there?}"""
    for row in rows:
        if OBJECT.fullmatch(row[name]):
            raise cell_error(path, row, name, "is a JSON object; need a column with the words themselves")
    counts = words_in_lists(cells)
    refuse_too_many(path, name, counts)
    separators = separators_of(cells)
    parts_of = {cell: set(map(same_word, list_parts(cell, separators))) for cell in cells}
    columns = {}
    for label, *_ in sorted(spellings_of(counts)):
        word = same_word(label)
        has_label = {cell: word in parts for cell, parts in parts_of.items()} | {"": np.nan}
        columns[label] = np.float32([has_label[row[name]] for row in rows])
    return columns


def words_in_lists(cells):
    """{cell of a column of lists: how often} -> {word: in how many different cells}, without no finding."""
    separators = separators_of(cells)
    words = [part for cell in cells for part in list_parts(cell, separators)]
    return Counter(word for word in words if not NO_FINDING.fullmatch(word))


def read_survival(path, rows, time, event, event_value):
    """-> float32 (rows, 2): time and event, both NaN where one of them is blank; a note that counts them.

    event_value: of the column of events where it is not 1."""
    times = numbers(path, rows, time)
    cells = known_cells(rows, event)
    wanted = same_word(event_value or "1")
    is_event = {cell: float(same_word(cell) == wanted) for cell in cells}
    others = [cell for cell in cells if not is_event[cell]]
    refused = []
    if not event_value:
        refused = [cell for cell in others if same_word(cell) != 0]
    elif len(others) == len(cells) and wanted not in (0, 1):
        refused = others
    for row, t in zip(rows, times):
        if row[event] in refused:
            raise cell_error(path, row, event, "is no event, need 1 (it came) or 0 (not until the last "
                             f"look); --target {time}/{event}=VALUE:survival says which of "
                             f"{shortlist(cells)} it is")
        if t < 0:
            raise cell_error(path, row, time, "is no time, need at least 0")
    result = np.float32([times, [is_event.get(row[event], np.nan) for row in rows]]).T
    counts = f"{event} = {event_value or 1} in {np.nansum(result[:, 1]):.0f} of {sum(cells.values())} rows"
    if len(others) > 1:
        counts += f", {' and '.join(others[:5])} count as none"
    no_event = "(?i)cens|zens|alive|living|surviv(ed|or)|lost|free$|no[ _.-]?event|lebend|überleb"
    if not event_value and re.search(no_event, event):
        raise ValueError(f"{path}: {counts}, which a column of this name hardly says of the event; "
                         f"--target {time}/{event}=0:survival says that 0 is the event, =1 that 1 is")
    result[np.isnan(result).any(1)] = np.nan
    if not (result[:, 1] == 0).any():
        counts += "; WARNING: no row without it has a time, which is that of the last look"
    return result, f"{time}: the event is {counts}"


# -----------------------------------------------------------------------------
# the positive one of two classes


def put_positive_last(cohort, positive=None):
    """Order the classes of every task of two so that the positive one is the second, in place, and note it.

    positive: --positive, the name of a class; without it the usual names decide. ValueError where no task has
    such a class."""
    named = False
    for i, task in enumerate(cohort.tasks):
        if task.kind != "classes" or len(task.classes) != 2:
            continue
        first, second = task.classes
        chosen = positive_of(task.classes)
        if positive in task.classes:
            named, chosen = True, positive
        if chosen is None:
            cohort.notes.append(f"WARNING: {task.name}: is {first!r} or {second!r} the positive class? "
                                f"The second is taken; --positive {quote(first)} turns it round")
        elif {same_word(first), same_word(second)} != {0.0, 1.0}:
            cohort.notes.append(f"{task.name}: the positive class is {chosen!r}")
        if chosen == first:
            cohort.tasks[i] = replace(task, classes=(second, first))
            cohort.targets[task.name] = 1 - cohort.targets[task.name]
    if positive and not named:
        raise ValueError(f"--positive {positive}: no target has this class and one other; the targets are "
                         + ", ".join(f"{task.name} ({task.text})" for task in cohort.tasks))


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
            only = task.classes[int(known[0])] if task.classes else f"{known[0]:g}"
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


def training_notes(cohort, train):
    """-> warnings: classes and labels that the training images, whose indices are `train`, never show, and
    numbers whose spread a few of them carry."""
    notes = []
    for task in cohort.tasks:
        values = cohort.targets[task.name][train]
        names, shown = np.array(task.classes), True
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
            largest_first = np.sort(squares)[::-1].cumsum()
            few = int((largest_first < 0.99 * squares.sum()).sum()) + 1
            if few <= max(1, len(known) // 20):
                notes.append(f"WARNING: {task.name}: {few} of {len(known)} training values, as "
                             f"{known[squares.argmax()]:g}, carry 99 % of the spread that scales the loss")
    return notes
