"""Train any model of this project on any cohort: flags -> data, model, loop, run folder, test evaluation.

    python train.py --model multivit --mode multi --n 3 --r 2
    torchrun --nproc-per-node=4 -- train.py ...                    many GPUs: parallel.py

Everything a run leaves is in its folder (run_folder.py). Killed at any moment it goes on with --resume to the same weights, bit for bit
on a CPU; Ctrl-C and SIGTERM save at the next step.
"""
import argparse
import functools
import json
import math
import os
import re
import select
import signal
import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.utils import tqdm
from torch.utils.checkpoint import checkpoint

import parallel
import synthetic
from attention import KINDS
from crossvit import FUSIONS as CROSS_FUSIONS, VARIANTS, CrossViT, CrossViTConfig, variant
from daft import ACTIVATIONS, FUSIONS as TABLE_FUSIONS, LOCATIONS, DAFTConfig, DAFTViT, DAFTViTConfig, ResNet
from data import AUGMENT, IMAGES, Samples, axes_of, cached_features, make_loader, read_array
from eval import evaluate, predict, print_table
from lt_vit import LABEL_ATTENTION, LTViT, LTViTConfig
from metrics import main_metric
from multivit import CLS_TOKENS, MODES, MultiViT, MultiViTConfig
from probe import CNN, HEADS, CNNConfig, Probe, ProbeConfig
from q2l import Q2L, Q2LConfig
from report import write_card, write_report
from run_folder import load_state, lock, new_run, recover, save_model, write_csv, write_log
from tables import POLICIES, Column, Task, fit_columns, fit_tasks, load_cohort, per_patient, read_run_split, split_patients, tabulate, \
    targets_agree
from vit import SIZES, SOFTMAX_FREE, Block, ViT, ViTConfig, check_size, from_dict, named
from weights import first_line, load_weights, read_checkpoint

# -----------------------------------------------------------------------------
# flags

