"""Cells: what a text in a table says as a number, as a list, as yes or no, and what only looks like that.
"""
import re
import unicodedata
from collections import Counter
from shlex import quote

import numpy as np

from plumbing.families import look_up, rules
from plumbing.words import MONTHS, NEGATIVE, NO, POSITIVE, SHORT, UNITS, UNKNOWN, YES


ODD = rules(r"""  what only looks like a number -> what is wrong with it
^0\d+$ -> begins with 0, as codes do
^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\.0)?$ -> is a date
^[\[({][-.\d]+([\s,;]+[-.\d]+)+[\])}]$ -> is a list of numbers, which belong into columns of their own
(?i)^[-+]?[1-9]\d{0,2}(,\d{3})+\s*(UNITS)?$ -> has commas that may divide thousands, or be a decimal comma
(?i)^[-+]?\d+,\d+(e[-+]?\d+)?$ -> has a decimal comma
^[-+]?\d+[·٫]\d+$ -> has a decimal point of another kind
^[‐‑‒–—−]\s*\d.*$ -> begins with a dash that is no minus sign
^=?["'][-+]?\d+([.,]\d+)?["']?$ -> is a number in quotes
^[-+.,\d]+\s*(±|\+/-)\s*[.,\d]+.*$ -> has an error behind it
^[-+]?\d{1,3}(?!\.\d{3}$)([ .,'’\u00a0\u202f]\d{3})+([.,]\d+)?$ -> has its thousands divided
(?i)^(\d{1,4}([-./])\d{1,2}\2\d{1,4}([ T].*)?|\d{4}-\d\d|\d\d?:\d\d(:\d\d)?)$ -> is a date or a time
(?i)^(\d{1,2}[ .-]+[a-z]{3,9}[ .,-]+\d{2,4}|\d\d?-(MONTHS)|(MONTHS)-\d\d)$ -> is a date
(?i)^[-+]?\d+([.,]\d+)?\s*(UNITS)$ -> has a unit
^[<>≤≥~]\s*\d.*$ -> is a bound
^[-+.\d]+([\s,;|]+[-+.\d]+)+$ -> is a list of numbers, which belong into columns of their own
""".replace("MONTHS", MONTHS).replace("UNITS", UNITS))
# numbers with a decimal comma or a unit; not 1,500, which may be a thousand and more
READABLE = re.compile(r"(?i)(?![-+]?[1-9]\d{0,2}(?:,\d{3})+(?![\de]))([-+]?\d+)(?:[.,](\d+(?:e[-+]?\d+)?))?"
                      rf"\s*({UNITS})?")
GROUPED = re.compile(rf"(?i)[-+]?(\d{{1,3}}|[1-9]\d{{0,2}}\.\d{{3}})\s*({UNITS})?")  # 1.500 among 750: 1500?
CODE = re.compile(r"(-[1478]|-?(9+(\.9+)?|88+|77+))(\.0*)?")          # numbers that stand for a blank
LABELS = dict.fromkeys(YES, "1") | dict.fromkeys(NO, "0")
INVISIBLE = re.compile("[\xad\u200b-\u200f\u2060\ufeff]")           # as copied from web pages
TYPED = str.maketrans("ı’‐‑‒–—−·٫", "i'------..", "\u0307")      # as keyboards and spreadsheets vary them
CALL = re.compile(r"^(c|list|set|frozenset|(np\.)?array)(?=\(.*\)$)")           # of R and Python
LIST = re.compile(rf"[|;；｜؛]|^({CALL.pattern})?[\[({{].*[\])}}]$")
SEPARATORS = "|;；｜؛,，、،"                                         # in a list, the first that is there
# what else stands between the words of a list: signs, blanks, and words as short as "and"
BETWEEN = r"(?:[^\w\s]|_)+", r"\s+", r"[\W_]+[^\W\d_]{1,5}[\W_]+", "[和与及と]"


def is_number(text):
    """Is it a number that float32 can hold? Python alone would take 1_0 for ten."""
    try:
        return abs(float(text)) < 3.4e38 and "_" not in text
    except ValueError:
        return False


def label_of(cell):
    """-> what a cell says as a label: 1, 0 or -1, also as 1,00; None where it says nothing of the kind."""
    value, unit = read_number(LABELS.get(cell.lower(), cell))
    if value in (1, 0, -1) and not unit:
        return value
    return None


def hold_labels(cells):
    """Does any cell hold a number, or say yes or no? F or T without the other is a word, as beside M."""
    words = {cell.lower() for cell in cells}
    if len(words) > 1 and ("t" in words) != ("f" in words):
        words -= {"t", "f"}
    return any(is_number(word) or label_of(word) is not None for word in words)


