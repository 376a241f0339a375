"""The model card: README.md and preprocessor_config.json beside the weights, as the Hub reads them.
"""
import json
import re
from os.path import basename, exists, join, normpath

from evaluation.metrics import METRICS, NAMES
from evaluation.result_tables import cell_text, confusion_tables, legend, metric_table, tables
from evaluation.run_text import caveats, command, facts, read_run, split_table
from evaluation.verdict import verdict
from plumbing.run_folder import write_json, write_whole
from plumbing.saved_run import evaluated


HUB = {"auroc": "roc_auc", "auprc": "average_precision", "brier": "brier_score", "r2": "r_squared",
       "spearman": "spearmanr"}                      # the Hub's names, where they are not ours
USE = {"transformers": "It opens with `transformers.ViTForImageClassification.from_pretrained`.",
       "pytorch": "`python train.py --pretrained ORG/NAME` starts from it; "
                  "it is read by the code that wrote it."}


def plain(content):
    """A text, a number or an entry of metrics.json -> one line of Markdown without markup of its own."""
    line = " ".join(cell_text(content).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", line)


def markdown_table(table):
    """Yield the lines of (caption, head, rows), and an empty one after them."""
    caption, head, rows = table
    if caption:
        yield plain(caption) + "\n"
    for cells in [head, ["---" for _ in head], *rows]:
        yield "| " + " | ".join(map(plain, cells)) + " |"
    yield ""


def card(run, library="pytorch"):
    """-> README.md for a model's folder on the Hub: a YAML head, then what the report says."""
    return "\n".join(card_lines(run, library))


def card_lines(run, library):
    yield "---"
    for name, value in hub_head(run, library).items():
        yield f"{name}: {json.dumps(value, ensure_ascii=False)}"                   # JSON is YAML
    yield f"---\n\n# {plain(run.name)}\n"
    for task in run.tasks:
        sentence, warnings = verdict(task, run.metrics)
        yield f"**{plain(sentence)}** {plain(' '.join(warnings))}".strip() + "\n"
    yield f"**Not for clinical use.** {USE[library]}\n\n## What was trained on what\n"
    yield from markdown_table(("", ["", ""], facts(run)))
    yield from markdown_table(split_table(run))
    for task in run.tasks:
        yield f"## Results: {plain(task.name)}\n"
        made = tables(task, run.metrics, NAMES) + confusion_tables(task, run.metrics)
        for table in made:
            yield from markdown_table(table)
        for text in legend(made):
            yield plain(text) + "\n"
    yield "## Limits\n"
    for text in caveats(run):
        yield f"- {plain(text)}"
    yield ""
    if run.args.get("pretrained"):
        name = plain(run.args["pretrained"])
        yield f"The weights it started from, {name}, have a license of their own.\n"
    indented = command(run.args).replace("\n", "\n    ")           # of a name with a line break
    yield f"## The command\n\n    {indented}\n"


def hub_head(run, library):
    """-> the entries of the card's head, by which the Hub sorts and shows a model."""
    pretrained = run.args.get("pretrained")
    base = hub_id(pretrained)
    results = [hub_result(run, task) for task in run.tasks]
    head = {"license": "mit"}
    if pretrained:
        head = {"license": "other", "license_name": "that-of-the-base-model"}
    if base:
        head["license_link"] = f"https://huggingface.co/{base}"
        head["base_model"] = base
    head["library_name"] = library
    if "image-classification" in [result["task"]["type"] for result in results]:
        head["pipeline_tag"] = "image-classification"
    head["tags"] = ["medical-imaging", "vision-transformer", run.args["model"]]
    names = sum([list(METRICS[task.kind]) for task in run.tasks], [])
    head["metrics"] = [HUB.get(name, name) for name in dict.fromkeys(names)]       # each once
    head["model-index"] = [{"name": run.name, "results": results}]
    return head


def hub_result(run, task):
    """A task's test metrics as the Hub shows them beside a model; an undefined one is not among them."""
    data = basename(normpath(run.args["data"]))
    kind = "other"
    if task.kind in ("classes", "labels"):
        kind = "image-classification"
    metrics = []
    _, head, rows = metric_table(task, run.metrics, NAMES)         # "grade, 50 patients", "test", "constant"
    for name, (title, *cells) in zip(METRICS[task.kind], rows):
        if cells[0]["value"] is not None:
            texts = [f"{column} {cell_text(cell)}" for column, cell in zip(head[1:], cells)]
            metrics.append({"type": HUB.get(name, name), "value": cells[0]["value"],
                            "name": f"{title}: {', '.join(texts)}; {head[0]}"})
    return {"task": {"type": kind, "name": task.name},
            "dataset": {"name": data, "type": re.sub(r"[^\w.-]+", "-", data), "split": run.metrics["split"]},
            "metrics": metrics}


def hub_id(name):
    """ORG/NAME[@revision] -> ORG/NAME; None for a folder or file, which is nobody else's business."""
    if name and re.fullmatch(r"\w[\w.-]*/[\w.-]+(@.+)?", name) and not exists(name):
        return name.partition("@")[0]
    return None


def preprocessor(config):
    """config.json of a run -> preprocessor_config.json: what is done to a picture before the model sees it.

    transformers has a processor for pictures only; volumes and bags are described in the same words."""
    model = config[config["model"]]
    vit = model.get("vit", model)
    size = vit.get("image")
    if size is None:                                 # CrossViT: the picture of its small patches
        size = [side * model["patch"][0] for side in model["grids"][0]]
    result = {}
    if len(size) == 2:
        result = {"image_processor_type": "ViTImageProcessor", "do_convert_rgb": len(vit["mean"]) == 3}
    sides = dict(zip(("width", "height", "depth"), reversed(size)))
    result.update(do_resize=bool(size), size=sides, resample=2,                # bilinear
                  do_rescale=bool(size), rescale_factor=1 / 255,
                  do_normalize=True, image_mean=vit["mean"], image_std=vit["std"])
    return result


def read_card(folder, library="pytorch"):
    """Run folder -> the text of README.md, and preprocessor_config.json as a dict."""
    run = read_run(folder)
    with evaluated(folder):
        return card(run, library), preprocessor(run.config)


def write_card(folder, to=None, library="pytorch"):
    """Write both files beside a run's weights: to its best/, or to another folder with a copy of them."""
    text, inputs = read_card(folder, library)
    to = to or join(folder, "best")
    write_whole(join(to, "README.md"), text)
    write_json(join(to, "preprocessor_config.json"), inputs)
