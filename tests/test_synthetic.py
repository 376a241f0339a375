"""What the simulated cohorts promise: the truth beside the pixels is the truth, and each detail shows where it should."""
import csv
import os

import numpy as np
import pytest
from PIL import Image

import synthetic


def read(folder, name="cohort.csv"):
    with open(os.path.join(folder, name), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder):
    return {os.path.join(at, name)[len(str(folder)):]: open(os.path.join(at, name), "rb").read()
            for at, _, names in os.walk(folder) for name in names}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("psoriasis")
    synthetic.psoriasis(folder, seed=3, patients=16)
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chest")
    synthetic.chest(folder, seed=3, patients=40)
    return folder


@pytest.mark.parametrize("name", synthetic.COHORTS)
def test_same_seed_same_bytes(name, tmp_path):
    """A seed fixes every byte, with one worker or three; another seed changes them."""
    draw = synthetic.COHORTS[name]
    draw(tmp_path / "a", seed=5, patients=3, workers=1)
    draw(tmp_path / "b", seed=5, patients=3, workers=3)
    draw(tmp_path / "c", seed=6, patients=3)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")


def test_more_patients_keep_the_first(photos, tmp_path):
    """A patient's pixels do not depend on how many others there are."""
    synthetic.psoriasis(tmp_path, seed=3, patients=2)
    many = content(photos)
    assert all(many[name] == data for name, data in content(tmp_path).items() if name.endswith(".jpg"))


def test_rows_and_files_agree(photos, films):
    """Every row has its picture and every picture its row; sizes, shapes and modes are as documented."""
    for folder, mode in ((photos, "RGB"), (films, "L")):
        names = [row["image"] for row in read(folder)]
        assert sorted(names) == sorted("images/" + name for name in os.listdir(folder / "images"))
        for name in names:
            with Image.open(folder / name) as image:
                assert image.mode == mode
                if mode == "L":
                    assert image.size == (synthetic.FILM, synthetic.FILM)
                else:
                    assert 200 <= max(image.size) <= 400 and 0.44 < image.width / image.height < 2.42


def test_pasi_is_the_clinical_formula(photos):
    """PASI and PGA of cohort.csv, worked out again from regions.csv the slow way, in whole numbers."""
    regions = read(photos, "regions.csv")
    for row in read(photos):
        total, grades = 0, []
        mine = [r for r in regions if r["patient_id"] == row["patient_id"]]
        assert [r["region"] for r in mine] == ["head", "upper limbs", "trunk", "lower limbs"]
        for tenths, r in zip((1, 2, 3, 4), mine):
            eis = [int(r[k]) for k in ("erythema", "induration", "scaling")]
            percent, grade = 100 * float(r["area"]), 0
            if percent > 0:
                grade = 1
            for edge in (10, 30, 50, 70, 90):
                if percent >= edge:
                    grade += 1
            assert grade == int(r["area_grade"]) and all(0 <= g <= 4 for g in eis)
            total += tenths * sum(eis) * grade
            grades += eis if percent > 0 else []
        assert float(row["pasi"]) == total / 10
        mean = sum(grades) / len(grades) if grades else 0
        assert int(row["pga"]) == sum(mean > step - 1e-9 for step in (1e-6, .8 + 2e-9, 1.6 + 2e-9, 2.4 + 2e-9, 3.2 + 2e-9))


def test_pasi_range():
    """0 when clear, 72 when all of the skin is at its worst, and area bins open at their lower edge."""
    assert synthetic.pasi({r: (0.0, 0, 0, 0) for r in synthetic.WEIGHTS}) == 0
    assert synthetic.pasi({r: (1.0, 4, 4, 4) for r in synthetic.WEIGHTS}) == 72
    assert [synthetic.area_grade(a) for a in (0, .01, .1, .3, .5, .7, .9, 1)] == [0, 1, 2, 3, 4, 5, 6, 6]
    worst, clear = {"trunk": (0.2, 4, 4, 4)}, {"trunk": (0.0, 0, 0, 0)}
    assert synthetic.pga(worst) == 5 and synthetic.pga(clear) == 0


