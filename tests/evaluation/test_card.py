import json
import os
import re

import pytest
from huggingface_hub import ModelCard

from eval import main
from evaluation.card import HUB, card, hub_id, preprocessor
from evaluation.metrics import METRICS
from evaluation.run_text import publishable, read_run
from plumbing.saved_run import open_model


def test_the_card_says_what_a_hub_wants_and_no_patient(runs, tmp_path):
    """YAML head, metrics with intervals, limits; no name of a patient, no runs of the author's machine."""
    for name in "abc":
        text = (runs / name / "best" / "README.md").read_text()
        head = text.split("---\n")[1]
        assert {line.partition(":")[0] for line in head.splitlines()} >= {"license", "library_name", "tags"} and "Not for clinical use" in text
        assert all(json.loads(line.partition(": ")[2]) for line in head.splitlines())
        assert "alert" not in text and "p1<i" not in text and str(runs.parent) not in text and "photos.csv" in text
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):      # every row has as many cells as the head
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    run = read_run(str(runs / "a"))
    run.args = {**run.args, "pretrained": "google/vit-base-patch16-224@main"}
    head = ModelCard(card(run)).data
    base = "google/vit-base-patch16-224"
    assert (head.base_model, head.license, head.license_link) == (base, "other", f"https://huggingface.co/{base}")
    own = ModelCard(card(read_run(str(runs / "a")))).data            # trained from scratch: its owner has not said yet
    assert head.license_name and (own.license, own.license_name) == ("unknown", None)
    names = ("MahmoodLab/UNI:pytorch_model.bin", "runs/start", "runs/start/best", "weights/vit.pth", str(runs / "a"))      # of runs that are not here
    assert [hub_id(name) for name in names] == ["MahmoodLab/UNI", None, None, None, None]


def test_what_is_shared_holds_no_picture_id_or_path(runs, tmp_path):
    """--share: page and card without pictures of patients, their names and folders; a path out of the folder stands in no report either; a
    folder with a slash at its end has a name; a line break in a name starts no line of the card."""
    main([str(runs / "a"), "--share", str(tmp_path / "public")])
    assert sorted(os.listdir(tmp_path / "public")) == ["README.md", "report.html"]
    for name in ("README.md", "report.html"):
        text = (tmp_path / "public" / name).read_text()
        assert not re.search("p1<i|p1&lt;i|alert|What the model looked at", text) and str(runs.parent) not in text and "cannot be judged" in text
    assert str(runs.parent) not in (runs / "a" / "report.html").read_text()
    with pytest.raises(ValueError, match="exists; it is not overwritten"):
        main([str(runs / "a"), "--share", str(tmp_path / "public")])
    run = read_run(str(runs / "a"))
    run.args = publishable({**run.args, "data": "/home/me/films/", "cache_dir": "../home/me", "name": "r\n<script>"})
    text = card(run)
    assert "| Data | films |" in text and "/home/me" not in text and "\n<script>" not in text


@pytest.mark.parametrize("name", "abc")
def test_the_hub_reads_the_head(runs, name):
    """huggingface_hub's own reader finds every metric of every task under its own name, once, and no number without an interval."""
    run = read_run(str(runs / name))
    found = ModelCard(card(run)).data
    expected = [HUB.get(metric, metric) for task in run.tasks for metric in METRICS[task.kind]]
    assert found.metrics == list(dict.fromkeys(expected)) and found.eval_results is None
    assert found.pipeline_tag == "image-classification"


def test_preprocessor_config_is_what_the_model_does(runs):
    """Size, mean and std of the model itself; CrossViT's picture is that of its small patches. What --fit pad does no processor does."""
    model, _, _ = open_model(str(runs / "a"))
    found = json.load(open(runs / "a" / "best" / "preprocessor_config.json"))
    assert found["size"] == {"height": 16, "width": 16} and found["do_resize"]
    assert found["image_mean"] == list(model.config.mean) and found["image_std"] == list(model.config.std)
    own = {"grids": [[3, 4], [2, 2]], "patch": [12, 16], "mean": [0.5] * 3, "std": [0.5] * 3}
    small = preprocessor({"model": "crossvit", "crossvit": own}, "pad")
    assert small["size"] == {"height": 36, "width": 48} and not small["do_resize"]
    volume = preprocessor({"model": "daft", "daft": {"image": [8, 16, 24], "mean": [0.5], "std": [0.5]}}, "stretch")
    assert volume["size"] == {"depth": 8, "height": 16, "width": 24} and "image_processor_type" not in volume        # it takes pictures only
