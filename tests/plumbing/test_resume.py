"""plumbing/resume.py: whatever happens to the table between stop and resume, nobody changes sides and no target turns round."""
import csv
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from plumbing.flags import parse
from plumbing.prepare import prepare
from plumbing.splits import read_run_split
from tests.grey_runs import fails, flags
import train

HEADER = ["patient_id", "image", "finding"]
NAMES = ("benign", "malignant", "other")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a table of 30 patients, two pictures each, and a run that has learned from it for one of its two epochs."""
    folder, rng = tmp_path_factory.mktemp("stopped"), np.random.default_rng(0)
    rows = []
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16 + i), np.uint8)).save(folder / f"{i}.png")
        rows.append([f"p{i // 2:02}", f"{i}.png", NAMES[i // 2 % 3]])
    write(folder, rows)
    before = os.getcwd()
    os.chdir(folder)
    train.main(["--data", "t.csv", "--model", "vit", "--image", "16", "--patch", "8", "--epochs", "1", "--device", "cpu",
                "--target", "finding:classes", "--name", "run"])
    os.chdir(before)
    return folder


def write(folder, rows):
    with open(os.path.join(folder, "t.csv"), "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


def read(folder):
    with open(os.path.join(folder, "t.csv"), newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture
def again(stopped, tmp_path, monkeypatch):
    """A copy of it, as the current folder."""
    shutil.copytree(stopped, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return read(".")


def resumed():
    return prepare(parse(["--resume", "runs/run", "--device", "cpu"]), torch.device("cpu"))


def check(ready):
    """Every patient is where the run began with them, and every target stands by its patient."""
    began = read_run_split("runs/run")
    truth = {row[0]: row[2] for row in read(".")}
    task = ready.tasks[0]
    assert task.classes == NAMES
    for split, images in ready.indices.items():
        for i in images:
            patient = ready.cohort.patients[i]
            assert began[patient] == split
            assert NAMES[int(ready.cohort.targets["finding"][i])] == truth[patient]


@pytest.mark.slow
def test_thirty_random_edits_move_nobody(again, quiet_prints):
    """Rows removed, added, reordered, patients renamed or exchanged, pictures exchanged, classes renamed: refused or right."""
    rng, outcomes = np.random.default_rng(1), []
    for turn in range(30):
        rows = [list(row) for row in again]
        kind = ("remove", "add", "reorder", "rename", "exchange ids", "exchange pictures", "rename class")[turn % 7]
        a, b = rng.choice(30, 2, replace=False)
        if kind == "remove":
            rows = [row for row in rows if row[0] not in (f"p{a:02}", f"p{b:02}")]
        elif kind == "add":
            rows.insert(int(rng.integers(60)), ["new", "0.png", "benign"])
        elif kind == "reorder":
            rng.shuffle(rows)
        elif kind == "rename class":
            for row in rows:
                row[2] = row[2].replace("benign", "zzz")
        else:
            for row in rows:
                column = 1 if kind == "exchange pictures" else 0
                first, second = (rows[2 * a][1], rows[2 * b][1]) if column else (f"p{a:02}", f"p{b:02}")
                target = {first: second, second: first} if kind != "rename" else {first: "somebody"}
                row[column] = target.get(row[column], row[column])
        write(".", rows)
        try:
            check(resumed())
            outcomes.append((kind, "right"))
        except ValueError as error:
            assert "\n" not in str(error)
            outcomes.append((kind, "refused"))
    assert set(outcomes) == {("remove", "right"), ("add", "right"), ("reorder", "right"), ("rename", "right"),
                             ("exchange ids", "refused"), ("exchange pictures", "refused"), ("rename class", "refused")}


@pytest.fixture
def quiet_prints(capsys):
    yield
    capsys.readouterr()


@pytest.mark.slow
def test_who_is_new_and_who_is_gone_is_named(again):
    write(".", [row for row in again if row[0] != "p03"] + [["zoe", "6.png", "benign"]])
    notes = "\n".join(resumed().notes)
    assert "since runs/run began patients are new, who are left out (zoe), or gone (p03)" in notes


@pytest.mark.slow
def test_split_csv_is_written_once(again):
    """A resumed run that has lost a patient keeps the line: should the patient come back, it is known where."""
    before = open("runs/run/split.csv").read()
    write(".", [row for row in again if row[0] != "p03"])
    train.main(["--resume", "runs/run", "--device", "cpu"])
    assert open("runs/run/split.csv").read() == before


@pytest.mark.slow
def test_a_damaged_state_is_one_line(again):
    saved = torch.load("runs/run/last/state.pt", weights_only=True)
    for key, value in (("history", 3), ("history", ["a"]), ("epoch", "x"), ("step", 10 ** 6), ("loss", None), ("norm", "x")):
        torch.save({**saved, "epoch": 0, "step": 1, key: value}, "runs/run/last/state.pt")
        assert "runs/run/last/state.pt: cannot be resumed" in fails(["--resume", "runs/run", "--device", "cpu"])


@pytest.mark.usefixtures("quiet")
def test_a_run_goes_on_only_with_the_model_that_it_began_with(greys, grey_run):
    """What --pretrained names has the same tensors but another config.json now; restored, the run goes on."""
    path = "first/best/config.json"
    shutil.copytree(grey_run, "first")
    train.main(flags(greys, "--pretrained", "first", "--name", "next"))
    before = open(path).read()
    with open(path, "w") as file:
        file.write(before.replace('"attention": "softmax"', '"attention": "sima"'))
    go_on = ["--resume", "runs/next", "--epochs", "4", "--device", "cpu"]
    assert "runs/next: its flags describe another model now" in fails(go_on)
    with open(path, "w") as file:
        file.write(before)
    train.main(go_on)
    assert len(open("runs/next/log.csv").readlines()) == 5
