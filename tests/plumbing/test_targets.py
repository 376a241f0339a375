"""plumbing/targets.py: columns become tasks, with the kind that is named or inferred."""
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from plumbing.cells import positive_of
from plumbing.cohort import Cohort, Task
from plumbing.load_cohort import load_cohort
from plumbing.splits import split_patients
from plumbing.targets import fit_tasks, put_positive_last, training_notes
from tests.plumbing.small_tables import cohort_of, generic, write


@pytest.mark.parametrize("cells, kind, classes, values", (
    (("0.5", "3", ""), "regression", (), (0.5, 3, np.nan)),
    (("0", "1", "1"), "classes", ("0", "1"), (0, 1, 1)),
    (("10", "9", "2"), "regression", (), (10, 9, 2)),
    (("1.234", "2.345", "2.5"), "regression", (), (1.234, 2.345, 2.5)),
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
    ("target:labels", "row 2, column target: '0.5' is no label, need 0, 1, -1 or blank; --missing names words for a blank"), ("target,", "no column ''"),
    ("target:regression,target:classes", "target stands there twice; a column is one target"),
))
def test_a_wrong_target_flag(tmp_path, spec, message):
    """--target names a column and, after a colon, a kind."""
    with pytest.raises(ValueError, match=message):
        load_cohort(generic(tmp_path, "p,a.png,0.5", "q,b.png,1"), target=spec)


def test_uncertain_says_it_label_by_label(tmp_path):
    """zeros for all but the labels named; a label or a word that does not exist is one line."""
    path = write(tmp_path, "t.csv", "patient_id,image,a,b", "p,x,-1,-1", "q,y,1,0", images=("x.png", "y.png"))
    for text in ("zeros,b=ones", "b=ones"):
        said = load_cohort(path, target="a:labels,b:labels", uncertain=text).targets["findings"]
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
        fit_tasks(many, range(10, 40))


