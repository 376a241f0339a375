"""How a photograph of psoriasis is drawn: a body region of some skin type, plaques on it, light and a camera.

    erythema     how far the skin of plaques turns red
    induration   relief: bumps with a bright rim and a dark one
    scaling      a silver texture so fine that 128 px show it and 64 px do not

Colors are (3, 1, 1) and pictures (3, H, W): red, green, blue, in grey levels 0..255. Maps are (H, W).
"""
import math

import numpy as np
from PIL import ImageDraw

from plumbing.drawing import frame, limbs, noise, ramp, resize, to_image


ASPECTS = {                                     # width / height of a photograph, from and to
    "head": (0.75, 1.1),
    "upper limbs": (1.5, 2.41),
    "trunk": (0.7, 1.05),
    "lower limbs": (0.45, 0.75)}
SHAPES = {                                      # of the body, as limbs() reads them
    "head": """
         0     -0.3    0.48    0      0.12   0.38
        -0.5   -0.12   0.09   -0.5    0.02   0.07
         0.5   -0.12   0.09    0.5    0.02   0.07
         0      0.3    0.27    0      0.8    0.3
        -0.75   1.05   0.3     0.75   1.05   0.3""",
    "upper limbs": """
        -1.2    0.02   0.5    -0.15   0.1    0.38
        -0.15   0.1    0.38    0.42   0      0.22
         0.44   0      0.24    0.58   0      0.3
         0.6   -0.22   0.07    0.88  -0.36   0.06
         0.62  -0.09   0.07    0.97  -0.13   0.06
         0.62   0.06   0.07    0.98   0.09   0.06
         0.6    0.2    0.07    0.9    0.31   0.06
         0.42   0.2    0.1     0.6    0.52   0.07""",
    "trunk": """
         0     -1.1    0.2     0     -0.7    0.22
        -0.5   -0.55   0.24    0.5   -0.55   0.24
        -0.2   -0.4    0.42   -0.14   0.3    0.38
         0.2   -0.4    0.42    0.14   0.3    0.38
        -0.14   0.3    0.38   -0.16   1.2    0.44
         0.14   0.3    0.38    0.16   1.2    0.44
        -0.68  -0.5    0.2    -0.84   0.25   0.14
         0.68  -0.5    0.2     0.84   0.25   0.14
        -0.84   0.25   0.14   -0.86   0.95   0.1
         0.84   0.25   0.14    0.86   0.95   0.1""",
    "lower limbs": """
        -0.44  -1.2    0.42   -0.42  -0.1    0.3
        -0.42   0.1    0.27   -0.38   0.7    0.13
        -0.38   0.72   0.13   -0.56   0.9    0.12
         0.44  -1.2    0.42    0.42  -0.1    0.3
         0.42   0.1    0.27    0.38   0.7    0.13
         0.38   0.72   0.13    0.56   0.9    0.12"""}


def colors(text):
    """A text of reds, greens and blues -> (colors, 3, 1, 1)."""
    return np.array(text.split(), np.float32).reshape(-1, 3, 1, 1)


HAIR = colors("38 30 26")[0]
BACKDROPS = colors("""
     62   92  128
     70  118  104
     52   54   58
    205  206  204
    160  168  176""")
SITES = {                                       # color cast; standard deviation of the grain in grey levels
    "clinic-a": ("1 1 1", 2),
    "clinic-b": ("0.97 1 1.03", 2),
    "phone": ("1.03 1 0.95", 4)}
SKINS = colors("""
    240  208  190
    229  187  163
    211  162  133
    174  123   93
    125   83   60
     86   58   45""")                           # of Fitzpatrick types 1..6
PLAQUES = colors("""
    196   66   60
    192   62   58
    182   58   54
    142   56   54
     88   42   48
     58   30   38""")                           # on them
CONTRASTS = (1, 1, 0.95, 0.9, 0.75, 0.65)       # how much these stand out


# -----------------------------------------------------------------------------
# the body


