"""train.py: the command, its losses, its run folder, and that nothing is lost when it is killed."""
import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import train
from tables import Task
from train import build_model, lr_at, main, make_optimizer, model_loss, parse, task_loss, write_folder, recover

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of 20 patients with 1 to 3 photographs, whose target is their redness; grade is that in three classes."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    lines = ["patient_id,image,redness,grade,dot,bar,sex"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        for photo in range(1 + patient % 3):
            pixels = rng.integers(0, 60, (20 + patient, 24, 3)).astype(np.uint8)
            pixels[..., 0] = np.clip(red + rng.normal(0, 5, pixels.shape[:2]), 0, 255)
            Image.fromarray(pixels).save(folder / f"{patient}_{photo}.png")
            lines.append(f"p{patient},{patient}_{photo}.png,{red:.2f},{int(red // 86)},{int(red > 99)},{patient % 2},{'FM'[patient % 2]}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "photos.csv")


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Each test in a folder of its own, signals as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])


def flags(table, *more):
    """A run of seconds: two blocks of work on 16 px."""
    return ["--data", table, "--target", "redness:regression,grade:classes", "--image", "16", "--patch", "8", "--epochs", "2",
            "--batch-size", "4", "--workers", "0", "--device", "cpu", *more]


MULTI = ("--model", "multivit", "--mode", "multi", "--n", "2", "--r", "2")

# -----------------------------------------------------------------------------
# the command


@pytest.mark.parametrize("more", (MULTI, ("--model", "multivit", "--mode", "partial", "--n", "3", "--r", "1"),
                                  ("--model", "multivit", "--mode", "multi", "--n", "2", "--r", "1", "--cls-token", "fused"),
                                  ("--model", "multivit", "--mode", "joint", "--n", "2"), ("--model", "multivit", "--mode", "baseline"),
                                  ("--model", "vit", "--attention", "sima"), ("--model", "vit", "--channels", "1", "--image", "16x24"),
                                  ("--model", "lt_vit", "--label-layers", "2"), ("--model", "q2l", "--epochs", "2"),
                                  ("--model", "crossvit", "--variant", "Ti", "--image", "24", "--fusion", "class")),
                         ids=lambda more: "-".join(more[1::2]))
def test_every_model_trains_and_leaves_a_whole_run_folder(table, more, capsys):
    """Two epochs end with every file the docstring of train.py promises, metrics beside the constant, and a prediction for every test patient."""
    args = flags(table, *more, "--name", "a")
    if "crossvit" in more:                                         # it has patches of its own
        args = [x for i, x in enumerate(args) if "--patch" not in (x, args[i - 1])]
    main(args)
    run = "runs/a"
    for name in ("args.json", "log.csv", "split.csv", "best/config.json", "best/model.safetensors", "last/config.json",
                 "last/model.safetensors", "last/state.pt", "metrics.json", "predictions.csv", "figures/redness_errors.png", "report.html", "best/README.md",
                 "best/preprocessor_config.json"):
        assert os.path.isfile(os.path.join(run, name)), name
    metrics = json.load(open(f"{run}/metrics.json"))
    split = {row["patient"]: row["split"] for row in csv.DictReader(open(f"{run}/split.csv"))}
    predicted = [row["patient"] for row in csv.DictReader(open(f"{run}/predictions.csv"))]
    assert sorted(predicted) == sorted(p for p, s in split.items() if s == "test") and metrics["patients"] == len(predicted) == 4
    assert math.isfinite(metrics["redness"]["mae"]["value"]) and metrics["redness"]["constant"]["mae"]["value"] > 0
    assert len(list(csv.DictReader(open(f"{run}/log.csv")))) == 2
    assert "split by patient, none in two" in capsys.readouterr().out


def test_several_columns_of_zeros_and_ones_train_as_labels(table):
    """--target dot,bar is one multi-label task with masked binary cross entropy."""
    args = flags(table, "--model", "vit", "--name", "a")
    args[3] = "dot,bar"
    main(args)
    assert set(json.load(open("runs/a/metrics.json"))["findings"]["per_label"]) == {"dot", "bar"}


