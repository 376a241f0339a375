"""The run folder: what a training leaves, written so that a kill at any moment loses nothing.

    args.json        the flags
    split.csv        of every patient the split, the number of images, and a digest of their files
    log.csv          one row per epoch
    best/, last/     config.json and model.safetensors; last/ also state.pt, which --resume needs,
                     in plain types and tensors
    metrics.json, predictions.csv, figures/, report.html           after the test evaluation; then best/ has a
                     model card too, README.md and preprocessor_config.json
    lock, .evaluation.lock           empty; only the process that holds the first may train the run, and only
                     the one that holds the second may write its results

Every file and every checkpoint folder is written beside its place and then renamed: it is there as a
whole or not at all.
"""
import contextlib
import csv
import glob
import io
import itertools
import json
import os
import shutil
from dataclasses import asdict
from os.path import dirname, isdir, isfile, join
from shlex import quote

import torch
from safetensors.torch import save_file

from plumbing import parallel
from plumbing.checkpoints import read_checkpoint, read_json
from plumbing.command import first_line, in_one_line
from plumbing.inside import mark_cache
from plumbing.lock import lock
from plumbing.models import class_of
from plumbing.splits import files_of
from plumbing.spreadsheet import safe
from plumbing.weight_files import read_pickle
from plumbing.weights import load_weights


# -----------------------------------------------------------------------------
# files


def write_whole(path, content):
    """Write a text, or bytes, under a temporary name and rename it: no half file ever has the real name.

    OSError names the file, and nothing is left of it."""
    if isinstance(content, str):
        content = content.encode()
    part = path + ".part"
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise OSError(error.errno, error.strerror, path) from error
    os.replace(part, path)


def write_json(path, content):
    write_whole(path, json.dumps(content, indent=1, allow_nan=False))


def write_csv(path, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(map(safe, cells) for cells in rows)
    write_whole(path, text.getvalue())


def write_log(run, history):
    """Write log.csv, as a whole, from the {column: value} of every epoch, which state.pt remembers."""
    rows = [list(epoch) for epoch in history[-1:]]   # a column that a later version added is empty before
    for epoch in history:
        rows.append([epoch.get(column, "") for column in rows[0]])
    write_csv(join(run, "log.csv"), rows)


def write_split(run, cohort, indices):
    """split.csv: which split each patient is in, how many images the patient has, and a digest of their
    files. It is written once: a resumed run goes on with what it says."""
    path = join(run, "split.csv")
    if isfile(path):
        return
    files = files_of(cohort)
    rows = [("patient", "split", "images", "files")]
    for split, images in indices.items():
        for patient, own in cohort.groups(images).items():
            rows.append((patient, split, len(own), files[patient]))
    write_csv(path, rows)


# -----------------------------------------------------------------------------
# checkpoints


@contextlib.contextmanager
def write_folder(path):
    """Yield a new folder to write files into; afterwards it stands at `path`, as a whole or not at all.

    OSError when a file could not be written; the folder that stood at `path` before is then untouched."""
    recover(path)
    fresh = path + ".new"
    old = path + ".old"
    try:
        os.makedirs(fresh)
        yield fresh
        for name in os.listdir(fresh):
            with open(join(fresh, name), "r+b") as file:    # to sync, Windows wants it writable
                os.fsync(file.fileno())
    except Exception as error:                       # a full disk; each format's writer has its own kinds
        shutil.rmtree(fresh, ignore_errors=True)
        reason = first_line(error)
        if "inline_container" in reason:             # of torch.save, which says no more than where it failed
            reason = "no space left on the disk"
        raise OSError(f"{path} could not be written ({reason}); "
                      "what was there before is whole") from error
    if isdir(path):
        os.rename(path, old)                         # from here on `recover` takes the new one
    os.rename(fresh, path)
    shutil.rmtree(old, ignore_errors=True)


def recover(path):
    """After a kill between write_folder's two renames put the new folder, which is whole, in place;
    where somebody has removed it, the old one."""
    fresh = path + ".new"
    old = path + ".old"
    if isdir(old) and not isdir(path):
        os.rename(fresh if isdir(fresh) else old, path)
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)


def save_model(folder, model, tasks, state=None):
    """Write config.json and model.safetensors, and state.pt when there is a state, to a folder.

    OSError as in write_folder; ValueError when the run folder is gone."""
    run = dirname(folder)
    if not isdir(run):
        raise ValueError(f"{run}: the run folder was deleted while the run was training; nothing was saved")
    config = {"model": model.saved_as, model.saved_as: asdict(model.config),
              "tasks": [asdict(task) for task in tasks],
              "columns": [asdict(column) for column in model.columns]}
    weights = {key: tensor.to("cpu", copy=True).contiguous()             # safetensors refuses shared memory
               for key, tensor in model.state_dict().items()}
    with write_folder(folder) as fresh:
        write_json(join(fresh, "config.json"), config)
        save_file(weights, join(fresh, "model.safetensors"), {"format": "pt"})
        if state:
            torch.save(state, join(fresh, "state.pt"))


