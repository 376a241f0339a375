"""A stopped run goes on with the data it began with: who is in which split, and what the outputs mean.

Between stop and resume a table may gain, lose or reorder rows. The run's split.csv and config.json decide:
no patient changes sides, and no label turns round. Where targets or classes are others, nothing goes on.
"""
from os.path import isdir, join

from plumbing.checkpoints import read_json
from plumbing.match import match
from plumbing.saved_run import tasks_and_columns
from plumbing.splits import files_of, read_split_rows, sort_by_split
from plumbing.tables import shortlist


def same_targets(cohort, run):
    """-> the cohort with its targets in the order of the run's outputs, the run's tasks and its columns.

    None for tasks and columns where the run was stopped before its first checkpoint. ValueError when the
    table no longer has a target, label or class of the run, or has another."""
    folder = join(run, "last")
    if not isdir(folder):                    # a kill may have left only the other
        folder = join(run, "best")
    if not isdir(folder):
        return cohort, None, None
    tasks, columns = tasks_and_columns(read_json(join(folder, "config.json")), folder)
    before = targets_in_words(tasks)
    now = targets_in_words(cohort.tasks)
    if before != now:
        raise ValueError(f"{cohort.name}: the targets have changed since {run} began: {now}, then {before}; "
                         "restore the table, or start a new run")
    return match(cohort, tasks, run), tasks, columns


def targets_in_words(tasks):
    """What tasks predict, in an order of their own."""
    return ", ".join(sorted(f"{task.name} ({task.kind} {'/'.join(sorted(task.classes))})" for task in tasks))


def same_split(cohort, run):
    """-> {train, val, test: indices of images} as the run's split.csv has it, and notes for the reader.

    Patients who are new are left out. ValueError when a patient's images are not those of the beginning."""
    rows = read_split_rows(run)
    files = files_of(cohort)
    for patient in files:
        before = rows.get(patient, {}).get("files")                # None in runs of earlier versions
        if before and before != files[patient]:
            raise ValueError(f"{cohort.name}: patient {patient} has other image files than when {run} began; "
                             "restore them, or start a new run")
    notes = list(cohort.notes)
    if files.keys() != rows.keys():
        notes.append(f"since {run} began patients are new, who are left out "
                     f"({shortlist(sorted(files.keys() - rows.keys()))}), or gone "
                     f"({shortlist(sorted(rows.keys() - files.keys()))})")
    indices, line = sort_by_split(cohort, {patient: row["split"] for patient, row in rows.items()
                                           if patient in files})
    return indices, [*notes, line]
