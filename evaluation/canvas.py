"""A white page to draw on: lines, areas, boxes, dots and letters, in pixels.

A page is drawn SCALE times too large and reduced once, which makes lines and letters smooth.
Pillow's built-in font has little but ASCII: accents are dropped, long dashes become "-", the rest "?".
"""
import math
import textwrap
import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont


SCALE = 2
MARGIN = 20                                          # around everything, px
LEADING = 1.3                                        # height of a line over the size of its letters
INK = (35, 35, 35)                                   # colors: red, green, blue
AXIS = (95, 95, 95)
BAR = (198, 203, 208)
PALE = (240, 240, 240)
ACCENT = (0, 114, 178)
PALETTE = [ACCENT, (213, 94, 0), (110, 110, 110),    # lines that can be told apart: Okabe and Ito 2008
           (0, 158, 115), (204, 121, 167), (230, 159, 0)]
DASHES = {0x2212: "-", 0x2013: "-", 0x2014: "-", 0xD7: "x"}


@lru_cache
def font(size):
    return ImageFont.load_default(size)


def plain(text):
    """The text in letters that the font has."""
    letters = unicodedata.normalize("NFKD", str(text).translate(DASHES))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return letters.encode("ascii", "replace").decode()


def text_width(text, size):
    return font(size * SCALE).getbbox(plain(text))[2] / SCALE


def wrap(text, width, size):
    """The fullest lines that fit in width px; a word longer than a line is cut."""
    text = plain(text)
    lines = []
    for letters in range(min(len(text), 200), 0, -1):
        lines = textwrap.wrap(text, letters)
        if all(text_width(line, size) <= width for line in lines):
            break
    return lines


def block_height(lines, size):
    return math.ceil(len(lines) * size * LEADING)


def enlarged(points):
    return [(x * SCALE, y * SCALE) for x, y in points]


class Page:
    """A white page; its units are pixels of the picture that `done` returns."""

    def __init__(self, width, height):
        self.image = Image.new("RGB", (math.ceil(width) * SCALE, math.ceil(height) * SCALE), "white")
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def line(self, points, color, width=2):
        self.draw.line(enlarged(points), color, width * SCALE, joint="curve")

    def box(self, x0, y0, x1, y1, color):
        x0, y0, x1, y1 = (round(v * SCALE) for v in (x0, y0, x1, y1))
        if x0 < x1 and y0 < y1:
            self.draw.rectangle([x0, y0, x1 - 1, y1 - 1], color)     # Pillow draws the last pixel too

    def area(self, points, color):
        self.draw.polygon(enlarged(points), color)

    def dot(self, x, y, radius, color):
        self.draw.ellipse(enlarged([(x - radius, y - radius), (x + radius, y + radius)]), color)

    def text(self, x, y, text, size, color=INK, anchor="la"):
        """One line; anchor: Pillow's, such as "la" left and above, "mm" in the middle, "rm" at the right."""
        self.draw.text((x * SCALE, y * SCALE), plain(text), color, font(size * SCALE), anchor)

    def block(self, x, y, lines, size, color=INK, anchor="la"):
        """Several lines, one below the other."""
        for i, line in enumerate(lines):
            self.text(x, y + i * size * LEADING, line, size, color, anchor)

    def done(self):
        """-> the page as a PIL image."""
        return self.image.reduce(SCALE)
