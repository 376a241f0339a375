"""Find a checkpoint: a Hub id, a folder, a run or one file -> its tensors and the JSON files beside them.

Where a folder or repository holds several weight files, FOLDER:FILE or ORG/NAME[@revision]:FILE chooses one.
What looks like a place on this machine is never asked of the Hub. All of the Hub goes through
huggingface_hub, so that its cache, HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they always
mean. Tensors are read by weight_files.py.
"""
import json
import os
import posixpath
import re
from os.path import basename, dirname, isabs, isdir, isfile, join, split, splitdrive
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from plumbing.command import first_line, in_one_line
from plumbing.tables import shortlist
from plumbing.weight_files import read_tensors


FILES = """model.safetensors model.safetensors.index.json pytorch_model.bin pytorch_model.bin.index.json
    open_clip_model.safetensors open_clip_pytorch_model.bin""".split()
INDEX = ".index.json"
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")
# end like weights, but hold the state of a training or belong to other programs
OTHERS = re.compile(r"optimizer|optim_states|scheduler|scaler|training_args|onnx|openvino|"
                    r"(^|/|rng_|random_|training_)state\.")
SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.")                 # the only one is the whole model
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@\w(\.?[\w/-])*)?", re.ASCII)
REASONS = (  # errors of the Hub; the last that fits counts, as the second is one of the first kind too
    (errors.RepositoryNotFoundError, "no such folder, and no such repository on the Hub (or a private one: "
     "set HF_TOKEN)"),
    (errors.GatedRepoError, "is gated; accept its terms on its page, then `hf auth login` or set HF_TOKEN"),
    (errors.RevisionNotFoundError, "has no such revision"),
)


