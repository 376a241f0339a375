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
import eval as evaluation_program
import train
from plumbing import simulate
from plumbing.cohort import Task
from plumbing.models import build_model
from tests.grey_runs import flags as grey_flags
from tests.hub import ROOT
from tests.small_runs import MULTI, daft_flags, fails, fit, flags, settled, slow_but
from train import known_counts, lr_at, main, make_optimizer, model_loss, task_loss

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py

# -----------------------------------------------------------------------------
# the command


QUICK = (MULTI, ("--model", "lt_vit", "--label-layers", "2"), ("--model", "vit", "--tabular", "sex,dot"), ("--model", "daft", "--tabular", "sex,bar:category"))
MODELS = (*QUICK, ("--model", "multivit", "--mode", "partial", "--n", "3", "--r", "1"),
          ("--model", "multivit", "--mode", "multi", "--n", "2", "--r", "1", "--cls-token", "fused"),
          ("--model", "multivit", "--mode", "joint", "--n", "2"), ("--model", "multivit", "--mode", "baseline"),
          ("--model", "vit", "--attention", "sima"), ("--model", "vit", "--channels", "1", "--image", "16x24"),
          ("--model", "q2l", "--epochs", "2"), ("--model", "crossvit", "--variant", "Ti", "--image", "24", "--fusion", "class"),
          ("--model", "daft", "--tabular", "sex", "--fusion", "linear"), ("--model", "daft", "--fusion", "image"))
EVALUATED = (MULTI, ("--model", "daft", "--tabular", "sex", "--fusion", "linear"))      # again, by eval.py


def test_the_log_has_the_mean_loss_of_an_epoch(grey_run):
    """Near 1 at first: targets are in units of their standard deviation, and heads begin small. The rate ends at --lr-end."""
    with open(f"{grey_run}/log.csv", newline="") as file:
        first, *_, last = csv.DictReader(file)
    assert float(first["train_loss"]) == pytest.approx(1, abs=0.2) and float(last["lr"]) == pytest.approx(1.25e-7)


def test_the_best_epoch_is_kept_and_gradients_are_clipped(greys, monkeypatch):
    """best/ is of the second of three epochs; after --clip no gradient is longer, though it was."""
    values, real, norms = iter((2.0, 1.0, 1.5)), torch.nn.utils.clip_grad_norm_, []

    def clip(parameters, most):
        parameters = list(parameters)
        before = real(parameters, most)
        norms.append((before.item(), real(parameters, math.inf).item()))
        return before

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    monkeypatch.setattr(train, "main_metric", lambda tasks, predictions, select: ("grey_mae", next(values), True))
    fit(grey_flags(greys, "--clip", "0.5", "--name", "a"))
    best, last = (load_file(f"runs/a/{part}/model.safetensors") for part in ("best", "last"))
    assert not torch.equal(best["norm.weight"], last["norm.weight"])
    assert torch.load("runs/a/last/state.pt", weights_only=True)["best"] == 1
    assert max(norms)[0] > 1 and max(after for _, after in norms) < 0.51


@pytest.mark.parametrize("lower_is_better", (True, False))
def test_the_first_of_equal_epochs_is_the_best(lower_is_better):
    """What is no better, or no number, does not take the place of the best; the first number does."""
    best = [train.is_better(value, 1.0, lower_is_better) for value in (0.5, 1.0, 1.5, float("nan"))]
    assert best == [lower_is_better, False, not lower_is_better, False]
    assert train.is_better(1.0, None, lower_is_better) and not train.is_better(float("nan"), None, lower_is_better)


