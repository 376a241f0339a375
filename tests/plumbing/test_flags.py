"""plumbing/flags.py: what is wrong with the flags, or between them, ends in one line; sizes have names."""
import os

import pytest

from plumbing.cohort import Task
from plumbing.flags import parse
from plumbing.load_cohort import load_cohort
from plumbing.models import build_model, count
from plumbing.prepare import settle
from tests.small_runs import fails, flags

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


@pytest.mark.parametrize("more, message", (
    (("--model", "vit", "--r", "2"), "--r belongs to --model multivit"),
    (("--r", "3"), "--r 3 does not divide the patch grid"),
    (("--mode", "joint", "--r", "2"), "one resolution"),
    (("--image", "60"), "not a multiple of the patch"),
    (("--image", "big"), "--image big: photos holds pictures, need one number of px"),
    (("--n", "0"), "--n 0: need at least 1"),
    (("--r=-1",), "--r -1: need at least 1"),
    (("--clip=-1",), "--clip -1.0: need at least 0"),
    (("--clip", "inf"), "--clip inf: need at least 0, and less than inf"),
    (("--lr", "inf"), "--lr inf: need at least"),
    (("--lr", "nan"), "--lr nan: need at least"),
    (("--lr-end=-1",), "--lr-end -1.0: need at least 0"),
    (("--weight-decay=-1",), "--weight-decay -1.0: need at least 0"),
    (("--seed=-1",), "--seed -1: need at least 0"),
    (("--train-blocks=-1",), "--train-blocks -1: need at least 0"),
    (("--warmup", "3"), "--warmup 3: longer than the run, --epochs 2"),
    (("--epoch", "3"), "unrecognized arguments: --epoch; did you mean --epochs?"),
    (("--epochs", "many"), "argument --epochs: invalid int value: 'many'"),
    (("--hidden", "wide"), "need whole numbers"),
    (("--cls-token", "stage2", "--mode", "partial"), "--cls-token stage2 is of --mode multi, not of partial"),
    (("--epochs", "0"), "--epochs 0: need at least 1"),
    (("--dropout", "1.5"), "--dropout 1.5"),
    (("--augment", "blur"), "'blur' is none of"),
    (("--device", "tpu"), "--device tpu"),
    (("--device", "meta"), "--device meta: does not work here"),
    (("--train-blocks", "9"), "5 more than the model has"),
    (("--data", "nowhere.csv"), "no such file"),
    (("--data", "nih"), "needs --images"),
    (("--target", "pasi"), "no column 'pasi'"),
    (("--folds", "50"), "do not fill"),
    (("--fold", "7"), "--fold 7 of --folds 5"),
    (("--pretrained", "no/such/place"), "no such file or folder"),
    (("--pretrained", "x.bin", "--size", "tiny"), "--size tiny is fixed by --pretrained"),
    (("--resume", "runs/none"), "--resume keeps the flags"),
    (("--mode", "full"), "invalid choice: 'full'"),
    (("--tabular", "sex"), "--tabular belongs to --model vit or daft"),
    (("--model", "vit", "--tabular", "height"), "no column 'height'"),
    (("--model", "vit", "--tabular", "redness"), "redness is what is to be predicted"),
    (("--model", "vit", "--location", "1"), "--location belongs to --model daft"),
    (("--model", "crossvit", "--fusion", "film"), "argument --fusion: invalid choice: 'film' (choose from"),
    (("--model", "crossvit", "--patches", "8"), "--patches 8: need two numbers from 1, of S and L, e.g. 8,16"),
    (("--model", "crossvit", "--patches", "8,0"), "--patches 8,0: need two numbers"),
    (("--model", "crossvit", "--depths", "1,2,3"), "--depths 1,2,3: need two numbers"),
    (("--image", "99999999999"), "--image 99999999999: photos holds pictures, need one number of px from 1 to 99999 or 2"),
    (("--image", "0"), "--image 0: photos holds pictures, need one number"),
    (("--model", "vit", "--pretrained", ""), "--pretrained is empty"),
    (("--model", "vit", "--tabular", ""), "--tabular is empty"),
    (("--data", ""), "--data is empty; say which"),
    (("--name", ""), "--name is empty; say which"),
    (("--model", "vit", "--heads", "0"), "--heads 0: need at least 1"),
    (("--model", "q2l", "--decoder-layers", "0"), "--decoder-layers 0: need at least 1"),
    (("--model", "daft", "--width", "0"), "--width 0: need at least 1"),
    (("--model", "daft", "--width=-3"), "--width -3: need at least 1"),
    (("--model", "daft", "--patch", "8"), "--patch belongs to"),
    (("--model", "daft"), "--model daft needs --tabular"),
    (("--model", "daft", "--tabular", "sex", "--fusion", "image"), "--fusion image was given 2 columns of a table; image sees no table"),
    (("--model", "daft", "--tabular", "sex", "--fusion", "concat-1fc", "--location", "3"), "are of --fusion daft and film, not of concat-1fc"),
    (("--model", "daft", "--fusion", "image", "--without", "scale"), "are of --fusion daft and film, not of image"),
    (("--model", "daft", "--tabular", "sex", "--fusion", "linear-features"), "needs --pretrained RUN"),
    (("--model", "daft", "--dropout", "0.3"), "--dropout belongs to --model vit or multivit"),
    (("--model", "vit", "--target", "redness:survival"), "TIME/EVENT:survival (1: the event, 0: the last look)"),
    (("--model", "vit", "--target", "redness/sex:survival"), "which of F, M it is"),
), ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_mistake_ends_in_one_line_and_status_2(table, more, message, monkeypatch, capsys):
    """What was given and what is needed, no traceback, nothing written."""
    argv = [] if "--resume" in more else flags(table)
    if "daft" in more or "crossvit" in more:                       # they have patches of their own, or none
        argv = [x for i, x in enumerate(argv) if "--patch" not in (x, argv[i - 1])]
    if "--target" in more:
        argv[argv.index("--target"):argv.index("--target") + 2] = []
    elif more[0] in ("--data", "--target", "--image", "--epochs", "--device"):
        argv[argv.index(more[0]):argv.index(more[0]) + 2] = []
    if more[0] == "--pretrained":
        argv = [x for i, x in enumerate(argv) if not {"--image", "--patch"} & {x, argv[i - 1]}]
    if more[0] == "--resume":
        more = (*more, "--lr", "3")
    assert message in fails([*argv, *more], monkeypatch, capsys)
    assert not os.path.exists("runs")


def test_the_papers_sizes_are_named(slides):
    """--size vit_wsi, vit3d and vit2d bring the widths of the paper, and its image and patch where the data have pixels."""
    args = parse(["--model", "vit", "--size", "vit_wsi", "--attention", "seqnorm"])
    settle(args, load_cohort(slides))
    model, _ = build_model(args, [Task("y", "regression")])
    assert count(model) == 4_210_689 - (2048 - 64) * 512     # the simulated vectors are 64 wide, RetCCL's 2048
    args = parse(["--model", "vit", "--size", "vit3d"])
    assert (args.image, args.patch) == ("32x256x256", "4x16x16")
    assert parse(["--model", "vit", "--size", "vit2d", "--image", "64"]).image == "64"


@pytest.mark.parametrize("flag, message", (("--epochs=0", "--epochs 0: need at least 1"), ("--workers=-1", "--workers -1: need at least 0")))
def test_resume_takes_no_number_that_means_nothing(flag, message):
    """Nor is it passed over."""
    with pytest.raises(ValueError, match=message):
        parse(["--resume", "runs/none", flag])


def test_resume_of_a_variable_that_is_not_set_starts_nothing():
    """--resume "$RUN" without RUN is no new training of the default model."""
    with pytest.raises(ValueError, match="'': no run folder .it holds no args.json"):
        parse(["--resume", ""])
    with pytest.raises(ValueError, match="--resume keeps the flags of the run; --model cannot change"):
        parse(["--model", "vit", "--resume", ""])
