"""Another table than that of a run: whom it must not hold, and the thresholds at which it is judged.
"""
import numpy as np

from plumbing.cohort import TARGET
from plumbing.patients import identity
from plumbing.prepare import own_data
from plumbing.saved_run import evaluated, read_metrics
from plumbing.splits import learned_copies, read_run_split


def learned_patients(run):
    """-> {identity of a patient: the split} of those that a run has learned from."""
    return {identity(patient): split for patient, split in read_run_split(run).items() if split != "test"}


def refuse_learned(cohort, run, args):
    """ValueError where another table holds a patient or an image that the run has learned from.

    args: the run's flags. Patients are compared by their ids in any spelling, unless one of the two tables
    has no ids: names of files prove nothing. Images are compared byte for byte."""
    own = None
    try:
        own = own_data(args, run)
    except ValueError as error:
        print(error)
    if cohort.patients_known and (own is None or own.patients_known):
        split_of = learned_patients(run)
        seen = [patient for patient in cohort.groups() if identity(patient) in split_of]
        if seen:
            raise ValueError(f"{cohort.name}: patient {seen[0]} is in the {split_of[identity(seen[0])]} "
                             f"split of {run} (such patients: {len(seen)}); if these are other people, give "
                             "them other ids, as with a prefix")
    if own is None:
        return
    pairs = learned_copies(own, run, cohort)
    if pairs:
        first, copy = pairs[0]
        raise ValueError(f"{cohort.paths[copy]} is byte for byte {own.paths[first]}, from which {run} has "
                         f"learned (such images: {len(pairs)} of {len(cohort.paths)})")


def saved_results(run):
    """-> {task: {label: threshold}} that the run chose on its own validation split, and {task: the constant
    prediction} of its training split; another table has neither.

    Both {} when the run has not been evaluated yet: there is no operating point, and no constant, then."""
    thresholds = {}
    constants = {}
    with evaluated(run):
        for key, scores in read_metrics(run).items():
            if isinstance(scores, dict):
                task = key.removeprefix(TARGET)
                thresholds[task] = {name: point["threshold"]
                                    for name, point in scores.get("operating_point", {}).items()}
                if "prediction" in scores.get("constant", {}):
                    constants[task] = np.array(scores["constant"]["prediction"])
    return thresholds, constants
