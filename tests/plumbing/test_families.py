"""Which families of pretrained ViTs load here with the tokens of timm and transformers.

    python -m pytest -m slow -s tests/plumbing/test_families.py    prints the table of docs/weights.md; needs timm and transformers

No published weights are downloaded: each family's architecture is built with random weights, two blocks deep
and as wide as it is, and saved as its authors do. A row: the family, how its file was written, the largest
difference of the tokens after the last norm (float32, random pixels), and whether mean and std are those that
the family's own code uses.
"""
import os
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import save_file

from plumbing.preprocessing import EVA_X, HALF, IMAGENET, OPENAI
from plumbing.run_folder import write_json
from vit import ViT


OPTIMUS = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
RAD_DINO = {"mean": (0.5307,) * 3, "std": (0.2583,) * 3}

SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": torch.nn.SiLU, "init_values": 1e-5}
GIANT = {"embed_dim": 1536, "num_heads": 24, "mlp_ratio": 5.33334}
UNI2 = {**SWIGLU, **GIANT, "no_embed_class": True, "reg_tokens": 8}
VIRCHOW = {**SWIGLU, "mlp_ratio": 5.3375}
GIGAPATH = {**GIANT, "img_size": 224, "patch_size": 16}
H0_MINI = {**SWIGLU, "mlp_ratio": 5.33334, "img_size": 224}
EVA_X_CHANGES = {"patch_size": 16, "ref_feat_shape": (14, 14)}
DINOV2 = {"image_size": 518, "patch_size": 14}
DINOV2_GIANT = {**DINOV2, "hidden_size": 1536, "num_attention_heads": 24, "use_swiglu_ffn": True}
DINOV2_LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 16}
DINOV3_HUGE = {"num_register_tokens": 4, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "use_gated_mlp": True, "hidden_act": "silu"}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "patch_size": 14}

# family; architecture of timm; what its authors change of it; mean and std; how it is saved
TIMM = (
    ("ViT (augreg)", "vit_base_patch16_224", {}, HALF, "folder"),
    ("DeiT", "deit_small_patch16_224", {}, IMAGENET, "folder"),
    ("DeiT III", "deit3_small_patch16_224", {}, IMAGENET, "folder"),
    ("DINO, MoCo v3, MAE", "vit_base_patch16_224.mae", {}, IMAGENET, "folder"),
    ("DINOv2", "vit_small_patch14_dinov2", {}, IMAGENET, "folder"),
    ("DINOv2, registers", "vit_small_patch14_reg4_dinov2", {}, IMAGENET, "folder"),
    ("DINOv3", "vit_small_patch16_dinov3", {}, IMAGENET, "folder"),
    ("CLIP", "vit_base_patch16_clip_224", {}, OPENAI, "folder"),
    ("SigLIP", "vit_base_patch16_siglip_224", {}, HALF, "folder"),
    ("EVA-02", "eva02_small_patch14_224", {}, OPENAI, "folder"),
    ("UNI", "vit_large_patch16_224", {"init_values": 1e-5}, IMAGENET, "folder"),
    ("UNI2-h", "vit_giant_patch14_224", UNI2, IMAGENET, "folder"),
    ("Virchow", "vit_huge_patch14_224", VIRCHOW, IMAGENET, "folder"),
    ("Virchow2", "vit_huge_patch14_224", {**VIRCHOW, "reg_tokens": 4}, IMAGENET, "folder"),
    ("GigaPath", "vit_giant_patch14_dinov2", GIGAPATH, IMAGENET, "folder"),
    ("H-optimus-0, H-optimus-1", "vit_giant_patch14_reg4_dinov2", {"img_size": 224}, OPTIMUS, "folder"),
    ("H0-mini", "vit_base_patch14_reg4_dinov2", H0_MINI, OPTIMUS, "folder"),
    ("RETFound", "vit_large_patch16_224", {}, IMAGENET, "RETFound_mae_natureCFP.pth"),
    ("RETFound, fine-tuned", "vit_large_patch16_224", {"global_pool": "avg"}, IMAGENET,
     "checkpoint-best.pth"),
    ("EVA-X-S", "eva02_small_patch14_224", EVA_X_CHANGES, EVA_X, "eva_x_small_patch16_merged520k_mim.pt"),
    ("EVA-X-B", "eva02_base_patch14_224", EVA_X_CHANGES, EVA_X, "eva_x_base_patch16_merged520k_mim.pt"),
    ("BiomedCLIP", "vit_base_patch16_224", {}, OPENAI, "open_clip_pytorch_model.bin"),
    ("CONCH", "vit_base_patch16_224", {"img_size": 448}, OPENAI, "pytorch_model.bin"),
)
# family; model of transformers and what its config says; mean and std
TRANSFORMERS = (
    ("google/vit", "ViT", {}, HALF),
    ("facebook/deit", "DeiT", {}, IMAGENET),
    ("facebook/vit-mae", "ViTMAE", {"mask_ratio": 0.0}, IMAGENET),
    ("facebook/vit-msn", "ViTMSN", {}, IMAGENET),
    ("facebook/ijepa", "IJepa", {}, IMAGENET),
    ("facebook/dinov2", "Dinov2", DINOV2, IMAGENET),
    ("facebook/dinov2-with-registers", "Dinov2WithRegisters", DINOV2, IMAGENET),
    ("facebook/dinov2-with-registers, giant", "Dinov2WithRegisters", DINOV2_GIANT, IMAGENET),
    ("facebook/dinov3", "DINOv3ViT", {"num_register_tokens": 4}, IMAGENET),
    ("facebook/dinov3, huge plus", "DINOv3ViT", DINOV3_HUGE, IMAGENET),
    ("BEiT, absolute positions", "Beit", {"use_absolute_position_embeddings": True}, HALF),
    ("BLIP", "BlipVision", {"image_size": 224}, OPENAI),
    ("openai/clip", "CLIPVision", {}, OPENAI),
    ("google/siglip", "SiglipVision", {}, HALF),
    ("Phikon", "ViT", {}, IMAGENET),
    ("Phikon-v2", "Dinov2", DINOV2_LARGE, IMAGENET),
    ("Midnight", "Dinov2", DINOV2_GIANT, HALF),
    ("RAD-DINO", "Dinov2", DINOV2, RAD_DINO),
    ("MedSigLIP", "SiglipVision", {**SO400M, "image_size": 448}, HALF),
)


