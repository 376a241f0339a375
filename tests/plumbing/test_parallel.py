"""plumbing/parallel.py: two processes are one training. Everything else about training is in test_train.py."""
import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data import Batches
from plumbing import parallel
from tests.hub import ROOT

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py
MULTI = ("--model", "multivit", "--mode", "multi", "--n", "2", "--r", "2", "--patch", "8", "--target", "redness:regression,grade:classes")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """27 patients with 1 to 3 photographs; batches of 6 leave a last one that two processes cannot share evenly, and some targets are unknown."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    lines = ["patient_id,image,redness,grade,dot,bar,sex"]
    for patient in range(27):
        red = rng.uniform(0, 255)
        for photo in range(1 + patient % 3):
            pixels = rng.integers(0, 60, (20, 24, 3)).astype(np.uint8)
            pixels[..., 0] = np.clip(red + rng.normal(0, 5, pixels.shape[:2]), 0, 255)
            Image.fromarray(pixels).save(folder / f"{patient}_{photo}.png")
            known = f"{red:.2f}" if patient % 4 else ""
            lines.append(f"p{patient},{patient}_{photo}.png,{known},{int(red // 86)},{int(red > 99)},{patient % 2},{'FM'[patient % 2]}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "photos.csv")


def start(processes, *flags):
    """train.py under torchrun, or alone -> the process."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--"] if processes > 1 else []
    return subprocess.Popen([sys.executable, *launch, os.path.join(ROOT, "train.py"), *flags], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)


def train(processes, *flags):
    """-> what it printed; it must succeed."""
    process = start(processes, *flags)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def flags(table, *more):
    return ["--data", table, "--image", "16", "--epochs", "3", "--batch-size", "6", "--device", "cpu", "--workers", "0", *more]


def log(run):
    with open(f"runs/{run}/log.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items() if name not in ("seconds", "waited")} for row in csv.DictReader(file)]


def compare(table, *more):
    """Two processes, against one with the same batches: log, metrics and predictions."""
    said = train(2, *flags(table, *more, "--name", "two"))
    assert "2 processes, 6 samples per step in all" in said and said.count("predicts ") == 1                 # one process speaks
    train(1, *flags(table, *more, "--name", "one"))
    assert len(log("one")) == len(log("two")) == 3
    for one, two in zip(log("one"), log("two")):
        assert two.pop("grad_norm") == pytest.approx(one.pop("grad_norm"), rel=1e-4)       # the largest of many, and not yet clipped
        assert two == pytest.approx(one, rel=1e-5)
    one, two = (json.load(open(f"runs/{run}/metrics.json")) for run in ("one", "two"))
    assert one["patients"] == two["patients"] and one["images"] == two["images"]

    def numbers(tree):
        return [x for value in tree.values() for x in numbers(value)] if isinstance(tree, dict) else [tree] if isinstance(tree, float) else []
    assert numbers(two) == pytest.approx(numbers(one), rel=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_losses_and_metrics_of_one(table):
    """MultiViT with patients of one to three photographs, unknown targets and a last batch of one patient."""
    compare(table, *MULTI, "--dropout", "0")


@pytest.mark.slow
@pytest.mark.parametrize("model", (("vit", "--patch", "8", "--attention", "seqnorm", "--lr", "1e-5"), ("lt_vit", "--patch", "8", "--label-layers", "2"),
                                   ("crossvit", "--image", "24", "--fusion", "class", "--amp", "off"),
                                   ("vit", "--patch", "8", "--tabular", "sex", "--accumulate", "3"),
                                   ("multivit", "--patch", "8", "--mode", "joint", "--n", "2", "--grad-checkpointing"),
                                   ("multivit", "--patch", "8", "--mode", "multi", "--n", "3", "--r", "2", "--chunk", "2", "--cache")), ids=lambda m: m[0])
def test_every_model_trains_in_two_processes_as_in_one(table, model):
    """At a rate so low that rounding, another order of the same sums, does not grow; the gradients of sequence norm are the largest."""
    compare(table, "--dropout", "0", "--lr", "1e-4", "--model", *model, "--target", "dot,bar" if model[0] != "multivit" else "redness")


@pytest.mark.slow
@pytest.mark.parametrize("model", (("daft", "--tabular", "sex", "--batch-size", "8"), ("q2l", "--patch", "8")), ids=lambda m: m[0])
def test_what_differs_from_one_process_trains_all_the_same(table, model):
    """Batch norm, whose statistics on CPUs are those of each process (all predict with those of process 0), and dropout in Q2L's decoder."""
    train(2, *flags(table, "--model", *model, "--target", "dot,bar", "--name", "two"))
    assert len(log("two")) == 3 and all(x.isfinite().all() for x in load_file("runs/two/best/model.safetensors").values())


@pytest.mark.slow
def test_two_processes_that_are_stopped_go_on_to_the_same_bits(table):
    """torchrun passes a Ctrl-C on to both processes; dropout goes on where it was in each."""
    many = flags(table, *MULTI, "--dropout", "0.1", "--epochs", "30")
    train(2, *many, "--name", "whole")
    process = start(2, *many, "--name", "cut")
    while not os.path.isfile("runs/cut/last/state.pt"):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    assert "stopped; go on with: python train.py --resume runs/cut" in said
    assert torch.load("runs/cut/last/state.pt", weights_only=True)["epoch"] < 30 and not os.path.exists("runs/cut/metrics.json")
    assert "resumed after epoch" in train(2, "--resume", "runs/cut")
    assert log("whole") == log("cut")
    for part in ("best", "last"):
        one, two = (load_file(f"runs/{run}/{part}/model.safetensors") for run in ("whole", "cut"))
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_mistake_in_one_process_is_one_line_of_each(table, tmp_path):
    """A run that exists: process 0 says so, the other that another one ended; neither shows a traceback of ours."""
    train(1, *flags(table, *MULTI, "--epochs", "1", "--name", "a"))
    process = start(2, *flags(table, *MULTI, "--epochs", "1", "--name", "a"))
    said, _ = process.communicate()
    assert process.returncode and "train.py (process 0): runs/a exists" in said and "[rank1]: Traceback" not in said


@pytest.mark.slow
def test_who_only_helps_ends_without_shutting_python_down(tmp_path):
    """There gloo's threads, which may still hold the last message, abort the process (6 of 200): only process 0 may go on."""
    (tmp_path / "two.py").write_text("""if True:
        import atexit, sys, torch
        from plumbing import parallel
        with parallel.together(torch.device("cpu")):
            print(f"of {parallel.collect(parallel.rank())}\\n", end="")
        atexit.register(print, "shuts down")
        print("goes on")
        sys.exit(3)
        """)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "two.py")]
    done = subprocess.run([sys.executable, *launch], env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True)
    assert done.returncode and "exitcode  : 3" in done.stderr and "local_rank: 0" in done.stderr, done.stderr
    assert done.stdout.count("of [0, 1]") == 2 and done.stdout.count("goes on") == done.stdout.count("shuts down") == 1


