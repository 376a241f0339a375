"""deploy.py: new images get the predictions that evaluation gives them, nothing is dropped silently, and transformers agrees."""
import csv
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import eval as evaluation
import train
from data import read_image
from deploy import export, load_images, predict_new, transformers_config, transformers_tensors
from report import preprocessor
from tables import Task
from tests.hub import Hub, python
from vit import ViT, ViTConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """photos.csv of 20 patients, and runs: `vit` with three classes, `multi` with regression and classes, `lt` with two labels."""
    folder = tmp_path_factory.mktemp("deploy")
    rng = np.random.default_rng(0)
    lines = ["who,picture,redness,grade,dots,stripes"]
    for patient in range(20):
        red = rng.uniform(0, 255)
        for photo in range(1 + patient % 3):
            Image.fromarray(np.uint8(rng.integers(0, 60, (20, 16, 3)) + [0.7 * red, 0, 0])).save(folder / f"{patient}_{photo}.png")
            lines.append(f"p{patient},{patient}_{photo}.png,{red:.2f},{('low', 'middle', 'top')[int(red // 86)]},{int(red > 99)},{patient % 2}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for name, target, more in (("vit", "grade:classes", ["--model", "vit"]),
                               ("multi", "redness:regression,grade:classes", ["--model", "multivit", "--n", "2", "--r", "2"]),
                               ("lt", "dots:labels,stripes:labels", ["--model", "lt_vit", "--label-layers", "2"])):
        train.main(["--data", str(folder / "photos.csv"), "--patient-column", "who", "--image-column", "picture", "--target", target,
                    "--image", "16", "--epochs", "1", "--workers", "0", "--device", "cpu", "--runs", str(folder / "runs"), "--name", name, *more])
    signal.signal(signal.SIGTERM, before[0]), signal.signal(signal.SIGINT, before[1])
    return folder


def rows_of(path):
    return list(csv.DictReader(open(path)))


def test_patients(run):
    return sorted(row["patient"] for row in rows_of(run / "split.csv") if row["split"] == "test")


test_patients.__test__ = False


def as_folder(place, patients, to):
    """A sub-folder a patient, as --predict takes it."""
    for patient in patients:
        os.makedirs(to / patient / "visit")
        for row in rows_of(place / "photos.csv"):
            if row["who"] == patient:
                shutil.copy(place / row["picture"], to / patient / "visit")
    return to


@pytest.mark.parametrize("name", ("vit", "multi"))
def test_new_images_get_what_evaluation_gave_them(place, name, tmp_path, capsys):
    """A folder, and a table without targets, of the test patients: the numbers of the run's predictions.csv."""
    run = place / "runs" / name
    patients, expected = test_patients(run), {row["patient"]: row for row in rows_of(run / "predictions.csv")}
    as_folder(place, patients, tmp_path / "new")
    (tmp_path / "new.csv").write_text("who,picture\n" + "".join(f"{row['who']},{row['picture']}\n" for row in rows_of(place / "photos.csv")
                                                              if row["who"] in patients))
    for source, more in (("new", []), ("new.csv", ["--images", str(place)])):
        out = tmp_path / f"{source}-out.csv"
        evaluation.main([str(run), "--predict", str(tmp_path / source), "--out", str(out), "--device", "cpu", *more])
        found = {row["patient"]: row for row in rows_of(out)}
        assert sorted(found) == patients and f"{len(patients)} patients in" in capsys.readouterr().out
        for patient, row in found.items():
            columns = [column for column in row if "predicted" in column]
            assert columns == [column for column in expected[patient] if "predicted" in column] and row["skipped"] == ""
            assert [float(row[c]) for c in columns] == pytest.approx([float(expected[patient][c]) for c in columns], rel=1e-5, abs=1e-7)
            assert len(row["images"].split("|")) == len(expected[patient]["images"].split("|"))


