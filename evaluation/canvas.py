"""Letters, colors, axes and ticks: what every chart is drawn with.
"""
import math
import textwrap
import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont


SCALE = 3
WIDTH, HEIGHT, MARGIN = 720, 480, 20  # of a chart, px
TITLE, TEXT, SMALL, LEADING = 21, 17, 15, 1.3  # sizes of letters, px; line height over size
INK, AXIS, GREY, BAR, PALE = (35, 35, 35), (95, 95, 95), (125, 125, 125), (198, 203, 208), (240, 240, 240)
ACCENT, MARK = (0, 114, 178), (0, 190, 255)  # of charts; of patches and boxes: seen on skin and on film
PALETTE = ACCENT, (213, 94, 0), (110, 110, 110), (0, 158, 115), (204, 121, 167), (230, 159, 0)  # Okabe and Ito 2008
HEAT = (38, 18, 84), (48, 72, 140), (30, 124, 142), (62, 172, 112), (172, 212, 62), (254, 238, 110)  # dark to light


@lru_cache
def font(size):
    return ImageFont.load_default(size)


def plain(text):
    """The text in letters that the font has."""
    text = unicodedata.normalize("NFKD", str(text).translate({0x2212: "-", 0x2013: "-", 0x2014: "-", 0xD7: "x"}))
    return "".join(c if c.isascii() else "?" for c in text if not unicodedata.combining(c))


def text_width(text, size):
    return font(size * SCALE).getbbox(text)[2] / SCALE


def wrap(text, width, size):
    """The fullest lines that fit in width px; a word longer than a line is cut."""
    text = plain(text)
    for letters in range(min(len(text), 200), 0, -1):
        lines = [line for part in text.split("\n") for line in textwrap.wrap(part, letters) or [""]]
        if letters == 1 or max(text_width(line, size) for line in lines) <= width:
            return lines
    return []


def block_height(lines, size):
    return math.ceil(len(lines) * size * LEADING)


class Page:
    """A white page; its units are final pixels."""

    def __init__(self, width, height):
        self.size = math.ceil(width), math.ceil(height)
        self.image = Image.new("RGB", (self.size[0] * SCALE, self.size[1] * SCALE), "white")
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def line(self, points, color, width=1.0):
        self.draw.line([(x * SCALE, y * SCALE) for x, y in points], color, round(width * SCALE), joint="curve")

    def box(self, x0, y0, x1, y1, color):
        x0, y0, x1, y1 = (round(v * SCALE) for v in (x0, y0, x1, y1))
        if x0 < x1 and y0 < y1:
            self.draw.rectangle([x0, y0, x1 - 1, y1 - 1], color)  # Pillow draws the last pixel too

    def dot(self, x, y, radius, color):
        self.draw.ellipse([v * SCALE for v in (x - radius, y - radius, x + radius, y + radius)], color)

    def text(self, x, y, lines, size=TEXT, color=INK, anchor="la"):
        for i, line in enumerate([lines] if isinstance(lines, str) else lines):
            self.draw.text((x * SCALE, (y + i * size * LEADING) * SCALE), line, color, font(size * SCALE), anchor)

    def done(self):
        return self.image.resize(self.size, Image.Resampling.LANCZOS)
