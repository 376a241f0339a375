"""Tables: reading a CSV file, finding its columns and blanks, and naming a place in it.
"""
import csv
import re
from collections import Counter
from itertools import chain, islice

from plumbing.cells import INVISIBLE, is_number
from plumbing.families import rules
from plumbing.formats import ENDING
from plumbing.words import MISSING


DELIMITERS = ",;\t|"
FOREIGN = r"""  how a file begins -> what it is, and how it becomes a table
\$FL2|<stata|HEADER RECORD\*|\0{8} -> of SPSS, Stata or SAS; write it as CSV with the program that made it
ARROW1|FEA1|\x89HDF|SQLite|MATLAB -> of Arrow, HDF5, SQLite or MATLAB; write it as CSV with that
{\\rtf|\0\x01\0\0Standard -> of Access or Word; write it as CSV with the program that made it
\xff\xfe|\xfe\xff|.?\0 -> UTF-16 text; iconv -f UTF-16 -t UTF-8 {} > utf8.csv, or {excel}
PK\03 -> a zip archive, as Excel workbooks (.xlsx): {excel}, or unzip it; of .npz files a row names one
\xd0\xcf\x11\xe0 -> an old Excel workbook; {excel}
\x1f\x8b -> compressed; gunzip -k {}
BZh -> compressed; bunzip2 -k {}
\xfd7zXZ -> compressed; unxz -k {}
[{\[] -> JSON; write one line of cells per image, with pandas: read_json(...).to_csv(...)
PAR1 -> a Parquet file; with pandas: read_parquet(...).to_csv(...)
\x93NUMPY -> an array of NumPy; a table names one such file per row
\x80 -> a pickle; write it as CSV with the program that made it
<|%PDF -> HTML, XML or a PDF; {excel}
\x89PNG|\xff\xd8\xff -> a picture; a table names one picture per row
"""