def test_regions_agree_with_photographs(photos):
    """A region's area is the mean of its photographs, its grades are theirs; three photographs show 70 % of PASI's weight."""
    rows = read(photos)
    for region in read(photos, "regions.csv"):
        seen = [r for r in rows if (r["patient_id"], r["region"]) == (region["patient_id"], region["region"])]
        assert len(seen) == int(region["photographs"])
        if seen:
            assert abs(np.mean([float(r["area"]) for r in seen]) - float(region["area"])) < 1e-3
            assert {tuple(r[k] for k in ("erythema", "induration", "scaling")) for r in seen} == {
                tuple(region[k] for k in ("erythema", "induration", "scaling"))}
    for patient in {r["patient_id"] for r in rows}:
        shown = [r["region"] for r in rows if r["patient_id"] == patient]
        assert len(shown) < 3 or {"trunk", "lower limbs"} <= set(shown)


@pytest.mark.parametrize("fraction", (0.0, 0.05, 0.3, 0.8))
def test_area_is_as_asked_and_measured(fraction):
    """The drawn area is close to the one asked for."""
    _, area = synthetic.draw_photo(np.random.default_rng(1), "trunk", 2, "phone", fraction, 3, 1, 1)
    assert area == 0 if fraction == 0 else abs(area - fraction) < 0.03


def sizes(photo):
    """A photograph as a network sees it: 128 px, and 64 px as the mean of 2 x 2 of those."""
    high = Image.fromarray(photo).resize((128, 128), Image.Resampling.BILINEAR)
    return np.asarray(high.reduce(2), float), np.asarray(high, float)


def test_scaling_shows_at_high_resolution_only():
    """The same photograph with scaling 0 and 4: many grey levels apart at 128 px, a quarter of it at 64 px, no color shift."""
    for region in synthetic.SHAPES:
        for fst in (1, 3, 5):
            none, most = (sizes(synthetic.draw_photo(np.random.default_rng(fst), region, fst, "clinic-a", 0.4, 2, 2, s)[0])
                          for s in (0, 4))
            (low, high), mean = (most[i] - none[i] for i in (0, 1)), abs(most[1].mean((0, 1)) - none[1].mean((0, 1)))
            assert high.std() > 2.5 and low.std() < 0.35 * high.std() and mean.max() < 0.08 * high.std()


def test_redness_and_relief_show_at_low_resolution():
    """Erythema and induration, 0 against 4, change the 64-px picture by more than scaling does; dark skin shows less red."""
    def change(fst, **grade):
        eis = {"erythema": 1, "induration": 1, "scaling": 1}
        low = [sizes(synthetic.draw_photo(np.random.default_rng(2), "trunk", fst, "clinic-a", 0.4, **{**eis, **g})[0])[0]
               for g in ({k: 0 for k in grade}, grade)]
        return (low[1] - low[0]).std()
    for fst in (1, 5):
        assert min(change(fst, erythema=4), change(fst, induration=4)) > 2 * change(fst, scaling=4)
    assert change(6, erythema=4) < 0.6 * change(2, erythema=4)


def test_boxes_are_the_labels(films):
    """Boxes lie in the film; every positive label has one or more, every negative none."""
    boxes = read(films, "boxes.csv")
    for b in boxes:
        x0, y0, x1, y1 = (int(b[k]) for k in ("x0", "y0", "x1", "y1"))
        assert 0 <= x0 < x1 <= synthetic.FILM and 0 <= y0 < y1 <= synthetic.FILM
    for row in read(films):
        drawn = {b["label"] for b in boxes if b["image"] == row["image"]}
        assert drawn == {label for label in synthetic.FINDINGS if row[label] == "1"}


@pytest.mark.parametrize("label", synthetic.FINDINGS)
def test_finding_changes_its_box(label):
    """The same film with and without a finding differs inside the finding's boxes, and hardly outside of them."""
    for seed in range(4):
        with_it, boxes = synthetic.draw_film(np.random.default_rng(seed), (1.0, 1.0, 0.29, 0.17), "AP", [label])
        without, none = synthetic.draw_film(np.random.default_rng(seed), (1.0, 1.0, 0.29, 0.17), "AP", [])
        change, area = abs(with_it.astype(float) - without), np.zeros(with_it.shape, bool)
        for _, x0, y0, x1, y1 in boxes:
            area[y0:y1, x0:x1] = True
        assert {name for name, *_ in boxes} == {label} and none == [] and 0.001 < area.mean() < 0.45
        assert change[area].mean() > 4 and change[~area].mean() < 0.15 * change[area].mean()


