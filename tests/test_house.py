"""The house: which files stand where, who may import whom, how a new idea is added, and that the code stays plain."""
import ast
import functools
import importlib
import json
import os
import shlex
import sys
from pathlib import Path

import pytest

import eval as evaluation_program
import train
from plumbing.models import MODELS
from vit import ViT

ROOT = Path(__file__).resolve().parent.parent
IDEAS = {"attention", "attention_filter"} | {model_class.__module__ for model_class in MODELS.values()}
MAY_SERVE_IDEAS = {"plumbing.weights", "plumbing.variants", "plumbing.stages", "plumbing.fusions", "plumbing.sizes",
                   "plumbing.checks"}
ROOMS = ("plumbing", "evaluation", "experiments")
THIRD_PARTY = {"torch", "numpy", "PIL", "safetensors", "huggingface_hub"}
READERS = {"plumbing.dicom": "pydicom", "plumbing.nifti": "nibabel"}   # file -> what reads the foreign format, where it is installed
PEERS = {"timm", "transformers"}                                   # timed by experiments/


def sources():
    """{dotted name: path} of every source file of the project."""
    files = list(ROOT.glob("*.py"))
    for room in ROOMS:
        files += (ROOT / room).glob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@functools.cache
def imports():
    """{dotted name: what `imported` says of the file}, parsed once for all tests."""
    files = sources()
    return {name: imported(path, files) for name, path in files.items()}


