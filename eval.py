"""What a trained model is worth: metrics with intervals, beside a constant, by subgroup; predictions; pictures.

    python eval.py runs/NAME                       the test split of the run, again
    python eval.py runs/NAME --by sex              subgroups; without --by it is fst, Fitzpatrick I-IV against V-VI, if there
    python eval.py runs/NAME --data other.csv      another table, refused when it holds a patient the run learned from
    python eval.py runs/NAME --against runs/OTHER  the differences of two runs on the test patients they have in common: compare.py
    python eval.py runs/NAME --predict SOURCE --out new.csv        new images, a folder or a CSV, without targets: deploy.py
    python eval.py runs/NAME --export FOLDER       the best model as a folder for the Hub: deploy.py

The unit is the patient: the predictions for his images, or groups of N images, are averaged. Only where the images of a
patient have targets of their own (`follow-up` films, say) is it the image. What a number is worth: metrics.py.
"""
import argparse
import json
import os
import re
from dataclasses import replace

import numpy as np
import torch
from huggingface_hub.utils import tqdm

import parallel
import plots
import report
from data import Samples, make_loader, read_image, read_volume
from localization import each_map, look, read_boxes, score_maps
from metrics import METRICS, choose_thresholds, details, entry_text, ratio, score
from run_folder import write_csv, write_json
from tables import SPLITS, per_patient, read_run_split, tabulate

SMALL = 20                                                         # patients: of fewer a subgroup's metrics say little

# -----------------------------------------------------------------------------
# predictions


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


# -----------------------------------------------------------------------------
# evaluation of a run


def constant_prediction(task, target):
    """The best that can be said without looking: the median of the training targets, the shares of the classes or labels, or
    the same risk for all."""
    known = ~np.isnan(target)
    if task.kind == "survival":
        return 0.0
    if task.kind == "labels":
        return np.nan_to_num(ratio(np.nansum(target, 0), known.sum(0)))      # 0 for a label never known: any constant ranks alike
    if task.kind == "regression":
        return np.median(target[known])
    return np.bincount(target[known].astype(int), minlength=len(task.classes)) / known.sum()


def subgroup(column, value):
    """The group a table cell belongs to. Fitzpatrick types are grouped as in MultiViT's Table 2, ages in three."""
    if re.search(r"fst|fitzpatrick", column.lower()) and re.fullmatch(r"[1-6](\.0)?", value):
        return "I-IV" if float(value) <= 4 else "V-VI"
    if re.search(r"(^|[ _])age($|[ _])", column.lower()) and re.fullmatch(r"\d+(\.\d+)?Y?", value):       # 058Y in older NIH tables
        years = float(value.rstrip("Y"))
        return "0-39" if years < 40 else "40-59" if years < 60 else "60+"
    return value or "(blank)"


