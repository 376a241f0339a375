"""How fast, and in how much memory: this project beside timm, transformers and the naive way.

    python -m experiments.bench scaling        also: vit, crossvit, multivit, memory, readers, products,
                                               variants, recipes
    OMP_NUM_THREADS=1 python -m experiments.bench vit --quick    on one core; small sizes, to see that it runs

Time: the candidates take turns (A B B A ...), so that whatever else the machine does hits all of them;
medians of the CPU time of all threads, which a busy machine changes little. On CUDA until the GPU is done.
Memory: of one step alone, above what was there before it: the largest resident set of a process of its own
(Linux), or CUDA's max_memory_allocated. TFLOP/s: FLOPs are PyTorch's count (2 per multiply-add); `products`
has what a large matrix product reaches. Every table is printed and written to OUT/NAME.csv. Peers that are
not installed are named.
"""
import time
from inspect import getdoc
from os.path import join
from statistics import median

import numpy as np
import torch

import attention
from evaluation.chart import Axis, limits
from evaluation.curves import Line
from evaluation.picture_rows import stack
from evaluation.plots import line_chart
from experiments.costs import recipes, variants
from experiments.peers import SAME, crossvit, network_step, vit
from experiments.timing import add_flags, machine, measure, report, take_turns
from multivit import MultiViT, MultiViTConfig
from plumbing.cohort import Task
from plumbing.command import Parser, count, run_main
from plumbing.device import find_device
from plumbing.flags import parse
from plumbing.models import build_model
from plumbing.prepare import prepare
from plumbing.simulate import make
from plumbing.sizes import SIZES
from train import make_optimizer, train_step
from vit import ViT, ViTConfig


MATRIX = "softmax, matrix in memory"                               # as the papers had it
GROWS = {"scaling": "tokens", "multivit": "n"}                     # command: the column of sizes


# -----------------------------------------------------------------------------
# scaling, multivit: what grows how


def build_bag(device, who, tokens, size):
    """A ViT on one bag of vectors."""
    kind = who.partition(",")[0]
    fields = SIZES[size]
    config = ViTConfig(image=(), patch=(), channels=fields["dim"], attention=kind, **fields)
    bag = torch.randn(1, tokens, config.channels)
    return network_step(device, who, ViT(config, {"y": 2}), bag, SAME[device], "training")


def scaling(args):
    """A training step over the number of tokens, for each attention: Fig. 2 of Khader et al. 2024."""
    size = "vit_wsi"
    lengths = (256, 1024, 4096, 16384)
    if args.device == "cuda":
        lengths += (65536,)
    if args.quick:
        size = "micro"
        lengths = (16, 64, 256)
    for tokens in lengths:
        kinds = [MATRIX, *attention.KINDS]
        if args.device == "cpu" and tokens > 4096:                 # a matrix is 8.6 GB, and several are kept
            kinds = attention.KINDS
        yield measure(args, build_bag, kinds, {"tokens": tokens, "size": size})


def show_growth(rows, size, path):
    """Print how time and memory of each candidate grow with a column of sizes, the smallest left out, and
    draw what was measured of both in powers of ten."""
    charts = []
    for cost in ("s", "MB"):
        points = {}
        for row in rows:
            if row[cost]:
                points.setdefault(row["who"], []).append((row[size], row[cost]))
        if not points:                                             # of memory, on macOS
            continue
        lines = []
        for who, own in points.items():
            xs, ys = np.log10(own).T
            lines.append(Line(who, xs, ys))
            if len(own) > 2:
                power, _ = np.polyfit(xs[1:], ys[1:], 1)           # 1 is linear, 2 quadratic
                print(f"{who}: {cost} grows with the power {power:.2f} of {size}, from {own[1][0]:,.0f} on")
        xs, ys = np.log10(sum(points.values(), [])).T
        x = Axis(limits(xs), f"log10 of {size}")
        y = Axis(limits(ys), f"log10 of {cost} per step")
        charts.append(line_chart(lines, x, y))
    stack(charts).save(path)
    print(f"wrote {path}")


def build_multivit(device, who, n, size, image, patch):
    """One patient with n photographs; separate: n samples with one photograph."""
    config = ViTConfig(image=(image, image), patch=(patch, patch), **SIZES[size])
    mode = {"separate": "baseline", "multi": "multi"}.get(who, "joint")
    images = torch.rand(1, n, 3, image, image)
    if who == "separate":
        images = images[0]
    model = MultiViT(MultiViTConfig(config, mode, n), {"y": 10})
    return network_step(device, who, model, images, SAME[device], "training")


