"""Which files hold images: pictures, arrays, DICOM and NIfTI, by their endings, DICOM also by its magic; and
how large they may be.
"""
import re
from os.path import getsize, isfile, splitext


FORMATS = {
    "picture": (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    "array": (".npy", ".npz", ".pt"),
    "DICOM": (".dcm", ".dicom", ".ima"),
    "NIfTI": (".nii", ".nii.gz")}
LARGEST = 2 ** 32                    # bytes of pixels that are read from one file
PLENTY = 2 ** 26                     # bytes that a packed file may hold in any case, and
PACKING = 200                        # times its own size; more is a bomb
IMAGE_ENDINGS = sum(FORMATS.values(), ())
# of files of images, whether they are read or not
ENDING = re.compile(r"(?i)\.(jfif|gif|jp2|svs|h5|" + "|".join(ending[1:] for ending in IMAGE_ENDINGS) + ")$")


def format_of(path):
    """-> one of FORMATS."""
    name = path.lower()
    for format, endings in FORMATS.items():
        if name.endswith(endings):
            return format
    if has_magic(path):
        return "DICOM"
    return "picture"


def without_ending(name):
    """The name of a file without the ending of an image; others stay."""
    return ENDING.sub("", name)


def is_image(path):
    """Is it a regular file that is read as an image? Others, as pipes and devices, may never end."""
    if not isfile(path):
        return False
    if path.lower().endswith(IMAGE_ENDINGS):
        return True
    ending = splitext(path)[1][1:]                   # a scanner's: IM000001, or 1.2.840.113619.2.5.1762583153
    return (not ending or ending.isdigit()) and has_magic(path)


def has_magic(path):
    """Does it begin as DICOM files do (PS3.10)?"""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def check_regular(path):
    """ValueError for what is no regular file: a pipe or a device may never end."""
    if not isfile(path):
        raise ValueError("there is no such file, or it is no regular file")


def check_size(path, size, packed):
    """ValueError where a header says that pixels take more bytes than are read, or than the file can hold.
    packed: it may hold more than its own size."""
    file_size = getsize(path)
    most = file_size
    if packed:
        most = max(PLENTY, PACKING * file_size)
    most = min(most, LARGEST)
    if size > most:
        raise ValueError(f"says it holds {size} bytes, the file has {file_size}: at most {most} are read")
