"""Simulated psoriasis patients: the truth beside the photographs is the truth, and PASI is the clinical formula."""
import os

import numpy as np
import pytest
from PIL import Image

from plumbing.simulate import write
from plumbing.simulate_skin import PSORIASIS, WEIGHTS, area_grade, pasi, pga
from tests.plumbing.simulated_files import content, read


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("psoriasis")
    write(folder, PSORIASIS, seed=3, patients=16)
    return folder


@pytest.mark.slow
def test_more_patients_keep_the_first(photos, tmp_path):
    """A patient's pixels do not depend on how many others there are."""
    write(tmp_path, PSORIASIS, seed=3, patients=2)
    files = content(photos)
    assert all(files[name] == data for name, data in content(tmp_path).items() if name.endswith(".jpg"))


@pytest.mark.slow
def test_rows_and_files_agree(photos):
    """Every row has its picture and every picture its row; sizes, shapes and modes are as documented."""
    names = [row["image"] for row in read(photos)]
    assert sorted(names) == sorted("images/" + name for name in os.listdir(photos / "images"))
    for name in names:
        with Image.open(photos / name) as image:
            assert image.mode == "RGB"
            assert 200 <= max(image.size) <= 400 and 0.44 < image.width / image.height < 2.42


def test_pasi_is_the_clinical_formula(photos):
    """PASI and PGA of cohort.csv, worked out again from regions.csv the slow way, in whole numbers."""
    regions = read(photos, "regions.csv")
    for row in read(photos):
        total, grades = 0, []
        mine = [r for r in regions if r["patient_id"] == row["patient_id"]]
        assert [r["region"] for r in mine] == ["head", "upper limbs", "trunk", "lower limbs"]
        for tenths, r in zip((1, 2, 3, 4), mine):
            eis = [int(r[k]) for k in ("erythema", "induration", "scaling")]
            percent, grade = 100 * float(r["area"]), 0
            if percent > 0:
                grade = 1
            for edge in (10, 30, 50, 70, 90):
                if percent >= edge:
                    grade += 1
            assert grade == int(r["area_grade"]) and all(0 <= g <= 4 for g in eis)
            total += tenths * sum(eis) * grade
            grades += eis if percent > 0 else []
        assert float(row["pasi"]) == total / 10
        mean = sum(grades) / len(grades) if grades else 0
        assert int(row["pga"]) == sum(mean > step - 1e-9 for step in (1e-6, .8 + 2e-9, 1.6 + 2e-9, 2.4 + 2e-9, 3.2 + 2e-9))


def test_pasi_range():
    """0 when clear, 72 when all of the skin is at its worst, and area bins open at their lower edge."""
    assert pasi({r: (0.0, 0, 0, 0) for r in WEIGHTS}) == 0
    assert pasi({r: (1.0, 4, 4, 4) for r in WEIGHTS}) == 72
    assert [area_grade(a) for a in (0, .01, .1, .3, .5, .7, .9, 1)] == [0, 1, 2, 3, 4, 5, 6, 6]
    worst, clear = {"trunk": (0.2, 4, 4, 4)}, {"trunk": (0.0, 0, 0, 0)}
    assert pga(worst) == 5 and pga(clear) == 0


def test_regions_agree_with_photographs(photos):
    """A region's area is the mean of its photographs, its grades are theirs; three photographs show at least 70 % of PASI's weight."""
    rows = read(photos)
    for region in read(photos, "regions.csv"):
        seen = [r for r in rows if (r["patient_id"], r["region"]) == (region["patient_id"], region["region"])]
        assert len(seen) == int(region["photographs"])
        if seen:
            assert abs(np.mean([float(r["area"]) for r in seen]) - float(region["area"])) < 1e-3
            assert {tuple(r[k] for k in ("erythema", "induration", "scaling")) for r in seen} == {
                tuple(region[k] for k in ("erythema", "induration", "scaling"))}
    for patient in {r["patient_id"] for r in rows}:
        shown = [r["region"] for r in rows if r["patient_id"] == patient]
        assert len(shown) < 3 or {"trunk", "lower limbs"} <= set(shown)
