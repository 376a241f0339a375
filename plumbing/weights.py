"""Weights other people trained: find the files, read them safely, give the tensors one set of names, load and report.

A checkpoint is named by a Hub id (ORG/NAME or ORG/NAME@revision), a folder, or one file. Hub files come through
huggingface_hub, so its cache, HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they always mean.
Our parameter names are timm's, so timm, DeiT, DINO, MAE and DINOv2 files need no renaming; the layouts of transformers
4 and 5 go through RENAME. Nothing in a file is executed: safetensors, or pickles read with weights_only=True.
Loading is all or nothing: a tensor that is missing or misshapen stops with its name and both shapes, unless the caller
said that it is new; what was loaded, new and ignored comes back as one line.
Run: python weights.py ORG/NAME        lists what a checkpoint holds, under the names used here
"""
import re
import sys

import torch
import torch.nn.functional as F

from plumbing.checkpoints import read_checkpoint


PREFIX = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.|encoder\.(?!layer\.)|vit\.|deit\.|dinov2\.)+")
RENAME = [(re.compile(pattern), name) for pattern, name in (                     # transformers -> timm, in this order
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(embeddings\.)?register_tokens$", "reg_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers?)\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),                                         # attention.output.dense is gone by now
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.gamma_([12])$", r".ls\1.gamma"),                                        # DeiT III
    (r"^(?:layernorm|fc_norm)\.", "norm."),
    (r"^classifier\.", "head."),
)]
IGNORE = ("head.", "head_dist.", "pooler.", "pre_logits.", "mask_token", "decoder", "fc.", "label_")   # of other tasks than ours


def timm_names(tensors):
    """{key: tensor} in any accepted layout -> the same under timm's names, and the layout, "hf" or "timm"."""
    plain = {PREFIX.sub("", key): tensor for key, tensor in tensors.items()}
    layout = "hf" if any(key.startswith("embeddings.") for key in plain) else "timm"
    renamed = {}
    for key, tensor in plain.items():
        for pattern, name in RENAME:
            key = pattern.sub(name, key)
        renamed[key] = tensor
    for key in [key for key in renamed if ".attn.q." in key]:      # three matrices -> one, rows q, k, v
        parts = [renamed.get(key.replace(".q.", f".{x}.")) for x in "qkv"]
        if all(part is not None for part in parts):
            renamed[key.replace(".q.", ".qkv.")] = torch.cat(parts)
            for x in "qkv":
                del renamed[key.replace(".q.", f".{x}.")]
    return renamed, layout


def load_weights(model, tensors, name, new=("head.",), notes=()):
    """Copy tensors into the model; -> one line: how many were loaded, the notes, what is new and what was ignored.

    new: parts of the names of those parameters that may be absent from the file, or have another shape in it.
    ValueError lists the other parameters that are missing or misshapen, and tensors of the file that have no place."""
    target = model.state_dict()
    fits = {key: tensor for key, tensor in tensors.items() if key in target and tensor.shape == target[key].shape}
    absent = [key for key in target if key not in fits]
    ignored = [key for key in tensors if key not in target]
    bad = [f"{key}: model {tuple(target[key].shape)}, file {tuple(tensors[key].shape) if key in tensors else 'has none'}"
           for key in absent if not any(part in key for part in new)]
    bad += [f"{key}: model has none, file {tuple(tensors[key].shape)}" for key in ignored if not key.startswith(IGNORE)]
    if bad:
        raise ValueError(f"{name} does not fit the model: {'; '.join(bad[:8])}" + f"; and {len(bad) - 8} more" * (len(bad) > 8))
    broken = next((key for key, tensor in fits.items() if tensor.is_floating_point() != target[key].is_floating_point()
                   or not tensor.float().isfinite().all()), None)
    if broken:
        raise ValueError(f"{name}: {broken} ({fits[broken].dtype}) holds integers, or values that are not finite")
    model.load_state_dict({**target, **fits})
    parts = [f"loaded {len(fits)}/{len(target)} tensors from {name}", *notes]
    for word, names in (("new", [key.rsplit(".", 1)[0] for key in absent]), ("ignored", [key.split(".")[0] for key in ignored])):
        if names:                                                  # modules rather than weights and biases, each once
            parts.append(f"{word} {' '.join(dict.fromkeys(names))}")
    return ", ".join(parts)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        tensors, _, _ = read_checkpoint(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    tensors, layout = timm_names(tensors)
    for key, tensor in tensors.items():
        print(f"{key:40} {str(tuple(tensor.shape)):20} {str(tensor.dtype).removeprefix('torch.')}")
    print(f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M numbers, {layout} layout")


def resize_pos_embed(pos, old, new):
    """(1, 1 + T, D) for the grid `old` -> for the grid `new`; the class token's row is kept.

    As timm: bicubic, antialiased, in float32, once at load. (transformers does it in forward, without antialias.)
    On three axes trilinear, the only one that PyTorch has there."""
    grid = pos[:, 1:].float().unflatten(1, old).movedim(-1, 1)     # (1, D, rows, columns)
    how = dict(mode="bicubic", antialias=True) if len(new) == 2 else dict(mode="trilinear")
    return torch.cat([pos[:, :1].float(), F.interpolate(grid, size=new, **how).movedim(1, -1).flatten(1, -2)], 1)


def spread_channels(weight, channels):
    """(D, C, P, P) kernel -> (D, channels, P, P), the sum over C in equal parts: a grey image answers as its grey copy in RGB.
    Also (D, C, P, P, P)."""
    return (weight.float().sum(1, keepdim=True) / channels).repeat_interleave(channels, 1)


def check_size(make, tensors, name):
    """Refuse a config.json that asks for far more than the file holds, before any memory is taken: make() is tried without numbers.

    What is a little more (2^25 numbers, 134 MB) is left to load_weights, which names every tensor."""
    try:
        with torch.device("meta"):
            asked = sum(parameter.numel() for parameter in make().parameters())
    except ValueError:
        raise
    except Exception as error:                                     # sizes that cannot be, and what is no number
        raise ValueError(f"{name}: config.json describes no model ({str(error).splitlines()[0]})") from error
    if asked > (held := sum(tensor.numel() for tensor in tensors.values())) + 2 ** 25:
        raise ValueError(f"{name}: config.json asks for {asked / 1e6:.0f} M parameters, the file holds {held / 1e6:.0f} M numbers")


def from_dict(config_class, values, name):
    """A config dataclass from the dict that asdict() made of it."""
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:                       # a field too many, or a value that cannot be
        raise ValueError(f"{name}: config.json does not fit {config_class.__name__}: {error}") from error
