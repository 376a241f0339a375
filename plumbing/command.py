"""How the programs start and end: their flags, one line for what a user can cause, and signals that ask for a
stop.
"""
import argparse
import difflib
import os
import re
import select
import signal
import sys
from contextlib import contextmanager, redirect_stdout
from shlex import quote

import torch


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults behind the help texts, but not "(default: None)", and no long list."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or len(str(action.default)) > 80:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ValueError, which run_main prints, where argparse would print its whole usage and exit.

    text: what the program does, in its first line."""

    def __init__(self, text="", **settings):
        super().__init__(description=text.partition("\n")[0], allow_abbrev=False, formatter_class=Formatter,
                         **settings)

    def error(self, message):
        raise ValueError(message)

    def parse_args(self, argv=None, namespace=None):
        args, unknown = self.parse_known_args(argv, namespace)
        if unknown:
            raise ValueError(self.refusal(unknown[0]))
        return args

    def refusal(self, word):
        """Why a word on the command line is none that the program knows."""
        flag = word.split("=")[0]
        if not flag.startswith("-"):
            return f"unrecognized arguments: {word}"
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"unrecognized arguments: {flag}{hint}"


def refuse_empty(args, may_be=()):
    """ValueError for an empty flag, as of a variable that is not set; may_be: flags that may be empty."""
    for flag, value in vars(args).items():
        if value == "" and flag not in may_be:
            raise ValueError(f"--{flag.replace('_', '-')} is empty; say which, or leave it out")


def number_or_all(text):
    """A flag's whole number, 0 or more, or the word all."""
    if text == "all":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: need a whole number from 0, or all")
    return int(text)


def count(text):
    """A flag's whole number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: need at least 1")
    return number


class Stop:
    """True once SIGINT or SIGTERM has come; a second Ctrl-C quits at once."""

    def __init__(self):
        self.signal = None
        self.saved = None      # the run, once its training is saved: a signal then ends the process at once
        signal.signal(signal.SIGTERM, self.note)
        signal.signal(signal.SIGINT, self.note)

    def note(self, number, frame):
        if self.saved:
            print("stopped before the evaluation was done; "
                  f"go on with: python train.py --resume {quote(self.saved)}")
            sys.exit(128 + number)
        if self.signal and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = number

    def __bool__(self):
        return self.signal is not None

    def leave(self, bar, run):
        """End the process, once everything is saved."""
        bar.close()
        print(f"stopped; go on with: python train.py --resume {quote(run)}")
        sys.exit(128 + (self.signal or signal.SIGTERM))      # another process may have had the signal


class Shown:
    """Standard output on which control characters, of a name in somebody's table, are shown, not obeyed; so
    are letters that its encoding lacks (LC_ALL=C)."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        encoding = self.stream.encoding or "utf-8"
        return self.stream.write(shown(text).encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name):
        return getattr(self.stream, name)


def shown(text):
    r"""ESC [2J would clear the screen: it becomes \x1b[2J, as Python writes it."""
    return re.sub(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", lambda match: repr(match[0])[1:-1], text)


# -----------------------------------------------------------------------------
# one line for an error


@contextmanager
def in_one_line(text, errors=Exception):
    """What goes wrong inside it (packages raise many kinds) -> a ValueError: the text, and the reason in
    brackets, without the name of the file if the text begins with it."""
    try:
        yield
    except errors as error:
        file = text.partition(": ")[0]
        raise ValueError(f"{text} ({first_line(error).removeprefix(f'{file}: ')})") from error


def readable(path, kind="image"):
    """Whatever goes wrong while a file is read -> ValueError in one line."""
    return in_one_line(f"{path}: not a readable {kind}")


def first_line(error):
    """What an error says, after its kind where that may be no more than a name."""
    line = str(error).strip().partition("\n")[0]
    kind = type(error).__name__
    if isinstance(error, (LookupError, TypeError, AttributeError)):
        return f"{kind}: {line}"
    return line or kind


def run_main(main, parser=None):
    """Call main; what a user can cause ends in one line and status 2.

    parser: of a program that reads what train.py wrote. A message that advises a flag of train.py says so."""
    try:
        with redirect_stdout(Shown(sys.stdout)):
            main()
        return
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        line = explain(error)
        if line is None:
            raise
    if parser and "unrecognized" not in line:
        others = sorted(set(re.findall(r"--[a-z][a-z-]+", line)) - set(parser._option_string_actions))
        if others:
            line += (f"; {', '.join(others)} is for train.py: a run keeps its own, "
                     "to which the table is to fit")
    program = os.path.basename(sys.argv[0])
    if os.environ.get("WORLD_SIZE", "1") != "1":
        program += f" (process {os.environ['RANK']})"
    print(shown(f"{program}: {line}"), file=sys.stderr)
    sys.exit(2)


def explain(error):
    """-> the line for an error that a user can cause, None for any other."""
    line = first_line(error)
    is_broken_pipe = isinstance(error, ConnectionError)
    if is_broken_pipe:
        leave_if_nobody_reads()
    # a reader was killed, as a rule by a system without memory: its pipe breaks, or PyTorch notices
    if is_broken_pipe or "DataLoader worker (pid" in line:
        return f"a process that reads images died; with --resume RUN --workers 0 the run goes on ({line})"
    if isinstance(error, (ValueError, OSError)):     # of a reading process: a traceback before the last line
        lines = str(error).strip().splitlines()
        return lines[-1].removeprefix("ValueError: ") if lines else line
    # of PyTorch's own on a CPU, on a Mac, and of CUDA's libraries
    if isinstance(error, MemoryError) or re.search("DefaultCPUAllocator|out of memory|ALLOC_FAILED", line):
        return ("out of memory; --accumulate, --grad-checkpointing, "
                f"or a smaller --batch-size or --image need less ({line})")
    if re.search("No working C\\+\\+ compiler|working triton", str(error)):
        return "--compile needs a C++ compiler, as g++, and on CUDA triton; without it the run needs neither"
    if "for the MPS device" in line:                 # of an operation that PyTorch lacks on Macs
        return f"--device cpu can do what mps cannot ({line})"
    if "deterministic" in line:
        return f"--deterministic: {line}"
    if isinstance(error, torch.distributed.DistError) or "gloo" in line:
        return ("the processes that train together lost each other; "
                f"if one ended, its own line says why ({line})")
    return None


def leave_if_nobody_reads():
    """End the process without a word when the pipe that broke is its own output: `| head` has read enough."""
    if not hasattr(select, "poll"):                  # Windows
        return
    output = select.poll()
    output.register(1, 0)
    for _, event in output.poll(0):
        if event & select.POLLERR:
            os._exit(128 + signal.SIGPIPE)