def test_a_run_is_a_starting_point(table):
    """--pretrained runs/a takes the ViT of that run, keeps its head, and says so."""
    main(flags(table, "--model", "vit", "--name", "a"))
    args = parse(["--model", "vit", "--pretrained", "runs/a"])
    _, tasks, _ = train.open_model("runs/a")
    model, report = build_model(args, tasks)
    saved = load_file("runs/a/best/model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items()) and "loaded" in report and "new" not in report


def test_evaluating_a_saved_run_gives_the_numbers_it_printed(table):
    """eval.py on the run folder: metrics.json stays equal to the bit."""
    import eval as evaluation
    main(flags(table, *MULTI, "--name", "a"))
    before = json.load(open("runs/a/metrics.json"))
    evaluation.main(["runs/a", "--device", "cpu"])
    assert json.load(open("runs/a/metrics.json")) == before


def test_learns_a_batch_by_heart():
    """Sixty steps on eight patients: their classes are known to more than 95 %."""
    torch.manual_seed(0)
    args = parse(["--model", "multivit", "--image", "16", "--patch", "4", "--n", "2", "--r", "2", "--dropout", "0"])
    tasks = [Task("grade", "classes", ("0", "1", "2"))]
    model, _ = build_model(args, tasks)
    images, images_hr = (torch.randint(256, (8, 2, 3, side, side), dtype=torch.uint8) for side in (16, 32))
    present, target = torch.ones(8, 2, dtype=torch.bool), {"grade": torch.arange(8) % 3 * 1.0}
    optimizer = make_optimizer(model, args, torch.device("cpu"))
    for _ in range(60):
        out = model(images, present, images_hr)
        optimizer.zero_grad()
        model_loss(tasks, out, target, present).backward()
        optimizer.step()
    assert (out["logits"]["grade"].argmax(1) == target["grade"]).float().mean() > 0.95


def test_losses_equal_loops_over_what_is_known():
    """regression in units of the training spread, cross entropy, binary cross entropy: means over the known targets only."""
    nan = float("nan")
    tasks = [Task("a", "regression", center=2.0, scale=4.0), Task("b", "classes", ("x", "y", "z")), Task("c", "labels", ("u", "v"))]
    logits = {"a": torch.randn(3, 1), "b": torch.randn(3, 3), "c": torch.randn(3, 2)}
    targets = {"a": torch.tensor([1.0, nan, 3.0]), "b": torch.tensor([2.0, 0.0, nan]), "c": torch.tensor([[1.0, nan], [0.0, 1.0], [nan, nan]])}
    a = sum((logits["a"][i, 0] - (targets["a"][i] - 2) / 4) ** 2 for i in (0, 2)) / 2
    b = sum(-logits["b"][i].log_softmax(0)[int(targets["b"][i])] for i in (0, 1)) / 2
    c = -sum(F.logsigmoid(logits["c"][i, j] * (1 if targets["c"][i, j] else -1)) for i, j in ((0, 0), (1, 0), (1, 1))) / 3
    assert task_loss(tasks, logits, targets).item() == pytest.approx((a + b + c).item(), rel=1e-5)
    unknown = {name: torch.full_like(target, nan) for name, target in targets.items()}
    assert task_loss(tasks, logits, unknown).item() == 0


def test_learning_rate_is_the_papers():
    """300 epochs from 1e-4 linearly to 1.25e-7, without warm-up; with it, a linear rise first."""
    steps = 300 * 8
    assert lr_at(0, steps, 0, 1e-4, 1.25e-7) == 1e-4 and lr_at(steps - 1, steps, 0, 1e-4, 1.25e-7) == pytest.approx(1.25e-7)
    middle = [lr_at(s, steps, 0, 1e-4, 1.25e-7) for s in range(steps)]
    assert np.allclose(np.diff(middle), np.diff(middle)[0])
    assert [lr_at(s, 10, 4, 1.0, 0.0) for s in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 0.0]


def test_decay_is_for_matrices_only():
    """Biases, norms, tokens and positions are not pulled to zero."""
    args = parse(["--model", "vit", "--image", "16", "--patch", "8"])
    model, _ = build_model(args, [Task("a", "regression")])
    decayed, plain = make_optimizer(model, args, torch.device("cpu")).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.01 and plain["weight_decay"] == 0
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed["params"])
    assert {"cls_token", "pos_embed", "norm.weight", "head.a.bias"} <= {names[id(p)] for p in plain["params"]}


