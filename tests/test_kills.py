"""SIGKILL at random moments of everything that writes: what is done again ends with the same bytes, and nothing is left behind.

KILLS=200 python -m pytest -m slow tests/test_kills.py      so many over all settings; half at a random time, half at a random write"""
import builtins
import csv
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import safetensors.torch
import torch

import eval as evaluate
import train
from evaluation.card import write_card
from evaluation.report import write_report
from plumbing import run_folder, simulate
from tests.grey_runs import command, flags, fork, wait
from tests.plumbing import simulated_files

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]  # test_train kills at every write, in seconds
KILLS = int(os.environ.get("KILLS", 36))
WRITES = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "makedirs"), (os, "rmdir"), (os, "unlink"), (os, "remove"),
          (run_folder, "save_file"), (torch, "save"), (builtins, "open"))
LEFT_BEHIND = re.compile(r"(\.part|\.new|\.old|complete|rehearsal|\.partial)$")


def content(folder):
    """{path: bytes} of a folder, without locks; the log without the seconds."""
    files = simulated_files.content(folder)
    for path in list(files):
        if path.endswith(("lock", "state.pt")):                    # the state holds the log, too
            del files[path]
        elif path.endswith("log.csv"):
            log = csv.DictReader(files[path].decode().splitlines())
            files[path] = [[row[key] for key in row if key not in ("seconds", "waited")] for row in log]
    return files


def dies(call, at):
    """The call in a process that is killed by the disk operation numbered `at`."""
    def counted(function):
        def count(*args, **kwargs):
            nonlocal at
            at -= 1
            if at < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return count

    for module, name in WRITES:
        setattr(module, name, counted(getattr(module, name)))
    call()


def trained(greys, *more):
    """-> start or go on with the run; its folder. All runs are called the same, since report and card say the name."""
    argv = [*flags(greys, "--name", "a"), *more]

    def call():
        if os.path.isfile("runs/a/args.json"):
            go_on = ["--resume", "runs/a", "--device", "cpu"]
        else:
            go_on = [*argv, *["--overwrite"] * os.path.exists("runs/a")]
        command(go_on)()
    return call, "runs"


def exported(flag):
    def call():
        shutil.rmtree("out", ignore_errors=True)                   # only a whole one has the name
        evaluate.main(["done", flag, "out"])
    return call, "out"


def predicted(greys):
    def call():
        if os.path.exists("new/p.csv"):
            os.remove("new/p.csv")
        os.makedirs("new", exist_ok=True)
        evaluate.main(["done", "--predict", greys, "--out", "new/p.csv", "--device", "cpu"])
    return call, "new"


def settings(greys):
    """{name: (what to call until it ends, the folder that it writes)}; two of one setting run at once where its name says so."""
    def report():
        write_card("done"), write_report("done")

    evaluation = (lambda: evaluate.main(["done", "--device", "cpu"])), "done"
    simulation = (lambda: simulate.make("psoriasis", "cache", patients=4)), "cache"
    return {
        "training": trained(greys), "cache": trained(greys, "--cache"), "workers": trained(greys, "--workers", "2"),
        "accumulate": trained(greys, "--accumulate", "2"), "simulation": simulation, "evaluation": evaluation,
        "report": (report, "done"), "export": exported("--export"), "share": exported("--share"), "predict": predicted(greys),
        "two evaluations": evaluation, "two simulations": simulation}


NAMES = tuple(settings(""))


@pytest.mark.parametrize("name", NAMES)
def test_sigkill_at_random_moments_loses_nothing(greys, grey_run, name):
    """Called again until it comes to its end, everything has the bytes of an undisturbed call; of two processes the other goes on."""
    call, folder = settings(greys)[name]
    fresh = lambda: (shutil.rmtree(folder, ignore_errors=True), folder == "done" and shutil.copytree(grey_run, "done"))
    if folder in ("out", "new"):
        shutil.copytree(grey_run, "done")
    fresh()
    seconds = 9
    for _ in range(2):                                             # twice: the caches are warm
        fresh(), (began := time.perf_counter())
        status, text = wait(fork(call))
        assert status == 0, text
        seconds = min(seconds, time.perf_counter() - began)
    whole, rng, killed, ends = content(folder), np.random.default_rng(len(name)), 0, 0
    fresh()
    while killed < -(-KILLS // len(NAMES)):
        beside = fork(call) if name.startswith("two ") and folder != "runs" else None
        if rng.integers(2):
            at = int(1.1 ** rng.integers(60))                      # some have few writes, a training 200
            status, text = wait(fork(lambda: dies(call, at)))
        else:
            child = fork(call)
            time.sleep(rng.uniform(0, seconds))
            os.kill(child[0], signal.SIGKILL)
            status, text = wait(child)
        assert status in (0, -signal.SIGKILL) or "a process that reads images died" in text, text
        killed += status != 0
        if beside:
            other, text = wait(beside)
            assert other == 0, text
        if status == 0:
            assert content(folder) == whole
            ends += 1
            fresh()
    status, text = wait(fork(call))                                # the next start
    assert status == 0 and content(folder) == whole, text
    left = [path for top in (".", folder) for parent, folders, files in os.walk(top) for path in (*folders, *files)
            if LEFT_BEHIND.search(path)]
    assert not left and not os.path.exists("done/rehearsal"), left
    print(f"{name}: {killed} kills, {ends} ends")


def test_of_two_runs_that_share_a_cache_one_is_killed(greys):
    """The other ends with the bits of an undisturbed run, and so does the next."""
    train.main(flags(greys, "--cache", "--cache-dir", "own", "--name", "whole"))
    for turn, seconds in enumerate((0.1, 0.2, 0.4)):
        shutil.rmtree("data_cache", ignore_errors=True)
        a, b = (fork(command(flags(greys, "--cache", "--name", f"{name}{turn}"))) for name in "ab")
        time.sleep(seconds)
        os.kill(a[0], signal.SIGKILL)
        wait(a)
        assert wait(b)[0] == 0
        train.main(flags(greys, "--cache", "--name", f"c{turn}"))
        weights = [safetensors.torch.load_file(f"runs/{run}/best/model.safetensors") for run in ("whole", f"b{turn}", f"c{turn}")]
        assert all(torch.equal(value, other[key]) for other in weights[1:] for key, value in weights[0].items())
