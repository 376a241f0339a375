"""Public data sets as they are distributed: how their tables are recognized, and which column holds what.

    python -m plumbing.public_tables       shows them
"""
from collections import defaultdict
from configparser import ConfigParser, ExtendedInterpolation
from os.path import isfile, join
from statistics import mode

from plumbing.cells import list_parts, same_word
from plumbing.tables import first_column, read_csv, require_column, shortlist


TABLES = r"""
# header          columns that tell this table from others, commas between them; "a|b" stands for a or b
# files           what the table may be called in its folder, commas between the names
# joins           a file beside the table, the column by which its rows are found, and what rows are that it
#                 lacks: blank there, or left out, where blank labels would be zeros
# image, patient, findings, labels     columns; patient_regex: the part of its cell that names the patient
# alone           an image whose patient is blank is a patient of its own
# readers         the table has one row per reader, not per image
# blanks          an empty label follows --blank
# lists           files of the official train and test split, one name of an image per line
# target, tabular                      what --target and --tabular are by default
[psoriasis]
header = pasi,pga,region
target = pasi:regression,pga:classes
[chest]
header = image,view,Nodule,Fibrosis
labels = Cardiomegaly,Effusion,Consolidation,Nodule,Pneumothorax,Fibrosis
[brain]
header = education,apoe,diagnosis
target = diagnosis:classes
tabular = age,sex,education,apoe
[bag]
header = bag,subtype
image = bag
target = subtype:classes
[clam]
header = case_id,slide_id,label
image = slide_id
patient = case_id
target = label:classes
[nih]
header = Finding Labels|finding_labels
files = Data_Entry_2017_v2020.csv,Data_Entry_2017.csv,labels.csv
image = file|Image Index|image
patient = Patient ID|patient_id
findings = Finding Labels|finding_labels
lists = train_val_list.txt, test_list.txt
labels = Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,Consolidation,
    Edema,Emphysema,Fibrosis,Pleural_Thickening,Hernia
[chexpert]
header = Path,Frontal/Lateral
files = train.csv
image = Path
patient = Path
patient_regex = patient\d+
blanks = yes
labels = Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,
    Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices
[vindr]
header = image_id,Aortic enlargement
files = image_labels_train.csv,annotations/image_labels_train.csv
image = image_id
patient = patient_id|image_id
readers = yes
labels = Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,
    Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,
    Nodule/Mass,Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,
    Other lesion,COPD,Lung tumor,Pneumonia,Tuberculosis
[isic]
header = image_name,benign_malignant
files = train.csv
image = image_name
target = target:classes
[ham10000]
header = lesion_id,dx
files = HAM10000_metadata.csv,HAM10000_metadata
image = image_id|image
patient = lesion_id
target = dx:classes
[isic2018]
header = image,MEL,AKIEC
files = ISIC2018_Task3_Training_GroundTruth.csv
joins = ISIC2018_Task3_Training_LesionGroupings.csv:image:blank there
patient = lesion_id|image
alone = yes
target = MEL/NV/BCC/AKIEC/BKL/DF/VASC:classes
[isic2019]
header = image,MEL,SCC
files = ISIC_2019_Training_GroundTruth.csv
joins = ISIC_2019_Training_Metadata.csv:image:blank there
patient = lesion_id|image
alone = yes
target = MEL/NV/BCC/AK/BKL/DF/VASC/SCC:classes
[pad_ufes]
header = img_id,diagnostic
files = metadata.csv
image = img_id
target = diagnostic:classes
[aptos]
header = id_code,diagnosis
files = train.csv
image = id_code
patient = patient_id|id_code
target = diagnosis:classes
[airogs]
header = challenge_id,class
files = train_labels.csv
image = challenge_id
patient = patient_id|challenge_id
target = class:classes
[rsna]
header = patientId,width,Target
files = stage_2_train_labels.csv
image = patientId
patient = patientId
target = Target:classes
[mimic]
header = dicom_id,study_id,subject_id,split
files = mimic-cxr-2.0.0-split.csv
joins = mimic-cxr-2.0.0-chexpert.csv:study_id:left out
image = dicom_id
patient = subject_id
blanks = yes
labels = ${chexpert:labels}
"""
parser = ConfigParser(interpolation=ExtendedInterpolation())
parser.read_string(TABLES)
# name -> {word: text}
PUBLIC_TABLES = {name: {word: text.replace("\n", "") for word, text in parser.items(name)}
                 for name in parser.sections()}

