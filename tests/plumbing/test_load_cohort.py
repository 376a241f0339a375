"""plumbing/load_cohort.py: a table of one's own becomes a Cohort; what is wrong in it is said with its place."""
import time

import numpy as np
import pytest

from plumbing.cohort import Task, per_patient
from plumbing.load_cohort import load_cohort
from plumbing.splits import split_patients
from tests.plumbing.small_tables import generic, write


def test_other_column_names(tmp_path):
    """Every column can be named by a flag; all columns are kept as text."""
    path = write(tmp_path, "my.csv", "who,photo,part,score,age", "p,x.png,Train,1.5,30", "q,y.png,valid,2.5,", "r,z.png,test,,50",
                 images=("photos/x.png", "photos/y.png", "photos/z.png"))
    cohort = load_cohort(path, str(tmp_path / "photos"), "who", "photo", "score", "part")
    assert cohort.name == "my" and cohort.patients == ["p", "q", "r"] and cohort.splits == ["train", "val", "test"]
    assert cohort.tasks == [Task("score", "regression")] and cohort.columns["age"] == ["30", "", "50"]
    np.testing.assert_array_equal(cohort.targets["score"], np.float32([1.5, 2.5, np.nan]))
    assert cohort.targets["score"].dtype == np.float32


@pytest.mark.parametrize("content, message", (
    (b"", "row 1: no names of columns, but none"),
    (b",,\n1,2,3\n", "row 1: no names of columns, but none"),
    (b"patient_id,image,target\n", "no rows below the header"),
    (b"patient_id,image,target,target\np,a.png,1,2\n", "row 1: column 'target' appears twice"),
    (b"patient_id,file,target\np,a.png,1\n", "no column 'image'; --image-column names it, there are 'patient_id', 'file', 'target'"),
    (b"patient_id image target\np a.png 1\n", "there are 'patient_id image target'"),            # it is one column
    (b"id,image,target\np,a.png,1\n", r"no column 'patient_id'; --patient-column \(where there are no ids: image\) names it, there are 'id'"),
    (b"MURA/p1/a.png,1\nMURA/p2/b.png,0\n", "row 1: no names of columns, but MURA/p1/a.png, 1; above the first row a line with the names"),
    (b"0000,0\n0001,1\n", "row 1: no names of columns, but 0000, 0"),                                       # MRNet
    (b"1 a.png positive cohen\n2 b.png negative rsna\n", "row 1: no names of columns, but 1 a.png positive cohen"),
    (b"patient_id,image,score\np,a.png,1\n", "what is to be predicted\\? --target NAME"),
    (b"patient_id,image,target\np,a.png,1\nq,b.png\n", "row 3: 2 cells, the header has 3"),
    (b"patient_id,image,target\np,a.png,1,9\n", "row 2: 4 cells, the header has 3"),
    (b"patient_id,image,target\np,a.png,0.5\n ,b.png,1.5\n", "row 3, column patient_id: '' names no patient; a row of an unknown one needs an id of its own"),
    (b"patient_id,image,target\np,../secret.png,0.5\n", "row 2, column image: '../secret.png' leaves the image folder"),
    (b"patient_id,image,target\np,/etc/passwd,0.5\n", "row 2, column image: '/etc/passwd' leaves the image folder"),
    (b"patient_id,image,target\np,x/../../u/a.png,0.5\n", "leaves the image folder"),
    (b"patient_id,image,target\np,a.png,0.5\nq,none.png,1\nr,,1\n", r"row 3, column image: 'none.png' is no image .*\(1 of 2 rows"),
    (b"patient_id,image,target\np,a.png,0.5\nq,b.png,1\nr,c.png,x\n", "row 4, column target: 'x' is not a number, others are"),
    (b"patient_id,image,target\np,a.png,0.5\nq,b.png,inf\n", "row 3, column target: 'inf' is not a number"),
    (b"patient_id,image,target\np,a.png,\nq,b.png,\n", "column target: no value in 2 rows"),
    (b"patient_id,image,target,split\np,a.png,0.5,train\nq,b.png,1,later\n", "row 3, column split: 'later' is none of train, val and test"),
    (b"patient_id,image,target\np,a.png,\xe9\n", "not a UTF-8 CSV file"),
    ("patient_id,image,target\np,a.png,1\n".encode("utf-16"), "not a UTF-8 CSV file"),
    (b'patient_id,image,target\np,"a.png,1\n', "not a UTF-8 CSV file"),
))
def test_what_is_wrong_is_said_in_one_line_with_its_place(tmp_path, content, message):
    """File, row and column, what is there and what is needed."""
    path = generic(tmp_path / "t")
    open(path, "wb").write(content)
    with pytest.raises(ValueError, match=message) as error:
        load_cohort(path)
    assert "\n" not in str(error.value) and ("t.csv" in str(error.value))


