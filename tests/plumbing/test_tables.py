"""plumbing/tables.py: what spreadsheets and scripts write is read, or refused with how to convert it."""
import pytest

from plumbing.tables import blank_out, read_csv
from plumbing.targets import numbers
from plumbing.words import MISSING
from tests.plumbing.small_tables import generic


def test_bom_crlf_quotes_and_blank_lines(tmp_path):
    """What spreadsheets write is read; the row in a message is the line in the file."""
    generic(tmp_path)
    lines = ['\ufeffpatient_id,image,"a, ""b"""', '"O\'Neil, J",a.png, 1.5 ', '', 'p,b.png,"2', '"', 'q,c.png,x', '']
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode())
    header, rows = read_csv(str(tmp_path / "t.csv"))
    assert header == ["patient_id", "image", 'a, "b"'] and rows[1]['a, "b"'] == "2"
    assert rows[0] == {"patient_id": "O'Neil, J", "image": "a.png", 'a, "b"': "1.5", None: f"{tmp_path}/t.csv row 2"}
    with pytest.raises(ValueError, match="t.csv row 6, column a, \"b\": 'x' is not a number"):
        numbers(rows, 'a, "b"')


@pytest.mark.parametrize("text", (
    "patient_id;image;target\np;a.png;1,5\n", "patient_id\timage\ttarget\np\ta.png\t1,5\n", "patient_id|image|target\np|a.png|1,5\n",
    'sep=;\npatient_id;image;target\np;a.png;1,5\n', '# made by hand\n#with, a comma\n\npatient_id,image,target\np,a.png,"1,5"\n# the end\n',
    'patient_id,image,target,\np,a.png,"1,5",a remark\n', ',patient_id,image,target\n0,p,a.png,"1,5"\n', 'patient_id, image, target\rp, a.png, "1,5"\r,,\r',
    'patient_id\timage\ttarget\t,,,\np\ta.png\t1,5\t\n', 'patient_id;image;target;(a, b, c, d)\np;a.png;1,5;x\n',
    'patient_id,image,target,,\np,a.png,"1,5"\n', '\ufeff\ufeffpatient_id,image,target\np\u200b,a.png,"1,5"\n',
    'PK;patient_id;image;target\n1;p;a.png;1,5\n'))
def test_a_table_is_read_as_it_comes(tmp_path, text):
    """Semicolons, tabs, bars; comments, also that of Excel; columns without a name, the first or the last; blanks after a comma; \\r."""
    (tmp_path / "t.csv").write_bytes(text.encode())
    header, rows = read_csv(str(tmp_path / "t.csv"))
    names = ["patient_id", "image", "target"]
    assert [name for name in header if name in names] == names and len(rows) == 1
    assert [rows[0][name] for name in names] == ["p", "a.png", "1,5"]


def test_names_of_columns_may_have_several_lines(tmp_path):
    """As typed into a spreadsheet, also where semicolons divide the cells."""
    (tmp_path / "t.csv").write_bytes('\ufeffsep=;\r\n"Pat.\nNr.";Bild;"PASI\n(0-72, total)"\r\n7;a.jpg;1,5\r\n;;\r\n'.encode())
    header, rows = read_csv(str(tmp_path / "t.csv"))
    assert header == ["Pat. Nr.", "Bild", "PASI (0-72, total)"] and rows == [{"Pat. Nr.": "7", "Bild": "a.jpg", "PASI (0-72, total)": "1,5", None: f"{tmp_path}/t.csv row 5"}]


