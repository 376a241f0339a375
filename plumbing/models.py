"""MODELS: every idea under its --model name; flags -> model; config.json -> the class and config of its
model.

A new idea is one file with a class, and one line here. What such a class offers:

    Config                           frozen dataclass, architecture only, which config.json stores
    inputs                           names of the entries of a batch that forward takes, in their order
    forward(...) -> dict             logits {task: (B, outputs)}, and what its paper draws
    add_flags(group)                 its own flags
    from_args(args, tasks, columns)  flags -> model; tasks {name: outputs}, columns: the table's, as input
    (columns.py)

and if it needs to:

    report                           one line that says where its weights come from
    defaults                         {flag: value}, where it wants other defaults than the rest
    axes                             numbers of axes of the images it sees, by default (2,)
    check_flags(args)                refuse what does not go together, fill in what depends on other flags;
                                     ViT.check_flags where add_flags calls the ViT's
    by_patient(args)                 does a sample hold all images of a patient?
    needs_columns(args)              does it need columns of a table?
    own_loss                         a name, where it learns without targets: logits {own_loss: (B, 1)} is
                                     then the loss of every image. train.py takes the mean and keeps the
                                     epoch of the lowest validation loss; eval.py shows the loss of the test
                                     patients, and draws what forward returns as `corrupted` and `rebuilt`
"""
import functools
import re

import torch
from torch.utils.checkpoint import checkpoint

from crossvit import CrossViT
from daft import DAFTViT, ResNet
from gmml import GMML
from lt_vit import LTViT
from multivit import MultiViT
from plumbing import parallel
from plumbing.weights import from_dict
from probe import CNN, Probe
from q2l import Q2L
from vit import Block, ViT

MODELS = {
    "vit": ViT,
    "multivit": MultiViT,
    "crossvit": CrossViT,
    "lt_vit": LTViT,
    "q2l": Q2L,
    "daft": ResNet,
    "probe": Probe,
    "cnn": CNN,
    "gmml": GMML,
}


def seeing(axes):
    """-> the names of the models that see images of so many axes."""
    return [name for name, model_class in MODELS.items() if axes in getattr(model_class, "axes", (2,))]


# -----------------------------------------------------------------------------
# flags -> model


def build_model(args, tasks, columns=()):
    """Flags, [Task], and the columns of the table that are input -> model, and the line that says where its
    weights come from. model.columns: what its input `tabular` holds."""
    for task in tasks:
        if hasattr(torch.nn.ModuleDict(), task.name):
            raise ValueError(f"--target {task.name}: PyTorch keeps that name for itself; rename the column")
    model_class = MODELS[args.model]
    if model_class is ViT and columns:
        model_class = DAFTViT
    model = model_class.from_args(args, {task.name: task.outputs for task in tasks}, columns)
    model.columns = columns
    report = getattr(model, "report", "weights drawn at random")
    if args.grad_checkpointing:
        report += f"; {checkpoint_blocks(model, args.model)} blocks are computed again for the gradient"
    has_batch_norm = any("BatchNorm" in type(module).__name__ for module in model.modules())
    if has_batch_norm and args.accumulate > 1 and parallel.world() > 1:
        raise ValueError(f"--accumulate with --model {args.model}, whose batch norm looks at all processes, "
                         "needs one process")
    if getattr(args, "train_blocks", None) is not None:
        numbers = [block_number(name) for name, _ in model.named_parameters()]
        blocks = 1 + max(numbers) - args.train_blocks
        share = f"{freeze(model, blocks) / 1e6:.1f} M of {count(model) / 1e6:.1f} M parameters"
        report += f"; first {blocks} blocks frozen ({share})"
    return model, report


def checkpoint_blocks(model, name):
    """Every block of the Transformers is computed again for the gradient instead of kept; -> how many there
    are."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise ValueError(f"--grad-checkpointing: --model {name} has no Transformer blocks")
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return len(blocks)


def block_number(name):
    """Number of the outermost block that a parameter of that name is in, -1 outside of all blocks."""
    block = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
    return int(block[1]) if block else -1


def freeze(model, first):
    """No gradient for blocks 0 .. first - 1 of every ViT in the model; -> how many parameters that is."""
    if first < 0:
        raise ValueError(f"--train-blocks: {-first} more than the model has")
    frozen = 0
    for name, parameter in model.named_parameters():
        if 0 <= block_number(name) < first:
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


# -----------------------------------------------------------------------------
# saved model -> model


def model_name(model, args):
    """The name under which config.json stores a model: --model, but daft_vit for a ViT that sees a
    table."""
    return "daft_vit" if isinstance(model, DAFTViT) else args.model


def class_of(config, name):
    """config.json -> the class of its model, and the model's config."""
    known = {**MODELS, "daft_vit": DAFTViT}
    model = config.get("model")
    if not isinstance(model, str) or model not in known or model not in config:
        raise ValueError(f"{name}: config.json describes no model that train.py writes; "
                         f"it is of model {model!r}")
    return known[model], from_dict(known[model].Config, config[model], name)
