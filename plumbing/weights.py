"""Weights that other people trained: read, rename, fit to another size, load, and say in one line what was
done.

Loading is all or nothing: a tensor that is missing or misshapen stops with its name and both shapes, unless
the caller said that it is new. What was loaded, resized, new and ignored comes back as one line, the
report. Finding and reading the files: checkpoints.py; names: names.py; which architecture: architecture.py.
Run: python -m plumbing.weights ORG/NAME        lists what a checkpoint holds, under the names used here
"""
import math
import re
import sys
from dataclasses import fields, is_dataclass, replace

import torch
import torch.nn.functional as F

from plumbing.architecture import crossvit_fields, vit_fields, vit_inside
from plumbing.checkpoints import read_checkpoint
from plumbing.names import crossvit_names, timm_names
from plumbing.preprocessing import statistics

# of other tasks
IGNORE = ("head.", "head_dist.", "head_recons.", "pooler.", "pre_logits.", "mask_token", "decoder", "fc.",
          "label_")

# -----------------------------------------------------------------------------
# a checkpoint -> tensors and config, at the size that is asked for


def read_vit(name, model_class, image=None, channels=None, changes=()):
    """-> tensors, ViTConfig, notes for the report; image (px per axis), channels and changes, other fields of
    the config, as the caller wants them. mean and std among them are those of the file's own channels, and
    None leaves them to the file."""
    changes = dict(changes)
    mean, std = changes.pop("mean", None), changes.pop("std", None)
    tensors, config, preprocessor, notes = read_checkpoint(name)
    tensors, config, inside = vit_inside(tensors, config)
    notes += inside
    keys = list(tensors)
    tensors, layout = timm_names(tensors)
    if "vit" in config:                                            # written by train.py
        config, assumed = own_config(model_class.Config, config["vit"], name, mean, std), False
    else:
        fields = vit_fields(name, tensors, layout, config)
        found, assumed = statistics(name, keys, config, preprocessor, fields["channels"], mean, std)
        config = from_dict(model_class.Config, {**fields, **found}, name)
    if image and len(image) != len(config.image):
        raise ValueError(f"{name} is for images of {len(config.image)} axes, {config.image} px, "
                         f"not for {tuple(image)}")
    if image and tuple(image) != config.image:
        resized = replace(config, image=tuple(image))
        resize_positions(tensors, "pos_embed", config.grid, resized.grid, notes)
        config = resized
    if channels and channels != config.channels:
        if not config.image:
            raise ValueError(f"{name} is for bags of vectors {config.channels} wide, not {channels}")
        config = change_channels(tensors, ["patch_embed.proj.weight"], config, channels, notes)
    if config.mean:                                                # bags have none
        notes.append(statistics_text(config, assumed))
    config = replace(config, **changes)
    check_size(model_class, config, tensors, name)
    return tensors, config, notes


def read_crossvit(name, model_class, heads_of, at_size, tasks=None, image=None, channels=None, changes=()):
    """-> tensors, CrossViTConfig, notes. heads_of: {widths: heads}; at_size(config, image): the config at
    another size; tasks: where there is one, it gets the one head of a released file; the others as in
    read_vit."""
    changes = dict(changes)
    mean, std = changes.pop("mean", None), changes.pop("std", None)
    tensors, config, preprocessor, notes = read_checkpoint(name)
    keys = list(tensors)
    task = None
    if tasks and len(tasks) == 1:
        [task] = tasks
    tensors = crossvit_names(tensors, task)
    if "crossvit" in config:                                       # written by train.py
        config, assumed = own_config(model_class.Config, config["crossvit"], name, mean, std), False
    else:
        fields = crossvit_fields(name, tensors, heads_of)
        found, assumed = statistics(name, keys, config, preprocessor, fields["channels"], mean, std)
        config = from_dict(model_class.Config, {**fields, **found}, name)
    if image:
        resized = at_size(config, image)
        for b, (old, new) in enumerate(zip(config.grids, resized.grids)):
            if old != new:
                resize_positions(tensors, f"pos_embed.{b}", old, new, notes)
        config = resized
    if channels and channels != config.channels:
        kernels = [key for key in tensors if re.fullmatch(r"patch_embed\.[01]\.proj(\.0)?\.weight", key)]
        config = change_channels(tensors, kernels, config, channels, notes)
    notes.append(statistics_text(config, assumed))
    config = replace(config, **changes)
    check_size(model_class, config, tensors, name)
    return tensors, config, notes


