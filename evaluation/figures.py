"""What a model looked at: attention maps, kept patches, and boxes over the patients' own images.

`shown` holds {patient: (images, seen)} of the patients to draw: indices of images in the cohort, and what
`looked_at` returns. Of a model with a map per label, seen["findings"] is also
{name of the label: (boxes, {name of the map: (rows, columns)})}, boxes in shares of width and height.
"""
import os
import re

import numpy as np

from evaluation.localization import finding_maps
from evaluation.picture_rows import draw_boxes, draw_heat, filter_figure, side_by_side, stack
from evaluation.plots import histogram, scatter
from evaluation.predict import target_text
from plumbing.pictures import read, read_image


HEIGHT = 240                                         # of a photograph, px


# -----------------------------------------------------------------------------
# what a model returns


def looked_at(out, i):
    """What a model returns to be drawn, of sample i -> {key: [tensor], one per branch}."""
    seen = {}
    for key in ("map", "image", "token", "composite"):
        if key in out:
            branches = out[key] if isinstance(out[key], list) else [out[key]]
            seen[key] = [branch[i].float().cpu() for branch in branches]
    return seen


def findings_of(tasks):
    """-> the first task of labels, None without one, and the number of its first label token."""
    first = 0
    for task in tasks:
        if task.kind == "labels":
            return task, first
        first += task.outputs
    return None, 0


def grids_of(config):
    """The grids of patches that a model's maps are over: one, one per branch, or none."""
    if hasattr(config, "grids"):
        return config.grids
    vit = getattr(config, "vit", config)
    if hasattr(vit, "grid"):
        return [vit.grid]
    return []


def watcher(shown, figures, tasks, config):
    """-> function (batch, out) for `predict` that keeps in `shown` what the model looked at.

    figures: of how many patients. Of a model with a map per label it keeps the maps of the three labels it is
    surest of."""
    findings, first = findings_of(tasks)

    def watch(batch, out):
        for i, patient in enumerate(batch["patient"]):
            if len(shown) == figures:
                return
            if patient in shown:
                continue
            seen = looked_at(out, i)
            if findings and "label_map" in out:
                logits = out["logits"][findings.name][i].float()
                seen["findings"] = {}
                for label in logits.argsort(descending=True)[:3].tolist():
                    maps = finding_maps(out, i, first + label, grids_of(config))
                    seen["findings"][findings.classes[label]] = [], maps
            shown[patient] = batch["index"][i], seen

    return watch


# -----------------------------------------------------------------------------
# the figures of a run


def draw_figures(folder, tasks, predictions, cohort, shown, config, size):
    """Errors and scatter of every regression task; for the patients in `shown` what the model looked at.

    predictions: as of predict.py; size: of the model's images. Of a volume the middle slice is drawn, of a
    bag of vectors nothing: there is no picture."""
    os.makedirs(folder, exist_ok=True)
    for task in tasks:
        if task.kind == "regression":
            draw_errors(folder, task, predictions)
    if not size:
        return
    for patient, (images, seen) in shown.items():
        unit = 0
        while images[0] not in predictions["images"][unit]:
            unit += 1
        title = patient_title(patient, tasks, predictions, unit)
        photos = [read_photo(cohort, i, size, config) for i in images]
        if "token" in seen:
            figure = kept_figure(photos, seen, config, title)
        elif seen.get("findings"):
            task, _ = findings_of(tasks)
            probability = dict(zip(task.classes, predictions["prediction"][task.name][unit]))
            figure = finding_figure(photos[0], seen["findings"], probability, title)
        elif "map" in seen:
            figure = map_figure(photos, seen["map"], config, title)
        else:
            continue
        save(figure, folder, f"patient_{patient}")


