"""DICOM files, read with pydicom where it is installed: their header, and their numbers with what they mean.

Rescale slope and intercept are applied, MONOCHROME1 is inverted, several frames are a volume. Refused in one
line: palettes, lookup tables, compressed files whose decoder is missing, sizes that the file cannot hold.
"""
from collections.abc import MutableSequence
from contextlib import suppress

from plumbing.formats import check_size, has_magic
from plumbing.grey import Values, centered, stand_in


LOOKUPS = {"ModalityLUTSequence", "VOILUTSequence", "SIGMOID", "PALETTE COLOR", "HSV"}


def open_dicom(path, with_pixels):
    """-> pydicom's Dataset. ValueError for what is not read, before memory is taken for the pixels."""
    from pydicom import dcmread, filereader, pixels                # from version 3
    if not has_magic(path):
        raise ValueError("lacks the letters DICM, with which a DICOM file begins after 128 bytes")
    syntax = filereader.read_file_meta_info(path).TransferSyntaxUID
    if syntax.is_deflated:
        raise ValueError("deflated DICOM is not read; convert it to another transfer syntax")
    if syntax.is_compressed and not pixels.get_decoder(syntax).is_available:
        raise ValueError('is compressed, and its decoder is missing: pip install "pylibjpeg[all]"')
    dataset = dcmread(path, stop_before_pixels=not with_pixels)
    if "Rows" not in dataset or "PhotometricInterpretation" not in dataset:
        raise ValueError("holds no picture, as a report or a plan; leave it out of the table")
    stated = [name for name in dataset.dir("LUTSequence") if dataset.get(name)]      # some are empty
    stated += [dataset.PhotometricInterpretation, dataset.get("VOILUTFunction")]
    lookups = LOOKUPS.intersection(stated)
    if "WindowWidth" in dataset:                                   # which says the same
        lookups.discard("VOILUTSequence")
    if lookups:
        raise ValueError(f"{', '.join(lookups)}, by which its numbers are looked up, is not read; convert it "
                         "to plain numbers")
    if dataset.get("HighBit", 0) >= dataset.get("BitsStored", 16):
        raise ValueError("has its numbers in the upper bits, which pydicom leaves out; convert it to plain "
                         "numbers")
    # of colors that share their chroma (YBR_FULL_422) two thirds
    check_size(path, pixels.utils.get_expected_length(dataset), packed=syntax.is_compressed)
    return dataset


def number(dataset, name):
    """A number of the file, the first of several, or what its frames have in common; None without one."""
    values = [dataset.get(name)]
    if name not in dataset:                                        # enhanced files have it deep inside
        values = [element.value for element in dataset.iterall() if element.keyword == name] or [None]
    if len(set(map(str, values))) > 1:
        raise ValueError(f"its frames differ in {name}")
    value = values[0]
    if isinstance(value, MutableSequence):
        value = value[0]
    return None if value in (None, "") else float(value)


def read_dicom(path, only_header):
    """-> Values of shape (H, W), (H, W, 3) or (D, H, W)."""
    dataset = open_dicom(path, not only_header)
    shape = dataset.Rows, dataset.Columns
    frames = dataset.get("NumberOfFrames") or 1
    samples = dataset.get("SamplesPerPixel", 1)
    if min(frames, samples, *shape) < 1 or min(frames, samples) > 1:
        raise ValueError(f"says it has {frames} frames of {shape} and {samples} samples per pixel; need one "
                         "frame in color, or grey ones")
    if samples > 1:
        shape = *shape, samples
    elif frames > 1:
        shape = frames, *shape
    if only_header:
        kind = "int" if dataset.get("PixelRepresentation") else "uint"
        array = stand_in(shape, f"{kind}{max(8, dataset.BitsAllocated)}")
    else:
        from pydicom.pixels import pixel_array                     # makes RGB of YBR
        array = pixel_array(dataset)
    if array.shape != shape:
        raise ValueError(f"holds {array.shape}, its header says {shape}")
    values = Values(array, patient=str(dataset.get("PatientID") or ""))
    if array.ndim == 2:
        values.series = dataset.get("SeriesInstanceUID")
    if samples == 1:                                               # colors are taken as they are
        values.slope = number(dataset, "RescaleSlope") or 1.0
        values.intercept = number(dataset, "RescaleIntercept") or 0.0
        values.inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
        values.padding = dataset.get("PixelPaddingValue")
        with suppress(ValueError):                                 # frames that differ have none in common
            center = number(dataset, "WindowCenter")
            width = number(dataset, "WindowWidth") or 0
            if center is not None and width >= 2:
                values.window = centered(center, width)
    return values
