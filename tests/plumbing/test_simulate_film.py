"""A simulated chest film: what a finding changes lies in its boxes."""
import numpy as np
import pytest

from plumbing.simulate_chest import FINDINGS
from plumbing.simulate_film import DRAW, draw_film


def test_the_patients_and_the_films_know_the_same_findings():
    """In the same order: each finding's generator is chosen by its place."""
    assert list(FINDINGS) == list(DRAW)


@pytest.mark.parametrize("label", FINDINGS)
def test_finding_changes_its_box(label):
    """The same film with and without a finding differs inside the finding's boxes, and hardly outside of them."""
    for seed in range(4):
        with_it, boxes = draw_film(np.random.default_rng(seed), (1.0, 1.0, 0.29, 0.17), "AP", [label])
        without, none = draw_film(np.random.default_rng(seed), (1.0, 1.0, 0.29, 0.17), "AP", [])
        change, area = abs(with_it.astype(float) - without), np.zeros(with_it.shape, bool)
        for _, x0, y0, x1, y1 in boxes:
            area[y0:y1, x0:x1] = True
        assert {name for name, *_ in boxes} == {label} and none == [] and 0.001 < area.mean() < 0.45
        assert change[area].mean() > 4 and change[~area].mean() < 0.15 * change[area].mean()
