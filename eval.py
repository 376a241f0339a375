"""What a trained model is worth: metrics with intervals, beside a constant, by subgroup; predictions; pictures.

    python eval.py runs/NAME                       the test split of the run, again
    python eval.py runs/NAME --by sex              subgroups; without --by it is fst, Fitzpatrick I-IV against V-VI, if there
    python eval.py runs/NAME --data other.csv      another table, refused when it holds a patient the run learned from
    python eval.py runs/NAME --against runs/OTHER  the differences of two runs on the test patients they have in common: compare.py
    python eval.py runs/NAME --predict SOURCE --out new.csv        new images, a folder or a CSV, without targets: deploy.py
    python eval.py runs/NAME --export FOLDER       the best model as a folder for the Hub: deploy.py

The unit is the patient: the predictions for his images, or groups of N images, are averaged. Only where the images of a
patient have targets of their own (`follow-up` films, say) is it the image. Intervals are percentile bootstraps over patients,
95 %, 1,000 resamples. Every metric takes weights, (W, n) numbers of times that each of n units counts, and gives W values:
the point estimate is a row of ones, the bootstrap a thousand rows of multiplicities. A metric that is undefined (one class
only) is NaN, never 0.5 and never a crash; it is null, with the reason, in metrics.json. A prediction that is no number is refused.
"""
import argparse
import csv
import json
import os
import re
from dataclasses import replace

import numpy as np
import torch
from huggingface_hub.utils import tqdm

import plots
import report
from data import Samples, make_loader, read_image
from tables import SPLITS, per_patient

SMALL = 20                                                         # patients: of fewer a subgroup's metrics say little

# -----------------------------------------------------------------------------
# metrics: prediction and target (n,), weights (W, n) -> (W,)


def mae(prediction, target, weights):
    """Mean absolute error."""
    return ratio(weights @ np.abs(prediction - target), weights.sum(1))


def mean_error(prediction, target, weights):
    """Mean signed error: below 0 the model underestimates."""
    return ratio(weights @ (prediction - target), weights.sum(1))


def mse(prediction, target, weights):
    """Mean squared error; of the probability of a label, the Brier score."""
    return ratio(weights @ (prediction - target) ** 2, weights.sum(1))


def rmse(prediction, target, weights):
    return np.sqrt(mse(prediction, target, weights))


def r2(prediction, target, weights):
    """1 - residual / total sum of squares about the weighted mean of the target; NaN when all targets are equal."""
    mean = ratio(weights @ target, weights.sum(1))
    total = (weights * (target - mean[:, None]) ** 2).sum(1)
    total[total <= 1e-24 * (weights @ target ** 2)] = 0            # rounding of the mean is no variance
    return 1 - ratio(weights @ (prediction - target) ** 2, total)


def spearman(prediction, target, weights):
    """Correlation of the ranks; NaN when all predictions or all targets are equal."""
    a, b = ranks(prediction, weights), ranks(target, weights)
    return ratio((weights * a * b).sum(1), np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1)))


def ranks(values, weights):
    """(W, n) ranks about their mean, which are 0 where all values are equal; ties share the mean of theirs."""
    at, _ = by_score(values, np.ones(len(values)), weights)        # (W, distinct values)
    upto = np.cumsum(at, 1)
    return (upto - at / 2 - upto[:, -1:] / 2)[:, np.unique(values, return_inverse=True)[1]]


def auroc(prediction, target, weights):
    """Chance that a positive unit scores above a negative one, ties count half; NaN with one class."""
    positive, negative = by_score(prediction, target, weights)     # (W, distinct scores), lowest first
    below = np.cumsum(negative, 1) - negative
    return ratio((positive * (below + negative / 2)).sum(1), positive.sum(1) * negative.sum(1))


def auprc(prediction, target, weights):
    """Average precision: the precision at each distinct score, weighted by the positives found there; NaN without a positive."""
    positive, negative = by_score(-prediction, target, weights)    # (W, distinct scores), highest first
    found, false = np.cumsum(positive, 1), np.cumsum(negative, 1)
    precision = np.nan_to_num(ratio(found, found + false))         # 0 / 0 where a resample has nothing yet
    return ratio((positive * precision).sum(1), positive.sum(1))


