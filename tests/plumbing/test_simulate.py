"""The folders of simulated cohorts: same seed, same bytes; whole or not there at all; and the command line."""
import multiprocessing
import os

import pytest

from plumbing import simulate
from tests.plumbing.simulated_files import content, read


@pytest.mark.parametrize("name", simulate.COHORTS)
def test_same_seed_same_bytes(name, tmp_path, monkeypatch):
    """A seed fixes every byte, with one thread or three; another seed changes them."""
    for folder, seed, threads in (("a", 5, 1), ("b", 5, 3), ("c", 6, 3)):
        monkeypatch.setattr(simulate.os, "cpu_count", lambda: threads)
        simulate.write(tmp_path / folder, simulate.COHORTS[name], seed=seed, patients=3)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")


@pytest.fixture
def watch(monkeypatch):
    """-> function (progress): progress(done, patients) is called after each patient from now on."""
    def start(progress):
        def bar(finished, text, total, **settings):
            for done, rows in enumerate(finished, 1):
                progress(done, total)
                yield rows

        monkeypatch.setattr(simulate, "tqdm", bar)

    return start


def drawn(folder):
    """What is in a folder of cohorts, but for its lock."""
    return [name for name in os.listdir(folder) if name != ".lock"]


def test_make_draws_once(tmp_path, watch):
    """The second call returns the same path and touches nothing; nothing temporary is left."""
    calls = []
    watch(lambda done, total: calls.append((done, total)))
    table = simulate.make("chest", str(tmp_path), patients=2)
    before = os.stat(table).st_mtime_ns
    assert calls == [(1, 2), (2, 2)]
    assert simulate.make("chest", str(tmp_path), patients=2) == table and os.stat(table).st_mtime_ns == before
    assert drawn(tmp_path) == [f"chest-v{simulate.VERSION}-seed0-n2"]
    assert simulate.make("chest", str(tmp_path), seed=1, patients=2) != table


def test_killed_run_is_no_cohort(tmp_path, monkeypatch, watch):
    """A run that stops half-way leaves nothing under the real name; the next one removes what it left and draws all of it."""
    def stop(done, total):
        raise KeyboardInterrupt
    watch(stop)
    with pytest.raises(KeyboardInterrupt):
        simulate.make("chest", str(tmp_path), patients=3)
    assert drawn(tmp_path) == []
    with monkeypatch.context() as patch:                             # killed outright: nobody cleans up
        patch.setattr(simulate.shutil, "rmtree", lambda *a, **k: None)
        with pytest.raises(KeyboardInterrupt):
            simulate.make("chest", str(tmp_path), patients=3)
    left = drawn(tmp_path)
    assert len(left) == 1 and left[0].endswith(".part")
    watch(lambda done, total: None)
    table = simulate.make("chest", str(tmp_path), patients=3)
    assert drawn(tmp_path) == [os.path.basename(os.path.dirname(table))]
    assert len({row["patient_id"] for row in read(os.path.dirname(table))}) == 3


def test_of_two_at_once_the_second_waits(tmp_path, watch):
    """It finds the cohort done, and draws nothing."""
    second, queue = None, multiprocessing.get_context("fork").Queue()

    def draw():
        calls = []
        watch(lambda *done: calls.append(done))
        table = simulate.make("chest", str(tmp_path), patients=2)
        queue.put((table, len(calls)))

    def start(done, total):
        nonlocal second
        if done == 1:
            second = multiprocessing.get_context("fork").Process(target=draw)
            second.start()

    watch(start)
    table = simulate.make("chest", str(tmp_path), patients=2)
    assert queue.get(timeout=60) == (table, 0)
    second.join()
    assert drawn(tmp_path) == [os.path.basename(os.path.dirname(table))]


def test_mistakes_end_in_one_line(tmp_path):
    """An unknown cohort names the known ones; a folder with something in it is refused; and both flags are needed."""
    for argv, message in ((["--data", "psoriasiss", "--out", "a"], "psoriasis, chest|'psoriasis', 'chest'"), ([], "required: --data, --out")):
        with pytest.raises(ValueError, match=message):
            simulate.main(argv)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        simulate.main(["--data", "chest", "--out", str(tmp_path)])
    for out, flags, message in (("", [], "--out is empty"), ("new", ["--seed", "-1"], "--seed -1: need at least 0")):
        with pytest.raises(ValueError, match=message):
            simulate.main(["--data", "bag", "--out", out and str(tmp_path / out), *flags])
    assert os.listdir(tmp_path) == ["mine.txt"]
