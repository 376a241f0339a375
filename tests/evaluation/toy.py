"""Small tasks, predictions, cohorts and models for the tests of the evaluation."""
import os

import numpy as np
import torch
from PIL import Image

from crossvit import CrossViT, CrossViTConfig
from lt_vit import LTViT, LTViTConfig
from multivit import MultiViT, MultiViTConfig
from plumbing.cohort import Cohort, Task
from vit import ViT, ViTConfig


NAN = float("nan")
PASI = Task("pasi", "regression", center=10.0, scale=5.0)
GRADE = Task("grade", "classes", ("mild", "medium", "severe"))
FINDINGS = Task("findings", "labels", ("edema", "mass"))
CPU = torch.device("cpu")


def table_of(task, prediction, target, patients=None):
    """What predict returns, for one task."""
    patients = [f"p{i}" for i in range(len(target))] if patients is None else patients
    return {"patient": np.array(patients), "images": [[i] for i in range(len(target))],
            "prediction": {task.name: np.asarray(prediction, float)}, "target": {task.name: np.asarray(target, float)}}


def draw(kind, rng, n):
    """Predictions with many ties, and targets."""
    if kind == "classes":
        return rng.dirichlet((1, 1, 1), n).round(1) + [0, 1e-4, 2e-4], rng.integers(3, size=n).astype(float)
    prediction = rng.integers(6, size=n) / 4
    if kind == "survival":
        return prediction, np.stack([rng.integers(1, 8, n), rng.integers(0, 2, n)], 1).astype(float)
    return prediction, rng.integers(2, size=n).astype(float) if kind == "labels" else prediction + rng.integers(-2, 3, size=n) / 2


def cohort_of(counts, tasks, targets, columns=None, side=8):
    """counts: images of each patient, who are mixed up in the table; image i is of the one color 10 i."""
    patients = [f"p{k}" for j in range(max(counts)) for k, count in enumerate(counts) if j < count]
    pixels = np.array([np.full((side, side, 3), 10 * i, np.uint8) for i in range(len(patients))])
    targets = {task.name: np.array([targets[task.name][int(p[1:])] for p in patients], np.float32) for task in tasks}
    columns = {name: [values[int(p[1:])] for p in patients] for name, values in (columns or {}).items()}
    return Cohort("toy", tasks, patients, [f"toy:{i}" for i in range(len(patients))], targets, columns, pixels=pixels)


TASKS = [Task("pasi", "regression", center=100.0, scale=50.0), GRADE, FINDINGS]
VIT = ViTConfig(image=(16, 16), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32)
MODELS = {
    "vit": lambda out: ViT(VIT, out),
    "sima": lambda out: ViT(ViTConfig(image=(16, 24), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32, attention="sima"), out),
    "lt_vit": lambda out: LTViT(LTViTConfig(VIT, label_layers=1), out),
    "crossvit": lambda out: CrossViT(CrossViTConfig(((4, 4), (2, 2)), (4, 8), dims=(8, 16), depths=(1, 1), encoders=1, heads=2, mlp=2), out),
    "baseline": lambda out: MultiViT(MultiViTConfig(VIT, "baseline", 1), out),
    "joint": lambda out: MultiViT(MultiViTConfig(VIT, "joint", 2), out),
    "partial": lambda out: MultiViT(MultiViTConfig(VIT, "partial", 2, 2), out),
    "multi": lambda out: MultiViT(MultiViTConfig(VIT, "multi", 2, 1), out),
    "multi-grey": lambda out: MultiViT(MultiViTConfig(ViTConfig(image=(16, 16), patch=(4, 4), channels=1, dim=16, depth=2, heads=2, mlp=32,
                                                               mean=(0.5,), std=(0.5,)), "multi", 3, 2), out),
}


def photographs(folder):
    """A cohort of 12 patients as files, 1 to 3 each, some targets unknown; train is the first half."""
    rng = np.random.default_rng(0)
    cohort = cohort_of([1 + k % 3 for k in range(12)], TASKS, {
        "pasi": rng.random(12) * 200, "grade": [NAN, *(k % 3 for k in range(11))], "findings": [[k % 2, NAN if k < 9 else 0] for k in range(12)]},
        {"fst": [str(1 + k % 6) for k in range(12)], "sex": ["F", "M"] * 6})
    for i in range(len(cohort.paths)):
        cohort.paths[i] = str(folder / "in" / cohort.patients[i] / f"{i}.png")                        # a folder a patient
        os.makedirs(os.path.dirname(cohort.paths[i]), exist_ok=True)
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(cohort.paths[i])
    cohort.pixels = None
    half = {f"p{k}" for k in range(6)}
    indices = {split: [i for i, p in enumerate(cohort.patients) if (p in half) == (split == "train")] for split in ("train", "test")}
    return cohort, {**indices, "val": []}


def options_of(model, by_image=False):
    vit, n = getattr(model.config, "vit", model.config), getattr(model.config, "n", None)
    return dict(size=vit.image, n=n if "images" in model.inputs else None, r=getattr(model.config, "r", 1), channels=vit.channels, batch_size=3,
                workers=0, device=CPU, autocast=None, by_image=by_image, seen_before=[], warnings=[])
