"""plumbing/prepare.py: what the data decides: sides, channels, batch size, augmentation; and what they refuse."""
import csv
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plumbing import prepare as prepare_module
from plumbing.cohort import Cohort, Task
from plumbing.flags import parse
from plumbing.models import build_model
from plumbing.prepare import prepare, run_options
from tests.plumbing.small_tables import write
from tests.small_runs import fails, fit, flags, settled
from train import main

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


@pytest.mark.slow
def test_bags_train_one_at_a_time_or_padded(slides):
    """Batch size 1 unless told otherwise, width from the files, no augmentation, no figure; the default target is the subtype."""
    args = ["--data", slides, "--model", "vit", "--attention", "seqnorm", "--epochs", "2", "--workers", "0", "--device", "cpu"]
    main([*args, "--name", "a"]), main([*args, "--name", "b", "--batch-size", "5"])
    for run, batch_size in (("runs/a", 1), ("runs/b", 5)):
        saved, config = json.load(open(f"{run}/args.json")), json.load(open(f"{run}/best/config.json"))["vit"]
        assert (saved["batch_size"], saved["channels"], saved["augment"]) == (batch_size, 64, "none")
        assert (config["image"], config["patch"], config["channels"], config["mean"]) == ([], [], 64, [])
        assert math.isfinite(json.load(open(f"{run}/metrics.json"))["subtype"]["accuracy"]["value"]) and not [name for name in os.listdir(f"{run}/figures") if name.startswith("patient_")]
    main(["--resume", "runs/a"])
    fit([*args, "--pretrained", "runs/a", "--name", "c"])
    assert json.load(open("runs/c/best/config.json"))["vit"]["channels"] == 64


