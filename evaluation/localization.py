"""Do the maps point at the finding? The boxes that a reader drew, and two numbers for every kind of map.

    pointing game     share of findings whose box the strongest patch of the map touches
                      Zhang et al. 2018, Int. J. Comput. Vision
    mass in the box   share of the map's sum that lies inside the boxes of the finding

A finding is one label of one image; all its boxes count as one region. Both numbers are means over the
findings of a label, then over the labels. Beside them stands what chance gives: a patch drawn at random, a
flat map. Intervals are the bootstrap over patients of scores.py.
A table of boxes has the columns image,label,x0,y0,x1,y1, in pixels of the image file; x1 and y1 are one past
the last. NIH's BBox_List_2017.csv is read as it is distributed. boxes.csv beside the table of a run is used
without being named.
"""
from os.path import basename, isfile, join

import numpy as np

from evaluation.metrics import mean_defined, weighted_mean
from evaluation.scores import bootstrap_weights, summary
from plumbing.cells import places_in
from plumbing.command import in_one_line
from plumbing.fit import frame, to_model
from plumbing.formats import without_ending
from plumbing.headers import header_of
from plumbing.tables import read_csv
from plumbing.targets import numbers


MAPS = {  # what a model returns: what metrics.json calls it
    "map": "class token",
    "label_map": "label token",
    "mean_label_map": "label token, mean of label blocks",
}
COLUMNS = ("image", "label", "x0", "y0", "x1", "y1")
NIH_COLUMNS = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
NIH_SIZE = (1024, 1024)          # px of the original films, whatever the size of the copies at hand
BEYOND = 1.05                    # times its side a box may reach: readers overshoot the edge
FINE = 16                        # a patch is cut into 16 x 16 cells, to see how much of it is in a box


# -----------------------------------------------------------------------------
# boxes


def find_boxes(path, cohort, labels, size):
    """read_boxes of path, without one of boxes.csv beside the table of the cohort; {} where there is none.

    ValueError for a path of which nothing is of these images and labels."""
    beside = join(cohort.folder or "", "boxes.csv")
    if not path and not (cohort.folder and isfile(beside)):
        return {}
    boxes = read_boxes(path or beside, cohort, labels, size)
    if path and not boxes:
        raise ValueError(f"{path}: none of its boxes is of an image of {cohort.name} and "
                         f"one of the labels {', '.join(labels)}")
    return boxes


def read_boxes(path, cohort, labels, size=()):
    """-> {image: {label: list of (x0, y0, x1, y1) in shares of what the model sees}}, both as indices.

    size: of the model's images. Boxes of images that are not in the cohort, of labels that `labels` has in no
    spelling, and of what --fit crop has cut off are left out.
    ValueError for a missing column, for what is no box in its image, and where images share a name."""
    header, rows = read_csv(path)
    is_nih = "Bbox [x" in header
    columns = NIH_COLUMNS if is_nih else COLUMNS
    for name in columns:
        if name not in header:
            raise ValueError(f"{path}: no column {name!r}; a table of boxes has {','.join(columns)}")
    name_column, label_column, *sides = columns
    corners = np.stack([numbers(rows, side) for side in sides], axis=1)      # (rows, 4)
    if is_nih:
        corners[:, 2:] += corners[:, :2]                           # from x, y, width, height
    image_of = {without_ending(basename(image)): i for i, image in enumerate(cohort.paths)}
    if len(image_of) < len(cohort.paths):
        raise ValueError(f"{path}: boxes are found by the names of images, "
                         f"and some images of {cohort.name} share a name")
    words = [row[label_column].replace("Infiltrate", "Infiltration") for row in rows]
    boxes = {}
    for row, box, label in zip(rows, corners, places_in(labels, words).tolist()):
        image = image_of.get(without_ending(basename(row[name_column])))
        if image is None or label < 0:
            continue
        height, width = NIH_SIZE if is_nih else header_of(cohort, image).sides
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= BEYOND * width and 0 <= y0 < y1 <= BEYOND * height):       # or one is blank
            raise ValueError(f"{row[None]}, column {sides[0]}: {box.tolist()} is no box in the image of "
                             f"{width} x {height} px; need 0 <= x0 < x1 and 0 <= y0 < y1, in px of this copy")
        shares = to_model(box, frame(width, height, size, cohort.reading.fit))
        if shares[:2].max() < 1 and shares[2:].min() > 0:
            boxes.setdefault(image, {}).setdefault(label, []).append(shares)
    return boxes


