"""MedMNIST: the download, its checksums, and its arrays as a Cohort.
"""
import hashlib
import http.client
import os
import urllib.request
from os.path import dirname, expanduser, isfile, join
from pathlib import Path

import numpy as np

from plumbing.cohort import Cohort, NO_PATIENTS, SPLITS, Task
from plumbing.command import in_one_line
from plumbing.run_folder import write_whole


SIDES = ("28", "64", "128", "224")                                 # px
MEDMNIST_URL = "https://zenodo.org/records/10519652/files/{file}?download=1"
# flag, kind of target, number of classes, and for each side the first 24 digits of the MD5 of its file, as in
# medmnist 3.0.2; of volumes there are only 28 and 64 px
MEDMNIST = """
pathmnist       classes 9  a8b06965200029087d5bd730 55aa9c1e0525abe5a6b9d834 \
                           ac42d08fb904d92c24418716 2c51a510bcdc9cf8ddb2af93
chestmnist      labels  14 02c8a6516a18b556561a56cb 9de6cd0b934ebb5b7426cfba \
                           db107e5590b27930b62dbaf5 45bd33e6f06c3e8cdb481c74
dermamnist      classes 7  0744692d530f8e62ec473284 b70a2f5635c6199aeaa28c31 \
                           2defd784463fa5243564e855 8974907d8e169bef5f5b96bc
octmnist        classes 4  c68d92d5b585d8d81f7112f8 e229e9440236b774d9f0dfef \
                           0a97e76651ace45c5d943ee3 abc493b6d529d5de7569faae
pneumoniamnist  classes 2  28209eda62fecd6e6a2d98b1 8f4eceb4ccffa70c672198ea \
                           05b46931834c231683c68f40 d6a3c71de1b945ea11211b03
retinamnist     classes 5  bd4c0672f1bba3e3a89f0e4e afda852cc34dcda56f86ad2b \
                           e48e916a24454daf90583d4e eae7e3b6f3fcbda4ae613ebd
breastmnist     classes 2  750601b1f35ba3300ea97c75 742edef2a1fd1524b2efff4b \
                           363e4b3f8d712e9b5de15470 b56378a6eefa9fed602bb16d
bloodmnist      classes 8  7053d0359d879ad8a5505303 2b94928a2ae4916078ca51e0 \
                           adace1e0ed228fccda1f3969 b718ff6835fcbdb22ba9eacc
tissuemnist     classes 8  ebe78ee8b05294063de985d8 123ece2eba09d0aa5d698fda \
                           61b955355d7425a89687b06c b077128c4a949f0a4eb01517
organamnist     classes 11 68e3f8846a6bd62f0c9bf841 2dcccc29b88e6da5a01161ef \
                           eeae80d0a227a8d099027e1b 50747347e05c87dd3aaf92c4
organcmnist     classes 11 b9ceb9546e10131b32923c5b 3ce34a8724ea6f548e6db474 \
                           773c1f009daa3fe5d9a2a201 050f5e875dc056f6768abf94
organsmnist     classes 11 9ab87b696fb54e2a387ebe99 53a6d115339d874c25e309a9 \
                           ded0c5fa01a95dc4978b956f b354719e553fbbb2513d5533
organmnist3d    classes 11 a0c5a1ff56af4f155c46d46f 58a2205adf14a9d0a189cb06
nodulemnist3d   classes 2  8755a7e9e05a4d9ce80a24c3 c47c5b7d457bf6332200d2ea
adrenalmnist3d  classes 2  bbd3c5a5576322bc4cdfea78 17721accfe9fb005146a47d3
fracturemnist3d classes 3  6aa7b0143a6b42da40027a9d f01d7e6316aedf4210da0da5
vesselmnist3d   classes 2  b41fd4f7e7e2feedddb20158 6bb274a8846e1097066dcd64
synapsemnist3d  classes 2  1235b78a3cd6280881dd7850 43bd14ebf3af9d3dd072446f
"""


def read_medmnist(data, cache):
    """medmnist:FLAG[:SIDE] -> Cohort with the official split. Downloads the file once, checks its MD5."""
    flag, _, side = data.removeprefix("medmnist:").partition(":")
    side = side or "28"
    published = {name: entries for name, *entries in map(str.split, MEDMNIST.strip().splitlines())}
    kind, count, *sums = published.get(flag, ("", 0))
    sums = dict(zip(SIDES, sums))
    count = int(count)
    if side not in sums:
        raise ValueError(f"--data {data}: need medmnist:FLAG[:SIDE], FLAG one of {', '.join(published)}, "
                         f"SIDE one of {', '.join(SIDES)}, of the 3-D ones 28 or 64")
    name = flag if side == "28" else f"{flag}_{side}"
    path = fetch(f"{name}.npz", cache, sums[side])
    if kind == "labels":
        task = "findings"
        pixels, values, splits = read_arrays(path, count, 1)
    else:
        task = "class"
        pixels, values, splits = read_arrays(path, 1, count - 1)
        values = values[:, 0]
    names = [f"{name}.npz:{i}" for i in range(len(pixels))]
    tasks = [Task(task, kind, tuple(map(str, range(count))))]
    return Cohort(name, tasks, names, names, {task: values}, splits=splits, pixels=pixels,
                  notes=[NO_PATIENTS])


def fetch(file, cache, md5):
    """-> path of the file, in the cache or where the package medmnist keeps it; downloaded if in neither."""
    for folder in (cache, expanduser("~/.medmnist")):
        path = join(folder, file)
        if isfile(path):
            if not has_md5(Path(path).read_bytes(), md5):
                raise ValueError(f"{path}: its MD5 is not that of {file}; delete it to download it again")
            return path
    return download(MEDMNIST_URL.format(file=file), join(cache, file), md5)


def has_md5(content, beginning):
    return hashlib.md5(content, usedforsecurity=False).hexdigest().startswith(beginning)


def read_arrays(path, outputs, largest):
    """-> pixels, uint8 (images, ...); targets, float32 (images, outputs) of 0 .. largest; splits."""
    with in_one_line(f"{path}: not a MedMNIST file"):              # zip, zlib, KeyError, ValueError
        with np.load(path, allow_pickle=False) as arrays:
            pixels = np.concatenate([arrays[f"{split}_images"] for split in SPLITS])
            labels = [arrays[f"{split}_labels"] for split in SPLITS]
        values = np.concatenate(labels)
        splits = np.repeat(SPLITS, [len(part) for part in labels]).tolist()
        shape = (len(pixels), outputs)
        if pixels.dtype != np.uint8 or values.shape != shape or not np.isin(values, range(largest + 1)).all():
            raise ValueError(f"{pixels.dtype} images, labels {values.shape} from {values.min()} "
                             f"to {values.max()}, need uint8, {shape} and 0 .. {largest}")
    return pixels, values.astype(np.float32), splits


def download(url, path, md5):
    """Fetch to a temporary name beside `path`, rename when its MD5 begins as it should. -> path."""
    os.makedirs(dirname(path) or ".", exist_ok=True)
    own = f"{path}.{os.getpid()}"                                  # another run may fetch it too
    problem = f"{url}: could not be downloaded; fetch it yourself and put it at {path}"
    with in_one_line(problem, (OSError, http.client.HTTPException)):         # URLError, timeout: the first
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
        if not has_md5(content, md5):
            raise OSError(f"{len(content)} bytes came, of another MD5 than the published one")
        write_whole(own, content)
        os.replace(own, path)
    return path
