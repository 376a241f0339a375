"""Which device a model runs on.
"""
import os

import torch

from plumbing.weight_files import in_one_line


def find_device(name):
    """--device -> torch.device. auto: the best there is; ValueError for one that does not work here."""
    if name == "auto":
        name = "cpu"
        if torch.backends.mps.is_available():
            name = "mps"
        if torch.cuda.is_available():
            name = "cuda"
    if name == "cuda" and "LOCAL_RANK" in os.environ:        # each of torchrun's processes has its own GPU
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    with in_one_line(f"--device {name}: does not work here"):
        device = torch.device(name)
        torch.zeros(1, device=device).item()                       # meta has no numbers
    return device


def make_deterministic():
    """The same bits from every run on one kind of GPU, or an error that names the operation that cannot."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")    # read at the first product
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
