"""plumbing/tables.py: what spreadsheets write is read, and images are found below their folder."""
import os

import pytest

from plumbing.load_cohort import load_cohort
from plumbing.tables import read_csv
from plumbing.targets import numbers
from tests.plumbing.small_tables import generic, write


def test_bom_crlf_quotes_and_blank_lines(tmp_path):
    """What spreadsheets write is read; the row in a message is the line in the file."""
    generic(tmp_path)
    lines = ['\ufeffpatient_id,image,"a, ""b"""', '"O\'Neil, J",a.png, 1.5 ', '', 'p,b.png,"2', '"', 'q,c.png,x', '']
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode())
    header, rows = read_csv(str(tmp_path / "t.csv"))
    assert header == ["patient_id", "image", 'a, "b"'] and rows[1]['a, "b"'] == "2"
    assert rows[0] == {"patient_id": "O'Neil, J", "image": "a.png", 'a, "b"': "1.5", None: 2}
    with pytest.raises(ValueError, match="t.csv row 6, column a, \"b\": 'x' is not a number"):
        numbers("t.csv", rows, 'a, "b"')


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
