"""Fixtures that several folders use."""
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from plumbing import simulate

torch.set_num_threads(1)                                           # tiny tensors: two threads wait for each other more than they work
os.fsync = lambda file: None                                       # no folder of a test has to survive a power cut


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Each test in a folder of its own, signals as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])


@pytest.fixture(scope="session")
def greys(tmp_path_factory):
    """A CSV of 20 patients with a picture of 16 px each, whose target is its grey."""
    folder, rng = tmp_path_factory.mktemp("greys"), np.random.default_rng(0)
    lines = ["patient_id,image,grey"]
    for i in range(20):
        Image.fromarray(rng.integers(0, 10 * i + 20, (16, 16, 3)).astype(np.uint8)).save(folder / f"{i}.png")
        lines.append(f"p{i},{i}.png,{i / 4}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "photos.csv")


@pytest.fixture(scope="session")
def grey_run(greys, tmp_path_factory):
    """A run on them that nothing disturbed."""
    import train                                                   # here, since most tests need no run
    from tests.grey_runs import flags

    folder = str(tmp_path_factory.mktemp("runs"))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train.main(flags(greys, "--runs", folder, "--name", "whole"))
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return f"{folder}/whole"


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A CSV of 20 patients with 1 to 3 photographs, whose target is their redness; grade is that in three classes."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    lines = ["patient_id,image,redness,grade,dot,bar,sex"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        for photo in range(1 + patient % 3):
            pixels = rng.integers(0, 60, (20 + patient, 24, 3)).astype(np.uint8)
            pixels[..., 0] = np.clip(red + rng.normal(0, 5, pixels.shape[:2]), 0, 255)
            Image.fromarray(pixels).save(folder / f"{patient}_{photo}.png")
            lines.append(f"p{patient},{patient}_{photo}.png,{red:.2f},{int(red // 86)},{int(red > 99)},{patient % 2},{'FM'[patient % 2]}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "photos.csv")


@pytest.fixture(scope="session")
def volumes(tmp_path_factory):
    """A CSV of 20 volumes of 6 x 16 x 16 voxels, int16, brighter where the target is 1."""
    folder, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    lines = ["patient_id,image,target,sex"]
    for patient in range(20):
        np.save(folder / f"{patient}.npy", rng.integers(-1000, 100 + 900 * (patient % 2), (6, 16, 16)).astype(np.int16))
        lines.append(f"p{patient},{patient}.npy,{patient % 2},{'FM'[patient // 2 % 2]}")
    (folder / "volumes.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "volumes.csv")


@pytest.fixture(scope="session")
def slides(tmp_path_factory):
    """20 simulated bags of vectors, cut to 40 so that they train in no time, but for one of 70."""
    folder = tmp_path_factory.mktemp("slides")
    simulate.write(str(folder), simulate.COHORTS["bag"], seed=0, patients=20)
    for i in range(20):
        path = folder / "images" / f"p{i:04d}.npy"
        np.save(path, np.load(path)[:70 if i == 3 else 40])
    return str(folder / "cohort.csv")
