"""Runs of seconds on the photographs, volumes and bags of conftest.py, and those that end in one line."""
import runpy
import sys

import pytest
import torch

import train
from plumbing.cohort import Cohort
from plumbing.command import run_main
from plumbing.flags import parse
from plumbing.prepare import settle

MULTI = ("--model", "multivit", "--mode", "multi", "--n", "2", "--r", "2")


def flags(table, *more):
    """A run of seconds: two blocks of work on 16 px."""
    return ["--data", table, "--target", "redness:regression,grade:classes", "--image", "16", "--patch", "8", "--epochs", "2",
            "--batch-size", "4", "--workers", "0", "--device", "cpu", *more]


def fit(argv):
    """The training without the evaluation of the test patients; -> the run folder."""
    return train.fit(parse(argv), torch.device("cpu"))[0]


def slow_but(names, *quick):
    """-> parameters of a test: those not named quick are marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def daft_flags(table, *more):
    argv = flags(table, "--model", "daft", *more)
    return [x for i, x in enumerate(argv) if "--patch" not in (x, argv[i - 1])]


def settled(*argv):
    """Flags of a run on pictures, settled as if there were some."""
    args = parse(list(argv))
    settle(args, Cohort("pictures", [], ["p"], ["picture.png"], {}))
    return args


def fails(argv, monkeypatch, capsys):
    """-> the one line that train.py ends with; asserts status 2 and no traceback."""
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    with pytest.raises(SystemExit) as stop:
        run_main(train.main)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in error
    return error.strip().splitlines()[-1]


def started(module, argv, monkeypatch, capsys):
    """A program as `python -m MODULE ARGV` runs it -> status, output, errors."""
    monkeypatch.setattr(sys, "argv", [f"{module}.py", *argv])
    monkeypatch.delitem(sys.modules, module, raising=False)
    try:
        runpy.run_module(module, run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()
