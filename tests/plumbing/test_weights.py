"""plumbing/weights.py: weights that other people trained are fitted to the size that is asked for, and loaded whole or not at all."""
import json
import math

import pytest
import torch

from plumbing import weights
from plumbing.flags import parse
from plumbing.resize import resize_pos_embed, spread_channels
from plumbing.weights import load_weights
from tests.golden import unit
from tests.plumbing.small_checkpoints import DECODER, SMALL, images, refusal, tiny, write
from vit import ViT, ViTConfig


@torch.no_grad()
def test_half_precision_files_become_float32(tmp_path):
    """A bfloat16 file gives a float32 model with the file's rounded numbers, position embeddings resized or not."""
    t = {key: tensor.bfloat16() for key, tensor in tiny().items()}
    for image in ((32, 32), (48, 48)):
        model = ViT.from_pretrained(write(tmp_path, t), image=image)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert torch.equal(model.blocks[1].mlp.fc1.weight, t["blocks.1.mlp.fc1.weight"].float())


@torch.no_grad()
def test_own_weights_come_back_with_their_config(tmp_path):
    """config.json with "vit" is asdict() of the config; a run folder is read from its best/, heads included."""
    config = ViTConfig(image=(16, 24), patch=(8, 4), dim=24, depth=2, heads=2, head_dim=5, mlp=40, eps=1e-3, attention="seqnorm",
                       mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    model = ViT(config, {"grade": 5})
    write(tmp_path / "best", model.state_dict(), {"vit": json.loads(json.dumps(vars(config)))})
    again = ViT.from_pretrained(str(tmp_path), tasks={"grade": 5, "area": 1})
    assert again.config == config and "kept head.grade, new head.area" in again.report
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_softmax_weights_start_a_seqnorm_model(tmp_path):
    """Nothing but gamma = 1 and beta = 0 is new; SimA adds nothing."""
    path = write(tmp_path, tiny())
    model = ViT.from_pretrained(path, attention="seqnorm")
    assert "loaded 30/34" in model.report and model.report.endswith("new blocks.0.attn blocks.1.attn")
    assert all((block.attn.seq_scale == 1).all() and (block.attn.seq_shift == 0).all() for block in model.blocks)
    report = ViT.from_pretrained(path, attention="sima").report
    assert "new" not in report and "without its softmax attention" in report and "attention" not in ViT.from_pretrained(path).report


def test_a_run_keeps_its_attention_unless_a_flag_says_other(tmp_path):
    """--pretrained of a SimA run goes on with SimA; --attention softmax is said to be another."""
    run = write(tmp_path, tiny(), {"vit": {**vars(SMALL), "attention": "sima"}})
    for more, kind in (((), "sima"), (("--attention", "softmax"), "softmax")):
        args = parse(["--model", "vit", "--pretrained", run, *more])
        args.channels = 3
        model = ViT.from_args(args)
        assert model.config.attention == kind and ("without its sima attention" in model.report) == (kind == "softmax")


def test_report_is_one_line_that_says_what_happened(tmp_path):
    """Loaded, resized, new and ignored, each named; a decoder of eight blocks is still one word."""
    path = write(tmp_path, {**tiny(), **DECODER})
    report, ignored = ViT.from_pretrained(path, image=(48, 48), channels=1, tasks={"grade": 5}).report.split(", ignored ")
    assert report == (f"loaded 30/32 tensors from {path}, 3 heads (a guess from the width 192; --heads decides), image 32x32 px by its positions (assumed, no config.json says a size that fits), pre-norm blocks without rotary positions, activation gelu, eps 1e-06 (assumed), mean 0.485 0.456 0.406 std 0.229 0.224 0.225 (assumed), resized pos_embed 4x4 -> 6x6 (antialiased, which transformers is not), patch_embed from 3 to 1 channels, "
                      "new head.grade")
    assert sorted(ignored.split()) == ["decoder_blocks", "decoder_embed", "decoder_norm", "decoder_pos_embed", "mask_token"]


# -----------------------------------------------------------------------------
# fitted to another size


@torch.no_grad()
def test_from_pretrained_resizes_the_positions(tmp_path):
    """To any multiple of the patch, square or not; the same size leaves them bit for bit."""
    t, path = tiny(grid=(2, 8)), None
    path = write(tmp_path, t, {"image_size": [16, 64]})
    assert torch.equal(ViT.from_pretrained(path, image=(16, 64)).pos_embed, t["pos_embed"])
    model = ViT.from_pretrained(path, image=(40, 24))
    assert torch.equal(model.pos_embed, resize_pos_embed(t["pos_embed"], (2, 8), (5, 3))) and model.config.grid == (5, 3)
    assert model.eval()(images(height=40, width=24).float())["map"].shape == (2, 3, 15)
    assert "--image 8x40x24: its own images have 2 axes" in refusal(ViT.from_pretrained, path, image=(8, 40, 24), patch=(8, 8, 8))
    assert "30" in refusal(ViT.from_pretrained, path, image=(40, 30)) and "multiple of the patch (8, 8)" in refusal(
        ViT.from_pretrained, path, image=(40, 30))


@torch.no_grad()
def test_one_channel_equals_the_grey_image_three_times(tmp_path):
    """3 -> 1 channels sums the kernel, 1 -> 3 spreads it; uint8 in or float in."""
    grey = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for channels, other in ((3, 1), (1, 3)):
        path = write(tmp_path / str(channels), tiny(channels=channels), {"mean": 0.5, "std": 0.5})
        first, second = ViT.from_pretrained(path).eval(), ViT.from_pretrained(path, channels=other).eval()
        assert second.config.channels == other and f"patch_embed from {channels} to {other} channels" in second.report
        for x in (grey, grey.float() / 255):
            tokens, others = (m.encode(m.embed(x.repeat(1, m.config.channels, 1, 1))) for m in (first, second))
            assert torch.allclose(tokens, others, atol=1e-5)


def antialiased_bicubic(old, new):
    """(new, old) matrix: a cubic kernel (a = -0.5), widened by the ratio when it shrinks, rows sum to 1."""
    ratio, matrix = old / new, torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        for j in range(old):
            x = abs((j + 0.5 - ratio * (i + 0.5)) / max(ratio, 1))
            if x < 2:
                matrix[i, j] = 1.5 * x ** 3 - 2.5 * x ** 2 + 1 if x < 1 else -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return matrix / matrix.sum(1, keepdim=True)


@pytest.mark.parametrize("old, new", [((14, 14), (24, 24)), ((14, 14), (7, 10)), ((3, 5), (6, 4))])
def test_positions_are_resized_by_an_antialiased_bicubic(old, new):
    """One matrix for the rows and one for the columns; the class token's row stays as it is."""
    pos = unit((1, 1 + old[0] * old[1], 5), 7)
    y = resize_pos_embed(pos, old, new)
    assert y.shape == (1, 1 + new[0] * new[1], 5) and y.dtype == torch.float32 and torch.equal(y[:, 0], pos[:, 0].float())
    rows, columns = antialiased_bicubic(old[0], new[0]), antialiased_bicubic(old[1], new[1])
    expected = torch.einsum("ir,jc,rcd->ijd", rows, columns, pos[0, 1:].unflatten(0, old))
    assert torch.allclose(y[0, 1:].double(), expected.flatten(0, 1), atol=1e-5)


def test_positions_are_resized_as_timm_does():
    """Numbers of timm 1.0.31, resample_abs_pos_embed of 14 x 14 positions."""
    pos = unit((1, 197, 2), 7)
    y = resize_pos_embed(pos, (14, 14), (24, 24))[0]
    assert y[[0, 1, 2, 300, 576]].flatten().tolist() == pytest.approx([
        0.68897855, -0.29092270, -1.01731801, -0.57300740, -0.38486636, 0.08592910, 0.39336768, 0.73287100,
        -0.63097030, -0.24343483], abs=1e-6)
    y = resize_pos_embed(pos, (14, 14), (7, 10))[0]
    assert y[[0, 1, 2, 35, 70]].flatten().tolist() == pytest.approx([
        0.68897855, -0.29092270, -0.36071438, -0.39218059, 0.04806511, -0.06921895, 0.20179795, 0.50563508,
        -0.27681315, 0.20651668], abs=1e-6)


@pytest.mark.parametrize("grid", ((3, 5), (2, 3, 5)))
def test_positions_of_an_equal_grid_stay(grid):
    """Resizing to the same grid is the identity."""
    pos = unit((1, 1 + math.prod(grid), 4), 7).float()
    assert torch.allclose(resize_pos_embed(pos, grid, grid), pos, atol=1e-6)


def test_positions_of_volumes_are_resized_on_three_axes():
    """Trilinear: doubling each axis puts the mean of neighbors, 3 : 1, between them, and keeps what is linear along every axis."""
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 3, 5)), indexing="ij")
    pos = torch.stack([z, y, x], -1).flatten(0, 2)
    new = resize_pos_embed(torch.cat([torch.full((1, 3), 9.0), pos])[None], (4, 3, 5), (8, 6, 10))
    assert new.shape == (1, 1 + 480, 3) and torch.equal(new[0, 0], torch.full((3,), 9.0))
    new = new[0, 1:].unflatten(0, (8, 6, 10))
    for axis, n in enumerate((4, 3, 5)):
        line = new.movedim(axis, 0)[:, 2, 2, axis]
        assert torch.allclose(line, ((torch.arange(2 * n) - 0.5) / 2).clamp(0, n - 1), atol=1e-6)


