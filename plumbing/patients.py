"""Who the patients are: one id in several spellings, and what the names of files say.
"""
import re
import unicodedata
from collections import defaultdict

from plumbing.cells import folded
from plumbing.cohort import NO_PATIENTS
from plumbing.command import in_one_line
from plumbing.families import rules
from plumbing.formats import without_ending
from plumbing.words import MONTHS, UNKNOWN


NAMES = r"""  what files are called, below the data's folder, without endings: the first group is the patient
(?:^|/)(person\d+)_(?:bacteria|virus)_\d+[^/]*$ -> chest_xray
(?:^|/)((?:(?<=(?i:normal)/)|^|NORMAL2-)IM-\d+)-\d+[^/]*$ -> chest_xray
(?:^|/)(0\d{7})_\d{3}(?!\d) -> NIH ChestX-ray14
(?:^|/)(?:CNV|DME|DRUSEN|NORMAL)-(\d{4,})-\d+(?!\d) -> OCT2017
(?:^|[/_])(P_\d{5})_(?:LEFT|RIGHT) -> CBIS-DDSM
(?:^|/)SOB_[BM]_[A-Z]+-(\d+-\w+)-\d+-\d+$ -> BreakHis
(?:^|[/_-])(TCGA([-_])[A-Z0-9]{2}\2[A-Z0-9]{4})(?![A-Za-z0-9]) -> TCGA
(?:^|[/_])(LIDC-IDRI-\d{4}|OAS\d_?\d{4}|\d{3}_S_\d{4})(?!\d) -> LIDC-IDRI, OASIS or ADNI
(?:^|/)(BraTS\d*[_-](?:[A-Za-z]+[_-]\d+|\d{5})|IXI\d{3})(?!\d) -> BraTS or IXI
(?:^|/)\d{8}_([0-9a-f]{16})_MG_ -> INbreast
(?:^|/)(\d+)_idx\d+_x\d+_y\d+_class[01]$ -> invasive ductal carcinoma
(?i)(?:^|/)([^/]*\d[^/]*?)[ _-](?:cc|mlo)[ _-]?(?:left|right|l|r)$ -> views of breasts
(?i)(?:^|/)([^/]+?)[ _-](?:left|right|od|os|l|r)\d?$ -> two eyes, breasts or knees
(?:^|/)(\d{5,})[LR]$ -> two eyes, breasts or knees
(?:^|/)([^/]*\d)O[DS]$ -> two eyes, breasts or knees
(?i)(?:^|/)(?:left|right|od|os)[ _-]([^/]*\d[^/]*)$ -> two eyes, breasts or knees
(?i)(?:^|/)([^/]*\d[^/]*?)[ _-]+(?:frame|slice)[ _-]?\d+$ -> frames or slices
(?i)(?:^|/)([^/]*\d[^/]*?)[ _-](?:left|right|l|r)[ _-]?(?:cc|mlo)$ -> views of breasts
(?:^|/)(sub-[A-Za-z0-9]+)(?=[_/]) -> BIDS
(?i)(?:^|[/_ -])((?:patient|subject|case|pat|sub)[ _-]?\d+)(?![0-9a-z]) -> folders or names of patients
(?i)(?:^|[/_ -])((?:subj|patientin|paciente|volunteer|proband|sujet|患者|病人)[ _-]?\d+)(?![0-9a-z]) -> patients
(?:^|[/_])((?:LUNG1|R01|AMC|HN-[A-Z]+|UCSF-PDGM|UPENN-GBM|Lung_Dx)-A?\d{3,5}|Breast_MRI_\d{3})(?!\d) -> TCIA
(?:^|/)(p\d{8})/ -> MIMIC-CXR
(?i)(?:^|/)(C\d+[NP]?\d*)_?thinF_IMG_ -> malaria of the NIH
(?:^|/)(UID_H?\d+)_\d+_\d+_(?:all|hem)$ -> C-NMC
(?:^|/)((?:NCP|CP|Normal)_\d+)_\d+_\d{4}$ -> COVIDx CT
(?:^|[/_-])(C3[LN]-\d{5}|GTEX-[A-Z0-9]{4,5})(?![A-Za-z0-9]) -> CPTAC or GTEx
"""

# what ends in more than who the patient is: S001_V1, 17-baseline, 042OD, 12b, 12left, 7.2, 7/2, 7_2020-01-31;
# but TCGA-A2-A04N and TCGA-A2-A04P are two patients, and letters up to f may be digits of a hash
PART = re.compile(r"(?i)^(?!tcga)(.*?\d)([a-z]{1,2}\d?|([g-z]|[左右]眼?|left|right|pre|post|scan|visit"
                  r"|baseline)\d{0,2}|[ _./-]+[a-z]{1,9}[ _-]?\d{0,2}|[ _-]*m\d{3}|[ _./-]+[1-9]\d?"
                  r"|[ _./-]+0[1-9]|[ _-]+(19|20)\d\d[_.-]?\d\d[_.-]?\d\d|[ _/-]+0)$")
