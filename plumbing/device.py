"""Which device a model runs on, and which kernels compute its matrix products.
"""
import os

import torch


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
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def make_deterministic():
    """The same bits from every run on one kind of GPU, or an error that names the operation that cannot."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")    # read at the first product
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def width_of(model):
    """-> D of a model's widest Transformer, 0 for a model that has none."""
    vit = getattr(model.config, "vit", model.config)
    if hasattr(vit, "dim"):
        return vit.dim
    return max(getattr(vit, "dims", (0,)))           # CrossViT has two


def cpu_flags():
    """-> what the CPU can do, in the words of Linux; "" on other systems."""
    if not os.path.exists("/proc/cpuinfo"):
        return ""
    with open("/proc/cpuinfo") as file:
        return file.read()


def fast_float32(model, device):
    """Choose the kernels of float32 matrix products; -> lines for the log, one or none.

    AMD CPUs with AVX-512: PyTorch's "medium" leaves MKL for oneDNN, still in float32 (gradients equal to
    1e-6). CPU time of a training step on an EPYC, MKL over oneDNN, by width: 64 0.4 to 0.7, 128 0.8 to
    1.1, 192 1.1 to 1.4, 384 1.3 to 1.6, 768 1.7. On CPUs with AMX the same word would mean bfloat16.
    CUDA: "high" is TF32."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        return []
    width = width_of(model)
    if device.type == "cpu" and width >= 192:
        flags = cpu_flags()
        if "AuthenticAMD" in flags and "avx512f" in flags and "amx" not in flags:
            torch.set_float32_matmul_precision("medium")
            return [f"float32 products by oneDNN, which is faster here at width {width}"]
    torch.set_float32_matmul_precision("highest")
    return []


def fast_bfloat16(model, device):
    """Is bfloat16 worth it? On CUDA where the GPU has it; on CPUs that have it, for wide Transformers.

    CPU time of a training step with AdamW on an EPYC with avx512_bf16, float32 (the faster kernels) over
    bfloat16, by width: 64 0.6 to 0.7, 128 1.3, 192 1.4 to 1.7, 384 1.6, 768 1.5; CrossViT-9 at 60 px 1.5."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or width_of(model) < 128 or "features" in model.inputs:
        return False
    flags = cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags
