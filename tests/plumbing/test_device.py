"""plumbing/device.py: that nothing waits for the device, and how many cores feed it."""
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attention_filter import compose, gather_patches, refine, score, select
from multivit import MultiViT, MultiViTConfig
from plumbing import device
from vit import ViTConfig


class Reads(TorchDispatchMode):
    """Counts what must wait for the device: a value read by Python, or a shape that depends on values."""
    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal")
    found = ()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if str(function).startswith("aten.index.") else []
        if masks or any(word in str(function) for word in self.waits):
            self.found += (str(function),)
        return function(*args, **(kwargs or {}))


def test_filter_and_multivit_never_wait_for_the_device():
    """No host sync between the first kernel and the loss: neither in the filter nor in a training step of MultiViT."""
    with Reads() as reads:
        torch.ones(3)[torch.tensor([True, False, True])].sum().item()
    assert len(reads.found) == 2                                   # the counter counts
    maps, images = torch.rand(2, 3, 4, 16), torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8)
    present = torch.tensor([[True] * 3, [True, True, False]])
    model = MultiViT(MultiViTConfig(ViTConfig(image=(16, 16), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32), "multi", 3, 2), {"y": 2})
    with Reads() as reads:
        image, token = select(score(maps, present), 4)
        compose(gather_patches(images, image.repeat_interleave(4, 1), refine(token, (4, 4), 2).flatten(1), (4, 4)), (4, 4))
        model(images[..., ::2, ::2], present, images)["logits"]["y"].sum().backward()
    assert reads.found == ()


@pytest.mark.parametrize("quota, cores", (("150000 100000", 1), ("200000 100000", 2), ("20000 100000", 1), ("max 100000", 3), (None, 3), ("900000 100000", 3)))
def test_a_container_that_lends_two_of_three_cores(quota, cores, tmp_path, monkeypatch):
    """PyTorch started a thread per core of the machine, and of 2 threads on a quota of 1 core an epoch took half as long again as of one."""
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(device, "QUOTA", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    asked = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    device.find_device("cpu")
    assert device.count_cores() == cores and asked == [cores]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")                    # torchrun's, which share them
    assert device.count_cores() == max(1, cores // 2)
