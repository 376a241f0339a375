import argparse
import json
import os
import pickle
import re
import types

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import errors

from tests.golden import values
from tests.hub import Hub, python
from tests.test_vit import plain_vit
from vit import ViT, ViTConfig, resize_pos_embed
from weights import FILES, load_weights, read_checkpoint, timm_names

DEPTH = 2
SMALL = ViTConfig(image=(32, 32), patch=(8, 8), dim=192, depth=DEPTH, heads=3, mlp=80)                # what tiny() fills
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def tiny(D=192, channels=3, grid=(4, 4), layer_scale=False, registers=0, idx=0):
    """{timm's name: float32 tensor} of a small ViT, patch 8; a width of 192 means 3 heads when no config.json says it."""
    shapes = {"cls_token": (1, 1, D), "pos_embed": (1, 1 + grid[0] * grid[1], D), "patch_embed.proj.weight": (D, channels, 8, 8),
              "patch_embed.proj.bias": (D,), "norm.weight": (D,), "norm.bias": (D,)}
    if registers:
        shapes["reg_token"] = (1, registers, D)
    for i in range(DEPTH):
        for name, shape in {"norm1": (D,), "attn.qkv": (3 * D, D), "attn.proj": (D, D), "norm2": (D,), "mlp.fc1": (80, D),
                            "mlp.fc2": (D, 80)}.items():
            shapes[f"blocks.{i}.{name}.weight"], shapes[f"blocks.{i}.{name}.bias"] = shape, shape[:1]
        if layer_scale:
            shapes[f"blocks.{i}.ls1.gamma"] = shapes[f"blocks.{i}.ls2.gamma"] = (D,)
    return {key: (tensor + 0.1 * idx).float() for key, tensor in values(shapes).items()}


def images(channels=3, height=32, width=32):
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def write(folder, tensors, config=None, preprocessor=None, file="model.safetensors"):
    """A folder as the Hub has it -> its path."""
    os.makedirs(folder, exist_ok=True)
    if file.endswith(".safetensors"):
        safetensors.torch.save_file(tensors, os.path.join(folder, file))
    else:
        torch.save(tensors, os.path.join(folder, file))
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        if content is not None:
            with open(os.path.join(folder, name), "w") as stream:
                json.dump(content, stream)
    return str(folder)


def hf_names(t, version=4, prefix="vit.", dinov2=False):
    """The same tensors under the names of transformers 4 or 5 (DINOv2 kept `encoder.layer` and its norm1, norm2)."""
    named = {}
    for key, tensor in t.items():
        if not key.startswith("blocks."):
            named[{"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
                   "reg_token": "embeddings.register_tokens", "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
                   "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
                   "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias"}[key]] = tensor
            continue
        _, i, part, kind = *key.split(".", 2)[:2], *key.split(".", 2)[2].rsplit(".", 1)
        old = version == 4
        layer = f"encoder.layer.{i}" if old or dinov2 else f"layers.{i}"
        if part == "attn.qkv":
            names = ("attention.attention.query", "attention.attention.key", "attention.attention.value") if old else (
                "attention.q_proj", "attention.k_proj", "attention.v_proj")
            named.update({f"{layer}.{name}.{kind}": x.contiguous() for name, x in zip(names, tensor.chunk(3))})
        elif part in ("ls1", "ls2"):
            named[f"{layer}.layer_scale{part[2]}.lambda1"] = tensor
        else:
            name = {"norm1": "norm1" if dinov2 else "layernorm_before", "norm2": "norm2" if dinov2 else "layernorm_after",
                    "attn.proj": "attention.output.dense" if old else "attention.o_proj",
                    "mlp.fc1": "intermediate.dense" if old and not dinov2 else "mlp.fc1",
                    "mlp.fc2": "output.dense" if old and not dinov2 else "mlp.fc2"}[part]
            named[f"{layer}.{name}.{kind}"] = tensor
    return {prefix + key: tensor for key, tensor in named.items()}


