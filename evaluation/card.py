"""The model card: README.md and preprocessor_config.json beside the weights, as the Hub reads them.
"""
import json
import re
from os.path import join

from evaluation.metrics import METRICS
from evaluation.result_tables import cell_text, confusion_tables
from evaluation.run_text import document, read_run
from plumbing.checkpoints import on_hub
from plumbing.models import class_of, images_of
from plumbing.run_folder import write_json, write_whole
from plumbing.saved_run import evaluated


HUB = {"auroc": "roc_auc", "auprc": "average_precision", "brier": "brier_score", "r2": "r_squared",
       "spearman": "spearmanr"}                      # the Hub's names, where they are not ours
USE = {"transformers": "It opens with `transformers.ViTForImageClassification.from_pretrained`.",
       "pytorch": "`read_model` in plumbing/saved_run.py opens it, in the code that wrote it; "
                  "`python train.py --pretrained ORG/NAME` starts from the ViT in it, if there is one."}


TEXTS = {  # kind of text in `document`: its Markdown
    "title": "# {}\n",
    "heading": "## {}\n",
    "lead": "**{}**\n",
    "warning": "{}\n",
    "legend": "{}\n",
    "limit": "- {}\n",
}


def plain(content):
    """A text, a number or an entry of metrics.json -> one line of Markdown without markup of its own."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(cell_text(content).split()))


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
    yield "---\n"
    for kind, content in document(run):
        if kind in TEXTS:
            yield TEXTS[kind].format(plain(content))
        elif kind == "charts":
            for table in confusion_tables(content, run.metrics):
                yield from markdown_table(table)
        elif kind == "command":
            yield "    " + content.replace("\n", "\n    ") + "\n"               # of a name with a line break
        elif kind != "pictures":
            if kind == "facts":
                yield f"**Not for clinical use.** {USE[library]}\n\n## What was trained on what\n"
            yield from markdown_table(content)


def hub_head(run, library):
    """-> the entries of the card's head, by which the Hub sorts a model. No numbers: these would stand there
    without their intervals."""
    head = {"license": "unknown"}                    # the Hub's word; whoever publishes the model decides
    pretrained = run.args.get("pretrained")
    if pretrained:
        head = {"license": "other", "license_name": "that-of-the-base-model"}
    base = hub_id(pretrained)
    if base:
        head["license_link"] = f"https://huggingface.co/{base}"
        head["base_model"] = base
    head["library_name"] = library
    kinds = [task.kind for task in run.tasks]
    if "classes" in kinds or "labels" in kinds:
        head["pipeline_tag"] = "image-classification"
    head["tags"] = ["medical-imaging", "vision-transformer", run.args["model"]]
    metrics = sum([list(METRICS[kind]) for kind in kinds], [])
    head["metrics"] = [HUB.get(name, name) for name in dict.fromkeys(metrics)]     # each once
    return head


def hub_id(name):
    """ORG/NAME[@REVISION][:FILE] -> ORG/NAME; None for a folder or file, which is nobody else's business."""
    if name and on_hub(name.partition(":")[0]):
        return re.split("[@:]", name)[0]
    return None


def preprocessor(config, fit):
    """config.json of a run -> preprocessor_config.json: what is done to a picture before the model sees it.

    transformers has a processor for pictures only; volumes and bags are described in the same words. It has
    no word for --fit pad and crop: then pictures must come to it in the model's size."""
    _, own = class_of(config, "preprocessor")
    seen = images_of(own)
    size = seen.image
    result = {
        "do_resize": bool(size) and fit == "stretch",
        "size": dict(zip(("width", "height", "depth"), reversed(size))),
        "resample": 2,                               # bilinear
        "do_rescale": bool(size),
        "rescale_factor": 1 / 255,
        "do_normalize": hasattr(seen, "mean"),
        "image_mean": getattr(seen, "mean", None),
        "image_std": getattr(seen, "std", None),
    }
    if len(size) == 2:
        result.update(image_processor_type="ViTImageProcessor", do_convert_rgb=seen.channels == 3)
    return result


def read_card(folder, library="pytorch"):
    """Run folder -> the text of README.md, and preprocessor_config.json as a dict."""
    run = read_run(folder, public=True)
    with evaluated(folder):
        return card(run, library), preprocessor(run.config, run.args.get("fit", "stretch"))


def write_card(folder, to=None, library="pytorch"):
    """Write both files beside a run's weights: to its best/, or to another folder with a copy of them."""
    text, inputs = read_card(folder, library)
    to = to or join(folder, "best")
    write_whole(join(to, "README.md"), text)
    write_json(join(to, "preprocessor_config.json"), inputs)
