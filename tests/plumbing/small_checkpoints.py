"""Small checkpoints in every layout that is accepted, as their authors' code writes them."""
import argparse
import json
import os
import re

import pytest
import safetensors.torch
import torch

from tests.golden import values
from vit import ViTConfig

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
