"""Arrays: volumes and bags of vectors from .npy, .npz and .pt files, and what kind of images a cohort holds.
"""
import numpy as np
import torch
import torch.nn.functional as F

from plumbing.weight_files import check_numbers, first_line, read_pickle


ARRAY_ENDINGS = (".npy", ".npz", ".pt")
LARGEST = 2 ** 32                                                  # bytes; a header that says more is lying
IMAGE_KINDS = {0: "bags of vectors", 2: "pictures", 3: "volumes"}  # by the number of their axes
NO_CROP = (0.0, 0.0, 0.0, 0.0)


def axes_of(cohort):
    """-> how many axes a cohort's images have: 2, 3, or 0 for bags of vectors. The first image decides."""
    if cohort.pixels is not None:
        shape = cohort.pixels.shape[1:]                            # (h, w), (h, w, 3) or (d, h, w)
        return 2 if len(shape) == 2 or shape[-1] == 3 else 3
    path = cohort.paths[0]
    if not path.lower().endswith(ARRAY_ENDINGS):
        return 2
    return 0 if read_array(path).ndim == 2 else 3


def read_array(path):
    """.npy, .npz with one array in it, or .pt with one tensor -> array of finite numbers.

    No object is unpickled, and no more memory is taken than LARGEST, whatever the header says. ValueError,
    one line, for everything that can go wrong."""
    try:
        if path.lower().endswith(".pt"):
            array = read_pt(path)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)         # no .npy shorter than its header
        if isinstance(array, np.lib.npyio.NpzFile):
            array = unpack(array)
        if not array.flags.writeable:
            array = np.array(array)                                # from the map of the file into memory
    except Exception as error:                                     # numpy, zip and zlib raise many kinds
        reason = first_line(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not a readable array ({reason})") from error
    holds_numbers = array.dtype.kind in "buif" and array.size > 0
    if not holds_numbers or not np.isfinite(array).all():
        raise ValueError(f"{path}: {array.dtype} {array.shape}, "
                         "need numbers, at least one, all of them finite")
    return array


def read_pt(path):
    tensor = read_pickle(path)
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"holds a {type(tensor).__name__}, need one tensor")
    if tensor.numel() * tensor.element_size() > LARGEST:
        raise ValueError(f"says it is {tuple(tensor.shape)}, more than {LARGEST >> 30} GiB")
    check_numbers(path, [tensor])                                  # one number in the file may stand for all
    if tensor.dtype == torch.bfloat16:                             # numpy has no such type
        tensor = tensor.float()
    return tensor.detach().numpy()


def unpack(npz):
    with npz:
        if len(npz.files) != 1:
            raise ValueError(f"holds {len(npz.files)} arrays, need one")
        size = npz.zip.infolist()[0].file_size
        if size > LARGEST:
            raise ValueError(f"unpacks to {size >> 30} GiB, "
                             f"more than {LARGEST >> 30}")
        return npz[npz.files[0]]


def read_volume(source, size, channels=1, crop=NO_CROP, name=None):
    """File or array, (D, H, W) or (C, D, H, W) -> uint8 (C, d, h, w); a single channel is repeated.

    size: (d, h, w). crop: shares cut off left, top, right, bottom of every slice. name: for messages. Types
    other than uint8 are stretched, each channel from its own range. Axes that shrink are averaged, those that
    grow are interpolated. ValueError, one line, for a file or a shape that does not fit."""
    volume = source
    if not isinstance(source, np.ndarray):
        volume = read_array(source)
    if volume.ndim not in (3, 4):
        raise ValueError(f"{name or source}: {volume.shape}, "
                         "need a volume (D, H, W) or (C, D, H, W)")
    if volume.ndim == 3:
        volume = volume[None]
    if len(volume) not in (1, channels):
        raise ValueError(f"{name or source}: {len(volume)} channels of {volume.shape[1:]}, "
                         f"need 1 or {channels}; --channels says how many")
    if volume.dtype != np.uint8:
        volume = stretch(volume, axis=(1, 2, 3))
    left, top, right, bottom = crop
    height, width = volume.shape[2:]
    rows = slice(round(top * height), height - round(bottom * height))
    columns = slice(round(left * width), width - round(right * width))
    volume = volume[:, :, rows, columns]
    if volume.shape[1:] != tuple(size):
        x = torch.from_numpy(np.ascontiguousarray(volume)).float()[None]     # (1, C, D, H, W)
        shrunk = np.minimum(size, volume.shape[1:]).tolist()
        x = F.interpolate(x, size=shrunk, mode="area")
        x = F.interpolate(x, size=tuple(size), mode="trilinear")
        volume = x[0].round().byte().numpy()
    return np.broadcast_to(volume, (channels, *size))


def stretch(values, axis=None):
    """Numbers -> uint8: the lowest becomes 0, the highest 255, a constant 0. axis: those of one range."""
    low = values.min(axis, keepdims=True).astype(float)
    high = values.max(axis, keepdims=True).astype(float)
    return np.uint8(255 * (values - low) / np.maximum(high - low, 1e-12))


def read_bag(path, width):
    """File -> float32 (S, F), F = width."""
    bag = read_array(path)
    if bag.ndim != 2 or bag.shape[1] != width:
        raise ValueError(f"{path}: {bag.shape}, "
                         f"need a bag of vectors (S, {width})")
    return bag.astype(np.float32)
