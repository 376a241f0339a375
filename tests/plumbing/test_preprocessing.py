"""plumbing/preprocessing.py: mean and std as the checkpoint says, as its family has them, or as the caller says."""
import pytest
import torch

from plumbing.architecture import flat, stated_kind
from plumbing.flags import parse
from plumbing.names import timm_names
from plumbing import preprocessing
from plumbing.preprocessing import HALF, IMAGENET, OPENAI
from tests.plumbing.small_checkpoints import hf_names, prefixed, refusal, tiny, write
from vit import ViT

FILE = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


def statistics(*args, mean=None, std=None):
    """-> what preprocessing.statistics gives, and whether its note calls it assumed."""
    notes = []
    return preprocessing.statistics(*args, mean, std, notes), notes[0].endswith("(assumed)")


@pytest.mark.parametrize("keys, config, family", [
    (tiny(), {}, IMAGENET),                                        # DeiT, DINO, MAE, DINOv2, MoCo v3, RETFound: timm's names
    (prefixed(tiny(), "module.base_encoder."), {}, IMAGENET), (prefixed(tiny(), "module."), {}, IMAGENET),
    (hf_names(tiny()), {}, HALF), (hf_names(tiny(layer_scale=True), dinov2=True, prefix=""), {}, IMAGENET),
    (["visual.class_embedding", "visual.conv1.weight"], {}, OPENAI),
    (["vision_model.embeddings.class_embedding", "vision_model.embeddings.patch_embedding.weight", "logit_scale"], {}, OPENAI),
    (["visual.trunk.cls_token", "visual.trunk.patch_embed.proj.weight"], {}, OPENAI), (["net.cls_token", "net.patch_embed.proj.weight", "logit_scale"], {}, OPENAI),
    (["visual.trunk.attn_pool.latent", "visual.trunk.patch_embed.proj.weight", "logit_scale"], {}, HALF),
    (["vision_model.head.probe", "vision_model.embeddings.patch_embedding.weight", "logit_scale"], {}, HALF),
    (["embeddings.patch_embeddings.projection.weight"], {}, IMAGENET),                                       # I-JEPA
    (["deit.embeddings.cls_token", "deit.embeddings.distillation_token", "deit.embeddings.patch_embeddings.projection.weight"], {}, IMAGENET),
    (["vit.embeddings.cls_token", "vit.embeddings.patch_embeddings.projection.weight", "decoder.decoder_embed.weight"], {}, IMAGENET),  # MAE
    *(({}, {"model_type": kind}, IMAGENET) for kind in ("deit", "vit_mae", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit", "ijepa")),
    *(({}, {"model_type": kind}, HALF) for kind in ("vit", "siglip", "siglip_vision_model", "beit")),
    *(({}, {"model_type": kind}, OPENAI) for kind in ("clip", "clip_vision_model")),
    *(({}, {"architecture": kind}, IMAGENET) for kind in ("deit3_small_patch16_224", "vit_small_patch14_dinov2", "crossvit_9_240", "beit3_base_patch16_224", "vit_base_patch16_rope_ape_224",
                                                               "vit_small_patch16_lingbot", "vit_huge_patch14_gap_224", "vit_small_patch8_224")),
    *(({}, {"architecture": kind}, OPENAI) for kind in ("eva02_tiny_patch14_224", "eva_large_patch14_196")), ({}, {"architecture": "flexivit_small"}, HALF),
    *(({}, {"architecture": kind}, HALF) for kind in ("vit_base_patch16_224", "vit_base_patch16_siglip_224", "beit_base_patch16_224")),
    ({}, {"architecture": "vit_base_patch16_clip_224"}, OPENAI)], ids=str)
def test_families_have_the_numbers_they_were_trained_with(keys, config, family):
    """Where no file says them; and then they are called assumed."""
    _, layout = timm_names({key: torch.zeros(1, 1) for key in keys})
    assert statistics(stated_kind(config) or layout, config, {}, 3) == (family, True)


def test_other_channels_and_what_the_caller_says():
    """A family's three numbers are of colours; one number is every channel's; the caller is believed before the file."""
    assert statistics("", {}, {}, 1) == ({"mean": (0.5,), "std": (0.5,)}, True)
    assert statistics("", {}, {"image_mean": 0.25, "image_std": [0.5]}, 2) == ({"mean": (0.25,) * 2, "std": (0.5,) * 2}, False)
    assert statistics("", {}, FILE, 3, mean="0.5", std=(1, 2, 3)) == ({"mean": (0.5,) * 3, "std": (1, 2, 3)}, False)
    assert statistics("", {}, {}, 3, mean=0.5) == ({"mean": (0.5,) * 3, "std": IMAGENET["std"]}, True)
    assert statistics("", flat({"preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}), {}, 3)[0]["mean"] == (0.1,) * 3


@pytest.mark.parametrize("changes, pixels", [
    ({}, lambda x: (x / 255 - 0.2) / 0.5), ({"do_normalize": True, "rescale_factor": 1 / 255}, lambda x: (x / 255 - 0.2) / 0.5),
    ({"do_normalize": False}, lambda x: x / 255), ({"do_rescale": False}, lambda x: (x - 0.2) / 0.5),
    ({"rescale_factor": 1 / 127.5}, lambda x: (x / 127.5 - 0.2) / 0.5), ({"rescale_factor": 0.00392156862745098}, lambda x: (x / 255 - 0.2) / 0.5),
    ({"do_normalize": False, "do_rescale": False}, lambda x: x)])
@torch.no_grad()
def test_the_preprocessing_of_transformers_is_honoured(tmp_path, changes, pixels):
    """What the patch embedding sees is what ViTImageProcessor would have made of the pixels."""
    model = ViT.from_pretrained(write(tmp_path, tiny(), {}, {"image_mean": [0.2] * 3, "image_std": [0.5] * 3, **changes}))
    x = torch.arange(256, dtype=torch.uint8).repeat(3, 1, 1)
    assert torch.allclose(model.normalize(x), pixels(x.double()).float(), rtol=1e-5, atol=1e-6)
    assert not model.report.endswith("(assumed)")


@pytest.mark.parametrize("preprocessor, words", [
    ({"image_mean": [[0.5], [0.5], [0.5]], "image_std": [0.5] * 3}, "mean [[0.5], [0.5], [0.5]] in its config.json or preprocessor_config.json: need one number, or"),
    ({"image_mean": [0.4, 0.5]}, "or one for each of 3 channels (--mean and --std set them)"), ({"image_std": "wide"}, "std 'wide'"),
    ({"image_mean": {"r": 1}}, "mean {'r': 1}"), ({"image_mean": [1e999] * 3}, "inf"), ({"image_mean": []}, "mean []"),
    ({"image_mean": 0.5, "image_std": 0}, "stds above 0"), ({"do_normalize": "no"}, "do_normalize 'no': need true or false"),
    ({"do_rescale": 0}, "do_rescale 0: need true or false"), ({"rescale_factor": 0}, "rescale_factor 0: need a number above 0"),
    ({"rescale_factor": [1]}, None), ({"rescale_factor": {}}, "rescale_factor {}: need one number")])
def test_preprocessing_that_cannot_be_is_refused_in_one_line(tmp_path, preprocessor, words):
    folder = write(tmp_path, tiny(), {}, preprocessor)
    if words:
        assert words in refusal(ViT.from_pretrained, folder)
    else:
        ViT.from_pretrained(folder)                                # [1] is a number in a list of one


def test_mean_and_std_on_the_command_line(tmp_path):
    """They are those of the checkpoint's own channels, and the report is written after all changes."""
    path = write(tmp_path, tiny())
    for model in ("vit", "q2l", "lt_vit", "probe", "multivit"):
        args = parse(["--model", model, "--pretrained", path, "--mean", "0.5", "--std", "0.1,0.2,0.3"])
        assert (args.mean, args.std) == ("0.5", "0.1,0.2,0.3")
    args = parse(["--model", "vit", "--pretrained", path, "--mean", "0.5", "--std", "0.1,0.2,0.3"])
    args.image, args.channels = None, None
    model = ViT.from_args(args, {"grade": 2})
    assert (model.config.mean, model.config.std) == ((0.5,) * 3, (0.1, 0.2, 0.3)) and "mean 0.5 0.5 0.5 std 0.1 0.2 0.3, new" in model.report
    assert "--std 0.1,0.2: need one number, or one for each of 3 channels" in refusal(ViT.from_pretrained, path, std="0.1,0.2")
    assert refusal(parse, ["--model", "vit", "--mean", "0.4"]) == (
        "--mean 0.4 is for --pretrained; without it mean and std are 0.5, and another flag decides the heads")


def test_a_run_keeps_its_own_unless_told(tmp_path):
    """config.json of a run is taken as it stands; the caller may still say otherwise."""
    model = ViT.from_pretrained(write(tmp_path / "a", tiny()), mean=(0.1, 0.2, 0.3))
    run = write(tmp_path / "b", model.state_dict(), {"vit": {**vars(model.config)}})
    assert ViT.from_pretrained(run).config.mean == (0.1, 0.2, 0.3)
    assert ViT.from_pretrained(run, mean=0.4).config.mean == (0.4,) * 3
    assert ViT.from_pretrained(run + "/model.safetensors").config.mean == (0.1, 0.2, 0.3)   # its config.json lies beside it
