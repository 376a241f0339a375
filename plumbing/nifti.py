"""NIfTI files, read with nibabel where it is installed: one volume, turned to one orientation.

The axes of what is returned are those of DICOM: from the feet to the head, from front to back, from the
patient's right to the left. Of several volumes (4-D) the first is read.
"""
import math

from plumbing.formats import check_size
from plumbing.grey import Values, stand_in


def turned(array, affine):
    """(x, y, z) as the file has them -> (z, y, x) from feet to head, front to back, right to left: a view."""
    from nibabel import orientations
    if array.ndim == 2:
        array = array[:, :, None]
    target = orientations.axcodes2ornt("LPS")                      # to the left, to the back, to the head
    transform = orientations.ornt_transform(orientations.io_orientation(affine), target)
    return orientations.apply_orientation(array, transform).transpose(2, 1, 0)


def read_nifti(path, only_header):
    """-> Values of shape (D, H, W). ValueError if the header lies, before memory is taken."""
    import nibabel
    image = nibabel.load(path)
    if len(image.shape) not in (2, 3, 4):
        raise ValueError(f"holds {image.shape}, need one volume or several")
    check_size(path, math.prod(image.shape) * image.get_data_dtype().itemsize,
               packed=path.lower().endswith(".gz"))
    if only_header:
        array = stand_in(image.shape, image.get_data_dtype())
    else:
        array = image.dataobj.get_unscaled()
    values = Values(array, image.dataobj.slope, image.dataobj.inter)
    if array.ndim == 4:
        values.pages = array.shape[3] > 1
        array = array[..., 0]
    values.array = turned(array, image.affine)
    return values
