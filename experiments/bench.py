"""How fast, and in how much memory: this project beside timm, transformers and the naive way.

    python -m experiments.bench scaling        also: vit, crossvit, multivit, filter, memory, data, readers,
                                               products, variants, recipes
    OMP_NUM_THREADS=1 python -m experiments.bench vit --quick    on one core; small sizes, to see that it runs

Time: the candidates take turns (A B A B ...), so that whatever else the machine does hits all of them;
medians of the CPU time of all threads, which a busy machine changes little. On CUDA the time between events.
Memory: of one step alone in a process of its own, the largest resident set above what was there before the
step (Linux), or CUDA's max_memory_allocated above that; `saved`: what is kept for the backward pass, weights
included. FLOPs are PyTorch's count (2 per multiply-add); `peak` is the share of the rate that a large matrix
product reaches here, in the type and at the precision of the candidate; `syncs`: how often a step waits for
the GPU. Every table is printed and written to OUT/NAME.csv. Peers that are not installed are named.
"""
import os
import time
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import attention
import train as training
from attention_filter import compose, gather_patches, gather_tokens, refine, score, select
from data import make_loader
from evaluation.chart import Axis, limits
from evaluation.curves import Line
from evaluation.picture_rows import side_by_side
from evaluation.plots import line_chart
from experiments.costs import recipes, variants
from experiments.peers import crossvit, vit
from experiments.timing import growth, machine, matmul_rate, measure, print_growth, report
from multivit import MultiViT, MultiViTConfig
from plumbing.cohort import Task
from plumbing.command import Parser, run_main
from plumbing.device import find_device
from plumbing.flags import parse
from plumbing.kernels import choose_kernels
from plumbing.models import build_model
from plumbing.pictures import read_image
from plumbing.prepare import prepare
from plumbing.simulate import make
from vit import SIZES, ViT, ViTConfig


MATRIX = "softmax, matrix in memory"                               # as the papers had it
GROWS = {"scaling": "tokens", "multivit": "n"}                     # command: the column of sizes


# -----------------------------------------------------------------------------
# scaling, multivit, filter: what grows how


@contextmanager
def attention_of(who):
    """softmax(Q K^T / sqrt(d)) V with its T x T matrix in memory, for a candidate that is called so."""
    fused = attention.softmax_attention
    if who.endswith("matrix in memory"):
        attention.softmax_attention = lambda q, k, v, mask=None: attention.softmax_formula(q, k, v)
    try:
        yield
    finally:                                                       # a step that found no memory, too
        attention.softmax_attention = fused


def build_bag(device, who, tokens, size):
    """A training step of a ViT on one bag of vectors: forward, backward, AdamW; on CUDA in bfloat16."""
    torch.manual_seed(0)
    kind = who.partition(",")[0]
    fields = SIZES[size]
    config = ViTConfig(image=(), patch=(), channels=fields["dim"], attention=kind, **fields)
    model = ViT(config, {"y": 2}).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    bag = torch.randn(1, tokens, config.channels, device=device)
    y = torch.zeros(1, dtype=int, device=device)

    def step():
        optimizer.zero_grad()
        with attention_of(who), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            F.cross_entropy(model(bag)["logits"]["y"].float(), y).backward()
        optimizer.step()

    return step


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


def log_axis(values, label):
    """An axis for logarithms of base 10, with a tick at every power."""
    low, high = limits(np.concatenate(values))
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    return Axis((powers[0], powers[-1]), label, names={power: f"{10 ** power:,g}" for power in powers})


def draw_growth(rows, size, path):
    """Write a chart of time and one of memory over a column of sizes, both in powers of ten."""
    charts = []
    for cost in ("s", "MB"):
        lines = [Line(who, np.log10(sizes), np.log10(costs))
                 for who, (sizes, costs) in growth(rows, size, cost).items()]
        x = log_axis([line.xs for line in lines], size)
        y = log_axis([line.ys for line in lines], f"{cost} per step")
        charts.append(line_chart(lines, x, y))
    side_by_side(charts, ["", ""], height=420).save(path)
    print(f"wrote {path}")


def build_multivit(device, who, n, size, image, patch):
    """Forward and backward of one patient with n photographs; separate: of n samples with one photograph."""
    torch.manual_seed(0)
    config = ViTConfig(image=(image, image), patch=(patch, patch), **SIZES[size])
    mode = {"separate": "baseline", "multi": "multi"}.get(who, "joint")
    model = MultiViT(MultiViTConfig(config, mode, n), {"y": 10}).to(device)
    images = torch.rand(1, n, 3, image, image, device=device)
    if who == "separate":
        images = images[0]
    y = torch.zeros(len(images), dtype=torch.long, device=device)

    def step():
        model.zero_grad(set_to_none=True)
        with attention_of(who):
            F.cross_entropy(model(images)["logits"]["y"], y).backward()

    return step


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
    names = ("separate", "multi", "joint", "joint, matrix in memory")
    for n in counts:
        yield measure(args, build_multivit, names, {"n": n, "size": "micro", "image": image, "patch": 8})


