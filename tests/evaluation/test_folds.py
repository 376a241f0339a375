import csv
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

import train
from evaluation import folds
from evaluation.metrics import METRICS
from plumbing.cohort import Task
from plumbing.flags import make_parser, parse
from tests.small_runs import fails, flags

NAMED = ("--fold", "all", "--folds", "3", "--name", "a")


@pytest.mark.slow
def test_every_fold_is_tested_once_and_the_table_is_their_mean(table, quiet, capsys):
    """Three folds of two epochs: fold 1 is what --fold 1 alone gives, every patient is tested once, and the numbers are numpy's."""
    short = flags(table, "--model", "vit", "--select", "rmse")
    train.main([*short, *NAMED])
    shown = capsys.readouterr().out
    results = [json.load(open(f"runs/a-fold{fold}/metrics.json")) for fold in range(3)]
    rows = {row["metric"]: row for row in csv.DictReader(open("runs/a-folds.csv"))}
    maes = [result["redness"]["mae"]["value"] for result in results]
    row = rows["test redness mae"]
    assert [float(row[f"fold{fold}"]) for fold in range(3)] == maes and row["folds"] == "3"
    assert float(row["mean"]) == pytest.approx(np.mean(maes)) and float(row["sd"]) == pytest.approx(np.std(maes, ddof=1))
    assert f"{np.mean(maes):.3f}" in shown and "runs/a-folds.csv" in shown
    log = [float(row["val_redness_rmse"]) for row in csv.DictReader(open("runs/a-fold2/log.csv"))]
    assert float(rows["val redness rmse"]["fold2"]) == min(log) and len(log) == 2       # --select, of which less is better
    tested = [row["patient"] for fold in range(3) for row in csv.DictReader(open(f"runs/a-fold{fold}/predictions.csv"))]
    assert sorted(tested) == sorted(f"p{i}" for i in range(20))
    train.main([*short, "--folds", "3", "--fold", "1", "--name", "alone"])
    assert open("runs/alone/predictions.csv").read() == open("runs/a-fold1/predictions.csv").read()
    assert "root mean squared error of redness" in open("runs/alone/report.html").read()


def test_no_folds_are_refused():
    """Before anything is looked for."""
    with pytest.raises(ValueError, match="--folds 0: need at least 2"):
        train.main(["--fold=all", "--folds=0", "--name=a"])


@pytest.mark.parametrize("name", ("sub/a", "-a"))
def test_folds_are_trained_where_their_table_is_looked_for(name, monkeypatch):
    """A name may lead into a folder, or begin with a minus. The last fold goes first: a table with a test split of its own, which has
    fold 0 alone, is refused before anything is trained."""
    trained, shown = [], []
    monkeypatch.setattr(folds, "show", lambda name, runs: shown.extend(runs))
    argv = ["--model=vit", "--fold=all", "--folds=2", f"--name={name}"]
    folds.train_folds(lambda argv: trained.append(make_parser("vit").parse_args(argv)), parse(argv), argv)
    assert [f"{args.runs}/{args.name}" for args in trained][::-1] == shown == [f"runs/{name}-fold0", f"runs/{name}-fold1"]
    assert [args.fold for args in trained] == [1, 0]


def test_undefined_metrics_are_left_out_of_the_mean():
    assert folds.mean_and_sd([1.0, None, 3.0]) == (2.0, pytest.approx(2 ** 0.5), 2)
    assert folds.mean_and_sd([None]) == (None, None, 0) and folds.mean_and_sd([4.0]) == (4.0, None, 1)


@pytest.mark.parametrize("more, words", [
    (("--fold", "all"), "needs --name"), ((*NAMED, "--check"), "--fold 0"), ((*NAMED, "--select", "auroc"), "redness (regression) has mae, rmse, r2"),
    (("--select", "mean_error"), "--select mean_error"), (("--fold", "every"), "--fold")])
def test_what_cannot_be_is_refused_before_training(table, quiet, monkeypatch, capsys, more, words):
    assert words in fails(flags(table, "--model", "vit", *more), monkeypatch, capsys)
    assert not os.path.exists("runs")


def test_a_fold_without_results_is_named(monkeypatch, capsys, tmp_path):
    """Of three folds the second failed: the table is of the two others and says so; the constant stands beside."""
    monkeypatch.chdir(tmp_path)
    task = Task("y", "regression")
    for fold in (0, 1, 2):
        os.makedirs(f"a-fold{fold}")
        json.dump({"model": "vit", "folds": 3}, open(f"a-fold{fold}/args.json", "w"))
        if fold != 1:
            open(f"a-fold{fold}/metrics.json", "w").close()
    scores = {name: {"value": 2.0} for name in METRICS["regression"]}
    metrics = {"unit": "patient", "y": {**scores, "units": 7, "constant": {name: {"value": 3.0} for name in scores}}}
    args = {"model": "vit", "lr": 0.1}
    monkeypatch.setattr(folds, "read_run", lambda run: SimpleNamespace(tasks=[task], first_task=task, metrics=metrics, log=[], args={**args, "fold": run[-1]}))
    monkeypatch.setattr(folds, "validated", lambda run: ([1.0], 0, "mae"))
    folds.main(["a"])
    text = capsys.readouterr().out
    assert "! a-fold1 holds no metrics.json: this fold is left out" in text and "2 of 3 folds" in text
    rows = {row["metric"]: row for row in csv.DictReader(open("a-folds.csv"))}
    assert rows["constant y mae"]["mean"] == "3.0" and rows["test y patients"]["fold2"] == "7" and "fold1" not in rows["test y mae"]
    assert rows["test y rmse"]["mean"] == "2.0" and rows["val y mae"]["fold0"] == "1.0"


@pytest.mark.parametrize("second, words", [
    ({"fold": 0}, "the same --fold"), ({"lr": 0.2}, "a-fold1 has lr 0.2, and a-fold0 0.1"), ({"target": "z"}, "a-fold1 has target z, and a-fold0 y")])
def test_runs_that_are_no_folds_of_one_are_refused(second, words):
    """One fold trained twice has no spread; other flags are another experiment. Device and window may be others."""
    first = {"fold": 0, "lr": 0.1, "target": "y", "device": "cpu", "window": "0,700"}
    own = {"fold": 1, "device": "cuda", "window": "0,710"}
    runs = [SimpleNamespace(args=args) for args in (first, {**first, **own}, {**first, "fold": 1, **second})]
    folds.refuse_others(["a-fold0", "a-fold1"], runs[:2])
    with pytest.raises(ValueError, match=words):
        folds.refuse_others(["a-fold0", "a-fold1"], runs[::2])
