"""Time and memory, measured fairly: candidates take turns, and each has a process of its own for its memory.

A candidate is a name and build(device, name, **settings), which returns a step, a function without arguments.
"""
import functools
import multiprocessing
import os
import platform
import re
import resource
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from os.path import exists, join
from statistics import median

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from plumbing.run_folder import write_csv


PEERS = ("timm", "transformers")
FAST = {"cpu": "medium", "cuda": "high"}                           # float32 by oneDNN, not MKL; TF32
LIMIT = 120                                                        # s that a step may take
START = 20                                                         # s that the import of PyTorch may take


# -----------------------------------------------------------------------------
# one step


def clock(step, device):
    """-> CPU seconds of one call; on CUDA the time between two events."""
    if device == "cuda":
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    began = time.process_time()
    step()
    return time.process_time() - began


def most_resident():
    """The most memory that this process had, in bytes."""
    if not exists("/proc/self/status"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", file.read())[1])


def peak_memory(step, device):
    """-> seconds of one step, and by how many MB memory rises above what there was before."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = clock(step, device)
        peak = torch.cuda.max_memory_allocated()
    else:
        if exists("/proc/self/clear_refs"):
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")                                    # VmHWM starts anew
        before = most_resident()
        seconds = clock(step, device)
        peak = most_resident()
    return seconds, (peak - before) / 2 ** 20


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


def attention_flops(q, k, v, *args, **kwargs):
    return sdpa_flop_count(q, k, v)


def attention_backward_flops(gradient, q, k, v, *args, **kwargs):
    return sdpa_backward_flop_count(gradient, q, k, v)


def counted(step):
    """-> FLOPs of a step (2 per multiply-add), and bytes that its forward pass keeps for the backward."""
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()                # each piece of memory once
        return x

    aten = torch.ops.aten                                          # PyTorch counts a GPU's fused attention
    on_cpu = {aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
              aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as flops:
        with saved_tensors_hooks(keep, lambda x: x):
            step()
    return flops.get_total_flops(), sum(kept.values())


# -----------------------------------------------------------------------------
# candidates


def take_turns(steps, rounds, device):
    """{name: step} -> {name: [seconds of each round]}; a first round, which warms up, does not count."""
    times = {name: [] for name in steps}
    for turn in range(rounds + 1):
        names = list(steps)
        if turn % 2 == 0:
            names.reverse()                                        # nobody is always the first
        for name in names:
            times[name].append(clock(steps[name], device))
    return {name: seconds[1:] for name, seconds in times.items()}


def try_step(device, build, name, settings):
    """-> seconds and MB of one step, and no note; or None, None and why not."""
    try:
        step = build(device, name, **settings)
        if device == "cuda":
            step()                                                 # its kernels are compiled
        return *peak_memory(step, device), ""
    except ModuleNotFoundError as error:
        return None, None, f"{error.name} is not installed: pip install {error.name}"
    except Exception as error:                                     # no memory, or what another version raises
        return None, None, f"{type(error).__name__}: {str(error).partition(chr(10))[0][-80:]}"


def alone(queue, *candidate):
    """In a process of its own, whose memory nothing else has used."""
    queue.put(try_step(*candidate))


def in_own_process(*candidate):
    """-> what `try_step` says."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=alone, args=(queue, *candidate), daemon=True)
    child.start()
    child.join(LIMIT + START)
    if child.exitcode is None:
        child.kill()
        return None, None, f"stopped after {LIMIT} s"
    if child.exitcode != 0:
        return None, None, f"its process ended with status {child.exitcode}; -9: as a rule for lack of memory"
    return queue.get()


def measure(args, build, names, settings):
    """-> a row of the table for each candidate; None where something could not be measured.

    First each runs alone, for its memory; then in turns, for their times, all that took less than LIMIT / 20.
    ratio: time over that of the first."""
    rows = {}
    steps = {}
    first_step = try_step if args.device == "cuda" else in_own_process
    for name in names:
        seconds, memory, note = first_step(args.device, build, name, settings)
        rows[name] = settings | {"who": name, "s": seconds, "ratio": None, "MB": memory, "saved MB": None,
                                 "peak": None, "syncs": None, "note": note}
        if seconds is None:
            continue
        if seconds < LIMIT / 20:
            steps[name] = build(args.device, name, **settings)
        else:
            rows[name]["note"] = "one step, in a process of its own"
    for name, rounds in take_turns(steps, args.rounds, args.device).items():
        row = rows[name]
        first = rows[names[0]]
        flops, saved = counted(steps[name])
        row["s"] = median(rounds)
        row["saved MB"] = saved / 2 ** 20
        row["syncs"] = host_syncs(steps[name], args.device)
        precision = torch.get_float32_matmul_precision()           # of the step that just ran
        if "bf16" in f"{name} {settings}":
            precision = "bf16"
        row["peak"] = flops / row["s"] / matmul_rate(args.device, precision)
        if first["s"]:
            row["ratio"] = row["s"] / first["s"]
    return list(rows.values())


@functools.cache
def matmul_rate(device, precision):
    """FLOP per second of a large matrix product in "bf16", or in float32 at PyTorch's present precision."""
    side = 8192 if device == "cuda" else 512
    a = torch.randn(side, side, device=device)
    if precision == "bf16":
        a = a.bfloat16()
    rounds = take_turns({"product": lambda: a @ a}, 5, device)["product"]
    return 2 * side ** 3 / median(rounds)


# -----------------------------------------------------------------------------
# tables


def cpu_name():
    names = []
    if exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = re.findall("model name\t: (.*)", file.read())
    return names[0] if names else platform.processor()


def machine(device):
    """A line that says what it was measured on."""
    words = [cpu_name()]
    if device == "cuda":
        words.insert(0, torch.cuda.get_device_name())
    words.append(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for package in PEERS:
        try:
            words.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            words.append(f"{package} not installed (pip install {package})")
    return ", ".join(words)


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
            print(f"| {' | '.join(group[0])} |\n{'|---' * len(group[0])}|")
        for row in group:
            print(f"| {' | '.join(map(cell, row.values()))} |", flush=True)
        rows += group
        write_csv(path, [rows[0], *(row.values() for row in rows)])
    print(f"wrote {path}")
    return rows


def exponent(sizes, costs):
    """Slope of log cost over log size: 1 is linear, 2 quadratic."""
    return np.polyfit(np.log(sizes), np.log(costs), 1)[0]


def growth(rows, size, cost):
    """-> {who: (values of the column `size`, those of the column `cost`)}, where they were measured."""
    lines = {}
    for row in rows:
        if row[cost]:
            lines.setdefault(row["who"], []).append((row[size], row[cost]))
    return {who: tuple(zip(*points)) for who, points in lines.items()}


def print_growth(rows, size):
    """How time and memory of each candidate grow with a column of sizes; the smallest is left out."""
    for cost in ("s", "MB"):
        for who, (sizes, costs) in growth(rows, size, cost).items():
            if len(sizes) > 2:
                power = exponent(sizes[1:], costs[1:])
                print(f"{who}: {cost} grows with the power {power:.2f} of {size}, from {sizes[1]:,} on")