def test_a_broken_picture_stops_or_is_listed(place, tmp_path, capsys, monkeypatch):
    """Without the flag one line with its name, status 2 and no file; with it, its patient's last column, stderr, and everybody has a row."""
    run, source = place / "runs" / "multi", as_folder(place, ["p2"], tmp_path / "new")
    (source / "p2" / "broken.jpg").write_bytes(b"no picture")
    os.makedirs(source / "ghost"), (source / "ghost" / "x.png").write_bytes(b"")
    argv = ["eval.py", str(run), "--predict", str(source), "--out", str(tmp_path / "out.csv"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        train.run_main(evaluation.main)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and "not a readable image" in said and source.name in said and not os.path.exists(tmp_path / "out.csv")
    monkeypatch.setattr(sys, "argv", [*argv, "--skip-broken", "--figures", "1"])
    evaluation.main()
    error, rows = capsys.readouterr().err, {row["patient"]: row for row in rows_of(tmp_path / "out.csv")}
    assert set(rows) == {"p2", "ghost"} and error.count("skipped: ") == 2 and "broken.jpg" in error and "x.png" in error
    assert rows["p2"]["skipped"] == "p2/broken.jpg" and rows["ghost"]["skipped"] == "ghost/x.png" and rows["p2"]["images"].count("|") == 2
    assert float(rows["p2"]["redness predicted"]) and rows["ghost"]["redness predicted"] == rows["ghost"]["images"] == ""
    assert os.listdir(tmp_path / "out-figures") == ["patient_p2.png"]
    shutil.rmtree(source / "p2")
    evaluation.main([*argv[1:4], "--out", str(tmp_path / "none.csv"), "--skip-broken", "--device", "cpu"])
    assert [row["patient"] for row in rows_of(tmp_path / "none.csv")] == ["ghost"]


def test_new_images_are_drawn_under_the_maps_of_the_labels_it_is_surest_of(place, tmp_path, monkeypatch):
    """LT-ViT: a row a label, the surest first, said as in the CSV, under the class token's maps and the label's own."""
    drawn = []
    monkeypatch.setattr(evaluation.plots, "row", lambda pictures, captions, **rest: drawn.append(captions) or pictures[0].convert("RGB"))
    as_folder(place, ["p0"], tmp_path / "new")
    evaluation.main([str(place / "runs" / "lt"), "--predict", str(tmp_path / "new"), "--out", str(tmp_path / "o.csv"), "--figures", "1",
                     "--device", "cpu"])
    said, = rows_of(tmp_path / "o.csv")
    said = {name: float(said[f"findings[{name}] predicted"]) for name in ("dots", "stripes")}
    maps = ["class token", "class token, mean of label blocks", "label token", "label token, mean of label blocks"]
    assert drawn == [[f"{name}, predicted {said[name]:.2f}", *maps] for name in sorted(said, key=said.get, reverse=True)]
    assert os.listdir(tmp_path / "o-figures") == ["patient_p0.png"]


def test_pictures_beside_the_folders_are_patients_of_their_own(place, tmp_path):
    """first sub-folder = patient, however deep; hidden files and other files are no pictures."""
    as_folder(place, ["p1"], tmp_path / "new")
    shutil.copy(place / "0_0.png", tmp_path / "new" / "alone.png"), shutil.copy(place / "0_0.png", tmp_path / "new" / ".hidden.png")
    (tmp_path / "new" / "notes.txt").write_text("no picture")
    cohort = load_images(str(tmp_path / "new"), train.read_args(str(place / "runs" / "vit")))
    assert cohort.patients == ["alone.png", "p1", "p1"] and cohort.tasks == []


def test_patients_the_run_learned_from_are_pointed_out(place, tmp_path, capsys):
    """They are predicted, with a note."""
    run = place / "runs" / "vit"
    learned = next(row["patient"] for row in rows_of(run / "split.csv") if row["split"] == "train")
    predict_new(str(run), str(as_folder(place, [learned], tmp_path / "new")), str(tmp_path / "out.csv"), device="cpu")
    assert f"1 of these patients, {learned} first" in capsys.readouterr().err


@pytest.mark.parametrize("argv, message", (
    (["--predict", "nowhere", "--out", "o.csv"], "--predict nowhere: no such file or folder"),
    (["--predict", ".", "--out", "o.csv"], "no picture"),
    (["--predict", "."], "go together"), (["--out", "o.csv"], "go together"), (["--skip-broken"], "go together"),
    (["--predict", "wrong.csv", "--out", "o.csv"], "no column 'who', which is what the run calls the patient; there are patient, picture"),
    (["--predict", "blank.csv", "--out", "o.csv"], "blank.csv row 2, column who: '', no patient"),
    (["--predict", "gone.csv", "--out", "o.csv"], "gone.csv row 2, column picture: 'gone.png', no such image"),
    (["--predict", "gone.csv", "--out", "gone.csv"], "--out gone.csv: exists"),
    (["--export", "gone.csv"], "--export gone.csv: exists"), (["--export", "x", "--against", "y"], "four things to do"),
))
def test_mistakes_end_in_one_line(place, argv, message, tmp_path, monkeypatch):
    """What was given and what is needed; nothing is written."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(place / "0_0.png", tmp_path / "0_0.tmp")
    (tmp_path / "wrong.csv").write_text("patient,picture\na,b.png\n")
    (tmp_path / "blank.csv").write_text("who,picture\n,0_0.png\n"), (tmp_path / "gone.csv").write_text("who,picture\na,gone.png\n")
    if "blank.csv" in argv:
        shutil.copy(place / "0_0.png", tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        evaluation.main([str(place / "runs" / "vit"), "--device", "cpu", *argv])
    assert "\n" not in str(error.value) and sorted(os.listdir(tmp_path)) == before


# -----------------------------------------------------------------------------
# a folder for the Hub


def test_an_exported_vit_is_a_starting_point(place, tmp_path, capsys):
    """Renamed to transformers' layout and read back by --pretrained: every tensor but the head is the same; the upload is only printed."""
    evaluation.main([str(place / "runs" / "vit"), "--export", str(tmp_path / "hub")])
    assert f"hf upload ORG/NAME {tmp_path / 'hub'} ." in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "hub")) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert 'library_name: "transformers"' in (tmp_path / "hub" / "README.md").read_text()
    args = train.parse(["--model", "vit", "--pretrained", str(tmp_path / "hub"), "--dropout", "0.1"])
    model, line = train.build_model(args, [Task("other", "regression")])
    before, _, _ = train.open_model(str(place / "runs" / "vit"))
    assert model.config == before.config and "loaded" in line
    saved = before.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items() if not key.startswith("head."))


