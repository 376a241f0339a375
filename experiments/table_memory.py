"""How long a table of many rows takes to be read, searched for its images and split, and how much memory.

    python -m experiments.table_memory                     100,000 rows, on one core
    python -m experiments.table_memory --rows 1000000
"""
import os
import resource
import tempfile
import time
from os.path import join

from plumbing.command import Parser, run_main
from plumbing.load_cohort import load_cohort
from plumbing.splits import split_patients


def write_table(folder, rows):
    """A table of films, three of each patient, below folders of a thousand; -> its path."""
    path = join(folder, "table.csv")
    with open(path, "w", encoding="utf-8") as table:
        table.write("patient_id,image,label,age,sex\n")
        for i in range(rows):
            if i % 1000 == 0:
                os.makedirs(join(folder, f"images/{i // 1000:04d}"))
            with open(join(folder, f"images/{i // 1000:04d}/{i:08d}.png"), "w") as image:
                image.write(str(i))                                # a few bytes: it is found, never decoded
            table.write(f"{i // 3},{i:08d},{i // 3 % 2},{20 + i % 60},{'FM'[i % 2]}\n")
    return path


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(folder, args.rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        cohort = load_cohort(path)
        loaded = time.process_time()
        split_patients(cohort)
        done = time.process_time()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{args.rows} rows: read and found in {loaded - began:.1f} s, split in {done - loaded:.1f} s, "
          f"on one core, {(after - before) / 1024:.0f} MB beyond the {before / 1024:.0f} MB of the program")


if __name__ == "__main__":
    run_main(main)
