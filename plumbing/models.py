"""MODELS: every idea under its --model name; flags -> model, config.json -> model, run folder -> model.
"""
import functools
import os
import re
from crossvit import CrossViT, CrossViTConfig, variant
from daft import DAFTConfig, DAFTViT, DAFTViTConfig, ResNet
from lt_vit import LTViT, LTViTConfig
from multivit import MultiViT, MultiViTConfig
from probe import CNN, CNNConfig, Probe, ProbeConfig
from q2l import Q2L, Q2LConfig

import torch
from torch.utils.checkpoint import checkpoint

from plumbing import parallel
from plumbing.checkpoints import read_checkpoint
from plumbing.cohort import Column, Task
from plumbing.flags import pixels, read_args
from plumbing.run_folder import lock, recover
from plumbing.weights import check_size, from_dict, load_weights
from vit import Block, ViT, ViTConfig, named


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
