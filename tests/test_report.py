"""report.py: one page that needs nothing else, whatever kind of run; nothing of the user's becomes markup; the command is the run's."""
import html.parser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import report
import train
from metrics import METRICS
from report import card, command, page, plain, preprocessor, read_run, roc, svg, write_report

NASTY = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "circle", "path", "polyline"}


class Page(html.parser.HTMLParser):
    """Collects what a browser would do, and fails on a tag that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data):
        self.text += " " + data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs/: `a` with regression and three classes, `b` with labels, `c` with two classes; patients and a column with nasty names."""
    place = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    lines = ["patient_id,image,redness,grade,dot,<script>bar,yes,sex"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        Image.fromarray(np.uint8(rng.integers(0, 60, (16, 16, 3)) + [0.7 * red, 0, 0])).save(place / f"{patient}.png")
        lines.append(f"{NASTY if patient < 1 else f'p{patient}<i>'},{patient}.png,{red:.2f},{('low', 'middle', '<u>top')[int(red // 86)]},"
                     f"{int(red > 99)},{patient % 2},{'no' if red < 120 else 'yes'},{'FM'[patient % 2]}")
    (place / "photos.csv").write_text("\n".join(lines) + "\n")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for name, target in (("a", "redness:regression,grade:classes"), ("b", "dot:labels,<script>bar:labels"), ("c", "yes:classes")):
        train.main(["--data", str(place / "photos.csv"), "--target", target, "--model", "vit", "--image", "16", "--epochs", "2", "--workers", "0",
                    "--device", "cpu", "--runs", str(place / "runs"), "--name", name])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return place / "runs"


@pytest.mark.parametrize("name", "abc")
def test_the_page_is_well_formed_and_needs_nothing_else(folder, name):
    """Every tag closed, no script, no address, every picture inside; every section and every metric is there."""
    text = (folder / name / "report.html").read_text(encoding="utf-8")
    read = Page(text)
    assert text.startswith("<!doctype html>") and not {"script", "link", "iframe", "object", "a"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/png;base64,") for name, value in read.attributes if name in ("href", "src"))
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r'src="[^"]*"', "", text)
    run = read_run(str(folder / name))
    for word in (run.name, "Model", "Parameters", "Seed", "Split by patient", "train", "validation", "test", "Learning curves",
                 "What the model looked at", "Limits", "Not for clinical use", "The command", "constant"):
        assert word in read.text, word
    for task in run.tasks:
        assert f"Results: {task.name}" in read.text
        for metric in METRICS[task.kind]:
            assert report.NAMES[metric] in read.text, metric
    assert read.tags.count("svg") == {"a": 6, "b": 4, "c": 4}[name] and read.tags.count("img") >= 3
    assert os.path.getsize(folder / name / "report.html") < 2e6


def test_nothing_of_the_users_becomes_markup(folder):
    """Patients, columns and classes with tags in their names are shown as they are, in the page and in the card."""
    for name in "abc":
        text = (folder / name / "report.html").read_text(encoding="utf-8")
        assert not {"u", "i"} & set(Page(text).tags)
        assert set(re.findall("<b[ >][^>]*>", text)) <= {f'<b style="color:{color}">' for color in report.COLORS}                    # ours
        assert "<script" not in text and "<u>" not in text and "<i>" not in text
    assert "&lt;script&gt;bar" in (folder / "b" / "report.html").read_text()
    assert "&lt;u&gt;top" in (folder / "a" / "report.html").read_text()
    assert "\\<u\\>top" in (folder / "a" / "best" / "README.md").read_text()
    assert plain("a|b\n# c") == "a\\|b \\# c" and report.cell(NASTY) == "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;"


def test_the_numbers_on_the_page_are_those_of_metrics_json(folder):
    """Value, interval and constant of the first metric, the counts of the split, and the number of parameters."""
    run, text = read_run(str(folder / "a")), Page((folder / "a" / "report.html").read_text()).text
    entry, constant = run.metrics["redness"]["mae"], run.metrics["redness"]["constant"]["mae"]
    assert f"{entry['value']:.3f}" in text and f"({entry['low']:.3f} to {entry['high']:.3f})" in text and f"{constant['value']:.3f}" in text
    model, _, _ = train.open_model(str(folder / "a"))
    assert run.parameters == train.count(model) and f"{run.parameters:,}" in text
    assert [row[1:] for row in report.split_table(run)[2]] == [[14, 14], [2, 2], [4, 4]]


def test_the_command_makes_the_run_again(folder):
    """Parsed by train.py, the command is args.json to the letter."""
    args = json.load(open(folder / "a" / "args.json"))
    words = shlex.split(command(args))
    assert words[:2] == ["python", "train.py"] and vars(train.parse(words[2:])) == args
    args = {"name": "two words", "compile": True, "shared_head": False, "fold": 0, "resume": "x"}
    assert command(args) == "python train.py --name 'two words' --compile --fold 0"


def test_roc_is_every_threshold():
    """One point a distinct threshold, counted one by one, from corner to corner; its area is the AUROC."""
    rng = np.random.default_rng(0)
    said, true = rng.integers(6, size=40) / 5, np.arange(40) % 2 * 1.0
    x, y = roc(said, true)
    expected = [(0, 0)] + [(np.mean(said[true == 0] >= t), np.mean(said[true == 1] >= t)) for t in sorted(set(said), reverse=True)]
    assert np.allclose(np.stack([x, y], 1), expected) and (x[-1], y[-1]) == (1, 1)
    assert np.trapezoid(y, x) == pytest.approx(METRICS["labels"]["auroc"](said, true, np.ones((1, 40)))[0])


@pytest.mark.parametrize("kind", ("line", "dots", "bars"))
def test_a_chart_is_well_formed_and_stays_inside(kind):
    """Ordinary, constant and single values: every coordinate is a number on the canvas; names are escaped."""
    for xs, ys in (([1, 2, 3], [5, 1, 0]), ([1, 2], [3, 3]), ([0, 1], [0.0, 0])):
        text = svg(kind, {"": (xs, ys)}, "a<b", "c", identity=kind == "dots")
        Page(text)
        assert "a&lt;b" in text and "nan" not in text and "inf" not in text
        for tag, name, limit in (("circle", "cx", 380), ("circle", "cy", 272), ("text", "x", 380), ("text", "y", 272)):
            assert all(0 <= float(value) <= limit for value in re.findall(rf'<{tag}[^>]*? {name}="([^"]*)"', text))


def test_a_run_without_results_is_refused_in_one_line(folder, tmp_path, capsys, monkeypatch):
    """No folder, or one that has not been evaluated; an unwritten page leaves no half file."""
    shutil.copytree(folder / "a", tmp_path / "a")
    os.remove(tmp_path / "a" / "metrics.json"), os.remove(tmp_path / "a" / "report.html")
    for place in (tmp_path / "a", tmp_path / "none"):
        with pytest.raises(ValueError, match="no evaluated run .*; python eval.py") as error:
            write_report(str(place))
        assert "\n" not in str(error.value)
    assert not [name for name in os.listdir(tmp_path / "a") if name.startswith("report")]


def test_undefined_and_missing_things_are_said(folder, tmp_path):
    """A metric that is null, a label that was never there, a run folder of before `images` stood in split.csv, an empty figures/."""
    shutil.copytree(folder / "b", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "figures")
    metrics = json.load(open(tmp_path / "b" / "metrics.json"))
    metrics["findings"]["per_label"]["dot"]["auroc"] = {"value": None, "low": None, "high": None, "reason": "one class only"}
    metrics["findings"]["operating_point"]["dot"] = {"threshold": None, "reason": "one class only in the validation split"}
    json.dump(metrics, open(tmp_path / "b" / "metrics.json", "w"))
    (tmp_path / "b" / "split.csv").write_text("patient,split\nx,train\ny,test\n")
    text = Page(page(read_run(str(tmp_path / "b")))).text
    assert "undefined: one class only" in text and "Not measurable in this split: dot" in text and "What the model looked at" not in text
    assert "one class only in the validation split" in text


def test_times_to_an_event_have_a_table_and_no_curves(folder, tmp_path):
    """A survival task's classes are the columns of time and event: no question of yes or no."""
    shutil.copytree(folder / "a", tmp_path / "a")
    for path, change in (("best/config.json", lambda config: config["tasks"].append(
            {"name": "days", "kind": "survival", "classes": ["days", "died"], "center": 0.0, "scale": 1.0})),
            ("metrics.json", lambda metrics: metrics.update(days={"units": 4, "patients": 4, "c_index": {"value": 0.7, "low": 0.6, "high": 0.8},
                                                                  "constant": {"c_index": {"value": 0.5, "low": None, "high": None}}}))):
        content = json.load(open(tmp_path / "a" / path))
        change(content)
        json.dump(content, open(tmp_path / "a" / path, "w"))
    read = Page(page(read_run(str(tmp_path / "a"))))
    assert "Results: days" in read.text and "concordance" in read.text and "(0.600 to 0.800)" in read.text and read.tags.count("svg") == 6


def test_the_card_says_what_a_hub_wants_and_no_patient(folder, tmp_path):
    """YAML head, metrics with intervals, limits; no name of a patient, no folder of the author's machine."""
    for name in "abc":
        text = (folder / name / "best" / "README.md").read_text()
        head = text.split("---\n")[1]
        assert {line.partition(":")[0] for line in head.splitlines()} >= {"license", "library_name", "tags"} and "Not for clinical use" in text
        assert all(json.loads(line.partition(": ")[2]) for line in head.splitlines())
        assert "alert" not in text and "p1<i" not in text and str(folder.parent) not in text and "photos.csv" in text
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):      # every row has as many cells as the head
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    run = read_run(str(folder / "a"))
    run.args = {**run.args, "pretrained": "google/vit-base-patch16-224@main"}
    head = ModelCard(card(run)).data
    base = "google/vit-base-patch16-224"
    assert (head.base_model, head.license, head.license_link) == (base, "other", f"https://huggingface.co/{base}")
    assert head.license_name and ModelCard(card(read_run(str(folder / "a")))).data.license_name is None


