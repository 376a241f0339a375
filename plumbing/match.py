"""The targets of a table in the order of a run's outputs.
"""
from dataclasses import replace

import numpy as np

from plumbing.cells import same_word


def match(cohort, tasks, run):
    """The cohort with those of the run's tasks that it has targets of.

    Classes and labels are found by name, whatever their order in this table; 1 and 1.0 are one class, as are
    Yes and yes. A label that the table lacks is unknown. ValueError for a class that the run has not learned,
    for a task of another kind, and where there is nothing in common."""
    given = {task.name: task for task in cohort.tasks}
    tasks = [task for task in tasks if task.name in given]
    if not tasks:
        raise ValueError(f"{cohort.name} has targets of {', '.join(given)}, of which {run} predicts none")
    targets = {}
    for task in tasks:
        own = given[task.name]
        values = cohort.targets[task.name]
        if own.kind != task.kind:
            raise ValueError(f"{cohort.name}: {task.name} is a task of {own.kind}, in {run} of {task.kind}; "
                             "--target says which")
        if task.kind == "classes":
            known = [same_word(name) for name in task.classes]
            matched = np.full_like(values, np.nan)                 # with the run's numbers of the classes
            for number, name in enumerate(own.classes):
                word = same_word(name)
                if word not in known:
                    raise ValueError(f"{cohort.name}: {task.name} {name!r} is unknown to {run}, "
                                     f"which knows {', '.join(task.classes)}")
                matched[values == number] = known.index(word)
            values = matched
        elif task.kind == "labels":
            columns = dict(zip(own.classes, values.T))
            if columns.keys().isdisjoint(task.classes):
                raise ValueError(f"{cohort.name}: has none of the labels of {run}, {', '.join(task.classes)}")
            unknown = np.full(len(values), np.nan, np.float32)
            values = np.stack([columns.get(label, unknown) for label in task.classes], 1)
        targets[task.name] = values
    return replace(cohort, tasks=tasks, targets=targets)