def test_what_is_uploaded_is_where_another_training_starts(place, tmp_path):
    """The exported ViT, and MultiViT's and LT-ViT's best/ as they are, on a Hub: --pretrained ORG/NAME takes every tensor of their ViT."""
    runs = place / "runs"
    export(str(runs / "vit"), str(tmp_path / "hub"))
    repos = {f"me/{name}": {"main": {file: (folder / file).read_bytes() for file in os.listdir(folder)}}
             for name, folder in (("vit", tmp_path / "hub"), ("multi", runs / "multi" / "best"), ("lt", runs / "lt" / "best"))}
    code = """if True:
        import torch, train
        from safetensors.torch import load_file
        from tables import Task
        for name, ours, theirs in (("vit", "", ""), ("multi", "", "stage1."), ("lt", "", "vit."), ("lt", "vit.", "vit.")):
            model, line = train.build_model(train.parse(["--model", "lt_vit" if ours else "vit", "--pretrained", f"me/{name}"]),
                                            [Task("other", "labels", ("a", "b"))])
            saved = load_file(f"%s/{name}/best/model.safetensors")
            mine = {key.removeprefix(ours): x for key, x in model.state_dict().items() if key.startswith(ours)}
            mine = {key: x for key, x in mine.items() if not key.startswith("head.")}
            print(len(mine) > 20 and all(torch.equal(x, saved[theirs + key]) for key, x in mine.items()), line)""" % runs
    with Hub(repos) as hub:
        lines = python(code, tmp_path / "home", hub.url).splitlines()
    assert [line.split()[0] for line in lines] == ["True"] * 4 and "only the stage1 of its multivit" in lines[1], lines


