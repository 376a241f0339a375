"""Simulated patients with known truth, written once as ordinary image files and a cohort.csv.

Real photographs of patients cannot be shipped with a repository, and no real table says what the right answer is.
Here every pixel has a cause that is written down beside it, so that a paper's claim can be tested, not only quoted:

    psoriasis  severity is spread over several photographs, and a third of it is fine texture   Murray 2024
    chest      films with up to six findings of different size, which come together             Chen 2021; Marikkar 2023
    brain      volumes whose meaning depends on the table, and the table's on the volume        Pölsterl 2021
    bag        slides of up to 11,039 feature vectors, of which a few tell the subtype          Khader et al. 2024

The files are read by the same code as a user's own table. Each patient is drawn by a generator seeded with (cohort,
seed, patient), so patient 7 is the same in a cohort of 10 or of 1000, drawn by one thread or by many.
Not a model of disease: good for testing methods and teaching, no evidence about patients.

PASI = sum over regions of weight x (erythema + induration + scaling) x area grade     Fredriksson and Pettersson 1978
PGA  = 0 if clear, else 5/4 of the mean of all grades in the affected regions, rounded up to 1..5      ours

Run: python synthetic.py                                             a few patients, printed with their arithmetic
     python synthetic.py --data chest --out films --patients 100     a cohort to look at
"""
import argparse
import csv
import os
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor

from plumbing.simulate_bag import BAG_COLUMNS, bag_patient
from plumbing.simulate_brain import BRAIN_COLUMNS, BRAIN_TRUTH, brain_patient
from plumbing.simulate_chest import BOX_COLUMNS, FILM, FILM_COLUMNS, chest_patient
from plumbing.simulate_skin import PHOTO_COLUMNS, REGION_COLUMNS, WEIGHTS, psoriasis_patient


VERSION = 2                                     # raise when pixels or rows change: it is part of the folder's name


