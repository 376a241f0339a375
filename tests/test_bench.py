"""bench.py runs, writes what it says, and measures what it says; no test depends on how fast anything is."""
import argparse
import csv
import io
import math
import os
import queue
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import attention
import bench
from attention_filter import compose, gather_patches, refine, score, select
from multivit import MultiViT, MultiViTConfig
from train import fast_float32
from vit import ViT, ViTConfig


def table(name, folder):
    """The rows of `python bench.py NAME --quick`, in this process; memory is taken in processes that it starts."""
    bench.main([name, "--quick", "--rounds", "1", "--out", str(folder)])
    pictures = [file for file in os.listdir(folder) if file.startswith(f"{name}-") and file.endswith(".png")]
    assert pictures and all(np.asarray(Image.open(os.path.join(folder, file))).std() > 5 for file in pictures)
    with open(os.path.join(folder, f"{name}.csv"), newline="") as file:
        return list(csv.DictReader(file))


def finite(row, keys=("cpu_s", "wall_s", "ratio", "memory_mb")):
    return all(math.isfinite(float(row[key])) and float(row[key]) >= 0 for key in keys) and float(row["cpu_s"]) > 0


def here(monkeypatch):
    """Memory measured in this process instead of one a candidate, each of which would import PyTorch for seconds."""
    class Process:
        exitcode = 0

        def __init__(self, target, args, daemon):
            self.target, self.args = target, args

        def start(self):
            bench.alone(*self.args)

        def is_alive(self):
            return True

        kill = join = lambda self: None

    monkeypatch.setattr(bench.resource, "setrlimit", lambda *limit: None)
    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda kind: argparse.Namespace(
        Queue=queue.Queue, Process=Process))


def test_filter_table_with_processes_of_its_own(tmp_path):
    """All ways, finite numbers, and the ratio is over ours."""
    rows = table("filter", tmp_path)
    assert [row["who"] for row in rows] == ["ours", "ours, float32", "loops", "loops, scores in one call"] and all(map(finite, rows))
    assert float(rows[0]["ratio"]) == 1 and float(rows[2]["ratio"]) == pytest.approx(float(rows[2]["cpu_s"]) / float(rows[0]["cpu_s"]))


def test_ours_and_the_loops_of_the_filter_table_do_the_same():
    """What is timed against each other gives the same tokens and the same pixels."""
    ours, *others = (bench.build_filter("cpu", who, 2, 64, 16, 8)() for who in ("ours", "ours, float32", "loops", "loops, scores in one call"))
    for tokens, composite in others:
        assert torch.equal(tokens, ours[0]) and torch.equal(composite, ours[1].to(composite.dtype))


@pytest.mark.parametrize("name, key, count", [("scaling", "kind", 9), ("multivit", "who", 8), ("data", "who", 10), ("memory", "flags", 6)])
def test_tables_hold_every_candidate_at_every_size(name, key, count, tmp_path, monkeypatch, capsys):
    """Expected rows, finite numbers, no candidate missing; the machine and the peers are named first."""
    here(monkeypatch)
    rows = table(name, tmp_path)
    assert len(rows) == count and all(finite(row) for row in rows) and not any(row["note"] for row in rows)
    assert len({tuple(row[k] for k in row if k in (key, "tokens", "n", "grain")) for row in rows}) == count
    assert f"threads, torch {torch.__version__}" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("name, count", [("vit", 26), ("crossvit", 18)])
def test_missing_peers_are_named_with_the_way_to_get_them(name, count, tmp_path, monkeypatch, capsys):
    """Ours is measured with every set of flags; a peer that is not there has an empty row that says what to install."""
    here(monkeypatch)
    for peer in bench.PEERS:
        monkeypatch.setitem(sys.modules, peer, None)
    rows = table(name, tmp_path)
    assert len(rows) == count
    for row in rows:
        assert finite(row) and float(row["peak"]) > 0 if row["who"].startswith("ours") else f"pip install {row['who']}" in row["note"]
        assert not row["who"].startswith("ours") or (float(row["saved_mb"]) > 0) == (row["step"] == "training")
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_step_that_takes_too_long_is_stopped_and_said(monkeypatch):
    """A point beyond --limit leaves a row with a note, and the others go on."""
    monkeypatch.setattr(bench, "time", argparse.Namespace(monotonic=iter(range(0, 10 ** 6, 50)).__next__, process_time=lambda: 0.0,
                                                          perf_counter=lambda: 0.0))
    args = argparse.Namespace(device="cpu", limit=10, rounds=1)
    rows = bench.measure(args, {"slow": (bench.build_filter, "ours", 1, 32, 16, 8)})
    assert rows["slow"]["cpu_s"] is None and rows["slow"]["note"] == "stopped after 10 s"


