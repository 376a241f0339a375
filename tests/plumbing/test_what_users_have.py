"""Files and folders as they lie on people's disks: the tokens of the ViT that was saved, or one line with the true reason."""
import argparse
import json
import pathlib
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.plumbing.small_checkpoints import CLASSIFIER, DECODER, HEAD, IMAGENET, POOLER, SMALL, halves, hf, hf_names, images, prefixed, refusal, write
from plumbing.preprocessing import OPENAI
from tests.plumbing.test_bare_files import TORCHVISION, clip, other, renamed
from vit import ViT

BESIDE = {"epoch": 7, "args": argparse.Namespace(lr=1e-3, output_dir=pathlib.PosixPath("out")), "best_acc": np.float64(0.5), "optimizer": {"state": {}, "param_groups": []}}
DINOV2 = [("^reg_token", "register_tokens"), (r"^blocks\.", "blocks.0."), ("^", "backbone.")]
DINOV3 = dict(positions="none", registers=4, layer_scale=True, rotary=dict(theta=100.0, centered=True, halves=True), eps=1e-5)
MMPRETRAIN = [(r"^patch_embed\.proj", "patch_embed.projection"), (r"^blocks\.", "layers."), (r"\.norm([12])\.", r".ln\1."), (r"mlp\.fc1", "ffn.layers.0.0"),
              (r"mlp\.fc2", "ffn.layers.1"), (r"^norm", "ln1"), ("^", "backbone.")]


def class_of(module, name):
    """A class as another package has it: a pickle holds no more than its name."""
    parts = module.split(".")
    for i in range(len(parts)):
        sys.modules.setdefault(".".join(parts[:i + 1]), types.ModuleType(module))
    made = type(name, (dict,), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


def pth(content, file="a.pth"):
    return lambda folder, t: torch.save(content(t), folder / file)


def hub_folder(content, config, file="model.safetensors", preprocessor=None):
    return lambda folder, t: write(folder, content(t), config, preprocessor, file=file)


def lightning(folder, t):
    """With hyper_parameters of a class of its own, and the names of callbacks."""
    options = class_of("lightning.fabric.utilities.data", "AttributeDict")(lr=1e-3, path=pathlib.PosixPath("x"))
    content = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.5.0", "hyper_parameters": options, "loops": {}, "callbacks": {"ModelCheckpoint{}": {"best": torch.tensor(1.)}},
               "optimizer_states": [{"state": {0: {"step": torch.tensor(1.)}}}], "state_dict": {**prefixed({**t, **HEAD}, "model."), "criterion.weight": torch.ones(3)}}
    torch.save(content, folder / "last.ckpt")


def trainer(folder, t):
    """checkpoint-500 of transformers' Trainer."""
    write(folder, {**hf_names(t), **CLASSIFIER}, hf(3, layer_norm_eps=1e-6), IMAGENET)
    for file in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(2)}, folder / file)
    (folder / "trainer_state.json").write_text("{}")


def shards(ending):
    def save(folder, t):
        files = [f"{'model' if ending == 'safetensors' else 'pytorch_model'}-0000{i}-of-00002.{ending}" for i in (1, 2)]
        for file, part in zip(files, halves(t)):
            write(folder, part, hf(3), file=file)
        weight_map = {key: file for file, part in zip(files, halves(t)) for key in part}
        index = "model.safetensors.index.json" if ending == "safetensors" else "pytorch_model.bin.index.json"
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return save


def adapter(folder, t):
    names = [f"base_model.model.vit.encoder.layer.0.attention.attention.query.lora_{part}.weight" for part in "AB"]
    safetensors.torch.save_file({name: torch.ones(4, 4) for name in names}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')


def wrapped_by_lora(t):
    return {key.replace("attn.qkv.", "attn.qkv.base_layer."): tensor for key, tensor in t.items()} | {"blocks.0.attn.qkv.lora_A.default.weight": torch.ones(4, 192)}


def script(folder, t):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "a.pt")


def bits(tensor_type):
    return lambda t: {key: tensor.to(tensor_type) for key, tensor in t.items()}


