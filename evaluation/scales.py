"""Round numbers for the axes of charts: limits, ticks, and edges of bars.
"""
import math

import numpy as np


def finite(values):
    values = np.asarray(values, float).ravel()
    return values[np.isfinite(values)]


def limits(values, pad=0.04):
    """(low, high) around the finite values with some air; (0, 1) when there are none."""
    values = finite(values)
    if len(values) == 0:
        return 0, 1
    low = float(values.min())
    high = float(values.max())
    if high - low > 1e-9 * max(abs(low), abs(high)):
        air = (high - low) * pad
    elif low != 0:                                   # all values are the same
        air = abs(low) / 10
    else:
        air = 0.5
    return low - air, high + air


def nice(step):
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    for round_step in (power, 2 * power, 5 * power):
        if round_step >= step * (1 - 1e-9):
            return round_step
    return 10 * power


def number(value, step):
    """Text that tells value from value + step."""
    if value == 0:
        return "0"
    decimals = -math.floor(math.log10(step) + 1e-9)
    return f"{value:,.{max(decimals, 0)}f}"


def round_ticks(limits, whole=False):
    """Two to eight {round value between the limits: its text}."""
    low, high = limits
    step = nice((high - low) / 6)
    if whole:
        step = max(step, 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    values = [k * step for k in range(first, last + 1)]
    return {value: number(value, step) for value in values}


def round_edges(values):
    """-> the edges of about 20 bars around the values; they are round numbers, and one of them is 0."""
    low, high = limits(np.append(values, 0), pad=0)
    step = nice((high - low) / 20)
    first = np.floor(low / step + 1e-9)
    last = np.ceil(high / step - 1e-9)
    return step * np.arange(first, last + 1)
