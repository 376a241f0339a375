"""Intervals over seeds, and whether a claim holds.
"""
import math
import re
from statistics import mean, stdev


def look_up(metrics, places):
    """metrics.json, "a/b|c/d" -> the value at the first place that is there; NaN where it is null, and of a run that failed, None."""
    if metrics is None:
        return math.nan
    for place in places.split("|"):
        entry = metrics
        for key in place.split("/"):
            entry = entry.get(key, {})
        if entry:
            return math.nan if entry["value"] is None else entry["value"]
    raise ValueError(f"no {places} in metrics.json, which has {', '.join(metrics)}")


T = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262  # Student's t, 97.5 %, for 2 to 10 values


def spread(values):
    """-> mean, and half of its 95 % t interval, of the values that are defined; NaN of none, and half of one. Of more than ten the
    interval is a little wide."""
    known = [value for value in values if not math.isnan(value)]
    n = len(known)
    return mean(known) if n else math.nan, T[min(n, 10) - 2] * stdev(known) / math.sqrt(n) if n > 1 else math.nan


def margin(order, values, lower=False):
    """By how much is "A, B > C" true of {row: value}: the least lead of a row over one that it should beat; below 0 it is not. NaN
    where a value is not defined. lower: lower values are better."""
    groups = re.split(" >=? ", order)
    worth = []
    for group in groups:
        pairs = [row.partition(" + ") for row in group.split(", ")]
        worth.append([(-1 if lower else 1) * values[row] + float(help or 0) for row, _, help in pairs])
    if any(math.isnan(value) for group in worth for value in group):
        return math.nan
    return min(min(left) - max(right) for left, right in zip(worth, worth[1:]))


def verdict(order, values, lower=False):
    """{row: [value a seed]} -> "holds", "does not hold" or "undecided"; the margin with its interval; in how many seeds it is so."""
    margins = [margin(order, dict(zip(values, each)), lower) for each in zip(*values.values())]
    known = [each for each in margins if not math.isnan(each)]
    if not known:
        return "cannot be told, a value is undefined", "", ""
    true = sum(each > 0 or each == 0 and " > " not in order for each in known)
    center, half = spread(known)
    seeds = f"{true} of {len(known)}" + f", undefined in {len(margins) - len(known)}" * (len(known) < len(margins))
    said = "holds" if true == len(known) and center - half >= 0 else "does not hold" if not true and center + half <= 0 else "undecided"
    return said, with_interval(margins, "+"), seeds


def with_interval(values, sign=""):
    """[one a seed] -> "0.812 (0.790 to 0.834)"; of one seed there is no interval."""
    center, half = spread(values)
    ends = "" if math.isnan(half) else f" ({center - half:{sign}.3f} to {center + half:{sign}.3f})"
    return "failed" if math.isnan(center) else f"{center:{sign}.3f}{ends}"
