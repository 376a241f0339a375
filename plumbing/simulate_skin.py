"""Simulated psoriasis patients: photographs of body regions, and PASI and PGA, scores of the whole patient.

PASI, the Psoriasis Area and Severity Index            Fredriksson and Pettersson 1978
     = sum over regions of weight x (erythema + induration + scaling) x area grade
PGA, the Physician's Global Assessment                 ours
     = 0 if clear, else 5/4 of the mean of all grades in the affected regions, rounded up to 1..5

Erythema is redness, induration is thickness; these and scaling are graded 0..4. Below, regions is
{region: [area: share of its skin under plaques, erythema, induration, scaling]}.

1000 patients with 1..6 photographs (JPEG, long side 200 to 260 px) of body regions, scored as a whole.

Tests Murray 2024: (1) several photographs beat one, since PASI adds up regions and areas differ between
them; (2) a second look at high resolution pays, since scaling, a third of every grade, shows at 128 px
and not at 64; (3) types V-VI are few and their plaques less distinct, so errors there are larger.
cohort.csv: one row per photograph; pasi and pga are the patient's, the other truth is the photograph's.
regions.csv: one row per region, photographed or not, from which PASI can be worked out by hand.
"""
import numpy as np

from plumbing.simulate_photo import SITES, draw_photo


WEIGHTS = {"head": 0.1, "upper limbs": 0.2, "trunk": 0.3, "lower limbs": 0.4}      # of each region in PASI
FST = (0.12, 0.27, 0.28, 0.18, 0.09, 0.06)      # shares of Fitzpatrick skin types 1..6: I-IV 85 %, V-VI 15 %
PHOTOS = (0.05, 0.13, 0.54, 0.14, 0.07, 0.07)   # shares of patients with 1..6 photographs, mean 3.3


# -----------------------------------------------------------------------------
# scores


def area_grade(fraction):
    """Share of skin under plaques -> 0..6: none, < 10 %, < 30 %, < 50 %, < 70 %, < 90 %, more."""
    return (fraction > 0) + sum(fraction >= edge for edge in (0.1, 0.3, 0.5, 0.7, 0.9))


def pasi(regions):
    """Return 0..72, in steps of 0.1."""
    parts = [WEIGHTS[region] * sum(grades) * area_grade(area) for region, (area, *grades) in regions.items()]
    return round(sum(parts), 1)


def pga(regions):
    """Return 0 (clear) .. 5 (severe)."""
    affected = []
    for area, *grades in regions.values():
        if area > 0:
            affected += grades
    if not affected:
        return 0
    return -(-5 * sum(affected) // (4 * len(affected)))            # division that rounds up, in whole numbers


# -----------------------------------------------------------------------------
# patients


def draw_disease(rng):
    """Return regions, which share the severity of the patient."""
    severity = rng.normal()
    clear = rng.random() < 0.05
    usual_grades = 1.9 + 0.9 * severity + 0.65 * rng.normal(size=3)
    log_odds = -1.5 + 0.4 * severity + 1.35 * rng.normal(size=4)   # of lying under plaques, by region
    regions = {}
    for region, odds in zip(WEIGHTS, log_odds):
        grades = np.rint(usual_grades + 0.35 * rng.normal(size=3)).clip(0, 4).astype(int).tolist()
        if sum(grades) == 0:
            grades[0] = 1                                          # a plaque has at least some color
        area = float(1 / (1 + np.exp(-odds)))
        regions[region] = [max(0.01, area)] + grades
        if clear or rng.random() < 0.1:
            regions[region] = [0.0, 0, 0, 0]
    return regions


def choose_regions(rng, count):
    """Return the region of each of `count` photographs: four different ones, then two for a second time."""
    order = rng.choice(
        list(WEIGHTS), 4,
        replace=False,
        p=list(WEIGHTS.values())).tolist()
    if count >= 3:                              # trunk and lower limbs, which are 70 % of PASI, first
        order.sort(key=lambda region: WEIGHTS[region] < 0.3)
    order += ["lower limbs", "trunk"]
    return order[:count]


def psoriasis_patient(seed, index):
    """Draw one patient's photographs -> rows of regions.csv, rows of cohort.csv, {file: pixels}."""
    rng = np.random.default_rng((1, seed, index))
    patient = f"p{index:04d}"
    fst = 1 + rng.choice(6, p=FST)
    site = rng.choice(list(SITES))
    age = rng.integers(18, 81)
    sex = rng.choice(["F", "M"])
    count = 1 + rng.choice(6, p=PHOTOS)
    regions = draw_disease(rng)

    photos = []
    pictures = {}
    for number, region in enumerate(choose_regions(rng, count)):
        area, *grades = regions[region]
        if area > 0:
            area *= rng.uniform(0.85, 1.0)
        name = f"images/{patient}_{number}.jpg"
        pictures[name], area = draw_photo(rng, region, fst, site, area, grades)
        photos.append((name, region, [round(area, 4)] + grades))

    region_rows = []
    for region, truth in regions.items():
        areas = [drawn[0] for _, shown, drawn in photos if shown == region]
        if areas:                                                  # the truth is what was drawn
            truth[0] = round(sum(areas) / len(areas), 4)
        region_rows.append([patient, region, len(areas), truth[0], area_grade(truth[0]), *truth[1:]])
    about = [fst, age, sex, site, pasi(regions), pga(regions)]
    photo_rows = [[patient, name, region] + about + truth for name, region, truth in photos]
    return region_rows, photo_rows, pictures


PSORIASIS = (
    psoriasis_patient,
    {
        "regions.csv": "patient_id region photographs area area_grade erythema induration scaling",
        "cohort.csv": "patient_id image region fst age sex site pasi pga "
                      "area erythema induration scaling",
    },
    1000,
)
