"""plumbing/run_folder.py: files and folders are there as a whole or not at all. test_train.py kills real runs."""
import csv
import errno
import json
import os
from types import SimpleNamespace

import pytest
import torch

import train
from plumbing import lock
from plumbing.flags import read_args
from plumbing.prepare import prepare
from plumbing.run_folder import make_folder, recover, write_csv, write_folder, write_json, write_log
from tests.grey_runs import flags as grey_flags
from tests.small_runs import fails, fit
from train import lr_at, main


def test_write_folder_is_all_or_nothing(tmp_path):
    """A writer that fails leaves the old folder as it was; recover clears what it left."""
    path = str(tmp_path / "best")
    with write_folder(path) as fresh:
        (tmp_path / "best.new" / "a").write_text("old")
        assert fresh == path + ".new" and not os.path.exists(path)
    with pytest.raises(OSError, match="best could not be written .*No space left on device.*; what was there before is whole"):
        with write_folder(path) as fresh:
            (tmp_path / "best.new" / "a").write_text("new")
            raise OSError(28, "No space left on device")
    recover(path)
    assert open(os.path.join(path, "a")).read() == "old" and sorted(os.listdir(tmp_path)) == ["best"]


@pytest.mark.parametrize("there, left", (
    ({"": "old", ".new": "half"}, "old"), ({".old": "old", ".new": "new"}, "new"), ({"": "new", ".old": "old"}, "new"), ({".old": "old"}, "old"),
    ({".new": "half"}, None)), ids=("while it is written", "between the renames", "after them", "the new one removed by hand", "the first"))
def test_what_a_kill_leaves_is_one_whole_folder(tmp_path, there, left):
    """Whatever moment it came at."""
    for ending, text in there.items():
        (tmp_path / f"best{ending}").mkdir()
        (tmp_path / f"best{ending}" / "a").write_text(text)
    recover(str(tmp_path / "best"))
    assert {path.name: (path / "a").read_text() for path in tmp_path.iterdir()} == ({"best": left} if left else {})


