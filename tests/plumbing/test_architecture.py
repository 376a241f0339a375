"""plumbing/architecture.py: sizes come from the tensors, the rest from the JSON files where they are right."""
import os

import torch

from tests.plumbing.small_checkpoints import IMAGENET, SMALL, hf, hf_names, prefixed, refusal, tiny, write
from vit import ViT


def test_mean_and_std_belong_to_the_weights(tmp_path):
    """From preprocessor_config.json, else from timm's pretrained_cfg (nested or flat)."""
    timm = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    for config, preprocessor, mean, std in (
            ({}, {**IMAGENET, "size": 224}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ({"pretrained_cfg": timm}, None, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), (timm, None, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
            ({"mean": 0.5, "std": 0.25}, None, (0.5,) * 3, (0.25,) * 3)):
        model = ViT.from_pretrained(write(tmp_path / str(len(os.listdir(tmp_path))), tiny(), config, preprocessor))
        assert (model.config.mean, model.config.std) == (mean, std)
        assert torch.allclose(model.normalize.mean.flatten(), torch.tensor(mean))
        assert torch.allclose(model.normalize.std.flatten(), torch.tensor(std))


def test_size_of_the_preprocessor_does_not_matter(tmp_path):
    """224 and {"height": 224, "width": 224} are both read over: the file's own positions give the size."""
    for i, size in enumerate((224, {"height": 224, "width": 224}, {"shortest_edge": 256}, None)):
        model = ViT.from_pretrained(write(tmp_path / str(i), tiny(), hf(3), {**IMAGENET, "size": size}))
        assert model.config.image == (32, 32) and model.config.mean == (0.485, 0.456, 0.406)


def test_image_size_is_an_int_or_two(tmp_path):
    """A number is a square, a list is height and width; one that does not fit the positions is not believed."""
    for i, (stated, grid, image) in enumerate(((32, (4, 4), (32, 32)), ([16, 64], (2, 8), (16, 64)), ([64, 16], (8, 2), (64, 16)),
                                             (224, (4, 4), (32, 32)), (None, (4, 4), (32, 32)), ("32", (4, 4), (32, 32)))):
        config = hf(3, image_size=stated)
        assert ViT.from_pretrained(write(tmp_path / str(i), hf_names(tiny(grid=grid)), config)).config.image == image
    assert "6 patch positions are no square" in refusal(ViT.from_pretrained, write(tmp_path / "none", tiny(grid=(2, 3))))


def test_strange_checkpoints_are_refused_in_words(tmp_path):
    """Unknown head counts, other networks, activations that are not here, JSON that is not what it should be."""
    unknown = write(tmp_path / "1", tiny(D=24))
    assert "the number of heads is not in the file; give --heads" in refusal(ViT.from_pretrained, unknown)
    resnet = write(tmp_path / "2", {"conv1.weight": torch.ones(2, 2)})
    assert "not a ViT this code knows: patch_embed.proj.weight is missing" in refusal(ViT.from_pretrained, resnet)
    assert "activation 'relu'" in refusal(ViT.from_pretrained, write(tmp_path / "3", tiny(), {"hidden_act": "relu"}))
    for i, (config, words) in enumerate((({"num_attention_heads": 7}, "7 heads"), ({"mean": [[0.5]], "std": 0.5}, "mean [[0.5]] in its config.json: need one number, or one for each of 3 channels"),
                                        ([1], "a list"), ({"vit": {"widht": 3}}, "widht"), ({"vit": [1]}, "mapping"),
                                        ({"vit": {"dim": -1}}, "dim=-1"), ({"vit": {"dim": 24.0}}, "dim 24.0: need a whole number"),
                                        ({"vit": {"eps": 2}}, "eps 2: need 0 <= x < 1"), ({"vit": {"dropout": "x"}}, "dropout 'x': need a number"),
                                        ({"vit": {"heads": 0}}, "heads=0"), ({"vit": {"image": [32.0, 32.0]}}, "describes no model"))):
        message = refusal(ViT.from_pretrained, write(tmp_path / f"c{i}", tiny(), config))
        assert words in message and str(tmp_path / f"c{i}") in message and "config.json" in message
    (tmp_path / "1" / "config.json").write_text("{")
    assert "config.json: not a JSON file" in refusal(ViT.from_pretrained, unknown)
    multivit = write(tmp_path / "4", prefixed(tiny(), "first."), {"vit": vars(SMALL)})
    for changes in ({}, {"image": (48, 48)}, {"channels": 1}):
        assert "cls_token: model (1, 1, 192), file has none" in refusal(ViT.from_pretrained, multivit, **changes)
