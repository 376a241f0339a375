"""Many processes, one training: the few words that torchrun's processes need to say to each other.

    torchrun --nproc-per-node=4 -- train.py ...                    four GPUs of one machine
    torchrun --nnodes=2 --node-rank=R --master-addr=HOST --master-port=29500 --nproc-per-node=4 -- train.py ...   on both machines

Without the -- torchrun takes --n and --r for flags of its own. Machines need the same data, and a disk they share to --resume from.
Every process holds the whole model and sees its share of every batch; the gradients are averaged while they are computed
(PyTorch's DistributedDataParallel). Process 0 alone writes and prints. Started without torchrun everything here is for one process, and
costs nothing. CUDA talks through NCCL, CPUs through gloo.
Run: torchrun --nproc-per-node=2 parallel.py                       two processes add what they know
"""
import contextlib
import os
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist


def rank():
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def together(device):
    """While inside, this process is one of those that torchrun started, if it did. -> device."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if "LOCAL_RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield device
        return
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"--device {device.type}: several processes need cuda, or cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=12))  # first_here may take long
    yield device
    dist.destroy_process_group()                                   # not after an error: it would wait for the other processes


@contextlib.contextmanager
def first_here():
    """What is done inside is done by the first process of every machine, then by its others, who find it done."""
    later = world() > 1 and int(os.environ["LOCAL_RANK"]) > 0
    if later:
        dist.barrier()
    yield
    if world() > 1 and not later:
        dist.barrier()


def own_numbers(seed):
    """From here on each process draws random numbers of its own, process 0 those it would draw alone."""
    if rank():
        torch.manual_seed(seed + rank() * 1_000_003)               # below 2 ** 32: of more a CPU sees the low bits only


def add(tensor):
    """The sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def collect(thing):
    """-> the things of all processes, in a list, the same for all."""
    if world() == 1:
        return [thing]
    things = [None] * world()
    dist.all_gather_object(things, thing)
    return things


def shared(model, device):
    """The model as each process trains it: what it computes is its own, its gradients are the mean over all."""
    if world() == 1:
        return model
    if device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    warnings.filterwarnings("ignore", message="Grad strides")      # of a token, (1, 1, D): whatever they are, it is one row
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def same_buffers(model):
    """Give all processes the buffers of process 0: on a CPU each has had batch statistics of its own since the last step began."""
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


if __name__ == "__main__":
    with together(torch.device("cpu")) as device:
        print(f"process {rank()} of {world()} on {device}: the ranks add up to {add(torch.tensor(rank())).item()}, "
              f"they are {collect(rank())}")
