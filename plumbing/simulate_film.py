"""How a chest film is drawn: lungs, heart, vessels, bones, any of six findings with boxes, and the exposure.

    Cardiomegaly     a heart wider by 7 to 14 % of the film
    Effusion         fluid that fills a lung from below, higher at the wall
    Consolidation    a patchy haze without a sharp edge, about a sixth of the film wide
    Nodule           one to four round spots
    Pneumothorax     a fine line high in the lung, and no vessels beyond it
    Fibrosis         a fine net at the base of both lungs

Maps are (FILM, FILM), and positions run from -1 to 1: x < 0 is the patient's right lung, shown on the left.
The sum of what a ray meets is the density t of its pixel. The film is 1 - exp(-t), so that dense parts
saturate as they do on film. A side is -1 or 1, and out = side * x grows from the midline to the chest wall.
"""
import math
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw

from plumbing.drawing import bell, frame, limbs, noise, ramp, resize, to_image


FILM = 192                                      # px, side of a film
SHAPE = (FILM, FILM)
TORSO = """
     0     -1.4   0.3     0     -0.7   0.3
    -0.75  -0.62  0.3     0.75  -0.62  0.3
    -0.3   -0.2   0.7    -0.3    1.4   0.72
     0.3   -0.2   0.7     0.3    1.4   0.72
    -1     -0.5   0.25   -1.15   1     0.2
     1     -0.5   0.25    1.15   1     0.2"""
GREAT_VESSELS = """
     0.02  -1.2   0.12    0.02   1.4   0.14
     0.1   -0.3   0.13    0.04   0.1   0.17"""


# -----------------------------------------------------------------------------
# a healthy chest


def lung_depth(out, y, base, wide, tall):
    """Depth inside the lung of one side: an oval, cut at `base` by the dome of the diaphragm."""
    across = (out - 0.42) / (wide * (0.36 + 0.07 * y))
    along = (y - 0.1) / (0.88 * tall)
    dome = base + 0.9 * (out - 0.3) ** 2
    return np.minimum(
        1 - abs(across) ** 2.5 - abs(along) ** 2.5,
        (dome - y) * 2.5)


def inside(depth):
    """A lung as a soft mask."""
    return ramp(depth - 0.05, 0.12)


def lung_vessels(rng, out, y):
    """Vessels leave the hilum, the root of the lung, as rays and fade with the distance."""
    dx = out - 0.16
    dy = y + 0.05
    distance = np.hypot(dy, dx)
    angle = (np.arctan2(dy, dx) + 0.18 * noise(rng, SHAPE, 9)).clip(-math.pi, math.pi)
    rays = resize(                              # by angle and distance
        rng.standard_normal((34, 9), np.float32),
        (256, 32)
    )[
        ((angle + math.pi) * 40.5).astype(int),
        (distance * 32).clip(0, 31).astype(int)]
    return (
        rays.clip(0, 2)
        * np.exp(-distance / 0.35) * 0.35
        * ramp(distance - 0.1, 0.2)
        + 0.3 * bell(distance, 0.12))


def draw_lungs(rng, x, y, base, wide, tall):
    """Return {side: depth inside its lung} and the vessels of both."""
    depths = {}
    vessels = np.zeros_like(x)
    for side in (-1, 1):
        lower = 0.04 if side > 0 else 0         # the left half of the diaphragm stands lower
        dome = base + lower + rng.uniform(-0.1, 0.06)
        depths[side] = lung_depth(x * side, y, dome, wide, tall)
        vessels += inside(depths[side]) * lung_vessels(rng, x * side, y)
    return depths, vessels


def draw_heart(x, y, size):
    """Depth inside a heart, which lies aslant, y below its center; `size` is half its width."""
    x = x - (0.06 + 0.3 * (size - 0.28))
    y = y - 0.25 * x
    return 1 - np.hypot(x / size, y / (0.85 * size))


