"""The verdict on a task: is the model better than saying the same of everybody? A sentence, and its warnings.

Terminal, report and model card open with what `verdict` makes of metrics.json.
"""
from evaluation.metrics import METRICS, NAMES
from evaluation.result_tables import (
    CONSTANT, alike, capital, cell_text, few, number, questions, too_few,
)
from evaluation.scores import FEW
from plumbing.tables import shortlist


FLAT = 0.1          # spread of the predictions / that of the targets; a calibrated model with less explains
                    # less than 1 % of the variance


CHANCE = {                                           # how well it tells patients apart, and what a guess has
    "regression": ("spearman", 0),
    "classes": ("auroc", 0.5),
    "labels": ("auroc", 0.5),
    "survival": ("c_index", 0.5),
}


def verdicts(tasks, result):
    """Yield the `verdict` on each task, of the first with what speaks against the numbers of all."""
    for task in tasks:
        sentence, texts = verdict(task, result)
        if task == tasks[0]:
            texts = [*run_warnings(result), *texts]
        yield sentence, texts


def verdict(task, result):
    """What metrics.json holds -> a sentence on one task, and a list of sentences that warn."""
    scores = result[task.key]
    metric = next(iter(METRICS[task.kind]))
    entry = scores[metric]
    gain = scores.get("gain", {}).get(metric)
    asked = questions(task, scores)
    constant = f"always predicting {CONSTANT[task.kind]}"
    name = NAMES[metric]
    averaged = entry.get(task.kind, len(asked))      # of so many labels or classes it is the mean
    if averaged > 1 and len(asked) > 1:
        name = f"mean {name} of {averaged} {task.kind}"
    texts = [*rare_warnings(asked), *warnings(task, result, asked, metric)]
    if entry["value"] is None:
        return f"{task.name} cannot be judged: {name} is undefined, {entry['reason']}.", texts
    if not gain:
        return f"{task.name}: {name} {cell_text(entry)}, compared with nothing.", texts
    value = number(entry["value"])
    without = number(scores["constant"][metric]["value"])
    if gain["low"] is None or too_few(task, scores):
        return (f"{task.name} cannot be judged with so few cases: {name} {value}, {constant} {without}.",
                texts)
    word = "not better"                              # the interval holds 0
    if gain["low"] > 0:
        word = "better"
    elif gain["high"] < 0:
        word = "worse"
    return (f"{task.name}: {word} than {constant}. {capital(name)} {value} against {without}, "
            f"a gain of {cell_text(gain)} on {scores['units']} {result['split']} {result['unit']}s."), texts


def rare_warnings(asked):
    """asked: the `questions` of a task."""
    rare = few(asked)
    if not rare:
        return []
    return [f"Fewer than {FEW} cases, so that no interval is trustworthy: {shortlist(rare)}."]


def share_brier(task, asked):
    """The Brier score of the share of positives among such units, the same for all: their variance."""
    variances = []
    for own in asked.values():
        n = own["positives"] + own["negatives"]
        if n:
            variances.append(own["positives"] * own["negatives"] / n / max(n - 1, 1))
    if task.kind == "classes" and len(variances) > 1:              # half the sum over the classes
        return sum(variances) / 2
    return sum(variances) / len(variances)


def held_against_chance(task, groups):
    """-> {"Worse" or "Not better": names} of the labels or subgroups whose intervals do not exclude it."""
    names = {}
    if task.kind not in CHANCE:
        return names
    metric, chance = CHANCE[task.kind]
    for name, scores in groups.items():
        entry = scores[metric]
        if entry["low"] is None or entry["low"] > chance:
            continue
        word = "Not better"
        if entry["high"] < chance and not too_few(task, scores):
            word = "Worse"
        names.setdefault(word, []).append(name)
    return names


def run_warnings(result):
    """Yield what speaks against the numbers of all tasks."""
    if result["split"] != "test":
        yield f"No test: the run was made with these patients, those of its {result['split']} split."
    yield from result.get("seen_before", [])
    yield from result.get("warnings", [])
    if not result.get("patient_ids", True):
        yield ("Images, not patients: nothing says who the patients are, so that images of one person "
               "may be on both sides of the split, and the intervals may be too narrow.")
    elif result["unit"] == "image":
        yield "Images, not patients, are scored: those of a patient have targets of their own."


def warnings(task, result, asked, metric):
    """Yield what else speaks against the numbers of a task. asked: its `questions`; metric: the first."""
    scores = result[task.key]
    for where, key in (("chance", "per_label"), ("chance within a subgroup", "subgroups")):
        for word, names in held_against_chance(task, scores.get(key, {})).items():
            yield f"{word} than {where}: {', '.join(names)}."
    if alike(scores[metric]):
        yield (f"All resamples gave the same {NAMES[metric]}, so that its interval is not trustworthy; "
               "if it is perfect, look for what gives the answer away.")
    if scores.get("spread") is not None and scores["spread"] < FLAT:
        yield "The predictions hardly vary."
    if (scores.get("r2", {}).get("high") or 0) < 0:
        yield (f"The numbers do not fit these {result['unit']}s: their own mean, the same for all, would be "
               "closer (R² below 0).")
    naming = scores.get("balanced_accuracy")
    always = scores.get("constant", {}).get("balanced_accuracy")
    if naming and always and naming["low"] is not None and naming["low"] <= always["value"]:
        yield "It names the class no better than always the same one would (balanced accuracy)."
    gain = scores.get("gain", {}).get("brier")
    if gain and gain["low"] is not None:
        shares = share_brier(task, asked)
        if gain["high"] < 0:
            yield f"The probabilities are worse than {CONSTANT[task.kind]} (Brier score)."
        elif scores["brier"]["low"] is not None and scores["brier"]["low"] > shares:
            yield (f"The probabilities do not fit these {result['unit']}s: the shares of positives among "
                   f"them, the same for all, have {number(shares)} (Brier score).")
    largest = scores.get("largest", 1)
    if largest > 1 and 5 * largest > scores["units"]:
        yield f"One patient has {largest} of the {scores['units']} images."
