"""Time and memory, measured fairly: candidates take turns, and each has a process of its own for its memory.

A candidate is a name and build(device, name, **settings), which returns a step: a function without arguments,
perhaps with a note for the table.
"""
import multiprocessing
import os
import platform
import re
from importlib.metadata import version
from importlib.util import find_spec
from os.path import exists, join
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop, sdpa_flop

from plumbing.command import first_line
from plumbing.run_folder import write_csv


PEERS = ("timm", "transformers")
LIMIT = {"cpu": 120, "cuda": 40}                                   # s that a first step may take
START = 20                                                         # s that the import of PyTorch may take
# PyTorch itself counts the fused attention of a GPU
flop_registry[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = sdpa_flop
flop_registry[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward] = sdpa_backward_flop


# -----------------------------------------------------------------------------
# one step


def gpu_time():
    """Seconds, once the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return perf_counter()


def clock(step, device):
    """-> CPU seconds of one call; on CUDA the time until the GPU is done."""
    now = {"cpu": process_time, "cuda": gpu_time}[device]
    began = now()
    step()
    return now() - began


def peak_memory(step, device):
    """-> seconds of one step, and by how many MB memory rises above what there was before; None on macOS."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        peak = torch.cuda.max_memory_allocated
    elif exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5")              # the peak starts anew, at what there is
        peak = resident_peak
    else:
        return clock(step, device), None
    before = peak()
    seconds = clock(step, device)
    rise = max(peak() - before, 0)                                 # Linux counts to within some dozen pages
    return seconds, rise / 2 ** 20


def resident_peak():
    """The most memory that this process had since its peak started anew, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def counted(step):
    """-> FLOPs of a step (2 per multiply-add), and bytes that its forward pass keeps for the backward."""
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()                # each piece of memory once
        return x

    with FlopCounterMode(display=False) as flops, saved_tensors_hooks(keep, lambda x: x):
        step()
    return flops.get_total_flops(), sum(kept.values())


# -----------------------------------------------------------------------------
# candidates


def take_turns(steps, rounds, device):
    """{name: step} -> {name: [seconds of each round]}; a first round, which warms up, does not count."""
    times = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name in sorted(steps, reverse=turn % 2 == 0):          # nobody is always the first
            times[name].append(clock(steps[name], device))
    return {name: seconds[1:] for name, seconds in times.items()}


def try_step(device, build, name, settings):
    """-> seconds and MB of one step, and its note if it has one; or None, None and why not."""
    try:
        step = build(device, name, **settings)
        if device == "cuda":
            step()                                                 # its kernels are compiled
        return *peak_memory(step, device), getattr(step, "note", "")
    except ModuleNotFoundError as error:
        return None, None, f"{error.name} is not installed: pip install {error.name}"
    except Exception as error:                                     # no memory, or what another version raises
        return None, None, f"{type(error).__name__}: {first_line(error)[-80:]}"


def in_own_process(device, *candidate):
    """-> what `try_step` says, of memory that nothing else has used."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply_async(try_step, (device, *candidate))
        try:
            return result.get(LIMIT[device] + START)
        except multiprocessing.TimeoutError:
            return None, None, f"not in {LIMIT[device]} s: too slow, or killed for lack of memory"


def measure(args, build, names, settings):
    """-> a row of the table for each candidate; None where something could not be measured.

    First each runs alone, for its memory; then all that took less than a twentieth of LIMIT run in turns, for
    their times, and the ratio of each to that of the first. What took longer has run only once, and has no
    ratio; so do compiled ones, in a process of their own, since compiling may never end."""
    rows = {}
    steps = {}
    for name in names:
        first_step = in_own_process
        if args.device == "cuda" and not name.endswith("compiled"):
            first_step = try_step                                  # CUDA counts memory itself
        seconds, memory, note = first_step(args.device, build, name, settings)
        rows[name] = settings | {"who": name, "s": seconds, "ratio": None, "MB": memory, "TFLOP/s": None,
                                 "note": note}
        if seconds and seconds < LIMIT[args.device] / 20 and not name.endswith("compiled"):
            steps[name] = build(args.device, name, **settings)
    first = rows[names[0]]
    for name, seconds in take_turns(steps, args.rounds, args.device).items():
        row = rows[name]
        row["s"] = median(seconds)
        row["TFLOP/s"] = counted(steps[name])[0] / row["s"] / 1e12
        if first["s"]:
            row["ratio"] = row["s"] / first["s"]
    return list(rows.values())


# -----------------------------------------------------------------------------
# tables


def add_flags(parser, device, out):
    """Those of bench.py and gpu.py."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", default=out, help="folder of the tables and runs")
    parser.add_argument("--cache-dir", default="data_cache", help="folder of the simulated cohorts")


def machine(device):
    """A line that says what it was measured on."""
    chips = [platform.processor()]
    if exists("/proc/cpuinfo"):                                    # where some ARMs have no name
        chips = re.findall("model name\t: (.*)", Path("/proc/cpuinfo").read_text()) + chips
    words = [chips[0],
             f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"]
    if device == "cuda":
        words.insert(0, torch.cuda.get_device_name())
    words += [f"{package} {version(package)}" for package in PEERS if find_spec(package)]
    return ", ".join(words)


def markdown_row(cells):
    return f"| {' | '.join(cells)} |"


def cell(value):
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def report(args, name, groups):
    """Print groups of rows, dicts with the same keys, as each is measured, and write them to NAME.csv; -> all
    rows."""
    rows = []
    os.makedirs(args.out, exist_ok=True)
    path = join(args.out, f"{name}.csv")
    for group in groups:
        if not rows:
            print(markdown_row(group[0]), markdown_row(["---"] * len(group[0])), sep="\n")
        for row in group:
            print(markdown_row(map(cell, row.values())), flush=True)
        rows += group
        write_csv(path, [rows[0], *(row.values() for row in rows)])
    print(f"wrote {path}")
    return rows
