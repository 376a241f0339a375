"""plumbing/architecture.py: sizes come from the tensors, the rest from the JSON files where they are right."""
import os
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from tests.plumbing.small_checkpoints import IMAGENET, SMALL, TIMM, hf, hf_names, images, prefixed, refusal, tiny, write
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
    for i, (config, words) in enumerate((({"num_attention_heads": 7}, "7 heads"), ({"mean": [[0.5]], "std": 0.5}, "mean [[0.5]] in its config.json or preprocessor_config.json: need one number, or one for each of 3 channels"),
                                        ([1], "a list"), ({"vit": {"widht": 3}}, "widht"), ({"vit": [1]}, "mapping"),
                                        ({"vit": {"dim": -1}}, "dim -1: need 1 <= x"), ({"vit": {"dim": 24.0}}, "dim 24.0: need a number (int)"),
                                        ({"vit": {"eps": 2}}, "eps 2: need 0 <= x < 1"), ({"vit": {"dropout": "x"}}, "dropout 'x': need a number (float)"),
                                        ({"vit": {"heads": 0}}, "heads 0: need 1 <= x"), ({"vit": {"image": [32.0, 32.0]}}, "describe no model"))):
        message = refusal(ViT.from_pretrained, write(tmp_path / f"c{i}", tiny(), config))
        assert words in message and str(tmp_path / f"c{i}") in message and "config.json" in message
    (tmp_path / "1" / "config.json").write_text("{")
    assert "config.json: not a JSON file" in refusal(ViT.from_pretrained, unknown)
    multivit = write(tmp_path / "4", prefixed(tiny(), "first."), {"vit": vars(SMALL)})
    for changes in ({}, {"image": (48, 48)}, {"channels": 1}):
        assert "cls_token: model (1, 1, 192), file has none" in refusal(ViT.from_pretrained, multivit, **changes)


