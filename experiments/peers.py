"""A step of a network, as the benchmarks time it, and the same network in this project, in timm and in
transformers: the commands vit and crossvit of bench.py.
"""
from itertools import product

import torch
import torch.nn.functional as F

import attention
from crossvit import CrossViT, variant
from experiments.timing import measure
from plumbing.flags import parse
from plumbing.kernels import PRECISION, choose_kernels
from plumbing.sizes import SIZES
from train import make_optimizer
from vit import ViT, ViTConfig


PASSES = {"forward": 4, "training": 1}                             # of the network, in a step that is timed
AS_EACH_COMES = "--kernels auto --amp auto"
SAME = {"cpu": "--kernels mkl --amp off", "cuda": "--kernels mkl --amp bf16"}      # for all candidates


def build_vit(device, who, size, image, patch, batch, flags, step):
    fields = SIZES[size]
    if who.startswith("timm"):
        import timm
        model = timm.create_model(f"vit_{size}_patch{patch}_{image}", num_classes=10)
    elif who == "transformers":
        import transformers
        model = transformers.ViTForImageClassification(transformers.ViTConfig(
            hidden_size=fields["dim"], num_hidden_layers=fields["depth"], num_attention_heads=fields["heads"],
            intermediate_size=fields["mlp"], image_size=image, patch_size=patch, num_labels=10,
            attn_implementation="sdpa"))
    else:
        model = ViT(ViTConfig(image=(image, image), patch=(patch, patch), **fields), {"y": 10})
    return network_step(device, who, model, torch.randn(batch, 3, image, image), flags, step)


def build_crossvit(device, who, variant_name, batch, flags, step):
    if who.startswith("timm"):
        import timm
        model = timm.create_model(f"crossvit_{variant_name}_240", num_classes=10)
    else:
        model = CrossViT(variant(variant_name), {"y": 10})
    return network_step(device, who, model, torch.randn(batch, 3, 240, 240), flags, step)


def network_step(device, who, model, x, flags, step):
    """A training step (forward, backward, AdamW), or several forward passes under one autocast as in eval.py,
    on images or bags x.

    flags: of train.py, for everyone. With AS_EACH_COMES ours has what train.py chooses, which is its note, a
    peer what PyTorch has by default."""
    training = step == "training"
    model.to(device).train(training)
    if who.endswith("compiled"):
        model.compile()
    if who.endswith("matrix in memory"):                           # in place of PyTorch's fused kernel
        for module in model.modules():
            if isinstance(module, attention.Attention):
                module.attend = attention.softmax_formula
    x = x.to(device)
    y = torch.zeros(len(x), dtype=torch.long, device=device)
    args = parse(["--lr", "1e-5", *flags.split()])
    chosen = ""
    if who == "ours" and flags == AS_EACH_COMES:
        chosen = choose_kernels(args, model, x.device)             # in place of auto
    precision = PRECISION.get(args.kernels, "highest")
    bf16 = args.amp == "bf16"
    optimizer = make_optimizer(model, args, x.device)
    if args.amp == "auto":
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    def run():
        torch.set_float32_matmul_precision(precision)              # candidates take turns
        with torch.set_grad_enabled(training), torch.autocast(device, torch.bfloat16, enabled=bf16):
            for _ in range(PASSES[step]):
                out = model(x)
        if not training:
            return
        if not who.startswith("timm"):
            out = out["logits"]
        if isinstance(out, dict):                                  # ours, task by task
            out = out["y"]
        optimizer.zero_grad()
        F.cross_entropy(out.float(), y).backward()
        optimizer.step()

    run.note = chosen
    return run


def beside_peers(args, build, peers, networks):
    """Forward passes and training steps, everyone as it comes, then everyone with the same flags. On CUDA
    training steps in bf16, and the same compiled."""
    choices = (AS_EACH_COMES, SAME["cpu"], "--kernels onednn --amp off", SAME["cuda"])
    steps = PASSES
    groups = [["ours", *peers]]
    if args.device == "cuda":
        choices = choices[-1:]
        steps = ("training",)
        groups.append(["ours, compiled", "timm, compiled"])        # last: they may take as long as they may
    for names, settings, flags, step in product(groups, networks, choices, steps):
        rows = measure(args, build, names, settings | {"flags": flags, "step": step})
        for row in rows:
            row["images/s"] = PASSES[step] * settings["batch"] / row["s"] if row["s"] else None
        yield rows


def vit(args):
    """The Vision Transformer; a forward step is several batches, one after the other."""
    networks = [dict(size="base", image=224, patch=16, batch=2)]
    if args.device == "cuda":
        networks = [dict(size="base", image=224, patch=16, batch=256),
                    dict(size="large", image=384, patch=32, batch=128)]
    if args.quick:
        networks = [dict(size="tiny", image=224, patch=16, batch=1)]
    yield from beside_peers(args, build_vit, ["transformers", "timm"], networks)


def crossvit(args):
    """CrossViT; a forward step is several batches, one after the other."""
    network = dict(variant_name="15", batch=64 if args.device == "cuda" else 4)
    if args.quick:
        network = dict(variant_name="9", batch=1)
    yield from beside_peers(args, build_crossvit, ["timm"], [network])
