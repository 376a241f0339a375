"""What is known about which image: tables of every kind become one Cohort, and its patients are split.

    table          a CSV with a patient, an image (or volume, or bag of feature vectors) and targets; public tables by their own
                   headers (KNOWN); a folder of class folders; MedMNIST arrays
    split          patients, never images, go to train, val or test; patients who share a byte-identical image stay together

What a user can get wrong ends in a ValueError of one line that names file, row and column. No row is dropped.
Run: python tables.py                                 the public tables that are recognized
     python tables.py TABLE.csv [IMAGE_FOLDER]        how a table is understood
"""
import csv
import filecmp
import functools
import hashlib
import http.client
import os
import re
import shutil
import sys
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import numpy as np

KINDS = ("regression", "classes", "labels", "survival")
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}     # what -1 or a blank says of a label
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy", ".npz", ".pt")     # and arrays: data.py
FILM = re.compile(r"person\d+(?=_(bacteria|virus)_\d+)|(NORMAL2-)?IM-\d+(?=-\d+)")            # chest_xray: person12_bacteria_34.jpeg

KNOWN = {  # tables as they are distributed: how to recognize the header ("a|b": a or b), and which column is what
    "psoriasis": dict(header=("pasi", "pga", "region"), target="pasi:regression,pga:classes"),
    "chest": dict(header=("image", "view", "Nodule", "Fibrosis"),
                  labels="Cardiomegaly,Effusion,Consolidation,Nodule,Pneumothorax,Fibrosis"),
    "brain": dict(header=("education", "apoe", "diagnosis"), target="diagnosis:classes", tabular="age,sex,education,apoe"),
    "bag": dict(header=("bag", "subtype"), image="bag", target="subtype:classes"),
    "clam": dict(header=("case_id", "slide_id", "label"), image="slide_id", patient="case_id", target="label:classes"),
    "nih": dict(header=("Finding Labels|finding_labels",), image="file|Image Index", patient="Patient ID|patient_id",
                findings="Finding Labels|finding_labels", lists={"train": "train_val_list.txt", "test": "test_list.txt"},
                files=("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "labels.csv"),
                labels="Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,Consolidation,Edema,"
                       "Emphysema,Fibrosis,Pleural_Thickening,Hernia"),
    "chexpert": dict(header=("Path", "Frontal/Lateral"), image="Path", patient="Path", patient_regex=r"patient\d+", blanks=True,
                     files=("train.csv",),
                     labels="Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
                            "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"),
    "vindr": dict(header=("image_id", "Aortic enlargement"), image="image_id", patient="image_id", readers=True,
                  files=("image_labels_train.csv", "annotations/image_labels_train.csv"),
                  labels="Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
                         "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,"
                         "Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,"
                         "Lung tumor,Pneumonia,Tuberculosis"),
    "isic": dict(header=("image_name", "benign_malignant"), image="image_name", target="target:classes", files=("train.csv",)),
    "ham10000": dict(header=("lesion_id", "dx"), image="image_id", patient="lesion_id", target="dx:classes",
                     files=("HAM10000_metadata.csv", "HAM10000_metadata")),
}

MEDMNIST_URL = "https://zenodo.org/records/10519652/files/{file}?download=1"
MEDMNIST = """
pathmnist      classes 9  a8b06965200029087d5bd730 55aa9c1e0525abe5a6b9d834 ac42d08fb904d92c24418716 2c51a510bcdc9cf8ddb2af93
chestmnist     labels  14 02c8a6516a18b556561a56cb 9de6cd0b934ebb5b7426cfba db107e5590b27930b62dbaf5 45bd33e6f06c3e8cdb481c74
dermamnist     classes 7  0744692d530f8e62ec473284 b70a2f5635c6199aeaa28c31 2defd784463fa5243564e855 8974907d8e169bef5f5b96bc
octmnist       classes 4  c68d92d5b585d8d81f7112f8 e229e9440236b774d9f0dfef 0a97e76651ace45c5d943ee3 abc493b6d529d5de7569faae
pneumoniamnist classes 2  28209eda62fecd6e6a2d98b1 8f4eceb4ccffa70c672198ea 05b46931834c231683c68f40 d6a3c71de1b945ea11211b03
retinamnist    classes 5  bd4c0672f1bba3e3a89f0e4e afda852cc34dcda56f86ad2b e48e916a24454daf90583d4e eae7e3b6f3fcbda4ae613ebd
breastmnist    classes 2  750601b1f35ba3300ea97c75 742edef2a1fd1524b2efff4b 363e4b3f8d712e9b5de15470 b56378a6eefa9fed602bb16d
bloodmnist     classes 8  7053d0359d879ad8a5505303 2b94928a2ae4916078ca51e0 adace1e0ed228fccda1f3969 b718ff6835fcbdb22ba9eacc
tissuemnist    classes 8  ebe78ee8b05294063de985d8 123ece2eba09d0aa5d698fda 61b955355d7425a89687b06c b077128c4a949f0a4eb01517
organamnist    classes 11 68e3f8846a6bd62f0c9bf841 2dcccc29b88e6da5a01161ef eeae80d0a227a8d099027e1b 50747347e05c87dd3aaf92c4
organcmnist    classes 11 b9ceb9546e10131b32923c5b 3ce34a8724ea6f548e6db474 773c1f009daa3fe5d9a2a201 050f5e875dc056f6768abf94
organsmnist    classes 11 9ab87b696fb54e2a387ebe99 53a6d115339d874c25e309a9 ded0c5fa01a95dc4978b956f b354719e553fbbb2513d5533
organmnist3d     classes 11 a0c5a1ff56af4f155c46d46f 58a2205adf14a9d0a189cb06
nodulemnist3d    classes 2  8755a7e9e05a4d9ce80a24c3 c47c5b7d457bf6332200d2ea
adrenalmnist3d   classes 2  bbd3c5a5576322bc4cdfea78 17721accfe9fb005146a47d3
fracturemnist3d  classes 3  6aa7b0143a6b42da40027a9d f01d7e6316aedf4210da0da5
vesselmnist3d    classes 2  b41fd4f7e7e2feedddb20158 6bb274a8846e1097066dcd64
synapsemnist3d   classes 2  1235b78a3cd6280881dd7850 43bd14ebf3af9d3dd072446f
"""        # flag, kind of target, classes, first 24 digits of the MD5 of the files of 28, 64, 128, 224 px (medmnist 3.0.2); 3-D: 28, 64


@dataclass(frozen=True)
class Task:
    """One thing to predict. regression: MSE of (target - center) / scale, both from the training split;
    classes: cross entropy over `classes`; labels: one binary label for each of `classes`; survival: a risk, by Cox's partial
    likelihood of a time and whether it is that of an event (1) or of the last look (0), the two columns in `classes`."""
    name: str
    kind: str                        # one of KINDS
    classes: tuple = ()              # names of the classes or labels
    center: float = 0.0
    scale: float = 1.0
    positive_weight: tuple = ()      # of each label in the loss, () for 1

    @property
    def outputs(self):
        return 1 if self.kind == "survival" else len(self.classes) or 1


@dataclass(frozen=True)
class Column:
    """One column of a table as input of a model. number: (x - mean) / std, a blank counts as the mean; category: a 0/1 for each
    of `values`, all 0 where the cell is none of them. blanks: one more 0/1 that says whether the cell is blank."""
    name: str
    kind: str                        # number or category
    mean: float = 0.0                # all of the training split
    std: float = 1.0
    values: tuple = ()
    blanks: bool = False

    @property
    def width(self):
        return (len(self.values) or 1) + self.blanks


@dataclass
class Cohort:
    """Images and what is known about them; every list and array has one entry an image, in the order of the table."""
    name: str
    tasks: list
    patients: list                   # str
    paths: list                      # files, or names of the rows of `pixels`
    targets: dict                    # task -> float32 (images,), (images, L) or (images, 2) for time and event; NaN where unknown
    columns: dict = field(default_factory=dict)        # all columns of the table, column -> list of str
    splits: list = None              # official split of every image: train, val, test; None where there is none
    pixels: np.ndarray = None        # uint8 (images, h, w), (images, h, w, 3) or (images, d, h, w) when they are not files
    notes: list = field(default_factory=list)          # what the reader should know, one line each
    folder: str = None               # of the table, for what lies beside it
    features: np.ndarray = None      # float32 (images, ...), read instead of the images: data.cached_features
    inputs: str = ""                 # columns a known table offers to --tabular
    tabular: np.ndarray = None       # float32 (images, P), those columns as numbers: see tabulate

    def groups(self, indices=None):
        """{patient: [indices of its images]} in the order of the table."""
        groups = defaultdict(list)
        for i in range(len(self.patients)) if indices is None else indices:
            groups[self.patients[i]].append(i)
        return dict(groups)


NO_PATIENTS = ["no patient ids: every image counts as a patient of its own"]

# -----------------------------------------------------------------------------
# read a cohort


def load_cohort(data, images=None, patient=None, image=None, target=None, split=None, uncertain="zeros", blank="zeros",
                cache="data_cache"):
    """-> Cohort. data: a CSV, a folder of class folders, `medmnist:FLAG[:SIDE]`, or a name of KNOWN with `images`, its folder.

    images: folder the image paths start from (the table's own by default); patient, image, target, split: column names,
    target as NAME[:regression|classes|labels],... or TIME/EVENT:survival; split may also be CLAM's splits_K.csv; uncertain:
    what a label of -1 means, and blank what an empty label of CheXpert means: zeros, ones or ignore (unknown, left out of the
    loss), for single labels as zeros,LABEL=ones,..."""
    known = KNOWN.get(data, {})
    if data.startswith("medmnist:") or os.path.isdir(data) and not known:
        given = {"images": images, "patient-column": patient, "image-column": image, "target": target, "split-column": split}
        if wrong := [flag for flag, value in given.items() if value]:
            raise ValueError(f"--{wrong[0]} is of a CSV table, --data {data} has none")
        return read_class_folders(data) if os.path.isdir(data) else read_medmnist(data, cache)
    if files := known.get("files"):
        found = [path for file in files if os.path.isfile(path := os.path.join(images or "", file))]
        if not images or not found:
            raise ValueError(f"--data {data} needs --images, the folder that holds {' or '.join(files)}{f', not {images}' * bool(images)}")
        data = found[0]
    elif not os.path.isfile(data):
        raise ValueError(f"--data {data}: no such file or folder, and none of medmnist:FLAG[:SIDE], {', '.join(KNOWN)}")
    header, rows = read_csv(data)
    known = known or next((known for known in KNOWN.values() if all(pick(header, names) for names in known["header"])), {})
    labels = known["labels"].split(",") if "labels" in known else []
    regex = ".+" if patient else known.get("patient_regex", ".+")
    patient = column(data, header, patient or known.get("patient", "patient_id"), "patient")
    image = column(data, header, image or known.get("image", "image"), "image")
    if split and os.path.isfile(split):
        where = read_splits(split)
        for row in rows:
            if row[image] not in where:
                raise ValueError(f"{at(data, row, image)}: {row[image]!r} is in none of train, val, test of {split}")
            row["split"] = where[row[image]]
        header, split = header + ["split"] * ("split" not in header), "split"
    split = column(data, header, split, "split") if split else pick(header, "split")
    if findings := pick(header, known.get("findings", "")):        # "Edema|Mass" -> a column a label
        for row in rows:
            said = row[findings].split("|")
            row.update((name, str(int(name in said))) for name in labels)
            row["pneumonia"] = "1" if "Pneumonia" in said else "0" if said == ["No Finding"] else ""         # against healthy films
        header = header + [name for name in (*labels, "pneumonia") if name not in header]
    if "readers" in known:
        rows = majority(rows, image)
    tasks, targets = read_targets(data, header, rows, target or known.get("target") or ",".join(labels), labels,
                                  policy("uncertain", uncertain, header), policy("blank", blank if "blanks" in known else "ignore", header))
    images = images or os.path.dirname(os.path.abspath(data))
    find = finder(images)
    paths = [find(row[image], at(data, row, image)) for row in rows]
    if None in paths:
        row = rows[paths.index(None)]
        raise ValueError(f"{at(data, row, image)}: no image {row[image]!r} ({' '.join(PICTURES)}) under {images} "
                         f"({paths.count(None)} of {len(rows)} rows); --images names the folder")
    patients = [(re.search(regex, row[patient], re.DOTALL) or [""])[0] for row in rows]
    if "" in patients:
        raise ValueError(f"{at(data, rows[patients.index('')], patient)}: no patient")
    splits = [SPLIT_NAMES.get(row[split].lower()) for row in rows] if split else None
    if "lists" in known and not split:                             # NIH's: val is cut from train, by patient
        splits = official_lists(os.path.dirname(os.path.abspath(data)), known["lists"], data, rows, image)
    if split and None in splits:
        row = rows[splits.index(None)]
        raise ValueError(f"{at(data, row, split)}: {row[split]!r}, need train, val or test")
    return Cohort(os.path.splitext(os.path.basename(data))[0], tasks, patients, paths, targets,
                  {name: [row[name] for row in rows] for name in header}, splits, notes=NO_PATIENTS * (patient == image and regex == ".+"),
                  folder=os.path.dirname(os.path.abspath(data)), inputs=known.get("tabular", ""))


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


def read_splits(path):
    """CLAM's splits_K.csv, three columns of image names, train, val and test -> {image: split}."""
    header, rows = read_csv(path)
    if not set(SPLITS) <= set(header):
        raise ValueError(f"{path}: need the columns train, val and test, there are {', '.join(header[:20])}")
    named = [(row[split], split) for split in SPLITS for row in rows if row[split]]
    doubles = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if doubles:
        raise ValueError(f"{path}: {doubles[0]!r} stands there twice")
    return dict(named)


def read_run_split(run):
    """split.csv of a run folder -> {patient: split}."""
    path = os.path.join(run, "split.csv")
    header, rows = read_csv(path)
    for row in rows:
        if row.get("split") not in SPLITS or "patient" not in row:
            raise ValueError(f"{path} row {row[None]}: need the columns patient and split, which is train, val or test")
    return {row["patient"]: row["split"] for row in rows}


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


def majority(rows, image):
    """One row a reader -> one row an image: in every column what most of its readers say, where they are even the lower."""
    groups = defaultdict(list)
    for row in rows:
        groups[row[image]].append(row)
    said = [{name: [row[name] for row in group] for name in group[0]} for group in groups.values()]
    return [{name: max(sorted(cells), key=cells.count) for name, cells in row.items()} for row in said]


def policy(flag, text, header):
    """ "zeros,Edema=ones" -> {None: 0.0, "Edema": 1.0}: the value for every label, and for single ones."""
    says = {None: POLICIES["zeros"]}
    for part in text.split(","):
        label, _, what = part.rpartition("=")
        if what not in POLICIES or label and label not in header:
            wrong = f"{label!r} is no column of the table" if what in POLICIES else f"{what!r} is none of {', '.join(POLICIES)}"
            raise ValueError(f"--{flag} {text}: {wrong}; need e.g. zeros or zeros,Edema=ones")
        says[label or None] = POLICIES[what]
    return says


def official_lists(folder, files, path, rows, image):
    """Split of every row by the lists {split: file of image names} in the folder; None where the lists are not there."""
    if not all(os.path.isfile(os.path.join(folder, file)) for file in files.values()):
        return None
    split = {}
    for name, file in files.items():
        with open(os.path.join(folder, file), encoding="utf-8", errors="replace") as lines:  # a name that is none is found in no table
            split.update((os.path.splitext(line.strip())[0], name) for line in lines)
    for row in rows:
        if os.path.splitext(row[image])[0] not in split:
            raise ValueError(f"{at(path, row, image)}: {row[image]} is in none of {', '.join(files.values())}; --split-column names another split")
    return [split[os.path.splitext(row[image])[0]] for row in rows]


def numbers(path, rows, name):
    """A column -> floats, "" -> NaN."""
    for row in rows:
        if row[name] and not is_number(row[name]):
            raise ValueError(f"{at(path, row, name)}: {row[name]!r} is not a number")
    return np.array([float(row[name] or "nan") for row in rows], dtype=np.float32)


def is_number(text):
    """Is it one that float32 can hold? Python alone would take 1_0 for ten."""
    try:
        return abs(float(text)) < 3.4e38 and "_" not in text
    except ValueError:
        return False


def read_targets(path, header, rows, target, labels, uncertain, blank):
    """-> tasks, {task: values}. Without a kind: words and a lone 0/1 column are classes; several 0/1 columns, and those of
    `labels`, are labels; other numbers are regression. uncertain, blank: what `policy` makes of a label of -1 and of an empty one."""
    target = target or ",".join(name for name in header if name in ("target", "label") or name.startswith("label_"))
    if not target:
        raise ValueError(f"{path}: what is to be predicted? --target NAME[:regression|classes|labels],... of {', '.join(header[:20])}")
    kinds, events = {}, {}                                         # column -> kind, column of times -> column of events
    for spec in map(str.strip, target.split(",")):
        name, _, kind = (spec, "", "") if spec in header or ":" not in spec else spec.rpartition(":")
        if kind not in ("", *KINDS):
            raise ValueError(f"--target {spec}: kind {kind!r}, need one of {', '.join(KINDS)}")
        if kind == "survival":
            name, _, event = name.partition("/")
            if not event:
                raise ValueError(f"--target {spec}: need two columns, TIME/EVENT:survival, EVENT 1 where TIME is that of the event, "
                                 "0 where it is that of the last look")
            events[name] = column(path, header, event, "target")
        kinds[column(path, header, name, "target")] = kind
    cells = {name: {row[name] for row in rows} - {""} for name in kinds}
    binary = [name for name, kind in kinds.items() if not kind and cells[name] <= {"0", "1", "0.0", "1.0", "-1", "-1.0"}]
    tasks, targets = [], {}
    for name in kinds:
        words = {cell for cell in cells[name] if not is_number(cell)}
        if not kinds[name] and words and words != cells[name]:
            row = next(row for row in rows if row[name] in words)
            raise ValueError(f"{at(path, row, name)}: {row[name]!r} is not a number, others are; --target {name}:classes allows it")
        kinds[name] = kinds[name] or ("labels" if name in labels or name in binary and len(binary) > 1 else
                                      "classes" if words or name in binary else "regression")
        if kinds[name] == "labels":
            continue
        if not cells[name]:
            raise ValueError(f"{path}, column {name}: no value in {len(rows)} rows")
        task = Task(name.replace(".", "_"), kinds[name], (name, events[name]) if name in events else ())      # a module name has no dot
        if task.kind == "survival":
            tasks.append(task)
            targets[task.name] = read_survival(path, rows, name, events[name])
            continue
        if task.kind == "classes":
            order = sorted(cells[name] - words, key=float) + sorted(words)
            task = replace(task, classes=tuple(order))
            code = {"": float("nan"), **{cell: i for i, cell in enumerate(order)}}
        tasks.append(task)
        targets[task.name] = np.array([code[row[name]] for row in rows], dtype=np.float32) if task.classes else numbers(path, rows, name)
    if chosen := tuple(name for name, kind in kinds.items() if kind == "labels"):
        values = np.stack([numbers(path, rows, name) for name in chosen], 1)
        wrong = np.argwhere(~np.isnan(values) & ~np.isin(values, (0, 1, -1)))
        if len(wrong):
            row, name = rows[wrong[0][0]], chosen[wrong[0][1]]
            raise ValueError(f"{at(path, row, name)}: {row[name]!r} is no label, need 0, 1, -1 or blank")
        tasks.append(Task("findings", "labels", chosen))
        doubt, empty = ([says.get(name, says[None]) for name in chosen] for says in (uncertain, blank))
        targets["findings"] = np.where(np.isnan(values), empty, np.where(values == -1, doubt, values)).astype(np.float32)
    if len(targets) < len(tasks):
        raise ValueError(f"--target {target}: two of them would be called {Counter(task.name for task in tasks).most_common(1)[0][0]!r}")
    return tasks, targets


def read_survival(path, rows, time, event):
    """-> (rows, 2): time and event, both NaN where one is blank."""
    values = np.stack([numbers(path, rows, time), numbers(path, rows, event)], 1)
    for row, (t, e) in zip(rows, values):
        if t < 0 or not np.isnan(e) and e not in (0, 1):
            name, need = (time, "a time of at least 0") if t < 0 else (event, "1 (the event came) or 0 (it had not, when last looked)")
            raise ValueError(f"{at(path, row, name)}: {row[name]!r}, need {need}")
    return np.where(np.isnan(values).any(1, keepdims=True), np.nan, values).astype(np.float32)


def read_class_folders(folder):
    """folder/CLASS/*.jpg or folder/SPLIT/CLASS/*.jpg -> Cohort of one task, `class`. Every file counts as a patient, but where the
    names say whose it is, as in Kermany's chest_xray. There an official split stays, and its patients are told apart by it, for
    the same number on two sides need not be the same child: how many there are is a note."""
    found = []                                                     # (split or None, class, file)
    for place, inside, files in os.walk(folder):
        inside.sort()
        parts = os.path.relpath(place, folder).split(os.sep)
        split = SPLIT_NAMES.get(parts[0].lower()) if len(parts) > 1 else None
        name = parts[1] if split else parts[0]
        found += [(split, name, os.path.join(place, file)) for file in sorted(files)
                  if name != "." and file.lower().endswith(PICTURES) and not file.startswith(".")]
    splits, names, paths = zip(*found) if found else ((), (), ())
    classes = sorted(set(names))
    if len(classes) < 2:
        raise ValueError(f"--data {folder}: need a CSV file, or folders of images, one a class (found {', '.join(classes) or 'none'})")
    if None in splits and set(splits) != {None}:
        raise ValueError(f"--data {folder}: {names[splits.index(None)]} is beside the folders of a split, and none of {', '.join(SPLITS)}")
    films = [FILM.match(os.path.basename(path)) for path in paths]
    patients = [os.path.join(split or "", film[0]) if film else os.path.relpath(path, folder)
                for split, film, path in zip(splits, films, paths)]
    notes, named = list(NO_PATIENTS), [(film[0], split) for split, film in zip(splits, films) if film]
    if named:
        notes = [f"patients from the names of {len(named)} files, as {named[0][0]}" + (
            f"; {len(paths) - len(named)} other files count as a patient each" if len(named) < len(paths) else "")]
    if crossing := sum(count > 1 for count in Counter(name for name, _ in set(named)).values()):
        notes.append(f"WARNING: {crossing} of these numbers are on two sides of the official split, of the same patients or not; without "
                     "the folders train, val and test they would be kept together")
    return Cohort(os.path.basename(os.path.abspath(folder)), [Task("class", "classes", tuple(classes))],
                  patients, list(paths),
                  {"class": np.array([classes.index(name) for name in names], dtype=np.float32)},
                  {"class": list(names)}, None if None in splits else list(splits), notes=notes)


def read_medmnist(data, cache):
    """medmnist:FLAG[:SIDE] -> Cohort with the official split, downloaded once and checked against its MD5."""
    flag, _, side = data.removeprefix("medmnist:").partition(":")
    table, sides = {row.split()[0]: row.split()[1:] for row in MEDMNIST.strip().splitlines()}, ("28", "64", "128", "224")
    side = side or "28"
    if flag not in table or side not in sides[:len(table[flag]) - 2]:
        raise ValueError(f"--data {data}: need medmnist:FLAG[:SIDE], FLAG one of {', '.join(table)}, "
                         f"SIDE one of {', '.join(sides)}, of the 3-D ones 28 or 64")
    kind, count, *sums = table[flag]
    file, md5 = (f"{flag}.npz" if side == "28" else f"{flag}_{side}.npz"), sums[sides.index(side)]
    places = [os.path.join(folder, file) for folder in (cache, os.path.expanduser("~/.medmnist"))]
    path = next(filter(os.path.isfile, places), None)
    if path is None:
        path = download(MEDMNIST_URL.format(file=file), places[0], md5)
    elif not digest(path).startswith(md5):
        raise ValueError(f"{path}: its MD5 is not that of {file}; delete it, it will be downloaded again")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels, values = (np.concatenate([arrays[f"{split}_{what}"] for split in SPLITS]) for what in ("images", "labels"))
            splits = [split for split in SPLITS for _ in arrays[f"{split}_labels"]]
        outputs, top = (int(count), 1) if kind == "labels" else (1, int(count) - 1)
        if pixels.dtype != np.uint8 or values.shape != (len(pixels), outputs) or not np.isin(values, range(top + 1)).all():
            raise ValueError(f"{pixels.dtype} images, labels {values.shape} from {values.min()} to {values.max()}, need uint8, "
                             f"({len(pixels)}, {outputs}) and 0 .. {top}")
    except Exception as error:                                     # zip, zlib, KeyError, ValueError
        raise ValueError(f"{path}: not a MedMNIST file ({error})") from error
    task = Task("findings" if kind == "labels" else "class", kind, tuple(map(str, range(int(count)))))
    names, values = [f"{file}:{i}" for i in range(len(pixels))], values.astype(np.float32)
    return Cohort(file.removesuffix(".npz"), [task], names, names, {task.name: values if kind == "labels" else values[:, 0]},
                  splits=splits, pixels=pixels, notes=NO_PATIENTS)


def download(url, path, md5):
    """Fetch to a temporary name beside `path`, rename when complete and its MD5 begins as it should."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
        if not digest(part).startswith(md5):
            raise OSError(f"{os.path.getsize(part)} bytes came, of another MD5 than the published one")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:          # URLError and timeouts are OSErrors
        raise ValueError(f"{url}: could not be downloaded ({error}); fetch it yourself and put it at {path}") from error
    finally:
        if os.path.exists(part):
            os.remove(part)
    return path


def digest(path, length=-1):
    """The MD5 of a file, or of its first bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.md5(file.read(length), usedforsecurity=False).hexdigest()


# -----------------------------------------------------------------------------
# one target a patient, duplicates, split


def per_patient(cohort, how=None):
    """Cohort whose images all carry their patient's target, label by label. how: first, mean or max where a patient's images
    differ; None: they must not."""
    names, who = np.unique(cohort.patients, return_inverse=True)
    targets = {}
    for task in cohort.tasks:
        values = cohort.targets[task.name].reshape(len(who), -1)   # (images, 1 or L)
        L = values.shape[1]
        image, label = np.nonzero(~np.isnan(values))
        known = values[image, label]
        places, first, which = np.unique(who[image] * L + label, return_index=True, return_inverse=True)
        one = known[first]                                         # of every patient and label of which something is known
        differ = np.flatnonzero(one[which] != known)
        if len(differ):
            i = differ[0]
            if how is None:
                raise ValueError(f"patient {names[who[image[i]]]} has images with different targets for "
                                 f"{task.classes[label[i]] if task.kind == 'labels' else task.name} ({one[which[i]]:g} and {known[i]:g}); "
                                 "--patient-target first, mean or max says which counts")
            if how == "mean" and task.kind != "regression" or how == "max" and task.kind == "survival":
                raise ValueError(f"--patient-target {how} does not apply to {task.name}, a task of {task.kind}; "
                                 f"use first{' or max' * (task.kind != 'survival')}")
            if how == "mean":
                one = np.bincount(which, known) / np.bincount(which)
            elif how == "max":
                np.maximum.at(one, which, known)
        filled = np.full(len(names) * L, np.nan, dtype=np.float32)
        filled[places] = one
        targets[task.name] = filled.reshape(-1, L)[who].reshape(cohort.targets[task.name].shape)
    return replace(cohort, targets=targets)


def targets_agree(cohort):
    """Do all images of a patient carry the same targets?"""
    try:
        per_patient(cohort)
    except ValueError:
        return False
    return True


def find_duplicates(cohort):
    """-> lists of images that are byte for byte the same and belong to different patients."""
    images, keys = cohort.paths, (os.path.getsize, lambda path: digest(path, 4096), digest)  # few files are read whole
    if cohort.pixels is not None:
        images, keys = cohort.pixels, (lambda image: hashlib.blake2b(image.tobytes()).digest(),)
    groups = [range(len(images))]
    for key in keys:
        finer = defaultdict(list)
        for number, group in enumerate(groups):
            for i in group:
                finer[number, key(images[i])].append(i)
        groups = [group for group in finer.values() if len({cohort.patients[i] for i in group}) > 1]
    return groups


def split_patients(cohort, folds=5, fold=0, val=0.125, seed=0):
    """-> {train, val, test: indices of images}, notes. An official split is kept; what it lacks is cut from its train.

    Cut are for test one of `folds` parts of the patients and for val the share `val` (to the nearest 1/k) of the rest, both
    spread evenly over the first task's target; patients with byte-identical images stay together."""
    where = {}                                                     # patient -> split
    for patient, split in zip(cohort.patients, cohort.splits or ["train"] * len(cohort.patients)):
        if where.setdefault(patient, split) != split:
            raise ValueError(f"patient {patient} is in {where[patient]} and in {split} of the official split")
    official, head = set(where.values()), {patient: patient for patient in where}

    def first(patient):
        """Of the group of patients who share images."""
        while head[patient] != patient:
            patient = head[patient]
        return patient

    twins = find_duplicates(cohort)
    for group in twins:
        heads = {first(cohort.patients[i]) for i in group}
        head.update(dict.fromkeys(heads, min(heads)))

    def cut(split, parts, part, seed):
        chosen = deal(cohort, sorted({first(p) for p in where if where[p] == "train"}), parts, part, seed)
        where.update({p: split for p in where if where[p] == "train" and first(p) in chosen})

    if not 0 <= fold < folds or fold and "test" in official:
        need = "0, the table has its own test split" if "test" in official else f"0 .. {folds - 1}"
        raise ValueError(f"--fold {fold} of --folds {folds}: need {need}")
    if "test" not in official:
        cut("test", folds, fold, seed)
    if "val" not in official:
        if not 0 < val <= 0.5:
            raise ValueError(f"--val {val}: need 0 < share <= 0.5")
        cut("val", round(1 / val), 0, seed + 1)
    indices = {split: [i for i, patient in enumerate(cohort.patients) if where[patient] == split] for split in SPLITS}
    patients = {split: {cohort.patients[i] for i in part} for split, part in indices.items()}
    if not all(patients.values()):
        raise ValueError(f"{cohort.name}: no patient in the train split, only {', '.join(sorted(official))}")
    assert sum(map(len, patients.values())) == len(set(cohort.patients))                     # disjoint and complete

    notes = list(cohort.notes)
    if twins:
        twins.sort(key=lambda group: -len({where[cohort.patients[i]] for i in group}))       # first what crosses the official split
        crossing = sum(len({where[cohort.patients[i]] for i in group}) > 1 for group in twins)
        shown = [" = ".join(f"{os.path.basename(cohort.paths[i])} (patient {cohort.patients[i]}, {where[cohort.patients[i]]})"
                            for i in group) for group in twins[:4]]
        notes.append(f"{len(twins)} sets of byte-identical images across patients: {'; '.join(shown)}" + " ..." * (len(twins) > 4)
                     + f"; WARNING: {crossing} cross the official split" * bool(crossing))
    counts = ", ".join(f"{split} {len(patients[split])} patients {len(part)} images" for split, part in indices.items())
    return indices, [*notes, f"split by patient, none in two: {counts}"]


def deal(cohort, groups, parts, part, seed):
    """The groups of one of `parts` equal parts: shuffled, sorted by the first target, one of every `parts` neighbors."""
    if len(groups) < parts:
        raise ValueError(f"{cohort.name}: {len(groups)} patients do not fill {parts} parts (--folds, --val)")
    rng = np.random.default_rng((seed, len(groups)))
    first = cohort.targets[cohort.tasks[0].name].reshape(len(cohort.patients), -1)
    if cohort.tasks[0].kind == "survival":
        first = first * (1e-9, 1)                                  # by event, then by time
    value = dict(zip(cohort.patients[::-1], np.nan_to_num(first).sum(1)[::-1]))              # of the patient's first image
    order = sorted((groups[i] for i in rng.permutation(len(groups))), key=value.get)
    place = [rng.permutation(parts) for _ in range(0, len(order), parts)]
    return {group for i, group in enumerate(order) if place[i // parts][i % parts] == part}


def fit_tasks(tasks, cohort, train, positive_weight=False):
    """Tasks with what the training images say: mean and standard deviation of regression targets, and with positive_weight
    negatives / positives of every label (1 for a label without positives)."""
    fitted = []
    for task in tasks:
        values = cohort.targets[task.name][train].astype(float)
        known = values[~np.isnan(values)]
        if not len(known):
            raise ValueError(f"no known value of {task.name} in the training split")
        if task.kind == "survival" and not (values[:, 1] == 1).any():
            raise ValueError(f"{task.name}: no event in the training split")
        if task.kind in ("regression", "classes") and known.min() == known.max():
            said = f"{known[0]:g}" if task.kind == "regression" else task.classes[int(known[0])]
            raise ValueError(f"{task.name} is {said} for every patient of the training split: nothing to learn")
        if task.kind == "regression":
            task = replace(task, center=float(known.mean()), scale=float(known.std()))
        elif task.kind == "labels" and positive_weight:
            positives, negatives = (values == 1).sum(0), (values == 0).sum(0)
            task = replace(task, positive_weight=tuple((np.where(positives, negatives, 1) / np.maximum(positives, 1)).tolist()))
        fitted.append(task)
    return fitted


# -----------------------------------------------------------------------------
# columns as input


def fit_columns(cohort, wanted, train):
    """NAME[:number|category],... -> [Column], with the statistics of the training images. Without a kind, words are categories."""
    columns, targets = [], {name for task in cohort.tasks for name in (task.name, *(task.classes if task.kind != "classes" else ()))}
    for spec in map(str.strip, wanted.split(",")):
        name, _, kind = (spec, "", "") if spec in cohort.columns or ":" not in spec else spec.rpartition(":")
        if name not in cohort.columns:
            raise ValueError(f"--tabular {spec}: {cohort.name} has no column {name!r}, "
                             f"there are {', '.join(list(cohort.columns)[:20]) or 'none'}")
        if kind not in ("", "number", "category"):
            raise ValueError(f"--tabular {spec}: kind {kind!r}, need number or category")
        if name.replace(".", "_") in targets or name in targets or name in (column.name for column in columns):
            raise ValueError(f"--tabular {spec}: {name} is {'what is to be predicted' if name in targets else 'named twice'}")
        cells = [cohort.columns[name][i] for i in train]
        known = {cell for cell in cells if cell}
        words = {cell for cell in known if not is_number(cell)}
        kind = kind or ("category" if words else "number")
        x = np.array([to_number(cohort, name, i) for i in train if cohort.columns[name][i]]) if kind == "number" else ()
        if len(set(x) or known) < 2:
            raise ValueError(f"--tabular {name}: {min(known, default='blank')} in every row of the training split, nothing to learn from")
        if kind == "category" and len(known) > 50:
            raise ValueError(f"--tabular {name}: {len(known)} different words in the training split, at most 50 make a category; "
                             f"{min(words or known)!r} is one of them")
        fitted = dict(mean=float(x.mean()), std=float(x.std())) if kind == "number" else dict(values=tuple(sorted(known)))
        columns.append(Column(name, kind, blanks="" in cells, **fitted))
    return columns


def to_number(cohort, name, i):
    """The cell of a column in row i -> float, NaN where blank."""
    cell = cohort.columns[name][i]
    if cell and not is_number(cell):
        raise ValueError(f"{cohort.name}, column {name}, patient {cohort.patients[i]}: {cell!r} is not a number; --tabular {name}:category "
                         "allows words")
    return float(cell or "nan")


def tabulate(cohort, columns):
    """-> the cohort with `tabular` (images, P), the columns as numbers beside each other; notes on what was filled in."""
    parts, notes = [], []
    for column in columns:
        if column.name not in cohort.columns:
            raise ValueError(f"{cohort.name} has no column {column.name!r}, which the model takes as input; "
                             f"there are {', '.join(list(cohort.columns)[:20]) or 'none'}")
        cells = cohort.columns[column.name]
        blank = np.array([not cell for cell in cells])
        if column.kind == "number":
            x = np.array([to_number(cohort, column.name, i) for i in range(len(cells))])
            parts.append(np.nan_to_num((x - column.mean) / column.std)[:, None])
        else:
            parts.append(np.array([[cell == value for value in column.values] for cell in cells]))
            unseen = [cell for cell in cells if cell and cell not in column.values]
            if unseen:
                notes.append(f"{column.name}: {len(unseen)} rows of {', '.join(sorted(set(unseen))[:5])}, unknown to the training split, "
                             "count as none of its values")
        if column.blanks:
            parts.append(blank[:, None])
        if blank.any():
            notes.append(f"{column.name}: {blank.sum()} rows blank, "
                         + ("filled with the mean" if column.kind == "number" else "they count as none of its values"))
    return replace(cohort, tabular=np.concatenate(parts, 1).astype(np.float32) if parts else None), notes


def main(data=None, images=None):
    """Print how a table is understood, or without one the public tables."""
    if not data:
        for name, known in KNOWN.items():
            print(f"{name:10} image in {known.get('image', 'image')!r}, patient in {known.get('patient', 'patient_id')!r}, "
                  f"target {known.get('target') or str(known['labels'].count(',') + 1) + ' labels'}")
        return
    cohort = load_cohort(data, images)
    print(f"{cohort.name}: {len(cohort.paths)} images of {len(set(cohort.patients))} patients")
    for task in cohort.tasks:
        values = cohort.targets[task.name]
        counts = np.nansum(values, 0) if task.kind == "labels" else [(values == i).sum() for i in range(len(task.classes))]
        said = ", ".join(f"{name} {count:.0f}" for name, count in zip(task.classes, counts))
        print(f"{task.name} ({task.kind}): {said or f'{np.nanmin(values):g} .. {np.nanmax(values):g}'}, {np.isnan(values).sum()} unknown")
    print(*split_patients(cohort)[1], sep="\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except ValueError as error:
        sys.exit(str(error))
