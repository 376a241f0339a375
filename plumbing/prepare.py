"""Flags -> cohort, input columns, and everything about a run that depends on the data.
"""
import os

import numpy as np
import torch

from plumbing import parallel
from plumbing.arrays import IMAGES, axes_of, read_array
from plumbing.cohort import per_patient, targets_agree
from plumbing.columns import fit_columns
from plumbing.device import fast_bfloat16
from plumbing.features import cached_features
from plumbing.flags import BATCH, SCRATCH, listed, pixels, read_args
from plumbing.load_cohort import load_cohort
from plumbing.simulate import COHORTS, make
from plumbing.splits import read_run_split


AXES = {"vit": (0, 2, 3), "lt_vit": (2, 3), "q2l": (2, 3), "daft": (2, 3)}   # of the images a model takes; others: 2
CHANNELS, AUGMENTED = {2: 3, 3: 1}, {0: "none", 2: "crop,hflip", 3: "hflip,vflip,dflip"}      # by the axes of the images


def by_patient(args):
    """Does a sample of this model hold all photographs of a patient?"""
    return args.model == "multivit" and args.mode != "baseline"


def settle(args, cohort):
    """Write into args what depends on the data: is an image a picture, a volume or a bag, and what is the default for those?"""
    axes = axes_of(cohort)
    if axes not in AXES.get(args.model, (2,)):
        raise ValueError(f"{cohort.name} holds {IMAGES[axes]}, --model {args.model} takes none; "
                         f"use {' or '.join(model for model in AXES if axes in AXES[model])}")
    if axes == 0:
        if wrong := {args.image, args.patch} - {None, "", "64", SCRATCH["patch"]} or {args.augment} - {None, "none"}:
            raise ValueError(f"--image, --patch, --augment {wrong.pop()}: {cohort.name} holds {IMAGES[axes]}, which have no pixels")
        args.image, args.patch = "", ""
    if args.model == "daft" and not args.image and not args.pretrained:
        first = None if axes == 2 else read_array(cohort.paths[0]) if cohort.pixels is None else cohort.pixels[0]
        args.image = "64" if axes == 2 else "x".join(map(str, first.shape[-3:]))
    for name in ("image", "patch"):
        if text := getattr(args, name):
            sides = pixels(text, axes, name)
            if len(sides) != axes:
                raise ValueError(f"--{name} {text}: {cohort.name} holds {IMAGES[axes]}, need one number or {axes}")
            setattr(args, name, "x".join(map(str, sides)))
    if not args.pretrained:                                        # a checkpoint brings its own
        args.channels = args.channels or CHANNELS.get(axes) or read_array(cohort.paths[0]).shape[1]
    args.augment = args.augment or ("none" if args.model == "probe" else AUGMENTED[axes])            # a probe sees every image once
    args.batch_size = args.batch_size or (4 if by_patient(args) else BATCH.get(args.model, 16) if axes else 1)
    if args.batch_size < args.accumulate * parallel.world():
        raise ValueError(f"--batch-size {args.batch_size}: {parallel.world()} processes with --accumulate {args.accumulate} need at least "
                         f"{args.accumulate * parallel.world()}")
    if args.cache and (axes == 0 or args.model == "probe" or axes == 3 and "crop" in listed(args.augment)):
        raise ValueError("--cache is for decoded pictures and volumes; " + (
            "bags of vectors are not decoded" if axes == 0 else "a probe's images are seen once, and their features kept"
            if args.model == "probe" else "volumes are kept as the model sees them, which --augment crop would change"))
    if axes == 2 and (args.channels not in (None, 1, 3) or "dflip" in listed(args.augment)):
        raise ValueError(f"--channels {args.channels}, --augment {args.augment}: pictures have 1 or 3 channels, and no depth to flip")


