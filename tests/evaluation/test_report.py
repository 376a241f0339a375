"""A page that needs nothing else, whatever kind of run; nothing of the user's becomes markup."""
import csv
import html.parser
import json
import os
import re
import shutil

import pytest
from PIL import Image

from evaluation import report
from evaluation.card import plain, write_card
from evaluation.metrics import METRICS, NAMES
from evaluation.picture_file import Figure
from evaluation.report import page, run_figures, write_report
from evaluation.run_text import facts, read_run, split_table
from plumbing.models import count
from plumbing.saved_run import open_model
from tests.evaluation.conftest import NASTY_NAME
from tests.small_runs import started

VOID = {"meta", "img", "br"}


def page_of(folder):
    run = read_run(folder)
    return page(run, run_figures(run))


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


@pytest.mark.parametrize("name", "abc")
def test_the_page_is_well_formed_and_needs_nothing_else(runs, name):
    """Every tag closed, no script, no address, every picture inside; every section and every metric is there."""
    text = (runs / name / "report.html").read_text(encoding="utf-8")
    read = Page(text)
    assert text.startswith("<!doctype html>") and not {"script", "link", "iframe", "object", "a"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/png;base64,") for name, value in read.attributes if name in ("href", "src"))
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r'src="[^"]*"', "", text)
    run = read_run(str(runs / name))
    for word in (run.name, "Model", "Parameters", "Seed", "split by patient", "train", "validation", "test", "Learning curves",
                 "What the model looked at", "Limits", "Not for clinical use", "The command", "constant"):
        assert word in read.text, word
    for task in run.tasks:
        assert f"Results: {task.name}" in read.text
        for metric in METRICS[task.kind]:
            assert NAMES[metric] in read.text, metric
    charts = len(sum(run_figures(run).values(), []))
    assert charts > 4 and read.tags.count("figcaption") == read.tags.count("img") >= charts + 3
    assert len([value for key, value in read.attributes if key == "alt" and value]) == read.tags.count("img")
    assert os.path.getsize(runs / name / "report.html") < 2e6


def test_nothing_of_the_users_becomes_markup(runs):
    """Patients, columns and classes with tags in their names are shown as they are, in the page and in the card."""
    for name in "abc":
        text = (runs / name / "report.html").read_text(encoding="utf-8")
        assert not {"u", "i"} & set(Page(text).tags)
        assert "<script" not in text and "<u>" not in text and "<i>" not in text
    assert "&lt;script&gt;bar" in (runs / "b" / "report.html").read_text()
    assert "&lt;u&gt;top" in (runs / "a" / "report.html").read_text()
    assert "\\<u\\>top" in (runs / "a" / "best" / "README.md").read_text()
    assert plain("a|b\n# c") == "a\\|b \\# c" and report.cell(NASTY_NAME) == "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;"


def test_the_numbers_on_the_page_are_those_of_metrics_json(runs):
    """Value, interval and constant of the first metric, the counts of the split, and the number of parameters."""
    run, text = read_run(str(runs / "a")), Page((runs / "a" / "report.html").read_text()).text
    entry, constant = run.metrics["redness"]["mae"], run.metrics["redness"]["constant"]["mae"]
    assert f"{entry['value']:.3f}" in text and f"({entry['low']:.3f} to {entry['high']:.3f})" in text and f"{constant['value']:.3f}" in text
    model, _, _ = open_model(str(runs / "a"))
    assert run.parameters == count(model) and f"{run.parameters:,}" in text
    assert [row[1:] for row in split_table(run)[2]] == [[14, 14], [2, 2], [4, 4]]


def test_the_device_is_the_one_that_was_used(runs):
    """Whoever reads the page cannot know what "auto" was."""
    run = read_run(str(runs / "a"))
    for asked, text in (("auto", "auto, evaluated on cpu"), ("cpu", "cpu")):
        run.args["device"] = asked
        assert ("Device", text) in facts(run)


def test_captions_and_alternative_texts_are_escaped():
    """Names of tasks and labels reach all three places of a chart."""
    picture = Image.new("RGB", (8, 6))
    picture.info["key"] = '"<u>'
    text = report.html_charts([Figure("n", picture, "c<d")])
    Page(text)
    assert 'alt="c&lt;d. &quot;&lt;u&gt;"' in text and "<figcaption>c&lt;d<" in text and 'width="4"' in text


def test_a_run_without_results_is_refused_in_one_line(runs, tmp_path, capsys, monkeypatch):
    """No runs, or one that has not been evaluated; an unwritten page leaves no half file."""
    shutil.copytree(runs / "a", tmp_path / "a")
    os.remove(tmp_path / "a" / "metrics.json"), os.remove(tmp_path / "a" / "report.html")
    for place in (tmp_path / "a", tmp_path / "none"):
        with pytest.raises(ValueError, match="no evaluated run .*; (python eval.py|a run folder holds an args.json)") as error:
            write_report(str(place))
        assert "\n" not in str(error.value)
    assert not [name for name in os.listdir(tmp_path / "a") if name.startswith("report")]


def test_undefined_and_missing_things_are_said(runs, tmp_path):
    """A metric that is null, a label that was never there, a run runs of before `images` stood in split.csv, an empty figures/."""
    shutil.copytree(runs / "b", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "figures")
    metrics = json.load(open(tmp_path / "b" / "metrics.json"))
    metrics["findings"]["per_label"]["dot"]["auroc"] = {"value": None, "low": None, "high": None, "reason": "one class only"}
    metrics["findings"]["operating_point"]["dot"] = {"threshold": None, "reason": "not both classes in the validation split"}
    json.dump(metrics, open(tmp_path / "b" / "metrics.json", "w"))
    (tmp_path / "b" / "split.csv").write_text("patient,split\nx,train\ny,test\n")
    text = " ".join(Page(page_of(str(tmp_path / "b"))).text.split())
    assert "undefined: one class only" in text and "What the model looked at" not in text
    assert "not both classes in the validation split" in text


