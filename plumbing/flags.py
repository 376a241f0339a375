"""The command line of train.py: common flags, the model's own flags, ranges, and the flags of an earlier run.
"""
import argparse
import json
import os
import re
import sys
from attention import KINDS
from crossvit import FUSIONS as CROSS_FUSIONS, VARIANTS
from daft import ACTIVATIONS, FUSIONS as TABLE_FUSIONS, LOCATIONS
from lt_vit import LABEL_ATTENTION
from multivit import CLS_TOKENS, MODES
from probe import HEADS

from data import AUGMENT
from plumbing.targets import POLICIES
from vit import SIZES, SOFTMAX_FREE


SCRATCH = dict(size="micro", patch="8")                             # of a ViT with random weights; a checkpoint brings its own
OWN_FLAGS = {  # model: the flags that not every model has, and their defaults; with any other model they are an error
    "vit": {**SCRATCH, "tabular": None},
    "multivit": {**SCRATCH, "mode": "multi", "n": 3, "r": 1, "cls_token": "fused", "hidden": "256,128", "chunk": None},
    "crossvit": {"variant": "9", "fusion": "cross"},
    "lt_vit": {**SCRATCH, "label_layers": 4, "label_attention": "one-way", "shared_head": False},
    "q2l": {**SCRATCH},
    "daft": {"tabular": None, "fusion": "daft", "location": 2, "activation": "identity", "without": None, "identity_init": False,
             "width": 4},
    "probe": {"head": "tokens"},
    "cnn": {},
}
FUSIONS = {"crossvit": CROSS_FUSIONS, "daft": tuple(TABLE_FUSIONS)}
LR, BATCH, EPOCHS = {"daft": 5e-3}, {"daft": 32}, {"crossvit": 16}   # without a flag; others: 5e-4, 16 images, and 20 epochs
IMAGE = {"crossvit": "60", "cnn": "256", "daft": None}             # px without --image and --pretrained; others: 64; None: as it is


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    group = parser.add_argument_group("model")
    group.add_argument("--model", choices=OWN_FLAGS, default="multivit", help="see the file of that name")
    group.add_argument("--pretrained", help="weights to start from: Hub id ORG/NAME[@revision], folder, run folder, or file")
    group.add_argument("--size", choices=(*SIZES, *SOFTMAX_FREE), help="width, depth and heads of a ViT from scratch; default "
                       f"{SCRATCH['size']}; vit2d, vit3d and vit_wsi are the softmax-free paper's, with its image and patch")
    group.add_argument("--image", help="px, SIDE, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH; default 64 (crossvit: 60, cnn: 256, daft: volumes "
                       "as they are), or the checkpoint's")
    group.add_argument("--patch", help=f"P, px, as --image; default {SCRATCH['patch']}")
    group.add_argument("--channels", type=int, help="default 3 for pictures, 1 reads them as grey; volumes: 1; bags: as wide as their "
                       "vectors; or the checkpoint's")
    group.add_argument("--attention", choices=KINDS, default="softmax", help="see attention.py")
    group.add_argument("--dropout", type=float, default=0.1, help="after embedding, attention and MLP; the paper's 0.1")
    group.add_argument("--drop-path", type=float, default=0.0, help="stochastic depth")
    group.add_argument("--train-blocks", type=int, help="freeze all but the last k blocks of every ViT (MultiViT's paper: 5), or "
                       "encoders of CrossViT; default: train all")
    group = parser.add_argument_group("multivit")
    group.add_argument("--mode", choices=MODES, help="the paper's configurations, and joint; default multi")
    group.add_argument("--n", type=int, help="N, photographs of a patient seen together; default 3")
    group.add_argument("--r", type=int, help="R, resolution of stage 2 over that of stage 1; default 1")
    group.add_argument("--cls-token", choices=CLS_TOKENS, help="class token that enters stage 2: fused from those of stage 1 (released "
                       "code, default), or stage2, its own (paper's text)")
    group.add_argument("--chunk", type=int, help="photographs that stage 1 sees at a time; each such part is computed again for the gradient, so "
                       "that a step needs the memory of one part; default: all of the batch, once")
    group.add_argument("--hidden", help="units of the heads' hidden layers, task by task; default 256,128, the paper's best")
    group = parser.add_argument_group("crossvit")
    group.add_argument("--variant", choices=VARIANTS, help="row of the paper's Table 1; default 9")
    group.add_argument("--fusion", choices=[*CROSS_FUSIONS, *TABLE_FUSIONS], metavar="FUSION",
                       help=f"crossvit: {', '.join(CROSS_FUSIONS)} (the paper's Table 6), default cross; daft: {', '.join(TABLE_FUSIONS)} "
                       "(the paper's Table 2), default daft")
    group = parser.add_argument_group("daft, and vit with --tabular")
    group.add_argument("--tabular", help="columns the model sees beside the image: COLUMN[:number|category],...; default with daft: "
                       "those the simulated table offers")
    group.add_argument("--location", type=int, choices=LOCATIONS, help="where daft or film stands in the last block; default 2 (paper)")
    group.add_argument("--activation", choices=ACTIVATIONS, help="of the scale; default identity")
    group.add_argument("--without", choices=("scale", "shift"), help="alpha = 1, or beta = 0 (the paper's Table 3)")
    group.add_argument("--identity-init", action="store_true", default=None, help="alpha = 1 + ..., and starts as 1")
    group.add_argument("--width", type=int, help="n, maps of the first block; default 4, the paper's")
    group = parser.add_argument_group("lt_vit")
    group.add_argument("--label-layers", type=int, help="N2, last blocks in which label tokens take part; default 4, the paper's best")
    group.add_argument("--label-attention", choices=LABEL_ATTENTION, help="the paper's Table 3; default one-way")
    group.add_argument("--shared-head", action="store_true", default=None, help="one head for all labels, not one each")
    group = parser.add_argument_group("probe")
    group.add_argument("--head", choices=HEADS, help="what looks at the tokens of the frozen ViT, --pretrained; default tokens")
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="psoriasis", help="a simulated cohort (psoriasis, chest, brain, bag), a CSV, a folder of class folders, "
                       "medmnist:FLAG[:SIDE], or a public table with --images (nih, chexpert, vindr, isic, ham10000)")
    group.add_argument("--images", help="folder the table's image paths start from; default: the table's own")
    group.add_argument("--target", help="what to predict: COLUMN[:regression|classes|labels],..., or TIME/EVENT:survival with a "
                       "column of times and one that says whether the event came then (1) or had not yet (0)")
    for role in ("patient", "image", "split"):
        group.add_argument(f"--{role}-column", help=f"default: {role}{'_id' * (role == 'patient')}, or what the public table calls it"
                           + "; or a file, CLAM's splits_K.csv" * (role == "split"))
    group.add_argument("--patient-target", choices=("first", "mean", "max"), help="one target a patient where his images differ")
    group.add_argument("--uncertain", default="zeros", help=f"what a label of -1 (CheXpert) counts as: {', '.join(POLICIES)}; single "
                       "labels as zeros,Edema=ones")
    group.add_argument("--blank", default="zeros", help="what a blank CheXpert label counts as, said likewise; ignore: unknown")
    group.add_argument("--folds", type=int, default=5, help="patients are dealt into so many parts, one of them is the test split")
    group.add_argument("--fold", type=int, default=0, help="which part")
    group.add_argument("--val", type=float, default=0.125, help="share of the other patients that chooses the best epoch")
    group.add_argument("--augment", help=f"any of {','.join(AUGMENT)}, or none; crop: up to 10 %% of each border (MultiViT's paper); "
                       "default crop,hflip; of volumes hflip,vflip,dflip (the softmax-free paper); of a probe none")
    group.add_argument("--balanced", action=argparse.BooleanOptionalAction, help="as many of each class of the first target in a batch; "
                       "default: probe and cnn, where it has classes")
    group.add_argument("--cache-dir", default="data_cache", help="where simulated cohorts and downloads are kept")
    group.add_argument("--cache", action="store_true", help="keep what was decoded in CACHE_DIR/decoded, for all later epochs and runs; with "
                       "crop in --augment pictures are kept a little larger, and cut from there")
    group.add_argument("--workers", type=int, help="processes that read images; default 4, and 0 on a CPU, whose cores the model needs: there "
                       "a thread reads ahead")
    group = parser.add_argument_group("optimization")
    group.add_argument("--epochs", type=int, help=f"default 20 (crossvit: {EPOCHS['crossvit']}); MultiViT's paper: 300")
    group.add_argument("--batch-size", type=int, help="of a step, all processes together: patients (default 4), or images of a one-image model "
                       "(default 16; daft: 32), or bags (default 1)")
    group.add_argument("--accumulate", type=int, default=1, help="parts a process sees its share of the batch in, one after the other: less "
                       "memory, the same step (but for batch norm and survival, which see the part)")
    group.add_argument("--grad-checkpointing", action="store_true", help="compute every block again for the gradient instead of keeping what "
                       "it computed: less memory, a third more time, the same step")
    group.add_argument("--lr", type=float, help=f"peak of AdamW's learning rate; default 5e-4 (daft: {LR['daft']:g}); MultiViT's "
                       "paper, from pretrained weights: 1e-4")
    group.add_argument("--lr-end", type=float, default=1.25e-7, help="where the linear decay ends (paper)")
    group.add_argument("--warmup", type=float, default=2, help="epochs of linear rise; the paper: 0")
    group.add_argument("--weight-decay", type=float, default=0.01, help="of matrices only (paper)")
    group.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    group.add_argument("--seed", type=int, default=0, help="of split, weights, order, augmentation and dropout")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    group.add_argument("--amp", choices=("auto", "bf16", "off"), default="auto", help="mixed precision; auto: bf16 on CUDA, and on "
                       "CPUs that have it where it is faster")
    group.add_argument("--compile", action="store_true", help="torch.compile the model")
    group.add_argument("--deterministic", action="store_true", help="the same bits from every run on one kind of GPU, slower (a CPU "
                       "gives them anyway); an operation that PyTorch cannot do so on CUDA ends the run with its name (interpolation: "
                       "crossvit --fusion pairwise)")
    group.add_argument("--positive-weight", action="store_true", help="weigh a label's positives by negatives / positives of the "
                       "training split; its probabilities are then no longer calibrated")
    group = parser.add_argument_group("output")
    group.add_argument("--name", help="of the run folder below --runs; default: model, mode, N and R, and a number if taken")
    group.add_argument("--runs", default="runs", help="folder of run folders")
    group.add_argument("--overwrite", action="store_true", help="start anew in an existing run folder")
    group.add_argument("--resume", metavar="RUN", help="go on with this run folder, with the flags it was started with")
    return parser


