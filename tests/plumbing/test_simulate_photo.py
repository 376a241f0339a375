"""A simulated photograph: the area is as asked, and each grade shows at the resolution where it should."""
import numpy as np
import pytest
from PIL import Image

from plumbing.simulate_photo import SHAPES, draw_photo


@pytest.mark.parametrize("fraction", (0.0, 0.05, 0.3, 0.8))
def test_area_is_as_asked_and_measured(fraction):
    """The drawn area is close to the one asked for."""
    _, area = draw_photo(np.random.default_rng(1), "trunk", 2, "phone", fraction, (3, 1, 1))
    assert area == 0 if fraction == 0 else abs(area - fraction) < 0.03


def sizes(photo):
    """A photograph as a network sees it: 128 px, and 64 px as the mean of 2 x 2 of those."""
    high = Image.fromarray(photo).resize((128, 128), Image.Resampling.BILINEAR)
    return np.asarray(high.reduce(2), float), np.asarray(high, float)


def test_scaling_shows_at_high_resolution_only():
    """The same photograph with scaling 0 and 4: many grey levels apart at 128 px, a quarter of it at 64 px, no color shift."""
    for region in SHAPES:
        for fst in (1, 3, 5):
            none, most = (sizes(draw_photo(np.random.default_rng(fst), region, fst, "clinic-a", 0.4, (2, 2, s))[0])
                          for s in (0, 4))
            (low, high), mean = (most[i] - none[i] for i in (0, 1)), abs(most[1].mean((0, 1)) - none[1].mean((0, 1)))
            assert high.std() > 2.5 and low.std() < 0.35 * high.std() and mean.max() < 0.08 * high.std()


def test_redness_and_relief_show_at_low_resolution():
    """Erythema and induration, 0 against 4, change the 64-px picture by more than scaling does; dark skin shows less red."""
    def change(fst, **grade):
        eis = {"erythema": 1, "induration": 1, "scaling": 1}
        low = [sizes(draw_photo(np.random.default_rng(2), "trunk", fst, "clinic-a", 0.4, {**eis, **g}.values())[0])[0]
               for g in ({k: 0 for k in grade}, grade)]
        return (low[1] - low[0]).std()
    for fst in (1, 5):
        assert min(change(fst, erythema=4), change(fst, induration=4)) > 2 * change(fst, scaling=4)
    assert change(6, erythema=4) < 0.6 * change(2, erythema=4)
