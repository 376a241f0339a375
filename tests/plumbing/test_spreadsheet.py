"""plumbing/spreadsheet.py: no cell that a run writes is a formula, and reading gives back what was written."""
import csv

import pytest

from plumbing.run_folder import write_csv
from plumbing.spreadsheet import plain, read_cells, safe


@pytest.mark.parametrize("cell, written", (
    ("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("+1+1", "'+1+1"), ("-p", "'-p"), ("@x", "'@x"), ("\t=x", "'\t=x"), ("'=x", "''=x"), ("''@", "'''@"),
    ("-0.5", "-0.5"), ("+3", "+3"), ("-1e-05", "-1e-05"), ("'quoted'", "'quoted'"), ("p1", "p1"), ("", ""), ("a=b", "a=b"),
))
def test_no_cell_is_a_formula(cell, written):
    """Numbers stay numbers, and `plain` takes away what `safe` added."""
    assert safe(cell) == written and plain(written) == cell


def test_what_is_written_is_read_again(tmp_path):
    """Names of columns too; numbers that are no texts pass."""
    rows = [["patient", "=1+1 target"], ["=cmd()", "-2"], ["'+x", -3.5]]
    write_csv(str(tmp_path / "a.csv"), rows)
    with open(tmp_path / "a.csv", newline="") as file:
        assert not [cell for row in csv.reader(file) for cell in row if cell[:1] in tuple("=+@")]
    assert read_cells(tmp_path / "a.csv") == [{"patient": "=cmd()", "=1+1 target": "-2"}, {"patient": "'+x", "=1+1 target": "-3.5"}]
