"""plumbing/patients.py: one id in several spellings is one patient."""
import pytest

from plumbing.cohort import NO_PATIENTS
from plumbing.load_cohort import load_cohort
from plumbing.patients import identity, named_patients, one_spelling, parts_note, patients_of_files
from tests.plumbing.small_tables import write


@pytest.mark.parametrize("spellings", (
    ("7", "7.0", "007", " 7 ", "7.", "7,0", "\uff17", "\u200b7"), ("0", "00", "0.0"), ("10020000", "1.002e7", "1.002E+07", "10020000.0"),
    ("A7", "a7", "A007", "A-7", "a_07", "A 7", "A7.0"), ("7", "(7)", "#7", "(007)"), ("1002", "1,002", "'1002", '="1002"'), ("S1-02", "s01_2", "S 1-2"),
    ("u\u0308", "\u00fc", "\u00dc"), ("12345678901234567", "012345678901234567"),
))
def test_spellings_of_one_id(spellings):
    """Numbers by their value, words without their case or form in Unicode."""
    assert len({identity(spelling) for spelling in spellings}) == 1


def test_other_ids_stay_apart():
    """Not every number: fractions, long numbers that floats could not hold, and two numbers in one."""
    ids = ["7", "7.5", "70", "P7", "P70", "7-0", "1.2.840.10", "1.2.840.1", "1.2.840.1.0", "DOE^JOHN", "DOE^JOHNA", "12345678901234567", "12345678901234568", "1e400"]
    assert len({identity(name) for name in ids}) == len(ids)


def test_a_table_with_two_spellings_has_one_patient(tmp_path):
    """The first spelling counts; the line says how many; floats alone are said once."""
    assert one_spelling(["1", "2", "1.0", "02", "1"]) == (["1", "2", "1", "2", "1"], [
        "2 patient ids are other spellings of an earlier one, as 1.0 of 1: they count as the same patient"])
    assert one_spelling(["1.0", "2.0"])[1] == ["patient ids have become floats, as 1.0, and are compared as whole numbers"]
    assert one_spelling(["p1", "p2", "p1"]) == (["p1", "p2", "p1"], [])
    path = write(tmp_path, "t.csv", "patient_id,image,target", "1,a.png,0.5", "1.0,b.png,1", images=("a.png", "b.png"))
    assert load_cohort(path).patients == ["1", "1"]


def test_patients_of_tables(tmp_path):
    """Names of images in the patient column say who it is where they can; lesions stand for patients, said."""
    path = write(tmp_path, "t.csv", "image,target", "1_left.png,0.5", "1_right.png,1", images=("1_left.png", "1_right.png"))
    cohort = load_cohort(path, patient="image")
    assert cohort.patients == ["1", "1"] and cohort.patients_known
    path = write(tmp_path, "u.csv", "lesion_id,image,target", "L1,a.png,0.5", "L2,b.png,1", images=("a.png", "b.png"))
    assert load_cohort(path).patients == ["L1", "L2"] and "a patient may have several" in load_cohort(path).notes[0]
    cohort = load_cohort(path, patient="image")
    assert cohort.patients == ["a.png", "b.png"] and not cohort.patients_known and "images, not patients" in cohort.notes[0]


@pytest.mark.parametrize("name, patient", (
    ("a/LIDC-IDRI-0012_slice3.png", "LIDC-IDRI-0012"), ("OAS1_0042_MR1_mpr-1_100.jpg", "OAS1_0042"), ("b/ADNI_002_S_0295_MR_7.png", "002_S_0295"),
    ("20586908_6c613a14b80a8591_MG_R_CC_ANON.png", "6c613a14b80a8591"), ("0/8863_idx5_x51_y1251_class0.png", "8863"),
    (r"D:\scans\patient7\1.png", "patient7"), ("a/20230115_001.png", None), ("b/patient7/IM-0001-0004.dcm", "patient7"), ("IM-0128-0001.jpeg", "IM-0128"), ("Normal/IM-0128-0001.jpeg", "IM-0128"), ("OAS30001_MR_d0129.nii.gz", "OAS30001"), ("7_left.nii.gz", "7"),
    ("BraTS2021_00495_flair.nii.gz", "BraTS2021_00495"), ("BraTS19_2013_10_1_t1.nii", None),
    ("blk-YWWTL-TCGA-AA-A022-01Z-00-DX1.png", "TCGA-AA-A022"), ("TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1.tif", "TCGA_CS_4941"), ("BraTS20_Training_001_flair.nii", "BraTS20_Training_001"),
    ("a/00001280_004_flip.png", "00001280"), ("a/00001280_004 (1).png", "00001280"), ("a/00001280_0045.png", None), ("a/CNV-1016042-1 copy.jpeg", "1016042"),
    ("a/P01_CC_L.png", "P01"), ("a/患者12_3.png", "患者12"), ("a/UPENN-GBM-00012_T1.nii.gz", "UPENN-GBM-00012"), ("a/LUNG1-001_12.png", "LUNG1-001"),
    ("IXI002-Guys-0828-T1.nii", "IXI002"), ("17_l1.jpg", "17"), ("a/left_12.png", "12"), ("b/case7a_L_CC.png", "case7a"), ("P012_R_MLO.png", "P012"),
    ("AD/sub-AD01/anat/sub-AD01_T1.png", "sub-AD01"), ("sub-12_T2.nii", "sub-12"), ("sub-total_x.png", "sub-total"), ("OD-p7.jpg", "p7"), ("left_lung.png", None),
    ("COVID/Cov_vid3_frame012.png", "Cov_vid3"), ("a/vol7-slice-3.png", "vol7"), ("a/ct_slice_3.png", None), ("case12_1.png", "case12"), ("pat7/s1.png", "pat7"), ("showcase12.png", None), ("ISIC_0024306.jpg", None)))
