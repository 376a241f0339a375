"""Names of parameters: what other codebases call them -> timm's names, which are ours, in tables of
patterns.

A ViT is found in its file by the kernel that cuts the patches: what the kernel's name begins with is the
prefix of the ViT (`module.`, `visual.trunk.`, `base_encoder.` ...), and what begins otherwise (a text tower,
heads, decoders) is beside it. Then RENAME, and parts that are stored apart are joined. IBM's CrossViT has
names of its own, which are ours there.
"""
import re

import torch

from plumbing.families import rules

BESIDE = "/"  # before the name of a tensor that is no part of the ViT
KERNEL = re.compile(r"^(.*?)(patch_embed\.proj(ection)?|embeddings\.patch_embeddings(\.projection)?|"
                    r"conv_proj|conv1|embeddings\.patch_embedding|"
                    r"patch_embedding\.patch_embeddings(\.\d+)?)\.weight$")
BETTER = r"""  of two ViTs in one file -> the second, which authors evaluate, or the only one that sees images
student\w* -> teacher\w*
momentum_encoder -> (base_)?encoder
(context_)?encoder -> target_encoder
target(_encoder|_network)? -> online(_encoder|_network)?
key_encoder -> query_encoder
visual_encoder_m -> visual_encoder
(img_)?encoder_k -> (img_)?encoder_q
(online_)?model -> (model_ema|ema_model|ema)
(momentum_backbone|backbone_momentum) -> backbone
teacher -> encoder
"""
RENAME = r"""  in this order: what is replaced -> by what
# what wraps a block
(?:\.(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module))+\. -> .
# transformers
^embeddings\.(?:cls_token|class_embedding)$ -> cls_token
^embeddings\.position_embeddings?(?:\.weight)?$ -> pos_embed
^embeddings\.(mask_token|register_tokens|distillation_token)$ -> \1
^embeddings\.patch_embeddings?\.(?:projection\.)? -> patch_embed.proj.
^(?:model\.)?(?:encoder\.)?layers?\.(\d+)\. -> blocks.\1.
\.(?:layernorm_before|layer_norm1)\. -> .norm1.
\.(?:layernorm_after|layer_norm2)\. -> .norm2.
\.(?:attention|self_attn)\.(?:attention\.)?(?:query|q_proj)\. -> .attn.q.
\.(?:attention|self_attn)\.(?:attention\.)?(?:key|k_proj)\. -> .attn.k.
\.(?:attention|self_attn)\.(?:attention\.)?(?:value|v_proj)\. -> .attn.v.
\.attention\.(?:output\.dense|o_proj|projection_layer)\. -> .attn.proj.
\.self_attn\.(?:out_proj|projection(?:_layer)?)\. -> .attn.proj.
\.self_attn\.qkv\. -> .attn.qkv.
\.intermediate\.dense\. -> .mlp.fc1.
# attention.output.dense is gone by now
(?<!pooler)\.output\.dense\. -> .mlp.fc2.
\.mlp\.(?:weights_in|w12)\. -> .mlp.fc1.
\.mlp\.(?:weights_out|down_proj|w3)\. -> .mlp.fc2.
\.layer_scale([12])\.lambda1$ -> .ls\1.gamma
\.(?:gamma|lambda)_([12])$ -> .ls\1.gamma
^(?:layernorm|post_layernorm)\. -> norm.
# spelled so
^pre_laye?rnorm\. -> norm_pre.
^pooler\.layernorm\. -> fc_norm.
^classifier\. -> head.
# DINOv2, DINOv3, EVA-02, DeiT
# chunks
^blocks\.\d+\.(\d+)\. -> blocks.\1.
^(?:register_tokens|storage_tokens)$ -> reg_token
^distillation_token$ -> dist_token
\.mlp\.(?:w1|gate_proj|fc1_g)\. -> .mlp.gate.
\.mlp\.(?:w2|up_proj|fc1_x)\. -> .mlp.up.
\.attn\.([qkv])_proj\. -> .attn.\1.
\.attn\.([qv])_bias$ -> .attn.\1.bias
\.attn\.inner_attn_ln\. -> .attn.norm.
\.mlp\.ffn_ln\. -> .mlp.norm.
# CLIP, torchvision, MMPretrain
^(?:class_embedding|class_token)$ -> cls_token
^(?:positional_embedding|encoder\.pos_embedding)$ -> pos_embed
^(?:conv1|conv_proj|patch_embed\.projection)\. -> patch_embed.proj.
# MMSegmentation
\.attn\.attn\. -> .attn.
^(?:transformer\.resblocks\.|encoder\.layers\.encoder_layer_)(\d+)\. -> blocks.\1.
\.ln_?([12])\. -> .norm\1.
\.ls_([12])\. -> .ls\1.
\.(?:attn|self_attention)\.in_proj_ -> .attn.qkv.
\.(?:attn|self_attention)\.out_proj\. -> .attn.proj.
\.(?:mlp\.(?:c_fc|0|linear_1)|ffn\.layers\.0\.0)\. -> .mlp.fc1.
\.(?:mlp\.(?:c_proj|3|linear_2)|ffn\.layers\.1)\. -> .mlp.fc2.
^ln_pre\. -> norm_pre.
^(?:ln_post|encoder\.ln|ln1)\. -> norm.
# MMPretrain's out_type avg_featmap
^ln2\. -> fc_norm.
\.(?:attn|ffn)\.gamma([12])\.weight$ -> .ls\1.gamma
^heads\. -> head.
# MONAI
^patch_embedding\.position_embeddings$ -> pos_embed
^patch_embedding\.patch_embeddings\.(?=weight|bias) -> patch_embed.proj.
\.mlp\.linear([12])\. -> .mlp.fc\1.
# EVA-02's angles, once more in each block
^blocks\.(\d+)\.attn\.(rope\.freqs_\w+)$ -> /\2.\1
# kept by MONAI, and computed without
^patch_embedding\.(cls_token)$|^(classification_head\..*) -> /\1\2
^(blocks\.\d+\.)((?:norm_)?cross_attn\.) -> /\2\1
"""
LAYOUTS = r"""  names before RENAME -> the model type that has them, where no config.json says it
^visual\.|^text\.|logit_scale$ -> timm_clip
^attn_pool\. -> timm_siglip
^embeddings\.position_embeddings$ -> ijepa
^embeddings\.cls_token$ -> vit
^embeddings\.distillation_token$ -> deit
^/decoder\.decoder_embed\. -> vit_mae
\.lambda1$ -> dinov2
^(model\.)?layer\.\d -> dinov3_vit
^embeddings\.patch_embedding\. -> siglip
^embeddings\.class_embedding$ -> clip
^class_embedding$ -> open_clip
^encoder\.pos_embedding$ -> torchvision
^patch_embedding\. -> monai
^rope_embed\.periods$ -> dinov3
"""
JOINED = {".attn.qkv.": (".attn.q.", ".attn.k.", ".attn.v."), ".mlp.fc1.": (".mlp.gate.", ".mlp.up.")}