@pytest.mark.parametrize("more", slow_but(MODELS, *QUICK), ids=lambda more: "-".join(more[1::2]))
def test_every_model_trains_and_leaves_a_whole_run_folder(table, more, capsys):
    """Two epochs end with every file the docstring of train.py promises, metrics beside the constant, and a prediction for every test
    patient; eval.py finds the same metrics to the bit."""
    args = flags(table, *more, "--name", "a")
    if "crossvit" in more or "daft" in more:                       # they have patches of their own, or none
        args = [x for i, x in enumerate(args) if "--patch" not in (x, args[i - 1])]
    main(args)
    run = "runs/a"
    for name in ("args.json", "log.csv", "split.csv", "best/config.json", "best/model.safetensors", "last/config.json",
                 "last/model.safetensors", "last/state.pt", "metrics.json", "predictions.csv", "figures/redness_errors.png", "figures/redness_agreement.png", "report.html", "best/README.md",
                 "best/preprocessor_config.json"):
        assert os.path.isfile(os.path.join(run, name)), name
    metrics = json.load(open(f"{run}/metrics.json"))
    split = {row["patient"]: row["split"] for row in csv.DictReader(open(f"{run}/split.csv"))}
    predicted = [row["patient"] for row in csv.DictReader(open(f"{run}/predictions.csv"))]
    assert sorted(predicted) == sorted(p for p, s in split.items() if s == "test") and metrics["patients"] == len(predicted) == 4
    assert math.isfinite(metrics["redness"]["mae"]["value"]) and metrics["redness"]["constant"]["mae"]["value"] > 0
    assert len(list(csv.DictReader(open(f"{run}/log.csv")))) == 2
    assert "split by patient, none in two" in capsys.readouterr().out
    if more in EVALUATED:
        evaluation_program.main([run, "--device", "cpu"])
        assert json.load(open(f"{run}/metrics.json")) == metrics


@pytest.mark.parametrize("more", (("--model", "vit", "--attention", "seqnorm"),
                                  pytest.param(("--model", "lt_vit", "--label-layers", "2"), marks=pytest.mark.slow)))
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
    drawn = [Image.open(f"runs/a/figures/{name}") for name in os.listdir("runs/a/figures") if name.startswith("patient_")]
    assert drawn and all(image.width > 480 for image in drawn)     # the middle slice, and the heat over it
    assert json.load(open("runs/a/metrics.json"))["patients"] == 4


@pytest.mark.slow
def test_a_run_on_volumes_is_a_starting_point_at_another_size(volumes):
    """Its positions are resized on three axes, its one channel is kept, and pictures are refused."""
    args = ["--data", volumes, "--model", "vit", "--epochs", "1", "--workers", "0", "--device", "cpu"]
    main([*args, "--image", "6x16x16", "--patch", "3x8x8", "--name", "a"])
    fit([*args, "--pretrained", "runs/a", "--image", "9x16x8", "--name", "b"])
    config = json.load(open("runs/b/best/config.json"))["vit"]
    assert config["image"] == [9, 16, 8] and config["patch"] == [3, 8, 8] and config["channels"] == 1


@pytest.mark.slow
def test_several_columns_of_zeros_and_ones_train_as_labels(table):
    """--target dot,bar is one multi-label task with masked binary cross entropy."""
    args = flags(table, "--model", "vit", "--name", "a")
    args[3] = "dot,bar"
    main(args)
    assert set(json.load(open("runs/a/metrics.json"))["findings"]["per_label"]) == {"dot", "bar"}


@pytest.mark.slow
def test_a_compiled_run_compiles_each_model_once(table, monkeypatch):
    """Every batch has the same shape, the last ones filled up: one graph for training, one for validation, and the same losses."""
    from torch._dynamo.testing import CompileCounter
    counter, real = CompileCounter(), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: real(self, backend=counter))
    main(flags(table, *MULTI, "--dropout", "0", "--name", "plain"))
    main(flags(table, *MULTI, "--dropout", "0", "--name", "compiled", "--compile"))
    assert counter.frame_count == 2
    plain, compiled = ([float(row["train_loss"]) for row in csv.DictReader(open(f"runs/{run}/log.csv"))] for run in ("plain", "compiled"))
    assert plain == pytest.approx(compiled, rel=1e-5)


@pytest.mark.parametrize("flag, mode", (((), "reduce-overhead"), (("--accumulate", "2"), "default"), (("--grad-checkpointing",), "default"),
                                        (("--chunk", "1"), "default"), (("bags",), "default")), ids=str)
def test_kernels_are_launched_as_a_graph_where_that_can_be(flag, mode, monkeypatch):
    """On CUDA the gradients of a graph are overwritten when it is launched for the next part of a batch, and a graph is of one length of a bag."""
    import torch._dynamo
    args = settled("--compile", *[word for word in flag if word != "bags"])
    if "bags" in flag:
        args.image = ""
    modes = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: modes.append(mode))
    with torch._dynamo.config.patch(optimize_ddp=True):
        train.wrap(torch.nn.Linear(1, 1), args, torch.device("cpu"))
    assert modes == [mode]


