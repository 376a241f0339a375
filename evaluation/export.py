"""A trained run as a folder for the Hub, under transformers' names where transformers has the model.

    python eval.py runs/NAME --export FOLDER         weights, config, model card; never uploaded

A plain ViT with one task of classes or labels gets the names of transformers 4, which 5 reads too, and gives
the same logits there. Any other model keeps our names, and the code that wrote it reads it.
"""
import re
import shutil
from os.path import exists, join

from safetensors.torch import save_file

from evaluation.card import read_card, write_card
from plumbing.families import rules
from plumbing.run_folder import write_folder, write_json
from plumbing.saved_run import open_model
from vit import ViT, ViTConfig


# fields of ViTConfig that transformers' ViT has at their defaults alone
PLAIN = """attention layer_scale registers class_token positions rotary pool activation mlp_norm
    attention_norm qk_norm pre_norm final_norm""".split()
NAMES = r"""  ours -> transformers 4, in this order
^(cls_token) -> vit.embeddings.\1
^pos_embed -> vit.embeddings.position_embeddings
^patch_embed\.proj -> vit.embeddings.patch_embeddings.projection
^norm\. -> vit.layernorm.
^head\..+\. -> classifier.
^blocks\. -> vit.encoder.layer.
\.norm1\. -> .layernorm_before.
\.norm2\. -> .layernorm_after.
\.attn\.q\. -> .attention.attention.query.
\.attn\.k\. -> .attention.attention.key.
\.attn\.v\. -> .attention.attention.value.
\.attn\.proj\. -> .attention.output.dense.
\.mlp\.fc1\. -> .intermediate.dense.
\.mlp\.fc2\. -> .output.dense.
"""


def transformers_tensors(tensors):
    """{our key: tensor} of a plain ViT -> the same under transformers' names, qkv as q, k, v."""
    renamed = {}
    replacements = rules(NAMES)
    for key, tensor in tensors.items():
        parts = {key: tensor}
        if ".attn.qkv." in key:
            parts = dict(zip([key.replace(".qkv.", f".{letter}.") for letter in "qkv"], tensor.chunk(3)))
        for name, part in parts.items():
            for pattern, new in replacements:
                name = re.sub(pattern, new, name)
            renamed[name] = part.clone()             # two may be parts of one, which no file holds
    return renamed


def transformers_config(config, task):
    """ViTConfig and the task -> config.json of transformers."""
    problems = {"classes": "single_label_classification", "labels": "multi_label_classification"}
    return {"model_type": "vit", "architectures": ["ViTForImageClassification"],
            "image_size": one_number(config.image), "patch_size": one_number(config.patch),
            "num_channels": config.channels, "hidden_size": config.dim, "num_hidden_layers": config.depth,
            "num_attention_heads": config.heads, "intermediate_size": config.mlp, "hidden_act": "gelu",
            "qkv_bias": config.qkv_bias, "layer_norm_eps": config.eps, "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": 0.0,
            "id2label": {str(i): name for i, name in enumerate(task.classes)},
            "label2id": {name: i for i, name in enumerate(task.classes)},
            "problem_type": problems[task.kind]}


def one_number(sides):
    """(S, S) -> S; two different sides -> both, in a list."""
    if sides[0] == sides[1]:
        return sides[0]
    return list(sides)


def transformers_has(model, tasks):
    """Has transformers this model? A ViT on pictures, with one task of classes or labels, and no extras."""
    if type(model) is not ViT or len(tasks) != 1 or tasks[0].kind not in ("classes", "labels"):
        return False
    config = model.config
    if any(getattr(config, field) != getattr(ViTConfig, field) for field in PLAIN):
        return False
    return len(config.image) == 2 and config.head_dim in (0, config.dim // config.heads)


def export(run, folder):
    """Write an evaluated run's best model to a new folder; -> "transformers" if it opens it, else "pytorch".

    ValueError when the folder exists, or the run has not been evaluated."""
    if exists(folder):
        raise ValueError(f"--export {folder}: exists; it is not overwritten")
    read_card(run)                                   # refused here when there are no metrics for the card
    model, tasks, _ = open_model(run)
    library = "transformers" if transformers_has(model, tasks) else "pytorch"
    with write_folder(folder) as fresh:
        if library == "transformers":
            save_file(transformers_tensors(model.state_dict()), join(fresh, "model.safetensors"),
                      {"format": "pt"})
            write_json(join(fresh, "config.json"), transformers_config(model.config, tasks[0]))
        else:
            for name in ("config.json", "model.safetensors"):
                shutil.copyfile(join(run, "best", name), join(fresh, name))
        write_card(run, fresh, library)
    return library
