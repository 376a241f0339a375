"""What the tests of the simulated cohorts share."""
import csv
import os


def read(folder, name="cohort.csv"):
    """The rows of a table, as dicts."""
    with open(os.path.join(folder, name), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder):
    """{path inside the folder: bytes} of all files."""
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                files[path[len(str(folder)):]] = file.read()
    return files
