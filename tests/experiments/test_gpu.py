"""experiments/gpu.py runs to its end on a CPU, writes what it says, and survives a step that fails."""
import json
import types

import pytest

from experiments import gpu


@pytest.mark.slow
def test_all_steps_run_on_a_cpu(tmp_path):
    """So that only the numbers are missing when a card is there. The tests marked cuda are skipped here, which is pytest's 5 or 0."""
    gpu.main(["--device", "cpu", "--quick", "--rounds", "1", "--out", str(tmp_path), "--cache-dir", str(tmp_path / "cache")])
    steps = json.load(open(tmp_path / "gpu.json"))["steps"]
    assert list(steps) == list(gpu.STEPS)
    assert {name: step["end"] for name, step in steps.items() if step["end"] != "status 0"} == {}
    assert all(step["rows"] for step in steps.values())
    assert steps["resume"]["rows"] == [{"stopped in": "epoch 2", "same bits": True}]
    for name in gpu.STEPS:
        assert f"## {name} (status 0)" in open(tmp_path / "gpu.md").read()


def test_what_goes_wrong_is_a_row():
    def build():
        raise RuntimeError("CUDA out of memory\nmore")
    assert gpu.timed(types.SimpleNamespace(device="cpu", rounds=1), build) == {"note": "RuntimeError: CUDA out of memory"}


def test_the_table_shows_every_column():
    text = gpu.markdown("card", {"vit": ([{"a": 1.23456, "b": None}, {"a": "x|y", "c": 3}], "status 0")})
    assert "| a | b | c |\n|---|---|---|\n| 1.235 |  |  |\n| x y |  | 3 |" in text