# -----------------------------------------------------------------------------
# bags


def separates(features, labels, ridge=10):
    """AUROC on the second half of the bags of a ridge regression on the first."""
    half = len(labels) // 2
    x = (features - features[:half].mean(0)) / features[:half].std(0)
    w = np.linalg.solve(x[:half].T @ x[:half] + ridge * np.eye(x.shape[1]), x[:half].T @ (labels[:half] - labels[:half].mean()))
    s, y = x[half:] @ w, labels[half:]
    return (s[y == 1][:, None] > s[y == 0]).mean()


def test_the_mean_of_a_bag_does_not_tell_what_its_tumor_vectors_tell(tmp_path):
    """Below AUROC 0.75 from the means of whole bags, 1.0 from the means of the rows that tumor.csv names."""
    synthetic.bag(tmp_path, seed=0, patients=200)
    rows, tumor = read(tmp_path), {}
    for line in read(tmp_path, "tumor.csv"):
        tumor.setdefault(line["bag"], []).append(int(line["row"]))
    bags = [np.load(tmp_path / row["bag"]) for row in rows]
    labels = np.array([row["subtype"] == "B" for row in rows], dtype=float)
    assert all(bag.dtype == np.float16 and bag.shape == (int(row["vectors"]), 64) for bag, row in zip(bags, rows))
    assert len(bags[0]) == synthetic.LONGEST == 11039 and all(200 <= len(bag) <= 2000 for bag in bags[1:]) and 0.35 < labels.mean() < 0.65
    marked = [bag[tumor[row["bag"]]].astype(float) for bag, row in zip(bags, rows)]
    assert all(len(mark) == int(row["tumor"]) <= max(4, 0.02 * len(bag) + 1) for mark, row, bag in zip(marked, rows, bags))
    assert separates(np.stack([bag.astype(float).mean(0) for bag in bags]), labels) < 0.75
    assert separates(np.stack([mark.mean(0) for mark in marked]), labels) == 1


def test_make_draws_once(tmp_path):
    """The second call returns the same path and touches nothing; nothing temporary is left."""
    calls = []
    table = synthetic.make("chest", str(tmp_path), patients=2, progress=lambda done, total: calls.append((done, total)))
    before = os.stat(table).st_mtime_ns
    assert calls == [(1, 2), (2, 2)]
    assert synthetic.make("chest", str(tmp_path), patients=2) == table and os.stat(table).st_mtime_ns == before
    assert len(os.listdir(tmp_path)) == 1 and f"v{synthetic.VERSION}" in os.listdir(tmp_path)[0]
    assert synthetic.make("chest", str(tmp_path), seed=1, patients=2) != table


def test_killed_run_is_no_cohort(tmp_path, monkeypatch):
    """A run that stops half-way leaves nothing under the real name, and the next one draws all of it."""
    def stop(done, total):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        synthetic.make("chest", str(tmp_path), patients=3, progress=stop)
    assert os.listdir(tmp_path) == []
    with monkeypatch.context() as patch:                             # killed outright: nobody cleans up
        patch.setattr(synthetic.shutil, "rmtree", lambda *a, **k: None)
        with pytest.raises(KeyboardInterrupt):
            synthetic.make("chest", str(tmp_path), patients=3, progress=stop)
    left = os.listdir(tmp_path)
    assert len(left) == 1 and left[0].endswith(".part")
    assert len({row["patient_id"] for row in read(os.path.dirname(synthetic.make("chest", str(tmp_path), patients=3)))}) == 3


def test_two_at_once_end_with_one(tmp_path):
    """When another process finishes first, its cohort is kept and ours thrown away."""
    def other(done, total):
        if done == 1:
            synthetic.make("chest", str(tmp_path), patients=2)
    table = synthetic.make("chest", str(tmp_path), patients=2, progress=other)
    assert os.path.exists(table) and len(os.listdir(tmp_path)) == 1


