"""Find a checkpoint and read its tensors safely.

A checkpoint is named by a Hub id (ORG/NAME or ORG/NAME@revision), a folder, or one file. Hub files come
through huggingface_hub, so its cache, HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they
always mean. Nothing in a file is executed: safetensors, or pickles read with weights_only=True.
"""
import argparse
import functools
import json
import os
import pickle
import re

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub import constants, errors


FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
         "pytorch_model.bin.index.json")
# where DeiT, DINO and others nest the tensors
WRAPPERS = ("model", "state_dict", "state_dict_ema", "teacher", "student")


def read_checkpoint(name):
    """Hub id, folder (also a run folder: its best/) or file -> tensors {key: tensor}, config.json and
    preprocessor_config.json as dicts, {} where there is none. ValueError, one line, for everything that can
    go wrong."""
    if os.path.isfile(name):
        return read_tensors(name), {}, {}
    fetch = find_place(name)
    path = None
    for file in FILES:
        path = path or fetch(file)
    if path is None:
        raise ValueError(f"{name}: holds none of {', '.join(FILES)}")
    paths = [path]
    if path.endswith(".index.json"):
        paths = read_shards(path, fetch)
    tensors = {}
    for path in paths:
        tensors.update(read_tensors(path))
    contents = []
    for file in ("config.json", "preprocessor_config.json"):
        path = fetch(file)
        contents.append(read_json(path) if path else {})
    return tensors, *contents


def find_place(name):
    """Folder, run folder or Hub id -> function (file name) that gives the file's path, None where there is
    no such file."""
    if os.path.isdir(name):
        folder = name
        if os.path.isdir(os.path.join(name, "best")):
            folder = os.path.join(name, "best")
        return functools.partial(local_file, folder)
    is_file = name.endswith((".safetensors", ".bin", ".pt", ".pth"))
    if is_file or not re.fullmatch(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?", name):
        raise ValueError(f"{name}: no such file or folder, and not a Hub id (ORG/NAME or ORG/NAME@revision)")
    repo, _, revision = name.partition("@")
    return functools.partial(hub_file, repo, revision or None)


def local_file(folder, file):
    path = os.path.join(folder, file)
    return path if os.path.isfile(path) else None


def read_shards(path, fetch):
    """model.safetensors.index.json -> paths of its shards."""
    weight_map = read_json(path).get("weight_map")                 # {tensor: file}
    shards = []
    if isinstance(weight_map, dict):
        shards = sorted({str(file) for file in weight_map.values()})
    paths = [fetch(shard) for shard in shards if os.path.basename(shard) == shard]
    if not paths or len(paths) < len(shards) or None in paths:
        raise ValueError(f"{path}: names {len(shards)} shards ({', '.join(shards[:3])} ...), "
                         "not all of them are beside it")
    return paths


def hub_file(repo, revision, file):
    """-> path in the Hub cache, downloaded when new; None when the repository has no such file."""
    try:
        return huggingface_hub.hf_hub_download(repo, file, revision=revision)
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError too, so it goes first
        if cached_without(repo, revision, file):
            return None
        reason = f"at {constants.ENDPOINT} cannot be reached; try again, or give a local folder"
        if constants.HF_HUB_OFFLINE:
            reason = "is switched off (HF_HUB_OFFLINE); download once with a network, or give a local folder"
        raise ValueError(f"{repo}: {file} is not in the cache and the Hub {reason}") from error
    except errors.GatedRepoError as error:  # before RepositoryNotFoundError, which it also is
        raise ValueError(f"{repo}: is gated; accept its terms on its page, "
                         "then `hf auth login` or set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{repo}: no such folder, and no such repository on the Hub "
                         "(or a private one: set HF_TOKEN)") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{repo}: has no revision {revision!r}") from error
    except errors.EntryNotFoundError:
        return None
    except Exception as error:  # the Hub's, the network library's, the disk's
        raise ValueError(f"{repo}: {file} could not be downloaded: {first_line(error)}") from error


def cached_without(repo, revision, file):
    """Is the repository in the cache, and this file not a part of it?"""
    if huggingface_hub.try_to_load_from_cache(repo, file, revision=revision) is not None:
        return True                                                # known to be absent
    weights = [huggingface_hub.try_to_load_from_cache(repo, name, revision=revision) for name in FILES]
    return constants.HF_HUB_OFFLINE and any(isinstance(path, str) for path in weights)


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
        with torch.serialization.safe_globals([argparse.Namespace]):  # options in MAE, RETFound
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text advises to switch the protection off
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f", it asks to run {code[1]}" if code else ""
        raise ValueError(f"{path}: not a pickle of plain tensors{asks}") from error
    except Exception as error:                                     # both readers raise many kinds
        raise ValueError(f"{path}: not a readable weight file ({first_line(error)})") from error
    tensors = {}
    content = unwrapped(content)
    if isinstance(content, dict):
        tensors = {str(key): tensor for key, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name, but a {type(content).__name__}")
    return tensors


def unwrapped(content):
    """The innermost dict under the names in WRAPPERS, the first of them first."""
    if isinstance(content, dict):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                return unwrapped(content[wrapper])
    return content


def first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
