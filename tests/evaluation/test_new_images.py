"""evaluation/new_images.py: new images get the predictions that evaluation gives them, and nothing is dropped silently."""
import csv
import os
import shutil
import sys
from types import SimpleNamespace

import pytest

import eval as evaluate
from evaluation import figures
from evaluation.new_images import load_images, predict_new
from plumbing.command import run_main
from plumbing.flags import read_args
from tests.plumbing.small_tables import write


def rows_of(path):
    return list(csv.DictReader(open(path)))


def test_patients(run):
    return sorted(row["patient"] for row in rows_of(run / "split.csv") if row["split"] == "test")


test_patients.__test__ = False


def as_folder(place, patients, to):
    """A sub-folder for each patient, as --predict takes it."""
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
        evaluate.main([str(run), "--predict", str(tmp_path / source), "--out", str(out), "--device", "cpu", *more])
        found = {row["patient"]: row for row in rows_of(out)}
        assert sorted(found) == patients and f"{len(patients)} patients in" in capsys.readouterr().out
        for patient, row in found.items():
            columns = [column for column in row if "predicted" in column]
            assert columns == [column for column in expected[patient] if "predicted" in column] and row["skipped"] == ""
            assert [float(row[c]) for c in columns] == pytest.approx([float(expected[patient][c]) for c in columns], rel=1e-3)
            for task in ("grade",) if "grade class" in row else ():       # the name of the largest probability
                shares = {c[len(task) + 1:-len("] predicted")]: float(row[c]) for c in columns if c.startswith(f"{task}[")}
                assert shares[row["grade class"]] == max(shares.values())
            assert len(row["images"].split("|")) == len(expected[patient]["images"].split("|"))


