"""Which device a model runs on, how many cores feed it, how its numbers repeat, and how tensors get there.
"""
import os
from contextlib import suppress

import torch

from plumbing.command import in_one_line


QUOTA = "/sys/fs/cgroup/cpu.max"     # of a container on Linux: microseconds of CPU in a period of so many


def count_cores():
    """-> how many cores this process may use: a scheduler or a container may lend it some of a machine's,
    and the processes that torchrun starts share them."""
    count = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):                           # Linux
        count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):                            # there is no quota, or it is "max"
        with open(QUOTA) as file:
            quota, period = map(int, file.read().split())
        count = min(count, quota // period)
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def find_device(name):
    """--device -> torch.device. auto: the best there is; ValueError for one that does not work here."""
    torch.set_num_threads(min(torch.get_num_threads(), count_cores()))       # PyTorch does not know of quotas
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


def copied(tensors, device):
    """{name: tensor} -> the same on the device. Elsewhere than on CUDA a copy could be used before it is
    complete, if it were not waited for."""
    return {name: tensor.to(device, non_blocking=device.type == "cuda") for name, tensor in tensors.items()}
