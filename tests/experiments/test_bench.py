"""experiments/bench.py, peers.py, timing.py run, write what they say, and measure what they say; no test depends on how fast anything is."""
import argparse
import csv
import math
import os
import sys

import numpy as np
import pytest
import torch

import attention
from experiments import bench, peers, timing


def table(name, folder):
    """The rows of `python -m experiments.bench NAME --quick`, in this process; memory is taken in processes that it starts."""
    bench.main([name, "--quick", "--rounds", "1", "--out", str(folder)])
    with open(os.path.join(folder, f"{name}.csv"), newline="") as file:
        return list(csv.DictReader(file))


def finite(row, keys=("s", "ratio", "MB")):
    return all(math.isfinite(float(row[key])) and float(row[key]) >= 0 for key in keys) and float(row["s"]) > 0


@pytest.mark.slow
def test_candidates_have_processes_of_their_own():
    """Finite numbers, also of memory, which is taken where nothing else has run."""
    rows = timing.measure(argparse.Namespace(device="cpu", rounds=1), bench.build_bag, ["softmax", "sima"], dict(tokens=64, size="micro"))
    assert [row["who"] for row in rows] == ["softmax", "sima"] and all(finite(row) for row in rows)


@pytest.fixture
def here(monkeypatch):
    """Memory measured in this process instead of one a candidate, each of which would import PyTorch for seconds."""
    monkeypatch.setattr(timing, "in_own_process", timing.try_step)


