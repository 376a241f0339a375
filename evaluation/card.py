"""The model card: README.md and preprocessor_config.json beside the weights.
"""
import json
import os
import re
from types import SimpleNamespace

from evaluation.run_text import (
    NAMES, caveats, command, facts, headline, interval, metric_names, number, read_run, split_table,
    tables,
)
from plumbing.run_folder import write_whole


HUB = {"auroc": "roc_auc", "auprc": "average_precision", "brier": "brier_score", "r2": "r_squared",
       "spearman": "spearmanr"}                                    # the Hub's names, where they are not ours


def plain(content):
    """A text, a number or an entry -> one line of Markdown without markup of its own."""
    if isinstance(content, dict) and content["value"] is None:
        return f"undefined: {plain(content['reason'])}"
    if isinstance(content, dict):
        return " ".join(said for said in (number(content["value"]), interval(content), content.get("of")) if said)
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(content).split()))


def markdown_table(caption, head, rows):
    lines = [map(plain, head), ["---"] * len(head), *(map(plain, row) for row in rows)]
    return "\n".join([*[plain(caption), ""] * bool(caption), *(f"| {' | '.join(line)} |" for line in lines), ""])


def card(run, library="pytorch"):
    """-> README.md for a model's folder on the Hub: a YAML head, then what the report says."""
    args = {key: os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value for key, value in run.args.items()}
    run = SimpleNamespace(**{**vars(run), "args": args})           # folders of one's own machine are not for publishing
    kinds = {task.kind for task in run.tasks}
    base, named = hub_id(args.get("pretrained")), [HUB.get(name, name) for task in run.tasks for name in metric_names(task.scores)]
    head = {"license": "other" if args.get("pretrained") else "mit", "license_name": args.get("pretrained") and "that-of-the-base-model",
            "license_link": base and f"https://huggingface.co/{base}", "library_name": library,
            "pipeline_tag": "image-classification" if kinds & {"classes", "labels"} else None,
            "tags": ["medical-imaging", "vision-transformer", args["model"]], "base_model": base,
            "metrics": list(dict.fromkeys(named)),
            "model-index": [{"name": run.name, "results": [hub_result(run, task) for task in run.tasks]}]}
    yaml = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items() if value]               # JSON is YAML
    use = ("It opens with `transformers.ViTForImageClassification.from_pretrained`." if library == "transformers" else
           "`python train.py --pretrained ORG/NAME` starts from it; it is read by the code that wrote it.")
    parts = ["---", *yaml, "---", "", f"# {plain(run.name)}", "", plain(headline(run)), "", "**Not for clinical use.** " + use, "",
             "## What was trained on what", "", markdown_table("", ["", ""], facts(run)), markdown_table(*split_table(run))]
    for task in run.tasks:
        parts += [f"## Results: {plain(task.name)}", "", *(markdown_table(*each) for each in tables(task, run.unit))]
    parts += ["## Limits", "", *(f"- {plain(text)}" for text in caveats(run)), ""]
    if args.get("pretrained"):
        parts += [f"The weights it started from, {plain(args['pretrained'])}, have a license of their own.", ""]
    return "\n".join([*parts, "## The command", "", "    " + command(args), ""])


def hub_result(run, task):
    """A task's test metrics as the Hub shows them beside a model; an undefined one is not among them."""
    data = os.path.basename(os.path.abspath(run.args["data"]))
    return {"task": {"type": "image-classification" if task.kind in ("classes", "labels") else "other", "name": task.name},
            "dataset": {"name": data, "type": re.sub(r"[^\w.-]+", "-", data), "split": run.metrics["split"]},
            "metrics": [{"type": HUB.get(name, name), "value": task.scores[name]["value"],
                         "name": f"{NAMES.get(name, name)} {interval(task.scores[name])}".strip()}
                        for name in metric_names(task.scores) if task.scores[name]["value"] is not None]}


def hub_id(name):
    """ORG/NAME[@revision] -> ORG/NAME; None for a folder or file, which is nobody else's business."""
    return name.partition("@")[0] if name and re.fullmatch(r"\w[\w.-]*/[\w.-]+(@.+)?", name) and not os.path.exists(name) else None


def preprocessor(config):
    """config.json of a run -> preprocessor_config.json, what must be done to a picture before the model sees it. Only of pictures
    does transformers have a processor; of volumes and bags it is the same said in the same words."""
    own = config[config["model"]]
    vit = own.get("vit", own)
    size = vit["image"] if "image" in vit else [side * own["patch"][0] for side in own["grids"][0]]    # CrossViT: that of its small patches
    picture = {"image_processor_type": "ViTImageProcessor", "do_convert_rgb": len(vit["mean"]) == 3} if len(size) == 2 else {}
    return {**picture, "do_resize": bool(size), "size": dict(zip(("width", "height", "depth"), size[::-1])), "resample": 2,  # bilinear
            "do_rescale": bool(size), "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": vit["mean"], "image_std": vit["std"]}


def write_card(folder, to=None, library="pytorch"):
    """Write README.md and preprocessor_config.json beside the weights: to a run's best/, or to another folder."""
    run, to = read_run(folder), to or os.path.join(folder, "best")
    for name, text in (("README.md", card(run, library)), ("preprocessor_config.json", json.dumps(preprocessor(run.config), indent=1))):
        write_whole(os.path.join(to, name), lambda file: file.write(text))
