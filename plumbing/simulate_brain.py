"""Simulated brain volumes beside age, education and APOE.
"""
import math
import os

import numpy as np

from plumbing.drawing import ramp


SIDE = 24                                       # brain: px, side of a volume
APOE = {"e3/e3": .6, "e3/e4": .32, "e4/e4": .08}    # shares of the genotypes
STAGES = ("CN", "MCI", "AD")                    # cognitively normal, mild impairment, dementia: thirds of the patients
BRAIN_COLUMNS = "patient_id image age sex education apoe diagnosis time event".split()
BRAIN_TRUTH = "patient_id atrophy widening severity".split()


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
