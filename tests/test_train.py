"""train.py: the command, its losses, its run folder, and that nothing is lost when it is killed."""
import csv
import json
import math
import os
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

import data
import train
from plumbing import simulate
from plumbing.cohort import Cohort, Task
from plumbing.command import Stop, run_main
from plumbing.device import fast_bfloat16
from plumbing.flags import parse
from plumbing.models import build_model, count
from plumbing.prepare import settle
from plumbing.saved_run import open_model
from train import lr_at, main, make_optimizer, model_loss, task_loss

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


pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


def flags(table, *more):
    """A run of seconds: two blocks of work on 16 px."""
    return ["--data", table, "--target", "redness:regression,grade:classes", "--image", "16", "--patch", "8", "--epochs", "2",
            "--batch-size", "4", "--workers", "0", "--device", "cpu", *more]


MULTI = ("--model", "multivit", "--mode", "multi", "--n", "2", "--r", "2")


def settled(*argv):
    """Flags of a run on pictures, settled as if there were some."""
    args = parse(list(argv))
    settle(args, Cohort("pictures", [], ["p"], ["picture.png"], {}))
    return args


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A CSV of 20 volumes of 6 x 16 x 16 voxels, int16, brighter where the target is 1."""
    folder, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    lines = ["patient_id,image,target,sex"]
    for patient in range(20):
        np.save(folder / f"{patient}.npy", rng.integers(-1000, 100 + 900 * (patient % 2), (6, 16, 16)).astype(np.int16))
        lines.append(f"p{patient},{patient}.npy,{patient % 2},{'FM'[patient // 2 % 2]}")
    (folder / "volumes.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "volumes.csv")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """20 simulated bags of vectors, cut to 40 so that they train in no time, but for one of 70."""
    folder = tmp_path_factory.mktemp("slides")
    simulate.bag(str(folder), patients=20)
    for i in range(20):
        path = folder / "images" / f"p{i:04d}.npy"
        np.save(path, np.load(path)[:70 if i == 3 else 40])
    return str(folder / "cohort.csv")


# -----------------------------------------------------------------------------
# the command


@pytest.mark.parametrize("more", (MULTI, ("--model", "multivit", "--mode", "partial", "--n", "3", "--r", "1"),
                                  ("--model", "multivit", "--mode", "multi", "--n", "2", "--r", "1", "--cls-token", "fused"),
                                  ("--model", "multivit", "--mode", "joint", "--n", "2"), ("--model", "multivit", "--mode", "baseline"),
                                  ("--model", "vit", "--attention", "sima"), ("--model", "vit", "--channels", "1", "--image", "16x24"),
                                  ("--model", "lt_vit", "--label-layers", "2"), ("--model", "q2l", "--epochs", "2"),
                                  ("--model", "crossvit", "--variant", "Ti", "--image", "24", "--fusion", "class"),
                                  ("--model", "vit", "--tabular", "sex,dot"), ("--model", "daft", "--tabular", "sex,bar:category"),
                                  ("--model", "daft", "--tabular", "sex", "--fusion", "linear"), ("--model", "daft", "--fusion", "image")),
                         ids=lambda more: "-".join(more[1::2]))
def test_every_model_trains_and_leaves_a_whole_run_folder(table, more, capsys):
    """Two epochs end with every file the docstring of train.py promises, metrics beside the constant, and a prediction for every test patient."""
    args = flags(table, *more, "--name", "a")
    if "crossvit" in more or "daft" in more:                       # they have patches of their own, or none
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


@pytest.mark.parametrize("more", (("--model", "vit", "--attention", "seqnorm"), ("--model", "lt_vit", "--label-layers", "2")))
def test_volumes_train_and_are_drawn(volumes, more, monkeypatch):
    """One number for --image is a cube, resized to it; channels and flips are those of volumes; the run is resumed and evaluated as any."""
    args = ["--data", volumes, "--image", "8", "--patch", "4", "--epochs", "2", "--warmup", "0", "--workers", "0", "--device", "cpu"]
    main([*args, *more, "--name", "a"])
    saved, config = json.load(open("runs/a/args.json")), json.load(open("runs/a/best/config.json"))
    assert (saved["image"], saved["patch"], saved["channels"], saved["augment"]) == ("8x8x8", "4x4x4", 1, "hflip,vflip,dflip")
    assert config[more[1]].get("vit", config[more[1]])["image"] == [8, 8, 8]
    before = load_file("runs/a/last/model.safetensors")
    main(["--resume", "runs/a"])
    assert all(torch.equal(before[key], value) for key, value in load_file("runs/a/last/model.safetensors").items())
    drawn = [Image.open(f"runs/a/figures/{name}") for name in os.listdir("runs/a/figures")]
    assert drawn and all(image.width > 480 for image in drawn)     # the middle slice, and the heat over it
    assert json.load(open("runs/a/metrics.json"))["patients"] == 4


def test_a_run_on_volumes_is_a_starting_point_at_another_size(volumes):
    """Its positions are resized on three axes, its one channel is kept, and pictures are refused."""
    args = ["--data", volumes, "--model", "vit", "--epochs", "1", "--workers", "0", "--device", "cpu"]
    main([*args, "--image", "6x16x16", "--patch", "3x8x8", "--name", "a"])
    main([*args, "--pretrained", "runs/a", "--image", "9x16x8", "--name", "b"])
    config = json.load(open("runs/b/best/config.json"))["vit"]
    assert config["image"] == [9, 16, 8] and config["patch"] == [3, 8, 8] and config["channels"] == 1


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
    _, tasks, _ = open_model("runs/a")
    model, report = build_model(args, tasks)
    saved = load_file("runs/a/best/model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items()) and "loaded" in report and "new" not in report


@pytest.mark.parametrize("more", (MULTI, ("--model", "vit", "--tabular", "sex,dot")), ids=lambda more: more[1])
def test_evaluating_a_saved_run_gives_the_numbers_it_printed(table, more):
    """eval.py on the run folder: metrics.json stays equal to the bit."""
    import eval as evaluation
    main(flags(table, *more, "--name", "a"))
    before = json.load(open("runs/a/metrics.json"))
    evaluation.main(["runs/a", "--device", "cpu"])
    assert json.load(open("runs/a/metrics.json")) == before


def test_learns_a_batch_by_heart():
    """Sixty steps on eight patients: their classes are known to more than 95 %."""
    torch.manual_seed(0)
    args = settled("--model", "multivit", "--image", "16", "--patch", "4", "--n", "2", "--r", "2", "--dropout", "0")
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


def test_parts_of_a_batch_give_the_losses_of_the_whole(table):
    """--accumulate, --chunk and --grad-checkpointing take less memory, and the same steps: with unknown targets, absent photographs and a
    last batch that does not divide."""
    logs = []
    for name, more in enumerate(((), ("--accumulate", "3"), ("--chunk", "3"), ("--grad-checkpointing",))):
        main(flags(table, *MULTI, "--dropout", "0", "--name", str(name), *more))
        logs.append([{key: float(value) for key, value in row.items() if key not in ("seconds", "waited")}
                     for row in csv.DictReader(open(f"runs/{name}/log.csv"))])
    for log in logs[1:]:
        assert len(log) == 2 and all(a == pytest.approx(b, rel=1e-5) for a, b in zip(logs[0], log))


@pytest.mark.parametrize("more, least", ((("--chunk", "2"), 2.0), (("--grad-checkpointing",), 2.0)))
def test_chunks_and_checkpoints_keep_less_for_the_gradient(more, least):
    """Bytes of the tensors that a forward pass leaves for the backward pass, parameters apart."""
    def kept(*more):
        model, _ = build_model(settled("--model", "multivit", "--n", "6", "--r", "2", *more), [Task("y", "regression")])
        sizes, own = {}, {p.data_ptr() for p in model.parameters()}

        def note(tensor):
            if tensor.data_ptr() not in own:
                sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            held = model(torch.rand(2, 6, 3, 64, 64), None, torch.rand(2, 6, 3, 128, 128))
        return sum(sizes.values()), held                           # held, so that no address is used twice
    assert kept()[0] > least * kept(*more)[0]


def test_a_step_asks_the_device_for_nothing():
    """No number is read back between the first kernel and the loss, nor in the optimizer."""
    class Reads(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if any(word in str(function) for word in ("_local_scalar", "nonzero", "item", "masked_select", "unique")):
                asked.append(str(function))
            return function(*args, **(kwargs or {}))

    args = settled("--model", "multivit", "--n", "3", "--r", "2", "--accumulate", "2")
    tasks = [Task("y", "regression"), Task("g", "classes", ("a", "b")), Task("f", "labels", ("u", "v"), positive_weight=(2.0, 1.0)),
             Task("t", "survival", ("t", "e"))]
    model, _ = build_model(args, tasks)
    batch = {"images": torch.zeros(4, 3, 3, 64, 64, dtype=torch.uint8), "images_hr": torch.zeros(4, 3, 3, 128, 128, dtype=torch.uint8),
             "present": torch.ones(4, 3, dtype=torch.bool), "path": [[]] * 4,
             "targets": {"y": torch.rand(4), "g": torch.tensor([0.0, 1.0, float("nan"), 1.0]), "f": torch.ones(4, 2), "t": torch.ones(4, 2)}}
    optimizer, asked = make_optimizer(model, args, torch.device("cpu")), []
    options = {"device": torch.device("cpu"), "autocast": None}
    train.train_step(model, model, tasks, optimizer, batch, args, options, False)              # the optimizer makes its state
    with Reads():
        found = train.train_step(model, model, tasks, optimizer, batch, args, options, False)
        assert asked == [] and found.shape == (3,)
        found[0].item()
        assert asked                                               # it does count


def test_a_compiled_run_compiles_each_model_once(table, monkeypatch):
    """Every batch has the same shape, the last ones filled up: one graph for training, one for validation, and the same losses."""
    from torch._dynamo.testing import CompileCounter
    counter, real = CompileCounter(), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: real(self, backend=counter))
    main(flags(table, *MULTI, "--dropout", "0", "--name", "plain"))
    main(flags(table, *MULTI, "--dropout", "0", "--name", "compiled", "--compile"))
    assert counter.frame_count == 2
    plain, compiled = ([float(row["train_loss"]) for row in csv.DictReader(open(f"runs/{run}/log.csv"))] for run in ("plain", "compiled"))
    assert plain == pytest.approx(compiled, rel=1e-5)


def test_a_cached_run_is_the_run(table, monkeypatch):
    """--cache without crop changes no bit; of what cannot be cached it says so."""
    for name, more in (("plain", ()), ("first", ("--cache",)), ("second", ("--cache",))):
        main(flags(table, *MULTI, "--augment", "hflip", "--name", name, *more))
    runs = [load_file(f"runs/{name}/last/model.safetensors") for name in ("plain", "first", "second")]
    assert all(torch.equal(runs[0][key], run[key]) for run in runs[1:] for key in runs[0])
    import eval
    before = open("runs/first/metrics.json").read()
    with monkeypatch.context() as blind:                           # what evaluation needs to look at is in the cache
        blind.setattr(data, "read", lambda *_: pytest.fail("a file was opened"))
        eval.main(["runs/first", "--device", "cpu", "--figures", "0"])
    assert open("runs/first/metrics.json").read() == before and len(os.listdir("data_cache/decoded")) == 1


def test_what_cannot_be_cached_or_shared_is_refused(table, volumes, slides, monkeypatch, capsys):
    assert "--cache is for decoded pictures and volumes; bags" in fails(["--data", slides, "--model", "vit", "--cache"], monkeypatch, capsys)
    assert "which --augment crop would change" in fails(["--data", volumes, "--model", "vit", "--cache", "--augment", "crop"], monkeypatch, capsys)
    assert "--grad-checkpointing: --model cnn has no Transformer blocks" in fails(
        ["--data", table, "--target", "grade:classes", "--model", "cnn", "--grad-checkpointing"], monkeypatch, capsys)
    assert "--chunk: --mode joint has no stage 1" in fails(flags(table, "--mode", "joint", "--chunk", "2"), monkeypatch, capsys)
    assert "--batch-size 4: 1 processes with --accumulate 5 need at least 5" in fails(flags(table, "--accumulate", "5"), monkeypatch, capsys)


@pytest.mark.parametrize("device, words, size, expected", (
    ("cpu", "avx512f avx512_bf16", "mini", True), ("cpu", "amx_bf16", "mini", True), ("cpu", "avx512f", "mini", False),
    ("cpu", "avx512f avx512_bf16", "micro", False), ("mps", "avx512_bf16", "mini", False)))
def test_bfloat16_is_for_wide_models_on_chips_that_have_it(monkeypatch, device, words, size, expected):
    """Where it is slower, or not there, --amp auto leaves float32."""
    monkeypatch.setattr("plumbing.device.cpu_flags", lambda: words)
    model, _ = build_model(settled("--model", "vit", "--size", size), [Task("y", "regression")])
    assert fast_bfloat16(model, torch.device(device)) is expected


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_to_all_processes_of_a_run_lets_it_save(table, number):
    """As schedulers send it, and terminals: the processes that read images do not die of it."""
    argv = flags(table, "--model", "vit", "--epochs", "60", "--name", "a")
    argv[argv.index("--workers") + 1] = "2"
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, "train.py"), *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)
    while not os.path.isfile("runs/a/last/state.pt"):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "stopped; go on with: python train.py --resume runs/a" in said, said


def test_a_second_ctrl_c_quits_and_a_sigterm_after_it_does_not(quiet):
    """A scheduler may send SIGTERM to what has had a Ctrl-C; who presses Ctrl-C twice means it."""
    stop = Stop()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def daft_flags(table, *more):
    argv = flags(table, "--model", "daft", *more)
    return [x for i, x in enumerate(argv) if "--patch" not in (x, argv[i - 1])]


def test_the_statistics_of_the_table_are_those_of_the_training_split(table, tmp_path):
    """config.json holds them, and another table is standardized by them, not by its own: same rows, same predictions."""
    import eval as evaluation
    main(daft_flags(table, "--tabular", "sex,bar", "--name", "a"))
    columns = json.load(open("runs/a/best/config.json"))["columns"]
    assert [column["name"] for column in columns] == ["sex", "bar"] and columns[0]["values"] == ["F", "M"]
    split = {row["patient"]: row["split"] for row in csv.DictReader(open("runs/a/split.csv"))}
    train_bars = [float(row["bar"]) for row in csv.DictReader(open(table)) if split[row["patient_id"]] == "train"]
    assert columns[1]["mean"] == pytest.approx(np.mean(train_bars)) and columns[1]["std"] == pytest.approx(np.std(train_bars))
    header, *lines = open(table).read().splitlines()
    other, patient = os.path.join(os.path.dirname(table), "other.csv"), next(p for p in split if split[p] == "test")
    open(other, "w").write("\n".join([header, *(line for line in lines if line.startswith(patient + ","))]) + "\n")
    evaluation.main(["runs/a", "--data", other, "--device", "cpu"])
    first, again = ({row["patient"]: row["redness predicted"] for row in csv.DictReader(open(f"runs/a/{path}predictions.csv"))}
                    for path in ("", "other-test/"))
    assert list(again) == [patient] and float(again[patient]) == pytest.approx(float(first[patient]), rel=1e-5)


@pytest.mark.parametrize("more", (("--model", "daft"), ("--model", "vit", "--tabular", "age,apoe", "--patch", "8", "--image", "16"),
                                  ("--model", "daft", "--target", "time/event:survival", "--fusion", "film", "--location", "4")))
def test_volumes_and_their_table_train_together(more, tmp_path):
    """The simulated brains: volumes at their own size, and the columns the table offers unless others are asked for."""
    data = simulate.make("brain", str(tmp_path / "cache"), patients=40)
    main(["--data", data, "--epochs", "1", "--device", "cpu", "--name", "a", *more])
    config, args = (json.load(open(f"runs/a/{path}")) for path in ("best/config.json", "args.json"))
    assert [column["name"] for column in config["columns"]] == (["age", "apoe"] if "vit" in more else ["age", "sex", "education", "apoe"])
    assert args["image"] == ("16x16x16" if "vit" in more else "24x24x24") and len(list(csv.DictReader(open("runs/a/predictions.csv")))) == 8
    assert config["model"] == ("daft_vit" if "vit" in more else "daft")


def test_features_of_an_image_only_run_feed_a_linear_model(table):
    """--fusion linear-features keeps the ResNet of --pretrained bit for bit and trains a Linear on it and the table."""
    main(daft_flags(table, "--fusion", "image", "--name", "a"))
    main(daft_flags(table, "--fusion", "linear-features", "--tabular", "sex", "--pretrained", "runs/a", "--name", "b"))
    a, b = (load_file(f"runs/{name}/best/model.safetensors") for name in "ab")
    body = [key for key in a if not key.startswith("head.")]
    assert len(body) > 40 and all(torch.equal(a[key], b[key]) for key in body) and b["head.redness.weight"].shape == (1, 32 + 2)


def loop_cox(risk, time, event):
    """The partial likelihood as it is written, over the known samples."""
    total, known = 0.0, [i for i in range(len(time)) if not math.isnan(time[i])]
    for i in known:
        if event[i] == 1:
            total -= risk[i] - math.log(sum(math.exp(risk[j]) for j in known if time[j] >= time[i]))
    return total / max(1, len(known))


def test_cox_loss_equals_a_loop_over_risk_sets():
    """Ties share a risk set, censored samples are only at risk, unknown ones are not there, far risks stay finite."""
    rng, nan = np.random.default_rng(0), float("nan")
    for n in (1, 2, 7, 30):
        time, event, risk = rng.integers(1, 6, n) * 1.0, rng.integers(0, 2, n) * 1.0, rng.normal(size=n)
        time[rng.random(n) < 0.2] = nan
        event[np.isnan(time)] = nan
        y = torch.tensor(risk, requires_grad=True)
        loss = train.cox_loss(y, torch.tensor(time), torch.tensor(event))
        assert loss.item() == pytest.approx(loop_cox(risk, time, event), abs=1e-10)
        loss.backward()
        assert y.grad.isfinite().all() and (y.grad[torch.tensor(time).isnan()] == 0).all()
    task, far = [Task("t", "survival", ("t", "e"))], torch.tensor([[1000.0], [-1000.0], [0.0]])
    target = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    assert task_loss(task, {"t": far}, {"t": target}).item() == pytest.approx(1000 / 3)
    for nothing in (target * torch.tensor([1.0, 0.0]), torch.full_like(target, nan)):
        assert task_loss(task, {"t": far}, {"t": nothing}).item() == 0


def test_every_photograph_of_stage_1_carries_the_time_of_its_patient():
    """MultiViT's first stage: the risk set are the photographs that are present."""
    rng = np.random.default_rng(0)
    present = torch.tensor([[True, True], [True, False], [True, True]])
    target = torch.tensor([[2.0, 1], [1, 1], [3, 0]])
    stage1, last = torch.tensor(rng.normal(size=(3, 2, 1))), torch.tensor(rng.normal(size=(3, 1)))
    loss = model_loss([Task("t", "survival", ("t", "e"))], {"logits": {"t": last}, "stage1": {"t": stage1}}, {"t": target}, present)
    photos = [(stage1[i, j, 0].item(), *target[i].tolist()) for i in range(3) for j in range(2) if present[i, j]]
    assert loss.item() == pytest.approx(loop_cox(last[:, 0].tolist(), *target.T.tolist()) + loop_cox(*zip(*photos)), rel=1e-5)


