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
        kind = given[task.name].kind
        names = given[task.name].classes
        values = cohort.targets[task.name]
        matched = values.copy()
        if kind != task.kind:
            raise ValueError(f"{cohort.name}: {task.name} is a task of {kind}, in {run} of {task.kind}; "
                             "--target says which")
        if kind == "classes":
            known = [same_word(name) for name in task.classes]
            for number, name in enumerate(names):
                if same_word(name) not in known:
                    raise ValueError(f"{cohort.name}: {task.name} {name!r} is unknown to {run}, "
                                     f"which knows {', '.join(task.classes)}")
                matched[values == number] = known.index(same_word(name))
        elif kind == "labels":
            if not set(names) & set(task.classes):
                raise ValueError(f"{cohort.name}: has none of the labels of {run}, {', '.join(task.classes)}")
            matched = np.full((len(values), len(task.classes)), np.nan, np.float32)
            for i, label in enumerate(task.classes):
                if label in names:
                    matched[:, i] = values[:, names.index(label)]
        targets[task.name] = matched
    return replace(cohort, tasks=tasks, targets=targets)
