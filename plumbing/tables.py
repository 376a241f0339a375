"""Reading a CSV file, and finding the images that it names.
"""
import csv
import filecmp
import functools
import os
from collections import Counter, defaultdict


PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy", ".npz", ".pt")     # and arrays: data.py


def read_csv(path):
    """-> header, rows as dicts with the line number under the key None. UTF-8 with or without BOM."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip().replace("\n", " ") for name in next(reader, [])]         # a cell may hold lines, a message may not
            while header and not header[-1]:
                header.pop()                                       # some tables end every line with a comma
            doubles = [name for name, count in Counter(header).items() if name and count > 1]
            if not header or doubles:
                raise ValueError(f"{path} row 1: " + (f"column {doubles[0]!r} stands there twice" if doubles else "no header"))
            rows = []
            for cells in reader:
                if len(cells) < len(header) and any(cells) or any(cells[len(header):]):
                    raise ValueError(f"{path} row {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
                if any(cells):
                    row = {name: cell.strip().replace("\n", " ") for name, cell in zip(header, cells) if name}
                    rows.append({**row, None: reader.line_num})
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a UTF-8 CSV file ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no rows below the header")
    return [name for name in header if name], rows


def at(path, row, name):
    return f"{path} row {row[None]}, column {name}"


def pick(header, names):
    """The first of "a|b|c" that is a column, or None."""
    return next((name for name in names.split("|") if name in header), None)


def column(path, header, names, role):
    name = pick(header, names)
    if name is None:
        flag = f"--{role}{'-column' * (role != 'target')}"
        raise ValueError(f"{path}: no column {names!r}; {flag} names it, there are {', '.join(header[:20])}")
    return name


def finder(folder):
    """-> function (image, where) -> file in the folder, or None. It looks where the table says; then without the table's first
    folders, which may be above ours; then for the one picture of that name, with its ending or without, anywhere below.
    A table cannot name a file outside of the folder. A link inside it is followed: whoever owns the folder made it, not the table."""
    root = os.path.abspath(folder)
    if not os.path.isdir(root):
        raise ValueError(f"--images {folder}: no such folder")

    @functools.lru_cache(None)
    def below():
        files = defaultdict(list)
        for place, _, names in os.walk(root):
            for name in sorted(names):
                stem, ending = os.path.splitext(name)
                for key in {name, stem} if ending.lower() in PICTURES else ():
                    files[key].append(os.path.join(place, name))
        return files

    def find(image, where):
        if len(image) > 4096:                                      # no system has longer paths, and looking for them takes long
            return None
        path = os.path.normpath(os.path.join(root, image))
        if os.path.commonpath([root, path]) != root:
            raise ValueError(f"{where}: {image!r} leaves the image folder {root}")
        parts = path[len(root):].strip(os.sep).split(os.sep)
        for i in range(len(parts)):
            if os.path.isfile(path := os.path.join(root, *parts[i:])):
                return path
        found = below().get(parts[-1], [])
        if not all(filecmp.cmp(found[0], other) for other in found[1:]):
            raise ValueError(f"{where}: {image!r} may be {found[0]} or {found[1]}; --images names the folder")
        return found[0] if found else None

    return find
