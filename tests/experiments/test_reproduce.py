"""experiments/reproduce.py, claims.py, intervals.py: the tables' arithmetic, the claims, that every command is one train.py takes, and that a kill costs nothing."""
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from subprocess import Popen                                       # the real one, whatever a test puts in its place

import numpy as np
import pytest

import eval as evaluation_program
import train
from evaluation.predictions_file import write_predictions
from experiments import reproduce
from experiments.claims import EXPERIMENTS
from experiments.intervals import T, look_up, margin, spread, verdict, with_interval
from experiments.reproduce import gather, plan, table, train_all
from plumbing.command import run_main
from plumbing.flags import parse
from tests.hub import ROOT
from tests.small_runs import flags as small_flags

ARGS = Namespace(out="out", cache_dir="cache", device="cpu", quick=False, seeds=3, jobs=1)
TOY = dict(about="A toy.", flags="--model vit --data brain", metrics={"MAE": ("age/mae", "age/constant/mae", "--target age")},
           rows={"small": "--size micro", "large": "--size mini"}, claims=[("large is better", "large > small")])
FAST = dict(about="Runs of seconds.", flags="--model daft --data brain --target diagnosis",
            metrics={"accuracy": ("diagnosis/accuracy", "diagnosis/constant/accuracy", "")},
            columns={"AUROC": "diagnosis/auroc"},
            first={"volume": "--model daft --data brain --target diagnosis --fusion image"},
            rows={"table": "--fusion linear", "both": "--fusion linear-features --pretrained {volume}"},
            claims=[("the volume helps", "both > table")])


class GoOn:
    """A Stop to which no signal has come."""
    signal = None

    def __bool__(self):
        return False