SCRATCH = dict(size="micro", patch="8")                             # of a ViT with random weights; a checkpoint brings its own
OWN_FLAGS = {  # model: the flags that not every model has, and their defaults; with any other model they are an error
    "vit": {**SCRATCH, "tabular": None},
    "multivit": {**SCRATCH, "mode": "multi", "n": 3, "r": 1, "cls_token": "fused", "hidden": "256,128", "chunk": None},
    "crossvit": {"variant": "9", "fusion": "cross"},
    "lt_vit": {**SCRATCH, "label_layers": 4, "label_attention": "one-way", "shared_head": False},
    "q2l": {**SCRATCH},
    "daft": {"tabular": None, "fusion": "daft", "location": 2, "activation": "identity", "without": None, "identity_init": False,
             "width": 4},
    "probe": {"head": "tokens"},
    "cnn": {},
}
FUSIONS = {"crossvit": CROSS_FUSIONS, "daft": tuple(TABLE_FUSIONS)}
LR, BATCH, EPOCHS = {"daft": 5e-3}, {"daft": 32}, {"crossvit": 16}   # without a flag; others: 5e-4, 16 images, and 20 epochs
IMAGE = {"crossvit": "60", "cnn": "256", "daft": None}             # px without --image and --pretrained; others: 64; None: as it is
AXES = {"vit": (0, 2, 3), "lt_vit": (2, 3), "q2l": (2, 3), "daft": (2, 3)}   # of the images a model takes; others: 2
CHANNELS, AUGMENTED = {2: 3, 3: 1}, {0: "none", 2: "crop,hflip", 3: "hflip,vflip,dflip"}      # by the axes of the images


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    group = parser.add_argument_group("model")
    group.add_argument("--model", choices=OWN_FLAGS, default="multivit", help="see the file of that name")
    group.add_argument("--pretrained", help="weights to start from: Hub id ORG/NAME[@revision], folder, run folder, or file")
    group.add_argument("--size", choices=(*SIZES, *SOFTMAX_FREE), help="width, depth and heads of a ViT from scratch; default "
                       f"{SCRATCH['size']}; vit2d, vit3d and vit_wsi are the softmax-free paper's, with its image and patch")
    group.add_argument("--image", help="px, SIDE, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH; default 64 (crossvit: 60, cnn: 256, daft: volumes "
                       "as they are), or the checkpoint's")
    group.add_argument("--patch", help=f"P, px, as --image; default {SCRATCH['patch']}")
    group.add_argument("--channels", type=int, help="default 3 for pictures, 1 reads them as grey; volumes: 1; bags: as wide as their "
                       "vectors; or the checkpoint's")
    group.add_argument("--attention", choices=KINDS, default="softmax", help="see attention.py")
    group.add_argument("--dropout", type=float, default=0.1, help="after embedding, attention and MLP; the paper's 0.1")
    group.add_argument("--drop-path", type=float, default=0.0, help="stochastic depth")
    group.add_argument("--train-blocks", type=int, help="freeze all but the last k blocks of every ViT (MultiViT's paper: 5), or "
                       "encoders of CrossViT; default: train all")
    group = parser.add_argument_group("multivit")
    group.add_argument("--mode", choices=MODES, help="the paper's configurations, and joint; default multi")
    group.add_argument("--n", type=int, help="N, photographs of a patient seen together; default 3")
    group.add_argument("--r", type=int, help="R, resolution of stage 2 over that of stage 1; default 1")
    group.add_argument("--cls-token", choices=CLS_TOKENS, help="class token that enters stage 2: fused from those of stage 1 (released "
                       "code, default), or stage2, its own (paper's text)")
    group.add_argument("--chunk", type=int, help="photographs that stage 1 sees at a time; each such part is computed again for the gradient, so "
                       "that a step needs the memory of one part; default: all of the batch, once")
    group.add_argument("--hidden", help="units of the heads' hidden layers, task by task; default 256,128, the paper's best")
    group = parser.add_argument_group("crossvit")
    group.add_argument("--variant", choices=VARIANTS, help="row of the paper's Table 1; default 9")
    group.add_argument("--fusion", choices=[*CROSS_FUSIONS, *TABLE_FUSIONS], metavar="FUSION",
                       help=f"crossvit: {', '.join(CROSS_FUSIONS)} (the paper's Table 6), default cross; daft: {', '.join(TABLE_FUSIONS)} "
                       "(the paper's Table 2), default daft")
    group = parser.add_argument_group("daft, and vit with --tabular")
    group.add_argument("--tabular", help="columns the model sees beside the image: COLUMN[:number|category],...; default with daft: "
                       "those the simulated table offers")
    group.add_argument("--location", type=int, choices=LOCATIONS, help="where daft or film stands in the last block; default 2 (paper)")
    group.add_argument("--activation", choices=ACTIVATIONS, help="of the scale; default identity")
    group.add_argument("--without", choices=("scale", "shift"), help="alpha = 1, or beta = 0 (the paper's Table 3)")
    group.add_argument("--identity-init", action="store_true", default=None, help="alpha = 1 + ..., and starts as 1")
    group.add_argument("--width", type=int, help="n, maps of the first block; default 4, the paper's")
    group = parser.add_argument_group("lt_vit")
    group.add_argument("--label-layers", type=int, help="N2, last blocks in which label tokens take part; default 4, the paper's best")
    group.add_argument("--label-attention", choices=LABEL_ATTENTION, help="the paper's Table 3; default one-way")
    group.add_argument("--shared-head", action="store_true", default=None, help="one head for all labels, not one each")
    group = parser.add_argument_group("probe")
    group.add_argument("--head", choices=HEADS, help="what looks at the tokens of the frozen ViT, --pretrained; default tokens")
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="psoriasis", help="a simulated cohort (psoriasis, chest, brain, bag), a CSV, a folder of class folders, "
                       "medmnist:FLAG[:SIDE], or a public table with --images (nih, chexpert, vindr, isic, ham10000)")
    group.add_argument("--images", help="folder the table's image paths start from; default: the table's own")
    group.add_argument("--target", help="what to predict: COLUMN[:regression|classes|labels],..., or TIME/EVENT:survival with a "
                       "column of times and one that says whether the event came then (1) or had not yet (0)")
    for role in ("patient", "image", "split"):
        group.add_argument(f"--{role}-column", help=f"default: {role}{'_id' * (role == 'patient')}, or what the public table calls it"
                           + "; or a file, CLAM's splits_K.csv" * (role == "split"))
    group.add_argument("--patient-target", choices=("first", "mean", "max"), help="one target a patient where his images differ")
    group.add_argument("--uncertain", default="zeros", help=f"what a label of -1 (CheXpert) counts as: {', '.join(POLICIES)}; single "
                       "labels as zeros,Edema=ones")
    group.add_argument("--blank", default="zeros", help="what a blank CheXpert label counts as, said likewise; ignore: unknown")
    group.add_argument("--folds", type=int, default=5, help="patients are dealt into so many parts, one of them is the test split")
    group.add_argument("--fold", type=int, default=0, help="which part")
    group.add_argument("--val", type=float, default=0.125, help="share of the other patients that chooses the best epoch")
    group.add_argument("--augment", help=f"any of {','.join(AUGMENT)}, or none; crop: up to 10 %% of each border (MultiViT's paper); "
                       "default crop,hflip; of volumes hflip,vflip,dflip (the softmax-free paper); of a probe none")
    group.add_argument("--balanced", action=argparse.BooleanOptionalAction, help="as many of each class of the first target in a batch; "
                       "default: probe and cnn, where it has classes")
    group.add_argument("--cache-dir", default="data_cache", help="where simulated cohorts and downloads are kept")
    group.add_argument("--cache", action="store_true", help="keep what was decoded in CACHE_DIR/decoded, for all later epochs and runs; with "
                       "crop in --augment pictures are kept a little larger, and cut from there")
    group.add_argument("--workers", type=int, help="processes that read images; default 4, and 0 on a CPU, whose cores the model needs: there "
                       "a thread reads ahead")
    group = parser.add_argument_group("optimization")
    group.add_argument("--epochs", type=int, help=f"default 20 (crossvit: {EPOCHS['crossvit']}); MultiViT's paper: 300")
    group.add_argument("--batch-size", type=int, help="of a step, all processes together: patients (default 4), or images of a one-image model "
                       "(default 16; daft: 32), or bags (default 1)")
    group.add_argument("--accumulate", type=int, default=1, help="parts a process sees its share of the batch in, one after the other: less "
                       "memory, the same step (but for batch norm and survival, which see the part)")
    group.add_argument("--grad-checkpointing", action="store_true", help="compute every block again for the gradient instead of keeping what "
                       "it computed: less memory, a third more time, the same step")
    group.add_argument("--lr", type=float, help=f"peak of AdamW's learning rate; default 5e-4 (daft: {LR['daft']:g}); MultiViT's "
                       "paper, from pretrained weights: 1e-4")
    group.add_argument("--lr-end", type=float, default=1.25e-7, help="where the linear decay ends (paper)")
    group.add_argument("--warmup", type=float, default=2, help="epochs of linear rise; the paper: 0")
    group.add_argument("--weight-decay", type=float, default=0.01, help="of matrices only (paper)")
    group.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    group.add_argument("--seed", type=int, default=0, help="of split, weights, order, augmentation and dropout")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    group.add_argument("--amp", choices=("auto", "bf16", "off"), default="auto", help="mixed precision; auto: bf16 on CUDA, and on "
                       "CPUs that have it where it is faster")
    group.add_argument("--compile", action="store_true", help="torch.compile the model")
    group.add_argument("--deterministic", action="store_true", help="the same bits from every run on one kind of GPU, slower (a CPU "
                       "gives them anyway); an operation that PyTorch cannot do so on CUDA ends the run with its name (interpolation: "
                       "crossvit --fusion pairwise)")
    group.add_argument("--positive-weight", action="store_true", help="weigh a label's positives by negatives / positives of the "
                       "training split; its probabilities are then no longer calibrated")
    group = parser.add_argument_group("output")
    group.add_argument("--name", help="of the run folder below --runs; default: model, mode, N and R, and a number if taken")
    group.add_argument("--runs", default="runs", help="folder of run folders")
    group.add_argument("--overwrite", action="store_true", help="start anew in an existing run folder")
    group.add_argument("--resume", metavar="RUN", help="go on with this run folder, with the flags it was started with")
    return parser


