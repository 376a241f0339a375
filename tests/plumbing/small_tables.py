"""Small tables and cohorts for the tests of plumbing/."""
import os

import numpy as np
import pytest
from PIL import Image

from plumbing.cohort import Cohort, Task
from tests.hub import ROOT

REAL = os.path.join(os.path.dirname(ROOT), "shared", "data")


def write(folder, name, *lines, images=()):
    """Write a table and one small picture a name; -> path of the table."""
    for i, image in enumerate(images):
        os.makedirs(os.path.dirname(folder / image), exist_ok=True)
        Image.new("L", (4, 4), 10 * i).save(folder / image)
    os.makedirs(os.path.dirname(folder / name), exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def generic(folder, *rows, header="patient_id,image,target"):
    return write(folder, "t.csv", header, *rows, images=("a.png", "b.png", "c.png"))


def cohort_of(patients, target, kind="regression", splits=None, pixels=None):
    """Cohort in memory; pictures that differ, unless `pixels` says otherwise."""
    classes = () if kind == "regression" else tuple("abcdefghijkl"[:np.shape(target)[1] if kind == "labels" else 12])
    pixels = np.arange(len(patients)) if pixels is None else np.array(pixels)
    return Cohort("made", [Task("y", kind, classes)], list(patients), [f"{i}.png" for i in range(len(patients))],
                  {"y": np.array(target, dtype=np.float32)}, splits=splits, pixels=np.uint8(pixels[:, None, None] // [[1, 256]] % 256))


def patients_in(cohort, indices):
    return {split: {cohort.patients[i] for i in part} for split, part in indices.items()}


def clam(folder):
    """CLAM's layout: a slide table, pt_files beside h5_files, splits of ragged columns."""
    slides = ["TCGA-05.1a", "TCGA-05.2b", "TCGA-21.3c", "TCGA-22.4d"]
    for slide in slides:
        for kind in ("pt", "h5"):
            os.makedirs(folder / f"features/{kind}_files", exist_ok=True)
            (folder / f"features/{kind}_files/{slide}.{kind}").write_bytes(b"")
    write(folder, "slides.csv", "case_id,slide_id,label", *(f"{slide[:7]},{slide},{'LUAD' if i < 2 else 'LUSC'}" for i, slide in enumerate(slides)))
    write(folder, "splits_0.csv", ",train,val,test", f"0,{slides[0]},{slides[2]},{slides[3]}", f"1,{slides[1]},,")
    return str(folder / "slides.csv"), str(folder / "features"), str(folder / "splits_0.csv")


def real(name):
    folder = os.path.join(REAL, name)
    if not os.path.isdir(folder):
        pytest.skip(f"{folder} is not there")
    return folder
