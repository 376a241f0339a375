"""plumbing/names.py: whoever wrote the file, its names become timm's."""
import os

import pytest
import torch

from plumbing.checkpoints import FILES
from plumbing.names import timm_names
from tests.plumbing.small_checkpoints import LAYOUTS, images, tiny, write
from tests.test_vit import plain_vit
from vit import ViT


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_tokens_of_a_plain_vit(layout, tmp_path):
    """Whoever wrote the file, the tokens are those of a ViT written with loops; in float64, so that eps shows too."""
    kwargs, names, config, file, heads, eps = LAYOUTS[layout]
    t = tiny(**kwargs)
    folder = write(tmp_path, names(t), config, file=file)
    model = ViT.from_pretrained(folder if file in FILES else f"{folder}/{file}", tasks={"grade": 5}).double().eval()
    assert model.config.heads == heads and model.config.eps == eps and model.config.image == (32, 32)
    tokens, _ = plain_vit(t, images(), heads, eps)
    assert torch.allclose(model.encode(model.embed(images())), tokens, atol=1e-10)
    assert model.report.startswith(f"loaded {len(t)}/{len(t) + 2} tensors") and "new head.grade" in model.report


@torch.no_grad()
def test_real_transformers_models_give_the_same_tokens(tmp_path):
    """Where transformers is installed: what its save_pretrained writes, and its state_dict, against its own forward."""
    transformers = pytest.importorskip("transformers")
    config = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=32, patch_size=8)
    for name, family in (("ViTForImageClassification", "ViTConfig"), ("ViTModel", "ViTConfig"),
                         ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig")):
        theirs = getattr(transformers, name)(getattr(transformers, family)(**config)).double().eval()
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        expected = getattr(theirs, theirs.base_model_prefix, theirs)(images()).last_hidden_state
        folder = str(tmp_path / name)
        for save in (theirs.save_pretrained, lambda folder: (os.remove(f"{folder}/model.safetensors"),
                                                             torch.save(theirs.state_dict(), f"{folder}/pytorch_model.bin"))):
            save(folder)
            ours = ViT.from_pretrained(folder).double().eval()
            assert torch.allclose(ours.encode(ours.embed(images())), expected, atol=1e-5)


def test_names_stay_when_they_are_already_timms():
    """The renaming leaves timm's names alone, and is the same done twice."""
    for t in (tiny(layer_scale=True, registers=2), {**tiny(), "head.norm.weight": torch.ones(2)}):
        once, layout = timm_names("file", t)
        assert set(once) == set(t) == set(timm_names("file", once)[0]) and layout == "timm"