def by_number(cell):
    """A key to sort by: numbers by their values, then words by the alphabet."""
    if is_number(cell):
        return 0, float(cell), cell
    return 1, 0.0, cell


def odd_cell(cells):
    """-> the first cell that makes a column neither one of numbers nor one of words, and what is wrong with
    it: it only looks like a number, or others are numbers; else None."""
    grouped = [cell for cell in cells if "." in cell]
    if 0 < len(grouped) < len(cells) and all(map(GROUPED.fullmatch, cells)):
        return grouped[0], "may be a thousand and more, or have three decimals"
    odd = []
    words = []
    numbers = 0
    for cell in cells:
        problem = look_up(ODD, cell)
        if problem:
            odd.append((cell, problem))
        elif is_number(cell):
            numbers += 1
        else:
            words.append(cell)
    for cell, problem in odd:
        if all(map(UNKNOWN.fullmatch, words)) or "is a date" in problem:         # spreadsheets make it of 3-1
            return cell, problem
    if words and numbers:
        return words[0], "is not a number, others are"
    return None


def ways_out(flag, cell, words, number):
    """-> for the message about a cell that odd_cell finds: what a flag such as --target NAME can say of it.
    words, number: the kinds that take it as a word or as a number."""
    choices = f"{flag}:{words} takes it as a word"
    value, _ = read_number(cell)
    if value is not None:
        choices += f", {flag.partition(' ')[2]}:{number} as {value:g}"
    elif not look_up(ODD, cell):
        choices += "; --missing names words for a blank"
    return choices


def read_number(cell):
    """-> the number in a cell, also one with a decimal comma, and its unit or ""; None, "" without one."""
    if is_number(cell):
        return float(cell), ""
    match = READABLE.fullmatch(cell.translate(TYPED))
    if not match:
        return None, ""
    return float(f"{match[1]}.{match[2] or 0}"), re.sub("(?<=..)s$", "", (match[3] or "").casefold())


def read_numbers(name, cells, places, hint):
    """The cells of a column -> float (rows,), NaN where they are blank. ValueError where one is no number, or
    has another unit than those before. places: where each of them stands, "t.csv row 5"; hint: how the
    message ends."""
    value_of = {"": np.nan}
    units = []
    has_comma = any("," in cell for cell in cells)
    for place, cell in zip(places, cells):
        if cell in value_of:
            continue
        value_of[cell], unit = read_number(cell)
        units.append(unit)
        problem = None
        if value_of[cell] is None:
            problem = look_up(ODD, cell) or "is not a number"
        elif has_comma and re.match(r"[-+]?[1-9]\d{0,2}\.\d{3}(?!\d)", cell):
            problem = "may be a thousand and more, as others have a decimal comma"
        elif unit != units[0]:
            problem = f"has another unit than the cells before, {units[0] or 'none'}"
        if problem:
            raise ValueError(f"{place}, column {name}: {cell!r} {problem}; {hint}")
    return np.array([value_of[cell] for cell in cells])


def list_parts(cell, separators=SEPARATORS):
    """ "a|b", "a; b", "a, b", "['a', 'b']", "['a' 'b']", 'c("a", "b")' or "{'a', 'b'}" -> ["a", "b"]"""
    cell = CALL.sub("", cell)
    parts = []
    if re.match(r"[\[{]|\([\[{'\")]|\([^()]*\)$", cell):             # (L) nodule is a word
        parts = re.findall(r"'[^']*'|\"[^\"]*\"", cell)
        cell = cell.strip("[]{}()").replace(",", "|")
    if not parts:
        for separator in separators:
            if separator in cell:
                break
        parts = cell.split(separator)
    words = [part.strip(" '\"") for part in parts]
    return [word for word in words if word.lower() not in ("", "nan", "none", "<na>")]


def are_lists(words_of):
    """{cell: its words}: do some cells hold several words, of which one is in other cells too?"""
    cells_with = Counter()                                         # a word: in how many cells it is
    several = set()                                                # words that stand beside others
    for parts in words_of.values():
        words = {same_word(part) for part in parts if not is_number(part)}
        cells_with.update(words)
        if len(words) > 1:
            several |= words
    return any(cells_with[word] > 1 for word in several)


