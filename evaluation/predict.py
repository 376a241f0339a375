"""Predictions of a model for a split, one row per patient (or image), and predictions.csv.
"""
import os

import numpy as np
import torch
from huggingface_hub.utils import tqdm

from plumbing import parallel
from plumbing.run_folder import write_csv


def answers(tasks, logits):
    """{task: (B, outputs)} -> {task: float array}: the target's unit (B,), class probabilities (B, C), label probabilities (B, L),
    or the logarithm of the risk (B,)."""
    result = {}
    for task in tasks:
        y = logits[task.name].float()
        y = y[:, 0] * task.scale + task.center if task.kind == "regression" else y.softmax(1) if task.kind == "classes" else \
            y[:, 0] if task.kind == "survival" else y.sigmoid()
        result[task.name] = y.cpu().double().numpy()
    return result


@torch.inference_mode()
def predict(model, tasks, loader, device, by_image=False, autocast=None, watch=None, progress=None):
    """-> table: patient (units,), prediction and target {task: (units, ...)}, images: list of lists of indices.

    by_image: every image is a unit; otherwise the samples of a patient are averaged, and his target is the first that is
    known. Of several processes each predicts its share of the loader, and all get the table of all. watch(batch, out): sees every
    batch. ValueError when a prediction is not finite."""
    model.eval()
    samples = []                                                   # number, patient, images, {task: prediction}, {task: target}
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):          # around all batches: weights are cast once
        for batch in tqdm(loader, desc=progress, leave=False, disable=None if progress else True):
            out = model(*(batch[name].to(device, non_blocking=device.type == "cuda") for name in model.inputs))
            predictions = answers(tasks, out["logits"])
            for i, images in enumerate(batch["index"]):
                said = {name: each[i] for name, each in predictions.items()}
                if wrong := [name for name in said if not np.isfinite(said[name]).all()]:
                    raise ValueError(f"the model predicts {said[wrong[0]]} as {wrong[0]} of patient {batch['patient'][i]} "
                                     f"({', '.join(batch['path'][i])})")
                if images:                                             # otherwise it only fills the batch
                    samples.append((batch["number"][i], batch["patient"][i], images, said,
                                    {name: target[i].double().numpy() for name, target in batch["targets"].items()}))
            if watch:
                watch(batch, out)
    if loader.batch_sampler.world > 1:
        samples = sorted((sample for part in parallel.collect(samples) for sample in part), key=lambda sample: sample[0])
    units = {}                                                     # (patient, image or None) -> {task: predictions}, {task: target}, images
    for _, patient, images, said, target in samples:
        all_said, known, seen = units.setdefault((patient, images[0] if by_image else None), ({}, {}, []))
        seen.extend(images)
        for name in said:
            all_said.setdefault(name, []).append(said[name])
            known[name] = np.where(np.isnan(known.setdefault(name, target[name])), target[name], known[name])
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
        if task.kind == "survival":
            header += [*task.classes, f"{task.name} risk"]
            continue
        names = [task.name] if task.kind == "regression" else [f"{task.name}[{c}]" for c in task.classes]
        header += [f"{name} target" for name in (names if task.kind == "labels" else [task.name])] + [f"{name} predicted" for name in names]
    lines = []
    for i, (patient, images) in enumerate(zip(table["patient"], table["images"])):
        lines.append([patient, "|".join(os.path.relpath(cohort.paths[j], root) for j in images)])
        for task in tasks:
            lines[-1] += target_text(task, table["target"][task.name][i])
            lines[-1] += [f"{p:.9g}" for p in np.atleast_1d(table["prediction"][task.name][i])]
    write_csv(path, [header, *lines])
