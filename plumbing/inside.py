"""What the flags in a run folder may do: the folder can be a stranger's, and so can its args.json.

What it names is read, and a line says so where that lies outside the current folder. A cache is written only
where a command line of this user once asked for it: such a folder holds TAG, unless it is the usual one.
"""
import os
from os.path import commonpath, exists, isfile, join, realpath, splitext

USUAL = "data_cache"                                 # the default of --cache-dir
TAG = "CACHEDIR.TAG"                                 # bford.info/cachedir: backups may leave such folders out
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n"


def mark_cache(folder):
    """Mark a cache that the command line has named as this user's."""
    if folder != USUAL:
        os.makedirs(folder, exist_ok=True)
        with open(join(folder, TAG), "w") as file:
            file.write(SIGNATURE)


def stay_inside(args, run):
    """Where the flags from a run's args.json name a cache that is not marked, take the usual one; say so."""
    if args.cache_dir != USUAL and not isfile(join(args.cache_dir, TAG)):
        print(f"{run}/args.json names {args.cache_dir} as its cache, which no training here has used; "
              f"{USUAL} is used")
        args.cache_dir = USUAL


def say_outside(path, run):
    """Print a line where a table that args.json names lies elsewhere, once all links are followed, or is
    missing."""
    here = realpath(".")
    if splitext(path)[1] and not exists(path) or commonpath([here, realpath(path)]) != here:
        print(f"reads {path}, as {run}/args.json says")
