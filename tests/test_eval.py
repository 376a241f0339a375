"""eval.py: what an evaluation leaves behind, another table, another split, and two runs."""
import csv
import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import train
from data import Samples, make_loader
from eval import evaluate, main
from evaluation import figures
from evaluation.metrics import METRICS
from evaluation.other_table import saved_results
from evaluation.predict import predict
from evaluation.printing import print_table
from evaluation.probabilities import youden
from evaluation.scores import score, score_constant
from plumbing.cohort import Task
from plumbing.command import run_main
from tests.evaluation.toy import CPU, FINDINGS, GRADE, MODELS, NAN, TASKS, options_of, photographs, table_of
from tests.small_runs import slow_but


@pytest.mark.parametrize("first", slow_but(("regression", "labels"), "labels"))
def test_a_label_is_drawn_with_its_probability_wherever_its_task_stands(first, tmp_path, monkeypatch):
    """The labels' task may come before others: captions are of the labels, 0 to 1, as in predictions.csv."""
    torch.manual_seed(0)
    tasks = TASKS if first == "regression" else TASKS[::-1]
    model = MODELS["lt_vit"]({task.name: task.outputs for task in tasks})
    cohort, indices = photographs(tmp_path)
    said, row = [], figures.side_by_side
    monkeypatch.setattr(figures, "side_by_side", lambda pictures, captions=None, **rest: said.extend(captions[:1]) or row(pictures, captions, **rest))
    evaluate(model, tasks, cohort, indices, str(tmp_path), options_of(model), figures=6)
    words = {"0": "absent", "1": "present", "": "unknown"}
    expected = set()
    for line in csv.DictReader(open(tmp_path / "predictions.csv")):
        for name in FINDINGS.classes:
            expected.add(f"{name} {words[line[f'findings[{name}] target']]}, predicted {float(line[f'findings[{name}] predicted']):.2f}")
    captions = {caption for caption in said if caption}
    assert captions <= expected and any("present" in caption for caption in captions)


@pytest.mark.parametrize("name", MODELS)
def test_evaluate_leaves_metrics_predictions_and_pictures(name, tmp_path, capsys):
    """Every model on a tiny cohort: valid metrics.json, a row a patient, charts, and a picture of what it looked at."""
    torch.manual_seed(0)
    model = MODELS[name]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    result = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), by="fst", figures=2)
    def refuse(text):
        raise AssertionError(f"metrics.json holds {text}")
    assert json.load(open(tmp_path / "metrics.json"), parse_constant=refuse) == result
    assert (result["split"], result["patients"], result["images"], result["unit"]) == ("test", 6, 12, "patient")
    assert set(result["pasi"]["subgroups"]) == {"fst I-IV", "fst V-VI"} and result["pasi"]["subgroups"]["fst V-VI"]["small"]
    assert result["pasi"]["constant"]["mae"]["value"] > 0 and result["findings"]["per_label"]["edema"]["positives"] == 3
    rows = list(csv.DictReader(open(tmp_path / "predictions.csv")))
    assert sorted(row["patient"] for row in rows) == ["p10", "p11", "p6", "p7", "p8", "p9"]
    assert rows[0]["images"].split("|")[0].startswith(rows[0]["patient"])
    assert not [file for file in os.listdir(tmp_path) if file.endswith(".part")]
    pictures = sorted(os.listdir(tmp_path / "figures"))
    assert len(pictures) == 2 and all(picture.startswith("patient_p") for picture in pictures)
    sizes = {file: Image.open(tmp_path / "figures" / file).size for file in pictures}
    assert all(min(size) > 200 for size in sizes.values())
    if name in ("vit", "crossvit"):                                # one heat map a branch, beside the photograph of 30 x 20 px
        assert sizes[pictures[0]][0] == 20 + 380 * (2 + (name == "crossvit"))
    print_table(TASKS, result)
    out = capsys.readouterr().out
    assert "constant" in out and "fst V-VI" in out and max(map(len, out.splitlines())) <= 125


