"""evaluation/predict.py: one prediction per patient, whatever the batches are."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import Samples, make_loader
from evaluation.predict import answers, merge_samples, predict, read_branches
from evaluation.scores import score
from tests.evaluation.toy import CPU, FINDINGS, GRADE, NAN, PASI, cohort_of


class Brightness(torch.nn.Module):
    """Says as pasi the mean color of what it sees, in units of center and scale."""

    def __init__(self, n=None):
        super().__init__()
        self.inputs, self.config = (("images", "present") if n else ("image",)), SimpleNamespace()

    def forward(self, images, present=None):
        color = images.float().flatten(1).mean(1) if present is None else (images[:, :, 0, 0, 0] * present).sum(1) / present.sum(1)
        return {"logits": {"pasi": (color[:, None] - PASI.center) / PASI.scale}}


def predicted(cohort, n=None, batch_size=4, by_image=False, model=None):
    loader, _ = make_loader(Samples(cohort, range(len(cohort.paths)), (8, 8), n), batch_size)
    return predict(model or Brightness(n), cohort.tasks, loader, {"device": CPU, "autocast": None, "by_image": by_image})


class Linear(torch.nn.Linear):
    """Says as pasi a sum of the colors of what it sees."""
    inputs = ("image",)

    def forward(self, image):
        return {"logits": {"pasi": super().forward(image.flatten(1).float())}}


def test_weights_are_cast_once_for_all_batches():
    """Under autocast, whatever the number of batches: a large model would be copied for each."""
    cohort = cohort_of((3, 3), [PASI], {"pasi": [1.0, 2.0]})
    loader, _ = make_loader(Samples(cohort, range(6), (8, 8)), 2)
    with torch.profiler.profile(record_shapes=True) as profile:
        predict(Linear(192, 1), cohort.tasks, loader, {"device": CPU, "autocast": torch.bfloat16, "by_image": True})
    assert [event.input_shapes[0] for event in profile.events() if event.name == "aten::_to_copy"].count([1, 192]) == 1


def test_answers_are_in_the_units_of_the_targets():
    """Center and scale undone, softmax over classes, sigmoid of labels; float64, whatever the model computes in."""
    logits = {"pasi": torch.tensor([[2.0], [-1.0]], dtype=torch.bfloat16), "grade": torch.log(torch.tensor([[1.0, 2.0, 1.0]] * 2)),
              "findings": torch.log(torch.tensor([[1.0, 3.0]] * 2))}
    said = answers([PASI, GRADE, FINDINGS], logits)
    assert said["pasi"].tolist() == [20, 5] and all(x.dtype == np.float64 for x in said.values())
    assert answers([PASI], {"pasi": logits["pasi"].requires_grad_()})["pasi"].tolist() == [20, 5]      # outside of no_grad
    for wrong in (torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, 5, 3)):
        with pytest.raises(ValueError, match=r"a model's logits of grade: need \(B, 3\), here \(2,"):
            answers([GRADE], {"grade": wrong})
    assert np.allclose(said["grade"], [[0.25, 0.5, 0.25]] * 2) and np.allclose(said["findings"], [[0.5, 0.75]] * 2)


@pytest.mark.parametrize("n", (None, 1, 2, 3))
@pytest.mark.parametrize("batch_size", (1, 3, 50))
def test_a_patients_prediction_is_the_mean_over_his_groups(n, batch_size):
    """Images alone, or ceil(images / N) groups of N: every image is used once, whatever the batches are."""
    counts, true = (5, 1, 2, 4), [3.0, 7.0, NAN, 9.0]
    cohort = cohort_of(counts, [PASI], {"pasi": true})
    table = predicted(cohort, n, batch_size)
    for patient, images, said, target in zip(table["patient"], table["images"], table["prediction"]["pasi"], table["target"]["pasi"]):
        mine = cohort.groups()[patient]
        groups = [mine[i:i + (n or 1)] for i in range(0, len(mine), n or 1)]
        assert images == mine and said == pytest.approx(np.mean([np.mean([10 * i for i in group]) for group in groups]), rel=1e-5)
        assert target == true[int(patient[1:])] or math.isnan(target)
    assert sorted(table["patient"]) == ["p0", "p1", "p2", "p3"]


def test_nothing_is_dropped_out_of_a_prediction():
    """A model that was training predicts as it does at evaluation; what each image alone would have said is there beside the mean."""
    cohort = cohort_of((2, 1), [PASI], {"pasi": [0.0, 0.0]})
    model = torch.nn.Sequential(torch.nn.Dropout(0.9), Brightness())
    model.inputs = ("image",)
    table = predicted(cohort, model=model.train())
    assert table["prediction"]["pasi"].tolist() == pytest.approx([10, 10]) and table["alone"]["prediction"]["pasi"].tolist() == pytest.approx([0, 10, 20])


def test_by_image_every_image_is_a_unit():
    """Images of a patient stay apart, each with its own target; patients still are what is resampled."""
    cohort = cohort_of((2, 3), [PASI], {"pasi": [0.0, 0.0]})
    cohort.targets["pasi"] = np.arange(5, dtype=np.float32)
    table = predicted(cohort, by_image=True)
    assert table["patient"].tolist() == cohort.patients and table["images"] == [[i] for i in range(5)]
    assert table["target"]["pasi"].tolist() == [0, 1, 2, 3, 4] and np.allclose(table["prediction"]["pasi"], 10 * np.arange(5))
    assert score(PASI, table)["units"] == 5 and score(PASI, table)["patients"] == 2


def test_a_target_that_only_a_later_image_has_counts():
    """Where a patient's first image has no target, the first that is known is his, also in the constant predictor."""
    cohort = cohort_of((3, 2), [PASI], {"pasi": [0.0, 5.0]})
    cohort.targets["pasi"][cohort.groups()["p0"]] = [NAN, 4.0, 4.0]
    table = predicted(cohort)
    assert dict(zip(table["patient"], table["target"]["pasi"])) == {"p0": 4, "p1": 5}


def test_a_prediction_that_is_no_number_stops_with_the_patient():
    """NaN is never sorted into a metric: the message says task, patient and image."""
    class Broken(Brightness):
        def forward(self, image):
            out = super().forward(image)
            out["logits"]["pasi"][image[:, 0, 0, 0] == 20] = NAN
            return out
    with pytest.raises(ValueError, match=r"predicts nan as pasi of patient p2 \(toy:2\)"):
        predicted(cohort_of((1, 1, 1), [PASI], {"pasi": [1, 2, 3]}), model=Broken())


def test_a_branch_answers_alone():
    """Of (B, 2, outputs) the row of its number, averaged over a patient like any prediction; other models have no branch."""
    batch = {"index": [[0], [1]], "patient": ["p", "p"], "number": [0, 1], "path": [["a"], ["b"]], "targets": {"pasi": torch.tensor([1.0, 1.0])}}
    logits = torch.tensor([[[0.0], [1.0]], [[1.0], [4.0]]])
    samples = {}
    read_branches([PASI], batch, {"logits": {}, "branch_logits": {"pasi": logits}}, samples)
    means = {name: merge_samples([PASI], own, by_image=False)["prediction"]["pasi"].tolist() for name, own in samples.items()}
    assert means == {"branch S alone": [12.5], "branch L alone": [22.5]}
    read_branches([PASI], batch, {"logits": {}}, samples)
    assert [len(own) for own in samples.values()] == [2, 2]