def pose(rng, region):
    """Return the maps depth (positive inside the body), x and y of a photograph.

    Its long side has 200 to 260 px; shapes, which are smooth, are worked out at a quarter of that."""
    side = rng.uniform(200, 260)
    ratio = rng.uniform(*ASPECTS[region])                          # of its sides
    height = round(side * min(1, 1 / ratio))
    width = round(side * min(1, ratio))
    x, y = frame(rng, (height // 4, width // 4))
    build = rng.uniform(0.9, 1.1)
    depth = limbs(SHAPES[region], x * rng.choice((-1, 1)), y, build)    # or its mirror image
    return [resize(grid, (height, width)) for grid in (depth, x, y)]


def hidden_skin(rng, region, x, y):
    """Where hair, or a band over the eyes, covers a head."""
    hair = y < -0.62 + 0.1 * noise(rng, x.shape, 9)
    band = (abs(y + 0.22) < 0.06) & (abs(x) < 0.42)
    return (hair | band) & (region == "head")


# -----------------------------------------------------------------------------
# plaques


def plaques(rng, skin, fraction):
    """(H, W) bool skin -> soft mask: irregular blobs that together cover `fraction` of the skin."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j].astype(np.float32)
    centers_x, centers_y = rng.uniform(-1, 1, (2, 22, 1, 1))
    radii = rng.uniform(0.15, 0.4, (22, 1, 1))
    distances = np.hypot(x - centers_x, y - centers_y)             # (22, 64, 64)
    grown = (
        resize((1 - distances / radii).max(0), skin.shape)
        + 0.22 * noise(rng, skin.shape, 14)
        + 0.1 * noise(rng, skin.shape, 34))
    grown -= np.quantile(grown[skin][::7], 1 - fraction)           # every seventh pixel is enough
    return ramp(grown, 0.12) * skin * (fraction > 0)


def toward(light, x, y):
    """The part of (x, y) along the direction of the light, an angle in radians."""
    return x * math.cos(light) + y * math.sin(light)


def relief(rng, mask, light):
    """Shade of raised plaques: a bright rim, a dark rim and bumps, all at 1/48 of a side or coarser."""
    shape = (48, 48)
    height = (
        resize(mask, shape)
        * (1 + 0.3 * noise(rng, shape, 20)))
    dy, dx = np.gradient(height)
    return resize(-toward(light, dx, dy), mask.shape)


def scales(rng, shape):
    """Fine silvery texture of zero mean, made of those waves of a 128-px picture that fade in a 64-px one.

    The mean of 2 x 2 pixels keeps cos(pi u / 128) cos(pi v / 128) of a wave of u and v cycles per side: here
    less than 1/5."""
    u = abs(np.fft.fftfreq(128, 1 / 128))[:, None]
    v = np.arange(65)
    kept = np.cos(np.pi * u / 128) * np.cos(np.pi * v / 128)
    ring = (kept < 0.2) & (np.maximum(u, v) < 58)
    texture = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((128, 128)))
        * ring)
    texture /= texture.std()
    return resize(texture.clip(-2, 2), shape)


# -----------------------------------------------------------------------------
# the photograph


def draw_moles_and_hairs(rng, image, skin, color):
    """Draw fewer than 8 moles of a color, and fewer than 60 hairs, at random pixels of the skin."""
    pen = ImageDraw.Draw(image)
    spots = np.argwhere(skin)
    for y, x in rng.choice(spots, rng.integers(0, 8)):
        radius = rng.uniform(1, 3)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), color)
    for y, x in rng.choice(spots, rng.integers(0, 60)):
        below = image.getpixel((int(x), int(y)))
        darker = tuple(int(level * 0.7) for level in below)
        pen.line((x, y, x + rng.uniform(-3, 3), y + rng.uniform(2, 6)), darker)


def photograph(rng, tone, body, gradient, site):
    """Put the body before a cloth, light it unevenly and add the site's colors and grain -> image."""
    cloth = (
        rng.choice(BACKDROPS)
        * (1 + 0.07 * noise(rng, body.shape, 5)))
    photo = cloth + (tone - cloth) * body
    photo *= 1 + rng.uniform(0.05, 0.2) * gradient
    cast, deviation = SITES[site]
    photo *= colors(cast)[0] * rng.uniform(0.95, 1.05)
    photo += rng.standard_normal(body.shape, np.float32) * deviation
    return to_image(np.moveaxis(photo, 0, -1))


def draw_photo(rng, region, fst, site, fraction, grades):
    """Draw one region of Fitzpatrick skin type `fst`, with about `fraction` of its skin under plaques.

    grades = (erythema, induration, scaling), each 0..4, change colors, never the layout.
    Returns (H, W, 3) uint8, and the area fraction measured on what was drawn."""
    erythema, induration, scaling = grades
    skin_color = SKINS[fst - 1]
    depth, x, y = pose(rng, region)
    hidden = hidden_skin(rng, region, x, y)
    skin = (depth > 0) & ~hidden
    mask = plaques(rng, skin, fraction)
    light = rng.uniform(-2.6, -0.5)                                # radians, from above

    blend = mask * (0.08 + 0.22 * erythema) * CONTRASTS[fst - 1]
    mottled = (
        1
        + 0.04 * noise(rng, mask.shape, 7)
        + 0.015 * noise(rng, mask.shape, 64))
    tone = skin_color * rng.uniform(0.96, 1.04) * mottled
    tone = tone * (1 - blend) + PLAQUES[fst - 1] * blend
    brightness = skin_color.mean() / SKINS[2].mean()               # of type 3
    tone += (
        24 * induration
        * (0.5 + 0.5 * brightness)
        * relief(rng, mask, light))
    tone += 17 * scaling * mask * scales(rng, mask.shape)          # the same in red, green and blue: silver
    tone *= 0.62 + 0.38 * np.sqrt((depth * 1.6).clip(0, 1))        # a limb is round
    tone = np.where(hidden, HAIR, tone)

    image = photograph(rng, tone, ramp(depth, 0.05), toward(light, x, y), site)
    mole_color = (skin_color * 0.45).astype(int).ravel()
    draw_moles_and_hairs(rng, image, skin, tuple(mole_color.tolist()))
    return np.asarray(image), float((mask > 0.5).sum() / skin.sum())
