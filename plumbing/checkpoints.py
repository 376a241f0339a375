"""Find a checkpoint (Hub id, folder, file) and read its tensors safely.
"""
import argparse
import json
import os
import pickle
import re

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub import constants, errors


FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
WRAPPERS = ("model", "state_dict", "state_dict_ema", "teacher", "student")       # where DeiT, DINO and others nest the tensors


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