@pytest.mark.slow
def test_a_cached_run_is_the_run(table, monkeypatch):
    """--cache without crop changes no bit; of what cannot be cached it says so."""
    for name, more in (("plain", ()), ("first", ("--cache",)), ("second", ("--cache",))):
        run = fit
        if name == "first":
            run = main
        run(flags(table, *MULTI, "--augment", "hflip", "--name", name, *more))
    runs = [load_file(f"runs/{name}/last/model.safetensors") for name in ("plain", "first", "second")]
    assert all(torch.equal(runs[0][key], run[key]) for run in runs[1:] for key in runs[0])
    import eval
    before = open("runs/first/metrics.json").read()
    with monkeypatch.context() as blind:                           # what evaluation needs to look at is in the cache
        blind.setattr(data, "read", lambda *_: pytest.fail("a file was opened"))
        eval.main(["runs/first", "--device", "cpu", "--figures", "0"])
    assert open("runs/first/metrics.json").read() == before and len(os.listdir("data_cache/decoded")) == 1


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_features_of_an_image_only_run_feed_a_linear_model(table):
    """--fusion linear-features keeps the ResNet of --pretrained bit for bit and trains a Linear on it and the table."""
    fit(daft_flags(table, "--fusion", "image", "--name", "a"))
    main(daft_flags(table, "--fusion", "linear-features", "--tabular", "sex", "--pretrained", "runs/a", "--name", "b"))
    a, b = (load_file(f"runs/{name}/best/model.safetensors") for name in "ab")
    body = [key for key in a if not key.startswith("head.")]
    assert len(body) > 40 and all(torch.equal(a[key], b[key]) for key in body) and b["head.redness.weight"].shape == (1, 32 + 2)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_crossvit_learns_from_medmnist_arrays(tmp_path, monkeypatch, capsys):
    """Arrays of the official layout and split, at a size of their own; the file's MD5 is taken as right."""
    from plumbing import medmnist
    monkeypatch.chdir(tmp_path)
    rng, sizes = np.random.default_rng(0), {"train": 16, "val": 6, "test": 8}
    arrays = {f"{split}_images": rng.integers(256, size=(n, 28, 28), dtype=np.uint8) for split, n in sizes.items()}
    arrays.update({f"{split}_labels": np.arange(n, dtype=np.uint8)[:, None] % 2 for split, n in sizes.items()})
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    monkeypatch.setattr(medmnist, "has_md5", lambda *_: True)
    main(["--model", "crossvit", "--data", "medmnist:pneumoniamnist", "--cache-dir", ".", "--image", "36", "--epochs", "1", "--name", "a"])
    result = json.load(open("runs/a/metrics.json"))
    assert result["patients"] == 8 and result["class"]["units"] == 8
    assert "train 16 images, val 6 images, test 8 images" in capsys.readouterr().out

# -----------------------------------------------------------------------------
# losses, steps and the learning rate


def test_learns_a_batch_by_heart():
    """Forty steps on eight patients: their classes are known to more than 95 %."""
    torch.manual_seed(0)
    args = settled("--model", "multivit", "--image", "16", "--patch", "4", "--n", "2", "--r", "2", "--dropout", "0")
    tasks = [Task("grade", "classes", ("0", "1", "2"))]
    model, _ = build_model(args, tasks)
    images, images_hr = (torch.randint(256, (8, 2, 3, side, side), dtype=torch.uint8) for side in (16, 32))
    present, target = torch.ones(8, 2, dtype=torch.bool), {"grade": torch.arange(8) % 3 * 1.0}
    optimizer = make_optimizer(model, args, torch.device("cpu"))
    for _ in range(40):
        out = model(images, present, images_hr)
        optimizer.zero_grad()
        model_loss(tasks, out, target, present, known_counts(tasks, target, present)).backward()
        optimizer.step()
    assert (out["logits"]["grade"].argmax(1) == target["grade"]).float().mean() > 0.95


