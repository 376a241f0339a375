"""The tokens that a frozen ViT makes of the images of a cohort, computed once and kept on disk (probe.py).
"""
import hashlib
import os
from os.path import dirname, exists, isfile, join

import numpy as np
from huggingface_hub.utils import tqdm

from data import Samples, make_loader
from plumbing.cache import cache_key
from plumbing.command import in_one_line


def cached_features(cohort, model, folder, size, channels, device, workers=0):
    """-> float32 (images, 1 + T, D), memory-mapped: model.tokens of every image; and a line about them.

    They are kept as folder/features/KEY.npy. KEY depends on the tensors of the frozen model.vit, its config,
    size and channels of the images, the kind of device, and the image files (see cache_key)."""
    config = model.config.vit
    weights = hashlib.sha256()
    for name, tensor in model.vit.state_dict().items():
        weights.update(name.encode() + tensor.cpu().numpy().tobytes())
    path = join(folder, "features",
                cache_key(cohort, config, size, channels, device.type, weights.hexdigest()) + ".npy")
    shape = len(cohort.paths), 1 + config.tokens, config.dim
    origin = "read from"
    if not isfile(path):
        loader, _ = make_loader(Samples(cohort, range(len(cohort.paths)), size, channels=channels), 16,
                                workers=workers)
        model.eval()
        write_features(path, shape, model, loader, device)
        origin = "computed, now in"
    with in_one_line(f"{path}: not a file of features; delete it, it will be made again"):
        features = np.load(path, mmap_mode="r")
        if features.shape != shape or features.dtype != np.float32:
            raise ValueError(f"{features.dtype} {features.shape}, not {shape}")
    return features, f"features of {len(features)} images {origin} {path}"


def write_features(path, shape, model, loader, device):
    """The tokens of all batches -> a .npy file, which appears whole or not at all.

    Of two runs that make it at once each writes its own, and the last to end replaces an equal one."""
    os.makedirs(dirname(path), exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            np.lib.format.write_array_header_2_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for batch in tqdm(loader, desc="features, once", disable=None):
                file.write(model.tokens(batch["image"].to(device)).cpu().numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        if exists(part):
            os.remove(part)
