"""Windows: which numbers of an image become the grey values 0 .. 255, where it holds more than 8 bits.

A window is (low, high): low becomes 0, high 255, and what lies outside is cut off. A run has one window for
all of its images, which `fit_window` finds in training images. 8-bit images are taken as they are, unless a
DICOM file states a window for them.

    auto           the window that a DICOM file states, else one that holds 99 % of the image's own numbers
    own            each image, and each channel of a volume, from its lowest number to its highest
    CENTER,WIDTH   as radiologists say it; written with = where the center is negative: --window=-600,1500
    LOW:HIGH,...   what fit_window found, one pair per channel of a volume
"""
from contextlib import suppress
from dataclasses import dataclass

import numpy as np


SHARE = 0.5                          # per cent of the numbers that a fitted window leaves out at either end
SLAB = 2 ** 20                       # numbers that are scaled at once: float64 takes eight times their bytes
SAMPLE = 100_000                     # numbers of an image by which a window is chosen, evenly spaced
ENDS = (1023, 4095, 16383, 32767, 65535, -32768)                   # of 10, 12, 14 and 16 bits


@dataclass
class Values:
    """The numbers of an image as the file stores them, and what they mean: slope * number + intercept."""
    array: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    window: tuple = None             # that a DICOM file states, in what the numbers mean
    inverted: bool = False           # the lowest number is white
    padding: float = None            # a number in the file that says nothing, outside of what was imaged
    pages: bool = False              # of several volumes the first
    series: str = None               # of which a DICOM file is one slice
    patient: str = None              # that a DICOM file names


def stand_in(shape, type):
    """-> an array of that shape and type which takes no memory: where a file's header is all that is read."""
    return np.broadcast_to(np.zeros((), type), shape)


def parse_window(text):
    """--window -> "auto", "own", or a list of (low, high). ValueError for anything else."""
    if text in ("auto", "own"):
        return text
    with suppress(ValueError):                                     # words, or more numbers, or fewer
        if ":" in text:
            windows = [tuple(map(float, pair.split(":"))) for pair in text.split(",")]
        else:
            center, width = map(float, text.split(","))
            windows = [centered(center, width)]
        if all(low < high and np.isfinite(high - low) for low, high in windows):
            return windows
    raise ValueError(f"--window {text}: need auto, own, CENTER,WIDTH (two numbers, the second above 1; "
                     "with = where the first is negative) or LOW:HIGH")


def centered(center, width):
    """Center and width of a window as in DICOM (PS3.3, C.11.2.1.2) -> (low, high)."""
    low = center - 0.5 - (width - 1) / 2
    return low, low + width - 1


def to_grey(values, choice="auto", channel=0):
    """Values of one channel -> uint8 of the same shape. choice: as parse_window returns it."""
    array = values.array
    if array.dtype == np.uint8 and (choice != "auto" or values.window is None):
        grey = np.asarray(array)
        if values.slope < 0:                                       # the lowest number means the most
            grey = 255 - grey
    else:
        low, high = find_window(values, choice, channel)
        low = (low - values.intercept) / values.slope
        span = (high - values.intercept) / values.slope - low      # negative where the slope is
        if abs(span) < 1e-12:
            span = 1e-12
        grey = np.empty(array.shape, np.uint8)
        slabs = array.size // SLAB + 1
        for numbers, slab in zip(np.array_split(array, slabs), np.array_split(grey, slabs)):
            slab[:] = np.clip(255 * (numbers.astype(np.float64) - low) / span, 0, 255)
    return 255 - grey if values.inverted else grey


def find_window(values, choice, channel=0):
    """-> (low, high), in what the numbers mean. channel: for a choice with a window for each."""
    if values.array.dtype == bool:
        return 0.0, 1.0
    if isinstance(choice, list):
        if len(choice) == 1:
            return choice[0]
        if channel >= len(choice):
            raise ValueError(f"channel {channel + 1} has no window, there are {len(choice)}")
        return choice[channel]
    if choice == "own":
        edges = np.array([values.array.min(), values.array.max()], np.float64)
        return tuple(values.slope * edges + values.intercept)
    if values.window is not None:
        return values.window
    return percentiles(sample(values, SAMPLE))


def sample(values, count):
    """-> about so many numbers of an image, evenly spaced over it, in what they mean.

    ENDS do not count where they are the highest or the lowest, nor the padding that the file states, nor what
    without_markers takes away: they are saturated, padding, or a burnt-in marker."""
    array = values.array
    step = max(1, array.size // count) | 1                         # odd: no multiple of the usual widths
    numbers = array.flat[::step]
    kept = numbers[numbers != values.padding]
    for end in (numbers.max(), numbers.min()):
        if float(end) in ENDS:                                     # a float16 would overflow at 65535
            kept = kept[kept != end]
    if kept.size == 0:
        kept = numbers
    return values.slope * without_markers(kept.astype(np.float64)) + values.intercept


def without_markers(numbers):
    """-> the numbers without the highest, and without the lowest if it is negative, where it is farther from
    the next than all others are from each other: it is no brightness then, as 32767 in a film of 12 bits, or
    -9999 or -1e30 outside of a brain."""
    levels = np.unique(numbers)
    if len(levels) < 16:
        return numbers
    low, second = levels[:2]
    last, high = levels[-2:]
    spread = last - second
    if high - last > spread:
        high = last
    if low < 0 and second - low > spread:
        low = second
    return numbers[(numbers >= low) & (numbers <= high)]


def percentiles(numbers):
    """-> (low, high), between which all numbers lie but SHARE per cent at either end.

    Where these are equal, as in an image that is nearly empty, lowest and highest count."""
    low, high = np.percentile(numbers, (SHARE, 100 - SHARE))
    if low == high:
        low = numbers.min()
        high = numbers.max()
    return float(low), float(high)


def fit_window(images):
    """[[sample of a channel]], an entry per image -> "LOW:HIGH,...", one per channel.

    Images weigh the same if their samples are equally large."""
    windows = []
    for channels in zip(*images):
        low, high = percentiles(np.concatenate(channels))
        if low == high:
            high = low + 1
        windows.append(f"{low:.7g}:{high:.7g}")
    return ",".join(windows)
