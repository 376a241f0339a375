"""evaluation/verdict.py: the sentence that says what a model is worth, and its warnings; the interval of the gain."""
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.metrics import METRICS
from evaluation.probabilities import details
from evaluation.result_tables import cell_text, interval, legend, number, tables
from evaluation.scores import bootstrap_weights, constant_prediction, score, score_constant
from evaluation.subgroups import score_subgroups
from evaluation.verdict import rare_warnings, verdict, verdicts
from plumbing.cohort import Task
from tests.evaluation.toy import FINDINGS, GRADE, PASI, draw, table_of

SICK = Task("sick", "labels", ("sick",))
YES = Task("yes", "classes", ("no", "yes"))
DAYS = Task("days", "survival", ("days", "died"))


def result_of(task, prediction, target, constant, unit="patient", **more):
    """What metrics.json holds of a task."""
    table = table_of(task, prediction, target)
    scores = {**score(task, table, constant=constant), **details(task, table), "constant": score_constant(task, table, constant)}
    return {task.name: scores, "split": "test", "unit": unit, **more}


def model_of(task, n, skill, seed=0):
    """-> predictions and targets of n patients; skill 0 knows nothing."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    guess = skill * truth + rng.normal(size=n)
    if task.kind == "regression":
        return guess, truth
    yes, p = (truth > 0).astype(float), 1 / (1 + np.exp(-guess))
    if task.kind == "classes":
        return np.stack([1 - p, p], 1), yes
    if task.kind == "labels":
        return p[:, None], yes[:, None]
    return guess, np.stack([np.exp(-truth), np.ones(n)], 1)


@pytest.mark.parametrize("task, constant", ((PASI, 0.0), (SICK, [0.5]), (YES, [0.5, 0.5]), (DAYS, 0.0)), ids=lambda value: getattr(value, "kind", ""))
def test_a_model_is_better_worse_or_neither(task, constant):
    """One that knows, one that guesses, one that has it the wrong way round; by how much, with the interval of the gain."""
    better, warnings = verdict(task, result_of(task, *model_of(task, 200, 3.0), constant))
    if task is PASI:                                               # three times too large is no better than the median
        assert "do not fit these patients: their own mean" in warnings[0]
        better, warnings = verdict(task, result_of(task, model_of(task, 200, 3.0)[0] / 3, model_of(task, 200, 3.0)[1], constant))
    assert f"{task.name}: better than always predicting the " in better and "on 200 test patients" in better and warnings == []
    assert ". Mean absolute error 0." in better or ". AUROC 0.9" in better or ". Concordance 0." in better
    guess, truth = model_of(task, 200, 0.0)
    assert f"{task.name}: {'worse' if task is PASI else 'not better'} than always predicting" in verdict(task, result_of(task, guess, truth, constant))[0]
    guess, truth = model_of(task, 200, -3.0)
    assert f"{task.name}: worse than always predicting" in verdict(task, result_of(task, guess, truth, constant))[0]


def test_the_gain_is_that_of_the_paired_loop():
    """Resample by resample the constant's error minus the model's, over the same patients; classes and labels likewise."""
    rng = np.random.default_rng(0)
    for task, constant in ((PASI, 0.7), (GRADE, np.array([0.2, 0.3, 0.5])), (FINDINGS, np.array([0.2, 0.6]))):
        said, true = draw(task.kind, rng, 40) if task is not FINDINGS else (rng.random((40, 2)), rng.integers(2, size=(40, 2)).astype(float))
        patients = np.array([f"p{i // 2}" for i in range(40)])
        found = score(task, table_of(task, said, true, patients), 100, constant=constant)["gain"]
        weights = bootstrap_weights(patients, 100).astype(float)
        for name, entry in found.items():
            function, sign = METRICS[task.kind][name], -1 if name in ("mae", "brier") else 1
            columns = [(said, true, np.broadcast_to(constant, said.shape))]
            if task is FINDINGS:
                columns = [(said[:, i], true[:, i], np.full(40, constant[i])) for i in range(2)]
            draws = [np.nanmean([sign * (function(p, t, w[None])[0] - function(c, t, w[None])[0]) for p, t, c in columns]) for w in weights]
            assert entry["value"] == pytest.approx(draws[0], abs=1e-12), name
            assert [entry["low"], entry["high"]] == pytest.approx(np.nanpercentile(draws[1:], [2.5, 97.5]).tolist(), abs=1e-12)


@pytest.mark.parametrize("positives, text", ((1, "sick (positives: 1)"), (3, "sick (positives: 3)"), (9, "sick (positives: 9)"), (10, None)))
def test_few_positives_are_said(positives, text):
    """Below ten nobody is told that the model is better, whatever the interval; the number of skipped resamples is kept."""
    target = (np.arange(150) < positives).astype(float)[:, None]
    result = result_of(SICK, target * 0.9 + 0.05, target, [0.1])
    sentence, warnings = verdict(SICK, result)
    assert ("cannot be judged with so few" in sentence) == bool(text) == any(text and text in w for w in warnings)
    assert result["sick"]["per_label"]["sick"]["negatives"] == 150 - positives
    if positives == 1:
        assert 340 < result["sick"]["per_label"]["sick"]["auroc"]["skipped"] < 400


def test_rare_labels_and_those_at_chance_are_named():
    """Of several labels the mean is judged, and the warnings name the others; so do they of classes."""
    rng = np.random.default_rng(0)
    target = np.stack([rng.integers(2, size=100), np.arange(100) < 4], 1).astype(float)
    sentence, warnings = verdict(FINDINGS, result_of(FINDINGS, np.stack([rng.random(100), 0.8 * target[:, 1]], 1), target, [0.5, 0.04]))
    assert "findings: better" in sentence and "Mean AUROC of 2 labels" in sentence
    assert warnings[:2] == ["Fewer than 10 cases, so that no interval is trustworthy: mass (positives: 4).",
                            "Not better than chance: edema."]
    target = np.minimum(np.arange(60) // 28, 2.0)
    _, warnings = verdict(GRADE, result_of(GRADE, np.eye(3)[target.astype(int)], target, [0.4, 0.4, 0.2]))
    assert warnings == ["Fewer than 10 cases, so that no interval is trustworthy: severe (positives: 4).",
                        "All resamples gave the same AUROC, so that its interval is not trustworthy; if it is perfect, look for what gives "
                        "the answer away."]


@pytest.mark.parametrize("task", (FINDINGS, GRADE), ids=lambda task: task.kind)
def test_a_mean_of_rare_labels_is_not_judged(task):
    """Where every label or class has fewer than ten, their mean has no interval to trust either; nor has a subgroup of such."""
    rng = np.random.default_rng(0)
    target = np.arange(27) % 3.0
    prediction = 0.7 * np.eye(3)[target.astype(int)] + rng.dirichlet([1, 1, 1], 27) * 0.3
    if task is FINDINGS:
        target, prediction = np.stack([target == 1, target == 2], 1).astype(float), prediction[:, 1:]
    result = result_of(task, prediction, target, np.full(len(task.classes), 1 / 3))
    scores = result[task.name]
    assert scores["gain"]["auroc"]["low"] > 0
    sentence, warnings = verdict(task, result)
    assert "cannot be judged with so few cases: mean AUROC of " in sentence and "(positives: 9)" in warnings[0]
    scores["subgroups"] = {"sex F": score(task, table_of(task, prediction, target))}
    [group] = [table for table in tables(task, result) if table[0].startswith("Subgroups")]
    assert group[2][0][1]["of"] == "\u2020" and "not trustworthy" in legend([group])[0] and legend([("", [], [["a", 1.0]])]) == []


def test_a_model_that_ranks_and_always_names_the_same_class_is_said():
    """AUROC 1, and every patient is called healthy."""
    target = (np.arange(100) < 20).astype(float)
    p = 0.1 + 0.3 * target + 0.01 * np.random.default_rng(0).random(100)
    sentence, warnings = verdict(YES, result_of(YES, np.stack([1 - p, p], 1), target, [0.8, 0.2]))
    assert "yes: better" in sentence and "no better than always the same one" in " ".join(warnings) and "All resamples" in " ".join(warnings)


def test_an_interval_has_the_digits_of_its_larger_end():
    """Not "-0.051 to 0.00413"; what is left of a sum by rounding is 0."""
    ends = (-0.051, 0.00413), (-0.15, -0.00883), (0.0012, 0.0034), (-2.2e-16, 1.1e-16), (12.0, 3456.0), (-0.0002, 0.5)
    texts = [interval({"low": low, "high": high}) for low, high in ends]
    assert cell_text({"value": 0.00363, "low": -0.033, "high": 0.037}) == "0.004 (-0.033 to 0.037)"
    assert cell_text({"value": -0.00707, "low": -0.022, "high": 0.006}) == "-0.007 (-0.022 to 0.006)"
    assert cell_text({"value": 0.97, "low": -72440.0, "high": 0.9871}) == "0.97 (-72,440 to 0.987)"
    assert texts == ["(-0.051 to 0.004)", "(-0.150 to -0.009)", "(0.0012 to 0.0034)", "(0.000 to 0.000)", "(12 to 3,456)", "(0.000 to 0.500)"]


def test_flat_predictions_wrong_probabilities_and_images_are_said():
    """A model that says nearly the same of all; probabilities worse than the shares; images without patients."""
    guess, truth = model_of(PASI, 100, 3.0)
    [(_, warnings)] = verdicts([PASI], result_of(PASI, 0.01 * guess, truth, 0.0, patient_ids=False))
    assert "nothing says who the patients are" in warnings[0] and warnings[1] == "The predictions hardly vary."
    guess, truth = model_of(SICK, 200, 3.0)
    [(_, warnings)] = verdicts([SICK], result_of(SICK, 0.8 + 0.2 * guess, truth, [0.5], unit="image"))
    assert warnings[0].startswith("Images, not patients, are scored") and "worse than the training share" in warnings[1]


def test_a_warning_of_one_task_is_not_left_out_because_another_has_it_too():
    """Two targets that hardly vary are both warned of; what concerns the run stands with the first alone."""
    guess, truth = model_of(PASI, 100, 3.0)
    other = replace(PASI, name="other")
    result = result_of(PASI, 0.01 * guess, truth, 0.0, unit="image")
    result |= result_of(other, 0.01 * guess, truth, 0.0, unit="image")
    warnings = [texts for _, texts in verdicts([PASI, other], result)]
    assert warnings == [["Images, not patients, are scored: those of a patient have targets of their own.", "The predictions hardly vary."],
                        ["The predictions hardly vary."]]


def test_what_was_not_measured_is_not_judged():
    """One class only, one patient, and a metrics.json of before the comparison."""
    target = np.zeros((20, 1))
    assert "sick cannot be judged: AUROC is undefined, one class only" in verdict(SICK, result_of(SICK, target + 0.5, target, [0.5]))[0]
    assert "cannot be judged with so few" in verdict(PASI, result_of(PASI, [1.0], [2.0], 0.0))[0]
    old = result_of(PASI, *model_of(PASI, 50, 1.0), 0.0)
    del old["pasi"]["gain"], old["pasi"]["spread"]
    assert "compared with nothing" in verdict(PASI, old)[0]


def covered(studies, patients=200):
    """-> shares of simulated studies whose interval of the gain holds the truth: of an error, and of an AUROC.

    Targets are normal, and the model's error is 0.8 of their spread: E|t| = 0.798, E|0.8 t| = 0.638. The constant is the true median."""
    rng = np.random.default_rng(0)
    area = 0.5 * (1 + math.erf(1.2 / 2)) - 0.5
    inside = np.zeros(2)
    for _ in range(studies):
        truth = rng.normal(size=patients)
        guess = truth + 0.8 * rng.normal(size=patients)
        gain = score(PASI, table_of(PASI, guess, truth), constant=0.0)["gain"]["mae"]
        inside[0] += gain["low"] <= 0.2 * math.sqrt(2 / math.pi) <= gain["high"]
        sick = (rng.random((patients, 1)) < 0.4).astype(float)
        guess = 1.2 * sick + rng.normal(size=(patients, 1))
        gain = score(SICK, table_of(SICK, guess, sick), constant=constant_prediction(SICK, sick))["gain"]["auroc"]
        inside[1] += gain["low"] <= area <= gain["high"]
    return inside / studies


