"""What this code does on one GPU, in under eight minutes: commands with time limits, and what they print.

    python -m experiments.gpu                       writes runs/gpu/gpu.json and gpu.md, anew after each step
    python -m experiments.gpu --device cpu --quick  small sizes, to see that it runs to its end

Each step is a process of its own, so that one that fails or hangs takes nothing with it, and what it printed
until then stays; the most important come first. The page has each one's command, to run it alone. The tables
of experiments/bench.py are explained there.
"""
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from os.path import join
from pathlib import Path

from experiments.timing import add_flags, machine
from plumbing.command import Parser, run_main
from plumbing.device import find_device
from plumbing.run_folder import write_json, write_whole

STEPS = {  # name: seconds that it may take, and what python runs
    "tests": (40, "-m pytest -q -p no:cacheprovider -m cuda -k 'not resume'"),
    "products": (15, "-m experiments.bench products {bench}"),
    "vit": (150, "-m experiments.bench vit {bench}"),
    "multivit": (30, "-m experiments.bench memory {bench}"),
    "attention": (40, "-m experiments.bench scaling {bench}"),
    "readers": (30, "-m experiments.bench readers {bench}"),
    "default": (130, "-u train.py --mode multi --n 3 --r 2 --epochs 8 --name default --overwrite {train}"),
    "resume": (40, "-m pytest -q -p no:cacheprovider -m cuda -k resume"),
    # a table is written when all of its runs are done: first with one seed, then with ten, if time is left
    "seed": (150, "-m experiments.reproduce crossvit lt_vit multivit daft --seeds 1 --jobs 4 {bench}"),
    "seeds": (240, "-m experiments.reproduce crossvit lt_vit multivit daft --seeds 10 --jobs 4 {bench}"),
}
QUICK = {  # what --quick runs instead
    "default": "-u train.py --model daft --data brain --epochs 1 --name default --overwrite {train}",
    "seed": "-m experiments.reproduce softmax_free {bench}",
    "seeds": "-m experiments.reproduce softmax_free {bench}",
}
TOTAL = 470                                                        # seconds that all of them may take
GRACE = 10                                                         # seconds to save what was trained
KILL = 9                                                           # a name that Windows lacks
send = getattr(os, "killpg", os.kill)                              # and groups of processes


def command(name, args):
    """-> the words of a step's command."""
    line = STEPS[name][1]
    common = f"--device {args.device} --cache-dir {shlex.quote(args.cache_dir)}"
    train = f"{common} --runs {shlex.quote(args.out)}"
    bench = f"{common} --out {shlex.quote(args.out)}"
    if args.quick:
        line = QUICK.get(name, line)
        bench += " --quick"
    return [sys.executable, *shlex.split(line.format(train=train, bench=bench))]


def run(words, log, seconds):
    """Run a command for so many seconds at most, what it prints going to a file; -> how it ended.

    What it started ends with it: a compiler that is left would take time from the steps that follow."""
    with open(log, "w", encoding="utf-8") as file:
        program = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return f"status {program.wait(seconds)}"
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    finally:
        for number in (signal.SIGTERM, KILL):
            with suppress(OSError, subprocess.TimeoutExpired):     # nobody is left, or takes longer
                send(program.pid, number)
                program.wait(GRACE)


def main(argv=None):
    parser = Parser(__doc__)
    add_flags(parser, "cuda", "runs/gpu")
    args = parser.parse_args(argv)
    find_device(args.device)
    os.makedirs(args.out, exist_ok=True)
    end_by = time.monotonic() + TOTAL
    result = {"machine": machine(args.device), "steps": {}}
    page = f"# {result['machine']}\n"
    for name, (limit, _) in STEPS.items():
        words = command(name, args)
        log = join(args.out, f"{name}.log")
        seconds = None
        if not args.quick:
            seconds = max(0, min(limit, end_by - time.monotonic() - GRACE))
        end = run(words, log, seconds)
        printed = Path(log).read_text(encoding="utf-8", errors="replace")
        line = shlex.join(["python", *words[1:]])
        result["steps"][name] = {"command": line, "end": end, "printed": printed.splitlines()}
        page += f"\n## {name} ({end})\n\n    {line}\n\n{printed}"
        print(f"{name}: {end}, see {log}", flush=True)
        write_json(join(args.out, "gpu.json"), result)
        write_whole(join(args.out, "gpu.md"), page)


if __name__ == "__main__":
    run_main(main)
