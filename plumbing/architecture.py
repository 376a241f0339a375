"""Which architecture is in a file: sizes from the tensors themselves, so that no config.json can lie about
them.

vit_fields and crossvit_fields take tensors under our names and the contents of the JSON files beside them,
and return the fields of ViTConfig or CrossViTConfig. What a run of this project wrote is taken as it stands
in its config.json.
"""
import math
import re

from plumbing.families import (ACTIVATION, ACTIVATIONS, EPS, EVA02, HEADS, HEADS_BY_WIDTH, KNOWN,
                               NO_FINAL_NORM, ROTARY, look_up, refuse_absent)
from plumbing.resize import spaced
from plumbing.sizes import VARIANTS

# under which a config.json of transformers describes the ViT
NESTED = ("encoder", "vision_config", "vision_config_dict", "image_config", "backbone_config")
SHAPES = {  # tensors from which a ViT's sizes are taken: how many axes they have at least
    "patch_embed.proj.weight": 4,
    "blocks.0.norm1.bias": 1,  # RMS norms have none
    "blocks.0.mlp.fc1.weight": 2,
    "blocks.0.mlp.fc2.weight": 2,
    "blocks.0.attn.qkv.weight": 2,
}
PRESENT = {  # fields of ViTConfig that say whether there is a tensor
    "qkv_bias": "blocks.0.attn.qkv.bias",
    "layer_scale": "blocks.0.ls1.gamma",
    "class_token": "cls_token",
    "mlp_norm": "blocks.0.mlp.norm.weight",
    "attention_norm": "blocks.0.attn.norm.weight",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "pre_norm": "norm_pre.weight",
}
PERIODS = "rope_embed.periods"  # of DINOv3's rotary positions, one for every four features of a head
CROSSVIT_SHAPES = {"pos_embed.0": 3, "pos_embed.1": 3, "blocks.0.blocks.0.0.mlp.fc1.weight": 2}


def run_config(config):
    """A run's config.json -> the config in it, which stands under the model's name; {} for others' files."""
    return config.get(str(config.get("model", "vit")), {})


def vit_inside(tensors, config, stage, notes):
    """-> tensors and config of the ViT that a run holds: its model, or a part of that (LT-ViT, Query2Label,
    a probe, MultiViT); of others' files all tensors and {}. notes may gain one. stage: of MultiViT, 1 or 2;
    what stage 2 lacks, its embedding where R = 1, is that of stage 1."""
    own = run_config(config)
    model = config.get("model", "vit")
    if not own or model == "vit" or "patch_embed.proj.weight" in tensors:
        return tensors, own
    if "vit" not in own:
        raise ValueError(f"is a run of --model {model}, which holds no ViT")
    inside = {}
    source = "vit"
    for part in ("vit", "stage1", "stage2")[:1 + stage]:           # what stage 2 has too is stage 2's
        for key, tensor in tensors.items():
            if key.startswith(f"{part}."):
                inside[key.removeprefix(f"{part}.")] = tensor
                source = part
    notes.append(f"only the {source} of its {model}")
    return inside, own["vit"]


