"""plumbing/class_folders.py: one folder of images per class, with or without an official split above."""
import os

import numpy as np
import pytest
from PIL import Image

from plumbing.cohort import Task
from plumbing.load_cohort import load_cohort
from plumbing.splits import split_patients
from tests.plumbing.small_tables import write


def test_class_folders(tmp_path):
    """A folder a class, deeper folders belong to it; other files do not count; every image is a patient."""
    write(tmp_path, "notes.txt", "x", images=("cat/1.png", "cat/more/2.png", "dog/1.PNG", "dog/._1.png"))
    (tmp_path / "empty").mkdir()
    cohort = load_cohort(str(tmp_path))
    assert cohort.tasks == [Task("class", "classes", ("cat", "dog"))] and cohort.targets["class"].tolist() == [0, 0, 1]
    assert cohort.patients == ["cat/1.png", "cat/more/2.png", "dog/1.PNG"] and cohort.splits is None and "no patient ids" in cohort.notes[0]


def test_class_folders_with_a_split(tmp_path):
    """train, val (also valid, validation) and test above the classes are the official split; a class may be called test."""
    write(tmp_path, "a/x.txt", images=("a/train/cat/1.png", "a/train/dog/2.png", "a/valid/dog/3.png", "a/test/cat/4.png"))
    cohort = load_cohort(str(tmp_path / "a"))
    assert cohort.patients == ["test/cat/4.png", "train/cat/1.png", "train/dog/2.png", "valid/dog/3.png"]
    assert cohort.splits == ["test", "train", "train", "val"]
    assert cohort.tasks[0].classes == ("cat", "dog") and cohort.targets["class"].tolist() == [0, 0, 1, 1]
    write(tmp_path, "b/x.txt", images=("b/control/1.png", "b/test/2.png"))
    assert load_cohort(str(tmp_path / "b")).tasks[0].classes == ("control", "test")
    write(tmp_path, "e/x.txt", images=("e/mask/1.png", "e/bare/2.png"))           # faces, not drawings
    assert not any("mask counts as a class" in note for note in load_cohort(str(tmp_path / "e")).notes)
    write(tmp_path, "c/x.txt", images=("c/test/cat/1.png", "c/test/dog/2.png"))    # nothing but test: no wrapper
    with pytest.raises(ValueError, match="c: no patient in the train split, only test"):
        split_patients(load_cohort(str(tmp_path / "c")))
    write(tmp_path, "a/x.txt", images=("a/bird/5.png",))
    with pytest.raises(ValueError, match="bird: images there are .* not in one of train, val, test as others are"):
        load_cohort(str(tmp_path / "a"))
    (tmp_path / "b/control/t.csv").write_text("image\n")
    with pytest.raises(ValueError, match=r"need a CSV file \(in it: t.csv\), or one folder of images per class"):
        load_cohort(str(tmp_path / "b" / "control"))


# -----------------------------------------------------------------------------
# patients in the names of films

CHEST = ["NORMAL/IM-0115-0001.jpeg", "NORMAL/NORMAL2-IM-1427-0001.jpeg", "NORMAL/NORMAL2-IM-1427-0002.jpeg",
         "PNEUMONIA/person12_bacteria_34.jpeg", "PNEUMONIA/person12_bacteria_35.jpeg", "PNEUMONIA/person12_virus_36.jpeg",
         "PNEUMONIA/person1_virus_6.jpeg", "PNEUMONIA/other.jpeg"]



