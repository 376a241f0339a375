"""tables.py: every kind of table becomes the same Cohort, what is wrong in it is said with its place, patients never cross splits."""
import hashlib
import io
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

import synthetic
import tables
from tables import SPLITS, Cohort, Task, find_duplicates, fit_tasks, load_cohort, per_patient, split_patients, targets_agree

REAL = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "shared", "data")
NIH = ("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
       "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]")
CHEXPERT = ("Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
            "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices")
VINDR = ("image_id,rad_id,Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
         "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
         "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,Tuberculosis,"
         "Other diseases,No finding")


def write(folder, name, *lines, images=()):
    """Write a table and one small picture a name; -> path of the table."""
    for i, image in enumerate(images):
        os.makedirs(os.path.dirname(folder / image), exist_ok=True)
        Image.new("L", (4, 4), 10 * i).save(folder / image)
    os.makedirs(os.path.dirname(folder / name), exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def generic(folder, *rows, header="patient_id,image,target"):
    return write(folder, "t.csv", header, *rows, images=("a.png", "b.png", "c.png"))


def cohort_of(patients, target, kind="regression", splits=None, pixels=None):
    """Cohort in memory; pictures that differ, unless `pixels` says otherwise."""
    classes = () if kind == "regression" else tuple("abcdefghijkl"[:np.shape(target)[1] if kind == "labels" else 12])
    pixels = np.arange(len(patients)) if pixels is None else np.array(pixels)
    return Cohort("made", [Task("y", kind, classes)], list(patients), [f"{i}.png" for i in range(len(patients))],
                  {"y": np.array(target, dtype=np.float32)}, splits=splits, pixels=np.uint8(pixels[:, None, None] // [[1, 256]] % 256))


def who(cohort, indices):
    return {split: {cohort.patients[i] for i in part} for split, part in indices.items()}


# -----------------------------------------------------------------------------
# public tables


def test_nih_2020_header_with_commas_in_brackets(tmp_path):
    """Eleven columns where two names hold a comma; findings are matched as words, No Finding is all zeros."""
    write(tmp_path, "Data_Entry_2017_v2020.csv", NIH, "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143",
          "00000001_001.png,Edema|Pleural_Thickening|Massive,1,1,58,M,PA,2894,2729,0.143,0.143",
          "00000002_000.png,No Finding,0,2,80,F,AP,2500,2048,0.171,0.171",
          images=("images_001/images/00000001_000.png", "images_001/images/00000001_001.png", "images_012/images/00000002_000.png"))
    cohort = load_cohort("nih", str(tmp_path))
    task, = cohort.tasks
    assert task.kind == "labels" and task.outputs == 14 and cohort.patients == ["1", "1", "2"]
    said = [{task.classes[j] for j in np.flatnonzero(row)} for row in cohort.targets["findings"]]
    assert said == [{"Cardiomegaly"}, {"Edema", "Pleural_Thickening"}, set()]
    assert [os.path.relpath(path, tmp_path) for path in cohort.paths][2] == "images_012/images/00000002_000.png"
    assert cohort.columns["OriginalImage[Width"][0] == "2682" and cohort.columns["y]"] == ["0.143", "0.143", "0.171"]
    assert targets_agree(cohort) is False


def test_nih_2017_header_with_trailing_comma(tmp_path):
    """The older file ends its lines with a comma and says 058Y; a single finding can be the target and is still a label."""
    path = write(tmp_path, "Data_Entry_2017.csv", NIH + ",", "a.png,Hernia|Mass,0,7,058Y,M,PA,2682,2749,0.143,0.143,",
                 "b.png,No Finding,0,8,060Y,F,PA,2682,2749,0.143,0.143,", images=("a.png", "b.png"))
    cohort = load_cohort(path)
    assert cohort.patients == ["7", "8"] and cohort.columns["Patient Age"] == ["058Y", "060Y"] and "" not in cohort.columns
    one = load_cohort("nih", str(tmp_path), target="Hernia")
    assert one.tasks == [Task("findings", "labels", ("Hernia",))] and one.targets["findings"].tolist() == [[1], [0]]


def test_chexpert_policies_and_patient_from_the_path(tmp_path):
    """-1 follows --uncertain, blank follows --blank; equal file names of different patients are not mixed up."""
    top = "CheXpert-v1.0-small/train/"
    paths = [top + "patient00001/study1/view1_frontal.jpg", top + "patient00002/study1/view1_frontal.jpg"]
    rows = [f"{paths[1]},F,68,Frontal,AP,1.0,,,,,0.0,,-1.0,,1.0,,,,1.0", f"{paths[0]},M,30,Frontal,PA,,,1.0,,,,,,,,-1.0,,,"]
    write(tmp_path, "CheXpert-v1.0-small/train.csv", CHEXPERT, *rows, images=paths)
    folder = str(tmp_path / "CheXpert-v1.0-small")                 # the table's paths begin above it
    for uncertain, blank, edema, pneumonia in (("zeros", "zeros", [0, 0], [0, 0]), ("ones", "zeros", [0, 0], [1, 0]),
                                               ("ignore", "zeros", [0, 0], [np.nan, 0]), ("zeros", "ignore", [0, np.nan], [0, np.nan]),
                                               ("ones", "ones", [0, 1], [1, 1])):
        cohort = load_cohort("chexpert", folder, uncertain=uncertain, blank=blank)
        classes, values = cohort.tasks[0].classes, cohort.targets["findings"]
        assert len(classes) == 13 and cohort.patients == ["patient00002", "patient00001"]
        np.testing.assert_array_equal(values[:, classes.index("Edema")], edema)
        np.testing.assert_array_equal(values[:, classes.index("Pneumonia")], pneumonia)
    assert [os.path.relpath(path, tmp_path) for path in cohort.paths] == paths[::-1]
    one = load_cohort("chexpert", folder, patient="Sex", target="Edema", blank="ones")
    assert one.tasks[0].kind == "labels" and one.targets["findings"].tolist() == [[0], [1]] and one.patients == ["F", "M"]


def test_uncertain_says_it_label_by_label(tmp_path):
    """zeros for all but the labels named; a label or a word that does not exist is one line."""
    path = write(tmp_path, "t.csv", "patient_id,image,a,b", "p,x,-1,-1", "q,y,1,0", images=("x.png", "y.png"))
    said = load_cohort(path, target="a:labels,b:labels", uncertain="zeros,b=ones").targets["findings"]
    np.testing.assert_array_equal(said, [[0, 1], [1, 0]])
    said = load_cohort(path, target="a:labels,b:labels", uncertain="ones,a=ignore").targets["findings"]
    np.testing.assert_array_equal(said, [[np.nan, 1], [1, 0]])
    for wrong, line in (("maybe", "'maybe' is none of"), ("zeros,c=ones", "'c' is no column"), ("a=often", "'often' is none of")):
        with pytest.raises(ValueError, match=line):
            load_cohort(path, target="a:labels,b:labels", uncertain=wrong)


def test_nih_lists_are_the_split(tmp_path):
    """train_val_list.txt and test_list.txt beside the table; val is cut from train by patient; a film in neither is an error."""
    rows = [f"{i}_{j}.png,{('No Finding', 'Edema')[i % 2]},0,{i},57,M,PA,2682,2749,0.143,0.143" for i in range(20) for j in range(2)]
    write(tmp_path, "Data_Entry_2017_v2020.csv", NIH, *rows, images=[f"{i}_{j}.png" for i in range(20) for j in range(2)])
    assert load_cohort("nih", str(tmp_path)).splits is None
    lists = {"train_val_list.txt": range(16), "test_list.txt": range(16, 20)}
    for name, patients in lists.items():
        (tmp_path / name).write_text("".join(f"{i}_{j}.png\n" for i in patients for j in range(2)))
    cohort = load_cohort("nih", str(tmp_path))
    indices, _ = split_patients(cohort, val=0.25)
    assert {cohort.patients[i] for i in indices["test"]} == set(map(str, range(16, 20)))
    assert len({cohort.patients[i] for i in indices["val"]}) == 4 and len(indices["train"]) == 24
    (tmp_path / "test_list.txt").write_text("16_0.png\n")
    with pytest.raises(ValueError, match="16_1.png is in none of train_val_list.txt, test_list.txt"):
        load_cohort("nih", str(tmp_path))


def test_an_image_that_could_be_two_is_refused(tmp_path):
    """A name alone finds a file anywhere below, but not when two different ones have it; equal copies do no harm."""
    path = write(tmp_path, "t.csv", "patient_id,image,target", "p,x,0.5", "q,y,1.5", images=("m/x.png", "n/x.png", "m/y.png"))
    with pytest.raises(ValueError, match=r"row 2, column image: 'x' may be .*m/x.png or .*n/x.png; --images"):
        load_cohort(path)
    (tmp_path / "n/x.png").write_bytes((tmp_path / "m/x.png").read_bytes())
    assert load_cohort(path).paths == [str(tmp_path / "m/x.png"), str(tmp_path / "m/y.png")]


def test_vindr_takes_the_majority_of_three_readers(tmp_path):
    """One image a row out of three, a finding when two of three say so, in every column; the image is the patient."""
    def row(image, reader, found):
        names = VINDR.split(",")[2:]
        return ",".join([image, reader, *(str(int(name in found)) for name in names)])

    write(tmp_path, "annotations/image_labels_train.csv", VINDR, row("i1", "R9", ("Nodule/Mass", "Lung tumor")),
          row("i1", "R10", ("Nodule/Mass",)), row("i2", "R8", ()), row("i1", "R8", ("ILD", "Other diseases")),
          row("i2", "R9", ("Tuberculosis", "Other diseases")), row("i2", "R10", ("Tuberculosis", "Other diseases")),
          images=("i1.png", "i2.png"))
    cohort = load_cohort("vindr", str(tmp_path))
    task, = cohort.tasks
    said = [{task.classes[j] for j in np.flatnonzero(row)} for row in cohort.targets["findings"]]
    assert task.outputs == 26 and cohort.patients == ["i1", "i2"] and said == [{"Nodule/Mass"}, {"Tuberculosis"}]
    assert "no patient ids" in cohort.notes[0]
    assert load_cohort("vindr", str(tmp_path), target="Other diseases:labels").targets["findings"].tolist() == [[0], [1]]


def test_isic_and_ham10000(tmp_path):
    """ISIC names files without their ending; HAM10000 goes by lesion, and dx_type, a label leak, is no target by default."""
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
    write(tmp_path, "isic/train.csv", header,
          "ISIC_1,IP_1,male,45.0,torso,unknown,benign,0", "ISIC_2,IP_2,female,,torso,melanoma,malignant,1",
          images=("isic/jpeg/ISIC_1.jpg", "isic/jpeg/ISIC_2.jpg"))
    isic = load_cohort("isic", str(tmp_path / "isic"))
    assert isic.tasks == [Task("target", "classes", ("0", "1"))] and isic.patients == ["IP_1", "IP_2"] and isic.notes == []
    write(tmp_path, "ham/HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex,localization",
          "HAM_1,ISIC_3,bkl,histo,80.0,male,scalp", "HAM_1,ISIC_4,bkl,histo,80.0,male,scalp", "HAM_2,ISIC_5,nv,follow_up,40.0,female,back",
          images=("ham/part_1/ISIC_3.jpg", "ham/part_1/ISIC_4.jpg", "ham/part_2/ISIC_5.jpg"))
    ham = load_cohort("ham10000", str(tmp_path / "ham"))
    assert ham.tasks == [Task("dx", "classes", ("bkl", "nv"))] and ham.patients == ["HAM_1", "HAM_1", "HAM_2"]
    assert ham.targets["dx"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("name, tasks", (("bag", [Task("subtype", "classes", ("A", "B"))]), ("chest", [Task("findings", "labels", tuple(synthetic.FINDINGS))]),
                                         ("brain", [Task("diagnosis", "classes", ("AD", "CN", "MCI"))]),
                                         ("psoriasis", [Task("pasi", "regression"), Task("pga", "classes")])))
def test_the_simulated_cohorts_need_no_target(name, tasks, tmp_path):
    """The header that synthetic.py writes is recognized: six findings, a diagnosis, or PASI and PGA."""
    cohort = load_cohort(synthetic.make(name, str(tmp_path), patients=6))
    assert [(task.name, task.kind) for task in cohort.tasks] == [(task.name, task.kind) for task in tasks]
    assert name == "psoriasis" or cohort.tasks == tasks
    assert len(set(cohort.patients)) == 6 and all(map(os.path.isfile, cohort.paths))


def clam(folder):
    """CLAM's layout: a slide table, pt_files beside h5_files, splits of ragged columns."""
    slides = ["TCGA-05.1a", "TCGA-05.2b", "TCGA-21.3c", "TCGA-22.4d"]
    for slide in slides:
        for kind in ("pt", "h5"):
            os.makedirs(folder / f"features/{kind}_files", exist_ok=True)
            (folder / f"features/{kind}_files/{slide}.{kind}").write_bytes(b"")
    write(folder, "slides.csv", "case_id,slide_id,label", *(f"{slide[:7]},{slide},{'LUAD' if i < 2 else 'LUSC'}" for i, slide in enumerate(slides)))
    write(folder, "splits_0.csv", ",train,val,test", f"0,{slides[0]},{slides[2]},{slides[3]}", f"1,{slides[1]},,")
    return str(folder / "slides.csv"), str(folder / "features"), str(folder / "splits_0.csv")


def test_clam_tables_features_and_splits(tmp_path):
    """case_id is the patient, slide_id names the .pt file wherever it is, label is the class, splits_0.csv the official split."""
    table, features, splits = clam(tmp_path)
    cohort = load_cohort(table, features, split=splits)
    assert cohort.tasks == [Task("label", "classes", ("LUAD", "LUSC"))] and cohort.splits == ["train", "train", "val", "test"]
    assert cohort.patients == ["TCGA-05", "TCGA-05", "TCGA-21", "TCGA-22"]
    assert [os.path.relpath(path, features) for path in cohort.paths][:2] == ["pt_files/TCGA-05.1a.pt", "pt_files/TCGA-05.2b.pt"]
    assert load_cohort(table, features).splits is None


@pytest.mark.parametrize("content, message", (
    (",train,val,test\n0,TCGA-05.1a,,\n", "row 3, column slide_id: 'TCGA-05.2b' is in none of train, val, test of"),
    (",train,val\n0,TCGA-05.1a,\n", "need the columns train, val and test"),
    (",train,val,test\n0,TCGA-05.1a,TCGA-05.1a,\n", "'TCGA-05.1a' stands there twice")))
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


# -----------------------------------------------------------------------------
# one's own table


def test_other_column_names(tmp_path):
    """Every column can be named by a flag; all columns are kept as text."""
    path = write(tmp_path, "my.csv", "who,photo,part,score,age", "p,x.png,Train,1.5,30", "q,y.png,valid,2.5,", "r,z.png,test,,50",
                 images=("photos/x.png", "photos/y.png", "photos/z.png"))
    cohort = load_cohort(path, str(tmp_path / "photos"), "who", "photo", "score", "part")
    assert cohort.name == "my" and cohort.patients == ["p", "q", "r"] and cohort.splits == ["train", "val", "test"]
    assert cohort.tasks == [Task("score", "regression")] and cohort.columns["age"] == ["30", "", "50"]
    np.testing.assert_array_equal(cohort.targets["score"], np.float32([1.5, 2.5, np.nan]))
    assert cohort.targets["score"].dtype == np.float32


def test_bom_crlf_quotes_and_blank_lines(tmp_path):
    """What spreadsheets write is read; the row in a message is the line in the file."""
    generic(tmp_path)
    lines = ['\ufeffpatient_id,image,"a, ""b"""', '"O\'Neil, J",a.png, 1.5 ', '', 'p,b.png,"2', '"', 'q,c.png,x', '']
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode())
    header, rows = tables.read_csv(str(tmp_path / "t.csv"))
    assert header == ["patient_id", "image", 'a, "b"'] and rows[1]['a, "b"'] == "2"
    assert rows[0] == {"patient_id": "O'Neil, J", "image": "a.png", 'a, "b"': "1.5", None: 2}
    with pytest.raises(ValueError, match="t.csv row 6, column a, \"b\": 'x' is not a number"):
        tables.numbers("t.csv", rows, 'a, "b"')


@pytest.mark.parametrize("content, message", (
    (b"", "row 1: no header"),
    (b",,\n1,2,3\n", "row 1: no header"),
    (b"patient_id,image,target\n", "no rows below the header"),
    (b"patient_id,image,target,target\np,a.png,1,2\n", "row 1: column 'target' stands there twice"),
    (b"patient_id,file,target\np,a.png,1\n", "no column 'image'; --image-column names it, there are patient_id, file, target"),
    (b"id,image,target\np,a.png,1\n", "no column 'patient_id'; --patient-column names it"),
    (b"patient_id,image,score\np,a.png,1\n", "what is to be predicted\\? --target NAME"),
    (b"patient_id,image,target\np,a.png,1\nq,b.png\n", "row 3: 2 cells, the header has 3"),
    (b"patient_id,image,target\np,a.png,1,9\n", "row 2: 4 cells, the header has 3"),
    (b"patient_id,image,target\np,a.png,0.5\n ,b.png,1.5\n", "row 3, column patient_id: no patient"),
    (b"patient_id,image,target\np,../secret.png,0.5\n", "row 2, column image: '../secret.png' leaves the image folder"),
    (b"patient_id,image,target\np,/etc/passwd,0.5\n", "row 2, column image: '/etc/passwd' leaves the image folder"),
    (b"patient_id,image,target\np,x/../../u/a.png,0.5\n", "leaves the image folder"),
    (b"patient_id,image,target\np,a.png,0.5\nq,none.png,1\nr,,1\n", r"row 3, column image: no image 'none.png' .*\(2 of 3 rows"),
    (b"patient_id,image,target\np,a.png,0.5\nq,b.png,1\nr,c.png,n/a\n", "row 4, column target: 'n/a' is not a number, others are"),
    (b"patient_id,image,target\np,a.png,0.5\nq,b.png,inf\n", "row 3, column target: 'inf' is not a number"),
    (b"patient_id,image,target\np,a.png,\nq,b.png,\n", "column target: no value in 2 rows"),
    (b"patient_id,image,target,split\np,a.png,0.5,train\nq,b.png,1,dev\n", "row 3, column split: 'dev', need train, val or test"),
    (b"patient_id,image,target\np,a.png,\xe9\n", "not a UTF-8 CSV file"),
    ("patient_id,image,target\np,a.png,1\n".encode("utf-16"), "not a UTF-8 CSV file"),
    (b'patient_id,image,target\np,"a.png,1\n', "not a UTF-8 CSV file"),
))
def test_what_is_wrong_is_said_in_one_line_with_its_place(tmp_path, content, message):
    """File, row and column, what is there and what is needed."""
    path = generic(tmp_path / "t")
    open(path, "wb").write(content)
    with pytest.raises(ValueError, match=message) as error:
        load_cohort(path)
    assert "\n" not in str(error.value) and ("t.csv" in str(error.value))


@pytest.mark.parametrize("spec, message", (
    ("pasi", "no column 'pasi'; --target names it"), ("target:words", "kind 'words', need one of regression, classes, labels"),
    ("target:labels", "row 2, column target: '0.5' is no label, need 0, 1, -1 or blank"), ("target,", "no column ''"),
))
def test_a_wrong_target_flag(tmp_path, spec, message):
    """--target names a column and, after a colon, a kind."""
    with pytest.raises(ValueError, match=message):
        load_cohort(generic(tmp_path, "p,a.png,0.5", "q,b.png,1"), target=spec)


def test_flags_and_places_that_do_not_fit(tmp_path, monkeypatch):
    """Nothing there, a public table without its folder, a flag that the data has no use for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nih").mkdir()                                     # a folder of that name does not hide the table
    for args, message in ((("nowhere.csv",), "no such file or folder"), (("nih",), "nih needs --images, the folder that holds Data_Entry"),
                          (("nih", str(tmp_path)), f"not {tmp_path}"),
                          ((str(tmp_path), None, None, None, "x"), "--target is of a CSV table"),
                          (("medmnist:pathmnist", "photos"), "--images is of a CSV table"), (("medmnist:cat",), "FLAG one of pathmnist"),
                          (("medmnist:pathmnist:32",), "SIDE one of 28, 64"),
                          ((generic(tmp_path, "p,a.png,1"), "no/folder"), "no such folder")):
        with pytest.raises(ValueError, match=message):
            load_cohort(*args)


def test_a_hundred_thousand_rows_take_seconds(tmp_path):
    """One picture stands for all: tables of public size are read, unified and split without a loop that is quadratic."""
    generic(tmp_path, *(f"p{i // 3},a.png,{i // 3 % 50 + 0.5},{i // 3 % 2},{i // 3 % 5 % 2}" for i in range(100_000)),
            header="patient_id,image,target,label_a,label_b")
    start = time.perf_counter()
    cohort = per_patient(load_cohort(str(tmp_path / "t.csv")))
    assert [task.name for task in cohort.tasks] == ["target", "findings"] and len(cohort.paths) == 100_000
    cohort.pixels = np.arange(100_000, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)     # as if all pictures differed
    indices, _ = split_patients(cohort)
    assert sum(map(len, indices.values())) == 100_000 and time.perf_counter() - start < 15


# -----------------------------------------------------------------------------
# kinds of targets


@pytest.mark.parametrize("cells, kind, classes, values", (
    (("0.5", "3", ""), "regression", (), (0.5, 3, np.nan)),
    (("0", "1", "1"), "classes", ("0", "1"), (0, 1, 1)),
    (("10", "9", "2"), "regression", (), (10, 9, 2)),
    (("mild", "severe", ""), "classes", ("mild", "severe"), (0, 1, np.nan)),
))
def test_inferred_kinds(tmp_path, cells, kind, classes, values):
    """Words and a lone 0/1 column are classes, other numbers regression, blank is unknown."""
    cohort = load_cohort(generic(tmp_path, *(f"p{i},{'abc'[i]}.png,{cell}" for i, cell in enumerate(cells))))
    assert cohort.tasks == [Task("target", kind, classes)]
    np.testing.assert_array_equal(cohort.targets["target"], np.float32(values))


def test_forced_kinds(tmp_path):
    """The kind after the colon is taken; classes that are numbers are in their order; dots leave the task's name."""
    path = generic(tmp_path, "p,a.png,10,0", "q,b.png,9,1", "r,c.png,2,-1", header="patient_id,image,v.1,mark")
    cohort = load_cohort(path, target="v.1:classes,mark:labels", uncertain="ignore")
    assert cohort.tasks == [Task("v_1", "classes", ("2", "9", "10")), Task("findings", "labels", ("mark",))]
    assert cohort.targets["v_1"].tolist() == [2, 1, 0]
    np.testing.assert_array_equal(cohort.targets["findings"], [[0], [1], [np.nan]])
    assert load_cohort(path, target="mark:regression").targets["mark"].tolist() == [0, 1, -1]


def test_several_binary_columns_are_one_task(tmp_path):
    """label_* columns of 0, 1, blank and -1 are labels together; a blank is unknown outside CheXpert, whatever --blank says."""
    path = generic(tmp_path, "p,a.png,1,0", "q,b.png,,1.0", "r,c.png,0,-1", header="patient_id,image,label_x,label_y")
    cohort = load_cohort(path, uncertain="ones", blank="zeros")
    assert cohort.tasks == [Task("findings", "labels", ("label_x", "label_y"))] and cohort.tasks[0].outputs == 2
    np.testing.assert_array_equal(cohort.targets["findings"], np.float32([[1, 0], [np.nan, 1], [0, 1]]))


# -----------------------------------------------------------------------------
# folders and arrays


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
    write(tmp_path, "a/x.txt", images=("a/bird/5.png",))
    with pytest.raises(ValueError, match="bird is beside the folders of a split"):
        load_cohort(str(tmp_path / "a"))
    with pytest.raises(ValueError, match="need a CSV file, or folders of images, one a class"):
        load_cohort(str(tmp_path / "b" / "control"))


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
    monkeypatch.setattr(tables, "MEDMNIST_URL", "http://127.0.0.1:9/{file}")
    return tmp_path


def publish(monkeypatch, content, flag="breastmnist classes 2"):
    """Let the MD5 of 28 px be that of the content."""
    md5 = hashlib.md5(content).hexdigest()[:24]
    monkeypatch.setattr(tables, "MEDMNIST", f"{flag} {md5} {'0' * 24} {md5} {'0' * 24}\n")


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
    assert cohort.tasks == [Task("class", "classes", ("0", "1"))] and cohort.targets["class"].shape == (11,)
    assert cohort.paths[3] == "breastmnist.npz:3" and len(set(cohort.patients)) == 11
    indices, notes = split_patients(cohort)
    assert [len(indices[split]) for split in SPLITS] == [6, 2, 3] and "no patient ids" in notes[0]


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
    rows = [row.split() for row in tables.MEDMNIST.strip().splitlines()]
    assert len(rows) == 18 and all(len(row) == (5 if "3d" in row[0] else 7) and row[1] in tables.KINDS and int(row[2]) > 1 for row in rows)
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


def test_adrenal_volumes_are_the_published_ones():
    """The real file, where it is: 1188, 98 and 298 volumes of 64 px, 22 % of them positive."""
    folder = real("medmnist")
    cohort = load_cohort("medmnist:adrenalmnist3d:64", cache=folder)
    assert cohort.pixels.shape == (1584, 64, 64, 64) and [cohort.splits.count(split) for split in SPLITS] == [1188, 98, 298]
    assert 0.21 < cohort.targets["class"].mean() < 0.23


def test_volumes_are_found_by_their_names(tmp_path):
    """A CSV of .npy and .npz files, with their ending or without it."""
    write(tmp_path, "t.csv", "patient_id,image,target", "p,a.npy,1.5", "q,b,2.5")
    for name in ("a.npy", "b.npz"):
        (tmp_path / name).write_bytes(b"")
    assert [os.path.basename(path) for path in load_cohort(str(tmp_path / "t.csv")).paths] == ["a.npy", "b.npz"]


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
    monkeypatch.setattr(tables, "MEDMNIST_URL", f"http://127.0.0.1:{server.server_port}/records/{{file}}?download=1")
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
    with pytest.raises(ValueError, match="breastmnist.npz.download=1: could not be downloaded .*; fetch it yourself .*cache/breast"):
        load_cohort("medmnist:breastmnist", cache=str(home / "cache"))
    assert os.listdir(home / "cache") == []


# -----------------------------------------------------------------------------
# one target a patient, duplicates


def test_one_target_a_patient():
    """first, mean and max of what is known; a patient of whom nothing is known stays unknown."""
    cohort = cohort_of("ppqqr", [1, 3, np.nan, 5, np.nan])
    for how, expected in (("first", [1, 1, 5, 5]), ("mean", [2, 2, 5, 5]), ("max", [3, 3, 5, 5])):
        np.testing.assert_array_equal(per_patient(cohort, how).targets["y"], np.float32([*expected, np.nan]))
    with pytest.raises(ValueError, match=r"patient p has images with different targets for y \(1 and 3\); --patient-target"):
        per_patient(cohort)
    assert not targets_agree(cohort) and targets_agree(per_patient(cohort, "max"))
    same = cohort_of("ppq", [1, np.nan, 2])
    np.testing.assert_array_equal(per_patient(same).targets["y"], np.float32([1, 1, 2]))
    with pytest.raises(ValueError, match="mean does not apply to y, a task of classes"):
        per_patient(cohort_of("pp", [0, 1], "classes"), "mean")


def test_one_target_a_patient_label_by_label():
    """An unknown label is neither a contradiction nor hides one beside it."""
    nan = np.nan
    cohort = cohort_of("ppq", [[1, nan, 0], [nan, 1, 0], [nan, nan, 1]], "labels")
    np.testing.assert_array_equal(per_patient(cohort).targets["y"], np.float32([[1, 1, 0], [1, 1, 0], [nan, nan, 1]]))
    cohort = cohort_of("pp", [[1, nan], [0, nan]], "labels")
    assert not targets_agree(cohort) and per_patient(cohort, "max").targets["y"][:, 0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="different targets for a "):
        per_patient(cohort)


def test_duplicates_are_found_by_content(tmp_path):
    """A renamed copy and a row that names the same file, when the patients differ; files of equal size and start are told apart."""
    same = b"x" * 6000
    for name, content in (("a", same), ("b", same), ("c", same[:-1] + b"y"), ("d", b"x"), ("e", same)):
        (tmp_path / name).write_bytes(content)
    names, patients = "abceeda", "pqrppst"
    cohort = Cohort("made", [], list(patients), [str(tmp_path / name) for name in names], {})
    assert find_duplicates(cohort) == [[0, 1, 3, 4, 6]]
    assert find_duplicates(Cohort("made", [], ["p", "p"], cohort.paths[:2], {})) == []
    assert find_duplicates(cohort_of("pqrr", range(4), pixels=[7, 8, 7, 8])) == [[0, 2], [1, 3]]


# -----------------------------------------------------------------------------
# splits


def many(n=60, seed=1, kind="regression"):
    """A cohort of n patients with 1 to 4 images."""
    rng = np.random.default_rng(seed)
    patients = [f"p{i}" for i in range(n) for _ in range(rng.integers(1, 5))]
    value = rng.exponential(10, n)
    return cohort_of(patients, [value[int(p[1:])] for p in patients])


def test_splits_are_disjoint_complete_and_repeatable():
    """No patient in two splits, every image in one, the same for a seed and another for another; the confirmation says so."""
    cohort = many()
    indices, notes = split_patients(cohort, seed=3)
    groups = who(cohort, indices)
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
    tested = [who(cohort, split_patients(cohort, 5, fold)[0])["test"] for fold in range(5)]
    assert sum(map(len, tested)) == n and len(set.union(*tested)) == n
    assert max(map(len, tested)) - min(map(len, tested)) <= 1


def test_splits_are_spread_over_the_target():
    """Test and val take one of every few neighbors in the order of the target, so every fold has low and high ones."""
    cohort = many(200)
    value = dict(zip(cohort.patients, cohort.targets["y"]))
    ordered = sorted(value.values())
    for fold in range(5):
        groups = who(cohort, split_patients(cohort, 5, fold)[0])
        for split, quarters in (("test", 10), ("val", 5)):
            counts = np.histogram([value[p] for p in groups[split]], [*ordered[::50], np.inf])[0]
            assert counts.sum() == 4 * quarters and (abs(counts - quarters) <= 2).all()


def test_twins_stay_together():
    """Patients linked by byte-identical images, also through a third one, are in one split; the note names files and patients."""
    patients = [f"p{i}" for i in range(40)] + ["p9", "p9"]
    pixels = list(range(40)) + [3, 17]                             # p3 = p9 and p9 = p17
    cohort = cohort_of(patients, np.arange(42.), pixels=pixels)
    for seed in range(8):
        for fold in range(5):
            indices, notes = split_patients(cohort, 5, fold, seed=seed)
            groups = who(cohort, indices)
            assert sum({"p3", "p9", "p17"} <= groups[split] for split in SPLITS) == 1
    assert notes[0].startswith("2 sets of byte-identical images across patients: ") and "17.png (patient p17, " in notes[0]
    assert "WARNING" not in notes[0]


def test_an_official_split_is_kept():
    """As it is where it is complete; twins across it are only named; what it lacks is cut from train, by patient."""
    patients = [f"p{i}" for i in range(40) for _ in range(2)]
    splits = ["train"] * 60 + ["test"] * 20
    cohort = cohort_of(patients, np.arange(80.), splits=splits, pixels=[*range(79), 5])
    indices, notes = split_patients(cohort)
    groups = who(cohort, indices)
    assert groups["test"] == {f"p{i}" for i in range(30, 40)} and len(groups["val"]) in (3, 4) and not groups["val"] & groups["train"]
    assert "WARNING: 1 cross the official split" in notes[0] and "79.png (patient p39, test)" in notes[0]
    cohort.splits = ["train"] * 40 + ["val"] * 20 + ["test"] * 20
    indices, _ = split_patients(cohort)
    assert [indices[split] for split in SPLITS] == [list(range(40)), list(range(40, 60)), list(range(60, 80))]
    cohort.splits = ["train"] * 60 + ["val"] * 20
    groups = who(cohort, split_patients(cohort)[0])
    assert len(groups["test"]) == 6 and groups["val"] == {f"p{i}" for i in range(30, 40)}


def test_splits_that_cannot_be():
    """A patient on both sides of an official split, too few patients, a fold or share that is none."""
    cohort = many(20)
    for args, message in (((5, 5), "--fold 5 of --folds 5: need 0 .. 4"), ((5, -1), "need 0 .. 4"),
                          ((21, 0), "20 patients do not fill 21 parts"), ((5, 0, 0.0), "--val 0.0: need 0 <"), ((5, 0, 0.9), "--val 0.9"),
                          ((2, 0, 0.05), "10 patients do not fill 20 parts")):
        with pytest.raises(ValueError, match=message):
            split_patients(cohort, *args)
    with pytest.raises(ValueError, match="patient p is in train and in test of the official split"):
        split_patients(cohort_of("ppq", [1, 2, 3], splits=["train", "test", "test"]))
    with pytest.raises(ValueError, match="no patient in the train split, only test, val"):
        split_patients(cohort_of("pq", [1, 2], splits=["val", "test"]))
    with pytest.raises(ValueError, match="need 0, the table has its own test split"):
        split_patients(cohort_of("pqr", [1, 2, 3], splits=list(SPLITS)), 5, 1)


def test_positive_weights_are_negatives_over_positives_of_the_training_split():
    """Label by label, of the known ones; 1 where no positive is known."""
    values = np.array([[1, 0, 0], [0, 0, np.nan], [0, 1, 0], [0, np.nan, 0], [1, 1, 1]], np.float32)
    cohort = Cohort("c", [Task("findings", "labels", ("a", "b", "c"))], list("pqrst"), list("pqrst"), {"findings": values})
    assert fit_tasks(cohort.tasks, cohort, [0, 1, 2, 3], True)[0].positive_weight == (3.0, 2.0, 1.0)
    assert fit_tasks(cohort.tasks, cohort, [0, 1, 2, 3])[0].positive_weight == ()


def test_fit_tasks():
    """Center and scale are those of the known training targets; one value only, or none, is refused."""
    cohort = cohort_of("pqrst", [1e6, 1e6 + 2, np.nan, 5, 5])
    task, = fit_tasks(cohort.tasks, cohort, [0, 1, 2])
    assert task.center == 1e6 + 1 and task.scale == 1 and cohort.tasks[0].scale == 1.0
    for part, message in (([3, 4], "y is 5 for every patient of the training split"), ([2], "no known value of y")):
        with pytest.raises(ValueError, match=message):
            fit_tasks(cohort.tasks, cohort, part)
    with pytest.raises(ValueError, match="y is b for every patient"):
        fit_tasks([Task("y", "classes", ("a", "b"))], cohort_of("pq", [1, 1], "classes"), [0, 1])


def test_the_file_itself_says_how_a_table_is_understood(tmp_path, capsys):
    """python tables.py TABLE.csv: images, patients, tasks, split; without a table, the public ones."""
    write(tmp_path, "t.csv", "patient_id,image,target", *(f"p{i},{i}.png,{i}.5" for i in range(12)), images=[f"{i}.png" for i in range(12)])
    tables.main(str(tmp_path / "t.csv"))
    said = capsys.readouterr().out
    assert "t: 12 images of 12 patients\ntarget (regression): 0.5 .. 11.5, 0 unknown\nsplit by patient" in said
    tables.main()
    assert len(capsys.readouterr().out.splitlines()) == len(tables.KNOWN)


# -----------------------------------------------------------------------------
# real images, beside the project


def real(name):
    folder = os.path.join(REAL, name)
    if not os.path.isdir(folder):
        pytest.skip(f"{folder} is not there")
    return folder


def test_fundus_finds_the_copied_patient():
    """Patient 300 is a byte-identical copy of 299: found, named, and kept on the same side."""
    cohort = load_cohort(os.path.join(real("fundus_dr"), "labels.csv"), image="file", target="dr_level_0_4:regression")
    assert len(cohort.paths) == 600 and len(set(cohort.patients)) == 300
    indices, notes = split_patients(cohort)
    twins = [{cohort.patients[i] for i in group} for group in find_duplicates(cohort)]
    assert twins == [{"299", "300"}] * 2 and "299" in notes[0] and "300" in notes[0]
    assert sum({"299", "300"} <= patients for patients in who(cohort, indices).values()) == 1


def test_nih_sample():
    """1000 films of 682 patients; the counts of findings are those of the table's own 0/1 columns."""
    folder = real("nih_cxr14")
    cohort = load_cohort("nih", folder)
    assert len(cohort.paths) == 1000 and len(set(cohort.patients)) == 682 and len(set(cohort.paths)) == 1000
    _, rows = tables.read_csv(os.path.join(folder, "labels.csv"))
    for j, name in enumerate(cohort.tasks[0].classes):
        assert cohort.targets["findings"][:, j].sum() == sum(row[name] == "1" for row in rows) > 0
    assert cohort.targets["findings"][:, cohort.tasks[0].classes.index("Pneumonia")].sum() == 500


# -----------------------------------------------------------------------------
# times to an event, columns as input


def test_survival_targets_are_time_and_event(tmp_path):
    """Two columns become one task of one output; a row with one of them blank is unknown; the rest of the split spreads events evenly."""
    path = generic(tmp_path, "p1,a.png,12.5,1", "p2,b.png,3,0", "p3,c.png,,1", header="patient_id,image,days,died")
    cohort = load_cohort(path, target="days/died:survival")
    assert cohort.tasks == [Task("days", "survival", ("days", "died"))] and cohort.tasks[0].outputs == 1
    assert np.array_equal(cohort.targets["days"], [[12.5, 1], [3, 0], [np.nan, np.nan]], equal_nan=True)
    many = cohort_of([f"p{i}" for i in range(40)], [[i % 17, i < 10] for i in range(40)], "survival")
    for part in split_patients(many, folds=5, val=0.25)[0].values():
        assert 0.15 < many.targets["y"][part, 1].mean() < 0.35
    with pytest.raises(ValueError, match="no event in the training split"):
        fit_tasks(many.tasks, many, range(10, 40))


@pytest.mark.parametrize("target, row, message", (
    ("days:survival", "p1,a.png,1,1", "--target days:survival: need two columns"),
    ("days/dead:survival", "p1,a.png,1,1", "no column 'dead'"),
    ("days/died:survival", "p1,a.png,1,2", "row 2, column died: '2', need 1"),
    ("days/died:survival", "p1,a.png,-3,1", "column days: '-3', need a time"),
    ("days/died:survival", "p1,a.png,soon,1", "'soon' is not a number")))
def test_survival_mistakes(tmp_path, target, row, message):
    """One line with file, row and column."""
    with pytest.raises(ValueError, match=message) as error:
        load_cohort(generic(tmp_path, row, header="patient_id,image,days,died"), target=target)
    assert "\n" not in str(error.value)


def table_cohort(**columns):
    n = len(next(iter(columns.values())))
    cohort = cohort_of([f"p{i}" for i in range(n)], range(n))
    cohort.columns = columns
    return cohort


def test_columns_become_standardized_numbers_categories_and_indicators():
    """Mean and spread of the training rows, one 0/1 a word they hold, the mean for a blank and a column that says so."""
    cohort = table_cohort(age=["20", "40", "", "90"], sex=["F", "M", "F", "X"], site=["a", "", "b", ""])
    columns = tables.fit_columns(cohort, "age,sex, site", [0, 1, 2])
    assert [(c.kind, c.mean, c.std, c.values, c.blanks) for c in columns] == [
        ("number", 30, 10, (), True), ("category", 0, 1, ("F", "M"), False), ("category", 0, 1, ("a", "b"), True)]
    filled, notes = tables.tabulate(cohort, columns)
    assert filled.tabular.dtype == np.float32 and sum(c.width for c in columns) == 7
    #                                    age  blank  F  M  a  b  blank
    assert np.array_equal(filled.tabular, [[-1, 0, 1, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0, 1], [0, 1, 1, 0, 0, 1, 0], [6, 0, 0, 0, 0, 0, 1]])
    assert notes == ["age: 1 rows blank, filled with the mean",
                     "sex: 1 rows of X, unknown to the training split, count as none of its values",
                     "site: 2 rows blank, they count as none of its values"]
    assert tables.tabulate(cohort, [])[0].tabular is None


def test_numbers_can_be_categories():
    """NAME:category makes 0/1 columns of numbers."""
    cohort = table_cohort(stage=["1", "2", "4", "2"])
    assert tables.fit_columns(cohort, "stage:category", range(4))[0].values == ("1", "2", "4")


@pytest.mark.parametrize("wanted, message", (
    ("height", "--tabular height: made has no column 'height', there are age, sex, y, same, id, mixed"),
    ("age:word", "kind 'word', need number or category"),
    ("y", "y is what is to be predicted"), ("age,age", "age is named twice"), ("same", "same: 1 in every row of the training split"),
    ("id", "60 different words"), ("mixed:number", "column mixed, patient p3: 'x3' is not a number"),
    ("sex:number", "'F' is not a number")))
def test_columns_that_cannot_be_input(wanted, message):
    """One line that names column and, where it is a cell, the patient."""
    n = range(60)
    cohort = table_cohort(age=[str(i) for i in n], sex=["FM"[i % 2] for i in n], y=["1"] * 60, same=["1", "1.0"] * 30,
                          id=[f"x{i}" for i in n], mixed=[f"x{i}" if i == 3 else str(i) for i in n])
    with pytest.raises(ValueError, match=message) as error:
        tables.fit_columns(cohort, wanted, n)
    assert "\n" not in str(error.value)


def test_another_table_lacks_a_column():
    """What the model takes as input must be there, and be numbers where they were."""
    columns = tables.fit_columns(table_cohort(age=["1", "2"]), "age", [0, 1])
    with pytest.raises(ValueError, match="made has no column 'age', which the model takes as input"):
        tables.tabulate(table_cohort(sex=["F"]), columns)
    with pytest.raises(ValueError, match="patient p0: 'old' is not a number; --tabular age:category allows words"):
        tables.tabulate(table_cohort(age=["old"]), columns)
