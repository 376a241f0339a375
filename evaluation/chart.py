"""An empty chart: a key, two axes with round ticks, and marks that lie where the axes say.

Its letters are large: the report shows a chart at half its size, on a phone at a little less.
"""
import numpy as np

from evaluation.canvas import AXIS, LEADING, MARGIN, Page, block_height, text_width, wrap
from evaluation.scales import round_ticks


WIDTH = 600                                          # between the axes, px
HEIGHT = 420
TICK = 8                                             # length of a tick, px
GAP = 20                                             # between an axis and what stands beside it, px
TEXT, SMALL = 30, 28                                 # sizes of letters, px


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
        share = (value - low) / (high - low)
        length = self.end - self.start
        return self.start + share * length


class Chart(Page):
    """A page with two axes, x and y; `x.px` and `y.px` say where values lie on it.

    width, height: of the space between the axes, px. key: [(text, color)], lines above the axes; done() hands
    them on as info["key"], for the alternative text."""

    def __init__(self, x, y, width=WIDTH, height=HEIGHT, key=()):
        room_left = max(60, y.widest())
        room_right = max(80, x.widest()) / 2
        self.left = MARGIN + GAP + room_left
        self.right = self.left + width
        page_width = self.right + room_right + MARGIN
        entries = [(wrap(text, page_width - 2 * MARGIN - 2 * GAP, SMALL), color) for text, color in key]
        key_height = sum(block_height(lines, SMALL) for lines, _ in entries)
        y_label = wrap(y.label, page_width - 2 * MARGIN, TEXT)
        x_label = wrap(x.label, width, TEXT)
        self.top = MARGIN + key_height + block_height(y_label, TEXT) + GAP
        self.bottom = self.top + height
        x_label_top = self.bottom + GAP + SMALL * LEADING
        page_height = x_label_top + block_height(x_label, TEXT) + MARGIN

        super().__init__(page_width, page_height)
        self.key = "; ".join(text for text, _ in key)
        self.draw_key(entries)
        middle = self.left + width / 2
        self.block(MARGIN, MARGIN + key_height, y_label, TEXT, AXIS)
        self.block(middle, x_label_top, x_label, TEXT, AXIS, anchor="ma")
        x.start, x.end = self.left, self.right
        y.start, y.end = self.bottom, self.top
        self.x = x
        self.y = y
        self.draw_x_axis(x.ticks)
        self.draw_y_axis(y.ticks)

    def draw_key(self, entries):
        top = MARGIN
        for lines, color in entries:
            self.box(MARGIN, top + 8, MARGIN + 18, top + 26, color)
            self.block(MARGIN + 2 * GAP, top, lines, SMALL)
            top += block_height(lines, SMALL)

    def draw_x_axis(self, ticks):
        bottom = self.bottom
        self.line([(self.left, bottom), (self.right, bottom)], AXIS)
        free_from = 0                                # names that would overlap are left out
        for value, name in ticks.items():
            x = self.x.px(value)
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
            y = self.y.px(value)
            tick = [(left - TICK, y), (left, y)]
            self.line(tick, AXIS)
            self.text(left - 2 * TICK, y, name, SMALL, AXIS, anchor="rm")

    def points(self, xs, ys):
        """Values on the axes -> [(x, y)], px."""
        return [(self.x.px(a), self.y.px(b)) for a, b in zip(xs, ys)]

    def marks(self, xs, ys, radius, color):
        for x, y in self.points(xs, ys):
            self.dot(x, y, radius, color)

    def curve(self, xs, ys, color, width=4):
        """A line with gaps at NaN, where a point between two gaps is a dot."""
        xs, ys = np.asarray(xs, float), np.asarray(ys, float)
        gaps = np.flatnonzero(~np.isfinite(ys))
        for part in np.split(np.arange(len(ys)), gaps):
            part = part[np.isfinite(ys[part])]
            points = self.points(xs[part], ys[part])
            if len(points) == 1:
                self.dot(*points[0], 7, color)
            elif points:
                self.line(points, color, width)

    def band(self, xs, low, high, color):
        """The area between two curves. color: with its opacity."""
        self.area(self.points(xs, low) + self.points(xs, high)[::-1], color)

    def done(self):
        image = super().done()
        image.info["key"] = self.key
        return image
