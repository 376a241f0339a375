"""branches.py: the logits of one branch, and nothing for a model that has none."""
from types import SimpleNamespace

import torch

from evaluation.branches import Branch, score_branches


def test_a_branch_answers_alone():
    """Of (B, 2, outputs) the row of its number."""
    logits = {"a": torch.arange(12.).view(2, 2, 3)}

    class Model(torch.nn.Module):
        inputs = ("image",)

        def forward(self, image):
            return {"logits": None, "branch_logits": logits}

    for number in (0, 1):
        branch = Branch(Model(), number)
        assert branch.inputs == ("image",) and torch.equal(branch(None)["logits"]["a"], logits["a"][:, number])


def test_other_models_have_none():
    """{}, without a look at any image."""
    assert score_branches(SimpleNamespace(config=SimpleNamespace()), [], None, [], {}) == {}
