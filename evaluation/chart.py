"""An empty chart: a key, two axes with round ticks, and marks that lie where the axes say.

Its letters are large: the report shows a chart at half its size, on a phone at a little less.
"""
import math

import numpy as np

from evaluation.canvas import AXIS, LEADING, MARGIN, Page, block_height, text_width, wrap


WIDTH = 600                                          # between the axes, px
HEIGHT = 420
TICK = 8                                             # length of a tick, px
GAP = 20                                             # between an axis and what stands beside it, px
TEXT = 30                                            # sizes of letters, px
SMALL = 28


# -----------------------------------------------------------------------------
# round numbers


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
    air = (high - low) * pad
    if np.isclose(low, high, rtol=1e-9, atol=0):
        air = abs(low) / 10 or 0.5
    return low - air, high + air


def nice(step):
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= step * (1 - 1e-9))


def to_step(value, step):
    """Text that tells value from value + step."""
    if value == 0:
        return "0"
    decimals = -math.floor(math.log10(step) + 1e-9)
    return f"{value:,.{max(decimals, 0)}f}"


def multiples(step, low, high):
    """-> the multiples of a step from low to high, rounding forgiven."""
    return step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)


def round_ticks(limits, whole=False):
    """Two to seven {round value between the limits: its text}."""
    low, high = limits
    step = nice((high - low) / 6)
    if whole:
        step = max(step, 1)
    return {value: to_step(value, step) for value in multiples(step, low, high)}


def round_edges(values):
    """-> the edges of 9 to 21 bars around the values; they are round numbers, and one of them is 0."""
    low, high = limits(np.append(values, 0), pad=0)
    step = nice((high - low) / 20)
    air = step * (1 - 1e-6)                          # to the next multiple outside
    return multiples(step, low - air, high + air)


# -----------------------------------------------------------------------------
# a chart


class Axis:
    """limits: (low, high); whole: it counts something; names: {value: text} instead of round ticks.

    start, end: where the limits lie on the page, px; Chart sets them."""

    def __init__(self, limits, label="", whole=False, names=None):
        self.limits = limits
        self.label = label
        self.ticks = names
        if names is None:
            self.ticks = round_ticks(limits, whole)

    def widest(self):
        """The width of the widest name of a tick, px."""
        return max([text_width(name, SMALL) for name in self.ticks.values()], default=0)

    def px(self, value):
        low, high = self.limits
        return self.start + (value - low) / (high - low) * (self.end - self.start)


class Chart(Page):
    """A page with two axes, x and y; `x.px` and `y.px` say where values lie on it.

    width, height: of the space between the axes, px. key: [(text, color)], lines above the axes; the picture
    has them in info["key"], for the alternative text."""

    def __init__(self, x, y, width=WIDTH, height=HEIGHT, key=()):
        self.x = x
        self.y = y
        x.start = MARGIN + GAP + max(60, y.widest())
        x.end = x.start + width
        inside = x.end + max(80, x.widest()) / 2 - MARGIN
        entries = [(wrap(text, inside - 2 * GAP, SMALL), color) for text, color in key]
        y_label = wrap(y.label, inside, TEXT)
        x_label = wrap(x.label, width, TEXT)
        above = sum(block_height(lines, SMALL) for lines, _ in entries)
        y.end = MARGIN + above + block_height(y_label, TEXT) + GAP
        y.start = y.end + height
        below = y.start + GAP + SMALL * LEADING
        super().__init__(inside + 2 * MARGIN, below + block_height(x_label, TEXT) + MARGIN)

        self.image.info["key"] = "; ".join(text for text, _ in key)
        top = MARGIN
        for lines, color in entries:
            self.box(MARGIN, top + 8, MARGIN + 18, top + 26, color)
            self.block(MARGIN + 2 * GAP, top, lines, SMALL)
            top += block_height(lines, SMALL)
        self.block(MARGIN, top, y_label, TEXT, AXIS)
        self.block(x.start + width / 2, below, x_label, TEXT, AXIS, "ma")
        self.line([(x.start, y.end), (x.start, y.start), (x.end, y.start)], AXIS)
        self.draw_ticks()

    def draw_ticks(self):
        left = self.x.start
        bottom = self.y.start
        free_from = 0                                # names that would overlap are left out
        for value, name in self.x.ticks.items():
            x = self.x.px(value)
            self.line([(x, bottom), (x, bottom + TICK)], AXIS)
            half = text_width(name, SMALL) / 2
            if x - half >= free_from:
                self.text(x, bottom + 2 * TICK, name, SMALL, AXIS, "ma")
                free_from = x + half + TICK
        for value, name in self.y.ticks.items():
            y = self.y.px(value)
            self.line([(left - TICK, y), (left, y)], AXIS)
            self.text(left - 2 * TICK, y, name, SMALL, AXIS, "rm")

    def points(self, xs, ys):
        """Values on the axes -> [(x, y)], px."""
        return [(self.x.px(a), self.y.px(b)) for a, b in zip(xs, ys)]

    def marks(self, xs, ys, radius, color):
        for x, y in self.points(xs, ys):
            self.dot(x, y, radius, color)

    def curve(self, xs, ys, color):
        """A line with gaps at NaN, where a point between two gaps is a dot."""
        part = []
        for x, y in [*self.points(xs, ys), (0, math.nan)]:
            if not math.isnan(y):
                part.append((x, y))
                continue
            if len(part) == 1:
                self.dot(*part[0], 7, color)
            elif part:
                self.line(part, color, 4)
            part = []

    def upright(self, value, color, ends=None):
        """A vertical line at a value of x, between two values of y; by default all the way."""
        self.curve([value, value], ends or self.y.limits, color)