def test_losses_equal_loops_over_what_is_known():
    """regression in units of the training spread, cross entropy, binary cross entropy, a model's own: means over the known targets only."""
    nan = float("nan")
    tasks = [Task("a", "regression", center=2.0, scale=4.0), Task("b", "classes", ("x", "y", "z")), Task("c", "labels", ("u", "v")), Task("d", "loss")]
    logits = {"a": torch.randn(3, 1), "b": torch.randn(3, 3), "c": torch.randn(3, 2), "d": torch.rand(3, 1)}
    targets = {"a": torch.tensor([1.0, nan, 3.0]), "b": torch.tensor([2.0, 0.0, nan]), "c": torch.tensor([[1.0, nan], [0.0, 1.0], [nan, nan]]),
               "d": torch.zeros(3)}
    a = sum((logits["a"][i, 0] - (targets["a"][i] - 2) / 4) ** 2 for i in (0, 2)) / 2
    b = sum(-logits["b"][i].log_softmax(0)[int(targets["b"][i])] for i in (0, 1)) / 2
    c = -sum(F.logsigmoid(logits["c"][i, j] * (1 if targets["c"][i, j] else -1)) for i, j in ((0, 0), (1, 0), (1, 1))) / 3
    loss = (a + b + c + logits["d"].mean()).item()
    assert task_loss(tasks, logits, targets, known_counts(tasks, targets)[0]).item() == pytest.approx(loss, rel=1e-5)
    half = {name: y.bfloat16() for name, y in logits.items()}      # as autocast gives them; the loss of them is not rounded again
    whole = {name: y.float() for name, y in half.items()}
    losses = [task_loss(tasks, y, targets, known_counts(tasks, targets)[0]).item() for y in (half, whole)]
    assert losses[0] == losses[1]
    unknown = {name: torch.full_like(target, nan) for name, target in targets.items()}
    assert task_loss(tasks, logits, unknown, known_counts(tasks, unknown)[0]).item() == 0


def test_positive_weight_multiplies_the_loss_of_positives():
    """By hand: -w log p of a positive, -log (1 - p) of a negative."""
    task = Task("f", "labels", ("a", "b"), positive_weight=(3.0, 0.5))
    y, target = torch.tensor([[0.3, -1.2], [2.0, 0.4]]), torch.tensor([[1.0, 1.0], [0.0, float("nan")]])
    by_hand = (3 * math.log(1 + math.exp(-0.3)) + 0.5 * math.log(1 + math.exp(1.2)) + math.log(1 + math.exp(2.0))) / 3
    assert abs(task_loss([task], {"f": y}, {"f": target}, torch.tensor([3])).item() - by_hand) < 1e-6


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
        loss = train.cox_loss(y, torch.tensor(time), torch.tensor(event), max(1, np.isfinite(time).sum()))
        assert loss.item() == pytest.approx(loop_cox(risk, time, event), abs=1e-10)
        loss.backward()
        assert y.grad.isfinite().all() and (y.grad[torch.tensor(time).isnan()] == 0).all()
    task, far = [Task("t", "survival", ("t", "e"))], torch.tensor([[1000.0], [-1000.0], [0.0]])
    target = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    assert task_loss(task, {"t": far}, {"t": target}, torch.tensor([3])).item() == pytest.approx(1000 / 3)
    for nothing in (target * torch.tensor([1.0, 0.0]), torch.full_like(target, nan)):
        assert task_loss(task, {"t": far}, {"t": nothing}, known_counts(task, {"t": nothing})[0]).item() == 0


def test_every_photograph_of_stage_1_carries_the_time_of_its_patient():
    """MultiViT's first stage: the risk set are the photographs that are present."""
    rng = np.random.default_rng(0)
    present = torch.tensor([[True, True], [True, False], [True, True]])
    target = torch.tensor([[2.0, 1], [1, 1], [3, 0]])
    stage1, last = torch.tensor(rng.normal(size=(3, 2, 1))), torch.tensor(rng.normal(size=(3, 1)))
    tasks, targets = [Task("t", "survival", ("t", "e"))], {"t": target}
    out = {"logits": {"t": last}, "stage1": {"t": stage1}}
    loss = model_loss(tasks, out, targets, present, known_counts(tasks, targets, present))
    photos = [(stage1[i, j, 0].item(), *target[i].tolist()) for i in range(3) for j in range(2) if present[i, j]]
    assert loss.item() == pytest.approx(loop_cox(last[:, 0].tolist(), *target.T.tolist()) + loop_cox(*zip(*photos)), rel=1e-5)


