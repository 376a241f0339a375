"""Simulated psoriasis patients: photographs of body regions, PASI and PGA.
"""
import math
import os

import numpy as np
from PIL import Image, ImageDraw

from plumbing.drawing import frame, limbs, noise, ramp, resize, save_jpeg


# psoriasis: the weight of each region in PASI
WEIGHTS = {"head": 0.1, "upper limbs": 0.2, "trunk": 0.3, "lower limbs": 0.4}
SHAPES = {                                      # width / height of a photograph, and limbs as (x0, y0, r0, x1, y1, r1)
    "head": ((0.75, 1.1), [
        (0, -.3, .48, 0, .12, .38), (-.5, -.12, .09, -.5, .02, .07), (.5, -.12, .09, .5, .02, .07),
        (0, .3, .27, 0, .8, .3), (-.75, 1.05, .3, .75, 1.05, .3)]),
    "upper limbs": ((1.5, 2.41), [
        (-1.2, .02, .5, -.15, .1, .38), (-.15, .1, .38, .42, 0, .22), (.44, 0, .24, .58, 0, .3), (.6, -.22, .07, .88, -.36, .06),
        (.62, -.09, .07, .97, -.13, .06), (.62, .06, .07, .98, .09, .06), (.6, .2, .07, .9, .31, .06), (.42, .2, .1, .6, .52, .07)]),
    "trunk": ((0.7, 1.05), [
        (0, -1.1, .2, 0, -.7, .22), (-.5, -.55, .24, .5, -.55, .24), (-.2, -.4, .42, -.14, .3, .38), (.2, -.4, .42, .14, .3, .38),
        (-.14, .3, .38, -.16, 1.2, .44), (.14, .3, .38, .16, 1.2, .44), (-.68, -.5, .2, -.84, .25, .14),
        (.68, -.5, .2, .84, .25, .14), (-.84, .25, .14, -.86, .95, .1), (.84, .25, .14, .86, .95, .1)]),
    "lower limbs": ((0.45, 0.75), [
        (-.44, -1.2, .42, -.42, -.1, .3), (-.42, .1, .27, -.38, .7, .13), (-.38, .72, .13, -.56, .9, .12),
        (.44, -1.2, .42, .42, -.1, .3), (.42, .1, .27, .38, .7, .13), (.38, .72, .13, .56, .9, .12)])}
SKIN = np.array([                               # red, green, blue of types 1..6, and of their plaques
    [240, 208, 190], [229, 187, 163], [211, 162, 133], [174, 123, 93], [125, 83, 60], [86, 58, 45]], np.float32)
PLAQUE = np.array([
    [196, 66, 60], [192, 62, 58], [182, 58, 54], [142, 56, 54], [88, 42, 48], [58, 30, 38]], np.float32)
CONTRAST = (1, 1, .95, .9, .75, .65)            # plaques stand out less on dark skin
FST = (.12, .27, .28, .18, .09, .06)            # shares of Fitzpatrick types 1..6: I-IV 85 %, V-VI 15 %
PHOTOS = (.05, .13, .54, .14, .07, .07)         # shares of patients with 1..6 photographs, mean 3.3
SITES = {"clinic-a": (1, 1, 1), "clinic-b": (.97, 1, 1.03), "phone": (1.03, 1, .95)}    # colour cast, red green blue
BACKDROPS = np.array([[62, 92, 128], [70, 118, 104], [52, 54, 58], [205, 206, 204], [160, 168, 176]], np.float32)
PHOTO_COLUMNS = "patient_id image region fst age sex site pasi pga area erythema induration scaling".split()
REGION_COLUMNS = "patient_id region photographs area area_grade erythema induration scaling".split()


def area_grade(fraction):
    """Share of the region's skin under plaques -> 0..6: none, < 10 %, < 30 %, < 50 %, < 70 %, < 90 %, more."""
    return 0 if fraction <= 0 else 1 + sum(fraction >= edge for edge in (0.1, 0.3, 0.5, 0.7, 0.9))


def pasi(regions):
    """{region: (area fraction, erythema, induration, scaling)} -> 0..72, in steps of 0.1."""
    return round(sum(WEIGHTS[r] * (e + i + s) * area_grade(area) for r, (area, e, i, s) in regions.items()), 1)


