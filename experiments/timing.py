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
from importlib.metadata import PackageNotFoundError, version
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
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
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
    if not os.path.exists("/proc/self/status"):
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
        if os.path.exists("/proc/self/clear_refs"):
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")                                    # VmHWM starts anew
        before = most_resident()
        seconds = clock(step, device)
        peak = most_resident()
    return seconds, (peak - before) / 2 ** 20


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


def alone(queue, device, build, name, settings):
    """In a process of its own: one step -> its seconds, its MB and no note; or None, None and why not."""
    try:
        seconds, peak = peak_memory(build(device, name, **settings), device)
        queue.put((seconds, peak, ""))
    except ModuleNotFoundError as error:
        queue.put((None, None, f"{error.name} is not installed: pip install {error.name}"))
    except Exception as error:                                     # other versions may raise anything
        queue.put((None, None, f"{type(error).__name__}: {str(error)[-80:]}"))


def in_own_process(device, *candidate):
    """-> what `alone` puts into the queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=alone, args=(queue, device, *candidate), daemon=True)
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
    rows, steps = {}, {}
    for name in names:
        seconds, memory, note = in_own_process(args.device, build, name, settings)
        rows[name] = settings | {"who": name, "cpu_s": seconds, "ratio": None, "memory_mb": memory,
                                 "saved_mb": None, "peak": None, "note": note}
        if seconds is None:
            continue
        if seconds < LIMIT / 20:
            steps[name] = build(args.device, name, **settings)
        else:
            rows[name]["note"] = "one step, in a process of its own"
    for name, rounds in take_turns(steps, args.rounds, args.device).items():
        row, first = rows[name], rows[names[0]]
        flops, saved = counted(steps[name])
        row["cpu_s"] = median(rounds)
        row["saved_mb"] = saved / 2 ** 20
        precision = torch.get_float32_matmul_precision()           # of the step that just ran
        if "bf16" in f"{name} {settings}":
            precision = "bf16"
        row["peak"] = flops / row["cpu_s"] / matmul_rate(args.device, precision)
        if first["cpu_s"]:
            row["ratio"] = row["cpu_s"] / first["cpu_s"]
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
    if not os.path.exists("/proc/cpuinfo"):
        return platform.processor()
    with open("/proc/cpuinfo") as file:
        names = re.findall("model name\t: (.*)", file.read())
    return names[0] if names else platform.processor()


def machine(args):
    """A line that says what it was measured on."""
    words = [cpu_name()]
    if args.device == "cuda":
        words.insert(0, torch.cuda.get_device_name())
    words.append(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for package in PEERS:
        try:
            words.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            words.append(f"{package} not installed (pip install {package})")
    return ", ".join(words)


def cell(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def report(args, name, rows):
    """Print rows, dicts with the same keys, and write them to NAME.csv."""
    lines = [list(rows[0])]
    lines += [list(row.values()) for row in rows]
    widths = [max(len(cell(value)) for value in column) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell(value).ljust(width) for value, width in zip(line, widths)))
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, f"{name}.csv")
    write_csv(path, lines)
    print(f"wrote {path}")


def exponent(sizes, costs):
    """Slope of log cost over log size: 1 is linear, 2 quadratic."""
    return np.polyfit(np.log(sizes), np.log(costs), 1)[0]


def print_growth(rows, size, start):
    """How time and memory of each candidate grow with a column of sizes, from size `start` on."""
    for who in dict.fromkeys(row["who"] for row in rows):
        long = [row for row in rows if row["who"] == who and row[size] >= start]
        for column in ("cpu_s", "memory_mb"):
            points = [(row[size], row[column]) for row in long if row[column]]
            if len(points) > 1:
                power = exponent(*zip(*points))
                print(f"{who}: {column} grows with the power {power:.2f} of {size}, from {start:,} on")