def by_score(prediction, target, weights):
    """Weights of positives and of negatives, (W, distinct scores), scores rising."""
    order = np.argsort(prediction, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(prediction[order]) > 0])
    target, weights = target[order], weights[:, order]
    return (np.add.reduceat(weights * side, starts, axis=1) for side in (target, 1 - target))


def accuracy(prediction, target, weights):
    """prediction: (n, classes) probabilities."""
    return ratio(weights @ (prediction.argmax(1) == target), weights.sum(1))


def balanced_accuracy(prediction, target, weights):
    """Mean over the classes present of the share of their units that are recognized."""
    hit = prediction.argmax(1) == target
    return mean_defined([ratio(weights @ (hit & (target == c)), weights @ (target == c)) for c in np.unique(target)])


def macro_auroc(prediction, target, weights):
    """Unweighted mean of the one-against-rest AUROC over the classes that have both sides."""
    return mean_defined([auroc(prediction[:, c], (target == c).astype(float), weights) for c in range(prediction.shape[1])])


def brier(prediction, target, weights):
    """Half the squared distance of the probabilities from the truth, which of two classes is (p - y)^2; 0 is best, 1 worst."""
    truth = np.eye(prediction.shape[1])[target.astype(int)]
    return ratio(weights @ ((prediction - truth) ** 2).sum(1), 2 * weights.sum(1))


def sensitivity(called, target, weights):
    """Share of the positive that are called so."""
    return ratio(weights @ (called * target), weights @ target)


def specificity(called, target, weights):
    """Share of the negative that are not called positive."""
    return sensitivity(1 - called, 1 - target, weights)


