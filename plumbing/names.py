"""Names of parameters: what other codebases call them -> timm's names, which are ours, in tables of
patterns.

timm, DeiT, DINO, MAE and DINOv2 files need no renaming but for a prefix; the layouts of transformers 4 and
5 go through RENAME. IBM's CrossViT has names of its own, which are ours there.
"""
import re

import torch

PREFIX = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.|encoder\.(?!layer\.)|vit\.|deit\.|dinov2\.)+")
RENAME = [(re.compile(pattern), name) for pattern, name in (  # transformers -> timm, in this order
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(embeddings\.)?register_tokens$", "reg_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers?)\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),  # attention.output.dense is gone by now
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.gamma_([12])$", r".ls\1.gamma"),  # DeiT III
    (r"^(?:layernorm|fc_norm)\.", "norm."),
    (r"^classifier\.", "head."),
)]


def timm_names(tensors):
    """{key: tensor} in any accepted layout -> the same under timm's names, and the layout, "hf" or
    "timm"."""
    plain = {PREFIX.sub("", key): tensor for key, tensor in tensors.items()}
    layout = "timm"
    if any(key.startswith("embeddings.") for key in plain):
        layout = "hf"
    renamed = {}
    for key, tensor in plain.items():
        for pattern, name in RENAME:
            key = pattern.sub(name, key)
        renamed[key] = tensor
    for key in list(renamed):
        if ".attn.q." in key:
            join_qkv(renamed, key)
    return renamed, layout


def join_qkv(tensors, key):
    """Replace the three matrices (or biases) of a block by one, rows q, k, v; key is the name of q's."""
    keys = [key.replace(".q.", f".{part}.") for part in "qkv"]
    if all(k in tensors for k in keys):
        tensors[key.replace(".q.", ".qkv.")] = torch.cat([tensors.pop(k) for k in keys])


def crossvit_names(tensors, task=None):
    """IBM's names, or timm's with their pos_embed_0, -> ours; the one head they have becomes that of
    `task`, if given."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^(pos_embed|cls_token)_(?=[01]$)", r"\1.", PREFIX.sub("", key))
        if task:
            key = re.sub(r"^(head\.[01]\.)(?=(weight|bias)$)", rf"\g<1>{task}.", key)
        renamed[key] = tensor
    return renamed
