"""What the pixels of a checkpoint's images are normalized with: mean and standard deviation per channel.

They are in units of 0..1: a model sees (pixel / 255 - mean) / std. They stand in preprocessor_config.json or
in the config.json of timm and open_clip. Where no file says them, the architecture or the model type decides
(names.LAYOUTS where config.json says neither), and the report says that they are assumed.
"""
import math

from plumbing.families import look_up
from plumbing.resize import spaced

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
EVA_X = {"mean": (0.49185243,) * 3, "std": (0.28509309,) * 3}        # chest films
OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}

# by model type (transformers, or that of names.LAYOUTS) or architecture (timm), the first that fits; all
# others: ImageNet's
KINDS = (
    (r"^eva_?x_", EVA_X),
    (r"mae|msn|dino|jepa|deit|^beit(3|v2)_|_rope(_ape)?_\d|_lingbot|_intern300m|_(huge|giant)_patch\d+_gap_|"
     r"_small_patch8_224", IMAGENET),
    (r"siglip|^idefics[23]|^smolvlm|^dpt|^janus", HALF),
    (r"clip|blip|^owlv|^git|^flava|^kosmos|^idefics|^eva(02)?_|_radio_", OPENAI),
    (r"^vit$|^(flexi)?vit_|beit", HALF),                           # google/vit; timm's are augreg by default
)


def statistics(kind, config, preprocessor, channels, mean, std, notes):
    """-> {"mean", "std"}, tuples with a number per channel. notes, for the report, gains a line with them.

    kind: model type or architecture; config: a flat config.json. mean, std: the caller's own: a number,
    several, or text such as "0.5,0.4,0.3"; None: those of the file. ValueError for what is no number, or not
    one per channel."""
    scale = pixel_scale(preprocessor)
    usual = look_up(KINDS, kind) or IMAGENET
    if channels != 3:
        usual = dict.fromkeys(usual, (0.5,) * channels)
    result = {}
    assumed = ""
    for field, neutral, chosen in (("mean", 0.0, mean), ("std", 1.0, std)):
        value = preprocessor.get(f"image_{field}")
        if value is None:
            value = config.get(field)
        if preprocessor.get("do_normalize") is False:
            value = neutral
        if chosen is not None:
            numbers = per_channel(f"--{field} {chosen}", chosen, channels)
        elif value is not None:
            numbers = per_channel(f"{field} {value!a} in its config.json or preprocessor_config.json", value,
                                  channels)
            numbers = tuple(number / scale for number in numbers)
        else:
            numbers = usual[field]
            assumed = " (assumed)"
        result[field] = numbers
    if max(result["mean"]) > 2:
        raise ValueError(f"mean {result['mean']} is one of pixels of 0..255; needed is that of 0..1 "
                         "(--mean and --std set them)")
    notes.append(f"mean {spaced(result['mean'])} std {spaced(result['std'])}{assumed}")
    return result


def pixel_scale(preprocessor):
    """What the checkpoint's own preprocessing makes of the pixel 255: 1, unless it says otherwise."""
    for field in ("do_normalize", "do_rescale"):
        if not isinstance(preprocessor.get(field), (bool, type(None))):
            raise ValueError(f"{field} {preprocessor[field]!a}: need true or false")
    if preprocessor.get("do_rescale") is False:
        return 255.0
    factor = preprocessor.get("rescale_factor")
    if factor is None:
        return 1.0
    scale = 255 * per_channel(f"rescale_factor {factor!a}", factor, 1)[0]
    if scale <= 0:
        raise ValueError(f"rescale_factor {factor!a}: need a number above 0")
    return 1.0 if math.isclose(scale, 1, rel_tol=1e-4) else scale


def per_channel(text, value, channels):
    """A number, several, or text -> a tuple with a number per channel; several for another number of channels
    are refused, unless all are the same. text: what it is, for the message."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        value = [value]
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(set(numbers)) == 1:
        numbers = numbers[:1] * channels
    if len(numbers) != channels or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{text}: need one number, or one for each of {channels} channels "
                         "(--mean and --std set them)")
    return tuple(numbers)
