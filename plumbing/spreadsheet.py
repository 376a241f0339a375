"""Cells of the CSV files that a run leaves: no spreadsheet takes one for a formula.

A text that begins with = + - @, a tab or a return gets an apostrophe in front, unless it is a number; texts
that begin with an apostrophe and then one of these get another one, so that reading takes away exactly what
writing added.
"""
import csv
import re

from plumbing.cells import is_number


def safe(cell):
    """A cell as it is written."""
    if isinstance(cell, str) and re.match(r"'*[=+\-@\t\r]", cell) and not is_number(cell):
        return "'" + cell
    return cell


def plain(text):
    """A cell as it was before `safe`."""
    return re.sub(r"\A'(?='*[=+\-@\t\r])", "", text)


def read_cells(path):
    """A CSV file of a run -> its rows as dicts {column: text}."""
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.append({plain(name): plain(cell or "") for name, cell in row.items() if name is not None})
    return rows
