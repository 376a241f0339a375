"""An empty chart: a page with two axes, round ticks, and where values lie on it.

Its letters are large: the report shows a chart at half its size, on a phone at a little less.
"""
import math

import numpy as np

from evaluation.canvas import AXIS, BAR, LEADING, MARGIN, Page, block_height, text_width, wrap


WIDTH = 600                                          # between the axes, px
HEIGHT = 420
TICK = 8                                             # length of a tick, px
GAP = 20                                             # between an axis and what stands beside it, px
TEXT, SMALL = 30, 28                                 # sizes of letters, px


class Axis:
    """limits: (low, high); whole: it counts something.

    start, end: where the limits lie on the page, px; Chart sets them."""

    def __init__(self, limits, label="", whole=False):
        self.limits = limits
        self.label = label
        self.ticks = round_ticks(limits, whole)      # value: its text

    def widest(self):
        """The width of the widest name of a tick, px."""
        return max([text_width(name, SMALL) for name in self.ticks.values()], default=0)

    def px(self, value):
        low, high = self.limits
        share = (value - low) / (high - low)
        length = self.end - self.start
        return self.start + share * length


class Chart(Page):
    """A page with two axes, x and y; `x_px` and `y_px` say where values lie on it.

    width, height: of the space between the axes, px."""

    def __init__(self, x, y, width=WIDTH, height=HEIGHT):
        room_left = max(60, y.widest())
        room_right = max(80, x.widest()) / 2
        self.left = MARGIN + GAP + room_left
        self.right = self.left + width
        page_width = self.right + room_right + MARGIN
        y_label = wrap(y.label, page_width - 2 * MARGIN, TEXT)
        x_label = wrap(x.label, width, TEXT)
        self.top = MARGIN + block_height(y_label, TEXT) + GAP
        self.bottom = self.top + height
        x_label_top = self.bottom + GAP + SMALL * LEADING
        page_height = x_label_top + block_height(x_label, TEXT) + MARGIN

        super().__init__(page_width, page_height)
        middle = self.left + width / 2
        self.block(MARGIN, MARGIN, y_label, TEXT, AXIS)
        self.block(middle, x_label_top, x_label, TEXT, AXIS, anchor="ma")
        x.start = self.left
        x.end = self.right
        y.start = self.bottom
        y.end = self.top
        self.x_px = x.px
        self.y_px = y.px
        self.draw_x_axis(x.ticks)
        self.draw_y_axis(y.ticks)

    def draw_x_axis(self, ticks):
        bottom = self.bottom
        self.line([(self.left, bottom), (self.right, bottom)], AXIS)
        free_from = 0                                # names that would overlap are left out
        for value, name in ticks.items():
            x = self.x_px(value)
            tick = [(x, bottom), (x, bottom + TICK)]
            self.line(tick, AXIS)
            half = text_width(name, SMALL) / 2
            if x - half >= free_from:
                self.text(x, bottom + 2 * TICK, name, SMALL, AXIS, anchor="ma")
                free_from = x + half + TICK

    def draw_y_axis(self, ticks):
        left = self.left
        self.line([(left, self.top), (left, self.bottom)], AXIS)
        for value, name in ticks.items():
            y = self.y_px(value)
            tick = [(left - TICK, y), (left, y)]
            self.line(tick, AXIS)
            self.text(left - 2 * TICK, y, name, SMALL, AXIS, anchor="rm")

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