@pytest.mark.slow
@pytest.mark.parametrize("name, key, count", [("scaling", "tokens", 12), ("multivit", "n", 8), ("memory", "size", 6)])
def test_tables_hold_every_candidate_at_every_size(name, key, count, tmp_path, here, capsys):
    """Expected rows, finite numbers, no candidate missing; the machine comes first, and what grows is drawn."""
    rows = table(name, tmp_path)
    assert len(rows) == count and all(finite(row) for row in rows) and not any(row["note"] for row in rows)
    assert len({(row["who"], row[key]) for row in rows}) == count
    out = capsys.readouterr().out
    assert f"threads, torch {torch.__version__}" in out.splitlines()[0]
    assert ("softmax: s grows with the power" in out) == (name == "scaling")
    assert (tmp_path / f"{name}.png").is_file() == (name in bench.GROWS)


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [("vit", 24), ("crossvit", 16)])
def test_missing_peers_are_named_with_the_way_to_get_them(name, count, tmp_path, here, monkeypatch):
    """Ours is measured with every set of flags; a peer that is not there has an empty row that says what to install."""
    for peer in timing.PEERS:
        monkeypatch.setitem(sys.modules, peer, None)
    rows = table(name, tmp_path)
    assert len(rows) == count
    for row in rows:
        if row["who"].startswith("ours"):
            assert finite(row) and float(row["TFLOP/s"]) > 0 and float(row["images/s"]) > 0
        else:
            assert f"pip install {row['who']}" in row["note"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_row_per_candidate_with_its_time_and_flops(here, tmp_path, capsys):
    """Each is printed and written with its settings; the ratio is over the first."""
    def build(device, name, side):
        x = torch.ones(side, side)
        return lambda: [x @ x for _ in range({"one": 1, "two": 2}[name])]

    rows = timing.measure(argparse.Namespace(device="cpu", rounds=2), build, ["one", "two"], {"side": 64})
    assert [row["who"] for row in rows] == ["one", "two"] and rows[0]["ratio"] == 1 and rows[1]["ratio"] == rows[1]["s"] / rows[0]["s"]
    for row, products in zip(rows, (1, 2)):
        assert row["TFLOP/s"] == pytest.approx(products * 2 * 64 ** 3 / row["s"] / 1e12) and row["side"] == 64 and row["note"] == ""
    assert timing.report(argparse.Namespace(out=str(tmp_path)), "toy", iter([rows[:1], rows[1:]])) == rows
    with open(tmp_path / "toy.csv", newline="") as file:
        assert [row["who"] for row in csv.DictReader(file)] == ["one", "two"]
    assert capsys.readouterr().out.count("| 64 |") == 2


def test_a_step_that_takes_too_long_is_stopped_and_said(monkeypatch):
    """A point beyond the limit leaves a row with a note, and nothing is timed."""
    monkeypatch.setitem(timing.LIMIT, "cpu", 0.01)
    monkeypatch.setattr(timing, "START", 0)
    rows = timing.measure(argparse.Namespace(device="cpu", rounds=1), bench.build_bag, ["softmax"], dict(tokens=4, size="micro"))
    assert rows[0]["s"] is None and rows[0]["note"].startswith("not in 0.01 s")


def test_kernels_that_were_chosen_stand_in_the_table():
    """Of ours as it comes, where they are chosen by a measurement; not where the flags say which."""
    network = dict(size="mini", image=32, patch=16, batch=1, step="forward")
    for flags, note in ((peers.AS_EACH_COMES, "a product of 64 x 128 by 128 x 512: float32 by MKL "), (peers.SAME["cpu"], "")):
        assert timing.try_step("cpu", peers.build_vit, "ours", network | {"flags": flags})[2][:51] == note


def test_what_is_compiled_has_a_process_of_its_own(monkeypatch):
    """On CUDA too, where the others need none: compiling may never end. It runs once."""
    monkeypatch.setattr(timing, "in_own_process", lambda *candidate: (None, None, "not in 40 s"))
    monkeypatch.setattr(timing, "try_step", lambda *candidate: (9.0, 1.0, ""))
    rows = timing.measure(argparse.Namespace(device="cuda", rounds=1), None, ["ours", "ours, compiled"], {})
    assert [row["note"] for row in rows] == ["", "not in 40 s"] and [row["s"] for row in rows] == [9.0, None]


def test_growth_of_a_power_law_is_its_power(tmp_path, capsys):
    """seconds = c tokens^p -> p, of the sizes after the first; a size that could not be measured is left out."""
    rows = [{"who": "a", "tokens": tokens, "s": 3e-5 * tokens ** 1.5, "MB": 2.0 * tokens} for tokens in (1024, 4096, 16384)]
    rows[0]["s"] = 9                                               # the smallest does not count
    rows.append({"who": "a", "tokens": 65536, "s": None, "MB": None})
    bench.show_growth(rows, "tokens", tmp_path / "a.png")
    out = capsys.readouterr().out
    assert "a: s grows with the power 1.50 of tokens, from 4,096 on" in out and "a: MB grows with the power 1.00" in out
    assert (tmp_path / "a.png").is_file()


def test_growth_is_drawn_without_memory(tmp_path, capsys):
    """Which nobody measures on macOS."""
    rows = [{"who": "a", "n": n, "s": 1e-3 * n, "MB": None} for n in (1, 2, 4)]
    bench.show_growth(rows, "n", tmp_path / "a.png")
    assert "MB" not in capsys.readouterr().out and (tmp_path / "a.png").is_file()


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


def test_memory_of_a_step_is_what_it_holds(monkeypatch):
    """A block of 64 MiB raises the peak by about that, though an earlier step had more; no step has less than nothing."""
    timing.peak_memory(lambda: np.ones(128 * 2 ** 20, dtype=np.uint8), "cpu")
    assert 60 < timing.peak_memory(lambda: np.ones(64 * 2 ** 20, dtype=np.uint8), "cpu")[1] < 80
    counts = iter([10 * 2 ** 20, 10 * 2 ** 20 - 64 * 4096])        # as Linux may say of a step that needs nothing
    monkeypatch.setattr(timing, "resident_peak", lambda: next(counts))
    assert timing.peak_memory(lambda: None, "cpu")[1] == 0


def test_what_is_timed_is_what_it_is_called(monkeypatch):
    """In any order, also after a step for whose matrix there was no memory."""
    formula = attention.softmax_formula
    calls = []
    monkeypatch.setattr(attention, "softmax_formula", lambda *args: calls.append(1) or formula(*args))
    matrix, fused = [bench.build_bag("cpu", who, 256, "micro") for who in (bench.MATRIX, "softmax")]
    for step, count in ((matrix, 4), (fused, 0), (matrix, 4)):     # once a block
        calls.clear()
        step()
        assert len(calls) == count