def ratio(a, b):
    """a / b, NaN where b is 0."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b != 0)


def mean_defined(values):
    """(k, W) -> (W,): the mean over those of k that are not NaN, NaN when all are."""
    return ratio(np.nansum(values, 0), np.isfinite(values).sum(0))


METRICS = {  # kind of task -> name -> function; the first decides which epoch is the best
    "regression": {"mae": mae, "mean_error": mean_error, "rmse": rmse, "r2": r2, "spearman": spearman},
    "classes": {"auroc": macro_auroc, "accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "brier": brier},
    "labels": {"auroc": auroc, "auprc": auprc, "brier": mse},
}
LOWER_IS_BETTER = ("mae",)
UNDEFINED = {"r2": "all targets are equal", "spearman": "all predictions or all targets are equal", "auroc": "one class only",
             "auprc": "no positive", "sensitivity": "no positive", "specificity": "no negative"}                  # where there are units


def bootstrap_weights(patients, resamples=1000, seed=0):
    """List of patients, one a unit -> (resamples, units): how often each unit counts when patients are drawn with replacement.

    No row at all for a single patient: there is nothing to draw."""
    names, who = np.unique(np.asarray(patients), return_inverse=True)
    rng, n = np.random.default_rng(seed), len(names)
    counts = np.zeros((resamples if n > 1 else 0, n), dtype=np.int16)
    for row in counts:
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return counts[:, who]


def with_resamples(patients, resamples=1000):
    """(1 + resamples, units): the units as they are, then bootstrap_weights."""
    return np.concatenate([np.ones((1, len(patients)), np.int16), bootstrap_weights(patients, resamples)])


def measure(function, prediction, target, weights):
    """(W,) of a metric, in blocks of resamples that fit into memory; NaN where there is no unit."""
    if not len(target):
        return np.full(len(weights), np.nan)
    return np.concatenate([function(prediction, target, block.astype(float))
                           for block in np.array_split(weights, 1 + weights.size // 1_000_000)])


def summary(values, reason):
    """(1 + resamples,), the first of the units as they are -> {value, low, high}, None where undefined, then with the reason."""
    value, draws = values[0], values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, "reason": reason}
    low, high = np.percentile(draws, [2.5, 97.5]).tolist() if len(draws) else (None, None)
    skipped = len(values) - 1 - len(draws)                         # resamples of one class only
    return {"value": float(value), "low": low, "high": high, **({"skipped": skipped} if skipped else {})}


def replicates(task, function, prediction, target, weights):
    """A metric, one row a label (L, W), or one in all (1, W); of a label only where it is known."""
    if task.kind != "labels":
        return [measure(function, prediction, target, weights)]
    return [measure(function, prediction[k, i], target[k, i], weights[:, k]) for i, k in enumerate(~np.isnan(target).T)]


def score(task, table, resamples=1000, keep=slice(None)):
    """One task of a table of predictions -> {units, patients, metric: {value, low, high}}, for labels also {"per_label": ...}.

    keep: indices of the units that count; those without a known target do not. The metrics of labels are means over the
    `labels` for which they are defined, the AUROC of classes over the `classes` that are there."""
    prediction, target, patients = (x[keep] for x in (table["prediction"][task.name], table["target"][task.name], table["patient"]))
    known = ~np.isnan(target)
    some = known.any(1) if task.kind == "labels" else known
    prediction, target, patients = prediction[some], target[some], patients[some]
    if len(lost := np.argwhere(~np.isfinite(prediction))):
        raise ValueError(f"{task.name} of patient {patients[lost[0][0]]}: the prediction is {prediction[lost[0][0]]}")
    weights = with_resamples(patients, resamples)
    result = {"units": len(patients), "patients": len(set(patients))}

    def reason(name, units):
        return UNDEFINED.get(name) if units else "no unit with a known target"

    for name, function in METRICS[task.kind].items():
        if task.kind == "labels":
            each = replicates(task, function, prediction, target, weights)                                   # (L, 1 + resamples)
            for label, y, draws in zip(task.classes, target.T, each):
                entry = result.setdefault("per_label", {}).setdefault(label, {"positives": int(np.nansum(y))})
                entry[name] = summary(draws, reason(name, np.isfinite(y).any()))
            result[name] = summary(mean_defined(each), f"{reason(name, len(target))}, for every label")
            result[name]["labels"] = int(np.isfinite(each)[:, 0].sum())
        else:
            result[name] = summary(measure(function, prediction, target, weights), reason(name, len(target)))
    if task.kind == "classes":
        result["auroc"]["classes"] = len(set(target)) if len(set(target)) > 1 else 0
    return result


def questions(task, table):
    """A task as questions of yes or no -> {label or class: probability and answer of the units where it is known, patients}.

    The classes are each asked against the rest, of two classes the second only."""
    if task.kind not in ("classes", "labels"):
        return {}
    prediction, target, found = table["prediction"][task.name], table["target"][task.name], {}
    for i, name in enumerate(task.classes):
        y = target[:, i] if task.kind == "labels" else np.where(np.isnan(target), np.nan, target == i)
        if (known := ~np.isnan(y)).any() and (task.kind == "labels" or i > 0 or len(task.classes) > 2):
            found[name] = prediction[known, i], y[known], table["patient"][known]
    return found


def reliability(probability, answer, bins=10):
    """Ten bins of equal width, the upper edge in the last: mean prediction and share of yes, None in an empty bin, and units."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    units, *sums = (np.bincount(which, x, bins) for x in (np.ones(len(which)), probability, answer))
    predicted, observed = ([None if np.isnan(x) else x for x in ratio(total, units).tolist()] for total in sums)
    return {"predicted": predicted, "observed": observed, "units": units.astype(int).tolist()}


def youden(probability, answer):
    """The threshold, one of the probabilities, with the largest sensitivity + specificity of "at or above it is yes"; of equals
    the most sensitive. None with one class."""
    if len(set(answer)) < 2:
        return None
    positive, negative = (x[0] for x in by_score(probability, answer, np.ones((1, len(answer)))))
    found, cleared = positive[::-1].cumsum()[::-1], negative.cumsum() - negative                      # numbers of units: equals are exact
    return float(np.unique(probability)[np.argmax(found * negative.sum() + cleared * positive.sum())])


def operating_point(probability, answer, patients, threshold, resamples=1000):
    """What calling everything at or above a threshold positive comes to. It is chosen elsewhere: on the validation split.

    Of rates of 0 or 1 the interval is Clopper and Pearson's, with as many trials as there are patients on that side."""
    if threshold is None:
        return {"threshold": None, "reason": "one class only in the validation split"}
    called, weights = (probability >= threshold).astype(float), with_resamples(patients, resamples)
    counts = {f"{right}_{side}s": int(((called == (side == "positive")) & ((called == answer) == (right == "true"))).sum())
              for right in ("true", "false") for side in ("positive", "negative")}
    rates = {}
    for name, function, side in (("sensitivity", sensitivity, 1), ("specificity", specificity, 0)):
        rates[name] = summary(measure(function, called, answer, weights), UNDEFINED[name])
        unseen = 0.025 ** (1 / max(len(set(patients[answer == side])), 1))
        if rates[name]["value"] in (0, 1):                         # resamples never hold what nobody in the sample has
            rates[name].update(low=0.0, high=1 - unseen) if rates[name]["value"] == 0 else rates[name].update(low=unseen, high=1.0)
    return {"threshold": threshold, **counts, **rates}