def parse(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    typed = {token.split("=")[0] for token in (sys.argv[1:] if argv is None else argv) if token.startswith("--")}
    if args.resume:
        if extra := typed - {"--resume", "--device", "--workers"}:
            raise ValueError(f"--resume keeps the flags of the run; {sorted(extra)[0]} cannot change (only --device, --workers)")
        return resumed(args)
    for name in ("image", "patch"):
        if getattr(args, name) is None and args.size in SOFTMAX_FREE and SOFTMAX_FREE[args.size][name]:
            setattr(args, name, "x".join(map(str, SOFTMAX_FREE[args.size][name])))
    own, fixed = OWN_FLAGS[args.model], (*SCRATCH, "variant", "width")
    if args.model in ("probe", "cnn"):
        if wrong := typed & {"--attention", "--dropout", "--drop-path", "--train-blocks"}:
            raise ValueError(f"{min(wrong)} is for a ViT that is trained, not for --model {args.model}")
        if (args.model == "probe") != bool(args.pretrained):
            raise ValueError("--model probe needs --pretrained, the weights of the ViT to freeze" if args.model == "probe" else
                             "--pretrained: --model cnn starts from random weights")
    for name in {name for flags in OWN_FLAGS.values() for name in flags}:
        given, flag = getattr(args, name), "--" + name.replace("_", "-")
        if given is not None and name not in own:
            raise ValueError(f"{flag} belongs to --model {' or '.join(m for m in OWN_FLAGS if name in OWN_FLAGS[m])}, not to {args.model}")
        if name == "fusion" and given is not None and given not in FUSIONS[args.model]:
            raise ValueError(f"--fusion {given} is not of {args.model}; need one of {', '.join(FUSIONS[args.model])}")
        if given is not None and args.pretrained and name in fixed:
            raise ValueError(f"{flag} is fixed by --pretrained {args.pretrained}; leave it out")
        if given is None and name in own and not (args.pretrained and name in fixed):
            setattr(args, name, own[name])
    if args.chunk and args.mode == "joint":
        raise ValueError("--chunk: --mode joint has no stage 1, it sees all photographs at once")
    args.lr = LR.get(args.model, 5e-4) if args.lr is None else args.lr
    args.epochs = EPOCHS.get(args.model, 20) if args.epochs is None else args.epochs
    if not args.pretrained:
        args.image = args.image or IMAGE.get(args.model, "64")
    check_ranges(args)
    for name in ("attention", "dropout", "drop_path"):
        if args.model == "daft" and getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} is of a ViT; daft has none")
    if args.fusion == "image" and args.tabular:
        raise ValueError("--fusion image sees no table; leave --tabular out")
    if args.fusion == "linear-features" and not args.pretrained:
        raise ValueError("--fusion linear-features needs --pretrained RUN, of --fusion image, whose features it takes")
    if wrong := [word for word in listed(args.augment) if word not in AUGMENT]:
        raise ValueError(f"--augment {args.augment}: {wrong[0]!r} is none of {', '.join(AUGMENT)}")
    return args


