"""Fixtures that several folders use."""
import signal

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)                                           # tiny tensors: two threads wait for each other more than they work


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
