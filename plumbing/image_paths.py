"""Image files by the names that a table gives them.

    a/b.png        is that file below the folder; or c/a/b.png, or b.png where the folder is called a, if only
                   one place ends like that
    b.png          is any file of this name, wherever it lies below the folder
    /x/y/a/b.png, ..\\y\\a\\b.png, y/a/b.png
                   where all names begin with the same folders, these may be above ours: a/b.png is meant

A file of the right name in another folder than the table says is another image, and never taken. Upper and
lower case, the two ways to write an accent, and the ending may differ where that leaves no choice; a note
says so, but not of an ending that the table leaves out. A table cannot name a file outside of the folder. A
link inside it is followed: whoever owns the folder made it, not the table.
"""
import filecmp
import os
import re
from collections import defaultdict
from os.path import basename, commonpath, commonprefix, dirname, isdir, isfile, join, normpath, relpath

from plumbing.cells import folded
from plumbing.folders import left_out_note, look_through
from plumbing.formats import IMAGE_ENDINGS, without_ending
from plumbing.tables import cell_error


ABSOLUTE = re.compile(r"(?i)[a-z]:[\\/]|[\\/]|\w+://")
LONGEST = 4096                                                     # of any path; looking for more takes long


def find_images(rows, column, root):
    """-> the image file of every row; notes, one line about those that the folder spells differently.

    column: of the names; root: the folder of the images, an absolute path. ValueError where there is no such
    image, or there are two different ones, or it has two names in the table."""
    if not isdir(root):
        raise ValueError(f"--images {root}: no such folder")
    paths = []                                                     # None where it must be looked for
    for row in rows:
        image = normpath(join(root, row[column]))
        is_there = image.startswith(join(root, "")) and isfile(image)
        paths.append(image if is_there else None)
    if None not in paths:
        return paths, []
    files, left_out = look_through(root)
    files = [file[len(root):].lstrip(os.sep).replace(os.sep, "/") for file in files]
    files_ending = by_ending(join(basename(root), file) for file in files)
    above = commonprefix([split_name(row[column])[:-1] for row in rows])               # works on lists too
    respelled = []                                                 # rows
    for i, row in enumerate(rows):
        if paths[i]:
            continue
        matches, same = search(files_ending, row[column], above)
        matches = [join(dirname(root), file) for file in matches]
        for other in matches[1:]:
            if not filecmp.cmp(matches[0], other, shallow=False):
                raise cell_error(row, column, f"may be {matches[0]} or {other}; --images names the "
                                 "folder, or the table says which")
        if matches:
            paths[i] = matches[0]
            if not same:
                respelled.append(i)
    if None in paths:
        refuse_missing(rows, column, paths, root, files, left_out)
    if not respelled:
        return paths, []
    refuse_shared(rows, column, paths, respelled)
    first = respelled[0]
    return paths, [f"{len(respelled)} of {len(rows)} images have another spelling in the table than in the "
                   f"folder: {rows[first][column]!r} is {relpath(paths[first], root)}"]


def split_name(cell):
    """ "C:\\scans\\a.png" -> ["C:", "scans", "a.png"]"""
    if len(cell) > LONGEST:
        return [cell]
    return normpath(cell.replace("\\", "/")).split("/")


def by_ending(files):
    """-> {the last parts of a path, folded: the files that end with these}"""
    files_ending = defaultdict(list)
    for file in files:
        parts = folded_stem(file).split("/")
        for depth in range(len(parts)):
            files_ending["/".join(parts[depth:])].append(file)
    return files_ending


def search(files_ending, cell, above):
    """-> the files that a cell may mean, in the strictest spelling that any has; is it the table's own?

    above: the folders with which all names in the table begin. They may be above ours: the name is looked
    for without the first of them, without the first two ..."""
    parts = split_name(cell)
    absolute = bool(ABSOLUTE.match(cell))
    elsewhere = absolute or parts[0] == ".."
    for depth in range(elsewhere, len(above) + 1):
        tail = parts[depth:]
        name = "/".join(tail)
        near = files_ending.get(folded_stem(name), [])
        if depth and len(tail) == 1:                               # no folder of the table is left
            near = [file for file in near if absolute and file.count("/") == 1]
        for number, (of_file, of_cell) in enumerate(SPELLINGS):
            matches = [file for file in near if ("/" + of_file(file)).endswith("/" + of_cell(name))]
            if matches:
                return matches, number < 2 and not elsewhere       # the ending may be left out
    return [], True


def folded_stem(name):
    return folded(without_ending(name))


# of a file, and of the name in the table, from the strictest on
SPELLINGS = ((str, str), (without_ending, str), (folded, folded), (folded_stem, folded_stem))


# -----------------------------------------------------------------------------
# refused


def refuse_missing(rows, column, paths, root, files, left_out):
    """ValueError about the first row that names no image, with the file of the nearest name, if any."""
    row = rows[paths.index(None)]
    cell = row[column]
    if commonpath([root, normpath(join(root, cell))]) != root:
        raise cell_error(row, column, f"leaves the image folder {root}, which --images names")
    if cell and isdir(join(root, cell)):
        raise cell_error(row, column, "is a folder; need a row for each image in it, or one file "
                         "(.nii, .npy) where they are the slices of a volume")
    problem = (f"is no image ({' '.join(IMAGE_ENDINGS)}) under {root} "
               f"({paths.count(None)} of {len(rows)} rows)")
    name = folded_stem(split_name(cell)[-1])
    excess = {}                                                    # file -> by how much its name is longer
    for file in files:
        stem = folded_stem(basename(file))
        if name in stem or stem in name:
            excess[file] = abs(len(stem) - len(name))
    if excess:
        nearest = min(excess, key=excess.get)
        problem += f"; {nearest} " + ("has the nearest name" if excess[nearest] else "is in another folder")
    del left_out[".csv"]                                           # tables, this one among them
    raise cell_error(row, column, "; ".join(
        [problem, *left_out_note(files, left_out), "--images names the folder"]))


def refuse_shared(rows, column, paths, respelled):
    """ValueError where two names in the table mean one file."""
    row_of = {paths[i]: rows[i] for i in respelled}
    for image, row in zip(paths, rows):
        other = row_of.get(image, row)
        if other[column] != row[column]:
            raise cell_error(row, column, f"and {other[column]!r} in {other[None]} would both be {image}")