def divide(cells):
    """Cells of a column of lists -> {cell: its words}. Commas beside bars or semicolons ("Hernia, Hiatal")
    and other signs than the usual ones count only where each word of a list stands alone in another cell."""
    alone = set(map(same_word, cells))
    for separators in ("|;；｜؛", SEPARATORS, "/+&／・"):
        words_of = {cell: list_parts(cell, separators) for cell in cells}
        if are_lists(words_of):
            for cell in cells:
                parts = list_parts(cell)
                if len(parts) > 1 and alone.issuperset(map(same_word, parts)):
                    words_of[cell] = parts
            return words_of
    for pattern in BETWEEN:
        for cell in cells:
            for separator in dict.fromkeys(re.findall(f"(?=({pattern}))", cell)):      # which may overlap
                if alone.issuperset(map(same_word, cell.split(separator))):
                    return {cell: list_parts(cell, [separator]) for cell in cells}
    return {cell: list_parts(cell) for cell in cells}


def spellings_of(counts):
    """{word: how often} -> {the most frequent of those that say the same: all of these}"""
    groups = {}
    for word in sorted(sorted(counts), key=counts.get, reverse=True):
        groups.setdefault(same_word(word), []).append(word)
    return {spellings[0]: spellings for spellings in groups.values()}


def spelling_notes(name, counts):
    """-> lines on words of a column that are taken for one."""
    return [f"{name}: {' and '.join(map(repr, spellings))} count as one"
            for spellings in spellings_of(counts).values() if len(spellings) > 1]


def reading_notes(name, counts, kind):
    """-> lines on what cells of a column are taken for. counts: {cell: how often}; kind: of the target or the
    input, where classes and category are words, all others numbers.

    Warnings name those that count like the others and may stand for a blank: words like unknown, the only
    negative numbers, as -1, -9 or -999, and 9, 77, 99 or 999.9 far above the others."""
    notes = []
    odd = odd_cell(counts)
    if kind in ("classes", "category"):
        notes = spelling_notes(name, counts)
        if kind == "category" and are_lists({cell: list_parts(cell) for cell in counts}):    # e3/e4 is none
            notes.append(f"{name}: cells look like lists; each combination counts as a word of its own")
    elif odd:
        cell, problem = odd
        notes = [f"{name}: {cell!r} {problem}, it is read as {read_number(cell)[0]:g}"]
    codes = [cell for cell in counts if UNKNOWN.fullmatch(cell)]
    numbers = sorted(filter(is_number, counts), key=float)
    others = [float(cell) for cell in numbers if not CODE.fullmatch(cell)]
    if others and len(numbers) > 2:
        codes += [cell for cell in filter(CODE.fullmatch, numbers)
                  if float(cell) < 0 <= others[0] or float(cell) > 2 * others[-1] > 0]
    return notes + [f"WARNING: {name}: {code} ({counts[code]} rows) counts like the other values; where it "
                    f"stands for a blank, say --missing=default,{quote(code.lower())}" for code in codes]


def folded(text):
    """Upper and lower case alike, and the two ways to write an accent; without what nobody sees."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", text)).casefold()


def same_word(cell):
    """-> what is equal for 1 and 1.0, for Benign and benign, for no_tumor and no-tumor and no tumor, for yes
    and y, for the two ways to write an accent, for a hyphen and a dash, and for HAYIR and hayır."""
    if is_number(cell):
        return float(cell)
    text = folded(cell).translate(TYPED)
    text = re.sub(r"(?<=[^\W\d_])[_-](?=[^\W_])", " ", text)
    text = " ".join(text.split())
    return SHORT.get(text, text)


def count_pairs(words, others):
    """-> how many words there are, others beside them, and pairs of these; blanks and NaN do not count."""
    pairs = {(word, other) for word, other in zip(words, others) if word != "" and other == other}
    return len({word for word, _ in pairs}), len({other for _, other in pairs}), len(pairs)


def places_in(classes, names):
    """-> for each of the names its place among the classes, in the same or another spelling; -1 where it is
    none of them."""
    place_of = {same_word(name): place for place, name in enumerate(classes)}
    place_of |= {name: place for place, name in enumerate(classes)}
    places = {name: place_of.get(name, place_of.get(same_word(name), -1)) for name in set(names)}
    return np.array([places[name] for name in names])


def positive_of(classes):
    """-> which of two classes is the positive one by its name, None where no usual name decides."""
    for name, other in (classes, classes[::-1]):
        if re.fullmatch(rf"(?i)(no|non|n|un)[ _-]*{re.escape(name)}", other):   # NoDR, NRG, but unhealthy
            return other if NEGATIVE.fullmatch(name) else name
    not_negative = [name for name in classes if not NEGATIVE.fullmatch(name)]
    for names in (not_negative, list(filter(POSITIVE.fullmatch, classes))):
        if len(names) == 1:
            return names[0]
    return None
