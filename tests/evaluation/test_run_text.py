"""The command is the run's."""
import json
import shlex

from evaluation.run_text import command
from plumbing.flags import parse


def test_the_command_makes_the_run_again(runs):
    """Parsed by train.py, the command is args.json to the letter."""
    args = json.load(open(runs / "a" / "args.json"))
    words = shlex.split(command(args))
    assert words[:2] == ["python", "train.py"] and vars(parse(words[2:])) == args and "--missing" not in words
    typed = ["--no-balanced", "--no-check-files", "--window=-100,700"]
    assert vars(parse(shlex.split(command(vars(parse(typed))))[2:])) == vars(parse(typed))
    args = {"name": "two words", "compile": True, "shared_head": False, "fold": 0, "resume": "x"}
    assert command(args) == "python train.py --name 'two words' --compile --fold 0"
    assert command({"steps": [3, 4], "seed": 1}) == "python train.py --steps 3 4 --seed 1"       # of a fork