def evaluate(model, tasks, cohort, indices, run, options, split="test", by=None, figures=3, thresholds=None, boxes=None):
    """Predict a split and write metrics.json, predictions.csv and figures/ to the run folder; -> the metrics.

    indices: {split: images}, of which train gives the constant predictor, and val the thresholds of operating points, unless
    they are given; options: dict of size, n, r, channels, batch_size, workers, device, autocast, by_image, and folder where there
    is a cache; by: column of the subgroups, a patient is in that of his first image; boxes: a CSV of boxes, see localization.py,
    by default boxes.csv beside the table; images that have some are drawn."""
    if by and by not in cohort.columns:
        raise ValueError(f"--by {by}: no such column, there are {', '.join(cohort.columns)}")
    device, by_image = options["device"], options["by_image"]

    def loader(part):
        samples = Samples(cohort, indices[part], options["size"], options["n"], options["r"], options["channels"], folder=options.get("folder"))
        return make_loader(samples, options["batch_size"], workers=options["workers"])[0]

    shown = {}                                                     # patient -> images, what the model looked at
    grids, (findings, first) = grids_of(model.config), findings_of(tasks)
    beside = os.path.join(cohort.folder, "boxes.csv") if cohort.folder else ""
    boxes = boxes or beside * os.path.isfile(beside)
    boxes = read_boxes(boxes, cohort, findings.classes) if boxes and findings and options["n"] is None else {}
    seen_boxes = []                                                # (patient, label, {map: its numbers})

    def watch(batch, out):
        """Keep what the model looked at of the first patients, and hold every map against the boxes."""
        for i, patient in enumerate(batch["patient"]):
            marked = boxes.get(batch["index"][i][0], {})
            draw = len(shown) < figures and patient not in shown and (marked or not boxes)
            maps = each_map(out, i, grids, first) if marked or draw and findings and "label_map" in out else {}
            seen_boxes.extend((patient, label, {name: look(map(label), box) for name, map in maps.items()}) for label, box in marked.items() if maps)
            if draw:
                there = marked or {label: [] for label in batch["targets"][findings.name][i].eq(1).nonzero()[:, 0].tolist()} if maps else {}
                shown[patient] = batch["index"][i], {**looked_at(out, i), "findings": maps_of(findings, there, maps)}

    table = predict(model, tasks, loader(split), device, by_image, options["autocast"], watch, f"evaluating {split}")
    thresholds = thresholds or {}
    if not thresholds and split != "val" and indices.get("val") and any(task.kind in ("classes", "labels") for task in tasks):
        chosen = predict(model, tasks, loader("val"), device, by_image, options["autocast"], progress="choosing thresholds on val")
        thresholds = {task.name: choose_thresholds(task, chosen) for task in tasks}
    result = {"split": split, "patients": len(set(table["patient"])), "images": sum(map(len, table["images"])),
              "unit": "image" if by_image else "patient", "device": str(device)}
    member = np.array([subgroup(by, cohort.columns[by][images[0]]) for images in table["images"]]) if by else ()
    train = list(indices["train"]) if by_image else [images[0] for images in cohort.groups(indices["train"]).values()]
    agreed = cohort if by_image else per_patient(cohort)           # where a patient's first image has no target, another may
    for task in tasks:
        result[task.name] = {**score(task, table), **details(task, table, thresholds.get(task.name))}
        if train:
            value = constant_prediction(task, agreed.targets[task.name][train])
            constant = {**table, "prediction": {task.name: np.broadcast_to(value, table["prediction"][task.name].shape)}}
            constant = score(task, constant, resamples=0)
            result[task.name]["constant"] = {name: constant[name] for name in METRICS[task.kind]}
        if by:
            groups = {f"{by} {name}": score(task, table, keep=np.flatnonzero(member == name)) for name in sorted(set(member))}
            result[task.name]["subgroups"] = {name: {**group, "small": group["patients"] < SMALL} for name, group in groups.items()}
    if seen_boxes:
        result["localization"] = score_maps(seen_boxes, findings.classes)
    write_predictions(os.path.join(run, "predictions.csv"), tasks, table, cohort)
    write_json(os.path.join(run, "metrics.json"), result)
    draw_figures(os.path.join(run, "figures"), tasks, table, cohort, shown, model.config, options["size"])
    return result


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
            save(plots.histogram(prediction - target, task.name, f"predicted {task.name} - actual {task.name}"), f"{task.name}_errors")
            save(plots.scatter(target, prediction, task.name, f"actual {task.name}", f"predicted {task.name}"), f"{task.name}_scatter")
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
            save(plots.filter_figure(photos + [None] * (N - len(photos)), kept, grid, composite, "   ".join(words)), f"patient_{patient}")
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
        rows.append(plots.row([photo, *(plots.heat(photo, heat) for heat in each)], title="" if j else title,
                              captions=["", *(f"attention, {' x '.join(map(str, grid))} patches" for grid in grids)]))
    return plots.grid(rows)


def finding_figure(photo, findings, probability, title):
    """A row a finding, {label: (boxes, {name: map})}: the film with the boxes, and the same under the heat of every map."""
    rows = []
    for label, (boxes, maps) in findings.items():
        frames = [box * (photo.shape[1::-1] * 2) for box in boxes]
        rows.append(plots.row([plots.boxes(picture, frames) for picture in (photo, *(plots.heat(photo, map) for map in maps.values()))],
                              [f"{label}, predicted {probability[label]:.2f}", *maps], title=None if rows else title))
    return plots.grid(rows)


