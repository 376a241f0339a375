"""--target -> the columns to predict and their kinds, given or guessed.
"""
import re

from plumbing.cells import LIST, are_lists, divide, is_number, label_of, odd_cell, ways_out
from plumbing.cohort import KINDS
from plumbing.tables import known_cells, names_and_kinds, refuse_cells, require_column, shortlist


POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}     # what -1 or a blank says of a label


def policy(flag, text, header):
    """ "zeros,Edema=ones" -> {None: "zeros", "Edema": "ones"}: the word for every label, and for single ones.
    """
    words = {None: "zeros"}
    for part in text.split(","):
        label, _, word = part.rpartition("=")
        if word not in POLICIES or (label and label not in header):
            raise ValueError(f"--{flag} {text}: {part!r} is none of {', '.join(POLICIES)}, "
                             "or LABEL=one of these with a column of the table")
        words[label or None] = word
    return words


def parse_targets(path, header, target):
    """ "age,days/died=yes:survival,A/B:classes" -> {"age": "", "days": "survival", "A/B": "one-hot"} and
    {"days": ("died", "yes")}: the kinds, "" where none is given, and for survival the column of events with
    the value that is one, "" where none is given."""
    if not target:
        target = ",".join(name for name in header if re.fullmatch("target|label(_.*)?", name))
    if not target:
        raise ValueError(f"{path}: what is to be predicted? --target NAME[:regression|classes|labels],... "
                         f"of {shortlist(header)}")
    kinds = {}
    events = {}
    for name, kind in names_and_kinds(target, header):
        if kind not in ("",) + KINDS:
            raise ValueError(f"--target {name}: kind {kind!r}, need one of {', '.join(KINDS)}")
        if kind == "classes" and name not in header:
            for column in name.split("/"):
                require_column(path, header, column, "--target")
            kinds[name] = "one-hot"
            continue
        if kind == "survival":
            name, _, event = name.partition("/")
            value = ""
            if event not in header:
                event, _, value = event.partition("=")
            events[name] = require_column(path, header, event, "--target TIME/EVENT:survival (1: the event, "
                                          "0: the last look) or /EVENT=VALUE:survival"), value
        if name in kinds:
            raise ValueError(f"--target {target}: {name} stands there twice; a column is one target")
        kinds[require_column(path, header, name, "--target")] = kind
    return kinds, events


def infer_kinds(path, rows, kinds, labels):
    """Fill in the kinds that are not given; -> notes. Words and a lone column of 0 and 1 are classes; several
    such columns, one with -1, lists of words, and those of `labels`, are labels; other numbers are
    regression."""
    notes = []
    binary = {}                                                    # name: its cells
    for name, kind in kinds.items():
        if kind:
            continue
        cells = known_cells(rows, name)
        kinds[name] = "labels" if name in labels else guess_kind(path, rows, name, cells)
        if kinds[name] == "binary":
            binary[name] = cells
        elif kinds[name] == "regression" and 1 < len(cells) <= 10 and 3 * len(cells) <= cells.total():
            notes.append(f"{name}: {len(cells)} different numbers are taken for amounts; "
                         f"--target {name}:classes makes each a class")
    for name, cells in binary.items():
        kinds[name] = "labels"
        if len(binary) == 1 and min(map(float, cells), default=0) >= 0:
            kinds[name] = "classes"
    return notes


def guess_kind(path, rows, name, cells):
    """-> labels, classes, regression, or "binary" for nothing but 0, 1 and -1. cells: as known_cells counts
    them. ValueError with the flags that decide where a column may mean several things."""
    odd = odd_cell(cells)
    if odd:
        cell, problem = odd
        choices = ways_out(f"--target {name}", cell, "classes", "regression")
        if None not in map(label_of, cells):
            choices = f"--target {name}:labels reads them as 1 and 0"
        refuse_cells(rows, name, [cell], f"{problem}; {choices}")
    if all(map(is_number, cells)):
        return "binary" if set(map(float, cells)) <= {0, 1, -1} else "regression"
    words_of = divide(cells)
    lists = [cell for cell, words in words_of.items() if len(words) != 1]              # or none, as []
    in_brackets = any(cell.startswith(("[", "{")) for cell in lists)         # also where they are all alike
    if not are_lists(words_of) and not in_brackets:
        refuse_too_many(path, name, cells)
        return "classes"
    if any(map(LIST.search, cells)):
        return "labels"
    refuse_cells(rows, name, lists, f"looks like a list; --target {name}:labels reads it as one, "
                 f"{name}:classes makes every combination a class")


def refuse_too_many(path, name, cells):
    """ValueError where there are about as many classes as rows."""
    if len(cells) > 10 and 2 * len(cells) > cells.total():
        raise ValueError(f"{path}, column {name}: {len(cells)} different words in {cells.total()} rows, as "
                         f"{next(iter(cells))!r}, are no classes; --target {name}:classes allows it")
