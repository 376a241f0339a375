"""How fast, and in how much memory: ours beside timm, transformers and the naive way.

    python bench.py scaling             also: vit, crossvit, multivit, filter, memory, data, train; --quick, --device cuda

Time: the candidates take turns (A B A B ...), so that whatever else the machine does hits all of them; medians of the CPU
time of all threads, which a busy machine changes little, and of the wall time. On CUDA both are the time between two events.
Memory: of one step alone in a process of its own, the largest resident set above what was there before the step (Linux), or
CUDA's max_memory_allocated above that; `saved`: what is kept for the backward pass, weights included. FLOPs are PyTorch's count
(2 a multiply-add); `peak` is the share of the rate that a large matrix product reaches here, in the type and at the precision
of the candidate. Every table is printed and written to FOLDER/NAME.csv, with PNGs. What is not installed is left out and named.
"""
import argparse
import attention
import csv
import io
import os
import statistics
import tempfile
from attention_filter import compose, gather_patches, gather_tokens, refine, score, select
from contextlib import nullcontext, redirect_stdout
from crossvit import CrossViT, variant
from multivit import MultiViT, MultiViTConfig

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from data import Samples, collate
from evaluation.plots import curves, dots
from experiments.timing import PASSES, counted, exponent, lines, machine, matmul_rate, measure, report, show
from plumbing.cohort import Cohort, Task
from plumbing.command import run_main
from plumbing.device import fast_float32
from plumbing.flags import parse
from plumbing.models import build_model, open_model
from plumbing.pictures import read_image
from train import main as train_main, make_optimizer, train_step
from vit import SIZES, ViT, ViTConfig, named


def network_step(device, model, call, shape, train, flags):
    """PASSES forward passes under one autocast, as eval.py makes them, or one training step: forward, backward, AdamW.

    flags: `ours` and `ours, bf16`: what train.py chooses here; `plain`: PyTorch as it comes; a precision of float32 or `bf16`: that for everyone, and the fused AdamW."""
    model, x, y = model.to(device).train(train), torch.randn(shape, device=device), torch.zeros(shape[0], dtype=torch.long, device=device)
    before = torch.get_float32_matmul_precision()
    if flags.startswith("ours"):
        fast_float32(model, torch.device(device))
    fast = "medium" if device == "cpu" else "high"
    precision = {"plain": "highest", "bf16": fast}.get(flags, torch.get_float32_matmul_precision() if "ours" in flags else flags)
    torch.set_float32_matmul_precision(before)
    if train and flags == "plain":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    elif train:
        optimizer = make_optimizer(model, argparse.Namespace(lr=1e-5, weight_decay=0.01), torch.device(device))

    def step():
        torch.set_float32_matmul_precision(precision)
        with torch.set_grad_enabled(train), torch.autocast(device, torch.bfloat16) if "bf16" in flags else nullcontext():
            for _ in range(1 if train else PASSES):
                logits = call(model, x)
        if train:
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()
        torch.set_float32_matmul_precision(before)
    return step


def build_vit(device, who, size, image, patch, batch, train, flags):
    torch.manual_seed(0)
    if who == "ours":
        model = ViT(ViTConfig(image=(image, image), patch=(patch, patch), **named(size)), {"y": 10})
        call = lambda model, x: model(x)["logits"]["y"]
    elif who == "timm":
        from timm.models.vision_transformer import VisionTransformer
        dim, depth, heads = SIZES[size]
        model = VisionTransformer(image, patch, embed_dim=dim, depth=depth, num_heads=heads, num_classes=10)
        call = lambda model, x: model(x)
    else:
        import transformers
        dim, depth, heads = SIZES[size]
        model = transformers.ViTForImageClassification(transformers.ViTConfig(
            hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * dim, image_size=image,
            patch_size=patch, num_labels=10, attn_implementation="sdpa"))
        call = lambda model, x: model(x).logits
    return network_step(device, model, call, (batch, 3, image, image), train, flags)


