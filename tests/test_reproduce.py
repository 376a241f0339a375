"""reproduce.py: the tables' arithmetic, the claims, that every command is one train.py takes, and that a kill costs nothing."""
import argparse
import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import reproduce
import train
from reproduce import EXPERIMENTS, available, gather, holds, look_up, plan, table, verdict

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ARGS = argparse.Namespace(out="out", cache_dir="cache", device="cpu", quick=False, seeds=3)
TOY = dict(about="A toy.", flags="--model vit --data brain", metrics={"MAE": ("age/mae", "age/constant/mae", "--target age")},
           rows={"small": "--size micro", "large": "--size mini"}, reference="small", claims=[("large is better", "large > small")])
FAST = dict(about="Two runs of seconds.", flags="--model daft --data brain --target diagnosis", reference="table",
            metrics={"accuracy": ("diagnosis/accuracy", "diagnosis/constant/accuracy", "")},
            rows={"table": "--fusion linear", "volume": "--fusion image"}, claims=[("the volume helps", "volume > table")])


def write_run(run, metrics, seconds):
    """A run folder as train.py leaves it, as far as it is read."""
    os.makedirs(run)
    with open(os.path.join(run, "metrics.json"), "w") as file:
        json.dump(metrics, file)
    with open(os.path.join(run, "log.csv"), "w") as file:
        file.write("epoch,seconds\n" + "".join(f"{i},{each}\n" for i, each in enumerate(seconds)))


