"""plumbing/device.py: that nothing waits for the device."""
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attention_filter import compose, gather_patches, refine, score, select
from multivit import MultiViT, MultiViTConfig
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
