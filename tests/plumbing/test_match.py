"""plumbing/match.py: another table under the names of the run."""
import numpy as np
import pytest

from plumbing.match import match
from plumbing.cohort import Cohort, Task
from tests.evaluation.toy import FINDINGS, GRADE, NAN, PASI


def test_classes_and_labels_are_found_by_name():
    """In another order, with a class or label missing, they get the run's numbers; a label the run has not learned is left out."""
    there = [Task("grade", "classes", ("medium", "mild")), Task("findings", "labels", ("mass", "fracture"))]
    cohort = Cohort("other", there, ["a", "b", "c"], ["x"] * 3, {"grade": np.array([0, 1, NAN], np.float32),
                                                                 "findings": np.array([[1, 0], [NAN, 1], [0, 0]], np.float32)})
    found = match(cohort, [PASI, GRADE, FINDINGS], "runs/a")
    assert found.tasks == [GRADE, FINDINGS]                        # the run's own, and pasi is not in this table
    assert np.array_equal(found.targets["grade"], [1, 0, NAN], equal_nan=True)
    assert np.array_equal(found.targets["findings"], [[NAN, 1], [NAN, NAN], [NAN, 0]], equal_nan=True)
    assert found.notes == ["findings: runs/a has not learned fracture, which is left out"]


@pytest.mark.parametrize("task, message", (
    (Task("grade", "classes", ("mild", "fatal")), "other: grade 'fatal' is unknown to runs/a, which knows mild, medium, severe"),
    (Task("grade", "regression"), "grade is a task of regression, in runs/a of classes"),
    (Task("findings", "labels", ("fracture",)), "findings 'fracture' is unknown to runs/a, which knows edema, mass"),
    (Task("age", "regression"), "targets of age, of which runs/a predicts none; it predicts ")))
def test_a_table_that_does_not_fit_the_run_is_refused(task, message):
    """What the run cannot know ends in one line."""
    values = np.zeros((1, len(task.classes)) if task.kind == "labels" else 1, np.float32)
    with pytest.raises(ValueError, match=message):
        match(Cohort("other", [task], ["a"], ["x"], {task.name: values}), [PASI, GRADE, FINDINGS], "runs/a")


def test_classes_are_found_in_another_spelling():
    """Mild is mild; 1.0 is 1."""
    cohort = Cohort("other", [Task("grade", "classes", ("MILD", "Severe"))], ["a", "b"], ["x"] * 2, {"grade": np.array([1, 0], np.float32)})
    assert match(cohort, [GRADE], "runs/a").targets["grade"].tolist() == [2, 0]


def test_labels_are_found_in_another_spelling():
    """pleural_effusion and Pleural Effusion are one label, but where the run has both each is its own."""
    cohort = Cohort("other", [Task("findings", "labels", ("pleural_effusion", "Mass", "mass"))], ["a"], ["x"], {"findings": np.float32([[1, 0, 1]])})
    found = match(cohort, [Task("findings", "labels", ("mass", "Mass", "Pleural Effusion"))], "runs/a")
    assert found.targets["findings"].tolist() == [[1, 0, 1]]


def test_classes_that_differ_only_in_case_stay_apart():
    """Columns of one choice may be called a and A: each class is found by its own spelling."""
    task = Task("class", "classes", ("a", "A"))
    cohort = Cohort("other", [Task("class", "classes", ("A", "a"))], ["p", "q"], ["x"] * 2, {"class": np.float32([0, 1])})
    assert match(cohort, [task], "runs/a").targets["class"].tolist() == [1, 0]