# -----------------------------------------------------------------------------
# nothing is lost


def weights_of(run):
    """Bytes of both models of a run, and its log without the seconds."""
    log = [[row[key] for key in row if key not in ("seconds", "waited")] for row in csv.DictReader(open(f"{run}/log.csv"))]
    return [open(f"{run}/{part}/model.safetensors", "rb").read() for part in ("best", "last")] + [log, open(f"{run}/predictions.csv").read()]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def test_killed_at_any_write_and_resumed_ends_with_the_same_bits(table, monkeypatch):
    """The run is killed before its 1st, 2nd, ... rename, then resumed: best, last, log and predictions equal an undisturbed run's."""
    main(flags(table, *MULTI, "--name", "whole"))
    whole = weights_of("runs/whole")
    rename, replace = os.rename, os.replace
    left, kills = None, 0

    def counted(function):
        def call(*args):
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    raise Killed
            return function(*args)
        return call

    monkeypatch.setattr(os, "rename", counted(rename))
    monkeypatch.setattr(os, "replace", counted(replace))
    for kills in range(0, 100, 1):
        left, name = kills, f"k{kills}"
        try:
            main(flags(table, *MULTI, "--name", name))
            break                                                  # more writes were allowed than a run makes
        except Killed:
            left = None
        if not os.path.isfile(f"runs/{name}/args.json"):           # nothing had begun
            continue
        main(["--resume", f"runs/{name}", "--device", "cpu", "--workers", "0"])
        assert weights_of(f"runs/{name}") == whole, f"killed before rename {kills}"
        assert not [file for file in os.listdir(f"runs/{name}") if file.endswith((".new", ".old"))]
    assert 10 < kills < 99


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on_from_there(table, monkeypatch, number, capsys):
    """SIGTERM and Ctrl-C in the middle of an epoch: exit status 128 + n, and the resumed run has the same bits."""
    main(flags(table, *MULTI, "--name", "whole"))
    real = train.lr_at

    def signalled(step, *args):
        if step == 1:
            os.kill(os.getpid(), number)
        return real(step, *args)

    monkeypatch.setattr(train, "lr_at", signalled)
    with pytest.raises(SystemExit) as stop:
        main(flags(table, *MULTI, "--name", "cut"))
    assert stop.value.code == 128 + number and "--resume runs/cut" in capsys.readouterr().out
    assert torch.load("runs/cut/last/state.pt", weights_only=True)["step"] == 2
    monkeypatch.setattr(train, "lr_at", real)
    main(["--resume", "runs/cut", "--device", "cpu"])
    assert weights_of("runs/cut") == weights_of("runs/whole")