def find_vit(tensors):
    """-> the same tensors with their ViT's names freed of their prefix, and BESIDE before all others."""
    kernels = {}                                                   # prefix: name of the kernel
    for key in tensors:
        kernel = KERNEL.match(key)
        if kernel and (kernel[2] != "conv1" or f"{kernel[1]}class_embedding" in tensors):
            kernels[kernel[1]] = key
    for worse, better in rules(BETTER):
        kept = {prefix: key for prefix, key in kernels.items() if re.search(rf"\b{better}\.", prefix)}
        if kept and re.search(rf"\b{worse}\.", " ".join(kernels)):
            kernels = kept
    if len(kernels) > 1:
        raise ValueError(f"holds more than one ViT: {' and '.join(list(kernels.values())[:2])}; "
                         "save the one to start from in a file of its own")
    prefix = "".join(kernels)
    strays = "encoder.layer.0.layernorm_before.bias" in tensors    # MSN's blocks of transformers 5.24
    renamed = {}
    for key, tensor in tensors.items():
        inside = key.startswith(prefix)
        if strays and key.startswith("encoder.layer."):
            inside = True
        renamed[key.removeprefix(prefix) if inside else BESIDE + key] = tensor
    return renamed


def timm_names(tensors):
    """{key: tensor} in any accepted layout -> the same under timm's names, and the model type of LAYOUTS, ""
    for timm's own.

    ValueError, naming both, where two tensors would be one parameter."""
    plain = find_vit(tensors)
    refuse_llama(plain)
    layout = ""
    for pattern, known in rules(LAYOUTS):
        if any(re.search(pattern, key) for key in (*tensors, *plain)):
            layout = known
    renamed = {}
    sources = {}
    replacements = rules(RENAME)
    for source, tensor in plain.items():
        key = source
        if not key.startswith(BESIDE):
            for pattern, replacement in replacements:
                key = re.sub(pattern, replacement, key)
        place = final_name(key)
        if place in sources:
            raise ValueError(f"{sources[place]} and {source} are both its {place}; keep one of them")
        sources[place] = source
        if key in ("cls_token", "dist_token", "reg_token", "pos_embed"):
            tensor = tensor.reshape(1, -1, tensor.shape[-1])       # (D,) or (T, D) in CLIP
        renamed[key] = tensor
    mask_key_bias(renamed)
    for whole, parts in JOINED.items():
        join(renamed, whole, parts)
    renamed = {key.replace(".mlp.up.", ".mlp.fc1."): tensor for key, tensor in renamed.items()}      # no gate
    return renamed, layout


