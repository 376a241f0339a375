"""An empty chart: a page with two axes, round ticks, and where values lie on it.

Its letters are large: the report shows a chart at half its size, on a phone at a little less.
"""
import math

import numpy as np

from evaluation.canvas import (
    AXIS, BAR, GREY, LEADING, MARGIN, Page, block_height, text_width, wrap,
)


WIDTH = 600                                          # between the axes, px
HEIGHT = 420
TICK = 8                                             # length of a tick, px
GAP = 20                                             # between an axis and what stands beside it, px
TITLE, TEXT, SMALL = 34, 30, 28                      # sizes of letters, px


class Axis:
    """limits: (low, high), None without data; log: a logarithmic scale; whole: it counts something."""

    def __init__(self, limits, label="", log=False, whole=False):
        self.limits = limits
        self.label = label
        self.log = log
        self.ticks = {}                              # value: its text
        if limits is not None:
            low, high = limits
            self.ticks = round_ticks(low, high, log, whole)

    def share(self, value):
        """0 at the low end of the axis, 1 at the high end."""
        low, high = self.limits
        if self.log:
            value = math.log10(value)
            low = math.log10(low)
            high = math.log10(high)
        return (value - low) / (high - low)


class Chart(Page):
    """A page with two axes, x and y; `x_px` and `y_px` say where values lie on it.

    width, height: of the space between the axes, px; room: for names at its right, px."""

    def __init__(self, x, y, title="", width=WIDTH, height=HEIGHT, room=0):
        self.x = x
        self.y = y
        x_widths = [text_width(name, SMALL) for name in x.ticks.values()]
        y_widths = [text_width(name, SMALL) for name in y.ticks.values()]
        half_name = max(x_widths + [80]) / 2
        self.left = MARGIN + GAP + max(y_widths + [60])
        self.right = self.left + width
        page_width = self.right + max(half_name, room) + MARGIN
        inside = page_width - 2 * MARGIN
        title = wrap(title, inside, TITLE)
        y_label = wrap(y.label, inside, TEXT)
        x_label = wrap(x.label, width, TEXT)
        y_label_top = MARGIN + block_height(title, TITLE)
        y_label_bottom = y_label_top + block_height(y_label, TEXT)
        self.top = y_label_bottom + GAP
        self.bottom = self.top + height
        x_label_top = self.bottom + GAP + SMALL * LEADING
        x_label_bottom = x_label_top + block_height(x_label, TEXT)

        super().__init__(page_width, x_label_bottom + MARGIN)
        middle = self.left + width / 2
        self.block(MARGIN, MARGIN, title, TITLE)
        self.block(MARGIN, y_label_top, y_label, TEXT, AXIS)
        self.block(middle, x_label_top, x_label, TEXT, AXIS, anchor="ma")
        if x.limits is None:
            center = self.top + height / 2
            self.text(middle, center, "no data", TEXT, GREY, anchor="mm")
        self.draw_x_axis()
        self.draw_y_axis()

    def draw_x_axis(self):
        bottom = self.bottom
        names_top = bottom + 2 * TICK
        corner = self.left, bottom
        self.line([corner, (self.right, bottom)], AXIS)
        free_from = 0                                # names that would overlap are left out
        for value, name in self.x.ticks.items():
            x = self.x_px(value)
            tick = [(x, bottom), (x, bottom + TICK)]
            self.line(tick, AXIS)
            half = text_width(name, SMALL) / 2
            if x - half < free_from:
                continue
            self.text(x, names_top, name, SMALL, AXIS, anchor="ma")
            free_from = x + half + TICK

    def draw_y_axis(self):
        left = self.left
        names_right = left - 2 * TICK
        corner = left, self.bottom
        self.line([(left, self.top), corner], AXIS)
        for value, name in self.y.ticks.items():
            y = self.y_px(value)
            tick = [(left - TICK, y), (left, y)]
            self.line(tick, AXIS)
            self.text(names_right, y, name, SMALL, AXIS, anchor="rm")

    def x_px(self, value):
        length = self.right - self.left
        return self.left + self.x.share(value) * length

    def y_px(self, value):
        length = self.bottom - self.top
        return self.bottom - self.y.share(value) * length

    def mark(self, a, b, radius, color):
        """A dot at value a of the x axis and b of the y axis."""
        self.dot(self.x_px(a), self.y_px(b), radius, color)

    def vertical(self, value, color, width=2):
        x = self.x_px(value)
        ends = [(x, self.top), (x, self.bottom)]
        self.line(ends, color, width)

    def diagonal(self):
        """The line y = x, where both axes have the same limits."""
        low = self.left, self.bottom
        high = self.right, self.top
        self.line([low, high], BAR, width=3)


# -----------------------------------------------------------------------------
# limits and ticks


def finite(values):
    values = np.asarray(values, float).ravel()
    return values[np.isfinite(values)]


def limits(values, log=False, pad=0.04):
    """(low, high) around the finite values with some air, or None when there are none."""
    values = finite(values)
    if len(values) == 0:
        return None
    low = float(values.min())
    high = float(values.max())
    if log:
        powers = math.log10(low), math.log10(high)
        low, high = limits(powers, pad=pad)
        return 10**low, 10**high
    largest = max(abs(low), abs(high))
    if high - low > 1e-9 * largest:
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


def number(value, step, largest=0):
    """Text that tells value from value + step.

    It has an exponent once the largest value on the axis reaches a million."""
    if value == 0:
        return "0"
    decimals = -math.floor(math.log10(step) + 1e-9)
    largest = max(abs(value), largest)
    if step >= 1e-4 and largest < 1e6:
        decimals = max(decimals, 0)
        return f"{value:,.{decimals}f}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    digits = max(decimals + power, 0)
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def round_ticks(low, high, log=False, whole=False):
    """Two to eight {round value in [low, high]: its text}."""
    if log:
        values = powers_of_ten(low, high)
        if len(values) > 1:
            return {value: number(value, value) for value in values}
    step = nice((high - low) / 6)
    if whole:
        step = max(step, 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    values = [k * step for k in range(first, last + 1)]
    largest = max(-low, high)
    return {value: number(value, step, largest) for value in values}


def powers_of_ten(low, high):
    """At most seven or so in [low, high]; where there are fewer than three, also 2 and 5 times a power."""
    first = math.ceil(math.log10(low) - 1e-9)
    last = math.floor(math.log10(high) + 1e-9)
    count = last - first + 1
    every = max(1, math.ceil(count / 7))
    values = [10.0**k for k in range(first, last + 1, every)]
    if len(values) < 3:
        values = []
        for k in range(first - 1, last + 2):
            power = 10.0**k
            values += [power, 2 * power, 5 * power]
    return [value for value in values if low <= value <= high]