def test_names_of_data_sets(name, patient):
    """Each says who the patient is, as its authors chose it; others say nothing."""
    assert named_patients([name])[0] == [patient]


def test_a_group_without_a_part_in_the_match_names_no_patient(tmp_path):
    """(a)|b matches b, and its group holds nothing."""
    path = write(tmp_path, "t.csv", "patient_id,image,target", "a1,a.png,0.5", "b2,b.png,1", images=("a.png", "b.png"))
    with pytest.raises(ValueError, match="row 3, column patient_id: 'b2' names no patient"):
        load_cohort(path, regex="(a)|b")


@pytest.mark.parametrize("word", ("unknown", "Unk", "missing", "anonymized", "ANON", "removed", "REDACTED", "De-identified", "XXXX", "-1", "-999", " ", "TBD", "k. A.", "not known", "unbekannt", "no ID"))
def test_a_word_for_nobody_is_no_patient(tmp_path, word):
    """All images of "unknown" would else be those of one patient."""
    path = write(tmp_path, "t.csv", "patient_id,image,target", "1,a.png,0.5", f"{word},b.png,1", images=("a.png", "b.png"))
    with pytest.raises(ValueError, match="row 3, column patient_id: .* names no patient"):
        load_cohort(path)


def test_ids_that_a_spreadsheet_has_rounded():
    """1.23457E+11 was 123456789012, and others too."""
    for patient in ("1.23457E+11", "1.23E+12", "3-Jan", "Mar-07"):
        assert f"WARNING: a spreadsheet has changed patient ids, as {patient}:" in one_spelling([patient, "7"])[1][-1]
    assert not any("spreadsheet" in line for line in one_spelling(["1.5e+07", "7", "2021-03-01"])[1])


def test_ids_that_name_a_part_of_a_patient():
    """Two eyes, or two sessions, in a column of patients."""
    assert parts_note(["17_left", "17_right", "18_left"])[0].startswith("WARNING: 17_left and 17_right count as different patients, 17 may be one")
    assert parts_note(["sub-01_ses-1", "sub-01_ses-2"]) and not parts_note(["17_left", "18_left"]) and parts_note(["17_left", "17_right", "x"])


@pytest.mark.parametrize("ends, warns", ((("_V1", "_V2"), True), (("V1", "V2"), True), (("V01", "V12"), True), (("M00", "M06"), True), (("pre", "post"), True), (("left", "right"), True), (("baseline", "visit2"), True), (("-baseline", "-followup"), True), (("OD", "OS"), True), (("a", "b"), True), ((".1", ".2"), True),
                                         (("/1", "/2"), True), (("", "_2"), True), (("-0", "-1"), True), ((" T0", " T12"), True), (("_M000", "_M012"), True), (("_01", "_02"), True),
                                         (("_20200131", "_20210131"), True), (("-2020-01-31", "-2021-01-31"), True), (("_V1_left", "_V2_left"), True), (("", ".0"), False), (("-001", "-002"), False)))