def draw_bones(density, body, x, y, spacing):
    """Add the spine, the air of the windpipe before it, ribs and clavicles to the density."""
    out = abs(x)
    density += (                                # spine
        0.12 * bell(x, 0.1, 4)
        * body
        * (1 + 0.4 * np.cos(40 * y)))
    density -= (                                # windpipe
        0.25 * bell(x - 0.01, 0.05)
        * ramp(-0.35 - y, 0.2)
        * body)
    cage = (
        ramp(0.85 - out, 0.1)
        * ramp(0.6 - abs(y), 0.3)
        * body)
    for slope, bend, dense in (
            (-0.25, 0.5, 0.14),                 # ribs behind
            (0.55, 0, 0.06)):                   # ribs in front
        height = (y - slope * out - bend * x * x) / spacing
        waves = np.cos(2 * math.pi * height)
        density += dense * ramp(waves - 0.45, 0.5) * cage
    density += (                                # clavicles
        0.3 * bell(y + 0.62 + 0.25 * (out - 0.4), 0.05)
        * ramp(0.7 - out, 0.1)
        * ramp(out - 0.1, 0.1))


def draw_chest(rng, wide, tall, heart_size, spacing):
    """Return the maps of a chest without findings, but for the size of its heart."""
    x, y = frame(rng, SHAPE, tilt=2, zoom=0.03, shift=0.03)
    breath = rng.uniform(-0.04, 0.04)
    body = ramp(limbs(TORSO, x, y), 0.1)
    density = body * (1 + 0.08 * noise(rng, SHAPE, 5))
    density *= 1.0 + 0.9 * ramp(y - 0.45, 0.5)
    depths, vessels = draw_lungs(rng, x, y, 0.5 + breath, wide, tall)
    lung = np.maximum(inside(depths[-1]), inside(depths[1]))
    heart = draw_heart(x, y - (0.3 + breath), heart_size)
    middle = body * np.maximum(
        ramp(heart, 0.16),
        ramp(limbs(GREAT_VESSELS, x, y), 0.35))
    density *= 1 - 0.72 * lung * (1 - middle)
    density += middle * (0.55 - 0.35 * ramp(y - 0.5, 0.3))
    draw_bones(density, body, x, y, spacing)
    return SimpleNamespace(
        x=x, y=y,
        density=density,
        lung=lung, depths=depths,               # both sides together; each side
        vessels=vessels,
        heart=heart,
        middle=middle,                          # heart, aorta and great vessels
        floor=0.56 + breath,                    # where the lungs end
        wall=0.74 * wide)


# -----------------------------------------------------------------------------
# findings: each changes the density and returns where it shows
# depth is that inside its lung; dx and dy lead away from its center


def cardiomegaly(chest, rng, depth, out, dx, dy):
    """A large heart, which draw_chest has drawn."""
    return chest.heart > 0


def effusion(chest, rng, depth, out, dx, dy):
    """Fluid in the pleural space, whose level is a meniscus: higher at the wall."""
    level = (
        chest.floor - rng.uniform(0, 0.3)
        - 0.22 * np.exp(((out - chest.wall) / 0.12).clip(-9, 0.3)))
    fluid = ramp(chest.y - level, 0.1) * inside(depth)
    chest.density += 0.8 * fluid * (1 - 0.8 * chest.middle)
    return fluid > 0.4


def consolidation(chest, rng, depth, out, dx, dy):
    """Lung filled with fluid or cells: hazy and patchy, without a sharp edge."""
    width, height = rng.uniform(0.12, 0.22, 2)
    haze = inside(depth) * np.exp(
        -(dx / width) ** 2
        - (dy / height) ** 2)
    patchy = haze * (1 + 0.45 * noise(rng, SHAPE, 22))
    chest.density += 0.55 * patchy.clip(0, 1)
    return haze > 0.35


def nodule(chest, rng, depth, out, dx, dy):
    """A round spot with a radius of 6 to 10 px."""
    radius = rng.uniform(0.06, 0.1)
    spot = radius - np.hypot(dx, dy)
    chest.density += 1.4 * ramp(spot, 0.025)
    return spot > 0


def pneumothorax(chest, rng, depth, out, dx, dy):
    """Air above a lung that has come off the wall: no vessels, and a thin line, the edge of the lung."""
    lung = inside(depth)
    beyond = (                                  # 0 at the edge
        rng.uniform(0.5, 0.8)
        * ramp(0.1 - chest.y, 0.9)
        * ramp(out - 0.2, 0.3)
        - depth)
    air = ramp(beyond, 0.05) * lung
    line = (
        0.4 * bell(beyond, 0.04) * lung
        * (chest.y < 0)
        * (out > 0.1))
    chest.vessels *= 1 - air
    chest.density = chest.density * (1 - 0.6 * air) + line
    return air * lung > 0.5


