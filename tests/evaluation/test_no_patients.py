"""Runs of class folders: where nothing says who the patients are, every place that shows a number says so."""
import csv
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import eval as evaluate
import train
from evaluation.new_images import had_class_folders
from plumbing.load_cohort import load_cohort
from plumbing.prepare import seen_before


def draw(folder, names, seed=0):
    """Pictures of 16 px, those of the class b brighter."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 100 + 100 * name.startswith("b/"), (16, 16, 3)).astype(np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """-> folder with data/, class folders of 20 pictures, runs/r, trained on them for an epoch, and its log."""
    folder = tmp_path_factory.mktemp("classes")
    draw(folder / "data", [f"{name}/{i}.png" for name in "ab" for i in range(10)])
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train.main(["--data", str(folder / "data"), "--model", "vit", "--image", "16", "--epochs", "1", "--workers", "0", "--device", "cpu",
                "--runs", str(folder / "runs"), "--name", "r"])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return folder


def test_every_place_says_images_not_patients(classes):
    """Report, card and metrics.json; none of them counts patients."""
    run = classes / "runs/r"
    page, card = (run / "report.html").read_text(), (run / "best/README.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["unit"] == "image" and metrics["patient_ids"] is False and "images, not patients" in metrics["patient_note"]
    for text in (page, card):
        assert "images, not patients, resampled" in text and "split by image: one person may be in two parts" in text
        assert "test patients" not in text and "nobody is in two" not in text


def test_names_of_files_prove_nothing_and_bytes_do(classes, tmp_path):
    """Other pictures under the same names are evaluated; one training picture under another name is refused."""
    draw(tmp_path / "other", [f"{name}/{i}.png" for name in "ab" for i in range(10)], seed=1)
    run = str(classes / "runs/r")
    evaluate.main([run, "--data", str(tmp_path / "other"), "--device", "cpu"])
    assert json.loads((classes / "runs/r/other-test/metrics.json").read_text())["images"] == 20
    learned = [row["patient"] for row in csv.DictReader(open(classes / "runs/r/split.csv")) if row["split"] == "train"]
    shutil.copy(classes / "data" / learned[0], tmp_path / "other/b/another.png")
    with pytest.raises(ValueError, match=r"another.png is byte for byte .*, from which .* has learned \(such images: 1 of 21\)"):
        evaluate.main([run, "--data", str(tmp_path / "other"), "--device", "cpu"])


def test_a_table_without_ids_is_read_as_the_folders_were(classes, tmp_path, capsys):
    """By its column class, every image a patient of its own, whatever split it says; its target may have another name, which a line says. What
    it is warned of stands on its page."""
    draw(tmp_path, [f"{name}/{i}.png" for name in "ab" for i in range(5)], seed=3)
    rows = [f"{name}/{i}.png,{name},external" for name in "ab" for i in range(5)]
    rows[0] = "a/0.png,None,external"
    (tmp_path / "t.csv").write_text("\n".join(["image,class,split", *rows]))
    run = str(classes / "runs/r")
    evaluate.main([run, "--data", str(tmp_path / "t.csv"), "--device", "cpu"])
    assert "test: 10 images; 95 % intervals, images, not patients, resampled" in capsys.readouterr().out
    assert "WARNING: class: None counts as a blank" in (classes / "runs/r/t-test/report.html").read_text()
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    shutil.rmtree(classes / "runs/r/t-test")
    evaluate.main([run, "--data", str(tmp_path / "t.csv"), "--target", "label", "--device", "cpu"])
    assert "label of t counts as class of " in capsys.readouterr().out


def test_class_folders_are_another_table_for_the_run_of_a_table(classes, tmp_path, capsys):
    """Whatever its columns were called; class is then its target, and classes that it has not learned are refused."""
    run = shutil.copytree(classes / "runs/r", tmp_path / "r")
    args = json.loads((run / "args.json").read_text())
    (tmp_path / "own.csv").write_text("file,pid,grade\n")
    args |= {"data": str(tmp_path / "own.csv"), "image_column": "file", "patient_column": "pid", "target": "grade:classes"}
    (run / "args.json").write_text(json.dumps(args))
    for name, old, new in (("best/config.json", '"name": "class"', '"name": "grade"'), ("log.csv", "val_class_", "val_grade_")):
        (run / name).write_text((run / name).read_text().replace(old, new))
    weights = load_file(run / "best/model.safetensors")
    save_file({key.replace("head.class.", "head.grade."): tensor for key, tensor in weights.items()}, run / "best/model.safetensors")
    draw(tmp_path / "abroad", [f"{name}/{i}.png" for name in "ab" for i in range(5)], seed=4)
    evaluate.main([str(run), "--data", str(tmp_path / "abroad"), "--device", "cpu"])
    out = capsys.readouterr().out
    assert "class of abroad counts as grade of " in out and "test: 10 images" in out
    draw(tmp_path / "third", [f"{name}/{i}.png" for name in "ac" for i in range(5)], seed=4)
    with pytest.raises(ValueError, match="third: grade 'c' is unknown to .*, which knows a, b"):
        evaluate.main([str(run), "--data", str(tmp_path / "third"), "--device", "cpu"])


def test_a_copied_table_does_not_hide_the_training_pictures(classes, tmp_path):
    """--pretrained from a run on the same pictures under other names."""
    shutil.copytree(classes / "data", tmp_path / "copy")
    cohort = load_cohort(str(tmp_path / "copy"))
    indices = {"train": [], "val": [], "test": range(len(cohort.paths))}
    line, = seen_before(SimpleNamespace(pretrained=str(classes / "runs/r"), data=str(tmp_path / "copy")), cohort, indices)
    assert line.startswith("WARNING: r, from which it started, ") and "learned from 14 patients who are for val or test" in line


def test_a_run_that_began_with_one_that_saw_its_test_images_says_so_in_every_place(classes, tmp_path):
    """Metrics, report and card, also evaluated again when that run is gone."""
    shutil.copytree(classes / "runs/r", tmp_path / "r")
    run = shutil.copytree(classes / "runs/r", tmp_path / "next")
    (run / "args.json").write_text(json.dumps({**json.loads((run / "args.json").read_text()), "pretrained": str(tmp_path / "r")}))
    turned = (run / "split.csv").read_text().replace(",train,", ",was,").replace(",test,", ",train,").replace(",was,", ",test,")
    (run / "split.csv").write_text(turned)
    for gone in (False, True):
        evaluate.main([str(run), "--device", "cpu"])
        line, = json.loads((run / "metrics.json").read_text())["seen_before"]
        assert line.startswith("WARNING: r, from which it started, learned from 14 patients")
        for text in ((run / "report.html").read_text(), (run / "best/README.md").read_text()):
            assert "what is measured on them is too good" in text
        shutil.rmtree(tmp_path / "r", ignore_errors=True)


def test_what_the_run_before_the_last_one_learned_from_counts_too(classes, tmp_path):
    """--pretrained of a run on other pictures, which began with one on these, and that with itself."""
    def begun(name, data, pretrained):
        run = shutil.copytree(classes / "runs/r", tmp_path / name)
        args = {**json.loads((run / "args.json").read_text()), "data": str(data), "pretrained": str(tmp_path / pretrained)}
        (run / "args.json").write_text(json.dumps(args))
        return str(run)

    draw(tmp_path / "other", [f"{name}/{i}.png" for name in "ab" for i in range(10)], seed=1)
    begun("first", classes / "data", "first")
    args = SimpleNamespace(pretrained=begun("second", tmp_path / "other", "first"), data=str(classes / "data"))
    cohort = load_cohort(args.data)
    indices = {"train": [], "val": [], "test": range(len(cohort.paths))}
    line, = seen_before(args, cohort, indices)
    assert line.startswith("WARNING: first, from which it started, learned from 14 patients")
    (tmp_path / "first/args.json").write_text("{")
    line, = seen_before(args, cohort, indices)
    assert line == "WARNING: nobody can say whether first, from which it started, learned from patients who are for val or test here"
    args.pretrained = begun("third", tmp_path / "gone", "none")
    assert [str(tmp_path) in line for line in seen_before(args, cohort, indices) if "whether third" in line] == [False]


def test_a_run_of_class_folders_predicts_every_image(classes, tmp_path, capsys):
    """Not the mean over a class; masks are left out, and both are said. Names that say who it is still count."""
    draw(tmp_path / "new", ["a/0.png", "a/1.png", "b/0.png", "b/0_mask.png", "b/7_left.png", "b/7_right.png"], seed=2)
    (tmp_path / "new/a/x.gif").write_text("x")
    evaluate.main([str(classes / "runs/r"), "--predict", str(tmp_path / "new"), "--out", str(tmp_path / "o.csv"), "--device", "cpu"])
    rows = {row["patient"]: row["images"] for row in csv.DictReader(open(tmp_path / "o.csv"))}
    assert rows == {"a/0.png": "a/0.png", "a/1.png": "a/1.png", "b/0.png": "b/0.png", "7": "b/7_left.png|b/7_right.png"}
    out, err = capsys.readouterr()
    assert "4 patients in" in out and "2 of 7 files are left out" in err
    for name in ("7_left", "7_right"):
        (tmp_path / f"new/b/{name}.png").unlink()
    evaluate.main([str(classes / "runs/r"), "--predict", str(tmp_path / "new"), "--out", str(tmp_path / "p.csv"), "--device", "cpu"])
    assert "3 images, not patients, in" in capsys.readouterr().out


@pytest.mark.parametrize("data, expected", (("../gone/folder", True), ("gone", True), ("medmnist:bloodmnist", True), ("gone.csv", False),
                                            ("a.b/gone.csv", False), ("chest", False)))
def test_what_a_run_was_trained_on_is_known_though_it_is_gone(data, expected):
    """Dots in a path do not make a folder a table."""
    assert had_class_folders(SimpleNamespace(data=data)) == expected


def test_what_cannot_be_written_is_refused_before_anything_is_predicted(classes, tmp_path):
    """A folder that is not there, and a name that is too long."""
    for name in ("nowhere/o.csv", "x" * 300):
        with pytest.raises(ValueError, match="--out .*: cannot be written"):
            evaluate.main([str(classes / "runs/r"), "--predict", "no such folder", "--out", str(tmp_path / name)])
    assert list(tmp_path.iterdir()) == []


def test_another_table_of_the_same_name_does_not_overwrite_the_first(classes, tmp_path):
    """Two clinics, each with its films.csv: the second is refused; the first may be evaluated again."""
    run = str(shutil.copytree(classes / "runs/r", tmp_path / "r"))
    for seed, clinic in enumerate("ab"):
        draw(tmp_path / clinic / "films", [f"{name}/{i}.png" for name in "ab" for i in range(4)], seed=seed + 7)
    for _ in range(2):
        evaluate.main([run, "--data", str(tmp_path / "a/films"), "--device", "cpu"])
    with pytest.raises(ValueError, match="r/films-test holds the results of another films; rename that folder"):
        evaluate.main([run, "--data", str(tmp_path / "b/films"), "--device", "cpu"])
