"""Cells: what a text in a table says as a number, as a list, as yes or no, and what only looks like that.
"""
import re
import unicodedata
from collections import Counter


UNITS = "%|[µu]m|mm|cm|m|ml|l|mg|g|kg|years?|yrs?|y|months?|mo|weeks?|w|days?|d|hours?|h|bpm|mmhg|px|hu"
ODD = [(re.compile(pattern, re.IGNORECASE), problem) for pattern, problem in (
    (r"0\d+", "begins with 0, as codes do"),
    (r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\.0)?", "is a date"),
    (r"[\[({][-.\d]+([\s,;]+[-.\d]+)+[\])}]", "is a list of numbers, which belong into columns of their own"),
    (r"[-+]?\d+,\d+", "has a decimal comma"),
    (r"\d{1,4}([-./])\d{1,2}\1\d{1,4}([ T].*)?|\d{4}-\d\d|\d\d?:\d\d(:\d\d)?", "is a date or a time"),
    (r"\d{1,2}[ .-]+[a-z]{3,9}[ .,-]+\d{2,4}", "is a date"),
    (rf"[-+]?\d+([.,]\d+)?\s*({UNITS})", "has a unit"),
    (r"[<>≤≥~]\s*\d.*", "is a bound"),
)]
READABLE = re.compile(rf"([-+]?\d+)(?:[.,](\d+))?\s*({UNITS})?", re.IGNORECASE)
THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+")                   # or a number with three decimals
LABELS = {"true": "1", "yes": "1", "positive": "1", "false": "0", "no": "0", "negative": "0"}
NO_FINDING = re.compile(r"no[ _-]?findings?|normal|healthy", re.IGNORECASE)        # in a list of findings
LIST = re.compile(r"[|;]|^[\[({].*[\])}]$")
NO = "no", "non", "n", "un"
NEGATIVE = re.compile(r"-?0(\.0)?|-1(\.0)?|n|no|false|neg|negative|normal|healthy|controls?|benign|none"
                      r"|absent|low|alive|unaffected|uninfected|(no|non|not|without)[ _-].+", re.IGNORECASE)
POSITIVE = re.compile(r"y|yes|true|pos|positive|abnormal|diseased?|sick|cases?|cancer|malignant"
                      r"|high|dead|tumou?r|present|affected|deceased|pneumonia|covid.*|melanoma|tuberculosis",
                      re.IGNORECASE)


def is_number(text):
    """Is it a number that float32 can hold? Python alone would take 1_0 for ten."""
    try:
        return abs(float(text)) < 3.4e38 and "_" not in text
    except ValueError:
        return False


def odd_cell(cells):
    """Do all cells look like numbers, and some only so? -> the first of these and what it has, else None."""
    for pattern, problem in ODD:
        odd = [cell for cell in cells if pattern.fullmatch(cell)]
        if odd and all(is_number(cell) or pattern.fullmatch(cell) for cell in cells):
            return odd[0], problem
    return None


def read_number(cell):
    """-> the number that a cell holds, with a decimal comma or a unit or none, and its unit; None, ""."""
    if is_number(cell):
        return float(cell), ""
    match = READABLE.fullmatch(cell)
    if not match or THOUSANDS.fullmatch(cell):
        return None, ""
    return float(f"{match[1]}.{match[2] or 0}"), (match[3] or "").lower()


def list_parts(cell):
    """ "a|b", "a; b", "a, b", "['a', 'b']" or "{'a', 'b'}" -> ["a", "b"]"""
    if cell.startswith(("[", "{", "(")):
        cell = cell.strip("[]{}()").replace(",", "|")
    for separator in "|;,":
        if separator in cell:
            break
    parts = [part.strip(" '\"") for part in cell.split(separator)]
    return [part for part in parts if part]


def are_lists(cells):
    """Do some cells hold several words, of which one is in other cells too?"""
    cells_with = Counter()                                         # a word: in how many cells it is
    several = set()                                                # words that stand beside others
    for cell in cells:
        parts = set(list_parts(cell))
        cells_with.update(parts)
        if len(parts) > 1:
            several |= parts
    return any(cells_with[part] > 1 for part in several)


def same_word(cell):
    """-> what is equal for 1 and 1.0, for Benign and benign, and for the two ways to write an accent."""
    if is_number(cell):
        return float(cell)
    return " ".join(unicodedata.normalize("NFC", cell).casefold().split())


def positive_of(classes):
    """-> which of two classes is the positive one by its name, None where no usual name decides."""
    first, second = [re.sub(r"[ _-]", "", name).casefold() for name in classes]
    if second in [no + first for no in NO]:                        # NoDR, NRG
        return classes[0]
    if first in [no + second for no in NO]:
        return classes[1]
    negative = [name for name in classes if NEGATIVE.fullmatch(name)]
    positive = [name for name in classes if POSITIVE.fullmatch(name)]
    if len(negative) == 1:
        return classes[1 - classes.index(negative[0])]
    if len(positive) == 1:
        return positive[0]
    return None
