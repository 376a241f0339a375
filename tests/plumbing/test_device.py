"""plumbing/device.py: which kernels are chosen; and that nothing waits for the device."""
import io

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attention_filter import compose, gather_patches, refine, score, select
from multivit import MultiViT, MultiViTConfig
from plumbing.cohort import Task
from plumbing.device import fast_bfloat16, fast_float32
from plumbing.models import build_model
from tests.small_runs import settled
from vit import ViT, ViTConfig


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


def test_fast_float32_is_for_wide_models_on_amd_with_avx512_alone(monkeypatch):
    """medium where it was measured to be float32 and faster, with a line; highest elsewhere, without; and twice the same."""
    narrow, wide = (ViT(ViTConfig(image=(16, 16), dim=dim, depth=1, heads=2, mlp=8)) for dim in (64, 192))
    monkeypatch.setattr("os.path.exists", lambda path: True)
    try:
        for text, model, expected in (("AuthenticAMD avx512f", wide, "medium"), ("AuthenticAMD avx512f", narrow, "highest"),
                                      ("AuthenticAMD avx2", wide, "highest"), ("GenuineIntel avx512f", wide, "highest"),
                                      ("AuthenticAMD avx512f amx_tile", wide, "highest")):
            monkeypatch.setattr("builtins.open", lambda *args, text=text: io.StringIO(text))
            for _ in range(2):
                lines = fast_float32(model, torch.device("cpu"))
                assert torch.get_float32_matmul_precision() == expected and len(lines) == (expected == "medium")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device, words, size, expected", (
    ("cpu", "avx512f avx512_bf16", "mini", True), ("cpu", "amx_bf16", "mini", True), ("cpu", "avx512f", "mini", False),
    ("cpu", "avx512f avx512_bf16", "micro", False), ("mps", "avx512_bf16", "mini", False)))
def test_bfloat16_is_for_wide_models_on_chips_that_have_it(monkeypatch, device, words, size, expected):
    """Where it is slower, or not there, --amp auto leaves float32."""
    monkeypatch.setattr("plumbing.device.cpu_flags", lambda: words)
    model, _ = build_model(settled("--model", "vit", "--size", size), [Task("y", "regression")])
    assert fast_bfloat16(model, torch.device(device)) is expected
