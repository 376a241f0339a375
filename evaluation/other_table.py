"""The thresholds that a run chose, for another table than the one it was trained on.
"""
import os

from plumbing.checkpoints import read_json


def saved_thresholds(run):
    """-> {task: {label: threshold}} that the run chose on its own validation split; another table has none.

    {} when the run has not been evaluated yet: there is no operating point then."""
    try:
        result = read_json(os.path.join(run, "metrics.json"))
    except ValueError:
        return {}
    thresholds = {}
    for task, scores in result.items():
        if isinstance(scores, dict):
            points = scores.get("operating_point", {})
            thresholds[task] = {name: point["threshold"] for name, point in points.items()}
    return thresholds