@pytest.mark.parametrize("kills", (2, pytest.param(25, marks=pytest.mark.slow)))
def test_sigkill_at_random_moments(table, kills):
    """A process killed with SIGKILL again and again ends with the bits of one that was left alone."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, os.path.join(ROOT, "train.py")]
    more = flags(table, *MULTI, "--epochs", "12")
    began = time.time()
    subprocess.run([*command, *more, "--name", "whole"], check=True, env=environment, capture_output=True)
    seconds = time.time() - began
    rng = np.random.default_rng(kills)
    for i in range(kills):
        go_on = ["--resume", "runs/cut", "--device", "cpu"] if os.path.isfile("runs/cut/args.json") else [*more, "--name", "cut", "--overwrite"]
        try:
            subprocess.run([*command, *go_on], env=environment, capture_output=True, timeout=rng.uniform(0.4, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            pass                                                   # run() kills with SIGKILL
    subprocess.run([*command, "--resume", "runs/cut", "--device", "cpu"], check=True, env=environment, capture_output=True)
    assert weights_of("runs/cut") == weights_of("runs/whole")


def test_worker_processes_change_nothing(table):
    """0 and 2 reading processes give the same weights."""
    for workers in ("0", "2"):
        args = flags(table, *MULTI, "--name", workers)
        args[args.index("--workers") + 1] = workers
        main(args)
    assert weights_of("runs/0") == weights_of("runs/2")


def test_write_folder_is_all_or_nothing(tmp_path):
    """A writer that fails leaves the old folder as it was; recover clears what it left."""
    path = str(tmp_path / "best")
    write_folder(path, {"a": lambda p: open(p, "w").write("old")})
    def fail(p):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError):
        write_folder(path, {"a": lambda p: open(p, "w").write("new"), "b": fail})
    recover(path)
    assert open(os.path.join(path, "a")).read() == "old" and sorted(os.listdir(tmp_path)) == ["best"]


# -----------------------------------------------------------------------------
# what a user can get wrong


def fails(argv, monkeypatch, capsys):
    """-> the one line that train.py ends with; asserts status 2 and no traceback."""
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    with pytest.raises(SystemExit) as stop:
        train.run_main(main)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in error
    return error.strip().splitlines()[-1]


@pytest.mark.parametrize("more, message", (
    (("--model", "vit", "--r", "2"), "--r belongs to --model multivit"),
    (("--r", "3"), "--r 3 does not divide the patch grid"),
    (("--mode", "joint", "--r", "2"), "one resolution"),
    (("--image", "60"), "not a multiple of the patch"),
    (("--image", "big"), "--image big: need SIDE"),
    (("--n", "0"), "--n 0: need at least 1"),
    (("--hidden", "wide"), "need whole numbers"),
    (("--epochs", "0"), "--epochs 0: need at least 1"),
    (("--dropout", "1.5"), "--dropout 1.5"),
    (("--augment", "blur"), "'blur' is none of"),
    (("--device", "tpu"), "--device tpu"),
    (("--train-blocks", "9"), "5 more than the model has"),
    (("--data", "nowhere.csv"), "no such file"),
    (("--data", "nih"), "needs --images"),
    (("--target", "pasi"), "no column 'pasi'"),
    (("--folds", "50"), "do not fill"),
    (("--fold", "7"), "--fold 7 of --folds 5"),
    (("--pretrained", "no/such/place"), "no such file or folder"),
    (("--pretrained", "x.bin", "--size", "tiny"), "--size is fixed by --pretrained"),
    (("--resume", "runs/none"), "--resume keeps the flags"),
    (("--mode", "full"), "invalid choice: 'full'"),
), ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_mistake_ends_in_one_line_and_status_2(table, more, message, monkeypatch, capsys):
    """What was given and what is needed, no traceback, nothing written."""
    argv = [] if "--resume" in more else flags(table)
    if more[0] in ("--data", "--target", "--image", "--epochs", "--device"):
        argv[argv.index(more[0]):argv.index(more[0]) + 2] = []
    if more[0] == "--pretrained":
        argv = [x for i, x in enumerate(argv) if not {"--image", "--patch"} & {x, argv[i - 1]}]
    if more[0] == "--resume":
        more = (*more, "--epochs", "3")
    assert message in fails([*argv, *more], monkeypatch, capsys)
    assert not os.path.exists("runs")


def test_an_existing_run_is_kept(table, monkeypatch, capsys):
    """A taken name is refused, --overwrite starts anew, and without a name a number is added."""
    main(flags(table, "--model", "vit", "--name", "a"))
    assert "runs/a exists; --resume runs/a" in fails(flags(table, "--model", "vit", "--name", "a"), monkeypatch, capsys)
    main(flags(table, "--model", "vit", "--name", "a", "--overwrite"))
    main(flags(table, "--model", "vit"))
    main(flags(table, "--model", "vit"))
    assert sorted(os.listdir("runs")) == ["a", "vit", "vit-2"]
    os.makedirs("runs/mine"), open("runs/mine/thesis.txt", "w").close()
    assert "does not delete" in fails(flags(table, "--name", "mine", "--overwrite"), monkeypatch, capsys)
    assert os.path.exists("runs/mine/thesis.txt")


@pytest.mark.parametrize("workers", ("0", "2"))
def test_a_broken_photograph_stops_with_its_name(table, workers, monkeypatch, capsys, tmp_path):
    """Also when a worker process finds it."""
    import shutil
    folder = shutil.copytree(os.path.dirname(table), tmp_path / "copy")
    for patient in range(20):
        (folder / f"{patient}_0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([patient] * 40))
    line = fails([*flags(str(folder / "photos.csv"), "--model", "vit"), "--workers", workers], monkeypatch, capsys)
    assert "_0.png: not a readable image" in line


def test_a_loss_that_is_not_finite_stops_with_step_and_files(table, monkeypatch, capsys):
    """The message names step, learning rate and photographs; nothing broken is saved."""
    real = train.model_loss
    steps = iter(range(1000))
    monkeypatch.setattr(train, "model_loss", lambda *args: real(*args) * (float("nan") if next(steps) == 9 else 1.0))
    line = fails(flags(table, "--model", "vit", "--name", "a"), monkeypatch, capsys)
    assert "the loss is nan at epoch" in line and "lr" in line and ".png" in line
    for part in ("best", "last"):
        assert all(value.isfinite().all() for value in load_file(f"runs/a/{part}/model.safetensors").values())


def test_the_process_itself_exits_with_2_and_one_line(table):
    """Once as a user does it, in a shell."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "train.py"), "--data", "nowhere.csv"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("train.py: --data nowhere.csv: no such file")
    assert len(done.stderr.strip().splitlines()) == 1


