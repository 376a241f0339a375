"""Simulated chest films with six findings and their boxes.
"""
import math
import os
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw

from plumbing.drawing import frame, limbs, noise, ramp, resize, save_jpeg


# chest: share of films with each finding, and what the findings share (heart failure, infection, chronic lung disease)
FINDINGS = {"Cardiomegaly": (.28, .8, .0, .1), "Effusion": (.30, .6, .5, .0), "Consolidation": (.26, .1, .8, .0),
            "Nodule": (.24, .0, -.2, .4), "Pneumothorax": (.16, -.3, .0, .3), "Fibrosis": (.20, .1, .0, .8)}
FILM_COLUMNS = ["patient_id", "image", "age", "sex", "view", *FINDINGS]
BOX_COLUMNS = "image label x0 y0 x1 y1".split()  # pixels of the file; x1 and y1 are one past the last
FILM = 192                                      # px, side of a film


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
