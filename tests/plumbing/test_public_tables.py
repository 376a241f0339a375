"""plumbing/public_tables.py: tables as they are distributed are recognized and become the same Cohort."""
import os

import numpy as np
import pytest

from plumbing.cohort import Task, targets_agree
from plumbing.load_cohort import load_cohort
from plumbing.simulate import make
from plumbing.simulate_chest import FINDINGS
from plumbing.splits import split_patients
from plumbing.tables import read_csv
from tests.plumbing.small_tables import clam, real, write

NIH = ("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
       "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]")
CHEXPERT = ("Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
            "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices")
VINDR = ("image_id,rad_id,Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
         "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
         "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,Tuberculosis,"
         "Other diseases,No finding")


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
    assert targets_agree(cohort) is False and not any("there twice" in line for line in cohort.notes)


def test_nih_2017_header_with_trailing_comma(tmp_path):
    """The older file ends its lines with a comma and says 058Y; a single finding can be the target and is still a label."""
    path = write(tmp_path, "Data_Entry_2017.csv", NIH + ",", "a.png,Hernia|Mass,0,7,058Y,M,PA,2682,2749,0.143,0.143,",
                 "b.png,No Finding,0,8,060Y,F,PA,2682,2749,0.143,0.143,", images=("a.png", "b.png"))
    cohort = load_cohort(path)
    assert cohort.patients == ["7", "8"] and cohort.columns["Patient Age"] == ["058Y", "060Y"] and "" not in cohort.columns
    one = load_cohort("nih", str(tmp_path), target="Hernia")
    assert one.tasks == [Task("findings", "labels", ("Hernia",))] and one.targets["findings"].tolist() == [[1], [0]]


def test_nih_findings_in_other_spellings(tmp_path):
    """Another separator, small letters and a space say the same; a word that is no label is named, and alone it is no negative."""
    rows = ['1_0.png,"edema, Pleural Thickening",0,1,57,M,PA,1,1,1,1', "2_0.png,no finding,0,2,57,M,PA,1,1,1,1", "3_0.png,Fracture,0,3,57,M,PA,1,1,1,1",
            "4_0.png,,0,4,57,M,PA,1,1,1,1"]
    write(tmp_path, "Data_Entry_2017_v2020.csv", NIH, *rows, images=[f"{i}_0.png" for i in range(1, 5)])
    cohort = load_cohort("nih", str(tmp_path), target="Edema,Pleural_Thickening")
    np.testing.assert_array_equal(cohort.targets["findings"], [[1, 1], [0, 0], [np.nan] * 2, [np.nan] * 2])
    assert "WARNING: Finding Labels: none of the labels are fracture" in cohort.notes


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
    assert load_cohort("chexpert", folder, target="No Finding").tasks[0].kind == "labels"            # which holds 1.0 and blanks


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
    with pytest.raises(ValueError, match="'16_1.png' is in none of train_val_list.txt, test_list.txt"):
        load_cohort("nih", str(tmp_path))


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
    assert "no patient ids" in cohort.notes[0] and "6 rows of readers: in each column counts what most say of an image" in cohort.notes
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


@pytest.mark.parametrize("name, tasks", (("bag", [Task("subtype", "classes", ("A", "B"))]), ("chest", [Task("findings", "labels", tuple(FINDINGS))]),
                                         ("brain", [Task("diagnosis", "classes", ("AD", "CN", "MCI"))]),
                                         ("psoriasis", [Task("pasi", "regression"), Task("pga", "classes")])))
def test_the_simulated_cohorts_need_no_target(name, tasks, tmp_path):
    """The header that plumbing/simulate.py writes is recognized: six findings, a diagnosis, or PASI and PGA."""
    cohort = load_cohort(make(name, str(tmp_path), patients=6))
    assert [(task.name, task.kind) for task in cohort.tasks] == [(task.name, task.kind) for task in tasks]
    assert name == "psoriasis" or cohort.tasks == tasks
    assert len(set(cohort.patients)) == 6 and all(map(os.path.isfile, cohort.paths))


def test_clam_tables_features_and_splits(tmp_path):
    """case_id is the patient, slide_id names the .pt file wherever it is, label is the class, splits_0.csv the official split."""
    table, features, splits = clam(tmp_path)
    cohort = load_cohort(table, features, split=splits)
    assert cohort.tasks == [Task("label", "classes", ("LUAD", "LUSC"))] and cohort.splits == ["train", "train", "val", "test"]
    assert cohort.patients == ["TCGA-05", "TCGA-05", "TCGA-21", "TCGA-22"]
    assert [os.path.relpath(path, features) for path in cohort.paths][:2] == ["pt_files/TCGA-05.1a.pt", "pt_files/TCGA-05.2b.pt"]
    assert load_cohort(table, features).splits is None


