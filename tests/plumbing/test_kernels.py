"""plumbing/kernels.py: what the measurement chooses, what is kept of it, and that narrow models are left alone."""
from argparse import Namespace

import numpy as np
import pytest
import torch

from plumbing import kernels
from plumbing.flags import read_args
from plumbing.kernels import choose_kernels, time_products
from tests.grey_runs import flags
from tests.small_runs import fit
from vit import ViT, ViTConfig

CPU = torch.device("cpu")


def model(dim):
    return ViT(ViTConfig(image=(16, 16), dim=dim, depth=1, heads=2, mlp=8))


@pytest.fixture(autouse=True)
def highest():
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("times, expected", (
    ({"mkl": 1.0, "onednn": 0.9, "bf16": 0.9}, ("mkl", "off")),    # not by 15 %
    ({"mkl": 1.0, "onednn": 0.8, "bf16": 3.0}, ("onednn", "off")),
    ({"mkl": 1.0, "onednn": 0.8, "bf16": 0.4}, ("onednn", "bf16")),
    ({"mkl": 1.0, "bf16": 0.5}, ("mkl", "bf16"))))
def test_the_fastest_is_chosen_where_it_pays(times, expected, monkeypatch):
    """Written into the flags, set, and said with its numbers."""
    monkeypatch.setattr(kernels, "time_products", lambda width: times)
    args = Namespace(kernels="auto", amp="auto")
    line = choose_kernels(args, model(128), CPU)
    assert (args.kernels, args.amp) == expected
    assert torch.get_float32_matmul_precision() == kernels.PRECISION[expected[0]]
    assert "float32 by MKL 1.00 ms" in line and line.endswith(kernels.NAMES["bf16" if expected[1] == "bf16" else expected[0]])


def test_flags_decide_and_narrow_models_are_not_timed(monkeypatch):
    """--amp off with auto kernels still times; both given, or 64 wide, never do; a probe keeps float32."""
    def never(width):
        raise AssertionError("timed")
    monkeypatch.setattr(kernels, "time_products", never)
    narrow, given = Namespace(kernels="auto", amp="auto"), Namespace(kernels="onednn", amp="off")
    assert choose_kernels(narrow, model(64), CPU) == "" and vars(narrow) == {"kernels": "mkl", "amp": "off"}
    assert "float32 by oneDNN" in choose_kernels(given, model(128), CPU) and torch.get_float32_matmul_precision() == "medium"
    monkeypatch.setattr(kernels, "time_products", lambda width: {"mkl": 1.0, "bf16": 0.1})
    probe, args = model(128), Namespace(kernels="auto", amp="auto")
    probe.inputs = ("features",)
    choose_kernels(args, probe, CPU)
    assert args.amp == "off"


def test_the_measurement_times_products_and_draws_no_random_number():
    """Milliseconds above 0 of each kernel; the numbers of dropout stay what they were."""
    before = torch.get_rng_state()
    times = time_products(128)
    assert {"mkl", "bf16"} <= set(times) and min(times.values()) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_equal_kernels_stay_equal_on_a_busy_machine(monkeypatch):
    """Where every product takes 1 ms, or 1.6 while others compute, no kernel wins by 15 %; a product that takes 15 is timed twice."""
    random, now, calls = np.random.default_rng(0), [0.0], {"emulated": 0}

    def clock():
        return now[0]

    def product(precision, x, weight):
        emulated = x.dtype == torch.bfloat16
        calls["emulated"] += emulated
        now[0] += 0.001 * random.choice((1.0, 1.6)) * (15 if emulated else 1)
        return torch.zeros(1)
    monkeypatch.setattr(kernels, "at_precision", product)
    monkeypatch.setattr(kernels.time, "perf_counter", clock)
    for _ in range(200):
        assert kernels.best_of(time_products(128)) == "mkl"
    assert calls["emulated"] == 2 * 200


def test_a_resumed_run_keeps_the_kernels_it_began_with(greys, quiet, monkeypatch, capsys):
    """Where another measurement would choose otherwise, what args.json says is used, and said."""
    monkeypatch.setattr(kernels, "NARROW", 8)
    monkeypatch.setattr(kernels, "time_products", lambda width: {"mkl": 1.0, "bf16": 0.5})
    fit(flags(greys, "--epochs", "1", "--name", "a"))
    assert read_args("runs/a").amp == "bf16" and read_args("runs/a").kernels == "mkl"
    monkeypatch.setattr(kernels, "time_products", lambda width: {"mkl": 1.0, "bf16": 5.0})
    capsys.readouterr()
    fit(["--resume", "runs/a", "--device", "cpu"])
    assert "products as the flags or args.json say: bfloat16" in capsys.readouterr().out
