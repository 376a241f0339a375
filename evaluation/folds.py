"""Cross-validation: every fold is the test split once, and the table is the mean over the folds.

    python train.py --fold all --name NAME ...     runs/NAME-fold0 and so on, then the table, NAME-folds.csv
                                                   beside them
    python -m evaluation.folds runs/NAME           the table alone, of the folds that are there

A standard deviation is that between the folds (n - 1). The folds share most of their training patients, so
that it is no standard error of what another cohort would give.
"""
import glob
import os
from os.path import exists, isfile, join

import numpy as np

from evaluation.metrics import METRICS
from evaluation.printing import print_columns
from evaluation.result_tables import number
from evaluation.run_text import read_run, validated
from plumbing.command import Parser, run_main
from plumbing.flags import read_args
from plumbing.run_folder import write_csv


# flags in which the folds of one table may differ: their own, --window, which becomes what a fold's training
# images have, and those of the machine
MAY_DIFFER = ("fold name runs overwrite resume window device workers kernels amp compile accumulate "
              "grad_checkpointing deterministic cache cache_dir check_files").split()


def train_folds(train, args, argv):
    """Train and test every fold with train(argv), one after the other, print and write the table.

    args: the flags that argv stands for. ValueError without --name, and with what is of one run: --check,
    several processes."""
    if not args.name or args.check or "LOCAL_RANK" in os.environ:
        raise ValueError("--fold all needs --name, and neither --check nor torchrun, which take one fold: "
                         "--fold 0")
    runs = [join(args.runs, f"{args.name}-fold{fold}") for fold in range(args.folds)]
    taken = [run for run in runs if exists(run)]
    if taken and not args.overwrite:
        raise ValueError(f"{taken[0]} exists; --overwrite starts all folds anew, --name takes another, "
                         f"--fold K --name {args.name}-foldK adds one")
    # the last one first: it is refused at once where the table has a test split of its own, which is fold 0
    for fold in reversed(range(args.folds)):
        train([*argv, f"--fold={fold}", f"--name={args.name}-fold{fold}"])           # the last of two counts
    show(join(args.runs, args.name), runs)


def show(name, runs):
    """Print the table of these runs, and write it to name-folds.csv. A run without results is named; it is no
    part of the table."""
    tested = []
    for run in runs:
        if isfile(join(run, "metrics.json")):
            tested.append(run)
        else:
            print(f"! {run} holds no metrics.json: this fold is left out")
    if not tested:
        raise ValueError(f"{name}-fold0 holds no metrics.json: no fold was trained and tested")
    results = [read_run(run) for run in tested]
    refuse_others(tested, results)
    columns = [values_of(run) for run in results]
    rows = [["metric", "mean", "sd", "folds", *[run.rpartition("-")[2] for run in tested]]]
    for metric in columns[0]:
        values = [column[metric] for column in columns]
        rows.append([metric, *mean_and_sd(values), *values])
    write_csv(f"{name}-folds.csv", rows)
    shown = [[metric, number(mean), number(sd, mean), count] for metric, mean, sd, count, *_ in rows[1:]]
    print_columns([f"{len(tested)} of {len(runs)} folds", "mean", "standard deviation", "folds"], shown)
    print(f"{name}-folds.csv")


def mean_and_sd(values):
    """-> mean and standard deviation over the folds in which a metric is defined, and how many those are."""
    defined = [value for value in values if value is not None]
    mean = sd = None
    if defined:
        mean = float(np.mean(defined))
    if len(defined) > 1:
        sd = float(np.std(defined, ddof=1))
    return mean, sd, len(defined)


def refuse_others(folders, runs):
    """ValueError where runs are no folds of one experiment: one fold twice, or other flags."""
    if len({run.args["fold"] for run in runs}) < len(runs):
        raise ValueError(f"{folders[0]} and the runs beside it: two were trained with the same --fold")
    for folder, run in zip(folders, runs):
        for flag, value in runs[0].args.items():
            own = run.args.get(flag)
            if own != value and flag not in MAY_DIFFER:
                raise ValueError(f"{folder} has {flag} {own}, and {folders[0]} {value}: "
                                 "they are no folds of one run")


def values_of(run):
    """A run -> {"test TASK METRIC": value or None}, the same of the constant, how many were tested,
    and what chose the best epoch, on the validation patients."""
    values = {}
    for task in run.tasks:
        scores = run.metrics[task.key]
        for name in METRICS[task.kind]:
            values[f"test {task.name} {name}"] = scores[name]["value"]
            if "constant" in scores:
                values[f"constant {task.name} {name}"] = scores["constant"][name]["value"]
        values[f"test {task.name} {run.metrics['unit']}s"] = scores["units"]
    validation, best, metric = validated(run)
    values[f"val {run.first_task.name} {metric}"] = None if best is None else validation[best]
    return values


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("name", help="runs/NAME of --fold all --name NAME")
    name = parser.parse_args(argv).name
    folds = [read_args(run).folds for run in glob.glob(f"{glob.escape(name)}-fold*/")]
    show(name, [f"{name}-fold{fold}" for fold in range(max(folds, default=0))])


if __name__ == "__main__":
    run_main(main)
