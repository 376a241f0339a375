"""What this code does on one GPU, in under eight minutes.

    python -m experiments.gpu                       writes runs/gpu/gpu.json and gpu.md, anew after each step
    python -m experiments.gpu --device cpu --quick  small sizes, to see that it runs to its end
    python -m experiments.gpu --only vit            one step

Each step is a process of its own with a time limit, so that one that fails or hangs takes nothing with it;
the most important come first. ms is the median of --rounds steps between two CUDA events; images/s, and the
share of the rate that a large bfloat16 product reaches on this card, follow from it.
"""
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from statistics import median

import torch

import attention
from data import make_loader
from experiments import bench, peers
from experiments.timing import clock, counted, machine, matmul_rate, peak_memory
from plumbing.command import run_main
from plumbing.device import find_device
from plumbing.flags import parse
from plumbing.parser import Parser
from plumbing.prepare import prepare
from plumbing.run_folder import write_json, write_whole
from plumbing.simulate import make

LIMITS = {"tests": 70, "products": 30, "vit": 80, "multivit": 60, "attention": 40, "data": 60,
          "default": 60, "resume": 50, "reproduce": 240}   # step: seconds that it may take
TOTAL = 470                                  # seconds that all of them may take


# -----------------------------------------------------------------------------
# one row: a step of the GPU


def timed(args, build, flops_rate=None, images=None):
    """-> what the step that build() makes takes, as a row; or {note} of what went wrong."""
    try:
        step = build()
        step()
        _, megabytes = peak_memory(step, args.device)
        milliseconds = 1000 * median(clock(step, args.device) for _ in range(args.rounds))
        row = {"ms": milliseconds, "MB": megabytes, "host syncs": host_syncs(step, args.device)}
        if images:
            row["images/s"] = 1000 * images / milliseconds
        if flops_rate:
            row["share"] = 1000 * counted(step)[0] / milliseconds / flops_rate
        return row
    except ModuleNotFoundError as error:
        return {"note": f"{error.name} is not installed"}
    except Exception as error:                                     # out of memory, or what a compiler raises
        traceback.print_exc()
        return {"note": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}


def host_syncs(step, device):
    """How often a step waits for the GPU; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


# -----------------------------------------------------------------------------
# the steps: args -> rows


def tests(args):
    """The tests that are marked cuda."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    result = subprocess.run(command, capture_output=True, text=True)
    yield {"command": "python -m pytest -m cuda", "status": result.returncode,
           "last line": result.stdout.strip().splitlines()[-1]}


def products(args):
    """What a large product of two matrices reaches."""
    for kind in ("bf16", "high", "highest"):                       # high is TF32, highest float32
        torch.set_float32_matmul_precision("highest" if kind == "bf16" else kind)
        yield {"product": kind, "TFLOP/s": matmul_rate(args.device, kind) / 1e12}


def vit(args):
    """A training step in bf16, as train.py makes it, beside timm with equal flags; compiled and not."""
    models = (("base", 224, 16, 256), ("large", 384, 32, 128))
    if args.quick:
        models = (("micro", 32, 8, 2),)
    names = ["ours", "timm"]
    if args.device == "cuda":                                      # a CPU compiles for minutes
        names += ["ours, compiled", "timm, compiled"]
    for size, image, patch, batch in models:
        for who in names:
            settings = args.device, who, size, image, patch, batch, "bf16", "training"
            rate = matmul_rate(args.device, "bf16")
            row = timed(args, lambda: peers.build_vit(*settings), flops_rate=rate, images=batch)
            yield {"model": f"{size}/{patch}, {image} px", "batch": batch, "who": who, **row}


def multivit(args):
    """A training step of MultiViT-3-2 on four patients, and how often it waits for the GPU."""
    size = dict(size="large", image=384, patch=32)
    if args.quick:
        size = dict(size="micro", image=32, patch=8)
    for flags in ("--amp bf16", "--amp bf16 --train-blocks 2", "--amp bf16 --grad-checkpointing"):
        row = timed(args, lambda: bench.build_flags(args.device, flags, **size, blocks=None))
        yield {"flags": flags, **row}


def attention_kinds(args):
    """Forward and backward of one layer, 512 wide with 8 heads, in bf16, over the number of tokens."""
    lengths = (196, 1024, 4096, 16384, 65536)
    if args.quick:
        lengths = (64, 196)
    for tokens in lengths:
        row = {"tokens": tokens}
        for kind in attention.KINDS:
            settings = args.device, kind, tokens, 512, 8
            times = timed(args, lambda: bfloat16(args.device, bench.build_layer(*settings)))
            row[f"{kind}, ms"] = times.get("ms", times.get("note"))
            row[f"{kind}, MB"] = times.get("MB")
        yield row


def bfloat16(device, step):
    def run():
        with torch.autocast(device, torch.bfloat16):
            step()
    return run


def cohort(args):
    """-> the table of the default cohort, or of a small one."""
    return make("psoriasis", args.cache_dir, patients=20 if args.quick else None)


def data(args):
    """How many photographs per second the readers deliver, nobody computing."""
    counts = (0, 4, 8, 16)
    if args.quick:
        counts = (0, 2)
    for workers in counts:
        flags = ["--data", cohort(args), "--n", "3", "--r", "2", "--workers", str(workers)]
        ready = prepare(parse(flags), torch.device("cpu"))
        loader, _ = make_loader(ready.loader.dataset, 16, workers=workers)
        next(iter(loader))                                         # the processes are there
        began, images = time.perf_counter(), 0
        for batch in loader:
            images += int(batch["present"].sum())
        yield {"workers": workers, "images/s": images / (time.perf_counter() - began)}