def prefixed(t, prefix):
    return {prefix + key: tensor for key, tensor in t.items()}


def halves(t):
    """-> two dicts with every second tensor each."""
    keys = sorted(t)
    return {key: t[key] for key in keys[::2]}, {key: t[key] for key in keys[1::2]}


def hf(heads, **fields):
    return {"model_type": "vit", "hidden_act": "gelu", "image_size": 32, "num_attention_heads": heads, **fields}


HEAD = {"head.weight": torch.ones(10, 192), "head.bias": torch.ones(10)}
CLASSIFIER = {"classifier.weight": torch.ones(10, 192), "classifier.bias": torch.ones(10)}
POOLER = {"pooler.dense.weight": torch.ones(192, 192), "pooler.dense.bias": torch.ones(192)}
PROJECTOR = {"module.head.mlp.0.weight": torch.ones(9, 192), "module.head.last_layer.weight_g": torch.ones(9, 1)}
DECODER = {"mask_token": torch.ones(1, 1, 64), "decoder_embed.weight": torch.ones(64, 192), "decoder_norm.weight": torch.ones(64),
           "decoder_pos_embed": torch.ones(1, 17, 64), **{f"decoder_blocks.{i}.norm1.bias": torch.ones(64) for i in range(8)}}
OPTIONS = {"epoch": 3, "args": argparse.Namespace(lr=1e-3, model="vit_tiny")}         # beside the weights of DINO and MAE
TIMM = {"architecture": "vit_tiny_patch8_32", "num_classes": 10, "pretrained_cfg": {"input_size": [3, 32, 32]}}
DINOV2 = hf(6, model_type="dinov2", layer_norm_eps=1e-6)
V2 = {"layer_scale": True, "registers": 4}

# every accepted layout: the ViT it is made of, how it is named, config.json, file, its heads, its eps of LayerNorm
LAYOUTS = {
    "timm": ({}, lambda t: {**t, **HEAD}, TIMM, "model.safetensors", 3, 1e-6),
    "timm, no config": ({}, lambda t: t, None, "vit.safetensors", 3, 1e-6),
    "DeiT": ({}, lambda t: {"model": {**t, **HEAD}}, None, "deit.pth", 3, 1e-6),
    "DeiT III": ({"layer_scale": True}, lambda t: {"model": {
        re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): x for key, x in t.items()}}, None, "deit_3.pth", 3, 1e-6),
    "DINO": ({}, lambda t: {"student": prefixed(tiny(idx=1), "module.backbone."),
                            "teacher": {**prefixed(t, "module.backbone."), **PROJECTOR}, **OPTIONS}, None, "dino.pth", 3, 1e-6),
    "MAE": ({}, lambda t: {"model": {**t, **DECODER}, **OPTIONS}, None, "mae.pth", 3, 1e-6),
    "MAE, fine-tuned": ({}, lambda t: {"model": {**{re.sub(r"^norm", "fc_norm", key): x for key, x in t.items()}, **HEAD}},
                        None, "mae.pth", 3, 1e-6),
    "transformers 4, classifier": ({}, lambda t: {**hf_names(t), **CLASSIFIER}, hf(6), "model.safetensors", 6, 1e-12),
    "transformers 4, ViTModel": ({}, lambda t: {**hf_names(t, prefix=""), **POOLER}, hf(3), "model.safetensors", 3, 1e-12),
    "transformers 5, classifier": ({}, lambda t: {**hf_names(t, 5), **CLASSIFIER}, hf(6), "model.safetensors", 6, 1e-12),
    "transformers 5, ViTModel": ({}, lambda t: {**hf_names(t, 5, ""), **POOLER}, hf(3), "model.safetensors", 3, 1e-12),
    "transformers, no config": ({}, hf_names, None, "vit.safetensors", 3, 1e-12),
    "transformers, other eps": ({}, hf_names, hf(3, layer_norm_eps=1e-3), "model.safetensors", 3, 1e-3),
    "transformers, pickle": ({}, lambda t: {**hf_names(t), **CLASSIFIER}, hf(6), "pytorch_model.bin", 6, 1e-12),
    "DINOv2, transformers 4": (V2, lambda t: {**hf_names(t, 4, "", True), "embeddings.mask_token": torch.ones(1, 192)},
                               DINOV2, "model.safetensors", 6, 1e-6),
    "DINOv2, transformers 5": (V2, lambda t: {**hf_names(t, 5, "dinov2.", True), "dinov2.embeddings.mask_token":
                                              torch.ones(1, 192)}, DINOV2, "model.safetensors", 6, 1e-6),
    "DINOv2, torch hub": (V2, lambda t: {**{key.replace("reg_token", "register_tokens"): x for key, x in t.items()},
                                         "mask_token": torch.ones(1, 192)}, None, "dinov2.pth", 3, 1e-6),
    "compiled, distributed": ({}, lambda t: prefixed(t, "module._orig_mod."), None, "model.safetensors", 3, 1e-6),
    "Lightning": ({}, lambda t: {"state_dict": prefixed(t, "model.")}, None, "last.ckpt", 3, 1e-6),
}


