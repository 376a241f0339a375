"""Do the fields of a configuration go together? ValueError where those of ViT, CrossViT or DAFT do not.
"""

CHOICES = {  # of ViTConfig
    "positions": ("class", "all", "patches", "none"),
    "pool": ("class", "prefix", "mean", "mean-norm"),
    "activation": ("gelu", "gelu_tanh", "quick_gelu", "swiglu"),
}


def check_statistics(mean, std, channels):
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(f"mean {mean}, std {std}: need {channels} each, stds above 0")


def check_vit(config):
    image = config.image
    patch = config.patch
    sizes = (*image, *patch, config.channels, config.dim, config.depth, config.heads, config.mlp)
    if min(sizes) < 1 or max(sizes) > 65535 or config.depth > 999:
        raise ValueError(f"{config}: sizes start at 1 and end at 65535, and the depth ends at 999")
    for name in ("eps", "dropout", "drop_path"):
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} {value}: need 0 <= x < 1")
    if len(image) not in (0, 2, 3):
        raise ValueError(f"image {image}: need 2 axes (pictures), 3 (volumes) or none (bags)")
    if len(patch) != len(image) or any(side % P for side, P in zip(image, patch)):
        raise ValueError(f"image {image} px is not a multiple of the patch {patch} px")
    for name, known in CHOICES.items():
        value = getattr(config, name)
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; use {', '.join(known)}")
    if not config.class_token and "class" in (config.pool, config.positions):
        raise ValueError(f"pool {config.pool}, positions {config.positions}: need a class token")
    if not config.head_dim and config.dim % config.heads:
        raise ValueError(f"width {config.dim} does not divide into {config.heads} heads")
    if image:
        check_statistics(config.mean, config.std, config.channels)


def check_crossvit(config, fusions, conv_patches):
    """What CrossViT adds to its two ViTs.

    fusions: their names; conv_patches: P in px for which there is a stem of convolutions."""
    for pair in (config.grids, config.patch, config.dims, config.depths):
        if len(pair) != 2:
            raise ValueError(f"{config}: grids, patch, dims and depths are pairs, of S and L")
    counts = (config.encoders, config.mlp, config.cross_depth)
    if min(counts) < 1 or max(counts) > 99:
        raise ValueError(f"{config}: encoders, mlp and cross_depth are whole numbers from 1 to 99")
    if config.fusion not in fusions:
        raise ValueError(f"fusion {config.fusion!r} is not known; use one of {', '.join(fusions)}")
    if config.cross_depth > 1 and config.fusion != "cross":
        raise ValueError(f"cross_depth {config.cross_depth}: fusion {config.fusion} has no cross attention")
    if config.stem not in ("linear", "conv"):
        raise ValueError(f"stem {config.stem!r} is not known; use linear or conv")
    if config.stem == "conv" and not set(config.patch) <= set(conv_patches):
        raise ValueError(f"stem conv has patches of 12 or 16 px, not of {config.patch}")


def check_daft(config, fusions, locations, activations):
    """The last three: names of fusions, places in the last block, names of activations."""
    if config.fusion not in fusions:
        raise ValueError(f"fusion {config.fusion!r} is not known; use {', '.join(fusions)}")
    if config.location not in locations:
        raise ValueError(f"location {config.location} is not known; use one of {locations}")
    if config.activation not in activations:
        raise ValueError(f"activation {config.activation!r} is not known; use {', '.join(activations)}")
    if not config.scale and not config.shift:
        raise ValueError("DAFT needs scale or shift")
    if config.identity_init and config.activation == "sigmoid":
        raise ValueError("sigmoid cannot start at the identity")
    image = config.image
    if len(image) not in (2, 3):
        raise ValueError(f"image {image}: need two or three sides")
    for side in image:
        if not isinstance(side, int) or side < 2:
            raise ValueError(f"image {image}: need sides of at least 2 px")
    if config.fusion == "image" and config.tabular:
        raise ValueError(f"fusion image sees no table, it was given {config.tabular} columns")
    if config.fusion != "image" and not config.tabular:
        raise ValueError(f"fusion {config.fusion} with 0 columns of a table, it needs some")
    check_statistics(config.mean, config.std, config.channels)