def test_mistakes_end_in_one_line(tmp_path, capsys):
    """An unknown cohort names the known ones; the command refuses a folder with something in it."""
    with pytest.raises(ValueError, match="psoriasis, chest") as error:
        synthetic.make("psoriasiss", str(tmp_path))
    assert "\n" not in str(error.value)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit):
        synthetic.main(["--data", "chest", "--out", str(tmp_path)])
    assert "not empty" in capsys.readouterr().err and os.listdir(tmp_path) == ["mine.txt"]


def test_demo_adds_up(capsys):
    """Without flags the file prints a patient whose four products are the PASI it names."""
    synthetic.main([])
    lines = capsys.readouterr().out.splitlines()
    parts = [float(line.split("= ")[1]) for line in lines if " = " in line]
    assert len(parts) == 4 and f"PASI {round(sum(parts), 1)} " in next(line for line in lines if line.startswith("PASI "))


# -----------------------------------------------------------------------------
# brain


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brain")
    synthetic.brain(folder, seed=3, patients=200)
    rows, truth = read(folder), read(folder, "truth.csv")
    assert [row["patient_id"] for row in rows] == [row["patient_id"] for row in truth]
    images = [np.load(folder / row["image"]) for row in rows]
    return images, rows, {key: np.array([float(row[key]) for row in truth]) for key in synthetic.BRAIN_TRUTH[1:]}


def explained(y, *columns):
    """Share of the variance of y that a linear model on the columns explains, on the rows it was fitted to."""
    A = np.stack([np.ones_like(y), *columns], 1)
    return 1 - np.var(y - A @ np.linalg.lstsq(A, y, rcond=None)[0]) / np.var(y)


def test_volumes_show_what_the_truth_says(volumes):
    """Less bright tissue with atrophy, more dark voxels inside the head with wide ventricles; the two are independent."""
    images, _, truth = volumes
    assert {(image.dtype, image.shape) for image in images} == {(np.dtype(np.uint8), (synthetic.SIDE,) * 3)}
    inside = np.s_[7:19, 6:18, 7:17]
    bright, dark = (np.array([test(image[inside] / image[10:14, 2:5, 10:14].mean()) for image in images])
                    for test in (lambda x: (x > 1.5).sum(), lambda x: (x < 0.6).sum()))
    assert np.corrcoef(bright, truth["atrophy"])[0, 1] < -0.8 and np.corrcoef(dark, truth["widening"])[0, 1] > 0.8
    assert abs(np.corrcoef(truth["atrophy"], truth["widening"])[0, 1]) < 0.2


def test_the_label_needs_volume_and_table_together(volumes):
    """Neither alone nor their sum says much of the severity; atrophy, with the sign of widening less age, says most."""
    _, rows, truth = volumes
    column = lambda name: np.array([float(row[name] or 15) for row in rows])
    age, y = (column("age") - 73) / 7, truth["severity"]
    table = age, column("education"), np.array([row["apoe"].count("e4") for row in rows])
    image = truth["atrophy"], truth["widening"], truth["atrophy"] * truth["widening"]
    assert explained(y, *table) < 0.15 and explained(y, *image[:2]) < 0.15 and explained(y, *table, *image[:2]) < 0.3
    assert explained(y, *image) < 0.6                              # also with the volume's own product
    assert explained(y, *table, truth["atrophy"] * np.sign(truth["widening"] - age)) > 0.9
    stages = np.array([synthetic.STAGES.index(row["diagnosis"]) for row in rows])
    assert all(y[stages == k].max() <= y[stages == k + 1].min() for k in (0, 1)) and np.bincount(stages).min() > 50
    assert 0.01 < np.mean([row["education"] == "" for row in rows]) < 0.12


def test_dementia_comes_sooner_to_the_severe_and_some_are_censored(volumes):
    """Both kinds of end are frequent, times are within what was watched, and severity orders the events."""
    _, rows, truth = volumes
    time, event = (np.array([float(row[name]) for row in rows]) for name in ("time", "event"))
    assert 0.4 < event.mean() < 0.7 and time.min() >= 0 and time.max() <= 8 and set(event) == {0, 1}
    assert time[(event == 1) & (truth["severity"] > 1)].mean() < time[(event == 1) & (truth["severity"] < -1)].mean()
