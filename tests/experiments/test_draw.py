"""experiments/draw.py still draws every picture of docs/, as large as the one that stands there."""
from pathlib import Path

import pytest
from PIL import Image

from experiments import draw


@pytest.mark.parametrize("picture", draw.PICTURES, ids=lambda picture: picture.__name__)
def test_every_picture_of_the_docs_is_drawn(picture):
    drawn = picture()
    with Image.open(Path(draw.DOCS) / f"{picture.__name__}.png") as kept:
        assert drawn.size == kept.size and len(drawn.getcolors(2 ** 20)) > 10


def test_the_program_writes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw, "PICTURES", (draw.lt_vit,))
    draw.main(["--out", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}/lt_vit.png\n"
    with Image.open(tmp_path / "lt_vit.png") as written:
        assert written.tobytes() == draw.lt_vit().tobytes()