# what the names of files say beside their folders: --target, and the class of the first pattern in the name
NAME_TARGETS = {
    "cause": {"_bacteria_": "bacteria", "_virus_": "virus", r"IM-\d+-\d+": "normal"},    # chest_xray
    "germ": {"_bacteria_": "bacteria", "_virus_": "virus"},                               # normal: unknown
}


def recognize(header):
    """-> the entry of PUBLIC_TABLES with this header, {} for a table of one's own."""
    for known in PUBLIC_TABLES.values():
        if all(first_column(header, names) for names in known["header"].split(",")):
            return known
    return {}


def table_path(data, known, images):
    """-> path of the CSV file: --data itself, or the known table of that name in the folder --images."""
    if "files" not in known:
        if isfile(data):
            return data
        raise ValueError(f"--data {data}: no such file or folder, and none of medmnist:FLAG[:SIDE], "
                         f"{', '.join(PUBLIC_TABLES)}")
    for file in known["files"].split(","):
        path = join(images or "", file)
        if images and isfile(path):
            return path
    raise ValueError(f"--data {data} needs --images, the folder that holds {known['files']}; "
                     f"it is {images or 'not given'}")


def join_table(folder, file, key, others_are, header, rows):
    """Add to header and rows the columns of another table in the folder, if it is there; -> a line about it,
    in a list. key: the column by which its rows are found; others_are: what rows are that it lacks, "blank
    there" or "left out"."""
    path = join(folder, file)
    if not isfile(path):
        path += ".gz"                                              # which is refused with how to unpack it
    if not isfile(path):
        return []
    names, others = read_csv(path)
    require_column(path, names, key, "the table beside it")
    row_of = {other[key]: other for other in others}
    blanks = dict.fromkeys(names, "")
    known = [row for row in rows if row[key] in row_of]
    note = f"{file} is joined by {key}: {len(known)} of {len(rows)} rows are in it, others are {others_are}"
    if others_are == "left out":
        if not known:
            raise ValueError(f"{path}: holds no {key} of the table beside it")
        rows[:] = known
    for row in rows:
        row.update(row_of.get(row[key], blanks) | row)
    header += [name for name in names if name not in header]
    return [note]


def findings_to_labels(header, rows, column, labels):
    """Add to header and rows a column of 0 and 1 for every label, from a column of findings like
    "Edema|Mass"; -> notes. Where nothing is found, not even No Finding, they are blank.

    One more, `pneumonia`, compares with healthy films: 1 for Pneumonia, 0 for No Finding, else blank."""
    words = {name: same_word(name) for name in labels}
    known = {"no finding", *words.values()}
    others = set()                                                 # words that are no label
    for row in rows:
        findings = set(map(same_word, list_parts(row[column])))
        others |= findings - known
        for name, word in words.items():
            row[name] = str(int(word in findings)) if findings & known else ""
        row["pneumonia"] = ""
        if "pneumonia" in findings or findings == {"no finding"}:
            row["pneumonia"] = row["Pneumonia"]
    header += [*words, "pneumonia"]
    if not others:
        return []
    return [f"WARNING: {column}: none of the labels are {shortlist(sorted(map(str, others)))}"]


def majority(rows, image):
    """One row per reader -> one row per image: in every column what most readers say, the lower in a draw."""
    groups = defaultdict(list)
    for row in rows:
        groups[row[image]].append(row)
    return [{name: mode(sorted(row[name] for row in group)) for name in group[0]}      # the most frequent
            for group in groups.values()]


if __name__ == "__main__":
    print(TABLES)