def save(folder, names, seed=0):
    """Films of noise, each with other pixels."""
    for number, name in enumerate(names):
        os.makedirs(os.path.dirname(folder / name), exist_ok=True)
        pixels = np.random.default_rng(seed + number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def test_class_folders_take_patients_from_the_names_of_films(tmp_path):
    """Two folders: our split keeps all films of a patient on one side."""
    save(tmp_path, CHEST)
    cohort = load_cohort(str(tmp_path))
    assert dict(zip([os.path.relpath(path, tmp_path) for path in cohort.paths], cohort.patients)) == dict(zip(CHEST, (
        "IM-0115", "NORMAL2-IM-1427", "NORMAL2-IM-1427", "person12", "person12", "person12", "person1", "PNEUMONIA/other.jpeg")))
    assert cohort.notes == ["patients from the names of 7 files, as IM-0115 (chest_xray); of 1 other files each counts as a patient"]
    for fold in range(2):
        indices, _ = split_patients(cohort, folds=2, fold=fold, val=0.5)
        assert len({split for split, part in indices.items() for i in part if cohort.patients[i] == "person12"}) == 1


def test_class_folders_with_a_split_say_how_many_numbers_cross_it(tmp_path):
    """The distributed sides stay, although person1 of train may be person1 of test."""
    save(tmp_path / "train", CHEST)
    save(tmp_path / "test", ("NORMAL/IM-0001-0001.jpeg", "PNEUMONIA/person1_bacteria_1.jpeg"), 100)
    cohort = load_cohort(str(tmp_path))
    assert any(note.startswith("WARNING: 1 of these numbers are on two sides") for note in cohort.notes)
    indices, _ = split_patients(cohort, val=0.5)
    assert {cohort.paths[i] for i in indices["test"]} == {path for path in cohort.paths if "/test/" in path}


@pytest.mark.parametrize("names, patients", (
    (("a/00001280_004.png", "b/00001280_012.png", "b/00001281_000.png"), ["00001280", "00001280", "00001281"]),
    (("a/CNV-1016042-1.jpeg", "b/DRUSEN-1016042-2.jpeg"), ["1016042", "1016042"]),
    (("a/10_left.jpeg", "b/10_right.jpeg", "b/9001695L.png", "b/9001695R.png"), ["10", "10", "9001695", "9001695"]),
    (("Parasitized/C33P1thinF_IMG_20150619_114756a_cell_179.png", "Uninfected/C1_thinF_IMG_20150604_104722_cell_9.png"), ["C33P1", "C1"]),
    (("all/UID_1_2_1_all.bmp", "hem/UID_H10_1_1_hem.bmp"), ["UID_1", "UID_H10"]), (("a/NCP_96_1328_0035.png", "b/Normal_1668_2_0014.png"), ["NCP_96", "Normal_1668"]),
    (("a/RET002OD.jpg", "b/C3L-00016-21.png", "b/GTEX-1117F-0226.png"), ["RET002", "C3L-00016", "GTEX-1117F"]),
    (("a/SOB_M_DC-14-12773-200-018.png", "b/SOB_B_A-14-22549AB-40-001.png"), ["14-12773", "14-22549AB"]),
    (("a/patient00012/study1/view1.jpg", "b/TCGA-AA-3811-01Z.png", "b/patient_7_img2.png"), ["patient00012", "TCGA-AA-3811", "patient_7"]),
))
def test_names_that_say_who_the_patient_is(names, patients, tmp_path):
    """As public data sets spell them, in any class; the line says so."""
    write(tmp_path, "t.txt", "x", images=names)
    cohort = load_cohort(str(tmp_path))
    assert cohort.patients == patients and cohort.patients_known and cohort.notes[0].startswith(f"patients from the names of {len(names)} files, as ")


def test_patients_by_a_regular_expression(tmp_path):
    """Its first group, in class folders and in tables; a name that it does not fit, or that is none, is refused."""
    table = write(tmp_path, "t.csv", "image,target", "a/S1_1.png,0.5", "b/S1_2.png,1", "b/S2_1.png,2", images=("a/S1_1.png", "b/S1_2.png", "b/S2_1.png"))
    for data in (str(tmp_path), table):
        assert load_cohort(data, regex="(S[0-9])_").patients == ["S1", "S1", "S2"]
    for regex, message in (("X", "finds no patient in a/S1_1"), ("(", "--patient-regex .: not a regular expression")):
        with pytest.raises(ValueError, match=message):
            load_cohort(str(tmp_path), regex=regex)


def test_an_official_split_that_divides_patients_is_refused_or_dealt_anew(tmp_path):
    """NIH's numbers are the same people in train and in test; --split-column none keeps them together."""
    save(tmp_path, [f"{split}/{c}/0000{n + 10 * (c == 'b'):04d}_{k:03d}.png" for k, split in enumerate(("train", "test")) for c in "ab" for n in range(8)])
    with pytest.raises(ValueError, match="patient 00000000 is in test and in train .*; --split-column none deals"):
        split_patients(load_cohort(str(tmp_path)))
    cohort = load_cohort(str(tmp_path), split="none")
    indices, _ = split_patients(cohort, folds=2, val=0.5)
    assert cohort.splits is None and not {cohort.patients[i] for i in indices["train"]} & {cohort.patients[i] for i in indices["test"]}
    with pytest.raises(ValueError, match="is no CSV table: .* nor --split-column but none"):
        load_cohort(str(tmp_path), split="fold", needs_targets=False)      # nor passed over for a model without targets
    with pytest.raises(ValueError, match="is no CSV table: .* nor --split-column but none"):
        load_cohort(str(tmp_path), split="fold")


@pytest.mark.parametrize("images, classes, splits, note", (
    (("Training/a/1.png", "Testing/b/1.png"), ("a", "b"), ["test", "train"], None),
    (("train/train/a/1.png", "test/test/b/2.png"), ("a", "b"), ["test", "train"], None),                      # each part unpacked into a folder of its name
    (("a/train_set/1.png", "b/Validation/2.png"), ("a", "b"), ["train", "val"], None),
    (("Training/a/1.png", "Validierung/b/2.png"), ("a", "b"), ["train", "val"], None), (("训练集/a/1.png", "prueba/b/2.png"), ("a", "b"), ["test", "train"], None),
    (("x/x/train/a/1.png", "x/x/test/b/1.png"), ("a", "b"), ["test", "train"], "classes are the folders below x/x"),
    (("train/a/1.png", "test/b/2.png", "x/train/a/1.png"), ("a", "b"), ["test", "train"], "1 of 3 files are left out (second copies of images 1)"),
    (("a/1.png", "b/2.png", "cell_images/a/1.png", "cell_images/b/2.png"), ("a", "b"), None, "2 of 4 files are left out (second copies of images 2)"),
    (("a/images/1.png", "b/images/1.png", "a/masks/1.png", "0.png"), ("a", "b"), None,
     "2 of 4 files are left out (masks or thumbnails beside their images 1, images beside the folders of classes 1)"),
    (("a/1.png", "b/1.png", "a/thumbs/1.png", "b/1_thumb.png"), ("a", "b"), None, "2 of 4 files are left out (masks or thumbnails beside their images 2)"),
    (("images/a/1.png", "images/b/2.png", "masks/a/1.png"), ("a", "b"), None, "classes are the folders below images"),
    (("train/no_tumor/1.png", "train/tumor/1.png", "test/no tumor/2.png"), ("no tumor", "tumor"), ["test", "train", "train"],
     "class: 'no tumor' and 'no_tumor' count as one"),
    (("0/1.png", "2/2.png", "10/3.png"), ("0", "2", "10"), None, None),
    (tuple(f"{c}/{i}.png" for c in "abcdef" for i in range(2)), tuple("abcdef"), None, None),
    (("a/1.png", "b/2.png", "a/1_bbox.png", "a/1-cam.png", "b/2_annotated.png"), ("a", "b"), None,
     "3 of 5 files are left out (masks or thumbnails beside their images 3)"),
    (("CT/1.png", "lung_mask/1.png"), ("CT", "lung_mask"), None, "WARNING: lung_mask counts as a class, and all its files have namesakes in "
     "others: if they are drawings of these, they must lie elsewhere"),
    (("films/1.png", "ManualMask/leftMask/1.png"), ("ManualMask", "films"), None, "WARNING: ManualMask counts as a class, and all its files have "
     "namesakes in others: if they are drawings of these, they must lie elsewhere"),                     # Montgomery
))
def test_layouts_that_people_have(images, classes, splits, note, tmp_path):
    """Names of splits, folders in folders, a copy of the same folders, masks."""
    for image in images:
        write(tmp_path, "t.txt", "x", images=(f"d/{image}",))
    cohort = load_cohort(str(tmp_path / "d"))
    assert cohort.tasks[0].classes == classes and cohort.splits == splits and (note is None or note in cohort.notes)


@pytest.mark.parametrize("images, message", (
    (("images/1.png", "masks/1.png"), r"\(there are images\); 1 of 2 files are left out \(masks or thumbnails beside their images 1\)"),
    (("train/1.png", "test/2.png"), "test, train: images there are in no folder of a class"),
    (("train2017/1.png", "val2017/2.png"), "train2017, val2017: images there are in no folder of a class"),
    (("train/a/1.png", "train/b/2.png", "test/3.png"), "test: images there are in no folder of a class"),
    (("imagesTr/1.png", "imagesTs/2.png", "labelsTr/1.png"), "imagesTr, imagesTs: images there are in no folder of a class"),
    (("a/1.png", "b/2.png", "test/3.png"), "test: images there are in no folder of a class"),
    (("train/NORMAL/1.png", "test/Normal/2.png"), "there are NORMAL.; class: 'NORMAL' and 'Normal' count as one"),
    (tuple(f"IMD{i:03}/{i}.bmp" for i in range(6)), "6 folders, as IMD000, with 6 patients or images in all look like patients"),      # PH2
    (tuple(f"{i}/{c}/{i}_idx5_x{c}_y1_class{c}.png" for i in range(10253, 10259) for c in (0, 1)), "6 folders, as 10253, with 6 patients"),     # IDC
    (("a/1.png", "b/2.png", "augmented/a/1.png", "augmented/b/2.png"), "augmented is beside the classes and holds folders of the same names, a, b"),
))
def test_folders_that_are_no_classes_are_refused(images, message, tmp_path):
    """Rather than trained as what they are not."""
    write(tmp_path, "t.txt", "x", images=images)
    os.remove(tmp_path / "t.txt")
    with pytest.raises(ValueError, match=message):
        load_cohort(str(tmp_path))


@pytest.mark.parametrize("folders, splits", (
    (("01_train", "02_test"), ["train", "test"]), (("trn", "tst"), ["train", "test"]), (("train", "dev"), ["train", "val"])))
def test_other_names_of_splits(tmp_path, folders, splits):
    """They are no classes."""
    write(tmp_path, "t.txt", "x", images=[f"{folder}/{name}/{folder}.png" for folder in folders for name in ("cat", "dog")])
    cohort = load_cohort(str(tmp_path))
    assert cohort.tasks[0].classes == ("cat", "dog") and sorted(cohort.splits) == sorted(splits * 2)


def test_folders_inside_the_classes(tmp_path):
    """Many may be patients, and a line says how they become that; the same in each may be the classes, as in patient/0, patient/1."""
    images = [f"{name}/{name}{i}/{j}.png" for name in ("cat", "dog") for i in range(3) for j in range(2)]
    write(tmp_path, "a/t.txt", "x", images=[f"a/{image}" for image in images])
    cohort = load_cohort(str(tmp_path / "a"))
    assert not cohort.patients_known and cohort.notes[1].startswith("WARNING: the classes are the 2 upper folders, as cat, with 6 others in them, as cat0: ")
    assert load_cohort(str(tmp_path / "a"), regex="([^/]+)/[^/]+$").patients[:3] == ["cat0", "cat0", "cat1"]
    images = [f"{organ}/{organ}_{kind}/{i}.png" for organ in ("colon", "lung") for kind in ("aca", "n") for i in range(2)]
    write(tmp_path, "d/t.txt", "x", images=[f"d/{image}" for image in images])
    assert "with 4 others in them, as colon_aca: " in load_cohort(str(tmp_path / "d")).notes[1]
    write(tmp_path, "b/t.txt", "x", images=[f"b/{patient}/{name}/{patient}.png" for patient in (7, 8, 9) for name in "01"])
    assert "WARNING: the classes are the 3 upper folders, as 7, with 2 others in them, as 0: " in load_cohort(str(tmp_path / "b")).notes[1]
    write(tmp_path, "c/t.txt", "x", images=[f"c/{name}/{split}/{name}.png" for name in "xyz" for split in ("train", "test")])
    assert len(load_cohort(str(tmp_path / "c")).notes) == 2        # no patient ids, and t.txt is left out
