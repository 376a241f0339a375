"""Cells: what a text in a table says as a number, as a list, as yes or no, and what only looks like that.
"""
import re
import unicodedata
from collections import Counter
from shlex import quote

import numpy as np


UNITS = ("%|[µu]m|mm|cm|m|ml|l|mg|g|kg|years?|yrs?|y|months?|mo|weeks?|w|days?|d|hours?|h|min|s|bpm|mmhg|px"
         "|hu|gy|[mc]m[²³23]|°c|kg/m[²2]|([mµun]?g|m?mol|i?u)/[dm]?l|mm/h|1?/min")
MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
ODD = {
    r"0\d+": "begins with 0, as codes do",
    r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\.0)?": "is a date",
    r"[\[({][-.\d]+([\s,;]+[-.\d]+)+[\])}]": "is a list of numbers, which belong into columns of their own",
    r"[1-9]\d{0,2}(,\d{3})+": "has commas that may divide thousands, or be a decimal comma",
    r"[-+]?\d+,\d+": "has a decimal comma",
    r"[-+]?\d{1,3}(?!\.\d{3}$)([ .,'’\u00a0\u202f]\d{3})+([.,]\d+)?": "has its thousands divided",
    r"\d{1,4}([-./])\d{1,2}\1\d{1,4}([ T].*)?|\d{4}-\d\d|\d\d?:\d\d(:\d\d)?": "is a date or a time",
    rf"\d{{1,2}}[ .-]+[a-z]{{3,9}}[ .,-]+\d{{2,4}}|\d\d?-({MONTHS})|({MONTHS})-\d\d": "is a date",
    rf"[-+]?\d+([.,]\d+)?\s*({UNITS})": "has a unit",
    r"[<>≤≥~]\s*\d.*": "is a bound",
    r"[-+.\d]+([\s;|]+[-+.\d]+)+": "is a list of numbers, which belong into columns of their own",
}
READABLE = re.compile(rf"(?i)([-+]?\d+)(?:[.,](\d+))?\s*({UNITS})?")
THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+")                   # or a number with three decimals
GROUPED = re.compile(r"[1-9]\d{0,2}\.\d{3}")                       # 1.500 among 500 and 750: 1500?
THREE_DIGITS = re.compile(r"\d{1,3}")
CODE = re.compile(r"(-[178]|-?(9+(\.9+)?|88+|77+))(\.0*)?")          # numbers that stand for a blank
UNKNOWN = re.compile(r"(?i)[(\[]?(unk(nown|n)?|unbekannt|missing|undefined|unspecified|undetermined|unsure"
                     r"|uncertain|equivocal|indeterminate|inconclusive|maybe"
                     r"|tb[ad]|n\. ?[dk]\.|k\. ?a\.|blank|empty|to ?do|removed|unlabell?ed|no label"
                     r"|not (known|specified|recorded|applicable|done|assessed))[)\]]?")
LABELS = dict.fromkeys("true yes y ja oui si sí positive pos present checked x +".split(), "1")
LABELS |= dict.fromkeys("false no n nein non negative neg absent unchecked -".split(), "0")
SHORT = dict(yes="y", no="n", true="t", false="f", male="m", female="f", positive="pos", negative="neg")
NO_FINDING = re.compile(r"(?i)no[ _-]?findings?|normal|healthy")   # in a list of findings
CALL = re.compile(r"(c|list|set|frozenset|(np\.)?array)(?=\(.*\)$)")           # of R and Python
LIST = re.compile(rf"[|;]|^({CALL.pattern})?[\[({{].*[\])}}]$")
SEPARATORS = "|;,"
OTHER_SEPARATORS = "/+&", *"\t\\，、·•#^~$!:", "<br>", " and ", " und ", " et ", " y ", " - ", *"_- "
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
NO = "no", "non", "n", "un"
NEGATIVE = re.compile(r"(?i)-|-?0(\.0)?|-1(\.0)?|n|no|nein|non|false|neg|negative|normal|healthy|controls?"
                      r"|benign|none|absent|low|alive|unaffected|uninfected|(no|non|not|without)[ _-].+")
POSITIVE = re.compile(r"(?i)y|yes|ja|oui|s[ií]|true|pos|positive|abnormal|diseased?|sick|cases?|cancer"
                      r"|malignant|high|dead|tumou?r|present|affected|deceased|pneumonia|covid.*|melanoma"
                      r"|tuberculosis")


def is_number(text):
    """Is it a number that float32 can hold? Python alone would take 1_0 for ten."""
    try:
        return abs(float(text)) < 3.4e38 and "_" not in text
    except ValueError:
        return False


def by_number(cell):
    """A key to sort by: numbers by their values, then words by the alphabet."""
    if is_number(cell):
        return 0, float(cell), cell
    return 1, 0.0, cell


def odd_cell(cells):
    """-> the first cell that makes a column neither one of numbers nor one of words, and what is wrong with
    it: it only looks like a number, or others are numbers; else None."""
    plain = list(filter(THREE_DIGITS.fullmatch, cells))
    grouped = list(filter(GROUPED.fullmatch, cells))
    if plain and grouped and len(plain) + len(grouped) == len(cells):
        return grouped[0], "may be a thousand and more, or have three decimals"
    odd, words, numbers = [], [], 0
    for cell in cells:
        problem = next((ODD[pattern] for pattern in ODD if re.fullmatch(pattern, cell, re.IGNORECASE)), None)
        if problem:
            odd.append((cell, problem))
        elif is_number(cell):
            numbers += 1
        else:
            words.append((cell, "is not a number, others are"))
    for cell, problem in odd:
        if not words or "is a date" in problem:                    # as spreadsheets make of 3-1
            return cell, problem
    return words[0] if words and numbers else None


