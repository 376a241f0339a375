"""A trained run at work: predictions for new images, and a folder for the Hub. Both are called through eval.py.

    python eval.py runs/NAME --predict FOLDER_or_CSV --out new.csv        a row a patient, no targets needed
    python eval.py runs/NAME --export FOLDER                              weights, config, model card; never uploaded

    new images     a CSV whose patient and image columns are called as in the run's own table, or a folder: what lies in one of
                   its sub-folders is one patient, a picture beside them is a patient of its own
    skipped        without --skip-broken a picture that cannot be read stops everything, with its name; with it, it is left out
                   and stands in the last column of its patient's row, also of a patient of whom nothing is left
    transformers   a plain ViT with one task of classes or labels gets the names of transformers 4, which 5 reads too, and gives
                   the same logits there; any other model keeps ours, which train.py --pretrained reads
"""
import os
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
from huggingface_hub.utils import tqdm
from safetensors.torch import save_file

from data import Samples, make_loader
from eval import draw_figures, predict, watcher
from report import read_run, write_card
from run_folder import write_csv, write_json
from tables import KNOWN, PICTURES, Cohort, at, finder, pick, read_csv, read_run_split, tabulate

# -----------------------------------------------------------------------------
# new images


def load_images(source, args, images=None):
    """Folder or CSV -> Cohort without targets. args: flags of the run, which say what its columns are called."""
    if os.path.isdir(source):
        if getattr(args, "tabular", None) or args.model == "daft" and args.fusion != "image":
            raise ValueError(f"--predict {source}: the run takes columns of a table as input; give a CSV with them")
        paths = sorted(os.path.join(place, file) for place, _, files in os.walk(source) for file in files
                       if file.lower().endswith(PICTURES) and not file.startswith("."))
        patients = [os.path.relpath(path, source).split(os.sep)[0] for path in paths]
        if not paths:
            raise ValueError(f"--predict {source}: no picture ({' '.join(PICTURES)}) below it")
        return Cohort(os.path.basename(os.path.abspath(source)), [], patients, paths, {})
    if not os.path.isfile(source):
        raise ValueError(f"--predict {source}: no such file or folder")
    header, rows = read_csv(source)
    known = KNOWN.get(args.data) or next((known for known in KNOWN.values() if all(pick(header, names) for names in known["header"])), {})
    named = {"patient": args.patient_column or known.get("patient", "patient_id"),
             "image": args.image_column or known.get("image", "image")}
    column = {role: pick(header, names) for role, names in named.items()}
    if lost := next((role for role in column if column[role] is None), None):
        raise ValueError(f"{source}: no column {named[lost]!r}, which is what the run calls the {lost}; there are {', '.join(header[:20])}")
    images = images or os.path.dirname(os.path.abspath(source))
    find, regex = finder(images), ".+" if args.patient_column else known.get("patient_regex", ".+")
    paths = [find(row[column["image"]], at(source, row, column["image"])) for row in rows]
    patients = [(re.search(regex, row[column["patient"]], re.DOTALL) or [""])[0] for row in rows]
    for values, role, missing in ((paths, "image", f"no such image under {images}; --images names the folder"),
                                  (patients, "patient", "no patient")):
        if lost := next((row for row, value in zip(rows, values) if not value), None):
            raise ValueError(f"{at(source, lost, column[role])}: {lost[column[role]]!r}, {missing}")
    return Cohort(os.path.basename(source), [], patients, paths, {}, {name: [row[name] for row in rows] for name in header})


def unreadable(cohort, options):
    """-> {image: why it cannot be read}: every file is read once before the model sees any."""
    found, samples = {}, Samples(cohort, range(len(cohort.paths)), options["size"], channels=options["channels"])
    for i in tqdm(range(len(cohort.paths)), desc="reading", leave=False, disable=None):
        try:
            samples[0, i]
        except ValueError as error:
            found[i] = str(error)
    return found


def predict_new(run, source, out, images=None, skip_broken=False, figures=0, device="auto"):
    """Write what the run's best model says of new images to a CSV, and its pictures beside it; -> the number of its rows."""
    from train import fast_float32, find_device, open_model, run_options

    if os.path.exists(out):
        raise ValueError(f"--out {out}: exists; it is not overwritten")
    device = find_device(device)
    model, tasks, args = open_model(run)
    cohort = load_images(source, args, images)
    shapes = {task.name: (len(cohort.paths), *[len(task.classes)] * (task.kind in ("labels", "survival"))) for task in tasks}
    cohort = replace(cohort, tasks=tasks, targets={name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()})
    cohort, notes = tabulate(cohort, model.columns)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    learned = {patient for patient, split in read_run_split(run).items() if split != "test"} & set(cohort.patients)
    if learned:
        print(f"note: {len(learned)} of these patients, {min(learned)} first, have names that are in {run}'s train or val split: "
              "if they are the same people, this is no test", file=sys.stderr)
    options = run_options(args, model, cohort, device)
    fast_float32(model, device)                                    # as in training
    if "features" in model.inputs:                                 # a probe takes images too, and these are seen once
        model.inputs = ("image",)
    broken = unreadable(cohort, options) if skip_broken else {}
    for reason in broken.values():
        print(f"skipped: {reason}", file=sys.stderr)
    good = [i for i in range(len(cohort.paths)) if i not in broken]
    table, shown = {"patient": [], "images": [], "prediction": {}}, {}
    if good:
        samples = Samples(cohort, good, options["size"], options["n"], options["r"], options["channels"])
        loader, _ = make_loader(samples, options["batch_size"], workers=options["workers"])
        table = predict(model.to(device), tasks, loader, device, False, options["autocast"], watcher(shown, figures, tasks, model.config),
                        progress="predicting")
    lines = new_rows(tasks, table, cohort, broken)
    write_csv(out, lines)
    if figures and good:
        draw_figures(os.path.splitext(out)[0] + "-figures", tasks, table, cohort, shown, model.config, options["size"])
    return len(lines) - 1