def test_ids_that_end_in_a_visit_or_a_side(ends, warns):
    """Without a word: the same person in training and test. Sites of patients are no people."""
    notes = parts_note([f"S{number:03d}{end}" for number in range(9) for end in ends])
    assert [line[:63] for line in notes] == [f"WARNING: S000{ends[0]} and S000{ends[1]} count as different patients, S000 may be one"[:63]] * warns
    assert not parts_note([f"{site:02d}-{number}" for site in range(3) for number in range(1, 9)])
    assert not parts_note([f"TCGA-A2-A0{number}{letter}" for number in range(10) for letter in "NPQ"])
    assert not parts_note([f"{number * 2654435761 % 2 ** 32:08x}" for number in range(5000)])


def test_copies_that_names_tell_stay_together():
    """Augmented, resized, or saved in another format; numbers in brackets are other pictures."""
    names = ["a/1.png", "a/1_flip.png", "a/1_rot90.png", "a/1.jpg", "b/1.png", "a/2_jpg.rf.0123456789abcdef0123.jpg", "a/2_jpg.rf.ffff456789abcdef0123.jpg",
             "a/a_original_4.jpg_01234567-89ab-cdef-0123-456789abcdef.jpg", "a/a_original_4.jpg_ffff4567-89ab-cdef-0123-456789abcdef.jpg",
             "a/image.jpg", "a/image (1).jpg", "a/1.2.840.1", "a/1.2.840.2", "a/3_rothman.png"]
    patients, notes = patients_of_files(names)
    assert patients == [names[0]] * 4 + [names[4], names[5], names[5], names[7], names[7]] + names[9:] and notes[0] == NO_PATIENTS
    assert notes[1].startswith("5 files are copies of others by their names, as a/1_flip.png of a/1.png")


def test_names_of_files_spell_a_patient_in_several_ways():
    """As the ids of a table may; files whose names say nobody stay apart."""
    patients, notes = patients_of_files(["a/Patient 1/x.png", "b/patient_01/y.png", "b/subject_3_1.png", "a/Subject3.png", "A 1.png", "a1.png"])
    assert patients == ["Patient 1", "Patient 1", "subject_3", "subject_3", "A 1.png", "a1.png"]
    assert notes[1] == "2 patient ids are other spellings of an earlier one, as patient_01 of Patient 1: they count as the same patient"


@pytest.mark.parametrize("column", ("patient", "Patient ID", "PatientID", "patientId", "subject_id", "Subject", "Subject ID", "participant_id", "PTID"))
def test_a_column_that_can_only_be_the_patient_is_taken(tmp_path, column):
    """Under the names that public tables and DICOM give it; patient_id and lesion_id come first, and names of files where a regular expression is given."""
    path = write(tmp_path, "t.csv", f"{column},image,target", "1,a_3.png,0.5", "1,b_4.png,1", images=("a_3.png", "b_4.png"))
    assert load_cohort(path).patients == ["1", "1"]
    cohort = load_cohort(path, regex=r"_(\d)")
    assert cohort.patients == ["3", "4"] and f"WARNING: --patient-regex is looked for in the names of images, not in {column}; --patient-column=" in cohort.notes[0]
    assert load_cohort(path, regex=r"\d", patient=column).patients == ["1", "1"] and not load_cohort(path, regex=r"\d", patient=column).notes
    path = write(tmp_path, "u.csv", f"{column},patient_id,image,target", "1,5,a_3.png,0.5", "1,6,b_4.png,1")
    assert load_cohort(path).patients == ["5", "6"]


@pytest.mark.parametrize("column, warns", (("site", True), ("Hospital", True), ("center_id", True), ("data source", True), ("sitename2", False)))
def test_ids_that_begin_anew_in_each_site_are_said(tmp_path, column, warns):
    """Patient 1 of A and patient 1 of B would be one."""
    names = [f"{i}.png" for i in range(6)]
    path = write(tmp_path, "t.csv", f"patient_id,image,target,{column}", *(f"{i // 2},{name},{i},{'AB'[i % 2]}" for i, name in enumerate(names)), images=names)
    note = f"WARNING: patients have images of several {column}: where ids begin anew in each, --patient-column needs a column that holds both"
    assert (note in load_cohort(path).notes) == warns
    path = write(tmp_path, "t.csv", f"patient_id,image,target,{column}", *(f"{i // 2},{name},{i},{'AB'[i // 2 % 2]}" for i, name in enumerate(names)))
    assert note not in load_cohort(path).notes
    path = write(tmp_path, "t.csv", f"patient_id,image,target,{column}", *(f"{i // 2},{name},{i},{'AB'[i // 2 % 2] * (1 - i % 2)}" for i, name in enumerate(names)))
    assert note not in load_cohort(path).notes                     # only the first row of a patient says it