class Forked:
    """subprocess.Popen of a train.py, as a fork of this process, which has imported everything. The test of signals has real ones."""

    def __init__(self, command, stdout, **rest):
        self.pid, self.returncode = os.fork(), None
        if not self.pid:
            sys.argv, status = command[2:], 1                      # without -u
            sys.stdout = sys.stderr = os.fdopen(os.dup(stdout.fileno()), "w")
            try:
                run_main(train.main)
                status = 0
            except SystemExit as stop:
                status = stop.code
            finally:
                sys.stdout.flush()
                os._exit(status)

    def poll(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def write_run(run, metrics):
    """A run folder as train.py leaves it, as far as it is read."""
    os.makedirs(run)
    with open(os.path.join(run, "metrics.json"), "w") as file:
        json.dump(metrics, file)


def test_margins_by_hand():
    """Leads of every kind of order, for metrics of which more is better and of which less is; undefined where a value is."""
    values = {"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0, "e": math.nan}
    for order, lead in {"a > b": 1, "b > a": -1, "b > c": 0, "b >= c": 0, "a, b > d": 1, "a, d > b": -1, "a > b, c, d": 1,
                        "d + 0.5 > b": -0.5, "d + 1.5 > b": 0.5, "d + 1 >= b": 0}.items():
        assert margin(order, values) == lead, order
    assert math.isnan(margin("a > e", values)) and math.isnan(margin("e, a > d", values))
    assert margin("d > a", values, lower=True) == 2 and margin("a > d", values, lower=True) == -2
    assert margin("a + 2.5 > d", values, lower=True) == 0.5 and margin("a + 1.5 > d", values, lower=True) == -0.5


def test_the_interval_is_students():
    """Against scipy where it is; by hand for three seeds; it covers the mean in 95 of 100 sets of three."""
    center, half = spread([1.0, 2.0, 3.0])
    assert center == 2 and half == pytest.approx(4.303 / 3 ** 0.5) and with_interval([1.0, 2.0, 3.0]) == "2.000 (-0.484 to 4.484)"
    assert spread([1.0, math.nan, 3.0]) == spread([1.0, 3.0]) and with_interval([0.5]) == "0.500" and with_interval([math.nan]) == "failed"
    dice = random.Random(0)
    draws = (spread([dice.gauss(5, 2) for _ in range(3)]) for _ in range(3000))
    assert 0.94 < sum(abs(center - 5) <= half for center, half in draws) / 3000 < 0.96
    stats = pytest.importorskip("scipy.stats")
    assert T == pytest.approx([stats.t.ppf(0.975, n) for n in range(1, 10)], abs=5e-4)


def test_verdict_says_what_seeds_can_decide():
    """Each seed is judged by its own numbers; 0 within the margin's interval is undecided, as is one seed; an undefined one is said."""
    values = {"x": [1.0, 2.0, 9.0], "y": [2.0, 3.1, 1.0], "z": [0.0, 0.1, 0.2], "n": [math.nan, 1.0, -1.0], "t": [0.0, 0.1, 0.2]}
    assert verdict("x > z", values)[::2] == ("undecided", "3 of 3") and verdict("y > x", values)[::2] == ("undecided", "2 of 3")
    assert verdict("y > x", values, lower=True)[2] == "1 of 3" and verdict("x, y > z", values)[2] == "3 of 3"
    clear = {"a": [5.0, 5.1, 5.3], "b": [4.0, 4.0, 4.1]}
    assert verdict("a > b", clear) == ("holds", "+1.100 (+0.852 to +1.348)", "3 of 3")
    assert verdict("b > a", clear)[::2] == ("does not hold", "0 of 3") and verdict("b > a", clear, lower=True)[0] == "holds"
    assert verdict("z >= t", values)[::2] == ("holds", "3 of 3") and verdict("z > t", values)[::2] == ("does not hold", "0 of 3")
    assert verdict("n > z", values)[2] == "1 of 2, undefined in 1"
    first = {row: each[:1] for row, each in values.items()}
    assert verdict("n > z", first)[0].startswith("cannot be told") and verdict("y > x", first) == ("undecided", "+1.000", "1 of 1")


def test_table_of_written_runs(monkeypatch, tmp_path):
    """Means, seeds, chance and claims, worked out by hand."""
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    args = Namespace(**{**vars(ARGS), "out": str(tmp_path)})
    plans = [plan("toy", seed, args) for seed in range(3)]
    for seed, plan_ in enumerate(plans):
        for row, value in {"small": (5.0, 6.0, 7.0)[seed], "large": (4.0, 6.5, 4.5)[seed]}.items():
            write_run(plan_[row, "--target age"][1], {"patients": 8, "age": {"mae": {"value": value}, "constant": {"mae": {"value": 9.0}}}})
    toy = {**TOY, "columns": {"bias": "age/bias|"}}
    text = table(TOY, "MAE", gather(TOY, "MAE", plans))
    wider = table(toy, "MAE", gather(toy, "MAE", plans))
    assert "| row | flags | mean (95 %) | bias | seeds |" in wider and "(3.516 to 8.484) |  | 5.000, 6.000, 7.000 |" in "".join(wider)
    assert "`python train.py --model vit --data brain --target age` and" in text
    assert "| small | `--size micro` | 6.000 (3.516 to 8.484) | 5.000, 6.000, 7.000 |" in text
    assert "| large | `--size mini` | 5.000 (1.714 to 8.286) | 4.000, 6.500, 4.500 |" in text
    assert "| chance |  | 9.000 (9.000 to 9.000) | 9.000, 9.000, 9.000 |" in text
    assert text[1] == "## MAE, lower is better" and text[-1] == "| large is better | undecided | +1.000 (-2.727 to +4.727) | 2 of 3 |"
    cells = [line.count("|") for line in text if line.startswith("|")]
    assert cells == [5] * 5 + [5] * 3                              # every row of a table as wide as its head
    os.remove(os.path.join(plans[1]["small", "--target age"][1], "metrics.json"))              # as a run that failed
    text = table(TOY, "MAE", gather(TOY, "MAE", plans))
    assert "| small | `--size micro` | 6.000 (-6.706 to 18.706) | 5.000, failed, 7.000 |" in text
    assert "| chance |  | 9.000 (9.000 to 9.000) | 9.000, 9.000, 9.000 |" in text             # which the other row still knows
    assert text[-1].endswith("| 2 of 2, undefined in 1 |")


@pytest.mark.slow
def test_a_histogram_per_row_and_each_image_by_itself(table, tmp_path, quiet, monkeypatch):
    """Histograms of two runs, of numbers only; the error per image is that of the run's samples."""
    toy = dict(flags="", metrics={"MAE": ("redness/mae", "redness/constant/mae", "")}, rows={"a": "", "b": ""})
    kept = []
    monkeypatch.setattr(evaluation_program, "write_predictions", lambda path, tasks, predictions, cohort: (
        kept.append(predictions), write_predictions(path, tasks, predictions, cohort)))
    for row in "ab":
        train.main(small_flags(table, "--model", "vit", "--epochs", "1", "--seed", str(ord(row)), "--runs", str(tmp_path), "--name", row))
    runs = {(row, ""): ([], str(tmp_path / row)) for row in "ab"}
    a, b = reproduce.draw_errors(toy, "MAE", [runs])
    assert a.size == b.size and a.tobytes() != b.tobytes()
    assert reproduce.draw_errors(toy, "MAE", [{key: ([], "nowhere") for key in runs}]) == []
    assert reproduce.draw_errors({**toy, "metrics": {"AUROC": ("grade/auroc", "", "")}}, "AUROC", [runs]) == []
    metrics, alone = reproduce.read_metrics(str(tmp_path / "b")), kept[-1]["alone"]
    error = np.abs(alone["prediction"]["redness"] - alone["target"]["redness"]).mean()
    assert metrics["images"] > metrics["patients"] and len(alone["patient"]) == metrics["images"]
    assert metrics["redness"]["per_image"]["mae"]["value"] == pytest.approx(error) != metrics["redness"]["mae"]["value"]
    assert metrics["redness"]["per_image"]["patients"] == metrics["patients"]


def test_look_up():
    """The first place that is there; null is NaN; nowhere is an error, not a blank."""
    metrics = {"a": {"b": {"value": 1.0}, "c": {"value": None}}}
    assert look_up(metrics, "a/b") == look_up(metrics, "a/x|a/b|a/c") == 1.0 and math.isnan(look_up(metrics, "a/c"))
    assert math.isnan(look_up({}, "a/b")) and math.isnan(look_up(metrics, "a/x|"))
    with pytest.raises(ValueError, match="no a/x"):
        look_up(metrics, "a/x")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_is_a_command_and_every_claim_names_rows(name):
    """train.py takes the flags of every run; claims and metrics are spelled as the rows are; run folders differ."""
    experiment = EXPERIMENTS[name]
    runs = plan(name, 1, ARGS)
    for flags, _ in runs.values():
        assert parse(flags).seed == 1
    assert len({run for _, run in runs.values()}) == len(runs)
    assert not [row for row in experiment["rows"] if re.search(", | >=? | \\+ ", row)]
    for _, order, *which in experiment["claims"]:
        rows = {row.partition(" + ")[0] for group in re.split(" >=? ", order) for row in group.split(", ")}
        assert rows <= {*experiment["rows"], "chance"} and set(which) <= set(experiment["metrics"])


def test_a_run_is_named_after_its_flags(monkeypatch):
    """Other flags, another folder; and a row that starts from another run gets that run's folder of the same seed."""
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    before = plan("toy", 0, ARGS)
    monkeypatch.setitem(EXPERIMENTS, "toy", {**TOY, "rows": {**TOY["rows"], "small": "--size tiny"}})
    after = plan("toy", 0, ARGS)
    key, other = ("small", "--target age"), ("large", "--target age")
    assert before[key][1] != after[key][1] and before[other] == after[other]
    probes = plan("probes", 2, ARGS)
    assert all((probes["backbone", ""][1] in flags) == ("probe" in flags) for (row, _), (flags, _) in probes.items() if row != "backbone")


@pytest.fixture
def quick(monkeypatch, tmp_path, quiet):
    """--quick with a run that is no row and two rows, and the commands that were started."""
    monkeypatch.setitem(EXPERIMENTS, "daft", FAST)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: started.append(command) or Forked(command, **rest))
    monkeypatch.setattr(reproduce, "PATIENTS", 20)
    return started, ["daft", "--quick", "--device", "cpu", "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache")]


