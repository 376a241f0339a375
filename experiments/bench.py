"""How fast, and in how much memory: this project beside timm, transformers and the naive way.

    python -m experiments.bench scaling        also: vit, crossvit, multivit, filter, memory, data, train
    OMP_NUM_THREADS=1 python -m experiments.bench vit --quick    on one core; small sizes, to see that it runs

Time: the candidates take turns (A B A B ...), so that whatever else the machine does hits all of them;
medians of the CPU time of all threads, which a busy machine changes little. On CUDA the time between events.
Memory: of one step alone in a process of its own, the largest resident set above what was there before the
step (Linux), or CUDA's max_memory_allocated above that; `saved`: what is kept for the backward pass, weights
included. FLOPs are PyTorch's count (2 per multiply-add); `peak` is the share of the rate that a large matrix
product reaches here, in the type and at the precision of the candidate. Every table is printed and written to
OUT/NAME.csv. Peers that are not installed are left out and named.
"""
import csv
import io
import os
from contextlib import redirect_stdout
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import attention
import train as training
from attention_filter import compose, gather_patches, gather_tokens, refine, score, select
from data import Samples, collate
from experiments.peers import crossvit, vit
from experiments.timing import machine, measure, print_growth, report
from multivit import MultiViT, MultiViTConfig
from plumbing.cohort import Cohort, Task
from plumbing.command import run_main
from plumbing.device import find_device
from plumbing.kernels import choose_kernels
from plumbing.flags import parse
from plumbing.models import build_model
from plumbing.parser import Parser
from plumbing.pictures import read_image
from plumbing.simulate import make
from vit import SIZES, ViTConfig


FUSED = attention.softmax_attention


# -----------------------------------------------------------------------------
# scaling, multivit, filter: what grows how


def build_layer(device, kind, tokens, dim, heads):
    """Forward and backward of one attention layer."""
    torch.manual_seed(0)
    layer = attention.Attention(dim, heads, kind=kind).to(device)
    x = torch.randn(1, tokens, dim, device=device, requires_grad=True)

    def step():
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    return step


