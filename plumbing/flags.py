"""The command line of train.py: the flags that every model has, and how a model's own flags join them.

--model is read first, and only the flags of that model exist then: those of another one are refused, with
the name of the model that they belong to. What depends on the data is settled later, in prepare.py.
"""
import argparse
import math
from os.path import isfile, join

from daft import DAFTViT
from data import AUGMENT
from plumbing.checkpoints import read_json
from plumbing.command import Parser, in_one_line, number_or_all, refuse_empty
from plumbing.fit import FITS
from plumbing.grey import parse_window
from plumbing.inside import say_outside, stay_inside
from plumbing.models import MODELS, defaults_of
from plumbing.target_kinds import POLICIES
from plumbing.words import MISSING

DEFAULT_MODEL = "multivit"
LEAST = {"folds": 2, "lr": 1e-12}
LEAST |= dict.fromkeys("""epochs batch_size accumulate channels heads width ff decoder_layers encoders
    cross_depth n r chunk""".split(), 1)
LEAST |= dict.fromkeys("""lr_end warmup weight_decay clip rotate fold val workers seed figures dropout
    drop_path train_blocks label_layers decoder_heads encoder_layers""".split(), 0)
LIMITS = {"dropout": 1, "drop_path": 1, "val": 1}                  # others: infinity

# -----------------------------------------------------------------------------
# the flags


def make_parser(model=DEFAULT_MODEL):
    """The parser for one model: the common flags, then its own."""
    defaults = defaults_of(model)
    parser = Parser(
        "Train any model of this project on any cohort, test it, and leave a run folder.",
        epilog="Flags of another model: python train.py --model NAME --help.")
    add_model_flags(parser.add_argument_group("model").add_argument, defaults)
    own = parser.add_argument_group(f"--model {model}")
    add_data_flags(parser.add_argument_group("data").add_argument)
    add_optimization_flags(parser.add_argument_group("optimization").add_argument, defaults)
    add_machine_flags(parser.add_argument_group("machine").add_argument)
    add_output_flags(parser.add_argument_group("output").add_argument)
    MODELS[model].add_flags(own)                                   # it may change the defaults of others
    if model == "vit":                                             # with --tabular it becomes a DAFTViT
        DAFTViT.add_flags(own)
    return parser


def add_model_flags(add, defaults):
    image = defaults["image"] or "that of the volumes"
    add(
        "--model", choices=MODELS, default=DEFAULT_MODEL,
        help="see the file of that name; cnn: probe.py")
    add(
        "--image",
        help=f"px: SIDE, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH; default {image}, or the checkpoint's")
    add(
        "--channels", type=int,
        help="default 3 for pictures, 1 reads them as grey; 1 for volumes; for bags the width of their "
             "vectors; or the checkpoint's")


def add_data_flags(add):
    add(
        "--data", default="psoriasis",
        help="a simulated cohort (psoriasis, chest, brain, bag), a CSV, a folder of class folders, "
             "medmnist:FLAG[:SIDE], or a public table with --images (python -m "
             "plumbing.public_tables lists them)")
    add(
        "--images",
        help="folder that the table's image paths start from; default: the table's own")
    add(
        "--target",
        help="what to predict: COLUMN[:regression|classes|labels],..., or TIME/EVENT:survival with a "
             "column of times and one that says whether the event came then (1) or had not yet (0)")
    add("--patient-column", help="default: patient_id, patient ..., or as the public table says")
    add(
        "--patient-regex", metavar="REGEX",
        help="which part of that column or of patient_id, else of the path of an image, names the patient: "
             "the first group of a regular expression, e.g. '(S[0-9]+)_'")
    add("--image-column", help="default: image, or what the public table calls it; A,B where a row has two")
    add(
        "--split-column",
        help="column of the official split, or CLAM's file splits_K.csv; default: split; none: deal anew")
    add(
        "--patient-target", choices=("first", "mean", "max"),
        help="one target per patient where the images of a patient differ")
    add(
        "--uncertain", default="zeros",
        help=f"what a label of -1 (CheXpert) counts as: {', '.join(POLICIES)}; single labels as "
             "zeros,Edema=ones")
    add(
        "--blank", default="zeros",
        help="what a blank CheXpert label counts as, written likewise; elsewhere only for labels named here")
    add(
        "--missing", default=MISSING, metavar="WORD,...",
        help="words that count as a blank, in small letters; default,WORD adds one, an empty text takes all "
             "away; default: nan, na, n/a, none, -, ? and the like, MISSING in plumbing/words.py")
    add(
        "--positive", metavar="CLASS",
        help="of a target with two classes the one to be detected; by default the usual names decide (yes, "
             "malignant, 1), else it is the second")
    add(
        "--folds", type=int, default=5,
        help="patients are dealt into this many parts, of which one is the test split")
    add(
        "--fold", type=number_or_all, default=0,
        help="which part is the test split, from 0; all: each in turn, as runs NAME-fold0 and so on")
    add(
        "--val", type=float, default=0.125,
        help="share of the other patients that chooses the best epoch")
    add(
        "--fit", choices=FITS, default="stretch",
        help="what becomes of a picture of another shape than --image: stretched, all of it with black "
             "borders, or its middle")
    add(
        "--window", default="auto",
        help="which numbers become 0 .. 255 where images hold more than 8 bits: CENTER,WIDTH (after = "
             "where it starts with a minus); own: from each image's lowest to its highest; auto: the "
             "window that all DICOM files state, else 99 %% of the numbers of the training images")
    add(
        "--check-files", action=argparse.BooleanOptionalAction, default=True,
        help="look at the header of every image before the first step")
    add(
        "--augment",
        help=f"any of {','.join(AUGMENT)}, or none; crop: up to 10 %% of each border (MultiViT's "
             "paper); default crop,hflip; volumes: hflip,vflip,dflip (the softmax-free paper); a "
             "probe: none")
    add(
        "--rotate", type=float, default=0, help="turn training images by up to so many degrees")
    add(
        "--balanced", action=argparse.BooleanOptionalAction,
        help="equally many of each class of the first target in a batch; default: probe and cnn, where "
             "it has classes")
    add(
        "--cache-dir", default="data_cache",
        help="where simulated cohorts, downloads, decoded images and features are kept")
    add(
        "--cache", action="store_true",
        help="keep decoded images in CACHE_DIR/decoded for all later epochs and runs; with crop in "
             "--augment pictures are kept a little larger, and cut from there")
    add("--check", action="store_true", help="show how the data is understood, and stop")


