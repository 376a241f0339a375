"""plumbing/cohort.py: one target per patient."""
import numpy as np
import pytest

from plumbing.cohort import per_patient, targets_agree
from tests.plumbing.small_tables import cohort_of


def test_one_target_a_patient():
    """first, mean and max of what is known; a patient of whom nothing is known stays unknown."""
    cohort = cohort_of("ppqqr", [1, 3, np.nan, 5, np.nan])
    for how, expected in (("first", [1, 1, 5, 5]), ("mean", [2, 2, 5, 5]), ("max", [3, 3, 5, 5])):
        np.testing.assert_array_equal(per_patient(cohort, how).targets["y"], np.float32([*expected, np.nan]))
    with pytest.raises(ValueError, match=r"patient p has images with different targets for y \(1 and 3\); --model vit sees one image at a time, each with its own target, or --patient-target"):
        per_patient(cohort)
    assert not targets_agree(cohort) and targets_agree(per_patient(cohort, "max"))
    same = cohort_of("ppq", [1, np.nan, 2])
    np.testing.assert_array_equal(per_patient(same).targets["y"], np.float32([1, 1, 2]))
    for how in (None, "mean"):                                     # only what applies is advised
        with pytest.raises(ValueError, match="--patient-target first or max says which counts of a task of classes$"):
            per_patient(cohort_of("pp", [0, 1], "classes"), how)
    with pytest.raises(ValueError, match=r"different targets for y \(a and c\); --model vit"):               # as the table says
        per_patient(cohort_of("pp", [2, 0], "classes"))
    with pytest.raises(ValueError, match="--patient-target first says which counts of a task of survival$"):
        per_patient(cohort_of("pp", [[1, 1], [2, 1]], "survival"), "max")


def test_one_target_a_patient_label_by_label():
    """An unknown label is neither a contradiction nor hides one beside it."""
    nan = np.nan
    cohort = cohort_of("ppq", [[1, nan, 0], [nan, 1, 0], [nan, nan, 1]], "labels")
    np.testing.assert_array_equal(per_patient(cohort).targets["y"], np.float32([[1, 1, 0], [1, 1, 0], [nan, nan, 1]]))
    cohort = cohort_of("pp", [[1, nan], [0, nan]], "labels")
    assert not targets_agree(cohort) and per_patient(cohort, "max").targets["y"][:, 0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="different targets for a "):
        per_patient(cohort)
