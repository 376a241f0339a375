"""The Hub, served on loopback, when it is busy, cut off in a file, or changed."""
import json
import os

import pytest
import safetensors.torch
import torch

from tests.hub import Hub, python

ASK = """
import json, sys, time
time.sleep = lambda seconds: None                                  # between the retries
from plumbing.checkpoints import read_checkpoint
answers = {}
for name in sys.stdin.read().split() if not NAMES else NAMES:
    try:
        answers[name] = float(read_checkpoint(name)[0]["a"].sum())
    except ValueError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_an_unreliable_hub_leaves_no_broken_file_in_the_cache(tmp_path):
    """Too many requests and broken gateways are tried again; a body shorter than the Hub said is not kept, and the next try has it
    whole; a file that changed under the same name is fetched anew. (No repository, terms to accept, no network: test_checkpoints.py.)"""
    def weights(x):
        return {"model.safetensors": safetensors.torch.save({"a": torch.full((5000,), x)})}

    path = "/org/{}/resolve/main/model.safetensors"
    repos = {f"org/{name}": {"main": weights(1.0)} for name in ("busy", "gateway", "never", "short", "cut", "moves")}
    busy = {path.format("busy"): [429, 429], path.format("gateway"): [503, 502], path.format("never"): [429] * 100}
    with Hub(repos, busy=busy, short=["/org/short/resolve/main/model.safetensors"], cut=["/org/cut/resolve/main/model.safetensors"]) as hub:
        def ask(*names):
            return json.loads(python(f"NAMES = {names}{ASK}", tmp_path, hub.url))

        first = ask(*repos)
        assert first["org/busy"] == first["org/gateway"] == first["org/moves"] == 5000
        for name in ("never", "short", "cut"):
            assert first[f"org/{name}"].startswith(f"org/{name}: model.safetensors ") and "\n" not in first[f"org/{name}"]
        files = [os.path.join(place, file) for place, _, files in os.walk(tmp_path / "hub") for file in files if "snapshots" in place]
        assert len(files) == 3 and all(open(file, "rb").read() == weights(1.0)["model.safetensors"] for file in files)
        hub.short, hub.cut, hub.busy = (), (), {}
        hub.moved = "later"
        repos["org/moves"]["main"] = weights(2.0)
        second = ask(*repos)
        assert second == {**dict.fromkeys(repos, 5000.0), "org/moves": 10000.0}
