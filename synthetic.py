"""Simulated patients with known truth, written once as ordinary image files and a cohort.csv.

Real photographs of patients cannot be shipped with a repository, and no real table says what the right answer is.
Here every pixel has a cause that is written down beside it, so that a paper's claim can be tested, not only quoted:

    psoriasis  severity is spread over several photographs, and a third of it is fine texture   Murray 2024
    chest      films with up to six findings of different size, which come together             Chen 2021; Marikkar 2023
    brain      volumes whose meaning depends on the table, and the table's on the volume        Pölsterl 2021
    bag        slides of up to 11,039 feature vectors, of which a few tell the subtype          Khader et al. 2024

The files are read by the same code as a user's own table. Each patient is drawn by a generator seeded with (cohort,
seed, patient), so patient 7 is the same in a cohort of 10 or of 1000, drawn by one thread or by many.
Not a model of disease: good for testing methods and teaching, no evidence about patients.

PASI = sum over regions of weight x (erythema + induration + scaling) x area grade     Fredriksson and Pettersson 1978
PGA  = 0 if clear, else 5/4 of the mean of all grades in the affected regions, rounded up to 1..5      ours

Run: python synthetic.py                                             a few patients, printed with their arithmetic
     python synthetic.py --data chest --out films --patients 100     a cohort to look at
"""
import argparse
import csv
import io
import math
import os
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw

VERSION = 2                                     # raise when pixels or rows change: it is part of the folder's name

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

# chest: share of films with each finding, and what the findings share (heart failure, infection, chronic lung disease)
FINDINGS = {"Cardiomegaly": (.28, .8, .0, .1), "Effusion": (.30, .6, .5, .0), "Consolidation": (.26, .1, .8, .0),
            "Nodule": (.24, .0, -.2, .4), "Pneumothorax": (.16, -.3, .0, .3), "Fibrosis": (.20, .1, .0, .8)}
FILM_COLUMNS = ["patient_id", "image", "age", "sex", "view", *FINDINGS]
BOX_COLUMNS = "image label x0 y0 x1 y1".split()  # pixels of the file; x1 and y1 are one past the last
FILM = 192                                      # px, side of a film

SIDE = 24                                       # brain: px, side of a volume
APOE = {"e3/e3": .6, "e3/e4": .32, "e4/e4": .08}    # shares of the genotypes
STAGES = ("CN", "MCI", "AD")                    # cognitively normal, mild impairment, dementia: thirds of the patients
BRAIN_COLUMNS = "patient_id image age sex education apoe diagnosis time event".split()
BRAIN_TRUTH = "patient_id atrophy widening severity".split()
# bag
WIDTH, LONGEST = 64, 11039                      # of a vector; vectors of the longest bag, as in the paper
BAG_COLUMNS = "patient_id bag subtype vectors tumor".split()

# -----------------------------------------------------------------------------
# drawing: float32 (H, W) maps


def resize(image, height, width):
    """(h, w) -> (height, width), bicubic; averages when it shrinks."""
    return np.asarray(Image.fromarray(np.asarray(image, np.float32)).resize((width, height), Image.Resampling.BICUBIC))


def noise(rng, height, width, cells):
    """(height, width) smooth noise of about unit variance, with features of 1 / cells of a side."""
    return resize(rng.standard_normal((cells, cells), np.float32), height, width)


def frame(rng, height, width, tilt=6, zoom=0.06, shift=0.05):
    """x, y: two (height, width) grids from -1 to 1, as a camera held not quite straight sees them; tilt in degrees."""
    angle = math.radians(rng.uniform(-tilt, tilt))
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] + np.float32(rng.uniform(-shift, shift))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] + np.float32(rng.uniform(-shift, shift))
    c, s = math.cos(angle) * (1 + rng.uniform(-zoom, zoom)), math.sin(angle)
    return c * x - s * y, s * x + c * y


def limbs(parts, x, y):
    """Tapered capsules (x0, y0, r0, x1, y1, r1) -> depth inside their union: 1 on an axis, 0 on the outline."""
    depth = np.full(x.shape, -9, np.float32)
    for x0, y0, r0, x1, y1, r1 in parts:
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        depth = np.maximum(depth, 1 - np.hypot(x - x0 - t * dx, y - y0 - t * dy) / (r0 + t * (r1 - r0)))
    return depth


