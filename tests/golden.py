"""Numbers without a random generator, so that two implementations can be filled alike and compared.

unit() hashes the position of every entry; values() fills the parameters of a network in the sorted order of their names.
The golden outputs in the tests were made by the papers' released code (where there is one), filled by this rule."""
import math

import numpy as np
import torch


def unit(shape, idx):
    """-> float64 tensor in [-1, 1): entry i is murmur3's finalizer of i + 0x9E3779B9 (idx + 1), modulo 2^32."""
    x = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(0x9E3779B9 * (idx + 1))
    x &= np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return torch.from_numpy(x / 2 ** 31 - 1.0).reshape(tuple(shape))


def values(shapes):
    """{key: shape} -> {key: float64 tensor}; key number idx in sorted order is unit(shape, idx), scaled by its kind."""
    filled = {}
    for idx, key in enumerate(sorted(key for key in shapes if not key.endswith("num_batches_tracked"))):
        shape = tuple(shapes[key])
        u = unit(shape, idx)
        if key.endswith("running_mean"):
            filled[key] = 0.1 * u
        elif key.endswith("running_var") or len(shape) <= 1 and key.endswith("weight"):
            filled[key] = 1 + 0.1 * u
        elif len(shape) <= 1:
            filled[key] = 0.1 * u
        else:                                                      # tokens (1, ...), or a matrix with its fan in
            filled[key] = u * (0.5 if shape[0] == 1 else math.sqrt(3 * shape[0] / math.prod(shape)))
    return filled
