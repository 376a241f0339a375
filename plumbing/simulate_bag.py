"""Simulated bags of feature vectors, as from the tiles of whole-slide images.
"""
import os

import numpy as np


# bag
WIDTH, LONGEST = 64, 11039                      # of a vector; vectors of the longest bag, as in the paper
BAG_COLUMNS = "patient_id bag subtype vectors tumor".split()


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