def scaling(args):
    """One attention layer of each kind over the number of tokens, of images in patches of 16 px."""
    dim, heads, sides, start = 512, 8, (224, 512, 768, 1024, 1536, 2048), 1024
    if args.quick:
        dim, heads, sides, start = 64, 2, (64, 128, 256), 16
    rows = []
    for side in sides:
        settings = dict(tokens=(side // 16) ** 2, dim=dim, heads=heads)
        rows += measure(args, build_layer, attention.KINDS, settings)
    report(args, "scaling", rows)
    print_growth(rows, "tokens", start)


def eager_attention(q, k, v, mask=None):
    """softmax(Q K^T / sqrt(d)) V with its T x T matrix in memory; the models here leave the mask out."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


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
        if who == "joint, eager":
            attention.softmax_attention = eager_attention
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images)["logits"]["y"], y).backward()
        attention.softmax_attention = FUSED

    return step


def multivit(args):
    """O(N T^2) or O((N T)^2)? One patient over n, the number of photographs.

    separate: one ViT, n photographs side by side; multi: MultiViT-n-1; joint: one ViT over the n T tokens,
    with fused attention; eager: with the matrix of all pairs of tokens in memory. That matrix is what grows
    with n^2 in memory; fused attention never holds it, which leaves time as the argument against joint."""
    counts, image, start = (1, 2, 3, 4, 8, 16), 128, 4
    if args.quick:
        counts, image, start = (1, 2), 32, 1
    names = ("separate", "multi", "joint", "joint, eager")
    rows = []
    for n in counts:
        rows += measure(args, build_multivit, names, dict(n=n, size="micro", image=image, patch=8))
    report(args, "multivit", rows)
    print_growth(rows, "n", start)


def build_filter(device, who, batch, side, patch, dim):
    """Class maps, tokens and photographs of a batch of patients, N = 3, R = 2 -> what stage 2 gets."""
    torch.manual_seed(0)
    grid = (side // patch, side // patch)
    T, r = grid[0] * grid[1], 2
    maps = torch.rand(batch, 3, 16, T, device=device)              # of 16 heads
    tokens = torch.rand(batch, 3, T, dim, device=device)
    images = torch.randint(256, (batch, 3, 3, r * side, r * side), dtype=torch.uint8, device=device)
    if who != "ours":
        images = images.float()                                    # as in the released code

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

    return ours if who.startswith("ours") else loops


def filter_(args):
    """The attention filter without loops and with them; it has no matrix product, so `peak` is 0."""
    settings = dict(batch=16, side=384, patch=32, dim=1024)
    if args.quick:
        settings = dict(batch=2, side=64, patch=16, dim=32)
    names = ("ours", "ours, float32", "loops", "loops, scores in one call")
    rows = measure(args, build_filter, names, settings)
    report(args, "filter", rows)


# -----------------------------------------------------------------------------
# memory, data, train: train.py and what it reads


def build_flags(device, flags, size, image, patch, blocks):
    """A step of train.py with these flags: MultiViT-3-2 on four patients. blocks: how many are trained."""
    torch.manual_seed(0)
    pixels = f"--image {image}x{image} --patch {patch}x{patch}"
    command = f"--n 3 --r 2 --channels 3 --size {size} {pixels} {flags}"
    if blocks:
        command += f" --train-blocks {blocks}"
    args, task = parse(command.split()), Task("y", "regression")
    model, _ = build_model(args, [task], ())
    if args.amp == "auto":
        args.amp = "off"
    choose_kernels(args, model, torch.device(device))
    optimizer = training.make_optimizer(model.to(device), args, torch.device(device))
    options = {"device": torch.device(device), "autocast": torch.bfloat16 if args.amp == "bf16" else None}
    batch = {"path": ["", "", "", ""], "targets": {"y": torch.rand(4)},
             "present": torch.ones(4, 3, dtype=torch.bool),
             "images": torch.zeros(4, 3, 3, image, image, dtype=torch.uint8),
             "images_hr": torch.zeros(4, 3, 3, 2 * image, 2 * image, dtype=torch.uint8)}

    def step():
        training.train_step(model, model, [task], optimizer, batch, args, options, False)

    return step


def memory(args):
    """What the flags that save memory save, and what they cost."""
    settings = dict(size="large", image=384, patch=32, blocks=5)
    if args.quick:
        settings = dict(size="micro", image=32, patch=8, blocks=2)
    flags = ("", "--accumulate 4", "--chunk 1", "--grad-checkpointing",
             "--accumulate 4 --chunk 1 --grad-checkpointing", "--amp bf16")
    rows = measure(args, build_flags, flags, settings)
    report(args, "memory", rows)


def draw_photo(path, size, grain):
    """Write a JPEG with the spectrum of photographs: octaves of equal contrast down to 8 px, as a lens has.

    grain: standard deviation of a sensor's noise, in grey levels."""
    rng, (width, height) = np.random.default_rng(0), size
    photo = 128 + grain * rng.standard_normal((height, width, 3), np.float32)
    for octave in range(1, int(np.log2(width / 8)) + 1):
        for channel in range(3):
            shape = (2 ** octave * height // width + 2, 2 ** octave + 2)
            coarse = Image.fromarray(rng.normal(0, 16, shape).astype(np.float32))
            photo[..., channel] += coarse.resize(size, Image.Resampling.BICUBIC)
    Image.fromarray(np.uint8(photo.clip(0, 255))).save(path, quality=90)


def build_data(device, who, path, side):
    """Read a JPEG at side and 2 side px; cached: as a sample of training, copied into a batch."""
    augment = ["crop"] if "cropped" in who else []
    cohort = Cohort("photo", [Task("y", "regression")], ["p"], [path], {"y": np.zeros(1, np.float32)})
    samples = Samples(cohort, [0], (side, side), n=1, r=2, augment=augment, train=True,
                      folder=os.path.dirname(path))

    def step():
        if who == "ours":
            read_image(path, (side, side), 2)
        elif who.startswith("ours, cached"):
            collate([samples[0, 0]])
        elif who == "decoding alone":
            with Image.open(path) as picture:
                picture.draft("RGB", (2 * side, 2 * side))         # as read_image
                picture.load()
        else:
            with Image.open(path) as picture:
                picture = picture.convert("RGB")
                for px in (side, 2 * side):
                    np.asarray(picture.resize((px, px), Image.Resampling.BILINEAR))

    return step


def data(args):
    """Pictures with and without grain. Decoding alone scales as ours; plain: open, convert, two resizes."""
    size, side = (4000, 3000), 384
    if args.quick:
        size, side = (400, 300), 64
    os.makedirs(args.out, exist_ok=True)
    names = ("ours", "ours, cached", "ours, cached and cropped", "decoding alone", "plain")
    rows = []
    for grain in (0, 4):
        path = os.path.join(args.out, f"grain{grain}.jpg")
        draw_photo(path, size, grain)
        rows += measure(args, build_data, names, dict(path=path, side=side))
    report(args, "data", rows)


def train(args):
    """train.py on simulated patients: seconds of an epoch with validation, and its share of waiting for data.

    Not in turns, but run after run; of each all epochs but the first, which fills the cache."""
    patients = 20 if args.quick else 1000
    rows = []
    with TemporaryDirectory() as folder:
        path = make("psoriasis", folder, patients=patients)
        for name, flags in enumerate(("--workers 0", "--workers 2", "--workers 0 --cache")):
            command = (f"--data {path} --n 3 --r 2 --epochs {1 + args.rounds} --device {args.device} {flags} "
                       f"--runs {folder} --name {name} --cache-dir {folder}")
            with redirect_stdout(io.StringIO()):
                training.main(command.split())
            with open(os.path.join(folder, str(name), "log.csv"), newline="") as file:
                epochs = list(csv.DictReader(file))[1:]
            seconds = [float(epoch["seconds"]) for epoch in epochs]
            waited = sum(float(epoch["waited"]) for epoch in epochs)
            rows.append({"flags": flags, "epoch_s": median(seconds), "waited": waited / sum(seconds)})
    torch.set_float32_matmul_precision("highest")
    report(args, "train", rows)


def main(argv=None):
    commands = {"vit": vit, "crossvit": crossvit, "multivit": multivit, "filter": filter_, "memory": memory,
                "scaling": scaling, "data": data, "train": train}
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--rounds", type=int, default=5, help="turns that every candidate takes")
    parser.add_argument("--out", default="runs/bench", help="folder of the tables")
    args = parser.parse_args(argv)
    find_device(args.device)
    print(f"bench {args.command}: {machine(args)}")
    commands[args.command](args)


if __name__ == "__main__":
    run_main(main)