def test_a_broken_picture_stops_or_is_listed(place, tmp_path, capsys, monkeypatch):
    """Without the flag one line with its name, status 2 and no file; with it, its patient's last column, stderr, and everybody has a row."""
    run, source = place / "runs" / "multi", as_folder(place, ["p2"], tmp_path / "new")
    (source / "p2" / "broken.jpg").write_bytes(b"no picture")
    os.makedirs(source / "ghost"), (source / "ghost" / "x.png").write_bytes(b"")
    argv = ["eval.py", str(run), "--predict", str(source), "--out", str(tmp_path / "out.csv"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        run_main(evaluate.main)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and "not a readable image" in said and said.endswith("; --skip-broken lists such images and goes on")
    assert source.name in said and not os.path.exists(tmp_path / "out.csv")
    monkeypatch.setattr(sys, "argv", [*argv, "--skip-broken", "--figures", "1"])
    evaluate.main()
    shown, error = capsys.readouterr()
    rows = {row["patient"]: row for row in rows_of(tmp_path / "out.csv")}
    assert f"pictures of what the model looked at, in {tmp_path}/out-figures: 1\n" in shown
    assert set(rows) == {"p2", "ghost"} and error.count("skipped: ") == 2 and "broken.jpg" in error and "x.png" in error
    assert rows["p2"]["skipped"] == "p2/broken.jpg" and rows["ghost"]["skipped"] == "ghost/x.png" and rows["p2"]["images"].count("|") == 2
    assert float(rows["p2"]["redness predicted"]) and rows["ghost"]["redness predicted"] == rows["ghost"]["images"] == ""
    assert os.listdir(tmp_path / "out-figures") == ["patient_p2.png"]
    shutil.rmtree(source / "p2")
    evaluate.main([*argv[1:4], "--out", str(tmp_path / "none.csv"), "--skip-broken", "--device", "cpu"])
    assert [row["patient"] for row in rows_of(tmp_path / "none.csv")] == ["ghost"]


def test_new_images_are_drawn_under_the_maps_of_the_labels_it_is_surest_of(place, tmp_path, monkeypatch):
    """LT-ViT: one row per label, the surest first, with the CSV's number, under the maps of that label."""
    drawn = []
    monkeypatch.setattr(figures, "side_by_side", lambda pictures, captions, **rest: drawn.append(captions) or figures.draw_boxes(pictures[0], [], 1))
    as_folder(place, ["p0"], tmp_path / "new")
    evaluate.main([str(place / "runs" / "lt"), "--predict", str(tmp_path / "new"), "--out", str(tmp_path / "o.csv"), "--figures", "1",
                     "--device", "cpu"])
    said, = rows_of(tmp_path / "o.csv")
    said = {name: float(said[f"findings[{name}] predicted"]) for name in ("dots", "stripes")}
    maps = ["label's map", "label's map, mean of label blocks"]
    assert [row[0] for row in drawn[:-1]] == [f"{name} unknown, predicted {said[name]:.2f}" for name in sorted(said, key=said.get, reverse=True)]
    assert all(row[1:] == [f"{row[0]}: {name}" for name in maps] for row in drawn[:-1])    # each is understood alone
    assert os.listdir(tmp_path / "o-figures") == ["patient_p0.png"]


def test_pictures_beside_the_folders_are_patients_of_their_own(place, tmp_path):
    """first sub-folder = patient, however deep; hidden files and other files are no pictures."""
    as_folder(place, ["p1"], tmp_path / "new")
    shutil.copy(place / "0_0.png", tmp_path / "new" / "alone.png"), shutil.copy(place / "0_0.png", tmp_path / "new" / ".hidden.png")
    (tmp_path / "new" / "notes.txt").write_text("no picture")
    args = read_args(str(place / "runs" / "vit"))
    cohort = load_images(str(tmp_path / "new"), args)
    assert cohort.patients == ["alone.png", "p1", "p1"] and cohort.tasks == []
    with pytest.raises(ValueError, match="the run takes columns of a table as input; give a CSV with them"):
        load_images(str(tmp_path / "new"), args, columns=["sex"])


def test_a_run_of_class_folders_needs_no_ids_in_a_csv(place, tmp_path):
    """It had none: every image is a patient of its own, which a note says."""
    shutil.copy(place / "0_0.png", tmp_path / "a.png"), shutil.copy(place / "0_0.png", tmp_path / "b.png")
    (tmp_path / "new.csv").write_text("image\na.png\nb.png\n")
    args = read_args(str(place / "runs" / "vit"))
    args.data, args.patient_column, args.image_column = str(tmp_path), None, None
    cohort = load_images(str(tmp_path / "new.csv"), args)
    assert cohort.patients == ["a.png", "b.png"] and not cohort.patients_known
    (tmp_path / "new.csv").write_text("Patient,image\n7,a.png\n7,b.png\n")
    assert load_images(str(tmp_path / "new.csv"), args).patients == ["7", "7"]


def test_a_known_table_may_have_no_ids_either(place, tmp_path):
    """Its columns are those of the simulated patients, but for the ids."""
    shutil.copy(place / "0_0.png", tmp_path / "a.png")
    (tmp_path / "new.csv").write_text("image,pasi,pga,region\na.png,1,1,arm\n")
    args = read_args(str(place / "runs" / "vit"))
    args.data, args.patient_column, args.image_column = str(tmp_path), None, None
    assert load_images(str(tmp_path / "new.csv"), args).patients == ["a.png"]


def test_patients_the_run_learned_from_are_pointed_out(place, tmp_path, capsys):
    """They are predicted, with a note."""
    run = place / "runs" / "vit"
    learned = next(row["patient"] for row in rows_of(run / "split.csv") if row["split"] == "train")
    predict_new(str(run), str(as_folder(place, [learned], tmp_path / "new")), str(tmp_path / "out.csv"), device="cpu")
    assert f"1 of these patients, {learned} first" in capsys.readouterr().err


@pytest.mark.parametrize("argv, message", (
    (["--predict", "nowhere", "--out", "o.csv"], "--predict nowhere: no such file or folder"),
    (["--predict", ".", "--out", "o.csv"], "no picture .*below it; 5 of 5 files are left out (.csv 3, .tmp 1"),
    (["--predict", "."], "go together"), (["--out", "o.csv"], "--out goes together with --predict"),
    (["--skip-broken"], "--skip-broken goes together with --predict"),
    (["--predict", "wrong.csv", "--out", "o.csv"], "no column 'who'; --patient-column (where there are no ids: "),
    (["--predict", "blank.csv", "--out", "o.csv"], "blank.csv row 2, column who: '' names no patient"),
    (["--predict", "gone.csv", "--out", "o.csv"], "gone.csv row 2, column picture: 'gone.png' is no image"),
    (["--predict", "gone.csv", "--out", "gone.csv"], "--out gone.csv: exists"),
    (["--export", "gone.csv"], "--export gone.csv: exists"), (["--export", "x", "--against", "y"], "--against: not allowed with argument --export"),
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
        evaluate.main([str(place / "runs" / "vit"), "--device", "cpu", *argv])
    assert "\n" not in str(error.value) and sorted(os.listdir(tmp_path)) == before


def test_rows_of_one_image_are_one_image(place, tmp_path):
    """One row per box: the model sees the image once; folders of folders are said."""
    shutil.copy(place / "0_0.png", tmp_path)
    (tmp_path / "boxes.csv").write_text("who,picture,x\na,0_0.png,1\na,0_0.png,2\n")
    args = read_args(str(place / "runs" / "vit"))
    cohort = load_images(str(tmp_path / "boxes.csv"), args)
    assert cohort.patients == ["a"] and len(cohort.paths) == 1 and "2 rows name 1 images" in cohort.notes[0]
    as_folder(place, ["p1"], tmp_path / "new" / "site")
    assert load_images(str(tmp_path / "new"), args).patients == ["site", "site"]
    assert "the uppermost folder is taken as the patient" in load_images(str(tmp_path / "new"), args).notes[0]


@pytest.mark.parametrize("data", ("aptos", "train.csv"))
def test_the_test_table_of_aptos(data, tmp_path, monkeypatch):
    """test.csv has names alone, without their endings; a run on --data aptos, or on its table, finds its images."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "train.csv", "id_code,diagnosis", "00c,1")
    write(tmp_path, "test.csv", "id_code", "00a", "00b", images=("test_images/00a.png", "test_images/00b.png", "train_images/00c.png"))
    args = SimpleNamespace(data=data, image_column=None, patient_column=None, patient_regex=None, missing="nan")
    cohort = load_images(str(tmp_path / "test.csv"), args)
    assert [os.path.relpath(path, tmp_path) for path in cohort.paths] == ["test_images/00a.png", "test_images/00b.png"]
    assert cohort.patients == ["00a", "00b"] and not cohort.patients_known
