"""The predictions of a model for a split, one per patient (or image), and predictions.csv.

Predictions are a dict of lists and arrays, each with one entry per unit, which is a patient or an image:

    patient      names (units,)
    images       list of lists: indices of the unit's images in the cohort
    prediction   {task: (units, ...)}, see `answers`
    target       {task: (units, ...)}, NaN where unknown
"""
import os

import numpy as np
import torch
from huggingface_hub.utils import tqdm

from plumbing import parallel
from plumbing.run_folder import write_csv


def answers(tasks, logits):
    """{task: (B, outputs)} -> {task: float64 array}: (B,) in the unit of the target, (B, C) or (B, L)
    probabilities of classes or labels, or (B,) logarithms of the risk."""
    result = {}
    for task in tasks:
        y = logits[task.name].float()
        if task.kind == "regression":
            y = y[:, 0] * task.scale + task.center
        elif task.kind == "classes":
            y = y.softmax(1)
        elif task.kind == "labels":
            y = y.sigmoid()
        else:
            y = y[:, 0]
        result[task.name] = y.cpu().double().numpy()
    return result


@torch.inference_mode()
def predict(model, tasks, loader, device, by_image=False, autocast=None, watch=None, progress=None):
    """The predictions of a model for everything in the loader, see the top of this file.

    by_image: every image is a unit; otherwise the samples of a patient are averaged, and the patient's target
    is one that is known. Of several processes each predicts its share, and all get everything.
    watch(batch, out) sees every batch; progress: what the progress bar says, None for no bar.
    ValueError when a prediction is not finite."""
    model.eval()
    samples = []
    # disable=None: the bar is hidden where there is no terminal.
    batches = tqdm(loader, desc=progress, leave=False, disable=None if progress else True)
    # Autocast stands around all batches: weights are cast once.
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        for batch in batches:
            inputs = [batch[name].to(device, non_blocking=device.type == "cuda") for name in model.inputs]
            out = model(*inputs)
            samples += read_samples(batch, answers(tasks, out["logits"]))
            if watch:
                watch(batch, out)
    if loader.batch_sampler.world > 1:
        shares = parallel.collect(samples)
        samples = sorted(sum(shares, []))                          # by their numbers
    return merge_samples(tasks, samples, by_image)


def read_samples(batch, predictions):
    """A batch and its predictions {task: (B, ...)} -> list of samples, see `merge_samples`.

    ValueError when a prediction is not finite."""
    samples = []
    for i, images in enumerate(batch["index"]):
        patient = batch["patient"][i]
        prediction = {name: values[i] for name, values in predictions.items()}
        target = {name: values[i].double().numpy() for name, values in batch["targets"].items()}
        for name, value in prediction.items():
            if not np.isfinite(value).all():
                paths = ", ".join(batch["path"][i])
                raise ValueError(f"the model predicts {value} as {name} of patient {patient} ({paths})")
        if images:                                                 # without any it only fills the batch
            samples.append((batch["number"][i], patient, images, prediction, target))
    return samples


def merge_samples(tasks, samples, by_image):
    """List of (number, patient, images, {task: prediction}, {task: target}) -> predictions of the units."""
    numbers, patients, images, predictions, targets = zip(*samples)
    rows_of = {}                                                   # patient, or number -> rows of these lists
    for row, key in enumerate(numbers if by_image else patients):
        rows_of.setdefault(key, []).append(row)
    units = list(rows_of.values())
    result = {
        "patient": np.array([patients[rows[0]] for rows in units]),
        "images": [sum([images[row] for row in rows], []) for rows in units],
        "prediction": {},
        "target": {},
    }
    for task in tasks:
        prediction = np.array([values[task.name] for values in predictions])
        target = np.array([values[task.name] for values in targets])
        result["prediction"][task.name] = np.array([prediction[rows].mean(0) for rows in units])
        # The known targets of a unit are equal, and fmax prefers them to NaN.
        result["target"][task.name] = np.array([np.fmax.reduce(target[rows]) for rows in units])
    return result


# -----------------------------------------------------------------------------
# predictions.csv


def target_names(task):
    """The columns of predictions.csv that hold the targets of a task."""
    if task.kind == "survival":
        return list(task.classes)
    if task.kind == "labels":
        return [f"{task.name}[{label}] target" for label in task.classes]
    return [f"{task.name} target"]


def prediction_names(task):
    """The columns of predictions.csv that hold the predictions of a task."""
    if task.kind == "survival":
        return [f"{task.name} risk"]
    if task.kind == "regression":
        return [f"{task.name} predicted"]
    return [f"{task.name}[{name}] predicted" for name in task.classes]


def target_text(task, target):
    """The target of a unit, () or (L,) -> list of texts, empty where it is unknown.

    A text is a number, the name of a class, or 0 or 1 for a label."""
    texts = []
    for value in np.atleast_1d(target):
        if np.isnan(value):
            texts.append("")
        elif task.kind == "classes":
            texts.append(task.classes[int(value)])
        else:
            texts.append(np.format_float_positional(np.float32(value), trim="-"))
    return texts


def write_predictions(path, tasks, predictions, cohort):
    """predictions.csv: one row per unit, its images, and target and prediction of every task."""
    root = os.path.commonpath([os.path.dirname(image) for image in cohort.paths])
    header = ["patient", "images"]
    for task in tasks:
        header += target_names(task) + prediction_names(task)
    rows = [header]
    for i, patient in enumerate(predictions["patient"]):
        paths = [os.path.relpath(cohort.paths[j], root) for j in predictions["images"][i]]
        row = [patient, "|".join(paths)]
        for task in tasks:
            row += target_text(task, predictions["target"][task.name][i])
            row += [f"{value:.9g}" for value in np.atleast_1d(predictions["prediction"][task.name][i])]
        rows.append(row)
    write_csv(path, rows)