@pytest.mark.parametrize("target, row, message", (
    ("days:survival", "p1,a.png,1,1", "no column ''; --target TIME/EVENT:survival .* names it"),
    ("days/dead:survival", "p1,a.png,1,1", "no column 'dead'"),
    ("days/died:survival", "p1,a.png,1,2", "died = 1 in 0 of 1 rows .not: 2.: is that the event. .* which of 2 it is"),
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
    assert fit_tasks(cohort, [0, 1, 2, 3], True)[0].positive_weight == (3.0, 2.0, 1.0)
    assert fit_tasks(cohort, [0, 2, 4], True)[0].positive_weight == (0.5, 0.5, 2.0)
    assert fit_tasks(cohort, [0, 1, 2, 3])[0].positive_weight == ()
    cohort = Cohort("c", [Task("y", "classes", ("no", "yes"))], list("pqr"), list("pqr"), {"y": np.float32([0, 1, 1])})
    with pytest.raises(ValueError, match="--positive-weight is for labels, and no target is of that kind"):
        fit_tasks(cohort, [0, 1, 2], True)


def test_fit_tasks():
    """Center and scale are those of the known training targets; one value only, or none, is refused."""
    cohort = cohort_of("pqrst", [1e6, 1e6 + 2, np.nan, 5, 5])
    task, = fit_tasks(cohort, [0, 1, 2])
    assert task.center == 1e6 + 1 and task.scale == 1 and cohort.tasks[0].scale == 1.0
    for part, message in (([3, 4], "y: nothing but 5 in the training split, nothing to learn from"), ([2], "y: no known value in the training split")):
        with pytest.raises(ValueError, match=message):
            fit_tasks(cohort, part)
    with pytest.raises(ValueError, match="nothing to learn from; where a blank is a no, --target NAME:labels --blank NAME=zeros$"):
        fit_tasks(replace(cohort_of("pq", [0, np.nan], "classes"), tasks=[Task("y", "classes", ("x",))]), [0, 1])
    with pytest.raises(ValueError, match="y: nothing but b in the training split"):
        fit_tasks(replace(cohort_of("pq", [1, 1], "classes"), tasks=[Task("y", "classes", ("a", "b"))]), [0, 1])


def column(tmp_path, cells, target="target", **options):
    """A table with these cells as targets -> its Cohort."""
    names = [f"{i}.png" for i in range(len(cells))]
    path = write(tmp_path, "t.csv", "patient_id,image,target", *(f'p{i},{i}.png,"{cell}"' for i, cell in enumerate(cells)), images=names)
    return load_cohort(path, target=target, **options)


@pytest.mark.parametrize("cells, task, values, note", (
    (("benign", "nan", "N/A", "malignant"), Task("target", "classes", ("benign", "malignant")), [0, None, None, 1], "--missing.*target 'nan' 1, target 'N/A' 1"),
    (("1", "0", "1.0", "0.0", "1"), Task("target", "classes", ("0", "1")), [1, 0, 1, 0, 1], "'1' and '1.0' count as one"),
    (("Yes", "yes", "no ", "NO", "yes"), Task("target", "classes", ("NO", "yes")), [1, 1, 0, 0, 1], "'yes' and 'Yes' count as one"),
    (("True", "False", "True"), Task("target", "classes", ("False", "True")), [1, 0, 1], None),
    (("Y", "yes", "N", "no", "Y", "N"), Task("target", "classes", ("N", "Y")), [1, 1, 0, 0, 1, 0], "'N' and 'no' count as one"),
    (("nein", "ja", "ja\u200b"), Task("target", "classes", ("ja", "nein")), [1, 0, 0], None),
    (("grade_1", "grade-1", "grade 2"), Task("target", "classes", ("grade 2", "grade-1")), [1, 1, 0], "'grade-1' and 'grade_1' count as one"),
    (("a\nb", "b", "a\r\nc", "c"), Task("findings", "labels", ("a", "b", "c")), [[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], "lists"),
    (('c(""a"", ""b"")', "b", "a"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 1], [1, 0]], "lists"),
    (("frozenset({'a', 'b'})", "frozenset()", "frozenset({'a'})"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 0], [1, 0]], "lists"),
    (("a and b", "b", "a"), None, None, "'a and b' looks like a list"), (("a、b", "b", "a"), None, None, "looks like a list"),
    (("left", "right", "left right"), None, None, "'left right' looks like a list"), (("basal cell", "squamous cell"), Task("target", "classes", ("basal cell", "squamous cell")), [0, 1], None),
    (("0", "1", "77", "2", "88", "99.0"), Task("target", "regression"), [0, 1, 77, 2, 88, 99], "77 \\(1 rows\\) counts like"),
    (("40", "52.5", "999.9"), Task("target", "regression"), [40, 52.5, 999.9], "999.9 \\(1 rows\\) counts like"),
    (("0", "-8", "-9", "2"), Task("target", "regression"), [0, -8, -9, 2], "-9 \\(1 rows\\) counts like"), (("5", "-8", "-3", "2"), Task("target", "regression"), [5, -8, -3, 2], None),
    (("{'a', 'b'}", "{'b'}", "{'a'}"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 1], [1, 0]], "lists"),
    (("('a', 'b')", "('b',)", "('a',)"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 1], [1, 0]], "lists"),
    (("0", "-1", "1", "2"), Task("target", "regression"), [0, -1, 1, 2], "target: -1 \\(1 rows\\) counts like the other values.*--missing=default,-1"),
    (("40", "-999", "61"), Task("target", "regression"), [40, -999, 61], "-999 .* stands for a blank"),
    (("a", "uncertain", "b"), Task("target", "classes", ("a", "b", "uncertain")), [0, 2, 1], "uncertain \\(1 rows\\) counts like .*--missing=default,uncertain"),
    (("a", "Not known", "b"), Task("target", "classes", ("Not known", "a", "b")), [1, 0, 2], "--missing=default,'not known'$"),
    (("1", "0", "-1", ""), Task("findings", "labels", ("target",)), [[1], [0], [0], [None]], "1 labels are -1: --uncertain zeros"),
    (("a|b", "b", "a", "b;c", "No Finding", ""), Task("findings", "labels", ("a", "b", "c")),
     [[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0], [None] * 3], "target: cells are lists of labels"),
    (("a、c", "b", "a"), None, None, "'a、c' looks like a list"), (("a b w/ c", "a b", "c"), None, None, "'a b w/ c' looks like a list"),
    (("浮腫と結節", "結節", "浮腫"), None, None, "'浮腫と結節' looks like a list"),
    (("a b", "b c", "a d"), Task("target", "classes", ("a b", "a d", "b c")), [0, 2, 1], None), (("a｜b", "b", "a"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 1], [1, 0]], "lists"),
    (("−1,5", "2,5"), None, None, "'−1,5' begins with a dash .*target:regression as -1.5$"), (("12·5", "3·5"), None, None, "'12·5' has a decimal point of .* as 12.5$"),
    (("1,5", "k.A.", "2,5"), None, None, "'1,5' has a decimal comma"), (("1.2 ± 0.3", "2 ± 1"), None, None, "has an error behind it"), (('=""12""', '=""13""'), None, None, "is a number in quotes"), (("45 лет", "50 лет"), None, None, "has a unit"),
    (("a", "неизвестно", "b", "a"), Task("target", "classes", ("a", "b", "неизвестно")), [0, 2, 1, 0], "неизвестно \\(1 rows\\) counts like"),
    (("a", "can't tell", "b", "a"), Task("target", "classes", ("a", "b", "can't tell")), [0, 2, 1, 0], "can't tell \\(1 rows\\) counts like"),
    (("0", "-4", "3"), Task("target", "regression"), [0, -4, 3], "-4 \\(1 rows\\) counts like"),                                                        # ADNI
    (("a；b", "b", "正常", ""), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 1], [0, 0], [None] * 2], "lists"),
    (("['a', 'b']", "['b']", "['a']", "[]"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 1], [1, 0], [0, 0]], "lists"),
    (("['a']", "[]", "['b']"), Task("findings", "labels", ("a", "b")), [[1, 0], [0, 0], [0, 1]], "lists"),
    (("['a', 'b']", "[]", "['a', 'b']"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 0], [1, 1]], "lists"),
    (("5", "9", "10"), Task("target", "regression"), [5, 9, 10], None),
    (("1e3", "-2", "0.5"), Task("target", "regression"), [1000, -2, 0.5], None),
    (("1.500", "750", "12.000", "40"), None, None, "'1.500' may be a thousand and more.*target:regression as 1.5$"),
    (("-1,024", "40"), None, None, "'-1,024' has commas"), (("-1.024", "40"), None, None, "'-1.024' may be a thousand"),
    (("1,500", "2,250"), None, None, "'1,500' has commas that may divide thousands.*:classes takes it as a word$"),
    (("1 500", "750"), None, None, "'1 500' has its thousands divided"), (("1.500,5", "750"), None, None, "'1.500,5' has its thousands divided"),
    (("1-Mar", "2-Mar", "3-Apr"), None, None, "'1-Mar' is a date"), (("unknown", "1", "2"), None, None, "'unknown' is not a number, others are.*--missing"),
    (("#REF!", "a", "'--", "b", "[Not Available]"), Task("target", "classes", ("a", "b")), [None, 0, None, 1, None], "target '#REF!' 1, target \"'--\" 1"),
    (("unknown", "a", "b", "a"), Task("target", "classes", ("a", "b", "unknown")), [2, 0, 1, 0], "unknown \\(1 rows\\) counts like the other.*--missing=default,unknown"),
    (("[removed]", "a", "b", "a"), Task("target", "classes", ("[removed]", "a", "b")), [0, 1, 2, 1], "removed. \\(1 rows\\) counts like"),
    (("Todo", "a", "b", "a"), Task("target", "classes", ("Todo", "a", "b")), [0, 1, 2, 1], "Todo \\(1 rows\\) counts like.*--missing=default,todo"),
    (("0", "3", "1", "9", "2"), Task("target", "regression"), [0, 3, 1, 9, 2], "9 \\(1 rows\\) counts like"),
    (("1", "2", "3") * 3, Task("target", "regression"), [1, 2, 3] * 3, "target: 3 different numbers are taken for amounts; --target target:classes"),
    (("a|B", "b", "A"), Task("findings", "labels", ("A", "B")), [[1, 1], [0, 1], [1, 0]], "lists"),
    (("['a', '']", "['b ', ' a']", "['']"), Task("findings", "labels", ("a", "b")), [[1, 0], [1, 1], [0, 0]], "lists"),       # PadChest
    (("['a', 'b']", "[nan]", "['b']"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 0], [0, 1]], "lists"),                          # pandas' groupby
    (("Aortic(x)|a", "a|Aortic(x)", "a"), Task("findings", "labels", ("Aortic(x)", "a")), [[1, 1], [1, 1], [0, 1]], "lists"),
    (("(L) a|b", "(L) a", "b"), Task("findings", "labels", ("(L) a", "b")), [[1, 1], [1, 0], [0, 1]], "lists"),
    (("Hernia, Hiatal;b", "Hernia, Hiatal", "b"), Task("findings", "labels", ("Hernia, Hiatal", "b")), [[1, 1], [1, 0], [0, 1]], "lists"),    # Indiana
    (("a;b", "a, b", "b", "a"), Task("findings", "labels", ("a", "b")), [[1, 1], [1, 1], [0, 1], [1, 0]], "lists"),
    (("1.500 ml", "750 ml"), None, None, "'1.500 ml' may be a thousand and more"),
    (("['a' 'b']", "['b']", "set()"), Task("findings", "labels", ("a", "b")), [[1, 1], [0, 1], [0, 0]], "lists"),
    (("a + b", "b", "a"), None, None, "'a [+] b' looks like a list"), (("a/b", "b", "a"), None, None, "'a/b' looks like a list"),
    (("3+4", "4+3", "3+3"), Task("target", "classes", ("3+3", "3+4", "4+3")), [1, 2, 0], None),
    (("no_tumor", "no tumor", "tumor"), Task("target", "classes", ("no tumor", "tumor")), [0, 0, 1], "'no tumor' and 'no_tumor' count as one"),
    (("True", "0", "False", "1"), None, None, "'True' is not a number, others are; --target target:labels reads them as 1 and 0$"),
    (("1,00", "0,00"), None, None, "'1,00' has a decimal comma; --target target:labels reads them as 1 and 0$"),
    (("2a", "1b", "2a", "3"), None, None, "'2a' is not a number, others are; --target target:classes"),
    (("1+", "2+", "3+", "2+"), Task("target", "classes", ("1+", "2+", "3+")), [0, 1, 2, 1], None),
    (("T1a", "T2", "T1a"), Task("target", "classes", ("T1a", "T2")), [0, 1, 0], None),
    (("Not_Available", "a", "b", "a"), Task("target", "classes", ("Not_Available", "a", "b")), [0, 1, 2, 1], "Not_Available \\(1 rows\\) counts like.*--missing=default,not_available"),
    (("keine Angabe", "a", "b", "a"), Task("target", "classes", ("a", "b", "keine Angabe")), [2, 0, 1, 0], "keine Angabe \\(1 rows\\) counts like"),
    (("1,2E+03", "2,5E-01"), None, None, "'1,2E\\+03' has a decimal comma; .*target:regression as 1200$"),
    (("1,1", "2", "3,5"), None, None, "'1,1' has a decimal comma; --target target:classes takes it as a word, target:regression as 1.1$"),
    (("12 mm", "9 mm", "3mm"), None, None, "'12 mm' has a unit; .*target:regression as 12$"), (("058Y", "060Y"), None, None, "has a unit"),
    (("35%", "40 %"), None, None, "'35%' has a unit"), (("<5", "7", "8"), None, None, "'<5' is a bound; --target target:classes takes it as a word$"),
    (("38岁", "41岁"), None, None, "'38岁' has a unit; .*target:regression as 38$"), (("5 mg/dl", "7 mg/dL"), None, None, "'5 mg/dl' has a unit; .*target:regression as 5$"), (("36.6°C", "37"), None, None, "has a unit"), (("22 kg/m2", "25 kg/m2"), None, None, "unit"),
    (("1|3", "2", "3"), None, None, r"'1\|3' is a list of numbers, which belong into columns"), (("0 3", "2 14", "3 1"), None, None, "is a list of numbers"),
    (("3-Jan", "4-6", "7-9"), None, None, "'3-Jan' is a date"), (("<10%", "10-50%", ">50%"), Task("target", "classes", ("10-50%", "<10%", ">50%")), [1, 0, 2], None),
    (("2020-01-31", "2021-02-01"), None, None, "is a date"), (("31.1.2020", "1.2.2021"), None, None, "is a date"), (("3 Jan 2020", "4-Feb-21"), None, None, "is a date"),
    (("007", "012", "120"), None, None, "'007' begins with 0, as codes do"), (("-1", "1", "1"), Task("findings", "labels", ("target",)), [[0], [1], [1]], "1 labels are -1: --uncertain zeros"),
    (("-1.00", "-1.0e+00", "1"), Task("findings", "labels", ("target",)), [[0], [0], [1]], "2 labels are -1: --uncertain zeros"),
    (("a, b", "b", "a"), None, None, "'a, b' looks like a list; --target target:labels reads it"),
    (tuple(f"w{i:02}" for i in range(12)) * 2, Task("target", "classes", tuple(f"w{i:02}" for i in range(12))), [*range(12)] * 2, None),
    (tuple(f"word {i}" for i in range(12)), None, None, "12 different words in 12 rows, as 'word 0', are no classes; --target target:classes allows it"),
))
def test_every_kind_of_cell_is_understood_or_refused_with_the_flag_that_decides(tmp_path, cells, task, values, note):
    """Without a kind nothing is guessed that may be something else."""
    if task is None:
        with pytest.raises(ValueError, match=note) as error:
            column(tmp_path, cells)
        assert "\n" not in str(error.value)
        return
    cohort = column(tmp_path, cells)
    assert cohort.tasks == [task]
    np.testing.assert_array_equal(cohort.targets[task.name], np.array(values, np.float32))
    notes = [line for line in cohort.notes if "blanks" in line or "target" in line or "labels" in line]
    assert re.search(note, notes[0]) if note else notes == []


