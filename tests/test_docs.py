"""README.md and docs/: every command is parsed by the program it calls, and everything they name is there."""
import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from torch.distributed.run import get_args_parser

import eval as evaluation_program
import train
from experiments import draw
from plumbing.command import Parser
from plumbing.flags import make_parser, parse
from plumbing.models import MODELS
from plumbing.simulate import make
from tests.plumbing.small_checkpoints import hf_names, tiny, write

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDERS = {  # program: {word that stands for another: one that it may be}
    "experiments.reproduce": {"NAME": "multivit"},
    "experiments.bench": {"NAME": "vit"},
    "torchrun": {"--node-rank=R": "--node-rank=0"},
}
MADE = {"runs", "data_cache", "best", "last", "figures", "new"}    # folders that programs write, or users have
OTHERS = {"--index-url"}                                           # flags of programs that are not ours
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(python|torchrun) ")


# -----------------------------------------------------------------------------
# what a page holds


def read(path):
    return path.read_text(encoding="utf-8")


def code_blocks(text):
    """-> lines of all code blocks, indented or between fences; a line that ends in \\ goes on in the next."""
    text = re.sub(r" *\\\n\s+", " ", text)
    lines = re.findall(r"^    (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S):
        lines += block.splitlines()
    return lines


def inline(text):
    """-> [(words in backticks, what follows)] of a text without its code blocks."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"^    .*$", "", text, flags=re.M)
    return [(" ".join(m[1].split()), text[m.end():m.end() + 4]) for m in re.finditer(r"`([^`]+)`", text)]


def tables(text):
    """-> lists of rows, which are lists of cells; the first row is the head."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append(rows[:1] + rows[2:])
    return found


def commands(text):
    """-> every command of a page that calls python or torchrun, as it would be typed.

    In a code block two spaces end a command. A command in the head of a table, followed by ..., goes on in the cells below it;
    one elsewhere loses its last flag, whose value is not given."""
    found = []
    for line in code_blocks(text):
        for part in re.split(r"  +| && ", line):
            if PROGRAM.match(part):
                found.append(part)
    heads = set()
    for head, *rows in tables(text):
        for column, cell in enumerate(head):
            start = re.search(r"`((?:python|torchrun) [^`]+)` \.\.\.", cell)
            if start:
                heads.add(start[1])
            for row in rows if start else ():
                rest = re.search(r"`([^`]+)`", row[column])
                if rest:
                    found.append(f"{start[1]} {rest[1]}")
    for words, after in inline(text):
        if PROGRAM.match(words) and words not in heads:
            goes_on = re.match(r"\s*\.\.\.", after) and words.split()[-1].startswith("--")
            found.append(words.rsplit(" ", 1)[0] if goes_on else words)
    return [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command) for command in found]


ALL = [(path.name, command) for path in PAGES for command in commands(read(path))]


# -----------------------------------------------------------------------------
# programs and their parsers


class Parsed(Exception):
    """Raised where a program would begin to work: its parser has taken the flags."""


@pytest.fixture
def stop_after_parsing(monkeypatch):
    def stops(parse):
        def parse_args(self, args=None, namespace=None):
            parse(self, args, namespace)
            raise Parsed(self)
        return parse_args

    for parser in (argparse.ArgumentParser, Parser):               # the project's, and those of other programs
        monkeypatch.setattr(parser, "parse_args", stops(parser.parse_args))


def module_path(name):
    return ROOT / (name.replace(".", "/") + ".py")


def runs_alone(path):
    return path.is_file() and '__name__ == "__main__"' in read(path)


def check_train(words):
    if "--help" in words:
        with pytest.raises(SystemExit) as end:
            parse(words)
        assert end.value.code == 0
    elif "--resume" in words:                                      # its run is not here
        with pytest.raises(Parsed):
            make_parser().parse_args(words)
    else:
        parse(words)


def check_module(name, words):
    """python -m NAME WORDS"""
    if name in ("venv", "pytest"):
        return
    path = module_path(name)
    assert runs_alone(path), name
    words = [PLACEHOLDERS.get(name, {}).get(word, word) for word in words]
    if "Parser(" not in read(path).replace("ConfigParser(", ""):   # it takes its words as they come
        assert not any(word.startswith("-") for word in words)
    else:
        with pytest.raises(Parsed):
            importlib.import_module(name).main(words)


