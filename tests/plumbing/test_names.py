"""plumbing/names.py: whoever wrote the file, its names become timm's."""
import re

import pytest
import torch

from plumbing.checkpoints import FILES
from plumbing.families import ACTIVATION, HEADS, HEADS_BY_WIDTH, look_up
from plumbing.names import timm_names
from tests.plumbing.small_checkpoints import LAYOUTS, hf, hf_names, images, prefixed, refusal, tiny, write
from tests.test_vit import plain_vit
from vit import ViT


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


SIZES = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=32, patch_size=8)
TEXT = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40, vocab_size=50)
PEERS = {  # model of transformers: its config, what the config says besides, where the ViT is in it
    "ViTForImageClassification": ("ViTConfig", {}, "vit"),
    "ViTModel": ("ViTConfig", {"hidden_act": "gelu_new"}, ""),
    "DeiTModel": ("DeiTConfig", {}, ""),
    "ViTMSNModel": ("ViTMSNConfig", {}, ""),
    "ViTMSNForImageClassification": ("ViTMSNConfig", {}, "vit"),
    "Dinov2Model": ("Dinov2Config", {"use_swiglu_ffn": True}, ""),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {}, ""),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {"num_register_tokens": 4}, ""),
    "IJepaModel": ("IJepaConfig", {}, ""),
    "CLIPVisionModel": ("CLIPVisionConfig", {}, ""),
    "CLIPModel": ("CLIPConfig", {"vision_config": SIZES, "text_config": TEXT}, "vision_model"),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {"hidden_act": "gelu"}, "vision_model"),
    "OwlViTModel": ("OwlViTConfig", {"vision_config": SIZES, "text_config": TEXT}, "vision_model"),
    "BlipVisionModel": ("BlipVisionConfig", {}, ""),
    "Blip2VisionModel": ("Blip2VisionConfig", {}, ""),
    "InternVLVisionModel": ("InternVLVisionConfig", {}, ""),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", {}, "deit"),
    "Dinov2ForImageClassification": ("Dinov2Config", {}, "dinov2"),
    "DPTForDepthEstimation": ("DPTConfig", {"is_hybrid": False, "backbone_out_indices": [0, 0, 1, 1], "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}, "dpt"),
    "LlavaForConditionalGeneration": ("LlavaConfig", {"vision_config": {**SIZES, "model_type": "clip_vision_model"}, "text_config": {
        **TEXT, "model_type": "llama", "num_key_value_heads": 3}}, "model.vision_tower"),
    "SiglipVisionModel": ("SiglipVisionConfig", {}, ""),
    "SiglipModel": ("SiglipConfig", {"vision_config": SIZES, "text_config": TEXT}, "vision_model"),
    "BeitModel": ("BeitConfig", {"use_absolute_position_embeddings": True}, ""),
}


@torch.no_grad()
@pytest.mark.parametrize("name", PEERS)
def test_real_transformers_models_give_the_same_tokens(name, tmp_path):
    """Where transformers is installed: what its save_pretrained writes, against its own forward."""
    family, fields, part = PEERS[name]
    theirs = saved_by_transformers(tmp_path, name, family, fields)
    vit = theirs.get_submodule(part)
    vit = getattr(vit, "vision_model", vit)
    expected = vit(images().float()).last_hidden_state
    if name.startswith(("CLIP", "Owl", "Llava")):                  # its last norm is a part of the pooler, as BEiT's
        expected = vit.post_layernorm(expected)
    if "Beit" in name:
        expected = vit.pooler.layernorm(expected)
    ours = ViT.from_pretrained(str(tmp_path)).eval()
    assert torch.allclose(ours.encode(ours.embed(images().float())), expected, atol=1e-4)


STRANGERS = {  # model of transformers: its config, what the config says besides, why it is refused
    "Siglip2VisionModel": ("Siglip2VisionConfig", {"num_patches": 16}, "siglip2_vision_model has patches of images of any shape (NaFlex)"),
    "Aimv2VisionModel": ("Aimv2VisionConfig", {}, "aimv2_vision_model has RMS norms and Linear layers without bias"),
    "BeitModel": ("BeitConfig", {"use_relative_position_bias": True}, "beit has relative positions in its attention (BEiT, SAM): "),
    "Data2VecVisionModel": ("Data2VecVisionConfig", {"use_relative_position_bias": True}, "data2vec-vision has relative positions in its attention (BEiT, SAM): "),
    "BeitForMaskedImageModeling": ("BeitConfig", {"use_absolute_position_embeddings": True, "vocab_size": 9}, "holds no norm after the last block of its ViT"),
    "YolosModel": ("YolosConfig", {"image_size": [32, 32], "num_detection_tokens": 5}, "yolos has tokens that detect objects"),
    "VitPoseBackbone": ("VitPoseBackboneConfig", {"image_size": [32, 32], "patch_size": [8, 8]}, "vitpose_backbone has positions to which"),
    "VivitModel": ("VivitConfig", {"num_frames": 4, "tubelet_size": [2, 8, 8]}, "vivit has attention over the frames of a video"),
    "ViTModel": ("ViTConfig", {"hidden_act": "relu"}, "activation 'relu', need gelu, "),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_transformers_saves_and_is_not_here_is_refused_for_its_reason(name, tmp_path):
    family, fields, words = STRANGERS[name]
    saved_by_transformers(tmp_path, name, family, fields)
    assert words in refusal(ViT.from_pretrained, str(tmp_path))


def saved_by_transformers(folder, name, family, fields):
    """A small random model of transformers -> itself, saved in the folder; skips where transformers is not installed."""
    transformers = pytest.importorskip("transformers")
    sizes = {} if "vision_config" in fields else SIZES
    model = getattr(transformers, name)(getattr(transformers, family)(**{**sizes, **fields})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(str(folder))
    return model


@torch.no_grad()
@pytest.mark.parametrize("kind", ("vit", "deit", "dinov2"))
def test_a_vit_inside_two_models_of_transformers(kind, tmp_path):
    """VisionEncoderDecoder and VisionTextDualEncoder: the encoder's part of their config.json decides."""
    transformers = pytest.importorskip("transformers")
    vision = {"vit": "ViTConfig", "deit": "DeiTConfig", "dinov2": "Dinov2Config"}[kind]
    vision, bert = getattr(transformers, vision)(**SIZES), transformers.BertConfig(**TEXT)
    decoder = transformers.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    both = {"encoder": transformers.VisionEncoderDecoderModel(transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, decoder)),
            "vision_model": transformers.VisionTextDualEncoderModel(transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, bert))}
    for part, model in both.items():
        model.save_pretrained(str(tmp_path / part))
        expected = getattr(model.eval(), part)(images().float()).last_hidden_state
        ours = ViT.from_pretrained(str(tmp_path / part)).eval()
        assert torch.allclose(ours.encode(ours.embed(images().float())), expected, atol=1e-4)


def test_names_stay_when_they_are_already_timms():
    """The renaming leaves timm's names alone, and is the same done twice."""
    for t in (tiny(layer_scale=True, registers=2), {**tiny(), "head.norm.weight": torch.ones(2)}):
        once, layout = timm_names(t)
        assert set(once) == set(t) == set(timm_names(once)[0]) and layout == ""


# -----------------------------------------------------------------------------
# other codebases' names, and what they have besides


def clip_names(t, prefix):
    """A ViT with norm_pre under the names of OpenAI's CLIP and open_clip, its patches without bias."""
    rules = (("blocks.", "transformer.resblocks."), ("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "attn.in_proj_"),
             ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("patch_embed.proj", "conv1"))
    named = {}
    for key, tensor in t.items():
        for ours, theirs in rules:
            key = key.replace(ours, theirs)
        key = {"norm_pre.weight": "ln_pre.weight", "norm_pre.bias": "ln_pre.bias", "norm.weight": "ln_post.weight",
               "norm.bias": "ln_post.bias", "cls_token": "class_embedding", "pos_embed": "positional_embedding"}.get(key, key)
        named[prefix + key] = tensor.squeeze(0).squeeze(0) if key == "class_embedding" else tensor
    named[prefix + "positional_embedding"] = t["pos_embed"][0]
    del named[prefix + "conv1.bias"]
    return {**named, prefix + "proj": torch.ones(192, 8), "logit_scale": torch.ones(()), "token_embedding.weight": torch.ones(4, 8)}


def torchvision_names(t):
    rules = (("blocks.", "encoder.layers.encoder_layer_"), ("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv.", "self_attention.in_proj_"),
             ("attn.proj", "self_attention.out_proj"), ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.3"), ("patch_embed.proj", "conv_proj"))
    named = {}
    for key, tensor in t.items():
        for ours, theirs in rules:
            key = key.replace(ours, theirs)
        key = {"norm.weight": "encoder.ln.weight", "norm.bias": "encoder.ln.bias", "cls_token": "class_token",
               "pos_embed": "encoder.pos_embedding"}.get(key, key)
        named[key] = tensor
    return {**named, "heads.head.weight": torch.ones(5, 192), "heads.head.bias": torch.ones(5)}


def without_key_bias(t):
    """q and v bias apart, as BEiT and EVA have them; that of k was 0."""
    named = {}
    for key, tensor in t.items():
        if key.endswith("attn.qkv.bias"):
            start = key.removesuffix("qkv.bias")
            named[f"{start}q_bias"], _, named[f"{start}v_bias"] = (part.clone() for part in tensor.chunk(3))
        else:
            named[key] = tensor
    return named


def zero_key_bias(t):
    return {key: torch.cat([x[:192], 0 * x[192:384], x[384:]]) if key.endswith("attn.qkv.bias") else x for key, x in t.items()}


PRE = {"norm_pre.weight": torch.linspace(0.5, 1.5, 192), "norm_pre.bias": torch.linspace(-1, 1, 192)}
OTHERS = {  # what is saved; the fields it must give besides; the same under our names
    "open_clip": (lambda t: clip_names({**t, **PRE}, "visual."), {"pre_norm": True, "eps": 1e-5},
                  lambda t: {**t, **PRE, "patch_embed.proj.bias": torch.zeros(192)}),
    "torchvision": (torchvision_names, {}, lambda t: t),
    "MoCo v3": (lambda t: {**prefixed(t, "module.base_encoder."), **prefixed(tiny(idx=1), "module.momentum_encoder."),
                           "module.base_encoder.head.0.weight": torch.ones(4, 192), "module.predictor.0.weight": torch.ones(4, 4)}, {}, lambda t: t),
    "timm in open_clip": (lambda t: {**prefixed(t, "visual.trunk."), "text.token_embedding.weight": torch.ones(4, 8)}, {}, lambda t: t),
    "image tower": (lambda t: {**prefixed(t, "image_encoder."), "text_encoder.x": torch.ones(3)}, {}, lambda t: t),
    "DINOv2 teacher, chunks": (lambda t: {**{f"backbone.{key.replace('blocks.', 'blocks.0.')}": x for key, x in t.items()},
                                          "dino_head.mlp.0.weight": torch.ones(3, 3), "ibot_head.mlp.0.weight": torch.ones(3, 3)}, {}, lambda t: t),
    "q and v bias": (without_key_bias, {}, zero_key_bias),
    "no class token": (lambda t: {**{k: x for k, x in t.items() if k != "cls_token"}, "pos_embed": t["pos_embed"][:, 1:]},
                       {"class_token": False, "positions": "patches", "pool": "mean"},
                       lambda t: {**{k: x for k, x in t.items() if k != "cls_token"}, "pos_embed": t["pos_embed"][:, 1:]}),
    "MSN of transformers 5.24": (lambda t: {key.replace("vit.encoder.", "encoder."): x for key, x in hf_names(t).items()}, {}, lambda t: t),
    "MMPretrain, mean of the patches": (lambda t: {re.sub("^norm", "ln2", key): x for key, x in t.items()}, {"pool": "mean-norm"}, lambda t: t),
    "MMPretrain, layer scale": (lambda t: {**t, **{f"blocks.{i}.{part}.weight": torch.ones(192) for i in (0, 1) for part in ("attn.gamma1", "ffn.gamma2")}},
                                {"layer_scale": True}, lambda t: {**t, **{f"blocks.{i}.ls{k}.gamma": torch.ones(192) for i in (0, 1) for k in (1, 2)}}),
    "a BERT beside": (lambda t: {**hf_names(t), "encoder.layer.0.attention.self.query.weight": torch.ones(3, 3)}, {}, lambda t: t),
    "online and target": (lambda t: {**prefixed(t, "online.encoder."), **prefixed(tiny(idx=1), "target.encoder.")}, {}, lambda t: t),
    "MMSegmentation": (lambda t: {**{"backbone." + re.sub(r"attn\.(qkv\.|proj)", lambda part: {"qkv.": "attn.attn.in_proj_", "proj": "attn.attn.out_proj"}[part[1]], key): x
                                     for key, x in t.items()}, "decode_head.conv_seg.weight": torch.ones(3, 192, 1, 1)}, {}, lambda t: t),
    "ema_pytorch": (lambda t: {**prefixed(t, "ema_model."), **prefixed(tiny(idx=1), "online_model."), "initted": torch.ones(())}, {}, lambda t: t),
    "mean pooling": (lambda t: {re.sub("^norm", "fc_norm", key): x for key, x in t.items()}, {"pool": "mean-norm"}, lambda t: t),
}


@torch.no_grad()
@pytest.mark.parametrize("layout", OTHERS)
def test_names_of_other_codebases(layout, tmp_path):
    """Every tensor comes home, and the fields are those that the layout implies."""
    save, fields, expected = OTHERS[layout]
    t = tiny()
    model = ViT.from_pretrained(write(tmp_path, {key: x.contiguous() for key, x in save(t).items()}, file="model.safetensors"))
    for field, value in fields.items():
        assert getattr(model.config, field) == value
    state, expected = model.state_dict(), expected(t)
    assert set(state) == set(expected) and all(torch.equal(state[key], expected[key]) for key in state)


def test_two_tensors_for_one_place_are_refused(tmp_path):
    """norm and fc_norm, or two ViTs in one file: both names are said."""
    t = tiny()
    twice = write(tmp_path / "1", {**t, "fc_norm.weight": torch.ones(192), "fc_norm.bias": torch.ones(192)})
    assert "fc_norm.bias and norm.bias are both its norm.bias" in refusal(ViT.from_pretrained, twice)
    both = write(tmp_path / "2", {**prefixed(t, "model."), **prefixed(tiny(idx=1), "backbone.")})
    assert "more than one ViT: backbone.patch_embed.proj.weight and model.patch_embed.proj.weight" in refusal(ViT.from_pretrained, both)


@pytest.mark.parametrize("architecture, words", [
    ("eva02_enormous_patch14_clip_224", "post-norm"), ("vit_base_patch16_rpn_224", "post-norm"), ("aimv2_large_patch14_224", "RMS norms"),
    ("vit_small_patch16_rope_mixed_224", "rotary positions that are learned"), ("swin_tiny_patch4_window7_224", "Swin")])
def test_architectures_that_are_not_here_are_refused_by_name(architecture, words, tmp_path):
    message = refusal(ViT.from_pretrained, write(tmp_path, tiny(), {"architecture": architecture}))
    assert architecture in message and words in message


def test_heads_are_said_to_be_a_guess_and_can_be_given(tmp_path):
    """By the width, by model_args, by the caller; a nested config counts too."""
    path = write(tmp_path / "1", tiny())
    assert "3 heads (a guess from the width 192; --heads decides)" in ViT.from_pretrained(path).report
    given = ViT.from_pretrained(path, heads=6)
    assert given.config.heads == 6 and "guess" not in given.report
    args = write(tmp_path / "2", tiny(), {"architecture": "vit_tiny_patch8_32", "model_args": {"num_heads": 12}})
    widened = write(tmp_path / "4", tiny(), {"architecture": "vit_base_patch16_224", "model_args": {"embed_dim": 192}})
    assert "3 heads (a guess" in ViT.from_pretrained(widened).report               # timm's would be 12, as in every base
    nested = write(tmp_path / "3", prefixed(hf_names(tiny(), prefix=""), "encoder."), {
        "model_type": "vision-encoder-decoder", "encoder": hf(4, layer_norm_eps=1e-3, hidden_act="quick_gelu")})
    assert ViT.from_pretrained(args).config.heads == 12
    assert look_up(HEADS, "vit_huge_plus_patch16_dinov3_qkvb") == 20 and look_up(HEADS, "vit_huge_patch14_clip_224") is None
    assert look_up(HEADS, "vit_base_patch16_gap_224") == look_up(HEADS, "vit_pe_core_gigantic_patch14_448") == HEADS_BY_WIDTH[1664] == 16   # bigG of LAION
    assert look_up(HEADS, "vit_base_patch16_siglip_gap_224") is None and HEADS_BY_WIDTH[4096] == 32                                          # DINOv3 7B
    assert look_up(ACTIVATION, "vit_so400m_patch16_radio_v4") is None and look_up(ACTIVATION, "vit_so400m_patch16_siglip_256") == "gelu_tanh"
    config = ViT.from_pretrained(nested).config
    assert (config.heads, config.eps, config.activation) == (4, 1e-3, "quick_gelu")
