"""plumbing/medmnist.py: arrays become a Cohort, and a download is kept only when its MD5 is the published one."""
import hashlib
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from plumbing import medmnist
from plumbing.cohort import KINDS, SPLITS, Task
from plumbing.load_cohort import load_cohort
from plumbing.reading import notes_on_window
from plumbing.splits import split_patients
from tests.plumbing.small_tables import real


def npz(shape=(28, 28), labels=1, counts=(6, 2, 3), **changes):
    """-> bytes of a file like MedMNIST's."""
    rng, arrays = np.random.default_rng(0), {}
    for split, n in zip(SPLITS, counts):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (n, labels), dtype=np.uint8)
    np.savez(file := io.BytesIO(), **{**arrays, **changes})
    return file.getvalue()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without MedMNIST files, and no network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(medmnist, "MEDMNIST_URL", "http://127.0.0.1:9/{file}")
    return tmp_path


def publish(monkeypatch, content, flag="breastmnist classes 2"):
    """Let the MD5 of 28 px be that of the content."""
    md5 = hashlib.md5(content).hexdigest()[:24]
    monkeypatch.setattr(medmnist, "MEDMNIST", f"{flag} {md5} {'0' * 24} {md5} {'0' * 24}\n")


@pytest.mark.parametrize("place", ("cache", "home/.medmnist"))
def test_medmnist_arrays(home, monkeypatch, place):
    """Rows of the arrays are images, the official split is kept; the file may lie in the cache or in ~/.medmnist."""
    content = npz((28, 28, 3))
    publish(monkeypatch, content)
    os.makedirs(home / place)
    (home / place / "breastmnist.npz").write_bytes(content)
    cohort = load_cohort("medmnist:breastmnist", cache=str(home / "cache"))
    assert cohort.pixels.shape == (11, 28, 28, 3) and cohort.pixels.dtype == np.uint8
    assert cohort.splits == ["train"] * 6 + ["val"] * 2 + ["test"] * 3
    assert load_cohort("medmnist:breastmnist", cache=str(home / "cache"), split="none").splits is None
    assert cohort.tasks == [Task("class", "classes", ("0", "1"))] and cohort.targets["class"].shape == (11,)
    assert cohort.paths[3] == "breastmnist.npz:3" and len(set(cohort.patients)) == 11
    indices, notes = split_patients(cohort)
    assert [len(indices[split]) for split in SPLITS] == [6, 2, 3] and "no patient ids" in notes[0]
    [note] = notes_on_window(SimpleNamespace(window="own"), cohort, {})
    assert note.startswith("WARNING: 0 of 11 images hold more than 8 bits: --window=own")


def test_medmnist_labels_and_sides(home, monkeypatch):
    """chestmnist is a task of labels; the side is in the file's name."""
    content = npz((128, 128), labels=14)
    publish(monkeypatch, content, "chestmnist labels 14")
    os.makedirs(home / "cache")
    (home / "cache" / "chestmnist_128.npz").write_bytes(content)
    cohort = load_cohort("medmnist:chestmnist:128", cache=str(home / "cache"))
    assert cohort.tasks[0].kind == "labels" and cohort.targets["findings"].shape == (11, 14) and cohort.name == "chestmnist_128"
    with pytest.raises(ValueError, match="could not be downloaded"):
        load_cohort("medmnist:chestmnist:64", cache=str(home / "cache"))


@pytest.mark.parametrize("content, known, message", (
    (npz(), False, "its MD5 is not that of breastmnist.npz; delete it"),
    (npz()[:-300], False, "its MD5 is not that of"),
    (npz()[:-300], True, "not a MedMNIST file"),
    (npz(train_images=np.array([{}], dtype=object)), True, "not a MedMNIST file .*allow_pickle=False"),
    (b"<html>", True, "not a MedMNIST file"),
))
def test_a_medmnist_file_that_is_not_one(home, monkeypatch, content, known, message):
    """Another MD5, a cut file and pickled objects are refused, nothing is unpickled."""
    publish(monkeypatch, content if known else npz(counts=(9, 9, 9)))
    os.makedirs(home / "cache")
    (home / "cache" / "breastmnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_cohort("medmnist:breastmnist", cache=str(home / "cache"))


def test_every_published_md5_is_there():
    """Twelve flags of pictures, four sides each; six of volumes, two each; as many hexadecimal digits."""
    rows = [row.split() for row in medmnist.MEDMNIST.strip().splitlines()]
    assert len(rows) == 18 and all(len(row) == (5 if "3d" in row[0] else 7) and row[1] in KINDS and int(row[2]) > 1 for row in rows)
    assert len({int(md5, 16) for row in rows for md5 in row[3:]}) == 60 and {len(md5) for row in rows for md5 in row[3:]} == {24}


def test_medmnist_volumes(home, monkeypatch):
    """(n, D, H, W) arrays are volumes; there are none of 128 px, and the message says so."""
    content = npz((6, 6, 5))
    publish(monkeypatch, content, "vesselmnist3d classes 2")
    os.makedirs(home / "cache")
    (home / "cache" / "vesselmnist3d.npz").write_bytes(content)
    assert load_cohort("medmnist:vesselmnist3d", cache=str(home / "cache")).pixels.shape == (11, 6, 6, 5)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of the 3-D ones 28 or 64"):
        load_cohort("medmnist:vesselmnist3d:128", cache=str(home / "cache"))


@pytest.mark.slow
def test_adrenal_volumes_are_the_published_ones():
    """The real file, where it is: 1188, 98 and 298 volumes of 64 px, 22 % of them positive."""
    folder = real("medmnist")
    cohort = load_cohort("medmnist:adrenalmnist3d:64", cache=folder)
    assert cohort.pixels.shape == (1584, 64, 64, 64) and [cohort.splits.count(split) for split in SPLITS] == [1188, 98, 298]
    assert 0.21 < cohort.targets["class"].mean() < 0.23


@pytest.fixture
def server(home, monkeypatch):
    """Zenodo on loopback: .content is answered, .said bytes of it promised, .asked counts the requests."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            self.send_response(200 if server.content else 404)
            self.send_header("Content-Length", str(server.said))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.said, server.asked = b"", 0, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(medmnist, "MEDMNIST_URL", f"http://127.0.0.1:{server.server_port}/records/{{file}}?download=1")
    yield server
    server.shutdown()
    server.server_close()


def test_download_once_and_keep(server, home, monkeypatch):
    """The first call fetches the file to the cache, the second asks nobody."""
    server.content, server.said = npz(), len(npz())
    publish(monkeypatch, server.content)
    first, second = (load_cohort("medmnist:breastmnist", cache=str(home / "cache")) for _ in range(2))
    assert server.asked == ["/records/breastmnist.npz?download=1"] and os.listdir(home / "cache") == ["breastmnist.npz"]
    np.testing.assert_array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize("fault", ("cut", "changed", "absent"))
def test_a_download_that_fails_leaves_nothing(server, home, monkeypatch, fault):
    """Cut off, changed on the way or not there: the message has the address and the place, the cache stays empty."""
    content = npz()
    publish(monkeypatch, content)
    server.content = {"cut": content[:-500], "changed": content[:-1] + b"?", "absent": b""}[fault]
    server.said = len(content) if fault != "absent" else 0
    with pytest.raises(ValueError, match="breastmnist.npz.download=1: could not be downloaded; fetch it yourself .*cache/breast"):
        load_cohort("medmnist:breastmnist", cache=str(home / "cache"))
    assert os.listdir(home / "cache") == []
