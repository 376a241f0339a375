"""Do the fields of a configuration go together? ValueError where those of a model do not."""

from attention import KINDS
from plumbing.sizes import STEMS

CHOICES = {  # of ViTConfig
    "attention": KINDS,
    "positions": ("class", "all", "patches", "none"),
    "pool": ("class", "prefix", "mean", "mean-norm"),
    "activation": ("gelu", "gelu_tanh", "quick_gelu", "swiglu"),
}


def check_choices(config, choices):
    """choices: {field: the values that it may have}."""
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; use {', '.join(map(str, known))}")


def check_range(config, least, limit, *names):
    """These fields, numbers or tuples of numbers, are at least `least` and below `limit`."""
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(least <= number < limit for number in numbers):
            raise ValueError(f"{name} {value}: need {least} <= x < {limit}")


def check_statistics(config):
    if not len(config.mean) == len(config.std) == config.channels or min(config.std) <= 0:
        raise ValueError(f"mean {config.mean}, std {config.std}: need {config.channels} each, stds above 0")


def check_vit(config):
    image = config.image
    patch = config.patch
    check_range(config, 1, 65536, "image", "patch", "channels", "dim", "heads", "mlp")
    check_range(config, 1, 1000, "depth")
    check_range(config, 0, 1, "eps", "dropout", "drop_path")
    if len(image) not in (0, 2, 3):
        raise ValueError(f"image {image}: need 2 axes (pictures), 3 (volumes) or none (bags)")
    if len(patch) != len(image) or any(side % P for side, P in zip(image, patch)):
        raise ValueError(f"image {image} px is not a multiple of the patch {patch} px")
    check_choices(config, CHOICES)
    if not config.class_token and "class" in (config.pool, config.positions):
        raise ValueError(f"pool {config.pool}, positions {config.positions}: need a class token")
    if not config.head_dim and config.dim % config.heads:
        raise ValueError(f"width {config.dim} does not divide into {config.heads} heads")
    if image:
        check_statistics(config)


def check_crossvit(config, fusions):
    """What CrossViT adds to its two ViTs; fusions: their names."""
    for name in ("grids", "patch", "dims", "depths"):
        if len(getattr(config, name)) != 2:
            raise ValueError(f"{config}: grids, patch, dims and depths are pairs, of S and L")
    check_range(config, 1, 100, "encoders", "mlp", "cross_depth")
    check_choices(config, {"fusion": fusions, "stem": ("linear", "conv")})
    if config.cross_depth > 1 and config.fusion != "cross":
        raise ValueError(f"cross_depth {config.cross_depth}: fusion {config.fusion} has no cross attention")
    if config.stem == "conv" and not set(config.patch) <= set(STEMS):
        raise ValueError(f"stem conv has patches of 12 or 16 px, not of {config.patch}")


def check_daft(config, fusions, locations, activations):
    """The last three: names of fusions, places in the last block, names of activations."""
    check_choices(config, {"fusion": fusions, "location": locations, "activation": activations})
    check_range(config, 2, 65536, "image")
    if not config.scale and not config.shift:
        raise ValueError("DAFT needs scale or shift")
    if config.identity_init and config.activation == "sigmoid":
        raise ValueError("sigmoid cannot start at the identity")
    image = config.image
    if len(image) not in (2, 3) or not all(isinstance(side, int) for side in image):
        raise ValueError(f"image {image}: need two or three whole numbers of px")
    sees_table = config.fusion != "image"
    if sees_table != bool(config.tabular):
        raise ValueError(f"--fusion {config.fusion} was given {config.tabular} columns of a table; "
                         "image sees no table, the others need one")
    check_statistics(config)


def check_multivit(config, modes, cls_tokens):
    check_choices(config, {"mode": modes, "cls_token": cls_tokens})
    check_range(config, 1, 65536, "n", "r", "hidden")
    if not config.hidden:
        raise ValueError("hidden (): need the units of one layer at least")
    vit = config.vit
    R = config.r
    if config.mode in ("baseline", "joint") and R > 1:
        raise ValueError(f"mode {config.mode} has one resolution, --r {R} does not apply")
    if vit.tokens % R ** 2:
        fitting = [str(r) for r in range(1, vit.tokens + 1) if vit.tokens % r ** 2 == 0]
        raise ValueError(f"--r {R} does not divide the patch grid {vit.grid} ({vit.image} px at patch "
                         f"{vit.patch}); use {' or '.join(fitting)}")


def check_lt_vit(config, kinds):
    """kinds: names of label_attention."""
    vit = config.vit
    kind = config.label_attention
    check_choices(config, {"label_attention": kinds})
    if not 1 <= config.label_layers <= vit.depth:
        raise ValueError(f"label_layers {config.label_layers}: this ViT has 1 .. {vit.depth} last blocks")
    if vit.attention != "softmax" and kind != "full":
        raise ValueError(f"attention {vit.attention!r} normalizes over all tokens at once: it needs "
                         f"--label-attention full, not {kind}; or --attention softmax")
    if not vit.image:
        raise ValueError("LT-ViT sees pictures or volumes, not bags of vectors")


def check_q2l(config):
    check_range(config, 0, 1000, "encoder_layers")
    check_range(config, 1, 1000, "decoder_layers")
    check_range(config, 1, 65536, "ff")
    vit = config.vit
    heads = config.heads or vit.heads
    axes = len(vit.grid)
    if heads < 1 or vit.dim % heads or not axes or vit.dim % (2 * axes):
        raise ValueError(f"width {vit.dim}: need a multiple of {heads} heads and of {2 * axes}, sine and "
                         f"cosine of {axes} axes")