def refusal(call, *args, **kwargs):
    """-> the message of the ValueError that the call must raise; it is one line, without terminal colours."""
    with pytest.raises(ValueError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message and "\033" not in message and len(message) < 700
    return message


# -----------------------------------------------------------------------------
# layouts


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


def test_shards_are_put_together(tmp_path):
    """The files that an index names, safetensors or pickles, hold one model between them."""
    for names in (("model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"),
                  ("pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin", "pytorch_model.bin.index.json")):
        folder, t = tmp_path / names[2], tiny()
        for file, part in zip(names, halves(t)):
            write(folder, part, file=file)
        weight_map = {key: file for file, part in zip(names, halves(t)) for key in part}
        (folder / names[2]).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        loaded = ViT.from_pretrained(str(folder)).state_dict()
        assert set(loaded) == set(t) and all(torch.equal(loaded[key], tensor) for key, tensor in t.items())


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
    assert again.config == config and "new head.area" in again.report
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_softmax_weights_start_a_seqnorm_model(tmp_path):
    """Nothing but gamma = 1 and beta = 0 is new; SimA adds nothing."""
    path = write(tmp_path, tiny())
    model = ViT.from_pretrained(path, attention="seqnorm")
    assert "loaded 30/34" in model.report and model.report.endswith("new blocks.0.attn blocks.1.attn")
    assert all((block.attn.seq_scale == 1).all() and (block.attn.seq_shift == 0).all() for block in model.blocks)
    assert "new" not in ViT.from_pretrained(path, attention="sima").report


def test_report_is_one_line_that_says_what_happened(tmp_path):
    """Loaded, resized, new and ignored, each named; a decoder of eight blocks is still one word."""
    path = write(tmp_path, {**tiny(), **DECODER})
    report, ignored = ViT.from_pretrained(path, image=(48, 48), channels=1, tasks={"grade": 5}).report.split(", ignored ")
    assert report == (f"loaded 30/32 tensors from {path}, resized pos_embed 4x4 -> 6x6, patch_embed from 3 to 1 channels, mean 0.5 std 0.5, "
                      "new head.grade")
    assert sorted(ignored.split()) == ["decoder_blocks", "decoder_embed", "decoder_norm", "decoder_pos_embed", "mask_token"]


# -----------------------------------------------------------------------------
# what the JSON files say


def test_mean_and_std_belong_to_the_weights(tmp_path):
    """From preprocessor_config.json, else from timm's pretrained_cfg (nested or flat), else 0.5."""
    timm = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    for config, preprocessor, mean, std in (
            ({}, {**IMAGENET, "size": 224}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ({"pretrained_cfg": timm}, None, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), (timm, None, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
            ({}, {"do_resize": True}, (0.5,) * 3, (0.5,) * 3), ({}, None, (0.5,) * 3, (0.5,) * 3)):
        model = ViT.from_pretrained(write(tmp_path / str(len(os.listdir(tmp_path))), tiny(), config, preprocessor))
        assert (model.config.mean, model.config.std) == (mean, std)
        assert torch.allclose(model.mean.flatten(), torch.tensor(mean)) and torch.allclose(model.std.flatten(), torch.tensor(std))


def test_size_of_the_preprocessor_does_not_matter(tmp_path):
    """224 and {"height": 224, "width": 224} are both read over: the file's own positions give the size."""
    for i, size in enumerate((224, {"height": 224, "width": 224}, {"shortest_edge": 256}, None)):
        model = ViT.from_pretrained(write(tmp_path / str(i), tiny(), hf(3), {**IMAGENET, "size": size}))
        assert model.config.image == (32, 32) and model.config.mean == (0.485, 0.456, 0.406)


def test_image_size_is_an_int_or_two(tmp_path):
    """A number is a square, a list is height and width; one that does not fit the positions is not believed."""
    for i, (said, grid, image) in enumerate(((32, (4, 4), (32, 32)), ([16, 64], (2, 8), (16, 64)), ([64, 16], (8, 2), (64, 16)),
                                             (224, (4, 4), (32, 32)), (None, (4, 4), (32, 32)), ("32", (4, 4), (32, 32)))):
        config = hf(3, image_size=said)
        assert ViT.from_pretrained(write(tmp_path / str(i), hf_names(tiny(grid=grid)), config)).config.image == image
    assert "6 patch positions are no square" in refusal(ViT.from_pretrained, write(tmp_path / "none", tiny(grid=(2, 3))))


@torch.no_grad()
def test_from_pretrained_resizes_the_positions(tmp_path):
    """To any multiple of the patch, square or not; the same size leaves them bit for bit."""
    t, path = tiny(grid=(2, 8)), None
    path = write(tmp_path, t, {"image_size": [16, 64]})
    assert torch.equal(ViT.from_pretrained(path, image=(16, 64)).pos_embed, t["pos_embed"])
    model = ViT.from_pretrained(path, image=(40, 24))
    assert torch.equal(model.pos_embed, resize_pos_embed(t["pos_embed"], (2, 8), (5, 3))) and model.config.grid == (5, 3)
    assert model(images(height=40, width=24).float())["map"].shape == (2, 3, 15)
    assert "30" in refusal(ViT.from_pretrained, path, image=(40, 30)) and "multiple of the patch (8, 8)" in refusal(
        ViT.from_pretrained, path, image=(40, 30))


@torch.no_grad()
def test_one_channel_equals_the_grey_image_three_times(tmp_path):
    """3 -> 1 channels sums the kernel, 1 -> 3 spreads it; uint8 in or float in."""
    grey = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for channels, other in ((3, 1), (1, 3)):
        path = write(tmp_path / str(channels), tiny(channels=channels))
        first, second = ViT.from_pretrained(path).eval(), ViT.from_pretrained(path, channels=other).eval()
        assert second.config.channels == other and f"patch_embed from {channels} to {other} channels" in second.report
        for x in (grey, grey.float() / 255):
            tokens, others = (m.encode(m.embed(x.repeat(1, m.config.channels, 1, 1))) for m in (first, second))
            assert torch.allclose(tokens, others, atol=1e-5)


# -----------------------------------------------------------------------------
# refusals


def test_misfit_tensors_are_named_with_both_shapes(tmp_path):
    """Wrong shape, missing and unexpected tensors stop the loading, all in one line, at most eight of them."""
    t = tiny()
    wrong = refusal(ViT.from_pretrained, write(tmp_path / "1", {**t, "norm.weight": torch.ones(100)}))
    assert "norm.weight: model (192,), file (100,)" in wrong and str(tmp_path / "1") in wrong
    t.pop("blocks.1.mlp.fc2.bias")
    assert "blocks.1.mlp.fc2.bias: model (192,), file has none" in refusal(ViT.from_pretrained, write(tmp_path / "2", t))
    extra = write(tmp_path / "3", {**tiny(), "blocks.0.attn.relative_position": torch.ones(2, 2)})
    assert "blocks.0.attn.relative_position: model has none, file (2, 2)" in refusal(ViT.from_pretrained, extra)
    many = {**tiny(), **{f"extra.{i}": torch.ones(1) for i in range(11)}}
    assert refusal(ViT.from_pretrained, write(tmp_path / "4", many)).endswith("; and 3 more")
    narrow = write(tmp_path / "5", {**tiny(), "pos_embed": torch.ones(1, 17, 100)})
    assert "pos_embed: model (1, 37, 192), file (1, 37, 100)" in refusal(ViT.from_pretrained, narrow, image=(48, 48))


def test_a_partial_load_changes_nothing():
    """All or nothing: after a refusal the model has the weights it had."""
    model = ViT(SMALL)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    refusal(load_weights, model, {**tiny(), "norm.bias": torch.ones(3)}, "file")
    refusal(load_weights, model, {**tiny(), "norm.bias": torch.full((192,), float("inf"))}, "file")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_numbers_that_cannot_be_weights_are_refused(tmp_path):
    """NaN, infinity and quantised integers are named, not loaded."""
    ones = torch.ones(192)
    for i, tensor in enumerate((ones * float("nan"), (ones * float("inf")).bfloat16(), ones.to(torch.int8))):
        message = refusal(ViT.from_pretrained, write(tmp_path / str(i), {**tiny(), "norm.bias": tensor}))
        assert f"norm.bias ({tensor.dtype}) holds integers, or values that are not finite" in message


def test_files_that_hold_no_weights_are_refused(tmp_path):
    """Text under any name, empty and truncated files, a bare tensor, a whole module: the path, and why."""
    truncated = write(tmp_path, tiny()) + "/model.safetensors"
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pt")
    with open(truncated, "r+b") as stream:
        stream.truncate(os.path.getsize(truncated) - 100)
    for name, content in (("text.safetensors", b"<html>404</html>"), ("empty.safetensors", b""), ("text.pth", b"hello"),
                          ("empty.bin", b""), ("page.bin", b"<html>404</html>"), ("image.png", b"\x89PNG\r\n"),
                          ("pointer.bin", b"version https://git-lfs.github.com/spec/v1\n")):
        (tmp_path / name).write_bytes(content)
        assert re.match(rf"{tmp_path}/{name}: not a ", refusal(ViT.from_pretrained, str(tmp_path / name)))
    assert "not a readable weight file (Error while deserializing header" in refusal(ViT.from_pretrained, truncated)
    assert "holds no tensors by name, but a Tensor" in refusal(ViT.from_pretrained, str(tmp_path / "tensor.pt"))
    assert "asks to run torch.nn.modules.linear.Linear" in refusal(ViT.from_pretrained, str(tmp_path / "module.pt"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_malicious_pickles_do_not_run(tmp_path):
    """Neither torch's zip format nor a bare pickle runs what it asks for, and the message never advises to let it."""
    ran = tmp_path / "ran"
    torch.save({"model": {"cls_token": Malicious(ran)}}, tmp_path / "zip.pth")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps({"cls_token": Malicious(ran)}, protocol=2))
    for name in ("zip.pth", "bare.bin"):
        message = refusal(ViT.from_pretrained, str(tmp_path / name))
        assert f"not a pickle of plain tensors, it asks to run {os.system.__module__}.system" in message
        assert "weights_only" not in message
    assert not ran.exists()


def test_strange_checkpoints_are_refused_in_words(tmp_path):
    """Unknown head counts, other networks, activations that are not here, JSON that is not what it should be."""
    unknown = write(tmp_path / "1", tiny(D=24))
    assert "the number of heads is not in the file; give a folder with its config.json" in refusal(ViT.from_pretrained, unknown)
    resnet = write(tmp_path / "2", {"conv1.weight": torch.ones(2, 2)})
    assert "not a ViT this code knows: patch_embed.proj.weight is missing" in refusal(ViT.from_pretrained, resnet)
    assert "activation 'quick_gelu'" in refusal(ViT.from_pretrained, write(tmp_path / "3", tiny(), {"hidden_act": "quick_gelu"}))
    for i, (config, said) in enumerate((({"num_attention_heads": 7}, "7 heads"), ({"mean": 0.5, "std": 0.5}, "not iterable"),
                                        ([1], "a list"), ({"vit": {"widht": 3}}, "widht"), ({"vit": [1]}, "mapping"),
                                        ({"vit": {"dim": -1}}, "dim -1"))):
        message = refusal(ViT.from_pretrained, write(tmp_path / f"c{i}", tiny(), config))
        assert said in message and str(tmp_path / f"c{i}") in message and "config.json" in message
    (tmp_path / "1" / "config.json").write_text("{")
    assert "config.json: not a JSON file" in refusal(ViT.from_pretrained, unknown)
    multivit = write(tmp_path / "4", prefixed(tiny(), "first."), {"vit": vars(SMALL)})
    for changes in ({}, {"image": (48, 48)}, {"channels": 1}):
        assert "cls_token: model (1, 1, 192), file has none" in refusal(ViT.from_pretrained, multivit, **changes)


def test_bad_shard_indices_are_refused(tmp_path):
    """A shard that is missing, that lies in another folder, or an index without a table of them."""
    write(tmp_path / "up", tiny())
    for i, index in enumerate(({}, [], {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": "gone.safetensors"}},
                               {"weight_map": {"a": "../up/model.safetensors"}},
                               {"weight_map": {"a": f"{tmp_path}/up/model.safetensors"}})):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "model.safetensors.index.json").write_text(json.dumps(index))
        assert f"{tmp_path / str(i)}/model.safetensors.index.json" in refusal(ViT.from_pretrained, str(tmp_path / str(i)))


def test_names_that_are_nothing_are_refused(tmp_path):
    """Neither file, nor folder, nor Hub id; or a folder without weights."""
    for name in ("nothing", "", "a/b/c", "a b/c", "../up", "/no/such/file.safetensors", "runs/best.safetensors", "org/name@"):
        assert refusal(ViT.from_pretrained, name).startswith(f"{name}: no such file or folder, and not a Hub id (ORG/NAME or")
    assert "holds none of model.safetensors" in refusal(ViT.from_pretrained, str(tmp_path))


def test_names_stay_when_they_are_already_timms():
    """The renaming leaves timm's names alone, and is the same done twice."""
    for t in (tiny(layer_scale=True, registers=2), {**tiny(), "head.norm.weight": torch.ones(2)}):
        once, layout = timm_names(t)
        assert set(once) == set(t) == set(timm_names(once)[0]) and layout == "timm"


# -----------------------------------------------------------------------------
# the Hub, served on loopback

ASK = """
import json, sys, time
time.sleep = lambda seconds: None                                  # between the retries
import torch
torch.set_num_threads(1)
from vit import ViT
answers = {}
for name in NAMES:
    try:
        model = ViT.from_pretrained(name)
        answers[name] = [model.norm.bias[0].item(), *model.config.mean, model.report]
    except ValueError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What from_pretrained answered for each name, online and then offline with the server gone; and the requests."""
    home = tmp_path_factory.mktemp("hub")
    files = {"model.safetensors": safetensors.torch.save(tiny()), "config.json": json.dumps(hf(3)).encode()}
    other = {**files, "model.safetensors": safetensors.torch.save(tiny(idx=1)),
             "preprocessor_config.json": json.dumps(IMAGENET).encode()}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "s1.safetensors", "b": "s2.safetensors"}}).encode()}
    first, second = (safetensors.torch.save(part) for part in halves(tiny()))
    repos = {"org/vit": {"main": files, "v1.0": other}, "org/unseen": {"main": files}, "org/gated": "gated",
             "org/shards": {"main": {**index, "s1.safetensors": first, "s2.safetensors": second}},
             "org/part": {"main": {**index, "s1.safetensors": first}}, "org/empty": {"main": {"README.md": b""}},
             "org/cut": {"main": {"model.safetensors": bytes(100_000)}}}
    online = [*(name for name in repos if name != "org/unseen"), "org/vit@v1.0", "org/vit@v9", "org/nothing", "org/a..b"]
    offline = ["org/vit", "org/vit@v1.0", "org/shards", "org/unseen", "org/vit@v9"]
    with Hub(repos, cut=["/org/cut/resolve/main/model.safetensors"]) as hub:
        first = json.loads(python(f"NAMES = {online}{ASK}", home, hub.url))          # HF_ENDPOINT is this server
        requests = list(hub.requests)
    second = json.loads(python(f"NAMES = {offline}{ASK}", home, hub.url, offline=True))
    return types.SimpleNamespace(online=first, offline=second, requests=requests)