def test_the_row_in_a_message_is_the_line_in_the_file(tmp_path):
    """Comments count; a patient may be called #7; a column #."""
    (tmp_path / "t.csv").write_text("# one\n#,image\n# two\n#7,a.png\n\n#8,b.png\n")
    header, rows = read_csv(str(tmp_path / "t.csv"))
    assert header == ["#", "image"] and [(row["#"], row[None][-5:]) for row in rows] == [("#7", "row 4"), ("#8", "row 6")]
    (tmp_path / "t.csv").write_text("id,image\n#7,a.png,\n#8,b.png\n#9\n")
    assert [row["id"] for row in read_csv(str(tmp_path / "t.csv"))[1]] == ["#7", "#8"]       # a comma more makes no comment
    (tmp_path / "t.csv").write_text("id,image\n7,a.png\n#8,b.png\n9,c.png\n")
    with pytest.raises(ValueError, match="t.csv row 3: begins with # as comments do, but has all cells of a row"):
        read_csv(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("name, content, message", (
    ("t.csv", "a,b\n1,2\n".encode("utf-16"), "not a UTF-8 CSV file: UTF-16 text; iconv -f UTF-16 -t UTF-8 .*t.csv > utf8.csv"),
    ("t.csv", "a,b\n1,2\n".encode("utf-16-be"), "UTF-16 text"), ("t.csv", "a,b\n1,Jos\xe9\n".encode("cp1252"), "iconv -f WINDOWS-1252 -t UTF-8 .*t.csv > utf8.csv"),
    ("t.xlsx", b"PK\3\4 ...", r"Excel workbooks \(.xlsx\).*save it as CSV UTF-8"), ("t.csv", b"PK\3\4 ...", "a zip archive"), ("t.xls", b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    ("t.csv.gz", b"\x1f\x8b\x08", "compressed; gunzip -k .*t.csv.gz"), ("t.json", b' [{"a": 1}]', "JSON; .*to_csv"), ("t.json", b'\xef\xbb\xbf{"a": 1}', "JSON"),
    ("t.sav", b"$FL2@(#) SPSS", "of SPSS, .*; write it as CSV with the program"), ("t.csv", b"{\\rtf1", "or Word"), ("t.h5", b"\x89HDF\r\n", "HDF5"),
    ("t.sas7bdat", b"\0" * 12 + b"\xc2\xea", "of SPSS, Stata or SAS; write it as CSV"), ("t.mdb", b"\0\1\0\0Standard Jet DB", "of Access"), ("t.csv", "a,b\n1,良\n".encode("gbk"), "in China GB18030"),
    ("t.npz", b"PK\3\4 ...", "as Excel workbooks .*of .npz files a row names one"), ("t.npy", b"\x93NUMPY", "an array of NumPy"), ("t.png", b"\x89PNG", "a picture")))
def test_what_is_no_table_is_refused_with_how_to_convert_it(tmp_path, name, content, message):
    """In one line, by how the file begins."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_csv(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_words_for_a_blank():
    """Whatever their case; a word that only holds one stays; counted by column."""
    rows = [{"a": "NaN", "b": "nan", None: 2}, {"a": "N/A", "b": "nanette", None: 3}, {"a": "None", "b": "-1", None: 4}, {"a": "?", "b": "", None: 5}]
    assert blank_out(rows, MISSING) == {("a", "NaN"): 1, ("a", "N/A"): 1, ("a", "None"): 1, ("a", "?"): 1, ("b", "nan"): 1}
    rows.append({"a": "#GETTING_DATA", "b": "#SPILL!", None: 5})
    assert len(blank_out(rows, "default,nanette")) == 3 and [row["b"] for row in rows] == ["", "", "-1", "", ""] and rows.pop()["a"] == ""
    rows.append({"a": "default", "b": "nan", None: 5})
    assert not blank_out(rows, "default value") and blank_out(rows, "x,default") == {("b", "nan"): 1} and rows.pop()["a"] == "default"
    rows[1]["b"] = "nanette"
    rows.append({"a": "#NV", "b": "#VALEUR!", None: 6})              # of German and French spreadsheets
    assert len(blank_out(rows, MISSING)) == 2 and rows.pop()["a"] == ""
    assert [row["a"] for row in rows] == ["", "", "", ""] and [row["b"] for row in rows] == ["", "nanette", "-1", ""]