def forget_results(run):
    """Remove what was measured with the best weights so far, before others replace them: on the test split,
    on other splits and tables, and against other runs."""
    inside = glob.escape(run)
    for path in glob.glob(join(inside, "*", "metrics.json")):
        if not isfile(join(dirname(path), "args.json")):           # a run in it is none of its results
            shutil.rmtree(dirname(path), ignore_errors=True)       # a link stays
    for name in ("metrics.json", "report.html", "predictions.csv", "against-*.json"):
        for path in glob.glob(join(inside, name)):
            os.remove(path)


def load_state(run, model, optimizer, state, steps):
    """Bring model, optimizer and random numbers to where last/ stopped; -> the saved state.

    state: the entries to read, with their defaults for runs of older versions that lack them. steps: of an
    epoch. ValueError when last/ is of another model or cannot be read."""
    tensors, config, _, _ = read_checkpoint(join(run, "last"))
    if model.config != class_of(config, run)[1]:     # tensors that fit do not show it
        raise ValueError(f"{run}: its flags describe another model now than when it began; restore the files "
                         "of --pretrained, or start a new run")
    load_weights(model, tensors, run)
    path = join(run, "last", "state.pt")
    with in_one_line(f"{path}: cannot be resumed"):
        saved = read_pickle(path)
        optimizer.load_state_dict(saved["optimizer"])
        set_random_numbers(saved["random"])
        for key, default in state.items():
            value = saved.setdefault(key, default)
            if default is not None and not isinstance(value, type(default)):
                raise ValueError(f"{key} {value!r} is not as train.py writes it")
        are_dicts = all(isinstance(epoch, dict) for epoch in saved["history"])
        if not are_dicts or not 0 <= saved["step"] < steps:
            raise ValueError(f"step {saved['step']} of {steps} in an epoch, or a history without dicts")
        return {key: saved[key] for key in state}


def random_numbers(device):
    """The state of every generator that this process draws from."""
    generators = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":                                      # a run on the CPU never starts CUDA
        generators["cuda"] = torch.cuda.get_rng_state()
    return generators


def set_random_numbers(generators):
    """Continue the random numbers of this process. generators: for each saved process its {"cpu": state}."""
    if len(generators) != parallel.world():
        print(f"processes: {len(generators)} before, {parallel.world()} now; "
              "dropout draws other numbers than without the break")
        return
    mine = generators[parallel.rank()]
    torch.set_rng_state(mine["cpu"])
    if torch.cuda.is_available() and "cuda" in mine:
        torch.cuda.set_rng_state(mine["cuda"])


# -----------------------------------------------------------------------------
# whose run it is


def lock_run(run):
    """-> the run's lock; ValueError when another process trains it: two would mix their weights."""
    try:
        return lock(join(run, "lock"))
    except BlockingIOError as error:
        raise ValueError(f"{run}: another process is training this run; "
                         "wait for it, or take another --name") from error


def open_folder(args):
    """-> the run folder, new or resumed, and its lock."""
    run = args.resume
    if not run:
        return new_run(args)
    run_lock = lock_run(run)
    for name in ("best", "last"):
        recover(join(run, name))
    path = join(run, "args.json")
    write_json(path, {**read_json(path), "epochs": args.epochs})   # the next --resume knows of it
    return run, run_lock


def new_run(args):
    """Make the run folder with args.json; -> its path and its lock. ValueError: a folder is in the way."""
    run = make_folder(args)
    leftovers = set(os.listdir(run)) - {"lock", "args.json.part"}
    if leftovers and not isfile(join(run, "args.json")):
        raise ValueError(f"{run} is not a run folder (it holds no args.json); --overwrite does not delete it")
    for inside, _, names in os.walk(run):
        if inside != run and "args.json" in names:
            raise ValueError(f"{run}: --overwrite would delete {inside} too, a run that lies in it; move "
                             "that one, or --name takes another")
    run_lock = lock_run(run)
    for entry in list(os.scandir(run)):              # what an older run left, but not the lock
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        elif entry.name != "lock":
            os.remove(entry)
    mark_cache(args.cache_dir)
    write_json(join(run, "args.json"), vars(args))
    return run, run_lock


def make_folder(args):
    """-> the path of a new folder, named by --name, or by the model with a number when that name is taken.

    With --overwrite an existing folder is taken as it is; ValueError where it is in the way."""
    parts = [getattr(args, flag, None) for flag in ("model", "mode", "n", "r")]      # three of MultiViT
    name = args.name or "-".join(str(part) for part in parts if part is not None)
    for number in itertools.count(1):
        run = join(args.runs, f"{name}-{number}" if number > 1 else name)
        try:
            os.makedirs(run)                         # of two processes only one can make it
            return run
        except FileExistsError as error:
            if args.overwrite and isdir(run):
                return run
            if args.name:
                advice = "--name takes another"
                if isfile(join(run, "args.json")):
                    advice = f"--resume {quote(run)} continues it, --overwrite starts it anew, {advice}"
                raise ValueError(f"{run} exists; {advice}") from error