def add_optimization_flags(add, defaults):
    add("--epochs", type=int, help=f"default {defaults['epochs']}; MultiViT's paper: 300")
    add(
        "--batch-size", type=int,
        help="samples per step, all processes together; default 16 images, 4 patients for MultiViT, 32 "
             "images for daft, 1 bag")
    add(
        "--accumulate", type=int, default=1,
        help="parts in which a process sees its share of a batch, one after the other: less memory, "
             "the same step (but batch norm and survival see the part)")
    add(
        "--grad-checkpointing", action="store_true",
        help="compute every block again for the gradient instead of keeping what it computed: less "
             "memory, a third more time, the same step")
    add(
        "--lr", type=float,
        help=f"peak of the learning rate; default {defaults['lr']:g}; MultiViT's paper, from "
             "pretrained weights: 1e-4")
    add(
        "--lr-end", type=float, default=1.25e-7,
        help="where the linear decay ends (MultiViT's paper)")
    add(
        "--warmup", type=float, default=2,
        help="epochs of linear rise; MultiViT's paper: 0")
    add(
        "--weight-decay", type=float, default=0.01,
        help="of matrices only (MultiViT's paper)")
    add("--optimizer", choices=("AdamW", "Adam"), default="AdamW", help="Adam: the paper on probes")
    add(
        "--clip", type=float, default=1.0,
        help="largest norm of the gradient; 0: no limit")
    add(
        "--select", metavar="METRIC",
        help="metric of the first target on the validation patients that chooses the best epoch, e.g. "
             "balanced_accuracy; default: auroc of classes and labels, mae of numbers, c_index of survival")
    add(
        "--positive-weight", action="store_true",
        help="weigh a label's positives by negatives / positives of the training split; its "
             "probabilities are then no longer calibrated")
    add(
        "--seed", type=int, default=0,
        help="of split, weights, order, augmentation and dropout")


def add_machine_flags(add):
    add("--device", default="auto", help="auto, cpu, cuda, mps")
    add(
        "--workers", type=int,
        help="processes that read images; default 8, or as many as there are cores, and 0 on a CPU, whose "
             "cores the model needs: there a thread reads ahead")
    add(
        "--amp", choices=("auto", "bf16", "off"), default="auto",
        help="mixed precision; auto: bf16 on CUDA from a width of 384 on, and on a CPU where it is measured "
             "to be faster")
    add(
        "--kernels", choices=("auto", "mkl", "onednn"), default="auto",
        help="of float32 products on a CPU; auto: what is faster, measured at the start")
    add(
        "--compile", action="store_true",
        help="torch.compile the model: it takes a minute; on CUDA a small model is then 4 times as fast")
    add(
        "--deterministic", action="store_true",
        help="the same bits from every run on one kind of GPU, slower (a CPU gives them anyway); an "
             "operation that cannot do so on CUDA ends the run with its name")


def add_output_flags(add):
    add(
        "--name",
        help="of the run folder below --runs; default: model, mode, N and R, and a number if taken")
    add("--runs", default="runs", help="folder of run folders")
    add("--overwrite", action="store_true", help="start anew in an existing run folder")
    add(
        "--resume", metavar="RUN",
        help="go on with this run folder, with the flags it was started with; with more --epochs it "
             "goes on for longer")


