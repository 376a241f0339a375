"""Runs on photographs, trained once for all tests of this folder."""
import signal

import numpy as np
import pytest
from PIL import Image

import train

NASTY_NAME = "<script>alert('x')</script>"


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """photos.csv of 20 patients, and runs: `vit` with three classes, `multi` with regression and classes, `lt` with two labels."""
    folder = tmp_path_factory.mktemp("deploy")
    rng = np.random.default_rng(0)
    lines = ["who,picture,redness,grade,dots,stripes"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        for photo in range(1 + patient % 3):
            Image.fromarray(np.uint8(rng.integers(0, 60, (20, 16, 3)) + [0.7 * red, 0, 0])).save(folder / f"{patient}_{photo}.png")
            lines.append(f"p{patient},{patient}_{photo}.png,{red:.2f},{('low', 'middle', 'top')[int(red // 86)]},{int(red > 99)},{patient % 2}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for name, target, more in (("vit", "grade:classes", ["--model", "vit"]),
                               ("multi", "redness:regression,grade:classes", ["--model", "multivit", "--n", "2", "--r", "2"]),
                               ("lt", "dots:labels,stripes:labels", ["--model", "lt_vit", "--label-layers", "2"])):
        train.main(["--data", str(folder / "photos.csv"), "--patient-column", "who", "--image-column", "picture", "--target", target,
                    "--image", "16", "--epochs", "1", "--workers", "0", "--device", "cpu", "--runs", str(folder / "runs"), "--name", name, *more])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """runs/: `a` with regression and three classes, `b` with labels, `c` with two classes; patients and a column with nasty names."""
    place = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    lines = ["patient_id,image,redness,grade,dot,<script>bar,yes,sex"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        Image.fromarray(np.uint8(rng.integers(0, 60, (16, 16, 3)) + [0.7 * red, 0, 0])).save(place / f"{patient}.png")
        lines.append(f"{NASTY_NAME if patient < 1 else f'p{patient}<i>'},{patient}.png,{red:.2f},{('low', 'middle', '<u>top')[int(red // 86)]},"
                     f"{int(red > 99)},{patient % 2},{'no' if red < 120 else 'yes'},{'FM'[patient % 2]}")
    (place / "photos.csv").write_text("\n".join(lines) + "\n")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for name, target in (("a", "redness:regression,grade:classes"), ("b", "dot:labels,<script>bar:labels"), ("c", "yes:classes")):
        train.main(["--data", str(place / "photos.csv"), "--target", target, "--model", "vit", "--image", "16", "--epochs", "2", "--workers", "0",
                    "--device", "cpu", "--runs", str(place / "runs"), "--name", name])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return place / "runs"
