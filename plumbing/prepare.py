"""What comes before the first step: flags -> cohort, split, tasks, input columns, model, and loaders.

`prepare` is the way from flags to all of it, for train.py; eval.py and --check take single steps of it.
"""
import re
from dataclasses import replace
from os.path import abspath, basename, dirname, exists, isfile, join, realpath
from types import SimpleNamespace

import numpy as np
import torch

from data import START, Samples, make_loader
from plumbing import parallel
from plumbing.cohort import Task, per_patient, targets_agree
from plumbing.columns import fit_columns, tabulate
from plumbing.command import in_one_line
from plumbing.device import count_cores
from plumbing.features import cached_features
from plumbing.flags import listed, read_args
from plumbing.headers import IMAGE_KINDS, axes_of, header_of
from plumbing.kernels import choose_kernels, uses_bfloat16
from plumbing.load_cohort import load_cohort
from plumbing.models import MODELS, build_model, defaults_of, images_of, seeing
from plumbing.reading import choose_window, look_before, notes_on_files, reading_of
from plumbing.resume import same_split, same_targets
from plumbing.simulate import COHORTS, make
from plumbing.splits import learned_copies, read_run_split, split_patients
from plumbing.tables import shortlist
from plumbing.targets import fit_tasks, put_positive_last, training_notes

# by the axes of the images: defaults of flags; and flags that do not apply, with the value they have then
CHANNELS = {2: 3, 3: 1}
AUGMENTED = {0: "none", 2: "crop,hflip", 3: "hflip,vflip,dflip"}
IDLE = {0: {"image": "64", "patch": "8", "augment": "none", "rotate": 0, "fit": "stretch", "cache": False},
        2: {},
        3: {"fit": "stretch"}}


def prepare(args, device):
    """-> everything that a training needs, by name."""
    cohort = load_data(args)
    headers = look_before(args, cohort)
    settle(args, cohort)
    cohort, indices, tasks, columns, notes = split_and_fit(args, cohort)
    window_notes = choose_window(args, cohort, headers, indices["train"])
    cohort, filled_in = tabulate(replace(cohort, tasks=tasks), columns)
    model, report = build_model(args, tasks, columns)
    model.to(device)
    options = run_options(args, model, cohort, device)
    train_images, unknown = usable(args, cohort, indices["train"])
    shape = {name: options[name] for name in ("size", "n", "r", "channels", "folder")}
    train = Samples(cohort, train_images, **shape, augment=listed(args.augment), rotate=args.rotate,
                    train=True, seed=args.seed)
    share = dict(workers=options["workers"], pin_memory=device.type == "cuda", rank=parallel.rank(),
                 world=parallel.world(), fill=args.compile)
    loader, batches = make_loader(train, args.batch_size, seed=args.seed, shuffle=True,
                                  classes=classes_of(args, cohort, train.samples), **share)
    val_loader, _ = make_loader(Samples(cohort, indices["val"], **shape), args.batch_size, **share)
    notes = notes + notes_on_files(headers, cohort, options["size"]) + window_notes + filled_in + unknown
    options["warnings"] = [note for note in notes if "WARNING" in note]        # the page repeats them
    options["seen_before"] = seen_before(args, cohort, indices)
    notes += [report, *options["seen_before"], options["kernels"]]
    return SimpleNamespace(
        cohort=cohort,
        indices=indices,             # {train, val, test: indices of images}
        tasks=tasks,
        model=model,
        options=options,             # see run_options
        loader=loader,               # of the training split
        batches=batches,             # its order: set .epoch and .start
        val_loader=val_loader,
        notes=notes)                 # lines for the log


def split_and_fit(args, cohort):
    """-> cohort, indices of the splits, tasks and columns with the statistics of the training images, notes;
    of a resumed run as it began."""
    tasks = columns = None
    if args.resume:
        cohort, tasks, columns = same_targets(cohort, args.resume)
    if args.resume and isfile(join(args.resume, "split.csv")):
        indices, notes = same_split(cohort, args.resume)
    else:
        indices, notes = split_patients(cohort, args.folds, args.fold, args.val, args.seed)
    if tasks is None:
        tasks = fit_tasks(cohort, indices["train"], args.positive_weight)
        columns = input_columns(args, cohort, indices["train"])
    return cohort, indices, tasks, columns, notes + training_notes(cohort, indices["train"])


# -----------------------------------------------------------------------------
# flags and data


def model_says(args, name, entry):
    """-> what the model's class method of that name says of the flags; where it has none, whether its inputs
    name this entry of a batch.

    by_patient: does a sample hold all images of a patient? needs_columns: does it see columns of a table?"""
    model_class = MODELS[args.model]
    if hasattr(model_class, name):
        return getattr(model_class, name)(args)
    return entry in model_class.inputs


