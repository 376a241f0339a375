"""Simulated chest patients: rows, films and boxes agree."""
import os

import pytest
from PIL import Image

from plumbing.simulate import write
from plumbing.simulate_chest import CHEST, FINDINGS
from plumbing.simulate_film import FILM
from tests.plumbing.simulated_files import read


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chest")
    write(folder, CHEST, seed=3, patients=40)
    return folder


@pytest.mark.slow
def test_rows_and_files_agree(films):
    """Every row has its picture and every picture its row; sizes and modes are as documented."""
    names = [row["image"] for row in read(films)]
    assert sorted(names) == sorted("images/" + name for name in os.listdir(films / "images"))
    for name in names:
        with Image.open(films / name) as image:
            assert image.mode == "L"
            assert image.size == (FILM, FILM)


@pytest.mark.slow
def test_boxes_are_the_labels(films):
    """Boxes lie in the film; every positive label has one or more, every negative none."""
    boxes = read(films, "boxes.csv")
    for b in boxes:
        x0, y0, x1, y1 = (int(b[k]) for k in ("x0", "y0", "x1", "y1"))
        assert 0 <= x0 < x1 <= FILM and 0 <= y0 < y1 <= FILM
    for row in read(films):
        drawn = {b["label"] for b in boxes if b["image"] == row["image"]}
        assert drawn == {label for label in FINDINGS if row[label] == "1"}