def new_rows(tasks, table, cohort, broken):
    """-> lines of the CSV: patient, images, prediction of every task, images that were skipped; patients in the order of the source."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in cohort.paths])
    names = [name for task in tasks for name in ([f"{task.name} risk"] if task.kind == "survival" else
                                                 [f"{task.name}[{c}] predicted" for c in task.classes] or [f"{task.name} predicted"])]
    row_of = {patient: i for i, patient in enumerate(table["patient"])}
    lines = [["patient", "images", *names, "skipped"]]
    for patient, images in cohort.groups().items():
        parts = ["|".join(os.path.relpath(cohort.paths[i], root) for i in images if (i in broken) == out) for out in (False, True)]
        said = [""] * len(names)
        if patient in row_of:
            said = [f"{p:.9g}" for task in tasks for p in np.atleast_1d(table["prediction"][task.name][row_of[patient]])]
        lines.append([patient, parts[0], *said, parts[1]])
    return lines


# -----------------------------------------------------------------------------
# a folder for the Hub

NAMES = (                                                          # ours -> transformers 4, in this order
    (r"^(cls_token)", r"vit.embeddings.\1"), (r"^pos_embed", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"), (r"^norm\.", "vit.layernorm."), (r"^head\..+\.", "classifier."),
    (r"^blocks\.", "vit.encoder.layer."), (r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.([qkv])\.", lambda found: f".attention.attention.{dict(q='query', k='key', v='value')[found[1]]}."),
    (r"\.attn\.proj\.", ".attention.output.dense."), (r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."))


def transformers_tensors(tensors):
    """{our key: tensor} of a plain ViT -> the same under transformers' names, qkv in three."""
    split = {}
    for key, tensor in tensors.items():
        parts = zip("qkv", tensor.chunk(3)) if ".attn.qkv." in key else [("", tensor)]
        split.update((key.replace(".qkv.", f".{part}."), x) for part, x in parts)
    renamed = {}
    for key, tensor in split.items():
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = tensor.contiguous().clone()
    return renamed


def transformers_config(config, task):
    """ViTConfig and the task -> config.json of transformers."""
    names = {str(i): name for i, name in enumerate(task.classes)}
    one = lambda pair: pair[0] if pair[0] == pair[1] else list(pair)
    return {"model_type": "vit", "architectures": ["ViTForImageClassification"],
            "image_size": one(config.image), "patch_size": one(config.patch), "num_channels": config.channels,
            "hidden_size": config.dim, "num_hidden_layers": config.depth, "num_attention_heads": config.heads,
            "intermediate_size": config.mlp, "hidden_act": "gelu", "qkv_bias": config.qkv_bias, "layer_norm_eps": config.eps,
            "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": 0.0, "id2label": names,
            "label2id": {name: int(i) for i, name in names.items()},
            "problem_type": "multi_label_classification" if task.kind == "labels" else "single_label_classification"}


def export(run, folder):
    """Write an evaluated run's best model to a new folder; -> what opens it: "transformers" or "pytorch", our own code."""
    from train import open_model

    if os.path.exists(folder):
        raise ValueError(f"--export {folder}: exists; it is not overwritten")
    read_run(run)                                                  # refused here when there are no metrics for the card
    model, tasks, args = open_model(run)
    config = model.config
    plain = (args.model == "vit" and len(tasks) == 1 and tasks[0].kind in ("classes", "labels") and config.attention == "softmax"
             and len(config.image) == 2 and not config.registers and not config.layer_scale
             and config.head_dim in (0, config.dim // config.heads))
    library = "transformers" if plain else "pytorch"
    os.makedirs(folder)
    if plain:
        save_file(transformers_tensors(model.state_dict()), os.path.join(folder, "model.safetensors"), {"format": "pt"})
        write_json(os.path.join(folder, "config.json"), transformers_config(config, tasks[0]))
    else:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(os.path.join(run, "best", name), os.path.join(folder, name))
    write_card(run, folder, library)
    return library