@pytest.mark.slow
def test_quick_writes_its_tables_and_trains_nothing_twice(quick, tmp_path, capsys):
    """What a row starts from is trained first and is no row; the second call finds every run complete and writes the same table."""
    started, argv = quick
    reproduce.main(argv)
    said, out = capsys.readouterr().out, tmp_path / "out" / "quick"
    assert len(started) == 3 and "mean nothing" in said and (out / "daft.png").is_file()
    assert "   0 to go" in said and "`{volume}`: `python train.py" in said and "| volume |" not in said
    assert re.search(r"runs/daft/volume-seed0-\w+$", started[2][started[2].index("--pretrained") + 1])
    assert (out / "daft.md").read_text() in said and "| the volume helps | undecided | " in said
    assert re.search(r"\| both \| .* \| 0\.\d{3} \| 0\.\d{3} \| 0\.\d{3} \|", said)          # its other column too
    saved = (out / "daft.md").read_text()
    reproduce.main(argv)
    assert len(started) == 3 and "was there" in capsys.readouterr().out and (out / "daft.md").read_text() == saved


def test_what_is_complete_stays_what_is_half_done_goes_on(monkeypatch, tmp_path):
    """No run folder or one without flags: anew. One with flags: --resume. One with metrics: no process at all."""
    run, commands = str(tmp_path / "runs" / "a"), []

    class Child:
        returncode = 0

        def __init__(self, command, **rest):
            commands.append(command)

        def poll(self):
            os.makedirs(run, exist_ok=True)
            with open(os.path.join(run, "metrics.json"), "w") as file:
                file.write('{"patients": 8}')
            return 0

    monkeypatch.setattr(subprocess, "Popen", Child)
    os.makedirs(run), open(os.path.join(run, "args.json.part"), "w").close()
    assert reproduce.train_run(["--seed", "0"], run, ARGS, GoOn()) == "trained" and "--resume" not in commands[0] and commands[0][-6:-2] == [
        "--runs", os.path.dirname(run), "--name", "a"]
    assert reproduce.train_run(["--seed", "0"], run, ARGS, GoOn()) == "was there" and len(commands) == 1
    os.rename(os.path.join(run, "metrics.json"), os.path.join(run, "args.json"))
    assert reproduce.train_run(["--seed", "0"], run, ARGS, GoOn()) == "trained"
    assert commands[1][-2:] == ["--resume", run] and "--seed" not in commands[1]