@pytest.mark.slow
def test_parts_of_a_batch_give_the_losses_of_the_whole(table):
    """--accumulate, --chunk and --grad-checkpointing take less memory, and the same steps: with unknown targets, absent photographs and a
    last batch that does not divide."""
    logs = []
    for name, more in enumerate(((), ("--accumulate", "3"), ("--chunk", "3"), ("--grad-checkpointing",))):
        fit(flags(table, *MULTI, "--dropout", "0", "--name", str(name), *more))
        logs.append([{key: float(value) for key, value in row.items() if key not in ("seconds", "waited")}
                     for row in csv.DictReader(open(f"runs/{name}/log.csv"))])
    for log in logs[1:]:
        assert len(log) == 2 and all(a == pytest.approx(b, rel=1e-5) for a, b in zip(logs[0], log))


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


def test_learning_rate_is_the_papers():
    """300 epochs from 1e-4 linearly to 1.25e-7, without warm-up; with it, a linear rise first."""
    steps = 300 * 8
    assert lr_at(0, steps, 0, 1e-4, 1.25e-7) == 1e-4 and lr_at(steps - 1, steps, 0, 1e-4, 1.25e-7) == pytest.approx(1.25e-7)
    middle = [lr_at(s, steps, 0, 1e-4, 1.25e-7) for s in range(steps)]
    assert np.allclose(np.diff(middle), np.diff(middle)[0])
    assert [lr_at(s, 10, 4, 1.0, 0.0) for s in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 0.0]
    assert [lr_at(s, 10, 2.5, 1.0, 0.0) for s in (0, 1, 2)] == [0.4, 0.8, 1.0] and lr_at(0, 10, 0.5, 1.0, 0.0) == 1.0


def test_decay_is_for_matrices_only():
    """Biases, norms, tokens and positions are not pulled to zero."""
    args = settled("--model", "vit", "--image", "16", "--patch", "8")
    model, _ = build_model(args, [Task("a", "regression")])
    decayed, plain = make_optimizer(model, args, torch.device("cpu")).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.01 and plain["weight_decay"] == 0
    args.optimizer = "Adam"
    assert type(make_optimizer(model, args, torch.device("cpu"))) is torch.optim.Adam
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed["params"])
    assert {"cls_token", "pos_embed", "norm.weight", "head.a.bias"} <= {names[id(p)] for p in plain["params"]}

# -----------------------------------------------------------------------------
# nothing is lost


def weights_of(run):
    """Bytes of both models of a run, and its log without the seconds."""
    log = [[row[key] for key in row if key not in ("seconds", "waited")] for row in csv.DictReader(open(f"{run}/log.csv"))]
    return [open(f"{run}/{part}/model.safetensors", "rb").read() for part in ("best", "last")] + [log]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.mark.slow
def test_killed_at_any_write_and_resumed_ends_with_the_same_bits(table, monkeypatch):
    """The run is killed before its 1st, 2nd, ... rename, then resumed: best, last, log and predictions equal an undisturbed run's."""
    monkeypatch.setattr(train, "rehearse", lambda *_: None)        # test_kills.py kills that, too
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
        assert open(f"runs/{name}/predictions.csv").read() == open("runs/whole/predictions.csv").read()
        assert not [file for file in os.listdir(f"runs/{name}") if file.endswith((".new", ".old"))]
    assert 10 < kills < 99


@pytest.mark.parametrize("number", slow_but((signal.SIGTERM, signal.SIGINT), signal.SIGTERM))
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on_from_there(table, monkeypatch, number, capsys):
    """SIGTERM and Ctrl-C in the middle of an epoch: exit status 128 + n, and the resumed run has the same bits."""
    fit(flags(table, *MULTI, "--name", "whole"))
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
    fit(["--resume", "runs/cut", "--device", "cpu"])
    assert weights_of("runs/cut") == weights_of("runs/whole")


@pytest.mark.slow
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


@pytest.mark.slow
def test_worker_processes_change_nothing(table):
    """0 and 2 reading processes give the same weights."""
    for workers in ("0", "2"):
        args = flags(table, *MULTI, "--name", workers)
        args[args.index("--workers") + 1] = workers
        fit(args)
    assert weights_of("runs/0") == weights_of("runs/2")


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