@pytest.mark.slow
def test_the_interval_of_the_gain_covers_the_truth():
    """Of 500 studies of 200 patients it is 93 to 97 %."""
    error, area = covered(500)
    assert 0.93 <= error <= 0.97 and 0.93 <= area <= 0.97


def test_what_is_not_perfect_does_not_look_perfect():
    """0.9996 is not shown as 1.000; 1 is."""
    assert [number(x) for x in (0.9996, 0.99951, 0.9994, 1.0, 1.0004)] == ["0.999", "0.999", "0.999", "1.000", "1.000"]


def test_probabilities_that_do_not_fit_these_patients_are_said():
    """Trained where three in ten are ill, tested where eight in ten are: better than the old share, and worse than the new one."""
    rng = np.random.default_rng(0)
    target = (np.arange(200) % 5 > 0).astype(float)[:, None]
    guess = np.clip(0.1 + 0.25 * target + 0.2 * rng.random((200, 1)), 0, 1)
    _, warnings = verdict(SICK, result_of(SICK, guess, target, [0.3]))
    assert "do not fit these patients" in warnings[-1] and "have 0.161 (Brier score)" in warnings[-1]
    classes = np.hstack([1 - guess, guess])
    assert verdict(YES, result_of(YES, classes, target[:, 0], [0.7, 0.3]))[1][-1] == warnings[-1]


