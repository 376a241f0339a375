"""Results as a reader sees them: tables that terminal, web page and model card share, and numbers as text.

A table is (caption, head, rows). A cell is a text, a number, or an entry of metrics.json: {value, low, high},
or {value: None, reason}. Beside these an entry may hold `of`, the counts that it is made of.
"""
from evaluation.localization import map_title
from evaluation.metrics import METRICS, NAMES, random_precision
from evaluation.probabilities import RATES
from evaluation.scores import FEW
from evaluation.subgroups import SMALL


CONSTANT = {"regression": "the training median", "classes": "the training shares of the classes",
            "labels": "the training share of each label", "survival": "the same risk for all",
            "loss": "nothing"}


MARK = "†"
FEWER = (f"{MARK} fewer than {FEW} positives, negatives, events, findings or patients, or all resamples "
         "alike: the interval is not trustworthy; skipped: resamples in which it is undefined")


ABSENT = {"value": None, "reason": "not measured"}   # in files of before
COUNTED = ("events", "patients", "positives", "negatives", "positive patients", "negative patients")
MOST = 30                                            # classes or labels of which there are charts
LUCK = "one of 20 intervals misses the truth"


# -----------------------------------------------------------------------------
# cells


def number(x, beside=None):
    """Three decimals, or three digits where that would show too little or too much; None is undefined.

    beside: a number with which it stands, of as many decimals if that is larger. What is left of a sum by
    rounding is 0."""
    if x is None:
        return "undefined"
    if 0.999 < x < 1:                                              # what is not perfect does not look so
        x = 0.999
    size = max(abs(x), abs(beside or 0))
    if 0.01 <= size < 1000 or size < 1e-12:
        return f"{x:.3f}".replace("-0.000", "0.000")
    if 1000 <= size < 1e6 and abs(x) >= 10:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def capital(text):
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def interval(entry):
    """-> "(2.910 to 4.760)", "" where an entry has no interval."""
    low = entry["low"]
    high = entry["high"]
    if low is None:
        return ""
    return f"({number(low, high)} to {number(high, low)})"


def cell_text(cell):
    """A cell -> text, of an entry "3.880 (2.910 to 4.760)", or why its value is undefined."""
    if not isinstance(cell, dict):
        return str(cell)
    if cell["value"] is None:
        return f"undefined: {cell['reason']}"
    widest = max(cell["high"] or 0, -(cell["low"] or 0))
    return " ".join(filter(None, [number(cell["value"], widest), interval(cell), cell.get("of")]))


def people(result):
    """metrics.json -> what its intervals resample, in words."""
    if result.get("patient_ids", True):                            # files of before do not say
        return "patients"
    return "images, not patients,"


def counts(result):
    """metrics.json -> how many patients and images it is about, in words."""
    text = f"{result['images']} images"
    if result.get("patient_ids", True):
        text = f"{result['patients']} patients, {text}"
    return text


# -----------------------------------------------------------------------------
# one run


def tables(task, result):
    """-> the tables of one task. result: what metrics.json holds."""
    scores = result[task.key]
    noun = people(result).partition(",")[0]                        # patients, or images
    made = [
        metric_table(task, result),
        group_table(f"Label by label; {LUCK}", "positives", scores.get("per_label"), task),
        group_table("Each branch alone", noun, scores.get("branches"), task),
        group_table(subgroup_caption(result), noun, scores.get("subgroups"), task),
        operating_table(scores.get("operating_point")),
    ]
    return [table for table in made if table[2]]                   # those with rows


def metric_table(task, result):
    """Every metric, beside that of the constant predictor where there is one."""
    scores = result[task.key]
    constant = scores.get("constant")
    few_cases = too_few(task, scores)
    caption = f"95 % intervals, {scores['patients']} {people(result)} resampled"
    head = [f"{task.name}, {scores['units']} {result['unit']}s", result["split"]]
    if constant:
        caption += f". Constant: always predicting {CONSTANT[task.kind]}"
        head.append("constant")
    rows = []
    total = len(task.classes)
    for metric, title in NAMES.items():
        if metric not in scores:
            continue
        entry = scores[metric]
        defined = entry.get(task.kind, total)                      # for how many of the classes or labels
        if defined < total:
            title += f", {defined} of {total} {task.kind}"
        row = [title, marked(entry, few_cases)]
        if constant:
            row.append(constant_text(task, scores, metric))
        rows.append(row)
    return caption, head, rows


def constant_text(task, scores, metric):
    """What a metric is for the constant predictor; of the average precision also for a random order."""
    value = scores[metric]["value"]
    if metric in scores["constant"]:
        text = number(scores["constant"][metric]["value"], value)
    elif value is None:
        text = number(None)
    else:
        text = number(0)                                           # how far a constant agrees with anything
    if metric == "auprc" and value is not None:
        orders = [random_precision(own["positives"], own["negatives"])
                  for own in questions(task, scores).values() if own["positives"]]
        text += f", random order {number(sum(orders) / len(orders))}"
    return text


def marked(entry, few_cases):
    """An entry, with MARK behind its interval where this is not trustworthy."""
    if few_cases or alike(entry):
        return dict(entry, of=f"{MARK} {entry.get('of', '')}".strip())
    return entry