def test_times_to_an_event_have_a_table_and_no_roc(runs, tmp_path):
    """A survival task's classes are the columns of time and event: no question of yes or no."""
    shutil.copytree(runs / "a", tmp_path / "a")
    for path, change in (("best/config.json", lambda config: config["tasks"].append(
            {"name": "days", "kind": "survival", "classes": ["days", "died"], "center": 0.0, "scale": 1.0})),
            ("metrics.json", lambda metrics: metrics.update(days={"units": 4, "patients": 4, "c_index": {"value": 0.7, "low": 0.6, "high": 0.8},
                                                                  "constant": {"c_index": {"value": 0.5, "low": None, "high": None}}}))):
        content = json.load(open(tmp_path / "a" / path))
        change(content)
        json.dump(content, open(tmp_path / "a" / path, "w"))
    path = tmp_path / "a" / "predictions.csv"
    rows = list(csv.DictReader(open(path)))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "days", "died", "days risk"])
        writer.writeheader()
        writer.writerows(row | {"days": i + 1, "died": i % 2, "days risk": -i} for i, row in enumerate(rows))
    read = Page(page_of(str(tmp_path / "a")))
    assert "Kaplan-Meier by predicted risk" in read.text and "Results: days" in read.text and "concordance" in read.text and "(0.600 to 0.800)" in read.text


def test_the_command_line(runs, monkeypatch, capsys):
    """python -m evaluation.report RUN prints the page's path; a folder that is no run ends in one line and status 2."""
    path = str(runs / "a" / "report.html")
    assert started("evaluation.report", [str(runs / "a")], monkeypatch, capsys) == (0, f"{path}\n", "")
    status, _, errors = started("evaluation.report", [str(runs)], monkeypatch, capsys)
    assert status == 2 and len(errors.strip().splitlines()) == 1 and "no evaluated run" in errors


def test_a_table_with_only_some_of_the_targets_has_a_page(runs, tmp_path):
    """The first target, which chose the best epoch, is not among them; the learning curves are of it all the same."""
    shutil.copytree(runs / "a", tmp_path / "a")
    metrics = json.load(open(tmp_path / "a/metrics.json"))
    del metrics["redness"]
    json.dump(metrics, open(tmp_path / "a/metrics.json", "w"))
    text = Page(open(write_report(str(tmp_path / "a"))).read()).text
    assert "mean absolute error of redness" in text and "Results: grade" in text and "Results: redness" not in text


def test_the_split_is_the_runs_own_on_the_page_of_another_table_too(runs, tmp_path):
    """Pictures without patients in training, patients with ids in the other table: one person may still be on both sides."""
    shutil.copytree(runs / "a", tmp_path / "a")
    metrics = json.load(open(tmp_path / "a" / "metrics.json"))
    os.makedirs(tmp_path / "a" / "other-test")
    json.dump(metrics, open(tmp_path / "a" / "other-test" / "metrics.json", "w"))
    json.dump(metrics | {"patient_ids": False}, open(tmp_path / "a" / "metrics.json", "w"))
    shutil.copy(tmp_path / "a" / "predictions.csv", tmp_path / "a" / "other-test")
    text = Page(open(write_report(str(tmp_path / "a"), str(tmp_path / "a" / "other-test"))).read()).text
    assert "split by image: one person may be in two parts" in text and "validation split of 2 images, not patients, is epoch " in text and "on other-test: 4 patients" in text


@pytest.mark.slow
def test_another_evaluation_has_a_page_that_the_runs_own_links_to(runs, tmp_path):
    """Its numbers are of its folder, as its limits say, its training that of the run; names of folders are escaped."""
    shutil.copytree(runs / "a", tmp_path / "a")
    folder = tmp_path / "a" / "<u>other-test"
    os.makedirs(folder)
    metrics = json.load(open(tmp_path / "a" / "metrics.json"))
    metrics["redness"]["mae"] = {"value": 7.125, "low": 7.0, "high": 8.0}
    json.dump(metrics, open(folder / "metrics.json", "w"))
    shutil.copy(tmp_path / "a" / "predictions.csv", folder)
    path = write_report(str(tmp_path / "a"), str(folder))
    text = open(path).read()
    assert path == str(folder / "report.html") and "7.125" in Page(text).text and "on <u>other-test: 4 patients" in Page(text).text and "a on &lt;u&gt;other-test" in text
    assert "4 patients are few" in Page(text).text and "test patients" not in Page(text).text.partition("Limits")[2]
    text = open(write_report(str(tmp_path / "a"))).read()
    links = [value for name, value in Page(text).attributes if name == "href"]
    assert links == ["%3Cu%3Eother-test/report.html"] and "7.125" not in text and "<u>" not in text


def test_warnings_about_the_data_stay_at_home(runs, tmp_path):
    """They may name patients and files, as of one who is there twice: the own page has them, what is shared or exported has not."""
    run = str(shutil.copytree(runs / "a", tmp_path / "a"))
    metrics = json.load(open(tmp_path / "a/metrics.json"))
    json.dump({**metrics, "warnings": ["WARNING: Mueller_left and Mueller_right count as different patients"]}, open(tmp_path / "a/metrics.json", "w"))
    assert "Mueller" in open(write_report(run)).read()
    report.share(run, str(tmp_path / "shared"))
    write_card(run)
    for path in ("shared/report.html", "shared/README.md", "a/best/README.md"):
        assert "Mueller" not in (tmp_path / path).read_text()