@pytest.mark.parametrize("world", (1, 2, 3, 8))
@pytest.mark.parametrize("fill", (False, True))
def test_processes_share_every_batch_and_miss_nobody(world, fill):
    """Together they have each sample of a batch once, in the same batches; who would have none, or with `fill` fewer, has ~number of one more."""
    whole = list(Batches(23, 6, 4, True))
    shares = [list(Batches(23, 6, 4, True, rank=rank, world=world, fill=fill)) for rank in range(world)]
    assert all(len(share) == len(whole) for share in shares)
    for i, batch in enumerate(whole):
        parts = [share[i] for share in shares]
        assert sorted(key for part in parts for key in part if key[1] >= 0) == sorted(batch)
        assert all(len(part) == -(-6 // world) if fill else len(part) >= 1 for part in parts)
        assert all(~number in [n for _, n in batch] for part in parts for _, number in part if number < 0)


def test_one_process_needs_no_other():
    """Outside torchrun every word is for one: nothing is sent, nothing is waited for."""
    x, model = torch.ones(2), torch.nn.Linear(2, 1)
    assert parallel.world() == 1 and parallel.rank() == 0 and parallel.add(x) is x and x.tolist() == [1, 1]
    assert parallel.collect("a") == ["a"] and parallel.shared(model, torch.device("cpu")) is model
    with parallel.together(torch.device("cpu")) as device, parallel.first_here():
        assert device == torch.device("cpu") and not torch.distributed.is_initialized()


def test_each_process_draws_dropout_of_its_own(monkeypatch):
    """And process 0 what it would draw alone, so that one process is as it was."""
    drawn = []
    for rank in (0, 1, 2):
        torch.manual_seed(7)
        monkeypatch.setattr(parallel, "rank", lambda: rank)
        parallel.own_numbers(7)
        drawn.append(torch.rand(4).tolist())
    torch.manual_seed(7)
    assert drawn[0] == torch.rand(4).tolist() and drawn[0] != drawn[1] != drawn[2] != drawn[0]