def history(t):
    """A checkpoint of MMEngine: a history of the loss, and averaged weights in the place of the others."""
    buffer = type("HistoryBuffer", (), {"__module__": "mmengine.logging.history_buffer"})
    class_of("mmengine.logging.history_buffer", "HistoryBuffer")
    sys.modules["mmengine.logging.history_buffer"].HistoryBuffer = buffer
    losses = buffer()
    losses.values = np.ones(3)
    return {"meta": {}, "message_hub": {"log_scalars": {"loss": losses}}, "state_dict": renamed(t, MMPRETRAIN), "ema_state_dict": {
        "steps": torch.tensor(3), **prefixed(renamed(other(t), MMPRETRAIN), "module.")}}


def clip_of_transformers(t):
    """Two towers, as version 4 wrote them: with the numbers of the positions, which were a buffer."""
    t["patch_embed.proj.bias"].zero_()
    result = {}
    for key, tensor in t.items():
        for name, part in zip("qkv", tensor.chunk(3)):
            result[key.replace("attn.qkv", f"self_attn.{name}_proj")] = part if "qkv" in key else tensor
    del result["patch_embed.proj.bias"]
    result = renamed(result, [(r"attn\.proj", "self_attn.out_proj"), ("^cls_token", "embeddings.class_embedding"), ("^pos_embed", "embeddings.position_embedding.weight"), ("^norm_pre", "pre_layrnorm"),
                              ("^patch_embed.proj", "embeddings.patch_embedding"), ("^norm", "post_layernorm"), (r"^blocks\.", "encoder.layers."), (r"\.norm([12])", r".layer_norm\1"), ("^", "vision_model.")])
    result["vision_model.embeddings.class_embedding"] = result["vision_model.embeddings.class_embedding"].flatten()
    result["vision_model.embeddings.position_embedding.weight"] = result["vision_model.embeddings.position_embedding.weight"][0]
    return {**result, "vision_model.embeddings.position_ids": torch.arange(17)[None], "text_model.final_layer_norm.weight": torch.ones(5), "logit_scale": torch.ones(())}


def open_clip(names, vision):
    def save(folder, t):
        torch.save(names(t), folder / "open_clip_pytorch_model.bin")
        config = {"model_cfg": {"vision_cfg": {"image_size": 32, "patch_size": 8, **vision}}, "preprocess_cfg": {field: list(numbers) for field, numbers in OPENAI.items()}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    return save


def configured(t):
    """A config of yacs beside the weights, as SimMIM keeps it: a dict with attributes of its own."""
    node = class_of("yacs.config", "CfgNode")
    config = node(DATA=node(IMG_SIZE=32))
    config.__dict__["__immutable__"] = True
    return {"model": t, "config": config}


def apart(t):
    """q, k and v apart, as DINOv3 of transformers keeps them."""
    result = {}
    for key, tensor in t.items():
        parts = {"q": tensor[:192], "k": tensor[192:384], "v": tensor[384:]} if "attn.qkv" in key else {"": tensor}
        result.update({key.replace("attn.qkv", f"attention.{name}_proj"): part for name, part in parts.items()})
    return result


def wrapped(t):
    """Blocks that were compiled, checkpointed or sharded one by one."""
    return renamed(t, [(r"^blocks\.0\.", "blocks.0._orig_mod."), (r"^blocks\.1\.", "blocks.1._fsdp_wrapped_module._checkpoint_wrapped_module."), ("^", "_fsdp_wrapped_module.")])


def empty_file(file):
    return lambda folder, t: (folder / file).write_bytes(b"")


def cache_of_the_hub(folder, t):
    (folder / "snapshots").mkdir()
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "0123")


def small_integers(names):
    return lambda t: {**{key: tensor for key, tensor in t.items() if "fc1.weight" not in key}, **{f"blocks.0.mlp.fc1.{name}": torch.ones(3, dtype=torch.int32) for name in names}}


TIMM = {"architecture": "vit_tiny_patch8_32", "pretrained_cfg": {"mean": list(IMAGENET["image_mean"]), "std": list(IMAGENET["image_std"])}}
PE_SPATIAL = dict(final_norm=False, eps=1e-5, rotary=dict(theta=1e4, reference=[32, 32], offset=1.0, columns_first=True))
GATED = dict(activation="swiglu", rotary=dict(theta=1e4, reference=[14, 14]))
V2, SCALED = {"layer_scale": True, "registers": 4}, {"layer_scale": True}
DINOV3_NAMES = [("^cls_token", "embeddings.cls_token"), ("^reg_token", "embeddings.register_tokens"), (r"^patch_embed\.proj", "embeddings.patch_embeddings"), (r"^blocks\.", "layer."),
                (r"attn\.proj", "attention.o_proj"), (r"mlp\.fc1", "mlp.up_proj"), (r"mlp\.fc2", "mlp.down_proj"), (r"ls([12])\.gamma", r"layer_scale\1.lambda1")]
