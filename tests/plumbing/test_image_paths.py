"""plumbing/image_paths.py: the file that the table means, found where there is no doubt, else refused."""
import os
import re
import unicodedata

import pytest
from PIL import Image

from plumbing.image_paths import find_images
from plumbing.load_cohort import load_cohort
from tests.plumbing.small_tables import write


def found(folder, names, files, root=None):
    """Look for the names below a folder of pictures that all differ; -> paths below it, and notes."""
    for i, file in enumerate(files):
        os.makedirs(os.path.dirname(folder / file), exist_ok=True)
        Image.new("RGB", (4, 4), (i, 9, 9)).save(folder / file, format="PNG")
    rows = [{"image": name, None: f"row {i + 2}"} for i, name in enumerate(names)]
    paths, notes = find_images(rows, "image", str(root or folder))
    return [os.path.relpath(path, folder) for path in paths], notes


@pytest.mark.parametrize("names, files, right", (
    (("a.png", "b"), ("a.png", "x/y/b.png"), None),                # bare names, with their ending or without
    (("m/a.png", "n/a.png"), ("m/a.png", "n/a.png", "a.png"), None),
    (("m/a.png", "n/a.png"), ("x/m/a.png", "x/n/a.png"), None),    # further below
    (("top/m/a.png", "top/n/a.png"), ("m/a.png", "n/a.png"), None),        # from further above
    (("TCGA-05.1a", "TCGA-05.2b"), ("TCGA-05.1a.png", "TCGA-05.2b.png"), None),
    (("m\\a.png", "n\\a.png"), ("m/a.png", "n/a.png"), None),
    (("C:\\scans\\m\\a.png", "C:\\scans\\n\\a.png"), ("m/a.png", "n/a.png"), "'C:.*' is m/a.png"),
    (("/home/me/scans/a.png", "/home/me/scans/b.png"), ("a.png", "b.png"), "2 of 2 images .* is a.png"),
    (("https://host.org/scans/a.png", "https://host.org/scans/b.png"), ("a.png", "b.png"), "2 of 2 images .* is a.png"),
    (("../scans/a.png", "../scans/b.png"), ("scans/a.png", "scans/b.png"), "is scans/a.png"),
    (("A.PNG", "b.png"), ("a.png", "b.png"), "1 of 2 images .*'A.PNG' is a.png"),
    (("IMG/a.png", "IMG/b.png"), ("img/a.png", "img/b.png"), "'IMG/a.png' is img/a.png"),
    (("a.dcm", "b.dcm"), ("a.png", "m/b.png"), "2 of 2 .*'a.dcm' is a.png"),
    ((unicodedata.normalize("NFC", "j\xe9.png"), "b.png"), (unicodedata.normalize("NFD", "j\xe9.png"), "b.png"), "1 of 2"),
    (("a.png", "a.jpg"), ("a.png", "a.jpg"), None), (("a.png", "b.png"), ("a\u200b.png", "b.png"), "1 of 2"),
    (("A.png", "a.png"), ("A.png", "a.png"), None),
))
def test_names_are_found_where_there_is_no_doubt(tmp_path, names, files, right):
    """Each name its own file; a spelling that differs is said."""
    paths, notes = found(tmp_path, names, files)
    assert paths == list(files)[:2]
    if right is None:
        assert notes == []
    else:
        assert re.search(right, notes[0])


