"""The targets of a table in the order of a run's outputs.
"""
from dataclasses import replace

import numpy as np

from plumbing.cells import same_word
from plumbing.tables import shortlist


def match(cohort, tasks, run):
    """The cohort with those of the run's tasks that it has targets of.

    Classes and labels are found by name, whatever their order in this table; 1 and 1.0 are one, as are Yes
    and yes. A label that the table lacks is unknown; which the run lacks, a note says. ValueError for a class
    that the run has not learned, for a task of another kind, and where there is nothing in common."""
    given = {task.name: task for task in cohort.tasks}
    tasks = [task for task in tasks if task.name in given]
    if not tasks:
        raise ValueError(f"{cohort.name} has targets of {', '.join(given)}, of which {run} predicts none")
    targets = {}
    notes = list(cohort.notes)
    for task in tasks:
        own = given[task.name]
        values = cohort.targets[task.name]
        if own.kind != task.kind:
            raise ValueError(f"{cohort.name}: {task.name} is a task of {own.kind}, in {run} of {task.kind}; "
                             "--target says which")
        known = [same_word(name) for name in task.classes]
        if task.kind == "classes":
            matched = np.full_like(values, np.nan)                 # with the run's numbers of the classes
            for number, name in enumerate(own.classes):
                word = same_word(name)
                if word not in known:
                    raise ValueError(f"{cohort.name}: {task.name} {name!r} is unknown to {run}, "
                                     f"which knows {', '.join(task.classes)}")
                matched[values == number] = known.index(word)
            values = matched
        elif task.kind == "labels":
            by_name = dict(zip(own.classes, values.T))
            by_word = {same_word(name): column for name, column in by_name.items()}
            if by_word.keys().isdisjoint(known):
                raise ValueError(f"{cohort.name}: has none of the labels of {run}, {', '.join(task.classes)}")
            foreign = [name for name in by_name if same_word(name) not in known]
            if foreign:
                notes.append(f"{task.name}: {run} has not learned {shortlist(foreign)}, which is left out")
            unknown = np.full(len(values), np.nan, np.float32)
            matched = []
            for name, word in zip(task.classes, known):
                matched.append(by_name.get(name, by_word.get(word, unknown)))
            values = np.stack(matched, 1)
        targets[task.name] = values
    return replace(cohort, tasks=tasks, targets=targets, notes=notes)