def build_filter(device, who, batch, side, patch, dim):
    """Class maps, tokens and photographs of a batch of patients, N = 3, R = 2 -> what stage 2 gets."""
    torch.manual_seed(0)
    grid = (side // patch, side // patch)
    T = grid[0] * grid[1]
    r = 2
    maps = torch.rand(batch, 3, 16, T, device=device)              # of 16 heads
    tokens = torch.rand(batch, 3, T, dim, device=device)
    images = torch.randint(256, (batch, 3, 3, r * side, r * side), dtype=torch.uint8, device=device)

    def ours():
        image, token = select(score(maps), T // r ** 2)
        fine = refine(token, grid, r).flatten(1)
        patches = gather_patches(images, image.repeat_interleave(r ** 2, 1), fine, (patch, patch))
        return gather_tokens(tokens, image, token).repeat_interleave(r ** 2, 1), compose(patches, grid)

    def loops():
        from tests import test_attention_filter as reference       # loops over patients, tokens and patches
        scores = score(maps) if who == "loops, scores in one call" else reference.loop_score(maps)
        kept = reference.loop_select(scores, T // r ** 2)
        slots = reference.loop_refine(kept, grid, r)
        return reference.loop_tokens(kept, tokens, r), reference.loop_patches(slots, images, grid, r, patch)

    return ours if who == "ours" else loops


def filter_(args):
    """The attention filter without loops and with them; it has no matrix product, so `peak` is 0."""
    settings = {"batch": 16, "side": 384, "patch": 32, "dim": 1024}
    if args.quick:
        settings = {"batch": 2, "side": 64, "patch": 16, "dim": 32}
    yield measure(args, build_filter, ("ours", "loops", "loops, scores in one call"), settings)


# -----------------------------------------------------------------------------
# memory, data, readers: train.py and what it reads


def build_flags(device, flags, size, image, patch):
    """A step of train.py with these flags: MultiViT-3-2 on four patients."""
    torch.manual_seed(0)
    pixels = f"--image {image}x{image} --patch {patch}x{patch}"
    args = parse(f"--n 3 --r 2 --channels 3 --size {size} {pixels} {flags}".split())
    task = Task("y", "regression")
    with torch.device(device):                                     # where a large model is drawn soonest
        model, _ = build_model(args, [task], ())
    if args.amp == "auto":
        args.amp = "off"
    choose_kernels(args, model, torch.device(device))
    optimizer = training.make_optimizer(model, args, torch.device(device))
    options = {"device": torch.device(device), "autocast": torch.bfloat16 if args.amp == "bf16" else None}
    batch = {"path": ["", "", "", ""], "targets": {"y": torch.rand(4)},
             "present": torch.ones(4, 3, dtype=torch.bool),
             "images": torch.zeros(4, 3, 3, image, image, dtype=torch.uint8),
             "images_hr": torch.zeros(4, 3, 3, 2 * image, 2 * image, dtype=torch.uint8)}

    def step():
        training.train_step(model, model, [task], optimizer, batch, args, options, False)

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


def build_data(device, who, path, side):
    """Read a JPEG at side and 2 side px."""
    def ours():
        read_image(path, (side, side), 2)

    def decode():
        with Image.open(path) as picture:
            picture.draft("RGB", (2 * side, 2 * side))             # as read_image
            picture.load()

    def plain():
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
            for px in (side, 2 * side):
                np.asarray(picture.resize((px, px), Image.Resampling.BILINEAR))

    return {"ours": ours, "decoding alone": decode, "plain": plain}[who]


def data(args):
    """A JPEG of 12 megapixels. Decoding alone scales as ours; plain: open, convert, two resizes."""
    size = (4000, 3000)
    side = 384
    if args.quick:
        size = (400, 300)
        side = 64
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, "photo.jpg")
    noise = Image.effect_noise((size[0] // 8, size[1] // 8), 60)
    noise.resize(size, Image.Resampling.BICUBIC).convert("RGB").save(path, quality=90)
    yield measure(args, build_data, ("ours", "decoding alone", "plain"), {"path": path, "side": side})


def readers(args):
    """How many photographs like the default cohort's the readers deliver per second, nobody computing."""
    counts = (0, 4, 8, 16)
    patients = 200
    if args.quick:
        counts = (0, 2)
        patients = 20
    table = make("psoriasis", args.cache_dir, patients=patients)
    for workers in counts:
        flags = ["--data", table, "--n", "3", "--r", "2", "--workers", str(workers)]
        ready = prepare(parse(flags), torch.device("cpu"))
        loader, _ = make_loader(ready.loader.dataset, 16, workers=workers)
        next(iter(loader))                                         # the processes are there
        began = time.perf_counter()
        images = 0
        for batch in loader:
            images += int(batch["present"].sum())
        yield [{"workers": workers, "images/s": images / (time.perf_counter() - began)}]


def products(args):
    """What a large product of two matrices reaches; high is TF32 on CUDA, medium oneDNN on a CPU."""
    for precision in ("bf16", "medium", "high", "highest"):
        torch.set_float32_matmul_precision("highest" if precision == "bf16" else precision)
        yield [{"product": precision, "TFLOP/s": matmul_rate(args.device, precision) / 1e12}]


def main(argv=None):
    commands = {"vit": vit, "crossvit": crossvit, "multivit": multivit, "filter": filter_, "memory": memory,
                "scaling": scaling, "data": data, "readers": readers, "products": products,
                "variants": variants, "recipes": recipes}
    parser = Parser(__doc__)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--rounds", type=int, default=5, help="turns that every candidate takes")
    parser.add_argument("--out", default="runs/bench", help="folder of the tables")
    parser.add_argument("--cache-dir", default="data_cache", help="folder of the simulated cohort")
    args = parser.parse_args(argv)
    find_device(args.device)
    print(f"bench {args.command}: {machine(args.device)}\n\n{commands[args.command].__doc__}\n")
    rows = report(args, args.command, commands[args.command](args))
    torch.set_float32_matmul_precision("highest")
    if args.command in GROWS:
        print_growth(rows, GROWS[args.command])
        draw_growth(rows, GROWS[args.command], os.path.join(args.out, f"{args.command}.png"))


if __name__ == "__main__":
    run_main(main)
