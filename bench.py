"""How fast, and in how much memory: ours beside timm, transformers and the naive way.

    python bench.py scaling             also: vit, crossvit, multivit, filter, data; --quick, --device cuda

Time: the candidates take turns (A B A B ...), so that whatever else the machine does hits all of them; medians of the CPU
time of all threads, which a busy machine changes little, and of the wall time. On CUDA both are the time between two events.
Memory: of one step alone in a process of its own, the largest resident set above what was there before the step (Linux), or
CUDA's max_memory_allocated above that. FLOPs are PyTorch's count (2 a multiply-add); `peak` is the share of the rate
that a large matrix product reaches here, in the type and at the precision of the candidate.
Every table is printed and written to FOLDER/NAME.csv, with a PNG. What is not installed is left out and named.
"""
import argparse
import csv
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from queue import Empty

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import attention
from attention_filter import compose, gather_patches, refine, score, select
from crossvit import CrossViT, CrossViTConfig, our_names, variant
from data import read_image
from multivit import MultiViT, MultiViTConfig
from plots import curves
from train import run_main
from vit import SIZES, ViT, ViTConfig

PEERS = {"timm": "timm", "transformers": "transformers"}           # module: name on PyPI

# -----------------------------------------------------------------------------
# measuring


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


def measure(args, cases, baseline=None):
    """{name: (build, *arguments)} -> {name: dict(cpu, wall, ratio, mb, note)}; build(device, *arguments) -> step.

    First each alone, for its memory; then in turns, for their times, all that took less than a 20th of --limit. ratio: CPU
    time over that of `baseline`, default the first."""
    rows, steps, context = {}, {}, multiprocessing.get_context("spawn")
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
        rows[name] = {"cpu_s": cpu, "wall_s": None, "ratio": None, "memory_mb": peak and peak / 2 ** 20, "note": note}
        if cpu is not None and cpu < args.limit / 20:
            steps[name] = build(args.device, *arguments)
        elif cpu is not None:
            rows[name]["note"] = "one step, in a process of its own"
    times = take_turns(steps, args.rounds, args.device)
    for name, each in times.items():
        rows[name]["cpu_s"], rows[name]["wall_s"] = (statistics.median(part) for part in zip(*each))
    first = rows[baseline or next(iter(rows))]["cpu_s"]
    for row in rows.values():
        row["ratio"] = row["cpu_s"] / first if row["cpu_s"] and first else None
    return rows


def matmul_rate(device, dtype=torch.float32, side=2048):
    """FLOP/s of a large matrix product."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side ** 3 / statistics.median(wall for _, wall in take_turns({"": lambda: a @ a}, 5, device)[""])


def flops_of(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def exponent(tokens, seconds):
    """Slope of log seconds over log tokens: 1 is linear, 2 quadratic."""
    return float(np.polyfit(np.log(tokens), np.log(seconds), 1)[0])


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


def report(args, name, rows, series, xlabel, log=False):
    """Print rows (dicts with the same keys), write NAME.csv and NAME.png; series: {name: (xs, seconds)}."""
    text = [[f"{x:.3g}" if isinstance(x, float) else "" if x is None else str(x) for x in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in [list(rows[0]), *text]) for i in range(len(rows[0]))]
    for line in [list(rows[0]), *text]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, f"{name}.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    series = {key: ([x for x, y in zip(*xy) if y], [y for y in xy[1] if y]) for key, xy in series.items()}
    curves({key: xy for key, xy in series.items() if xy[0]}, f"bench.py {name}", xlabel, "seconds", log, log).save(
        os.path.join(args.out, f"{name}.png"))
    print(f"written: {os.path.join(args.out, name)}.csv and .png")


# -----------------------------------------------------------------------------
# the candidates: build(device, ...) -> step, a function without arguments


def network_step(device, model, call, shape, train, precision):
    """One forward pass, or a training step without the optimizer, at float32, medium (see train.fast_float32) or bf16."""
    model, x, y = model.to(device).train(train), torch.randn(shape, device=device), torch.zeros(shape[0], dtype=torch.long, device=device)

    def step():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium" if precision == "medium" else before)
        with torch.set_grad_enabled(train), torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext():
            logits = call(model, x)
        if train:
            model.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), y).backward()
        torch.set_float32_matmul_precision(before)
    return step


def build_vit(device, who, size, image, patch, batch, train, precision):
    dim, depth, heads = SIZES[size]
    torch.manual_seed(0)
    if who == "ours":
        model = ViT(ViTConfig(image=(image, image), patch=(patch, patch), dim=dim, depth=depth, heads=heads, mlp=4 * dim), {"y": 10})
        call = lambda model, x: model(x)["logits"]["y"]
    elif who == "timm":
        from timm.models.vision_transformer import VisionTransformer
        model = VisionTransformer(image, patch, embed_dim=dim, depth=depth, num_heads=heads, num_classes=10)
        call = lambda model, x: model(x)
    else:
        import transformers
        model = transformers.ViTForImageClassification(transformers.ViTConfig(
            hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * dim, image_size=image,
            patch_size=patch, num_labels=10, attn_implementation="sdpa"))
        call = lambda model, x: model(x).logits
    return network_step(device, model, call, (batch, 3, image, image), train, precision)


def build_crossvit(device, who, name, batch, train, precision):
    """Both with the same weights when timm is there."""
    torch.manual_seed(0)
    if who == "timm":
        import timm
        model, call = timm.create_model(f"crossvit_{name.lower()}_240", num_classes=10), lambda model, x: model(x)
    else:
        model, call = CrossViT(variant(name), {"y": 10}), lambda model, x: model(x)["logits"]["y"]
    return network_step(device, model, call, (batch, 3, 240, 240), train, precision)


def build_layer(device, kind, tokens, dim, heads):
    """Forward and backward of one attention layer."""
    torch.manual_seed(0)
    layer, x = attention.Attention(dim, heads, kind=kind).to(device), torch.randn(1, tokens, dim, device=device, requires_grad=True)

    def step():
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()
    return step


def eager_attention(q, k, v, mask=None):
    """softmax(Q K^T / sqrt(d)) V with its T x T matrix in memory."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores if mask is None else scores.masked_fill(~mask[:, None, None, :], float("-inf"))).softmax(-1) @ v


