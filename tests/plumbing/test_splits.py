"""plumbing/splits.py: patients never cross splits, also where two of them share an image."""
import os

import numpy as np
import pytest

from plumbing.cohort import SPLITS, Cohort, Task
from plumbing.load_cohort import load_cohort
from plumbing.splits import files_of, find_copies, split_patients
from tests.plumbing.small_tables import clam, cohort_of, patients_in, real


def test_duplicates_are_found_by_content(tmp_path):
    """A renamed copy and a row that names the same file, when the patients differ; files of equal size and start are told apart."""
    same = b"x" * 6000
    for name, content in (("a", same), ("b", same), ("c", same[:-1] + b"y"), ("d", b"x"), ("e", same)):
        (tmp_path / name).write_bytes(content)
    names, patients = "abceeda", "pqrppst"
    cohort = Cohort("made", [], list(patients), [str(tmp_path / name) for name in names], {})
    assert find_copies(cohort.images, cohort.patients) == [[0, 1, 3, 4, 6]]
    assert find_copies(cohort.paths[:2], ["p", "p"]) == []
    assert find_copies(cohort_of("pqrr", range(4), pixels=[7, 8, 7, 8]).images, list("pqrr")) == [[0, 2], [1, 3]]


def test_a_digest_is_of_names_and_sizes_in_no_order(tmp_path):
    """A table whose rows were sorted anew is of the same images; one that is longer, or has another name, is not. Pixels have no file."""
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    for path in paths:
        with open(path, "w") as file:
            file.write("x")
    digest = lambda paths: files_of(Cohort("made", [], list("p" * len(paths)), paths, {}))["p"]
    before = digest(paths[:2])
    assert before == digest(paths[1::-1]) and before != digest(paths[1:])
    with open(paths[1], "a") as file:
        file.write("x")
    assert before != digest(paths[:2])
    assert set(files_of(cohort_of("pqq", range(3), pixels=[7, 8, 9]))) == {"p", "q"}


def many(n=60, seed=1):
    """A cohort of n patients with 1 to 4 images."""
    rng = np.random.default_rng(seed)
    patients = [f"p{i}" for i in range(n) for _ in range(rng.integers(1, 5))]
    value = rng.exponential(10, n)
    return cohort_of(patients, [value[int(p[1:])] for p in patients])


def test_splits_are_disjoint_complete_and_repeatable():
    """No patient in two splits, every image in one, the same for a seed and another for another; the confirmation says so."""
    cohort = many()
    indices, notes = split_patients(cohort, seed=3)
    groups = patients_in(cohort, indices)
    assert sorted(sum(indices.values(), [])) == list(range(len(cohort.patients)))
    assert not groups["train"] & groups["test"] and not groups["val"] & (groups["train"] | groups["test"])
    assert [len(groups[split]) for split in SPLITS] == [42, 6, 12]
    assert notes == [f"split by patient, none in two: train 42 patients {len(indices['train'])} images, val 6 patients "
                     f"{len(indices['val'])} images, test 12 patients {len(indices['test'])} images"]
    assert split_patients(cohort, seed=3)[0] == indices != split_patients(cohort, seed=4)[0]


@pytest.mark.parametrize("n", (60, 61, 64))
def test_every_patient_is_tested_once_over_the_folds(n):
    """Also when the folds do not divide the patients."""
    cohort = many(n)
    tested = [patients_in(cohort, split_patients(cohort, 5, fold)[0])["test"] for fold in range(5)]
    assert sum(map(len, tested)) == n and len(set.union(*tested)) == n
    assert max(map(len, tested)) - min(map(len, tested)) <= 1


def test_splits_are_spread_over_the_target():
    """Test and val take one of every few neighbors in the order of the target, so every fold has low and high ones."""
    cohort = many(200)
    value = dict(zip(cohort.patients, cohort.targets["y"]))
    ordered = sorted(value.values())
    for fold in range(5):
        groups = patients_in(cohort, split_patients(cohort, 5, fold)[0])
        for split, quarters in (("test", 10), ("val", 5)):
            counts = np.histogram([value[p] for p in groups[split]], [*ordered[::50], np.inf])[0]
            assert counts.sum() == 4 * quarters and (abs(counts - quarters) <= 2).all()


def test_events_are_spread_before_times_are():
    """Of survival every part has as many events as any other, and of these early and late ones."""
    rng = np.random.default_rng(0)
    cohort = cohort_of([f"p{i}" for i in range(50)], range(50))
    cohort.tasks = [Task("y", "survival", ("days", "died"))]
    cohort.targets["y"] = np.stack([np.arange(50) + 1, rng.permutation(50) < 20], 1).astype(np.float32)
    for fold in range(5):
        test = cohort.targets["y"][split_patients(cohort, 5, fold)[0]["test"]]
        assert test[:, 1].sum() == 4 and len(test) == 10
        assert np.ptp(test[test[:, 1] == 1, 0]) > 20


def test_twins_stay_together():
    """Patients linked by byte-identical images, also through a third one, are in one split; the note names files and patients."""
    patients = [f"p{i}" for i in range(40)] + ["p9", "p9"]
    pixels = list(range(40)) + [3, 17]                             # p3 = p9 and p9 = p17
    cohort = cohort_of(patients, np.arange(42.), pixels=pixels)
    for seed in range(8):
        for fold in range(5):
            indices, notes = split_patients(cohort, 5, fold, seed=seed)
            groups = patients_in(cohort, indices)
            assert sum({"p3", "p9", "p17"} <= groups[split] for split in SPLITS) == 1
    assert notes[0].startswith("2 sets of byte-identical images across patients, as ") and "17.png (patient p17, " in notes[0]
    assert "WARNING" not in notes[0]


