"""A run folder -> its best model, ready to predict, with its tasks and its flags."""
import os

from plumbing.cohort import Column, Task
from plumbing.flags import read_args
from plumbing.models import class_of
from plumbing.run_folder import lock, recover
from plumbing.weights import check_size, load_weights, read_checkpoint


def open_model(run):
    """Run folder -> its best model, its tasks, its flags."""
    if not os.path.isfile(os.path.join(run, "args.json")):
        raise ValueError(f"{run}: no run folder (it holds no args.json)")
    if not os.path.isdir(os.path.join(run, "best")):  # a process may be writing the files beside it now
        lock_file = lock(run)
        recover(os.path.join(run, "best"))
        lock_file.close()
    tensors, saved, _ = read_checkpoint(run)
    try:
        tasks, columns = [], []
        for task in saved.get("tasks", []):
            tasks.append(Task(**dict(task, classes=tuple(task["classes"]))))
        for column in saved.get("columns", []):
            columns.append(Column(**dict(column, values=tuple(column["values"]))))
        outputs = {task.name: task.outputs for task in tasks}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{run}: the tasks or columns of config.json are not as train.py writes them "
                         f"({error})") from error
    model_class, config = class_of(saved, run)
    check_size(model_class, config, tensors, run, outputs)
    model = model_class(config, outputs)
    model.columns = columns
    load_weights(model, tensors, run, new=())
    return model, tasks, read_args(run)
