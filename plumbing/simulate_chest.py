"""Simulated chest patients: who has which of six findings, and the tables of their films and boxes.

1000 patients with about 1.5 frontal films each (192 px, grey JPEG), six findings and their boxes. A film has
a finding where its liability is high: LOADS times the patient's heart failure, infection and chronic lung
disease, and the rest from an inclination that is the finding's own. simulate_film.py draws it.

Tests Chen 2021: a heart needs a wide view, and a nodule, a pleural line or a fine net need small patches,
so two patch sizes should beat one; and Marikkar 2023: findings come together (heart failure: large heart
and effusion), so label tokens that see each other should help, and each label's map should light up its
own box.
cohort.csv: one row per film. boxes.csv: one row per box, in px of the file; x1 and y1 are one past the
last. Every positive label has one or more, the others none.
"""
from statistics import NormalDist

import numpy as np

from plumbing.simulate_film import draw_film


FINDINGS = {                                    # share of films with each
    "Cardiomegaly": 0.28,
    "Effusion": 0.30,
    "Consolidation": 0.26,
    "Nodule": 0.24,
    "Pneumothorax": 0.16,
    "Fibrosis": 0.20}
LOADS = np.loadtxt("""                          # of each on heart failure, infection and chronic lung disease
    0.8   0.0   0.1
    0.6   0.5   0.0
    0.1   0.8   0.0
    0.0  -0.2   0.4
   -0.3   0.0   0.3
    0.1   0.0   0.8""".splitlines())


def choose_findings(rng, diseases, own):
    """Return the labels of one film.

    diseases (3,) is how much of each the patient has, own (6,) how inclined to each finding besides. Both are
    standard normal, and so is the liability made of them."""
    rest = np.sqrt(1 - (LOADS ** 2).sum(1))
    varying = 0.8 * own + 0.6 * rng.normal(size=len(own))          # from film to film
    liability = LOADS @ diseases + rest * varying
    return [label for label, value in zip(FINDINGS, liability)
            if value > NormalDist().inv_cdf(1 - FINDINGS[label])]


def chest_patient(seed, index):
    """Draw one patient's films -> rows of boxes.csv, rows of cohort.csv, {file: pixels}."""
    rng = np.random.default_rng((2, seed, index))
    patient = f"p{index:04d}"
    sex = rng.choice(["F", "M"])
    diseases = rng.normal(size=3)
    own = rng.normal(size=len(FINDINGS))
    age = 55 + 8 * diseases[0] + 6 * diseases[2] + 12 * rng.normal()
    anatomy = [*rng.uniform(0.95, 1.05, 2), rng.uniform(0.26, 0.32), rng.uniform(0.15, 0.19)]
    bedside = 0.3 + 0.1 * diseases[0].clip(-1, 2)                  # chance of a film in bed

    box_rows = []
    film_rows = []
    pictures = {}
    for number in range(1 + rng.choice(4, p=(0.65, 0.22, 0.09, 0.04))):
        view = "PA"                                                # standing: the rays enter at the back
        if rng.random() < bedside:
            view = "AP"
        labels = choose_findings(rng, diseases, own)
        name = f"images/{patient}_{number}.jpg"
        pictures[name], boxes = draw_film(rng, anatomy, view, labels)
        box_rows += [(name,) + box for box in boxes]
        present = [int(label in labels) for label in FINDINGS]
        film_rows.append([patient, name, int(age.clip(18, 95)), sex, view] + present)
    return box_rows, film_rows, pictures


CHEST = (
    chest_patient,
    {
        "boxes.csv": "image label x0 y0 x1 y1",
        "cohort.csv": "patient_id image age sex view " + " ".join(FINDINGS),
    },
    1000,
)
