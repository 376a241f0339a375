"""Runs of class folders: where nothing says who the patients are, every place that shows a number says so."""
import json
import signal

import numpy as np
import pytest
from PIL import Image

import train


def draw(folder, names, seed=0):
    """Pictures of 16 px, those of the class b brighter."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 100 + 100 * name.startswith("b/"), (16, 16, 3)).astype(np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """-> folder with data/, class folders of 20 pictures, runs/r, trained on them for an epoch, and its log."""
    folder = tmp_path_factory.mktemp("classes")
    draw(folder / "data", [f"{name}/{i}.png" for name in "ab" for i in range(10)])
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train.main(["--data", str(folder / "data"), "--model", "vit", "--image", "16", "--epochs", "1", "--workers", "0", "--device", "cpu",
                "--runs", str(folder / "runs"), "--name", "r"])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return folder


def test_every_place_says_images_not_patients(classes):
    """Report, card and metrics.json; none of them counts patients."""
    run = classes / "runs/r"
    page, card = (run / "report.html").read_text(), (run / "best/README.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["unit"] == "image" and metrics["patient_ids"] is False and "images, not patients" in metrics["patient_note"]
    for text in (page, card):
        assert "images, not patients, resampled" in text and "Split by image: one person may be in two of them" in text
        assert "test patients" not in text and "nobody is in two" not in text
