"""plumbing/reading.py: what a run says of its files, and the window that it keeps."""
import json
import os

import numpy as np
import pytest
from PIL import Image

import train
from evaluation.new_images import predict_new
from plumbing.flags import parse, read_args
from plumbing.headers import Header
from plumbing.pictures import read, read_image
from plumbing.prepare import load_data
from plumbing.reading import choose_window, evenly, look_at_new, note_on_fit, notes_on_files
from tests.plumbing.small_tables import cohort_of
from tests.small_runs import fails, fit


RUN = ("--model", "vit", "--image", "16", "--patch", "8", "--epochs", "1", "--batch-size", "8", "--workers", "0", "--device", "cpu",
       "--name", "r")


def films(folder, count=20, **numbers):
    """A table of 16-bit films, of which the second half is brighter. numbers: {patient's number: array}."""
    rng, lines = np.random.default_rng(0), ["patient_id,image,label"]
    for i in range(count):
        film = rng.integers(0, 1000 + 3000 * (i >= count // 2), (20, 24)).astype(np.uint16)
        Image.fromarray(numbers.get(f"p{i}", film)).save(folder / f"{i}.png")
        lines.append(f"p{i},{i}.png,{'no' if i < count // 2 else 'yes'}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "t.csv")


def test_all_images_of_a_run_have_one_window(quiet, tmp_path, capsys):
    """It is fitted to training images, said, kept in args.json, and used for new images: bright films stay brighter."""
    table = films(tmp_path)
    train.main(["--data", table, *RUN])
    output, saved = capsys.readouterr().out, read_args("runs/r")
    assert "the window is fitted to 14 training images: 99 % of their numbers lie in it" in output
    assert f"20 of 20 images hold more than 8 bits: --window={saved.window} becomes 0 .. 255" in output
    low, high = map(float, saved.window.split(":"))
    assert low < 20 and 3800 < high < 4000
    cohort = load_data(saved)
    dark, bright = (read(cohort, i, (16, 16))[0].mean() for i in (0, 19))
    assert bright / dark == pytest.approx(4, rel=0.1)
    assert predict_new("runs/r", table, "new.csv", device="cpu") == "20 patients"


def test_a_run_from_before_has_each_images_own_range(quiet, tmp_path):
    table = films(tmp_path)
    fit(["--data", table, *RUN, "--window", "own"])
    saved = json.load(open("runs/r/args.json"))
    del saved["window"]
    json.dump(saved, open("runs/r/args.json", "w"))
    assert read_args("runs/r").window == "own"


def test_a_broken_test_picture_is_found_before_the_first_step(quiet, tmp_path, monkeypatch, capsys):
    """Whichever it is; --no-check-files leaves it to the reader."""
    table = films(tmp_path)
    os.truncate(tmp_path / "7.png", 60)
    assert "7.png: not a readable image" in fails(["--data", table, *RUN], monkeypatch, capsys)
    assert not os.path.exists("runs/r")


def test_lines_about_files_that_leave_a_choice():
    headers = {0: Header("PNG", (40, 30), alpha=True), 1: Header("TIFF", (40, 30), "uint16", pages=True), 2: Header("array", (40, 40, 3))}
    lines = notes_on_files(headers, cohort_of("pqr", [0, 1, 2]))
    assert lines[0].startswith("1 arrays, the first of 40 x 40 x 3 uint8, are read as pictures; --image with two sides")
    assert "1 of 3 files hold several pages, frames or volumes: the first is read, unless --image" in lines[1] and "alpha" in lines[2]


def test_images_on_another_scale_have_a_warning(tmp_path):
    """Half of the arrays from 0 to 1, half from 0 to 255: the first would be black."""
    lines, rng = ["patient_id,image,label"], np.random.default_rng(0)
    for i in range(20):
        np.save(tmp_path / f"{i}.npy", np.float32(rng.random((20, 20, 3)) * (1 if i < 4 else 255)))
        lines.append(f"p{i},{i}.npy,{'no' if i % 2 else 'yes'}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    args = parse(["--data", str(tmp_path / "t.csv"), "--model", "vit"])
    cohort = load_data(args)
    notes = choose_window(args, cohort, {}, range(20))
    assert notes[2].startswith("WARNING: 4 of 20 images fill less than 5% of the run's window, as ") and len(notes) == 3


@pytest.mark.parametrize("window, factor, type, lines", (
    ("auto", 1, np.uint16, ["WARNING: 20 of 20 images hold more than 8 bits or state a window, and the run has none: of each"]), ("auto", 1, np.uint8, []),
    ("0:4000", 1, np.uint16, ["20 of 20 images hold more than 8 bits: --window=0:4000 becomes 0 .. 255"]),
    ("own", 1, np.uint16, ["20 of 20 images hold more than 8 bits: --window=own becomes"]),
    ("0:4000", 1, np.uint8, ["WARNING: 0 of 20 images hold more than 8 bits: --window=0:4000 becomes 0 .. 255, the others are taken as they are"]),
    ("0:90000", 1, np.uint16, ["20 of 20", "WARNING: 20 of 20 images fill less than 5% of the run's window"]),
    ("4000:4100", 1, np.uint16, ["20 of 20", "WARNING: 20 of 20 images fill less than 5% of the run's window"]),
    ("0:2000", 16, np.uint16, ["20 of 20"])))
def test_new_images_that_the_window_is_not_made_for_have_a_warning(window, factor, type, lines, tmp_path):
    """Of another depth than the images of the run, or on another scale."""
    film = np.arange(480).reshape(20, 24) * (8 * factor if type == np.uint16 else 0.5)
    table = films(tmp_path, **{f"p{i}": film.astype(type) for i in range(20)})
    args = parse(["--data", table, "--model", "vit", "--window", window])
    notes = look_at_new(args, load_data(args))
    assert len(notes) == len(lines) and all(note.startswith(line) for note, line in zip(notes, lines))


def test_files_that_were_not_looked_at_have_no_warning(tmp_path):
    """With --no-check-files nobody knows how many bits they hold."""
    table = films(tmp_path, **{f"p{i}": np.full((20, 24), 1000, np.uint16) for i in range(3)})
    args = parse(["--data", table, "--model", "vit", "--window", "own", "--no-check-files"])
    assert not any("WARNING" in note for note in look_at_new(args, load_data(args)))


def test_a_line_about_lost_shape():
    headers = {0: Header("PNG", (100, 200)), 1: Header("PNG", (100, 105)), 2: Header("PNG", (50, 60))}
    [line] = note_on_fit(headers, (64, 64), "stretch")
    assert line == "2 of 3 pictures lose more than 10% (at most 50%, of 100 x 200 px) of their shape or area by --fit stretch; --fit pad keeps both"
    assert "shape or area by --fit crop; --fit pad keeps both" in note_on_fit(headers, (64, 64), "crop")[0]
    assert not note_on_fit(headers, (64, 64), "pad") and not note_on_fit({1: headers[1]}, (64, 64), "stretch")


@pytest.mark.slow
def test_pages_are_a_volume_when_asked(quiet, tmp_path, capsys):
    """--image with three sides; otherwise a line says that the first page is read."""
    lines = ["patient_id,image,label"]
    for i in range(20):
        pages = [Image.fromarray(np.full((16, 16), 10 * page + i, np.uint8)) for page in range(8)]
        pages[0].save(tmp_path / f"{i}.tif", save_all=True, append_images=pages[1:])
        lines.append(f"p{i},{i}.tif,{i % 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    argv = ["--data", str(tmp_path / "t.csv"), "--target", "label:classes", *RUN]
    args = parse(argv[:argv.index("--image")] + ["--image", "8x16x16"] + argv[argv.index("--image") + 2:])
    volume, _ = read(load_data(args), 1, (8, 16, 16), channels=1)
    assert volume[0, :, 0, 0].tolist() == [1, 11, 21, 31, 41, 51, 61, 71]
    train.main([*argv[:-2], "--image", "8x16x16", "--name", "v"])
    assert json.load(open("runs/v/args.json"))["image"] == "8x16x16"
    train.main(argv)
    assert "20 of 20 files hold several pages, frames or volumes: the first is read" in capsys.readouterr().out


@pytest.mark.parametrize("shape", ((20, 20), (20, 20, 3), (3, 20, 20)))
def test_pictures_in_npy_are_read_as_their_png(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.save(tmp_path / "a.npy", array)
    upright = array.transpose(1, 2, 0) if shape[0] == 3 else array
    Image.fromarray(upright).save(tmp_path / "a.png")
    for channels in (1, 3):
        low, high = read_image(str(tmp_path / "a.npy"), (8, 8), 2, channels)
        expected = read_image(str(tmp_path / "a.png"), (8, 8), 2, channels)
        np.testing.assert_array_equal(low, expected[0]), np.testing.assert_array_equal(high, expected[1])


@pytest.mark.parametrize("count", (1, 29, 30, 31, 59, 200))
def test_images_of_a_window_are_of_the_whole_run(count):
    """The first and the last are among them, none twice, at most thirty."""
    chosen = evenly(list(range(count)))
    assert chosen[0] == 0 and chosen[-1] == count - 1 and len(set(chosen)) == len(chosen) == min(count, 30)
    assert evenly([]) == []


def test_a_window_of_the_run_is_for_more_than_8_bits(tmp_path):
    """One of 8 bits that states a window of its own is none to fit it to, and is then taken as it is."""
    args = parse(["--data", films(tmp_path), *RUN])
    cohort = load_data(args)
    headers = {i: Header("DICOM", (20, 24), "uint16") for i in range(20)}
    headers[0] = Header("DICOM", (20, 24), window=(0, 255))
    lines = choose_window(args, cohort, headers, range(10))
    assert lines[0].startswith("the window is fitted to 9 training images")
    assert lines[1] == f"WARNING: 19 of 20 images hold more than 8 bits: --window={args.window} becomes 0 .. 255, the others are taken as they are"
