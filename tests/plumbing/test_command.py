"""plumbing/command.py: how the programs end: with one line, at a signal, or because nobody reads any more."""
import io
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import eval as evaluate
from plumbing.command import Shown, Stop, first_line, run_main, shown
from tests.hub import ROOT
from tests.small_runs import started

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


def test_a_second_ctrl_c_quits_and_a_sigterm_after_it_does_not(quiet):
    """A scheduler may send SIGTERM to what has had a Ctrl-C; who presses Ctrl-C twice means it."""
    stop = Stop()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_command_that_goes_on_can_be_copied(quiet, capsys):
    with pytest.raises(SystemExit):
        Stop().leave(SimpleNamespace(close=lambda: None), "my runs/a")
    assert "python train.py --resume 'my runs/a'" in capsys.readouterr().out


def test_what_is_said_of_an_error_that_is_no_more_than_a_name():
    """(0) would tell nobody that there is no entry 0."""
    assert (first_line(KeyError(0)), first_line(ValueError("a\nb")), first_line(MemoryError())) == ("KeyError: 0", "a", "MemoryError")


@pytest.mark.slow
def test_the_process_itself_exits_with_2_and_one_line():
    """Once as a user does it, in a shell."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "train.py"), "--data", "nowhere.csv"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "reading nowhere.csv\n" and done.stderr.startswith("train.py: --data nowhere.csv: no such file")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("module, argv, message", (
    ("eval", ["runs/a", "--figurs", "2"], "eval.py: unrecognized arguments: --figurs; did you mean --figures?"),
    ("eval", [""], "eval.py: '': no run folder"),
    ("eval", [], "eval.py: the following arguments are required: run"),
    ("experiments.reproduce", ["multivitt"], "argument name: invalid choice: 'multivitt'"),
    ("evaluation.report", [], "the following arguments are required: run"),
    ("plumbing.simulate", ["--data", "bag", "--out", "bags", "--patients", "0"], "simulate.py: argument --patients: 0: need at least 1"),
    ("experiments.bench", ["vit", "--rounds", "0"], "bench.py: argument --rounds: 0: need at least 1"),
    ("experiments.reproduce", ["daft", "--jobs", "0"], "reproduce.py: argument --jobs: 0: need at least 1"),
))
def test_a_wrong_flag_is_one_line_in_every_program(module, argv, message, monkeypatch, capsys):
    """No usage of thirty lines before it."""
    status, _, error = started(module, argv, monkeypatch, capsys)
    assert status == 2 and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("module", ("train", "eval", "evaluation.report", "experiments.reproduce", "experiments.bench", "experiments.draw",
                                    "plumbing.simulate", "plumbing.weights"))
def test_help_of_every_program_works(module, monkeypatch, capsys):
    """It says something, and nothing about a default of None."""
    status, out, _ = started(module, ["--help"], monkeypatch, capsys)
    assert not status and len(out) > 200 and "default: None" not in out


def test_escape_sequences_are_shown_not_obeyed(capsys, monkeypatch):
    """In what is printed, and in the line of an error; letters of any alphabet stay."""
    assert shown("\x1b[2Ja\r\x9b\tä漢\n") == r"\x1b[2Ja\r\x9b" + "\tä漢\n"

    def main():
        print("\x1b[2J")
        raise ValueError("\x1b[2J")

    with pytest.raises(SystemExit):
        run_main(main)
    out, err = capsys.readouterr()
    assert out == "\\x1b[2J\n" and err.endswith(": \\x1b[2J\n")
    assert r"becomes \x1b[2J," in shown.__doc__                    # which help() prints as it is


def test_a_terminal_that_knows_no_such_letter_gets_its_code():
    """LC_ALL=C: a class called schlécht ended the run in the line that names it."""
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    Shown(stream).write("schlécht \udce9")
    stream.flush()
    assert stream.buffer.getvalue() == b"schl\\xe9cht \\udce9"


@pytest.mark.slow
def test_whoever_reads_what_is_printed_may_leave():
    """`| head -1` ends the process without a word, and without blaming a reading process."""
    code = "import sys; from plumbing import command; sys.argv[0] = 'train.py'; command.run_main(lambda: [print('x' * 100, flush=True) for _ in range(10 ** 5)])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_a_flag_that_the_program_does_not_take_is_not_advised_as_if_it_did(monkeypatch, capsys):
    """eval.py reads tables with the code of train.py: whose flag is named is said, but of a flag that it has itself."""
    def main():
        raise ValueError("t.csv: no column 'a'; --patient-column names it, --target too")

    for parser, line in ((evaluate.make_parser(), "--target too; --patient-column is for train.py: a run keeps its own, to which the table is to fit"), (None, "--target too")):
        with pytest.raises(SystemExit):
            run_main(main, parser)
        assert capsys.readouterr().err.strip().endswith(line)


@pytest.mark.parametrize("program", ("train", "eval"))
def test_waiting_threads_let_others_have_the_core(program):
    """GNU's OpenMP reads this as PyTorch is imported. With its own 300,000 turns an epoch beside a busy program took ten times as long."""
    code = ("import os, sys\n"
            "class Watch:\n"
            "    def find_spec(name, path=None, target=None):\n"
            "        if name == 'torch':\n"
            "            os.write(1, os.environ.get('GOMP_SPINCOUNT', 'unset').encode())\n"
            "            os._exit(0)\n"
            "sys.meta_path.insert(0, Watch)\n"
            f"import {program}")
    unset = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for environment, count in ((unset, b"1000"), (unset | {"GOMP_SPINCOUNT": "7"}, b"7")):
        assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment) == count


@pytest.mark.parametrize("text, line", (
    ("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB).", "train.py: out of memory; --accumulate, "),
    ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "train.py: out of memory; --accumulate, "),
    ("CUDA error: out of memory\nmore", "train.py: out of memory; --accumulate, "),
    ("The operator 'aten::max_pool3d' is not currently implemented for the MPS device. If you want", "train.py: --device cpu can do what mps cannot (The operator ")))
def test_what_a_chip_lacks_is_one_line(text, line, monkeypatch, capsys):
    """Memory, of which not every library says so in the same words, or an operation."""
    def main():
        raise NotImplementedError(text) if "implemented" in text else RuntimeError(text)

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit):
        run_main(main)
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("text", ("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\n\nSet TORCHDYNAMO_VERBOSE=1",
                                  "backend='inductor' raised:\nCannot find a working triton installation. Either the package is not installed or it is too old."))
def test_compile_without_a_compiler_is_one_line(text, monkeypatch, capsys):
    """Windows, macOS and slim containers have none: a page of PyTorch's code."""
    def main():
        raise RuntimeError(text)

    with pytest.raises(SystemExit):
        run_main(main)
    assert capsys.readouterr().err.strip().endswith(": --compile needs a C++ compiler, as g++, and on CUDA triton; without it the run needs neither")
