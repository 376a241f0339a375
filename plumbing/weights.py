"""Weights that other people trained: read, rename, fit to another size, load, and say what was done.

Loading is all or nothing: a tensor that is missing or misshapen stops with its name and both shapes, unless
the caller said that it is new. What was loaded, resized, new and ignored comes back as one line, the
report. Finding and reading the files: checkpoints.py; names: names.py; which architecture: architecture.py.
Run: python -m plumbing.weights ORG/NAME        lists what a checkpoint holds, under the names used here
"""
import re
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import get_origin, get_type_hints

import torch

from plumbing.architecture import (crossvit_fields, flat, run_config, stated_kind, vit_fields,
                                   vit_inside)
from plumbing.checkpoints import read_checkpoint
from plumbing.command import Parser, in_one_line, run_main
from plumbing.names import BESIDE, crossvit_names, final_name, timm_names
from plumbing.preprocessing import statistics
from plumbing.resize import change_channels, fit, resize_positions
from plumbing.sizes import grids_at
from plumbing.tables import shortlist

# tensors that the model has no place for: of other tasks, decoders and text towers
IGNORED = re.compile(
    r"/|\w*head\w*\.|(pooler|attn_pool|pre_logits|fc|local_cls_norm|rope_embed)\.|mask_token|"
    r"masked_embed|embeddings\.position_ids|decoder|conv3d_transpose|(bert|text|label)_|proj|rope\.freqs_")

# -----------------------------------------------------------------------------
# a checkpoint -> tensors and config, at the size that is asked for


def read_vit(name, model_class, image, channels, tasks, patch=None, heads=None, mean=None, std=None, stage=1,
             **changes):
    """-> a ViT with these weights, and with heads for the tasks. image and patch (px per axis), channels and
    heads as the caller wants them, or None or (); mean and std of the file's own channels, None leaves them
    to the file; stage: 1 or 2, of MultiViT; changes: other fields of the config, None leaves them."""
    tensors, config, preprocessor, notes = read_checkpoint(name)
    with belonging_together(name):
        tensors, own = vit_inside(tensors, config, stage, notes)
        if own:                                                    # written by train.py
            config = own_config(model_class.Config, own, name, channels, mean, std, notes)
        else:
            config = flat(config)
            tensors, layout = timm_names(tensors)
            kind = stated_kind(config) or layout
            fields = vit_fields(tensors, kind, config, heads, notes)
            fields |= statistics(kind, config, preprocessor, fields["channels"], mean, std, notes)
            config = from_dict(model_class.Config, fields, name)
            tensors = {final_name(key): tensor for key, tensor in tensors.items()}
            if not config.pre_norm and "patch_embed.proj.bias" not in tensors:         # CLIP's has none
                notes.append("no bias in its patch_embed (assumed to be 0)")
            tensors.setdefault("patch_embed.proj.bias", torch.zeros(config.dim))
        if heads and heads != config.heads:
            raise ValueError(f"--heads {heads}: it has {config.heads}")
        config = fit(tensors, config, image, patch, notes)
        return changed_model(model_class, config, tensors, name, channels, tasks, changes, notes)


def read_crossvit(name, model_class, image, channels, tasks, mean=None, std=None, **changes):
    """-> a CrossViT, as read_vit. Where there is one task, it gets the one head of a released file."""
    tensors, config, preprocessor, notes = read_checkpoint(name)
    with belonging_together(name):
        tensors = crossvit_names(tensors, tasks)
        own = run_config(config)
        if own and "pos_embed.0" in tensors:                           # not a run of another model
            config = own_config(model_class.Config, own, name, channels, mean, std, notes)
        else:
            fields = crossvit_fields(tensors)
            fields |= statistics("", flat(config), preprocessor, fields["channels"], mean, std, notes)
            config = from_dict(model_class.Config, fields, name)
        if image and tuple(image) != config.image:
            resized = replace(config, grids=grids_at(image, config.patch))
            for b, (old, new) in enumerate(zip(config.grids, resized.grids)):
                if old != new:
                    resize_positions(tensors, f"pos_embed.{b}", old, new, notes)
            config = resized
        return changed_model(model_class, config, tensors, name, channels, tasks, changes, notes)


@contextmanager
def belonging_together(name):
    """Inside it tensors and config.json may be taken to belong to one model: what fails because they do not,
    and what is refused, becomes one ValueError that names the file."""
    try:
        with in_one_line(f"{name}: its tensors, config.json and what is asked for do not belong together",
                         (RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError)):
            yield
    except ValueError as error:
        raise ValueError(f"{name}: " + str(error).removeprefix(f"{name}: ")) from error


def own_config(config_class, fields, name, channels, mean, std, notes):
    """-> the config of a run as it stands in its config.json, but for mean and std that the caller gives."""
    config = from_dict(config_class, fields, name)
    if not config.image:
        if (mean, std) != (None, None) or channels not in (None, config.channels):
            raise ValueError(f"is for bags of vectors {config.channels} wide, which are taken as they come: "
                             "no other width, --mean or --std")
        return config
    return replace(config, **statistics("", vars(config), {}, config.channels, mean, std, notes))


