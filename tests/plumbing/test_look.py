"""plumbing/look.py: train.py --check says how the data are understood, draws five of them, and trains nothing."""
import os

import numpy as np
import pytest
from PIL import Image

from plumbing.cohort import Cohort
from plumbing.look import describe_column, describe_files
from train import main
from tests.plumbing.small_tables import write


@pytest.mark.parametrize("cells, text", (
    (["1", "2.5", "", "1"], "1 (2), 2.5 (1), 1 blank"),
    (["F", "M", "F"], "F (2), M (1), 0 blank"),
    ([f"{i}.png" for i in range(9)], "0.png to 8.png, 9 different, 0 blank"),
    ([str(i) for i in range(8, 13)] * 2 + ["7", "0.5"], "0.5 to 12, 7 different, 0 blank"),
    (["", ""], "nothing, 2 blank"),
))
def test_columns_in_words(cells, text):
    """A few with their counts, many by their ends; numbers in the order of their values."""
    assert describe_column(cells) == text


def test_sizes_and_bit_depths(tmp_path):
    """Of pictures and arrays from their headers; a file that cannot be read is named; what is read of several pages."""
    grey, color = np.zeros((4, 6), np.uint16), np.zeros((4, 6, 3), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png"), Image.fromarray(color).save(tmp_path / "color.png")
    Image.fromarray(color).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.fromarray(color)])
    np.save(tmp_path / "a.npy", grey), (tmp_path / "broken.png").write_text("x"), (tmp_path / "junk.png").write_text("y")
    paths = [str(tmp_path / name) for name in ("grey.png", "color.png", "pages.tif", "a.npy", "broken.png", "junk.png")]
    lines, headers = describe_files(Cohort("c", [], list("abcdef"), paths, {}))
    assert list(headers) == [0, 1, 2, 3]
    assert lines[0] == ("files, 6 of 6 looked at: cannot be read 2, PNG uint16 1, PNG uint8 1, TIFF uint8 1, array uint16 1; 4 x 6")
    assert lines[1].startswith(f"WARNING: cannot be trained: {tmp_path}/broken.png: not a readable image")
    assert lines[2].startswith("1 arrays, the first of 4 x 6 uint16, are read as pictures") and "1 of 4 files hold several pages" in lines[3]


def check(capsys, *argv):
    """-> what train.py --check prints, line by line."""
    main([*argv, "--check"])
    return capsys.readouterr().out.splitlines()


def test_a_table_is_understood_before_it_is_trained(table, tmp_path, capsys, monkeypatch):
    """Targets with counts, whole and by split, columns, patients, files, pictures, and the command without --check."""
    monkeypatch.chdir(tmp_path)
    lines = check(capsys, "--data", table, "--target", "redness:regression,dot:classes", "--fold", "1")
    text = "\n".join(lines)
    assert "photos: 39 images of 20 patients, up to 3 each, such as p0" in lines and "column sex: " in text
    assert any(line.startswith("  train: dot 0 ") for line in lines) and any(line.startswith("split by patient") for line in lines)
    assert any(line.startswith("files, 39 of 39 looked at: PNG uint8 39; 20 x 24 to 39 x 24") for line in lines)
    assert lines[-1] == f"train with: python train.py --data {table} --target redness:regression,dot:classes --fold 1"
    with Image.open("runs/photos-check.png") as sheet:
        assert sheet.size == (800, 160) and "runs/photos-check.png: 0_0.png, " in text
    assert os.listdir("runs") == ["photos-check.png"]