def test_claims_by_hand():
    """Wins, losses and ties of every kind of order, for metrics of which more is better and of which less is."""
    values = {"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0, "e": math.nan}
    for order, truth in {"a > b": True, "b > a": False, "b > c": False, "b >= c": True, "a > b > d": True, "a > b > c": False,
                         "a, b > d": True, "a, d > b": False, "a > b, c, d": True, "d + 0.5 > b": False, "d + 1.5 > b": True,
                         "d + 1 >= b": True, "a > e": None, "e, a > d": None}.items():
        assert holds(order, values) is truth, order
    assert holds("d > a", values, lower=True) and not holds("a > d", values, lower=True)
    assert holds("a + 2.5 > d", values, lower=True) and not holds("a + 1.5 > d", values, lower=True)


def test_verdict_counts_seeds():
    """Each seed is judged by its own numbers, not by the means; an undefined one is said."""
    values = {"x": [1.0, 2.0, 9.0], "y": [2.0, 3.0, 1.0], "z": [0.0, 0.0, 0.0], "n": [math.nan, 1.0, -1.0]}
    assert verdict("y > x", values) == "holds in 2 of 3 seeds" and verdict("y > x", values, lower=True) == "holds in 1 of 3 seeds"
    assert verdict("x, y > z", values) == "holds in 3 of 3 seeds" and verdict("z > x", values).startswith("does not hold, in 0 of 3")
    assert verdict("n > z", values) == "holds in 1 of 2 seeds, undefined in 1"
    assert verdict("n > z", {row: each[:1] for row, each in values.items()}).startswith("cannot be told")


def test_table_of_written_runs(monkeypatch, tmp_path):
    """Means, seeds, differences with their range, seconds, chance and claims, worked out by hand."""
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    args = argparse.Namespace(**{**vars(ARGS), "out": str(tmp_path)})
    plans = [plan("toy", TOY["metrics"], seed, args) for seed in range(3)]
    for seed, plan_ in enumerate(plans):
        for row, value in {"small": (5.0, 6.0, 7.0)[seed], "large": (4.0, 6.5, 4.5)[seed]}.items():
            write_run(plan_[row, "--target age"][1], {"patients": 8, "age": {"mae": {"value": value}, "constant": {"mae": {"value": 9.0}}}},
                      (1.5, 2.5 + seed))
    values, seconds = gather(TOY, TOY["metrics"], plans)
    text = table(TOY, TOY["metrics"], "MAE", values["MAE"], seconds["MAE"])
    assert "| small | 6.000 | 5.000, 6.000, 7.000 |  | 5 | `python train.py --model vit --data brain --size micro --target age` |" in text
    assert any(line.startswith("| large | 5.000 | 4.000, 6.500, 4.500 | -1.000 (-2.500 to +0.500) | 5 |") for line in text)
    assert "| chance | 9.000 | 9.000, 9.000, 9.000 | +3.000 (+2.000 to +4.000) |  |  |" in text
    assert text[1] == "## MAE, lower is better" and text[-1] == "- large is better: holds in 2 of 3 seeds"


def test_look_up():
    """The first place that is there; null is NaN; nowhere is an error, not a blank."""
    metrics = {"a": {"b": {"value": 1.0}, "c": {"value": None}}}
    assert look_up(metrics, "a/b") == look_up(metrics, "a/x|a/b|a/c") == 1.0 and math.isnan(look_up(metrics, "a/c"))
    with pytest.raises(ValueError, match="no a/x"):
        look_up(metrics, "a/x")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_is_a_command_and_every_claim_names_rows(name):
    """train.py takes the flags of every run; claims, reference and metrics are spelled as the rows are; run folders differ."""
    experiment = EXPERIMENTS[name]
    runs = plan(name, experiment["metrics"], 1, ARGS)
    for flags, _ in runs.values():
        assert train.parse(flags).seed == 1
    assert len({run for _, run in runs.values()}) == len(runs) and experiment["reference"] in experiment["rows"]
    assert not [row for row in experiment["rows"] if re.search(", | >=? | \\+ ", row)]
    for _, order, *which in experiment["claims"]:
        rows = {row.partition(" + ")[0] for group in re.split(" >=? ", order) for row in group.split(", ")}
        assert rows <= {*experiment["rows"], "chance"} and set(which) <= set(experiment["metrics"])


def test_a_run_is_named_after_its_flags(monkeypatch):
    """Other flags, another folder; and a row that starts from another run gets that run's folder of the same seed."""
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    before = plan("toy", TOY["metrics"], 0, ARGS)
    monkeypatch.setitem(EXPERIMENTS, "toy", {**TOY, "rows": {**TOY["rows"], "small": "--size tiny"}})
    after = plan("toy", TOY["metrics"], 0, ARGS)
    key, other = ("small", "--target age"), ("large", "--target age")
    assert before[key][1] != after[key][1] and before[other] == after[other]
    probes = plan("probes", EXPERIMENTS["probes"]["metrics"], 2, ARGS)
    assert all((probes["backbone", ""][1] in flags) == ("probe" in flags) for (row, _), (flags, _) in probes.items() if row != "backbone")


def test_a_file_that_is_not_here_is_left_out_and_named(monkeypatch, tmp_path):
    """Nothing is downloaded unasked."""
    monkeypatch.setenv("HOME", str(tmp_path)), monkeypatch.setenv("USERPROFILE", str(tmp_path))
    args = argparse.Namespace(**{**vars(ARGS), "cache_dir": str(tmp_path)})
    metrics, notes = available("softmax_free", args)
    assert list(metrics) == ["AUROC, bags"] and "adrenalmnist3d_64.npz" in notes[0] and "downloads it" in notes[0]
    (tmp_path / "adrenalmnist3d_64.npz").touch()
    assert len(available("softmax_free", args)[0]) == 2 and not available("softmax_free", args)[1]


def test_quick_of_a_run_that_starts_from_another(monkeypatch, tmp_path, capsys):
    """probes: the backbone is trained first, is no row, and the probe freezes it."""
    short = {**EXPERIMENTS["probes"], "rows": {"Model1 (class)": EXPERIMENTS["probes"]["rows"]["Model1 (class)"]}, "claims": [],
             "reference": "Model1 (class)", "first": {"backbone": EXPERIMENTS["probes"]["first"]["backbone"] + " --image 16"}}
    monkeypatch.setitem(EXPERIMENTS, "probes", short)
    monkeypatch.setattr(reproduce, "PATIENTS", {"psoriasis": 10, "chest": 12})
    reproduce.main(["probes", "--quick", "--device", "cpu", "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")])
    said = capsys.readouterr().out
    assert "probes 2/2" in said and "`{backbone}`: `python train.py" in said and "| backbone |" not in said


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """--quick with two rows, and how often a train.py was started."""
    monkeypatch.setitem(EXPERIMENTS, "daft", FAST)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: started.append(command) or popen(command, **rest))
    monkeypatch.setitem(reproduce.PATIENTS, "brain", 20)
    return started, ["daft", "--quick", "--device", "cpu", "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]


def test_quick_writes_its_tables_and_trains_nothing_twice(quick, tmp_path, capsys):
    """The second call finds every run complete and writes the same table."""
    started, argv = quick
    reproduce.main(argv)
    said, out = capsys.readouterr().out, tmp_path / "out" / "quick"
    assert len(started) == 2 and "mean nothing" in said and (out / "daft.png").is_file()
    assert (out / "daft.md").read_text() in said and "the volume helps: " in said
    with open(out / "daft.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["table", "volume"] and all(os.path.isdir(line["run"]) for line in lines)
    saved = (out / "daft.csv").read_text()
    reproduce.main(argv)
    assert len(started) == 2 and "was there" in capsys.readouterr().out and (out / "daft.csv").read_text() == saved


def test_what_is_complete_stays_what_is_half_done_goes_on(monkeypatch, tmp_path):
    """No run folder or one without flags: anew. One with flags: --resume. One with metrics: no process at all."""
    run, commands = str(tmp_path / "runs" / "a"), []

    class Child:
        def __init__(self, command, **rest):
            commands.append(command)

        def wait(self):
            os.makedirs(run, exist_ok=True)
            with open(os.path.join(run, "metrics.json"), "w") as file:
                file.write('{"patients": 8}')
            return 0

    monkeypatch.setattr(subprocess, "Popen", Child)
    os.makedirs(run), open(os.path.join(run, "args.json.part"), "w").close()
    assert reproduce.train_run(["--seed", "0"], run, ARGS) and "--resume" not in commands[0] and commands[0][-6:-2] == [
        "--runs", os.path.dirname(run), "--name", "a"]
    assert not reproduce.train_run(["--seed", "0"], run, ARGS) and len(commands) == 1
    os.rename(os.path.join(run, "metrics.json"), os.path.join(run, "args.json"))
    assert reproduce.train_run(["--seed", "0"], run, ARGS) and commands[1][-2:] == ["--resume", run] and "--seed" not in commands[1]


def test_a_run_that_fails_is_named(quick, monkeypatch):
    """One line with the command, what train.py said, and where the rest is."""
    monkeypatch.setitem(EXPERIMENTS, "daft", {**FAST, "rows": {"table": "--fusion linear --location 7"}})
    with pytest.raises(ValueError, match=r"python train.py .*--location 7.* status 2, .*location.*; see .*\.log"):
        reproduce.main(quick[1])


def test_a_signal_lets_the_run_save_itself(tmp_path):
    """SIGTERM ends both processes; the same line again resumes the run where it was."""
    code = ("import reproduce as r; from tests.test_reproduce import FAST\n"
            "r.EXPERIMENTS['daft'] = {**FAST, 'rows': {'table': '--fusion image'}, 'claims': []}; r.PATIENTS['brain'] = 200; r.main()")
    argv = [sys.executable, "-c", code, "daft", "--quick", "--device", "cpu", "--out", str(tmp_path / "out"),
            "--cache-dir", str(tmp_path / "cache")]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    logs = tmp_path / "out" / "quick" / "runs" / "daft"
    for _ in range(400):
        if list(logs.glob("*/args.json")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "the same line again" in said
    assert not list(logs.glob("*/metrics.json"))
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and list(logs.glob("*/metrics.json")), done.stderr
