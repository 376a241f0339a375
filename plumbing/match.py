"""The targets of a table in the order of a run's outputs.
"""
from dataclasses import replace

import numpy as np

from plumbing.cells import places_in
from plumbing.tables import shortlist


def match(cohort, tasks, run):
    """-> the cohort with those of the run's tasks that it has targets of. run: its folder, for messages.

    Classes and labels are found by name, whatever their order in this table; 1 and 1.0 are one, as are Yes
    and yes. A label that the table lacks is unknown; which the run lacks, a note says. ValueError for a class
    that the run has not learned, for a task of another kind, and where there is nothing in common. Where both
    have a single task its name does not matter: that of class folders is always class."""
    given = {task.name: task for task in cohort.tasks}
    if len(tasks) == len(cohort.tasks) == 1:
        given = {tasks[0].name: cohort.tasks[0]}
    shared = [task for task in tasks if task.name in given]
    if not shared:
        raise ValueError(
            f"{cohort.name} has targets of {', '.join(given)}, "
            f"of which {run} predicts none; "
            f"it predicts {', '.join(task.name for task in tasks)}")
    targets = {}
    notes = list(cohort.notes)
    for task in shared:
        own = given[task.name]
        values = cohort.targets[own.name]
        if own.name != task.name:
            notes.append(f"{own.name} of {cohort.name} counts as {task.name} of {run}")
        if own.kind != task.kind:
            raise ValueError(f"{cohort.name}: {task.name} is a task of {own.kind}, in {run} of {task.kind}; "
                             "--target says which")
        targets[task.name] = values
        if task.kind not in ("classes", "labels"):
            continue
        places = places_in(task.classes, own.classes)
        foreign = [name for name, place in zip(own.classes, places) if place < 0]
        if foreign and (task.kind == "classes" or len(foreign) == len(places)):
            raise ValueError(f"{cohort.name}: {task.name} {foreign[0]!r} is unknown to {run}, "
                             f"which knows {', '.join(task.classes)}")
        if foreign:
            notes.append(f"{task.name}: {run} has not learned {shortlist(foreign)}, which is left out")
        if task.kind == "classes":
            place_of = np.float32([*places, np.nan])
            numbers = np.nan_to_num(values, nan=-1)                # the last one, where the class is unknown
            targets[task.name] = place_of[numbers.astype(int)]
        else:
            matched = np.full((len(values), len(task.classes) + 1), np.nan, np.float32)
            np.fmax.at(matched.T, places, values.T)                # the last column takes what is foreign
            targets[task.name] = matched[:, :-1]
    return replace(cohort, tasks=shared, targets=targets, notes=notes)
