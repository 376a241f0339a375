"""What image files say of themselves before they are decoded: every file is looked at before the first step.
"""
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from huggingface_hub.utils import tqdm

from plumbing.arrays import read_values
from plumbing.command import readable
from plumbing.formats import format_of
from plumbing.pictures import check_upper_bytes, has_16_bit_colors, open_picture


IMAGE_KINDS = {0: "bags of vectors", 2: "pictures", 3: "volumes"}  # by the number of their axes
ORIENTATION = 274                                                  # EXIF's tag; from 5 on sides are exchanged
SIDES = (256, 257)                                                 # TIFF's tags
PIXEL_TYPES = ("bool", "uint8", "int8", "uint16", "int16")         # of a picture (H, W), but of no bag (S, F)
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}                       # of a whole file, if nothing follows
GROUP = 256                          # files that a thread looks at together; one by one takes twice the time
STRIPS = ((273, 279), (324, 325))    # TIFF's tags: where strips or tiles begin, and how long they are


@dataclass
class Header:
    """Of one image file."""
    format: str                      # JPEG, PNG, ..., array, DICOM, NIfTI, or pixels of a cohort
    shape: tuple                     # (H, W) as it stands upright, (H, W, 3), (D, H, W), ..., (S, F)
    type: str = "uint8"              # of its numbers as they are read
    window: tuple = None             # that a DICOM file states
    pages: bool = False              # more than the one that is read
    colors: bool = False             # 16 bits of which the upper 8 are read
    alpha: bool = False
    series: str = None               # of which a DICOM file is one slice
    patient: str = None              # that a DICOM file names

    @property
    def is_deep(self):
        """Does it need a window?"""
        return self.type not in ("uint8", "bool")

    @property
    def sides(self):
        """-> (height, width) of a picture, without the axis of its colors."""
        if len(self.shape) == 3 and self.shape[0] in (1, 3):
            return self.shape[1:]
        return self.shape[:2]


def read_header(path):
    """File -> Header. ValueError in one line for a file that cannot be read, as far as that is seen."""
    format = format_of(path)
    if format == "picture":
        with readable(path), open_picture(path) as picture:
            return look_at_picture(picture)
    values = read_values(path, only_header=True)
    shape = values.array.shape
    return Header(format, shape, values.array.dtype.name, values.window, values.pages,
                  alpha=format == "array" and shape[2:] == (4,),
                  series=values.series, patient=values.patient)


def look_at_picture(picture):
    """Pillow's picture, not decoded yet -> Header."""
    width, height = picture.size
    if picture.format == "TIFF":                                   # Pillow 11 has turned the sides of one
        width, height = (picture.tag_v2[tag] for tag in SIDES)
    if picture.format != "PNG" or "exif" in picture.info:          # else Pillow decodes it to look for one
        if picture.getexif().get(ORIENTATION, 1) >= 5:
            width, height = height, width
    type = {"I": "uint16", "F": "float32"}.get(picture.mode[0], "uint8")
    has_colors = has_16_bit_colors(picture)                        # before it is loaded
    if not is_whole(picture):
        picture.load()                                             # something follows, or it was cut off
    if has_colors:
        check_upper_bytes(picture)
    # the second picture of a phone's MPO is for its screen
    has_pages = picture.format != "MPO" and getattr(picture, "is_animated", False)
    return Header(picture.format, (height, width), type, pages=has_pages, colors=has_colors,
                  alpha=picture.has_transparency_data)


def is_whole(picture):
    """Is the end of a picture file where it belongs? Where that is not plain, False."""
    file = picture.fp
    begin = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 64))
    end = file.read()
    file.seek(begin)
    if picture.format == "TIFF":
        for starts, lengths in STRIPS:
            if starts in picture.tag_v2 and lengths in picture.tag_v2:
                return max(map(sum, zip(picture.tag_v2[starts], picture.tag_v2[lengths]))) <= size
    return ENDS.get(picture.format, b"no end") in end


def look_at_all(cohort, images=None):
    """-> {image: Header} of these images, by default of all. ValueError names the first that cannot be read.

    By several threads, as files on a disk in a network are waited for."""
    if cohort.pixels is not None:
        return {}
    if images is None:
        images = range(len(cohort.paths))
    paths = [cohort.paths[i] for i in images]
    groups = [paths[i:i + GROUP] for i in range(0, len(paths), GROUP)]
    headers = []
    with ThreadPoolExecutor(8) as pool:
        looked = pool.map(lambda group: [read_header(path) for path in group], groups)
        for group in tqdm(looked, "looking at files", len(groups), unit_scale=GROUP,
                          leave=False, disable=None):
            headers += group
    return dict(zip(images, headers))


# -----------------------------------------------------------------------------
# what kind of images they are


def axes_of(cohort):
    """-> how many axes a cohort's images have: 2, 3, or 0 for bags of vectors. The first image decides."""
    wanted = cohort.reading.axes
    if cohort.pixels is None and wanted != 3 and format_of(cohort.paths[0]) == "picture":
        return 2                                                   # also where it cannot be opened
    return axes_in(header_of(cohort, 0), wanted)


def header_of(cohort, i):
    """-> Header of image i."""
    if cohort.pixels is None:
        return read_header(cohort.paths[i])
    return Header("pixels", cohort.pixels.shape[1:])               # (h, w), (h, w, 3) or (d, h, w)


def axes_in(header, wanted=None):
    """-> 2, 3 or 0: how a file is to be read. wanted: 2 or 3, where there is a choice."""
    shape = header.shape
    axes = len(shape)
    if header.format == "array":
        if axes == 2 and wanted != 2 and header.type not in PIXEL_TYPES:
            return 0
        has_colors = axes == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3, 4))
        if axes == 2 or has_colors and min(header.sides) > 4 and wanted != 3:
            return 2
        return 3
    if wanted == 3 and header.pages:
        return 3
    if axes == 2 or shape[0] == 1 or shape[2] == 3:
        return 2
    return 3


def check_kinds(cohort, headers):
    """ValueError unless all files hold images of one kind, bags vectors of one length."""
    files = {}                                                     # kind -> the first such image
    for i, header in headers.items():
        axes = axes_in(header, cohort.reading.axes)
        kind = IMAGE_KINDS[axes]
        if axes == 0:
            kind += f" of {header.shape[1]} numbers"
        files.setdefault(kind, cohort.paths[i])
    if len(files) > 1:
        files = " and ".join(f"{kind} ({path})" for kind, path in files.items())
        raise ValueError(f"{cohort.name} holds {files}; need images of one kind")