def test_any_other_model_keeps_its_own_format(place, tmp_path):
    """MultiViT: the same bytes, with a card, and --pretrained takes its ViT."""
    assert export(str(place / "runs" / "multi"), str(tmp_path / "hub")) == "pytorch"
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / "hub" / name).read_bytes() == (place / "runs" / "multi" / "best" / name).read_bytes()
    assert json.load(open(tmp_path / "hub" / "config.json"))["model"] == "multivit"


@pytest.mark.parametrize("config", (
    ViTConfig(image=(16, 16), patch=(4, 4), dim=16, depth=2, heads=2, mlp=32, eps=1e-12),
    ViTConfig(image=(16, 24), patch=(4, 8), channels=1, dim=24, depth=3, heads=3, mlp=40, qkv_bias=False, mean=(0.4,), std=(0.2,))),
    ids=("square", "oblong-grey"))
@pytest.mark.parametrize("kind", ("classes", "labels"))
def test_transformers_gives_the_same_logits(config, kind, tmp_path):
    """ViTForImageClassification.from_pretrained of the files we write; its own processor normalizes as the model does."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file
    try:
        theirs = transformers.ViTForImageClassification
    except ModuleNotFoundError as error:                           # such as a torchvision that does not fit torch
        pytest.skip(f"transformers is here and cannot be imported: {error}")
    torch.manual_seed(0)
    model = ViT(config, {"grade": 3}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_file(transformers_tensors(model.state_dict()), tmp_path / "model.safetensors", {"format": "pt"})
    json.dump(transformers_config(config, Task("grade", kind, ("a", "b", "c"))), open(tmp_path / "config.json", "w"))
    theirs, report = theirs.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert theirs.config.id2label[1] == "b"
    images = torch.randint(256, (4, config.channels, *config.image), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(model(images)["logits"]["grade"], theirs.eval()(model.normalize(images)).logits, atol=1e-5)
    if config.channels == 3:
        json.dump(preprocessor({"model": "vit", "vit": asdict(config)}), open(tmp_path / "preprocessor_config.json", "w"))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        pixels = processor(list(images.movedim(1, -1).numpy()), return_tensors="pt")["pixel_values"]
        assert torch.allclose(pixels, model.normalize(images), atol=1e-6)
        film = Image.fromarray(np.random.default_rng(0).integers(256, size=(6, 9), dtype=np.uint8)).resize((300, 200), 2)    # grey
        pixels = processor(film, return_tensors="pt")["pixel_values"]
        ours = model.normalize(torch.tensor(read_image(np.asarray(film), config.image)[0][None]))
        assert (pixels - ours).abs().max() < 0.05 and (pixels - ours).abs().mean() < 0.01           # ours resizes in two steps


def test_names_are_those_that_weights_py_reads(place):
    """Renaming there and back again, without transformers: every tensor comes home."""
    from weights import timm_names
    tensors = load_file(place / "runs" / "vit" / "best" / "model.safetensors")
    renamed = transformers_tensors(tensors)
    assert all(key.startswith(("vit.", "classifier.")) for key in renamed)
    back, layout = timm_names(renamed)
    head = {key: key.replace("head.grade.", "head.") for key in tensors}
    assert layout == "hf" and {head[key] for key in tensors} == set(back) and all(torch.equal(tensors[key], back[head[key]]) for key in tensors)