def test_numbers_of_another_unit_and_a_beginning_that_saw_the_patients_are_said():
    """Centimetres where the run learned millimetres: better than the old median, and far from all of them. A run that goes on from another one."""
    guess, truth = model_of(PASI, 100, 3.0)
    result = result_of(PASI, 80 + guess, 10 + truth, 100.0, warnings=["WARNING: a, from which it started"])
    [(sentence, warnings)] = verdicts([PASI], result)
    assert "pasi: better than" in sentence and warnings == ["WARNING: a, from which it started",
                                                            "The numbers do not fit these patients: their own mean, the same for all, would be "
                                                            "closer (R² below 0)."]


def test_a_patient_with_many_of_the_images_is_said():
    """Thirty of eighty images are of one patient: whoever that is decides."""
    guess, truth = model_of(PASI, 80, 3.0)
    result = result_of(PASI, guess, truth, 0.0, unit="image")
    result["pasi"]["largest"] = 30
    assert verdict(PASI, result)[1][-1] == "One patient has 30 of the 80 images."
    result["pasi"]["largest"] = 9
    assert "One patient" not in " ".join(verdict(PASI, result)[1])


@pytest.mark.parametrize("task, constant", ((PASI, 0.0), (SICK, [0.5])), ids=lambda value: getattr(value, "kind", ""))
def test_a_model_that_learned_the_hospital_is_said(task, constant):
    """Patients of one hospital are the sicker ones, and that is all the model sees: better than the constant, and nothing within either."""
    rng = np.random.default_rng(3)
    hospital = np.arange(200) % 2
    truth = rng.normal(size=200) + 4 * hospital - 2
    guess = 4 * hospital - 2 + 0.1 * rng.normal(size=200)
    if task is SICK:
        truth, guess = (truth + 2 * rng.normal(size=200) > 0).astype(float)[:, None], 1 / (1 + np.exp(-guess[:, None] / 4))
    result, table = result_of(task, guess, truth, constant), table_of(task, guess, truth)
    cohort = SimpleNamespace(columns={"site": ["AB"[k] for k in hospital]})
    groups = result[task.name]["subgroups"] = score_subgroups(task, table, {"site": 0}, cohort, constant)
    sentence, warnings = verdict(task, result)
    assert f"{task.name}: better than" in sentence and "Not better than chance within a subgroup: site A, site B." in warnings
    own = np.flatnonzero(hospital == 0)
    first = list(METRICS[task.kind])[0]
    value = np.abs(truth[own]).mean() if task is PASI else 0.5     # what the training median 0, or one share, comes to there
    assert groups["site A"]["constant"][first]["value"] == pytest.approx(value)
    [subgroups] = [rows for caption, _, rows in tables(task, result) if caption.startswith("Subgroups")]
    assert f"against {value:.3f}" in cell_text(subgroups[0][1])