# -----------------------------------------------------------------------------
# the project


def test_import_graph():
    """Mechanisms import only what a reader was told they do; nobody imports train but eval's main and what measures it."""
    allowed = {"attention": "", "attention_filter": "", "data": "", "tables": "", "plots": "", "synthetic": "", "daft": "", "weights": "",
               "vit": "attention weights", "multivit": "vit attention_filter", "crossvit": "vit attention weights",
               "lt_vit": "vit attention weights", "q2l": "vit attention weights", "probe": "vit weights",
               "eval": "data tables plots report train compare deploy", "compare": "eval tables", "report": "plots", "deploy": "data eval report tables train"}
    files = {name[:-3] for name in os.listdir(ROOT) if name.endswith(".py")}
    for name in files & set(allowed):
        text = open(os.path.join(ROOT, f"{name}.py"), encoding="utf-8").read()
        used = {word for line in text.splitlines() if line.lstrip().startswith(("import ", "from "))
                for word in line.replace(",", " ").split()[1:2] if word in files}
        assert used <= set(allowed[name].split()), f"{name}.py imports {used - set(allowed[name].split())}"
    third = {"torch", "numpy", "PIL", "safetensors", "huggingface_hub", "pytest"}
    for name in files - {"bench"}:
        for line in open(os.path.join(ROOT, f"{name}.py"), encoding="utf-8"):
            if line.startswith(("import ", "from ")):
                top = line.split()[1].split(".")[0].rstrip(",")
                assert top in files | third or top in sys.stdlib_module_names, f"{name}.py imports {top}"


def test_readme_names_every_file_and_its_commands_are_the_real_ones():
    """Each source file stands in a table; the two commands are there word for word, and every flag in it exists."""
    text = open(os.path.join(ROOT, "README.md"), encoding="utf-8").read()
    for name in os.listdir(ROOT):
        assert not name.endswith(".py") or f"`{name}`" in text, name
    assert "pip install -r requirements.txt && python train.py --model multivit --mode multi --n 3 --r 2\n" in text
    assert "pip install -r requirements.txt && python -m pytest\n" in text
    known = subprocess.run([sys.executable, os.path.join(ROOT, "train.py"), "--help"], capture_output=True, text=True).stdout
    known += subprocess.run([sys.executable, os.path.join(ROOT, "eval.py"), "--help"], capture_output=True, text=True).stdout
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)):
        assert flag in known, flag