def details(task, table, thresholds=None):
    """Of classes and labels: {"confusion": counts [actual][predicted], "reliability": {...}, "operating_point": {...}}.

    thresholds: {label, or the second of two classes: threshold}; without it, and with more classes, no operating point."""
    asked, result = questions(task, table), {}
    if task.kind == "classes":
        known, n = ~np.isnan(table["target"][task.name]), len(task.classes)
        pairs = table["target"][task.name][known].astype(int) * n + table["prediction"][task.name][known].argmax(1)
        result["confusion"] = np.bincount(pairs, minlength=n * n).reshape(n, n).tolist()
    if asked:
        result["reliability"] = {name: reliability(*each[:2]) for name, each in asked.items()}
    if asked and thresholds:
        result["operating_point"] = {name: operating_point(*each, thresholds.get(name)) for name, each in asked.items()}
    return result


def choose_thresholds(task, table):
    """-> {label, or the second of two classes: Youden's threshold in this table}, {} for other tasks."""
    if task.kind == "classes" and len(task.classes) != 2:
        return {}
    return {name: youden(*each[:2]) for name, each in questions(task, table).items()}


def main_metric(tasks, table):
    """-> name, value of the first task's first metric, and whether lower is better."""
    name = next(iter(METRICS[tasks[0].kind]))
    value = score(tasks[0], table, resamples=0)[name]["value"]
    return f"{tasks[0].name}_{name}", float("nan") if value is None else value, name in LOWER_IS_BETTER


# -----------------------------------------------------------------------------
# predictions


def answers(tasks, logits):
    """{task: (B, outputs)} -> {task: float array}: the target's unit (B,), class probabilities (B, C), or label probabilities (B, L)."""
    result = {}
    for task in tasks:
        y = logits[task.name].float()
        y = y[:, 0] * task.scale + task.center if task.kind == "regression" else y.softmax(1) if task.kind == "classes" else y.sigmoid()
        result[task.name] = y.cpu().double().numpy()
    return result


@torch.inference_mode()
def predict(model, tasks, loader, device, by_image=False, autocast=None, watch=None, progress=None):
    """-> table: patient (units,), prediction and target {task: (units, ...)}, images: list of lists of indices.

    by_image: every image is a unit; otherwise the samples of a patient are averaged, and his target is the first that is
    known. watch(batch, out): sees every batch. ValueError when a prediction is not finite."""
    model.eval()
    units = {}                                                     # (patient, image or None) -> {task: predictions}, {task: target}, images
    for batch in tqdm(loader, desc=progress, leave=False, disable=None if progress else True):
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            out = model(*(batch[name].to(device, non_blocking=True) for name in model.inputs))
        predictions = answers(tasks, out["logits"])
        for i, (patient, images) in enumerate(zip(batch["patient"], batch["index"])):
            said, known, seen = units.setdefault((patient, images[0] if by_image else None), ({}, {}, []))
            seen.extend(images)
            for name, each in predictions.items():
                if not np.isfinite(each[i]).all():
                    raise ValueError(f"the model predicts {each[i]} as {name} of patient {patient} ({', '.join(batch['path'][i])})")
                said.setdefault(name, []).append(each[i])
                target = batch["targets"][name][i].double().numpy()
                known[name] = np.where(np.isnan(known.setdefault(name, target)), target, known[name])
        if watch:
            watch(batch, out)
    said, known, images = zip(*units.values())
    return {"patient": np.array([patient for patient, _ in units]), "images": list(images),
            "prediction": {task.name: np.array([np.mean(unit[task.name], 0) for unit in said]) for task in tasks},
            "target": {task.name: np.array([unit[task.name] for unit in known]) for task in tasks}}