def load_data(args):
    """Flags -> Cohort. Models that see a patient at once need one target a patient."""
    with parallel.first_here():                                    # one makes or downloads what the others of its machine then find
        data = make(args.data, args.cache_dir) if args.data in COHORTS else args.data
        cohort = load_cohort(data, args.images, args.patient_column, args.image_column, args.target, args.split_column,
                             args.uncertain, args.blank, args.cache_dir)
    return per_patient(cohort, args.patient_target) if by_patient(args) or args.patient_target else cohort


def input_columns(args, cohort, train):
    """--tabular, or with daft what the simulated table offers -> [Column], with the statistics of the training images."""
    needed = args.model == "daft" and args.fusion != "image"
    wanted = args.tabular or cohort.inputs * needed
    if needed and not wanted:
        raise ValueError("--model daft needs --tabular COLUMN,..., what it sees beside the image; "
                         f"there are {', '.join(list(cohort.columns)[:20]) or 'none, --data is no CSV table'}")
    return fit_columns(cohort, wanted, train) if wanted else []


def run_options(args, model, cohort, device):
    """What evaluation needs to know of a run."""
    vit = getattr(model.config, "vit", model.config)
    if len(vit.image) != axes_of(cohort):
        raise ValueError(f"{cohort.name} holds {IMAGES[axes_of(cohort)]}, "
                         f"the model was made for {IMAGES[len(vit.image)]}{f' of {vit.image} px' * bool(vit.image)}")
    return dict(size=vit.image, n=args.n if "images" in model.inputs else None, r=args.r if "images_hr" in model.inputs else 1,
                channels=vit.channels, batch_size=args.batch_size, device=device,
                workers=args.workers if args.workers is not None else 0 if device.type == "cpu" else 4,
                autocast=torch.bfloat16 if args.amp == "bf16" or args.amp == "auto" and fast_bfloat16(model, device) else None,
                by_image="images" not in model.inputs and not targets_agree(cohort),
                folder=args.cache_dir if args.cache else None)


def add_features(args, model, cohort, options):
    """For a model with a frozen part, give the cohort what that part says of its images."""
    if "features" in model.inputs:
        with parallel.first_here():
            features, note = cached_features(cohort, model, args.cache_dir, options["size"], options["channels"], options["device"],
                                             options["workers"])
        cohort.features = features[:, :1] if model.config.head == "class" else features      # no more is read than is used
        print(note + "; --augment does not change them" * bool(listed(args.augment)))


def usable(args, cohort, train):
    """-> the training images of which a one-image model can learn something, and a line about the others, where there are any."""
    known = np.any([~np.isnan(cohort.targets[task.name]).reshape(len(cohort.paths), -1).any(1) for task in cohort.tasks], 0)
    if by_patient(args) or known.all():
        return train, []
    return [i for i in train if known[i]], [f"{(~known).sum()} of {len(known)} images have no known target: those of the training "
                                            f"split ({(~known[train]).sum()}) are left out, the others are predicted but not scored"]


def seen_before(args, cohort, indices):
    """A line, where --pretrained is a run that learned from this table's patients who are for val or test now."""
    path = os.path.join(args.pretrained or "", "split.csv")
    if not args.pretrained or not os.path.isfile(path) or read_args(args.pretrained).data != args.data:
        return []
    learned = {patient for patient, split in read_run_split(args.pretrained).items() if split == "train"}
    found = [f"{len(seen)} {split}" for split in ("val", "test") if (seen := learned & {cohort.patients[i] for i in indices[split]})]
    return [f"WARNING: {args.pretrained} learned from {' and '.join(found)} patients of this split; what is measured on them is too "
            "good"] * bool(found)


def classes_of(args, cohort, samples):
    """The class of every sample by the first task, -1 where it is unknown, to balance batches by; None: they are not balanced."""
    task, possible = cohort.tasks[0], cohort.tasks[0].kind == "classes"
    if args.balanced and not possible:
        raise ValueError(f"--balanced: {task.name}, the first target, is a task of {task.kind}, need classes")
    if not possible or args.balanced is False or args.balanced is None and args.model not in ("probe", "cnn"):
        return None
    return np.nan_to_num(cohort.targets[task.name][[images[0] for images in samples]], nan=-1)