def draw_errors(folder, task, predictions):
    """Predicted against actual, and a histogram of the errors; nothing without a known target."""
    name, actual = task.name, predictions["target"][task.name]
    predicted = predictions["prediction"][name]
    if np.isnan(actual).all():
        return
    errors = histogram(predicted - actual, name, f"predicted {name} - actual {name}")
    save(errors, folder, f"{name}_errors")
    dots = scatter(actual, predicted, name, f"actual {name}", f"predicted {name}")
    save(dots, folder, f"{name}_scatter")


def save(figure, folder, name):
    figure.save(os.path.join(folder, re.sub(r"[^\w-]", "_", name) + ".png"))


def patient_title(patient, tasks, predictions, unit):
    """The patient's actual and predicted values; those of labels stand under their maps."""
    words = [f"patient {patient}"]
    for task in tasks:
        if task.kind == "labels":
            continue
        value = predictions["prediction"][task.name][unit]
        if task.kind == "classes":
            predicted = task.classes[value.argmax()]
        elif task.kind == "survival":
            predicted = f"risk {value:.3g}"
        else:
            predicted = f"{value:.3g}"
        target = predictions["target"][task.name][unit]
        actual = " ".join(target_text(task, target)).strip()
        words.append(f"{task.name} {actual or 'unknown'}, predicted {predicted}")
    return "   ".join(words)


def read_photo(cohort, i, size, config):
    """-> image i as uint8 (HEIGHT, width, 3); size: of the model's images, (h, w) or (d, h, w)."""
    shape = HEIGHT, HEIGHT * size[-1] // size[-2]
    if len(size) == 3:
        channels = getattr(config, "vit", config).channels
        volume, _ = read(cohort, i, size, channels=channels)
        photo, _ = read_image(volume[0, size[0] // 2], shape)
    else:
        photo, _ = read(cohort, i, shape)
    return photo.transpose(1, 2, 0)


# -----------------------------------------------------------------------------
# one patient


def kept_figure(photos, seen, config, title):
    """MultiViT: the patches that the attention filter keeps of N photographs, some of them absent."""
    while len(photos) < len(seen["map"][0]):         # N
        photos.append(None)
    images = seen["image"][0].int().tolist()
    tokens = seen["token"][0].int().tolist()
    kept = [[] for _ in photos]
    for image, token in zip(images, tokens):
        kept[image].append(token)
    composite = None
    if "composite" in seen:
        composite = seen["composite"][0].expand(3, -1, -1)       # gray to color
        composite = composite.permute(1, 2, 0).byte().numpy()
    return filter_figure(photos, kept, config.vit.grid, composite, title)


def map_figure(photos, maps, config, title):
    """A row per photograph: itself, and under the heat of the class token's attention, mean over heads.

    maps: one of (H, T) or (N, H, T), or one per branch, side by side; T patches as `grids_of` the config."""
    rows = []
    for j, photo in enumerate(photos):
        pictures, captions = [photo], [""]
        for weights, grid in zip(maps, grids_of(config)):
            if weights.dim() == 2:
                weights = weights[None]
            heat = weights[j].abs().mean(0).view(grid)
            if heat.dim() == 3:
                heat = heat[len(heat) // 2]          # of a volume the middle slab
            pictures.append(draw_heat(photo, heat))
            captions.append(f"attention, {' x '.join(map(str, grid))} patches")
        rows.append(side_by_side(pictures, captions, title=title))
        title = ""                                   # it stands above the first row only
    return stack(rows)


def finding_figure(photo, findings, probability, title):
    """A row per finding: the X-ray with its boxes, and the same under the heat of every map.

    findings: as in `shown`; probability: {label: predicted}."""
    height, width = photo.shape[:2]
    rows = []
    for label, (boxes, maps) in findings.items():
        frames = [np.multiply(box, (width, height, width, height)) for box in boxes]
        pictures = [draw_boxes(photo, frames)]
        for weights in maps.values():
            pictures.append(draw_boxes(draw_heat(photo, weights), frames))
        captions = [f"{label}, predicted {probability[label]:.2f}"] + list(maps)
        rows.append(side_by_side(pictures, captions, title=title))
        title = ""
    return stack(rows)
