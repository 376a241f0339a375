"""What a frozen ViT says of every image of a cohort, computed once and kept on disk (probe.py).
"""
import hashlib
import os
import time

import numpy as np
from huggingface_hub.utils import tqdm

from data import Samples, make_loader
from plumbing.cache import digest


def cached_features(cohort, model, folder, size, channels, device, workers=0):
    """-> float32 (images, 1 + T, D), memory-mapped: model.tokens of every image of the cohort; and a line that says whence.

    They are computed once and kept as folder/features/KEY.npy. KEY is a digest of all they depend on: the tensors of the frozen
    model.vit and its config, size and channels of the images, and path, length and time of every image file (or the pixels);
    so nothing in the folder is ever out of date, and what is no longer wanted can be deleted. The file appears whole or not at
    all; of two runs that make it at once each writes its own, and the last to end replaces an equal one."""
    weights = hashlib.sha256()
    for name, tensor in model.vit.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    key = digest(cohort, model.config.vit, size, channels, device.type, weights.hexdigest())
    path = os.path.join(folder, "features", key + ".npy")
    whence, shape = "read from", (len(cohort.paths), 1 + model.config.vit.tokens, model.config.vit.dim)
    if not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part, began = f"{path}.{os.getpid()}.part", time.perf_counter()
        loader, _ = make_loader(Samples(cohort, range(len(cohort.paths)), size, channels=channels), 16, workers=workers)
        model.eval()
        try:
            with open(part, "wb") as file:
                np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for batch in tqdm(loader, desc="features, once", disable=None):
                    file.write(model.tokens(batch["image"].to(device)).cpu().numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            whence = f"computed in {time.perf_counter() - began:.0f} s, now in"
        finally:
            if os.path.exists(part):
                os.remove(part)
    try:
        features = np.load(path, mmap_mode="r")
        if features.shape != shape or features.dtype != np.float32:
            raise ValueError(f"{features.dtype} {features.shape}, not {shape}")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a file of features ({error}); delete it, it will be made again") from error
    return features, f"features of {len(features)} images {whence} {path} ({os.path.getsize(path) / 1e6:.0f} MB)"