def test_survival_from_a_table_to_a_c_index(table, tmp_path):
    """--target TIME/EVENT:survival: redder patients' event comes sooner; a run predicts it, and predictions.csv holds time, event, risk."""
    rows = list(csv.DictReader(open(table)))
    with open(other := os.path.join(os.path.dirname(table), "survival.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "time", "event"])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "time": round(300 - float(row["redness"])), "event": int(int(row["patient_id"][1:]) % 4 > 0)})
    args = daft_flags(other, "--fusion", "image", "--epochs", "15", "--val", "0.3", "--name", "a")
    args[3] = "time/event:survival"
    main(args)
    metrics = json.load(open("runs/a/metrics.json"))["time"]
    assert metrics["c_index"]["value"] > 0.8 and metrics["constant"]["c_index"]["value"] == 0.5
    rows = list(csv.DictReader(open("runs/a/predictions.csv")))
    assert list(rows[0]) == ["patient", "images", "time", "event", "time risk"] and {row["event"] for row in rows} <= {"0", "1"}


def test_learning_rate_is_the_papers():
    """300 epochs from 1e-4 linearly to 1.25e-7, without warm-up; with it, a linear rise first."""
    steps = 300 * 8
    assert lr_at(0, steps, 0, 1e-4, 1.25e-7) == 1e-4 and lr_at(steps - 1, steps, 0, 1e-4, 1.25e-7) == pytest.approx(1.25e-7)
    middle = [lr_at(s, steps, 0, 1e-4, 1.25e-7) for s in range(steps)]
    assert np.allclose(np.diff(middle), np.diff(middle)[0])
    assert [lr_at(s, 10, 4, 1.0, 0.0) for s in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 0.0]


def test_decay_is_for_matrices_only():
    """Biases, norms, tokens and positions are not pulled to zero."""
    args = settled("--model", "vit", "--image", "16", "--patch", "8")
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


def test_worker_processes_change_nothing(table):
    """0 and 2 reading processes give the same weights."""
    for workers in ("0", "2"):
        args = flags(table, *MULTI, "--name", workers)
        args[args.index("--workers") + 1] = workers
        main(args)
    assert weights_of("runs/0") == weights_of("runs/2")


# -----------------------------------------------------------------------------
# what a user can get wrong


def fails(argv, monkeypatch, capsys):
    """-> the one line that train.py ends with; asserts status 2 and no traceback."""
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    with pytest.raises(SystemExit) as stop:
        run_main(main)
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
    (("--tabular", "sex"), "--tabular belongs to --model vit or daft"),
    (("--model", "vit", "--tabular", "height"), "no column 'height'"),
    (("--model", "vit", "--tabular", "redness"), "redness is what is to be predicted"),
    (("--model", "vit", "--location", "1"), "--location belongs to --model daft"),
    (("--model", "crossvit", "--fusion", "film"), "argument --fusion: invalid choice: 'film' (choose from"),
    (("--model", "daft", "--patch", "8"), "--patch belongs to"),
    (("--model", "daft"), "--model daft needs --tabular"),
    (("--model", "daft", "--tabular", "sex", "--fusion", "image"), "sees no table"),
    (("--model", "daft", "--tabular", "sex", "--fusion", "linear-features"), "needs --pretrained RUN"),
    (("--model", "daft", "--dropout", "0.3"), "--dropout belongs to --model vit or multivit"),
    (("--model", "vit", "--target", "redness:survival"), "need two columns, TIME/EVENT:survival"),
    (("--model", "vit", "--target", "redness/sex:survival"), "column sex: 'F' is not a number"),
), ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_mistake_ends_in_one_line_and_status_2(table, more, message, monkeypatch, capsys):
    """What was given and what is needed, no traceback, nothing written."""
    argv = [] if "--resume" in more else flags(table)
    if "daft" in more or "crossvit" in more:                       # they have patches of their own, or none
        argv = [x for i, x in enumerate(argv) if "--patch" not in (x, argv[i - 1])]
    if "--target" in more:
        argv[argv.index("--target"):argv.index("--target") + 2] = []
    elif more[0] in ("--data", "--target", "--image", "--epochs", "--device"):
        argv[argv.index(more[0]):argv.index(more[0]) + 2] = []
    if more[0] == "--pretrained":
        argv = [x for i, x in enumerate(argv) if not {"--image", "--patch"} & {x, argv[i - 1]}]
    if more[0] == "--resume":
        more = (*more, "--epochs", "3")
    assert message in fails([*argv, *more], monkeypatch, capsys)
    assert not os.path.exists("runs")


def test_bags_train_one_at_a_time_or_padded(slides):
    """Batch size 1 unless told otherwise, width from the files, no augmentation, no figure; the default target is the subtype."""
    args = ["--data", slides, "--model", "vit", "--attention", "seqnorm", "--epochs", "2", "--workers", "0", "--device", "cpu"]
    main([*args, "--name", "a"]), main([*args, "--name", "b", "--batch-size", "5"])
    for run, batch_size in (("runs/a", 1), ("runs/b", 5)):
        saved, config = json.load(open(f"{run}/args.json")), json.load(open(f"{run}/best/config.json"))["vit"]
        assert (saved["batch_size"], saved["channels"], saved["augment"]) == (batch_size, 64, "none")
        assert (config["image"], config["patch"], config["channels"], config["mean"]) == ([], [], 64, [])
        assert math.isfinite(json.load(open(f"{run}/metrics.json"))["subtype"]["accuracy"]["value"]) and not os.listdir(f"{run}/figures")
    main(["--resume", "runs/a"])
    main([*args, "--pretrained", "runs/a", "--name", "c"])
    assert json.load(open("runs/c/best/config.json"))["vit"]["channels"] == 64


def test_the_papers_sizes_are_named(slides):
    """--size vit_wsi, vit3d and vit2d bring the widths of the paper, and its image and patch where the data have pixels."""
    from plumbing.load_cohort import load_cohort
    args = parse(["--model", "vit", "--size", "vit_wsi", "--attention", "seqnorm"])
    settle(args, load_cohort(slides))
    model, _ = build_model(args, [Task("y", "regression")])
    assert count(model) == 4_210_689 - (2048 - 64) * 512     # the simulated vectors are 64 wide, RetCCL's 2048
    args = parse(["--model", "vit", "--size", "vit3d"])
    assert (args.image, args.patch) == ("32x256x256", "4x16x16")
    assert parse(["--model", "vit", "--size", "vit2d", "--image", "64"]).image == "64"


@pytest.mark.parametrize("attention", ("seqnorm", "sima"))
def test_a_softmax_run_starts_a_softmax_free_one(table, attention, capsys):
    """Khader et al. fine-tune the vanilla ViT: every tensor is loaded, and of seqnorm gamma = 1 and beta = 0 are new, which the report says."""
    main(flags(table, "--model", "vit", "--name", "a"))
    before = load_file("runs/a/best/model.safetensors")
    args = parse(["--model", "vit", "--pretrained", "runs/a", "--attention", attention])
    model, report = build_model(args, open_model("runs/a")[1])
    after = model.state_dict()
    new = {key for key in after if "seq_scale" in key or "seq_shift" in key}
    assert set(after) - new == set(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert len(new) == (8 if attention == "seqnorm" else 0) and f"loaded {len(before)}/{len(after)} tensors" in report
    assert all((after[key] == ("scale" in key)).all() for key in new)
    said = report.partition(", new ")[2].split()
    assert said == [f"blocks.{i}.attn" for i in range(4)] * (attention == "seqnorm")
    capsys.readouterr()
    main([x for i, x in enumerate(flags(table, "--model", "vit", "--attention", attention, "--pretrained", "runs/a", "--name", "b"))
          if x not in ("--image", "--patch") and flags(table)[i - 1:i] not in (["--image"], ["--patch"])])
    assert f"loaded {len(before)}/{len(after)} tensors from runs/a" in capsys.readouterr().out
    assert json.load(open("runs/b/best/config.json"))["vit"]["attention"] == attention


@pytest.mark.parametrize("attention", ("seqnorm", "sima"))
@pytest.mark.parametrize("more", (MULTI, ("--model", "crossvit", "--variant", "Ti", "--image", "24"), ("--model", "q2l")), ids=lambda more: more[1])
def test_other_models_take_the_softmax_free_kinds(table, more, attention):
    """Their ViT blocks are softmax-free, and every one of the new scales and shifts learns."""
    args = flags(table, *more, "--attention", attention, "--name", "a", "--epochs", "1")
    if "crossvit" in more:                                         # it has patches of its own
        args = [x for i, x in enumerate(args) if "--patch" not in (x, args[i - 1])]
    main(args)
    weights = load_file("runs/a/last/model.safetensors")
    new = [value for key, value in weights.items() if "seq_s" in key]
    assert bool(new) == (attention == "seqnorm") and all((value != value.round()).any() for value in new)


@pytest.mark.parametrize("more, message", (
    (("--model", "lt_vit"), "holds bags of vectors, --model lt_vit takes none; use vit"), (("--model", "vit", "--image", "32"), "have no pixels"),
    (("--model", "vit", "--augment", "hflip"), "hflip: cohort holds bags of vectors, which have no pixels"),
    (("--model", "vit", "--channels", "9"), "need a bag of vectors (S, 9)")), ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_bags_cannot_do_ends_in_one_line(slides, more, message, monkeypatch, capsys):
    """They are for the ViT, have no pixels, and all one width."""
    assert message in fails(["--data", slides, "--epochs", "1", "--workers", "0", "--device", "cpu", *more], monkeypatch, capsys)


@pytest.mark.parametrize("more, message", (
    (("--model", "multivit"), "volumes holds volumes, --model multivit takes none; use vit"),
    (("--model", "vit", "--image", "16x16"), "--image 16x16: volumes holds volumes, need one number or 3"),
    (("--model", "vit", "--patch", "8x"), "--patch 8x: need SIDE"),
    (("--model", "vit", "--image", "6x16x16"), "not a multiple of the patch"),
    (("--model", "vit", "--channels", "2"), "1 channels")), ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_volumes_cannot_do_ends_in_one_line(volumes, more, message, monkeypatch, capsys):
    """A model of photographs, two sides, half a patch, a second channel that nobody measured: one is copied, none refused."""
    argv = ["--data", volumes, "--epochs", "1", "--workers", "0", "--device", "cpu", *more]
    if "--channels" in more:
        main([*argv, "--image", "8", "--name", "two"])
        assert json.load(open("runs/two/best/config.json"))["vit"]["channels"] == 2
    else:
        assert message in fails(argv, monkeypatch, capsys) and not os.path.exists("runs")


def test_pictures_are_no_volumes(table, volumes, monkeypatch, capsys):
    """Nor is a model of one for the other; --augment and --channels say what they lack."""
    assert "need one number or 2" in fails(flags(table, "--model", "vit", "--image", "8x16x16"), monkeypatch, capsys)
    assert "no depth to flip" in fails(flags(table, "--augment", "dflip"), monkeypatch, capsys)
    main(flags(table, "--model", "vit", "--name", "a"))
    line = fails(["--data", volumes, "--model", "vit", "--pretrained", "runs/a", "--device", "cpu"], monkeypatch, capsys)
    assert "volumes holds volumes, the model was made for pictures of (16, 16) px" in line
    line = fails(["--data", volumes, "--model", "vit", "--pretrained", "runs/a", "--image", "8", "--device", "cpu"], monkeypatch, capsys)
    assert "runs/a is for images of 2 axes" in line


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


def test_positive_weight_multiplies_the_loss_of_positives():
    """By hand: -w log p of a positive, -log (1 - p) of a negative."""
    task = Task("f", "labels", ("a", "b"), positive_weight=(3.0, 0.5))
    y, target = torch.tensor([[0.3, -1.2], [2.0, 0.4]]), torch.tensor([[1.0, 1.0], [0.0, float("nan")]])
    by_hand = (3 * math.log(1 + math.exp(-0.3)) + 0.5 * math.log(1 + math.exp(1.2)) + math.log(1 + math.exp(2.0))) / 3
    assert abs(train.task_loss([task], {"f": y}, {"f": target}).item() - by_hand) < 1e-6


def test_a_loss_that_is_not_finite_stops_with_step_and_files(table, monkeypatch, capsys):
    """The message names step, learning rate and photographs; nothing broken is saved."""
    real = train.model_loss
    steps = iter(range(1000))
    monkeypatch.setattr(train, "model_loss", lambda *args: real(*args) * (float("nan") if next(steps) == 9 else 1.0))
    line = fails(flags(table, "--model", "vit", "--name", "a"), monkeypatch, capsys)
    assert "the loss is nan at epoch" in line and "lr" in line and ".png" in line
    for part in ("best", "last"):
        assert all(value.isfinite().all() for value in load_file(f"runs/a/{part}/model.safetensors").values())


def test_crossvit_learns_from_medmnist_arrays(tmp_path, monkeypatch, capsys):
    """Arrays of the official layout and split, at a size of their own; the file's MD5 is taken as right."""
    from plumbing import medmnist
    monkeypatch.chdir(tmp_path)
    rng, sizes = np.random.default_rng(0), {"train": 16, "val": 6, "test": 8}
    arrays = {f"{split}_images": rng.integers(256, size=(n, 28, 28), dtype=np.uint8) for split, n in sizes.items()}
    arrays.update({f"{split}_labels": np.arange(n, dtype=np.uint8)[:, None] % 2 for split, n in sizes.items()})
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    monkeypatch.setattr(medmnist, "file_md5", lambda *_: medmnist.MEDMNIST.split("pneumoniamnist")[1].split()[2])
    main(["--model", "crossvit", "--data", "medmnist:pneumoniamnist", "--cache-dir", ".", "--image", "36", "--epochs", "1", "--name", "a"])
    result = json.load(open("runs/a/metrics.json"))
    assert result["patients"] == 8 and result["class"]["units"] == 8
    assert "train 16 patients 16 images, val 6 patients 6 images, test 8 patients 8 images" in capsys.readouterr().out


def test_the_process_itself_exits_with_2_and_one_line(table):
    """Once as a user does it, in a shell."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "train.py"), "--data", "nowhere.csv"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("train.py: --data nowhere.csv: no such file")
    assert len(done.stderr.strip().splitlines()) == 1


def test_whoever_reads_what_is_printed_may_leave():
    """`| head -1` ends the process without a word, and without blaming a reading process."""
    code = "import sys; from plumbing import command; sys.argv[0] = 'train.py'; command.run_main(lambda: [print('x' * 100, flush=True) for _ in range(10 ** 5)])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141