def build_crossvit(device, who, name, batch, train, flags):
    torch.manual_seed(0)
    if who == "timm":
        import timm
        model, call = timm.create_model(f"crossvit_{name.lower()}_240", num_classes=10), lambda model, x: model(x)
    else:
        model, call = CrossViT(variant(name), {"y": 10}), lambda model, x: model(x)["logits"]["y"]
    return network_step(device, model, call, (batch, 3, 240, 240), train, flags)


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
    """Forward and backward of one patient with n images; separate: of n samples with one image."""
    vit = ViTConfig(image=(image, image), patch=(patch, patch), **named(size))
    torch.manual_seed(0)
    model = MultiViT(MultiViTConfig(vit, {"separate": "baseline", "multi": "multi"}.get(who, "joint"), n), {"y": 10}).to(device)
    images = torch.rand(*((n,) if who == "separate" else (1, n)), 3, image, image, device=device)
    y = torch.zeros(len(images), dtype=torch.long, device=device)

    def step():
        fused, attention.softmax_attention = attention.softmax_attention, eager_attention if "eager" in who else attention.softmax_attention
        try:
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(images)["logits"]["y"], y).backward()
        finally:
            attention.softmax_attention = fused
    return step


def build_filter(device, who, batch, side, patch, dim, r=2, n=3, heads=16):
    """Score, select, refine, gather and compose of a batch of patients: class maps, tokens and photographs -> what stage 2 gets."""
    torch.manual_seed(0)
    grid = (side // patch,) * 2
    T = grid[0] * grid[1]
    maps, tokens = torch.rand(batch, n, heads, T, device=device), torch.rand(batch, n, T, dim, device=device)
    images = torch.randint(256, (batch, n, 3, r * side, r * side), dtype=torch.uint8, device=device)
    images = images if who == "ours" else images.float()           # the released code's are

    def ours():
        image, token = select(score(maps), T // r ** 2)
        patches = gather_patches(images, image.repeat_interleave(r * r, 1), refine(token, grid, r).flatten(1), (patch, patch))
        return gather_tokens(tokens, image, token).repeat_interleave(r * r, 1), compose(patches, grid)

    def loops():
        from tests import test_attention_filter as reference       # the tests' own, patient by patient, token by token, patch by patch
        scores = score(maps) if "scores" in who else reference.loop_score(maps)
        kept = reference.loop_select(scores, T // r ** 2)
        return (reference.loop_tokens(kept, tokens, r),
                reference.loop_patches(reference.loop_refine(kept, grid, r), images, grid, r, patch))
    return ours if who.startswith("ours") else loops


def draw_photo(path, size, grain, seed=0):
    """Write a JPEG (quality 90) with the spectrum of photographs: octaves of equal contrast down to 8 px, where a lens ends; grain:
    standard deviation of a sensor's noise, in grey levels."""
    rng, (width, height) = np.random.default_rng(seed), size
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(1, max(2, int(np.log2(width / 8)) + 1)):
        coarse = rng.normal(0, 16, (2 ** octave * height // width + 2, 2 ** octave + 2, 3)).astype(np.float32)
        total += np.stack([Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC) for channel in np.moveaxis(coarse, -1, 0)], -1)
    total += 128 + grain * rng.standard_normal(total.shape, np.float32)
    Image.fromarray(np.uint8(total.clip(0, 255))).save(path, "JPEG", quality=90)


def build_flags(device, flags, size, image, patch, patients):
    """A step of train.py, MultiViT-3-2 with the last 5 blocks trained."""
    sides = ["--size", size, "--image", str(image), "--patch", str(patch), "--train-blocks", "5" if size == "large" else "2"]
    args, task = parse(["--n", "3", "--r", "2", *sides, *flags]), Task("y", "regression")
    torch.manual_seed(0)
    model, _ = build_model(args, [task])
    fast_float32(model, torch.device(device))
    optimizer = make_optimizer(model.to(device), args, torch.device(device))
    low, high = (torch.zeros(patients, 3, 3, side, side, dtype=torch.uint8) for side in (image, 2 * image))
    batch = {"path": [[]] * patients, "targets": {"y": torch.rand(patients)}, "present": torch.ones(patients, 3, dtype=torch.bool),
             "images": low, "images_hr": high}
    options = {"device": torch.device(device), "autocast": torch.bfloat16 if args.amp == "bf16" else None}
    return lambda: train_step(model, model, [task], optimizer, batch, args, options, False)


def build_data(device, who, path, side, r):
    def decode():
        with Image.open(path) as picture:
            picture.draft("RGB", (r * side, r * side))             # as read_image
            picture.load()

    def plain():
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
            return [np.asarray(picture.resize((px, px), Image.Resampling.BILINEAR)) for px in (side, r * side)]

    if who.startswith("ours, cached"):                             # as a sample of training, copied into a batch
        cohort = Cohort("photo", [Task("y", "regression")], ["p"], [path], {"y": np.zeros(1, np.float32)})
        samples = Samples(cohort, [0], (side, side), 1, r, augment=["crop"] * ("crop" in who), train=True, folder=os.path.dirname(path))
        return lambda: collate([samples[0, 0]])
    return {"ours": lambda: read_image(path, (side, side), r), "decoding alone": decode, "plain": plain}[who]


def networks(args, name, build, peers, settings, batch):
    """Forward passes and training steps: everyone as he comes, then with the same flags. ratio: over ours, the first of each."""
    floats = ("highest", "medium" if args.device == "cpu" else "high")                       # MKL and oneDNN, or float32 and TF32
    groups = {"as shipped": {"ours": "ours", "ours, bf16": "ours, bf16", **{who: "plain" for who in peers}},
              **{flags: {who: flags for who in ("ours", *peers)} for flags in (*floats, "bf16")}}
    rates = {precision: matmul_rate(args, precision) for precision in (*floats, "bf16")}
    print("matrix products: " + ", ".join(f"{precision} {rate / 1e9:,.0f} GFLOP/s" for precision, rate in rates.items()))
    rows, verdict = [], []
    for flags, group in groups.items():
        for train in (False, True):
            result = measure(args, {who: (build, who.split(",")[0], *settings, batch, train, own) for who, own in group.items()},
                             rate={who: rates["bf16"] if "bf16" in own else max(rates[one] for one in floats) for who, own in group.items()})
            for who, row in result.items():
                rows.append({"flags": flags, "step": "training" if train else "forward", "who": who, **row})
        for ours in [who for who in group if who.startswith("ours")]:
            ratios = {"flags": flags + ours.removeprefix("ours")}
            for step, key in (("forward", "cpu_s"), ("training", "cpu_s"), ("forward", "memory_mb"), ("training", "memory_mb"),
                              ("training", "saved_mb")):
                of = {row["who"]: row[key] for row in rows if (row["flags"], row["step"]) == (flags, step)}
                theirs = [of[who] for who in peers if of[who]]
                ratios[f"{step} {key.split('_')[0]}"] = min(theirs) / of[ours] if theirs and of[ours] else None
            verdict.append(ratios)
    report(args, name, rows, **{step: dots({f"{row['flags']}: {row['who']}": [1000 * s / batch / (PASSES if step == "forward" else 1) for s in row["each"]]
                                            for row in rows if row["step"] == step},
                                           f"{name} {' '.join(map(str, settings))}, batch {batch}: {step}, same flags or as shipped",
                                           "ms of CPU time an image, one dot a round") for step in ("forward", "training")})
    print(f"forward: {PASSES} batches, one after the other. The better peer over ours, above 1 ours is better:")
    show(verdict)


def vit(args):
    settings, batch = (("micro", 32, 8), 2) if args.quick else (("base", 224, 16), 2 if args.device == "cpu" else 64)
    networks(args, "vit", build_vit, ("transformers", "timm"), settings, batch)


def crossvit(args):
    settings, batch = (("9",), 1) if args.quick else (("15",), 4 if args.device == "cpu" else 64)
    networks(args, "crossvit", build_crossvit, ("timm",), settings, batch)


def scaling(args):
    dim, heads, sides = (64, 2, (64, 128, 256)) if args.quick else (512, 8, (224, 512, 768, 1024, 1536, 2048))
    rows, rate = [], matmul_rate(args)
    for side in sides:
        tokens = (side // 16) ** 2
        result = measure(args, {kind: (build_layer, kind, tokens, dim, heads) for kind in attention.KINDS}, "sima", rate)
        rows += [{"side": side, "tokens": tokens, "kind": kind, **row} for kind, row in result.items()]
    title, x = f"One attention layer, {dim} wide, {heads} heads, forward and backward", "tokens of one image, patches of 16 px"
    report(args, "scaling", rows, time=curves(lines(rows, "cpu_s", "tokens", "kind"), title, x, "s of CPU time", True, True),
           memory=curves(lines(rows, "memory_mb", "tokens", "kind"), title, x, "MB", True, True))
    last = {row["kind"]: row for row in rows if row["side"] == sides[-1]}
    for kind in attention.KINDS:
        long = [row for row in rows if row["kind"] == kind and (row["tokens"] >= 1024 or args.quick)]
        powers = (exponent([row["tokens"] for row in long], [row[key] for row in long]) for key in ("cpu_s", "memory_mb"))
        print("{}: from {:,} tokens on, time grows with their power {:.2f}, memory {:.2f}".format(kind, long[0]["tokens"], *powers))
    for a, b in (("softmax", "seqnorm"), ("softmax", "sima"), ("seqnorm", "sima")):
        if all(last[kind][key] for kind in (a, b) for key in ("cpu_s", "memory_mb")):
            print(f"{a} / {b} at {last[a]['tokens']:,} tokens: {last[a]['cpu_s'] / last[b]['cpu_s']:.2f} in time, "
                  f"{last[a]['memory_mb'] / last[b]['memory_mb']:.2f} in memory")


def multivit(args):
    """O(N T^2) or O((N T)^2)? Time and memory of one patient over N, his photographs."""
    settings = ("micro", 32, 8) if args.quick else ("large", 384, 32) if args.paper else ("micro", 128, 8)
    counts, whos = (1, 2) if args.quick else (1, 2, 3, 4, 8, 16), ("multi", "separate", "joint", "joint, eager")
    rows, rate = [], matmul_rate(args)
    for n in counts:
        result = measure(args, {who: (build_multivit, who, n, *settings) for who in whos}, "separate", rate)
        rows += [{"n": n, "who": who, **row} for who, row in result.items()]
    title = "ViT {} at {} px, patches of {} px: one patient, forward and backward".format(*settings)
    report(args, "multivit", rows, time=curves(lines(rows, "cpu_s", "n"), title, "N, images of a patient", "s of CPU time", True, True),
           memory=curves(lines(rows, "memory_mb", "n"), title, "N, images of a patient", "MB", True, True))
    at, last = {(row["n"], row["who"]): row for row in rows}, counts[-1]
    print(f"multi: MultiViT-N-1; separate: one ViT, N images side by side; joint: one ViT over the {(settings[1] // settings[2]) ** 2} N "
          "tokens, fused attention; eager: with the matrix of all pairs of tokens in memory")
    for who in whos:
        some = [n for n in counts if n >= 4 or args.quick]
        powers = (exponent(some, [at[n, who][key] for n in some]) for key in ("cpu_s", "memory_mb"))
        print("{:13}from N = {} on, time grows with N to the power {:.2f}, memory {:.2f}".format(who, some[0], *powers)
              + "".join(f"; at N = {last} {at[last, who][key] / at[last, 'separate'][key]:.2f} times the {what} of separate"
                        for key, what in (("cpu_s", "time"), ("memory_mb", "memory")) if at[last, who][key] and at[last, "separate"][key]))
    print("The matrix of all pairs is what grows with N^2 in memory; fused attention never holds it, so that what is left of the argument "
          "against joint is time, and only as far as the products of attention weigh against those of the Linear layers.")


def memory(args):
    settings, patients = ("micro", 32, 8) if args.quick else ("large", 384, 32), 4
    cases = ("", "--accumulate 4", "--chunk 1", "--grad-checkpointing", "--accumulate 4 --chunk 1 --grad-checkpointing", "--amp bf16")
    result = measure(args, {flags or "no flag": (build_flags, flags.split(), *settings, patients) for flags in cases})
    report(args, "memory", [{"flags": flags, **row} for flags, row in result.items()],
           memory=dots({flags: [row["memory_mb"]] for flags, row in result.items() if row["memory_mb"]},
                       f"A step of MultiViT-3-2, {' '.join(map(str, settings))}, {patients} patients, last blocks trained",
                       "MB above the weights: activations, gradients and AdamW"))


def filter_(args):
    settings = (2, 64, 16, 32) if args.quick else (16, 384, 32, 1024)
    whos = ("ours", "ours, float32", "loops", "loops, scores in one call")
    result = measure(args, {who: (build_filter, who, *settings) for who in whos})
    report(args, "filter", [{"who": who, **row} for who, row in result.items()],
           time=dots({who: [1000 * seconds for seconds in row["each"]] for who, row in result.items()},
                     "Attention filter: {} patients, 3 images of {} px, patches of {} px, R = 2, {} wide".format(*settings),
                     "ms of CPU time, one dot a round"))
    print("ours takes photographs as uint8, the loops as float32, as the released code; no matrix product, so no peak")


def data(args):
    os.makedirs(args.out, exist_ok=True)
    size, side, rows = (400, 300) if args.quick else (4000, 3000), 64 if args.quick else 384, []
    for grain in (0, 4):
        path = os.path.join(args.out, f"grain{grain}.jpg")
        draw_photo(path, size, grain)
        whos = "ours", "ours, cached", "ours, cached and cropped", "decoding alone", "plain"
        result = measure(args, {who: (build_data, who, path, side, 2) for who in whos})
        rows += [{"grain": grain, "jpeg_mb": os.path.getsize(path) / 1e6, "who": who, **row} for who, row in result.items()]
    report(args, "data", rows, time=dots({f"{row['jpeg_mb']:.2f} MB, {row['who']}": [1000 * s for s in row["each"]] for row in rows},
                                         f"A JPEG of {size[0]} x {size[1]} px at {side} and at {2 * side} px", "ms of CPU time, one dot a round"))
    print("plain: open, convert, two resizes with the same filter; decoding alone: with JPEG's own downscaling as in ours, nothing after it")


def train(args):
    """train.py itself on a small table: images a second with its validation, the share of the time that it waits for data, and the peak
    it reaches in the rest."""
    patients, size, epochs = (20, (80, 60), 2) if args.quick else (24, (1600, 1200), 3)
    cases = {"a thread reads ahead": ["--workers", "0"], "2 workers": ["--workers", "2"], "cache": ["--workers", "0", "--cache"]}
    runs, rate = {case: [] for case in cases}, matmul_rate(args) * (torch.get_num_threads() if args.device == "cpu" else 1)
    with tempfile.TemporaryDirectory() as folder:
        table, before = os.path.join(folder, "table.csv"), torch.get_float32_matmul_precision()
        names = [(p, f"{p}-{i}.jpg") for p in range(patients) for i in range(3)]
        draw_photo(os.path.join(folder, "all.jpg"), [side + side // 4 for side in size], 4)
        with Image.open(os.path.join(folder, "all.jpg")) as photo:
            for i, (_, name) in enumerate(names):                  # parts of one picture, no two the same
                photo.crop((i, i // 8, i + size[0], i // 8 + size[1])).save(os.path.join(folder, name), quality=90)
        with open(table, "w", encoding="utf-8") as file:
            file.write("patient_id,image,score\n" + "".join(f"{p},{name},{p % 7}.5\n" for p, name in names))
        for turn in range(args.rounds):
            for case in list(cases)[::1 if turn % 2 else -1]:
                run = os.path.join(folder, "runs", f"{case}-{turn}")
                argv = ["--data", table, "--target", "score:regression", "--r", "2", "--epochs", epochs, "--device", args.device, "--runs",
                        os.path.dirname(run), "--name", os.path.basename(run), "--cache-dir", os.path.join(folder, f"cache-{turn}"), *cases[case]]
                with redirect_stdout(io.StringIO()):
                    train_main(list(map(str, argv)))
                with open(os.path.join(run, "log.csv"), newline="") as file:
                    log = [(float(row["seconds"]), float(row["waited"])) for row in csv.DictReader(file)]
                runs[case].append((log[0], [statistics.median(part) for part in zip(*log[1:])]))
        torch.set_float32_matmul_precision(before)
        with open(os.path.join(run, "split.csv"), newline="") as file:
            split = [(row["split"], int(row["images"])) for row in csv.DictReader(file) if row["split"] != "test"]
        model, (low, high) = open_model(run)[0], (torch.zeros(1, 3, 3, side, side) for side in (64, 128))
    flops = sum(part == "train" for part, _ in split) * counted(lambda: model(low, None, high)["logits"]["score"].sum().backward())[0]
    images, shown = sum(count for _, count in split), []
    for case, each in runs.items():
        (first, first_waited), (seconds, waited) = ([statistics.median(part) for part in zip(*some)] for some in zip(*each))
        shown.append({"case": case, "images": images, "first_epoch_s": first, "first_waited": first_waited / first, "epoch_s": seconds,
                      "waited": waited / seconds, "images_s": images / seconds, "peak": flops / (seconds - waited) / rate,
                      "each": [images / later[0] for _, later in each]})
    report(args, "train", shown, rate=dots({row["case"]: row["each"] for row in shown}, f"train.py: MultiViT-3-2 micro on {patients} patients "
                                           f"with 3 JPEGs of {size[0]} x {size[1]} px", "images a second from epoch 2 on, one dot a run"))


def main(argv=None):
    commands = {"vit": vit, "crossvit": crossvit, "multivit": multivit, "filter": filter_, "memory": memory, "scaling": scaling, "data": data,
                "train": train}
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
