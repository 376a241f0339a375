"""Arrays: the numbers in .npy, .npz, .pt, DICOM and NIfTI files, and the volumes and bags made of them.
"""
import math
import zipfile
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.npyio import NpzFile

from plumbing.command import readable
from plumbing.dicom import read_dicom
from plumbing.formats import check_regular, check_size, format_of
from plumbing.grey import Values, stand_in, to_grey
from plumbing.nifti import read_nifti
from plumbing.weight_files import read_pickle


NO_CROP = (0.0, 0.0, 0.0, 0.0)


def read_array(path, only_header):
    """.npy, .npz with one array in it, or .pt with one tensor -> array, perhaps mapped into memory.

    only_header: of a .npz a stand-in, as the numbers would have to be unpacked. No object is unpickled."""
    if path.lower().endswith(".pt"):
        return read_pt(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)       # refuses a .npy that is cut off
    if not isinstance(array, NpzFile):
        return array
    with array:
        if len(array.files) != 1:
            raise ValueError(f"holds {len(array.files)} arrays, need one")
        [packed] = array.zip.filelist
        check_size(path, packed.file_size, packed=True)
        if not only_header:
            return array[array.files[0]]
        with array.zip.open(packed) as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            return stand_in(shape, dtype)


def read_pt(path):
    tensor = read_pickle(path, mapped=zipfile.is_zipfile(path))    # not in the format of before PyTorch 1.6
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"holds a {type(tensor).__name__}, need one tensor")
    # packed, as one number in the file may stand for many
    check_size(path, tensor.numel() * tensor.element_size(), packed=True)
    if tensor.dtype == torch.bfloat16:                             # numpy has no such type
        tensor = tensor.float()
    return tensor.detach().numpy()


def check_finite(array):
    """ValueError unless all of its numbers are finite."""
    # a NaN or an infinity would be one of the ends, which take no memory
    if array.dtype.kind == "f" and not np.isfinite([array.min(), array.max()]).all():
        raise ValueError("holds values that are not finite")


def read_values(path, only_header=False):
    """Any file of numbers -> Values, all of them finite. only_header: shape and type alone are the file's.

    No memory is taken before the size is checked, whatever the header says. ValueError, one line, for
    everything that can go wrong."""
    format = format_of(path)
    with readable(path):
        check_regular(path)
        try:
            if format == "DICOM":
                values = read_dicom(path, only_header)
            elif format == "NIfTI":
                values = read_nifti(path, only_header)
            else:
                values = Values(read_array(path, only_header))
        except ImportError as error:
            name = error.name
            raise ValueError(f"a {format} file is read with {name}: pip install {name} --upgrade") from None
        array = values.array
        is_image = array.ndim in (2, 3, 4) and array.shape[3:] not in ((1,), (3,))     # channels last
        if array.dtype.kind not in "buif" or array.size == 0 or not is_image:
            raise ValueError(f"holds {array.dtype} {array.shape}, need numbers, at least one, along 2, 3 or "
                             "4 axes, of which the channels of a volume are the first")
        if not only_header:
            check_finite(array)
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
    values = as_values(source)
    volume = values.array
    if volume.ndim == 3:
        volume = volume[None]
    if volume.ndim != 4 or len(volume) not in (1, channels):
        raise ValueError(f"{name or source}: {values.array.shape}, need a volume (D, H, W) or (C, D, H, W) "
                         f"with the channels in front, {channels} if --channels says no other number")
    left, top, right, bottom = crop
    height, width = volume.shape[2:]
    rows = slice(round(top * height), height - round(bottom * height))
    columns = slice(round(left * width), width - round(right * width))
    parts = []                                                     # uint8 (D, H, W), one per channel
    for channel, array in enumerate(volume):
        parts.append(to_grey(replace(values, array=array), window, channel)[:, rows, columns])
    if parts[0].shape == size:
        pixels = np.stack(parts)
    else:
        x = torch.stack([shrink(part, size) for part in parts])
        x = F.interpolate(x[None], size=size, mode="trilinear")              # (1, C, d, h, w)
        pixels = x[0].round().byte().numpy()
    return pixels.repeat(channels // len(pixels), 0)


def shrink(grey, size):
    """uint8 (D, H, W) -> float (d, h, w), the means of its voxels where an axis is longer than in size.

    Slice by slice, as all of it may take gigabytes as floats."""
    depth = len(grey)
    d, h, w = np.minimum(size, grey.shape).tolist()
    slices = []
    for i in range(d):
        slab = grey[i * depth // d:math.ceil((i + 1) * depth / d)].astype(np.float32)
        slab = torch.from_numpy(slab)[None, None]                  # (1, 1, slices, H, W)
        slices.append(F.interpolate(slab, size=(1, h, w), mode="area")[0, 0, 0])
    return torch.stack(slices)


# -----------------------------------------------------------------------------
# bags


def read_bag(path, width):
    """File -> float32 (S, F), F = width."""
    bag = read_values(path).array
    if bag.ndim != 2 or bag.shape[1] != width:
        raise ValueError(f"{path}: {bag.shape}, "
                         f"need a bag of vectors (S, {width})")
    return bag.astype(np.float32)
