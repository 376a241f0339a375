"""The papers' comparisons at laptop scale: the rows of their tables, trained with several seeds.

    python -m experiments.reproduce multivit        also: crossvit, softmax_free, lt_vit, daft, probes,
                                                    pneumonia (real films), all, or several of them
    python -m experiments.reproduce all --jobs 4    four trainings at a time, each with a quarter of the CPU
    python -m experiments.reproduce all --quick     few patients, one epoch, one seed: does it run?

What is compared stands in claims.py; the cohorts are simulated. A seed draws the split, the weights and the
order of training; the rows of one seed share its split, so rows are compared seed by seed.

    interval   mean +- t s / sqrt(n) of n seeds, s their standard deviation, t of Student's distribution
               (4.30 for three): where the mean of many more seeds would be; of a margin, of the n margins
    margin     of "A, B > C" in a seed: the smallest lead of a row over one that it should beat, below 0 where
               one does not
    verdict    holds: the margin is above 0 in every seed, and so is its interval; does not hold: both are
               below 0; else undecided. With three seeds only what is plain is decided; and "the best of
               nine" has the luckiest of eight against it, so its margin is below each lead

Every run is a `python train.py` of its own, in OUT/runs. A run that has its metrics.json is not trained
again, one that was stopped is resumed: the same line again goes on. When a run fails, the reason is printed
and the others go on. The name of a run folder has a digest of the flags, so a row whose flags are changed is
trained anew; after a change of the code delete OUT. Tables: OUT/NAME.md and NAME.png.
"""
import hashlib
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from os.path import abspath, dirname, isdir, isfile, join, split

import numpy as np

from evaluation.metrics import LOWER_IS_BETTER
from evaluation.picture_rows import stack
from evaluation.plots import dots, histogram
from evaluation.predictions_file import read_rows
from evaluation.run_text import read_run
from evaluation.scores import known_units
from experiments.claims import EXPERIMENTS
from experiments.intervals import look_up, verdict, with_interval
from experiments.timing import markdown_row
from plumbing.command import Parser, Stop, count, run_main
from plumbing.run_folder import write_whole
from plumbing.saved_run import read_metrics
from plumbing.simulate import COHORTS, make


PATIENTS = 40                                                      # of --quick
TRAIN = join(dirname(dirname(abspath(__file__))), "train.py")


# -----------------------------------------------------------------------------
# what is to be trained


def plan(name, seed, args):
    """-> {(row, flags of the metric): (list of flags, run folder)} of one seed, in the order of training."""
    experiment = EXPERIMENTS[name]
    commands = {(row, ""): flags for row, flags in experiment.get("first", {}).items()}
    for _, _, extra in experiment["metrics"].values():             # metrics of the same runs have the same
        for row, flags in experiment["rows"].items():
            commands[row, extra] = f"{experiment['flags']} {flags} {extra}"
    runs = {}
    folders = {}
    for (row, extra), command in commands.items():
        flags = [flag.format_map(folders) for flag in f"{command} --seed {seed}".split()]
        if args.quick:
            flags += ["--epochs", "1"]
            data = flags.index("--data") + 1
            if flags[data] in COHORTS:
                flags[data] = make(flags[data], args.cache_dir, patients=PATIENTS)
        digest = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
        words = re.sub(r"\W+", "-", row).strip("-").lower()
        folders[row] = join(args.out, "runs", name, f"{words}-seed{seed}-{digest}")
        runs[row, extra] = flags, folders[row]
    return runs


# -----------------------------------------------------------------------------
# training


def train_run(flags, run, args, stop):
    """Train one run in a process of its own, unless it has ended or all is to stop -> what became of it."""
    if read_metrics(run):
        return "was there"
    if stop:
        return "stopped"
    folder, name = split(run)
    os.makedirs(folder, exist_ok=True)
    command = [sys.executable, "-u", TRAIN, "--device", args.device]
    if isfile(join(run, "args.json")):
        command += ["--resume", run]
    else:                                                          # new, or killed before it had its flags
        command += [*flags, "--overwrite", "--runs", folder, "--name", name, "--cache-dir", args.cache_dir]
    log = run + ".log"
    with open(log, "a", encoding="utf-8") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file)
        while child.poll() is None:
            if stop:
                child.terminate()
            time.sleep(0.1)
    if read_metrics(run):
        return "trained"
    if stop:
        return "stopped"
    with open(log, encoding="utf-8") as file:
        last = file.read().strip().split("\n")[-1]
    return f"failed: python train.py {' '.join(flags)}: status {child.returncode}, {last}; see {log}"


def train_all(name, commands, args, stop):
    """Train each (row, flags, run), args.jobs at a time, those that start from another last -> {run: why it
    failed}. Ctrl-C and SIGTERM end it; every training saves itself."""
    folders = {run for _, _, run in commands}
    first = [command for command in commands if folders.isdisjoint(command[1])]
    last = [command for command in commands if command not in first]
    failed = {}
    if args.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // args.jobs)))
    with ThreadPoolExecutor(args.jobs) as pool:
        for stage in (first, last):
            outcomes = pool.map(lambda command: train_run(*command[1:], args, stop), stage)
            for (row, _, run), outcome in zip(stage, outcomes):
                folders.remove(run)
                print(f"{name}   {row}   {outcome}   {run}   {len(folders)} to go", flush=True)
                if outcome.startswith("failed"):
                    failed[run] = outcome
    if stop:
        print("stopped; the same line again goes on")
        sys.exit(128 + stop.signal)
    return failed


# -----------------------------------------------------------------------------
# tables


