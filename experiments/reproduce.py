"""The papers' comparisons at laptop scale: the rows of their tables, trained on simulated cohorts with several seeds.

    python reproduce.py multivit                    also: crossvit, softmax_free, lt_vit, daft, probes, all
    python reproduce.py all --jobs 4                four trainings at a time, each with a quarter of the CPU's threads
    python reproduce.py all --quick                 a few patients, one epoch, one seed: does it run? The numbers mean nothing

EXPERIMENTS is the thing to read: a row of a table is a command, a claim of a paper is an order of rows. A seed draws the split,
the weights and the order of training; the rows of one seed share its split, so rows are compared seed by seed.

    interval     mean +- t s / sqrt(n) of n seeds, s their standard deviation, t of Student's distribution (4.30 for three): where
                 the mean of many more seeds would be; of a difference, of the n differences
    margin       of "A, B > C" in a seed: the least lead of a row over one that it should beat, below 0 where one does not
    holds        its interval is above 0; does not hold: below 0; undecided: 0 is inside. With three seeds only what is plain is
                 decided; and "the best of nine" has the luckiest of eight against it, so its margin is below what each lead is

Every run is a `python train.py` of its own, in OUT/runs. One that has its metrics.json is not trained again, one that was
stopped goes on: after a kill, the same line again. One that fails is said, and the others go on. A run's folder has a digest of its
flags in its name, so a row that is changed below is trained anew; after a change of the code delete OUT. Tables: OUT/NAME.md,
NAME.csv and NAME.png.
"""
import argparse
import csv
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from evaluation.metrics import LOWER_IS_BETTER
from evaluation.picture_rows import stack
from evaluation.plots import dots
from experiments.claims import EXPERIMENTS, PATIENTS
from experiments.intervals import look_up, spread, verdict, with_interval
from plumbing.command import run_main
from plumbing.run_folder import write_csv, write_whole
from plumbing.simulate import make


def available(name, args):
    """-> the metrics that can be measured here, and a line for each that cannot."""
    metrics, notes = {}, []
    for metric, (*places, flags) in EXPERIMENTS[name]["metrics"].items():
        file = re.search(r"medmnist:(\w+):(\d+)", flags)
        folders = [args.cache_dir, os.path.expanduser("~/.medmnist")]
        if file and not any(os.path.isfile(os.path.join(folder, f"{file[1]}_{file[2]}.npz")) for folder in folders):
            notes.append(f"Left out: {metric}. There is no {file[1]}_{file[2]}.npz in {' or '.join(folders)}; "
                         f"`python train.py --data {file[0]}` downloads it.")
        elif args.quick and metrics and flags != next(iter(metrics.values()))[-1]:
            notes.append(f"Left out, --quick: {metric}.")
        else:
            metrics[metric] = (*places, flags)
    return metrics, notes


def plan(name, metrics, seed, args):
    """-> {(row, flags of the metric): (flags, run folder)} in the order of training; flags is a list."""
    experiment, runs, folders = EXPERIMENTS[name], {}, {}
    wanted = [(row, flags, "") for row, flags in experiment.get("first", {}).items()]
    wanted += [(row, f"{experiment['flags']} {flags}", extra) for extra in dict.fromkeys(extra for *_, extra in metrics.values())
               for row, flags in experiment["rows"].items()]
    for row, flags, extra in wanted:
        flags = [flag.format_map(folders) for flag in f"{flags} {extra} --seed {seed}{' --epochs 1' * args.quick}".split()]
        if args.quick and (data := flags[flags.index("--data") + 1]) in PATIENTS:
            flags[flags.index("--data") + 1] = make(data, args.cache_dir, patients=PATIENTS[data])
        digest = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
        words = re.sub(r"\W+", "-", row).strip("-").lower()
        folders[row] = os.path.join(args.out, "runs", name, f"{words}-seed{seed}-{digest}")
        runs[row, extra] = flags, folders[row]
    return runs