def read_checkpoint(name):
    """Hub id, folder (also a run folder: its best/), either with :FILE, or a file -> tensors {key: tensor},
    config.json and preprocessor_config.json as dicts, {} where there is none, and notes for the report.

    ValueError, one line, for everything that can go wrong."""
    place, file = find_file(name)
    tensors = {}
    notes = []
    paths, promised = weight_paths(place, file)
    for path in paths:
        part, note = read_tensors(path)
        tensors.update(part)
        if note:
            notes.append(note)
    lost = [key for key in promised if key not in tensors]
    if lost:
        raise ValueError(f"{path}: the index of its shards promises {shortlist(lost)}, which is in "
                         "none of them")
    tensors = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
    if not tensors:
        raise ValueError(f"{path}: its tensors are empty, as where a model was trained in parts (ZeRO-3, "
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
    """A folder on this machine. alone: the only file in it that counts, where a file of a name of its own was
    asked for: what lies beside it need not belong to it."""

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
        for name in sorted(os.listdir(self.name)):
            if not isfile(join(self.name, name)):
                name += " (no file)"
            names.append(name)
        return names


class Repository:
    """ORG/NAME or ORG/NAME@revision on the Hugging Face Hub, as Folder is one here."""

    def __init__(self, name):
        self.name = name
        self.repo, _, revision = name.partition("@")
        self.revision = revision or None

    def fetch(self, file):
        """-> path of a file in the Hub's cache, downloaded when new; None when the repository has no such
        file. ValueError, one line, where that cannot be known."""
        try:
            return huggingface_hub.hf_hub_download(self.repo, file, revision=self.revision)
        except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError too, so it goes first
            known = huggingface_hub.try_to_load_from_cache(self.repo, file, revision=self.revision)
            if known is not None or constants.HF_HUB_OFFLINE and self.cached_files():
                return None                                        # it is known to be absent
            raise ValueError(f"{self.name}: {file} is not in the cache, and the Hub at {constants.ENDPOINT} "
                             "cannot be reached or is switched off (HF_HUB_OFFLINE); download once with a "
                             "network, or give a local folder") from error
        except errors.EntryNotFoundError:
            return None
        except Exception as error:  # the Hub's, the network library's, the disk's
            reason = f"{file} could not be downloaded: {first_line(error)}"
            for kind, text in REASONS:
                if isinstance(error, kind):
                    reason = text
            raise ValueError(f"{self.name}: {reason}") from error

    def files(self):
        """-> names of all its files; without a network, of those in the cache."""
        try:
            return huggingface_hub.list_repo_files(self.repo, revision=self.revision)
        except Exception:                                          # whatever it is, the cache has to do
            return self.cached_files()

    def cached_files(self):
        """-> names of the files in the cache, [] where there are none."""
        try:
            folder = Path(huggingface_hub.snapshot_download(self.repo, revision=self.revision,
                                                            local_files_only=True))
        except errors.LocalEntryNotFoundError:
            return []
        return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def find_file(name):
    """A name -> Folder or Repository, and its weight file."""
    name = os.fspath(name)
    if isfile(name):
        folder, file = split(name)
        return Folder(folder, None if file in FILES else file), file
    start = name
    file = None
    if re.search(".:(?!//)", splitdrive(name)[1]) and not isdir(name):       # no address of the web
        start, _, file = name.rpartition(":")
        if ".." in re.split(r"[/\\]", file) or isabs(file) or not file:
            raise ValueError(f"{name}: after the colon stands a file in the folder or repository, "
                             "without .. in its path")
    if isdir(start):
        best = join(start, "best")                                 # of a run
        place = Folder(best if isdir(best) else start)
    elif not on_hub(start):
        raise ValueError(f"{name}: no such file or folder, and not taken for a Hub id "
                         f"(ORG/NAME, ORG/NAME@revision, or either with :FILE){neighbors(start)}")
    else:
        place = Repository(start)
    return place, file or find_weights(place)


def on_hub(name):
    """Does a name mean ORG/NAME or ORG/NAME@revision, not a file or a run that is missing, or something in a
    folder that is here?"""
    first = name.partition("/")[0]
    is_local = name.endswith(ENDINGS) or first == "runs" or "@" not in name and isdir(first)
    return HUB_ID.fullmatch(name) and not is_local


def neighbors(name):
    """What the folder that would hold `name` holds, for a message; "" where there is none."""
    parent = dirname(name)
    if not isdir(parent):
        return ""
    return f"; in {parent}: {shortlist(map(repr, sorted(os.listdir(parent))))}"


# -----------------------------------------------------------------------------
# the files


def find_weights(place):
    """-> name of the weight file: one of FILES, or the only one of another name."""
    for file in FILES:
        if place.fetch(file):
            return file
    files = place.files()
    weights = [file for file in files if file.endswith(ENDINGS) and not OTHERS.search(file)]
    if not weights:
        raise ValueError(f"{place.name}: holds no weight file ({', '.join(ENDINGS)}); files there: "
                         f"{shortlist(map(repr, files))}")
    if len(weights) > 1 and not all(SHARD.search(file) for file in weights):
        raise ValueError(f"{place.name}: holds several weight files; choose one as {place.name}:FILE, "
                         f"there are {shortlist(weights)}")
    return weights[0]


def weight_paths(place, file):
    """-> paths of the weight file, or of the shards that its index names, which lie beside it, and the
    tensors that the index names."""
    path = place.fetch(file)
    if path is None:
        raise ValueError(f"{place.name}: holds no {file}; files there: {shortlist(map(repr, place.files()))}")
    if SHARD.search(path):
        raise ValueError(f"{path}: one part of a model in several; give the folder with all of them and "
                         f"their index, {FILES[1]}")
    if not path.endswith(INDEX):
        return [path], ()
    with in_one_line(f"{path}: not an index of shards that lie beside it"):
        weight_map = read_json(path)["weight_map"]                 # {tensor: file}
        shards = sorted({basename(shard) for shard in weight_map.values()})
        paths = [place.fetch(beside(file, shard)) for shard in shards]
        missing = [shard for shard, path in zip(shards, paths) if not path]
        if missing or not shards:
            raise ValueError(f"it names {len(shards)} shards; missing: {shortlist(missing)}")
    return paths, weight_map


def beside(file, other):
    """ "sub/model.safetensors", "config.json" -> "sub/config.json"."""
    return posixpath.join(posixpath.dirname(file), other)


def read_beside(place, file, other):
    """-> the object in a JSON file beside the weights, {} where there is none."""
    path = place.fetch(beside(file, other))
    return read_json(path) if path else {}


def read_json(path):
    """-> the object in a JSON file."""
    with in_one_line(f"{path}: not a JSON file"), open(path, encoding="utf-8") as file:
        content = json.load(file)
        json.dumps(content, ensure_ascii=False).encode()  # no half characters, which cannot be printed
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, needs a JSON object")
    return content
