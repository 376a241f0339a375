"""What each branch of a model would say alone: CrossViT's Table 6 asks whether one does all the work.
"""
from torch import nn

from evaluation.predict import predict_images
from evaluation.scores import score

BRANCHES = "SL"


class Branch(nn.Module):
    """A model whose logits are those of one branch, by number."""

    def __init__(self, model, number):
        super().__init__()
        self.model = model
        self.number = number
        self.inputs = model.inputs

    def forward(self, *inputs):
        both = self.model(*inputs)["branch_logits"]                # {task: (B, 2, outputs)}
        return {"logits": {task: logits[:, self.number] for task, logits in both.items()}}


def score_branches(model, tasks, cohort, images, options):
    """-> {task: {branch: its scores}}; {} for a model without branches."""
    result = {}
    if not hasattr(model.config, "grids"):
        return result
    for number, name in enumerate(BRANCHES):
        alone = predict_images(Branch(model, number), tasks, cohort, images, options)
        for task in tasks:
            result.setdefault(task.name, {})[f"branch {name} alone"] = score(task, alone)
    return result
