"""What a model looked at: attention maps, kept patches, and boxes over the patients' own images.

`shown` holds {patient: (images, seen)} of the patients to draw: indices of images in the cohort, and what
`looked_at` returns. Of a model with a map per label, seen["findings"] is also
{name of the label: (boxes, {name of the map: (rows, columns)})}, boxes in shares of width and height.
"""
import os

import numpy as np

from evaluation.localization import branches_of, finding_maps, score_finding
from evaluation.picture_file import save_picture
from evaluation.picture_rows import draw_boxes, draw_heat, filter_figure, side_by_side, stack
from evaluation.predictions_file import target_text
from plumbing.headers import sides_of
from plumbing.pictures import read, read_image


WIDEST = 8 * 240                                     # px of a photograph, which is less than a strip has
HEIGHT = 240                                         # of a photograph, px


# -----------------------------------------------------------------------------
# what a model returns


def looked_at(out, i):
    """What a model returns to be drawn, of sample i -> {key: [tensor], one per branch}."""
    keys = ("map", "image", "token", "composite", "corrupted", "rebuilt")
    seen = {key: branches_of(out, key, i) for key in keys if key in out}
    if "map" not in seen and "label_map" in out:                   # the label tokens' instead of heads'
        seen["map"] = branches_of(out, "label_map", i)
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


def watcher(shown, figures, tasks, config, boxes_of, findings):
    """-> function (batch, out) for `predict`, which sees every batch.

    It keeps in `shown` what the model looked at of so many patients, where there are boxes of those that have
    some. It appends to `findings` how well the maps meet the boxes of a finding, for score_maps.
    boxes_of: {image: {label: boxes}}."""
    task, first_token = findings_of(tasks)

    def watch(batch, out):
        for i, patient in enumerate(batch["patient"]):
            images = batch["index"][i]
            boxes = boxes_of.get(images[0], {})
            draw = len(shown) < figures and patient not in shown and (boxes or not boxes_of)
            if draw and not boxes and task and "label_map" in out:
                target = batch["targets"][task.name][i]
                boxes = {label: [] for label in labels_to_draw(target, out["logits"][task.name][i])}
            drawn = {}
            for label, label_boxes in boxes.items():
                maps = finding_maps(out, i, first_token + label, grids_of(config))
                if not maps:
                    continue
                drawn[task.classes[label]] = label_boxes, maps
                if label_boxes:
                    findings.append((patient, label, score_finding(maps, label_boxes)))
            if draw:
                shown[patient] = images, looked_at(out, i) | {"findings": drawn}

    return watch


def labels_to_draw(target, logits):
    """The labels that are there; where no label is known, the three that the model is surest of."""
    if target.isnan().all():
        return logits.float().argsort(descending=True)[:3].tolist()
    return target.eq(1).nonzero().flatten().tolist()


# -----------------------------------------------------------------------------
# the figures of a run


def draw_figures(folder, tasks, predictions, cohort, shown, config, size):
    """For the patients in `shown` what the model looked at.

    predictions: as of predict.py; size: of the model's images. Of a volume the middle slice is drawn, of a
    bag of vectors nothing: there is no picture."""
    os.makedirs(folder, exist_ok=True)
    if not size:
        return
    for patient, (images, seen) in shown.items():
        [unit] = [i for i, unit in enumerate(predictions["images"]) if images[0] in unit]
        title = patient_title(patient, tasks, predictions, unit)
        photos = [read_photo(cohort, i, size, config) for i in images]
        if "token" in seen:
            figure = kept_figure(photos, seen, config, title)
        elif seen.get("findings"):
            task, _ = findings_of(tasks)
            probability = dict(zip(task.classes, predictions["prediction"][task.name][unit]))
            figure = finding_figure(photos[0], seen["findings"], probability, title)
        elif "rebuilt" in seen:
            figure = rebuilt_figure(photos[0], seen, title)
        elif "map" in seen:
            figure = map_figure(photos, seen["map"], config, title)
        else:
            continue
        save_picture(figure, folder, f"patient_{patient}", title)


