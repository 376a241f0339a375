"""The verdict on a task: is the model better than saying the same of everybody? A sentence, and its warnings.

Terminal, report and model card open with what `verdict` makes of metrics.json.
"""
from evaluation.metrics import METRICS, NAMES
from evaluation.result_tables import CONSTANT, capital, cell_text, interval, number, sides
from evaluation.scores import FEW


FLAT = 0.1          # spread of the predictions / that of the targets; a calibrated model with less explains
                    # less than 1 % of the variance


def verdict(task, result):
    """What metrics.json holds -> a sentence on one task, and a list of sentences that warn."""
    scores = result[task.key]
    metric = next(iter(METRICS[task.kind]))
    entry = scores[metric]
    gain = scores.get("gain", {}).get(metric)
    asked = questions(task, scores)
    rare = few(asked)
    alone = rare and len(asked) == 1                               # the only question, in doubt
    constant = f"always predicting {CONSTANT[task.kind]}"
    if entry["value"] is None:
        sentence = f"{task.name} cannot be judged: {NAMES[metric]} is undefined, {entry['reason']}."
    elif not gain or gain["value"] is None:
        sentence = f"{task.name}: {NAMES[metric]} {cell_text(entry)}, compared with nothing."
    elif gain["low"] is None or scores["patients"] < FEW or alone:
        sentence = (f"{task.name} cannot be judged with so few {result['unit']}s: {NAMES[metric]} "
                    f"{number(entry['value'])}, {constant} {number(scores['constant'][metric]['value'])}.")
    else:
        without = scores["constant"][metric]["value"]
        sentence = (f"{task.name}: {compared(gain)} than {constant}. "
                    f"{capital(NAMES[metric])} {number(entry['value'])} against {number(without)}, "
                    f"a gain of {number(gain['value'])} {interval(gain)} "
                    f"on {scores['units']} {result['split']} {result['unit']}s.")
    return sentence, warnings(task, result, rare, alone)


def compared(gain):
    """The word for a gain: its interval lies above 0, below it, or holds it."""
    if gain["low"] > 0:
        return "better"
    if gain["high"] < 0:
        return "worse"
    return "not better"


def questions(task, scores):
    """What a task asks -> {name: {what is counted: how many}}; an interval is no better than the fewest."""
    if task.kind == "regression":
        return {task.name: {"patients": scores["patients"]}}
    if task.kind == "survival":
        return {task.name: {"events": scores.get("events", FEW)}}  # files of before do not say
    counts = {label: sides(entries) for label, entries in scores.get("per_label", {}).items()}
    confusion = scores.get("confusion", [])
    units = sum(map(sum, confusion))
    for name, row in zip(task.classes, confusion):
        counts[name] = {"positives": sum(row), "negatives": units - sum(row)}
    if task.kind == "classes" and len(task.classes) == 2:          # one question, asked of the second class
        del counts[task.classes[0]]
    return counts


def few(asked):
    """`questions` -> {label, class or task: "3 positives"} of those with fewer than FEW of something."""
    rare = {}
    for name, counts in asked.items():
        least = min(counts, key=counts.get)
        if counts[least] < FEW:
            noun = least
            if counts[least] == 1:
                noun = least.removesuffix("s")
            rare[name] = f"{counts[least]} {noun}"
    return rare


def warnings(task, result, rare, alone):
    scores = result[task.key]
    texts = []
    if alone:
        texts.append(f"Only {', '.join(rare.values())}: no interval is trustworthy.")
    elif rare:
        names = ", ".join(f"{name} ({count})" for name, count in rare.items())
        texts.append(f"Below {FEW} positives or negatives, so that no interval is trustworthy, in: {names}.")
    lows = {label: entries["auroc"]["low"] for label, entries in scores.get("per_label", {}).items()}
    chance = [label for label, low in lows.items() if low is not None and low <= 0.5]
    if chance:
        texts.append(f"Not better than chance: {', '.join(chance)}.")
    if scores.get("spread") is not None and scores["spread"] < FLAT:
        texts.append("The predictions hardly vary.")
    brier = scores.get("gain", {}).get("brier")
    if brier and brier["high"] is not None and brier["high"] < 0:
        texts.append(f"The probabilities are worse than {CONSTANT[task.kind]} (Brier score).")
    if result.get("patient_ids", True):
        if result["unit"] == "image":
            texts.append("Images, not patients, are scored: those of a patient have targets of their own.")
    else:
        texts.append("Images, not patients: nothing says who the patients are, so that images of one person "
                     "may be on both sides of the split, and the intervals may be too narrow.")
    return texts