KINDS = {  # fields of the ViT; how it is saved in a folder; the refusal, or how exactly the tokens are those of the ViT
    "timm, fine-tuned": ({}, pth(lambda t: {"model": {**t, **HEAD}, "lr_scheduler": {"last_epoch": 7}, "scaler": {"scale": 2.0}, **BESIDE}), 2e-5),
    "timm's train.py": ({}, pth(lambda t: {"arch": "vit", "version": 2, "state_dict": other(t), "state_dict_ema": t, "metric": 77.0, **BESIDE}, "model_best.pth.tar"), 2e-5),
    "Lightning": ({}, lightning, 2e-5),
    "DINOv2, training": (V2, pth(lambda t: {"teacher": {**renamed(t, DINOV2), "dino_head.last_layer.weight_g": torch.ones(3, 1)}}, "teacher_checkpoint.pth"), 2e-5),
    "iBOT, student": ({}, pth(lambda t: {"state_dict": {**t, "masked_embed": torch.ones(1, 192)}}, "checkpoint_student.pth"), 2e-5),
    "iBOT, training": ({}, pth(lambda t: {"student": {**prefixed(other(t), "module.backbone."), "module.backbone.masked_embed": torch.ones(1, 192)}, "ibot_loss": {"center": torch.ones(3)},
                                          "teacher": {**prefixed(t, "backbone."), "head.mlp.0.weight": torch.ones(3, 192)}, "fp16_scaler": None, **BESIDE}), 2e-5),
    "DINOv3, original": (DINOV3, pth(lambda t: {**{key.replace("reg_token", "storage_tokens"): x for key, x in t.items()}, "mask_token": torch.ones(1, 192), "rope_embed.periods": 100 ** (torch.arange(16) / 16)}), 2e-5),
    "torchvision": ({}, pth(lambda t: {**renamed(t, TORCHVISION), "heads.head.weight": torch.ones(10, 192)}, "vit_b_16-c867db91.pth"), 2e-5),
    "transformers' Trainer": ({}, trainer, 2e-5),
    "distributed, backbone": ({}, pth(lambda t: {"state_dict": {**prefixed(t, "module.backbone."), "module.fc.weight": torch.ones(2, 192)}}), 2e-5),
    "MAE, with its decoder": ({}, pth(lambda t: {"model": {**t, **DECODER}, **BESIDE}, "mae_pretrain_vit_full.pth"), 2e-5),
    "lightly, two ViTs": ({}, pth(lambda t: {"state_dict": {**prefixed(other(t), "student_backbone.vit."), **prefixed(t, "teacher_backbone.vit.")}}), 2e-5),
    "MMPretrain": ({}, pth(lambda t: {"meta": {"epoch": 3}, "state_dict": {**renamed(t, MMPRETRAIN), "head.layers.head.weight": torch.ones(4, 192)}}), 2e-5),
    "DeepSpeed": ({}, pth(lambda t: {"module": t, "ds_version": "0.14", "dtype": torch.float16}, "mp_rank_00_model_states.pt"), 2e-5), "named state_dict": ({}, pth(lambda t: t, "vit_state_dict.pth"), 2e-5),
    "head of 1,000 classes": ({}, hub_folder(lambda t: {**t, "head.weight": torch.ones(1000, 192)}, {"architecture": "vit_tiny_patch16_224", "num_classes": 1000}), 2e-5),
    "float16": ({}, hub_folder(bits(torch.float16), {}), 0.1), "bfloat16": ({}, hub_folder(bits(torch.bfloat16), {}), 0.5),
    "shards": ({}, shards("safetensors"), 2e-5), "shards of pickles": ({}, shards("bin"), 2e-5),
    "pooler, bare": ({}, pth(lambda t: {**hf_names(t, prefix=""), **POOLER}), 2e-5),
    "LoRA adapter": ({}, adapter, "adapters (LoRA ...), to be merged into its model first (merge_and_unload): base_model.model.vit"),
    "LoRA around a ViT": ({}, pth(wrapped_by_lora), "adapters (LoRA ...), to be merged into its model first (merge_and_unload): blocks.0"),
    "TorchScript": ({}, script, "a TorchScript archive, which is a program with its weights"),
    "git-lfs pointer": ({}, lambda folder, t: (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "a git-lfs pointer"),
    "numpy archive": ({}, lambda folder, t: np.savez(folder / "B_16.npz", a=np.ones(3)), "holds no weight file (.safetensors, .bin, .pt, .pth, .ckpt, .tar); files there: 'B_16.npz'"),
    "whole module": ({}, lambda folder, t: torch.save({"model": torch.nn.Linear(2, 2)}, folder / "a.pt"), "asks to run torch.nn.modules.linear.Linear"),
    "arrays of numpy": ({}, pth(lambda t: {key: x.numpy() for key, x in t.items()}), "holds no tensors by name, but a dict 'cls_token"),
    "MMEngine, averaged": ({}, pth(history, "epoch_10.pth"), 2e-5),
    "averages below ema": ({}, pth(lambda t: {"model": other(t), "ema": {"decay": 0.99, "shadow": t}}), 2e-5),
    "Lightning, ema_model": ({}, pth(lambda t: {"state_dict": {**prefixed(other(t), "model."), **prefixed(t, "ema_model.module."), "ema_model.n_averaged": torch.tensor(3)}}), 2e-5),
    "solo-learn": ({}, pth(lambda t: {"state_dict": {**prefixed(t, "backbone."), **prefixed(other(t), "momentum_backbone.")}}), 2e-5),
    "lightly, MoCo": ({}, pth(lambda t: {"state_dict": {**prefixed(t, "backbone.vit."), **prefixed(other(t), "backbone_momentum.vit.")}}), 2e-5),
    "MoCo": ({}, pth(lambda t: {"state_dict": {**prefixed(t, "module.encoder_q."), **prefixed(other(t), "module.encoder_k."), "module.queue": torch.ones(3)}}), 2e-5),
    **{f"{worse} beside {better}": ({}, pth(lambda t, worse=worse, better=better: {"state_dict": {**prefixed(other(t), worse + "."), **prefixed(t, better + ".")}}), 2e-5)
       for worse, better in (("context_encoder", "target_encoder"), ("target_network.net", "online_network.net"), ("momentum_encoder", "encoder"), ("key_encoder", "query_encoder"),
                             ("visual_encoder_m", "visual_encoder"))},
    "VISSL": ({}, pth(lambda t: {"classy_state_dict": {"base_model": {"model": {"trunk": t, "heads": {}}}}}), 2e-5),
    "a wrapper of any name": ({}, pth(lambda t: {"network": t, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}), 2e-5),
    "wrapped blocks": ({}, pth(wrapped), 2e-5),
    "CLIP of transformers 4": ({"pre_norm": True, "eps": 1e-5, "activation": "quick_gelu"}, pth(clip_of_transformers), 2e-5),
    "CLIP beside a language model, its defaults left out": ({"pre_norm": True, "eps": 1e-5, "activation": "quick_gelu"}, hub_folder(clip_of_transformers, {
        "model_type": "llava", "hidden_size": 2048, "num_attention_heads": 32, "hidden_act": "silu", "vision_config": {"model_type": "clip_vision_model"}}, "a.pth"), 2e-5),
    "CLIP of open_clip, pooled by the mean": ({"pool": "mean-norm", "eps": 1e-5}, open_clip(clip, {"width": 192, "pool_type": "avg", "final_ln_after_pool": True}), 2e-5),
    "CLIP of open_clip, with its own GELU and eps": ({"pre_norm": True, "eps": 1e-3, "activation": "gelu_tanh", **SCALED}, open_clip(
        lambda t: renamed(clip(t), [(r"\.ls([12])\.", r".ls_\1.")]), {"width": 192, "act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}}), 2e-5),
    "CLIP around a ViT of timm, pooled by the mean": ({"pool": "mean"}, open_clip(lambda t: prefixed(t, "visual.trunk."), {"timm_model_name": "vit_tiny_patch8_32", "timm_pool": "avg"}), 2e-5),
    "CLIP around another ViT": (SCALED, open_clip(lambda t: prefixed(t, "visual."), {}), 2e-5),
    "EVA-02 with another grid": (GATED, hub_folder(lambda t: t, {**TIMM, "architecture": "eva02_small_patch14_224", "model_args": {"ref_feat_shape": [14, 14]}}), 2e-5),
    "PE, whose ViT ends without a norm": (PE_SPATIAL, hub_folder(lambda t: t, {**TIMM, "architecture": "vit_pe_spatial_small_patch16_512"}), 2e-5),
    "norm outside its ViT": ({}, pth(lambda t: {key if key.startswith("norm") else "vit." + key: tensor for key, tensor in t.items()}), "holds no norm after the last block of its ViT"),
    "ZeRO-3": ({}, pth(lambda t: {"module": {key: torch.empty(0) for key in t}}), "its tensors are empty, as where a model was trained in parts (ZeRO-3, FSDP)"),
    "IA3": ({}, pth(lambda t: renamed(t, [("fc1", "fc1.base_layer")])), "adapters (LoRA ...), to be merged into its model first"),
    "GPTQ": ({}, pth(small_integers(["qweight", "scales"])), "quantized weights, which its own library turns into numbers: blocks.0.mlp.fc1.qweight"),
    "bitsandbytes": ({}, pth(small_integers(["weight", "SCB"])), "quantized weights, which its own library turns into numbers: blocks.0.mlp.fc1.SCB"),
    "SwiGLU, named as LLaMA's": (SCALED, pth(lambda t: {**t, "blocks.0.mlp.w1.weight": torch.ones(80, 192), "blocks.0.mlp.w2.weight": torch.ones(192, 80)}), "blocks.0.mlp.w2.weight (192, 80) may be the last layer of its MLP, as in LLaMA"),
    "SwiGLU, a square": (SCALED, pth(lambda t: {**t, **{f"blocks.0.mlp.w{i}.weight": torch.ones(192, 192) for i in (1, 2, 3)}}), "name them gate_proj, up_proj and, the last, down_proj"),
    "PanDerm, training": ({}, pth(lambda t: {"model": {**prefixed(t, "encoder."), **prefixed(other(t), "teacher."), "regresser_and_decoder.mask_token": torch.ones(1, 1, 192)}}), 2e-5),
    "heads and decoders of any name": ({}, pth(lambda t: {**t, **{f"{name}.weight": torch.ones(3, 192) for name in ("mlp_head.0", "seg_head", "conv3d_transpose_1", "local_cls_norm", "bert_mlp", "text_encoder.layer")}}), 2e-5),
    "yacs": ({}, pth(configured), 2e-5),
    "DINOv3 of transformers, bare": (DINOV3, pth(lambda t: renamed(apart(t), DINOV3_NAMES)), 2e-5),
    "vit-pytorch": ({}, pth(lambda t: {"module.to_patch_embedding.1.weight": torch.ones(192), "module.cls_token": torch.ones(1, 1, 192)}), "patches by a Linear layer between norms (vit-pytorch)"),
    "ResNet": ({}, pth(lambda t: {"backbone.conv1.weight": torch.ones(3, 3, 7, 7), "backbone.bn1.weight": torch.ones(3)}), "convolutions, as a ResNet: backbone.bn1.weight"),
    "Swin with convolutions": ({}, pth(lambda t: {"model": {"patch_embed.proj.0.weight": torch.ones(3, 3, 3, 3), "layers.0.blocks.0.attn.relative_position_index": torch.ones(4, 4)}}), "patches that merge from stage to stage (Swin)"),
    "CrossViT": ({}, pth(lambda t: {"pos_embed.0": torch.ones(1, 17, 4), "pos_embed.1": torch.ones(1, 5, 8), "blocks.0.blocks.0.0.norm1.weight": torch.ones(4)}), "two ViTs in one, which --model crossvit reads"),
    "frames": ({}, pth(lambda t: {**t, "time_embed": torch.ones(1, 8, 192)}), "positions or attention of their own in time or depth: time_embed"),
    "slices": ({}, pth(lambda t: {**t, "pos_embed_spatial": torch.ones(1, 16, 192)}), "positions or attention of their own in time or depth: pos_embed_spatial"),
    "MeLo": ({}, pth(lambda t: renamed(t, [("attn.qkv", "attn.qkv.qkv")]) | {"blocks.0.attn.qkv.linear_a_q.weight": torch.ones(4, 192)}), "adapters (LoRA ...), to be merged into its model first"),
    "ONNX": ({}, empty_file("model.onnx"), "holds no weight file (.safetensors, .bin, .pt, .pth, .ckpt, .tar); files there: 'model.onnx'"),
    "cache of the Hub": ({}, cache_of_the_hub, "files there: 'model.safetensors (no file)', 'snapshots (no file)'"),
    "language model's config": ({}, hub_folder(lambda t: prefixed(t, "model.vision_tower."), {"model_type": "llava_phi", "hidden_act": "gelu_new", "num_attention_heads": 32, "hidden_size": 2048}),
                                "config.json has a hidden_size of 2048, the ViT in the file one of 192"),
    "mean of 0..255": ({}, hub_folder(lambda t: t, {}, preprocessor={"image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]}), "is one of pixels of 0..255; needed is that of 0..1"),
    "optimizer alone": ({}, pth(lambda t: {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}, "a.pt"), "holds no tensors by name, but a dict 'state, param_groups'"),
}


@pytest.mark.parametrize("file", ("B_16.npz", "flax_model.msgpack", "tf_model.h5", "model.onnx", "vit.gguf", "folder.zip", "model.tar.gz"))
def test_files_of_other_programs_are_refused_by_their_ending(tmp_path, file):
    (tmp_path / file).write_bytes(b"PK")
    assert "an archive, or of another program (JAX, TensorFlow, ONNX ...); needed are weights of PyTorch" in refusal(ViT.from_pretrained, str(tmp_path / file))


def test_the_report_says_what_is_read_otherwise(tmp_path):
    """A pool that is not here; positions of another size than the config.json says."""
    model = ViT(SMALL)
    path = write(tmp_path, model.state_dict(), {**TIMM, "global_pool": "max", "model_args": {"img_size": 64}})
    report = ViT.from_pretrained(path).report
    assert "class token read instead of its pool 'max', image 32x32 px by its positions (assumed, no config.json says a size that fits), mean 0.485" in report
    tensors = dict(ViT(replace(SMALL, pool="mean-norm")).state_dict())
    path = write(tmp_path / "max", renamed(tensors, [("^norm", "fc_norm")]), {**TIMM, "global_pool": "max", "model_args": {"img_size": 32}})
    assert "mean of the patches read instead of its pool 'max', mean 0.485" in ViT.from_pretrained(path).report


def test_a_grid_that_may_be_another_is_called_assumed(tmp_path):
    """2 x 8 patches are as many as 4 x 4; a config.json decides. A tower of PE looks like one of SigLIP, but for its rotary positions."""
    tensors = dict(ViT(replace(SMALL, image=(16, 64))).state_dict())
    bare = ViT.from_pretrained(write(tmp_path / "bare", tensors))
    assert bare.config.image == (32, 32) and "image 32x32 px by its positions (assumed, no config.json says" in bare.report
    config = {"architecture": "vit_tiny_patch8_32", "model_args": {"img_size": [16, 64]}}
    decided = ViT.from_pretrained(write(tmp_path / "said", tensors, config))
    assert decided.config.image == (16, 64) and "px" not in decided.report
    report = ViT.from_pretrained(write(tmp_path / "pe", {**tensors, "attn_pool.q.weight": torch.ones(3)})).report
    assert "read instead of its pool 'attention'" in report and "without rotary positions" in report


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_people_have(tmp_path, kind):
    fields, save, expected = KINDS[kind]
    torch.manual_seed(0)
    model = ViT(replace(SMALL, **fields)).eval()
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter) + 0.5 * (parameter.dim() == 1))
    t = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save(tmp_path, t)
    for key, parameter in model.named_parameters():                # one that the layout has not is 0
        parameter.copy_(t.get(key, parameter) if key == "patch_embed.proj.bias" else parameter)
    if isinstance(expected, str):
        assert expected in refusal(ViT.from_pretrained, str(tmp_path))
        return
    loaded, x = ViT.from_pretrained(str(tmp_path), image=(32, 32)).eval(), images().float()
    for ours, theirs in zip(loaded.run_blocks(loaded.embed(x))[:2], model.run_blocks(model.embed(x))[:2]):
        assert (ours - theirs).abs().max() < expected
    if kind.startswith("CLIP"):
        assert loaded.config.mean == OPENAI["mean"] and loaded.config.eps == fields.get("eps", 1e-6)
        return
    assert loaded.config.mean == ((0.5,) * 3 if kind in ("shards", "shards of pickles", "pooler, bare", "head of 1,000 classes") else (0.485, 0.456, 0.406))