@pytest.mark.parametrize("name", "abc")
def test_the_hub_reads_the_test_results_from_the_head(folder, name):
    """huggingface_hub's own reader finds every defined metric of every task, to the last digit, and nothing else; a null is left out."""
    run = read_run(str(folder / name))
    run.tasks[0].scores["brier" if name != "a" else "r2"] = {"value": None, "low": None, "high": None, "reason": "one class only"}
    found = ModelCard(card(run)).data
    expected = [(task.name, report.HUB.get(metric, metric), task.scores[metric]["value"]) for task in run.tasks for metric in METRICS[task.kind]
                if task.scores[metric]["value"] is not None]
    assert [(each.task_name, each.metric_type, each.metric_value) for each in found.eval_results] == expected and len(expected) > 1
    assert {each.dataset_split for each in found.eval_results} == {"test"} and found.model_name == name
    assert set(found.metrics) >= {metric for _, metric, _ in expected}


def test_preprocessor_config_is_what_the_model_does(folder):
    """Size, mean and std of the model itself; CrossViT's picture is that of its small patches."""
    model, _, _ = train.open_model(str(folder / "a"))
    found = json.load(open(folder / "a" / "best" / "preprocessor_config.json"))
    assert found["size"] == {"height": 16, "width": 16}
    assert found["image_mean"] == list(model.config.mean) and found["image_std"] == list(model.config.std)
    own = {"grids": [[3, 4], [2, 2]], "patch": [12, 16], "mean": [0.5], "std": [0.5]}
    assert preprocessor({"model": "crossvit", "crossvit": own})["size"] == {"height": 36, "width": 48}
    volume = preprocessor({"model": "daft", "daft": {"image": [8, 16, 24], "mean": [0.5], "std": [0.5]}})
    assert volume["size"] == {"depth": 8, "height": 16, "width": 24} and "image_processor_type" not in volume        # it takes pictures only


def test_the_command_line(folder):
    """python report.py RUN prints the page's path; a folder that is no run ends in one line and status 2."""
    script = os.path.join(os.path.dirname(report.__file__), "report.py")
    done = subprocess.run([sys.executable, script, str(folder / "a")], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == str(folder / "a" / "report.html")
    done = subprocess.run([sys.executable, script, str(folder)], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "no evaluated run" in done.stderr