def test_predictions_read_back_to_the_same_metrics(tmp_path):
    """predictions.csv alone gives the numbers of metrics.json, to eight digits; ties are still ties."""
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    for by_image in (False, True):
        result = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model, by_image), figures=0)
        rows = list(csv.DictReader(open(tmp_path / "predictions.csv")))
        assert len(rows) == (12 if by_image else 6) and result["unit"] == ("image" if by_image else "patient")
        known = lambda text: float(text) if text else NAN
        read = {"pasi": ([float(row["pasi predicted"]) for row in rows], [known(row["pasi target"]) for row in rows]),
                "grade": ([[float(row[f"grade[{c}] predicted"]) for c in GRADE.classes] for row in rows],
                          [GRADE.classes.index(row["grade target"]) if row["grade target"] else NAN for row in rows]),
                "findings": ([[float(row[f"findings[{c}] predicted"]) for c in FINDINGS.classes] for row in rows],
                             [[known(row[f"findings[{c}] target"]) for c in FINDINGS.classes] for row in rows])}
        for task in TASKS:
            again = score(task, table_of(task, *read[task.name], [row["patient"] for row in rows]))
            for name in METRICS[task.kind]:
                for key in ("value", "low", "high"):
                    assert again[name][key] == pytest.approx(result[task.name][name][key], rel=1e-6, abs=1e-7), (task.name, name)
        truth = [cohort.targets["pasi"][i] for i in indices["test"]]
        assert all(np.float32(row["pasi target"]) in truth for row in rows)


def test_constant_predictor_knows_patients_whose_first_image_has_no_target(tmp_path):
    """One target a patient, the first that is known, so that each counts once (`per_image` counts the images whose own is known)."""
    def of_patients():
        metrics = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), figures=0)
        for task in TASKS:
            del metrics[task.name]["per_image"]
        return metrics

    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    plain = of_patients()
    for images in cohort.groups().values():
        if len(images) > 1:
            for values in cohort.targets.values():
                values[images[0]] = NAN
    assert of_patients() == plain


def test_an_unknown_column_is_refused_before_anything_is_computed(tmp_path):
    """--by names the columns there are."""
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort, indices = photographs(tmp_path)
    with pytest.raises(ValueError, match="--by age: no such column, there are fst, sex"):
        evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), by="age")
    assert not os.path.exists(tmp_path / "metrics.json")


def test_an_operating_point_is_chosen_on_val_and_does_not_move_with_the_test_targets(tmp_path):
    """The threshold is Youden's on val; other test targets give other counts at the same threshold; val has none of its own."""
    cohort, indices = photographs(tmp_path)
    torch.manual_seed(0)
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    cohort.targets["findings"][:, 1] = cohort.targets["findings"][:, 0]
    indices = {"train": indices["train"], "val": indices["train"], "test": indices["test"]}
    first = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), figures=0)["findings"]["operating_point"]
    held = predict(model, TASKS, make_loader(Samples(cohort, indices["val"], (16, 16)), 4)[0], {"device": CPU, "autocast": None, "by_image": False})
    assert first["edema"]["threshold"] == youden(held["prediction"]["findings"][:, 0], held["target"]["findings"][:, 0])
    cohort.targets["findings"][indices["test"]] = 1 - cohort.targets["findings"][indices["test"]]
    second = evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), figures=0)["findings"]["operating_point"]
    assert second["edema"]["threshold"] == first["edema"]["threshold"] and second["edema"]["true_positives"] == first["edema"]["false_positives"]
    assert "operating_point" not in evaluate(model, TASKS, cohort, indices, str(tmp_path), options_of(model), "val", figures=0)["findings"]


def test_another_table_is_judged_at_the_thresholds_of_the_run(tmp_path):
    """It has no validation split: the thresholds are read from the run's metrics.json, and there are none where it has none."""
    cohort, indices = photographs(tmp_path)
    model = MODELS["vit"]({task.name: task.outputs for task in TASKS})
    evaluate(model, TASKS, cohort, {**indices, "val": indices["train"]}, str(tmp_path), options_of(model), figures=0)
    saved, constants = saved_results(str(tmp_path))
    assert saved["findings"]["edema"] > 0 and saved["findings"]["mass"] is None and saved["pasi"] == saved["grade"] == {}
    os.makedirs(tmp_path / "other")
    there = {"train": [], "val": [], "test": indices["test"]}
    again = evaluate(model, TASKS, cohort, there, str(tmp_path / "other"), options_of(model), figures=0, learned=(saved, {}))
    assert again["findings"]["operating_point"]["edema"]["threshold"] == saved["findings"]["edema"]
    assert "reason" in again["findings"]["operating_point"]["mass"] and saved_results(str(tmp_path / "none")) == ({}, {})
    assert constants["pasi"] > 0 and constants["findings"].shape == (2,)
    (tmp_path / "metrics.json").write_text('{"split": ')           # cut off: said, not taken for a run without thresholds
    with pytest.raises(ValueError, match="not a JSON file.*a run folder holds an args.json"):
        saved_results(str(tmp_path))