# what is said of a patient whom nobody knows
NOBODY = re.compile(rf"{UNKNOWN.pattern}|\s*|redacted|de-?identified|anon(ym(ous|i[sz]ed)?)?|xx+|-1|-9+")
FLOAT = r"\d+(\.0*|,00?)|\d+(\.\d+)?[eE]\+\d+"                     # a whole number that has become a float
# by a spreadsheet: twelve digits have become 1.23E+11, and 3-1 has become the third of January
CHANGED_ID = rf"(?i)\d[.,]\d\d(\d{{3}})?E\+\d\d|\d\d?(-|\. )({MONTHS})|({MONTHS})-\d\d"
# in what two ids of one patient may differ -> what it becomes before they are compared
SPELLING = {
    r"(?<=\d),(?=\d{3}(?!\d))": "",                                # 1,002 is 1002
    r"^([\w -]*\d)[.,]0*$": r"\1",                                # 7.0, and 7,0 of other countries
    r"[\s_'\"=^,()#-]+": "-",
    r"^-|-$|(?<=\D)-(?=\d)|(?<=\d)-(?=\D)": "",
    r"(?<![\d.])0+(?=\d)": "",
}
CHANGED = re.compile(  # copies that programs made
    r"(?i)^(.+?)(?:[ _.-]+(?:aug|[hv]?flip|rot(?=at|[\d_-]|$)|mirror|crop|resize|thumb)[a-z]*[_-]?\d*"
    r"|\.rf\.[0-9a-z]{20,}|_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})+$")


def identity(patient):
    """A patient's id as it is compared: 7, 7.0 and 007 are one, and so are A7, a7, A-7 and A007."""
    text = folded(unicodedata.normalize("NFKC", patient)).strip()
    if re.fullmatch(r"\d+(\.\d*)?e\+?\d{1,2}", text) and float(text).is_integer():
        return str(int(float(text)))                               # 1.002e+07, as spreadsheets write it
    for pattern, replacement in SPELLING.items():
        text = re.sub(pattern, replacement, text)
    return text


def one_spelling(patients):
    """-> the patients, each in the spelling that comes first, None as it is; lines for the reader."""
    first_of = {}                                                  # identity -> its first spelling
    spelling_of = {}                                               # of every patient, the first of the same
    for patient in filter(None, dict.fromkeys(patients)):
        spelling_of[patient] = first_of.setdefault(identity(patient), patient)
    others = [patient for patient, first in spelling_of.items() if patient != first]
    floats = [patient for patient in spelling_of if re.fullmatch(FLOAT, patient)]
    changed = [patient for patient in spelling_of if re.fullmatch(CHANGED_ID, patient)]
    notes = []
    if others:
        notes.append(f"{len(others)} patient ids are other spellings of an earlier one, as {others[0]} of "
                     f"{spelling_of[others[0]]}: they count as the same patient")
    elif floats:
        notes.append(f"patient ids have become floats, as {floats[0]}, and are compared as whole numbers")
    if changed:
        notes.append(f"WARNING: a spreadsheet has changed patient ids, as {changed[0]}: different patients "
                     "may have become one")
    return list(map(spelling_of.get, patients)), notes


def named_patients(names, regex=None):
    """-> the patient that each file's name says, None where it says nothing; a line about it, or "".

    names: paths below the data's folder. regex: --patient-regex, which every name must fit; without it the
    patterns of NAMES are tried."""
    patterns = [(re.compile(pattern), data_set) for pattern, data_set in rules(NAMES)]
    if regex:
        patterns = [(compile_regex(regex), "--patient-regex")]
    patients = []
    example_of = {}                                                # data set -> its first patient
    for name in names:
        stem = without_ending(name).replace("\\", "/")
        if not regex:
            stem = CHANGED.sub(r"\1", stem)                        # a_flip.png shows whom a.png shows
        for pattern, data_set in patterns:
            patient = first_group(pattern.search(stem))
            if patient:
                example_of.setdefault(data_set, patient)
                break
        if regex and not patient:
            raise ValueError(f"--patient-regex {regex}: finds no patient in {stem}")
        patients.append(patient or None)
    if not example_of:
        return patients, ""
    examples = ", ".join(f"{patient} ({data_set})" for data_set, patient in example_of.items())
    others = patients.count(None)
    note = f"patients from the names of {len(names) - others} files, as {examples}"
    if others:
        note += f"; of {others} other files each counts as a patient"
    return patients, note


def parts_note(patients):
    """-> a warning where ids say more than who the patient is, as 17_left and 17_right, in a list.

    Unless few have several parts, and these many: 01-1 to 01-99 are patients, of one of a few sites."""
    patients = list(dict.fromkeys(patients))
    wholes, _ = named_patients(patients)
    parts = defaultdict(list)
    for patient, whole in zip(patients, wholes):
        parts[PART.sub(r"\1", whole or patient)].append(patient)
    several = [whole for whole in parts if len(parts[whole]) > 1]
    if not several or max(map(len, parts.values())) > len(several) + 1:
        return []
    some = " and ".join(parts[several[0]][:2])
    return [f"WARNING: {some} count as different patients, {several[0]} may be one; --patient-column and "
            "--patient-regex, with a group around what counts, say so"]


def compile_regex(regex):
    with in_one_line(f"--patient-regex {regex}: not a regular expression"):
        return re.compile(regex, re.DOTALL)


def first_group(match):
    """-> what the first group of a match holds, "" if it has no part in it, or there is no match; the whole
    match where the expression has no group."""
    if match is None:
        return ""
    return match[min(1, match.re.groups)] or ""


def patients_of_files(names, regex=None):
    """Paths of files -> the patient of each, by its name, or else the first file that shows the same picture
    by its name; lines about them, with NO_PATIENTS where no name says who it is.

    The same picture are a.png and a.jpg, a_flip.png, a_rot90.png, and Roboflow's a.rf.HASH.png."""
    patients, note = named_patients(names, regex)
    patients, notes = one_spelling(patients)
    first_of = {}
    copies = []
    for i, name in enumerate(names):
        original = first_of.setdefault(CHANGED.sub(r"\1", without_ending(name)), name)
        if original != name:
            copies.append(f"{name} of {original}")
        patients[i] = patients[i] or original
    if note:
        return patients, [note, *notes]
    notes = [NO_PATIENTS]
    if copies:
        notes.append(f"{len(copies)} files are copies of others by their names, as {copies[0]}: they stay in "
                     "one split, and count as one")
    return patients, notes
