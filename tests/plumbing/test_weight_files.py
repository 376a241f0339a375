"""plumbing/weight_files.py: which of several sets of weights, what may lie beside them, and true reasons for refusals."""
import argparse
import collections
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch

from plumbing.arrays import read_bag
from plumbing.weight_files import read_tensors
from tests.plumbing.small_checkpoints import halves, prefixed, refusal, tiny, write
from vit import ViT

OTHER = {"norm.bias": torch.zeros(192)}


@pytest.mark.parametrize("wrapped, note", [
    *((lambda t, key=key: {key: t, "epoch": 3}, "") for key in ("model", "state_dict", "net", "model_state_dict", "module", "backbone", "ema",
                                                              "state_dict_ema", "model_ema", "teacher", "target_encoder", "encoder")),
    (lambda t: {"model": OTHER, "model_ema": t}, "its model_ema, not model"), (lambda t: {"state_dict": OTHER, "state_dict_ema": t}, "its state_dict_ema, not state_dict"),
    (lambda t: {"model": OTHER, "ema": {"module": t, "updates": 7}}, "its ema, not model"), (lambda t: {"model": t, "ema": {"decay": 0.9}}, "its model, not ema"),
    (lambda t: {"student": OTHER, "teacher": {"backbone": t}}, "its teacher, not student"),
    (lambda t: {"encoder": OTHER, "predictor": OTHER, "target_encoder": t, "opt": {}}, "its target_encoder, not encoder"),
    (lambda t: {"model": OTHER, "averaged_model": {**prefixed(t, "module."), "n_averaged": torch.tensor(3)}}, "its averaged_model, not model"),
    (lambda t: {"state_dict": OTHER, "swa_state_dict": t}, "its swa_state_dict, not state_dict"),
    (lambda t: {"experiment": {"model": OTHER, "model_ema": t}}, "its model_ema, not model"),
    (lambda t: {"weights": t, "accuracy": torch.tensor(0.9)}, ""), (lambda t: {"vit": t, "classifier": {"weight": torch.ones(5, 192)}, "loss": torch.tensor(1.0)}, ""),
    (lambda t: {"module": {"model": {"state_dict": t}}}, "")])
def test_averaged_weights_are_preferred_and_named(tmp_path, wrapped, note):
    """Authors evaluate their averaged weights; where there was a choice, the report says what was chosen."""
    t = tiny()
    torch.save(wrapped(t), tmp_path / "a.pth")
    model = ViT.from_pretrained(str(tmp_path / "a.pth"))
    assert torch.equal(model.norm.bias, t["norm.bias"]) and read_tensors(str(tmp_path / "a.pth"))[1] == note
    assert note in model.report and ", mean 0.485" in model.report


def test_what_honest_training_files_hold_is_let_through(tmp_path):
    """Numbers and arrays of numpy, paths, options, dicts with defaults: none of them is made, all are empty objects."""
    losses = collections.defaultdict(list)
    losses["train"] += [np.float32(0.5), 0.25]
    beside = {"best": np.float64(0.9), "curve": np.arange(4.0), "type": np.dtype("int16"), "folder": pathlib.PurePosixPath("/data"),
              "here": pathlib.Path("."), "losses": losses, "counts": collections.Counter("aab"), "order": collections.OrderedDict(a=1),
              "args": argparse.Namespace(lr=1e-3, out=pathlib.Path("x"), names=collections.defaultdict(dict), kind=float)}
    for zipped in (True, False):
        torch.save({"model": tiny(), **beside}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        assert ViT.from_pretrained(str(tmp_path / "a.pth")).report.startswith("loaded 30/30")
    torch.save({"model": tiny(), "when": pickle.PickleError("x")}, tmp_path / "b.pth")
    assert "not a pickle of plain tensors, it asks to run pickle.PickleError" in refusal(read_tensors, str(tmp_path / "b.pth"))


@pytest.mark.parametrize("kind", (lambda x: x.to_sparse(), lambda x: x.to("meta"), lambda x: torch.nested.nested_tensor([x, x])), ids=("sparse", "meta", "nested"))
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, kind):
    """Before anything is made of them."""
    torch.save({**tiny(), "norm.bias": kind(torch.ones(192))}, tmp_path / "a.pth")
    assert "norm.bias is sparse, nested or without numbers; needed are plain tensors" in refusal(read_tensors, str(tmp_path / "a.pth"))


def test_a_dict_that_holds_itself_ends(tmp_path):
    content = {"epoch": 1}
    content["model"] = content["ema"] = content
    torch.save(content, tmp_path / "a.pth")
    assert "holds no tensors by name, but a dict 'epoch, model, ema'" in refusal(read_tensors, str(tmp_path / "a.pth"))


class Twice(torch.nn.Module):
    def forward(self, x):
        return 2 * x


def test_refusals_name_the_true_reason(tmp_path):
    """Programs, pointers, pages, parts: what the file is; and never torch's advice to switch the protection off."""
    torch.jit.save(torch.jit.script(Twice()), tmp_path / "script.pt")
    (tmp_path / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")
    (tmp_path / "page.bin").write_bytes(b"\n <!DOCTYPE html><html></html>")
    (tmp_path / "tar.pth").write_bytes(b"\0" * 2048)
    torch.save({"\ud800": torch.ones(3)}, tmp_path / "half.pth")
    torch.save({"\033[31mred": torch.ones(3)}, tmp_path / "red.pth")
    write(tmp_path, tiny(), file="model-00001-of-00002.safetensors")
    for file, words in (("script.pt", "a TorchScript archive, which is a program with its weights"), ("pointer.pth", "a git-lfs pointer"),
                        ("page.bin", "a web page"), ("half.pth", r"cannot be printed ('\ud800')"), ("red.pth", r"cannot be printed ('\x1b[31mred')"),
                        ("tar.pth", "not a "), ("model-00001-of-00002.safetensors", "one part of a model in several; give the folder")):
        message = refusal(ViT.from_pretrained, str(tmp_path / file))
        assert words in message and message.startswith(str(tmp_path / file)) and "weights_only" not in message
    write(tmp_path / "lone", tiny(), file="model-00001-of-00001.safetensors")
    assert ViT.from_pretrained(str(tmp_path / "lone")).report.startswith("loaded 30/30")
    for name, part in zip(("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), halves(tiny())):
        write(tmp_path / "shards", part, file=name)
    assert "one part of a model in several; give the folder with all of them and their index, model.safetensors.index.json" in refusal(ViT.from_pretrained, str(tmp_path / "shards"))


@pytest.mark.slow
def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    """One number that stands for many, in weights and in bags; and an archive that unpacks to far more than it is."""
    torch.save(torch.zeros(1, dtype=torch.uint8).expand(2 ** 27, 2), tmp_path / "bag.pt")
    assert "says it holds 268435456 bytes, the file has" in refusal(read_bag, str(tmp_path / "bag.pt"), 2)
    torch.save({"cls_token": torch.zeros(1).expand(2 ** 25)}, tmp_path / "a.pth")
    assert "0 MB that say they hold 128 MB" in refusal(read_tensors, str(tmp_path / "a.pth"))
    torch.save({"cls_token": torch.zeros(2 ** 25)}, tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "b.pth") as source, zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    assert "0 MB that say they hold 128 MB" in refusal(read_tensors, str(tmp_path / "c.pth"))
    torch.save({"a": torch.zeros(3), "b": torch.zeros(1).expand(4)}, tmp_path / "d.pth")
    assert set(read_tensors(str(tmp_path / "d.pth"))[0]) == {"a", "b"}