def print_table(tasks, result):
    """The metrics of every task beside those of the constant predictor; then a line a subgroup and a line a label."""
    print(f"{result['split']}: {result['patients']} patients, {result['images']} images; 95 % intervals, patients resampled")

    def line(*cells):
        print(("  " + "".join(f"{cell:29} " for cell in cells)).rstrip())

    for task in tasks:
        scores, names = result[task.name], list(METRICS[task.kind])
        constant, n = scores.get("constant"), len(task.classes)
        line(f"{task.name}, {scores['units']} {result['unit']}s", "", "constant" if constant else "")
        for name in names:
            defined = next((f", {scores[name][what]} of {n} {what}" for what in ("classes", "labels") if scores[name].get(what, n) < n), "")
            line(f"  {name}{defined}", entry_text(scores[name]), entry_text(constant[name]) if constant else "")
        if points := {name: point for name, point in scores.get("operating_point", {}).items() if point["threshold"] is not None}:
            line("", "sensitivity", "specificity", "at or above, chosen on val")
        for name, point in points.items():
            line(f"  {name}", entry_text(point["sensitivity"]), entry_text(point["specificity"]), f"{point['threshold']:.3g}")
        for what, groups in (("patients", scores.get("subgroups")), ("positives", scores.get("per_label"))):
            if groups:
                line("", *names[:2], what)
            for group, entries in (groups or {}).items():
                line(f"  {group}", *(entry_text(entries[name]) for name in names[:2]), f"{entries[what]}{', small' * entries.get('small', False)}")
    if "localization" in result:
        print_localization(result["localization"])


def print_localization(result):
    """Pointing game and mass in the box of every map, over all labels and label by label."""
    def line(*cells):
        print(("  " + f"{cells[0]:38} " + "".join(f"{cell:27} " for cell in cells[1:])).rstrip())

    some = next(iter(result.values()))
    line(f"boxes of {some['findings']} findings", "pointing game", "mass in the box")
    for name, entry in result.items():
        line(f"  {name}", entry_text(entry["pointing"]), entry_text(entry["mass"]))
    line("  pointing game, " + " | ".join(result), "findings")
    for label, entry in some["per_label"].items():
        line(f"  {label}", " | ".join(f"{other['per_label'][label]['pointing']['value']:.2f}" for other in result.values()), entry["findings"])


def match(cohort, tasks, run):
    """The cohort with those of the run's tasks that it has targets of. Classes and labels are found by name, whatever their
    order in this table; a label that it lacks is unknown, a class that the run has not learned is an error."""
    theirs, targets = {task.name: task for task in cohort.tasks}, {}
    tasks = [task for task in tasks if task.name in theirs]
    if not tasks:
        raise ValueError(f"{cohort.name} has targets of {', '.join(theirs)}, of which {run} predicts none")
    for task in tasks:
        there, values = theirs[task.name], cohort.targets[task.name]
        if there.kind != task.kind:
            raise ValueError(f"{cohort.name}: {task.name} is a task of {there.kind}, in {run} of {task.kind}; --target says which")
        place = [task.classes.index(c) if c in task.classes else None for c in there.classes]
        if task.kind == "classes":
            if None in place:
                raise ValueError(f"{cohort.name}: {task.name} {there.classes[place.index(None)]!r} is unknown to {run}, "
                                 f"which knows {', '.join(task.classes)}")
            values = np.where(np.isnan(values), values, np.array(place)[np.nan_to_num(values).astype(int)])
        elif task.kind == "labels":
            if not set(place) - {None}:
                raise ValueError(f"{cohort.name}: has none of the labels of {run}, {', '.join(task.classes)}")
            values = np.stack([values[:, place.index(i)] if i in place else np.full(len(values), np.nan) for i in range(len(task.classes))], 1)
        targets[task.name] = values.astype(np.float32)
    return replace(cohort, tasks=tasks, targets=targets)


def saved_thresholds(run):
    """The thresholds that the run chose on its own validation split: another table has none."""
    try:
        with open(os.path.join(run, "metrics.json"), encoding="utf-8") as file:
            return {task: {name: point["threshold"] for name, point in scores.get("operating_point", {}).items()}
                    for task, scores in json.load(file).items() if isinstance(scores, dict)}
    except (OSError, ValueError):
        return {}                                                  # not evaluated yet: no operating point


