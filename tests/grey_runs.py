"""Runs of less than a second on grey pictures, in processes of their own that may be killed or kept short of disk space."""
import csv
import os
import resource
import shutil
import sys
import traceback

import pytest

import train
from plumbing.command import run_main
from vit import ViTConfig

TINY = ViTConfig(image=(16, 16), patch=(8, 8), dim=8, depth=1, heads=2, mlp=8)


def flags(greys, *more):
    """A run of less than a second."""
    return ["--data", greys, "--target", "grey:regression", "--model", "vit", "--image", "16", "--patch", "8", "--epochs", "3",
            "--batch-size", "5", "--workers", "0", "--device", "cpu", *more]


def copied(run):
    """-> runs/a, a copy of the run."""
    return shutil.copytree(run, "runs/a")


def ends_of(run):
    """All that a run should end with: bytes of both models, log without the seconds, predictions, metrics."""
    log = [[row[key] for key in row if key not in ("seconds", "waited")] for row in csv.DictReader(open(f"{run}/log.csv"))]
    return [open(f"{run}/{name}", "rb").read() for name in ("best/model.safetensors", "last/model.safetensors", "predictions.csv",
                                                            "metrics.json")] + [log]


# -----------------------------------------------------------------------------
# processes


def fork(function):
    """Call the function in a process of its own; -> its id and a file with what it says. Status 0, or what it exits with, or 99."""
    inside, outside = os.pipe()
    if not (child := os.fork()):
        try:
            os.close(inside)
            os.dup2(outside, 1), os.dup2(outside, 2)
            sys.stdout = sys.stderr = open(outside, "w", buffering=1)
            function()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
            status = 99
        sys.stdout.flush()
        os._exit(status)                                           # and nothing of pytest's
    os.close(outside)
    return child, open(inside, encoding="utf-8", errors="replace")


def wait(child):
    """-> exit status (minus the number of the signal that ended it), and what it said."""
    with child[1] as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]), text


def command(argv):
    """train.py as a shell would call it, for `fork`."""
    def call():
        sys.argv = ["train.py", *argv]
        run_main(train.main)
    return call


def limited(size, call):
    """The call in a process whose files may not grow beyond `size` bytes: every real writer fails as on a full disk."""
    def inside():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        call()
    return wait(fork(inside))


# -----------------------------------------------------------------------------
# refusals


def fails(argv):
    """-> the line train.py ends with; asserts status 2 and no traceback."""
    status, said = wait(fork(command(argv)))
    assert status == 2 and "Traceback" not in said, said
    return said.strip().splitlines()[-1]


def refused(function, *args):
    """-> the message of the ValueError, which is one line."""
    with pytest.raises(ValueError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)