def final_name(key):
    """The name in the model of dist_token and fc_norm, which keep their own until find_pool has seen them."""
    return re.sub(r"^dist_token$", "reg_token", re.sub(r"^fc_norm\.", "norm.", key))


def refuse_llama(tensors):
    """w1, w2, w3 are gate, up and down in DINOv2 and DINOv3, but gate, down and up in LLaMA."""
    for key, w2 in tensors.items():
        if not key.endswith(".mlp.w2.weight"):
            continue
        w1 = tensors.get(key.replace(".w2.", ".w1."), w2)
        if w1.shape != w2.shape or len(set(w2.shape)) == 1:        # or a square, which tells nothing
            raise ValueError(
                f"{key} {tuple(w2.shape)} may be the last layer of its MLP, as in LLaMA, or an inner "
                "one, as in DINOv3; name them gate_proj, up_proj and, the last, down_proj")


def mask_key_bias(tensors):
    """DINOv3 keeps a bias of k that its mask takes away; the mask may hold NaN there."""
    for key in list(tensors):
        if key.endswith(".attn.qkv.bias_mask"):
            mask = tensors.pop(key)
            bias = key.removesuffix("_mask")
            tensors[bias] = torch.where(mask == 1, tensors[bias], 0)


def join(tensors, whole, parts):
    """Replace tensors that are stored apart, as q, k and v, by one, row under row. A bias that one of them
    lacks (k of BEiT, EVA and DINOv3) is 0; where another is absent, load_weights says so. ValueError where
    the one is there too."""
    for key in [key for key in tensors if parts[0] in key]:
        keys = [key.replace(parts[0], part) for part in parts]
        if key.endswith(".bias"):
            for part in keys:
                tensors.setdefault(part, torch.zeros_like(tensors[key]))
        if tensors.keys() >= set(keys):
            joined = key.replace(parts[0], whole)
            if joined in tensors:
                raise ValueError(f"{key} and {joined} are both its {joined}; keep one of them")
            tensors[joined] = torch.cat([tensors.pop(part) for part in keys])


def crossvit_names(tensors, tasks=()):
    """IBM's names, or timm's with their pos_embed_0, -> ours; the one head that they have becomes that of the
    task, if there is one."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^.*?(?=(pos_embed|cls_token|patch_embed|blocks|norm|head)[._])", "", key, count=1)
        key = re.sub(r"^(pos_embed|cls_token)_(?=[01]$)", r"\1.", key)
        if tasks and len(tasks) == 1:
            key = re.sub(r"^(head\.[01]\.)(?=(weight|bias)$)", rf"\g<1>{next(iter(tasks))}.", key)
        renamed[key] = tensor
    return renamed
