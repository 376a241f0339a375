"""plumbing/nifti.py: one volume in one orientation, whatever the order of the file; a bomb is refused by its header."""
import gzip

import numpy as np
import pytest

from plumbing.arrays import read_values, read_volume
from plumbing.headers import axes_in, read_header


X, Y, Z = 4, 5, 6


def write(path, array, affine=np.eye(4), **options):
    nibabel = pytest.importorskip("nibabel", reason="NIfTI files are written by nibabel")
    image = nibabel.Nifti1Image(array, affine)
    for name, value in options.items():
        image.header[name] = value
    nibabel.save(image, str(path))
    return str(path)


def voxels():
    """(X, Y, Z) int16, a number of its own for every voxel: 100 x + 10 y + z."""
    x, y, z = np.ogrid[:X, :Y, :Z]
    return (100 * x + 10 * y + z).astype(np.int16)


@pytest.mark.parametrize("ending", (".nii", ".nii.gz"))
def test_axes_are_those_of_dicom(tmp_path, ending):
    """RAS+, the file's x to the right and y to the front: the first slice is the lowest, its first row is in front, its first column on
    the patient's right."""
    array = voxels()
    values = read_values(write(tmp_path / f"a{ending}", array)).array
    assert values.shape == (Z, Y, X)
    for z, y, x in ((0, 0, 0), (5, 4, 3), (2, 1, 3)):
        assert values[z, y, x] == array[X - 1 - x, Y - 1 - y, z]


def test_every_orientation_gives_the_same_volume(tmp_path):
    """The same head stored as LPS, as PIR and as RAS."""
    nibabel = pytest.importorskip("nibabel", reason="orientations are nibabel's")
    image = nibabel.Nifti1Image(voxels(), np.diag((2.0, 3.0, 4.0, 1.0)))
    expected = read_values(write(tmp_path / "ras.nii", voxels(), image.affine)).array
    for codes in ("LPS", "PIR", "SAL"):
        target = nibabel.orientations.axcodes2ornt(codes)
        turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), target))
        path = str(tmp_path / f"{codes}.nii.gz")
        nibabel.save(turned, path)
        np.testing.assert_array_equal(read_values(path).array, expected)
        assert read_header(path).shape == expected.shape and axes_in(read_header(path)) == 3


def test_slope_and_intercept(tmp_path):
    """Stored numbers of 0 .. 100 that mean -50 .. 150."""
    nibabel = pytest.importorskip("nibabel", reason="NIfTI files are written by nibabel")
    array = np.arange(125, dtype=np.uint8).reshape(5, 5, 5).clip(0, 100)
    image = nibabel.Nifti1Image(array, np.diag((-1, -1, 1, 1)))
    image.header.set_slope_inter(2, -50)
    path = str(tmp_path / "a.nii")
    image.header["scl_slope"], image.header["scl_inter"] = 2, -50
    nibabel.save(image, path)
    values = read_values(path)
    means = values.slope * values.array + values.intercept
    np.testing.assert_allclose(means, nibabel.load(path).get_fdata().transpose(2, 1, 0), atol=1e-3)


def test_of_4d_the_first_volume_is_read_and_it_is_known(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.stack([voxels(), voxels() + 1000], axis=-1))
    assert read_header(path).pages and read_header(path).shape == (Z, Y, X) and read_values(path).array.max() == voxels().max()


def test_a_window_in_the_numbers_meaning(tmp_path):
    path = write(tmp_path / "a.nii", voxels())
    values = read_values(path).array.astype(float)
    grey = read_volume(path, (Z, Y, X), window=[(100, 300)])[0]
    np.testing.assert_array_equal(grey, np.uint8(np.clip(255 * (values - 100) / 200, 0, 255)))


@pytest.mark.parametrize("ending", (".nii", ".nii.gz"))
@pytest.mark.parametrize("dim", ((3, 30000, 30000, 30000, 1), (3, 2000, 1000, 1000, 1), (7, 9, 9, 9, 9), (3, 0, 5, 6, 1)))
def test_a_header_that_lies_is_refused(tmp_path, ending, dim):
    """By the first read_header, in one line, without reading what it promises."""
    path = write(tmp_path / "a.nii", voxels())
    content = bytearray(open(path, "rb").read())
    content[40:40 + 2 * len(dim)] = np.array(dim, "<i2").tobytes()
    path = str(tmp_path / f"b{ending}")
    opener = gzip.open if ending == ".nii.gz" else open
    with opener(path, "wb") as file:
        file.write(content)
    with pytest.raises(ValueError) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path}: not a readable image (") and "\n" not in str(error.value)


def test_a_zipped_bomb_is_refused(tmp_path):
    """200 MB of zeros behind 200 kB."""
    path = write(tmp_path / "a.nii.gz", np.zeros((100, 1000, 1000), np.int16))
    with pytest.raises(ValueError, match="says it holds 200000000 bytes, the file has"):
        read_values(path)