def test_what_is_turned_round_and_what_is_no_test_is_said():
    """A label that the model has the wrong way round is worse than chance, not merely no better; train and val are no test."""
    rng = np.random.default_rng(0)
    target = rng.integers(2, size=(100, 2)).astype(float)
    guess = np.stack([target[:, 0], 1 - target[:, 1]], 1) * 0.6 + 0.4 * rng.random((100, 2))
    result = {**result_of(FINDINGS, guess, target, [0.5, 0.5]), "split": "train"}
    [(_, warnings)] = verdicts([FINDINGS], result)
    assert warnings[:2] == ["No test: the run was made with these patients, those of its train split.", "Worse than chance: mass."]


def test_many_images_of_few_patients_are_few_cases():
    """Forty positive images of two patients: nobody is told of an interval to trust, nor at the operating point."""
    target = np.r_[np.ones(40), np.zeros(40)][:, None]
    guess = 0.5 * target + 0.6 * np.random.default_rng(0).random((80, 1))
    table = table_of(SICK, guess, target, [f"ill {i % 2}" for i in range(40)] + [f"well {i}" for i in range(40)])
    scores = {**score(SICK, table, constant=[0.5]), **details(SICK, table, {"sick": 0.6}), "constant": score_constant(SICK, table, [0.5])}
    assert scores["per_label"]["sick"]["positive patients"] == 2 and "negative patients" not in scores["per_label"]["sick"]
    sentence, warnings = verdict(SICK, {"sick": scores, "split": "test", "unit": "image"})
    assert "cannot be judged with so few" in sentence and warnings[0] == "Fewer than 10 cases, so that no interval is trustworthy: sick (positive patients: 2)."
    point = scores["operating_point"]["sick"]
    assert point["sensitivity"]["patients"] == point["f1"]["patients"] == 2 and point["specificity"]["patients"] == 40
    [(_, _, [row])] = [table for table in tables(SICK, {"sick": scores, "split": "test", "unit": "image"}) if "threshold" in table[0]]
    assert "\u2020" in row[1]["of"] and "\u2020" not in row[2]["of"]


def test_of_many_rare_labels_the_first_are_named():
    """Of 300 classes each was named, on terminal, page and card, before anything else was said."""
    asked = {f"c{i}": {"positives": 1} for i in range(25)}
    (line,) = rare_warnings(asked)
    assert line.endswith("c18 (positives: 1), c19 (positives: 1) and 5 more.") and "c20" not in line
