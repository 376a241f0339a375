"""Who is drawn: by rule."""
import numpy as np

from evaluation.choice import UNKNOWN, WHY, choose
from tests.evaluation.toy import FINDINGS, GRADE, NAN, PASI, table_of


def test_a_typical_case_and_the_worst_on_both_sides():
    """Errors 0, 1, -5, 2, 9: the median size is 2; then the highest, the lowest, the next of each."""
    table = table_of(PASI, [0, 1, -5, 2, 9], [0, 0, 0, 0, 0])
    assert choose(PASI, table, 3, range(5)) == dict(zip([3, 4, 2], WHY["regression"]))
    assert list(choose(PASI, table, 9, range(5))) == [3, 4, 2, 1, 0]
    assert choose(PASI, table, 1, [1, 2]) == {1: "a typical error"} and choose(PASI, table, 3, []) == {}


def test_every_patient_once_and_unknown_targets():
    """Images of one patient are not drawn twice; without targets it is the middle, highest and lowest prediction."""
    table = table_of(PASI, [5, 6, 7, 1], [NAN] * 4, ["a", "a", "a", "b"])
    assert choose(PASI, table, 3, range(4)) == {0: UNKNOWN[0], 3: UNKNOWN[1]}


def test_false_positives_and_misses():
    """A label that is surely predicted and absent, and one that is present and not predicted; classes alike."""
    table = table_of(FINDINGS, [[0.5, 0.5], [0.9, 0.1], [0.2, 0.1], [0.6, 0.5]], [[1, 0], [0, 0], [1, NAN], [1, 0]])
    assert list(choose(FINDINGS, table, 3, range(4)))[1:] == [1, 2]
    table = table_of(GRADE, np.array([[8, 1, 1], [1, 1, 8], [3, 4, 3]]) / 10, [0, 0, 2])
    assert {why: unit for unit, why in choose(GRADE, table, 3, range(3)).items()}["surest of what is not there"] == 1
