"""Simulated bags: single vectors tell the subtype, the mean of a bag does not."""
import numpy as np

from plumbing.simulate import write
from plumbing.simulate_bag import BAG, LONGEST
from tests.plumbing.simulated_files import read


def separates(features, labels, ridge=10):
    """AUROC on the second half of the bags of a ridge regression on the first."""
    half = len(labels) // 2
    x = (features - features[:half].mean(0)) / features[:half].std(0)
    w = np.linalg.solve(x[:half].T @ x[:half] + ridge * np.eye(x.shape[1]), x[:half].T @ (labels[:half] - labels[:half].mean()))
    s, y = x[half:] @ w, labels[half:]
    return (s[y == 1][:, None] > s[y == 0]).mean()


def test_the_mean_of_a_bag_does_not_tell_what_its_tumor_vectors_tell(tmp_path):
    """Below AUROC 0.75 from the means of whole bags, 1.0 from the means of the rows that tumor.csv names."""
    write(tmp_path, BAG, seed=0, patients=200)
    rows, tumor = read(tmp_path), {}
    for line in read(tmp_path, "tumor.csv"):
        tumor.setdefault(line["bag"], []).append(int(line["row"]))
    bags = [np.load(tmp_path / row["bag"]) for row in rows]
    labels = np.array([row["subtype"] == "B" for row in rows], dtype=float)
    assert all(bag.dtype == np.float16 and bag.shape == (int(row["vectors"]), 64) for bag, row in zip(bags, rows))
    assert len(bags[0]) == LONGEST == 11039 and all(200 <= len(bag) <= 2000 for bag in bags[1:]) and 0.35 < labels.mean() < 0.65
    marked = [bag[tumor[row["bag"]]].astype(float) for bag, row in zip(bags, rows)]
    assert all(len(mark) == int(row["tumor"]) <= max(4, 0.02 * len(bag) + 1) for mark, row, bag in zip(marked, rows, bags))
    assert separates(np.stack([bag.astype(float).mean(0) for bag in bags]), labels) < 0.75
    assert separates(np.stack([mark.mean(0) for mark in marked]), labels) == 1