def default(args):
    """The README's first command, its epochs from log.csv and its result."""
    run = train(args, "default", "--epochs", "2" if args.quick else "28")
    with open(os.path.join(run, "log.csv"), newline="") as file:
        epochs = list(csv.DictReader(file))
    with open(os.path.join(run, "metrics.json"), encoding="utf-8") as file:
        mae = json.load(file)["pasi"]["mae"]
    seconds = [float(epoch["seconds"]) for epoch in epochs]
    waited = sum(float(epoch["waited"]) for epoch in epochs)
    yield {"epochs": len(epochs), "s per epoch": median(seconds), "waiting for data": waited / sum(seconds),
           "PASI MAE": f"{mae['value']:.3f} ({mae['low']:.3f} to {mae['high']:.3f})"}


def resume(args):
    """Has a run that was stopped in its second epoch, and resumed, the bits of one that was not?"""
    whole = train(args, "whole", "--epochs", "3")
    stopped = train(args, "stopped", "--epochs", "3", stop_after="epoch   1/")
    subprocess.run([sys.executable, "train.py", "--resume", stopped, "--device", args.device], check=True)
    with open(os.path.join(whole, "last", "model.safetensors"), "rb") as a:
        with open(os.path.join(stopped, "last", "model.safetensors"), "rb") as b:
            yield {"stopped in": "epoch 2", "same bits": a.read() == b.read()}


def train(args, name, *flags, stop_after=None):
    """Run train.py's default model, or stop it by SIGTERM after a line with these words. -> the run."""
    command = [sys.executable, "-u", "train.py", "--data", cohort(args), "--n", "3", "--r", "2", *flags,
               "--device", args.device, "--runs", args.out, "--name", name, "--overwrite"]
    if args.quick:
        command += ["--image", "16", "--patch", "8"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in program.stdout:
        if stop_after and stop_after in line:
            program.send_signal(signal.SIGTERM)
    status = program.wait()
    if status != (128 + signal.SIGTERM if stop_after else 0):
        raise RuntimeError(f"train.py ended with status {status}")
    return os.path.join(args.out, name)


def reproduce(args):
    """As many comparisons of experiments/reproduce.py with ten seeds as there is time for."""
    flags = ["--quick"] if args.quick else ["--seeds", "10", "--jobs", "4"]
    names = ("crossvit", "lt_vit", "multivit", "daft")
    if args.quick:
        names = ("softmax_free",)
    for name in names:
        command = [sys.executable, "-m", "experiments.reproduce", name, "--device", args.device, "--out",
                   os.path.join(args.out, "reproduce"), "--cache-dir", args.cache_dir, *flags]
        result = subprocess.run(command, capture_output=True, text=True)
        last = result.stdout.strip().splitlines()[-1:]
        yield {"comparison": name, "status": result.returncode, "last line": "".join(last)}


STEPS = {"tests": tests, "products": products, "vit": vit, "multivit": multivit, "attention": attention_kinds,
         "data": data, "default": default, "resume": resume, "reproduce": reproduce}


# -----------------------------------------------------------------------------
# all steps, and what is written


def run_step(name, args):
    """A step in this process: its rows go to OUT/NAME.jsonl, each as soon as it is there."""
    with open(os.path.join(args.out, f"{name}.jsonl"), "w", encoding="utf-8") as file:
        for row in STEPS[name](args):
            print(json.dumps(row), file=file, flush=True)


def read_rows(name, args):
    path = os.path.join(args.out, f"{name}.jsonl")
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def markdown(title, steps):
    """{step: (rows, how it ended)} -> the text of gpu.md."""
    lines = [f"# {title}"]
    for name, (rows, end) in steps.items():
        lines += ["", f"## {name} ({end})", "", STEPS[name].__doc__, ""]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        if columns:
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for row in rows:
            cells = [cell(row.get(column)) for column in columns]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else re.sub(r"\s+|\|", " ", str(value))


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--only", choices=STEPS, help="this step, in this process")
    parser.add_argument("--rounds", type=int, default=10, help="steps that are timed for each row")
    parser.add_argument("--out", default="runs/gpu", help="folder of the tables and runs")
    parser.add_argument("--cache-dir", default="data_cache", help="folder of the simulated cohort")
    args = parser.parse_args(argv)
    find_device(args.device)
    os.makedirs(args.out, exist_ok=True)
    if args.only:
        return run_step(args.only, args)
    flags = ["--device", args.device, "--rounds", str(args.rounds), "--out", args.out]
    flags += ["--cache-dir", args.cache_dir]
    if args.quick:
        flags.append("--quick")
    began, steps = time.monotonic(), {}
    for name in STEPS:
        left = TOTAL - (time.monotonic() - began)
        command = [sys.executable, "-m", "experiments.gpu", "--only", name, *flags]
        try:
            seconds = None if args.quick else max(1, min(LIMITS[name], left))
            end = f"status {subprocess.run(command, timeout=seconds).returncode}"
        except subprocess.TimeoutExpired:
            end = f"stopped after {seconds:.0f} s"
        steps[name] = read_rows(name, args), end
        print(f"{name}: {end}, {len(steps[name][0])} rows", flush=True)
        content = {name: {"end": end, "rows": rows} for name, (rows, end) in steps.items()}
        write_json(os.path.join(args.out, "gpu.json"), {"machine": machine(args), "steps": content})
        write_whole(os.path.join(args.out, "gpu.md"), markdown(machine(args), steps))


if __name__ == "__main__":
    run_main(main)
