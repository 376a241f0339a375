"""What the tensors of a ViT do not show, by its architecture (timm) or model type (transformers): activation,
eps, heads, rotary positions; and which ViTs have a structure that is not here.

A wrong guess of any of these gives other tokens without an error, so it is decided before a file is loaded.
The first pattern that fits counts, table by table. `rules` and `look_up` read such tables, also those that
stand in other files.
"""
import re

EVA02 = {"theta": 1e4, "reference": [16, 16]}
PE = {"theta": 1e4, "offset": 1.0, "columns_first": True}
ROTARY = (  # fields of variants.Rotary
    (r"^eva02_", EVA02),
    (r"^eva_?x_", {**EVA02, "reference": [14, 14]}),
    (r"_rope_reg\d", EVA02),
    (r"_pe_core_\w+_224", {**PE, "reference": [14, 14]}),
    (r"_pe_core_\w+_3(36|84)", {**PE, "reference": [24, 24]}),
    (r"_pe_(core|lang|spatial)_", {**PE, "reference": [32, 32]}),
    (r"_rope(_ape)?_\d", {"theta": 100.0, "columns_first": True}),
    (r"dinov3|_lingbot", {"theta": 100.0, "centered": True, "halves": True}),
)
EPS = (
    (r"^vit_.*_clip_|dinov3|_lingbot|_pe_(core|lang|spatial)_|^beit3_|^open_clip|^monai$", 1e-5),
    (r"clip\w*_vision|^clip|^owlv|^git|^blip_v", 1e-5),            # transformers
    (r"^(vit|deit|vit_mae|ijepa|beit|data2vec-vision)$", 1e-12),   # likewise; google/vit was trained so
)
ACTIVATION = (
    (r"_quickgelu|clip\w*_vision|^clip|^owlv|^git", "quick_gelu"),
    (r"_patch32_siglip|_giantopt_|_large_patch16_siglip_(gap_)?512|_so400m_patch16_siglip_|^siglip",
     "gelu_tanh"),
)
ACTIVATIONS = (  # what others call them: the names in variants.ACTIVATIONS
    (r"^quick_?gelu$", "quick_gelu"),
    (r"^gelu_(tanh|new|accurate|fast|pytorch_tanh)$", "gelu_tanh"),
    (r"^gelu(_python)?$", "gelu"),
)
HEADS = (  # of a ViT whose heads are not 64 wide
    (r"_giantopt_|_pe_[a-z]+_gigantic_|_base_patch16_gap_224", 16),
    (r"_huge_plus_patch16_dinov3", 20),
)
HEADS_BY_WIDTH = {64: 2, 96: 3, 1152: 16, 1280: 16, 1408: 16, 1664: 16, 4096: 32}  # others: D / 64
KNOWN = (  # architectures and model types whose blocks are known; those of others are assumed
    r"_patch\d|^(vit$|deit|vit_m(ae|sn)|ijepa|beit|dinov[23]|dpt|radio|tipsv2|torchvision|monai|intern|owlv|"
    r"(open_|meta|chinese_|alt)?clip|siglip|(instruct)?blip|git|flava|kosmos|idefics|smolvlm|janus)")