def pga(regions):
    """The same regions -> 0 (clear) .. 5 (severe)."""
    grades = [g for area, *eis in regions.values() if area > 0 for g in eis]
    return -(-5 * sum(grades) // (4 * len(grades))) if grades else 0      # ceiling, in whole numbers


def plaques(rng, skin, fraction):
    """(H, W) bool skin -> (H, W) soft mask: irregular blobs grown together until they cover `fraction` of the skin."""
    height, width = skin.shape
    y, x = np.mgrid[-1:1:64j, -1:1:64j].astype(np.float32)
    grown = np.full(x.shape, -9, np.float32)
    for cx, cy, r in zip(*rng.uniform(-1, 1, (2, 22)), rng.uniform(0.15, 0.4, 22)):
        grown = np.maximum(grown, 1 - np.hypot(x - cx, y - cy) / r)
    grown = resize(grown, height, width) + 0.22 * noise(rng, height, width, 14) + 0.1 * noise(rng, height, width, 34)
    if fraction <= 0:
        return np.zeros(skin.shape, np.float32)
    return ramp(grown - np.quantile(grown[skin][::7], 1 - fraction), 0.12) * skin


def relief(rng, mask, light):
    """Shade of a raised plaque lit from `light`: a bright rim, a dark rim and bumps, 1/48 of a side or coarser."""
    height = resize(mask, 48, 48) * (1 + 0.3 * noise(rng, 48, 48, 20))
    dy, dx = np.gradient(height)
    return resize(-(dx * math.cos(light) + dy * math.sin(light)), *mask.shape)


def scales(rng, height, width):
    """Fine silvery texture of zero mean, made of those waves of a 128-px picture that fade in a 64-px one.

    The mean of 2 x 2 pixels keeps cos(pi u / 128) cos(pi v / 128) of a wave of u and v cycles a side: here < 1/5."""
    u, v = abs(np.fft.fftfreq(128, 1 / 128))[:, None], np.fft.rfftfreq(128, 1 / 128)[None]
    ring = (np.cos(np.pi * u / 128) * np.cos(np.pi * v / 128) < 0.2) & (np.maximum(u, v) < 58)
    x = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((128, 128))) * ring)
    return resize(np.clip(x / x.std(), -2, 2), height, width)


def draw_photo(rng, region, fst, site, fraction, erythema, induration, scaling):
    """-> (H, W, 3) uint8, and the area fraction measured on what was drawn. Grades change colors, never the layout."""
    aspect, parts = SHAPES[region]
    side, ratio = rng.uniform(200, 260), rng.uniform(*aspect)                      # px; width / height
    height, width = round(side * min(1, 1 / ratio)), round(side * min(1, ratio))
    x, y = frame(rng, height // 4, width // 4)
    build = rng.uniform(0.9, 1.1)
    depth = limbs([(x0, y0, r0 * build, x1, y1, r1 * build) for x0, y0, r0, x1, y1, r1 in parts],
                  x * rng.choice((-1, 1)), y)
    depth, x, y = (resize(a, height, width) for a in (depth, x, y))
    body = ramp(depth, 0.05)
    hair = y < -0.62 + 0.1 * noise(rng, height, width, 9)
    covered = (hair | (abs(y + 0.22) < 0.06) & (abs(x) < 0.42)) & (region == "head")   # hair, and a band over the eyes
    skin = (depth > 0) & ~covered
    mask = plaques(rng, skin, fraction)
    light = rng.uniform(-2.6, -0.5)                                                # radians, from above
    blend = mask * (0.08 + 0.22 * erythema) * CONTRAST[fst - 1]
    mottled = 1 + 0.04 * noise(rng, height, width, 7) + 0.015 * noise(rng, height, width, 64)
    tone = SKIN[fst - 1] * rng.uniform(0.96, 1.04) * mottled[..., None]
    tone = tone * (1 - blend[..., None]) + PLAQUE[fst - 1] * blend[..., None]
    brightness = SKIN[fst - 1].mean() / SKIN[2].mean()
    tone += (24 * induration * (0.5 + 0.5 * brightness) * relief(rng, mask, light))[..., None]
    tone += (17 * scaling * mask * scales(rng, height, width))[..., None]           # the same in red, green, blue: silver
    tone *= (0.62 + 0.38 * np.sqrt(np.clip(depth * 1.6, 0, 1)))[..., None]         # a limb is round
    tone[covered] = (38, 30, 26)
    cloth = BACKDROPS[rng.integers(len(BACKDROPS))] * (1 + 0.07 * noise(rng, height, width, 5)[..., None])
    photo = cloth + (tone - cloth) * body[..., None]
    photo *= (1 + rng.uniform(0.05, 0.2) * (x * math.cos(light) + y * math.sin(light)))[..., None]
    photo *= np.array(SITES[site], np.float32) * rng.uniform(0.95, 1.05)
    photo += rng.standard_normal((height, width, 1), np.float32) * (4 if site == "phone" else 2)
    photo = Image.fromarray(np.clip(photo, 0, 255).astype(np.uint8))
    spots, pen = np.argwhere(skin), ImageDraw.Draw(photo)
    dark = tuple(int(c) for c in SKIN[fst - 1] * 0.45)
    for cy, cx in spots[rng.integers(len(spots), size=rng.integers(0, 8))]:        # moles
        r = rng.uniform(1, 3)
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), dark)
    for cy, cx in spots[rng.integers(len(spots), size=rng.integers(0, 60))]:       # hairs
        color = tuple(int(c * 0.7) for c in photo.getpixel((int(cx), int(cy))))
        pen.line((cx, cy, cx + rng.uniform(-3, 3), cy + rng.uniform(2, 6)), color)
    return np.asarray(photo), float((mask > 0.5).sum() / skin.sum())


