"""What a model looked at: attention maps, kept patches, and boxes over the patients' own images.
"""
import os
import re

import numpy as np

from evaluation.localization import each_map
from evaluation.picture_rows import draw_boxes, draw_heat, filter_figure, side_by_side, stack
from evaluation.plots import histogram, scatter
from evaluation.predict import target_text
from plumbing.arrays import read_volume
from plumbing.pictures import read_image


def looked_at(out, i):
    """What a model returns to be drawn, of sample i: {key: [tensor], one a branch}."""
    each = {key: out[key] if isinstance(out[key], list) else [out[key]] for key in ("map", "image", "token", "composite") if key in out}
    return {key: [x[i].float().cpu() for x in branches] for key, branches in each.items()}


def findings_of(tasks):
    """-> the first task of labels, None without one, and the number of its first label token."""
    findings = next((task for task in tasks if task.kind == "labels"), None)
    return findings, sum(task.outputs for task in tasks[:tasks.index(findings)]) if findings else 0


def maps_of(findings, boxes, maps):
    """{label: its boxes}, {name of a map: function of the label} -> {name of the label: its boxes, {name of a map: map}}."""
    return {findings.classes[label]: (of, {name: map(label) for name, map in maps.items()}) for label, of in boxes.items()}


def watcher(shown, figures, tasks, config):
    """-> function (batch, out) for `predict` that keeps in `shown` what the model looked at of the first patients; of a model
    that has a map a label, the maps of the three labels it is surest of."""
    grids, (findings, first) = grids_of(config), findings_of(tasks)

    def watch(batch, out):
        for i, patient in enumerate(batch["patient"]):
            if len(shown) < figures and patient not in shown:
                shown[patient] = batch["index"][i], looked_at(out, i)
                if findings and "label_map" in out:
                    surest = out["logits"][findings.name][i].float().argsort(descending=True)[:3].tolist()
                    shown[patient][1]["findings"] = maps_of(findings, {label: [] for label in surest}, each_map(out, i, grids, first))

    return watch


def draw_figures(folder, tasks, table, cohort, shown, config, size):
    """Errors and scatter of every regression task; for a few patients what the model looked at, of a volume its middle slice,
    of a bag of vectors nothing: there is no picture."""
    os.makedirs(folder, exist_ok=True)

    def photo(i):
        """-> uint8 (240, width, 3)"""
        source = cohort.paths[i] if cohort.pixels is None else cohort.pixels[i]
        if len(size) == 3:
            source = read_volume(source, size, getattr(config, "vit", config).channels, name=cohort.paths[i])[0, size[0] // 2]
        return read_image(source, (240, 240 * size[-1] // size[-2]), name=cohort.paths[i])[0].transpose(1, 2, 0)

    def save(figure, name):
        figure.save(os.path.join(folder, re.sub(r"[^\w-]", "_", name) + ".png"))

    for task in tasks:
        if task.kind == "regression" and not np.isnan(table["target"][task.name]).all():
            prediction, target = table["prediction"][task.name], table["target"][task.name]              # NaN where unknown: not drawn
            save(histogram(prediction - target, task.name, f"predicted {task.name} - actual {task.name}"), f"{task.name}_errors")
            save(scatter(target, prediction, task.name, f"actual {task.name}", f"predicted {task.name}"), f"{task.name}_scatter")
    for patient, (images, out) in shown.items() if size else ():
        unit, words = next(i for i, seen in enumerate(table["images"]) if images[0] in seen), [f"patient {patient}"]
        for task in tasks:
            target, prediction = table["target"][task.name][unit], table["prediction"][task.name][unit]
            if task.kind != "labels":
                said = task.classes[prediction.argmax()] if task.kind == "classes" else f"{prediction:.3g}"
                known = " ".join(target_text(task, target)).strip() or "unknown"
                words.append(f"{task.name} {known}, predicted {'risk ' * (task.kind == 'survival')}{said}")
        photos = [photo(i) for i in images]
        if "token" in out:
            N, grid = len(out["map"][0]), config.vit.grid
            kept = [sorted(out["token"][0][out["image"][0] == j].int().tolist()) for j in range(N)]
            composite = out["composite"][0].expand(3, -1, -1).permute(1, 2, 0).byte().numpy() if "composite" in out else None
            save(filter_figure(photos + [None] * (N - len(photos)), kept, grid, composite, "   ".join(words)), f"patient_{patient}")
        elif out.get("findings"):
            task, _ = findings_of(tasks)
            said = dict(zip(task.classes, table["prediction"][task.name][unit]))
            save(finding_figure(photos[0], out["findings"], said, "   ".join(words)), f"patient_{patient}")
        elif "map" in out:
            save(map_figure(photos, out["map"], config, "   ".join(words)), f"patient_{patient}")


def grids_of(config):
    """The grids of patches a model's maps are over: one, one a branch, or none."""
    return config.grids if hasattr(config, "grids") else [vit.grid] if hasattr(vit := getattr(config, "vit", config), "grid") else []


def map_figure(photos, maps, config, title):
    """A row a photograph: itself, and under the heat of the class token's attention to its patches, mean over heads.

    maps: one of (H, T) or (N, H, T), or one a branch, beside each other."""
    grids = grids_of(config)
    rows = []
    for j, photo in enumerate(photos):
        each = [map.reshape(-1, *map.shape[-2:])[j].abs().mean(0).view(grid) for map, grid in zip(maps, grids)]
        each = [heat[len(heat) // 2] if heat.dim() == 3 else heat for heat in each]            # of a volume the middle slab
        rows.append(side_by_side([photo, *(draw_heat(photo, heat) for heat in each)], title="" if j else title,
                              captions=["", *(f"attention, {' x '.join(map(str, grid))} patches" for grid in grids)]))
    return stack(rows)


def finding_figure(photo, findings, probability, title):
    """A row a finding, {label: (boxes, {name: map})}: the film with the boxes, and the same under the heat of every map."""
    rows = []
    for label, (boxes, maps) in findings.items():
        frames = [box * (photo.shape[1::-1] * 2) for box in boxes]
        rows.append(side_by_side([draw_boxes(picture, frames) for picture in (photo, *(draw_heat(photo, map) for map in maps.values()))],
                              [f"{label}, predicted {probability[label]:.2f}", *maps], title=None if rows else title))
    return stack(rows)
