"""Weights other people trained: find the files, read them safely, give the tensors one set of names, load and report.

A checkpoint is named by a Hub id (ORG/NAME or ORG/NAME@revision), a folder, or one file. Hub files come through
huggingface_hub, so its cache, HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they always mean.
Our parameter names are timm's, so timm, DeiT, DINO, MAE and DINOv2 files need no renaming; the layouts of transformers
4 and 5 go through RENAME. Nothing in a file is executed: safetensors, or pickles read with weights_only=True.
Loading is all or nothing: a tensor that is missing or misshapen stops with its name and both shapes, unless the caller
said that it is new; what was loaded, new and ignored comes back as one line.
Run: python weights.py ORG/NAME        lists what a checkpoint holds, under the names used here
"""
import argparse
import json
import os
import pickle
import re
import sys

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub import constants, errors

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
WRAPPERS = ("model", "state_dict", "state_dict_ema", "teacher", "student")       # where DeiT, DINO and others nest the tensors
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

# -----------------------------------------------------------------------------
# find and read


def read_checkpoint(name):
    """Hub id, folder (also a run folder: its best/) or file -> tensors {key: tensor}, config.json and
    preprocessor_config.json as dicts, {} where there is none. ValueError, one line, for everything that can go wrong."""
    if os.path.isfile(name):
        return read_tensors(name), {}, {}
    if os.path.isdir(name):
        folder = os.path.join(name, "best") if os.path.isdir(os.path.join(name, "best")) else name
        fetch = lambda file: path if os.path.isfile(path := os.path.join(folder, file)) else None
    elif re.fullmatch(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?", name) and not name.endswith((".safetensors", ".bin", ".pt", ".pth")):
        repo, _, revision = name.partition("@")
        fetch = lambda file: hub_file(repo, revision or None, file)
    else:
        raise ValueError(f"{name}: no such file or folder, and not a Hub id (ORG/NAME or ORG/NAME@revision)")
    path = next(filter(None, map(fetch, FILES)), None)
    if path is None:
        raise ValueError(f"{name}: holds none of {', '.join(FILES)}")
    paths = [path]
    if path.endswith(".index.json"):
        weight_map = read_json(path).get("weight_map")             # {tensor: file}
        shards = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
        paths = [fetch(shard) for shard in shards if os.path.basename(shard) == shard]
        if not paths or len(paths) < len(shards) or None in paths:
            raise ValueError(f"{path}: names {len(shards)} shards ({', '.join(shards[:3])} ...), not all of them are beside it")
    tensors = {key: tensor for path in paths for key, tensor in read_tensors(path).items()}
    config, preprocessor = (read_json(path) if (path := fetch(file)) else {} for file in ("config.json", "preprocessor_config.json"))
    return tensors, config, preprocessor


def hub_file(repo, revision, file):
    """-> path in the Hub cache, downloaded when new; None when the repository has no such file."""
    try:
        return huggingface_hub.hf_hub_download(repo, file, revision=revision)
    except errors.LocalEntryNotFoundError as error:                # an EntryNotFoundError too, so it goes first
        offline = constants.HF_HUB_OFFLINE
        cached, *weights = (huggingface_hub.try_to_load_from_cache(repo, f, revision=revision) for f in (file, *FILES))
        if cached is not None or offline and any(isinstance(path, str) for path in weights):
            return None                                            # the repository is cached, this file is not part of it
        raise ValueError(f"{repo}: {file} is not in the cache and the Hub " + (
            "is switched off (HF_HUB_OFFLINE); download once with a network, or give a local folder" if offline else
            f"at {constants.ENDPOINT} cannot be reached; try again, or give a local folder")) from error
    except errors.GatedRepoError as error:                         # before RepositoryNotFoundError, which it also is
        raise ValueError(f"{repo}: is gated; accept its terms on its page, then `hf auth login` or set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{repo}: no such folder, and no such repository on the Hub (or a private one: set HF_TOKEN)") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{repo}: has no revision {revision!r}") from error
    except errors.EntryNotFoundError:
        return None
    except Exception as error:                                     # the Hub's, the network library's, the disk's
        raise ValueError(f"{repo}: {file} could not be downloaded: {first_line(error)}") from error


def read_json(path):
    """-> the object in a JSON file."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path}: not a JSON file ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, needs a JSON object")
    return content


def read_tensors(path):
    """-> {key: tensor} of a .safetensors file, or of a pickle of tensors."""
    try:
        if path.endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):                # the options in MAE's and RETFound's files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:                        # torch's own text advises to switch the protection off
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(f"{path}: not a pickle of plain tensors" + (f", it asks to run {code[1]}" if code else "")) from error
    except Exception as error:                                     # both readers raise many kinds
        raise ValueError(f"{path}: not a readable weight file ({first_line(error)})") from error
    while isinstance(content, dict) and (inner := next((w for w in WRAPPERS if isinstance(content.get(w), dict)), None)):
        content = content[inner]
    tensors = {str(k): t for k, t in content.items() if isinstance(t, torch.Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name, but a {type(content).__name__}")
    return tensors


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -----------------------------------------------------------------------------
# rename and load


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