def own_config(config_class, fields, name, mean, std):
    """The config of a run as it stands in its config.json, but for what the caller wants otherwise."""
    config = from_dict(config_class, fields, name)
    if mean is None and std is None:
        return config
    if not config.mean:
        raise ValueError(f"--mean, --std: {name} is for bags of vectors, which are taken as they come")
    found, _ = statistics(name, (), vars(config), {}, config.channels, mean, std)
    return replace(config, **found)


def statistics_text(config, assumed):
    text = f"mean {spaced(config.mean)} std {spaced(config.std)}"
    return f"{text} (assumed)" if assumed else text


def resize_positions(tensors, key, old, new, notes):
    """Resize one table of position embeddings in place; one that does not fit the old grid is left for
    load_weights."""
    positions = 1 + math.prod(old)
    if key in tensors and tensors[key].shape[1:2] == (positions,):
        tensors[key] = resize_pos_embed(tensors[key], old, new)
    notes.append(f"resized {key} {spaced(old, 'x')} -> {spaced(new, 'x')}")


def spaced(numbers, between=" "):
    """(0.5, 0.5) -> "0.5 0.5"."""
    return between.join(f"{number:g}" for number in numbers)


def resize_pos_embed(pos, old, new):
    """(1, 1 + T, D) for the grid `old` -> for the grid `new`; the class token's row is kept.

    As timm: bicubic, antialiased, in float32, once at load. (transformers does it in forward, without
    antialias.) On three axes trilinear, the only one that PyTorch has there."""
    pos = pos.float()
    cls = pos[:, :1]
    patches = pos[:, 1:].unflatten(1, old).movedim(-1, 1)          # (1, D, rows, columns)
    if len(new) == 2:
        patches = F.interpolate(patches, size=new, mode="bicubic", antialias=True)
    else:
        patches = F.interpolate(patches, size=new, mode="trilinear")
    return torch.cat([cls, patches.movedim(1, -1).flatten(1, -2)], 1)


def change_channels(tensors, kernels, config, channels, notes):
    """Spread the patch kernels over another number of channels, in place; -> config, with the mean of mean
    and std."""
    for key in kernels:
        if key in tensors:
            tensors[key] = spread_channels(tensors[key], channels)
    notes.append(f"patch_embed from {config.channels} to {channels} channels")
    mean = sum(config.mean) / len(config.mean)
    std = sum(config.std) / len(config.std)
    return replace(config, channels=channels, mean=(mean,) * channels, std=(std,) * channels)


def spread_channels(weight, channels):
    """(D, C, P, P) kernel -> (D, channels, P, P), the sum over C in equal parts: a grey image answers as
    its grey copy in RGB. Also (D, C, P, P, P)."""
    return (weight.float().sum(1, keepdim=True) / channels).repeat_interleave(channels, 1)


def from_dict(config_class, values, name):
    """A config from the dict that asdict() made of it, perhaps by way of JSON; ValueError names the file."""
    try:
        return build_config(config_class, values)
    except (TypeError, ValueError, ArithmeticError) as error:  # a field too many, or a value that cannot be
        raise ValueError(f"{name}: config.json does not fit {config_class.__name__}: {error}") from error


def build_config(config_class, values):
    """The same, with configs inside it built from their dicts, and tuples from JSON's lists."""
    values = dict(**values)
    for field in fields(config_class):
        if field.name not in values:
            continue
        value = values[field.name]
        if is_dataclass(field.type) and isinstance(value, dict):
            values[field.name] = build_config(field.type, value)
        elif field.type is tuple:
            values[field.name] = tuple(value)
        elif field.type is int and not isinstance(value, int):
            raise ValueError(f"{field.name} {value!r}: need a whole number")
        elif field.type is float and not isinstance(value, (int, float)):
            raise ValueError(f"{field.name} {value!r}: need a number")
    return config_class(**values)