def read_csv(path):
    """Read a table in UTF-8, with or without a byte order mark, its cells divided by commas, semicolons,
    tabs or bars.

    -> the list of column names, and the rows as dicts {column: text}, which say under the key None where they
    stand, "t.csv row 5". Of several lines in a cell a list is made, "a; b".
    Columns without a name are left out, and so are comments: lines that begin with # and have other cells
    than a row. ValueError names the file, and the row where it is to blame."""
    refuse_foreign(path)
    rows = []
    marked = []                                                    # rows that may be comments
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first, skipped = header_line(file)
            lines = [first, *islice(file, 20)]
            reader = csv.reader(chain(lines, file), delimiter=delimiter_of("".join(lines)),
                                skipinitialspace=True, strict=True)
            cells = next(reader, [])
            width = len(cells)
            header = read_header(path, cells)
            for cells in reader:
                place = f"{path} row {skipped + reader.line_num}"
                if "\0" in "".join(cells):                         # Python 3.10 refuses it itself
                    raise csv.Error("line contains NUL")
                is_whole = len(cells) >= len(header) and not any(cells[width:])
                if not any(cells) or cells[0].startswith("#") and not is_whole:
                    continue                                       # a blank line, or a comment
                if not is_whole:
                    raise ValueError(f"{place}: {len(cells)} cells, the header has {len(header)}")
                rows.append({name: one_line(cell, "; ") for name, cell in zip(header, cells) if name})
                rows[-1][None] = place
                if cells[0].startswith("#"):
                    marked.append(place)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 CSV file ({error}); if it is Windows-1252 (in "
                         "Turkey 1254, in China GB18030, in Japan CP932): "
                         f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8.csv") from error
    except csv.Error as error:
        raise ValueError(f"{path} row {skipped + reader.line_num}: not a UTF-8 CSV file ({error}); cells are "
                         "divided by commas, semicolons, tabs or bars") from error
    if not rows:
        raise ValueError(f"{path}: no rows below the header")
    if 0 < len(marked) < len(rows):
        raise ValueError(f"{marked[0]}: begins with # as comments do, but has all cells of a row; "
                         "take away the # or the line")
    return list(filter(None, header)), rows


def refuse_foreign(path):
    """ValueError where a file is none of text, and how it can be made a table."""
    with open(path, encoding="latin-1") as file:                   # one character per byte
        beginning = file.read(64).removeprefix("\xef\xbb\xbf").lstrip(" \t\r\n")
    for magic, content in rules(FOREIGN):
        if re.match(magic, beginning):
            content = content.format(path, excel="in a spreadsheet program save it as CSV UTF-8")
            raise ValueError(f"{path}: not a UTF-8 CSV file: {content}")


def header_line(file):
    """-> the first line that is neither blank nor a comment, and how many came before. A header may begin
    with a column that is called #, and Excel's sep=; is a comment too."""
    skipped, line = 0, file.readline()
    while line and re.match(r"\s*$|#(?![,;\t|])|\"?sep=.\"?\s*$", line):
        skipped, line = skipped + 1, file.readline()
    return line, skipped


def delimiter_of(text):
    """-> the delimiter that is most frequent in that of the first two rows which has fewer of it, outside
    quotes: a name in quotes may have several lines."""
    rows = re.split(r"[\r\n]+", re.sub(r'"[^"]*"', "", text))[:2]
    return max(DELIMITERS, key=lambda delimiter: min(row.count(delimiter) for row in rows))


def read_header(path, cells):
    """-> the names of the columns, "" where a column has none, up to the last name."""
    header = [one_line(cell) for cell in cells]
    while header and not header[-1]:
        header.pop()                                               # some tables end every line with a comma
    names = list(filter(None, header))
    are_names = not all(map(is_number, names)) or names == list(map(str, range(len(names))))
    if not names or not are_names or any(map(ENDING.search, " ".join(names).split())):
        raise ValueError(f"{path} row 1: no names of columns, but {shortlist(names)}; above the first row a "
                         "line with the names is needed, commas between them")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{path} row 1: column {name!r} appears twice")
    return header


def blank_out(rows, words):
    """Make the cells that hold a word for a blank blank. words: as in MISSING, for which "default" stands.

    -> {(column, cell): how often it was made blank}. ValueError for - in a column that holds + too."""
    words = set(words.lower().split(","))
    if "default" in words:
        words.remove("default")
        words.update(MISSING.split(","))
    counts = Counter()
    for row in rows:
        for name, cell in row.items():
            if name and cell and cell.lower() in words:
                row[name] = ""
                counts[name, cell] += 1
    for name, word in counts:
        if word == "-" and any(row[name] == "+" for row in rows):
            raise ValueError(f"column {name}: is - beside + a blank, or negative? --missing=na,nan makes it "
                             "a word, and leaves na and nan as blanks")
    return counts


def known_cells(rows, name):
    """-> {cell: how often a column holds it}, in the order of the table, blanks left out."""
    return Counter(row[name] for row in rows if row[name])


def one_line(cell, between=" "):
    """A cell may hold several lines; a message may not. What nobody sees is taken away."""
    if cell.isprintable():                                         # one line, and nothing that nobody sees
        return cell.strip()
    return between.join(map(str.strip, INVISIBLE.sub("", cell).strip().splitlines()))


def cell_error(row, name, problem):
    """-> ValueError to raise: where the cell is, what it holds, and what is wrong with that."""
    return ValueError(f"{row[None]}, column {name}: {row[name]!r} {problem}")


def refuse_cells(rows, name, cells, problem):
    """ValueError for the first row in which a column holds one of these cells, if there are any."""
    for row in rows:
        if row[name] in cells:
            raise cell_error(row, name, problem)


def shortlist(names, most=20):
    """-> the first names, for a message, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:most]) or "none"
    if len(names) > most:
        text += f" and {len(names) - most} more"
    return text


def first_column(header, names):
    """-> the first of "a|b|c" that is a column, or None."""
    return next((name for name in names.split("|") if name in header), None)


def require_column(path, header, names, flag):
    """-> the first of "a|b|c" that is a column. flag: with which a user names another."""
    name = first_column(header, names)
    if name is None:
        raise ValueError(f"{path}: no column {names.partition('|')[0]!r}; {flag} names it, there are "
                         f"{shortlist(map(repr, header))}")
    return name


def names_and_kinds(text, header):
    """ "A,B:KIND" -> [(A, ""), (B, KIND)]. The name of a column alone may hold a comma."""
    name, kind = name_and_kind(text, header)
    if name in header and "," not in kind:
        return [(name, kind)]
    return [name_and_kind(spec.strip(), header) for spec in text.split(",")]


def name_and_kind(spec, header):
    """ "NAME:KIND" -> NAME, KIND; "NAME" -> NAME, "". The name of a column may itself hold a colon."""
    name, colon, kind = spec.rpartition(":")
    if spec in header or not colon:
        return spec, ""
    return name, kind
