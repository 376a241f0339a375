"""plumbing/command.py: how the programs end: with one line, at a signal, or because nobody reads any more."""
import os
import signal
import subprocess
import sys

import pytest

from plumbing.command import Stop
from tests.hub import ROOT

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


def test_a_second_ctrl_c_quits_and_a_sigterm_after_it_does_not(quiet):
    """A scheduler may send SIGTERM to what has had a Ctrl-C; who presses Ctrl-C twice means it."""
    stop = Stop()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_process_itself_exits_with_2_and_one_line():
    """Once as a user does it, in a shell."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "train.py"), "--data", "nowhere.csv"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("train.py: --data nowhere.csv: no such file")
    assert len(done.stderr.strip().splitlines()) == 1


def test_whoever_reads_what_is_printed_may_leave():
    """`| head -1` ends the process without a word, and without blaming a reading process."""
    code = "import sys; from plumbing import command; sys.argv[0] = 'train.py'; command.run_main(lambda: [print('x' * 100, flush=True) for _ in range(10 ** 5)])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141