def check(command):
    program, *words = shlex.split(command)
    words = [word for word in words if word != "..."]
    if program == "torchrun":
        words = [PLACEHOLDERS["torchrun"].get(word, word) for word in words]
        options = get_args_parser()
        with pytest.raises(Parsed):
            options.parse_args(words)
        assert "--" in words
        program, *words = words[words.index("--") + 1:]
        assert program == "train.py"
        check_train(words)
    elif words[0] == "-m":
        check_module(words[1], words[2:])
    elif words[0] == "train.py":
        check_train(words[1:])
    elif words[0] == "eval.py":
        with pytest.raises(Parsed):
            evaluation_program.main(words[1:])
    elif words[0] not in ("FILE.py", "-c"):                        # a line of Python is no program
        assert runs_alone(ROOT / words[0]) and not words[1:]


@pytest.mark.parametrize("page, command", ALL, ids=[f"{page} {command}"[:90] for page, command in ALL])
def test_every_command_is_one_that_its_program_takes(page, command, stop_after_parsing):
    """Files exist, and the program's own parser accepts the flags."""
    check(command)


def test_commands_are_found():
    """The reader of pages itself: blocks, comments after two spaces, lines that go on, tables, and flags without a value."""
    text = ("    python a.py --x 1    why\n    A=1 python b.py \\\n        --y\n\n`python c.py\n--z 2`, `python d.py --w` ...\n\n"
            "| `python e.py` ... | n |\n|---|---|\n| `--v 3`, note | 1 |\n\n```\npip install x && python -m pytest\n```\n")
    assert commands(text) == ["python a.py --x 1", "python b.py --y", "python -m pytest", "python e.py --v 3", "python c.py --z 2",
                              "python d.py"]



def test_every_flag_exists(stop_after_parsing):
    """Flags that stand alone in the text belong to one of the programs."""
    known = set(OTHERS)
    for model in MODELS:
        known |= set(make_parser(model)._option_string_actions)
    known |= set(evaluation_program.make_parser()._option_string_actions) | set(get_args_parser()._option_string_actions)
    for name, word in (("reproduce", "multivit"), ("bench", "vit")):
        with pytest.raises(Parsed) as parsed:
            importlib.import_module(f"experiments.{name}").main([word])
        known |= set(parsed.value.args[0]._option_string_actions)
    for path in PAGES:
        for words, _ in inline(read(path)):
            for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", words):
                assert flag in known, f"{path.name}: {words}"


# -----------------------------------------------------------------------------
# what pages name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", read(path)):
        if not target.startswith("http"):
            assert (path.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_and_folder_exists(path):
    """Python files, tests, and folders; those that a run writes are known by name."""
    for words, _ in inline(read(path)):
        name, _, test = words.partition("::")
        if re.fullmatch(r"[\w/]+\.py", name) and name != "FILE.py":
            assert (ROOT / name).is_file(), name
        if test:
            assert f"def {test}(" in read(ROOT / name), words
        if re.fullmatch(r"[\w./]+/", name) and name.split("/")[0] not in MADE:
            assert (ROOT / name).is_dir(), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_stands_in_a_file_is_there(path):
    """`NAME` in `FILE.py`: a function, a class or a constant."""
    for name, file in re.findall(r"`(\w+)` in\s`([\w/]+\.py)`", read(path)):
        assert re.search(rf"^(def|class) {name}\b|^{name} =", read(ROOT / file), re.MULTILINE), f"{name} in {file}"


def test_what_to_read_is_there():
    """The functions and classes of the README's table stand in the files of their row."""
    head, *rows = next(table for table in tables(read(ROOT / "README.md")) if table[0][0] == "file")
    for row in rows:
        files = "".join(read(ROOT / name) for name in re.findall(r"`([\w]+\.py)`", row[0]))
        for name in re.findall(r"`([\w.]+)`", row[head.index("look at")]):
            assert re.search(rf"(def|class) {name.split('.')[-1]}\b", files), name


def test_every_idea_is_in_the_readme():
    """Every Python file of the ground floor, and every page of docs/, is named in README.md or docs/ideas.md."""
    text = read(ROOT / "README.md")
    for path in ROOT.glob("*.py"):
        assert f"`{path.name}`" in text, f"{path.name} needs a row in README.md"
    for path in PAGES[1:]:
        assert f"docs/{path.name}" in text, path.name


def test_every_test_of_a_fault_is_named_with_its_file():
    """Each row of the faults names at least one test."""
    head, *rows = next(table for table in tables(read(ROOT / "docs" / "reliability.md")) if table[0][0] == "fault")
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row[-1]), row[0]


