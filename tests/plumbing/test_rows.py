"""plumbing/rows.py: several images in a cell are several images, several rows of an image are one."""
import os

import numpy as np
import pytest

from plumbing.cohort import Task
from plumbing.load_cohort import load_cohort
from tests.plumbing.small_tables import generic, write


@pytest.mark.parametrize("cell", ("a.png|b.png", '"a.png, b.png"', "a.png; b.png", '"[\'a.png\', \'b.png\']"', "a|b"))
def test_images_joined_in_a_cell_are_images_of_a_patient(tmp_path, cell):
    """With bars, commas, semicolons or as Python writes a list; the patient's target is theirs."""
    cohort = load_cohort(generic(tmp_path, f"p,{cell},1.5", "q,c.png,2"))
    assert [path[-5:] for path in cohort.paths] == ["a.png", "b.png", "c.png"] and cohort.patients == ["p", "p", "q"]
    assert cohort.targets["target"].tolist() == [1.5, 1.5, 2] and cohort.notes[0] == "2 rows name 3 images, several in a cell; a row with none is left out"
    assert cohort.columns["target"] == ["1.5", "1.5", "2"]


def test_rows_that_agree_are_one_image(tmp_path):
    """One per box or reader: it counts once, a known answer before a blank; another patient's row stays."""
    cohort = load_cohort(generic(tmp_path, "p,a.png,1.5", "p,a.png,", "q,b.png,2", "q,b.png,2.0", "r,c.png,3"))
    assert [path[-5] for path in cohort.paths] == ["a", "b", "c"] and cohort.patients == ["p", "q", "r"]
    assert cohort.targets["target"].tolist() == [1.5, 2, 3] and "5 rows name 3 images: each counts once" in cohort.notes
    assert len(cohort.columns["image"]) == 3
    cohort = load_cohort(generic(tmp_path, "p,a.png,yes", "p,a.png,1", "q,b.png,0", "q,b.png,-1"), target="target:labels")
    assert cohort.targets["findings"].tolist() == [[1], [0]]
    (tmp_path / "dots.csv").write_text("patient_id,image,a.b\np,a.png,yes\np,a.png,1\nq,b.png,0\n")
    assert load_cohort(str(tmp_path / "dots.csv"), target="a.b:labels").targets["findings"].tolist() == [[1], [0]]


@pytest.mark.parametrize("rows, target, message", (
    (("p,a.png,Mass", "p,a.png,Edema", "q,b.png,Mass"), "target", "row 3, column target: 'Edema' is not 'Mass', as in .*t.csv row 2, of the same image; --target target:labels allows several words"),
    (("p,a.png,1.5", "q,b.png,2", "p,a.png,3"), "target", "row 4, column target: '3' is not '1.5', as in .*t.csv row 2, of the same image; one row per image"),
    (("p,a.png,1", "p,a.png,0", "q,b.png,1"), "target", "row 3, column target: '0' is not '1', as in .*t.csv row 2, of the same image; one row per image"),
    (("p,a.png,yes", "p,a.png,no", "q,b.png,no"), "target", "row 3, column target: 'no' is not 'yes', as in .*t.csv row 2, of the same image; one row per image"),
    (("p,a.png,1", "p,a.png,0", "q,b.png,1"), "target:labels", "row 3, column target: '0' is not '1', as in .*t.csv row 2, of the same image; one row per image")))
def test_rows_that_differ_are_refused(tmp_path, rows, target, message):
    """With both answers and their rows."""
    with pytest.raises(ValueError, match=message):
        load_cohort(generic(tmp_path, *rows), target=target)


def test_words_of_several_rows_are_several_labels(tmp_path):
    """class_name:labels takes what any row of an image says; no finding is no label."""
    cohort = load_cohort(generic(tmp_path, "p,a.png,Mass", "p,a.png,Edema", "q,b.png,No finding", "q,b.png,No finding", "r,c.png,Mass"), target="target:labels")
    assert cohort.tasks == [Task("findings", "labels", ("Edema", "Mass"))]
    np.testing.assert_array_equal(cohort.targets["findings"], [[1, 1], [0, 0], [0, 1]])
    assert cohort.notes[0] == "5 rows name 3 images: each counts once"       # both of its words do