def parse(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    typed = {token.split("=")[0] for token in (sys.argv[1:] if argv is None else argv) if token.startswith("--")}
    if args.resume:
        if extra := typed - {"--resume", "--device", "--workers"}:
            raise ValueError(f"--resume keeps the flags of the run; {sorted(extra)[0]} cannot change (only --device, --workers)")
        return resumed(args)
    for name in ("image", "patch"):
        if getattr(args, name) is None and args.size in SOFTMAX_FREE and SOFTMAX_FREE[args.size][name]:
            setattr(args, name, "x".join(map(str, SOFTMAX_FREE[args.size][name])))
    own, fixed = OWN_FLAGS[args.model], (*SCRATCH, "variant", "width")
    if args.model in ("probe", "cnn"):
        if wrong := typed & {"--attention", "--dropout", "--drop-path", "--train-blocks"}:
            raise ValueError(f"{min(wrong)} is for a ViT that is trained, not for --model {args.model}")
        if (args.model == "probe") != bool(args.pretrained):
            raise ValueError("--model probe needs --pretrained, the weights of the ViT to freeze" if args.model == "probe" else
                             "--pretrained: --model cnn starts from random weights")
    for name in {name for flags in OWN_FLAGS.values() for name in flags}:
        given, flag = getattr(args, name), "--" + name.replace("_", "-")
        if given is not None and name not in own:
            raise ValueError(f"{flag} belongs to --model {' or '.join(m for m in OWN_FLAGS if name in OWN_FLAGS[m])}, not to {args.model}")
        if name == "fusion" and given is not None and given not in FUSIONS[args.model]:
            raise ValueError(f"--fusion {given} is not of {args.model}; need one of {', '.join(FUSIONS[args.model])}")
        if given is not None and args.pretrained and name in fixed:
            raise ValueError(f"{flag} is fixed by --pretrained {args.pretrained}; leave it out")
        if given is None and name in own and not (args.pretrained and name in fixed):
            setattr(args, name, own[name])
    if args.chunk and args.mode == "joint":
        raise ValueError("--chunk: --mode joint has no stage 1, it sees all photographs at once")
    args.lr = LR.get(args.model, 5e-4) if args.lr is None else args.lr
    args.epochs = EPOCHS.get(args.model, 20) if args.epochs is None else args.epochs
    if not args.pretrained:
        args.image = args.image or IMAGE.get(args.model, "64")
    check_ranges(args)
    for name in ("attention", "dropout", "drop_path"):
        if args.model == "daft" and getattr(args, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} is of a ViT; daft has none")
    if args.fusion == "image" and args.tabular:
        raise ValueError("--fusion image sees no table; leave --tabular out")
    if args.fusion == "linear-features" and not args.pretrained:
        raise ValueError("--fusion linear-features needs --pretrained RUN, of --fusion image, whose features it takes")
    if wrong := [word for word in listed(args.augment) if word not in AUGMENT]:
        raise ValueError(f"--augment {args.augment}: {wrong[0]!r} is none of {', '.join(AUGMENT)}")
    return args


def check_ranges(args):
    for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("chunk", 1), ("channels", 1), ("folds", 2), ("workers", 0),
                        ("lr", 1e-12), ("warmup", 0), ("n", 1)):
        if (value := getattr(args, name)) is not None and not value >= least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: need at least {least}")
    for name in ("dropout", "drop_path", "val"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: need 0 <= x < 1")


def listed(text):
    return [] if text in (None, "", "none") else text.split(",")


def pixels(text, axes=2, flag="image"):
    """ "64" -> 64 px on every axis; "96x64" -> (height, width); "32x64x64" -> (depth, height, width)."""
    if not re.fullmatch(r"\d+(x\d+){0,2}", text):
        raise ValueError(f"--{flag} {text}: need SIDE, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH in px, e.g. 224, 256x192 or 32x256x256")
    sides = tuple(int(side) for side in text.split("x"))
    return sides * axes if len(sides) == 1 else sides


def read_args(run):
    """The flags of a run; someone may have edited them."""
    try:
        with open(os.path.join(run, "args.json"), encoding="utf-8") as file:
            args = argparse.Namespace(**{**vars(parse([])), **json.load(file)})              # a flag that came later has its default
        for flag in make_parser()._actions:
            value, kind = getattr(args, flag.dest, None), bool if flag.nargs == 0 else flag.type or str
            if value is not None and not isinstance(value, (float, int) if kind is float else kind) or flag.choices and value not in (
                    None, *flag.choices) or value is None and flag.default not in (None, argparse.SUPPRESS):
                raise ValueError(f"{flag.dest} cannot be {value!r}")
        check_ranges(args)
        return args
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{run}: no run folder, its args.json cannot be read ({error})") from error


def resumed(args):
    saved = read_args(args.resume)
    saved.resume, saved.device, saved.workers = args.resume, args.device, args.workers
    return saved