# -----------------------------------------------------------------------------
# the README and the pictures


def test_the_readme_is_short():
    """150 lines and 10,000 bytes with the ten ideas that are here; a fork may add rows to their table."""
    rows = re.findall(r"^\| `\w+\.py`.*\n", read(ROOT / "README.md"), re.MULTILINE)
    text = (ROOT / "README.md").read_bytes()
    assert len(text.splitlines()) - len(rows) <= 140 and len(text) - len("".join(rows).encode()) <= 8854


def test_the_readme_says_how_to_test_and_installs_what_is_needed():
    """.ci/run runs the first; the line for machines without a GPU takes no torch that requirements.txt does not take."""
    text = read(ROOT / "README.md")
    assert text.count("\n    pip install -r requirements.txt && python -m pytest\n") == 1
    needed = re.search(r"^torch(\S+)$", read(ROOT / "requirements.txt"), re.M)[1].split(",")
    limit = re.search(r'pip install "torch(\S+)" --index-url https://download.pytorch.org/whl/cpu', text)[1]
    assert limit in needed


def test_the_python_of_the_readme_runs_as_written(quiet, capsys):
    """A checkpoint stands where the Hub's would, and a short run where that of the first command would."""
    block = re.search(r"^```python\n(.*?)^```$", read(ROOT / "README.md"), re.M | re.S)[1]
    name = re.search(r'from_pretrained\("([^"]+)"', block)[1]
    run = re.search(r'open_model\("([^"]+)"', block)[1]
    write(name, hf_names(tiny()), {"model_type": "vit", "num_attention_heads": 3, "image_size": 32})
    table = make("psoriasis", "data_cache", patients=12)
    train.main(["--model", "multivit", "--mode", "multi", "--n", "3", "--r", "2", "--data", table, "--target", "pasi:regression",
                "--epochs", "1", "--device", "cpu"])
    assert Path(run).is_dir()
    capsys.readouterr()
    exec(block, {})
    said = capsys.readouterr().out
    assert "loaded" in said and "pasi" in said


def test_pictures_are_small_and_all_there():
    """Below 150 kB each and 1 MB together; those that experiments/draw.py draws are in docs/."""
    sizes = {path.stem: path.stat().st_size for path in (ROOT / "docs").glob("*.png")}
    assert {picture.__name__ for picture in draw.PICTURES} <= set(sizes)
    assert max(sizes.values()) < 150_000 and sum(sizes.values()) < 1_000_000
    text = "".join(read(path) for path in PAGES)
    assert all(f"{name}.png" in text for name in sizes)


def test_the_first_command_for_an_own_table_takes_the_table_beside_it(quiet, tmp_path, capsys):
    """The README's columns and its --check: what is to be predicted is named, so nothing is refused."""
    text = read(ROOT / "README.md")
    header, row = re.search(r"such as `(.+?)` and `(.+?)`", text).groups()
    command = re.search(r"^    python train.py (--data my.csv .*--check)", text, re.M)[1]
    (tmp_path / "photos").mkdir()
    lines = [header]
    for patient in range(20):
        cells = dict(zip(header.split(","), row.split(",")), patient_id=str(patient), pasi=str(patient + 0.5))
        cells["image"] = f"photos/{patient}.png"
        Image.new("RGB", (8, 8), (patient, 0, 0)).save(tmp_path / cells["image"])
        lines.append(",".join(cells.values()))
    for i, line in enumerate(lines[1:11], 1):
        lines[i] = line.replace(",3,", ",2,")                      # of one grade alone nothing is learned
    (tmp_path / "my.csv").write_text("\n".join(lines) + "\n")
    train.main(shlex.split(command.replace("my.csv", str(tmp_path / "my.csv"))))
    assert "train with: python train.py" in capsys.readouterr().out