def fibrosis(chest, rng, depth, out, dx, dy):
    """A fine net of scars at the base of the lung."""
    net = bell(noise(rng, SHAPE, 24), 0.35) - 0.3
    low = ramp(chest.y - rng.uniform(-0.1, 0.1), 0.4)
    zone = inside(depth) * (1 - chest.middle) * low
    chest.density += 0.9 * net * zone
    return zone > 0.5


DRAW = {
    "Cardiomegaly": cardiomegaly,
    "Effusion": effusion,
    "Consolidation": consolidation,
    "Nodule": nodule,
    "Pneumothorax": pneumothorax,
    "Fibrosis": fibrosis}


def choose_sides(rng, label):
    """Return one or both sides; for nodules the side of each of one to four."""
    both = label == "Fibrosis"
    if label in ("Effusion", "Consolidation", "Nodule"):
        both = rng.random() < 0.35
    if label == "Nodule":
        return rng.choice((-1, 1), rng.integers(1, 5))
    return rng.permutation((-1, 1))[:1 + both]


def draw_finding(chest, rng, label):
    """Draw a finding on each of its sides -> boxes [(label, x0, y0, x1, y1)]; x1 and y1 are one past it."""
    boxes = []
    for side in choose_sides(rng, label):
        depth = chest.depths[side]
        out = chest.x * side
        center = tuple(rng.choice(np.argwhere(
            (inside(depth) > 0.95)
            & (out > 0.22)
            & (chest.y < 0.35))))
        dx = chest.x - chest.x[center]
        dy = chest.y - chest.y[center]
        shown = DRAW[label](chest, rng, depth, out, dx, dy)
        boxes.append((label,) + Image.fromarray(shown).getbbox())
    return boxes


# -----------------------------------------------------------------------------
# the film


def expose(rng, chest):
    """Add vessels and fine texture, and turn density into grey levels with grain -> image."""
    chest.density += (
        chest.vessels
        + 0.03 * chest.lung * noise(rng, SHAPE, 90))
    film = 1 - np.exp(
        -chest.density.clip(0, None)
        * rng.uniform(0.95, 1.15))
    film *= rng.uniform(0.95, 1.08)
    film = 255 * film.clip(0, 1) ** rng.uniform(0.9, 1.1)
    film += rng.standard_normal(SHAPE, np.float32) * rng.uniform(1, 4)
    return to_image(film)


def write_marks(rng, image, view):
    """An L marks the left side; on a bedside film lie one to three leads of a monitor."""
    pen = ImageDraw.Draw(image)
    pen.text(
        (rng.integers(FILM - 24, FILM - 12), rng.integers(6, 40)),
        "L", 250)
    if view == "AP":
        for _ in range(rng.integers(1, 4)):
            x0, y0, x1, y1 = rng.integers(0, FILM, 4)
            pen.line((
                x0, y0,
                (x0 + x1) / 2 + 12, (y0 + y1) / 2 - 9,
                x1, y1), 225)


def draw_film(rng, anatomy, view, findings):
    """Draw a film of an anatomy: width and height of the lungs, size of the heart, spacing of the ribs.

    Returns (FILM, FILM) uint8 and the boxes [(label, x0, y0, x1, y1)]. Each finding has a generator of its
    own: with and without it, the rest of the film is the same to the pixel."""
    generators = dict(zip(DRAW, rng.spawn(len(DRAW))))
    wide, tall, heart_size, spacing = anatomy
    if view == "AP":
        heart_size += 0.02                      # taken at the bedside from the front, it shows larger
    if "Cardiomegaly" in findings:
        heart_size += generators["Cardiomegaly"].uniform(0.07, 0.14)
    chest = draw_chest(rng, wide, tall, heart_size, spacing)
    boxes = []
    for label in findings:
        boxes += draw_finding(chest, generators[label], label)
    image = expose(rng, chest)
    write_marks(rng, image, view)
    return np.asarray(image), boxes