@pytest.mark.parametrize("power", (1.0, 1.1, 2.0))
def test_exponent_of_a_power_law_is_its_power(power):
    """seconds = c tokens^p -> p."""
    tokens = np.array([1024, 4096, 16384])
    assert bench.exponent(tokens, 3e-5 * tokens ** power) == pytest.approx(power)


def test_flops_and_saved_bytes_are_those_of_the_step():
    """A Linear layer saves its input and its weight, once each, and costs three products; fused attention on a CPU is counted."""
    layer, x = torch.nn.Linear(8, 16, bias=False), torch.randn(4, 8, requires_grad=True)
    assert bench.counted(lambda: layer(x).sum().backward()) == (3 * 2 * 4 * 8 * 16, 4 * (8 * 16 + 4 * 8))
    q = torch.randn(1, 2, 64, 8)
    assert bench.counted(lambda: attention.softmax_attention(q, q, q)) == (2 * 2 * 2 * 64 * 64 * 8, 0)


def test_training_is_timed_by_the_log_of_train(tmp_path, quiet):
    """Every way of reading has a row; what it waited is a share of its seconds; images are those of train and val."""
    rows = table("train", tmp_path)
    assert {"a thread reads ahead", "2 workers", "cache"} == {row["case"] for row in rows}
    for row in rows:
        assert 0 <= float(row["waited"]) < 1 and 0 <= float(row["first_waited"]) < 1 and 0 < int(row["images"]) < 20 * 3
        assert float(row["peak"]) > 0 and float(row["images_s"]) == pytest.approx(int(row["images"]) / float(row["epoch_s"]))
    assert torch.get_float32_matmul_precision() == "highest"


def test_candidates_take_turns_and_the_warm_up_is_not_counted():
    """Nobody is always first; as many times as rounds."""
    order = []
    times = bench.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 3, "cpu")
    assert "".join(order) == "baabbaab" and [len(each) for each in times.values()] == [3, 3]


def test_memory_of_a_process_grows_by_what_it_holds():
    """VmHWM and VmRSS are bytes: a block of 64 MiB raises both by about that."""
    code = ("import bench, numpy as np; before = bench.resident('VmRSS'); block = np.ones(64 * 2 ** 20, dtype=np.uint8); "
            "print(bench.resident('VmRSS') - before)")                     # a process of its own: nothing freed to take again
    grown = int(subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(bench.__file__), capture_output=True, text=True).stdout)
    assert 60 * 2 ** 20 < grown < 80 * 2 ** 20


class Reads(TorchDispatchMode):
    """Counts what must wait for the device: a value read by Python, or a shape that depends on values."""
    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal")
    found = ()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if str(function).startswith("aten.index.") else []
        if masks or any(word in str(function) for word in self.waits):
            self.found += (str(function),)
        return function(*args, **(kwargs or {}))


def test_filter_and_multivit_never_wait_for_the_device():
    """No host sync between the first kernel and the loss: neither in the filter nor in a training step of MultiViT."""
    with Reads() as reads:
        torch.ones(3)[torch.tensor([True, False, True])].sum().item()
    assert len(reads.found) == 2                                   # the counter counts
    maps, images = torch.rand(2, 3, 4, 16), torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8)
    present = torch.tensor([[True] * 3, [True, True, False]])
    model = MultiViT(MultiViTConfig(ViTConfig(image=(16, 16), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32), "multi", 3, 2), {"y": 2})
    with Reads() as reads:
        image, token = select(score(maps, present), 4)
        compose(gather_patches(images, image.repeat_interleave(4, 1), refine(token, (4, 4), 2).flatten(1), (4, 4)), (4, 4))
        model(images[..., ::2, ::2], present, images)["logits"]["y"].sum().backward()
    assert reads.found == ()


def test_fast_float32_is_for_wide_models_on_amd_with_avx512_alone(monkeypatch):
    """medium where it was measured to be float32 and faster, with a line; highest elsewhere, without; and twice the same."""
    narrow, wide = (ViT(ViTConfig(image=(16, 16), dim=dim, depth=1, heads=2, mlp=8)) for dim in (64, 192))
    monkeypatch.setattr("os.path.exists", lambda path: True)
    try:
        for text, model, expected in (("AuthenticAMD avx512f", wide, "medium"), ("AuthenticAMD avx512f", narrow, "highest"),
                                      ("AuthenticAMD avx2", wide, "highest"), ("GenuineIntel avx512f", wide, "highest"),
                                      ("AuthenticAMD avx512f amx_tile", wide, "highest")):
            monkeypatch.setattr("builtins.open", lambda *args, text=text: io.StringIO(text))
            for _ in range(2):
                lines = fast_float32(model, torch.device("cpu"))
                assert torch.get_float32_matmul_precision() == expected and len(lines) == (expected == "medium")
    finally:
        torch.set_float32_matmul_precision("highest")
