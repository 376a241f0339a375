"""The folders of simulated cohorts: same seed, same bytes; whole or not there at all; and the command line."""
import multiprocessing
import os

import pytest

from plumbing import simulate
from tests.plumbing.simulated_files import content, read


@pytest.mark.parametrize("name", simulate.COHORTS)
def test_same_seed_same_bytes(name, tmp_path):
    """A seed fixes every byte, with one worker or three; another seed changes them."""
    draw = simulate.COHORTS[name]
    draw(tmp_path / "a", seed=5, patients=3, workers=1)
    draw(tmp_path / "b", seed=5, patients=3, workers=3)
    draw(tmp_path / "c", seed=6, patients=3)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")


def drawn(folder):
    """What is in a folder of cohorts, but for its lock."""
    return [name for name in os.listdir(folder) if name != ".lock"]


def test_make_draws_once(tmp_path):
    """The second call returns the same path and touches nothing; nothing temporary is left."""
    calls = []
    table = simulate.make("chest", str(tmp_path), patients=2, progress=lambda done, total: calls.append((done, total)))
    before = os.stat(table).st_mtime_ns
    assert calls == [(1, 2), (2, 2)]
    assert simulate.make("chest", str(tmp_path), patients=2) == table and os.stat(table).st_mtime_ns == before
    assert drawn(tmp_path) == [f"chest-v{simulate.VERSION}-seed0-n2"]
    assert simulate.make("chest", str(tmp_path), seed=1, patients=2) != table


def test_killed_run_is_no_cohort(tmp_path, monkeypatch):
    """A run that stops half-way leaves nothing under the real name; the next one removes what it left and draws all of it."""
    def stop(done, total):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        simulate.make("chest", str(tmp_path), patients=3, progress=stop)
    assert drawn(tmp_path) == []
    with monkeypatch.context() as patch:                             # killed outright: nobody cleans up
        patch.setattr(simulate.shutil, "rmtree", lambda *a, **k: None)
        with pytest.raises(KeyboardInterrupt):
            simulate.make("chest", str(tmp_path), patients=3, progress=stop)
    left = drawn(tmp_path)
    assert len(left) == 1 and left[0].endswith(".part")
    table = simulate.make("chest", str(tmp_path), patients=3)
    assert drawn(tmp_path) == [os.path.basename(os.path.dirname(table))]
    assert len({row["patient_id"] for row in read(os.path.dirname(table))}) == 3


def test_of_two_at_once_the_second_waits(tmp_path):
    """It finds the cohort done, and draws nothing."""
    second, queue = None, multiprocessing.get_context("fork").Queue()

    def draw():
        calls = []
        table = simulate.make("chest", str(tmp_path), patients=2, progress=lambda *done: calls.append(done))
        queue.put((table, len(calls)))

    def start(done, total):
        nonlocal second
        if done == 1:
            second = multiprocessing.get_context("fork").Process(target=draw)
            second.start()

    table = simulate.make("chest", str(tmp_path), patients=2, progress=start)
    assert queue.get(timeout=60) == (table, 0)
    second.join()
    assert drawn(tmp_path) == [os.path.basename(os.path.dirname(table))]


def test_mistakes_end_in_one_line(tmp_path):
    """An unknown cohort names the known ones; the command refuses a folder with something in it."""
    with pytest.raises(ValueError, match="psoriasis, chest") as error:
        simulate.make("psoriasiss", str(tmp_path))
    assert "\n" not in str(error.value)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        simulate.main(["--data", "chest", "--out", str(tmp_path)])
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_demo_adds_up(capsys):
    """Without flags the file prints a patient whose four products are the PASI it names."""
    simulate.main([])
    lines = capsys.readouterr().out.splitlines()
    parts = [float(line.split("= ")[1]) for line in lines if " = " in line]
    assert len(parts) == 4 and f"PASI {round(sum(parts), 1)} " in next(line for line in lines if line.startswith("PASI "))
