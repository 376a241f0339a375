"""How the programs start and end: one line for what a user can cause, and signals that ask for a stop.
"""
import os
import select
import signal
import sys

import torch

from plumbing.checkpoints import first_line


class Stop:
    """True once SIGINT or SIGTERM has come, to this process or to one that trains with it; a second Ctrl-C quits at once."""

    def __init__(self):
        self.signal = None
        signal.signal(signal.SIGTERM, self.note)
        signal.signal(signal.SIGINT, self.note)

    def note(self, number, frame):
        if self.signal and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = number

    def __bool__(self):
        return self.signal is not None

    def leave(self, bar, run):
        """Once everything is saved."""
        bar.close()
        print(f"stopped; go on with: python train.py --resume {run}")
        sys.exit(128 + (self.signal or signal.SIGTERM))


def run_main(main):
    """Call main; what a user can cause ends in one line and status 2."""
    died = "a process that reads images died; with --resume RUN --workers 0 the run goes on"
    try:
        main()
    except ConnectionError as error:                               # its pipe breaks, if PyTorch does not notice first
        line = f"{died} ({error})"
        if hasattr(select, "poll"):
            (output := select.poll()).register(1, 0)
            if any(event & select.POLLERR for _, event in output.poll(0)):                   # it is ours: `| head` has read enough
                os._exit(128 + signal.SIGPIPE)
    except (ValueError, OSError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1].removeprefix("ValueError: ")
    except RuntimeError as error:
        line = first_line(error)
        if isinstance(error, torch.OutOfMemoryError):
            line = f"out of memory; --accumulate, --grad-checkpointing, or a smaller --batch-size or --image need less ({line})"
        elif "deterministic" in line:
            line = f"--deterministic: {line}"
        elif "DataLoader worker (pid" in line:                      # killed, as a rule by a system out of memory
            line = f"{died} ({line})"
        elif isinstance(error, torch.distributed.DistError) or "gloo" in line:
            line = f"the processes that train together lost each other; if one ended, its own line says why ({line})"
        else:
            raise
    else:
        return
    who = f" (process {os.environ['RANK']})" if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    print(f"{os.path.basename(sys.argv[0])}{who}: {line}", file=sys.stderr)
    sys.exit(2)