def check_ranges(args):
    for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("chunk", 1), ("channels", 1), ("folds", 2), ("workers", 0),
                        ("lr", 1e-12), ("warmup", 0), ("n", 1)):
        if (value := getattr(args, name)) is not None and not value >= least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: need at least {least}")
    for name in ("dropout", "drop_path", "val"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: need 0 <= x < 1")


def by_patient(args):
    """Does a sample of this model hold all photographs of a patient?"""
    return args.model == "multivit" and args.mode != "baseline"


def listed(text):
    return [] if text in (None, "", "none") else text.split(",")


def pixels(text, axes=2, flag="image"):
    """ "64" -> 64 px on every axis; "96x64" -> (height, width); "32x64x64" -> (depth, height, width)."""
    if not re.fullmatch(r"\d+(x\d+){0,2}", text):
        raise ValueError(f"--{flag} {text}: need SIDE, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH in px, e.g. 224, 256x192 or 32x256x256")
    sides = tuple(int(side) for side in text.split("x"))
    return sides * axes if len(sides) == 1 else sides


def settle(args, cohort):
    """Write into args what depends on the data: is an image a picture, a volume or a bag, and what is the default for those?"""
    axes = axes_of(cohort)
    if axes not in AXES.get(args.model, (2,)):
        raise ValueError(f"{cohort.name} holds {IMAGES[axes]}, --model {args.model} takes none; "
                         f"use {' or '.join(model for model in AXES if axes in AXES[model])}")
    if axes == 0:
        if wrong := {args.image, args.patch} - {None, "", "64", SCRATCH["patch"]} or {args.augment} - {None, "none"}:
            raise ValueError(f"--image, --patch, --augment {wrong.pop()}: {cohort.name} holds {IMAGES[axes]}, which have no pixels")
        args.image, args.patch = "", ""
    if args.model == "daft" and not args.image and not args.pretrained:
        first = None if axes == 2 else read_array(cohort.paths[0]) if cohort.pixels is None else cohort.pixels[0]
        args.image = "64" if axes == 2 else "x".join(map(str, first.shape[-3:]))
    for name in ("image", "patch"):
        if text := getattr(args, name):
            sides = pixels(text, axes, name)
            if len(sides) != axes:
                raise ValueError(f"--{name} {text}: {cohort.name} holds {IMAGES[axes]}, need one number or {axes}")
            setattr(args, name, "x".join(map(str, sides)))
    if not args.pretrained:                                        # a checkpoint brings its own
        args.channels = args.channels or CHANNELS.get(axes) or read_array(cohort.paths[0]).shape[1]
    args.augment = args.augment or ("none" if args.model == "probe" else AUGMENTED[axes])            # a probe sees every image once
    args.batch_size = args.batch_size or (4 if by_patient(args) else BATCH.get(args.model, 16) if axes else 1)
    if args.batch_size < args.accumulate * parallel.world():
        raise ValueError(f"--batch-size {args.batch_size}: {parallel.world()} processes with --accumulate {args.accumulate} need at least "
                         f"{args.accumulate * parallel.world()}")
    if args.cache and (axes == 0 or args.model == "probe" or axes == 3 and "crop" in listed(args.augment)):
        raise ValueError("--cache is for decoded pictures and volumes; " + (
            "bags of vectors are not decoded" if axes == 0 else "a probe's images are seen once, and their features kept"
            if args.model == "probe" else "volumes are kept as the model sees them, which --augment crop would change"))
    if axes == 2 and (args.channels not in (None, 1, 3) or "dflip" in listed(args.augment)):
        raise ValueError(f"--channels {args.channels}, --augment {args.augment}: pictures have 1 or 3 channels, and no depth to flip")


# -----------------------------------------------------------------------------
# the model

RANDOM = "weights drawn at random"


def build_model(args, tasks, columns=()):
    """Flags, tasks, and the columns of the table that are input -> model, and the line that says where its weights come from.
    Every flag's way into a model is here."""
    if taken := [task.name for task in tasks if hasattr(torch.nn.ModuleDict(), task.name)]:
        raise ValueError(f"--target {taken[0]}: PyTorch keeps that name for itself; rename the column")
    outputs, P = {task.name: task.outputs for task in tasks}, sum(column.width for column in columns)
    image, channels = pixels(args.image) if args.image else None, args.channels or (None if args.pretrained else 3)
    changes = dict(dropout=args.dropout, drop_path=args.drop_path, attention=args.attention)
    if args.model == "crossvit":
        if args.pretrained:
            model = CrossViT.from_pretrained(args.pretrained, image, channels, outputs, fusion=args.fusion, **changes)
        else:
            model = CrossViT(variant(args.variant, image, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels,
                                     fusion=args.fusion, **changes), outputs)
        return frozen(model, args, model.config.encoders, getattr(model, "report", RANDOM))
    if args.model == "probe":
        vit = ViT.from_pretrained(args.pretrained, image, channels)
        return frozen(Probe(ProbeConfig(vit.config, args.head), outputs, vit), args, 0, f"{vit.report}; all of it frozen")
    if args.model == "cnn":
        return frozen(CNN(CNNConfig(image, channels, (0.5,) * channels, (0.5,) * channels), outputs), args, 0, RANDOM)
    if args.model == "daft":
        tensors, saved, _ = read_checkpoint(args.pretrained) if args.pretrained else ({}, {"daft": {}}, {})
        if "daft" not in saved:
            raise ValueError(f"--pretrained {args.pretrained}: not a run of --model daft")
        channels = channels or saved["daft"]["channels"]
        model = ResNet(DAFTConfig(image or saved["daft"]["image"], channels, args.width or saved["daft"]["width"], P, args.fusion,
                                  args.location, args.without != "scale", args.without != "shift", args.activation,
                                  args.identity_init, (0.5,) * channels, (0.5,) * channels), outputs)
        tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(("stem.", "blocks.")) and ".daft." not in key}
        report = load_weights(model, tensors, args.pretrained, ("head.", "hidden.", "factors.", ".daft.")) if tensors else RANDOM
        return frozen(model, args, len(getattr(model, "blocks", ())), report, columns)
    if args.pretrained:
        vit = ViT.from_pretrained(args.pretrained, image, channels, outputs if args.model == "vit" else None, **changes)
    else:
        fields = dict(image=image or (), patch=pixels(args.patch, len(image), "patch") if image else (), channels=channels,
                      mean=(0.5,) * channels, std=(0.5,) * channels)
        config = ViTConfig(**{**named(args.size), **fields, **changes})
        vit = ViT(config, outputs if args.model == "vit" else None)
    report = getattr(vit, "report", RANDOM)
    if args.model == "vit":
        model = DAFTViT(DAFTViTConfig(vit.config, P), vit=vit) if columns else vit
    elif args.model == "multivit":
        hidden = [int(width) if width.isdigit() else 0 for width in args.hidden.split(",")]
        model = MultiViT(MultiViTConfig(vit.config, args.mode, args.n, args.r, args.cls_token, hidden), outputs)
        if args.pretrained:
            model.load_donor(vit)
    elif args.model == "lt_vit":
        model = LTViT(LTViTConfig(vit.config, args.label_layers, args.label_attention, args.shared_head), outputs)
        model.vit = vit
    elif args.model == "q2l":
        model = Q2L(Q2LConfig(vit.config), outputs)
        model.vit = vit
    return frozen(model, args, vit.config.depth, report, columns)


def frozen(model, args, depth, report, columns=()):
    """--train-blocks, --grad-checkpointing, --chunk -> model and report, with what was frozen. model.columns: what its entry
    `tabular` holds."""
    model.columns = columns
    if args.grad_checkpointing:
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        for block in blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        if not blocks:
            raise ValueError(f"--grad-checkpointing: --model {args.model} has no Transformer blocks")
        report += f"; {len(blocks)} blocks are computed again for the gradient"
    if args.chunk:
        model.chunk = args.chunk
    if args.accumulate > 1 and parallel.world() > 1 and any("BatchNorm" in type(module).__name__ for module in model.modules()):
        raise ValueError(f"--accumulate with --model {args.model}, whose batch norm looks at all processes, needs one process")
    if args.train_blocks is not None:
        still = freeze(model, depth - args.train_blocks)
        report += f"; first {depth - args.train_blocks} blocks frozen ({still / 1e6:.1f} M of {count(model) / 1e6:.1f} M parameters)"
    return model, report


def model_from_config(config, outputs, name):
    """config.json of a run -> model with random weights."""
    if config.get("model") == "vit":
        return ViT(from_dict(ViTConfig, config["vit"], name), outputs)
    if config.get("model") == "multivit":
        return MultiViT(from_dict(MultiViTConfig, config["multivit"], name), outputs)
    if config.get("model") == "crossvit":
        return CrossViT(from_dict(CrossViTConfig, config["crossvit"], name), outputs)
    if config.get("model") == "lt_vit":
        return LTViT(from_dict(LTViTConfig, config["lt_vit"], name), outputs)
    if config.get("model") == "q2l":
        return Q2L(from_dict(Q2LConfig, config["q2l"], name), outputs)
    if config.get("model") == "probe":
        return Probe(from_dict(ProbeConfig, config["probe"], name), outputs)
    if config.get("model") == "cnn":
        return CNN(from_dict(CNNConfig, config["cnn"], name), outputs)
    if config.get("model") == "daft":
        return ResNet(from_dict(DAFTConfig, config["daft"], name), outputs)
    if config.get("model") == "daft_vit":
        return DAFTViT(from_dict(DAFTViTConfig, config["daft_vit"], name), outputs)
    raise ValueError(f"{name}: config.json is of model {config.get('model')!r}, not one that train.py writes")


