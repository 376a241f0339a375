"""Tables: reading a CSV file, naming a place in it, and finding the image files that it names.
"""
import csv
import filecmp
import os
import re
from collections import defaultdict

from plumbing.folders import IMAGE_ENDINGS, list_images


def read_csv(path):
    """Read a table in UTF-8, with or without a byte order mark.

    -> the list of column names, and the rows as dicts {column: text} with the line number under the key None.
    ValueError names the file, and the row where it is to blame."""
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = read_header(path, next(reader, []))
            for cells in reader:
                if not any(cells):                                 # a blank line
                    continue
                if len(cells) < len(header) or any(cells[len(header):]):
                    raise ValueError(f"{path} row {reader.line_num}: {len(cells)} cells, "
                                     f"the header has {len(header)}")
                row = {name: one_line(cell) for name, cell in zip(header, cells) if name}
                row[None] = reader.line_num
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a UTF-8 CSV file ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no rows below the header")
    return [name for name in header if name], rows


def read_header(path, cells):
    """-> the names of the columns, "" where a column has none, up to the last name."""
    header = [one_line(cell) for cell in cells]
    while header and not header[-1]:
        header.pop()                                               # some tables end every line with a comma
    if not header:
        raise ValueError(f"{path} row 1: no header")
    for name in header:
        if name and header.count(name) > 1:
            raise ValueError(f"{path} row 1: column {name!r} appears twice")
    return header


def one_line(cell):
    """A cell may hold several lines; a message may not."""
    return cell.strip().replace("\n", " ")


def cell_place(path, row, name):
    return f"{path} row {row[None]}, column {name}"


def cell_error(path, row, name, problem):
    """-> ValueError to raise: where the cell is, what it holds, and what is wrong with that."""
    return ValueError(f"{cell_place(path, row, name)}: {row[name]!r} {problem}")


def shortlist(names):
    """-> the first names, for a message."""
    return ", ".join(list(names)[:20]) or "none"


def first_column(header, names):
    """-> the first of "a|b|c" that is a column, or None."""
    for name in names.split("|"):
        if name in header:
            return name
    return None


def require_column(path, header, names, flag):
    """-> the first of "a|b|c" that is a column. flag: the one with which a user names another."""
    name = first_column(header, names)
    if name is None:
        raise ValueError(f"{path}: no column {names!r}; {flag} names it, there are {shortlist(header)}")
    return name


def name_and_kind(spec, header):
    """ "NAME:KIND" -> NAME, KIND; "NAME" -> NAME, "". The name of a column may itself hold a colon."""
    name, colon, kind = spec.rpartition(":")
    if spec in header or not colon:
        return spec, ""
    return name, kind


# -----------------------------------------------------------------------------
# patients and images


def find_patients(path, rows, column, regex):
    """-> the patient of every row, the part of the cell that matches the regular expression."""
    matches = [re.search(regex, row[column], re.DOTALL) for row in rows]
    if None in matches:
        raise cell_error(path, rows[matches.index(None)], column, "names no patient")
    return [match[0] for match in matches]


def find_images(path, rows, column, folder):
    """-> the image file of every row. column: of the names of images; folder: in which the images are.

    An image is searched where the table says; then without the table's first folders, which may be above
    ours; then by its name alone, with its ending or without, anywhere below. A table cannot name a file
    outside of the folder. A link inside it is followed: whoever owns the folder made it, not the table.
    ValueError where there is no such image, or two different ones."""
    root = os.path.abspath(folder)
    if not os.path.isdir(root):
        raise ValueError(f"--images {folder}: no such folder")
    paths, paths_of = [], None                                     # paths_of: made when it is first needed
    for row in rows:
        cell = row[column]
        tail = os.path.relpath(os.path.join(root, cell), root)
        if tail.split(os.sep)[0] == "..":
            raise cell_error(path, row, column, f"leaves the image folder {root}")
        if len(cell) > 4096:                                       # longer than any path; looking takes long
            tail = ""
        name = os.path.basename(tail)
        while tail and not os.path.isfile(os.path.join(root, tail)):
            tail = tail.partition(os.sep)[2]                       # a/b/c.png, then b/c.png, then c.png
        if tail:
            paths.append(os.path.join(root, tail))
            continue
        if paths_of is None:
            paths_of = index_images(root)
        image, *others = paths_of.get(name, [None])
        for other in others:
            if not filecmp.cmp(image, other):
                raise cell_error(path, row, column, f"may be {image} or {other}; --images names the folder")
        paths.append(image)
    if None in paths:
        raise cell_error(path, rows[paths.index(None)], column,
                         f"is no image ({' '.join(IMAGE_ENDINGS)}) under {folder} "
                         f"({paths.count(None)} of {len(rows)} rows); --images names the folder")
    return paths


def index_images(root):
    """-> {name of an image file, with its ending or without: [paths of all such files below the folder]}."""
    paths_of = defaultdict(list)
    for path in list_images(root):
        name = os.path.basename(path)
        paths_of[name].append(path)
        paths_of[stem(name)].append(path)
    return paths_of


def stem(name):
    return os.path.splitext(name)[0]