PLAIN = tiny()
GATED = {key: torch.cat([x, x]) if "mlp.fc1" in key else x for key, x in PLAIN.items()}
TURNED = {key: x for key, x in PLAIN.items() if key != "pos_embed"}
UNSEEN = {  # tensors, what a config.json says that none of them shows, why that is refused
    "windows": (PLAIN, {"model_type": "other", "num_windows": 2}, "other has blocks of its own: config.json: num_windows"),
    "RF-DETR": (PLAIN, {"model_type": "rf_detr_dinov2"}, "windows in its attention"),
    "PaddleOCR": (PLAIN, {"model_type": "paddleocr_vl_vision"}, "a table of positions and rotary ones besides"),
    "spectrograms": (PLAIN, {"model_type": "audio-spectrogram-transformer"}, "spectrograms as its images"),
    "blocks of timm": (PLAIN, {**TIMM, "model_args": {"block_fn": "ResPostBlock"}}, "blocks of its own: config.json: block_fn"),
    "post-norm": (PLAIN, {**TIMM, "model_args": {"use_post_norm": True}}, "norms after attention and MLP instead of before (post-norm): config.json: use_post_norm"),
    "rotary or not": (PLAIN, {"architecture": "eva02_tiny_patch14_224", "model_args": {"use_rot_pos_emb": False}}, "rotary positions of its own: config.json: use_rot_pos_emb"),
    "halves": (PLAIN, {**TIMM, "model_args": {"rope_rotate_half": True}}, "rotary positions of its own: config.json: rope_rotate_half"),
    "theta": (PLAIN, {"architecture": "eva02_tiny_patch14_224", "rope_temperature": -5}, "rotary positions of theta -5: need a number above 0"),
    "GEGLU": (GATED, {**TIMM, "hidden_act": "geglu"}, "activation 'geglu' in a gated MLP, which here can only have silu"),
    "timm's gate is its GELU": (GATED, {**TIMM, "model_args": {"mlp_layer": "SwiGLUPacked"}}, "activation 'gelu' in a gated MLP, which here can only have silu"),
    "blocks that are lost": (PLAIN, {**TIMM, "num_hidden_layers": 12}, "config.json has a num_hidden_layers of 12, the ViT in the file one of 2"),
    "blocks of open_clip": (PLAIN, {"model_cfg": {"vision_cfg": {"layers": 3, "width": 192}}}, "config.json has a layers of 3, the ViT in the file one of 2"),
    "blocks too many": (PLAIN, {**TIMM, "model_args": {"depth": 1}}, "config.json has a depth of 1, the ViT in the file one of 2"),
    "periods": ({**TURNED, "rope_embed.periods": 1e4 ** (torch.arange(16) / 16)}, {}, "rope_embed.periods are of another theta than its architecture's"),
    "relative positions": (TURNED, {"architecture": "vit_relpos_small_patch16_224"}, "relpos_small_patch16_224 has relative positions in its attention"),
    "RADIO": ({"radio_model.model.patch_generator.embedder.weight": torch.ones(192, 192)}, {"model_type": "radio"}, "radio has patches by a Linear layer (RADIO)"),
    "parallel": ({**PLAIN, "blocks.0.attns.0.attn.qkv.weight": torch.ones(9, 3)}, TIMM, "several attentions side by side"),
    "heads": (PLAIN, {**TIMM, "num_heads": True}, "heads True: need a number (int)"),
    "two biases": ({**PLAIN, "blocks.0.attn.q_bias": torch.ones(192)}, TIMM, "blocks.0.attn.q.bias and blocks.0.attn.qkv.bias are both its blocks.0.attn.qkv.bias"),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_what_no_tensor_shows_is_refused(tmp_path, case):
    tensors, config, words = UNSEEN[case]
    assert words in refusal(ViT.from_pretrained, write(tmp_path, tensors, config))


def test_heads_of_dinov3_by_the_periods_in_its_file(tmp_path):
    """Its ViT-H+ is 1280 wide with 20 heads, where others have 16: the original file alone says so."""
    path = str(tmp_path / "dinov3_vith16plus.pth")
    torch.save({**TURNED, "rope_embed.periods": (100 ** (torch.arange(8) / 8)).bfloat16()}, path)
    model = ViT.from_pretrained(path)
    assert model.config.heads == 6 and "guess" not in model.report and model.config.rotary["theta"] == 100


@torch.no_grad()
@pytest.mark.parametrize("config, words", [
    ({"model_type": "of_somebody"}, "pre-norm blocks without rotary positions, activation gelu, eps 1e-06 (assumed), "),
    ({"architecture": "vit_x", "hidden_act": "gelu"}, "pre-norm blocks without rotary positions, eps 1e-06 (assumed), "),
    ({"architecture": "vit_x", "hidden_act": "gelu", "layer_norm_eps": 1e-6}, "pre-norm blocks without rotary positions (assumed), "),
    ({"model_type": "vit_msn"}, ""), (TIMM, ""), ({**TIMM, "model_args": {"mlp_layer": "SwiGLUPacked", "act_layer": "torch.nn.SiLU"}}, ""),
    ({"model_type": "dinov2", "hidden_act": "gelu", "use_swiglu_ffn": True}, "")])
def test_blocks_of_an_unknown_model_are_called_assumed(tmp_path, config, words):
    gated = "use_swiglu_ffn" in config or "model_args" in config
    config = {**config, "num_heads": 3, "image_size": 32, "mean": 0.5, "std": 0.5}
    model = ViT.from_pretrained(write(tmp_path, GATED if gated else PLAIN, config))
    assert f"tensors from {tmp_path}, {words}mean 0.5" in model.report and model.config.activation == ("swiglu" if gated else "gelu")


@torch.no_grad()
def test_a_last_norm_of_the_class_token(tmp_path):
    """timm's fc_norm with global_pool "token": it is of the class token, not of a mean."""
    model = ViT(SMALL).eval()
    model.load_state_dict(PLAIN)
    renamed = {key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: x for key, x in PLAIN.items()}
    loaded = ViT.from_pretrained(write(tmp_path, renamed, {**TIMM, "global_pool": "token"})).eval()
    x = images().float()
    assert torch.equal(loaded.run_blocks(loaded.embed(x))[1], model.run_blocks(model.embed(x))[1]) and loaded.config == replace(SMALL, mean=loaded.config.mean, std=loaded.config.std)


def test_rotary_positions_of_pe(tmp_path):
    """Places are stretched to the grid that the architecture was trained with, not to the file's; its original file shows no rotary positions."""
    config = {"architecture": "vit_pe_core_tiny_patch16_384", "num_heads": 3, "image_size": 32}
    assert ViT.from_pretrained(write(tmp_path / "1", PLAIN, config)).config.rotary["reference"] == [24, 24]
    original = {**PLAIN, "attn_pool.probe": torch.ones(1, 1, 192)}
    assert "or the pool of PE; which rotary positions it has" in refusal(ViT.from_pretrained, write(tmp_path / "2", original))


def test_a_fork_of_the_vit_starts_from_its_own_run(tmp_path):
    """Whatever it is called in MODELS."""
    run = write(tmp_path, {**PLAIN, "head.grade.weight": torch.ones(5, 192), "head.grade.bias": torch.ones(5)}, {"model": "my_vit", "my_vit": vars(SMALL)})
    loaded = ViT.from_pretrained(run, tasks={"grade": 5})
    assert loaded.config == SMALL and "new" not in loaded.report


def test_a_run_without_a_vit_is_refused_by_its_model(tmp_path):
    """Not for the names of its tensors."""
    resnet = write(tmp_path, {"stem.0.weight": torch.ones(4, 3, 3, 3)}, {"model": "daft", "daft": {"width": 4}})
    assert refusal(ViT.from_pretrained, resnet) == f"{resnet}: is a run of --model daft, which holds no ViT"


def test_patches_without_a_bias_are_said(tmp_path):
    """CLIP's have none; elsewhere it may be lost."""
    tensors = {key: x for key, x in PLAIN.items() if key != "patch_embed.proj.bias"}
    assert "no bias in its patch_embed (assumed to be 0)" in ViT.from_pretrained(write(tmp_path / "1", tensors)).report
    norm = {"norm_pre.weight": torch.ones(192), "norm_pre.bias": torch.ones(192)}
    assert "patch_embed" not in ViT.from_pretrained(write(tmp_path / "2", {**tensors, **norm})).report


def test_names_that_cannot_be_printed_are_refused(tmp_path):
    """Also those of safetensors: escape sequences and new lines never reach a terminal."""
    for i, name in enumerate(("blocks.0.\x1b[31mx", "one\ntwo")):
        safetensors.torch.save_file({**PLAIN, name: torch.ones(2)}, tmp_path / f"{i}.safetensors")
        assert "the name of a tensor cannot be printed" in refusal(ViT.from_pretrained, str(tmp_path / f"{i}.safetensors"))


def test_vit_of_a_model_of_images_and_text(tmp_path):
    """FLAVA: the part of its config.json is called image_config. Janus: its attention ends in projection_layer."""
    flava = {"model_type": "flava", "hidden_size": 768, "image_config": hf(6, model_type="flava_image_model", hidden_size=192, layer_norm_eps=1e-3)}
    config = ViT.from_pretrained(write(tmp_path / "flava", hf_names(tiny(), prefix="flava.image_model."), flava)).config
    assert (config.heads, config.eps) == (6, 1e-3)
    janus = {key.replace("attn.proj", "self_attn.projection_layer"): x for key, x in PLAIN.items()}
    model = ViT.from_pretrained(write(tmp_path / "janus", janus, {"model_type": "janus_vision_model", "num_attention_heads": 3}))
    assert torch.equal(model.blocks[1].attn.proj.weight, PLAIN["blocks.1.attn.proj.weight"]) and model.config.mean == (0.5,) * 3
