"""How a simulated cohort becomes files: several threads draw its patients, then its tables are written."""
import csv
import io
import os
from concurrent.futures import ThreadPoolExecutor
from os.path import join

import numpy as np
from huggingface_hub.utils import tqdm
from PIL import Image


def save(path, pixels):
    """Write uint8 pixels, (H, W) or (H, W, 3), to a .jpg, or any array to a .npy."""
    if path.endswith(".npy"):
        np.save(path, pixels)
        return
    buffer = io.BytesIO()                       # on a full disk Pillow itself leaves half a JPEG and no error
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    with open(path, "wb") as file:
        file.write(buffer.getvalue())


def write(folder, cohort, seed=0, patients=None):
    """Draw the patients of a cohort into folder/images, then write its tables.

    cohort: (draw, tables, how many patients there usually are). draw(seed, index) draws one patient: a list
    of rows for each table, and {file name: pixels}. tables is {file name: "column column ..."}, with
    cohort.csv last."""
    draw, tables, usual = cohort
    patients = patients or usual

    def finish(index):
        *rows, pictures = draw(seed, index)
        for name, pixels in pictures.items():
            save(join(folder, name), pixels)
        return rows

    os.makedirs(join(folder, "images"), exist_ok=True)
    rows = {name: [] for name in tables}
    with ThreadPoolExecutor(os.cpu_count()) as pool:               # numpy and Pillow release the lock
        finished = pool.map(finish, range(patients))
        for patient_rows in tqdm(finished, "drawing patients", patients, leave=False, disable=None):
            for name, new_rows in zip(tables, patient_rows):
                rows[name] += new_rows
    for name, columns in tables.items():
        with open(join(folder, name), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns.split())
            writer.writerows(rows[name])
