"""Full disks, two runs at once, a clock that is wrong, gradients that are not finite: nothing lost, nothing silently wrong.

Kills: test_kills.py. Damaged and hostile files: plumbing/test_readers.py, plumbing/test_hostile_tables.py; an unreliable Hub: plumbing/test_hub.py. What other
test files show already is named in docs/reliability.md, not repeated here. The long ones: python -m pytest -m slow"""
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import eval as evaluate
import train
from data import Samples
from evaluation.report import write_report
from plumbing import lock as locks, medmnist, run_folder, simulate
from plumbing.cache import mapped
from plumbing.cohort import Task
from plumbing.command import run_main
from plumbing.features import cached_features
from plumbing.flags import parse
from plumbing.load_cohort import load_cohort
from plumbing.lock import lock
from plumbing.prepare import prepare
from plumbing.saved_run import open_model
from tests.grey_runs import TINY, command, copied, ends_of, fails, flags, fork, limited, refused, wait
from tests.hub import ROOT
from tests.small_runs import fit, slow_but
from vit import ViT

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


# -----------------------------------------------------------------------------
# kills


@pytest.mark.slow
def test_a_killed_reading_process_ends_the_run_in_one_line(greys, grey_run, monkeypatch):
    """As the kernel does when memory is short. The run goes on without such processes."""
    real = Samples.picture

    def dies(self, i, rng):
        if torch.utils.data.get_worker_info() and self.augment and i == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, i, rng)

    monkeypatch.setattr(Samples, "picture", dies)
    argv = [*flags(greys, "--name", "a"), "--workers", "1"]
    assert re.match(r"train.py: a process that reads images died; with --resume RUN --workers 0 the run goes on", fails(argv))
    train.main(["--resume", "runs/a", "--device", "cpu", "--workers", "0"])
    assert ends_of("runs/a") == ends_of(grey_run)


def test_out_of_memory_says_which_flags_need_less(greys, monkeypatch):
    """Also in one line."""
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice")
    monkeypatch.setattr(train, "model_loss", full)
    assert fails(flags(greys)).startswith("train.py: out of memory; --accumulate, --grad-checkpointing, or a smaller --batch-size or --image need less (CUDA out of memory.")


# -----------------------------------------------------------------------------
# the disk


@pytest.mark.parametrize("share", slow_but((0.01, 0.6, 1.5, 9), 0.6))
def test_a_full_disk_keeps_what_was_there_and_the_run_goes_on(greys, grey_run, share):
    """Without room for args.json, the weights (Rust writes them), or the optimizer's state (C++ does): one line, and with room again
    the run ends with the same bits. The last has room for all."""
    size = int(share * os.path.getsize(f"{grey_run}/last/model.safetensors"))
    status, said = limited(size, command(flags(greys, "--name", "a")))
    if status:
        assert status == 2 and "Traceback" not in said and ("could not be written" in said or "File too large" in said), said
    if os.path.isfile("runs/a/args.json"):
        assert not os.path.exists("runs/a/last.new") and not os.path.exists("runs/a/best.new")
        train.main(["--resume", "runs/a", "--device", "cpu"])
    else:
        train.main(flags(greys, "--name", "a", "--overwrite"))
    assert ends_of("runs/a") == ends_of(grey_run)


def half_written(top):
    """What is only part of a file, under its own name or another's."""
    half = []
    for parent, folders, files in os.walk(top):
        half += [name for name in folders + files if name.endswith((".part", ".new", ".old", "rehearsal"))]
        for path in (os.path.join(parent, name) for name in files):
            content = open(path, "rb").read()
            if path.endswith(".png"):
                Image.open(path).load()
            elif path.endswith(".json"):
                json.loads(content)
            elif path.endswith(".html"):
                assert content.rstrip().endswith(b"</html>")
    return half