def imported(path, files):
    """The project's files that a file imports, imports inside functions included; and the names of all other modules."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [[f"{node.module}.{alias.name}", node.module] for alias in node.names]
        for names in modules:
            known = [name for name in names if name in files]
            if known:
                inside.add(known[0])
            else:
                outside.add(names[-1].split(".")[0])
    return inside - set(ROOMS), outside


def room_of(name):
    if name in IDEAS:
        return "ideas"
    return name.split(".")[0]


def test_the_ground_floor_is_the_ideas_and_the_three_files_that_run_them():
    """`ls *.py` shows what a visitor came for, and nothing else."""
    assert {path.stem for path in ROOT.glob("*.py")} == IDEAS | {"data", "train", "eval"}


def test_each_room_lists_its_files():
    """The first file of a room is a map of it: every file stands there once."""
    for room in ROOMS:
        listed = (ROOT / room / "__init__.py").read_text(encoding="utf-8")
        files = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
        rows = [line.strip().split("  ")[-1] for line in listed.splitlines() if line.startswith("    ")]
        assert sorted(" ".join(rows).split()) == sorted(files)


def beginning(name, files):
    """An idea, and all files that it imports at its top: {dotted name}."""
    names = {name}
    for node in ast.parse(files[name].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module in files:
            names |= beginning(node.module, files)
    return names


@pytest.mark.parametrize(("idea", "most"), (("lt_vit", 650), ("q2l", 650), ("multivit", 800), ("crossvit", 800)))
def test_an_idea_is_read_in_one_sitting(idea, most):
    """Lines of its file and of what that imports at its top."""
    files = sources()
    assert sum(len(files[name].read_text(encoding="utf-8").splitlines()) for name in beginning(idea, files)) <= most


def test_arrows_point_one_way():
    """Ideas know ideas and, of plumbing, what pretrained weights need (weights, variants, stages), what CrossViT is compared with
    (fusions), published sizes (sizes) and what refuses a configuration (checks). Each room knows only what stands
    before it; nobody knows experiments."""
    may_know = {
        "ideas": {"ideas"},
        "data": {"plumbing"},
        "plumbing": {"plumbing", "ideas", "data"},
        "evaluation": {"evaluation", "plumbing", "ideas", "data"},
        "eval": {"evaluation", "plumbing", "ideas", "data"},
        "train": {"eval", "evaluation", "plumbing", "ideas", "data"},
        "experiments": {"experiments", "train", "eval", "evaluation", "plumbing", "ideas", "data"},
    }
    for name, (inside, _) in imports().items():
        for other in inside:
            allowed = room_of(other) in may_know[room_of(name)]
            if name in IDEAS and other in MAY_SERVE_IDEAS:
                allowed = True
            assert allowed, f"{name} imports {other}"


def test_no_circle():
    """No file needs itself, imports inside functions included (an idea's way to its pretrained weights is followed too)."""
    arrows = {name: inside for name, (inside, _) in imports().items()}

    def walk(name, path):
        assert name not in path, " -> ".join([*path, name])
        for other in arrows[name]:
            if other not in done:
                walk(other, [*path, name])
        done.add(name)

    done = set()
    for name in arrows:
        walk(name, [])


def test_no_other_packages():
    """What requirements.txt names and the standard library; timm and transformers only where experiments time them."""
    for name, (_, outside) in imports().items():
        for module in outside:
            known = module in THIRD_PARTY or module in sys.stdlib_module_names or module in ROOMS
            assert known or READERS.get(name) == module or module in PEERS and room_of(name) == "experiments", f"{name} imports {module}"


# -----------------------------------------------------------------------------
# a new idea is one file and one line

TOY = '''"""GAP: the head reads the mean of the patch tokens instead of the class token."""
from dataclasses import dataclass

from torch import nn

from vit import ViT, ViTConfig, make_heads


@dataclass(frozen=True)
class GAPConfig:
    vit: ViTConfig
    power: float = 1.0               # the mean is taken of token ** power


class GAP(nn.Module):
    Config = GAPConfig
    inputs = ("image",)

    def __init__(self, config, tasks):
        super().__init__()
        self.config = config
        self.vit = ViT(config.vit)
        self.head = make_heads(config.vit.dim, tasks)

    def forward(self, image):
        tokens = self.vit.encode(self.vit.embed(image))[:, 1:]
        mean = tokens.pow(self.config.power).mean(1)
        return {"logits": {task: head(mean) for task, head in self.head.items()}}

    @staticmethod
    def add_flags(group):
        group.add_argument("--power", type=float, default=1.0, help="exponent of the tokens, then their mean")
        ViT.add_flags(group)

    check_flags = ViT.check_flags

    @classmethod
    def from_args(cls, args, tasks):
        vit = ViT.from_args(args)
        model = cls(GAPConfig(vit.config, args.power), tasks)
        model.vit, model.report = vit, vit.report
        return model
'''


def test_the_readme_names_what_a_new_idea_offers():
    """Everything that the toy's class has, __init__ aside, stands in the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for node in ast.parse(TOY).body[-1].body:
        name = node.targets[0].id if isinstance(node, ast.Assign) else node.name
        assert name == "__init__" or f"`{name}" in readme, name


def called(capsys, command):
    """-> what a program says, and the line it ends with if it refuses."""
    program, *argv = shlex.split(command)
    refusal = None
    try:
        {"train": train, "eval": evaluation_program}[program].main(argv)
    except (ValueError, SystemExit) as error:
        refusal = str(error)
    return capsys.readouterr().out, refusal


@pytest.fixture
def add(quiet, monkeypatch, tmp_path):
    """add(toy): its file and its line, as a fork has them."""
    def write(toy):
        (tmp_path / "gap.py").write_text(toy)
        monkeypatch.setitem(MODELS, "gap", importlib.import_module("gap").GAP)               # the line

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop("gap", None)


def test_a_new_idea_is_one_file_and_one_line(table, add, tmp_path, capsys):
    """The toy trains, is evaluated, predicts, is exported, and is a starting point; its flag is refused elsewhere."""
    add(TOY)
    small = f"--data {shlex.quote(table)} --target dot,bar --image 16 --epochs 1 --device cpu --workers 0"
    for command, text in {
            f"train --model gap --power 2 --patch 8 {small} --name toy": "the whole run is in runs/toy",
            "eval runs/toy --device cpu": "test: ",
            f"eval runs/toy --predict {shlex.quote(table)} --out new.csv --device cpu": "patients in new.csv",
            "eval runs/toy --export hub": "holds the model",
            f"train --model lt_vit --label-layers 2 --pretrained runs/toy {small} --name b": "only the vit of its gap"}.items():
        said, refusal = called(capsys, command)
        assert text in said and refusal is None, f"{command}: {said} {refusal}"
    assert (tmp_path / "runs/toy/report.html").is_file()
    for command, text in {
            f"train --model vit --power 2 {small}": "--power belongs to --model gap, not to vit",
            "train --model gap --fusion cross": "--fusion belongs to --model crossvit or daft, not to gap"}.items():
        said, refusal = called(capsys, command)
        assert text in refusal, f"{command}: {said} {refusal}"
    assert "exponent of the tokens" in called(capsys, "train --model gap --help")[0]


def changed(*pairs):
    """The toy, with a text replaced by another, pair by pair."""
    toy = TOY
    for old, new in pairs:
        assert old in toy
        toy = toy.replace(old, new)
    return toy


HEAD = "        self.head = make_heads(config.vit.dim, tasks)\n"
FLAGS = "        ViT.add_flags(group)\n"
INPUTS = '    inputs = ("image",)\n'
FORWARD = "    def forward(self, image):\n"
OWN_LOSS = changed(
    (INPUTS, INPUTS + '    own_loss = "size"\n    needs_targets = True\n'),
    ("for task, head in self.head.items()}}", "for task, head in self.head.items()} | {self.own_loss: mean.square().mean(1)[:, None]}}"))
ODD_STATE = changed(                                               # a mask, infinities, and weights in two places
    ("from torch import nn", "import torch\nfrom torch import nn"),
    (HEAD, HEAD + """        self.register_buffer("mask", torch.ones(2, dtype=torch.bool))
        self.mix = nn.Linear(4, 4)
        self.again = self.mix
"""))
OTHER_FLAGS = changed((FLAGS, FLAGS + """        group.set_defaults(weight_decay=0.5)
        group.add_argument("--low", type=float, default=-1.5, help="below 0")
        group.add_argument("--steps", type=int, nargs="+", default=[1], help="several")
        group.add_argument("--pair", type=lambda text: text.split(","), help="made by a function")
"""))
TYPED = changed(
    ("from dataclasses import dataclass", "from __future__ import annotations\n\nfrom dataclasses import dataclass"),
    ("    power: float = 1.0 ", "    window: tuple[int, int] = (2, 2)\n    power: float = 1.0 "),
    ("GAPConfig(vit.config, args.power)", "GAPConfig(vit.config, power=args.power)"),
    ("        self.config = config\n", "        self.config = config\n        assert isinstance(config.window, tuple) and config.vit.grid\n"))
OWN_PATCH = changed((FLAGS, '        group.add_argument("--patch", type=int, default=8, help="px")\n'), ("        vit = ViT.from_args(args)\n", "        assert args.patch == 8\n        vit = ViT(ViTConfig(sides(args.image), (8, 8), dim=32, depth=1, heads=1))\n"),
                    ("vit.report", '"none"'), ("    check_flags = ViT.check_flags\n", ""), ("from vit import", "from plumbing.sizes import sides\nfrom vit import"))
NO_MAP = changed(("for task, head in self.head.items()}}", 'for task, head in self.head.items()}, "map": None, "token": tokens}'))


@pytest.mark.parametrize(("toy", "flags"), ((OWN_LOSS, ""), (ODD_STATE, ""), (NO_MAP, ""), (OWN_PATCH, ""), (TYPED, ""), (OTHER_FLAGS, "--low -2 --steps 3 4 --pair a,b")))
def test_a_new_idea_may_be_otherwise(table, add, capsys, toy, flags):
    """A loss of its own beside the targets', odd buffers and shared weights, flags of any kind: it is saved, opened and resumed."""
    add(toy)
    for command in (f"train --model gap --patch 8 --data {shlex.quote(table)} --target dot,bar --image 16 --epochs 1 --device cpu --name t {flags}",
                    "train --resume runs/t --epochs 2", "eval runs/t --device cpu"):
        _, refusal = called(capsys, command)
        assert refusal is None, refusal
    args = json.loads(Path("runs/t/args.json").read_text())
    assert toy is not OTHER_FLAGS or (args["low"], args["steps"], args["weight_decay"]) == (-2, [3, 4], 0.5)
    assert ("size" in json.loads(Path("runs/t/metrics.json").read_text())) == (toy is OWN_LOSS)


def test_what_a_new_idea_forgets_is_said_before_it_trains(table, add, capsys):
    """A flag that is not saved, random numbers in evaluation, defaults that nobody reads, a table, differing targets of a patient."""
    small = f"train --model gap --patch 8 --data {shlex.quote(table)} --image 16 --epochs 1 --device cpu --overwrite --name t"
    unsaved = changed(("self.config.power", "self.power"), (INPUTS, INPUTS + "    power = 1.0\n"),
                      ("        model.vit, ", "        model.power = args.power\n        model.vit, "))
    add(unsaved)
    assert called(capsys, f"{small} --target dot,bar --power 2")[1].startswith("the model predicts something else once it is saved")
    assert sorted(os.listdir("runs/t")) == ["args.json", "lock", "log.csv", "split.csv"]
    assert called(capsys, f"{small} --target dot,bar")[1] is None
    sys.modules.pop("gap")
    add(changed((FORWARD, FORWARD + "        image = image.roll(int(torch.rand(1) * 9) + 1, -1)\n"), ("from torch import nn", "import torch\nfrom torch import nn")))
    assert called(capsys, f"{small} --target dot,bar")[1].startswith("the model predicts something else once it is saved")
    sys.modules.pop("gap")
    add(changed((INPUTS, INPUTS + '    defaults = {"weight_decay": 0.5}\n')))
    assert "its `defaults` cannot be of {'weight_decay'}" in called(capsys, f"{small} --target dot,bar")[1]
    sys.modules.pop("gap")
    add(changed((INPUTS, '    inputs = ("image", "tabular")\n')))
    assert called(capsys, f"{small} --target dot,bar")[1].startswith("--model gap needs --tabular COLUMN")
    sys.modules.pop("gap")
    add(changed(("for task, head in self.head.items()}}", 'for task, head in self.head.items()}, "map": tokens[:, :, 0]}')))
    assert called(capsys, f"{small} --target dot,bar")[1].startswith("a model's map: need (B, H, T), T for the patches of")
    sys.modules.pop("gap")
    rows = Path(table).read_text().splitlines()
    *cells, bar, sex = rows[-1].split(",")
    rows[-1] = ",".join([*cells, str(1 - int(bar)), sex])
    other = Path(table).with_name("other.csv")
    other.write_text("\n".join(rows))
    add(changed((INPUTS, '    inputs = ("images", "present")\n'), (FLAGS, FLAGS + '        group.add_argument("--n", type=int, default=2, help="photographs")\n')))
    assert "has images with different targets for" in called(capsys, small.replace(table, str(other)) + " --target dot,bar")[1]


def test_a_kind_of_vit_is_not_exported_as_one(table, quiet, monkeypatch, capsys):
    """A class made from ViT computes something else: transformers would open it, and give other logits."""
    class Widest(ViT):
        def pool(self, x, tokens, mask=None):
            return tokens[:, 1:].max(1).values

    monkeypatch.setitem(MODELS, "widest", Widest)
    assert called(capsys, f"train --model widest --patch 8 --data {shlex.quote(table)} --target grade:classes --image 16 --epochs 1 --device cpu --name w")[1] is None
    assert called(capsys, "eval runs/w --export hub")[0].startswith("`read_model` in plumbing/saved_run.py opens it")