def multivit(args):
    """O(N T^2) or O((N T)^2)? One patient over n, the number of photographs.

    separate: one ViT, n photographs side by side; multi: MultiViT-n-1; joint: one ViT over the n T tokens,
    with fused attention, or with the matrix of all pairs of tokens in memory. That matrix is what grows with
    n^2 in memory; fused attention never holds it, which leaves time as the argument against joint."""
    counts = (1, 2, 3, 4, 8, 16)
    image = 128
    if args.quick:
        counts = (1, 2)
        image = 32
    for n in counts:
        yield measure(args, build_multivit, ("separate", "multi", "joint", "joint, matrix in memory"),
                      {"n": n, "size": "micro", "image": image, "patch": 8})


# -----------------------------------------------------------------------------
# memory, readers, products: train.py, what it reads, and what the machine can


def build_flags(device, flags, size, image, patch):
    """A step of train.py with these flags: MultiViT-3-2 on four patients."""
    network = f"--size {size} --image {image}x{image} --patch {patch}x{patch}"
    args = parse(f"--n 3 --r 2 --channels 3 --amp off {network} {flags}".split())
    task = Task("y", "regression")
    device = torch.device(device)
    with device:                                                   # where a large model is drawn soonest
        model, _ = build_model(args, [task])
    optimizer = make_optimizer(model, args, device)
    options = {"device": device, "autocast": {"off": None, "bf16": torch.bfloat16}[args.amp]}
    images = torch.zeros(4, 3, 3, image, image, dtype=torch.uint8)
    batch = {"path": [""] * 4, "targets": {"y": torch.rand(4)},
             "present": torch.ones(4, 3, dtype=torch.bool),
             "images": images, "images_hr": images.repeat(1, 1, 1, 2, 2)}

    def step():
        train_step(model, model, [task], optimizer, batch, args, options, False)

    return step


def memory(args):
    """What the flags that save memory save, and what they cost, with the last five blocks trained."""
    settings = {"size": "large", "image": 384, "patch": 32}
    if args.quick:
        settings = {"size": "tiny", "image": 32, "patch": 8}
    flags = ["", " --accumulate 4", " --chunk 1", " --grad-checkpointing",
             " --accumulate 4 --chunk 1 --grad-checkpointing", " --amp bf16"]
    if args.device == "cuda":
        flags = [" --amp bf16", " --amp bf16 --grad-checkpointing"]
    yield measure(args, build_flags, [f"--train-blocks 5{more}" for more in flags], settings)


def readers(args):
    """How many photographs like the default cohort's the readers deliver per second, nobody computing."""
    counts = (0, 2) if args.quick else (0, 4, 8, 16)
    table = make("psoriasis", args.cache_dir, patients=20 if args.quick else 200)
    for workers in counts:
        flags = ["--data", table, "--n", "3", "--r", "2", "--workers", str(workers)]
        loader = prepare(parse(flags), torch.device("cpu")).loader
        next(iter(loader))                                         # the processes are there
        began = time.perf_counter()
        images = sum(int(batch["present"].sum()) for batch in loader)
        yield [{"workers": workers, "images/s": images / (time.perf_counter() - began)}]


def products(args):
    """What a large product of two matrices reaches; high is TF32 on CUDA, medium oneDNN on a CPU."""
    side = 8192 if args.device == "cuda" else 512
    for precision in ("bf16", "medium", "high", "highest"):
        a = torch.randn(side, side, device=args.device)
        if precision == "bf16":
            a = a.bfloat16()
        else:
            torch.set_float32_matmul_precision(precision)
        seconds = median(take_turns({"product": lambda: a @ a}, 5, args.device)["product"])
        yield [{"product": precision, "TFLOP/s": 2 * side ** 3 / seconds / 1e12}]


def main(argv=None):
    commands = {command.__name__: command for command in (
        vit, crossvit, multivit, memory, scaling, readers, products, variants, recipes)}
    parser = Parser(__doc__)
    parser.add_argument("command", choices=commands)
    add_flags(parser, "cpu", "runs/bench")
    parser.add_argument("--rounds", type=count, default=5, help="turns that every candidate takes")
    args = parser.parse_args(argv)
    find_device(args.device)
    print(f"bench {args.command}: {machine(args.device)}\n\n{getdoc(commands[args.command])}\n")
    rows = report(args, args.command, commands[args.command](args))
    torch.set_float32_matmul_precision("highest")
    if args.command in GROWS:
        show_growth(rows, GROWS[args.command], join(args.out, f"{args.command}.png"))


if __name__ == "__main__":
    run_main(main)