@pytest.mark.parametrize("cells, target, values", (
    (("1,1", "2", "3,5"), "target:regression", [1.1, 2, 3.5]), (("12 mm", "9.5 mm"), "target:regression", [12, 9.5]), (("058Y", "60Y"), "target:regression", [58, 60]),
    (("007", "12"), "target:regression", [7, 12]), (("-1", "1"), "target:classes", [0, 1]), (("-1", "1"), "target:labels", [[0], [1]]),
    (("a, b", "b"), "target:labels", [[1, 1], [0, 1]]), (("a & b", "b"), "target:labels", [[1, 1], [0, 1]]), (("Nodule/Mass", "Zyst"), "target:labels", [[1, 0], [0, 1]]),
    (("Mass\uff0cZyst", "Zyst", "Mass"), "target:labels", [[1, 1], [0, 1], [1, 0]]), (("one und two", "two", "one"), "target:labels", [[1, 1], [0, 1], [1, 0]]),
    (("F", "M", ""), "target:labels", [[1, 0], [0, 1], [np.nan] * 2]), (("T", "f", ""), "target:labels", [[1], [0], [np.nan]]),
    (("(a, b)", "(b)", "c(a)"), "target:labels", [[1, 1], [0, 1], [1, 0]]),
    (("x", "", "absent"), "target:labels", [[1], [np.nan], [0]]), (("a|b", "b", "a|b"), "target:classes", [0, 1, 0]), (("yes", "No", "true"), "target:labels", [[1], [0], [1]]),
    (tuple(f"word {i:02}" for i in range(12)), "target:classes", range(12))))
