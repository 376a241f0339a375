"""plumbing/models.py: flags become a model, with the weights of a run where they say so, and with less kept for the gradient."""
import ast
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plumbing.cohort import Column, Task
from plumbing.flags import parse
from plumbing.models import build_model
from plumbing.saved_run import open_model
from tests.small_runs import fit, flags, settled, slow_but
from train import main
from vit import ViT

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


def test_a_run_is_a_starting_point(table):
    """--pretrained runs/a takes the ViT of that run, keeps its head, and says so."""
    fit(flags(table, "--model", "vit", "--name", "a"))
    args = parse(["--model", "vit", "--pretrained", "runs/a"])
    _, tasks, _ = open_model("runs/a")
    model, report = build_model(args, tasks)
    saved = load_file("runs/a/best/model.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items()) and "loaded" in report and "new" not in report


@pytest.mark.parametrize("model, flag, field, value", [line.split() for line in """
multivit --mode=partial mode 'partial'
multivit --n=2 n 2
multivit --r=2 r 2
multivit --cls-token=stage2 cls_token 'stage2'
multivit --hidden=64 hidden (64,)
crossvit --fusion=none fusion 'none'
crossvit --patches=8,16 patch (8,16)
crossvit --dims=96,192 dims (96,192)
crossvit --depths=2,4 depths (2,4)
crossvit --encoders=2 encoders 2
crossvit --cross-depth=2 cross_depth 2
crossvit --attention=sima attention 'sima'
crossvit --dropout=0.3 dropout 0.3
crossvit --drop-path=0.2 drop_path 0.2
lt_vit --label-layers=1 label_layers 1
lt_vit --label-attention=full label_attention 'full'
lt_vit --shared-head shared_head True
daft --fusion=film fusion 'film'
daft --location=1 location 1
daft --activation=sigmoid activation 'sigmoid'
daft --without=scale scale False
daft --without=shift shift False
daft --identity-init identity_init True
daft --width=2 width 2
gmml --corrupt=zeros corrupt ('zeros',)
vit --drop-path=0.2 drop_path 0.2
vit --attention=seqnorm attention 'seqnorm'""".strip().splitlines()])
def test_a_flag_changes_its_field_and_no_other(model, flag, field, value):
    """What an idea's own flag says stands in the Config, and nothing else of it has changed; the task has its head."""
    tasks, columns = [Task("y", "labels", ("a", "b"))], [Column("age", "number")] * (model == "daft")

    def config(*flags):
        args = settled("--model", model, "--image", "96x96", *flags)
        built, _ = build_model(args, tasks, columns)
        assert model in ("gmml", "lt_vit") or any("head" in name and ".y." in name for name, _ in built.named_parameters())
        return asdict(built.config)

    before, after = config(), config(flag)
    assert before[field] != ast.literal_eval(value) == after[field]
    follows = {"grids"} if field == "patch" else set()             # as many patches as fit
    assert {name for name in before if before[name] != after[name]} - follows == {field}


@pytest.mark.slow
@pytest.mark.parametrize("attention", slow_but(("seqnorm", "sima"), "seqnorm"))
def test_a_softmax_run_starts_a_softmax_free_one(table, attention, capsys):
    """Khader et al. fine-tune the vanilla ViT: every tensor is loaded, and of seqnorm gamma = 1 and beta = 0 are new, which the report says."""
    fit(flags(table, "--model", "vit", "--name", "a"))
    before = load_file("runs/a/best/model.safetensors")
    args = parse(["--model", "vit", "--pretrained", "runs/a", "--attention", attention])
    model, report = build_model(args, open_model("runs/a")[1])
    after = model.state_dict()
    new = {key for key in after if "seq_scale" in key or "seq_shift" in key}
    assert set(after) - new == set(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert len(new) == (8 if attention == "seqnorm" else 0) and f"loaded {len(before)}/{len(after)} tensors" in report
    assert all((after[key] == ("scale" in key)).all() for key in new)
    said = report.partition(", new ")[2].split()
    assert said == [f"blocks.{i}.attn" for i in range(4)] * (attention == "seqnorm")
    capsys.readouterr()
    main([x for i, x in enumerate(flags(table, "--model", "vit", "--attention", attention, "--pretrained", "runs/a", "--name", "b"))
          if x not in ("--image", "--patch") and flags(table)[i - 1:i] not in (["--image"], ["--patch"])])
    assert f"loaded {len(before)}/{len(after)} tensors from runs/a" in capsys.readouterr().out
    assert json.load(open("runs/b/best/config.json"))["vit"]["attention"] == attention


@pytest.mark.parametrize("more, least", ((("--chunk", "2"), 2.0), (("--grad-checkpointing",), 2.0)))
def test_chunks_and_checkpoints_keep_less_for_the_gradient(more, least):
    """Bytes of the tensors that a forward pass leaves for the backward pass, parameters apart."""
    def kept(*more):
        model, _ = build_model(settled("--model", "multivit", "--n", "6", "--r", "2", *more), [Task("y", "regression")])
        sizes, own = {}, {p.data_ptr() for p in model.parameters()}

        def note(tensor):
            if tensor.data_ptr() not in own:
                sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            held = model(torch.rand(2, 6, 3, 64, 64), None, torch.rand(2, 6, 3, 128, 128))
        return sum(sizes.values()), held                           # held, so that no address is used twice
    assert kept()[0] > least * kept(*more)[0]


def test_a_model_is_opened_ready_to_predict(grey_run):
    """From a path of any kind, without dropout; a ViT to train goes on from it."""
    model, _, _ = open_model(Path(grey_run))
    assert not model.training and not any(module.training for module in model.modules())
    vit = ViT.from_pretrained(Path(grey_run), tasks={"grade": 3})
    assert torch.equal(vit.patch_embed.proj.weight, model.patch_embed.proj.weight)