def legend(made):
    """-> what MARK means, in a list, where it stands in one of these tables."""
    if MARK in str(made):
        return [FEWER]
    return []


def group_table(caption, counted, groups, task):
    """One row per label or subgroup: its name, two metrics, and how many of what is counted."""
    metrics = list(METRICS[task.kind])[:2]
    rows = []
    for name, group in (groups or {}).items():
        row = [name]
        for metric in metrics:
            entry = dict(group[metric])
            if "constant" in group:
                entry["of"] = f"against {number(group['constant'][metric]['value'])}"
            row.append(marked(entry, too_few(task, group)))
        rows.append([*row, count_text(group, metrics[0])])
    return caption, ["", *[NAMES[metric] for metric in metrics], counted], rows


def count_text(group, metric):
    """ "45", of labels "13 of 100", and in brackets what is to be known of so many."""
    text = str(group.get("positives", group.get("patients")))
    if "negatives" in group:
        text += f" of {group['positives'] + group['negatives']}"
    remarks = []
    if group.get("small"):
        remarks.append("small")
    if group[metric].get("skipped"):
        remarks.append(f"{group[metric]['skipped']} skipped")
    undefined = [label for label, own in group.get("per_label", {}).items() if own[metric]["value"] is None]
    if len(undefined) > 2:
        undefined = [f"{len(undefined)} labels"]
    if undefined:
        remarks.append(f"without {' '.join(undefined)}")
    if remarks:
        text += f" ({', '.join(remarks)})"
    return text


def questions(task, scores):
    """-> {what a task asks: its scores}, with how many of what is COUNTED; an interval is no better than the
    fewest. scores: of all patients, of a subgroup, or of one label. Files of before do not say all of it."""
    asked = {task.name: scores}
    if task.kind in ("classes", "labels") and "positives" not in scores:
        asked = dict(scores.get("per_label") or scores.get("per_class", {}))
    if task.kind == "classes" and len(asked) == 2:                 # one question, asked of the second class
        del asked[task.classes[0]]
    return asked


def few(asked):
    """`questions` -> ["mass (positives: 3)"] of those with fewer than FEW of something."""
    rare = []
    for name, scores in asked.items():
        noun = min(COUNTED, key=lambda counted: scores.get(counted, FEW))
        if scores.get(noun, FEW) < FEW:
            rare.append(f"{name} ({noun}: {scores[noun]})")
    return rare


def too_few(task, scores):
    """Have most of the questions few cases, so that their mean is no better? scores: as for `questions`."""
    asked = questions(task, scores)
    return 2 * len(few(asked)) > len(asked)


def alike(entry):
    """Do all resamples give the same, as where two groups are told apart without an error?"""
    return entry.get("low") is not None and entry["low"] == entry["high"]


def subgroup_caption(result):
    caption = (f"Subgroups, against the constant there; {LUCK}; small: fewer than {SMALL} patients, so that "
               "little can be said")
    for column, patients in result.get("by", {}).items():
        if patients:
            caption += f"; {column} varies within {patients} patients, whose first image counts"
    return caption


def operating_table(points):
    """One row per label or class: sensitivity and specificity with their counts, and the threshold."""
    rows = []
    for name, point in (points or {}).items():
        if point["threshold"] is None:
            rows.append([name, dict(point, value=None), "", "", "", "", ""])
            continue
        entries = []
        for rate, (right, wrong) in RATES.items():
            total = point[right] + point[wrong]
            entries.append({"patients": total, **point.get(rate, ABSENT), "of": f"{point[right]} of {total}"})
        entries.append({"patients": point["true_positives"] + point["false_negatives"],
                        **point.get("f1", ABSENT)})
        rows.append([name, *[marked(entry, entry["patients"] < FEW) for entry in entries],
                     number(point["threshold"])])
    return ("At or above a threshold, chosen on the validation split (Youden's J); "
            "PPV and NPV are for the share of positives here",
            ["", "sensitivity", "specificity", "PPV", "NPV", "F1", "at or above"], rows)


def confusion_tables(task, result):
    """-> the confusion of a task of classes, in a list; [] for other tasks, and of more than MOST."""
    confusion = result[task.key].get("confusion")
    if not confusion or len(confusion) > MOST:
        return []
    rows = [[name, *counts] for name, counts in zip(task.classes, confusion)]
    return [(f"Confusion: {result['unit']}s by their actual class (rows) and the predicted one (columns)",
             ["", *task.classes], rows)]


def map_tables(result):
    """-> where the maps point, map by map, and label by label. result: see localization.score_maps."""
    first = next(iter(result.values()))            # all are of the same findings
    titles = [map_title(name) for name in result]
    rows = []
    for title, scores in zip(titles, result.values()):
        rows.append([title, *[marked(scores[metric], first["findings"] < FEW)
                              for metric in ("pointing", "mass")]])
    labels = []
    for label, own in first["per_label"].items():
        cells = [marked(scores["per_label"][label]["pointing"], own["findings"] < FEW)
                 for scores in result.values()]
        labels.append([label, *cells, own["findings"]])
    return [("Do the maps point at the finding? How often the strongest patch touches the box, "
             "and the share of the map inside it",
             [f"boxes of {first['findings']} findings", "pointing game", "mass in the box"], rows),
            ("Pointing game, label by label", ["", *titles, "findings"], labels)]