NO_FINAL_NORM = r"radio|intern300m|^internvl|_pe_(lang|spatial)_"  # others have lost it
ABSENT = r"""  what is not here, by architecture or model type: pattern -> reason
^eva02_enormous -> norms after attention and MLP instead of before (post-norm)
_rpn_ -> norms after attention and MLP instead of before (post-norm)
aimv2 -> RMS norms and Linear layers without bias
_rope_mixed -> rotary positions that are learned
naflex|^siglip2 -> patches of images of any shape (NaFlex)
sapiens2 -> queries that share keys (grouped-query attention)
^(vit_d\w+_patch16_reg1) -> differential attention
_s?relpos_ -> relative positions in its attention
^cosmos -> patches by a Linear layer
^mllama|^pixtral|^mlcd|^ovis|^groupvit|^vilt|^phi4 -> blocks or tokens of its own
^samvit|^sam -> relative positions and windows in its attention (SAM)
swin -> windows that shift and patches that merge (Swin)
^vitdet -> relative positions or windows in its attention
^crossvit -> two ViTs in one, which --model crossvit reads
^yolos|^eomt -> tokens that detect objects (YOLOS, EoMT)
^(rf_detr|lw_detr) -> windows in its attention (RF-DETR)
^paddleocr -> a table of positions and rotary ones besides (PaddleOCR)
^pixio -> several class tokens (Pixio)
^(audio|clap) -> spectrograms as its images
^vitpose -> positions to which that of a class token is added (ViTPose)
^(videomae|videoprism|timesformer|vivit|vjepa|xclip) -> attention over the frames of a video
_resnet|_r\d+_s|hybrid -> a ResNet before its patches (hybrid)
xcit|cait|volo|mvit|pvt|twins|levit|coat|maxvit|hiera|convnext|resnet|efficientnet -> no plain ViT in it
"""
TRACES = r"""  the same, by the renamed tensors: pattern -> reason
\.lora_[AB]\b|\.base_layer\. -> adapters (LoRA ...), to be merged into its model first (merge_and_unload)
\.linear_[ab]_ -> adapters (LoRA ...), to be merged into its model first, by the code that made them
\.parametrizations\. -> weights that are computed from others (parametrizations), to be removed first
\.(qweight|SCB|absmax|weight_scale(_inv)?)$ -> quantized weights, which its own library turns into numbers
^pos_embed[._]1$ -> two ViTs in one, which --model crossvit reads
^(layers|blocks)\.?\d+\.(0\.)?(blocks|downsample)\. -> patches that merge from stage to stage (Swin)
^[^:]*relative_position|\.rel_pos_ -> relative positions in its attention (BEiT, SAM)
^time_embed|\.temporal_|^pos_embed_(spatial|temporal) -> positions or attention of their own in time or depth
^((module|model|backbone|encoder|visual)\.)?(bn1|layer1|features)\. -> convolutions, as a ResNet
\bto_patch_embedding\. -> patches by a Linear layer between norms (vit-pytorch)
\bpatch_generator\.embedder\. -> patches by a Linear layer (RADIO)
\.(attns|ffns)\.\d+\. -> several attentions side by side (parallel ViT)
^patch_embed\.(backbone|conv|stem|norm)|^stem\. -> a convolutional stem or a norm in its patch embedding
^patch_embed\.proj\.\d+\. -> a convolutional stem or a norm in its patch embedding
\.lambda_[qk]\d$ -> differential attention
\.in_proj\.|\.attn_out_proj\. -> attention and MLP side by side
^rope\.freqs$ -> rotary positions that are learned
\.attn\.gate\.|\.attn\.talking_head -> gates in its attention
^config\.json: (num_windows|window_block|block_fn|attn_layer) -> blocks of its own
^config\.json: (use_rot_pos_emb|rope_(type|grid_|rotate_|rescale_|mrope_)) -> rotary positions of its own
^config\.json: use_post_norm -> norms after attention and MLP instead of before (post-norm)
^config\.json: pool_include_prefix -> a mean of all tokens as what is read
^patch_embedding\.patch_embeddings\.1 -> patches by a Linear layer, whose pixels have no known order (MONAI)
"""


def rules(table):
    """The lines "pattern -> text" of a table -> [[pattern, text]]."""
    return [line.split(" -> ") for line in table.splitlines()[1:] if " -> " in line]


def look_up(table, kind):
    """-> what the first pattern that is in `kind` says, None if there is none."""
    for pattern, value in table:
        if re.search(pattern, kind):
            return value
    return None


def refuse_absent(kind, config, tensors):
    """ValueError, with the reason, for a ViT that this code cannot reproduce."""
    reason = look_up(rules(ABSENT), kind)
    present = [key for key in tensors if not key.startswith("/")]
    present += [f"config.json: {field}" for field, value in config.items() if value is not None]
    for pattern, text in rules(TRACES):
        for key in present:
            if not reason and re.search(pattern, key):
                reason = f"{text}: {key}"
    if reason:
        raise ValueError(f"{kind or 'this ViT'} has {reason}; that is not supported here")
