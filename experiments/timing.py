"""Timing and memory, measured fairly: cases take turns, each in a process of its own.
"""
import csv
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from queue import Empty

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


PEERS = {"timm": "timm", "transformers": "transformers"}           # module: name on PyPI
PASSES = 4                                                         # forward passes that are timed together
ATEN = torch.ops.aten                                              # PyTorch counts fused attention on a GPU only
ON_CPU = {ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
          ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda y, q, k, v, *_, **__: sdpa_backward_flop_count(y, q, k, v)}


def sync(device):
    if device == "cuda":
        torch.cuda.synchronize()


def clock(step, device):
    """-> CPU seconds, wall seconds of one call."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(), step(), end.record()
        end.synchronize()
        return (begin.elapsed_time(end) / 1000,) * 2
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def take_turns(steps, rounds, device):
    """{name: step} -> {name: [(CPU s, wall s) of each round]}; a first round that warms up is not counted."""
    times = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name in list(steps)[::1 if i % 2 else -1]:             # nobody is always the first
            times[name].append(clock(steps[name], device))
    return {name: each[1:] for name, each in times.items()}


def resident(field):
    """VmRSS (now) or VmHWM (largest so far) in bytes; ru_maxrss, which a child inherits, only where there is no /proc."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def alone(queue, threads, device, build, arguments):
    """In a process of its own: build, one step -> its seconds and bytes, or why not."""
    try:
        torch.set_num_threads(threads)
        if sys.platform == "linux":                                # an error where memory ends, not the kernel's killer
            with open("/proc/meminfo") as file:
                free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024
            room = int(resident("VmSize") + 0.9 * free)
            if device == "cpu":
                resource.setrlimit(resource.RLIMIT_AS, (room, room))
        step = build(device, *arguments)
        if device == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            if os.path.exists("/proc/self/clear_refs"):
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")                                # VmHWM starts anew
            before = resident("VmHWM")
        cpu, _ = clock(step, device)
        sync(device)
        queue.put((cpu, (torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")) - before, ""))
    except ModuleNotFoundError as error:
        queue.put((None, None, f"{error.name} is not installed: pip install {PEERS.get(error.name, error.name)}"))
    except Exception as error:                                     # a peer of another version may raise anything
        line = (str(error).strip().splitlines() or [""])[-1]
        queue.put((None, None, "not enough memory" if "memory" in line or "alloc" in line else f"{type(error).__name__}: {line[:80]}"))


def measure(args, cases, baseline=None, rate=0.0):
    """{name: (build, *arguments)} -> {name: dict(cpu_s, wall_s, ratio, memory_mb, saved_mb, peak, note, each)}; build(device,
    *arguments) -> step.

    First each alone, for its memory; then in turns, for their times, all that took less than a 20th of --limit. ratio: CPU
    time over that of `baseline`, default the first. rate: the machine's peak, FLOP/s, or {name: FLOP/s}. each: CPU s, round by round."""
    rows, steps, context = {}, {}, multiprocessing.get_context("spawn")
    rate = dict.fromkeys(cases, rate) if isinstance(rate, float) else rate
    for name, (build, *arguments) in cases.items():
        queue = context.Queue()
        child = context.Process(target=alone, args=(queue, torch.get_num_threads(), args.device, build, arguments), daemon=True)
        child.start()
        cpu, peak, note, deadline = None, None, f"stopped after {args.limit} s", time.monotonic() + args.limit + 20
        while time.monotonic() < deadline:
            try:
                cpu, peak, note = queue.get(timeout=0.2)
                break
            except Empty:
                if not child.is_alive() and queue.empty():
                    note = f"its process was killed (status {child.exitcode}), for lack of memory"
                    break
        child.kill()
        child.join()
        rows[name] = {"cpu_s": cpu, "wall_s": None, "ratio": None, "memory_mb": peak and peak / 2 ** 20, "saved_mb": None,
                      "peak": None, "note": note, "each": []}
        if cpu is not None and cpu < args.limit / 20:
            steps[name] = build(args.device, *arguments)
        elif cpu is not None:
            rows[name]["note"] = "one step, in a process of its own"
    times = take_turns(steps, args.rounds, args.device)
    for name, each in times.items():
        cpu, wall = (statistics.median(part) for part in zip(*each))
        flops, saved = counted(steps.pop(name))
        rows[name].update(cpu_s=cpu, wall_s=wall, each=[seconds for seconds, _ in each], saved_mb=saved / 2 ** 20,
                          peak=flops / cpu / rate[name] if rate[name] else None)
    first = rows[baseline or next(iter(rows))]["cpu_s"]
    for row in rows.values():
        row["ratio"] = row["cpu_s"] / first if row["cpu_s"] and first else None
    return rows


def matmul_rate(args, precision="highest"):
    """FLOP a second of CPU time, on CUDA of time, of a large matrix product of that float32 precision or in bf16."""
    side, before = (512 if args.quick else 8192 if args.device == "cuda" else 2048), torch.get_float32_matmul_precision()
    a = torch.randn(side, side, device=args.device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    torch.set_float32_matmul_precision(before if precision == "bf16" else precision)
    seconds = statistics.median(cpu for cpu, _ in take_turns({"": lambda: a @ a}, 5, args.device)[""])
    torch.set_float32_matmul_precision(before)
    return 2 * side ** 3 / seconds


def counted(step):
    """-> FLOPs of a step, and bytes that its forward pass keeps for the backward pass, each piece of memory once."""
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as flops, saved_tensors_hooks(keep, lambda x: x):
        step()
    return flops.get_total_flops(), sum(kept.values())


def exponent(sizes, costs):
    """Slope of log cost over log size: 1 is linear, 2 quadratic; NaN of fewer than two costs."""
    points = [(size, cost) for size, cost in zip(sizes, costs) if cost]
    return float(np.polyfit(*np.log(points).T, 1)[0]) if len(points) > 1 else float("nan")


def machine(args):
    """A line of what it was measured on."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    peers = []
    for package in ("torch", *PEERS.values()):
        try:
            peers.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            peers.append(f"{package} not installed (pip install {package})")
    gpu = f"{torch.cuda.get_device_name()}, " if args.device == "cuda" else ""
    return f"{gpu}{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {', '.join(peers)}"


def show(rows):
    """Print dicts with the same keys as a table."""
    lines = [list(rows[0]), *([f"{x:.3g}" if isinstance(x, float) else "" if x is None else str(x) for x in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(rows[0]))]
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def report(args, name, rows, **pictures):
    """Print rows (dicts with the same keys), write NAME.csv, and the pictures as NAME-KEY.png."""
    rows = [{key: value for key, value in row.items() if key != "each"} for row in rows]
    show(rows)
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, f"{name}.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for key, picture in pictures.items():
        picture.save(os.path.join(args.out, f"{name}-{key}.png"))
    print(f"written: {os.path.join(args.out, name)}.csv, {', '.join(f'{name}-{key}.png' for key in pictures)}")


def lines(rows, key, x, who="who"):
    """Rows -> {who: (xs, values of key)}, what plots.curves draws."""
    return {name: ([row[x] for row in rows if row[who] == name], [row[key] or float("nan") for row in rows if row[who] == name])
            for name in dict.fromkeys(row[who] for row in rows)}
