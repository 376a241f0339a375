"""plumbing/targets.py: columns become tasks, with the kind that is named or inferred."""
import numpy as np
import pytest

from plumbing.cohort import Cohort, Task
from plumbing.load_cohort import load_cohort
from plumbing.splits import split_patients
from plumbing.targets import fit_tasks
from tests.plumbing.small_tables import cohort_of, generic, write


@pytest.mark.parametrize("cells, kind, classes, values", (
    (("0.5", "3", ""), "regression", (), (0.5, 3, np.nan)),
    (("0", "1", "1"), "classes", ("0", "1"), (0, 1, 1)),
    (("10", "9", "2"), "regression", (), (10, 9, 2)),
    (("mild", "severe", ""), "classes", ("mild", "severe"), (0, 1, np.nan)),
))
def test_inferred_kinds(tmp_path, cells, kind, classes, values):
    """Words and a lone 0/1 column are classes, other numbers regression, blank is unknown."""
    cohort = load_cohort(generic(tmp_path, *(f"p{i},{'abc'[i]}.png,{cell}" for i, cell in enumerate(cells))))
    assert cohort.tasks == [Task("target", kind, classes)]
    np.testing.assert_array_equal(cohort.targets["target"], np.float32(values))


def test_forced_kinds(tmp_path):
    """The kind after the colon is taken; classes that are numbers are in their order; dots leave the task's name."""
    path = generic(tmp_path, "p,a.png,10,0", "q,b.png,9,1", "r,c.png,2,-1", header="patient_id,image,v.1,mark")
    cohort = load_cohort(path, target="v.1:classes,mark:labels", uncertain="ignore")
    assert cohort.tasks == [Task("v_1", "classes", ("2", "9", "10")), Task("findings", "labels", ("mark",))]
    assert cohort.targets["v_1"].tolist() == [2, 1, 0]
    np.testing.assert_array_equal(cohort.targets["findings"], [[0], [1], [np.nan]])
    assert load_cohort(path, target="mark:regression").targets["mark"].tolist() == [0, 1, -1]


def test_several_binary_columns_are_one_task(tmp_path):
    """label_* columns of 0, 1, blank and -1 are labels together; a blank is unknown outside CheXpert, whatever --blank says."""
    path = generic(tmp_path, "p,a.png,1,0", "q,b.png,,1.0", "r,c.png,0,-1", header="patient_id,image,label_x,label_y")
    cohort = load_cohort(path, uncertain="ones", blank="zeros")
    assert cohort.tasks == [Task("findings", "labels", ("label_x", "label_y"))] and cohort.tasks[0].outputs == 2
    np.testing.assert_array_equal(cohort.targets["findings"], np.float32([[1, 0], [np.nan, 1], [0, 1]]))


@pytest.mark.parametrize("spec, message", (
    ("pasi", "no column 'pasi'; --target names it"), ("target:words", "kind 'words', need one of regression, classes, labels"),
    ("target:labels", "row 2, column target: '0.5' is no label, need 0, 1, -1 or blank"), ("target,", "no column ''"),
))
def test_a_wrong_target_flag(tmp_path, spec, message):
    """--target names a column and, after a colon, a kind."""
    with pytest.raises(ValueError, match=message):
        load_cohort(generic(tmp_path, "p,a.png,0.5", "q,b.png,1"), target=spec)


def test_uncertain_says_it_label_by_label(tmp_path):
    """zeros for all but the labels named; a label or a word that does not exist is one line."""
    path = write(tmp_path, "t.csv", "patient_id,image,a,b", "p,x,-1,-1", "q,y,1,0", images=("x.png", "y.png"))
    said = load_cohort(path, target="a:labels,b:labels", uncertain="zeros,b=ones").targets["findings"]
    np.testing.assert_array_equal(said, [[0, 1], [1, 0]])
    said = load_cohort(path, target="a:labels,b:labels", uncertain="ones,a=ignore").targets["findings"]
    np.testing.assert_array_equal(said, [[np.nan, 1], [1, 0]])
    for wrong, line in (("maybe", "'maybe' is none of"), ("zeros,c=ones", "'c=ones' is none of .* with a column of the table"),
                        ("a=often", "'a=often' is none of")):
        with pytest.raises(ValueError, match=line):
            load_cohort(path, target="a:labels,b:labels", uncertain=wrong)


def test_survival_targets_are_time_and_event(tmp_path):
    """Two columns become one task of one output; a row with one of them blank is unknown; the rest of the split spreads events evenly."""
    path = generic(tmp_path, "p1,a.png,12.5,1", "p2,b.png,3,0", "p3,c.png,,1", header="patient_id,image,days,died")
    cohort = load_cohort(path, target="days/died:survival")
    assert cohort.tasks == [Task("days", "survival", ("days", "died"))] and cohort.tasks[0].outputs == 1
    assert np.array_equal(cohort.targets["days"], [[12.5, 1], [3, 0], [np.nan, np.nan]], equal_nan=True)
    many = cohort_of([f"p{i}" for i in range(40)], [[i % 17, i < 10] for i in range(40)], "survival")
    for part in split_patients(many, folds=5, val=0.25)[0].values():
        assert 0.15 < many.targets["y"][part, 1].mean() < 0.35
    with pytest.raises(ValueError, match="no event in the training split"):
        fit_tasks(many.tasks, many, range(10, 40))


@pytest.mark.parametrize("target, row, message", (
    ("days:survival", "p1,a.png,1,1", "--target days:survival: need two columns"),
    ("days/dead:survival", "p1,a.png,1,1", "no column 'dead'"),
    ("days/died:survival", "p1,a.png,1,2", "row 2, column died: '2' is no event, need 1"),
    ("days/died:survival", "p1,a.png,-3,1", "column days: '-3' is no time"),
    ("days/died:survival", "p1,a.png,soon,1", "'soon' is not a number")))
def test_survival_mistakes(tmp_path, target, row, message):
    """One line with file, row and column."""
    with pytest.raises(ValueError, match=message) as error:
        load_cohort(generic(tmp_path, row, header="patient_id,image,days,died"), target=target)
    assert "\n" not in str(error.value)


def test_positive_weights_are_negatives_over_positives_of_the_training_split():
    """Label by label, of the known ones; 1 where no positive is known."""
    values = np.array([[1, 0, 0], [0, 0, np.nan], [0, 1, 0], [0, np.nan, 0], [1, 1, 1]], np.float32)
    cohort = Cohort("c", [Task("findings", "labels", ("a", "b", "c"))], list("pqrst"), list("pqrst"), {"findings": values})
    assert fit_tasks(cohort.tasks, cohort, [0, 1, 2, 3], True)[0].positive_weight == (3.0, 2.0, 1.0)
    assert fit_tasks(cohort.tasks, cohort, [0, 1, 2, 3])[0].positive_weight == ()


def test_fit_tasks():
    """Center and scale are those of the known training targets; one value only, or none, is refused."""
    cohort = cohort_of("pqrst", [1e6, 1e6 + 2, np.nan, 5, 5])
    task, = fit_tasks(cohort.tasks, cohort, [0, 1, 2])
    assert task.center == 1e6 + 1 and task.scale == 1 and cohort.tasks[0].scale == 1.0
    for part, message in (([3, 4], "y is 5 for every patient of the training split"), ([2], "no known value of y")):
        with pytest.raises(ValueError, match=message):
            fit_tasks(cohort.tasks, cohort, part)
    with pytest.raises(ValueError, match="y is b for every patient"):
        fit_tasks([Task("y", "classes", ("a", "b"))], cohort_of("pq", [1, 1], "classes"), [0, 1])