def test_hub_files_are_downloaded_once_and_then_found_offline(asked):
    """Weights and config.json come from the Hub, one file of weights only; with the server gone they are the same."""
    for answers in (asked.online, asked.offline):
        assert answers["org/vit"][:4] == [pytest.approx(tiny()["norm.bias"][0].item()), 0.5, 0.5, 0.5]
        assert answers["org/vit"][4] == "loaded 30/30 tensors from org/vit, mean 0.5 0.5 0.5 std 0.5 0.5 0.5" and isinstance(answers["org/shards"], list)
    downloads = [request for request in asked.requests if request.startswith("GET /org/vit/resolve/main")]
    assert sorted(downloads) == [f"GET /org/vit/resolve/main/{file}" for file in ("config.json", "model.safetensors")]


def test_hub_revision_is_the_one_asked_for(asked):
    """ORG/NAME@revision has other weights and another preprocessor_config.json; one that is not there is named."""
    for answers in (asked.online, asked.offline):
        assert answers["org/vit@v1.0"][:4] == pytest.approx([tiny(idx=1)["norm.bias"][0].item(), 0.485, 0.456, 0.406])
    assert asked.online["org/vit@v9"] == "org/vit: has no revision 'v9'"
    assert "org/vit: model.safetensors is not in the cache" in asked.offline["org/vit@v9"]