def gather(experiment, metric, plans):
    """-> {column: {row: [value per seed]}} of a metric and its experiment's other columns.

    The metric has a row for chance too. NaN where a run failed. plans: what `plan` returns, one per seed."""
    place, chance, extra = experiment["metrics"][metric]
    columns = {}
    for column, place in {metric: place, **experiment.get("columns", {}), "chance": chance}.items():
        columns[column] = {row: [look_up(read_metrics(runs[row, extra][1]), place) for runs in plans]
                           for row in experiment["rows"]}
    chances = list(columns.pop("chance").values())                 # some row of a seed has not failed
    columns[metric]["chance"] = np.fmax.reduce(chances).tolist()
    return columns


def table(experiment, metric, columns):
    """What `gather` returns -> lines of Markdown: the rows of one metric, and what they say to claims."""
    place, _, extra = experiment["metrics"][metric]
    lower = place.split("/")[-1] in LOWER_IS_BETTER
    better = "lower" if lower else "higher"
    command = f"python train.py {experiment['flags']} {extra}".strip()
    others = experiment.get("columns", ())
    head = ["row", "flags", "mean (95 %)", *others, "seeds"]
    lines = ["", f"## {metric}, {better} is better", "", f"`{command}` and", "",
             markdown_row(head), f"{'|---' * len(head)}|"]
    for row, numbers in columns[metric].items():
        flags = ""
        if row in experiment["rows"]:
            flags = f"`{experiment['rows'][row]}`"
        cells = [row, flags, with_interval(numbers)]
        for column in others:                                      # chance has none, nor has every model
            cells.append(with_interval(columns[column].get(row, [])).replace("failed", ""))
        cells.append(", ".join(f"{value:.3f}" for value in numbers).replace("nan", "failed"))
        lines.append(markdown_row(cells))
    lines += ["", "| the paper says | here it | margin (95 %) | in seeds |", "|---|---|---|---|"]
    for claim, order, *metrics in experiment["claims"]:
        if not metrics or metric in metrics:
            lines.append(markdown_row([claim, *verdict(order, columns[metric], lower)]))
    return lines


def draw_errors(experiment, metric, plans):
    """-> a histogram per row, with the same bars, of the errors of all seeds; [] where the metric is not of a
    number."""
    place, _, extra = experiment["metrics"][metric]
    errors = {}
    for row in experiment["rows"]:
        for runs in plans:
            _, folder = runs[row, extra]
            if not read_metrics(folder):                           # it failed
                continue
            run = read_run(folder)
            for task in run.tasks:
                if task.kind == "regression" and place.startswith(f"{task.key}/"):
                    predicted, actual, _ = known_units(task, read_rows([task], run.predictions))
                    errors.setdefault(row, []).extend(predicted - actual)
    every = sum(errors.values(), [])
    return [histogram(own, f"predicted - actual, {row}", every) for row, own in errors.items()]


def reproduce(name, args, stop):
    """Train what is not yet trained of one experiment, write and print its tables -> why runs failed."""
    experiment = EXPERIMENTS[name]
    plans = [plan(name, seed, args) for seed in range(args.seeds)]
    commands = [(row, *command) for runs in plans for (row, _), command in runs.items()]
    failed = train_all(name, commands, args, stop)
    patients = {str(read_metrics(run)["patients"]) for _, _, run in commands if run not in failed}
    text = [f"# {name}", "", experiment["about"], "",
            f"Seeds: {args.seeds}, counted from 0. Test patients: {' or '.join(patients)}. Intervals: t "
            "intervals of the mean over the seeds."]
    if args.quick:
        text += ["", "**Quick: few patients, one epoch. These numbers mean nothing.**"]
    for run, flags in experiment.get("first", {}).items():
        text += ["", f"`{{{run}}}`: `python train.py {flags}`, same seed"]
    if failed:
        text += ["", f"**{len(failed)} of {len(commands)} runs failed.**"]
    pictures = []
    for metric in experiment["metrics"]:
        columns = gather(experiment, metric, plans)
        text += table(experiment, metric, columns)
        pictures.append(dots(columns[metric], f"{name}, {metric}: a dot per seed, and their mean"))
        pictures += draw_errors(experiment, metric, plans)
    path = join(args.out, name)
    page = "\n".join(text) + "\n"
    write_whole(path + ".md", page)
    stack(pictures).save(path + ".png")
    print(page)
    print(f"wrote {path}.md and .png", flush=True)
    return list(failed.values())


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("name", nargs="+", choices=[*EXPERIMENTS, "all"], help="which comparisons")
    parser.add_argument("--seeds", type=int, choices=range(1, 11), default=3, help="how many, from 0")
    parser.add_argument("--quick", action="store_true", help="few patients, one epoch, one seed: a trial")
    parser.add_argument("--jobs", type=count, default=1, help="trainings at a time")
    parser.add_argument("--out", default="runs/reproduce", help="folder of tables and runs")
    parser.add_argument("--cache-dir", default="data_cache", help="folder of simulated cohorts")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    if args.quick:
        args.seeds = 1
        args.out = join(args.out, "quick")                 # beside numbers that mean something
    failed = []
    stop = Stop()
    names = args.name
    if "all" in names:
        names = list(EXPERIMENTS)
        if not isdir("chest_xray"):
            names.remove("pneumonia")
            print("pneumonia is left out: it needs Kermany's films, in a folder chest_xray here")
    for name in names:
        failed += reproduce(name, args, stop)
    if failed:
        raise ValueError(f"runs that failed: {len(failed)}, the first: {failed[0]}")


if __name__ == "__main__":
    run_main(main)