def test_the_flag_decides(tmp_path, cells, target, values):
    """A kind after the colon is taken at its word."""
    cohort = column(tmp_path, cells, target)
    np.testing.assert_allclose(cohort.targets[cohort.tasks[0].name], np.array(values, np.float32), rtol=1e-6)


@pytest.mark.parametrize("cells, target, message", (
    (("1,234", "2,5"), "target:regression", "'1,234' has commas that may divide thousands"), (("950 ml", "1,500 ml"), "target:regression", "'1,500 ml' has commas"),
    (("['normal']", "[]"), "target", r"row 2, column target: .*'normal'.* is no label, nor is any other cell: nothing"), (("12 mm", "3 cm"), "target:regression", "'3 cm' has another unit"), (("12", "3 cm"), "target:regression", "'3 cm' has another unit than the cells before, none"),
    (("2020-01-31", "2021-02-01"), "target:regression", "'2020-01-31' is a date"), (("0.5", "a"), "target:labels", "'0.5' is no label"),
    (('{""choices"": [""a""]}', "a"), "target:labels", "is a JSON object"), (("<5", "6"), "target:regression", "'<5' is a bound")))
def test_but_not_what_cannot_be(tmp_path, cells, target, message):
    """1,234 may be a thousand and more; one column has one unit."""
    with pytest.raises(ValueError, match=message):
        column(tmp_path, cells, target)


def test_a_word_for_a_blank_among_lists_is_no_label_in_silence(tmp_path):
    for word in ("todo", "pending", "not performed"):
        assert f"WARNING: target: {word} (2 rows) counts like the other values" in " ".join(column(tmp_path, ("a|b", "b", word, word), "target:labels").notes)
    assert "target: [''] (2 rows) counts as none of the labels; where it stands for a blank, say --missing=default" in " ".join(column(tmp_path, ("['a']", "['']", "['']"), "target:labels").notes)