def build_multivit(device, who, n, size, image, patch):
    """A training step on one patient with n images."""
    dim, depth, heads = SIZES[size]
    vit = ViTConfig(image=(image, image), patch=(patch, patch), dim=dim, depth=depth, heads=heads, mlp=4 * dim)
    torch.manual_seed(0)
    model = MultiViT(MultiViTConfig(vit, "multi" if who == "multi" else "joint", n), {"y": 10}).to(device)
    images, y = torch.rand(1, n, 3, image, image, device=device), torch.zeros(1, dtype=torch.long, device=device)

    def step():
        fused, attention.softmax_attention = attention.softmax_attention, eager_attention if "eager" in who else attention.softmax_attention
        try:
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(images)["logits"]["y"], y).backward()
        finally:
            attention.softmax_attention = fused
    return step


def build_filter(device, who, batch, side, patch, r, n=3, heads=16):
    """Score, select, refine, gather and compose of a batch of patients."""
    torch.manual_seed(0)
    grid = (side // patch,) * 2
    maps = torch.rand(batch, n, heads, grid[0] * grid[1], device=device)
    images = torch.randint(256, (batch, n, 3, r * side, r * side), dtype=torch.uint8, device=device)

    def ours():
        image, token = select(score(maps), grid[0] * grid[1] // r ** 2)
        fine = refine(token, grid, r).flatten(1)
        return compose(gather_patches(images, image.repeat_interleave(r * r, 1), fine, (patch, patch)), grid)

    def loops():
        from tests.test_attention_filter import loop_filter        # the tests' reference, patch by patch
        return torch.stack([loop_filter(scores, pixels, grid, r, patch)[1] for scores, pixels in zip(score(maps), images)])
    return ours if who == "ours" else loops


def build_data(device, who, path, side, r):
    def plain():
        from PIL import Image
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
            return [np.asarray(picture.resize((px, px), Image.Resampling.BILINEAR)) for px in (side, r * side)]
    return plain if who == "plain" else lambda: read_image(path, (side, side), r)


# -----------------------------------------------------------------------------
# the subcommands: args -> nothing; each ends in report()


def networks(args, name, build, whos, settings, batch):
    """One table of forward passes and training steps at three precisions; ratio: over ours."""
    rows, series = [], {}
    before = torch.get_float32_matmul_precision()
    for precision in ("float32", "medium", "bf16"):
        torch.set_float32_matmul_precision("medium" if precision == "medium" else before)
        rate = matmul_rate(args.device, torch.bfloat16 if precision == "bf16" else torch.float32, 512 if args.quick else 2048)
        torch.set_float32_matmul_precision(before)
        for train in (False, True):
            result = measure(args, {who: (build, who, *settings, batch, train, precision) for who in whos})
            flops = flops_of(build(args.device, "ours", *settings, batch, train, precision))
            for who, row in result.items():
                rows.append({"precision": precision, "step": "train" if train else "forward", "who": who, **row,
                             "peak": flops / row["wall_s"] / rate if row["wall_s"] else None})
                xs, ys = series.setdefault(who, ([], []))
                xs.append(len(xs) + 1), ys.append(row["cpu_s"])
    report(args, name, rows, series, "row of the table: forward, train at float32, medium, bf16")


def vit(args):
    settings, batch = (("micro", 32, 8), 2) if args.quick else (("base", 224, 16), 2 if args.device == "cpu" else 64)
    networks(args, "vit", build_vit, ("ours", "transformers", "timm"), settings, batch)


def crossvit(args):
    settings, batch = (("9",), 1) if args.quick else (("15",), 4 if args.device == "cpu" else 64)
    networks(args, "crossvit", build_crossvit, ("ours", "timm"), settings, batch)


def scaling(args):
    dim, heads, sides = (64, 2, (64, 128, 256)) if args.quick else (512, 8, (224, 512, 768, 1024, 1536, 2048))
    rows, series = [], {kind: ([], []) for kind in attention.KINDS}
    for side in sides:
        tokens = (side // 16) ** 2
        result = measure(args, {kind: (build_layer, kind, tokens, dim, heads) for kind in attention.KINDS}, "sima")
        for kind, row in result.items():
            rows.append({"side": side, "tokens": tokens, "kind": kind, **row})
            series[kind][0].append(tokens), series[kind][1].append(row["cpu_s"])
    report(args, "scaling", rows, series, "tokens of one image, patches of 16 px", log=True)
    at = {(row["kind"], row["tokens"]): row for row in rows}
    for kind, (tokens, seconds) in series.items():
        points = [(t, s) for t, s in zip(tokens, seconds) if s and (t >= 1024 or args.quick)]
        if len(points) > 1:
            print(f"{kind}: seconds grow with tokens to the power {exponent(*zip(*points)):.2f} from {points[0][0]:,} to {points[-1][0]:,}")
        small, large = at[kind, tokens[-1] // 4]["memory_mb"] if (kind, tokens[-1] // 4) in at else None, at[kind, tokens[-1]]["memory_mb"]
        if small and large:
            print(f"{kind}: {large / small:.2f} times the memory for 4 times the tokens")
    last = {kind: at[kind, tokens[-1]] for kind in attention.KINDS}
    for a, b in (("softmax", "seqnorm"), ("softmax", "sima"), ("seqnorm", "sima")):
        if all(last[kind][key] for kind in (a, b) for key in ("cpu_s", "memory_mb")):
            print(f"{a} / {b} at {tokens[-1]:,} tokens: {last[a]['cpu_s'] / last[b]['cpu_s']:.2f} in time, "
                  f"{last[a]['memory_mb'] / last[b]['memory_mb']:.2f} in memory")


def multivit(args):
    settings = ("micro", 32, 8) if args.quick else ("large", 384, 32) if args.paper else ("micro", 128, 8)
    rows, series = [], {}
    for n in (1, 2) if args.quick else (1, 2, 4, 8, 16):
        for who, row in measure(args, {who: (build_multivit, who, n, *settings) for who in ("multi", "joint", "joint eager")}).items():
            rows.append({"n": n, "who": who, **row})
            xs, ys = series.setdefault(who, ([], []))
            xs.append(n), ys.append(row["cpu_s"])
    report(args, "multivit", rows, series, "N, images of a patient", log=True)


def filter_(args):
    settings = (2, 64, 16, 2) if args.quick else (16, 384, 32, 2)
    result = measure(args, {who: (build_filter, who, *settings) for who in ("ours", "loops")})
    report(args, "filter", [{"who": who, **row} for who, row in result.items()],
           {who: ([1, 2], [row["cpu_s"]] * 2) for who, row in result.items()}, "patients, a batch", log=True)


def data(args):
    from PIL import Image
    os.makedirs(args.out, exist_ok=True)
    path, size, side = os.path.join(args.out, "photo.jpg"), (400, 300) if args.quick else (4000, 3000), 64 if args.quick else 384
    Image.effect_noise((size[0] // 100, size[1] // 100), 200).resize(size).convert("RGB").save(path, "JPEG")
    result = measure(args, {who: (build_data, who, path, side, 2) for who in ("ours", "plain")})
    report(args, "data", [{"who": who, "size": "x".join(map(str, size)), **row} for who, row in result.items()],
           {who: ([1, 2], [row["cpu_s"]] * 2) for who, row in result.items()}, f"{side} and {2 * side} px of {size[0]} x {size[1]}")


def main(argv=None):
    commands = {"vit": vit, "crossvit": crossvit, "multivit": multivit, "filter": filter_, "scaling": scaling, "data": data}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--paper", action="store_true", help="multivit: ViT-L/32 at 384 px")
    parser.add_argument("--threads", type=int, help="of the CPU; default: PyTorch's")
    parser.add_argument("--rounds", type=int, default=5, help="turns that every candidate takes")
    parser.add_argument("--limit", type=float, default=120, help="seconds a step may take")
    parser.add_argument("--out", default="runs/bench", help="folder of the tables and figures")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.limit <= 0 or args.threads is not None and args.threads < 1:
        raise ValueError(f"--rounds {args.rounds}, --limit {args.limit}, --threads {args.threads}: need numbers above 0")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here")
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"bench.py {args.command}: {machine(args)}")
    commands[args.command](args)


if __name__ == "__main__":
    run_main(main)
