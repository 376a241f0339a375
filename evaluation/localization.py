"""Do the maps point at the finding? The boxes that a reader drew, and two numbers for every kind of map.

    pointing game     share of findings whose box the strongest patch of the map touches     Zhang et al. 2018, Int. J. Comput. Vision
    mass in the box   share of the map's sum that lies inside the boxes of the finding

A finding is one label of one image; all its boxes count as one region. Both numbers are means over the findings of a label, then
over labels, beside what chance gives: a patch drawn at random, a flat map. An interval is the bootstrap over patients of metrics.py.
A table of boxes has the columns image,label,x0,y0,x1,y1, px of the image file, x1 and y1 one past the last; NIH's
BBox_List_2017.csv is read as it is distributed. boxes.csv beside the table of a run is found by itself.
"""
import os

import numpy as np
from PIL import Image

from evaluation.metrics import ratio
from evaluation.scores import summary, with_resamples
from plumbing.tables import at, read_csv
from plumbing.targets import numbers


MAPS = {  # what a model returns: what the table calls it
    "map": "class token", "mean_map": "class token, mean of label blocks",
    "label_map": "label token", "mean_label_map": "label token, mean of label blocks",
}
FINE = 16                                                          # a patch is cut so often, a side, to see how much of it is in a box


def read_boxes(path, cohort, labels):
    """-> {image: {label: (boxes, 4) as x0, y0, x1, y1 in shares of width and height}}, both as indices.

    Boxes of images that are not in the cohort are left out, those of labels that are not among `labels` too."""
    header, rows = read_csv(path)
    nih = "Bbox [x" in header                                      # pixels of the original films, 1024 px a side: x, y, width, height
    names = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]") if nih else ("image", "label", "x0", "y0", "x1", "y1")
    if missing := [name for name in names if name not in header]:
        raise ValueError(f"{path}: no column {missing[0]!r}; a table of boxes has {','.join(names)}")
    corners = np.stack([numbers(path, rows, name) for name in names[2:]], 1)
    if nih:
        corners[:, 2:] += corners[:, :2]
    stems = {os.path.splitext(os.path.basename(image))[0]: i for i, image in enumerate(cohort.paths)}
    if len(stems) < len(cohort.paths):
        raise ValueError(f"{path}: boxes are found by the names of images, and some of {cohort.name} share a name")
    found = {}
    for row, box in zip(rows, corners):
        if not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):    # also where one is blank
            raise ValueError(f"{at(path, row, names[2])}: {box.tolist()} is no box, need 0 <= x0 < x1 and 0 <= y0 < y1")
        i, label = stems.get(os.path.splitext(os.path.basename(row[names[0]]))[0]), row[names[1]].replace("Infiltrate", "Infiltration")
        if i is not None and label in labels:
            width, height = (1024, 1024) if nih else Image.open(cohort.paths[i]).size if cohort.pixels is None else cohort.pixels[i].shape[1::-1]
            found.setdefault(i, {}).setdefault(labels.index(label), []).append(box / (width, height, width, height))
    return {i: {label: np.array(boxes) for label, boxes in of.items()} for i, of in found.items()}


def inside(boxes, grid):
    """(boxes, 4) in shares -> (rows, columns), how much of every patch lies in one of them, 0 .. 1."""
    rows, columns = grid[0] * FINE, grid[1] * FINE
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    fine = sum((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1) for x0, y0, x1, y1 in boxes) > 0
    return fine.reshape(grid[0], FINE, grid[1], FINE).mean((1, 3))


def look(map, boxes):
    """(rows, columns), (boxes, 4) -> hit of the pointing game 0 or 1, mass in the box, and what chance gives of either."""
    within = inside(boxes, map.shape)
    return float(within.flat[map.argmax()] > 0), float((map * within).sum() / map.sum()), float((within > 0).mean()), float(within.mean())


def each_map(out, i, grids, first):
    """Of sample i of a model's outputs -> {name of the map: function label -> (rows, columns)}; first: number of the first label."""
    found = {}
    for key in (key for key in MAPS if key in out):
        branches = out[key] if isinstance(out[key], list) else [out[key]]
        for branch, map, grid in zip("SL", branches, grids):
            map, name = map[i].float().cpu().abs().numpy(), MAPS[key] + f", branch {branch}" * (len(branches) > 1)
            if "label" in key:                                     # (L, T)
                found[name] = lambda label, map=map, grid=grid: map[first + label].reshape(grid)
            else:                                                  # (H, T), the same for every label
                found[name] = lambda label, map=map.mean(0).reshape(grid): map
    return found


def score_maps(records, labels):
    """records: (patient, label, {map: what `look` gives}) -> {map: {pointing, mass: {value, low, high}, findings, per_label}}."""
    patients, which = np.array([patient for patient, *_ in records]), np.array([label for _, label, _ in records])
    weights = with_resamples(patients).astype(float)
    result = {}
    for name in [*records[0][2], "chance"]:
        source = name if name != "chance" else next(iter(records[0][2]))
        values, entry = np.array([seen[source] for *_, seen in records]), {"findings": len(records), "per_label": {}}
        for column, metric in enumerate(("pointing", "mass"), start=2 * (name == "chance")):
            each = {}
            for label in np.unique(which):
                w = weights * (which == label)
                each[labels[label]] = ratio(w @ values[:, column], w.sum(1))
            entry[metric] = summary(np.nanmean(list(each.values()), 0), "no finding")
            for label, draws in each.items():
                entry["per_label"].setdefault(label, {"findings": int((which == labels.index(label)).sum())})[metric] = summary(draws, "no finding")
        result[name] = entry
    return result
