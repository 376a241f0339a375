"""The predictions of a model for a split, one per patient (or image).

Predictions are a dict of lists and arrays, each with one entry per unit, which is a patient or an image:

    patient      names (units,)
    images       list of lists: indices of the unit's images in the cohort
    prediction   {task: (units, ...)}, see `answers`
    target       {task: (units, ...)}, NaN where unknown
    alone        the same of every sample, where several of them are averaged for a unit
"""
import numpy as np
import torch
from huggingface_hub.utils import tqdm

from data import Samples, make_loader
from plumbing import parallel
from plumbing.device import copied
from plumbing.models import inputs_of


def answers(tasks, logits):
    """{task: (B, outputs)} -> {task: float64 array}: (B,) in the unit of the target, (B, C) or (B, L)
    probabilities of classes or labels, or (B,) logarithms of the risk."""
    result = {}
    for task in tasks:
        y = logits[task.name].float()
        if y.shape[1:] != (task.outputs,):
            raise ValueError(f"a model's logits of {task.name}: need (B, {task.outputs}), "
                             f"here {tuple(y.shape)}")
        if task.kind == "classes":
            y = y.softmax(1)
        elif task.kind == "labels":
            y = y.sigmoid()
        else:                                                      # a risk has center 0 and scale 1
            y = y.squeeze(1) * task.scale + task.center
        result[task.name] = y.detach().cpu().double().numpy()
    return result


@torch.no_grad()
def predict(model, tasks, loader, options, watch=None, progress=None):
    """The predictions of a model for everything in the loader, see the top of this file.

    options: device; autocast, a type or None; by_image: every image is a unit; otherwise the samples of a
    patient are averaged, and the patient's target is one that is known. Of several processes each predicts
    its share, and all get everything. watch(batch, out) sees every batch; progress: what the progress bar
    says, None for no bar. ValueError when a prediction is not finite."""
    model.eval()
    device = options["device"]
    autocast = options["autocast"]
    samples = []
    # Autocast stands around all batches: weights are cast once, which torch.inference_mode would prevent.
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        # disable=None: the bar is hidden where there is no terminal.
        for batch in tqdm(loader, desc=progress, leave=False, disable=None if progress else True):
            out = model(*copied(inputs_of(model, batch), device).values())
            samples += read_samples(batch, answers(tasks, out["logits"]))
            if watch:
                watch(batch, out)
    if loader.batch_sampler.world > 1:
        samples = sorted(sum(parallel.collect(samples), []))       # by their numbers
    result = merge_samples(tasks, samples, options["by_image"])
    if len(samples) > len(result["patient"]):
        result["alone"] = merge_samples(tasks, samples, by_image=True)
    return result


def predict_images(model, tasks, cohort, indices, options, watch=None, progress=None):
    """`predict` for the images of a cohort at these indices. options: see run_options."""
    shape = {name: options.get(name) for name in ("size", "n", "r", "channels", "folder")}
    loader, _ = make_loader(Samples(cohort, indices, **shape), options["batch_size"],
                            workers=options["workers"])
    return predict(model, tasks, loader, options, watch, progress)


def read_branches(tasks, batch, out, samples):
    """Append what each branch of a model says of a batch to samples[its name]: CrossViT's Table 6 asks
    whether one of them does all the work. Nothing of a model without branches."""
    for number, letter in enumerate("SL"):
        alone = {task: both[:, number] for task, both in out.get("branch_logits", {}).items()}
        if alone:
            samples.setdefault(f"branch {letter} alone", []).extend(
                read_samples(batch, answers(tasks, alone)))


def read_samples(batch, predictions):
    """Yield the samples of a batch as merge_samples takes them. predictions: those of the batch, {task: (B,
    ...)}.

    ValueError when one is not finite."""
    for i, images in enumerate(batch["index"]):
        patient = batch["patient"][i]
        prediction = {name: values[i] for name, values in predictions.items()}
        target = {name: values[i].double().numpy() for name, values in batch["targets"].items()}
        for name, value in prediction.items():
            if not np.isfinite(value).all():
                raise ValueError(f"the model predicts {value} as {name} of patient {patient} "
                                 f"({', '.join(batch['path'][i])})")
        if images:                                                 # without any it only fills the batch
            yield batch["number"][i], patient, images, prediction, target


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
