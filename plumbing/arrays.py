"""Arrays: the numbers in .npy, .npz, .pt, DICOM and NIfTI files, and the volumes and bags made of them.
"""
import math
import zipfile
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.npyio import NpzFile

from plumbing.dicom import read_dicom
from plumbing.formats import LARGEST, check_regular, check_size, format_of
from plumbing.grey import Values, find_window, to_grey
from plumbing.nifti import read_nifti
from plumbing.weight_files import check_numbers, read_pickle, readable


NO_CROP = (0.0, 0.0, 0.0, 0.0)


def read_array(path):
    """.npy, .npz with one array in it, or .pt with one tensor -> array of finite numbers, perhaps a map of
    the file.

    No object is unpickled, and no memory is taken before the size is checked, whatever the header says.
    ValueError, one line, for everything that can go wrong."""
    with readable(path, "array"):
        array = open_array(path)
        if isinstance(array, NpzFile):
            with array:
                array = np.asarray(array[array.files[0]])
        check_finite(array)
    return array


def open_array(path):
    """-> array, or the open .npz file of one, which is not too large to be unpacked."""
    check_regular(path)
    if path.lower().endswith(".pt"):
        return read_pt(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)       # no .npy shorter than its header
    if isinstance(array, NpzFile):
        if len(array.files) != 1:
            raise ValueError(f"holds {len(array.files)} arrays, need one")
        check_size(path, array.zip.infolist()[0].file_size, packed=True)
    return array


def array_header(path):
    """-> shape and type of an array that is neither unpacked nor read, if it can be helped."""
    array = open_array(path)
    if not isinstance(array, NpzFile):
        return array.shape, array.dtype
    with array, array.zip.open(array.zip.infolist()[0]) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def read_pt(path):
    tensor = read_pickle(path, mapped=zipfile.is_zipfile(path))    # not in the format of before PyTorch 1.6
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"holds a {type(tensor).__name__}, need one tensor")
    if tensor.numel() * tensor.element_size() > LARGEST:
        raise ValueError(f"says it is {tuple(tensor.shape)}, more than {LARGEST >> 30} GiB")
    check_numbers(path, [tensor])                                  # one number in the file may stand for all
    if tensor.dtype == torch.bfloat16:                             # numpy has no such type
        tensor = tensor.float()
    return tensor.detach().numpy()


def check_finite(array):
    """ValueError unless it holds numbers, at least one, all of them finite."""
    if array.dtype.kind not in "buif" or array.size == 0:
        raise ValueError(f"holds {array.dtype} {array.shape}, need numbers, at least one")
    # a NaN or an infinity would be one of the ends, which take no memory
    if array.dtype.kind == "f" and not np.isfinite([array.min(), array.max()]).all():
        raise ValueError("holds values that are not finite")


def read_values(path):
    """Any file of numbers -> Values. ValueError in one line."""
    format = format_of(path)
    if format == "array":
        return Values(read_array(path))
    with readable(path, "image"):
        check_regular(path)
        values = read_dicom(path) if format == "dicom" else read_nifti(path)
        check_finite(values.array)
    return values


def as_values(source):
    """File of numbers or array -> Values; Values and what Pillow opens stay what they are."""
    if isinstance(source, np.ndarray):
        return Values(source)
    if isinstance(source, str) and format_of(source) != "picture":
        return read_values(source)
    return source


# -----------------------------------------------------------------------------
# volumes


def read_volume(source, size, channels=1, crop=NO_CROP, name=None, window="auto"):
    """File, array or Values, (D, H, W) or (C, D, H, W) -> uint8 (C, d, h, w); one channel is repeated.

    size: (d, h, w). crop: shares cut off left, top, right, bottom of every slice. name: for messages. window:
    for types other than uint8, see grey.py. Axes that shrink are averaged, those that grow are interpolated.
    ValueError, one line, for a file or a shape that does not fit."""
    name = name or source
    values = as_values(source)
    volume = values.array
    if volume.ndim not in (3, 4):
        raise ValueError(f"{name}: {volume.shape}, "
                         "need a volume (D, H, W) or (C, D, H, W)")
    if volume.ndim == 3:
        volume = volume[None]
    if len(volume) not in (1, channels):
        raise ValueError(f"{name}: {len(volume)} channels of {volume.shape[1:]}, "
                         f"need 1 or {channels}; --channels says how many")
    parts = [channel_of(values, volume, channel, window, crop) for channel in range(len(volume))]
    shape = parts[0][0].array.shape
    if shape == tuple(size):
        pixels = np.stack([to_grey(part, chosen) for part, chosen in parts])
    else:
        x = torch.stack([shrink(part, chosen, np.minimum(size, shape).tolist()) for part, chosen in parts])
        x = F.interpolate(x[None], size=tuple(size), mode="trilinear")       # (1, C, d, h, w)
        pixels = x[0].round().byte().numpy()
    return np.broadcast_to(pixels, (channels, *size))


def channel_of(values, volume, channel, window, crop):
    """-> Values (D, H, W) of a channel of a volume (C, D, H, W), cropped, and the window of all of it."""
    part = replace(values, array=volume[channel])
    if volume.dtype != np.uint8:
        window = [find_window(part, window, channel)]
    left, top, right, bottom = crop
    height, width = volume.shape[2:]
    rows = slice(round(top * height), height - round(bottom * height))
    columns = slice(round(left * width), width - round(right * width))
    return replace(part, array=part.array[:, rows, columns]), window


def shrink(part, window, size):
    """Values (D, H, W) -> float (d, h, w), no larger: means of grey values.

    Slice by slice, as all grey values at once may take gigabytes."""
    slices = []
    depth = len(part.array)
    for i in range(size[0]):
        slab = part.array[i * depth // size[0]:math.ceil((i + 1) * depth / size[0])]
        grey = to_grey(replace(part, array=slab), window)
        grey = torch.from_numpy(grey.astype(np.float32))[None, None]         # (1, 1, slices, H, W)
        slices.append(F.interpolate(grey, size=(1, *size[1:]), mode="area")[0, 0, 0])
    return torch.stack(slices)


# -----------------------------------------------------------------------------
# bags


def read_bag(path, width):
    """File -> float32 (S, F), F = width."""
    bag = read_array(path)
    if bag.ndim != 2 or bag.shape[1] != width:
        raise ValueError(f"{path}: {bag.shape}, "
                         f"need a bag of vectors (S, {width})")
    return bag.astype(np.float32)
