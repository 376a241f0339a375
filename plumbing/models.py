"""MODELS: every idea under its --model name; flags -> model; config.json -> the class and config of its
model.

A new idea is one file with a class, and one line here. What such a class offers:

    Config            frozen dataclass, architecture only, which config.json stores. It has image and channels
                      (and, where it normalizes, mean and std) as ViTConfig has them, or a field `vit` that
                      has, for a ViT in the model's attribute `vit`: --pretrained takes that out of a run
    __init__(config, tasks)          makes a saved model again, to which its weights and buffers are then
                                     copied; tasks: {name: outputs}. Also on PyTorch's meta device, where
                                     tensors have no numbers to read: no .item()
    inputs            names of the entries of a batch (data.py) that forward takes, in their order. images
                      needs a flag --n, images_hr --r, tabular --tabular: add_flags adds them
    forward(...)      -> dict: logits {task: (B, outputs)}, and what is drawn of it in evaluation: map (B, H,
                      T), with T for the patches of config.grid; others, of one idea each, in figures.py.
                      Of these only `stage1` has a part in the loss, see train.py
    add_flags(group)                 its own flags; group.set_defaults changes others
    from_args(args, tasks)           flags -> model; args.image is "64x64": sides in sizes.py; where it sees
                                     columns of the table (Column in cohort.py) these come third

and if it needs to:

    report                one line that says where its weights come from
    defaults              {flag: value}, where it wants others than DEFAULTS below
    axes                  numbers of axes of the images it sees, by default (2,)
    check_flags(args)     refuse what does not go together, fill in what depends on other flags;
                          ViT.check_flags where add_flags calls the ViT's
    by_patient(args)      does a sample hold all images of a patient? By default, where inputs has images
    needs_columns(args)   does it need columns of a table? By default, where inputs has tabular
    own_loss              a name: logits {own_loss: (B, 1)} is then the loss of every image. train.py takes
                          the mean; eval.py shows the loss of the test patients, and draws what forward
                          returns as `corrupted` and `rebuilt`
    needs_targets         True, where it learns targets too: own_loss is added to their loss. (One that is
                          made of targets belongs into task_loss in train.py.)

Names of parameters count, too: --train-blocks freezes what is named blocks.0 and so on, and weight decay
spares what has token or pos_embed in its name. --grad-checkpointing knows the Block of vit.py.
Before the first step a run is rehearsed (eval.py), which refuses most of what is not so.
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
from plumbing.sizes import count
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


# of flags whose default depends on the model
DEFAULTS = {"epochs": 20, "lr": 5e-4, "image": "64", "augment": None, "batch_size": None, "balanced": False}


def defaults_of(name):
    """-> {flag: value} for DEFAULTS, as the model of that name wants them."""
    own = getattr(MODELS[name], "defaults", {})
    unknown = own.keys() - DEFAULTS.keys()
    if unknown:
        raise ValueError(f"--model {name}: its `defaults` cannot be of {unknown}; for these there is "
                         "group.set_defaults in add_flags")
    return DEFAULTS | own


def seeing(axes):
    """-> the names of the models that see images of so many axes."""
    return [name for name, model_class in MODELS.items() if axes in getattr(model_class, "axes", (2,))]


# -----------------------------------------------------------------------------
# flags -> model


def build_model(args, tasks, columns=()):
    """Flags, [Task], and the columns of the table that are input -> model, and the line that says where its
    weights come from. model.columns: what its input `tabular` holds; model.saved_as: the name under which
    config.json stores it."""
    for task in tasks:
        if hasattr(torch.nn.ModuleDict(), task.name):
            raise ValueError(f"--target {task.name}: PyTorch keeps that name for itself; rename the column")
    model_class = MODELS[args.model]
    saved_as = args.model
    if model_class is ViT and columns:
        model_class = DAFTViT
        saved_as = "daft_vit"
    table = (columns,) if columns else ()
    model = model_class.from_args(args, outputs_of(tasks), *table)
    model.columns = columns
    model.saved_as = saved_as
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
        report += (f"; first {blocks} blocks frozen ({freeze(model, blocks) / 1e6:.1f} M of "
                   f"{count(model) / 1e6:.1f} M parameters)")
    return model, report


def outputs_of(tasks):
    """-> {name: outputs} of the tasks that a model needs a head for."""
    return {task.name: task.outputs for task in tasks if task.kind != "loss"}


def images_of(config):
    """A model's config -> that which says what images it sees: itself, or the ViT's in it."""
    return getattr(config, "vit", config)


def inputs_of(model, batch):
    """-> {name: tensor}, the entries of a batch that forward takes, in their order. A KeyError names one that
    no batch has; bag_mask alone may be absent, where all bags are of one length."""
    return {name: batch[name] for name in model.inputs if name in batch or name != "bag_mask"}


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


# -----------------------------------------------------------------------------
# saved model -> model


def class_of(config, name):
    """config.json -> the class of its model, and the model's config."""
    known = MODELS | {"daft_vit": DAFTViT}
    model = config.get("model")
    if not isinstance(model, str) or model not in known or model not in config:
        raise ValueError(f"{name}: config.json describes no model that train.py writes; "
                         f"it is of model {model!r}")
    return known[model], from_dict(known[model].Config, config[model], name)
