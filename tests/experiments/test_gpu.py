"""experiments/gpu.py runs to its end on a CPU, writes what it says, and survives a step that fails."""
import json
import os
import shlex
import sys
import time

import pytest

from experiments import gpu
from experiments.timing import try_step


def read_steps(folder):
    """gpu.json -> {step: (how it ended, what it printed)}; gpu.md says the same."""
    page = (folder / "gpu.md").read_text()
    steps = {}
    for name, step in json.loads((folder / "gpu.json").read_text())["steps"].items():
        assert f"\n## {name} ({step['end']})\n\n    {step['command']}\n\n" in page
        steps[name] = step["end"], "\n".join(step["printed"])
    return steps


@pytest.mark.slow
def test_all_steps_run_on_a_cpu(tmp_path):
    """So that only the numbers are missing when a card is there. The tests marked cuda are skipped here, which is pytest's 5 or 0."""
    gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path), "--cache-dir", str(tmp_path / "cache")])
    steps = read_steps(tmp_path)
    assert list(steps) == list(gpu.STEPS)
    assert {name: end for name, (end, _) in steps.items() if end != "status 0"} == {}
    assert all(printed for _, printed in steps.values())


def test_what_goes_wrong_is_a_row():
    def build(device, name):
        raise RuntimeError("CUDA out of memory\nmore")
    assert try_step("cpu", build, "ours", {}) == (None, None, "RuntimeError: CUDA out of memory")


def test_a_step_that_takes_too_long_leaves_what_it_printed(monkeypatch, tmp_path):
    """The page has the others too, and how each ended."""
    monkeypatch.setattr(gpu, "STEPS", {"slow": (2, "-uc 'print(1); import time; time.sleep(60)' pytest"), "fails": (9, "-c 1/0 pytest")})
    gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    steps = read_steps(tmp_path)
    assert steps["slow"] == ("stopped after 2 s", "1")
    assert steps["fails"][0] == "status 1" and "ZeroDivisionError" in steps["fails"][1]


def test_a_step_takes_what_it_started_with_it(monkeypatch, tmp_path):
    """A compiler that outlived its step would use the card while the next ones are timed; one that starts after the end of time is stopped at once."""
    child = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep({})"
    steps = {name: (limit, f"-c {shlex.quote(child.format(sleep))}") for name, limit, sleep in (("stopped", 3, 60), ("ends", 9, 0), ("late", 9, 60))}
    monkeypatch.setattr(gpu, "STEPS", steps)
    monkeypatch.setattr(gpu, "TOTAL", 5 + gpu.GRACE)
    began = time.monotonic()
    gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    assert time.monotonic() - began < 9
    steps = read_steps(tmp_path)
    for name in ("stopped", "ends"):
        status = f"/proc/{steps[name][1]}/stat"
        assert not os.path.exists(status) or ") Z " in open(status).read()
    assert steps["stopped"][0] == "stopped after 3 s" and steps["ends"][0] == "status 0" and steps["late"][0].startswith("stopped after")


def test_commands_are_told_where_to_work():
    args = gpu.Parser().parse_args([])
    args.device, args.quick, args.out, args.cache_dir = "cpu", True, "out", "cache"
    assert gpu.command("vit", args)[1:] == "-m experiments.bench vit --device cpu --cache-dir cache --out out --quick".split()
    assert gpu.command("default", args)[-2:] == ["--runs", "out"] and "--quick" not in gpu.command("default", args)
    assert gpu.command("tests", args)[0] == sys.executable and "not resume" in gpu.command("tests", args)
