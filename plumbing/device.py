"""Which device, and which kernels for its matrix products.
"""
import os

import torch


def find_device(name):
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:              # torchrun's processes have a GPU each
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def width_of(model):
    """D of its widest Transformer, 0 of a model that has none."""
    vit = getattr(model.config, "vit", model.config)
    return getattr(vit, "dim", max(getattr(vit, "dims", (0,))))


def cpu_flags():
    """What the CPU can do, in the words of Linux."""
    if not os.path.exists("/proc/cpuinfo"):
        return ""
    with open("/proc/cpuinfo") as file:
        return file.read()


def fast_float32(model, device):
    """Choose the kernels of float32 matrix products; -> a line for the log, in a list, or none.

    AMD CPUs with AVX-512: PyTorch's "medium" leaves MKL for oneDNN, still in float32 (gradients equal to 1e-6). Measured on
    an EPYC, CPU time of a training step, MKL over oneDNN, by width: 64 0.4 to 0.7, 128 0.8 to 1.1, 192 1.1 to 1.4, 384 1.3
    to 1.6, 768 1.7. On CPUs with AMX the same word would mean bfloat16. CUDA: "high" is TF32."""
    width, flags = width_of(model), cpu_flags() if device.type == "cpu" else ""
    fast = "AuthenticAMD" in flags and "avx512f" in flags and "amx" not in flags and width >= 192
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else "medium" if fast else "highest")
    return [f"float32 products by oneDNN, which is faster here at width {width}"] if fast else []


def fast_bfloat16(model, device):
    """Is bfloat16 worth it? On CUDA where the GPU has it; on CPUs that multiply in it, for Transformers from width 128.

    Measured on an EPYC with avx512_bf16, CPU time of a training step with AdamW, float32 (the faster kernels) over bf16, by
    width: 64 0.6 to 0.7, 128 1.3, 192 1.4 to 1.7, 384 1.6, 768 1.5; CrossViT-9 at 60 px 1.5."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and width_of(model) >= 128 and "features" not in model.inputs and any(
        word in cpu_flags() for word in ("avx512_bf16", "amx_bf16"))