def target_text(task, target):
    """Target of a unit, () or (L,) -> list of texts, empty where unknown: a number, the name of the class, or 0 or 1 a label."""
    return ["" if np.isnan(t) else task.classes[int(t)] if task.kind == "classes" else np.format_float_positional(np.float32(t), trim="-")
            for t in np.atleast_1d(target)]


def write_predictions(path, tasks, table, cohort):
    """predictions.csv: one row a unit, its images, and target and prediction of every task."""
    root = os.path.commonpath([os.path.dirname(image) for image in cohort.paths])
    header = ["patient", "images"]
    for task in tasks:
        names = [task.name] if task.kind == "regression" else [f"{task.name}[{c}]" for c in task.classes]
        header += [f"{name} target" for name in (names if task.kind == "labels" else [task.name])] + [f"{name} predicted" for name in names]
    lines = []
    for i, (patient, images) in enumerate(zip(table["patient"], table["images"])):
        lines.append([patient, "|".join(os.path.relpath(cohort.paths[j], root) for j in images)])
        for task in tasks:
            lines[-1] += target_text(task, table["target"][task.name][i])
            lines[-1] += [f"{p:.9g}" for p in np.atleast_1d(table["prediction"][task.name][i])]
    write_whole(path, lambda file: csv.writer(file).writerows([header, *lines]))


def write_json(path, content):
    write_whole(path, lambda file: json.dump(content, file, indent=1, allow_nan=False))


def write_whole(path, write):
    """write(file) under a temporary name, which is then renamed: no half file under a real name."""
    with open(path + ".part", "w", newline="", encoding="utf-8") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)


# -----------------------------------------------------------------------------
# evaluation of a run


def constant_prediction(task, target):
    """The best that can be said without looking: the median of the training targets, or the shares of the classes or labels."""
    known = ~np.isnan(target)
    if task.kind == "labels":
        return np.nan_to_num(ratio(np.nansum(target, 0), known.sum(0)))      # 0 for a label never known: any constant ranks alike
    if task.kind == "regression":
        return np.median(target[known])
    return np.bincount(target[known].astype(int), minlength=len(task.classes)) / known.sum()


def subgroup(column, value):
    """The group a table cell belongs to. Fitzpatrick types are grouped as in MultiViT's Table 2, ages in three."""
    if re.search(r"fst|fitzpatrick", column.lower()) and re.fullmatch(r"[1-6](\.0)?", value):
        return "I-IV" if float(value) <= 4 else "V-VI"
    if re.search(r"(^|[ _])age($|[ _])", column.lower()) and re.fullmatch(r"\d+(\.\d+)?Y?", value):       # 058Y in older NIH tables
        years = float(value.rstrip("Y"))
        return "0-39" if years < 40 else "40-59" if years < 60 else "60+"
    return value or "(blank)"


def evaluate(model, tasks, cohort, indices, run, options, split="test", by=None, figures=3, thresholds=None):
    """Predict a split and write metrics.json, predictions.csv and figures/ to the run folder; -> the metrics.

    indices: {split: images}, of which train gives the constant predictor, and val the thresholds of operating points, unless
    they are given; options: dict of size, n, r, channels, batch_size, workers, device, autocast, by_image; by: column of the
    subgroups, a patient is in that of his first image."""
    if by and by not in cohort.columns:
        raise ValueError(f"--by {by}: no such column, there are {', '.join(cohort.columns)}")
    device, by_image = options["device"], options["by_image"]

    def loader(part):
        samples = Samples(cohort, indices[part], options["size"], options["n"], options["r"], options["channels"])
        return make_loader(samples, options["batch_size"], workers=options["workers"])[0]

    shown = {}                                                     # patient -> images, what the model looked at
    table = predict(model, tasks, loader(split), device, by_image, options["autocast"], watcher(shown, figures), f"evaluating {split}")
    thresholds = thresholds or {}
    if not thresholds and split != "val" and indices.get("val") and any(task.kind in ("classes", "labels") for task in tasks):
        chosen = predict(model, tasks, loader("val"), device, by_image, options["autocast"], progress="choosing thresholds on val")
        thresholds = {task.name: choose_thresholds(task, chosen) for task in tasks}
    result = {"split": split, "patients": len(set(table["patient"])), "images": sum(map(len, table["images"])),
              "unit": "image" if by_image else "patient", "device": str(device)}
    member = np.array([subgroup(by, cohort.columns[by][images[0]]) for images in table["images"]]) if by else ()
    train = list(indices["train"]) if by_image else [images[0] for images in cohort.groups(indices["train"]).values()]
    agreed = cohort if by_image else per_patient(cohort)           # where a patient's first image has no target, another may
    for task in tasks:
        result[task.name] = {**score(task, table), **details(task, table, thresholds.get(task.name))}
        if train:
            value = constant_prediction(task, agreed.targets[task.name][train])
            constant = {**table, "prediction": {task.name: np.broadcast_to(value, table["prediction"][task.name].shape)}}
            constant = score(task, constant, resamples=0)
            result[task.name]["constant"] = {name: constant[name] for name in METRICS[task.kind]}
        if by:
            groups = {f"{by} {name}": score(task, table, keep=np.flatnonzero(member == name)) for name in sorted(set(member))}
            result[task.name]["subgroups"] = {name: {**group, "small": group["patients"] < SMALL} for name, group in groups.items()}
    write_predictions(os.path.join(run, "predictions.csv"), tasks, table, cohort)
    write_json(os.path.join(run, "metrics.json"), result)
    draw_figures(os.path.join(run, "figures"), tasks, table, cohort, shown, model.config, options["size"])
    return result


