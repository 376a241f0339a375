"""experiments/bench.py, peers.py, timing.py run, write what they say, and measure what they say; no test depends on how fast anything is."""
import argparse
import csv
import math
import os
import queue
import sys

import numpy as np
import pytest
import torch

import attention
from experiments import bench, timing


def table(name, folder):
    """The rows of `python -m experiments.bench NAME --quick`, in this process; memory is taken in processes that it starts."""
    bench.main([name, "--quick", "--rounds", "1", "--out", str(folder)])
    with open(os.path.join(folder, f"{name}.csv"), newline="") as file:
        return list(csv.DictReader(file))


def finite(row, keys=("s", "ratio", "MB")):
    return all(math.isfinite(float(row[key])) and float(row[key]) >= 0 for key in keys) and float(row["s"]) > 0


def here(monkeypatch):
    """Memory measured in this process instead of one a candidate, each of which would import PyTorch for seconds."""
    class Process:
        exitcode = 0

        def __init__(self, target, args, daemon):
            self.target, self.args = target, args

        def start(self):
            timing.alone(*self.args)

        def join(self, seconds):
            pass

    monkeypatch.setattr(timing.multiprocessing, "get_context", lambda kind: argparse.Namespace(
        SimpleQueue=queue.SimpleQueue, Process=Process))


@pytest.mark.slow
def test_filter_table_with_processes_of_its_own(tmp_path):
    """All ways, finite numbers, and the ratio is over ours."""
    rows = table("filter", tmp_path)
    assert [row["who"] for row in rows] == ["ours", "loops", "loops, scores in one call"] and all(map(finite, rows))
    assert float(rows[0]["ratio"]) == 1 and float(rows[1]["ratio"]) == pytest.approx(float(rows[1]["s"]) / float(rows[0]["s"]))


def test_ours_and_the_loops_of_the_filter_table_do_the_same():
    """What is timed against each other gives the same tokens and the same pixels."""
    ours, *others = (bench.build_filter("cpu", who, 2, 64, 16, 8)() for who in ("ours", "loops", "loops, scores in one call"))
    for tokens, composite in others:
        assert torch.equal(tokens, ours[0]) and torch.equal(composite, ours[1].to(composite.dtype))


@pytest.mark.parametrize("name, key, count", [pytest.param("scaling", "tokens", 12, marks=pytest.mark.slow), pytest.param("multivit", "n", 8, marks=pytest.mark.slow), ("data", "path", 3),
                                               pytest.param("memory", "size", 6, marks=pytest.mark.slow)])
def test_tables_hold_every_candidate_at_every_size(name, key, count, tmp_path, monkeypatch, capsys):
    """Expected rows, finite numbers, no candidate missing; the machine and the peers are named first."""
    here(monkeypatch)
    rows = table(name, tmp_path)
    assert len(rows) == count and all(finite(row) for row in rows) and not any(row["note"] for row in rows)
    assert len({(row["who"], row[key]) for row in rows}) == count
    out = capsys.readouterr().out
    assert f"threads, torch {torch.__version__}" in out.splitlines()[0]
    assert ("softmax: s grows with the power" in out) == (name == "scaling")
    assert (tmp_path / f"{name}.png").is_file() == (name in bench.GROWS)


@pytest.mark.parametrize("name, count", [pytest.param("vit", 24, marks=pytest.mark.slow), pytest.param("crossvit", 16, marks=pytest.mark.slow)])
def test_missing_peers_are_named_with_the_way_to_get_them(name, count, tmp_path, monkeypatch, capsys):
    """Ours is measured with every set of flags; a peer that is not there has an empty row that says what to install."""
    here(monkeypatch)
    for peer in timing.PEERS:
        monkeypatch.setitem(sys.modules, peer, None)
    rows = table(name, tmp_path)
    assert len(rows) == count
    for row in rows:
        assert finite(row) and float(row["peak"]) > 0 if row["who"].startswith("ours") else f"pip install {row['who']}" in row["note"]
        assert not row["who"].startswith("ours") or (float(row["saved MB"]) > 0) == (row["step"] == "training")
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_step_that_takes_too_long_is_stopped_and_said(monkeypatch):
    """A point beyond the limit leaves a row with a note, and nothing is timed."""
    monkeypatch.setattr(timing, "LIMIT", 0.01)
    monkeypatch.setattr(timing, "START", 0)
    settings = dict(batch=1, side=32, patch=16, dim=8)
    rows = timing.measure(argparse.Namespace(device="cpu", rounds=1), bench.build_filter, ["ours"], settings)
    assert rows[0]["s"] is None and rows[0]["note"] == "stopped after 0.01 s"


@pytest.mark.parametrize("power", (1.0, 1.1, 2.0))
def test_exponent_of_a_power_law_is_its_power(power):
    """seconds = c tokens^p -> p."""
    tokens = np.array([1024, 4096, 16384])
    assert timing.exponent(tokens, 3e-5 * tokens ** power) == pytest.approx(power)


def test_flops_and_saved_bytes_are_those_of_the_step():
    """A Linear layer saves its input and its weight, once each, and costs three products; fused attention on a CPU is counted."""
    layer, x = torch.nn.Linear(8, 16, bias=False), torch.randn(4, 8, requires_grad=True)
    assert timing.counted(lambda: layer(x).sum().backward()) == (3 * 2 * 4 * 8 * 16, 4 * (8 * 16 + 4 * 8))
    q = torch.randn(1, 2, 64, 8)
    assert timing.counted(lambda: attention.softmax_attention(q, q, q)) == (2 * 2 * 2 * 64 * 64 * 8, 0)


@pytest.mark.slow
def test_readers_and_products(tmp_path):
    """What has no candidates: numbers of photographs per second, and of products of each kind."""
    bench.main(["products", "--out", str(tmp_path)])
    bench.main(["readers", "--quick", "--out", str(tmp_path), "--cache-dir", str(tmp_path)])
    with open(tmp_path / "readers.csv", newline="") as file:
        assert [row["workers"] for row in csv.DictReader(file) if float(row["images/s"]) > 0] == ["0", "2"]
    with open(tmp_path / "products.csv", newline="") as file:
        assert all(float(row["TFLOP/s"]) > 0 for row in csv.DictReader(file))
    assert torch.get_float32_matmul_precision() == "highest"


def test_candidates_take_turns_and_the_warm_up_is_not_counted():
    """Nobody is always first; as many times as rounds."""
    order = []
    times = timing.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 3, "cpu")
    assert "".join(order) == "baabbaab" and [len(each) for each in times.values()] == [3, 3]


def test_memory_of_a_step_is_what_it_holds():
    """A block of 64 MiB raises the peak by about that, though an earlier step had more."""
    timing.peak_memory(lambda: np.ones(128 * 2 ** 20, dtype=np.uint8), "cpu")
    assert 60 < timing.peak_memory(lambda: np.ones(64 * 2 ** 20, dtype=np.uint8), "cpu")[1] < 80


def test_a_step_that_fails_gives_the_fused_kernel_back():
    """The matrix in memory may be too large; what is timed after it is what it is called."""
    fused = attention.softmax_attention
    with pytest.raises(MemoryError), bench.attention_of(bench.MATRIX):
        assert attention.softmax_attention is not fused
        raise MemoryError
    assert attention.softmax_attention is fused