def load_data(args, trains=True):
    """Flags -> Cohort. Models that see a patient at once need one target per patient, others none. trains: as
    in put_positive_last."""
    refuse_unwritable(map(str, vars(args).values()))               # args.json could not be read again
    print(f"reading {args.data}", flush=True)                      # at once: the first look may take minutes
    model_class = MODELS[args.model]
    own_loss = getattr(model_class, "own_loss", None)
    needs_targets = getattr(model_class, "needs_targets", own_loss is None)
    with parallel.first_here():  # one process makes or downloads what the others then find
        data = make(args.data, args.cache_dir) if args.data in COHORTS else args.data
        cohort = load_cohort(data, images=args.images, patient=args.patient_column, image=args.image_column,
                             target=args.target, split=args.split_column, uncertain=args.uncertain,
                             blank=args.blank, cache=args.cache_dir, regex=args.patient_regex,
                             missing=args.missing, needs_targets=needs_targets)
    put_positive_last(cohort, args.positive, trains)
    refuse_unwritable(cohort.patients + cohort.paths)
    cohort.reading = reading_of(args)
    if args.patient_target or model_says(args, "by_patient", "images"):
        cohort = per_patient(cohort, args.patient_target)
    if own_loss:
        # without targets the splits stay those of a run that learns the table's, where it has some
        tasks = cohort.tasks if needs_targets else []
        targets = {**cohort.targets, own_loss: np.zeros(len(cohort.paths), np.float32)}
        cohort = replace(cohort, tasks=[*tasks, Task(own_loss, "loss")], targets=targets,
                         dealt_by=cohort.tasks)
    return cohort


def own_data(saved, run):
    """-> the cohort that a run was trained on, None of COHORTS. ValueError where it is no longer at hand."""
    if saved.data in COHORTS:                                      # nobody else has these; none is drawn
        return None
    with in_one_line(f"the images that {run} learned from cannot be compared with these",
                     (ValueError, OSError)):
        return load_data(saved)


def refuse_unwritable(names):
    """ValueError where a name could not be written to predictions.csv, which is UTF-8."""
    for name in names:
        shown = name.encode(errors="backslashreplace").decode()
        if shown != name:
            raise ValueError(f"{shown}: the name is not UTF-8; rename the file or folder")


def settle(args, cohort):
    """Write into args what depends on the data: do its images have two axes or three or, bags, none?"""
    axes = axes_of(cohort)
    kind = f"{cohort.name} holds {IMAGE_KINDS[axes]}"
    if args.model not in seeing(axes):
        raise ValueError(f"{kind}, --model {args.model} takes none; use {' or '.join(seeing(axes))}")
    for flag, idle in IDLE[axes].items():
        value = getattr(args, flag, None) or idle
        if value != idle:
            raise ValueError(f"--{flag} {value}: {kind}, to which it does not apply")
    if axes == 0:
        args.image = args.patch = ""
    if not getattr(args, "pretrained", None):                      # a checkpoint brings its own
        args.channels = args.channels or CHANNELS.get(axes) or header_of(cohort, 0).shape[1]
        if axes == 3 and not args.image:                           # a model that takes images as they are
            args.image = "x".join(map(str, header_of(cohort, 0).shape[-3:]))
        elif axes == 2:
            args.image = args.image or "64"
    for flag in ("image", "patch"):
        value = getattr(args, flag, None)
        if isinstance(value, str):                                 # else an idea has a --patch of its own
            setattr(args, flag, pixels(value, axes, flag, kind))
    args.augment = args.augment or AUGMENTED[axes]
    if not args.batch_size:
        args.batch_size = 16 if axes else 1
        if model_says(args, "by_patient", "images"):
            args.batch_size = 4
    check_settled(args, axes)


def pixels(text, axes, flag, kind):
    """ "64" -> "64x64", or with three axes "64x64x64"; ValueError unless it fits the axes of the images."""
    sides = text.split("x")
    if len(sides) == 1:
        sides = sides * axes
    if len(sides) != axes or not all(map(re.compile("[1-9][0-9]{0,4}").fullmatch, sides)):
        raise ValueError(f"--{flag} {text}: {kind}, need one number of px from 1 to 99999 or {axes}, "
                         "as SIDE, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH")
    return "x".join(sides)


def check_settled(args, axes):
    """Refuse what does not go with the data."""
    least = args.accumulate * parallel.world()
    if args.batch_size < least:
        raise ValueError(f"--batch-size {args.batch_size}: {parallel.world()} processes with --accumulate "
                         f"{args.accumulate} need at least {least}")
    if args.cache and ("features" in MODELS[args.model].inputs
                       or axes == 3 and "crop" in listed(args.augment)):
        raise ValueError("--cache keeps images as the model sees them: a probe's are seen once, and their "
                         "features kept, and volumes cannot have --augment crop")
    if axes == 2 and (args.channels not in (None, 1, 3) or "dflip" in listed(args.augment)):
        raise ValueError(f"--channels {args.channels}, --augment {args.augment}: "
                         "pictures have 1 or 3 channels, and no depth to flip")


def input_columns(args, cohort, train):
    """--tabular, or what the simulated table offers to a model that needs columns -> [Column], with the
    statistics of the training images."""
    wanted = getattr(args, "tabular", None)
    if not wanted and model_says(args, "needs_columns", "tabular"):
        wanted = cohort.inputs
        if not wanted:
            raise ValueError(f"--model {args.model} needs --tabular COLUMN,..., what it sees beside the "
                             f"image; columns there are: {shortlist(cohort.columns)}")
    return fit_columns(cohort, wanted, train) if wanted else []


