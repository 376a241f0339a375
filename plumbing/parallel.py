"""Many processes, one training: the few words that torchrun's processes need to say to each other.

    torchrun --nproc-per-node=4 -- train.py ...      four GPUs of one machine
    torchrun --nnodes=2 --node-rank=R --master-addr=HOST --master-port=29500 \
             --nproc-per-node=4 -- train.py ...      two machines, R = 0 on one and 1 on the other

Without the -- torchrun takes --n and --r for flags of its own. Machines need the same data, and a disk that
they share to --resume from.
Every process holds the whole model and sees its share of every batch; the gradients are averaged while
they are computed (PyTorch's DistributedDataParallel). Only process 0 writes and prints. Started without
torchrun, everything here is for one process and costs nothing. CUDA talks through NCCL, CPUs through gloo.
"""
import contextlib
import os
import sys
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist


def rank():
    """Which of the processes this is, from 0."""
    if dist.is_initialized():
        return dist.get_rank()
    return 0


def world():
    """How many processes train together."""
    if dist.is_initialized():
        return dist.get_world_size()
    return 1


@contextlib.contextmanager
def together(device):
    """While inside, this process is one of those that torchrun started, if it did; then only process 0 goes
    on. -> device."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if "LOCAL_RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield device
        return
    backends = {"cuda": "nccl", "cpu": "gloo"}
    if device.type not in backends:
        raise ValueError(f"--device {device.type}: several processes need cuda or cpu")
    dist.init_process_group(backends[device.type], timeout=timedelta(hours=12))    # first_here may take long
    yield device
    helper = rank() > 0
    dist.destroy_process_group()                     # not after an error: it would wait for the others
    if helper:
        # gloo's threads may still be letting go of the last message. One that needs Python while Python
        # shuts down aborts the process (1 run in 50), so this one ends without shutting down.
        sys.stdout.flush()
        os._exit(0)


@contextlib.contextmanager
def first_here():
    """What is inside is done by the first process of every machine, then by its others, who find it done."""
    later = world() > 1 and int(os.environ["LOCAL_RANK"]) > 0
    if later:
        dist.barrier()
    yield
    if world() > 1 and not later:
        dist.barrier()


def own_numbers(seed):
    """From here on each process draws random numbers of its own, process 0 those it would draw alone."""
    if rank():
        torch.manual_seed(seed + rank() * 1_000_003)         # below 2 ** 32: a CPU sees only the low bits


def add(tensor):
    """The sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def collect(thing):
    """-> the things of all processes in a list, the same for all."""
    things = [thing] * world()
    if world() > 1:
        dist.all_gather_object(things, thing)
    return things


def shared(model, device):
    """The model as each process trains it: its outputs are its own, its gradients are the mean over all."""
    if world() == 1:
        return model
    warnings.filterwarnings("ignore", message="Grad strides")      # of a token, (1, 1, D): no matter
    if device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return torch.nn.parallel.DistributedDataParallel(model)


def same_buffers(model):
    """Give all processes the buffers of process 0.

    Such as batch statistics: on a CPU each process has had its own since the last step began."""
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