def patient_title(patient, tasks, predictions, unit):
    """The patient's actual and predicted values; those of labels stand under their maps."""
    words = [f"patient {patient}"]
    for task in tasks:
        if task.kind == "labels":
            continue
        value = predictions["prediction"][task.name][unit]
        if task.kind == "loss":
            words.append(f"{task.name}, loss {value:.3g}")
            continue
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
    """-> image i in its true proportions, as uint8 (HEIGHT, width, 3); with --fit pad or crop as the model
    sees it. size: of the model's images, (h, w) or (d, h, w)."""
    shape = HEIGHT, HEIGHT * size[-1] // size[-2]
    if len(size) == 3:
        channels = getattr(config, "vit", config).channels
        volume, _ = read(cohort, i, size, channels=channels)
        photo, _ = read_image(volume[0, size[0] // 2], shape)
    else:
        if cohort.reading.fit == "stretch":
            height, width = sides_of(cohort, i)
            shape = HEIGHT, min(WIDEST, max(1, round(HEIGHT * width / height)))
        photo, _ = read(cohort, i, shape)
    return photo.transpose(1, 2, 0)


# -----------------------------------------------------------------------------
# one patient


def kept_figure(photos, seen, config, title):
    """MultiViT: the patches that the attention filter keeps of N photographs, some of them absent."""
    kept = [[] for _ in seen["map"][0]]              # N lists
    for image, token in zip(seen["image"][0].int().tolist(), seen["token"][0].int().tolist()):
        kept[image].append(token)
    composite = None
    if "composite" in seen:
        composite = seen["composite"][0].expand(3, -1, -1)       # gray to color
        composite = composite.permute(1, 2, 0).byte().numpy()
    return filter_figure(photos, kept, config.vit.grid, composite, title)


def rebuilt_figure(photo, seen, title):
    """GMML: an image, what the model saw of it, and what it made of that; of volumes the middle slice."""
    pictures = [photo]
    for name in ("corrupted", "rebuilt"):
        pixels = seen[name][0]
        if pixels.dim() == 4:
            pixels = pixels[:, pixels.shape[1] // 2]
        if len(pixels) != 3:                                       # grey to color
            pixels = pixels[:1].expand(3, -1, -1)
        pictures.append(pixels.permute(1, 2, 0).byte().numpy())
    return side_by_side(pictures, ["image", "corrupted", "rebuilt"], title=title)


def map_figure(photos, maps, config, title):
    """A row per photograph: itself, and under the heat of the class token's attention, mean over heads.

    maps: one of (H, T) or (N, H, T), or one per branch, side by side; T patches as `grids_of` the config."""
    rows = []
    for j, photo in enumerate(photos):
        heats = []
        for weights, grid in zip(maps, grids_of(config)):
            if weights.dim() == 2:
                weights = weights[None]
            heat = weights[j].abs().mean(0).view(grid)
            if heat.dim() == 3:
                heat = heat[len(heat) // 2]          # of a volume the middle slab
            heats.append((f"attention, {' x '.join(map(str, grid))} patches", heat))
        rows.append((photo, "", [], heats))
    return heat_figure(rows, title)


def finding_figure(photo, findings, probability, title):
    """A row per finding: the X-ray with its boxes, and the same under the heat of every map.

    findings: as in `shown`; probability: {label: predicted}."""
    height, width = photo.shape[:2]
    rows = []
    for label, (boxes, maps) in findings.items():
        frames = [np.multiply(box, (width, height, width, height)) for box in boxes]
        rows.append((photo, f"{label}, predicted {probability[label]:.2f}", frames, maps.items()))
    return heat_figure(rows, title)


def heat_figure(rows, title):
    """[(photograph, its caption, boxes on it, [(caption, map)])] -> the rows on top of each other."""
    sheets = []
    for photo, caption, boxes, maps in rows:
        pictures, captions = [draw_boxes(photo, boxes)], [caption]
        for name, weights in maps:
            pictures.append(draw_boxes(draw_heat(photo, weights), boxes))
            captions.append(name)
        sheets.append(side_by_side(pictures, captions, title=title))
        title = ""                                   # it stands above the first row only
    return stack(sheets)
