"""Arrays: volumes and bags of vectors from .npy, .npz and .pt files, and what kind of images a cohort holds.
"""
import numpy as np
import torch
import torch.nn.functional as F


ARRAYS = (".npy", ".npz", ".pt")
LARGEST = 2 ** 32                                                  # bytes of an array; a header that says more is taken for a lie
IMAGES = {0: "bags of vectors", 2: "pictures", 3: "volumes"}       # by their axes


def axes_of(cohort):
    """How many axes its images have, 2 or 3, or 0 for bags of vectors; the first of them tells."""
    if cohort.pixels is not None:
        return 3 if cohort.pixels.ndim == 4 and cohort.pixels.shape[-1] != 3 else 2
    if not cohort.paths[0].lower().endswith(ARRAYS):
        return 2
    return 0 if read_array(cohort.paths[0]).ndim == 2 else 3


def read_array(path):
    """.npy, .npz with one array in it, or .pt with one tensor -> array of finite numbers. No object is unpickled, and no more memory
    is taken than LARGEST, whatever the header says."""
    try:
        if path.lower().endswith(".pt"):
            array = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(array, torch.Tensor):
                raise ValueError(f"holds a {type(array).__name__}, need one tensor")
            if array.numel() * array.element_size() > LARGEST:     # one number in the file may stand for all of them
                raise ValueError(f"says it is {tuple(array.shape)}, more than {LARGEST >> 30} GiB")
            array = array.detach()
            array = array.float().numpy() if array.dtype == torch.bfloat16 else array.numpy()
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)         # a .npy that is shorter than its header says is refused here
        if isinstance(array, np.lib.npyio.NpzFile):
            with array as arrays:
                if len(arrays.files) != 1:
                    raise ValueError(f"holds {len(arrays.files)} arrays, need one")
                if arrays.zip.infolist()[0].file_size > LARGEST:
                    raise ValueError(f"unpacks to {arrays.zip.infolist()[0].file_size >> 30} GiB, more than {LARGEST >> 30}")
                array = arrays[arrays.files[0]]
        array = array if array.flags.writeable else np.array(array)          # a map of the file becomes memory
    except Exception as error:                                     # numpy, zip and zlib raise many kinds
        raise ValueError(f"{path}: not a readable array ({(str(error).splitlines() or [type(error).__name__])[0]})") from error
    if array.dtype.kind not in "buif" or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{path}: {array.dtype} {array.shape}, need numbers, at least one, all of them finite")
    return array


def read_volume(source, size, channels=1, crop=(0.0, 0.0, 0.0, 0.0), name=None):
    """File or array, (D, H, W) or (C, D, H, W) -> uint8 (C, d, h, w), size: (d, h, w); one channel is copied to as many as asked.

    crop: shares cut off left, top, right, bottom of every slice. Types other than uint8 are stretched, each channel from its own
    range. Axes that shrink are averaged, those that grow are interpolated."""
    volume = source if isinstance(source, np.ndarray) else read_array(source)
    if volume.ndim not in (3, 4):
        raise ValueError(f"{name or source}: {volume.shape}, need a volume (D, H, W) or (C, D, H, W)")
    volume = volume.reshape(-1, *volume.shape[-3:])
    if len(volume) not in (1, channels):
        raise ValueError(f"{name or source}: {len(volume)} channels of {volume.shape[1:]}, need 1 or {channels}; --channels says how many")
    if volume.dtype != np.uint8:
        low, high = (edge(volume, axis=(1, 2, 3), keepdims=True).astype(float) for edge in (np.min, np.max))
        volume = np.uint8(255 * (volume - low) / np.maximum(high - low, 1e-12))
    height, width = volume.shape[2:]
    top, left, bottom, right = round(crop[1] * height), round(crop[0] * width), round(crop[3] * height), round(crop[2] * width)
    volume = volume[:, :, top:height - bottom, left:width - right]
    if volume.shape[1:] != tuple(size):
        x = torch.from_numpy(np.ascontiguousarray(volume)).float()[None]
        x = F.interpolate(x, size=[min(s, side) for s, side in zip(size, x.shape[2:])], mode="area")
        volume = F.interpolate(x, size=tuple(size), mode="trilinear")[0].round().byte().numpy()
    return np.broadcast_to(volume, (channels, *size))


def read_bag(path, width):
    """File -> float32 (S, F), F = width."""
    bag = read_array(path)
    if bag.ndim != 2 or bag.shape[1] != width:
        raise ValueError(f"{path}: {bag.shape}, need a bag of vectors (S, {width})")
    return bag.astype(np.float32)
