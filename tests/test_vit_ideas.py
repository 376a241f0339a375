"""Every field that pretrained ViTs differ in, under every idea that takes a ViT: it runs or is refused, and is saved, opened and started from again."""
import json
import os

import pytest
import torch

from evaluation import export
from plumbing.cohort import Column, Task
from plumbing.models import build_model
from plumbing.run_folder import save_model
from plumbing.saved_run import open_model
from tests.plumbing.small_checkpoints import refusal
from tests.small_runs import settled
from tests.test_vit_fields import FIELDS as PRETRAINED
from vit import ViT, ViTConfig

SEVERAL = {  # several fields at once, so that a few models show all of them
    "distilled, scaled, SwiGLU": dict(registers=2, positions="all", pool="prefix", layer_scale=True, activation="swiglu"),
    "CLIP without biases and last norm": dict(pre_norm=True, activation="quick_gelu", qkv_bias=False, final_norm=False),
    "no class token, norm of q and k": dict(class_token=False, positions="patches", pool="mean", activation="gelu_tanh", qk_norm=True),
    "DINOv3": PRETRAINED["DINOv3"], "EVA-02 with all its norms": {**PRETRAINED["EVA-02 for CLIP"], "pool": "mean-norm", "positions": "patches"},
    "mean of all patches": dict(pool="mean-norm", registers=2)}
SINGLE = {"plain": {}, "LayerScale": dict(layer_scale=True), "registers": dict(registers=2), "no bias of q, k and v": dict(qkv_bias=False), **PRETRAINED}
FIELDS = {**SINGLE, **SEVERAL}
TURNED = [field for field in FIELDS if FIELDS[field].get("rotary") or FIELDS[field].get("qk_norm")]
SMALL = dict(dim=24, depth=2, heads=2, mlp=20)                     # heads of 12: pairs for two axes and for three
SIZES = {2: dict(image=(16, 16), patch=(4, 4)), 3: dict(image=(4, 8, 8), patch=(2, 4, 4), channels=1, mean=(0.5,), std=(0.5,))}
LABELS, SEX = [Task("grade", "classes", ("a", "b", "c"))], Column("sex", "number")
IDEAS = {  # its flags; where the ViT is in it; numbers of axes; columns of a table
    "vit": ((), "", (2, 3), ()),
    "daft_vit": (("--tabular", "sex"), "vit", (2, 3), (SEX,)),
    "multivit": (("--n", "2", "--r", "2"), "stage1", (2,), ()),
    "multivit, R = 1": (("--n", "2"), "stage1", (2,), ()),
    "multivit, joint": (("--n", "2", "--mode", "joint"), "stage1", (2,), ()),
    "lt_vit": ((), "vit", (2, 3), ()),
    "q2l": (("--ff", "16"), "vit", (2, 3), ()),
    "probe": ((), "vit", (2,), ()),
    "gmml": ((), "vit", (2, 3), ()),
}
QUICK = ("distilled, scaled, SwiGLU", "no class token, norm of q and k", "EVA-02 with all its norms")
SOFTMAX_FREE = [idea for idea in IDEAS if idea != "probe"]         # its ViT stays what it is


def random_numbers(model, std=0.2):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def run_folder(folder, args, model, tasks):
    """What train.py leaves of a model."""
    os.makedirs(folder)
    with open(os.path.join(folder, "args.json"), "w") as file:
        json.dump(vars(args), file)
    save_model(os.path.join(folder, "best"), model, tasks)
    return str(folder)


def donor(folder, axes, fields):
    """A run of a ViT with these fields -> its folder."""
    rotary = fields.get("rotary")
    if rotary and rotary["reference"]:
        fields = {**fields, "rotary": {**rotary, "reference": (4,) * axes}}
    vit = random_numbers(ViT(ViTConfig(**SMALL, **SIZES[axes], **fields), {"grade": 3}))
    vit.columns, vit.saved_as = (), "vit"
    return run_folder(folder, settled("--model", "vit"), vit, LABELS)