def test_flags_and_places_that_do_not_fit(tmp_path, monkeypatch):
    """Nothing there, a public table without its folder, a flag that the data has no use for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nih").mkdir()                                     # a folder of that name does not hide the table
    for args, message in ((("nowhere.csv",), "no such file or folder"), (("nih",), "nih needs --images, the folder that holds Data_Entry"),
                          (("nih", str(tmp_path)), f"it is {tmp_path}"),
                          ((str(tmp_path), None, None, "x"), f"--data {tmp_path} is no CSV table: .* do not apply to it, nor --split-column but none"),
                          (("medmnist:pathmnist", "photos"), "--data medmnist:pathmnist is no CSV table: --images, "), (("medmnist:cat",), "FLAG one of pathmnist"),
                          (("medmnist:pathmnist:32",), "SIDE one of 28, 64"),
                          ((generic(tmp_path, "p,a.png,1"), "no/folder"), "no such folder")):
        with pytest.raises(ValueError, match=message):
            load_cohort(*args)


def test_a_file_called_split_is_not_asked(tmp_path, monkeypatch):
    """The column of the table is meant, whatever lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split").write_text("x")
    assert load_cohort(generic(tmp_path, "p,a.png,1,train", "q,b.png,2,test", header="patient_id,image,target,split")).splits == ["train", "test"]


@pytest.mark.parametrize("header, rows, flag, splits, note", (
    ("patient_id,image,target,Split", ("p,a.png,1,Train", "q,b.png,2,TEST"), None, ["train", "test"], None),
    ("patient_id,image,target,Set", ("p,a.png,1,train", "q,b.png,2,test_set"), None, None, "WARNING: column Set is not used as a split; with train, val and test in it --split-column Set"),
    ("patient_id,image,target,Set", ("p,a.png,1,train", "q,b.png,2,test_set"), "Set", ["train", "test"], None),
    ("patient_id,image,target,Set", ("p,a.png,1,train", "q,b.png,2,test_set"), "none", None, None),
    ("patient_id,image,target,split", ("p,a.png,1,train", "q,b.png,2,test_external"), None, ["train", "test"], None),
    ("patient_id,image,target,Set", ("p,a.png,1,train", "q,b.png,2,other"), None, None, "WARNING: column Set is not used as a split"),
    ("patient_id,image,target,Set", ("p,a.png,1,", "q,b.png,2,test", "r,c.png,2,train"), None, None, "WARNING: column Set is not used as a split"),
    ("patient_id,image,target,Usage", ("p,a.png,1,Training", "q,b.png,2,PublicTest"), None, None, "WARNING: column Usage is not used as a split"),
    ("patient_id,image,target,Usage", ("p,a.png,1,Training", "q,b.png,2,PublicTest"), "Usage", ["train", "test"], None),
    ("patient_id,image,target,is_test", ("p,a.png,1,0", "q,b.png,2,1"), None, None, "WARNING: column is_test is not used as a split"),
    ("patient_id,image,target,cv_fold", ("p,a.png,1,0", "q,b.png,2,1"), None, None, "WARNING: column cv_fold is not used as a split"),
    ("patient_id,image,target,cohort", ("p,a.png,1,development", "q,b.png,2,validation"), None, None, "WARNING: column cohort is not used as a split"),
    ("patient_id,image,target,split", ("p,a.png,1,train", "q,b.png,2,tuning", "r,c.png,3,hold-out"), None, ["train", "val", "test"], None),
    ("patient_id,image,target,quality", ("p,a.png,1,valid", "q,b.png,2,Invalid"), None, None, None),
    ("patient_id,image,target,quality", ("p,a.png,1,train", "q,b.png,2,valid"), None, None, "WARNING: column quality is not used as a split"),
    ("patient_id,image,target,subset", ("p,a.png,1,1", "q,b.png,2,2"), None, None, "WARNING: column subset is not used as a split"),
    ("patient_id,image,target,Fold", ("p,a.png,1,0", "q,b.png,2,1"), "none", None, None),
    ("patient_id,image,target,image2", ("p,train2017/a.png,1,", "q,val2017/b.png,2,"), "image", ["train", "val"], None),
    ("patient_id,image,target", ("p,train_1.png,1", "q,test_1.png,2"), None, None, "column image is not used as a split"),
    ("patient_id,image,target", ("p,a,1", "q,b,2"), None, None, "WARNING: column image is not used as a split"),
    ("patient_id,image,target", ("p,a,1", "q,b,2"), "image", ["train", "test"], None),
    ("patient_id,image,target", ("p,training/a.png,1", "q,test/b.png,2"), None, None, "column image is not used as a split"),
    ("patient_id,image,target", ("p,training/a.png,1", "q,test/b.png,2"), "image", ["train", "test"], None),
    ("patient_id,image,target,split", ("p,train/a.png,1,train", "q,train/b.png,2,test"), None, ["train", "test"],
     "WARNING: 1 images lie in the folder of another split, as train/b.png, which is of test in the table"),
    ("patient_id,image,target,split", ("p,train/a.png,1,train", "q,train/b.png,2,val"), None, ["train", "val"], None)))