def ways_out(flag, cell, words, number):
    """-> what to add to a flag such as --target NAME where odd_cell finds this cell. words, number: the kinds
    that take it as one or the other."""
    choices = f"{flag}:{words} takes it as a word"
    value, _ = read_number(cell)
    if value is not None:
        choices += f", {flag.split()[1]}:{number} as {value:g}"
    elif odd_cell([cell]) is None:
        choices = f"{flag}:{words} allows it; --missing names words for a blank"
    return choices


def read_number(cell):
    """-> the number that a cell holds, with a decimal comma or a unit or none, and its unit; None, ""."""
    if is_number(cell):
        return float(cell), ""
    match = READABLE.fullmatch(cell)
    if not match or THOUSANDS.fullmatch(cell):
        return None, ""
    return float(f"{match[1]}.{match[2] or 0}"), (match[3] or "").lower()


def read_numbers(cells):
    """-> float (rows,), NaN where a cell is blank; and None, or the index of the first cell that is no number
    or has another unit than those before, and the problem."""
    values, units = [], []
    for i, cell in enumerate(cells):
        value, unit = read_number(cell)
        values.append(value)
        if not cell:
            continue
        if value is None:
            problem = "is not a number"
            odd = odd_cell([cell])
            if odd:
                problem += f": it {odd[1]}"
            return None, (i, problem)
        units.append(unit)
        if unit != units[0]:
            return None, (i, f"has another unit than the cells before, {units[0] or 'none'}")
    return np.array(values, dtype=float), None                     # None becomes NaN


def list_parts(cell, separators=SEPARATORS):
    """ "a|b", "a; b", "a, b", "['a', 'b']", "['a' 'b']", 'c("a", "b")' or "{'a', 'b'}" -> ["a", "b"]"""
    cell = CALL.sub("", cell)
    if cell.startswith(("[", "{", "(")):
        quoted = ["".join(pair).strip() for pair in QUOTED.findall(cell)]
        if any(quoted):
            return list(filter(None, quoted))
        cell = cell.strip("[]{}()").replace(",", "|")
    for separator in separators:
        if separator in cell:
            break
    parts = [part.strip(" '\"") for part in cell.split(separator)]
    return [part for part in parts if part]


def are_lists(cells, separators):
    """Do some cells hold several words, of which one is in other cells too?"""
    cells_with = Counter()                                         # a word: in how many cells it is
    several = set()                                                # words that stand beside others
    for cell in cells:
        parts = {same_word(part) for part in list_parts(cell, separators) if not is_number(part)}
        cells_with.update(parts)
        if len(parts) > 1:
            several |= parts
    return any(cells_with[part] > 1 for part in several)


def separators_of(cells):
    """-> the signs that divide the words in a column of lists. Any other than the usual ones only where each
    word of a list stands alone in another cell."""
    for separators in (SEPARATORS, OTHER_SEPARATORS[0]):
        if are_lists(cells, separators):
            return separators
    alone = set(map(same_word, cells))
    for separator in OTHER_SEPARATORS[1:]:
        for cell in cells:
            words = [same_word(word) for word in list_parts(cell, [separator])]
            if len(words) > 1 and alone.issuperset(words):
                return [separator]
    return SEPARATORS


def spellings_of(counts):
    """{word: how often} -> lists of those that say the same, the most frequent first."""
    groups = {}
    for word in counts:
        groups.setdefault(same_word(word), []).append(word)
    return [sorted(sorted(group), key=counts.get, reverse=True) for group in groups.values()]


def spelling_notes(name, counts, noun):
    """-> lines on words of a column that are taken for one."""
    return [f"{name}: {' and '.join(map(repr, spellings))} are one {noun}"
            for spellings in spellings_of(counts) if len(spellings) > 1]


def code_notes(name, counts):
    """-> warnings of cells that count like the others and may stand for a blank: words like unknown, the only
    negative numbers, as -1, -9 or -999, and 9, 77, 99 or 999.9 far above the others. counts: {cell: how
    often}"""
    codes = [cell for cell in counts if UNKNOWN.fullmatch(cell)]
    numbers = sorted(filter(is_number, counts), key=float)
    others = [float(cell) for cell in numbers if not CODE.fullmatch(cell)]
    if others and len(numbers) > 2:
        for cell in filter(CODE.fullmatch, numbers):
            if float(cell) < 0 <= others[0] or float(cell) > 2 * others[-1] > 0:
                codes.append(cell)
    return [f"WARNING: {name}: {code} ({counts[code]} rows) counts like the other values; where it stands "
            f"for a blank, say --missing=na,nan,{quote(code.lower())}" for code in codes]


def same_word(cell):
    """-> what is equal for 1 and 1.0, for Benign and benign, for no_tumor and no-tumor and no tumor, for yes
    and y, and for the two ways to write an accent."""
    if is_number(cell):
        return float(cell)
    text = re.sub(r"(?<=[^\W\d_])[_-](?=[^\W_])", " ", unicodedata.normalize("NFC", cell).casefold())
    text = " ".join(text.split())
    return SHORT.get(text, text)


def positive_of(classes):
    """-> which of two classes is the positive one by its name, None where no usual name decides."""
    first, second = [re.sub(r"[ _-]", "", name).casefold() for name in classes]
    if second in [no + first for no in NO]:                        # NoDR, NRG
        return classes[0]
    if first in [no + second for no in NO]:
        return classes[1]
    positive = [name for name in classes if not NEGATIVE.fullmatch(name)]
    if len(positive) != 1:
        positive = [name for name in classes if POSITIVE.fullmatch(name)]
    return positive[0] if len(positive) == 1 else None