def test_a_run_that_fails_is_named_and_the_others_are_kept(quick, monkeypatch, tmp_path, capsys):
    """One line with the command, what train.py said, and where the rest is; what starts from it fails too; the table holds the others."""
    monkeypatch.setitem(EXPERIMENTS, "daft", {**FAST, "first": {"volume": FAST["first"]["volume"] + " --location 7"}})
    with pytest.raises(ValueError, match=r"runs that failed: 2, the first: failed: python train.py .*--location 7.* status 2, .*location.*; see .*\.log"):
        reproduce.main(quick[1])
    text = (tmp_path / "out" / "quick" / "daft.md").read_text()
    assert "**2 of 3 runs failed.**" in text and re.search(r"\| both \| .* \| failed \|  \| failed \|", text)
    assert re.search(r"\| table \| `--fusion linear` \| 0\.\d{3} \| 0\.\d{3} \| 0\.\d{3} \|", text) and "cannot be told" in text
    assert "table   trained" in capsys.readouterr().out


def test_jobs_run_side_by_side_but_not_before_what_they_start_from(monkeypatch, tmp_path):
    """--jobs 2: two processes at once, each told its share of threads; a run that starts from another waits for it."""
    together, lines = threading.Barrier(2, timeout=20), []

    class Child:
        returncode = 0

        def __init__(self, command, **rest):
            self.run = os.path.join(command[command.index("--runs") + 1], command[command.index("--name") + 1])
            lines.append(("start", os.path.basename(self.run), os.environ["OMP_NUM_THREADS"]))

        def poll(self):
            if self.run[-1] in "ab":
                together.wait()                                    # breaks if the other one is not running too
            write_run(self.run, {"patients": 8})
            lines.append(("end", os.path.basename(self.run), ""))
            return 0

    monkeypatch.setattr(subprocess, "Popen", Child)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "")                      # as it was, afterwards
    monkeypatch.delenv("OMP_NUM_THREADS")
    a, b, c = (str(tmp_path / "runs" / name) for name in "abc")
    args = Namespace(**{**vars(ARGS), "jobs": 2})
    assert train_all("toy", [("a", [], a), ("b", [], b), ("c", ["--pretrained", b], c)], args, GoOn()) == {}
    assert {line[1:] for line in lines if line[0] == "start"} == {("a", "4"), ("b", "4"), ("c", "4")}
    assert lines.index(("end", "b", "")) < lines.index(("start", "c", "4"))


@pytest.mark.slow
def test_a_signal_lets_the_run_save_itself(quick, monkeypatch, tmp_path, capsys):
    """SIGTERM ends both processes; the same line again resumes the run where it was."""
    one = "{**FAST, 'first': {}, 'rows': {'table': '--fusion image --batch-size 1'}, 'claims': []}"
    code = ("import experiments.reproduce as r; from tests.experiments.test_reproduce import FAST; "
            f"r.EXPERIMENTS['daft'] = {one}; r.PATIENTS = 100; r.main()")
    logs, (started, argv) = tmp_path / "out" / "quick" / "runs" / "daft", quick
    process = Popen([sys.executable, "-c", code, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for _ in range(2000):
        if list(logs.glob("*/args.json")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "the same line again" in said
    assert not list(logs.glob("*/metrics.json")) and not started
    monkeypatch.setitem(EXPERIMENTS, "daft", eval(one)), monkeypatch.setattr(reproduce, "PATIENTS", 100)
    reproduce.main(argv)
    assert "--resume" in started[0] and len(started) == 1 and list(logs.glob("*/metrics.json")), capsys.readouterr().out