def test_hub_refusals_are_one_clear_line(asked):
    """No repository, no weights, terms to accept, a missing shard, a broken download, a name that cannot be, no network."""
    expected = {"org/nothing": "no such repository on the Hub", "org/gated": "is gated; accept its terms",
                "org/empty": "holds none of model.safetensors", "org/cut": "model.safetensors could not be downloaded",
                "org/part": "names 2 shards (s1.safetensors, s2.safetensors ...), not all",
                "org/a..b": "could not be downloaded: Cannot have -- or .. in repo_id"}
    for name, words in expected.items():
        assert words in asked.online[name] and "\n" not in asked.online[name]
    assert "model.safetensors is not in the cache and the Hub is switched off (HF_HUB_OFFLINE)" in asked.offline["org/unseen"]


def test_unreachable_hub_is_said_and_known_absences_are_remembered(monkeypatch):
    """Without a network a file that the Hub once said it has not is still absent; any other is an error with the address."""
    def unreachable(*args, **kwargs):
        raise errors.LocalEntryNotFoundError("An error happened\nwhile trying")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: None)
    assert re.fullmatch(r"org/name: model.safetensors is not in the cache and the Hub at http\S+ cannot be reached; try again.*",
                        refusal(read_checkpoint, "org/name"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **kwargs: huggingface_hub._CACHED_NO_EXIST)
    assert "holds none of" in refusal(read_checkpoint, "org/name")