def test_an_official_split_is_kept():
    """As it is where it is complete; twins across it are only named; what it lacks is cut from train, by patient."""
    patients = [f"p{i}" for i in range(40) for _ in range(2)]
    splits = ["train"] * 60 + ["test"] * 20
    cohort = cohort_of(patients, np.arange(80.), splits=splits, pixels=[*range(79), 5])
    indices, notes = split_patients(cohort)
    groups = patients_in(cohort, indices)
    assert groups["test"] == {f"p{i}" for i in range(30, 40)} and len(groups["val"]) in (3, 4) and not groups["val"] & groups["train"]
    assert "WARNING: 1 cross the official split" in notes[0] and "79.png (patient p39, test)" in notes[0]
    cohort.splits = ["train"] * 40 + ["val"] * 20 + ["test"] * 20
    indices, _ = split_patients(cohort)
    assert [indices[split] for split in SPLITS] == [list(range(40)), list(range(40, 60)), list(range(60, 80))]
    cohort.splits = ["train"] * 60 + ["val"] * 20
    groups = patients_in(cohort, split_patients(cohort)[0])
    assert len(groups["test"]) == 6 and groups["val"] == {f"p{i}" for i in range(30, 40)}


def test_splits_that_cannot_be():
    """A patient on both sides of an official split, too few patients, a fold or share that is none."""
    cohort = many(20)
    for args, message in (((5, 5), "--fold 5 of --folds 5: need 0 .. 4"), ((5, -1), "need 0 .. 4"),
                          ((21, 0), "20 patients without an image in common do not fill 21 parts"), ((5, 0, 0.0), "--val 0.0: need 0 <"), ((5, 0, 0.9), "--val 0.9"),
                          ((2, 0, 0.05), r"10 patients without an image in common do not fill 20 parts \(--folds, --val: at least 0.1\)")):
        with pytest.raises(ValueError, match=message):
            split_patients(cohort, *args)
    with pytest.raises(ValueError, match="made: 1 patients without an image in common do not fill 5 parts"):
        split_patients(cohort_of("pqrstu", [1, 2, 3, 4, 5, 6], pixels=[0] * 6))              # as empty files are
    with pytest.raises(ValueError, match="patient p is in train and in test of the official split"):
        split_patients(cohort_of("ppq", [1, 2, 3], splits=["train", "test", "test"]))
    for splits, message in ((["val", "test"], "no patient in the train split, only test, val"), (["test", "test"], "train split, only test$")):
        with pytest.raises(ValueError, match=message):
            split_patients(cohort_of("pq", [1, 2], splits=splits))
    with pytest.raises(ValueError, match="need 0 .. 4, and 0 where the table has its own test split"):
        split_patients(cohort_of("pqr", [1, 2, 3], splits=list(SPLITS)), 5, 1)


@pytest.mark.parametrize("content, message", (
    (",train,val,test\n0,TCGA-05.1a,,\n", "row 3, column slide_id: 'TCGA-05.2b' is in none of .*splits_0.csv; --split-column"),
    (",train,val\n0,TCGA-05.1a,\n", "need the columns train, val and test"),
    (",train,val,test\n0,TCGA-05.1a,TCGA-05.1a,\n", "'TCGA-05.1a' appears twice"), (",train,val,test\nTCGA-05.1a,True,False,False\nTCGA-05.2b,True,False,False\n", "'True' appears twice; below train, val and test each image stands once, by its name")))
def test_splits_that_do_not_fit_the_slides(tmp_path, content, message):
    """A slide in no split or in two, or no split at all."""
    table, features, splits = clam(tmp_path)
    open(splits, "w").write(content)
    with pytest.raises(ValueError, match=message):
        load_cohort(table, features, split=splits)


def test_a_split_of_slides_that_divides_a_patient_is_refused(tmp_path):
    """Two slides of TCGA-05 on two sides."""
    table, features, splits = clam(tmp_path)
    open(splits, "w").write(",train,val,test\n0,TCGA-05.1a,TCGA-21.3c,TCGA-22.4d\n1,,,TCGA-05.2b\n")
    cohort = load_cohort(table, features, split=splits)
    with pytest.raises(ValueError, match="patient TCGA-05 is in train and in test"):
        split_patients(cohort)


def test_fundus_finds_the_copied_patient():
    """Patient 300 is a byte-identical copy of 299: found, named, and kept on the same side."""
    cohort = load_cohort(os.path.join(real("fundus_dr"), "labels.csv"), image="file", target="dr_level_0_4:regression")
    assert len(cohort.paths) == 600 and len(set(cohort.patients)) == 300
    indices, notes = split_patients(cohort)
    twins = [{cohort.patients[i] for i in group} for group in find_copies(cohort.images, cohort.patients)]
    assert twins == [{"299", "300"}] * 2 and "299" in notes[0] and "300" in notes[0]
    assert sum({"299", "300"} <= patients for patients in patients_in(cohort, indices).values()) == 1