def test_nih_sample():
    """1000 films of 682 patients; the counts of findings are those of the table's own 0/1 columns."""
    folder = real("nih_cxr14")
    cohort = load_cohort("nih", folder)
    assert len(cohort.paths) == 1000 and len(set(cohort.patients)) == 682 and len(set(cohort.paths)) == 1000
    _, rows = read_csv(os.path.join(folder, "labels.csv"))
    for j, name in enumerate(cohort.tasks[0].classes):
        assert cohort.targets["findings"][:, j].sum() == sum(row[name] == "1" for row in rows) > 0
    assert cohort.targets["findings"][:, cohort.tasks[0].classes.index("Pneumonia")].sum() == 500


@pytest.mark.parametrize("name, file, lines, beside, images, task, values, patients, splits", (
    ("aptos", "train.csv", ("id_code,diagnosis", "a1,0", "b2,4"), (), ("train_images/a1.png", "train_images/b2.png"),
     Task("diagnosis", "classes", ("0", "4")), [0, 1], ["a1", "b2"], None),
    ("airogs", "train_labels.csv", ("challenge_id,class", "TRAIN000000,NRG", "TRAIN000001,RG"), (), ("0/TRAIN000000.jpg", "0/TRAIN000001.jpg"),
     Task("class", "classes", ("NRG", "RG")), [0, 1], ["TRAIN000000", "TRAIN000001"], None),
    ("pad_ufes", "metadata.csv", ("patient_id,lesion_id,diagnostic,img_id", "PAT_1,9,BCC,PAT_1_9_1.png", "PAT_1,8,NEV,PAT_1_8_2.png"), (),
     ("imgs_part_1/PAT_1_9_1.png", "imgs_part_2/PAT_1_8_2.png"), Task("diagnostic", "classes", ("BCC", "NEV")), [0, 1], ["PAT_1", "PAT_1"], None),
    ("isic2018", "ISIC2018_Task3_Training_GroundTruth.csv", ("image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "ISIC_1,0.0,1.0,0,0,0,0,0", "ISIC_2,0,0,0,1,0,0,0", "ISIC_3,1,0,0,0,0,0,0"),
     ("ISIC2018_Task3_Training_LesionGroupings.csv", "image,lesion_id,diagnosis_confirm_type", "ISIC_2,HAM_7,histo", "ISIC_1,HAM_7,histo"),
     ("i/ISIC_1.jpg", "i/ISIC_2.jpg", "i/ISIC_3.jpg"), Task("class", "classes", ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")), [1, 3, 0], ["HAM_7", "HAM_7", "ISIC_3"], None),
    ("isic2019", "ISIC_2019_Training_GroundTruth.csv", ("image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK", "ISIC_1,0.0,1.0,0,0,0,0,0,0,0", "ISIC_2,0,0,0,0,0,0,0,1,0"),
     (), ("i/ISIC_1.jpg", "i/ISIC_2.jpg"), Task("class", "classes", ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")), [1, 7], ["ISIC_1", "ISIC_2"], None),
    ("rsna", "stage_2_train_labels.csv", ("patientId,x,y,width,height,Target", "f1,,,,,0", "f2,1,2,3,4,1", "f2,5,6,7,8,1"), (), ("d/f1.png", "d/f2.png"),
     Task("Target", "classes", ("0", "1")), [0, 1], ["f1", "f2"], None)))
def test_tables_of_public_data_sets_are_rows_of_a_table(tmp_path, name, file, lines, beside, images, task, values, patients, splits):
    """By name with --images, and recognized by their header; the lesion where a table beside says it, else the image."""
    path = write(tmp_path, file, *lines, images=images)
    if beside:
        write(tmp_path, *beside)
    for cohort in (load_cohort(name, str(tmp_path)), load_cohort(path)):
        assert cohort.tasks == [task] and cohort.targets[task.name].tolist() == values
        assert cohort.patients == patients and cohort.splits == splits
        assert [os.path.relpath(image, tmp_path) for image in cohort.paths] == list(images)


def test_a_table_beside_without_the_column_that_joins_it_is_refused(tmp_path):
    """The archive's own metadata call the image isic_id."""
    path = write(tmp_path, "ISIC_2019_Training_GroundTruth.csv", "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC", "ISIC_1,1,0,0,0,0,0,0,0")
    beside = write(tmp_path, "ISIC_2019_Training_Metadata.csv", "isic_id,lesion_id", "ISIC_1,7")
    with pytest.raises(ValueError) as error:
        load_cohort(path)
    assert str(error.value) == f"{beside}: no column 'image'; the table beside it names it, there are 'isic_id', 'lesion_id'"


def test_mimic_labels_of_studies_and_its_split(tmp_path):
    """One row per film with the split; CheXpert's labels come from the table of studies beside; a compressed one is refused."""
    labels = "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
    images = [f"files/p10/p1000003{i}/s{i}/{name}.jpg" for i, name in enumerate(("aa", "bb", "cc"))]
    write(tmp_path, "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", "aa,50,10000030,train", "bb,51,10000031,validate", "cc,52,10000032,test", images=images)
    (tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(ValueError, match="chexpert.csv.gz: not a UTF-8 CSV file: compressed; gunzip -k"):
        load_cohort("mimic", str(tmp_path))
    write(tmp_path, "mimic-cxr-2.0.0-chexpert.csv", f"subject_id,study_id,{labels}", "10000030,50,1.0" + "," * 13, "10000031,51,,-1.0" + "," * 12, "10000032,52,0.0" + "," * 13)
    cohort = load_cohort("mimic", str(tmp_path), uncertain="ones")
    assert "mimic-cxr-2.0.0-chexpert.csv is joined by study_id: 3 of 3 rows are in it, others are left out" in cohort.notes
    task, = cohort.tasks
    found = [{task.classes[j] for j in np.flatnonzero(row)} for row in cohort.targets["findings"]]
    assert task.outputs == 13 and found == [{"Atelectasis"}, {"Cardiomegaly"}, set()] and cohort.splits == ["train", "val", "test"]
    assert cohort.patients == ["10000030", "10000031", "10000032"]
    assert "1 labels are -1: --uncertain ones" in cohort.notes and "36 labels are blank: --blank zeros" in cohort.notes
    write(tmp_path, "mimic-cxr-2.0.0-chexpert.csv", f"subject_id,study_id,{labels}", "10000030,50,1.0" + "," * 13, "10000031,51" + "," * 9 + "1.0" + "," * 5)
    without = load_cohort("mimic", str(tmp_path), target="Edema,Atelectasis")                                # a study that the other table lacks is no negative
    assert without.targets["findings"].tolist() == [[0, 1], [0, 0]] and without.splits == ["train", "val"]
    assert "mimic-cxr-2.0.0-chexpert.csv is joined by study_id: 2 of 3 rows are in it, others are left out" in without.notes


def test_chest_xray_says_bacteria_and_virus_in_its_names(tmp_path):
    """cause: three classes; germ: two, of the pneumonias alone; class, as before."""
    names = {"NORMAL/IM-0115-0001.jpeg": "normal", "NORMAL/NORMAL2-IM-0117-0001.jpeg": "normal", "PNEUMONIA/person1_bacteria_2.jpeg": "bacteria",
             "PNEUMONIA/person1_virus_6.jpeg": "virus", "PNEUMONIA/person78_bacteria_378.jpeg": "bacteria"}
    write(tmp_path, "x/readme", "", images=[f"train/{name}" for name in names])
    cohort = load_cohort(str(tmp_path / "train"), target="cause")
    assert cohort.tasks == [Task("cause", "classes", ("bacteria", "normal", "virus"))]
    assert [cohort.tasks[0].classes[int(value)] for value in cohort.targets["cause"]] == [names[os.path.relpath(path, tmp_path / "train")] for path in cohort.paths]
    germ = load_cohort(str(tmp_path / "train"), target="germ:classes")
    assert germ.tasks == [Task("germ", "classes", ("bacteria", "virus"))] and np.isnan(germ.targets["germ"]).sum() == 2
    assert load_cohort(str(tmp_path / "train"), target="class").tasks == load_cohort(str(tmp_path / "train")).tasks
    with pytest.raises(ValueError, match="--target stage: class folders say only class, and names of files as those of chest_xray cause, germ"):
        load_cohort(str(tmp_path / "train"), target="stage")


@pytest.mark.parametrize("header, row, patient", (("patient_id,image,Finding Labels", "7,{},Edema|Mass", "7"), ("lesion_id,image,dx", "7,{},mel", "7"), ("patient_id,id_code,diagnosis", "7,{},3", "7"),
                                                  ("patient_id,challenge_id,class", "7,{},RG", "7")))
def test_a_table_of_ones_own_with_headers_of_a_public_one(tmp_path, header, row, patient):
    """Its own column image is read, and who the patient is."""
    path = write(tmp_path, "t.csv", header, row.format("a.png"), row.format("b.png"), images=("a.png", "b.png"))
    cohort = load_cohort(path)
    assert cohort.patients == [patient] * 2 and [os.path.basename(image) for image in cohort.paths] == ["a.png", "b.png"]