# -----------------------------------------------------------------------------
# reading and checking them


def parse(argv):
    """Words of a command line -> args, checked as far as that is possible without the data."""
    first = Parser(add_help=False)
    first.add_argument("--model", choices=MODELS, default=DEFAULT_MODEL)
    model = first.parse_known_args(argv)[0].model
    parser = make_parser(model)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].split("=")[0]
        owners = [name for name in MODELS if flag in make_parser(name)._option_string_actions]
        if owners:
            raise ValueError(f"{flag} belongs to --model {' or '.join(owners)}, not to {model}")
        raise ValueError(parser.refusal(unknown[0]))
    check_ranges(args)
    if args.resume is not None:                                    # "" of a variable that is not set
        typed = {token.split("=")[0] for token in argv if token.startswith("--")}
        changed = sorted(typed - {"--resume", "--device", "--workers", "--epochs"})
        if changed:
            raise ValueError(f"--resume keeps the flags of the run; {changed[0]} cannot change "
                             "(only --device, --workers, --epochs)")
        return resumed(args)
    refuse_empty(args, ("augment", "missing"))
    fill_in(args)
    parse_window(args.window)
    if args.warmup > max(2, args.epochs):                          # 2 is the default, also of one epoch
        raise ValueError(f"--warmup {args.warmup:g}: longer than the run, --epochs {args.epochs}")
    for word in listed(args.augment):
        if word not in AUGMENT:
            raise ValueError(f"--augment {args.augment}: {word!r} is none of {', '.join(AUGMENT)}")
    return args


def resumed(args):
    """The flags of the run in --resume; those that may change as they are typed now, else as they were."""
    saved = read_args(args.resume)
    saved.resume = args.resume
    stay_inside(saved, args.resume)
    say_outside(saved.data, args.resume)
    if args.epochs:
        if args.epochs < saved.epochs:
            raise ValueError(f"--epochs {args.epochs}: the run was started for {saved.epochs}, "
                             "with --resume it can only go on for longer")
        saved.epochs = args.epochs
    if args.device != "auto":
        saved.device = args.device
    if args.workers is not None:
        saved.workers = args.workers
    return saved


def fill_in(args):
    """Defaults that depend on the model, and the model's own look at its flags."""
    model_class = MODELS[args.model]
    if hasattr(model_class, "check_flags"):
        model_class.check_flags(args)
    waits = ["balanced"]                                           # for the tasks
    if getattr(args, "pretrained", None):
        waits.append("image")                                      # for the checkpoint
    for name, default in defaults_of(args.model).items():
        if getattr(args, name) is None and name not in waits:
            setattr(args, name, default)


def check_ranges(args):
    for name, least in LEAST.items():
        value = getattr(args, name, None)
        limit = LIMITS.get(name, math.inf)
        if type(value) in (int, float) and not least <= value < limit:
            raise ValueError(f"--{name.replace('_', '-')} {value}: need at least {least}, "
                             f"and less than {limit}")


def listed(text):
    """ "a,b" -> ["a", "b"]; "none", "" and None -> []."""
    return [] if text in (None, "", "none") else text.split(",")


# -----------------------------------------------------------------------------
# the flags of a run that there is


def read_args(run):
    """args.json of a run folder -> args; ValueError where someone has edited it into nonsense.

    A flag that came later has its default; one that the model does not have (earlier versions wrote them
    all) is left out."""
    path = join(run, "args.json")
    if not isfile(path):
        raise ValueError(f"{run or repr(run)}: no run folder (it holds no args.json)")
    with in_one_line(f"{run}: its args.json cannot be read"):
        saved = read_json(path)
        if saved.get("model") not in MODELS:
            raise ValueError(f"model cannot be {saved.get('model')!r}")
        saved.setdefault("window", "own")                          # all that there was before --window
        parser = make_parser(saved["model"])
        args = parser.parse_args([])
        for flag in parser._actions:
            if flag.dest in saved:
                check_value(flag, saved[flag.dest])
                setattr(args, flag.dest, saved[flag.dest])
        check_ranges(args)
        return args


def check_value(flag, value):
    """ValueError unless a value from args.json is one that the flag could have."""
    kind = {None: str, float: (float, int), number_or_all: int}.get(flag.type, flag.type)
    if flag.nargs == 0:
        kind = bool
    elif flag.nargs or not isinstance(kind, type | tuple):         # a list, or what a function made of a word
        return
    fine = isinstance(value, kind) and (not flag.choices or value in flag.choices)
    if not fine and (value is not None or flag.default is not None):
        raise ValueError(f"{flag.dest} cannot be {value!r}")