def open_model(run):
    """Run folder -> its best model, its tasks, its flags."""
    if not os.path.isfile(os.path.join(run, "args.json")):
        raise ValueError(f"{run}: no run folder (it holds no args.json)")
    if not os.path.isdir(os.path.join(run, "best")):               # else the files beside it may be those a process is writing now
        held = lock(run)
        recover(os.path.join(run, "best"))
        held.close()
    tensors, config, _ = read_checkpoint(run)
    try:
        tasks = [Task(**{**task, "classes": tuple(task["classes"])}) for task in config.get("tasks", [])]
        columns = [Column(**{**column, "values": tuple(column["values"])}) for column in config.get("columns", [])]
        make = functools.partial(model_from_config, config, {task.name: task.outputs for task in tasks}, run)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{run}: the tasks or columns of config.json are not as train.py writes them ({error})") from error
    check_size(make, tensors, run)
    model = make()
    model.columns = columns
    load_weights(model, tensors, run, new=())
    return model, tasks, read_args(run)


def freeze(model, first):
    """No gradient for blocks 0 .. first - 1 of every ViT in the model; -> how many parameters that is."""
    if first < 0:
        raise ValueError(f"--train-blocks: {-first} more than the model has")
    frozen = 0
    for name, parameter in model.named_parameters():
        block = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
        if block and int(block[1]) < first:
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


# -----------------------------------------------------------------------------
# the data


def load_data(args):
    """Flags -> Cohort. Models that see a patient at once need one target a patient."""
    with parallel.first_here():                                    # one makes or downloads what the others of its machine then find
        data = synthetic.make(args.data, args.cache_dir) if args.data in synthetic.COHORTS else args.data
        cohort = load_cohort(data, args.images, args.patient_column, args.image_column, args.target, args.split_column,
                             args.uncertain, args.blank, args.cache_dir)
    return per_patient(cohort, args.patient_target) if by_patient(args) or args.patient_target else cohort


def input_columns(args, cohort, train):
    """--tabular, or with daft what the simulated table offers -> [Column], with the statistics of the training images."""
    needed = args.model == "daft" and args.fusion != "image"
    wanted = args.tabular or cohort.inputs * needed
    if needed and not wanted:
        raise ValueError("--model daft needs --tabular COLUMN,..., what it sees beside the image; "
                         f"there are {', '.join(list(cohort.columns)[:20]) or 'none, --data is no CSV table'}")
    return fit_columns(cohort, wanted, train) if wanted else []


def run_options(args, model, cohort, device):
    """What evaluation needs to know of a run."""
    vit = getattr(model.config, "vit", model.config)
    if len(vit.image) != axes_of(cohort):
        raise ValueError(f"{cohort.name} holds {IMAGES[axes_of(cohort)]}, "
                         f"the model was made for {IMAGES[len(vit.image)]}{f' of {vit.image} px' * bool(vit.image)}")
    return dict(size=vit.image, n=args.n if "images" in model.inputs else None, r=args.r if "images_hr" in model.inputs else 1,
                channels=vit.channels, batch_size=args.batch_size, device=device,
                workers=args.workers if args.workers is not None else 0 if device.type == "cpu" else 4,
                autocast=torch.bfloat16 if args.amp == "bf16" or args.amp == "auto" and fast_bfloat16(model, device) else None,
                by_image="images" not in model.inputs and not targets_agree(cohort),
                folder=args.cache_dir if args.cache else None)


def add_features(args, model, cohort, options):
    """For a model with a frozen part, give the cohort what that part says of its images."""
    if "features" in model.inputs:
        with parallel.first_here():
            features, note = cached_features(cohort, model, args.cache_dir, options["size"], options["channels"], options["device"],
                                             options["workers"])
        cohort.features = features[:, :1] if model.config.head == "class" else features      # no more is read than is used
        print(note + "; --augment does not change them" * bool(listed(args.augment)))


def usable(args, cohort, train):
    """-> the training images of which a one-image model can learn something, and a line about the others, where there are any."""
    known = np.any([~np.isnan(cohort.targets[task.name]).reshape(len(cohort.paths), -1).any(1) for task in cohort.tasks], 0)
    if by_patient(args) or known.all():
        return train, []
    return [i for i in train if known[i]], [f"{(~known).sum()} of {len(known)} images have no known target: those of the training "
                                            f"split ({(~known[train]).sum()}) are left out, the others are predicted but not scored"]


def seen_before(args, cohort, indices):
    """A line, where --pretrained is a run that learned from this table's patients who are for val or test now."""
    path = os.path.join(args.pretrained or "", "split.csv")
    if not args.pretrained or not os.path.isfile(path) or read_args(args.pretrained).data != args.data:
        return []
    learned = {patient for patient, split in read_run_split(args.pretrained).items() if split == "train"}
    found = [f"{len(seen)} {split}" for split in ("val", "test") if (seen := learned & {cohort.patients[i] for i in indices[split]})]
    return [f"WARNING: {args.pretrained} learned from {' and '.join(found)} patients of this split; what is measured on them is too "
            "good"] * bool(found)


def classes_of(args, cohort, samples):
    """The class of every sample by the first task, -1 where it is unknown, to balance batches by; None: they are not balanced."""
    task, possible = cohort.tasks[0], cohort.tasks[0].kind == "classes"
    if args.balanced and not possible:
        raise ValueError(f"--balanced: {task.name}, the first target, is a task of {task.kind}, need classes")
    if not possible or args.balanced is False or args.balanced is None and args.model not in ("probe", "cnn"):
        return None
    return np.nan_to_num(cohort.targets[task.name][[images[0] for images in samples]], nan=-1)


def find_device(name):
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:              # torchrun's processes have a GPU each
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def width_of(model):
    """D of its widest Transformer, 0 of a model that has none."""
    vit = getattr(model.config, "vit", model.config)
    return getattr(vit, "dim", max(getattr(vit, "dims", (0,))))


def cpu_flags():
    """What the CPU can do, in the words of Linux."""
    if not os.path.exists("/proc/cpuinfo"):
        return ""
    with open("/proc/cpuinfo") as file:
        return file.read()


def fast_float32(model, device):
    """Choose the kernels of float32 matrix products; -> a line for the log, in a list, or none.

    AMD CPUs with AVX-512: PyTorch's "medium" leaves MKL for oneDNN, still in float32 (gradients equal to 1e-6). Measured on
    an EPYC, CPU time of a training step, MKL over oneDNN, by width: 64 0.4 to 0.7, 128 0.8 to 1.1, 192 1.1 to 1.4, 384 1.3
    to 1.6, 768 1.7. On CPUs with AMX the same word would mean bfloat16. CUDA: "high" is TF32."""
    width, flags = width_of(model), cpu_flags() if device.type == "cpu" else ""
    fast = "AuthenticAMD" in flags and "avx512f" in flags and "amx" not in flags and width >= 192
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else "medium" if fast else "highest")
    return [f"float32 products by oneDNN, which is faster here at width {width}"] if fast else []