@pytest.mark.parametrize("axes", (2, 3))
def test_a_grey_image_answers_as_its_copy_in_other_channels(axes):
    """spread_channels keeps the sum of the kernel."""
    weight = torch.randn(6, 3, *[4] * axes)
    spread = spread_channels(weight, 2)
    assert spread.shape == (6, 2, *[4] * axes) and torch.allclose(spread.sum(1), weight.sum(1), atol=1e-6)


# -----------------------------------------------------------------------------
# refusals


def test_misfit_tensors_are_named_with_both_shapes(tmp_path):
    """Wrong shape, missing and unexpected tensors stop the loading, all in one line, at most eight of them."""
    t = tiny()
    wrong = refusal(ViT.from_pretrained, write(tmp_path / "1", {**t, "norm.weight": torch.ones(100)}))
    assert "norm.weight: model (192,), file (100,)" in wrong and str(tmp_path / "1") in wrong
    t.pop("blocks.1.mlp.fc2.bias")
    assert "blocks.1.mlp.fc2.bias: model (192,), file has none" in refusal(ViT.from_pretrained, write(tmp_path / "2", t))
    extra = write(tmp_path / "3", {**tiny(), "blocks.0.attn.surplus": torch.ones(2, 2)})
    assert "blocks.0.attn.surplus: model has none, file (2, 2)" in refusal(ViT.from_pretrained, extra)
    many = {**tiny(), **{f"extra.{i}": torch.ones(1) for i in range(11)}}
    assert refusal(ViT.from_pretrained, write(tmp_path / "4", many)).endswith(" and 3 more")
    narrow = write(tmp_path / "5", {**tiny(), "pos_embed": torch.ones(1, 17, 100)})
    assert "pos_embed: model (1, 37, 192), file (1, 37, 100)" in refusal(ViT.from_pretrained, narrow, image=(48, 48))


