"""Simulated brain volumes beside age, sex, education and APOE, with a diagnosis and the time to dementia.

1000 volumes (24 px a side, uint8 .npy) beside age, sex, education (5 % blank) and APOE genotype. A volume
shows a head with two dark ventricles, larger with `widening`, and two bright hippocampi, smaller with
`atrophy`.

    severity = 1.5 atrophy sign(widening - (age - 73) / 7) + 0.3 e4 - 0.3 (education - 15) / 3 + noise

The diagnosis is its third of the severities; the years to dementia are exponential, fewer with severity.

Tests Pölsterl 2021: small hippocampi mean disease when the ventricles are wider than the patient's age
explains, and health when they are narrower. So the volume alone and the table alone say little, and
adding their evidence up says little more. What changes the meaning of the hippocampi is neither in the
table (FiLM) nor in the volume, but in both (DAFT). The table counts by itself too: education protects and
e4 harms. Sex says nothing.
cohort.csv: one row per volume, with a diagnosis and a time: years to dementia where event is 1, else to
the last look. truth.csv: what was drawn.
"""
import math

import numpy as np

from plumbing.drawing import ramp


SIDE = 24                                       # px, side of a volume
APOE = {"e3/e3": 0.6, "e3/e4": 0.32, "e4/e4": 0.08}                # genotypes of apolipoprotein E: shares
STAGES = ("CN", "MCI", "AD")                    # cognitively normal, mild impairment, dementia: a third each


def distance(x, y, z):
    """From the origin, for whole grids."""
    return np.sqrt(x ** 2 + y ** 2 + z ** 2)


def head_grids(rng):
    """Return the grids z, y, x, from -1 to 1 over a head that is moved, turned and scaled a little."""
    ticks = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * 2 - 1
    moved = ticks - rng.uniform(-0.06, 0.06, (3, 1))
    z, y, x = np.meshgrid(*moved, indexing="ij")
    turn = rng.uniform(-0.12, 0.12)
    size = rng.uniform(0.95, 1.05)
    return (
        z / size,
        (y * np.cos(turn) - x * np.sin(turn)) / size,
        (x * np.cos(turn) + y * np.sin(turn)) / size)


def draw_brain(rng, atrophy, widening):
    """Draw a head with two dark ventricles and two bright hippocampi -> (SIDE, SIDE, SIDE) uint8.

    The ventricles grow with `widening`, the hippocampi shrink with `atrophy`."""
    z, y, x = head_grids(rng)
    head = 0.9 - 0.9 * distance(x / 0.85, y, z / 0.9)
    ventricles = 0.17 * np.exp(0.22 * widening) - distance(
        abs(x) - 0.22,
        y / 2.2,
        (z - 0.25) / 1.3)
    hippocampi = 0.2 * np.exp(-0.22 * atrophy) - distance(
        abs(x) - 0.45,
        (y + 0.1) / 2,
        z + 0.35)
    dark = ramp(ventricles, 0.08)
    brain = (
        0.5 * ramp(head, 0.08)
        - 0.38 * dark
        + 0.45 * ramp(hippocampi, 0.08) * (1 - dark))
    brain *= rng.uniform(0.85, 1.15)
    brain += 0.05 * rng.standard_normal(brain.shape, np.float32)
    return np.uint8(255 * brain.clip(0, 1))


def brain_patient(seed, index):
    """Draw one patient's volume -> rows of truth.csv, rows of cohort.csv, {file: volume}."""
    rng = np.random.default_rng((3, seed, index))
    sex = rng.choice(["F", "M"])
    age = np.clip(round(73 + 7 * rng.normal()), 55, 95)
    education = np.clip(round(15 + 3 * rng.normal()), 6, 21)       # years
    apoe = rng.choice(
        list(APOE),
        p=list(APOE.values()))

    atrophy, widening = rng.normal(size=2)
    mismatch = widening - (age - 73) / 7                           # ventricles wider than the age explains
    severity = (
        1.5 * atrophy * math.copysign(1, mismatch)
        + 0.3 * apoe.count("e4")
        - 0.3 * (education - 15) / 3
        + 0.2 * rng.normal())
    stage = STAGES[np.searchsorted((-0.5, 0.75), severity)]
    dementia = rng.exponential(6 * math.exp(-0.9 * severity))      # years until it begins
    watched = rng.uniform(1, 8)                                    # years until the last look

    volume = draw_brain(rng, atrophy, widening)
    if rng.random() < 0.05:
        education = ""
    patient = f"p{index:04d}"
    name = f"images/{patient}.npy"
    return (
        [[patient, *np.round([atrophy, widening, severity], 4)]],
        [[patient, name, age, sex, education, apoe, stage,
          round(min(dementia, watched), 3), int(dementia <= watched)]],
        {name: volume})


BRAIN = (
    brain_patient,
    {
        "truth.csv": "patient_id atrophy widening severity",
        "cohort.csv": "patient_id image age sex education apoe diagnosis time event",
    },
    1000,
)