def built(idea, start, *more):
    own, _, _, columns = IDEAS[idea]
    args = settled("--model", idea.split(",")[0].replace("daft_", ""), "--pretrained", start, *own, *more)
    model, _ = build_model(args, LABELS, columns)
    return args, model.eval()


def batch(model, axes):
    """Random pixels for everything that a model takes."""
    generator = torch.Generator().manual_seed(1)
    image, channels = SIZES[axes]["image"], SIZES[axes].get("channels", 3)

    def pixels(*shape):
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    entries = {"image": pixels(2, channels, *image), "features": pixels(2, channels, *image), "images": pixels(2, 2, channels, *image),
               "images_hr": pixels(2, 2, channels, *(2 * side for side in image)), "present": torch.tensor([[True, True], [True, False]]),
               "tabular": torch.tensor([[0.], [1.]])}
    return [entries[name] for name in model.inputs]


def tokens(vit, axes):
    return vit.encode(vit.embed(batch(ViT, axes)[0]))


def check(tmp_path, idea, axes, model, args, start, monkeypatch):
    """A model from the run `start` keeps its tokens, answers, and is the same after it was saved; a ViT from its run, and from what is exported of it, too."""
    part = IDEAS[idea][1]
    vit = model.get_submodule(part)
    first = ViT.from_pretrained(start, attention=vit.config.attention).eval()
    assert torch.equal(tokens(vit, axes), tokens(first, axes))
    random_numbers(model)
    out = model(*batch(model, axes))
    [logits] = out["logits"].values()
    assert logits.isfinite().all() and logits.shape in ((2, 3), (2, 1))
    if "map" in out:
        assert out["map"].shape[-1] in (vit.config.tokens, 2 * vit.config.tokens)
    run = run_folder(tmp_path / "run", args, model, LABELS)
    again = open_model(run)[0].eval()
    [other] = again(*batch(again, axes))["logits"].values()
    assert torch.equal(logits, other)
    places = [run]
    if idea in ("vit", "lt_vit"):                                  # of the others, too, its files are copied
        monkeypatch.setattr(export, "read_card", lambda run: None)           # both need an evaluated run
        monkeypatch.setattr(export, "write_card", lambda *args: None)
        places.append(str(tmp_path / "exported"))
        export.export(run, places[1])
    for place in places:
        fresh = ViT.from_pretrained(place).eval()
        fresh.normalize = vit.normalize                            # what write_card says
        assert torch.equal(tokens(fresh, axes), tokens(vit, axes))


def cases(quick, ideas, axes=(2,)):
    """(field, axes, idea); those are slow whose field is not among the quick ones."""
    result = []
    for field in FIELDS:
        for idea in ideas:
            for n in set(axes) & set(IDEAS[idea][2]):
                result.append(pytest.param(field, n, idea, marks=() if field in quick else pytest.mark.slow))
    return result


@torch.no_grad()
@pytest.mark.parametrize("field, axes, idea", [*cases(QUICK, IDEAS), *cases(["DINOv3"], IDEAS, (3,))])
def test_every_field_with_every_idea(tmp_path, monkeypatch, field, axes, idea):
    start = donor(tmp_path / "start", axes, FIELDS[field])
    args, model = built(idea, start)
    check(tmp_path, idea, axes, model, args, start, monkeypatch)


@torch.no_grad()
@pytest.mark.parametrize("field, axes, idea", cases(["distilled, scaled, SwiGLU", "DINOv3"], SOFTMAX_FREE))
def test_every_field_with_seqnorm(tmp_path, monkeypatch, field, axes, idea):
    """Refused, where rotary positions or norms of q and k leave it undefined."""
    start = donor(tmp_path / "start", axes, FIELDS[field])
    more = ["--attention", "seqnorm"]
    if idea == "lt_vit":
        more += ["--label-attention", "full"]
    if field in TURNED:
        assert "'seqnorm' is not defined with rotary positions or qk_norm" in refusal(built, idea, start, *more)
        return
    args, model = built(idea, start, *more)
    check(tmp_path, idea, axes, model, args, start, monkeypatch)
