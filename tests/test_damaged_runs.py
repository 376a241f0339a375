"""Run folders whose files were damaged or edited: every reader gives a result, or one line."""
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from evaluation.card import write_card
from evaluation.compare import compare
from evaluation.export import export
from evaluation.other_table import saved_results
from evaluation.report import share, write_report
from plumbing.flags import read_args
from plumbing.prepare import load_data
from plumbing.resume import same_split, same_targets
from plumbing.run_folder import load_state, open_folder
from plumbing.saved_run import open_model
from tests.grey_runs import fork, refused, wait
from tests.plumbing.test_readers import mutated

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py
PAGES = ("args.json", "metrics.json", "log.csv", "split.csv", "predictions.csv", "best/config.json", "best/model.safetensors")
READS = {                                                          # reader: the files that it reads
    "report": PAGES, "card": PAGES, "share": PAGES, "compare": ("predictions.csv", "best/config.json"), "export": PAGES,
    "args": PAGES[:1], "folder": PAGES[:1], "model": PAGES[-2:], "results": ("metrics.json",),
    "state": ("last/state.pt", "last/model.safetensors"), "targets": ("last/config.json",), "split": ("split.csv",)}
VALUES = (None, True, -1, 0, 3, 1e300, 10 ** 30, "", "no", "nan", [], [0], {}, {"value": None}, "\ud800", "two\nlines")


def edited(content, rng):
    """JSON with one entry, anywhere in it, left out or changed to a value of another type."""
    content = json.loads(content)
    places, stack = [], [content]
    while stack:
        parent = stack.pop()
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        places += [(parent, key) for key in keys]
        stack += [parent[key] for key in keys if isinstance(parent[key], (dict, list))]
    parent, key = places[rng.integers(len(places))]
    if rng.integers(3):
        parent[key] = VALUES[rng.integers(len(VALUES))]
    else:
        del parent[key]
    return json.dumps(content).encode()


def rearranged(content, rng):
    """A CSV of a run with a column, a row or a cell left out or changed."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    row, column = rng.integers(len(rows)), rng.integers(len(rows[0]))
    kind = rng.integers(5)
    if kind == 0:
        for cells in rows:
            del cells[column]
    elif kind == 1:
        del rows[row]
    elif kind == 2:
        del rows[row][column:]
    else:
        rows[row][column] = str(VALUES[rng.integers(len(VALUES))]).encode(errors="replace").decode()
    return "\n".join(map(",".join, rows)).encode()


def damaged(name, content, rng):
    if rng.integers(2):
        if name.endswith(".json"):
            return edited(content, rng)
        if name.endswith(".csv"):
            return rearranged(content, rng)
    return mutated(content, rng)


def readers_of(run, whole):
    """[what reads a run folder], each to be called without arguments."""
    cohort = load_data(read_args(whole))

    def resume_state():
        model, _, args = open_model(whole)
        optimizer = train.make_optimizer(model, args, torch.device("cpu"))
        load_state(run, model, optimizer, dict(epoch=0, step=0, norm=0.0, history=[], loss=[]), 9)

    def exported(call):
        shutil.rmtree("out", ignore_errors=True)
        call(run, "out")

    return {"report": lambda: write_report(run), "card": lambda: write_card(run), "share": lambda: exported(share),
            "compare": lambda: compare(run, whole, resamples=5), "export": lambda: exported(export),
            "args": lambda: read_args(run), "state": resume_state, "targets": lambda: same_targets(cohort, run),
            "split": lambda: same_split(cohort, run), "model": lambda: open_model(run), "results": lambda: saved_results(run),
            "folder": lambda: open_folder(SimpleNamespace(resume=run, epochs=3))}


def attack(run, trials, seed=0):
    """-> {reader: [refusals, trials]}, and lines that say what else than a result or one line came out."""
    rng, counts, faults = np.random.default_rng(seed), {}, []
    shutil.copytree(run, "run")
    readers = readers_of("run", run)
    pairs = [(reader, name) for reader, names in READS.items() for name in names]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    for i in range(trials):
        reader, name = pairs[i % len(pairs)]
        content = open(f"{run}/{name}", "rb").read()
        with open(f"run/{name}", "wb") as file:
            file.write(damaged(name, content, rng))
        count = counts.setdefault(reader, [0, 0])
        count[1] += 1
        signal.alarm(10)                                           # a reader that hangs ends the process
        try:
            readers[reader]()
        except (ValueError, OSError) as error:
            count[0] += 1
            if "\n" in str(error).strip() or not ("run" in str(error) or isinstance(error, OSError)):
                faults.append(f"{reader} {name} {i}: {error!r}")
        except Exception as error:
            faults.append(f"{reader} {name} {i}: {error!r}")
        signal.alarm(0)
        shutil.copyfile(f"{run}/{name}", f"run/{name}")
    return counts, faults


@pytest.mark.parametrize("trials", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files(grey_run, trials):
    """Keys left out, types changed, files cut and bytes flipped: a result, or one line that names the run."""
    def call():
        counts, faults = attack(grey_run, trials)
        print(json.dumps(counts), *faults, sep="\n")

    status, text = wait(fork(call))
    assert status == 0, text[-3000:]
    lines = text.strip().splitlines()
    start = [line.startswith('{"') for line in lines].index(True)
    assert not lines[start + 1:], lines[start + 1:]
    counts = json.loads(lines[start])
    assert sum(n for _, n in counts.values()) == trials
    assert 0 < sum(refusals for refusals, _ in counts.values()) < trials
    assert trials < 100 or all(refusals < n for refusals, n in counts.values())


def test_a_header_that_lies_about_its_length(grey_run):
    """No memory is asked for: safetensors compares the length with the file's."""
    shutil.copytree(grey_run, "run")
    with open("run/best/model.safetensors", "r+b") as file:
        file.write((2 ** 40).to_bytes(8, "little"))
    for reader in (write_report, open_model):
        assert "model.safetensors: not a readable weight file (Error while deserializing header: " in refused(reader, "run")


def test_the_line_names_what_is_wrong(grey_run):
    shutil.copytree(grey_run, "run")
    with open("run/log.csv", "w") as file:
        file.write("epoch\n1\n")
    assert refused(write_report, "run") == ("run: no evaluated run as train.py and eval.py leave one "
                                            "(KeyError: 'val_grey_mae'); python eval.py run makes its metrics and predictions anew")


def test_a_prediction_that_is_no_number_names_its_run(grey_run):
    """Of the two that are compared."""
    shutil.copytree(grey_run, "run")
    with open("run/predictions.csv") as file:
        head, row, *rows = file.read().splitlines()
    with open("run/predictions.csv", "w") as file:
        file.write("\n".join([head, ",".join([*row.split(",")[:-1], "nan"]), *rows]))
    assert refused(compare, grey_run, "run", 5).startswith("run: no evaluated run as train.py and eval.py leave one (grey of patient ")