def test_a_split_that_the_table_says_is_used_or_named(tmp_path, header, rows, flag, splits, note):
    """Under any name, and in the folders of the images; a test split is not dealt into training in silence."""
    images = [row.split(",")[1] for row in rows]
    if images == ["a", "b"]:                                       # no ending, and no folder in the table
        images = ["train/a.png", "test/b.png"]
    cohort = load_cohort(write(tmp_path, "t.csv", header, *rows, images=images), split=flag)
    assert cohort.splits == splits
    assert any(note in line for line in cohort.notes) if note else not any("split" in line for line in cohort.notes)


def test_a_split_is_told_from_many_words(tmp_path):
    """Folders of many images say it; numbers of which each is another say nothing, whatever their column is called, nor does a target."""
    rows = [f"p{i},{('train', 'test')[i % 2]}/{i}.png,{i % 3}.5,{i},None" for i in range(24)]
    path = write(tmp_path, "t.csv", "patient_id,image,target,fold,x", *rows, images=[row.split(",")[1] for row in rows])
    notes = load_cohort(path).notes
    assert any("column image is not used as a split" in note for note in notes) and not any("column fold" in note for note in notes)
    assert not any("None counts as a blank" in note for note in notes)               # in no target
    rows = [f"p{i},{i}.png,{i % 2}" for i in range(24)]
    path = write(tmp_path, "u.csv", "patient_id,image,test", *rows, images=[f"{i}.png" for i in range(24)])
    assert not any("column test" in note for note in load_cohort(path, target="test").notes)


@pytest.mark.parametrize("more, warning", (("Target", "target and Target"), ("target.1", "target and target.1"), ("PATIENT ID", "patient_id and PATIENT ID"),
                                           ("x.1,x.2", None), ("target_2", None)))
def test_a_column_that_is_there_twice_is_named(tmp_path, more, warning):
    """By another case, or as pandas tells a second one from the first: which one counts is said."""
    path = generic(tmp_path, "p,a.png,1,5,6", "q,b.png,2,5,6", header=f"patient_id,image,target,{more}" + ",z" * (more.count(",") == 0))
    said = [line for line in load_cohort(path).notes if "there twice" in line]
    assert said == ([f"WARNING: the columns {warning} may be one that is there twice; each counts by its own name"] if warning else [])


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds(tmp_path):
    """One picture stands for all: tables of public size are read, unified and split without a loop that is quadratic."""
    generic(tmp_path, *(f"p{i},a.png,{i // 3 % 50 + 0.5},{i // 3 % 2},{i // 3 % 5 % 2}" for i in range(100_000)),
            header="patient_id,image,target,label_a,label_b")
    start = time.perf_counter()
    cohort = per_patient(load_cohort(str(tmp_path / "t.csv")))
    assert [task.name for task in cohort.tasks] == ["target", "findings"] and len(cohort.paths) == 100_000
    cohort.pixels = np.arange(100_000, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)     # as if all pictures differed
    indices, _ = split_patients(cohort)
    assert sum(map(len, indices.values())) == 100_000 and time.perf_counter() - start < 120
