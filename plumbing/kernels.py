"""Which kernels compute the matrix products of a model: chosen by timing one of its products, not by a guess.

On a CPU PyTorch multiplies float32 matrices by MKL, or, at its precision "medium", by oneDNN, which computes
in float32 as well on most chips and is faster on some; bfloat16 is faster where the chip has it and slower by
far where it has not. Which it is changes from one chip to the next, so it is measured (in under a second),
logged, and kept in args.json: a resumed run goes on with the kernels that it began with, to the last bit.
"""
import time

import torch
import torch.nn.functional as F

from plumbing import parallel
from plumbing.models import images_of

PRECISION = {"mkl": "highest", "onednn": "medium"}                 # PyTorch's words
NAMES = {"mkl": "float32 by MKL", "onednn": "float32 by oneDNN", "bf16": "bfloat16"}
NARROW = 128                         # of narrower models other things than products take the time,
NARROW_ON_CUDA = 384                 # on a GPU the launches: an H100's tiny is a fifth slower in bfloat16
GAIN = 1.15                          # another kernel must be so much faster; casts are not timed
TOKENS = 64                          # of the product that is timed
ROUNDS = 16                          # on a busy machine the best of a few would be chance


def width_of(model):
    """-> D of a model's widest Transformer, 0 for a model that has none."""
    vit = images_of(model.config)
    if hasattr(vit, "dim"):
        return vit.dim
    return max(getattr(vit, "dims", (0,)))           # CrossViT has two


def choose_kernels(args, model, device):
    """Settle --kernels and --amp in args and set PyTorch accordingly; -> a line for the log, or "".

    On a GPU products of float32 are in TF32, and --amp auto stays, see uses_bfloat16."""
    if device.type != "cpu":
        torch.set_float32_matmul_precision("high")
        return ""
    line = "products as the flags or args.json say"
    width = width_of(model)
    if "auto" in (args.kernels, args.amp):
        milliseconds = {"mkl": 1.0}                                # of a narrow model, which is not timed
        if width >= NARROW:
            milliseconds = parallel.collect(time_products(width))[0]    # one process decides for all
        times = ", ".join(f"{NAMES[name]} {value:.2f} ms" for name, value in milliseconds.items())
        line = f"a product of {TOKENS} x {width} by {width} x {4 * width}: {times}"
        if args.amp == "auto":
            args.amp = "off"
            if best_of(milliseconds) == "bf16" and "features" not in model.inputs:
                args.amp = "bf16"
        milliseconds.pop("bf16", None)
        if args.kernels == "auto":
            args.kernels = best_of(milliseconds)
    torch.set_float32_matmul_precision(PRECISION[args.kernels])
    if width < NARROW:
        return ""
    return f"{line}: {NAMES['bf16' if args.amp == 'bf16' else args.kernels]}"


def uses_bfloat16(args, model, device):
    """--amp; auto, where nothing was timed: on a GPU that has bfloat16, for models so wide that products take
    the time. In narrower ones the casts, which are kernels of their own, take more than they save."""
    if args.amp != "auto":
        return args.amp == "bf16"
    return (width_of(model) >= NARROW_ON_CUDA and device.type == "cuda"
            and torch.cuda.is_bf16_supported(including_emulation=False))


def best_of(milliseconds):
    """-> the fastest kernel, or MKL unless another is faster by GAIN."""
    fastest = min(milliseconds, key=milliseconds.get)
    if milliseconds["mkl"] < GAIN * milliseconds[fastest]:
        return "mkl"
    return fastest


def time_products(width):
    """-> {kernel: milliseconds} of the first product of an MLP, the best of some rounds in turns.

    oneDNN is left out where its result is not float32's, as on chips that take "medium" for bfloat16."""
    generator = torch.Generator().manual_seed(0)     # the numbers of dropout stay what they were
    x = torch.randn(TOKENS, width, generator=generator)
    weight = torch.randn(4 * width, width, generator=generator)
    products = {
        "mkl": ("highest", x, weight),
        "onednn": ("medium", x, weight),
        "bf16": ("highest", x.bfloat16(), weight.bfloat16()),
    }
    exact = at_precision("highest", x, weight)
    difference = at_precision("medium", x, weight) - exact
    if difference.abs().max() > 1e-5 * exact.abs().max():
        del products["onednn"]
    best = dict.fromkeys(products, float("inf"))
    for turn in range(1 + ROUNDS):                   # the first round warms up
        for name, product in products.items():
            began = time.perf_counter()
            at_precision(*product)
            best[name] = min(best[name], 1000 * (time.perf_counter() - began))
        if turn == 1:                                # bfloat16 that is emulated takes 15 times as long
            products = {name: products[name] for name in products if best[name] < 2 * min(best.values())}
    return best


def at_precision(precision, x, weight):
    torch.set_float32_matmul_precision(precision)
    return F.linear(x, weight)