def ramp(x, width):
    """0 below -width / 2, 1 above width / 2, straight between: a soft edge."""
    return np.clip(x / width + 0.5, 0, 1)


# -----------------------------------------------------------------------------
# psoriasis


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


# -----------------------------------------------------------------------------
# chest


def draw_film(rng, anatomy, view, findings):
    """-> (FILM, FILM) uint8 and [(label, x0, y0, x1, y1)]. x < 0 is the patient's right lung, shown on the left.

    The sum of what a ray meets is `t`; the film is 1 - exp(-t), so that dense parts saturate as they do on film.
    Each finding has a generator of its own: with and without it, the rest of the film is the same to the pixel."""
    own = dict(zip(FINDINGS, rng.spawn(len(FINDINGS))))
    wide, tall, heart, spacing = anatomy
    x, y = frame(rng, FILM, FILM, tilt=2, zoom=0.03, shift=0.03)
    breath, boxes = rng.uniform(-0.04, 0.04), []

    def found(label, where):
        """Note the box of a (FILM, FILM) bool map."""
        rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
        boxes.append((label, int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))

    body = ramp(limbs([(0, -1.4, .3, 0, -.7, .3), (-.75, -.62, .3, .75, -.62, .3), (-.3, -.2, .7, -.3, 1.4, .72),
                       (.3, -.2, .7, .3, 1.4, .72), (-1, -.5, .25, -1.15, 1, .2), (1, -.5, .25, 1.15, 1, .2)],
                      x, y), 0.1)
    t = body * (1 + 0.08 * noise(rng, FILM, FILM, 5)) * (1.0 + 0.9 * ramp(y - 0.45, 0.5))
    lungs, depths, marks = {}, {}, np.zeros_like(t)            # by side; marks: vessels
    for side in (-1, 1):
        m, base = x * side, 0.5 + breath + (0.04 if side > 0 else 0) + rng.uniform(-0.1, 0.06)
        oval = 1 - abs((m - 0.42) / (wide * (0.36 + 0.07 * y))) ** 2.5 - abs((y - 0.1) / (0.88 * tall)) ** 2.5
        depths[side] = np.minimum(oval, (base + 0.9 * (m - 0.3) ** 2 - y) * 2.5)
        lungs[side] = ramp(depths[side] - 0.05, 0.12)
        angle, far = np.arctan2(y + 0.05, m - 0.16), np.hypot(y + 0.05, m - 0.16)  # vessels leave the hilum as rays
        angle = (angle + 0.18 * noise(rng, FILM, FILM, 9)).clip(-math.pi, math.pi)
        rays = resize(rng.standard_normal((34, 9), np.float32), 256, 32)
        rays = rays[((angle + math.pi) * 40.5).astype(int) % 256, np.clip(far * 32, 0, 31).astype(int)]
        marks += lungs[side] * (np.clip(rays, 0, 2) * np.exp(-far / 0.35) * 0.35 * ramp(far - 0.1, 0.2)
                              + 0.3 * np.exp(-(far / 0.12) ** 2))
    size = heart + 0.02 * (view == "AP")                                           # half its width
    if "Cardiomegaly" in findings:
        size += own["Cardiomegaly"].uniform(0.07, 0.14)
    cx, cy = 0.06 + 0.3 * (size - 0.28), 0.3 + breath
    oval = 1 - np.hypot((x - cx) / size, (y - cy - 0.25 * (x - cx)) / (0.85 * size))
    if "Cardiomegaly" in findings:
        found("Cardiomegaly", oval > 0)
    vessels = ramp(limbs([(.02, -1.2, .12, .02, 1.4, .14), (.1, -.3, .13, .04, .1, .17)], x, y), 0.35)
    inner = np.maximum(ramp(oval, 0.16), vessels) * body                           # heart, aorta and great vessels
    lung = np.maximum(lungs[-1], lungs[1])
    t *= 1 - 0.72 * lung * (1 - inner)
    t += inner * (0.55 - 0.35 * ramp(y - 0.5, 0.3))
    t += 0.12 * np.exp(-(x / 0.1) ** 4) * body * (1 + 0.4 * np.cos(40 * y))        # spine
    t -= 0.25 * np.exp(-((x - 0.01) / 0.05) ** 2) * ramp(-0.35 - y, 0.2) * body    # windpipe
    for slope, dense in ((-0.25, 0.14), (0.55, 0.06)):                             # ribs behind, ribs in front
        curve = (y - slope * abs(x) - 0.5 * x * x * (slope < 0)) / spacing
        cage = ramp(0.85 - abs(x), 0.1) * ramp(0.6 - abs(y), 0.3) * body
        t += dense * ramp(np.cos(2 * math.pi * curve) - 0.45, 0.5) * cage
    bone = np.exp(-((y + 0.62 + 0.25 * (abs(x) - 0.4)) / 0.05) ** 2)               # clavicles
    t += 0.3 * bone * ramp(0.7 - abs(x), 0.1) * ramp(abs(x) - 0.1, 0.1)

    for label in findings:
        dice = own[label]
        both = label == "Fibrosis" or label != "Pneumothorax" and dice.random() < 0.35
        many = dice.integers(1, 5) if label == "Nodule" else 0
        for side in dice.choice((-1, 1), many) if many else dice.permutation((-1, 1))[:1 + both]:
            inside, out = lungs[side], x * side                                    # out: how far from the midline
            spots = np.argwhere((inside > 0.95) & (out > 0.22) & (y < 0.35))       # where a center may lie
            py, px = spots[dice.integers(len(spots))]
            if label == "Effusion":                                                # a meniscus: higher at the wall
                level = 0.56 + breath - dice.uniform(0, 0.3) - 0.22 * np.exp(((out - 0.74 * wide) / 0.12).clip(-9, 0.3))
                fluid = ramp(y - level, 0.1) * inside
                t += 0.8 * fluid * (1 - 0.8 * inner)
                found(label, fluid > 0.4)
            elif label == "Consolidation":                                         # hazy, patchy, no sharp edge
                rx, ry = dice.uniform(0.12, 0.22, 2)
                haze = np.exp(-((x - x[py, px]) / rx) ** 2 - ((y - y[py, px]) / ry) ** 2) * inside
                t += 0.55 * np.clip(haze * (1 + 0.45 * noise(dice, FILM, FILM, 22)), 0, 1)
                found(label, haze > 0.35)
            elif label == "Nodule":
                disc = dice.uniform(0.06, 0.1) - np.hypot(x - x[py, px], y - y[py, px])       # radius 6 to 10 px
                t += 1.4 * ramp(disc, 0.025)
                found(label, disc > 0)
            elif label == "Pneumothorax":                                          # air at the apex: no vessels, a thin line
                gone = dice.uniform(0.5, 0.8) * ramp(0.1 - y, 0.9) * ramp(out - 0.2, 0.3) - depths[side]
                air = ramp(gone, 0.05) * inside
                marks *= 1 - air
                t = t * (1 - 0.6 * air) + 0.4 * np.exp(-(gone / 0.04) ** 2) * inside * (y < 0) * (out > 0.1)
                found(label, air * inside > 0.5)
            elif label == "Fibrosis":                                              # a fine net at both bases
                net = np.exp(-(noise(dice, FILM, FILM, 24) / 0.35) ** 2) - 0.3
                zone = inside * (1 - inner) * ramp(y - dice.uniform(-0.1, 0.1), 0.4)
                t += 0.9 * net * zone
                found(label, zone > 0.5)
    t += marks + 0.03 * lung * noise(rng, FILM, FILM, 90)
    film = 1 - np.exp(-np.clip(t, 0, None) * rng.uniform(0.95, 1.15))
    film = 255 * np.clip(film * rng.uniform(0.95, 1.08), 0, 1) ** rng.uniform(0.9, 1.1)
    film += rng.standard_normal(film.shape, np.float32) * rng.uniform(1, 4)
    film = Image.fromarray(np.clip(film, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(film)
    pen.text((rng.integers(FILM - 24, FILM - 12), rng.integers(6, 40)), "L", 250)
    if view == "AP":                                                               # a bedside film: leads on the chest
        for _ in range(rng.integers(1, 4)):
            (a, b), (c, d) = rng.integers(0, FILM, (2, 2))
            pen.line((a, b, (a + c) / 2 + 12, (b + d) / 2 - 9, c, d), 225)
    return np.asarray(film), boxes


def chest_patient(folder, seed, index):
    """Draw one patient's films into the folder -> rows of boxes.csv, rows of cohort.csv."""
    rng = np.random.default_rng((2, seed, index))
    patient, sex = f"p{index:04d}", str(rng.choice(["F", "M"]))
    shared, own = rng.normal(size=3), rng.normal(size=len(FINDINGS))
    age = int(np.clip(55 + 8 * shared[0] + 6 * shared[2] + 12 * rng.normal(), 18, 95))
    anatomy = (*rng.uniform(0.95, 1.05, 2), rng.uniform(0.26, 0.32), rng.uniform(0.15, 0.19))
    boxes, rows = [], []
    for number in range(1 + int(rng.choice(4, p=(.65, .22, .09, .04)))):
        view = "AP" if rng.random() < 0.3 + 0.1 * np.clip(shared[0], -1, 2) else "PA"
        findings = []
        for (label, (rate, *load)), stable in zip(FINDINGS.items(), own):
            rest = math.sqrt(1 - sum(a * a for a in load))
            liability = np.dot(load, shared) + rest * (0.8 * stable + 0.6 * rng.normal())      # standard normal
            if liability > NormalDist().inv_cdf(1 - rate):
                findings.append(label)
        film, found = draw_film(rng, anatomy, view, findings)
        name = f"images/{patient}_{number}.jpg"
        save_jpeg(os.path.join(folder, name), film)
        boxes += [(name, *box) for box in found]
        rows.append((patient, name, age, sex, view, *(int(label in findings) for label in FINDINGS)))
    return boxes, rows


# -----------------------------------------------------------------------------
# brain


def draw_brain(rng, atrophy, widening):
    """-> (SIDE, SIDE, SIDE) uint8: a head with two dark ventricles, `widening` wide, and two bright hippocampi, less by `atrophy`."""
    ticks = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * 2 - 1
    z, y, x = np.meshgrid(*(ticks - shift for shift in rng.uniform(-0.06, 0.06, 3)), indexing="ij")
    turn, size = rng.uniform(-0.12, 0.12), rng.uniform(0.95, 1.05)
    z, y, x = z / size, (y * np.cos(turn) - x * np.sin(turn)) / size, (x * np.cos(turn) + y * np.sin(turn)) / size
    head = ramp(0.9 - 0.9 * np.sqrt((x / 0.85) ** 2 + y ** 2 + (z / 0.9) ** 2), 0.08)
    ventricles = ramp(0.17 * np.exp(0.22 * widening) - np.sqrt((abs(x) - 0.22) ** 2 + (y / 2.2) ** 2 + ((z - 0.25) / 1.3) ** 2), 0.08)
    hippocampi = ramp(0.2 * np.exp(-0.22 * atrophy) - np.sqrt((abs(x) - 0.45) ** 2 + ((y + 0.1) / 2) ** 2 + (z + 0.35) ** 2), 0.08)
    brain = 0.5 * head - 0.38 * ventricles + 0.45 * hippocampi * (1 - ventricles)
    brain = brain * rng.uniform(0.85, 1.15) + 0.05 * rng.standard_normal(brain.shape, np.float32)
    return np.uint8(255 * brain.clip(0, 1))


def brain_patient(folder, seed, index):
    """Draw one patient's volume into the folder -> rows of truth.csv, rows of cohort.csv."""
    rng = np.random.default_rng((3, seed, index))
    patient, sex = f"p{index:04d}", str(rng.choice(["F", "M"]))
    age, education = int(np.clip(round(73 + 7 * rng.normal()), 55, 95)), int(np.clip(round(15 + 3 * rng.normal()), 6, 21))
    apoe = str(rng.choice(list(APOE), p=list(APOE.values())))
    atrophy, widening = rng.normal(size=2)
    mismatch = widening - (age - 73) / 7                           # ventricles wider than the age explains
    severity = 1.5 * atrophy * math.copysign(1, mismatch) + 0.3 * apoe.count("e4") - 0.3 * (education - 15) / 3 + 0.2 * rng.normal()
    stage = STAGES[int(severity > -0.5) + int(severity > 0.75)]
    event, last = rng.exponential(6 * math.exp(-0.9 * severity)), rng.uniform(1, 8)          # years to dementia, years watched
    name = f"images/{patient}.npy"
    np.save(os.path.join(folder, name), draw_brain(rng, atrophy, widening))
    said = "" if rng.random() < 0.05 else education
    return ([(patient, round(atrophy, 4), round(widening, 4), round(severity, 4))],
            [(patient, name, age, sex, said, apoe, stage, round(min(event, last), 3), int(event <= last))])
# bag


def bag_patient(folder, seed, index):
    """Draw one patient's bag of vectors into the folder -> rows of tumor.csv, rows of cohort.csv."""
    world, rng = np.random.default_rng((4, seed)), np.random.default_rng((4, seed, index))     # what all slides share; this slide
    tissues = world.normal(size=(8, WIDTH))
    tumors = 8 * np.linalg.qr(world.normal(size=(WIDTH, 2)))[0].T  # as far from the mean as noise is long, and at right angles
    patient, subtype = f"p{index:04d}", int(rng.integers(2))
    S = LONGEST if index == 0 else int(np.clip(np.exp(rng.normal(6.5, 0.6)), 200, 2000))
    vectors = tissues[rng.choice(8, S, p=rng.dirichlet(np.full(8, 0.5)))] + 0.5 * rng.normal(size=WIDTH)       # mixture, and stain
    rows = np.sort(rng.choice(S, max(4, round(S * rng.uniform(0.005, 0.02))), replace=False))
    vectors[rows] = tumors[subtype]
    name = f"images/{patient}.npy"
    np.save(os.path.join(folder, name), (vectors + rng.normal(size=(S, WIDTH))).astype(np.float16))
    return [(name, int(row)) for row in rows], [(patient, name, "AB"[subtype], S, len(rows))]


# -----------------------------------------------------------------------------
# cohorts


def write(folder, draw, tables, seed, patients, workers=None, progress=None):
    """Draw `patients` patients into folder/images, then write the tables {file: columns}, cohort.csv last."""
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    rows = {name: [] for name in tables}
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:    # numpy and Pillow let go of the lock while they work
        for done, drawn in enumerate(pool.map(lambda index: draw(folder, seed, index), range(patients)), 1):
            for name, more in zip(tables, drawn):
                rows[name] += more
            if progress:
                progress(done, patients)
    for name, columns in tables.items():
        with open(os.path.join(folder, name), "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows[name]])


def psoriasis(folder, seed=0, patients=1000, workers=None, progress=None):
    """Patients with 1..6 photographs (JPEG, long side 200 to 260 px) of body regions, to be scored as a whole.

    Tests Murray 2024: (1) several photographs beat one, since PASI adds up regions and areas differ between them;
    (2) a second look at high resolution pays, since scaling, a third of every grade, shows at 128 px and not at 64;
    (3) types V-VI are few and their plaques distinct less, so errors there are larger.
    cohort.csv: a row a photograph; pasi and pga are the patient's, the other truth the photograph's.
    regions.csv: a row a region, photographed or not, from which PASI can be worked out by hand."""
    write(folder, psoriasis_patient, {"regions.csv": REGION_COLUMNS, "cohort.csv": PHOTO_COLUMNS},
          seed, patients, workers, progress)


def chest(folder, seed=0, patients=1000, workers=None, progress=None):
    """Frontal films (192 px, grey JPEG), about 1.5 a patient, with any of six findings and the box of each.

    Tests Chen 2021: a heart needs a wide view and a nodule, a pleural line or a fine net small patches, so two patch
    sizes should beat one; and Marikkar 2023: findings come together (heart failure: large heart and effusion), so
    label tokens that see each other should help, and each label's map should light up its own box.
    cohort.csv: a row a film; boxes.csv: a row a box, one or more for every positive label, none for the others."""
    write(folder, chest_patient, {"boxes.csv": BOX_COLUMNS, "cohort.csv": FILM_COLUMNS},
          seed, patients, workers, progress)


def brain(folder, seed=0, patients=1000, workers=None, progress=None):
    """Volumes (24 px a side, uint8 .npy) beside age, sex, education (5 % blank) and APOE; diagnosis, and time to dementia.

    Tests Pölsterl 2021: small hippocampi mean disease when the ventricles are wider than the patient's age explains, and
    health when they are narrower. So the volume alone and the table alone say little; adding their evidence up says little
    more; and what changes the meaning of the hippocampi is neither in the table (FiLM) nor in the volume, but in both (DAFT).
    The table counts by itself too: education protects and e4 harms. Sex says nothing.
    cohort.csv: a row a volume; time is years to dementia where event is 1, else to the last look. truth.csv: what was drawn."""
    write(folder, brain_patient, {"truth.csv": BRAIN_TRUTH, "cohort.csv": BRAIN_COLUMNS}, seed, patients, workers, progress)

def bag(folder, seed=0, patients=400, workers=None, progress=None):
    """Bags of 200 to 2,000 vectors (.npy, 64 wide, float16), the first of 11,039, as from the tiles of whole-slide images.

    Tests Khader et al. 2024: attention of linear cost reads a bag whole, and finds the 0.5 to 2 % of its vectors that are tumor,
    whose place tells subtype A from B. The other vectors are a mixture of eight tissues, another in every slide, and every slide
    has a stain of its own: the mean of a bag tells nothing (logistic regression on it: AUROC about 0.5), a model has to look
    at single vectors.
    cohort.csv: a row a bag; tumor.csv: a row a tumor vector, and which row of its bag that is."""
    write(folder, bag_patient, {"tumor.csv": ("bag", "row"), "cohort.csv": BAG_COLUMNS}, seed, patients, workers, progress)


COHORTS = {"psoriasis": psoriasis, "chest": chest, "brain": brain, "bag": bag}


def save_jpeg(path, pixels):
    """Through memory: Pillow itself leaves half a JPEG on a full disk and says nothing."""
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=92)
    with open(path, "wb") as file:
        file.write(buffer.getvalue())


def make(name, root="data_cache", seed=0, patients=None, progress=None):
    """-> path of the cohort.csv, drawn first if it is not there yet. Raises ValueError on an unknown name.

    Drawn beside its place and renamed at the end: a killed run leaves no half cohort under the real name, and of two
    processes at once the second keeps what the first made. progress(done, patients) is called after each patient."""
    if name not in COHORTS:
        raise ValueError(f"no simulated cohort {name!r}; there are {', '.join(COHORTS)}")
    size = {} if patients is None else {"patients": patients}
    folder = os.path.join(root, f"{name}-v{VERSION}-seed{seed}" + "".join(f"-n{n}" for n in size.values()))
    table = os.path.join(folder, "cohort.csv")
    if not os.path.exists(table):
        part = f"{folder}.{uuid.uuid4().hex[:8]}.part"
        try:
            COHORTS[name](part, seed, progress=progress, **size)
            os.rename(part, folder)
        except OSError:
            if not os.path.exists(table):                          # nobody else made it meanwhile
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return table


# -----------------------------------------------------------------------------


def demo():
    """Print one patient's PASI written out, and the boxes of two films."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "images"))
        regions, photos = psoriasis_patient(folder, 0, 0)
        films = [chest_patient(folder, 0, index) for index in (6, 8)]
    first = dict(zip(PHOTO_COLUMNS, photos[0]))
    print("psoriasis   {patient_id}: skin type {fst}, {age} {sex}, {site}".format(**first), f"- {len(photos)} photographs")
    print("region       photographs  area  grade  E  I  S   weight x (E + I + S) x grade")
    for _, region, seen, area, grade, *eis in regions:
        weight, e, i, s = WEIGHTS[region], *eis
        print(f"{region:12s} {seen:11d} {area:5.0%} {grade:6d}  {e}  {i}  {s}"
              f"   {weight} x {e + i + s:2d} x {grade} = {weight * (e + i + s) * grade:4.1f}")
    print("PASI {pasi} of 72, PGA {pga} of 5".format(**first))
    print(f"\nchest film           finding        box in {FILM} x {FILM} px")
    for boxes, rows in films:
        for name, label, *box in boxes:
            print(f"{name:20s} {label:13s}", "{:3d}..{:<3d} x {:3d}..{:<3d}".format(box[0], box[2], box[1], box[3]))


def main(argv=None):
    parser = argparse.ArgumentParser(description="write a simulated cohort; without flags, show a patient")
    parser.add_argument("--data", choices=COHORTS, help="which cohort")
    parser.add_argument("--out", help="folder to write, new or empty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", type=int, help="how many; default: as train.py uses")
    args = parser.parse_args(argv)
    if not args.data and not args.out:
        return demo()
    if not args.data or not args.out:
        parser.error("--data and --out go together")
    if os.path.isdir(args.out) and os.listdir(args.out):
        parser.error(f"--out {args.out} is not empty")
    COHORTS[args.data](args.out, args.seed, **({"patients": args.patients} if args.patients else {}))
    print(f"wrote {os.path.join(args.out, 'cohort.csv')}")


if __name__ == "__main__":
    main()
