"""plumbing/class_folders.py: one folder of images per class, with or without an official split above."""
import pytest

from plumbing.cohort import Task
from plumbing.load_cohort import load_cohort
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