def fast_bfloat16(model, device):
    """Is bfloat16 worth it? On CUDA where the GPU has it; on CPUs that multiply in it, for Transformers from width 128.

    Measured on an EPYC with avx512_bf16, CPU time of a training step with AdamW, float32 (the faster kernels) over bf16, by
    width: 64 0.6 to 0.7, 128 1.3, 192 1.4 to 1.7, 384 1.6, 768 1.5; CrossViT-9 at 60 px 1.5."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and width_of(model) >= 128 and "features" not in model.inputs and any(
        word in cpu_flags() for word in ("avx512_bf16", "amx_bf16"))


# -----------------------------------------------------------------------------
# the loss and the learning rate


def known_counts(tasks, targets, present=None):
    """-> (2, tasks): how many targets are known, and, with present (B, N), how many counted once for every image of their patient."""
    rows = []
    for task in tasks:
        target = targets[task.name][..., 0] if task.kind == "survival" else targets[task.name]
        known = (~target.isnan()).reshape(len(target), -1).sum(1)  # (B,)
        rows.append(torch.stack([known.sum(), (known if present is None else known * present.sum(1)).sum()]))
    return torch.stack(rows, 1)


def task_loss(tasks, logits, targets, counts=None):
    """Sum over the tasks of the mean over the known targets. logits {task: (..., outputs)}, targets {task: (...) or (..., L)}.

    counts (tasks,): how many targets are known, here and in the other parts of the batch, so that the losses of its parts add up to
    that of the whole. regression: squared error in units of the training targets' standard deviation; classes: cross entropy; labels: binary
    cross entropy, mean over the labels; survival: cox_loss. An unknown target is NaN and counts for nothing."""
    total, counts = 0.0, known_counts(tasks, targets)[0] if counts is None else counts
    for task, count in zip(tasks, counts.clamp(min=1)):
        y, target = logits[task.name].float(), targets[task.name]
        if task.kind == "survival":                                # target (..., 2)
            total = total + cox_loss(y.flatten(), *target.flatten(0, -2).unbind(1), count)
            continue
        known, safe = ~target.isnan(), target.nan_to_num()
        if task.kind == "regression":
            each = (y.squeeze(-1) - (safe - task.center) / task.scale).square()
        elif task.kind == "classes" and torch.are_deterministic_algorithms_enabled():        # CUDA has such a form for (n, C) only
            each = F.cross_entropy(y.flatten(0, -2), safe.flatten().long(), reduction="none").view(target.shape)
        elif task.kind == "classes":
            each = F.cross_entropy(y.movedim(-1, 1), safe.long(), reduction="none")
        else:
            weight = on_device(task.positive_weight, y.device) if task.positive_weight else None
            each = F.binary_cross_entropy_with_logits(y, safe, reduction="none", pos_weight=weight)
        total = total + (each * known).sum() / count
    return total


@functools.cache
def on_device(values, device):
    """A tuple as a tensor, copied to the device once: a copy in every step would wait for the GPU."""
    return torch.tensor(values, device=device)


def cox_loss(risk, time, event, count=None):
    """(n,) each -> - sum over events i of (risk_i - log sum over j with time_j >= time_i of exp risk_j) / count, by default n.

    Cox's partial likelihood with Breslow's ties; what is seen at once, a batch or its part, is the risk set. 0 without an event; a NaN
    time counts for nothing."""
    known = ~time.isnan()
    gone = (time < time[:, None]) | ~known                         # (n, n): j is not at risk at the time of i
    at_risk = risk.expand_as(gone).masked_fill(gone.fill_diagonal_(False), -torch.inf).logsumexp(1)
    return ((at_risk - risk) * (event.nan_to_num() * known)).sum() / (known.sum().clamp(min=1) if count is None else count)


def model_loss(tasks, out, targets, present=None, counts=None):
    """The loss of the last stage, and of a first stage the mean over the images that are present (MultiViT, section 3.1).

    counts: known_counts of the whole batch, where this is a part of it."""
    stage1 = out.get("stage1")
    if stage1 and present is None:
        present = torch.ones_like(next(iter(stage1.values()))[..., 0], dtype=torch.bool)
    counts = known_counts(tasks, targets, present) if counts is None else counts
    loss = task_loss(tasks, out["logits"], targets, counts[0])
    if stage1:                                                     # every image of a patient carries his target
        N = present.shape[1]
        each = {name: target[:, None].expand(-1, N, *target.shape[1:]).masked_fill(
            ~present.view(*present.shape, *[1] * (target.dim() - 1)), float("nan")) for name, target in targets.items()}
        loss = loss + task_loss(tasks, out["stage1"], each, counts[1])
    return loss


def lr_at(step, steps, warmup, lr, lr_end):
    """Linear from 0 to lr in `warmup` steps, then linear to lr_end at the last."""
    if step < warmup:
        return lr * (step + 1) / warmup
    return lr + (lr_end - lr) * (step - warmup) / max(1, steps - 1 - warmup)


def make_optimizer(model, args, device):
    """AdamW; weight decay on matrices only, not on biases, norms, tokens and positions."""
    groups = [{"params": [], "weight_decay": args.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim < 2 or bool(re.search(r"token|pos_embed", name))]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=args.lr, fused=device.type in ("cuda", "cpu"))


# -----------------------------------------------------------------------------
# the flags of a run that there is


def read_args(run):
    """The flags of a run; someone may have edited them."""
    try:
        with open(os.path.join(run, "args.json"), encoding="utf-8") as file:
            args = argparse.Namespace(**{**vars(parse([])), **json.load(file)})              # a flag that came later has its default
        for flag in make_parser()._actions:
            value, kind = getattr(args, flag.dest, None), bool if flag.nargs == 0 else flag.type or str
            if value is not None and not isinstance(value, (float, int) if kind is float else kind) or flag.choices and value not in (
                    None, *flag.choices) or value is None and flag.default not in (None, argparse.SUPPRESS):
                raise ValueError(f"{flag.dest} cannot be {value!r}")
        check_ranges(args)
        return args
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{run}: no run folder, its args.json cannot be read ({error})") from error


def resumed(args):
    saved = read_args(args.resume)
    saved.resume, saved.device, saved.workers = args.resume, args.device, args.workers
    return saved


# -----------------------------------------------------------------------------
# the loop


class Stop:
    """True once SIGINT or SIGTERM has come, to this process or to one that trains with it; a second Ctrl-C quits at once."""

    def __init__(self):
        self.signal = None
        signal.signal(signal.SIGTERM, self.note)
        signal.signal(signal.SIGINT, self.note)

    def note(self, number, frame):
        if self.signal and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = number

    def __bool__(self):
        return self.signal is not None

    def leave(self, bar, run):
        """Once everything is saved."""
        bar.close()
        print(f"stopped; go on with: python train.py --resume {run}")
        sys.exit(128 + (self.signal or signal.SIGTERM))


class Pending:
    """What a step found, [loss, norm of the gradient, processes that were told to stop], on its way to the CPU: it is looked at one step
    later, so that the GPU always has work to do. place, paths: where and on what that was."""

    def __init__(self, found, place, paths):
        self.place, self.paths, self.done = place, paths, None
        self.copy = found.to("cpu", non_blocking=found.device.type == "cuda")
        if found.device.type == "cuda":
            self.done = torch.cuda.Event()
            self.done.record()

    def check(self, run):
        """-> was anyone told to stop? ValueError when loss or gradient are not finite."""
        if self.done:
            self.done.synchronize()
        loss, norm, told = self.copy.tolist()
        if not math.isfinite(loss) or not math.isfinite(norm):
            paths = [path for paths in self.paths for path in paths]
            raise ValueError(f"the loss is {loss} at {self.place}, the gradient's norm {norm}; the batch held {', '.join(paths[:6])}"
                             + f" and {len(paths) - 6} more" * (len(paths) > 6) + f"; {run}/best and last are from before")
        return told > 0


def train_step(net, model, tasks, optimizer, batch, args, options, told):
    """One step on this process's share of a batch, in --accumulate parts -> [its summand of the batch's loss, norm of the gradient
    before it was clipped, processes told to stop] on the device. No number in it is read back, so nothing waits for a GPU."""
    device = options["device"]
    ahead = device.type == "cuda"                                  # other devices do not wait for what is still being copied
    inputs = {name: batch[name].to(device, non_blocking=ahead) for name in model.inputs}
    targets = {name: target.to(device, non_blocking=ahead) for name, target in batch["targets"].items()}
    counts = known_counts(tasks, targets, inputs.get("present"))
    shared = parallel.add(torch.cat([counts.flatten(), counts.new_full((1,), bool(told))]))  # in one message
    counts, told, loss = shared[:-1].view_as(counts), shared[-1], 0.0
    size = -(-len(batch["path"]) // args.accumulate)
    starts = range(0, len(batch["path"]), size)
    optimizer.zero_grad(set_to_none=True)
    for start in starts:
        part = {name: tensor[start:start + size] for name, tensor in inputs.items()}
        with nullcontext() if net is model or start == starts[-1] else net.no_sync():        # gradients meet once a step
            with torch.autocast(device.type, dtype=options["autocast"], enabled=options["autocast"] is not None):
                out = net(*part.values())
            each = model_loss(tasks, out, {name: target[start:start + size] for name, target in targets.items()}, part.get("present"), counts)
            (each * parallel.world()).backward()                   # of whose gradients the processes take the mean
        loss = loss + each.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)                     # what it was before
    optimizer.step()
    return torch.stack([loss, norm, told.to(loss.dtype)])


def main(argv=None):
    args = parse(argv)
    with parallel.together(find_device(args.device)) as device:
        if first := parallel.rank() == 0:
            trained = fit(args, device)
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):                 # one process speaks
                fit(args, device)
    if first:
        finish(*trained)


def fit(args, device):
    """The whole training, as one process of perhaps many; -> what `finish` needs."""
    torch.manual_seed(args.seed)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")                          # read at the first product
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    cohort = load_data(args)
    settle(args, cohort)
    indices, notes = split_patients(cohort, args.folds, args.fold, args.val, args.seed)
    tasks = fit_tasks(cohort.tasks, cohort, indices["train"], args.positive_weight)
    columns = input_columns(args, cohort, indices["train"])
    cohort, filled = tabulate(replace(cohort, tasks=tasks), columns)
    model, report = build_model(args, tasks, columns)
    model.to(device)
    options, writes = run_options(args, model, cohort, device), parallel.rank() == 0
    kind = "daft_vit" if isinstance(model, DAFTViT) else args.model
    common = (options["size"], options["n"], options["r"], options["channels"])
    learned, unknown = usable(args, cohort, indices["train"])
    train = Samples(cohort, learned, *common, listed(args.augment), train=True, seed=args.seed, folder=options["folder"])
    val = Samples(cohort, indices["val"], *common, folder=options["folder"])
    share = dict(workers=options["workers"], pin_memory=device.type == "cuda", rank=parallel.rank(), world=parallel.world(), fill=args.compile)
    loader, batches = make_loader(train, args.batch_size, args.seed, True, classes=classes_of(args, cohort, train.samples), **share)
    val_loader, _ = make_loader(val, args.batch_size, **share)
    run, held = ((args.resume, lock(args.resume)) if args.resume else new_run(args)) if writes else (None, None)
    run = parallel.collect(run)[0]
    aims = ", ".join(f"{task.name} ({task.kind}{': ' * bool(task.classes)}{' '.join(task.classes)})" for task in tasks)
    sees = [f"sees {', '.join(f'{column.name} ({column.kind})' for column in columns)} beside the image"] * bool(columns)
    many = [f"{parallel.world()} processes, {args.batch_size} samples a step in all"] * (parallel.world() > 1)
    for line in (f"{run}: {args.model}{' ' + args.mode if args.mode else ''}, {count(model) / 1e6:.2f} M parameters, {device}",
                 *many, f"predicts {aims}", *sees, *notes, *filled, *unknown, report, *seen_before(args, cohort, indices),
                 *fast_float32(model, device), *(["bfloat16 products (--amp off: float32)"] * (options["autocast"] is not None))):
        print(line)
    optimizer = make_optimizer(model, args, device)
    state = {"epoch": 0, "step": 0, "best": None, "history": [], "loss": [], "norm": 0.0}
    if writes:
        recover(os.path.join(run, "best")), recover(os.path.join(run, "last"))
    parallel.collect(None)                                         # nobody reads what is still being put in place
    parallel.own_numbers(args.seed)                                # of dropout; the weights are the same in all processes
    if args.resume and os.path.isdir(os.path.join(run, "last")):
        state = load_state(run, model, optimizer, state)
        print(f"resumed after epoch {state['epoch']}, step {state['step']}")
    add_features(args, model, cohort, options)                     # now, that a resumed model has its own weights
    if writes:
        write_log(run, state["history"])                           # a kill may have come between state.pt and log.csv
        where = {patient: split for split, part in indices.items() for patient in (cohort.patients[i] for i in part)}
        write_csv(os.path.join(run, "split.csv"), [("patient", "split", "images"), *((patient, where[patient], len(images))
                                                                                     for patient, images in cohort.groups().items())])
    steps, stop = len(batches), Stop()
    if args.compile:
        torch._dynamo.config.optimize_ddp = not (args.grad_checkpointing or args.chunk)      # older PyTorch cannot have both
        model.compile()
    net = parallel.shared(model, device)
    bar = tqdm(total=args.epochs * steps, initial=state["epoch"] * steps + state["step"], desc="training", unit="step",
               disable=None if writes else True)

    def save(epoch, step, total, largest):
        """What all processes know goes to last/."""
        losses, numbers = zip(*parallel.collect((total, random_numbers())))
        everything = {**state, "epoch": epoch, "step": step, "loss": list(losses), "norm": largest, "random": list(numbers)}
        if writes:
            save_model(os.path.join(run, "last"), kind, model, tasks, {**everything, "optimizer": optimizer.state_dict()})
        parallel.collect(None)                                     # nobody leaves before it is written

    for epoch in range(state["epoch"], args.epochs):
        model.train()
        batches.epoch, batches.start = epoch, state["step"] if epoch == state["epoch"] else 0
        losses = state["loss"] if batches.start and len(state["loss"]) == parallel.world() else [0.0] * parallel.world()
        total, largest = torch.tensor(losses[parallel.rank()], device=device), torch.tensor(state["norm"] if batches.start else 0.0, device=device)
        began, loader.waited, val_loader.waited, pending = time.perf_counter(), 0.0, 0.0, None
        for step, batch in enumerate(loader, batches.start):
            lr = lr_at(epoch * steps + step, args.epochs * steps, args.warmup * steps, args.lr, args.lr_end)
            for group in optimizer.param_groups:
                group["lr"] = lr
            found = train_step(net, model, tasks, optimizer, batch, args, options, stop)
            told = pending.check(run) if pending else False
            pending = Pending(found, f"epoch {epoch + 1} step {step + 1}, lr {lr:.3g}", batch["path"])
            total, largest = total + found[0], torch.maximum(largest, found[1])
            bar.update()
            if (told or stop and parallel.world() == 1) and step < steps - 1:
                pending.check(run)
                save(epoch, step + 1, total.item(), largest.item())
                stop.leave(bar, run)
        pending.check(run)
        loss = parallel.add(total).item() / steps
        parallel.same_buffers(model)
        table = predict(model, tasks, val_loader, device, options["by_image"], options["autocast"])
        name, value, lower = main_metric(tasks, table)
        seconds, waited = time.perf_counter() - began, loader.waited + val_loader.waited
        state["history"].append({"epoch": epoch + 1, "lr": lr, "train_loss": loss, "grad_norm": largest.item(), f"val_{name}": value,
                                 "seconds": round(seconds, 2), "waited": round(waited, 2)})
        better = math.isfinite(value) and (state["best"] is None or (value < state["best"] if lower else value > state["best"]))
        if writes and (better or not os.path.isdir(os.path.join(run, "best"))):
            save_model(os.path.join(run, "best"), kind, model, tasks)
        state.update(epoch=epoch + 1, step=0, best=value if better else state["best"])
        save(epoch + 1, 0, 0.0, 0.0)
        if writes:
            write_log(run, state["history"])
        bar.write(f"epoch {epoch + 1:3}/{args.epochs}   train loss {loss:.4f}   val {name} {value:.4f}{' best' * better}   "
                  f"{seconds:.1f} s, {waited / seconds:.0%} waiting for data")
        if any(parallel.collect(bool(stop))):
            stop.leave(bar, run)
    bar.close()
    return run, held, cohort, indices, options


def finish(run, held, cohort, indices, options):
    """The test patients, once, with the best weights: metrics, pictures, card and page. held: the lock of the run."""
    best, tasks, _ = open_model(run)
    print_table(tasks, evaluate(best.to(options["device"]), tasks, cohort, indices, run, options, by="fst" if "fst" in cohort.columns else None))
    write_card(run)
    print(f"the whole run is in {run}: {os.path.basename(write_report(run))} to look at, metrics.json, predictions.csv, figures/, best/")


def random_numbers():
    """The state of every generator of this process."""
    return {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})}


def run_main(main):
    """Call main; what a user can cause ends in one line and status 2."""
    died = "a process that reads images died; with --resume RUN --workers 0 the run goes on"
    try:
        main()
    except ConnectionError as error:                               # its pipe breaks, if PyTorch does not notice first
        line = f"{died} ({error})"
        if hasattr(select, "poll"):
            (output := select.poll()).register(1, 0)
            if any(event & select.POLLERR for _, event in output.poll(0)):                   # it is ours: `| head` has read enough
                os._exit(128 + signal.SIGPIPE)
    except (ValueError, OSError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1].removeprefix("ValueError: ")
    except RuntimeError as error:
        line = first_line(error)
        if isinstance(error, torch.OutOfMemoryError):
            line = f"out of memory; --accumulate, --grad-checkpointing, or a smaller --batch-size or --image need less ({line})"
        elif "deterministic" in line:
            line = f"--deterministic: {line}"
        elif "DataLoader worker (pid" in line:                      # killed, as a rule by a system out of memory
            line = f"{died} ({line})"
        elif isinstance(error, torch.distributed.DistError) or "gloo" in line:
            line = f"the processes that train together lost each other; if one ended, its own line says why ({line})"
        else:
            raise
    else:
        return
    who = f" (process {os.environ['RANK']})" if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    print(f"{os.path.basename(sys.argv[0])}{who}: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    run_main(main)
