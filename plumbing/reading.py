"""How a run reads its images: every file is looked at, a window is chosen, and a line says what this means.
"""
from collections import defaultdict
from dataclasses import replace

import numpy as np

from plumbing.cohort import Reading
from plumbing.fit import lost_shape
from plumbing.grey import fit_window, parse_window, percentiles, sample
from plumbing.headers import IMAGE_KINDS, axes_in, axes_of, check_kinds, look_at_all
from plumbing.patients import identity
from plumbing.pictures import read_numbers
from plumbing.tables import shortlist


IMAGES = 30                          # training images that a window is fitted to
NUMBERS = 10_000                     # of each of these
FLAT = 0.05                          # of a window that an image fills, below which a line says so
LOST = 0.1                           # share of a picture's shape, above which a line says so
NOTES = (                            # what a header has, and what becomes of it
    ("pages", "several pages, frames or volumes: the first is read, unless --image DEPTHxHEIGHTxWIDTH makes "
              "a volume of the pages or frames"),
    ("colors", "colors of 16 bits: the upper 8 are read"),
    ("alpha", "an alpha channel: what is transparent is black in a picture"),
)


def reading_of(args):
    """Flags -> Reading. --image with two or three sides says how a file that may be either is read."""
    sides = len((args.image or "").split("x"))
    return Reading(parse_window(args.window), args.fit, sides if sides > 1 else None)


def look_before(args, cohort, images=None):
    """-> {image: Header} of these images, by default of all, with --no-check-files of none. ValueError for an
    image that cannot be read."""
    if not args.check_files:
        return {}
    headers = look_at_all(cohort, images)
    check_kinds(cohort, headers)
    return headers


# -----------------------------------------------------------------------------
# the window of a run


def choose_window(args, cohort, headers, train):
    """Write the run's window into args and the cohort; -> lines about it. headers: for {} some are read."""
    if not headers:
        headers = look_at_all(cohort, evenly(train))
    notes = []
    if args.window == "auto" and None in windows_of(cohort, headers).values():
        deep = {i for i, header in headers.items() if header.is_deep}
        images = evenly([i for i in train if i in deep] or list(deep))
        args.window = fit_window([sample_channels(cohort, i) for i in images])
        cohort.reading = replace(cohort.reading, window=parse_window(args.window))
        notes = [f"the window is fitted to {len(images)} training images: 99 % of their numbers lie in it"]
    return notes + notes_on_window(args, cohort, headers)


def evenly(images, count=IMAGES):
    """-> at most so many of them, evenly spaced from the first to the last."""
    return [images[int(place)] for place in np.linspace(0, len(images) - 1, min(count, len(images)))]


def windows_of(cohort, headers):
    """-> {image: the window that its file states, or None} of those that a window applies to."""
    if axes_of(cohort) == 0:                                       # vectors are taken as they come
        return {}
    return {i: header.window for i, header in headers.items()
            if header.is_deep or header.window and cohort.reading.window == "auto"}


def look_at_new(args, cohort, images=None):
    """-> lines about the files of images, by default of all, that a run has not seen in training."""
    headers = look_before(args, cohort, images)
    return notes_on_files(headers, cohort) + notes_on_window(args, cohort, headers)


def notes_on_window(args, cohort, headers):
    """-> lines about what the window makes of images, and a warning where it is not made for them."""
    deep = windows_of(cohort, headers)
    count = len(headers)
    if cohort.pixels is not None:                                  # they have no headers
        count = len(cohort.pixels)
    start = ""
    if args.window != "auto":
        note = f": --window={args.window} becomes 0 .. 255"
    elif deep:
        note = (" or state a window, and the run has none: of each the one that its file states, or else "
                "99 % of its own numbers, become 0 .. 255")
        if None in deep.values():
            start = "WARNING: "
    else:
        return []
    if len(deep) < count:
        start = "WARNING: "
        note += ", the others are taken as they are"
    note = f"{start}{len(deep)} of {count} images hold more than 8 bits{note}"
    return [note] + note_on_range(cohort, evenly(list(deep)))


def note_on_range(cohort, images):
    """-> a warning where images fill little of the run's window, in a list."""
    if isinstance(cohort.reading.window, str):                     # each has its own
        return []
    low, high = cohort.reading.window[0]
    flat = []
    for i in images:
        ends = percentiles(sample_channels(cohort, i)[0])
        if np.ptp(np.clip(ends, low, high)) < FLAT * (high - low):
            flat.append(cohort.paths[i])
    if not flat:
        return []
    return [f"WARNING: {len(flat)} of {len(images)} images fill less than {FLAT:.0%} of the run's window, as "
            f"{flat[0]}: are their numbers on another scale?"]


def sample_channels(cohort, i):
    """-> a sample of the numbers of image i, one per channel of a volume."""
    values = read_numbers(cohort.paths[i], axes_of(cohort))
    channels = values.array if values.array.ndim == 4 else [values.array]
    return [sample(replace(values, array=channel), NUMBERS) for channel in channels]


# -----------------------------------------------------------------------------
# in words


def by_x(shape):
    return " x ".join(map(str, shape))


def notes_on_files(headers, cohort, size=()):
    """-> lines: what is read of files that leave a choice, what --fit costs, and whom the files name. size:
    the model's (h, w)."""
    reading = cohort.reading
    notes = note_on_fit(headers, size, reading.fit) + note_on_patients(headers, cohort)
    headers = list(headers.values())
    arrays = [header for header in headers if header.format == "array"]
    if arrays:
        first = arrays[0]
        kind = IMAGE_KINDS[axes_in(first, reading.axes)]
        notes.append(f"{len(arrays)} arrays, the first of {by_x(first.shape)} {first.type}, are read as "
                     f"{kind}; --image with two sides asks for pictures, with three for volumes")
    series = [header.series for header in headers if header.series]
    if len(set(series)) < len(series):
        notes.append(f"{len(series)} DICOM files are slices of {len(set(series))} series: each is read as a "
                     "picture of its own; saved as one NIfTI or .npy file, a series is a volume")
    for name, consequence in NOTES:
        count = sum(getattr(header, name) for header in headers)
        if count:
            notes.append(f"{count} of {len(headers)} files hold {consequence}")
    return notes


def note_on_patients(headers, cohort):
    """-> a warning where DICOM files of one PatientID belong to several patients of the cohort, in a list."""
    patients_of = defaultdict(set)
    for i, header in headers.items():
        if header.patient:
            patients_of[identity(header.patient)].add(cohort.patients[i])
    several = [patients for patients in patients_of.values() if len(patients) > 1]
    if not several or len(patients_of) == 1:                       # one for all is none
        return []
    return [f"WARNING: of {len(patients_of)} PatientIDs in the DICOM files {len(several)} belong to several "
            f"patients here, as to {shortlist(sorted(several[0])[:2])}: one person may be in two splits; a "
            "table with these ids as patient_id keeps them together"]


def note_on_fit(headers, size, fit):
    """-> a line, where more than LOST of the shape of pictures is lost. size: the model's (h, w)."""
    if len(size) != 2:
        return []
    losses = [(lost_shape(header.sides, size, fit), header.sides) for header in headers.values()]
    large = [loss for loss in losses if loss[0] > LOST]
    if not large:
        return []
    most, sides = max(large)
    return [f"{len(large)} of {len(headers)} pictures lose more than {LOST:.0%} (at most {most:.0%}, of "
            f"{by_x(sides)} px) of their shape or area by --fit {fit}; --fit pad keeps both"]
