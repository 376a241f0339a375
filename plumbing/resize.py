"""Pretrained weights at another size: positions for another grid, patch kernels for other patches and for
another number of channels.
"""
import math
import re
from dataclasses import replace

import torch
import torch.nn.functional as F

from plumbing.variants import placed_rows

KERNELS = re.compile(r"patch_embed\.([01]\.)?proj(\.0)?\.weight")


def fit(tensors, config, image, patch, notes):
    """Fit kernel and positions of a ViT, in place, to images and patches of other sizes (px per axis, () or
    None: as they are); -> the config."""
    image = tuple(image or config.image)
    patch = tuple(patch or config.patch)
    if len(image) != len(config.image):
        raise ValueError(f"--image {spaced(image, 'x')}: its own images have {len(config.image)} axes "
                         "(pictures have 2, volumes 3, bags of vectors none)")
    fitted = replace(config, image=image, patch=patch)
    kernel = "patch_embed.proj.weight"
    if patch != config.patch:
        tensors[kernel] = resize_kernel(tensors[kernel], patch)
        notes.append(f"resized patches {spaced(config.patch, 'x')} -> {spaced(patch, 'x')} px")
    if fitted.grid != config.grid and config.positions != "none":
        resize_positions(tensors, "pos_embed", config.grid, fitted.grid, notes, placed_rows(config))
    return fitted


def resize_positions(tensors, key, old, new, notes, placed=1):
    """Resize one table of position embeddings in place; one that does not fit the old grid is left as it is,
    and load_weights refuses it. placed: how many first rows are of no patch."""
    pos = tensors.get(key)
    if pos is not None and pos.is_floating_point() and pos.shape[1] == placed + math.prod(old):
        tensors[key] = resize_pos_embed(pos, old, new, placed)
    way = "antialiased, which transformers is not"
    if len(new) == 3:
        way = "trilinear"
    notes.append(f"resized {key} {spaced(old, 'x')} -> {spaced(new, 'x')} ({way})")


def spaced(numbers, between=" "):
    """(0.5, 0.5) -> "0.5 0.5"."""
    return between.join(f"{number:g}" for number in numbers)


def resize_pos_embed(pos, old, new, placed=1):
    """(1, placed + T, D) for the grid `old` -> for the grid `new`; the first rows are kept.

    As timm: bicubic, antialiased, in float32, once at load. (transformers does it in forward, without
    antialias.) On three axes trilinear, the only one that PyTorch has there."""
    pos = pos.float()
    patches = pos[:, placed:].mT
    patches = patches.unflatten(2, old)                            # (1, D, rows, columns)
    patches = resize_grid(patches, new)
    patches = patches.flatten(2).mT                                # (1, T, D)
    return torch.cat([pos[:, :placed], patches], 1)


def resize_grid(x, new):
    """(B, D, *grid) -> (B, D, *new)."""
    if len(new) == 2:
        return F.interpolate(x, size=new, mode="bicubic", antialias=True)
    return F.interpolate(x, size=new, mode="trilinear")


def resize_kernel(weight, new):
    """(D, C, *P) -> (D, C, *new): the kernel that gives for an image resized to the new patches what the old
    one gives for the image, where the patches grow; where they shrink, the nearest to it.

    FlexiViT, Beyer et al. 2023, eq. 4-6: B being the matrix that resizes a patch, (B^T)^+ w."""
    old = weight.shape[2:]
    pixels = torch.eye(old.numel())
    pixels = pixels.view(-1, 1, *old)                              # an image for each pixel
    B = resize_grid(pixels, new)
    B = B.flatten(1).double()                                      # (old pixels, new pixels), the paper's B^T
    inverse = torch.linalg.pinv(B)
    flat = weight.double().flatten(2)                              # (D, C, old pixels)
    flat = flat @ inverse.mT
    return flat.unflatten(2, new).float()


def change_channels(tensors, config, channels, notes):
    """Spread the patch kernel, or both of CrossViT, over another number of channels, in place; -> config.

    A grey image answers as its copy in every channel did: where channels differ in mean and std, each gets
    their mean, and kernel and bias make up for it, so that they give for (x - new_mean) / new_std what they
    gave for (x - mean) / std. (Not at the border of a convolutional stem, where the padding is 0 in both.)"""
    new_mean = sum(config.mean) / len(config.mean)
    new_std = sum(config.std) / len(config.std)
    mean = torch.tensor(config.mean).double()
    std = torch.tensor(config.std).double()
    differ = len(set(zip(config.mean, config.std))) > 1
    for key in [key for key in tensors if KERNELS.fullmatch(key)]:
        weight = tensors[key]
        if differ:
            bias = key.removesuffix("weight") + "bias"
            weight = weight.double().movedim(1, -1)                # (D, P, P, C), or one P more
            shift = weight * (new_mean - mean) / std
            tensors[bias] = (tensors[bias].double() + shift.flatten(1).sum(1)).float()
            weight = (weight * new_std / std).movedim(-1, 1)
        tensors[key] = spread_channels(weight, channels)
    notes.append(f"patch_embed from {config.channels} to {channels} channels")
    return replace(config, channels=channels, mean=(new_mean,) * channels, std=(new_std,) * channels)


def spread_channels(weight, channels):
    """(D, C, P, P) kernel -> (D, channels, P, P), the sum over C in equal parts: a grey image answers as
    its grey copy in RGB. Also (D, C, P, P, P)."""
    return (weight.float().sum(1, keepdim=True) / channels).repeat_interleave(channels, 1)
