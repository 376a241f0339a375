"""A run folder -> its best model, ready to predict, with its tasks and its flags; and its metrics."""
import contextlib
import csv
from os.path import isdir, isfile, join
from shlex import quote

from safetensors import SafetensorError

from plumbing.checkpoints import read_checkpoint, read_json
from plumbing.cohort import Column, Task
from plumbing.command import first_line, in_one_line
from plumbing.flags import read_args
from plumbing.models import class_of, outputs_of
from plumbing.run_folder import lock_run, recover
from plumbing.weights import build_config, load_model


# what files that are absent, damaged or edited make fail, where they are read and where they are used
DAMAGE = (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, MemoryError,
          RecursionError, csv.Error, SafetensorError)


@contextlib.contextmanager
def evaluated(run):
    """Inside it the files of an evaluated run may be taken for what train.py and eval.py write: whatever
    fails because they are not becomes one ValueError that names the run."""
    try:
        yield
    except DAMAGE as error:
        advice = f"python eval.py {quote(run)} makes its metrics and predictions anew"
        if not isfile(join(run, "args.json")):
            advice = "a run folder holds an args.json"
        raise ValueError(f"{run}: no evaluated run as train.py and eval.py leave one ({first_line(error)}); "
                         f"{advice}") from error


def read_metrics(run):
    """-> what metrics.json of a run holds, {} where the run has not been evaluated yet."""
    path = join(run, "metrics.json")
    if not isfile(path):
        return {}
    return read_json(path)


def tasks_and_columns(saved, path):
    """config.json as a dict -> [Task], [Column]; ValueError where it is not as train.py writes it."""
    with in_one_line(f"{path}: the tasks or columns of config.json are not as train.py writes them"):
        tasks = [build_config(Task, task) for task in saved.get("tasks", [])]
        columns = [build_config(Column, column) for column in saved.get("columns", [])]
    return tasks, columns


def read_model(folder):
    """A folder that save_model wrote, or a run, for its best/ -> the model, in evaluation, and its tasks."""
    tensors, saved, _, _ = read_checkpoint(folder)
    tasks, columns = tasks_and_columns(saved, folder)
    model_class, config = class_of(saved, folder)
    model = load_model(model_class, config, outputs_of(tasks), tensors, folder)
    model.columns = columns
    return model.eval(), tasks


def open_model(run):
    """Run folder -> its best model, in evaluation, its tasks, its flags."""
    args = read_args(run)
    if not isdir(join(run, "best")):  # a process may be writing the files beside it now
        with lock_run(run):
            recover(join(run, "best"))
    return *read_model(run), args