@pytest.mark.parametrize("names, files, message", (
    (("anna/scan.png", "bert/scan.png"), ("anna/scan.png", "scan.png"), r"row 3, .*'bert/scan.png' is no image .*\(1 of 2 rows\); .*scan.png is in another folder"),
    (("bert/scan.png",), ("scan.png",), "'bert/scan.png' is no image"),
    (("bert/1.png", "bert/2.png"), ("anna/1.png", "anna/2.png"), r"\(2 of 2 rows\); anna/1.png is in another folder"),
    (("/x/y/a.png", "/x/y/b.png"), ("m/a.png", "b.png"), "row 2, .*'/x/y/a.png' leaves the image folder"),
    (("train/1.png", "test/1.png"), ("train/1.png",), "row 3, .*'test/1.png' is no image"),
    (("a.png",), ("m/a.png", "n/a.png"), "may be .*m/a.png or .*n/a.png; --images"),
    (("x",), ("x.png", "x.jpg"), "may be .*x.(jpg|png) or .*x.(jpg|png)"),
    (("X.png",), ("x.png", "m/x.PNG"), "may be"),
    (("a.png", "A.png"), ("a.png",), "and 'A.png' in row 3 would both be .*a.png"),
    (("A.png", "a.png"), ("a.png",), "and 'A.png' in row 2 would both be .*a.png"),
    (("a.png", "a.dcm"), ("a.png",), "would both be"),
    (("../a.png",), ("m/a.png",), "'../a.png' leaves the image folder .*--images"),
    (("../u/a.png",), ("a.png",), "leaves the image folder"),
    (("/etc/passwd",), ("a.png",), "leaves the image folder"), (("../u2/a.png",), ("b.png",), "leaves the image folder"),
    (("a.png|b.png",), ("a.png", "b.png"), "is no image"), (("series1",), ("series1/a.png",), "'series1' is a folder; need a row for each image in it"),
    (("ID_12_epidural",), ("t/ID_12.png",), "; t/ID_12.png has the nearest name; --images"),             # RSNA hemorrhage
    (("I45108",), ("ADNI_002_S_0295_I45108.png",), "; ADNI_002_S_0295_I45108.png has the nearest name"),
))
def test_names_in_doubt_are_refused(tmp_path, names, files, message):
    """Another folder's file of the same name is never taken; of two that it may be neither; nothing outside of the folder."""
    with pytest.raises(ValueError, match=message) as error:
        found(tmp_path, names, files)
    assert "\n" not in str(error.value)


def test_files_of_another_kind_are_named(tmp_path):
    """The features are there, and are not read: the refusal says so."""
    path = write(tmp_path, "t.csv", "image", "s1", images=())
    (tmp_path / "s1.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'s1' is no image .*; 2 of 2 files are left out \(.*\.h5 1.*; --images"):
        find_images([{"image": "s1", None: "row 2"}], "image", str(tmp_path))


def test_the_folder_itself_may_be_named(tmp_path):
    """img/a.png is a.png, where the images lie in a folder that is called img."""
    assert found(tmp_path / "img", ("img/a.png", "img/b.png"), ("a.png", "b.png")) == (["a.png", "b.png"], [])


def test_an_image_that_could_be_two_is_refused(tmp_path):
    """A name alone finds a file anywhere below, but not when two different ones have it; equal copies do no harm."""
    path = write(tmp_path, "t.csv", "patient_id,image,target", "p,x,0.5", "q,y,1.5", images=("m/x.png", "n/x.png", "m/y.png"))
    with pytest.raises(ValueError, match=r"row 2, column image: 'x' may be .*m/x.png or .*n/x.png; --images"):
        load_cohort(path)
    (tmp_path / "n/x.png").write_bytes((tmp_path / "m/x.png").read_bytes())
    assert load_cohort(path).paths == [str(tmp_path / "m/x.png"), str(tmp_path / "m/y.png")]


def test_volumes_are_found_by_their_names(tmp_path):
    """A CSV of .npy and .npz files, with their ending or without it."""
    write(tmp_path, "t.csv", "patient_id,image,target", "p,a.npy,1.5", "q,b,2.5")
    for name in ("a.npy", "b.npz"):
        (tmp_path / name).write_bytes(b"")
    assert [os.path.basename(path) for path in load_cohort(str(tmp_path / "t.csv")).paths] == ["a.npy", "b.npz"]


def test_two_files_of_one_name_length_and_time_are_two_images(tmp_path):
    """As an archive leaves them; copies byte for byte are one."""
    for name, content in (("m/a.png", b"one"), ("n/a.png", b"two")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1e9, 1e9))
    rows = [{"image": "a.png", None: "row 2"}]
    with pytest.raises(ValueError, match="may be .*a.png or .*a.png; --images names the folder, or the table says which"):
        find_images(rows, "image", str(tmp_path))
    (tmp_path / "n/a.png").write_bytes(b"one")
    assert find_images(rows, "image", str(tmp_path))[0][0].endswith("a.png")


def test_the_name_of_the_folder_counts_as_its_part_of_a_path(tmp_path):
    """/mnt/train/1.png may be 1.png in the folder train, or train/1.png in a folder inside it; the ending decides where it can."""
    folder = tmp_path / "train"
    assert found(folder, ["/mnt/train/1.png"], ["1.png", "masks/train/1.jpg"])[0] == ["1.png"]
    with pytest.raises(ValueError, match="may be .*train/1.png or .*train/1.png; --images"):
        found(folder, ["/mnt/train/1.png"], ["1.png", "masks/train/1.png"])
