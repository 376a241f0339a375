"""NIfTI files, read with nibabel where it is installed: one volume, turned to one orientation.

The axes of what is returned are those of DICOM: from the feet to the head, from front to back, from the
patient's right to the left. Of several volumes (4-D) the first is read.
"""
import math

import numpy as np

from plumbing.formats import check_size
from plumbing.grey import Values


def open_nifti(path):
    """-> nibabel's image, of which only the header is read. ValueError if it lies."""
    try:
        import nibabel
    except ImportError:
        raise ValueError("a NIfTI file is read with nibabel: pip install nibabel") from None
    image = nibabel.load(path)
    if len(image.shape) not in (2, 3, 4) or min(image.shape) < 1:
        raise ValueError(f"holds {image.shape}, need one volume or several")
    size = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    check_size(path, size, packed=path.lower().endswith(".gz"))
    return image


def turned(array, affine):
    """(x, y, z) as the file has them -> (z, y, x) from feet to head, front to back, right to left: a view."""
    from nibabel import orientations
    if array.ndim == 2:
        array = array[:, :, None]
    target = orientations.axcodes2ornt("LPS")                      # to the left, to the back, to the head
    transform = orientations.ornt_transform(orientations.io_orientation(affine), target)
    return orientations.apply_orientation(array, transform).transpose(2, 1, 0)


def nifti_shape(image):
    """-> (D, H, W) of what read_nifti returns."""
    return turned(np.broadcast_to(np.uint8(0), image.shape[:3]), image.affine).shape


def read_nifti(path):
    """-> Values of shape (D, H, W)."""
    image = open_nifti(path)
    array = image.dataobj.get_unscaled()
    if array.ndim == 4:
        array = array[..., 0]
    return Values(turned(array, image.affine), float(image.dataobj.slope), float(image.dataobj.inter))