def main(argv=None):
    from compare import compare, print_comparison
    from deploy import export, predict_new
    from train import add_features, fast_float32, find_device, load_data, open_model, run_options  # the run knows how its data and model are made

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.add_argument("run", help="run folder, runs/NAME")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which part of the run's own split")
    parser.add_argument("--data", help="another table than the run's; all its patients are evaluated")
    parser.add_argument("--images", help="image folder of that table")
    parser.add_argument("--target", help="targets of that table, as in train.py; default: as the run was told")
    parser.add_argument("--by", help="column of the table to make subgroups of, e.g. fst, sex, age, site; default: fst where there is one")
    parser.add_argument("--boxes", help="CSV of boxes to hold the maps against: image,label,x0,y0,x1,y1; default: boxes.csv beside the table")
    parser.add_argument("--against", metavar="RUN", help="another run: differences of the metrics on the test patients they have in common")
    parser.add_argument("--predict", metavar="SOURCE", help="new images without targets: a CSV, or a folder with a sub-folder a patient")
    parser.add_argument("--out", metavar="CSV", help="where --predict writes")
    parser.add_argument("--skip-broken", action="store_true", help="with --predict: list pictures that cannot be read, and go on")
    parser.add_argument("--export", metavar="FOLDER", help="write the best model, its config and a model card to a new folder, for the Hub")
    parser.add_argument("--figures", type=int, help="patients to draw; default 3, and 0 with --predict")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    if args.data and args.split != "test" or not (args.data or args.predict) and args.images or not args.data and args.target:
        raise ValueError("--split is of the run's own table, --images and --target belong to another one, --data")
    if bool(args.predict) != bool(args.out) or args.skip_broken and not args.predict:
        raise ValueError("--predict SOURCE, --out CSV and --skip-broken go together")
    if bool(args.data) + bool(args.predict) + bool(args.against) + bool(args.export) > 1:
        raise ValueError("--data, --predict, --against and --export are four things to do; give one")
    if args.predict:
        rows = predict_new(args.run, args.predict, args.out, args.images, args.skip_broken, args.figures or 0, args.device)
        return print(f"{rows} patients in {args.out}")
    if args.export:
        library = export(args.run, args.export)
        return print(f"{args.export} holds the model for {library}, and its card. Read the card, then: hf upload ORG/NAME {args.export} .")
    if args.against:
        result = compare(args.run, args.against)
        print_comparison(result)
        path = os.path.join(args.run, f"against-{os.path.basename(os.path.abspath(args.against))}.json")
        write_json(path, result)
        return print(path)
    device = find_device(args.device)
    model, tasks, saved = open_model(args.run)
    if args.data:
        saved.data, saved.images, saved.target, saved.split_column = args.data, args.images, args.target or saved.target, None
    cohort, notes = tabulate(match(load_data(saved), tasks, args.run), model.columns)
    print(*notes, sep="\n", end="\n" * bool(notes))
    where = read_run_split(args.run)
    if args.data:
        seen = sorted(patient for patient in set(cohort.patients) if where.get(patient) in ("train", "val"))
        if seen:
            raise ValueError(f"{args.data}: patient {seen[0]} is in the {where[seen[0]]} split of {args.run}"
                             + f" ({len(seen)} such patients)" * (len(seen) > 1))
        indices = {"train": [], "test": range(len(cohort.paths))}
    else:
        if changed := set(cohort.patients) ^ set(where):
            raise ValueError(f"{saved.data} has changed: patient {min(changed)} is not both there and in {args.run}/split.csv")
        indices = {split: [i for i, patient in enumerate(cohort.patients) if where[patient] == split] for split in SPLITS}
    thresholds = saved_thresholds(args.run) if args.data else None
    folder = args.run                                              # what the run itself wrote is of its test split
    if args.data or args.split != "test":
        folder = os.path.join(args.run, f"{cohort.name}-{args.split}")
        os.makedirs(folder, exist_ok=True)
    by, options = args.by or ("fst" if "fst" in cohort.columns else None), run_options(saved, model, cohort, device)
    fast_float32(model, device)                                    # as in training, to the last bit
    add_features(saved, model.to(device), cohort, options)
    figures = 3 if args.figures is None else args.figures
    result = evaluate(model, cohort.tasks, cohort, indices, folder, options, args.split, by, figures, thresholds, args.boxes)
    print_table(cohort.tasks, result)
    if folder == args.run:
        report.write_card(args.run)
        print(report.write_report(args.run))


if __name__ == "__main__":
    from train import run_main

    run_main(main)
