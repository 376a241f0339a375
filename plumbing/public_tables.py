"""Public data sets as they are distributed: how their tables are recognized, and which column holds what.
"""
import os
from collections import defaultdict

from plumbing.tables import at


KNOWN = {  # tables as they are distributed: how to recognize the header ("a|b": a or b), and which column is what
    "psoriasis": dict(header=("pasi", "pga", "region"), target="pasi:regression,pga:classes"),
    "chest": dict(header=("image", "view", "Nodule", "Fibrosis"),
                  labels="Cardiomegaly,Effusion,Consolidation,Nodule,Pneumothorax,Fibrosis"),
    "brain": dict(header=("education", "apoe", "diagnosis"), target="diagnosis:classes", tabular="age,sex,education,apoe"),
    "bag": dict(header=("bag", "subtype"), image="bag", target="subtype:classes"),
    "clam": dict(header=("case_id", "slide_id", "label"), image="slide_id", patient="case_id", target="label:classes"),
    "nih": dict(header=("Finding Labels|finding_labels",), image="file|Image Index", patient="Patient ID|patient_id",
                findings="Finding Labels|finding_labels", lists={"train": "train_val_list.txt", "test": "test_list.txt"},
                files=("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "labels.csv"),
                labels="Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,Consolidation,Edema,"
                       "Emphysema,Fibrosis,Pleural_Thickening,Hernia"),
    "chexpert": dict(header=("Path", "Frontal/Lateral"), image="Path", patient="Path", patient_regex=r"patient\d+", blanks=True,
                     files=("train.csv",),
                     labels="Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
                            "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"),
    "vindr": dict(header=("image_id", "Aortic enlargement"), image="image_id", patient="image_id", readers=True,
                  files=("image_labels_train.csv", "annotations/image_labels_train.csv"),
                  labels="Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
                         "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,"
                         "Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,"
                         "Lung tumor,Pneumonia,Tuberculosis"),
    "isic": dict(header=("image_name", "benign_malignant"), image="image_name", target="target:classes", files=("train.csv",)),
    "ham10000": dict(header=("lesion_id", "dx"), image="image_id", patient="lesion_id", target="dx:classes",
                     files=("HAM10000_metadata.csv", "HAM10000_metadata")),
}


def majority(rows, image):
    """One row a reader -> one row an image: in every column what most of its readers say, where they are even the lower."""
    groups = defaultdict(list)
    for row in rows:
        groups[row[image]].append(row)
    said = [{name: [row[name] for row in group] for name in group[0]} for group in groups.values()]
    return [{name: max(sorted(cells), key=cells.count) for name, cells in row.items()} for row in said]


def official_lists(folder, files, path, rows, image):
    """Split of every row by the lists {split: file of image names} in the folder; None where the lists are not there."""
    if not all(os.path.isfile(os.path.join(folder, file)) for file in files.values()):
        return None
    split = {}
    for name, file in files.items():
        with open(os.path.join(folder, file), encoding="utf-8", errors="replace") as lines:  # a name that is none is found in no table
            split.update((os.path.splitext(line.strip())[0], name) for line in lines)
    for row in rows:
        if os.path.splitext(row[image])[0] not in split:
            raise ValueError(f"{at(path, row, image)}: {row[image]} is in none of {', '.join(files.values())}; --split-column names another split")
    return [split[os.path.splitext(row[image])[0]] for row in rows]
