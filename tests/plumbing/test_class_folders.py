"""plumbing/class_folders.py: one folder of images per class, with or without an official split above."""
import os

import numpy as np
import pytest
from PIL import Image

from plumbing.cohort import Task
from plumbing.load_cohort import load_cohort
from plumbing.splits import split_patients
from tests.plumbing.small_tables import write


def test_class_folders(tmp_path):
    """A folder a class, deeper folders belong to it; other files do not count; every image is a patient."""
    write(tmp_path, "notes.txt", "x", images=("cat/1.png", "cat/more/2.png", "dog/1.PNG", "dog/._1.png"))
    (tmp_path / "empty").mkdir()
    cohort = load_cohort(str(tmp_path))
    assert cohort.tasks == [Task("class", "classes", ("cat", "dog"))] and cohort.targets["class"].tolist() == [0, 0, 1]
    assert cohort.patients == ["cat/1.png", "cat/more/2.png", "dog/1.PNG"] and cohort.splits is None and "no patient ids" in cohort.notes[0]


def test_class_folders_with_a_split(tmp_path):
    """train, val (also valid, validation) and test above the classes are the official split; a class may be called test."""
    write(tmp_path, "a/x.txt", images=("a/train/cat/1.png", "a/train/dog/2.png", "a/valid/dog/3.png", "a/test/cat/4.png"))
    cohort = load_cohort(str(tmp_path / "a"))
    assert cohort.patients == ["test/cat/4.png", "train/cat/1.png", "train/dog/2.png", "valid/dog/3.png"]
    assert cohort.splits == ["test", "train", "train", "val"]
    assert cohort.tasks[0].classes == ("cat", "dog") and cohort.targets["class"].tolist() == [0, 0, 1, 1]
    write(tmp_path, "b/x.txt", images=("b/control/1.png", "b/test/2.png"))
    assert load_cohort(str(tmp_path / "b")).tasks[0].classes == ("control", "test")
    write(tmp_path, "a/x.txt", images=("a/bird/5.png",))
    with pytest.raises(ValueError, match="bird is beside the folders of a split"):
        load_cohort(str(tmp_path / "a"))
    with pytest.raises(ValueError, match="need a CSV file, or one folder of images per class"):
        load_cohort(str(tmp_path / "b" / "control"))


# -----------------------------------------------------------------------------
# patients in the names of films

CHEST = ["NORMAL/IM-0115-0001.jpeg", "NORMAL/NORMAL2-IM-1427-0001.jpeg", "NORMAL/NORMAL2-IM-1427-0002.jpeg",
         "PNEUMONIA/person12_bacteria_34.jpeg", "PNEUMONIA/person12_bacteria_35.jpeg", "PNEUMONIA/person12_virus_36.jpeg",
         "PNEUMONIA/person1_virus_6.jpeg", "PNEUMONIA/other.jpeg"]



def save(folder, names, seed=0):
    """Films of noise, each with other pixels."""
    for number, name in enumerate(names):
        os.makedirs(os.path.dirname(folder / name), exist_ok=True)
        pixels = np.random.default_rng(seed + number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def test_class_folders_take_patients_from_the_names_of_films(tmp_path):
    """Two folders: our split keeps all films of a patient on one side."""
    save(tmp_path, CHEST)
    cohort = load_cohort(str(tmp_path))
    assert dict(zip([os.path.relpath(path, tmp_path) for path in cohort.paths], cohort.patients)) == dict(zip(CHEST, (
        "IM-0115", "NORMAL2-IM-1427", "NORMAL2-IM-1427", "person12", "person12", "person12", "person1", "PNEUMONIA/other.jpeg")))
    assert cohort.notes == ["patients from the names of 7 files, as IM-0115; 1 other files count as a patient each"]
    for fold in range(2):
        indices, _ = split_patients(cohort, folds=2, fold=fold, val=0.5)
        assert len({split for split, part in indices.items() for i in part if cohort.patients[i] == "person12"}) == 1


def test_class_folders_with_a_split_say_how_many_numbers_cross_it(tmp_path):
    """The distributed sides stay, although person1 of train may be person1 of test."""
    save(tmp_path / "train", CHEST)
    save(tmp_path / "test", ("NORMAL/IM-0001-0001.jpeg", "PNEUMONIA/person1_bacteria_1.jpeg"), 100)
    cohort = load_cohort(str(tmp_path))
    assert any(note.startswith("WARNING: 1 of these numbers are on two sides") for note in cohort.notes)
    indices, _ = split_patients(cohort, val=0.5)
    assert {cohort.paths[i] for i in indices["test"]} == {path for path in cohort.paths if "/test/" in path}
