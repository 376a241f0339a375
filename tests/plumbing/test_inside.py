"""plumbing/inside.py: a stranger's run folder reads what it names, and writes nowhere else."""
import json
import os

import pytest

import eval
import train
from plumbing.inside import say_outside
from tests.grey_runs import copied, flags

pytestmark = pytest.mark.usefixtures("quiet")


def test_a_table_that_has_moved_is_named_with_the_file_that_says_where_it_was(tmp_path, capsys):
    """Simulated cohorts and MedMNIST are no files."""
    for path in ("psoriasis", "medmnist:pneumoniamnist:64"):
        say_outside(path, "runs/a")
    assert capsys.readouterr().out == ""
    for path in ("/gone/films", "gone/my.csv"):
        say_outside(path, "runs/a")
        assert capsys.readouterr().out == f"reads {path}, as runs/a/args.json says\n"


@pytest.mark.slow
def test_a_cache_that_only_args_json_names_is_not_written(greys, grey_run, capsys):
    copied(grey_run)
    args = json.load(open("runs/a/args.json"))
    json.dump({**args, "cache_dir": "home/.config", "cache": True}, open("runs/a/args.json", "w"))
    eval.main(["runs/a", "--device", "cpu"])
    assert not os.path.exists("home") and os.listdir("data_cache/decoded")
    assert "runs/a/args.json names home/.config as its cache" in capsys.readouterr().out


@pytest.mark.slow
def test_a_cache_that_the_command_line_named_is_used_again(greys, capsys):
    train.main(flags(greys, "--epochs", "1", "--cache", "--cache-dir", "mine", "--name", "b"))
    eval.main(["runs/b", "--device", "cpu"])
    said = capsys.readouterr().out
    assert os.path.isfile("mine/CACHEDIR.TAG") and not os.path.exists("data_cache") and "names mine" not in said
    assert f"reads {greys}, as runs/b/args.json says" in said     # it lies in another folder


@pytest.mark.slow
def test_a_run_that_cannot_be_written_is_evaluated_elsewhere(grey_run, monkeypatch, capsys):
    copied(grey_run)
    before = {name: os.stat(f"runs/a/{name}").st_mtime_ns for name in os.listdir("runs/a")}
    monkeypatch.setattr(os, "access", lambda path, mode: path != "runs/a")
    eval.main(["runs/a", "--device", "cpu"])
    assert "runs/a cannot be written: the results go to a-photos-test" in capsys.readouterr().out
    assert json.load(open("a-photos-test/metrics.json")) == json.load(open("runs/a/metrics.json"))
    assert before == {name: os.stat(f"runs/a/{name}").st_mtime_ns for name in os.listdir("runs/a")}