def read_metrics(run):
    """metrics.json of a run that has ended, otherwise None: the file is the last but the figures, and appears whole."""
    path = os.path.join(run, "metrics.json")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def train_run(flags, run, args, children, came):
    """Train what is not yet trained, in a process of its own -> was there anything to train? children: the processes that run now;
    came: the signals that have come, after which nothing is started."""
    if came:
        return False
    folder, name = os.path.split(run)
    os.makedirs(folder, exist_ok=True)
    with open(run + ".log", "a+", encoding="utf-8") as log:
        while os.name == "posix" and not came:                     # a train.py outlives the kill -9 of its reproduce.py: wait for it
            import fcntl
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)    # whoever has the file open as its output keeps the lock
                break
            except BlockingIOError:
                time.sleep(0.5)
        if came or read_metrics(run):
            return False
        command = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py"), "--device", args.device]
        if os.path.isfile(os.path.join(run, "args.json")):
            command += ["--resume", run]
        else:                                                      # new, or killed before its flags were written
            shutil.rmtree(run, ignore_errors=True)
            command += [*flags, "--runs", folder, "--name", name, "--cache-dir", args.cache_dir]
        live = {**os.environ, "PYTHONUNBUFFERED": "1"}             # the log says at once what is going on
        if args.jobs > 1:
            live.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // args.jobs)))
        child = subprocess.Popen(command, stdout=log, stderr=log, env=live)
        children.add(child)
        if came:
            child.terminate()
        status = child.wait()
        children.remove(child)
        if not came and (status or not read_metrics(run)):
            log.seek(0)
            last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"python train.py {' '.join(flags)}: status {status}, {last}; see {run}.log")
    return True


def train_all(name, todo, args):
    """todo: (row, flags, run), a run behind those that it starts from -> {run: why it failed}. Ctrl-C and SIGTERM let all save
    themselves."""
    children, came, jobs, failed = set(), [], {}, {}

    def stop(number, frame):
        came.append(number)
        for child in [*children] * (number == signal.SIGTERM):     # the terminal has told all of Ctrl-C
            child.terminate()

    def job(flags, run):
        for first in set(flags) & set(jobs):                       # begun before this one, so none waits in a circle
            jobs[first].result()
        return train_run(flags, run, args, children, came)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    with ThreadPoolExecutor(args.jobs) as pool:
        for _, flags, run in todo:
            jobs[run] = pool.submit(job, flags, run)
        for number, (row, _, run) in enumerate(todo, 1):
            try:
                trained = jobs[run].result()
                said = "" if came else f"{seconds_of(run):.0f} s{'' if trained else ', was there'}"
            except ValueError as error:
                failed[run] = said = f"failed: {error}"
            if not came:
                print(f"{name} {number}/{len(todo)}   {row}   {said}   {run}", flush=True)
    for number, handler in before.items():
        signal.signal(number, handler)
    if came:
        print("stopped; the same line again goes on")
        sys.exit(128 + came[0])
    return failed