def test_words_for_a_blank_are_a_flag(tmp_path):
    """A class may be called None; with --missing only what it names is a blank."""
    cells = ("None", "mild", "None", "severe")
    blanks = column(tmp_path, cells)
    assert blanks.tasks[0].classes == ("mild", "severe")
    assert "WARNING: target: None counts as a blank; where it is a class, say --missing=na,nan" in blanks.notes
    kept = column(tmp_path, cells, missing="")
    assert kept.tasks[0].classes == ("None", "mild", "severe") and not any("blanks" in line for line in kept.notes)
    assert column(tmp_path, cells, missing="mild,x").targets["target"].tolist()[2] == 0


def test_a_minus_beside_a_plus_is_no_blank_in_silence(tmp_path):
    """Half of the answers would else be unknown; the advice works."""
    cells = ("+", "-", "++", "+", "-")
    with pytest.raises(ValueError, match="column target: is - beside . a blank, or negative. --missing=na,nan makes it a word"):
        column(tmp_path, cells)
    assert column(tmp_path, cells, missing="na,nan").targets["target"].tolist() == [0, 2, 1, 0, 2]
    assert column(tmp_path, cells[:2] * 2, "target:labels", missing="na,nan").targets["findings"].tolist() == [[1], [0], [1], [0]]
    assert positive_of(("+", "-")) == "+"


def test_uncertain_holds_for_a_lone_label(tmp_path):
    """-1 as --uncertain says, with one column as with two."""
    for policy, value in (("zeros", 0), ("ones", 1), ("ignore", np.nan)):
        targets = column(tmp_path, ("1.0", "0.0", "-1.0", ""), uncertain=policy).targets["findings"]
        np.testing.assert_array_equal(targets[:, 0], [1, 0, value, np.nan])


def test_one_hot_columns_can_be_classes(tmp_path):
    """Of labels it is said that exactly one is 1 in every row; A/B/C:classes makes one choice of them, and refuses a row with none or two."""
    path = generic(tmp_path, "p,a.png,1.0,0,0", "q,b.png,0,1,0", "r,c.png,0,1,0", header="patient_id,image,A,B,C")
    cohort = load_cohort(path, target="A,B,C")
    assert cohort.tasks[0].kind == "labels" and "--target A/B/C:classes makes one choice of them" in " ".join(cohort.notes)
    cohort = load_cohort(path, target="A/B/C:classes")
    assert cohort.tasks == [Task("class", "classes", ("A", "B", "C"))] and cohort.targets["class"].tolist() == [0, 1, 1]
    for odd in ("1,1,0", "1,1,-1", "0,0,0", "0,0,"):
        with pytest.raises(ValueError, match="t.csv row 3: need one 1 and else 0 in A, B, C"):
            load_cohort(generic(tmp_path, "p,a.png,1,0,0", f"q,b.png,{odd}", header="patient_id,image,A,B,C"), target="A/B/C:classes")
    path = generic(tmp_path, "p,a.png,1,0", "q,b.png,,", "r,c.png,1,1", header="patient_id,image,A,B")
    words = write(tmp_path, "w.csv", "patient_id,image,A,B", "p,a.png,x|y,", "q,b.png,z,", images=("a.png", "b.png"))
    with pytest.raises(ValueError, match=r"w.csv row 2, column A: 'x\|y' is no label, need 0, 1, -1 or blank"):
        load_cohort(words, target="A/B:classes")
    with pytest.raises(ValueError, match="t.csv row 4: need one 1 and else 0 in A, B; --target A:labels,B:labels makes each of them a label"):
        load_cohort(path, target="A/B:classes")
    assert not any("exactly one" in line for line in load_cohort(path, target="A,B").notes)
    path = generic(tmp_path, "p,a.png,,", "q,b.png,,", header="patient_id,image,A,B")
    assert not any("exactly one" in line for line in load_cohort(path, target="A:labels,B:labels").notes)
    path = generic(tmp_path, "p,a.png,1,0", "q,b.png,,", "r,c.png,0,1", header="patient_id,image,A,B")
    np.testing.assert_array_equal(load_cohort(path, target="A/B:classes").targets["class"], [0, np.nan, 1])


@pytest.mark.parametrize("events, column, events_read, note", (
    (("1", "0", "1.0"), "died", [1, 0, 1], "died = 1 in 2 of 3 rows"), (("Dead", "alive", ""), "status=dead", [1, 0, np.nan], "status = dead in 1 of 2 rows"),
    (("1", "2", "1"), "status=2", [0, 1, 0], "status = 2 in 1 of 3 rows"), (("1.0", "0.0", "1"), "censorship=0", [0, 1, 0], "censorship = 0 in 1 of 3 rows"),
    (("1", "0", "1"), "censorship=1", [1, 0, 1], "censorship = 1 in 2 of 3 rows"), (("1", "0", "1"), "censorship", None, "censorship = 1 in 2 of 3 rows .not: 0.: is that the event. .*censorship=VALUE:survival"),
    (("1", "0", "1"), "no_recurrence", None, "no_recurrence=VALUE"), (("1", "0", "1"), "survival", None, "survival=VALUE"), (("1", "0", "1"), "nonevent", None, "nonevent=VALUE"),
    (("1", "0", "1"), "vivo", None, "vivo=VALUE"), (("1", "0", "1"), "截尾", None, "截尾=VALUE"),
    (("1", "0", "1"), "lost_to_follow_up", None, "lost_to_follow_up=VALUE:survival"), (("1", "0", "1"), "event_free", None, "event_free=VALUE:survival"),
    (("1", "0", "1"), "progression_free_event", [1, 0, 1], "progression_free_event = 1 in 2 of 3 rows"),
    (("Dead", "Alive", ""), "status", None, ".not: Dead, Alive.: is that the event. .*days/status=VALUE:survival says which of Dead, Alive it is"),
    (("Dead", "Alive", ""), "status=0", None, "status = 0 in 0 of 2 rows.* which of Dead, Alive it is"),
    (("1", "2", "1"), "status", None, "status = 1 in 2 of 3 rows .not: 2.: is that the event"), (("1", "0", "1"), "status=9", None, "which of 1, 0 it is")))