@pytest.mark.parametrize("key, tensor", [
    ("pos_embed", torch.tensor(1.0)), ("patch_embed.proj.bias", torch.ones(3, 5, 7)), ("rope.freqs_cos", torch.ones(192)), ("blocks.0.attn.qkv.bias_mask", torch.ones(3)),
    ("blocks.0.attn.q.bias", torch.tensor(1.0)), ("blocks.0.mlp.gate.weight", torch.ones(2, 3)), ("blocks.0.mlp.fc2.weight", torch.ones(192))])
def test_tensors_that_cannot_belong_together_are_one_line(tmp_path, key, tensor):
    """Shapes that no reader expects: the file's name and a reason, no traceback."""
    path = write(tmp_path, {**tiny(), key: tensor}, {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    assert refusal(ViT.from_pretrained, path, image=(48, 48), channels=1).startswith(path)


def test_integers_are_not_taken_for_numbers_where_they_are_fitted(tmp_path):
    """An int8 kernel that is spread over other channels, integers that are resized: no float ever hides them."""
    for i, (key, changes) in enumerate((("patch_embed.proj.weight", {"channels": 1}), ("patch_embed.proj.weight", {"patch": (16, 16)}), ("pos_embed", {"image": (48, 48)}))):
        path = write(tmp_path / str(i), {**tiny(), key: tiny()[key].to(torch.int8)})
        assert key in refusal(ViT.from_pretrained, path, **changes)


def test_configs_that_cannot_belong_to_their_tensors_are_one_line(tmp_path):
    for i, config in enumerate(({"architecture": ["vit"]}, {"hidden_act": 3}, {"hidden_size": "two\nlines"}, {"rope_theta": "x", "architecture": "eva02_small_patch14_224"})):
        path = write(tmp_path / str(i), tiny(), config)
        assert refusal(ViT.from_pretrained, path).startswith(path)
    write(tmp_path, tiny(), file="open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": {"width": 192, "head_width": "64"}}}')
    assert "do not belong together" in refusal(ViT.from_pretrained, str(tmp_path))


def test_vectors_are_taken_as_they_come(tmp_path):
    """A run of bags has one width and no mean; asked for another, it is refused rather than passed over."""
    config = ViTConfig(image=(), patch=(), channels=5, dim=24, depth=1, heads=2, mlp=40, mean=(), std=())
    path = write(tmp_path, ViT(config).state_dict(), {"vit": vars(config)})
    assert ViT.from_pretrained(path, channels=5).config == config
    for asked in ({"channels": 4}, {"mean": "0.5"}, {"std": "0.5"}):
        assert "is for bags of vectors 5 wide" in refusal(ViT.from_pretrained, path, **asked)


def test_what_a_checkpoint_holds_is_listed(tmp_path, capsys):
    """Every tensor under its name here, its shape and type, and how many numbers they are together."""
    weights.main([write(tmp_path, {f"model.{key}": tensor for key, tensor in tiny().items()})])
    *tensors, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in tensors] == list(tiny()) and f"{'norm.bias':40} (192,)               torch.float32" in tensors
    assert last.startswith(f"30 tensors, {sum(map(torch.numel, tiny().values())) / 1e6:.2f} M numbers, timm layout")


