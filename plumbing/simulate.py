"""Simulated patients with known truth, written once as ordinary image files and a cohort.csv.

Real photographs of patients cannot be shipped with a repository, and no real table says what the right answer
is. Here every pixel has a cause that is written down beside it, so that a paper's claim can be tested, not
only quoted:

    psoriasis  severity is spread over several photographs, a third of it fine texture    Murray 2024
    chest      films with up to six findings of different size, which come together       Chen, Marikkar
    brain      volumes whose meaning depends on the table, and the table's on the volume  Pölsterl 2021
    bag        slides of up to 11,039 feature vectors, a few of which tell the subtype    Khader et al. 2024

Each is described in a file of its own: simulate_skin, simulate_chest, simulate_brain, simulate_bag. The files
that they write are read by the same code as a user's own table. Each patient is drawn by a generator seeded
with (cohort, seed, patient), so patient 7 is the same in a cohort of 10 or of 1000, drawn by one thread or by
many.
Not a model of disease: good for testing methods and for teaching, no evidence about patients.

Run: python -m plumbing.simulate --data chest --out films --patients 100      a cohort to look at
"""
import csv
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from os.path import exists, isdir, join

import numpy as np
from huggingface_hub.utils import tqdm
from PIL import Image

from plumbing.command import Parser, count, refuse_empty, run_main
from plumbing.lock import lock
from plumbing.simulate_bag import BAG
from plumbing.simulate_brain import BRAIN
from plumbing.simulate_chest import CHEST
from plumbing.simulate_skin import PSORIASIS


VERSION = 2                                     # in the folder's name; raise it when pixels or rows change
COHORTS = {"psoriasis": PSORIASIS, "chest": CHEST, "brain": BRAIN, "bag": BAG}


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
    """Let several threads draw the patients of a cohort into folder/images, then write its tables.

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
    with ThreadPoolExecutor(os.cpu_count()) as pool:               # numpy and Pillow release the lock
        finished = pool.map(finish, range(patients))
        finished = list(tqdm(finished, "drawing patients", patients, leave=False, disable=None))
    for (name, columns), rows_of_patients in zip(tables.items(), zip(*finished)):
        with open(join(folder, name), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns.split())
            for rows in rows_of_patients:
                writer.writerows(rows)


def make(name, root, seed=0, patients=None):
    """Return the path of the cohort.csv of one of COHORTS below `root`; it is drawn if it is not there yet.

    It is drawn beside its place and renamed at the end, by one process at a time: a second one waits, and
    finds it done. patients=None draws as many as is usual for the cohort."""
    folder = join(root, f"{name}-v{VERSION}-seed{seed}")
    if patients:
        folder += f"-n{patients}"
    table = join(folder, "cohort.csv")
    if exists(table):
        return table
    os.makedirs(root, exist_ok=True)
    part = folder + ".part"                # where a killed process has left files, the same are written
    with lock(join(root, ".lock"), wait=True):
        try:
            if not exists(table):                          # else somebody made it meanwhile
                write(part, COHORTS[name], seed, patients)
                os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return table


def main(argv=None):
    parser = Parser("Write a simulated cohort.")
    parser.add_argument("--data", choices=COHORTS, required=True, help="which cohort")
    parser.add_argument("--out", required=True, help="folder to write, new or empty")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other patients")
    parser.add_argument("--patients", type=count, help="how many; default: as train.py uses")
    args = parser.parse_args(argv)
    refuse_empty(args)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: need at least 0")
    if isdir(args.out) and os.listdir(args.out):
        parser.error(f"--out {args.out} is not empty")
    write(args.out, COHORTS[args.data], args.seed, args.patients)
    print(f"wrote {join(args.out, 'cohort.csv')}")


if __name__ == "__main__":
    run_main(main)
