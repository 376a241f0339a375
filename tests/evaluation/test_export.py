"""evaluation/export.py: the exported folder is where another training starts, and transformers agrees."""
import json
import os
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import eval as evaluate
from evaluation.card import preprocessor
from evaluation.export import export, transformers_config, transformers_tensors
from plumbing.cohort import Task
from plumbing.flags import parse
from plumbing.models import build_model
from plumbing.names import timm_names
from plumbing.pictures import read_image
from plumbing.saved_run import open_model
from tests.hub import Hub, python
from tests.small_runs import flags
from train import main
from vit import ViT, ViTConfig


@pytest.mark.slow
def test_an_exported_vit_is_a_starting_point(place, tmp_path, capsys):
    """Renamed to transformers' layout and read back by --pretrained: every tensor but the head is the same; the upload is only printed."""
    evaluate.main([str(place / "runs" / "vit"), "--export", str(tmp_path / "hub")])
    assert f"hf upload ORG/NAME {tmp_path / 'hub'} ." in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "hub")) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert 'library_name: "transformers"' in (tmp_path / "hub" / "README.md").read_text()
    args = parse(["--model", "vit", "--pretrained", str(tmp_path / "hub"), "--dropout", "0.1"])
    model, line = build_model(args, [Task("other", "regression")])
    before, _, _ = open_model(str(place / "runs" / "vit"))
    assert model.config == before.config and "loaded" in line
    saved = before.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items() if not key.startswith("head."))


@pytest.mark.slow
def test_what_is_uploaded_is_where_another_training_starts(place, tmp_path):
    """The exported ViT, and MultiViT's and LT-ViT's best/ as they are, on a Hub: --pretrained ORG/NAME takes every tensor of their ViT."""
    runs = place / "runs"
    export(str(runs / "vit"), str(tmp_path / "hub"))
    repos = {f"me/{name}": {"main": {file: (folder / file).read_bytes() for file in os.listdir(folder)}}
             for name, folder in (("vit", tmp_path / "hub"), ("multi", runs / "multi" / "best"), ("lt", runs / "lt" / "best"))}
    code = """if True:
        import torch
        from safetensors.torch import load_file
        from plumbing.cohort import Task
        from plumbing.flags import parse
        from plumbing.models import build_model
        for name, ours, theirs in (("vit", "", ""), ("multi", "", "stage1."), ("lt", "", "vit."), ("lt", "vit.", "vit.")):
            model, line = build_model(parse(["--model", "lt_vit" if ours else "vit", "--pretrained", f"me/{name}"]),
                                            [Task("other", "labels", ("a", "b"))])
            saved = load_file(f"%s/{name}/best/model.safetensors")
            mine = {key.removeprefix(ours): x for key, x in model.state_dict().items() if key.startswith(ours)}
            mine = {key: x for key, x in mine.items() if not key.startswith("head.")}
            print(len(mine) > 20 and all(torch.equal(x, saved[theirs + key]) for key, x in mine.items()), line)""" % runs
    with Hub(repos) as hub:
        lines = python(code, tmp_path / "home", hub.url).splitlines()
    assert [line.split()[0] for line in lines] == ["True"] * 4 and "only the stage1 of its multivit" in lines[1], lines


@pytest.mark.slow
def test_any_other_model_keeps_its_own_format(place, tmp_path):
    """MultiViT: the same bytes, with a card, and --pretrained takes its ViT."""
    assert export(str(place / "runs" / "multi"), str(tmp_path / "hub")) == "pytorch"
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / "hub" / name).read_bytes() == (place / "runs" / "multi" / "best" / name).read_bytes()
    assert json.load(open(tmp_path / "hub" / "config.json"))["model"] == "multivit"


@pytest.mark.slow
def test_a_vit_that_sees_a_table_keeps_its_own_format(table, tmp_path, monkeypatch):
    """Its flag says vit, but transformers has no ViT with a table: our format, and no crash."""
    monkeypatch.chdir(tmp_path)
    main(flags(table, "--model", "vit", "--tabular", "sex", "--target", "grade:classes", "--name", "a"))
    assert export("runs/a", str(tmp_path / "hub")) == "pytorch"
    assert json.load(open(tmp_path / "hub" / "config.json"))["model"] == "daft_vit"


@pytest.mark.parametrize("config", (
    ViTConfig(image=(16, 16), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32, eps=1e-12),
    ViTConfig(image=(16, 24), patch=(4, 8), channels=1, dim=24, depth=3, heads=3, mlp=40, qkv_bias=False, mean=(0.4,), std=(0.2,))),
    ids=("square", "oblong-grey"))
@pytest.mark.parametrize("kind", ("classes", "labels"))
def test_transformers_gives_the_same_logits(config, kind, tmp_path):
    """ViTForImageClassification.from_pretrained of the files we write; its own processor normalizes as the model does."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file
    try:
        theirs = transformers.ViTForImageClassification
    except ModuleNotFoundError as error:                           # such as a torchvision that does not fit torch
        pytest.skip(f"transformers is here and cannot be imported: {error}")
    torch.manual_seed(0)
    model = ViT(config, {"grade": 3}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_file(transformers_tensors(model.state_dict()), tmp_path / "model.safetensors", {"format": "pt"})
    json.dump(transformers_config(config, Task("grade", kind, ("a", "b", "c"))), open(tmp_path / "config.json", "w"))
    theirs, report = theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert theirs.config.id2label[1] == "b"
    images = torch.randint(256, (4, config.channels, *config.image), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(model(images)["logits"]["grade"], theirs.eval()(model.normalize(images)).logits, atol=1e-5)
    if config.channels == 3:
        json.dump(preprocessor({"model": "vit", "vit": asdict(config)}, "stretch"), open(tmp_path / "preprocessor_config.json", "w"))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        pixels = processor(list(images.movedim(1, -1).numpy()), return_tensors="pt")["pixel_values"]
        assert torch.allclose(pixels, model.normalize(images), atol=1e-6)
        film = Image.fromarray(np.random.default_rng(0).integers(256, size=(6, 9), dtype=np.uint8)).resize((300, 200), 2)    # grey
        pixels = processor(film, return_tensors="pt")["pixel_values"]
        ours = model.normalize(torch.tensor(read_image(np.asarray(film), config.image)[0][None]))
        assert (pixels - ours).abs().max() < 0.05 and (pixels - ours).abs().mean() < 0.01           # ours resizes in two steps


def test_names_are_those_that_weights_py_reads(place):
    """Renaming there and back again, without transformers: every tensor comes home."""
    tensors = load_file(place / "runs" / "vit" / "best" / "model.safetensors")
    renamed = transformers_tensors(tensors)
    assert all(key.startswith(("vit.", "classifier.")) for key in renamed)
    back, layout = timm_names(renamed)
    head = {key: key.replace("head.grade.", "/classifier.") for key in tensors}
    assert layout == "vit" and {head[key] for key in tensors} == set(back) and all(torch.equal(tensors[key], back[head[key]]) for key in tensors)