def flat(config):
    """A config.json -> the same with what describes the ViT at its top level: the part for images of
    transformers' models, timm's pretrained_cfg and model_args, and open_clip's entries under timm's names."""
    for part in NESTED:
        if isinstance(config.get(part), dict):
            config = flat(config[part])                            # the rest is of a text tower, a head ...
    for part in ("pretrained_cfg", "model_args", "preprocess_cfg"):
        if isinstance(config.get(part), dict):
            config = config | config[part]
    model = config.get("model_cfg", {})
    vision = model.get("vision_cfg")
    if vision:
        pool = vision.get("timm_pool") or vision.get("pool_type")
        config = config | vision | {"architecture": vision.get("timm_model_name"), "global_pool": pool}
        if not config["architecture"]:
            config["hidden_act"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
            if vision.get("act_kwargs"):                           # {"approximate": "tanh"}
                config["hidden_act"] = "gelu_tanh"
            config["layer_norm_eps"] = (vision.get("norm_kwargs") or {}).get("eps")
            if "width" in vision:
                config["num_heads"] = vision["width"] // vision.get("head_width", 64)
    return config


def stated_kind(config):
    """architecture (timm) or model_type (transformers) of a flat config.json, "" where it says neither."""
    return config.get("architecture") or config.get("model_type") or ""


def vit_fields(tensors, kind, config, heads, notes):
    """Tensors under timm's names, architecture or model type, and a flat config.json, {} where absent ->
    fields of ViTConfig, all but mean and std. notes, for the report, gains some.

    heads: as the caller wants them; None: what the file says, else a guess, which a note says."""
    refuse_absent(kind, config, tensors)
    require(tensors, SHAPES, "ViT")
    D, C, *patch = tensors["patch_embed.proj.weight"].shape
    depth = count(tensors, "blocks.")
    sizes = {"hidden_size": D, "width": D, "num_hidden_layers": depth, "depth": depth, "layers": depth}
    for field, size in sizes.items():
        if config.get(field) not in (None, size):
            raise ValueError(f"config.json has a {field} of {config[field]!a}, the ViT in the file one of "
                             f"{size}; one of them is of another model, or not whole")
    fields = {
        "patch": patch,
        "channels": C,
        "dim": D,
        "depth": depth,
        "mlp": tensors["blocks.0.mlp.fc2.weight"].shape[1],
        "eps": config.get("layer_norm_eps") or look_up(EPS, kind) or 1e-6,
        "registers": sum(tensors[key].shape[1] for key in ("reg_token", "dist_token") if key in tensors),
        "final_norm": "norm.weight" in tensors or "fc_norm.weight" in tensors,
        "heads": heads or find_heads(tensors, config, kind, D, notes),
    }
    for field, key in PRESENT.items():
        fields[field] = key in tensors
    if not fields["final_norm"] and not re.search(NO_FINAL_NORM, kind):
        raise ValueError("holds no norm after the last block of its ViT (norm, fc_norm ...)")
    fields["pool"] = find_pool(tensors, config, notes)
    fields["activation"] = find_activation(tensors, config, kind, fields)
    grid, fields["positions"] = find_positions(tensors, config, fields, notes)
    fields["image"] = [size * P for size, P in zip(grid, patch)]
    fields["rotary"] = find_rotary(tensors, config, kind, fields)
    assumed = []                                                   # what neither tensors nor config.json say
    known = re.search(KNOWN, kind)
    if fields["rotary"] is None and not known:
        assumed.append("pre-norm blocks without rotary positions")
    for field, stated in (("activation", "hidden_act"), ("eps", "layer_norm_eps")):
        if not (known and stated_kind(config) or config.get(stated)):
            assumed.append(f"{field} {fields[field]}")
    if assumed:
        notes.append(f"{', '.join(assumed)} (assumed)")
    return fields


def find_heads(tensors, config, kind, D, notes):
    """Heads of a ViT of width D; a note where they are a guess."""
    if PERIODS in tensors:
        return D // (4 * len(tensors[PERIODS]))                    # sin and cos, rows and columns
    stated = config.get("num_heads") or config.get("num_attention_heads") or look_up(HEADS, kind)
    if stated:
        return stated
    heads = HEADS_BY_WIDTH.get(D) or D // 64
    if not heads or D % heads:
        raise ValueError("the number of heads is not in the file; give --heads, or a folder with a "
                         "config.json that says it")
    if "_patch" not in kind or "embed_dim" in config:              # in timm's ViTs the width decides
        notes.append(f"{heads} heads (a guess from the width {D}; --heads decides)")
    return heads


def find_pool(tensors, config, notes):
    """What is read of the tokens: see ViTConfig.pool."""
    stated = config.get("global_pool")
    if any(key.startswith(("attn_pool.", "head.probe")) for key in tensors):
        stated = "attention"
    pool = "class"
    if "dist_token" in tensors:
        pool = "prefix"
    if stated in ("attention", "avg") or "cls_token" not in tensors:
        pool = "mean"
    norm_last = stated == "avg" and config.get("final_ln_after_pool")                # of open_clip
    if norm_last or "fc_norm.weight" in tensors and stated != "token":
        pool = "mean-norm"
    if stated not in (None, "", "token", "tok", "avg"):
        read = "mean of the patches" if pool.startswith("mean") else "class token"
        notes.append(f"{read} read instead of its pool {stated!a}")
    return pool


def find_activation(tensors, config, kind, fields):
    """Of the MLP: see ViTConfig.activation."""
    stated = config.get("hidden_act") or config.get("act_layer")
    if len(tensors["blocks.0.mlp.fc1.weight"]) == 2 * fields["mlp"]:
        if not stated:                               # timm's blocks hand their own, GELU, to a mlp_layer
            stated = "gelu" if "mlp_layer" in config else "silu"
        if not config.get("use_swiglu_ffn") and not re.search("silu|swish|swiglu", stated.lower()):
            raise ValueError(f"activation {stated!r} in a gated MLP, which here can only have silu")
        return "swiglu"
    stated = stated or look_up(ACTIVATION, kind) or "gelu"
    activation = look_up(ACTIVATIONS, stated.lower())
    if not activation:
        raise ValueError(f"activation {stated!r}, need gelu, gelu_tanh, quick_gelu or SwiGLU")
    return activation


def find_positions(tensors, config, fields, notes):
    """-> patches per axis, and which tokens have a position: see ViTConfig.positions. The size in config.json
    is used where it fits, else a square or a cube, which a note says."""
    patch = fields["patch"]
    axes = len(patch)
    sides = config.get("image_size") or config.get("img_size") or config.get("input_size")
    if isinstance(sides, int):
        sides = [sides] * axes
    if not isinstance(sides, list):                                # none, or no numbers
        sides = []
    stated = [side // P for side, P in zip(sides[-axes:], patch)]  # without the channels
    if "pos_embed" not in tensors:
        return stated or [224 // P for P in patch], "none"
    rows = tensors["pos_embed"].shape[1]
    counts = {"class": rows - 1, "patches": rows, "all": rows - fields["class_token"] - fields["registers"]}
    if not fields["class_token"]:
        del counts["class"]
    for kind, patches in counts.items():
        if stated and math.prod(stated) == patches:
            return stated, kind
    for kind, patches in counts.items():
        side = round(max(patches, 1) ** (1 / axes))
        if side ** axes == patches:
            notes.append(f"image {spaced([side * P for P in patch], 'x')} px by its positions (assumed, no "
                         "config.json says a size that fits)")
            return [side] * axes, kind
    raise ValueError(f"{patches} patch positions are no square or cube, and no config.json gives an "
                     f"image_size that fits them, a list of {axes} sides in px")


def find_rotary(tensors, config, kind, fields):
    """-> fields of Rotary, None where there is none. ValueError where the file leaves it open."""
    rotary = look_up(ROTARY, kind)
    if "rope.freqs_cos" in tensors:
        rotary = EVA02 | {"reference": reference_grid(tensors["rope.freqs_cos"])}
    if rotary is None:
        is_eva = fields["mlp_norm"] and not fields["attention_norm"]                # EVA-02 and EVA-X, base
        if not stated_kind(config) and not fields["layer_scale"]:
            is_eva = is_eva or fields["activation"] == "swiglu"                     # and their small ones
        if is_eva or fields["positions"] == "none" or "attn_pool.probe" in tensors:
            raise ValueError("has no table of positions, or the MLP of EVA-02, or the pool of PE; which "
                             "rotary positions it has, only a config.json with an `architecture` that is "
                             "known here says")
        return None
    theta = config.get("rope_theta") or config.get("rope_temperature")              # transformers, timm
    for field, stated in (("theta", theta), ("reference", config.get("ref_feat_shape"))):
        if stated:
            rotary = rotary | {field: stated}
    if PERIODS in tensors:
        slowest = rotary["theta"] ** (1 - 1 / len(tensors[PERIODS]))
        if not math.isclose(tensors[PERIODS][-1], slowest, rel_tol=0.01):              # some are bfloat16
            raise ValueError(f"its {PERIODS} are of another theta than its architecture's; give it a "
                             "config.json that says its rope_theta")
    return rotary


def reference_grid(cosines):
    """cos (T, d) of the angles of EVA-02's patches, the second half of them by column -> the grid that they
    were computed for: from one column to the next an angle of frequency f grows by f grid / columns."""
    side = round(len(cosines) ** 0.5)
    width = cosines.shape[1] // 2
    pair = width // 8                                              # of features; slow enough not to go around
    frequency = 1e4 ** (-2 * pair / width)
    grid = round(side * math.acos(cosines[1, width + 2 * pair]) / frequency)
    return [grid, grid]


def crossvit_fields(tensors):
    """Tensors under our names -> fields of CrossViTConfig, all but mean and std. The heads are not in the
    file: they are those of the published variants of these widths."""
    conv = "patch_embed.0.proj.0.weight" in tensors  # three convolutions, whose kernels do not tell P
    part = "proj.0.weight" if conv else "proj.weight"
    kernels = [f"patch_embed.0.{part}", f"patch_embed.1.{part}"]
    require(tensors, dict.fromkeys(kernels, 4) | CROSSVIT_SHAPES, "CrossViT")
    rows, dims = zip(tensors["pos_embed.0"].shape[1:3], tensors["pos_embed.1"].shape[1:3])
    sides = [math.isqrt(positions - 1) for positions in rows]
    heads_of = {dims: heads for _, dims, heads, *_ in VARIANTS.values()}
    if dims not in heads_of:
        raise ValueError(f"widths {dims} are of no known variant, "
                         "and the number of heads is not in the file")
    return {
        "grids": [(side, side) for side in sides],
        "patch": [12, 16] if conv else [tensors[kernel].shape[3] for kernel in kernels],
        "channels": tensors[kernels[0]].shape[1],
        "dims": dims,
        "heads": heads_of[dims],
        "depths": [count(tensors, "blocks.0.blocks.0."), count(tensors, "blocks.0.blocks.1.")],
        "encoders": count(tensors, "blocks."),
        "mlp": len(tensors["blocks.0.blocks.0.0.mlp.fc1.weight"]) // dims[0],
        "stem": "conv" if conv else "linear",
        "fusion": "cross" if count(tensors, "blocks.0.fusion.") else "none",
        "cross_depth": max(1, count(tensors, "blocks.0.fusion.0.")),
    }


def count(tensors, start):
    """How many numbered parts the names have after `start`."""
    return len(set(re.findall(rf"^{re.escape(start)}(\d+)\.", "\n".join(tensors), re.MULTILINE)))


def require(tensors, shapes, model):
    """ValueError where a file lacks one of the tensors {name: number of axes}, or it has fewer axes or holds
    integers."""
    for key, axes in shapes.items():
        if key not in tensors or tensors[key].dim() < axes or not tensors[key].is_floating_point():
            raise ValueError(
                f"is not a {model} this code knows: {key} is missing or has the wrong number of axes, "
                f"or no floats (the file has {', '.join(list(tensors)[:4])} ...; docs/weights.md names what "
                "is read)")
