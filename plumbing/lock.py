"""One process at a time: a lock on a file, which the system drops when its holder ends, however it ends.
"""
import errno

try:
    import fcntl
except ImportError:                                  # Windows: nothing is locked there
    fcntl = None

EVALUATION_LOCK = ".evaluation.lock"                 # in a folder of results: who has it writes them
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)    # what disks in a network answer that have none


def lock(path, wait=False):
    """-> an open file: while it is open, no other process gets the lock. `path` stays behind, empty.

    wait: until whoever has the lock is done; without it BlockingIOError. Nothing is locked where the disk
    has no locks."""
    file = open(path, "a")
    if fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return file
