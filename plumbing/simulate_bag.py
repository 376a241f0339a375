"""Simulated bags of feature vectors, as from the tiles of whole-slide images; a few in each bag are tumor.

400 bags of 200 to 2,000 vectors (.npy, 64 wide, float16), the first of 11,039, as from slides.

Tests Khader et al. 2024: attention of linear cost reads a bag whole, and finds the 0.5 to 2 % of its
vectors that are tumor, whose place tells subtype A from B. The other vectors are a mixture of eight
tissues, different in every slide, and every slide has a stain of its own. So the mean of a bag tells
nothing (logistic regression on it: AUROC about 0.5); a model has to look at single vectors.
cohort.csv: one row per bag. tumor.csv: one row per tumor vector, with its row in the bag.
"""
import numpy as np


WIDTH = 64                                      # of a vector
LONGEST = 11039                                 # vectors of the longest bag, as in the paper
TISSUES = 8


def bag_patient(seed, index):
    """Draw one patient's bag of vectors -> rows of tumor.csv, rows of cohort.csv, {file: vectors}."""
    world = np.random.default_rng((4, seed))                       # what all slides share
    tissues = world.normal(size=(TISSUES, WIDTH))
    axes, _ = np.linalg.qr(world.normal(size=(WIDTH, 2)))
    tumors = 8 * axes.T                         # as far from the mean as noise is long, and at right angles

    rng = np.random.default_rng((4, seed, index))                  # what is this slide's own
    subtype = rng.integers(2)
    length = LONGEST
    if index > 0:
        length = int(np.exp(rng.normal(6.5, 0.6)).clip(200, 2000))
    vectors = tissues[rng.choice(
        TISSUES, length,
        p=rng.dirichlet(np.full(TISSUES, 0.5)))]
    vectors += 0.5 * rng.normal(size=WIDTH)                        # the stain
    count = max(4, round(length * rng.uniform(0.005, 0.02)))
    rows = np.sort(rng.choice(length, count, replace=False))
    vectors[rows] = tumors[subtype]
    vectors += rng.normal(size=vectors.shape)

    patient = f"p{index:04d}"
    name = f"images/{patient}.npy"
    return (
        [(name, row) for row in rows],
        [(patient, name, "AB"[subtype], length, count)],
        {name: vectors.astype(np.float16)})


BAG = (
    bag_patient,
    {
        "tumor.csv": "bag row",
        "cohort.csv": "patient_id bag subtype vectors tumor",
    },
    400,
)
