"""On a GPU: every model trains and predicts as on a CPU, and no step waits for the card. Skipped where there is none."""
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch

import train
from experiments.bench import build_flags
from plumbing.flags import parse
from plumbing.prepare import prepare
from plumbing.simulate import make
from tests.small_runs import flags

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

MODELS = ("--model vit", "--model multivit --n 2 --r 2", "--model crossvit --image 24", "--model lt_vit", "--model q2l", "--model cnn --image 32",
          "--model vit --attention seqnorm", "--model vit --attention sima")


@pytest.mark.parametrize("model", MODELS)
def test_loss_and_gradients_are_those_of_the_cpu(model, table, monkeypatch, tmp_path):
    """The first batch in float32, to 1e-3."""
    argv = flags(table, *model.split(), "--amp", "off", "--cache-dir", str(tmp_path))
    if "crossvit" in model or "cnn" in model:
        at = argv.index("--patch")
        argv = argv[:at] + argv[at + 2:]
    if "cnn" not in model:
        argv += ["--dropout", "0"]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    losses = {}
    for device in ("cpu", "cuda"):
        args = parse(argv)
        torch.manual_seed(0)
        ready = prepare(args, torch.device(device))
        torch.set_float32_matmul_precision("highest")              # no TF32
        optimizer = train.make_optimizer(ready.model, args, torch.device(device))
        batch = next(iter(ready.loader))
        result = train.train_step(ready.model, ready.model, ready.tasks, optimizer, batch, args, ready.options, False)
        losses[device] = result[:2].cpu()
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=1e-3, atol=1e-3)


def test_a_step_never_waits_for_the_card():
    step = build_flags("cuda", "--amp bf16", size="micro", image=32, patch=8)
    step()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    assert not [warning for warning in caught if "called a synchronizing" in str(warning.message)]


@pytest.mark.parametrize("model", ("multivit --n 2 --r 2", "gmml"))
def test_training_ends_with_finite_metrics(model, table, monkeypatch, tmp_path):
    """gmml draws what it corrupts, in training on the card and in evaluation on the CPU."""
    monkeypatch.chdir(tmp_path)
    train.main([*flags(table, "--model", *model.split(), "--epochs", "1", "--name", "a"), "--device", "cuda"])
    assert (tmp_path / "runs/a/metrics.json").exists()


def test_resume_has_the_same_bits(tmp_path):
    """A run that SIGTERM stopped in its second epoch ends as one that was left alone."""
    command = [sys.executable, "-u", "train.py", "--data", make("psoriasis", tmp_path, patients=100), "--n", "3", "--r", "2",
               "--epochs", "3", "--device", "cuda", "--deterministic", "--runs", str(tmp_path)]
    subprocess.run([*command, "--name", "whole"], check=True, stdout=subprocess.DEVNULL)
    program = subprocess.Popen([*command, "--name", "stopped"], stdout=subprocess.PIPE, text=True)
    for line in program.stdout:
        if "epoch   1/" in line:
            program.send_signal(signal.SIGTERM)
    assert program.wait() == 128 + signal.SIGTERM
    subprocess.run([sys.executable, "train.py", "--resume", str(tmp_path / "stopped"), "--device", "cuda"], check=True)
    whole, stopped = ((tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped and os.path.isfile(tmp_path / "stopped" / "metrics.json")