def check_size(model_class, config, tensors, name, *more):
    """Refuse a config that asks for far more than the file holds, before any memory is taken: the model is
    made without numbers first. What is a little more (2^25 numbers, 134 MB) is left to load_weights, which
    names every tensor."""
    try:
        with torch.device("meta"):
            asked = sum(parameter.numel() for parameter in model_class(config, *more).parameters())
    except ValueError:
        raise
    except Exception as error:  # sizes that cannot be, and what is no number
        raise ValueError(f"{name}: config.json describes no model ({str(error).splitlines()[0]})") from error
    in_file = sum(tensor.numel() for tensor in tensors.values())
    if asked > in_file + 2 ** 25:
        raise ValueError(f"{name}: config.json asks for {asked / 1e6:.0f} M parameters, "
                         f"the file holds {in_file / 1e6:.0f} M numbers")


# -----------------------------------------------------------------------------
# load


def load_weights(model, tensors, name, new=("head.",), notes=()):
    """Copy tensors into the model; -> one line: how many were loaded, the notes, what is new and what was
    ignored.

    new: parts of the names of those parameters that may be absent from the file, or have another shape in
    it. ValueError lists the other parameters that are missing or misshapen, and tensors of the file that
    have no place."""
    target = model.state_dict()
    fits = {}
    for key, tensor in tensors.items():
        if key in target and tensor.shape == target[key].shape:
            fits[key] = tensor
    absent = [key for key in target if key not in fits]
    ignored = [key for key in tensors if key not in target]
    needed = [key for key in absent if not any(part in key for part in new)]
    unknown = [key for key in ignored if not key.startswith(IGNORE)]
    misfits = []
    for key in needed + unknown:
        in_model = shape_text(target, key)
        in_file = shape_text(tensors, key)
        misfits.append(f"{key}: model {in_model}, file {in_file}")
    if misfits:
        listed = "; ".join(misfits[:8])
        if len(misfits) > 8:
            listed += f"; and {len(misfits) - 8} more"
        raise ValueError(f"{name} does not fit the model: {listed}")
    for key, tensor in fits.items():
        is_float = target[key].is_floating_point()
        if tensor.is_floating_point() != is_float or not tensor.float().isfinite().all():
            raise ValueError(f"{name}: {key} ({tensor.dtype}) holds integers, or values that are not finite")
    model.load_state_dict({**target, **fits})
    report = [f"loaded {len(fits)}/{len(target)} tensors from {name}"]
    report += notes
    if absent:                                                     # modules, not their weights and biases
        modules = [key.rsplit(".", 1)[0] for key in absent]
        report.append("new " + " ".join(dict.fromkeys(modules)))   # each once
    if ignored:
        parts = [key.split(".")[0] for key in ignored]
        report.append("ignored " + " ".join(dict.fromkeys(parts)))
    return ", ".join(report)


def shape_text(tensors, key):
    return str(tuple(tensors[key].shape)) if key in tensors else "has none"


def main(argv):
    if len(argv) != 1 or argv[0].startswith("-"):
        print(__doc__)
        return
    try:
        tensors, _, _, notes = read_checkpoint(argv[0])
    except ValueError as error:
        sys.exit(str(error))
    tensors, layout = timm_names(tensors)
    for key, tensor in tensors.items():
        shape = str(tuple(tensor.shape))
        print(f"{key:40} {shape:20} {str(tensor.dtype).removeprefix('torch.')}")
    numbers = sum(tensor.numel() for tensor in tensors.values())
    print(f"{len(tensors)} tensors, {numbers / 1e6:.2f} M numbers, {layout} layout", *notes, sep=", ")


if __name__ == "__main__":
    main(sys.argv[1:])
