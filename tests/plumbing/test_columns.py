"""plumbing/columns.py: columns of the table become the input of a model."""
from dataclasses import replace

import numpy as np
import pytest

from plumbing.cells import same_word
from plumbing.columns import fit_columns, tabulate
from plumbing.load_cohort import load_cohort
from tests.plumbing.small_tables import cohort_of, generic


def table_cohort(**columns):
    n = len(next(iter(columns.values())))
    cohort = cohort_of([f"p{i}" for i in range(n)], range(n))
    cohort.columns = columns
    return cohort


def test_columns_become_standardized_numbers_categories_and_indicators():
    """Mean and spread of the training rows, one 0/1 a word they hold, the mean for a blank and a column that says so."""
    cohort = table_cohort(age=["20", "40", "", "90"], sex=["F", "M", "F", "X"], site=["a", "", "b", ""])
    columns = fit_columns(cohort, "age,sex, site", [0, 1, 2])
    assert [(c.kind, c.mean, c.std, c.values, c.blanks) for c in columns] == [
        ("number", 30, 10, (), True), ("category", 0, 1, ("F", "M"), False), ("category", 0, 1, ("a", "b"), True)]
    filled, notes = tabulate(cohort, columns)
    assert filled.tabular.dtype == np.float32 and sum(c.width for c in columns) == 7
    #                                    age  blank  F  M  a  b  blank
    assert np.array_equal(filled.tabular, [[-1, 0, 1, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0, 1], [0, 1, 1, 0, 0, 1, 0], [6, 0, 0, 0, 0, 0, 1]])
    assert notes == ["age: 1 rows blank, filled with the mean",
                     "sex: 1 rows of X count as none of F, M, which training knows",
                     "site: 2 rows of blank count as none of a, b, which training knows"]
    assert tabulate(cohort, [])[0].tabular is None


def test_numbers_can_be_categories():
    """NAME:category makes 0/1 columns of numbers."""
    cohort = table_cohort(stage=["1", "2", "4", "2"])
    assert fit_columns(cohort, "stage:category", range(4))[0].values == ("1", "2", "4")


@pytest.mark.parametrize("wanted, message", (
    ("height", "made: no column 'height'; --tabular names it, there are 'age', 'sex', 'y', 'same', 'grouped', "),
    ("age:word", "kind 'word', need number or category"),
    ("y", "y is what is to be predicted"), ("age,age", "age is .* named twice"), ("same", "same: 1 different values in the training split .1, 1.0., need at least 2"),
    ("id", "60 different values .* of words at most 50"), ("mixed:number", "patient p3, column mixed: 'x3' is not a number"),
    ("sex:number", "'F' is not a number"), ("mixed", "'x3' is not a number, others are; --tabular mixed:category takes .*; --missing"),
    ("grouped", "'1,500' has commas that may divide thousands.*; --tabular grouped:category takes it as a word$"),
    ("decimal", "'1,5' has a decimal comma; --tabular decimal:category takes it as a word, decimal:number as 1.5$")))
def test_columns_that_cannot_be_input(wanted, message):
    """One line that names column and, where it is a cell, the patient."""
    n = range(60)
    cohort = table_cohort(age=[str(i) for i in n], sex=["FM"[i % 2] for i in n], y=["1"] * 60, same=["1", "1.0"] * 30, grouped=["1,500", "900"] * 30, decimal=["1,5", "2"] * 30,
                          id=[f"x{i}" for i in n], mixed=[f"x{i}" if i == 3 else str(i) for i in n])
    with pytest.raises(ValueError, match=message) as error:
        fit_columns(cohort, wanted, n)
    assert "\n" not in str(error.value)


def test_another_table_lacks_a_column():
    """What the model takes as input must be there, and be numbers where they were."""
    columns = fit_columns(table_cohort(age=["1", "2"]), "age", [0, 1])
    with pytest.raises(ValueError, match="made has no column 'age', which the model takes as input"):
        tabulate(table_cohort(sex=["F"]), columns)
    with pytest.raises(ValueError, match="patient p0, column age: 'old' is not a number; --tabular age:category allows words"):
        tabulate(table_cohort(age=["old"]), columns)


def test_a_word_among_the_numbers_of_another_table_is_refused():
    """Also where some of them are."""
    columns = fit_columns(table_cohort(age=["1", "2"]), "age", [0, 1])
    with pytest.raises(ValueError, match="patient p1, column age: 'old' is not a number"):
        tabulate(table_cohort(age=["3", "old"]), columns)


def test_the_way_out_names_the_whole_column():
    """Also where its name has a space, as NIH's."""
    with pytest.raises(ValueError, match="--tabular Patient Age:category takes it as a word, Patient Age:number as 58"):
        fit_columns(table_cohort(**{"Patient Age": ["058Y", "060Y"]}), "Patient Age", range(2))