def inside(boxes, grid):
    """Boxes in shares of the image -> (rows, columns): how much of every patch lies in one of them."""
    rows, columns = grid
    y = (np.arange(rows * FINE)[:, None] + 0.5) / (rows * FINE)    # middles of the cells
    x = (np.arange(columns * FINE) + 0.5) / (columns * FINE)
    covered = sum((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1) for x0, y0, x1, y1 in boxes) > 0
    return covered.reshape(rows, FINE, columns, FINE).mean((1, 3))


# -----------------------------------------------------------------------------
# maps


def finding_maps(out, i, token, grids):
    """What a model's outputs have to show for a finding in sample i -> {name of the map: (rows, columns)}.

    token: number of the finding's label token; None: the mean of all. The class token's map, its mean over
    heads, is the same for every finding. grids: of the patches, one per branch of the model."""
    maps = {}
    for key, title in MAPS.items():
        if out.get(key) is None:
            continue
        branches = out[key] if isinstance(out[key], list) else [out[key]]          # of CrossViT two
        for branch, weights, grid in zip("SL", branches, grids):
            name = title
            if len(branches) > 1:
                name += f", branch {branch}"
            weights = weights[i].float().cpu().abs().numpy()
            with in_one_line(f"a model's {key}: need (B, H, T), T for the patches of config.grid, {grid}"):
                own = weights.mean(-2)                             # of (H, T), or of several images (N, H, T)
                if "label" in key and token is not None:           # (L, T)
                    own = weights[token]
                maps[name] = own.reshape(*own.shape[:-1], *grid)
    return maps


def map_title(name):
    """A map's name in metrics.json -> as it is shown: Query2Label's labels are queries, not tokens, and some
    ViTs read the mean of the patches, not a class token."""
    return name.replace("label token", "label's map").replace("class token", "attention map")


def score_finding(maps, boxes):
    """{name of the map: (rows, columns)} -> {name: (pointing game, mass in the box)}, and those of chance, of
    each branch: a larger patch touches a box more often."""
    scores = {}
    flat = {}
    for name, weights in maps.items():
        _, comma, branch = name.partition(", branch ")
        flat[f"chance{comma}{branch}"] = np.ones_like(weights)
    for name, weights in (maps | flat).items():
        within = inside(boxes, weights.shape)
        strongest = within[weights == weights.max()]               # a flat map points everywhere
        scores[name] = float((strongest > 0).mean()), float((weights * within).sum() / weights.sum())
    return scores


def score_maps(findings, labels):
    """[(patient, label, {map: (pointing, mass)})] -> {map: {findings, per_label, pointing, mass}}.

    pointing and mass are {value, low, high}; labels: the names of the labels, which stand in the findings as
    indices."""
    patients, label_of, scores_of = zip(*findings)
    weights = bootstrap_weights(patients).astype(float)
    findings_of = {labels[label]: np.equal(label_of, label) for label in np.unique(label_of)}
    result = {}
    for name in scores_of[0]:
        per_label = {label: {"findings": int(own.sum())} for label, own in findings_of.items()}
        entry = result[name] = {"findings": len(findings), "per_label": per_label}
        for i, metric in enumerate(("pointing", "mass")):
            values = np.array([scores[name][i] for scores in scores_of])
            draws = [weighted_mean(values, weights * own) for own in findings_of.values()]
            entry[metric] = summary(mean_defined(draws), "no finding")
            for scores, means in zip(per_label.values(), draws):
                scores[metric] = summary(means, "no finding")
    return result
