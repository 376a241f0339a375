"""Find a checkpoint: a Hub id, a folder, a run or one file -> its tensors and the JSON files beside them.

Where a folder or repository holds several weight files, FOLDER:FILE or ORG/NAME[@revision]:FILE chooses one.
What looks like a place on this machine is never asked of the Hub. Tensors are read by weight_files.py.
"""
import json
import os
import posixpath
import re
from os.path import basename, dirname, isabs, isdir, isfile, join, split

from plumbing.hub import HUB_ID, Repository
from plumbing.weight_files import first_line, read_tensors


FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
         "pytorch_model.bin.index.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
INDEX = ".index.json"
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")
# end like weights, but hold the state of a training or belong to other programs
OTHERS = re.compile(r"optimizer|optim_states|scheduler|scaler|training_args|onnx|openvino|"
                    r"(^|/|rng_|random_|training_)state\.")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


def read_checkpoint(name):
    """Hub id, folder (also a run folder: its best/), either with :FILE, or a file -> tensors {key: tensor},
    config.json and preprocessor_config.json as dicts, {} where there is none, and notes for the report.

    ValueError, one line, for everything that can go wrong."""
    place, file = find_file(name)
    path = fetch(place, file)
    paths = [path]
    if path.endswith(INDEX):
        paths = read_shards(path, place, file)
    else:
        refuse_shard(path)
    tensors = {}
    notes = []
    for path in paths:
        part, note = read_tensors(path)
        tensors.update(part)
        if note and note not in notes:
            notes.append(note)
    tensors = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
    if not tensors:
        raise ValueError(f"{paths[0]}: its tensors are empty, as where a model was trained in parts (ZeRO-3, "
                         "FSDP) that are to be gathered first")
    config = read_beside(place, file, "config.json")
    if "open_clip" in file:
        config = read_beside(place, file, "open_clip_config.json") or config
    preprocessor = read_beside(place, file, "preprocessor_config.json")
    if not preprocessor:                                           # transformers 5 nests it
        preprocessor = read_beside(place, file, "processor_config.json").get("image_processor", {})
    return tensors, config, preprocessor, notes


def read_config(name):
    """The config.json that read_checkpoint gives, without reading the weights."""
    return read_beside(*find_file(name), "config.json")


# -----------------------------------------------------------------------------
# the place


class Folder:
    """A folder on this machine, as Repository is one on the Hub. alone: one file of a name of its own; what
    lies beside that need not belong to it."""

    def __init__(self, name, alone=None):
        self.name = name
        self.alone = alone

    def fetch(self, file):
        """-> path of a file, None where there is no such file."""
        path = join(self.name, file)
        if isfile(path) and self.alone in (None, file):
            return path
        return None

    def files(self):
        """-> names of the files in it, and of what else is there, marked."""
        names = []
        for entry in os.scandir(self.name):
            kind = "/" if entry.is_dir() else " (a link to nothing)"
            names.append(entry.name if entry.is_file() else entry.name + kind)
        return sorted(names)


def find_file(name):
    """A name -> Folder or Repository, and its weight file."""
    place, file = find_place(name)
    return place, file or find_weights(place)


def find_place(name):
    """A name -> Folder or Repository, and the file that was chosen with a colon, or None."""
    if isfile(name):
        folder, file = split(name)
        if file in FILES:
            return Folder(folder or "."), file
        return Folder(folder, alone=file), file
    if isdir(name):
        return folder_of(name), None
    start, _, file = name.rpartition(":")
    if not start:
        start = name
        file = None
    elif ".." in re.split(r"[/\\]", file) or isabs(file) or not file:
        raise ValueError(f"{name}: after the colon stands a file in the folder or repository, "
                         "without .. in its path")
    if isdir(start):
        return folder_of(start), file
    if not HUB_ID.fullmatch(start) or ".." in start.partition("@")[2]:
        raise ValueError(f"{name}: no such file or folder, and not a Hub id "
                         f"(ORG/NAME, ORG/NAME@revision, or either with :FILE){neighbors(start)}")
    if looks_local(start):
        raise ValueError(f"{name}: no such file or folder{neighbors(start)}; "
                         "the Hub is not asked for it (ORG/NAME@main would)")
    return Repository(start), file


def folder_of(name):
    best = join(name, "best")                              # of a run
    return Folder(best if isdir(best) else name)


def looks_local(name):
    """Is ORG/NAME rather a place on this machine that was mistyped?"""
    first = name.split("/")[0]
    if name.endswith(ENDINGS) or first == "runs":
        return True
    return "@" not in name and isdir(first)


def neighbors(name):
    """What the folder that would hold `name` holds, for a message; "" where there is none."""
    parent = dirname(name)
    if not parent or not isdir(parent):
        return ""
    return f"; {parent} holds {listed(sorted(os.listdir(parent)))}"


def listed(names):
    """The first names, for a message."""
    text = ", ".join(ascii(name)[1:-1] for name in names[:8]) or "nothing"
    return f"{text} and {len(names) - 8} more" if len(names) > 8 else text


# -----------------------------------------------------------------------------
# the file


def find_weights(place):
    """-> name of the weight file: one of FILES, or the only one of another name."""
    for file in FILES:
        if place.fetch(file):
            return file
    files = place.files()
    weights = [file for file in files if file.endswith(ENDINGS) and not OTHERS.search(file)]
    if len(weights) == 1:
        return weights[0]
    if weights and all(SHARD.search(file) for file in weights):
        raise ValueError(f"{place.name}: holds shards of a model without their index, {FILES[1]}, "
                         f"but {listed(files)}")
    if weights:
        raise ValueError(f"{place.name}: holds several weight files; choose one as "
                         f"{place.name}:FILE, there are {listed(weights)}")
    raise ValueError(f"{place.name}: holds no weight file ({', '.join(ENDINGS)}), but {listed(files)}")


def fetch(place, file):
    """-> path of a file that must be there."""
    path = place.fetch(file)
    if path is None:
        raise ValueError(f"{place.name}: holds no {file}, but {listed(place.files())}")
    return path


def read_shards(path, place, index):
    """model.safetensors.index.json -> paths of its shards, which lie beside it."""
    weight_map = read_json(path).get("weight_map")                 # {tensor: file}
    shards = []
    if isinstance(weight_map, dict):
        shards = sorted({str(file) for file in weight_map.values()})
    paths = [place.fetch(beside(index, shard)) for shard in shards if basename(shard) == shard]
    if not paths or len(paths) < len(shards) or None in paths:
        raise ValueError(f"{path}: names {len(shards)} shards ({listed(shards)}), "
                         "not all of them are beside it")
    return paths


def refuse_shard(file):
    """ValueError for one of several shards; the only one is the whole model."""
    shard = SHARD.search(file)
    if shard and int(shard[2]) > 1:
        raise ValueError(f"{file}: part {int(shard[1])} of the {int(shard[2])} of a model; "
                         f"give the folder with all parts and their index, {FILES[1]}")


def beside(file, other):
    """ "sub/model.safetensors", "config.json" -> "sub/config.json"."""
    return posixpath.join(posixpath.dirname(file), other)


def read_beside(place, file, other):
    """-> the object in a JSON file beside the weights, {} where there is none."""
    path = place.fetch(beside(file, other))
    return read_json(path) if path else {}


def read_json(path):
    """-> the object in a JSON file."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        json.dumps(content, ensure_ascii=False).encode()  # no half characters, which cannot be printed
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path}: not a JSON file ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, needs a JSON object")
    return content