def write(folder, draw, tables, seed, patients, workers=None, progress=None):
    """Draw `patients` patients into folder/images, then write the tables {file: columns}, cohort.csv last."""
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    rows = {name: [] for name in tables}
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:    # numpy and Pillow let go of the lock while they work
        for done, drawn in enumerate(pool.map(lambda index: draw(folder, seed, index), range(patients)), 1):
            for name, more in zip(tables, drawn):
                rows[name] += more
            if progress:
                progress(done, patients)
    for name, columns in tables.items():
        with open(os.path.join(folder, name), "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows[name]])


def psoriasis(folder, seed=0, patients=1000, workers=None, progress=None):
    """Patients with 1..6 photographs (JPEG, long side 200 to 260 px) of body regions, to be scored as a whole.

    Tests Murray 2024: (1) several photographs beat one, since PASI adds up regions and areas differ between them;
    (2) a second look at high resolution pays, since scaling, a third of every grade, shows at 128 px and not at 64;
    (3) types V-VI are few and their plaques distinct less, so errors there are larger.
    cohort.csv: a row a photograph; pasi and pga are the patient's, the other truth the photograph's.
    regions.csv: a row a region, photographed or not, from which PASI can be worked out by hand."""
    write(folder, psoriasis_patient, {"regions.csv": REGION_COLUMNS, "cohort.csv": PHOTO_COLUMNS},
          seed, patients, workers, progress)


def chest(folder, seed=0, patients=1000, workers=None, progress=None):
    """Frontal films (192 px, grey JPEG), about 1.5 a patient, with any of six findings and the box of each.

    Tests Chen 2021: a heart needs a wide view and a nodule, a pleural line or a fine net small patches, so two patch
    sizes should beat one; and Marikkar 2023: findings come together (heart failure: large heart and effusion), so
    label tokens that see each other should help, and each label's map should light up its own box.
    cohort.csv: a row a film; boxes.csv: a row a box, one or more for every positive label, none for the others."""
    write(folder, chest_patient, {"boxes.csv": BOX_COLUMNS, "cohort.csv": FILM_COLUMNS},
          seed, patients, workers, progress)


def brain(folder, seed=0, patients=1000, workers=None, progress=None):
    """Volumes (24 px a side, uint8 .npy) beside age, sex, education (5 % blank) and APOE; diagnosis, and time to dementia.

    Tests Pölsterl 2021: small hippocampi mean disease when the ventricles are wider than the patient's age explains, and
    health when they are narrower. So the volume alone and the table alone say little; adding their evidence up says little
    more; and what changes the meaning of the hippocampi is neither in the table (FiLM) nor in the volume, but in both (DAFT).
    The table counts by itself too: education protects and e4 harms. Sex says nothing.
    cohort.csv: a row a volume; time is years to dementia where event is 1, else to the last look. truth.csv: what was drawn."""
    write(folder, brain_patient, {"truth.csv": BRAIN_TRUTH, "cohort.csv": BRAIN_COLUMNS}, seed, patients, workers, progress)


def bag(folder, seed=0, patients=400, workers=None, progress=None):
    """Bags of 200 to 2,000 vectors (.npy, 64 wide, float16), the first of 11,039, as from the tiles of whole-slide images.

    Tests Khader et al. 2024: attention of linear cost reads a bag whole, and finds the 0.5 to 2 % of its vectors that are tumor,
    whose place tells subtype A from B. The other vectors are a mixture of eight tissues, another in every slide, and every slide
    has a stain of its own: the mean of a bag tells nothing (logistic regression on it: AUROC about 0.5), a model has to look
    at single vectors.
    cohort.csv: a row a bag; tumor.csv: a row a tumor vector, and which row of its bag that is."""
    write(folder, bag_patient, {"tumor.csv": ("bag", "row"), "cohort.csv": BAG_COLUMNS}, seed, patients, workers, progress)


COHORTS = {"psoriasis": psoriasis, "chest": chest, "brain": brain, "bag": bag}


def make(name, root="data_cache", seed=0, patients=None, progress=None):
    """-> path of the cohort.csv, drawn first if it is not there yet. Raises ValueError on an unknown name.

    Drawn beside its place and renamed at the end: a killed run leaves no half cohort under the real name, and of two
    processes at once the second keeps what the first made. progress(done, patients) is called after each patient."""
    if name not in COHORTS:
        raise ValueError(f"no simulated cohort {name!r}; there are {', '.join(COHORTS)}")
    size = {} if patients is None else {"patients": patients}
    folder = os.path.join(root, f"{name}-v{VERSION}-seed{seed}" + "".join(f"-n{n}" for n in size.values()))
    table = os.path.join(folder, "cohort.csv")
    if not os.path.exists(table):
        part = f"{folder}.{uuid.uuid4().hex[:8]}.part"
        try:
            COHORTS[name](part, seed, progress=progress, **size)
            os.rename(part, folder)
        except OSError:
            if not os.path.exists(table):                          # nobody else made it meanwhile
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return table


def demo():
    """Print one patient's PASI written out, and the boxes of two films."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "images"))
        regions, photos = psoriasis_patient(folder, 0, 0)
        films = [chest_patient(folder, 0, index) for index in (6, 8)]
    first = dict(zip(PHOTO_COLUMNS, photos[0]))
    print("psoriasis   {patient_id}: skin type {fst}, {age} {sex}, {site}".format(**first), f"- {len(photos)} photographs")
    print("region       photographs  area  grade  E  I  S   weight x (E + I + S) x grade")
    for _, region, seen, area, grade, *eis in regions:
        weight, e, i, s = WEIGHTS[region], *eis
        print(f"{region:12s} {seen:11d} {area:5.0%} {grade:6d}  {e}  {i}  {s}"
              f"   {weight} x {e + i + s:2d} x {grade} = {weight * (e + i + s) * grade:4.1f}")
    print("PASI {pasi} of 72, PGA {pga} of 5".format(**first))
    print(f"\nchest film           finding        box in {FILM} x {FILM} px")
    for boxes, rows in films:
        for name, label, *box in boxes:
            print(f"{name:20s} {label:13s}", "{:3d}..{:<3d} x {:3d}..{:<3d}".format(box[0], box[2], box[1], box[3]))


def main(argv=None):
    parser = argparse.ArgumentParser(description="write a simulated cohort; without flags, show a patient")
    parser.add_argument("--data", choices=COHORTS, help="which cohort")
    parser.add_argument("--out", help="folder to write, new or empty")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patients", type=int, help="how many; default: as train.py uses")
    args = parser.parse_args(argv)
    if not args.data and not args.out:
        return demo()
    if not args.data or not args.out:
        parser.error("--data and --out go together")
    if os.path.isdir(args.out) and os.listdir(args.out):
        parser.error(f"--out {args.out} is not empty")
    COHORTS[args.data](args.out, args.seed, **({"patients": args.patients} if args.patients else {}))
    print(f"wrote {os.path.join(args.out, 'cohort.csv')}")


if __name__ == "__main__":
    main()