def seconds_of(run):
    """Seconds of training and validation, all epochs; the start of the process and the test are not among them. NaN where it failed."""
    if not read_metrics(run):
        return math.nan
    with open(os.path.join(run, "log.csv"), newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def gather(experiment, metrics, plans):
    """-> values, seconds: {metric: {row: [one a seed]}}; chance is a row of values; NaN of runs that failed. plans: one a seed."""
    values, seconds = {}, {}
    for metric, (place, chance, extra) in metrics.items():
        runs = {row: [plan[row, extra][1] for plan in plans] for row in experiment["rows"]}
        values[metric] = {row: [look_up(read_metrics(run), place) for run in each] for row, each in runs.items()}
        values[metric]["chance"] = [look_up(next((found for row in runs.values() if (found := read_metrics(row[seed]))), None), chance)
                                    for seed in range(len(plans))]
        seconds[metric] = {row: [seconds_of(run) for run in each] for row, each in runs.items()}
    return values, seconds


def table(experiment, metrics, metric, values, seconds):
    """values, seconds: {row: [one a seed]} of one metric -> lines of Markdown: the rows, and what they say to the paper's claims."""
    place, _, extra = metrics[metric]
    reference, lower = experiment["reference"], place.split("/")[-1] in LOWER_IS_BETTER
    lines = ["", f"## {metric}, {'lower' if lower else 'higher'} is better", "",
             f"`{' '.join(['python train.py', *experiment['flags'].split(), *extra.split()])}` and", "",
             f"| row | flags | mean (95 %) | seeds | minus {reference} (95 %) | s |", "|---|---|---|---|---|---|"]
    for row, each in values.items():
        cells = [row, f"`{experiment['rows'][row]}`" if row in seconds else "", with_interval(each),
                 ", ".join("failed" if math.isnan(value) else f"{value:.3f}" for value in each), "", ""]
        if row != reference:
            cells[4] = with_interval([a - b for a, b in zip(each, values[reference])], "+")
        if row in seconds:
            cells[5] = f"{spread(seconds[row])[0]:.0f}".replace("nan", "")
        lines.append("| " + " | ".join(cells) + " |")
    asked = [(claim, *verdict(order, values, lower)) for claim, order, *which in experiment["claims"] if metric in (which or metrics)]
    if asked:
        lines += ["", "| the paper says | here it | margin (95 %) | in seeds |", "|---|---|---|---|"]
    return [*lines, *("| " + " | ".join((claim, *said)) + " |" for claim, *said in asked)]


def reproduce(name, args):
    """Train what is not yet trained of one experiment, then write and print its tables; -> why runs failed, in a list."""
    experiment, (metrics, notes) = EXPERIMENTS[name], available(name, args)
    plans = [plan(name, metrics, seed, args) for seed in range(args.seeds)]
    todo = [(row, *run) for runs in plans for (row, _), run in runs.items()]
    failed = train_all(name, todo, args)
    values, seconds = gather(experiment, metrics, plans)
    patients = {found["patients"] for runs in plans for row, extra in runs if row in experiment["rows"]
                if (found := read_metrics(runs[row, extra][1]))}
    text = [f"# {name}", "", experiment["about"], "",
            f"With `--seed` {', '.join(map(str, range(args.seeds)))}; tested on {' or '.join(map(str, sorted(patients)))} patients. "
            "Differences are taken seed by seed. Intervals: t intervals of the mean over the seeds. s: seconds of training and "
            "validation, mean over the seeds."]
    notes = ["**Quick: few patients, one epoch. These numbers mean nothing.**"] * args.quick + notes
    notes += [f"`{{{run}}}`: `python train.py {flags}`, same seed" for run, flags in experiment.get("first", {}).items()]
    notes += [f"**{len(failed)} of {len(todo)} runs failed.**"] * bool(failed)
    text += [line for note in notes for line in ("", note)]
    lines, pictures = [["metric", "row", "seed", "value", "difference", "seconds", "run"]], []
    for metric, rows in values.items():
        text += table(experiment, metrics, metric, rows, seconds[metric])
        pictures.append(dots(rows, name + ": these numbers mean nothing" * args.quick, f"{metric}: a dot a seed, and their mean"))
        reference, extra = rows[experiment["reference"]], metrics[metric][-1]
        lines += [[metric, row, seed, value, value - reference[seed], took, plans[seed][row, extra][1]]
                  for row, each in seconds[metric].items() for seed, (value, took) in enumerate(zip(rows[row], each))]
    path = os.path.join(args.out, name)
    write_whole(path + ".md", lambda file: file.write("\n".join(text) + "\n"))
    write_csv(path + ".csv", lines)
    stack(pictures).save(path + ".png")
    print("\n".join(text) + f"\n\nwrote {path}.md, .csv and .png", flush=True)
    return list(failed.values())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("name", choices=[*EXPERIMENTS, "all"], help="which comparison")
    parser.add_argument("--seeds", type=int, help="how many, counted from 0; default 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="few patients, one epoch, the runs of the first metric: does it run?")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", default="runs/reproduce", help="folder of the tables and, in runs/, of the run folders")
    parser.add_argument("--cache-dir", default="data_cache", help="where simulated cohorts and downloads are kept")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    args.seeds = (1 if args.quick else 3) if args.seeds is None else args.seeds
    if min(args.seeds, args.jobs) < 1:
        raise ValueError(f"--seeds {args.seeds}, --jobs {args.jobs}: need at least 1")
    args.out = os.path.join(args.out, "quick" * args.quick)        # beside, not over, numbers that mean something
    failed = [each for name in (EXPERIMENTS if args.name == "all" else [args.name]) for each in reproduce(name, args)]
    if failed:
        raise ValueError(f"{len(failed)} run{'s' * (len(failed) > 1)} failed, the first: {failed[0].removeprefix('failed: ')}")


if __name__ == "__main__":
    run_main(main)