def test_which_value_is_the_event(tmp_path, events, column, events_read, note):
    """It is said, with how many there are; a column of censorship must say it."""
    path = generic(tmp_path, *(f"p{i},{'abc'[i]}.png,{i + 1},{event}" for i, event in enumerate(events)), header=f"patient_id,image,days,{column.split('=')[0]}")
    if events_read is None:
        with pytest.raises(ValueError, match=note):
            load_cohort(path, target=f"days/{column}:survival")
        return
    cohort = load_cohort(path, target=f"days/{column}:survival")
    np.testing.assert_array_equal(cohort.targets["days"][:, 1], events_read)
    assert note in cohort.notes[0] and cohort.tasks[0].classes == ("days", column.split("=")[0])


@pytest.mark.parametrize("classes, positive", (
    (("no", "yes"), "yes"), (("いいえ", "はい"), "はい"), (("ano", "ne"), "ano"), (("✓", "✗"), "✓"), (("abnormal", "normal"), "abnormal"), (("No finding", "disease"), "disease"), (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
    (("DR", "NoDR"), "DR"), (("NRG", "RG"), "RG"), (("covid", "non-covid"), "covid"), (("0", "1"), "1"), (("negative", "positive"), "positive"),
    (("benign", "malignant"), "malignant"), (("case", "control"), "case"), (("False", "True"), "True"), (("No Finding", "Pneumonia"), "Pneumonia"),
    (("tumor", "no_tumor"), "tumor"), (("absent", "present"), "present"), (("A", "B"), None), (("1", "2"), None), (("F", "M"), None), (("LUAD", "LUSC"), None), (("Stage I", "Stage II"), None)))
def test_the_positive_class_is_the_second(classes, positive):
    """By its usual name; where none decides the second, with a warning; --positive turns it round."""
    def cohort():
        return Cohort("c", [Task("y", "classes", classes)], ["p", "q"], ["p", "q"], {"y": np.float32([0, 1])})

    found = cohort()
    put_positive_last(found)
    assert found.tasks[0].classes[1] == (positive or classes[1])
    assert [found.tasks[0].classes[int(value)] for value in found.targets["y"]] == list(classes)
    assert bool(found.notes) == (classes != ("0", "1")) and (positive is None) == any("WARNING" in line and "--positive" in line for line in found.notes)
    turned = cohort()
    put_positive_last(turned, classes[0])
    assert turned.tasks[0].classes == classes[::-1] and turned.targets["y"].tolist() == [1, 0]
    if positive is None:
        assert f"--positive {shlex.quote(classes[0])} turns" in found.notes[0]
    with pytest.raises(ValueError, match="--positive cat: no target has this class and one other"):
        put_positive_last(cohort(), "cat")
    new = cohort()                                                 # a table that a trained run meets: its own classes count
    put_positive_last(new, "cat", trains=False)
    assert new.notes == []
    other = cohort_of(["p", "q"], [[3, 1], [4, 0]], "survival")    # two columns, and no class of them
    other.tasks = [Task("y", "survival", ("time", "alive"))]
    put_positive_last(other)
    assert other.tasks[0].classes == ("time", "alive") and other.targets["y"].tolist() == [[3, 1], [4, 0]] and other.notes == []


def test_two_targets_have_two_names(tmp_path):
    """v.1 and v_1 would be one module; all words of a column of comments are no labels."""
    path = generic(tmp_path, "p,a.png,1.5,2.5", "q,b.png,2.5,0.5", header="patient_id,image,v.1,v_1")
    with pytest.raises(ValueError, match="--target v.1,v_1: two of them would have the same name"):
        load_cohort(path, target="v.1,v_1")
    rows = [f"p{i},{i}.png,w{i};v{i}" for i in range(12)]
    path = write(tmp_path, "u.csv", "patient_id,image,text", *rows, images=[f"{i}.png" for i in range(12)])
    with pytest.raises(ValueError, match="column text: 24 different words in 24 rows, as 'w0', are no classes"):
        load_cohort(path, target="text:labels")


@pytest.mark.parametrize("kind, values, train, note", (
    ("classes", [0, 1, 0, 1, 2], range(4), "WARNING: y: training never sees c"), ("classes", [0, 1, 2, 1, 2], range(4), "WARNING: y: training never sees d"),
    ("regression", [1.0, 2, 3, 1e30] * 1 + [4.0] * 20, range(24), "1 of 24 training values, as 1e+30, carry 99 % of the spread"),
    ("regression", [1e38, -1e38] + [0.5] * 60, range(62), "3 of 62 training values"), ("regression", list(range(40)), range(40), None),
    ("regression", [0] * 36 + [5, 5, 6, 5], range(40), None), ("labels", [[1, 0], [0, np.nan], [1, 0]], range(3), "WARNING: y: training never sees b")))
def test_what_training_cannot_learn_is_said(kind, values, train, note):
    """A class or a label that it never sees, numbers of which one outweighs all others."""
    cohort = cohort_of([f"p{i}" for i in range(len(values))], values, kind)
    if kind == "classes":
        cohort.tasks = [Task("y", kind, ("a", "b", "c", "d")[:3 if "never sees c" in note else 4])]
    notes = training_notes(cohort, list(train))
    assert note in notes[0] if note else notes == []


@pytest.mark.parametrize("cells, message", (
    (("20200131", "20210228"), "'20200131' is a date"), (("[0 1]", "[1 0]"), r"'\[0 1\]' is a list of numbers, which belong into columns"),
    (("[0, 1]", "[1, 0]"), "is a list of numbers"), (("0,1,1", "1,0,0"), "'0,1,1' is a list of numbers"), (("0, 1", "1, 0"), "is a list of numbers")))
def test_numbers_that_are_none(tmp_path, cells, message):
    """Days written without hyphens, and vectors in a cell."""
    with pytest.raises(ValueError, match=message):
        column(tmp_path, cells)


@pytest.mark.parametrize("one, zero", (("1", "0"), ("1.0", "0.0"), ("True", "False"), ("yes", "no")))
def test_one_hot_columns_in_words(tmp_path, one, zero):
    """pandas writes True and False."""
    path = generic(tmp_path, f"p,a.png,{one},{zero}", f"q,b.png,{zero},{one}", header="patient_id,image,A,B")
    cohort = load_cohort(path, target="A/B:classes")
    assert cohort.tasks == [Task("class", "classes", ("A", "B"))] and cohort.targets["class"].tolist() == [0, 1]


def test_marks_of_one_choice_and_blanks_that_are_zeros(tmp_path):
    """An x, or a 1, among blanks; --blank counts for the labels that it names, and a label without a 0 has a warning."""
    rows = [f"p{i},{i}.png,{'x' if i % 2 else ''},{'' if i % 2 else 'x'}" for i in range(6)]
    path = write(tmp_path, "t.csv", "patient_id,image,a,b", *rows, images=[f"{i}.png" for i in range(6)])
    assert load_cohort(path, target="a/b:classes").targets["class"].tolist() == [1, 0, 1, 0, 1, 0]
    cohort = load_cohort(path, target="a:labels,b:labels", blank="zeros,a=zeros")
    np.testing.assert_array_equal(cohort.targets["findings"][:2], [[0, 1], [1, np.nan]])
    assert training_notes(cohort, range(6)) == ["WARNING: findings: training sees no 0 of b; where a blank is one, --blank b=zeros says so"]


def test_two_lists_with_one_word_are_refused(tmp_path):
    """The label would be that of the second column."""
    path = write(tmp_path, "t.csv", "patient_id,image,a,b", "p,a.png,left,left", "q,b.png,right,none seen", images=("a.png", "b.png"))
    with pytest.raises(ValueError, match="column b: the label 'left' is in another column too"):
        load_cohort(path, target="a:labels,b:labels")


def test_a_column_with_a_comma_in_its_name(tmp_path):
    path = write(tmp_path, "t.csv", 'patient_id,image,"size, mm"', "p,a.png,1.5", "q,b.png,2", images=("a.png", "b.png"))
    assert load_cohort(path, target="size, mm:regression").targets["size, mm"].tolist() == [1.5, 2]


def test_a_kind_for_the_first_of_two(tmp_path):
    """The kind of the second is guessed."""
    path = write(tmp_path, "t.csv", "patient_id;image;mm;kind", "p;a.png;1,5;x", "q;b.png;2,5;y", images=("a.png", "b.png"))
    assert [task.text for task in load_cohort(path, target="mm:regression,kind").tasks] == ["regression", "classes: x, y"]


def test_other_states_than_the_event_are_named(tmp_path):
    rows = [f"p{i},{i}.png,{i},{('Alive', 'Dead', 'Lost')[i % 3]}" for i in range(6)]
    path = write(tmp_path, "t.csv", "patient_id,image,days,state", *rows, images=[f"{i}.png" for i in range(6)])
    cohort = load_cohort(path, target="days/state=Dead:survival")
    assert "days: the event is state = Dead in 2 of 6 rows (not: Alive, Lost)" in cohort.notes
    rows = [f"p{i},{i}.png,{(i, '')[i % 2]},{('Dead', 'Alive')[i % 2]}" for i in range(6)]   # as GDC's days_to_death
    path = write(tmp_path, "t.csv", "patient_id,image,days,state", *rows, images=[f"{i}.png" for i in range(6)])
    assert "days: the event is state = Dead in 3 of 6 rows (not: Alive); WARNING: no row without it has a time" in load_cohort(path, target="days/state=Dead:survival").notes[0]


@pytest.mark.parametrize("rows, note", (
    ((("True", "False"), ("False", "True")), True), ((("1", ""), ("", "1")), True), ((("yes", "no"), ("yes", "yes")), False), ((("1", "0"), ("0", "0")), False)))
def test_one_choice_in_several_columns_is_said(tmp_path, rows, note):
    """As pandas' get_dummies writes it, or with blanks for zeros."""
    lines = [f"p{i},{i}.png,{a},{b}" for i, (a, b) in enumerate(rows * 2)]
    path = write(tmp_path, "t.csv", "patient_id,image,a,b", *lines, images=[f"{i}.png" for i in range(4)])
    line = "exactly one of a, b is 1 in every row: --target a/b:classes makes one choice of them"
    assert (line in load_cohort(path, target="a,b").notes) == note
    if note:
        assert load_cohort(path, target="a/b:classes").targets["class"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("first, second", (("healthy", "unhealthy"), ("normal", "non-normal"), ("stable", "unstable"), ("stable", "progressive"), ("CN", "AD"), ("ER-", "ER+"), ("wild-type", "mutant"), ("FAUX", "VRAI"),
                                           ("bénin", "malin"), ("gutartig", "bösartig"), ("negativo", "positivo"), ("Hayır", "Evet"), ("阴性", "阳性"), ("nv", "mel"), ("uninfected", "infected"), ("NRG", "RG"), ("无", "有"), ("YOK", "VAR")))
def test_the_positive_class_by_its_name(first, second):
    """A word with un before it is the negative one, unless the word itself is."""
    assert positive_of((first, second)) == positive_of((second, first)) == second


def test_a_thousand_with_a_point_beside_a_decimal_comma_is_refused(tmp_path):
    """As German spreadsheets write it: 1.500 would be 1.5, one row above 750,25."""
    for unit in ("", " ml"):
        with pytest.raises(ValueError, match=f"row 3, column target: '1.500{unit}' may be a thousand and more, as others have a decimal comma; a number is needed, as 1500.5"):
            column(tmp_path, (f"750,25{unit}", f"1.500{unit}"), "target:regression")
    assert column(tmp_path, ("750,25", "0.500", "12.5"), "target:regression").targets["target"].tolist() == [750.25, 0.5, 12.5]


def test_a_year_has_the_unit_of_years(tmp_path):
    assert column(tmp_path, ("45 years", "1 year", "7 Years"), "target:regression").targets["target"].tolist() == [45, 1, 7]
    with pytest.raises(ValueError, match="'5 m' has another unit than the cells before, mm"):
        column(tmp_path, ("45 mm", "5 m"), "target:regression")


@pytest.mark.parametrize("one, zero", (("VRAI", "FAUX"), ("wahr", "falsch"), ("Evet", "Hayır"), ("✓", "-"), ("是", "否"), ("t", "f"), ("tak", "nie"), ("1,00", "0,00")))
def test_labels_in_words_of_other_languages(tmp_path, one, zero):
    """As spreadsheets write TRUE and FALSE in other countries; they were taken for two labels."""
    assert column(tmp_path, (one, zero, one), "target:labels", missing="nan").targets["findings"].tolist() == [[1], [0], [1]]


def test_more_words_for_a_blank_beside_the_usual_ones(tmp_path):
    """The advice works: what was blank stays blank."""
    cells = ("a", "unknown", "#N/A", "b")
    assert "--missing=default,unknown" in column(tmp_path, cells).notes[-1]
    np.testing.assert_array_equal(column(tmp_path, cells, missing="default,unknown").targets["target"], [0, np.nan, np.nan, 1])


def test_policies_without_labels_are_said(tmp_path):
    """--uncertain and --blank would do nothing in silence."""
    note = "WARNING: --uncertain ones and --blank zeros decide nothing: no target is labels; COLUMN:labels makes one"
    assert note in column(tmp_path, ("0", "1", "-1"), "target:classes", uncertain="ones").notes
    assert not any("decide" in line for line in column(tmp_path, ("0", "1", "-1"), uncertain="ones").notes + column(tmp_path, ("a", "b")).notes)
    path = generic(tmp_path, "p,a.png", "q,b.png", header="patient_id,image")
    assert not any("decide" in line for line in load_cohort(path, uncertain="ones", needs_targets=False).notes)


def test_the_positive_class_in_another_spelling(tmp_path):
    """1 for 1.0, benign for Benign: the spelling that is most frequent is not always that of the flag."""
    for cells, positive in ((("1.0", "2.0", "1.0"), "1"), (("Benign", "malignant"), "benign")):
        cohort = column(tmp_path, cells, "target:classes")
        put_positive_last(cohort, positive)
        assert cohort.tasks[0].classes[1] == cells[0] and cohort.targets["target"].tolist()[:2] == [1, 0]


@pytest.mark.parametrize("first, second", (("low-grade", "low–grade"), ("low-grade", "low\u2011grade"), ("Crohn's", "Crohn’s"), ("iyi", "İYİ"), ("hayır", "HAYIR")))
def test_one_word_as_keyboards_and_spreadsheets_write_it(tmp_path, first, second):
    """Dashes, apostrophes and the Turkish i make no second class."""
    cohort = column(tmp_path, (first, "other", second, first))
    assert cohort.targets["target"][[0, 2, 3]].std() == 0 and f"{first!r} and {second!r} count as one" in cohort.notes[0]


def test_a_minus_and_a_micro_sign_as_spreadsheets_write_them(tmp_path):
    assert column(tmp_path, ("−1.5", "2", "−0,5"), "target:regression").targets["target"].tolist() == [-1.5, 2, -0.5]
    assert column(tmp_path, ("5 µg/l", "6 μg/l"), "target:regression").targets["target"].tolist() == [5, 6]


@pytest.mark.parametrize("event", ("vivant", "survécu", "存活"))
def test_a_column_of_those_alive_in_other_languages_is_asked_about(tmp_path, event):
    """1 would be taken for a death."""
    path = generic(tmp_path, "p1,a.png,12.5,1", "p2,b.png,3,0", header=f"patient_id,image,days,{event}")
    with pytest.raises(ValueError, match="is that the event"):
        load_cohort(path, target=f"days/{event}:survival")


def test_other_words_for_no_finding_are_no_labels(tmp_path):
    cohort = column(tmp_path, ("a|b", "b", "No acute findings", "a", "Unremarkable", "no_significant_abnormality"))
    assert cohort.tasks[0].classes == ("a", "b") and cohort.targets["findings"][[2, 4, 5]].tolist() == [[0, 0]] * 3