@pytest.mark.parametrize("shape, channels", (((2, 4, 8, 8), 2), ((8, 8), 1), ((8, 8), 7)))
def test_as_many_channels_are_drawn_as_the_model_sees(shape, channels, tmp_path, capsys):
    """Those of a volume that stand in front, or one of grey: in grey; nothing says that it would need three."""
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", np.full(shape, 20 * i, np.uint8))
    table = write(tmp_path, "t.csv", "patient_id,image,y", *[f"p{i},{i}.npy,{i % 2}" for i in range(12)])
    lines = check(capsys, "--model", "vit", "--target", "y:classes", "--data", table, "--channels", str(channels), "--runs", str(tmp_path / "runs"))
    assert any(line.startswith("five pictures are in ") for line in lines), lines
    assert np.asarray(Image.open(tmp_path / "runs" / "t-check.png")).shape == (160, 800, 3)


def test_what_takes_another_model(volumes, slides, tmp_path, capsys, monkeypatch):
    """The command names a model that takes volumes, or bags, and why."""
    monkeypatch.chdir(tmp_path)
    lines = check(capsys, "--data", volumes, "--model", "crossvit")
    assert lines[-1] == f"train with: python train.py --data {volumes} --model crossvit --model vit   (volumes holds volumes, not for crossvit)"
    assert any(line.endswith("array int16 20; 6 x 16 x 16") for line in lines)
    lines = check(capsys, "--data", slides)
    assert "no pictures: bags of vectors" in lines and "not for multivit" in lines[-1]


def test_class_folders_are_looked_at(tmp_path, capsys, monkeypatch):
    """Images, not patients; what is left out; a broken picture is a line."""
    monkeypatch.chdir(tmp_path)
    names = [f"d/{name}/{i}.png" for name in "ab" for i in range(8)]
    write(tmp_path, "d/a/x.gif", "x", images=names)
    (tmp_path / "d/a/0.png").write_text("no picture")
    lines = check(capsys, "--data", "d")
    assert "d: 16 images, not patients" in lines and "1 of 17 files are left out (.gif 1)" in lines
    assert any("cannot be read 1" in line for line in lines) and any(line.startswith("no pictures: d/a/0.png") for line in lines)


def test_black_pictures_and_two_kinds_of_files_are_said(tmp_path, capsys, monkeypatch):
    """Masks of 0 and 1, and a volume among pictures."""
    monkeypatch.chdir(tmp_path)
    for i in range(16):
        os.makedirs(f"d/{'ab'[i % 2]}", exist_ok=True)
        Image.fromarray(np.uint8(np.arange(16).reshape(4, 4) == i)).save(f"d/{'ab'[i % 2]}/{i}.png")
    assert "WARNING: they are black, as no grey value is above 1 of 255" in "\n".join(check(capsys, "--data", "d"))
    np.save("d/a/volume.npy", np.zeros((9, 8, 7), np.uint8))
    assert "WARNING: cannot be trained: d holds pictures (d/a/0.png) and volumes (d/a/volume.npy)" in "\n".join(check(capsys, "--data", "d"))


def test_flags_that_training_would_refuse_are_said(volumes, tmp_path, capsys):
    """Those that do not go with the data, and of torchrun's processes one says it."""
    lines = check(capsys, "--model", "vit", "--data", str(volumes), "--runs", str(tmp_path), "--fit", "pad")
    assert "WARNING: cannot be trained: --fit pad: volumes holds volumes, to which it does not apply" in lines


def test_of_several_processes_one_looks(volumes, tmp_path, capsys, monkeypatch):
    """torchrun starts --check as often as a training."""
    monkeypatch.setenv("RANK", "1")
    assert check(capsys, "--model", "vit", "--data", str(volumes), "--runs", str(tmp_path)) == []


def test_what_training_would_refuse_is_said(tmp_path, capsys):
    """A target that never changes."""
    write(tmp_path, "t.csv", "patient_id,image,target", *(f"p{i},{i}.png,yes" for i in range(12)), images=[f"{i}.png" for i in range(12)])
    main(["--data", str(tmp_path / "t.csv"), "--runs", str(tmp_path), "--check"])
    assert "WARNING: cannot be trained: target: nothing but yes in the training split, nothing to learn from" in capsys.readouterr().out