def changed_model(model_class, config, tensors, name, channels, tasks, changes, notes):
    """-> the model that the config, with the caller's channels and changes, describes, with these tensors."""
    if channels and channels != config.channels:
        config = change_channels(tensors, config, channels, notes)
    changes = {field: value for field, value in changes.items() if value is not None}
    for field in ("attention", "fusion"):
        own = getattr(config, field, None)
        if changes.get(field, own) != own:
            notes.append(f"without its {own} {field}")
    config = replace(config, **changes)
    return load_model(model_class, config, tasks, tensors, name, ("head.", "seq_scale", "seq_shift"), notes)


def from_dict(config_class, values, name):
    """A config from the dict that asdict() made of it, perhaps by way of JSON; ValueError names the file."""
    with in_one_line(f"{name}: config.json does not fit {config_class.__name__}"):   # a field too many, or
        return build_config(config_class, values)                                    # a value that cannot be


def build_config(config_class, values):
    """The same, with configs inside it built from their dicts, and tuples from JSON's lists."""
    types = get_type_hints(config_class)
    built = {}
    for name, value in dict(**values).items():
        kind = get_origin(types.get(name)) or types.get(name)      # tuple of tuple[int, int]
        if kind is tuple:
            value = tuple(value)
        elif is_dataclass(kind) and isinstance(value, dict):
            value = build_config(kind, value)
        elif kind in (int, float) and type(value) not in (int, kind):
            raise ValueError(f"{name} {value!r}: need a number ({kind.__name__})")
        built[name] = value
    return config_class(**built)


# -----------------------------------------------------------------------------
# load


def load_model(model_class, config, tasks, tensors, name, new=(), notes=()):
    """-> the model of a config, with the tensors and a report, as load_weights. It is made without numbers
    first: for a config that asks for what the file does not hold no memory is taken."""
    with in_one_line(f"{name}: config.json and flags describe no model"), torch.device("meta"):
        outline = model_class(config, tasks)
    compare(outline.state_dict(), tensors, name, new)
    model = model_class(config, tasks)
    model.report = load_weights(model, tensors, name, new, notes)
    return model


def load_weights(model, tensors, name, new=(), notes=()):
    """Copy tensors into the model; -> one line: how many were loaded, the notes, and what was kept of heads,
    is new, and was ignored. ValueError as in compare, and for values that cannot be weights."""
    target = model.state_dict()
    fits, absent, ignored = compare(target, tensors, name, new)
    for key, tensor in fits.items():
        is_other = tensor.is_floating_point() != target[key].is_floating_point()
        is_coarse = tensor.element_size() == 1 < target[key].element_size()
        if is_other or is_coarse or not tensor.float().isfinite().all():
            raise ValueError(f"{name}: {key} ({tensor.dtype}) holds integers, numbers of 8 bits, "
                             "or values that are not finite")
    model.load_state_dict(target | fits)
    report = [f"loaded {len(fits)}/{len(target)} tensors from {name}", *notes]
    modules = [key.rsplit(".", 1)[0] for key in absent]            # not their weights and biases
    heads = [key.rsplit(".", 1)[0] for key in fits if key.startswith("head.")]
    parts = [key.removeprefix(BESIDE).split(".")[0] for key in ignored]
    for word, names in (("kept", heads), ("new", modules), ("ignored", parts)):
        if names:
            report.append(f"{word} {' '.join(dict.fromkeys(names))}")                # each once
    return ", ".join(report)


def compare(target, tensors, name, new):
    """-> the tensors that fit a model's state_dict, the keys that have none, and the keys that are ignored.

    new: parts of the names of those parameters that may be absent from the file, or have another shape in
    it. ValueError lists the other parameters that are missing or misshapen, and tensors of the file that
    have no place."""
    fits = {key: tensor for key, tensor in tensors.items()
            if key in target and tensor.shape == target[key].shape}
    absent = [key for key in target if key not in fits]
    ignored = [key for key in tensors if key not in target]
    misfits = [key for key in absent if not any(part in key for part in new)]
    misfits += [key for key in ignored if not IGNORED.match(key)]
    if misfits:
        shapes = [f"{key}: model {shape_text(target, key)}, file {shape_text(tensors, key)}"
                  for key in misfits]
        raise ValueError(f"{name}: does not fit the model: {shortlist(shapes, most=8)}")
    return fits, absent, ignored


def shape_text(tensors, key):
    if key not in tensors:
        return "has none"
    return str(tuple(tensors[key].shape))


def main(argv=None):
    parser = Parser("List what a checkpoint holds, under the names used here.")
    parser.add_argument("name", help="as --pretrained takes it")
    name = parser.parse_args(argv).name
    tensors, config, _, notes = read_checkpoint(name)
    layout = config.get("model")                                   # of a run, whose names are ours
    if not layout:
        with belonging_together(name):
            tensors, layout = timm_names(tensors)
    for key, tensor in tensors.items():
        print(f"{key:40} {shape_text(tensors, key):20} {tensor.dtype}")
    numbers = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    print(f"{len(tensors)} tensors, {numbers:.2f} M numbers, {layout or 'timm'} layout", *notes, sep=", ")


if __name__ == "__main__":
    run_main(main)
