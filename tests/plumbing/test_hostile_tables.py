"""Tables that nobody wrote in good faith, or that are very long; labels that a MedMNIST file must not hold."""
import hashlib
import io
import os
import re
import resource
import time

import numpy as np
import pytest
from PIL import Image

from plumbing import medmnist
from plumbing.cohort import SPLITS, per_patient
from plumbing.load_cohort import load_cohort
from plumbing.splits import split_patients
from tests.grey_runs import fork, refused, wait

pytestmark = pytest.mark.usefixtures("quiet")                      # conftest.py


@pytest.mark.parametrize("row, message", (
    ("p,i.png,1e300", "'1e300' is not a number"), ("p,i.png,1_0", "'1_0' is not a number"), ("p,i.png,+nan", "'+nan' is not a number"),
    ("p,i.png,-inf", "'-inf' is not a number"), ("p,i\0.png,1", "row 2: not a UTF-8 CSV file (line contains NUL)"), ("p\0,i.png,1", "line contains NUL"), ("p," + "a/" * 60_000 + "i.png,1", "no image"),
    ("p,i.png," + "9" * 200_000, "field larger than field limit"), ("p,\ud800.png,1", None), ("p,%s,1" % ("../" * 9 + "etc/passwd"), "leaves the image folder")), ids=lambda value: str(value)[:20])
def test_hostile_cells(tmp_path, row, message):
    """Numbers float32 cannot hold, or that only Python takes for numbers; lines, NUL, endless paths and cells, all in one line."""
    Image.new("RGB", (8, 8)).save("i.png")
    (tmp_path / "t.csv").write_bytes(("patient_id,image,target\n" + row + "\nq,i.png,2.5\n").encode("utf-8", "surrogatepass"))
    began, said = time.perf_counter(), refused(load_cohort, "t.csv")
    assert (message or "not a UTF-8 CSV file") in said and time.perf_counter() - began < 2


def test_a_header_with_lines_in_it(tmp_path):
    """Lists of columns in messages stay one line."""
    (tmp_path / "t.csv").write_text('patient_id,image,"two\nlines"\np,i.png,1\n')
    assert "there are 'patient_id', 'image', 'two lines'" in refused(load_cohort, "t.csv", None, None, None, "x")


def test_links_are_followed_but_no_table_leaves_the_folder(tmp_path):
    """Whoever owns the folder may link it to a large disk; `link/..` is still this folder, not what lies beside the link's target."""
    os.makedirs("disk/images"), os.makedirs("home")
    Image.new("RGB", (8, 8)).save("disk/images/a.png"), Image.new("RGB", (8, 8)).save("disk/secret.png")
    os.symlink("../disk/images", "home/images"), os.symlink("loop", "home/loop")
    (tmp_path / "home/t.csv").write_text("patient_id,image,target\np,images/a.png,1.5\nq,images/a.png,2\n")
    assert load_cohort("home/t.csv").paths == [str(tmp_path / "home/images/a.png")] * 2
    for path in ("images/../secret.png", "images/../../disk/secret.png", "loop/b.png"):
        (tmp_path / "home/t.csv").write_text(f"patient_id,image,target\np,{path},1.5\n")
        assert re.search("leaves the image folder|no image", refused(load_cohort, "home/t.csv"))


def test_medmnist_labels_out_of_range_are_refused(tmp_path, monkeypatch):
    """A class that the model has no output for, a negative one, more labels than outputs, float images."""
    def arrays(label, image=np.uint8, width=1):
        buffer = io.BytesIO()
        np.savez(buffer, **{f"{split}_{what}": np.zeros((2, 4, 4), image) if what == "images" else np.full((2, width), label)
                            for split in SPLITS for what in ("images", "labels")})
        return buffer.getvalue()

    for content, message in ((arrays(2), "from 2 to 2"), (arrays(-1), "from -1"), (arrays(0, width=3), r"\(6, 3\)"), (arrays(0.5), "from 0.5"),
                             (arrays(0, float), "float64 images")):
        monkeypatch.setattr(medmnist, "MEDMNIST", f"breastmnist classes 2 {hashlib.md5(content).hexdigest()[:24]} 0 0 0\n")
        open("breastmnist.npz", "wb").write(content)
        assert re.search(message, refused(load_cohort, "medmnist:breastmnist", *[None] * 5, "zeros", "zeros", "."))


@pytest.mark.slow
def test_a_million_rows_take_less_than_three_gigabytes(tmp_path):
    """And they end: five minutes are far more than any machine needs."""
    Image.new("RGB", (8, 8)).save("a.png")
    with open("t.csv", "w") as file:
        file.write("patient_id,image,target\n")
        file.writelines(f"p{i},a.png,{i // 3 % 50 + 0.5}\n" for i in range(10 ** 6))

    def read():
        began = time.perf_counter()
        cohort = per_patient(load_cohort("t.csv"))
        cohort.pixels = np.arange(10 ** 6, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2) # as if all pictures differed
        indices, _ = split_patients(cohort)
        print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, sum(map(len, indices.values())))

    status, said = wait(fork(read))
    seconds, gigabytes, rows = map(float, said.split())
    assert status == 0 and rows == 10 ** 6 and seconds < 300 and gigabytes < 3, said