def test_other_columns_of_rows_that_are_one_image(tmp_path):
    """Of a box, say, the first row's counts, and a line names the columns; a column that names other files is said to be unread."""
    path = generic(tmp_path, "p,a.png,1.5,3,b.png", "p,a.png,1.5,4,b.png", "q,b.png,2,5,a.png", header="patient_id,image,target,x,second")
    cohort = load_cohort(path)
    assert cohort.columns["x"] == ["3", "5"] and cohort.notes[1].startswith("column second names files too, which are not read; --image-column ")
    assert cohort.notes[0] == "3 rows name 2 images: each counts once, with its first row where they differ (x)"
    path = generic(tmp_path, "p,a.png,1.5,,x", "p,a.png,,4,X", "q,b.png,2,5,y", header="patient_id,image,target,age,site")
    cohort = load_cohort(path)                                     # what is known comes before a blank, and x and X are one
    assert cohort.columns["age"] == ["4", "5"] and cohort.notes[0] == "3 rows name 2 images: each counts once"


def test_an_image_is_in_one_split(tmp_path):
    path = generic(tmp_path, "p,a.png,1.5,train", "p,a.png,1.5,test", "q,b.png,2,train", header="patient_id,image,target,split")
    with pytest.raises(ValueError, match="row 3, column split: 'test' is not 'train', as in .*t.csv row 2, of the same image"):
        load_cohort(path)


def test_two_eyes_in_a_row(tmp_path):
    """ODIR-5K and SCIN: columns that together name the images of a row; a blank is no image."""
    path = write(tmp_path, "t.csv", "ID,Left,Right,N", "1,1_left.jpg,1_right.jpg,0", "2,,2_right.jpg,1",
                 images=("1_left.jpg", "1_right.jpg", "2_right.jpg"))
    cohort = load_cohort(path, patient="ID", image="Left,Right", target="N")
    assert [os.path.basename(name) for name in cohort.paths] == ["1_left.jpg", "1_right.jpg", "2_right.jpg"]
    assert cohort.patients == ["1", "1", "2"] and cohort.targets["N"].tolist() == [0, 0, 1]
    assert not any("names files too" in note for note in cohort.notes)
    one = load_cohort(path, patient="ID", image="Right", target="N")
    assert one.notes[0] == "column Left names files too, which are not read; --image-column Right,Left makes them images of the same row"
    write(tmp_path, "na.csv", "ID,Left,Right,N", "1,1_left.jpg,1_right.jpg,0", "2,NA,2_right.jpg,1")
    assert load_cohort(str(tmp_path / "na.csv"), patient="ID", image="Left,Right", target="N").paths == cohort.paths
    write(tmp_path, "none.csv", "ID,Left,Right,N", "1,1_left.jpg,,0", "2,,.,1", '"3\n4",,,1')            # as of REDCap
    left = load_cohort(str(tmp_path / "none.csv"), patient="ID", image="Left,Right", target="N")
    assert left.patients == ["1"] and "3 rows name 1 images, several in a cell; a row with none is left out" in left.notes
    write(tmp_path, "apart.csv", "ID,Right,N", "1,,0", "1,1_right.jpg,")                        # REDCap keeps what was asked once in a row of its own
    with pytest.raises(ValueError, match="column N: no value in 1 rows with an image"):
        load_cohort(str(tmp_path / "apart.csv"), patient="ID", image="Right", target="N")
    with pytest.raises(ValueError, match="none.csv row 2, column Right: '' is no image"):
        load_cohort(str(tmp_path / "none.csv"), patient="ID", image="Right", target="N")
    with pytest.raises(ValueError, match="no column 'Middle'; --image-column names it, there are 'ID', 'Left', 'Right', 'N'"):
        load_cohort(path, patient="ID", image="Left,Middle", target="N")
