"""What a network costs: FLOPs and images per second of CrossViT's variants, GPU hours of the recipes.

The commands variants and recipes of bench.py.
"""
from statistics import median

import torch

from crossvit import CrossViT, variant
from experiments.timing import counted, take_turns
from plumbing.cohort import Task
from plumbing.flags import parse
from plumbing.models import build_model, images_of
from plumbing.sizes import VARIANTS, count

RECIPES = {  # flags of train.py; samples of an epoch, epochs, batch of one GPU
    "MultiViT-3-1 of ViT-L, 1,000 patients": (
        "--model multivit --n 3 --r 1 --size large --image 384x384 --patch 32x32", 1000, 300, 16),
    "CrossViT-15, ImageNet": (
        "--model crossvit --variant 15 --image 240x240", 1_281_167, 300, 128),
    "GMML of ViT-S, NIH": (
        "--model gmml --size small --image 224x224 --patch 16x16", 86_524, 800, 64),
    "LT-ViT of ViT-S, NIH": (
        "--model lt_vit --size small --image 224x224 --patch 16x16 --label-layers 4", 86_524, 20, 64),
    "softmax-free, 10,000 images": (
        "--model vit --size vit2d --attention seqnorm --image 224x224 --patch 16x16", 10_000, 100, 32),
    "softmax-free, 1,000 volumes": (
        "--model vit --size vit3d --attention seqnorm --channels 1", 1000, 100, 4),
}
RATE = 0.4 * 740e12                  # FLOP/s in training: 0.4 of an H100's products in bfloat16
BYTES = 16                           # of a parameter in training: itself, its gradient, AdamW's two moments


def variants(args):
    """CrossViT's variants at their sizes, a forward pass of one image; G: 10^9 multiply-adds."""
    names = VARIANTS
    if args.quick:
        names = ("9",)
    for name in names:
        config = variant(name)
        model = CrossViT(config, {"y": 1000}).to(args.device).eval()
        image = torch.randn(1, 3, *config.image, device=args.device)

        @torch.no_grad()
        def step():
            model(image)

        seconds = median(take_turns({name: step}, args.rounds, args.device)[name])
        yield [{"variant": name, "M parameters": count(model) / 1e6, "G": counted(step)[0] / 2e9,
                "images/s": 1 / seconds}]


def sample_of(model):
    """-> one sample for a model of pictures or volumes, as floats; of MultiViT-3-1, three pictures."""
    config = images_of(model.config)
    image = torch.zeros(1, config.channels, *config.image)
    images = torch.stack([image, image, image], 1)
    sample = {"image": image, "images": images, "images_hr": images, "present": torch.ones(1, 3).bool()}
    return [sample[name] for name in model.inputs]


def recipes(args):
    """The full-size commands of docs/recipes.md, estimated: FLOPs and memory of a training step of one sample
    are counted, GB in bfloat16 at the batch of one GPU, hours on one H100."""
    for name, (flags, samples, epochs, batch) in RECIPES.items():
        if args.quick and "ViT-S" not in name:
            continue
        settings = parse(f"--channels 3 {flags}".split())
        model, _ = build_model(settings, [Task("y", "labels", tuple("abcdefghijklmn"))])
        inputs = sample_of(model)

        def step():
            sum(y.sum() for y in model(*inputs)["logits"].values()).backward()

        flops, saved = counted(step)
        parameters = count(model)                                  # which are among what is saved
        yield [{"recipe": name, "M parameters": parameters / 1e6, "GFLOP": flops / 1e9,
                "GB": (BYTES * parameters + batch * (saved - 4 * parameters) / 2) / 1e9,
                "GPU hours": flops * samples * epochs / RATE / 3600}]
