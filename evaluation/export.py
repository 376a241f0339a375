"""A trained run as a folder for the Hub, under transformers' names where transformers has the model.
"""
import os
import re
import shutil

from safetensors.torch import save_file

from evaluation.card import write_card
from evaluation.run_text import read_run
from plumbing.models import open_model
from plumbing.run_folder import write_json


NAMES = (                                                          # ours -> transformers 4, in this order
    (r"^(cls_token)", r"vit.embeddings.\1"), (r"^pos_embed", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"), (r"^norm\.", "vit.layernorm."), (r"^head\..+\.", "classifier."),
    (r"^blocks\.", "vit.encoder.layer."), (r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.([qkv])\.", lambda found: f".attention.attention.{dict(q='query', k='key', v='value')[found[1]]}."),
    (r"\.attn\.proj\.", ".attention.output.dense."), (r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."))


def transformers_tensors(tensors):
    """{our key: tensor} of a plain ViT -> the same under transformers' names, qkv in three."""
    split = {}
    for key, tensor in tensors.items():
        parts = zip("qkv", tensor.chunk(3)) if ".attn.qkv." in key else [("", tensor)]
        split.update((key.replace(".qkv.", f".{part}."), x) for part, x in parts)
    renamed = {}
    for key, tensor in split.items():
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = tensor.contiguous().clone()
    return renamed


def transformers_config(config, task):
    """ViTConfig and the task -> config.json of transformers."""
    names = {str(i): name for i, name in enumerate(task.classes)}
    one = lambda pair: pair[0] if pair[0] == pair[1] else list(pair)
    return {"model_type": "vit", "architectures": ["ViTForImageClassification"],
            "image_size": one(config.image), "patch_size": one(config.patch), "num_channels": config.channels,
            "hidden_size": config.dim, "num_hidden_layers": config.depth, "num_attention_heads": config.heads,
            "intermediate_size": config.mlp, "hidden_act": "gelu", "qkv_bias": config.qkv_bias, "layer_norm_eps": config.eps,
            "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": 0.0, "id2label": names,
            "label2id": {name: int(i) for i, name in names.items()},
            "problem_type": "multi_label_classification" if task.kind == "labels" else "single_label_classification"}


def export(run, folder):
    """Write an evaluated run's best model to a new folder; -> what opens it: "transformers" or "pytorch", our own code."""

    if os.path.exists(folder):
        raise ValueError(f"--export {folder}: exists; it is not overwritten")
    read_run(run)                                                  # refused here when there are no metrics for the card
    model, tasks, args = open_model(run)
    config = model.config
    plain = (args.model == "vit" and len(tasks) == 1 and tasks[0].kind in ("classes", "labels") and config.attention == "softmax"
             and len(config.image) == 2 and not config.registers and not config.layer_scale
             and config.head_dim in (0, config.dim // config.heads))
    library = "transformers" if plain else "pytorch"
    os.makedirs(folder)
    if plain:
        save_file(transformers_tensors(model.state_dict()), os.path.join(folder, "model.safetensors"), {"format": "pt"})
        write_json(os.path.join(folder, "config.json"), transformers_config(config, tasks[0]))
    else:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(os.path.join(run, "best", name), os.path.join(folder, name))
    write_card(run, folder, library)
    return library