def test_spellings_of_one_value_are_one_input():
    """M, m, male and 1.0 beside 1; codes that may stand for a blank have a warning."""
    assert same_word(" Left  arm ") == same_word("left arm") == same_word("left_arm") != same_word("leftarm")
    words = table_cohort(sex=["M", "male", "F", "Female"])
    assert tabulate(words, fit_columns(words, "sex", [0, 2]))[0].tabular.tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    cohort = table_cohort(sex=["M", "m", "F", "M"], grade=["1", "1.0", "2", "2"], age=["40", "999", "61", "50"])
    columns = fit_columns(cohort, "sex,grade:category,age", range(4))
    assert [column.values for column in columns] == [("F", "M"), ("1", "2"), ()]
    filled, notes = tabulate(cohort, columns)
    assert filled.tabular[:, :4].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1]]
    assert notes[0] == "sex: 'M' and 'm' count as one" and "WARNING: age: 999 (1 rows) counts like the other values" in notes[2]


def test_lists_in_a_column_are_said():
    """Each combination is a category; genes are no lists."""
    cohort = table_cohort(history=["asthma|diabetes", "asthma", "none known", "asthma"])
    assert "history: cells look like lists; each combination counts as a word of its own" in tabulate(cohort, fit_columns(cohort, "history", range(4)))[1]
    cohort = table_cohort(apoe=["E3/E3", "E3/E4", "E2/E3", "E3/E4"])
    assert "look like lists" not in " ".join(tabulate(cohort, fit_columns(cohort, "apoe", range(4)))[1])


def test_numbers_in_another_unit_than_in_training_have_a_warning():
    """Months where there were years, years of birth where there were ages: read, but not in silence."""
    cohort = table_cohort(age=["40", "50", "60"])
    columns = fit_columns(cohort, "age", range(3))
    assert tabulate(cohort, columns)[1] == []
    notes = tabulate(table_cohort(age=["600 months", "", "720 months"]), columns)[1]
    assert "age: '600 months' has a unit, it is read as 600" in notes
    assert "WARNING: age: 2 rows are far from those of training, as 600 from 50: in another unit?" in notes


def test_an_input_that_alone_says_the_target_has_a_warning():
    """benign_malignant beside target: a perfect result would be of the table; not dx_type, which says it of some, nor where words are as many as rows."""
    cohort = table_cohort(answer=["benign", "malignant", "Benign"] * 3, dx_type=["histo", "histo", "follow_up"] * 3, age=list("123456789"))
    cohort.targets["y"] = np.float32([0, 1, 0, 0, 1, np.nan, 0, 1, 0])
    line = "WARNING: answer alone says y: is it the answer in other words?"
    for names, warns in (("age,dx_type", False), ("age,answer", True)):
        assert (line in tabulate(cohort, fit_columns(cohort, names, range(9)))[1]) == warns
    cohort.targets = {"x": np.zeros(9, np.float32), **cohort.targets}                # of several targets the second too
    assert line in tabulate(cohort, fit_columns(cohort, "answer", range(9)))[1]


@pytest.mark.parametrize("target, column", (("x/y:classes", "y"), ("words:labels", "words"), ("x/y:survival", "y"), ("x:labels,y:labels", "x"), ("x:classes", "x")))
def test_what_is_to_be_predicted_is_no_input(tmp_path, target, column):
    """Also where the task has another name than its columns."""
    path = generic(tmp_path, "p,a.png,1,0,u|v", "q,b.png,0,1,u", "r,c.png,1,0,v", header="patient_id,image,x,y,words")
    with pytest.raises(ValueError, match=f"--tabular {column}: {column} is what is to be predicted"):
        fit_columns(load_cohort(path, target=target), column, range(3))


def test_a_column_with_a_comma_in_its_name():
    cohort = table_cohort(**{"size, mm": ["1", "2", "3", "4"]})
    assert [column.name for column in fit_columns(cohort, "size, mm:number", range(4))] == ["size, mm"]


def test_ids_are_no_category():
    """config.json holds the values of a category, and models hold no ids, of patients or of their visits."""
    patients = ["p", "p", "q", "r"]
    cohort = table_cohort(mrn=["x1", "x1", "x2", "x3"], visit=["v1", "v2", "v3", "v4"], year=["1", "1", "2", "3"], site=["a", "a", "b", "b"], side=["l", "r", "l", "b"])
    cohort = replace(cohort, patients=patients)
    for wanted in ("mrn", "visit", "year:category"):
        with pytest.raises(ValueError, match=f"^--tabular {wanted[:4]}.*: no two patients share a value"):
            fit_columns(cohort, wanted, range(4))
    assert [column.kind for column in fit_columns(cohort, "year,site,side", range(4))] == ["number", "category", "category"]