def test_what_cannot_be_written_leaves_no_half_file(tmp_path):
    """NaN is no JSON: the old file stays. A CSV has the line ends and quotes of the standard."""
    write_json(str(tmp_path / "a.json"), {"x": 1})
    with pytest.raises(ValueError):
        write_json(str(tmp_path / "a.json"), {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    rows = [["a", "b"], ["one, two", 'said "three"'], ["é", "4\n5"]]
    write_csv(str(tmp_path / "a.csv"), rows)
    assert list(csv.reader(open(tmp_path / "a.csv", newline="", encoding="utf-8"))) == rows
    assert (tmp_path / "a.csv").read_bytes().startswith(b'a,b\r\n"one, two"') and sorted(os.listdir(tmp_path)) == ["a.csv", "a.json"]


def test_an_older_run_without_the_column_goes_on(quiet):
    """A log begun before grad_norm was there: its rows are empty in that column, none is shifted."""
    write_log(".", [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.1, "grad_norm": 3.0}])
    assert list(csv.reader(open("log.csv"))) == [["epoch", "lr", "grad_norm"], ["1", "0.1", ""], ["2", "0.1", "3.0"]]


@pytest.mark.slow
def test_a_run_goes_on_for_longer(greys, quiet, monkeypatch, capsys):
    """--resume RUN --epochs 5 after 3: the first three epochs stay, the next two follow the schedule of five, the next --resume
    knows of them; fewer epochs than before are refused."""
    fit(grey_flags(greys, "--name", "a"))
    before = open("runs/a/log.csv").read().splitlines()
    main(["--resume", "runs/a", "--epochs", "5"])
    log = open("runs/a/log.csv").read().splitlines()
    assert log[:4] == before and len(log) == 6
    steps = len(prepare(read_args("runs/a"), torch.device("cpu")).batches)
    rates = [float(line.split(",")[1]) for line in log[4:]]
    assert rates == pytest.approx([lr_at(epochs * steps - 1, 5 * steps, 2 * steps, 5e-4, 1.25e-7) for epochs in (4, 5)])
    assert read_args("runs/a").epochs == 5
    main(["--resume", "runs/a"])
    assert len(open("runs/a/log.csv").read().splitlines()) == 6
    assert "--epochs 4: the run was started for 5" in fails(["--resume", "runs/a", "--epochs", "4"], monkeypatch, capsys)


def test_results_of_older_weights_do_not_stay(greys, quiet, monkeypatch):
    """Also those of a stopped run, of other splits and tables, and against other runs; a run in the run stays."""
    main(grey_flags(greys, "--epochs", "1", "--name", "a"))
    for folder in ("a/greys-val", "a/b"):
        os.makedirs(f"runs/{folder}")
        open(f"runs/{folder}/metrics.json", "w").close()
    for name in ("against-b.json", "b/args.json"):
        open(f"runs/a/{name}", "w").close()
    monkeypatch.setattr(train, "is_better", lambda *values: False)
    main(["--resume", "runs/a", "--epochs", "2"])
    assert os.path.exists("runs/a/greys-val")                     # the best weights are those of before
    monkeypatch.setattr(train, "is_better", lambda *values: True)
    monkeypatch.setattr(train, "finish", lambda *trained: None)
    main(["--resume", "runs/a", "--epochs", "3"])
    left = {"args.json", "b", "best", "figures", "last", "lock", "log.csv", "split.csv"}
    assert set(os.listdir("runs/a")) - {".evaluation.lock"} == left


def test_what_is_advised_for_a_taken_name_can_be_done(tmp_path):
    """Of a folder that is no run nothing can be resumed; a space in its name is no end of a word."""
    for name, advice in ((".", "--name takes another"), ("a b", f"--resume '{tmp_path}/a b' continues it, --overwrite starts it anew, --name takes another")):
        os.makedirs(tmp_path / "a b", exist_ok=True), open(tmp_path / "a b/args.json", "w").close()
        with pytest.raises(ValueError) as error:
            make_folder(SimpleNamespace(runs=str(tmp_path), name=name, overwrite=False))
        assert str(error.value) == f"{tmp_path}/{name} exists; {advice}"


@pytest.mark.slow
def test_an_existing_run_is_kept(greys, quiet, monkeypatch, capsys):
    """A taken name is refused, --overwrite starts anew, and without a name a number is added."""
    fit(grey_flags(greys, "--epochs", "1", "--name", "a"))
    assert "runs/a exists; --resume runs/a" in fails(grey_flags(greys, "--epochs", "1", "--name", "a"), monkeypatch, capsys)
    fit(grey_flags(greys, "--epochs", "1", "--name", "a", "--overwrite"))
    fit(grey_flags(greys, "--epochs", "1"))
    fit(grey_flags(greys, "--epochs", "1"))
    assert sorted(os.listdir("runs")) == ["a", "vit", "vit-2"]
    os.makedirs("runs/mine"), open("runs/mine/thesis.txt", "w").close()
    assert "does not delete" in fails(grey_flags(greys, "--name", "mine", "--overwrite"), monkeypatch, capsys)
    assert os.path.exists("runs/mine/thesis.txt")


def test_a_run_that_lies_in_another_is_not_overwritten_with_it(greys, quiet, monkeypatch, capsys):
    """--name a/b is a run in runs/a, and --name a --overwrite begins with an empty folder."""
    for name in ("a", "a/b"):
        fit(grey_flags(greys, "--epochs", "1", "--name", name))
    error = fails(grey_flags(greys, "--epochs", "1", "--name", "a", "--overwrite"), monkeypatch, capsys)
    assert "runs/a: --overwrite would delete runs/a/b too, a run that lies in it" in error
    assert os.path.exists("runs/a/b/best/config.json") and os.path.exists("runs/a/best/config.json")
    fit(grey_flags(greys, "--epochs", "1", "--name", "a/b", "--overwrite"))


@pytest.mark.parametrize("number, goes_on", ((errno.ENOSYS, True), (errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EAGAIN, False), (errno.EIO, False)))
def test_a_disk_without_locks_is_used_all_the_same(number, goes_on, tmp_path, monkeypatch):
    """Lustre without -o flock: every training ended with "Function not implemented"."""
    def answer(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", answer)
    if goes_on:
        lock.lock(tmp_path / "lock").close()
    else:
        with pytest.raises(OSError):
            lock.lock(tmp_path / "lock")