@pytest.mark.slow
@pytest.mark.parametrize("name", ("evaluation", "report", "export", "share"))
def test_a_full_disk_at_any_size_leaves_nothing_half(greys, grey_run, name):
    """DISKS=40: from 4 kB to past the largest file. One line with the file's name; with room again the same bytes."""
    flag = {"evaluation": ["--device", "cpu"], "report": None, "export": ["--export", "out"], "share": ["--share", "out"]}[name]
    sizes = np.geomspace(4096, 1.1 * os.path.getsize(f"{grey_run}/best/model.safetensors"), int(os.environ.get("DISKS", 8)))
    call = lambda: run_main(lambda: evaluate.main(["done", *flag]) if flag else write_report("done"))
    refusals = 0
    for size in map(int, sizes):
        for folder in ("done", "out"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(grey_run, "done"), shutil.rmtree("done/figures"), os.remove("done/report.html")
        status, text = limited(size, call)
        line = text.strip().splitlines()[-1] if text else ""
        assert status in (0, 2) and "Traceback" not in text and not half_written("."), text
        assert status == 0 or re.search(r"done/[\w/]+\.\w+|out could not be written \(.*out.new|Error writing", line), line
        refusals += status == 2
        if status == 2:
            assert wait(fork(call))[0] == 0
        assert ends_of("done") == ends_of(grey_run)
    assert 0 < refusals < len(sizes)


@pytest.mark.slow
def test_twelve_evaluations_four_at_a_time_write_the_same_bytes(grey_run):
    copied(grey_run)
    shutil.rmtree("runs/a/figures")
    expected = ends_of("runs/a")
    for _ in range(3):
        children = [fork(lambda: run_main(lambda: evaluate.main(["runs/a", "--device", "cpu"]))) for _ in range(4)]
        ends = [wait(child) for child in children]
        assert [status for status, _ in ends] == [0] * 4, ends
        assert ends_of("runs/a") == expected and not half_written("runs/a")


@pytest.mark.slow
def test_no_space_left_in_the_middle_of_training(greys, grey_run, monkeypatch):
    """ENOSPC at the third checkpoint: the second is what the run goes on from. The rehearsal saves before the first."""
    real, calls = run_folder.save_file, iter(range(100))

    def full(*args):
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(run_folder, "save_file", full)
    line = fails(flags(greys, "--name", "a"))
    assert "No space left on device" in line and "what was there before is whole" in line
    assert torch.load("runs/a/last/state.pt", weights_only=True)["epoch"] in (1, 2)
    train.main(["--resume", "runs/a", "--device", "cpu"])
    assert ends_of("runs/a") == ends_of(grey_run)


class Frozen(torch.nn.Module):
    """What cached_features needs of a model."""
    def __init__(self):
        super().__init__()
        self.vit = ViT(TINY)
        self.config = type("Config", (), {"vit": TINY})

    @torch.inference_mode()
    def tokens(self, image):
        return self.vit.embed(image)


def test_a_full_disk_leaves_no_half_cache(greys, tmp_path):
    """Features, simulated cohorts and downloads: one line, and neither the file nor a part of it."""
    cohort, source = load_cohort(greys, target="grey"), tmp_path / "source"
    source.write_bytes(bytes(5000))
    for name, call in (("features", lambda: cached_features(cohort, Frozen(), "features", (16, 16), 3, torch.device("cpu"))),
                       ("cohort", lambda: simulate.make("psoriasis", "cohort", patients=3)),
                       ("download", lambda: medmnist.download(f"file://{source}", "download/file", hashlib.md5(bytes(5000)).hexdigest()))):
        status, said = limited(1000, lambda: run_main(call))
        assert status == 2 and "Traceback" not in said and "File too large" in said.splitlines()[-1], (name, said)
        assert not [file for _, _, files in os.walk(name) for file in files if file != ".lock"], name
        call()
        assert [file for _, _, files in os.walk(name) for file in files], name


def test_two_processes_fill_one_cache_at_once(greys):
    """Started in the same moment, in opposite orders: both see the right pictures, and so does whoever comes later."""
    cohort = load_cohort(greys, target="grey")
    expected = [Samples(cohort, range(20), (64, 64))[0, i]["image"] for i in range(20)]

    def look(order):
        samples = Samples(cohort, range(20), (64, 64), folder="cache")
        assert all(np.array_equal(samples[0, i]["image"], expected[i]) for _ in range(3) for i in order)
    children = [fork(lambda order=order: look(order)) for order in (range(20), range(19, -1, -1))]
    assert [wait(child)[0] for child in children] == [0, 0]
    look(range(20))
    assert len(os.listdir("cache/decoded")) == 1


def test_a_disk_that_fills_up_while_images_are_cached_is_one_line(greys, monkeypatch):
    """Before the file of decoded images exists, and while it grows; with room again it goes on, and no half row is ever read."""
    cohort = load_cohort(greys, target="grey")
    make = lambda: Samples(cohort, range(4), (16, 16), folder="cache")
    expected = [Samples(cohort, range(4), (16, 16))[0, i]["image"] for i in range(4)]
    status, said = limited(100, lambda: run_main(make))
    assert status == 2 and len(said.splitlines()) == 1 and "cannot be made" in said and "--cache-dir" in said
    samples = make()
    status, said = limited(1000, lambda: run_main(lambda: [samples[0, i] for i in range(4)]))         # a row has 769 bytes
    assert status == 2 and len(said.splitlines()) == 1 and "cannot grow" in said and "leave out --cache" in said
    mapped.cache_clear()
    assert all(np.array_equal(make()[0, i]["image"], expected[i]) for i in range(4))


@pytest.mark.parametrize("content", (b"", b"\x93NUMPY", "cut", "other"))
def test_a_broken_file_of_features_is_named(greys, content):
    """Empty, cut, or of another shape: never read as features."""
    cohort, args = load_cohort(greys, target="grey"), (Frozen(), "cache", (16, 16), 3, torch.device("cpu"))
    torch.manual_seed(0)
    cached_features(cohort, *args)
    path = os.path.join("cache/features", os.listdir("cache/features")[0])
    whole = open(path, "rb").read()
    if content == "other":
        np.save(path, np.zeros((20, 2, 8), np.float32))
    else:
        open(path, "wb").write(whole[:-10] if content == "cut" else content)
    assert re.match(rf"{path}: not a file of features; delete it.* \(", refused(cached_features, cohort, *args))


def test_a_read_only_run_folder_is_one_line(greys, grey_run, monkeypatch):
    """A mounted archive can be evaluated from, but not trained in."""
    copied(grey_run)
    before = ends_of("runs/a")

    def read_only(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "Read-only file system", path)
        return open(path, mode, *args, **kwargs)

    for module in (run_folder, locks):
        monkeypatch.setattr(module, "open", read_only, raising=False)
    assert fails(["--resume", "runs/a"]) == "train.py: [Errno 30] Read-only file system: 'runs/a/lock'"
    open_model("runs/a")
    assert ends_of("runs/a") == before


# -----------------------------------------------------------------------------
# two at once


@pytest.fixture
def busy(grey_run):
    """runs/a, which another process is training."""
    copied(grey_run)

    def hold():
        held = lock("runs/a/lock")
        print("held")
        time.sleep(60)
        held.close()

    child = fork(hold)
    child[1].readline()
    yield child
    os.kill(child[0], signal.SIGKILL)
    wait(child)


def test_a_run_in_training_is_left_alone(greys, busy):
    """Neither resumed nor overwritten nor tidied up; once that process is gone, even by SIGKILL, nothing is left locked."""
    shutil.copytree("runs/a/best", "runs/a/best.new")
    os.rename("runs/a/best", "runs/a/best.old")                    # as between the two renames of write_folder
    before = sorted(os.listdir("runs/a"))
    for argv in (["--resume", "runs/a"], flags(greys, "--name", "a", "--overwrite")):
        assert fails(argv) == "train.py: runs/a: another process is training this run; wait for it, or take another --name"
    assert "another process is training" in refused(open_model, "runs/a")
    assert sorted(os.listdir("runs/a")) == before
    os.kill(busy[0], signal.SIGKILL)
    busy[1].read()
    train.main(["--resume", "runs/a", "--device", "cpu"])


def test_evaluating_a_run_in_training_takes_nothing_from_it(busy):
    """best.new is what the other process is writing."""
    os.makedirs("runs/a/best.new")
    open_model("runs/a")
    assert os.path.isdir("runs/a/best.new")


@pytest.mark.slow
def test_of_two_runs_with_one_name_one_trains(greys):
    """Started in the same moment: one ends well, the other in one line; without a name they get one each."""
    ends = [wait(child) for child in [fork(command(flags(greys, "--name", "a"))) for _ in range(2)]]
    assert sorted(status for status, _ in ends) == [0, 2]
    line = next(said for status, said in ends if status).strip().splitlines()[-1]
    assert line.startswith("train.py: runs/a") and ("exists" in line or "another process is training" in line)
    ends = [wait(child) for child in [fork(command(flags(greys))) for _ in range(2)]]
    assert [status for status, _ in ends] == [0, 0] and sorted(os.listdir("runs")) == ["a", "vit", "vit-2"]
    assert all(ends_of(f"runs/{name}") == ends_of("runs/a") for name in ("vit", "vit-2"))


# -----------------------------------------------------------------------------
# the same bits, and numbers


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(greys, grey_run, monkeypatch):
    """Time only fills two columns of the log."""
    clock = iter(range(10 ** 9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    train.main(flags(greys, "--name", "a"))
    assert ends_of("runs/a") == ends_of(grey_run)


@pytest.mark.slow
def test_workers_and_the_deterministic_flag_change_no_bit_on_a_cpu(greys, grey_run):
    """0, 1 and 4 reading processes, and --deterministic, which says so to torch and stays with a resumed run."""
    for name, more in (("1", ("--workers", "1")), ("4", ("--workers", "4")), ("d", ("--deterministic",))):
        train.main([*flags(greys, "--name", name), *more])
        assert torch.are_deterministic_algorithms_enabled() == torch.backends.cudnn.deterministic == (name == "d")
    torch.use_deterministic_algorithms(False)
    train.main(["--resume", "runs/d", "--device", "cpu"])
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    assert ends_of(grey_run) == ends_of("runs/1") == ends_of("runs/4") == ends_of("runs/d")


def test_what_cannot_be_deterministic_is_named(greys, monkeypatch):
    """PyTorch's word on it becomes the line; the loss of MultiViT's first stage (B, N, C), which CUDA could not, is brought to (B N, C)."""
    torch.manual_seed(0)
    tasks, y, target = [Task("a", "classes", ("x", "y", "z"))], {"a": torch.randn(4, 3, 3)}, {"a": torch.tensor([[0, 1, float("nan")]] * 4)}
    plain = train.task_loss(tasks, y, target, torch.tensor([8]))
    torch.use_deterministic_algorithms(True)
    same = train.task_loss(tasks, y, target, torch.tensor([8]))
    torch.use_deterministic_algorithms(False)
    assert abs(plain - same) < 1e-6

    def cannot(*args):
        raise RuntimeError("upsample_bilinear2d_backward_out_cuda does not have a deterministic implementation, but you set ...")
    monkeypatch.setattr(train, "model_loss", cannot)
    assert fails(flags(greys)).startswith("train.py: --deterministic: upsample_bilinear2d_backward_out_cuda does not have")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("model", ("vit", "multivit", "lt_vit", "q2l", "crossvit"))
def test_deterministic_runs_are_equal_on_cuda(greys, model):
    """Two runs, in processes of their own since the flag is read when CUDA starts."""
    for name in "ab":
        argv = [x for x in flags(greys, "--name", name, "--deterministic") if x not in ("--patch", "8") or model != "crossvit"]
        argv[argv.index("--model") + 1], argv[argv.index("--device") + 1] = model, "cuda"
        argv[argv.index("--image") + 1] = "24" if model == "crossvit" else "16"
        subprocess.run([sys.executable, os.path.join(ROOT, "train.py"), *argv], check=True)
    assert ends_of("runs/a") == ends_of("runs/b")


def test_the_log_has_the_largest_gradient_of_every_epoch(greys, monkeypatch):
    """Its norm before it is cut by --clip."""
    real, norms = torch.nn.utils.clip_grad_norm_, []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: norms.append(real(*args)) or norms[-1])
    fit(flags(greys, "--name", "a"))
    logged = [float(row["grad_norm"]) for row in csv.DictReader(open("runs/a/log.csv"))]
    steps = len(norms) // 3
    assert logged == [max(norms[i * steps:(i + 1) * steps]).item() for i in range(3)] and steps > 1


def test_a_gradient_that_is_not_finite_stops_though_the_loss_is(greys, monkeypatch):
    """It would make the weights NaN; nothing broken is saved, not even when SIGTERM comes in that step."""
    real, calls = train.model_loss, iter(range(100))

    def loss(tasks, out, *args):
        bad = next(calls) == 4
        if bad:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(tasks, out, *args) + ((out["logits"]["grey"].sum() * 0).sqrt() if bad else 0)

    monkeypatch.setattr(train, "model_loss", loss)
    line = fails(flags(greys, "--name", "a"))
    assert re.search(r"the loss is \d\S+ at epoch 2 step \d, lr \S+, the gradient's norm nan; the batch held .*png", line)
    for part in ("best", "last"):
        assert all(value.isfinite().all() for value in safetensors.torch.load_file(f"runs/a/{part}/model.safetensors").values())


# -----------------------------------------------------------------------------
# docs/reliability.md


def test_reliability_md_names_tests_that_exist():
    """No row without a test, no test that is not there."""
    text = (Path(ROOT) / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    faults = rows[1:next(i for i, row in enumerate(rows) if row.startswith("| place "))]
    named = [re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row) for row in faults]
    assert len(faults) > 30 and all(named)
    for file, test in {pair for pairs in named for pair in pairs}:
        assert f"def {test}(" in (Path(ROOT) / file).read_text(encoding="utf-8"), (file, test)


# -----------------------------------------------------------------------------
# at the end

def test_the_evaluation_is_rehearsed_before_the_first_step(greys, monkeypatch):
    """What its writers refuse ends the run before anything is trained; nothing of it stays, and no random number is used up."""
    ready = prepare(parse(flags(greys, "--dropout", "0.5")), torch.device("cpu"))
    numbers, weights = torch.get_rng_state(), {key: value.clone() for key, value in ready.model.state_dict().items()}
    os.makedirs("run")
    evaluate.rehearse(ready, "run")
    assert torch.equal(numbers, torch.get_rng_state()) and os.listdir("run") == []
    assert all(torch.equal(value, weights[key]) for key, value in ready.model.state_dict().items())

    def refuse(path, *_):
        raise ValueError(f"{path} cannot hold this")

    monkeypatch.setattr(evaluate, "write_predictions", refuse)
    assert fails(flags(greys, "--name", "a")) == "train.py: runs/a/rehearsal/predictions.csv cannot hold this"
    assert sorted(os.listdir("runs/a")) == ["args.json", "lock", "log.csv", "split.csv"]


def test_a_run_folder_deleted_in_training_is_said(greys, monkeypatch):
    """Nothing more is trained for nothing, and no folder is made anew."""
    save = train.write_log

    def delete(run, history):
        save(run, history)
        if len(history) == 1:
            shutil.rmtree(run)

    monkeypatch.setattr(train, "write_log", delete)
    line = fails(flags(greys, "--name", "gone"))
    assert line == "train.py: runs/gone: the run folder was deleted while the run was training; nothing was saved"
    assert not os.path.exists("runs/gone")


@pytest.mark.slow
def test_a_signal_during_the_last_evaluation_ends_it(greys, monkeypatch):
    """What is trained is saved, and --resume evaluates."""
    evaluate = train.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
        status, said = wait(fork(command(flags(greys, "--name", "a"))))
    assert status == 128 + signal.SIGTERM and "go on with: python train.py --resume runs/a" in said
    assert train.evaluate is evaluate and not os.path.exists("runs/a/metrics.json")
    train.main(["--resume", "runs/a", "--device", "cpu"])
    assert os.path.exists("runs/a/metrics.json")


def test_a_signal_after_a_run_does_not_say_that_it_was_stopped(greys):
    """As while the next of --fold all is read: a signal is for that one."""
    train.main(flags(greys, "--name", "a"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_where_no_epoch_is_best_the_last_one_is_kept(greys, monkeypatch, capsys):
    """As with one class in validation: the weights that are tested are not those of the first epoch."""
    monkeypatch.setattr(train, "main_metric", lambda *_: ("grey_mae", float("nan"), True))
    fit(flags(greys, "--name", "a"))
    assert capsys.readouterr().out.count("cannot say which epoch is best: best/ is the latest") == 3
    with open("runs/a/best/model.safetensors", "rb") as best, open("runs/a/last/model.safetensors", "rb") as last:
        assert best.read() == last.read()


@pytest.mark.parametrize("error", (MemoryError("9 GiB"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")))
def test_no_memory_is_one_line_on_a_cpu(error, monkeypatch, capsys):
    def fail():
        raise error
    with pytest.raises(SystemExit):
        run_main(fail)
    assert "out of memory; --accumulate" in capsys.readouterr().err
