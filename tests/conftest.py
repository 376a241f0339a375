import signal

import pytest
import torch

torch.set_num_threads(1)                                           # tiny tensors: two threads wait for each other more than they work


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Each test in a folder of its own, signals as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
