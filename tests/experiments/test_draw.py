"""experiments/draw.py still draws every picture of docs/, as large as the one that stands there."""
from pathlib import Path

import pytest
from PIL import Image

from experiments import draw


@pytest.mark.parametrize("name", draw.PICTURES)
def test_every_picture_of_the_docs_is_drawn(name, tmp_path):
    draw.main([name, "--out", str(tmp_path)])
    with Image.open(tmp_path / f"{name}.png") as drawn, Image.open(Path(draw.DOCS) / f"{name}.png") as kept:
        assert drawn.size == kept.size and len(drawn.getcolors(2 ** 20)) > 10
