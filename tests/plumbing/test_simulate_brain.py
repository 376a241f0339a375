"""Simulated brains: the volumes show what the truth says, and a label needs volume and table together."""
import numpy as np
import pytest

from plumbing.simulate import write
from plumbing.simulate_brain import BRAIN, SIDE, STAGES
from tests.plumbing.simulated_files import read


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brain")
    write(folder, BRAIN, seed=3, patients=200)
    rows, truth = read(folder), read(folder, "truth.csv")
    assert [row["patient_id"] for row in rows] == [row["patient_id"] for row in truth]
    images = [np.load(folder / row["image"]) for row in rows]
    return images, rows, {key: np.array([float(row[key]) for row in truth]) for key in ("atrophy", "widening", "severity")}


def explained(y, *columns):
    """Share of the variance of y that a linear model on the columns explains, on the rows it was fitted to."""
    A = np.stack([np.ones_like(y), *columns], 1)
    return 1 - np.var(y - A @ np.linalg.lstsq(A, y, rcond=None)[0]) / np.var(y)


def test_volumes_show_what_the_truth_says(volumes):
    """Less bright tissue with atrophy, more dark voxels inside the head with wide ventricles; the two are independent."""
    images, _, truth = volumes
    assert {(image.dtype, image.shape) for image in images} == {(np.dtype(np.uint8), (SIDE,) * 3)}
    inside = np.s_[7:19, 6:18, 7:17]
    bright, dark = (np.array([test(image[inside] / image[10:14, 2:5, 10:14].mean()) for image in images])
                    for test in (lambda x: (x > 1.5).sum(), lambda x: (x < 0.6).sum()))
    assert np.corrcoef(bright, truth["atrophy"])[0, 1] < -0.8 and np.corrcoef(dark, truth["widening"])[0, 1] > 0.8
    assert abs(np.corrcoef(truth["atrophy"], truth["widening"])[0, 1]) < 0.2


def test_the_label_needs_volume_and_table_together(volumes):
    """Neither alone nor their sum says much of the severity; atrophy, with the sign of widening less age, says most."""
    _, rows, truth = volumes
    column = lambda name: np.array([float(row[name] or 15) for row in rows])
    age, y = (column("age") - 73) / 7, truth["severity"]
    table = age, column("education"), np.array([row["apoe"].count("e4") for row in rows])
    image = truth["atrophy"], truth["widening"], truth["atrophy"] * truth["widening"]
    assert explained(y, *table) < 0.15 and explained(y, *image[:2]) < 0.15 and explained(y, *table, *image[:2]) < 0.3
    assert explained(y, *image) < 0.6                              # also with the volume's own product
    assert explained(y, *table, truth["atrophy"] * np.sign(truth["widening"] - age)) > 0.9
    stages = np.array([STAGES.index(row["diagnosis"]) for row in rows])
    assert all(y[stages == k].max() <= y[stages == k + 1].min() for k in (0, 1)) and np.bincount(stages).min() > 50
    assert 0.01 < np.mean([row["education"] == "" for row in rows]) < 0.12


def test_dementia_comes_sooner_to_the_severe_and_some_are_censored(volumes):
    """Both kinds of end are frequent, times are within what was watched, and severity orders the events."""
    _, rows, truth = volumes
    time, event = (np.array([float(row[name]) for row in rows]) for name in ("time", "event"))
    assert 0.4 < event.mean() < 0.7 and time.min() >= 0 and time.max() <= 8 and set(event) == {0, 1}
    assert time[(event == 1) & (truth["severity"] > 1)].mean() < time[(event == 1) & (truth["severity"] < -1)].mean()