def test_a_partial_load_changes_nothing():
    """All or nothing: after a refusal the model has the weights it had."""
    model = ViT(SMALL)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    refusal(load_weights, model, {**tiny(), "norm.bias": torch.ones(3)}, "file")
    refusal(load_weights, model, {**tiny(), "norm.bias": torch.full((192,), float("inf"))}, "file")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_numbers_that_cannot_be_weights_are_refused(tmp_path):
    """NaN, infinity, quantised integers and floats of 8 bits are named, not loaded."""
    ones = torch.ones(192)
    for i, tensor in enumerate((ones * float("nan"), (ones * float("inf")).bfloat16(), ones.to(torch.int8), ones.to(torch.float8_e4m3fn))):
        message = refusal(ViT.from_pretrained, write(tmp_path / str(i), {**tiny(), "norm.bias": tensor}))
        assert f"norm.bias ({tensor.dtype}) holds integers, numbers of 8 bits, or values that are not finite" in message


@torch.no_grad()
def test_a_grey_image_answers_as_its_copy_in_rgb_where_channels_differ(tmp_path):
    """ImageNet's mean and std are folded into kernel and bias."""
    path = write(tmp_path, tiny(), {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    rgb, grey = ViT.from_pretrained(path).eval(), ViT.from_pretrained(path, channels=1).eval()
    image = torch.randint(256, (2, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a, b = rgb.embed(image.repeat(1, 3, 1, 1)), grey.embed(image)
    assert (a - b).abs().max() < 2e-6 * a.abs().max()
