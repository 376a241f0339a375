"""The tensors in one weight file, read safely: safetensors, or a pickle of plain tensors.

Nothing in a file is executed: pickles are read with weights_only=True. What an honest training script
leaves beside its weights (options, paths, numbers of numpy) becomes an empty object; any other class or
function is refused by its name. Sizes are checked before memory is taken.
"""
import pickle
import re
import zipfile
from collections import OrderedDict
from os.path import getsize

import safetensors.torch
import torch

from plumbing.command import first_line, readable

# where training scripts nest the tensors, in order of preference: averaged weights are what authors evaluate
WRAPPERS = """state_dict_ema model_ema ema_state_dict ema shadow averaged_model swa_model swa_state_dict
    best_model best_state_dict teacher target_encoder model state_dict model_state_dict net module backbone
    encoder student""".split()
FOREIGN = r"\.(npz|npy|msgpack|h5|keras|tflite|onnx|gguf|pt2|zip|gz|tgz)$"
STRANGERS = (  # how a file begins, and what it then is
    (rb"version https://git-lfs", "a git-lfs pointer; `git lfs pull` in its folder fetches the weights"),
    (rb"\s*<(!doctype|html|\?xml)", "a web page; download the file itself"),
)
SLACK = 2 ** 26                                                    # bytes; less than this is no attack

# -----------------------------------------------------------------------------
# what a training script may leave beside its weights


class Inert:
    """Stands for an object that is no weight: made of anything, it holds nothing and does nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


class PlainDict(dict):
    """Stands for a dict with habits of its own; holds what it is given, in a dict that has none. (torch fills
    and builds only its own kinds of dict.)"""

    def __new__(cls, *args):
        return OrderedDict()


DICTS = """
    collections.defaultdict
    lightning.fabric.utilities.data.AttributeDict
    lightning_fabric.utilities.data.AttributeDict
    lightning.pytorch.utilities.parsing.AttributeDict
    pytorch_lightning.utilities.parsing.AttributeDict
    yacs.config.CfgNode fvcore.common.config.CfgNode easydict.EasyDict
""".split()
OBJECTS = """
    argparse.Namespace
    builtins.bool builtins.dict builtins.float builtins.int builtins.list builtins.str typing.Any
    numpy.dtype numpy.ndarray
    numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct
    numpy._core.multiarray.scalar numpy._core.multiarray._reconstruct
    pathlib.PosixPath pathlib.PurePosixPath pathlib._local.PosixPath pathlib._local.PurePosixPath
    pathlib.WindowsPath pathlib.PureWindowsPath pathlib._local.WindowsPath pathlib._local.PureWindowsPath
    omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.nodes.AnyNode
    omegaconf.base.ContainerMetadata omegaconf.base.Metadata
    datetime.datetime mmengine.logging.history_buffer.HistoryBuffer
""".split()
STAND_INS = []
for base, names in ((PlainDict, DICTS), (Inert, OBJECTS)):
    for name in names:
        module, _, name = name.rpartition(".")
        STAND_INS.append(type(name, (base,), {"__module__": module}))

# -----------------------------------------------------------------------------
# reading


def read_tensors(path):
    """-> {key: tensor} of a .safetensors file or a pickle, and a note which of several sets of weights they
    are, or ""."""
    refuse_strangers(path)
    if path.endswith(".safetensors"):
        with readable(path, "weight file"):
            content = safetensors.torch.load_file(path)
    else:
        content = read_pickle(path)
    tensors, note = unwrap(content)
    if not tensors:
        keys = ", ".join(map(str, content))[:99] if isinstance(content, dict) else ""
        raise ValueError(f"{path}: holds no tensors by name, but a {type(content).__name__} {keys!a}; "
                         "needed is what a model's state_dict() gives")
    for key, tensor in tensors.items():
        if not key.isprintable():
            raise ValueError(f"{path}: the name of a tensor cannot be printed ({key!a})")
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
            raise ValueError(f"{path}: {key} is sparse, nested or without numbers; needed are plain tensors")
    check_bytes(path, sum(tensor.nbytes for tensor in tensors.values()))  # one number may stand for all
    return tensors, note


def refuse_strangers(path):
    """ValueError for a file that is known not to hold weights."""
    if re.search(FOREIGN, path):
        raise ValueError(f"{path}: an archive, or of another program (JAX, TensorFlow, ONNX ...); needed are "
                         "weights of PyTorch, saved as safetensors or by torch.save")
    with open(path, "rb") as file:
        head = file.read(40)
    for start, kind in STRANGERS:
        if re.match(start, head, re.IGNORECASE):
            raise ValueError(f"{path}: not a weight file but {kind}")


def read_pickle(path, mapped=False):
    """-> what torch.save wrote, read at once or mapped into memory. ValueError, one line, for everything
    else."""
    try:
        refuse_archives(path)
        with torch.serialization.safe_globals(STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:  # torch's own text advises to switch the protection off
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f", it asks to run {code[1]}" if code else ""
        raise ValueError(f"{path}: not a pickle of plain tensors{asks}; "
                         "save the state_dict() of its model alone") from error
    except Exception as error:                                     # torch raises many kinds
        reason = first_line(error).removeprefix(f"{path}: ")
        if "weights_only" in reason:
            reason = "a format that cannot be read safely"
        raise ValueError(f"{path}: not a readable weight file ({reason})") from error


def refuse_archives(path):
    """ValueError for programs, and for archives that unpack to far more than they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise ValueError("a TorchScript archive, which is a program with its weights, and no program is run "
                         "here; save the state_dict() of its model")
    check_bytes(path, sum(entry.file_size for entry in entries))   # torch.save does not compress


def check_bytes(path, size):
    if size > 4 * getsize(path) + SLACK:
        raise ValueError(f"{path}: {getsize(path) >> 20} MB that say they hold {size >> 20} MB")


def unwrap(content, depth=6):
    """What a training script saved -> {key: tensor} under the first of WRAPPERS, else of all parts that hold
    any, and a note where there were other WRAPPERS. MMEngine, which leaves a message hub, swaps two of
    them: its averaged weights are the state_dict."""
    if not isinstance(content, dict) or depth == 0:
        return {}, ""
    parts = {}
    for key, part in content.items():
        if isinstance(key, str) and isinstance(part, dict):
            parts[key] = unwrap(part, depth - 1)
    wrappers = [wrapper for wrapper in WRAPPERS if wrapper in parts]
    if "message_hub" in content and "ema_state_dict" in wrappers:
        wrappers.remove("ema_state_dict")
    for wrapper in wrappers:
        tensors, note = parts[wrapper]
        if tensors:
            wrappers.remove(wrapper)
            return tensors, f"its {wrapper}, not {' or '.join(wrappers)}" if wrappers else note
    tensors = {str(key): tensor for key, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    choice = ""
    for key, (inside, note) in parts.items():
        tensors |= {f"{key}.{name}": tensor for name, tensor in inside.items()}
        choice = choice or note
    return tensors, choice
