"""What a model looked at: attention maps, kept patches, and boxes over the patients' own images.

The patients are chosen once everything is predicted, so the model looks at their images again, and what it
returns for a sample is drawn.
"""
import os
from pathlib import Path

import numpy as np

from evaluation.choice import choose
from evaluation.localization import finding_maps, map_title, score_finding
from evaluation.picture_file import save_picture
from evaluation.picture_rows import (
    HEIGHT, LEAST_TOP, color_bar, draw_boxes, draw_heat, filter_figure, side_by_side, stack,
)
from evaluation.predict import predict_images
from evaluation.predictions_file import target_text
from plumbing.headers import header_of
from plumbing.models import images_of
from plumbing.pictures import read, read_image


LINE = 2                                             # width of a frame around a finding, px
WIDEST = 8 * HEIGHT                                  # px: a photograph that is a strip is not drawn wider
KEPT_TEXT = "Frames are the patches that the attention filter keeps, the lighter the higher their rank."
MAP_TEXT = ("Colors are attention, mean over the heads, in multiples of chance, which is 1/T for each of T "
            "patches; all maps here share the scale, and a map that prefers nothing is dark all over.")
ANSWERS = {  # kind of task: its actual and its predicted value, in words
    "regression": "{task} {actual}, predicted {value:.3g}",
    "classes": "{task} {actual}, predicted {surest} ({value:.2f})",
    "labels": "{task} {actual}, surest {surest} ({value:.2f})",
    "survival": "{task} {actual}, predicted risk {value:.3g}",
    "loss": "{task}, loss {value:.3g}",                            # nobody knows it beforehand
}
REBUILT_TEXT = "An image, what the model saw of it, and what it made of that."
SURE = 0.01, 0.99                                    # a probability is not shown as 0 or 1
BOX_TEXT = " Frames, where there are some, are the boxes that a reader drew."


# -----------------------------------------------------------------------------
# what a model returns


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
    return [getattr(images_of(config), "grid", None)]


def findings_in(batch, out, tasks, config, boxes_of):
    """Yield (patient, label, how well the maps meet the boxes of that finding) of a batch, for score_maps.

    boxes_of: {image: {label: boxes}}."""
    for i, patient in enumerate(batch["patient"]):
        boxes = boxes_of.get(batch["index"][i][0], {})
        for label, maps in maps_of(tasks, config, out, i, boxes):
            yield patient, label, score_finding(maps, boxes[label])


def maps_of(tasks, config, out, i, labels):
    """Yield (label, what the model's outputs have to show for it in sample i) of those labels with a map."""
    _, first_token = findings_of(tasks)
    for label in labels:
        maps = finding_maps(out, i, first_token + label, grids_of(config))
        if maps:
            yield label, maps


def labels_to_draw(target, prediction):
    """The labels that are there and the surest of the others, of unknown labels the three surest."""
    others = [label for label in prediction.argsort()[::-1].tolist() if target[label] != 1]
    if np.isnan(target).all():
        return others[:3]
    return np.flatnonzero(target == 1).tolist() + others[:1]


# -----------------------------------------------------------------------------
# the figures of a run


def draw_figures(folder, model, tasks, cohort, predictions, options, count, boxes_of):
    """What the model looks at, of so many patients, as pictures in a folder; those of an older run go.

    Patients are chosen by choice.py for the first task, of those with boxes where there are any.
    predictions: as of predict.py; boxes_of: {image: {label: boxes in shares of width and height}}. Of a
    volume the middle slices are drawn, of a bag of vectors nothing: there is no picture."""
    os.makedirs(folder, exist_ok=True)
    for path in Path(folder).glob("patient_*.png"):
        path.unlink()
    unit_images = predictions["images"]
    with_boxes = [unit for unit, images in enumerate(unit_images) if images[0] in boxes_of]
    chosen = choose(tasks[0], predictions, count, with_boxes or range(len(unit_images)))
    unit_of = {unit_images[unit][0]: unit for unit in chosen}
    person = "patient" if cohort.patients_known else "image"

    def watch(batch, out):
        for i, images in enumerate(batch["index"]):
            if not images or images[0] not in unit_of:             # the next N images of a patient
                continue
            unit = unit_of[images[0]]
            patient = predictions["patient"][unit]
            answers = {}
            for task in tasks:
                answers[task.name] = [predictions[key][task.name][unit] for key in ("target", "prediction")]
            words = [f"{person} {patient}, {chosen[unit]}", *answer_texts(tasks, answers)]
            total = len(unit_images[unit])
            if total > len(images):
                words.append(f"{len(images)} of {total} images shown")
            title = "; ".join(words)
            views = []
            for image in images:
                views += views_of(cohort, image, options["size"], model.config)
            boxes = boxes_of.get(images[0], {})
            figure, text = sample_figure(views, out, i, model.config, tasks, answers, boxes, title)
            if figure:
                save_picture(figure, folder, f"patient_{patient}", title, text)

    images = sum([unit_images[unit] for unit in chosen], [])
    if images and options["size"]:
        predict_images(model, tasks, cohort, sorted(images), {**options, "folder": None}, watch)