def randomize(model):
    """Random numbers of a sensible size everywhere, so that every parameter matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            numbers = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2:
                parameter.copy_(0.5 + 0.1 * numbers)
            else:
                parameter.copy_(numbers / parameter[0].numel() ** 0.5)
    return model.eval()


def timm_family(folder, architecture, changes, statistics, file):
    """Write a model of timm as its authors do; -> images, its tokens."""
    import timm
    changes = dict(changes)
    if "mlp_layer" in changes:
        changes["mlp_layer"] = timm.layers.SwiGLUPacked
    model = randomize(timm.create_model(architecture, depth=2, **changes))
    images = torch.randn(1, *model.patch_embed.proj.weight.shape[1:2], *model.patch_embed.img_size)
    tokens = model.forward_features(images)
    if hasattr(model, "fc_norm"):                                  # the last norm of a model that pools
        tokens = model.fc_norm(tokens)
    config = {**statistics, "input_size": images.shape[1:]}
    write_timm(folder, file, architecture, tensors=model.state_dict(), config=config)
    return images, tokens


def write_timm(folder, file, architecture, tensors, config):
    path = os.path.join(folder, file)
    config_file = os.path.join(folder, "config.json")
    if file == "folder":
        save_file(tensors, os.path.join(folder, "model.safetensors"))
        write_json(config_file, {"architecture": architecture, "pretrained_cfg": config})
    elif file.startswith("RETFound"):
        torch.save({"model": {**tensors, "mask_token": torch.zeros(1, 1, 512)}}, path)
    elif file.startswith("checkpoint"):
        torch.save({"model": tensors, "epoch": 3}, path)
    elif file.startswith("eva_x"):                                 # with what docs/weights.md advises
        torch.save({"model": tensors}, path)
        write_json(config_file, {"architecture": file.removesuffix(".pt")})
    else:                                                          # open_clip
        tensors = {f"visual.trunk.{key}": tensor for key, tensor in tensors.items()}
        torch.save({**tensors, "logit_scale": torch.zeros(())}, path)


def transformers_family(folder, kind, changes, statistics):
    """Write a model of transformers with its preprocessor_config.json; -> images, its tokens."""
    import transformers
    config = getattr(transformers, f"{kind}Config")(num_hidden_layers=2, **changes)
    model = randomize(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    normalization = {f"image_{field}": numbers for field, numbers in statistics.items()}
    write_json(os.path.join(folder, "preprocessor_config.json"), normalization)
    images = torch.randn(1, 3, config.image_size, config.image_size)
    more = {}
    if kind == "ViTMAE":                                           # it shuffles its patches by noise
        more["noise"] = torch.arange(float((config.image_size // config.patch_size) ** 2))[None]
    tokens = model(pixel_values=images, **more).last_hidden_state
    if kind in ("CLIPVision", "Beit"):                             # the last norm is of what is read
        norms = [module for name, module in model.named_modules() if name.endswith(("post_layernorm", "pooler.layernorm"))]
        tokens = norms[0](tokens)
    return images, tokens


def compare(write, statistics, *more):
    """-> the largest difference of the tokens, and what is said of mean and std."""
    with TemporaryDirectory() as folder, torch.no_grad():
        torch.manual_seed(0)
        images, tokens = write(folder, *more)
        model = ViT.from_pretrained(folder).eval()
        ours = model.encode(model.embed(images))
    assert ours.shape == tokens.shape
    right = True
    for field, numbers in statistics.items():
        right &= torch.allclose(torch.tensor(getattr(model.config, field)), torch.tensor(numbers))
    normalization = "as its authors" if right else "needs --mean and --std"
    if "(assumed)" in model.report:
        normalization += ", assumed"
    return float((ours - tokens).abs().max()), normalization


def holds(family, written, difference, normalization):
    print(f"\n| {family} | {written} | {difference:.1e} | {normalization} |")
    assert difference < 1e-5 and normalization.startswith("as its authors")


@pytest.mark.slow
@pytest.mark.parametrize("family, architecture, changes, statistics, file", TIMM)
def test_a_family_of_timm(family, architecture, changes, statistics, file):
    pytest.importorskip("timm")
    holds(family, f"timm {architecture}, {file}", *compare(timm_family, statistics, architecture, changes, statistics, file))


@pytest.mark.slow
@pytest.mark.parametrize("family, kind, changes, statistics", TRANSFORMERS)
def test_a_family_of_transformers(family, kind, changes, statistics):
    pytest.importorskip("transformers")
    holds(family, f"transformers {kind}Model", *compare(transformers_family, statistics, kind, changes, statistics))