def usable(args, cohort, train):
    """-> the training images from which a model that sees one at a time can learn something, and a line about
    the others, if any."""
    values = [cohort.targets[task.name].reshape(len(cohort.paths), -1) for task in cohort.tasks]
    known = ~np.isnan(np.concatenate(values, 1)).all(1)            # one known label is enough
    if known.all() or model_says(args, "by_patient", "images"):
        return train, []
    return [i for i in train if known[i]], [
        f"{(~known).sum()} of {len(known)} images have no known target: they are predicted, but neither "
        "learned from nor scored"]


def classes_of(args, cohort, samples):
    """The class of every sample by the first task, -1 where it is unknown, to balance batches by; None: not
    balanced."""
    task = cohort.tasks[0]
    balanced = args.balanced
    if balanced is None:
        balanced = defaults_of(args.model)["balanced"] and task.kind == "classes"
    if not balanced:
        return None
    if task.kind != "classes":
        raise ValueError(f"--balanced: {task.name}, the first target, is a task of {task.kind}, need classes")
    return np.nan_to_num(cohort.targets[task.name][[images[0] for images in samples]], nan=-1)


def seen_before(args, cohort, indices):
    """Lines, where --pretrained is a run that learned from patients who are for val or test now, or began
    with such a run.

    They are known by their names where the run had the same table, and by their images, byte for byte,
    where it had another."""
    lines = []
    runs = []
    saved = args
    while True:
        run = run_around(getattr(saved, "pretrained", None) or "")
        if run is None or run in runs:                             # --overwrite can make a run its own start
            return lines
        runs.append(run)
        name = basename(abspath(run))
        learned = set()
        try:
            saved = read_args(run)
            if realpath(saved.data) == realpath(args.data):        # or the same name of a cohort
                learned = {patient for patient, split in read_run_split(run).items() if split == "train"}
            elif own := own_data(saved, run):
                learned = {cohort.patients[i] for _, i in learned_copies(own, run, cohort, ("train",))}
        except ValueError as error:                                # its paths are nobody else's business
            print(error)
            lines.append(f"WARNING: nobody can say whether {name}, from which it started, learned from "
                         "patients who are for val or test here")
        learned &= cohort.groups([*indices["val"], *indices["test"]]).keys()
        if learned:
            lines.append(f"WARNING: {name}, from which it started, learned from {len(learned)} patients who "
                         "are for val or test here; what is measured on them is too good (on one table the "
                         "same first --target, --fold and --seed deal alike)")


def run_around(name):
    """RUN, RUN:FILE, RUN/best or RUN/best/FILE -> RUN; None for what is in no run."""
    if not exists(name):
        name = name.rpartition(":")[0]
    for folder in (name, dirname(name), dirname(dirname(name))):
        if folder and isfile(join(folder, "split.csv")):
            return folder
    return None


# -----------------------------------------------------------------------------
# a model and a cohort together


def run_options(args, model, cohort, device):
    """What prediction needs to know of a run, as a dict."""
    seen = images_of(model.config)
    if len(seen.image) != axes_of(cohort):
        raise ValueError(f"{cohort.name} holds {IMAGE_KINDS[axes_of(cohort)]}, "
                         f"the model was made for {IMAGE_KINDS[len(seen.image)]}")
    if len(seen.image) == 2 and seen.channels not in (1, 3):
        raise ValueError(f"the checkpoint is for {seen.channels} channels, pictures have 1 or 3; "
                         "--channels 3 folds its patch kernel")
    workers = args.workers
    if workers is None:
        workers = min(8, count_cores())
        holds_gigabytes = cohort.pixels is not None or "features" in model.inputs
        if device.type == "cpu" or holds_gigabytes and START == "spawn":       # which sends them to each
            workers = 0
    kernels = choose_kernels(args, model, device)                  # this settles --amp
    return {
        "size": seen.image,
        "channels": seen.channels,
        "n": args.n if "images" in model.inputs else None,
        "r": args.r if "images_hr" in model.inputs else 1,
        "batch_size": args.batch_size,
        "workers": workers,
        "device": device,
        "autocast": torch.bfloat16 if uses_bfloat16(args, model, device) else None,
        "kernels": kernels,
        "by_image": "images" not in model.inputs and not targets_agree(cohort),
        "folder": args.cache_dir if args.cache else None,
    }


def add_features(args, model, cohort, options):
    """For a model with a frozen part, give the cohort what that part makes of its images."""
    if "features" not in model.inputs:
        return
    with parallel.first_here():
        features, note = cached_features(cohort, model, args.cache_dir, options["size"], options["channels"],
                                         options["device"], options["workers"])
    if model.config.head == "class":                               # no more is read than is used
        features = features[:, :1]
    cohort.features = features
    if listed(args.augment) or args.rotate:
        note += "; --augment and --rotate do not change them"
    print(note)