def psoriasis_patient(folder, seed, index):
    """Draw one patient's photographs into the folder -> rows of regions.csv, rows of cohort.csv."""
    rng = np.random.default_rng((1, seed, index))
    patient = f"p{index:04d}"
    fst, site = 1 + int(rng.choice(6, p=FST)), str(rng.choice(list(SITES)))
    age, sex = int(rng.integers(18, 81)), str(rng.choice(["F", "M"]))
    photos = 1 + int(rng.choice(6, p=PHOTOS))
    severity, clear = rng.normal(), rng.random() < 0.05
    own = 1.9 + 0.9 * severity + 0.65 * rng.normal(size=3)                        # erythema, induration, scaling
    spread = -1.5 + 0.4 * severity + 1.35 * rng.normal(size=4)                      # log odds of area, per region
    regions = {}
    for region, odds in zip(WEIGHTS, spread):
        grades = np.clip(np.rint(own + 0.35 * rng.normal(size=3)), 0, 4).astype(int)
        grades[0] += grades.sum() == 0                                             # a plaque has at least some colour
        area = 0.0 if clear or rng.random() < 0.1 else max(0.01, float(1 / (1 + np.exp(-odds))))
        regions[region] = (area, *(int(g) for g in grades)) if area else (0.0, 0, 0, 0)
    order = [str(r) for r in rng.choice(list(WEIGHTS), 4, replace=False, p=list(WEIGHTS.values()))]
    if photos >= 3:                                                                # three photographs show 70 % of PASI
        order.sort(key=lambda region: region not in ("trunk", "lower limbs"))
    order = (order + ["lower limbs", "trunk"])[:photos]
    files = []
    for number, region in enumerate(order):
        area, *grades = regions[region]
        photo, area = draw_photo(rng, region, fst, site, area * rng.uniform(0.85, 1.0) if area else 0.0, *grades)
        name = f"images/{patient}_{number}.jpg"
        save_jpeg(os.path.join(folder, name), photo)
        files.append((name, region, round(area, 4), *grades))
    for region in set(order):                                                      # the truth is what was drawn
        drawn = [f[2] for f in files if f[1] == region]
        regions[region] = (round(sum(drawn) / len(drawn), 4), *regions[region][1:])
    truth = [(patient, r, order.count(r), a, area_grade(a), *eis) for r, (a, *eis) in regions.items()]
    return truth, [(patient, name, region, fst, age, sex, site, pasi(regions), pga(regions), area, *eis)
                   for name, region, area, *eis in files]