def sample_figure(views, out, i, config, tasks, answers, boxes, title):
    """What a model returns for sample i, over the views of its images -> the figure, None where there is
    nothing to be seen, and what it shows.

    answers: {task: (target, prediction)}; boxes: {label: boxes in shares}."""
    if "image" in out and "token" in out:
        kept = list(zip(out["image"][i].tolist(), out["token"][i].tolist()))       # best first
        composite = []
        if "composite" in out:
            composite = [pixels_of(out["composite"][i])]
        photos = [photo for _, photo, _ in views]
        return filter_figure(photos, kept, config.vit.grid, composite, title), KEPT_TEXT
    if "rebuilt" in out:
        pictures = [views[0][1], pixels_of(out["corrupted"][i]), pixels_of(out["rebuilt"][i])]
        return side_by_side(pictures, ["image", "corrupted", "rebuilt"], title=title), REBUILT_TEXT
    labels = boxes
    task, _ = findings_of(tasks)
    if task and "label_map" in out:
        labels = [*boxes, *labels_to_draw(*answers[task.name])]
    groups = []
    for label, maps in dict(maps_of(tasks, config, out, i, labels)).items():
        target, prediction = answers[task.name]
        actual = {0: "absent", 1: "present"}.get(target[label], "unknown")
        caption = f"{task.classes[label]} {actual}, predicted {prediction[label].clip(*SURE):.2f}"
        groups.append((views, caption, boxes.get(label, []), maps))
    if groups:
        return heat_figure(groups, title), MAP_TEXT + BOX_TEXT
    maps = finding_maps(out, i, None, grids_of(config))
    if maps:
        return heat_figure([(views, "", [], maps)], title), MAP_TEXT
    return None, ""


def answer_texts(tasks, answers):
    """Yield the actual and the predicted values of a unit, a text per task."""
    for task in tasks:
        target, value = answers[task.name]
        texts = list(target_text(task, target))
        actual = " ".join(texts).strip() or "unknown"
        surest = ""
        if task.kind == "labels" and actual != "unknown":
            actual = ", ".join(name for name, text in zip(task.classes, texts) if text == "1") or "none"
        if task.kind in ("classes", "labels"):
            surest = task.classes[value.argmax()]
            value = value.max().clip(*SURE)
        yield ANSWERS[task.kind].format(task=task.name, actual=actual, value=value, surest=surest)


def views_of(cohort, i, size, config):
    """Yield (name, uint8 (HEIGHT, width, 3), axis) of image i: a photograph in true proportions, no axis,
    with --fit pad or crop as the model sees it; of a volume the middle slice across each axis.

    size: of the model's images, (h, w) or (d, h, w)."""
    if len(size) == 2:
        height, width = size
        if cohort.reading.fit == "stretch":
            height, width = header_of(cohort, i).sides
        width = min(WIDEST, max(1, round(HEIGHT * width / height)))
        photo, _ = read(cohort, i, (HEIGHT, width))
        yield "", photo.transpose(1, 2, 0), None
        return
    volume, _ = read(cohort, i, size, channels=images_of(config).channels)
    for axis, name in enumerate(("first", "second", "third")):
        image = volume[0].take(size[axis] // 2, axis)
        height, width = image.shape
        photo, _ = read_image(image, (HEIGHT, max(1, HEIGHT * width // height)))
        yield f"middle slice across the {name} axis", photo.transpose(1, 2, 0), axis


# -----------------------------------------------------------------------------
# one patient


def pixels_of(image):
    """(C, h, w), or of a volume the middle slice of (C, d, h, w) -> (h, w, 3) uint8."""
    image = image.float().cpu()
    if image.dim() == 4:
        image = image[:, image.shape[1] // 2]
    if len(image) != 3:                                            # grey to color
        image = image[:1].expand(3, -1, -1)
    return image.permute(1, 2, 0).byte().numpy()


def heat_figure(groups, title):
    """[(views, caption, boxes in shares, {name of a map: its weights})] -> a row per view, itself and under
    the heat of every map, with one scale of colors for all maps, and its bar."""
    rows = []                                        # (photograph, caption, boxes, {caption: heat})
    top = LEAST_TOP
    for views, caption, boxes, maps in groups:
        for number, (view, photo, axis) in enumerate(views):
            heats = {}
            for name, weights in maps.items():
                heat = times_chance(weights, number, axis)
                heats[f"{caption}: {map_title(name)}".removeprefix(": ")] = heat
                top = max(top, heat.max())
            rows.append((photo, f"{caption} {view}".strip(), boxes, heats))
    sheets = []
    for photo, caption, boxes, heats in rows:
        pictures = [photo, *[draw_heat(photo, heat, top) for heat in heats.values()]]
        pictures = [draw_boxes(picture, boxes, LINE) for picture in pictures]
        sheets.append(side_by_side(pictures, [caption, *heats], title=title))
        title = ""                                   # it stands above the first row only
    bar = color_bar(top)
    return stack([*sheets, side_by_side([bar], [""], height=bar.height)])


def times_chance(weights, number, axis):
    """A map over T patches -> in multiples of chance, 1/T of its sum; of a volume the middle slab across an
    axis; of several photographs that with this number."""
    if axis is None and weights.ndim == 3:
        weights = weights[number]
    times = weights * weights.size / max(weights.sum(), 1e-30)
    if axis is not None:
        times = times.take(weights.shape[axis] // 2, axis)
    return times
