import os
import subprocess
import sys

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evaluation.picture_file import picture_name, read_picture, save_picture
from tests.hub import ROOT


def test_names_are_short_and_never_meet():
    """A digest stands for what a name cannot hold."""
    names = ["patient_a/b", "patient_a_b", "patient_a:b", "x" * 300 + "1", "x" * 300 + "2", "\u4e2d" * 90, "a\ud800"]
    files = [picture_name(name) for name in names]
    assert len(set(files)) == len(names) and max(len(os.fsencode(file)) for file in files) < 255
    assert picture_name("pasi_errors") == "pasi_errors.png" and not any("/" in file or ":" in file for file in files)


def test_words_and_pieces_are_read_back(tmp_path):
    """The same bytes twice; of a file without words, and of words that are none, the whole picture is one piece."""
    sheet = Image.new("RGB", (30, 20), "white")
    sheet.paste((200, 0, 0), (5, 5, 15, 10))
    sheet.info["pieces"] = [(5, 5, 10, 5, "<b>\u00e9"), (25, 5, 5, 10, "beside"), (0, 15, 1, 1, "below")]
    save_picture(sheet, tmp_path, "a", "title", "text")
    name = "a.png"
    title, text, [[(piece, caption), (rest, _)], [below]] = read_picture(tmp_path / name)
    assert (title, text, caption) == ("title", "text", "<b>\u00e9") and rest.size == (5, 10) and below[1] == "below"
    assert piece.size == (10, 5) and piece.getcolors() == [(50, (200, 0, 0))]
    first = (tmp_path / name).read_bytes()
    save_picture(sheet, tmp_path, "a", "title", "text")
    assert (tmp_path / name).read_bytes() == first
    for words in ("{", "[]", '{"title": 1, "text": 2, "pieces": [[1]]}', '{"title": "", "text": "", "pieces": [["a", 1, 2, 3, 4]]}',
                  '{"title": "", "text": "", "pieces": [[25, 5, 1000000000, 10, "beyond"]]}'):
        info = PngInfo()
        info.add_text("Description", words)
        sheet.save(tmp_path / "b.png", pnginfo=info)
        assert [picture.size for [(picture, _)] in read_picture(tmp_path / "b.png")[2]] == [(30, 20)]
    (tmp_path / "c.png").write_bytes(first[:50])
    with pytest.raises(ValueError, match="c.png: not a readable picture"):
        read_picture(tmp_path / "c.png")


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path):
    """A file that may not grow beyond 100 bytes."""
    script = ("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
              "from PIL import Image; from evaluation.picture_file import save_picture\n"
              f"save_picture(Image.effect_noise((90, 90), 9), {str(tmp_path)!r}, 'a')")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "a.png" in done.stderr.splitlines()[-1] and os.listdir(tmp_path) == []
