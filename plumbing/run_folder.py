"""The run folder: what a training leaves, written so that a kill at any moment loses nothing.

    args.json        the flags
    split.csv        patient, split, images
    log.csv          one row an epoch
    best/, last/     config.json + model.safetensors; last/ also state.pt, what --resume needs, in plain types and tensors
    metrics.json, predictions.csv, figures/, report.html           after the test evaluation
    lock             empty; who holds it trains the run, nobody else may

Every file and every checkpoint folder is written beside its place and renamed: it is there whole or not at all.
"""
import csv
import json
import os
import shutil
from dataclasses import asdict

import torch
from safetensors.torch import save_file

from plumbing import parallel
from plumbing.checkpoints import first_line, read_checkpoint
from plumbing.weights import load_weights


try:
    import fcntl
except ImportError:                                                # Windows: nobody stops two processes from training one run
    fcntl = None


def write_whole(path, write):
    """write(file) under a temporary name, which is then renamed: no half file under a real name."""
    with open(path + ".part", "w", newline="", encoding="utf-8") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)


def write_json(path, content):
    write_whole(path, lambda file: json.dump(content, file, indent=1, allow_nan=False))


def write_csv(path, lines):
    write_whole(path, lambda file: csv.writer(file).writerows(lines))


def write_log(run, history):
    """log.csv, one row an epoch; always written whole, from what state.pt remembers."""
    last = history[-1] if history else {}                          # a column that came later is empty before
    write_csv(os.path.join(run, "log.csv"), [list(last), *[[row.get(name, "") for name in last] for row in history]] if history else [])


def write_folder(path, files):
    """Write {file name: function that writes it} to a folder that appears whole or not at all."""
    fresh, old = path + ".new", path + ".old"
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        os.makedirs(fresh)
        for name, write in files.items():
            write(os.path.join(fresh, name))
            with open(os.path.join(fresh, name), "r+b") as file:    # Windows syncs only what may be written
                os.fsync(file.fileno())
    except Exception as error:                                     # a full disk; the writers of both formats raise kinds of their own
        shutil.rmtree(fresh, ignore_errors=True)
        raise OSError(f"{path} could not be written ({first_line(error)}); what was there before is whole") from error
    with open(os.path.join(fresh, "complete"), "w"):               # from here on `recover` may take it
        pass
    if os.path.isdir(path):
        os.rename(path, old)
    os.rename(fresh, path)
    os.remove(os.path.join(path, "complete"))
    shutil.rmtree(old, ignore_errors=True)


def recover(path):
    """After a kill between the two renames of write_folder: put the complete new folder, or the old one, in its place."""
    fresh, old, marker = path + ".new", path + ".old", os.path.join(path, "complete")
    if not os.path.isdir(path):
        found = fresh if os.path.isfile(os.path.join(fresh, "complete")) else old
        if os.path.isdir(found):
            os.rename(found, path)
    if os.path.isfile(marker):
        os.remove(marker)
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)


def save_model(folder, name, model, tasks, state=None):
    """config.json + model.safetensors, and state.pt when there is a state. name: of the model, under which model_from_config knows it."""
    config = {"model": name, name: asdict(model.config), "tasks": [asdict(task) for task in tasks],
              "columns": [asdict(column) for column in model.columns]}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files = {"config.json": lambda path: write_json(path, config),
             "model.safetensors": lambda path: save_file(weights, path, {"format": "pt"})}
    if state:
        files["state.pt"] = lambda path: torch.save(state, path)
    write_folder(folder, files)


def load_state(run, model, optimizer, state):
    tensors, _, _ = read_checkpoint(os.path.join(run, "last"))
    load_weights(model, tensors, run, new=())
    path = os.path.join(run, "last", "state.pt")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(saved["optimizer"])
        numbers = saved["random"]                                  # of each process
        if len(numbers) == parallel.world():
            torch.set_rng_state(numbers[parallel.rank()]["cpu"])
            if torch.cuda.is_available() and "cuda" in numbers[parallel.rank()]:
                torch.cuda.set_rng_state(numbers[parallel.rank()]["cuda"])
        else:
            print(f"processes: {len(numbers)} before, {parallel.world()} now; dropout draws other numbers than without the break")
        return {key: saved.get(key, value) for key, value in state.items()}                  # what came later has its default
    except Exception as error:                                     # pickle and torch raise many kinds
        raise ValueError(f"{path}: cannot be resumed ({str(error).splitlines()[0]})") from error


def lock(run):
    """-> an open file. While it is open no other process gets past this line: two that train one run would mix their weights.

    The kernel keeps the lock and drops it when the process ends, however it ends, so none is ever left behind."""
    file = open(os.path.join(run, "lock"), "w")
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise ValueError(f"{run}: another process is training this run; wait for it, or take another --name") from error
    return file


def new_run(args):
    """Make the run folder; -> its path, and its lock."""
    name = args.name or "-".join(str(x) for x in (args.model, args.mode, args.n, args.r) if x is not None)
    run, number = os.path.join(args.runs, name), 1
    while True:
        try:
            os.makedirs(run)                                       # of two processes one makes it
            break
        except FileExistsError as error:
            if args.overwrite and os.path.isdir(run):
                break
            if args.name or args.overwrite:
                raise ValueError(f"{run} exists; --resume {run} goes on with it, --overwrite starts anew, --name takes another") from error
            number += 1
            run = os.path.join(args.runs, f"{name}-{number}")
    if set(os.listdir(run)) - {"lock", "args.json.part"} and not os.path.isfile(os.path.join(run, "args.json")):
        raise ValueError(f"{run} is no run folder (it holds no args.json); --overwrite does not delete it")
    held = lock(run)
    for entry in list(os.scandir(run)):                            # what an older run left, but not the lock
        if entry.name != "lock":
            shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.remove(entry)
    write_json(os.path.join(run, "args.json"), vars(args))
    return run, held