def watcher(shown, figures):
    """-> function (batch, out) for `predict` that keeps in `shown` what the model looked at of the first patients."""
    def watch(batch, out):
        for i, patient in enumerate(batch["patient"]):
            if len(shown) < figures and patient not in shown:
                looked = {key: out[key] if isinstance(out[key], list) else [out[key]] for key in ("map", "image", "token", "composite") if key in out}
                shown[patient] = batch["index"][i], {key: [x[i].float().cpu() for x in each] for key, each in looked.items()}

    return watch


def draw_figures(folder, tasks, table, cohort, shown, config, size):
    """Errors and scatter of every regression task; for a few patients what the model looked at."""
    os.makedirs(folder, exist_ok=True)

    def save(figure, name):
        figure.save(os.path.join(folder, re.sub(r"[^\w-]", "_", name) + ".png"))

    for task in tasks:
        if task.kind == "regression" and not np.isnan(table["target"][task.name]).all():
            prediction, target = table["prediction"][task.name], table["target"][task.name]              # NaN where unknown: not drawn
            save(plots.histogram(prediction - target, task.name, f"predicted {task.name} - actual {task.name}"), f"{task.name}_errors")
            save(plots.scatter(target, prediction, task.name, f"actual {task.name}", f"predicted {task.name}"), f"{task.name}_scatter")
    for patient, (images, out) in shown.items():
        unit, words = next(i for i, seen in enumerate(table["images"]) if images[0] in seen), [f"patient {patient}"]
        for task in tasks:
            target, prediction = table["target"][task.name][unit], table["prediction"][task.name][unit]
            if task.kind != "labels":
                said = f"{prediction:.3g}" if task.kind == "regression" else task.classes[prediction.argmax()]
                words.append(f"{task.name} {target_text(task, target)[0] or 'unknown'}, predicted {said}")
        photos = [read_image(cohort.paths[i] if cohort.pixels is None else cohort.pixels[i], (240, 240 * size[1] // size[0]),
                             name=cohort.paths[i])[0].transpose(1, 2, 0) for i in images]
        if "token" in out:
            N, grid = len(out["map"][0]), config.vit.grid
            kept = [sorted(out["token"][0][out["image"][0] == j].int().tolist()) for j in range(N)]
            composite = out["composite"][0].expand(3, -1, -1).permute(1, 2, 0).byte().numpy() if "composite" in out else None
            save(plots.filter_figure(photos + [None] * (N - len(photos)), kept, grid, composite, "   ".join(words)), f"patient_{patient}")
        elif "map" in out:
            save(map_figure(photos, out["map"], config, "   ".join(words)), f"patient_{patient}")


def map_figure(photos, maps, config, title):
    """A row a photograph: itself, and under the heat of the class token's attention to its patches, mean over heads.

    maps: one of (H, T) or (N, H, T), or one a branch, beside each other."""
    grids = config.grids if hasattr(config, "grids") else [getattr(config, "vit", config).grid]
    rows = []
    for j, photo in enumerate(photos):
        each = [map.reshape(-1, *map.shape[-2:])[j].abs().mean(0).view(grid) for map, grid in zip(maps, grids)]
        rows.append(plots.row([photo, *(plots.heat(photo, heat) for heat in each)], title="" if j else title,
                              captions=["", *("attention, {} x {} patches".format(*grid) for grid in grids)]))
    return plots.grid(rows)


def entry_text(entry):
    """{value, low, high} -> "3.880 (2.910 to 4.760)"."""
    def number(x):
        return f"{x:.3f}" if x == 0 or 0.01 <= abs(x) < 1000 else f"{x:.3g}"

    if entry["value"] is None:
        return f"undefined: {entry['reason']}"
    return number(entry["value"]) + (f" ({number(entry['low'])} to {number(entry['high'])})" if entry["low"] is not None else "")


def print_table(tasks, result):
    """The metrics of every task beside those of the constant predictor; then a line a subgroup and a line a label."""
    print(f"{result['split']}: {result['patients']} patients, {result['images']} images; 95 % intervals, patients resampled")

    def line(*cells):
        print(("  " + "".join(f"{cell:29} " for cell in cells)).rstrip())

    for task in tasks:
        scores, names = result[task.name], list(METRICS[task.kind])
        constant, n = scores.get("constant"), len(task.classes)
        line(f"{task.name}, {scores['units']} {result['unit']}s", "", "constant" if constant else "")
        for name in names:
            defined = next((f", {scores[name][what]} of {n} {what}" for what in ("classes", "labels") if scores[name].get(what, n) < n), "")
            line(f"  {name}{defined}", entry_text(scores[name]), entry_text(constant[name]) if constant else "")
        if points := {name: point for name, point in scores.get("operating_point", {}).items() if point["threshold"] is not None}:
            line("", "sensitivity", "specificity", "at or above, chosen on val")
        for name, point in points.items():
            line(f"  {name}", entry_text(point["sensitivity"]), entry_text(point["specificity"]), f"{point['threshold']:.3g}")
        for what, groups in (("patients", scores.get("subgroups")), ("positives", scores.get("per_label"))):
            if groups:
                line("", *names[:2], what)
            for group, entries in (groups or {}).items():
                line(f"  {group}", *(entry_text(entries[name]) for name in names[:2]), f"{entries[what]}{', small' * entries.get('small', False)}")


def match(cohort, tasks, run):
    """The cohort with those of the run's tasks that it has targets of. Classes and labels are found by name, whatever their
    order in this table; a label that it lacks is unknown, a class that the run has not learned is an error."""
    theirs, targets = {task.name: task for task in cohort.tasks}, {}
    tasks = [task for task in tasks if task.name in theirs]
    if not tasks:
        raise ValueError(f"{cohort.name} has targets of {', '.join(theirs)}, of which {run} predicts none")
    for task in tasks:
        there, values = theirs[task.name], cohort.targets[task.name]
        if there.kind != task.kind:
            raise ValueError(f"{cohort.name}: {task.name} is a task of {there.kind}, in {run} of {task.kind}; --target says which")
        place = [task.classes.index(c) if c in task.classes else None for c in there.classes]
        if task.kind == "classes":
            if None in place:
                raise ValueError(f"{cohort.name}: {task.name} {there.classes[place.index(None)]!r} is unknown to {run}, "
                                 f"which knows {', '.join(task.classes)}")
            values = np.where(np.isnan(values), values, np.array(place)[np.nan_to_num(values).astype(int)])
        elif task.kind == "labels":
            if not set(place) - {None}:
                raise ValueError(f"{cohort.name}: has none of the labels of {run}, {', '.join(task.classes)}")
            values = np.stack([values[:, place.index(i)] if i in place else np.full(len(values), np.nan) for i in range(len(task.classes))], 1)
        targets[task.name] = values.astype(np.float32)
    return replace(cohort, tasks=tasks, targets=targets)


def saved_thresholds(run):
    """The thresholds that the run chose on its own validation split: another table has none."""
    try:
        with open(os.path.join(run, "metrics.json"), encoding="utf-8") as file:
            return {task: {name: point["threshold"] for name, point in scores.get("operating_point", {}).items()}
                    for task, scores in json.load(file).items() if isinstance(scores, dict)}
    except (OSError, ValueError):
        return {}                                                  # not evaluated yet: no operating point


def main(argv=None):
    from compare import compare, print_comparison
    from deploy import export, predict_new
    from train import find_device, load_data, open_model, run_options  # the run knows how its data and model are made

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.add_argument("run", help="run folder, runs/NAME")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part of the run's own split")
    parser.add_argument("--data", help="another table than the run's; all its patients are evaluated")
    parser.add_argument("--images", help="image folder of that table")
    parser.add_argument("--target", help="targets of that table, as in train.py; default: as the run was told")
    parser.add_argument("--by", help="column of the table to make subgroups of, e.g. fst, sex, age, site; default: fst where there is one")
    parser.add_argument("--against", metavar="RUN", help="another run: differences of the metrics on the test patients they have in common")
    parser.add_argument("--predict", metavar="SOURCE", help="new images without targets: a CSV, or a folder with a sub-folder a patient")
    parser.add_argument("--out", metavar="CSV", help="where --predict writes")
    parser.add_argument("--skip-broken", action="store_true", help="with --predict: list pictures that cannot be read, and go on")
    parser.add_argument("--export", metavar="FOLDER", help="write the best model, its config and a model card to a new folder, for the Hub")
    parser.add_argument("--figures", type=int, help="patients to draw; default 3, and 0 with --predict")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    if args.data and args.split != "test" or not (args.data or args.predict) and args.images or not args.data and args.target:
        raise ValueError("--split is of the run's own table, --images and --target belong to another one, --data")
    if bool(args.predict) != bool(args.out) or args.skip_broken and not args.predict:
        raise ValueError("--predict SOURCE, --out CSV and --skip-broken go together")
    if bool(args.data) + bool(args.predict) + bool(args.against) + bool(args.export) > 1:
        raise ValueError("--data, --predict, --against and --export are four things to do; give one")
    if args.predict:
        rows = predict_new(args.run, args.predict, args.out, args.images, args.skip_broken, args.figures or 0, args.device)
        return print(f"{rows} patients in {args.out}")
    if args.export:
        library = export(args.run, args.export)
        return print(f"{args.export} holds the model for {library}, and its card. Read the card, then: hf upload ORG/NAME {args.export} .")
    if args.against:
        result = compare(args.run, args.against)
        print_comparison(result)
        path = os.path.join(args.run, f"against-{os.path.basename(os.path.abspath(args.against))}.json")
        write_json(path, result)
        return print(path)
    device = find_device(args.device)
    model, tasks, saved = open_model(args.run)
    if args.data:
        saved.data, saved.images, saved.target, saved.split_column = args.data, args.images, args.target or saved.target, None
    cohort = match(load_data(saved), tasks, args.run)
    with open(os.path.join(args.run, "split.csv"), newline="", encoding="utf-8") as file:
        where = {row["patient"]: row["split"] for row in csv.DictReader(file)}
    if args.data:
        seen = sorted(patient for patient in set(cohort.patients) if where.get(patient) in ("train", "val"))
        if seen:
            raise ValueError(f"{args.data}: patient {seen[0]} is in the {where[seen[0]]} split of {args.run}"
                             + f" ({len(seen)} such patients)" * (len(seen) > 1))
        indices = {"train": [], "test": range(len(cohort.paths))}
    else:
        if changed := set(cohort.patients) ^ set(where):
            raise ValueError(f"{saved.data} has changed: patient {min(changed)} is not both there and in {args.run}/split.csv")
        indices = {split: [i for i, patient in enumerate(cohort.patients) if where[patient] == split] for split in SPLITS}
    thresholds = saved_thresholds(args.run) if args.data else None
    folder = args.run                                              # what the run itself wrote is of its test split
    if args.data or args.split != "test":
        folder = os.path.join(args.run, f"{cohort.name}-{args.split}")
        os.makedirs(folder, exist_ok=True)
    by, options = args.by or ("fst" if "fst" in cohort.columns else None), run_options(saved, model, cohort, device)
    figures = 3 if args.figures is None else args.figures
    result = evaluate(model.to(device), cohort.tasks, cohort, indices, folder, options, args.split, by, figures, thresholds)
    print_table(cohort.tasks, result)
    if folder == args.run:
        report.write_card(args.run)
        print(report.write_report(args.run))


if __name__ == "__main__":
    from train import run_main

    run_main(main)
