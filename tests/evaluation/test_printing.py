"""evaluation/printing.py: tables that line up."""
import re

import numpy as np

from evaluation import printing, verdict
from evaluation.metrics import METRICS, NAMES
from evaluation.printing import print_columns, print_table
from evaluation.probabilities import details
from evaluation.scores import score, score_constant, subset
from plumbing.cohort import Task
from tests.evaluation.toy import FINDINGS, GRADE, PASI, table_of

SICK = Task("sick", "labels", ("sick",))


def test_the_table_is_aligned_and_says_what_is_undefined(capsys):
    """Interval, value of the constant without one, small groups marked, labels with positives, reasons instead of numbers."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.integers(2, size=50), np.zeros(50)])
    table = {"patient": np.arange(50).astype(str), "prediction": {"pasi": rng.random(50) * 9, "findings": rng.random((50, 2))},
             "target": {"pasi": rng.random(50) * 9, "findings": labels}}
    groups = {"fst I-IV": np.arange(45), "fst V-VI": np.arange(45, 50)}
    result = {"split": "test", "patients": 50, "images": 50, "unit": "patient", **{task.name: score(task, table) for task in (PASI, FINDINGS)}}
    result["pasi"]["constant"] = {name: {"value": 1234.5, "low": None, "high": None} for name in METRICS["regression"]}
    result["pasi"]["subgroups"] = {name: {**score(PASI, subset(table, keep)), "small": len(keep) < 20} for name, keep in groups.items()}
    print_table([PASI, FINDINGS], result)
    lines = capsys.readouterr().out.splitlines()
    find = {re.split(" {2,}", line[4:])[0]: line for line in lines[1:]}                # the first column
    mae, low, high = (result["pasi"]["mae"][key] for key in ("value", "low", "high"))
    assert find["mean absolute error"].split()[3:] == [f"{mae:.3f}", f"({low:.3f}", "to", f"{high:.3f})", "1,234"]
    assert lines[0] == "test: 50 patients, 50 images; 95 % intervals, patients resampled"
    assert find["fst I-IV"].endswith("  45") and find["fst V-VI"].endswith("  5 (small)")
    assert find["AUROC, 1 of 2 labels"] and "undefined: one class only" in find["mass"] and find["mass"].endswith(" 0 of 50")
    for names in ([NAMES[name] for name in METRICS["regression"]], groups):                  # the second column begins where its neighbours' do
        starts = [{match.end() for match in re.finditer("  (?=[^ ])", find[name][4:])} for name in names]
        assert set.intersection(*starts)
    assert len(lines) >= 17 and max(map(len, lines)) <= 80


def test_few_cases_are_marked_and_the_mark_is_explained(capsys):
    """Six positives of twelve: every interval has the mark, also those of the operating point, and the last line says what it means."""
    target = np.arange(12)[:, None] % 2
    table = table_of(SICK, target * 0.5 + np.linspace(0, 0.4, 12)[:, None], target)
    result = {"split": "test", "patients": 12, "images": 12, "unit": "patient",
              "sick": {**score(SICK, table), **details(SICK, table, {"sick": 0.5}), "constant": score_constant(SICK, table, [0.5])}}
    print_table([SICK], result)
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if "(" in line and line.startswith("    ")]
    assert len(rows) > 5 and all(line.count("\u2020") == line.count(" to ") for line in rows)
    assert "\n\u2020 fewer than 10 positives" in text and "0.500, random order 0.59" in text and "6 of 12" in text


def test_where_nothing_is_known_no_word_is_lost_and_no_number_is_made_up(capsys):
    """All targets missing: the reasons are whole, also beyond the line, and a constant agrees with nothing by no number; of two labels
    one that is always there is no part of the mean, and why it has no threshold stands behind its name."""
    for task, target in ((PASI, np.full(20, np.nan)), (FINDINGS, np.full((20, 2), np.nan))):
        table = table_of(task, np.zeros(target.shape), target)
        scores = {**score(task, table), **details(task, table), "constant": score_constant(task, table, 0.5)}
        print_table([task], {"split": "test", "patients": 20, "images": 20, "unit": "patient", task.name: scores})
    text = capsys.readouterr().out
    assert re.search("\n    Lin's concordance  +undefined: no unit with a known target  undefined\n", text)
    assert "AUROC, 0 of 2 labels              undefined: no unit with a known target, for every label" in text
    target = np.stack([np.arange(40) % 2, np.ones(40)], 1)
    table = table_of(FINDINGS, np.linspace(0, 1, 80).reshape(40, 2), target)
    scores = {**score(FINDINGS, table, constant=[0.5, 0.5]), **details(FINDINGS, table, {"edema": 0.5}), "constant": score_constant(FINDINGS, table, 0.5)}
    print_table([FINDINGS], {"split": "test", "patients": 40, "images": 40, "unit": "patient", "findings": scores})
    text = capsys.readouterr().out
    assert "findings: not better" in text and ". AUROC 0." in " ".join(text.split()) and re.search("\n    mass +undefined: not both classes in the validation", text)


def test_long_names_are_told_apart(capsys):
    """The middle is left out, not the end."""
    names = [f"left lower lobe consolidation of unknown age, {age}" for age in ("old", "new")]
    print_columns(["", "n"], [[name, 1] for name in names])
    old, new = capsys.readouterr().out.splitlines()[1:]
    assert old.startswith("    left lower lob...") and "age, old " in old and "age, new " in new


def test_what_concerns_all_tasks_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(verdict, "verdict", lambda task, result: (f"{task.name} is judged.", [f"{task.name} is rare."]))
    monkeypatch.setattr(printing, "tables", lambda task, result: [])
    print_table([PASI, GRADE], {"split": "test", "patients": 3, "images": 3, "unit": "patient", "warnings": ["Half are missing."]})
    out = capsys.readouterr().out
    assert out.count("Half are missing") == 1 and "pasi is rare" in out and "grade is rare" in out
