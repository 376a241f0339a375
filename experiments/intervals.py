"""Does a paper's claim hold? Intervals of numbers that were measured with several seeds.
"""
import math
import re
from statistics import mean, stdev

import numpy as np


# quantiles of Student's t distribution, 97.5 %, for 2 to 10 values
T = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262


def look_up(metrics, places):
    """A number of metrics.json; of the places "a/b|c/d" the first that is there counts.

    NaN where it is null, where there are no metrics since the run failed, and at an empty place, which is
    always there. ValueError if no place is there."""
    if not metrics:
        return math.nan
    for place in places.split("|"):
        if not place:
            return math.nan
        entry = metrics
        for key in place.split("/"):
            entry = entry.get(key, {})
        if entry:
            return math.nan if entry["value"] is None else entry["value"]
    raise ValueError(f"no {places} in metrics.json, which has {', '.join(metrics)}")


def spread(values):
    """-> the mean of the values that are not NaN, and half the width of its 95 % t interval.

    Without values the mean is NaN, with fewer than two the half width is."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    if len(known) == 1:
        return known[0], math.nan
    return mean(known), T[len(known) - 2] * stdev(known) / math.sqrt(len(known))


def with_interval(values, sign=""):
    """The values of all seeds -> "0.812 (0.790 to 0.834)"; a single seed has no interval.

    sign "+": positive numbers get a sign too."""
    center, half = spread(values)
    if math.isnan(center):
        return "failed"
    text = f"{center:{sign}.3f}"
    if not math.isnan(half):
        text += f" ({center - half:{sign}.3f} to {center + half:{sign}.3f})"
    return text


def margin(order, values, lower=False):
    """By how much "A, B > C" is true of {row: a value, or one per seed}: the smallest lead of a row over one
    it should beat.

    Below 0 the order is false; NaN where a value is. "A + 0.02 > C" helps A by so much.
    lower: lower values are better."""
    sides = []                                                     # the scores of both, higher is better
    for side in re.split(" >=? ", order):
        scores = []
        for term in side.split(", "):
            row, _, head_start = term.partition(" + ")
            value = np.array(values[row])
            if lower:
                value = -value
            scores.append(value + float(head_start or 0))
        sides.append(scores)
    better, worse = sides
    return np.min(better, 0) - np.max(worse, 0)                    # unlike min and max, NaN if a score is


def verdict(order, values, lower=False):
    """{row: [a value per seed]} -> "holds", "does not hold" or "undecided", the margin, in how many seeds.

    The margin is text with its interval, and so is the number of seeds: "2 of 3"."""
    margins = margin(order, values, lower).tolist()
    known = [lead for lead in margins if not math.isnan(lead)]
    if not known:
        return "cannot be told, a value is undefined", "", ""
    true = sum(lead > 0 or lead == 0 and ">=" in order for lead in known)
    seeds = f"{true} of {len(known)}"
    if len(known) < len(margins):
        seeds += f", undefined in {len(margins) - len(known)}"
    center, half = spread(known)
    answer = "undecided"
    if true == len(known) and center >= half:
        answer = "holds"
    if true == 0 and center <= -half:
        answer = "does not hold"
    return answer, with_interval(margins, "+"), seeds
