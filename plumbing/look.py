"""Look before you train: how the data of a command are understood, in lines and five small pictures.

    python train.py --data my.csv --target pasi,pga --check
"""
import os
import shlex
from collections import Counter
from os.path import basename, dirname, join

import numpy as np
from PIL import Image

from plumbing.cells import by_number
from plumbing.columns import tabulate
from plumbing.headers import IMAGE_KINDS, axes_of, check_kinds, read_header
from plumbing.models import seeing
from plumbing.pictures import read
from plumbing.prepare import input_columns, load_data, settle
from plumbing.reading import by_x, evenly, notes_on_files
from plumbing.splits import split_patients
from plumbing.targets import fit_tasks, training_notes


SIDE = 160                                                         # of a thumbnail, px
DARK = 16                                                          # of the grey values 0 .. 255
MANY = 200                                                         # files of which the headers are read


def look(args, argv):
    """Flags, and the words they came from -> lines for the reader.

    Five pictures go to a PNG in the folder --runs; the last line is the command that trains."""
    cohort = load_data(args)
    indices, notes = split_patients(cohort, args.folds, args.fold, args.val, args.seed)
    whose = ", not patients"
    if cohort.patients_known:
        sizes = Counter(cohort.patients).values()
        whose = f" of {len(sizes)} patients, up to {max(sizes)} each, such as {cohort.patients[0]}"
    lines = [f"{cohort.name}: {len(cohort.paths)} images{whose}"]
    for task in cohort.tasks:
        values = cohort.targets[task.name]
        lines.append(f"{task.name} ({task.kind}): {summarize(task, values)}")
        for split, images in indices.items():
            lines.append(f"  {split}: {task.name} {summarize(task, values[images])}")
    lines += [f"column {name}: {describe_column(cells)}" for name, cells in cohort.columns.items()]
    lines += notes + training_notes(cohort, indices["train"])
    files, headers = describe_files(cohort)
    try:
        check_kinds(cohort, headers)
        fit_tasks(cohort, indices["train"], args.positive_weight)
        lines += tabulate(cohort, input_columns(args, cohort, indices["train"]))[1]
        if args.model in seeing(axes_of(cohort)):                  # else the command below has another
            settle(args, cohort)
    except ValueError as error:
        lines.append(f"WARNING: cannot be trained: {error}")
    lines += files
    lines.append(thumbnails(cohort, args.channels or 3, join(args.runs, f"{cohort.name}-check.png")))
    lines.append(f"train with: {train_command(args, cohort, argv)}")
    return lines


def summarize(task, values):
    """The values of a task in words: counts, or a range, and how many are unknown."""
    if task.kind == "loss":
        return "needs no target"
    words = []
    if task.kind == "survival":
        values, events = values.T
        words = [f"times of {np.nansum(events):.0f} events", f"{(events == 0).sum()} without"]
    known = values[~np.isnan(values)]
    if task.kind == "labels":
        words = [f"{name} {count:.0f}" for name, count in zip(task.classes, np.nansum(values, axis=0))]
    elif task.kind == "classes":
        words = [f"{name} {(known == i).sum()}" for i, name in enumerate(task.classes)]
    elif len(known):
        words.append(f"{known.min():g} .. {known.max():g}")
    return ", ".join([*words, f"{values.size - known.size} unknown"])


def describe_column(cells):
    """Cells of a column -> what they hold, in words."""
    counts = Counter(cells)
    blanks = counts.pop("", 0)
    words = sorted(counts, key=by_number)
    text = ", ".join(f"{word} ({counts[word]})" for word in words[:6])
    if len(words) > 6:
        text = f"{words[0]} to {words[-1]}, {len(words)} different"
    return f"{text or 'nothing'}, {blanks} blank"


# -----------------------------------------------------------------------------
# the images


def describe_files(cohort):
    """-> lines: sizes and types of the image files, and how many of those looked at have them; what is read
    of files that leave a choice; {image: Header}."""
    if cohort.pixels is not None:
        return [f"images: {cohort.pixels.shape[1:]} {cohort.pixels.dtype}"], {}
    kinds = Counter()
    headers = {}
    problems = []
    chosen = evenly(range(len(cohort.paths)), MANY)
    for i in chosen:
        try:
            header = headers[i] = read_header(cohort.paths[i])
            kinds[f"{header.format} {header.type}"] += 1
        except ValueError as error:
            kinds["cannot be read"] += 1
            problems.append(f"WARNING: cannot be trained: {error}")
    words = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(6))
    sizes = sorted({header.shape for header in headers.values()})
    ends = " to ".join(map(by_x, sizes[:1] + sizes[1:][-1:]))
    return [f"files, {len(chosen)} of {len(cohort.paths)} looked at: {words}; {ends}", *problems[:1],
            *notes_on_files(headers, cohort)], headers


def thumbnails(cohort, channels, path):
    """Draw five images side by side, as a model sees them, in grey where it sees other channels than red,
    green and blue; -> a line that says which, and where they are."""
    axes = axes_of(cohort)
    if axes == 0:
        return "no pictures: bags of vectors"
    if axes == 2 and channels != 1:
        channels = 3                                               # a picture has no others
    chosen = evenly(range(len(cohort.paths)), 5)
    try:
        pictures = [read(cohort, i, (16, SIDE, SIDE)[-axes:], channels=channels)[0] for i in chosen]
    except ValueError as error:
        return f"no pictures: {error}"
    sheet = np.concatenate(pictures, -1)                           # (C, h, 5 w), or (C, d, h, 5 w)
    brightest = sheet.max()
    if axes == 3:
        sheet = sheet[:, 8]                                        # the slices in the middle
    os.makedirs(dirname(path), exist_ok=True)
    if channels != 3:
        sheet = sheet[:1].repeat(3, 0)                             # of several the first
    Image.fromarray(sheet.transpose(1, 2, 0).copy()).save(path)
    line = f"five pictures are in {path}: {', '.join(basename(cohort.paths[i]) for i in chosen)}"
    if brightest < DARK:
        line += f"; WARNING: they are black, as no grey value is above {brightest} of 255"
    return line


# -----------------------------------------------------------------------------
# the command


def train_command(args, cohort, argv):
    """-> the command of the user without --check, with a model that takes such images."""
    words = [word for word in argv if word != "--check"]
    command = f"python train.py {shlex.join(words)}"
    axes = axes_of(cohort)
    able = seeing(axes)
    if args.model in able:
        return command
    # the last model counts
    return f"{command} --model {able[0]}   ({cohort.name} holds {IMAGE_KINDS[axes]}, not for {args.model})"
