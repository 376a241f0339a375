"""--target -> the columns to predict and their kinds, given or guessed.
"""
import re

from plumbing.cells import LABELS, LIST, are_lists, is_number, list_parts, odd_cell, separators_of, ways_out
from plumbing.cohort import KINDS
from plumbing.tables import cell_error, known_cells, name_and_kind, require_column, shortlist


POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}     # what -1 or a blank says of a label


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


def parse_targets(path, header, target):
    """ "age,days/died:survival" -> {column: kind, "" if none is given}, {column of times: events}."""
    if not target:
        target = ",".join(name for name in header if re.fullmatch("target|label(_.*)?", name))
    if not target:
        raise ValueError(f"{path}: what is to be predicted? --target NAME[:regression|classes|labels],... "
                         f"of {shortlist(header)}")
    kinds, events = {}, {}
    specs = [target]
    name, kind = name_and_kind(target, header)
    if name not in header or kind not in ("",) + KINDS:            # else a column with a comma in its name
        specs = map(str.strip, target.split(","))
    for spec in specs:
        name, kind = name_and_kind(spec, header)
        if kind not in ("",) + KINDS:
            raise ValueError(f"--target {spec}: kind {kind!r}, need one of {', '.join(KINDS)}")
        if kind == "classes" and name not in header and "/" in name:
            for column in name.split("/"):
                require_column(path, header, column, "--target")
            kinds[name] = "one-hot"
            continue
        if kind == "survival":
            name, _, event = name.partition("/")
            value = ""
            if event not in header:
                event, _, value = event.partition("=")
            if not event:
                raise ValueError(f"--target {spec}: need two columns, TIME/EVENT:survival, with EVENT 1 "
                                 "where TIME is that of the event, 0 where it is that of the last look; "
                                 "TIME/EVENT=VALUE:survival for another value than 1")
            events[name] = require_column(path, header, event, "--target"), value
        kinds[require_column(path, header, name, "--target")] = kind
    return kinds, events


def infer_kinds(path, rows, kinds, labels):
    """Fill in the kinds that are not given. Words and a lone column of 0 and 1 are classes; several such
    columns, one with -1, lists of words, and those of `labels`, are labels; other numbers are regression."""
    for name, kind in kinds.items():
        if not kind and name in labels:
            kinds[name] = "labels"
        elif not kind:
            kinds[name] = guess_kind(path, rows, name)
    binary = [name for name, kind in kinds.items() if kind == "binary"]
    for name in binary:
        values = set(map(float, known_cells(rows, name)))
        if len(binary) == 1 and values == {-1, 1}:
            raise ValueError(f"{path}, column {name}: is -1 uncertain, or the other class? "
                             f"--target {name}:labels or {name}:classes says so")
        kinds[name] = "classes" if len(binary) == 1 and -1 not in values else "labels"


def guess_kind(path, rows, name):
    """-> labels, classes, regression, or "binary" for nothing but 0, 1 and -1. ValueError with the flags that
    decide where a column may mean several things."""
    cells = known_cells(rows, name)
    odd = odd_cell(cells)
    if odd:
        cell, problem = odd
        row = next(row for row in rows if row[name] == cell)
        choices = ways_out(f"--target {name}", cell, "classes", "regression")
        if {"0", "1", "0.0", "1.0", *LABELS}.issuperset(map(str.lower, cells)):
            choices = f"--target {name}:labels reads them as 1 and 0"
        raise cell_error(path, row, name, f"{problem}; {choices}")
    if all(map(is_number, cells)):
        return "binary" if set(map(float, cells)) <= {0, 1, -1} else "regression"
    separators = separators_of(cells)
    if are_lists(cells, separators):
        if any(LIST.search(cell) for cell in cells):
            return "labels"
        example = next(cell for cell in cells if len(list_parts(cell, separators)) > 1)
        raise ValueError(f"{path}, column {name}: {example!r} looks like a list; --target {name}:labels "
                         f"reads it as one, {name}:classes makes every combination a class")
    refuse_too_many(path, name, cells)
    return "classes"


def refuse_too_many(path, name, cells):
    """ValueError where there are about as many classes as rows."""
    if len(cells) > 10 and 2 * len(cells) > sum(cells.values()):
        raise ValueError(f"{path}, column {name}: {len(cells)} different words in {sum(cells.values())} "
                         f"rows, as {next(iter(cells))!r}, are no classes; --target {name}:classes allows it")