def test_a_target_may_be_called_like_any_other_entry(tmp_path):
    """`patients`, `device`, `unit`, `by`: metrics.json holds both, the table prints both, another table finds its constant."""
    tasks = [Task(name, "regression", center=100.0, scale=50.0) for name in ("patients", "device", "unit", "by", "localization")]
    result = {"patients": 6, "unit": "patient", "split": "test", "images": 12, "by": {}}
    for task in tasks:
        table = table_of(task, [1.0, 2.0], [1.0, 3.0])
        result[task.key] = {**score(task, table, constant=1.0), "constant": score_constant(task, table, 1.0)}
    (tmp_path / "metrics.json").write_text(json.dumps(result))
    assert result["patients"] == 6 and result["target patients"]["mae"]["value"] == 0.5 and Task("pasi", "regression").key == "pasi"
    assert set(saved_results(str(tmp_path))[1]) == {task.name for task in tasks}
    print_table(tasks, result)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """-> folder with photos.csv of 20 patients, and runs/a, trained on it for an epoch."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    lines = ["patient_id,image,redness,grade,sex"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        for photo in range(1 + patient % 2):
            pixels = np.uint8(rng.integers(0, 60, (16, 16, 3)) + [0.7 * red, 0, 0])
            Image.fromarray(pixels).save(folder / f"{patient}_{photo}.png")
            lines.append(f"p{patient},{patient}_{photo}.png,{red:.2f},{('low', 'middle', 'top')[int(red // 86)]},{'FM'[patient % 2]}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train.main(["--data", str(folder / "photos.csv"), "--target", "redness:regression,grade:classes", "--model", "vit", "--image", "16",
                "--epochs", "1", "--workers", "0", "--device", "cpu", "--runs", str(folder / "runs"), "--name", "a"])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return folder


def rows_of(path):
    return list(csv.DictReader(open(path)))


@pytest.mark.slow
def test_another_table_is_evaluated_with_the_runs_own_scale_and_classes(run, capsys):
    """The test photographs as new patients with targets ten times as high and one class only: the predictions stay to the digit."""
    test = {row["patient"] for row in rows_of(run / "runs/a/split.csv") if row["split"] == "test"}
    rows = [row for row in rows_of(run / "photos.csv") if row["patient_id"] in test]
    with open(run / "other.csv", "w") as file:
        file.write("patient_id,image,redness,grade\n")
        file.writelines(f"new-{row['patient_id']},{row['image'].upper()},{10 * float(row['redness']):.1f},top\n" for row in rows)
    main([str(run / "runs/a"), "--data", str(run / "other.csv"), "--device", "cpu"])
    assert f"{len(rows)} of {len(rows)} images have another spelling in the table" in capsys.readouterr().out
    before, after = ({row["patient"].removeprefix("new-"): row for row in rows_of(run / folder / "predictions.csv")}
                     for folder in ("runs/a", "runs/a/other-test"))
    assert set(before) == set(after) and len(before) == 4
    for patient, row in after.items():
        assert row["grade target"] == "top" and float(row["redness target"]) == pytest.approx(10 * float(before[patient]["redness target"]))
        assert {key: text for key, text in row.items() if "predicted" in key} == {key: before[patient][key] for key in row if "predicted" in key}
    metrics = json.load(open(run / "runs/a/other-test/metrics.json"))
    assert metrics["grade"]["auroc"]["reason"] == "one class only" and metrics["redness"]["constant"]["mae"]["value"] > 0
    own = json.load(open(run / "runs/a/metrics.json"))
    assert metrics["redness"]["constant"]["prediction"] == own["redness"]["constant"]["prediction"] and "mae" in metrics["redness"]["gain"]


@pytest.mark.slow
def test_another_part_of_the_split_and_subgroups(run, capsys):
    """--split val goes to a folder of its own, and what the run wrote of its test split stays; --by sex makes two groups."""
    before = open(run / "runs/a/metrics.json").read()
    main([str(run / "runs/a"), "--split", "val", "--by", "sex", "--figures", "0", "--device", "cpu"])
    metrics = json.load(open(run / "runs/a/photos-val/metrics.json"))
    assert metrics["split"] == "val" and open(run / "runs/a/metrics.json").read() == before and "sex" in capsys.readouterr().out
    assert set(metrics["redness"]["subgroups"]) <= {"sex F", "sex M"} and metrics["redness"]["constant"]["mae"]["value"] > 0


def test_a_patient_the_run_learned_from_is_refused(run, capsys, monkeypatch):
    """One such patient in another table is enough; so are a table that has changed and flags that do not go together: status 2."""
    split = {row["patient"]: row["split"] for row in rows_of(run / "runs/a/split.csv")}
    seen = next(patient for patient in split if split[patient] == "val")
    lines = (run / "photos.csv").read_text().splitlines()
    (run / "leak.csv").write_text("\n".join([lines[0], lines[1].replace("p0,", "new,", 1), *(x for x in lines if x.startswith(seen + ","))]))
    (run / "fatal.csv").write_text("\n".join([lines[0], "new,0_0.png,1.0,fatal,F"]))
    def fails(*argv):
        monkeypatch.setattr(sys, "argv", ["eval.py", str(run / "runs/a"), "--device", "cpu", *argv])
        with pytest.raises(SystemExit) as stop:
            run_main(main)
        assert stop.value.code == 2
        return capsys.readouterr().err
    said = fails("--data", str(run / "leak.csv"))
    assert f"patient {seen} is in the val split of" in said and "if these are other people, give them other ids" in said
    assert "grade 'fatal' is unknown to" in fails("--data", str(run / "fatal.csv"))
    assert "--split goes together with the run alone" in fails("--data", str(run / "leak.csv"), "--split", "val")
    assert "--split goes together with the run alone, not with --against" in fails("--against", str(run / "runs/a"), "--split", "val")
    assert "--images goes together with --data or --predict" in fails("--images", ".")
    assert "--by goes together with --data or the run alone" in fails("--predict", ".", "--out", "o.csv", "--by", "sex")
    assert "--by size: no such column" in fails("--by", "sex, size") and "--figures -1: need at least 0" in fails("--figures", "-1")
    assert "--data is empty; say which" in fails("--data", "") and "--by is empty" in fails("--by", "")  # not the run's own table
    args = json.load(open(run / "runs/a/args.json"))
    (run / "fewer.csv").write_text("\n".join([lines[0], *lines[2:]]))
    try:
        for file in ("leak.csv", "fewer.csv"):
            json.dump({**args, "data": str(run / file)}, open(run / "runs/a/args.json", "w"))
            assert "has changed: patient" in fails()
        json.dump({**args, "positive": "low"}, open(run / "runs/a/args.json", "w"))    # of the run's table, not of any other
        assert "grade 'fatal' is unknown to" in fails("--data", str(run / "fatal.csv"))
    finally:
        json.dump(args, open(run / "runs/a/args.json", "w"))


def test_the_best_epochs_number_in_the_log_is_what_evaluation_finds(run):
    """--split val on the saved weights gives the log's lowest value, digit for digit."""
    main([str(run / "runs/a"), "--split", "val", "--figures", "0", "--device", "cpu"])
    found = json.load(open(run / "runs/a/photos-val/metrics.json"))["redness"]["mae"]["value"]
    assert found == min(float(row["val_redness_mae"]) for row in rows_of(run / "runs/a/log.csv"))


def test_evaluating_a_run_again_writes_the_same_bytes(run):
    """What training wrote of its test split at its end, metrics and predictions, to the last digit."""
    before = {name: (run / "runs/a" / name).read_bytes() for name in ("metrics.json", "predictions.csv")}
    os.remove(run / "runs/a/metrics.json"), os.remove(run / "runs/a/predictions.csv")
    main([str(run / "runs/a"), "--device", "cpu"])
    assert {name: (run / "runs/a" / name).read_bytes() for name in before} == before


def test_a_run_does_not_differ_from_itself(run, capsys):
    """--against itself: every difference is 0."""
    main([str(run / "runs/a"), "--against", str(run / "runs/a")])
    result = json.load(open(run / "runs/a/against-a.json"))
    for task, kind in (("redness", "regression"), ("grade", "classes")):
        assert all(result[task][name]["difference"]["value"] in (0, None) for name in METRICS[kind])
    assert "against-a.json" in capsys.readouterr().out