@pytest.mark.parametrize("more, message", (
    (("--model", "lt_vit"), "holds bags of vectors, --model lt_vit takes none; use vit"), (("--model", "vit", "--image", "32"), "holds bags of vectors, to which it does not apply"),
    (("--model", "vit", "--rotate", "5"), "--rotate 5.0: cohort holds bags of vectors, to which it does not apply"),
    (("--model", "vit", "--augment", "hflip"), "hflip: cohort holds bags of vectors, to which it does not apply"),
    (("--model", "vit", "--channels", "9"), "need a bag of vectors (S, 9)")), ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_bags_cannot_do_ends_in_one_line(slides, more, message, monkeypatch, capsys):
    """They are for the ViT, have no pixels, and all one width."""
    assert message in fails(["--data", slides, "--epochs", "1", "--workers", "0", "--device", "cpu", *more], monkeypatch, capsys)


@pytest.mark.parametrize("more, message", (
    (("--model", "multivit"), "volumes holds volumes, --model multivit takes none; use vit"),
    (("--model", "vit", "--image", "16x16"), "--image 16x16: volumes holds volumes, need one number of px from 1 to 99999 or 3, as SIDE, HEIGHTxWIDTH or DEPTH"),
    (("--model", "vit", "--patch", "8x"), "--patch 8x: volumes holds volumes, need one number"),
    (("--model", "vit", "--image", "6x16x16"), "not a multiple of the patch"),
    (("--model", "vit", "--channels", "2"), "1 channels")), ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_volumes_cannot_do_ends_in_one_line(volumes, more, message, monkeypatch, capsys):
    """A model of photographs, two sides, half a patch, a second channel that nobody measured: one is copied, none refused."""
    argv = ["--data", volumes, "--epochs", "1", "--workers", "0", "--device", "cpu", *more]
    if "--channels" in more:
        fit([*argv, "--image", "8", "--name", "two"])
        assert json.load(open("runs/two/best/config.json"))["vit"]["channels"] == 2
    else:
        assert message in fails(argv, monkeypatch, capsys) and not os.path.exists("runs")


@pytest.mark.slow
def test_pictures_are_no_volumes(table, volumes, monkeypatch, capsys):
    """Nor is a model of one for the other; --augment and --channels say what they lack."""
    assert "need one number of px from 1 to 99999 or 2" in fails(flags(table, "--model", "vit", "--image", "8x16x16"), monkeypatch, capsys)
    assert "no depth to flip" in fails(flags(table, "--augment", "dflip"), monkeypatch, capsys)
    main(flags(table, "--model", "vit", "--name", "a"))
    line = fails(["--data", volumes, "--model", "vit", "--pretrained", "runs/a", "--device", "cpu"], monkeypatch, capsys)
    assert "volumes holds volumes, the model was made for pictures" in line
    line = fails(["--data", volumes, "--model", "vit", "--pretrained", "runs/a", "--image", "8", "--device", "cpu"], monkeypatch, capsys)
    assert "runs/a: --image 8x8x8: its own images have 2 axes (pictures have 2, volumes 3" in line


def test_what_cannot_be_cached_or_shared_is_refused(table, volumes, slides, monkeypatch, capsys):
    assert "--cache True: cohort holds bags of vectors, to which it does not apply" in fails(["--data", slides, "--model", "vit", "--cache"], monkeypatch, capsys)
    assert "volumes cannot have --augment crop" in fails(["--data", volumes, "--model", "vit", "--cache", "--augment", "crop"], monkeypatch, capsys)
    assert "--grad-checkpointing: --model cnn has no Transformer blocks" in fails(
        ["--data", table, "--target", "grade:classes", "--model", "cnn", "--grad-checkpointing"], monkeypatch, capsys)
    assert "--chunk: --mode joint has no stage 1" in fails(flags(table, "--mode", "joint", "--chunk", "2"), monkeypatch, capsys)
    assert "--batch-size 4: 1 processes with --accumulate 5 need at least 5" in fails(flags(table, "--accumulate", "5"), monkeypatch, capsys)


def test_check_shows_the_data_and_its_split_and_leaves_nothing(table, volumes, capsys):
    """Counts of classes, ranges of numbers, events of a survival task, and how the patients are split; a picture, no run folder."""
    main(["--data", table, "--target", "redness:regression,grade:classes", "--check"])
    out = capsys.readouterr().out
    assert "photos: 39 images of 20 patients" in out and "grade (classes): 0 " in out and "redness (regression): " in out
    assert "split by patient, none in two: train " in out and os.listdir("runs") == ["photos-check.png"]
    main(["--data", table, "--target", "redness/dot:survival", "--check"])
    out = capsys.readouterr().out
    dots = [row["dot"] for row in csv.DictReader(open(table))]
    assert f"redness (survival): times of {dots.count('1')} events, {dots.count('0')} without, " in out


def test_a_checkpoint_of_other_channels_than_pictures_have_is_refused():
    """And --channels, which folds its kernel, is advised."""
    model = SimpleNamespace(config=SimpleNamespace(image=(16, 16), channels=5))
    with pytest.raises(ValueError, match="for 5 channels, pictures have 1 or 3; --channels 3 folds"):
        run_options(None, model, Cohort("pictures", [], ["p"], ["picture.png"], {}), None)


def test_one_known_label_is_enough_to_learn_from(tmp_path, capsys):
    """An image of whose two labels one is blank is used; only one with none is left out of the training."""
    cells = ["1,0", "0,1", "1,", ",0", ",", "0,"]
    rows = [f"p{i},{i}.png,{cells[i % 6]}" for i in range(30)]
    path = write(tmp_path, "t.csv", "patient_id,image,a,b", *rows, images=[f"{i}.png" for i in range(30)])
    args = parse(["--data", path, "--model", "vit", "--image", "16", "--patch", "8", "--target", "a:labels,b:labels", "--device", "cpu"])
    ready = prepare(args, torch.device("cpu"))
    known = [i for i in ready.indices["train"] if i % 6 != 4]
    assert sorted(images[0] for images in ready.loader.dataset.samples) == known and 0 < len(known) < len(ready.indices["train"])
    assert any(line.startswith("5 of 30 images have no known target") for line in ready.notes)


def test_a_name_that_cannot_be_written_is_found_before_training(tmp_path, monkeypatch, capsys):
    """A folder in Latin-1 is named, not a traceback after all epochs."""
    folder = os.fsencode(tmp_path) + b"/d\xe9j"
    os.mkdir(folder)
    write(tmp_path, "t.csv", "patient_id,image,target", *(f"p{i},{i}.png,{i}.5" for i in range(20)), images=[f"{i}.png" for i in range(20)])
    for file in os.listdir(tmp_path):
        if os.path.isfile(tmp_path / file):
            os.rename(tmp_path / file, folder + b"/" + file.encode())
    line = fails(["--data", os.fsdecode(folder) + "/t.csv", "--model", "vit", "--image", "16", "--device", "cpu"], monkeypatch, capsys)
    assert "not UTF-8; rename the file or folder" in line and not os.path.exists("runs")
    line = fails(["--data", "t.csv", "--model", "vit", "--name", "d\udce9j", "--device", "cpu"], monkeypatch, capsys)
    assert line.startswith(r"train.py: d\udce9j: the name is not UTF-8") and not os.path.exists("runs")


@pytest.mark.parametrize("start, pixels, device, workers", (("spawn", True, "cuda", 0), ("spawn", False, "cuda", 8), ("fork", True, "cuda", 8), ("fork", False, "cpu", 0)))
def test_pictures_in_memory_are_not_sent_to_reading_processes(start, pixels, device, workers, monkeypatch):
    """On Windows and Macs each would get a copy of all of them: 1.3 GB of MedMNIST's, 16 times."""
    monkeypatch.setattr(prepare_module, "START", start)
    monkeypatch.setattr(prepare_module, "count_cores", lambda: 8)
    monkeypatch.setattr(prepare_module, "choose_kernels", lambda *args: "")
    args = settled("--model", "vit")
    cohort = Cohort("pictures", [Task("y", "regression")], ["p"], ["picture.png"], {"y": np.zeros(1, np.float32)}, pixels=np.zeros((1, 8, 8), np.uint8) if pixels else None)
    model, _ = build_model(args, cohort.tasks)
    assert run_options(args, model, cohort, torch.device(device))["workers"] == workers
