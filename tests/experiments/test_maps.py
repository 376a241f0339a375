"""experiments/maps.py and costs.py: the figure of two runs, and tables of what networks cost."""
import csv

import pytest
from PIL import Image

from experiments import bench, maps
from plumbing.simulate import make
from tests.small_runs import fit


@pytest.mark.slow
def test_the_maps_of_two_runs_stand_beside_each_other(tmp_path, quiet, monkeypatch):
    """One row per label that both runs have a box of, with the class token's map and the label token's; other patients are refused."""
    table = make("chest", str(tmp_path), patients=30)
    flags = ["--data", table, "--image", "32", "--epochs", "1", "--device", "cpu", "--workers", "0", "--dropout", "0"]
    fit([*flags, "--model", "vit", "--name", "vit"])
    fit([*flags, "--model", "lt_vit", "--name", "lt"])
    drawn = []
    heat_figure = maps.heat_figure
    monkeypatch.setattr(maps, "heat_figure", lambda rows, title: drawn.extend(rows) or heat_figure(rows, title))
    maps.main(["runs/vit", "runs/lt", "--out", "maps.png"])
    assert drawn and len({caption for _, caption, *_ in drawn}) == len(drawn)
    for [(_, photo, _)], _, boxes, weights in drawn:
        assert list(weights)[:2] == ["runs/vit: class token", "runs/lt: label token"] and boxes and photo.ndim == 3
        assert all(len(map_) == 4 for map_ in weights.values())
    assert Image.open("maps.png").height > 200 * len(drawn)
    monkeypatch.setattr(maps, "find_boxes", lambda *args: {})
    with pytest.raises(ValueError, match="no finding with a box"):
        maps.main(["runs/vit", "runs/lt"])


@pytest.mark.slow
def test_costs_of_variants_and_recipes(tmp_path):
    """CrossViT-9 has 8.55 M parameters and 1.8 G multiply-adds as in the paper's Table 1; hours and memory are positive."""
    for name in ("variants", "recipes"):
        bench.main([name, "--quick", "--rounds", "1", "--out", str(tmp_path)])
    with open(tmp_path / "variants.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert float(row["M parameters"]) == pytest.approx(8.6, abs=0.1) and float(row["G"]) == pytest.approx(1.8, abs=0.1)
    with open(tmp_path / "recipes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(float(row["GB"]) > 0 and float(row["GPU hours"]) > 0 for row in rows)
