"""Both stages of a MultiViT from the weights of a ViT, or from those of another MultiViT."""
import torch

from plumbing.checkpoints import read_checkpoint, read_config
from plumbing.variants import placed_rows
from vit import ViT


def start_stages(model, vit, args):
    """model: a MultiViT; vit: --pretrained, read as a ViT. The report says what was taken."""
    weights = {key: value for key, value in vit.state_dict().items() if not key.startswith("head.")}
    model.stage1.load_state_dict(weights)
    model.report = vit.report
    if not hasattr(model, "stage2"):
        return
    rows = placed_rows(vit.config)
    saved = {}
    if read_config(args.pretrained).get("model") == "multivit":
        saved = read_checkpoint(args.pretrained)[0]
    if not any(key.startswith(("stage2.", "fuse.", "merge.")) for key in saved):
        load_stage2(model.stage2, weights, rows)
        return
    second = ViT.from_args(args, stage=2)
    load_stage2(model.stage2, second.state_dict(), rows, "stage2.pos_embed" in saved)
    taken = ["stage2"]
    for part in ("fuse", "merge"):
        weight = saved.get(f"{part}.weight")
        layer = getattr(model, part, None)
        if weight is not None and layer is not None and layer.weight.shape == weight.shape:
            layer.load_state_dict({"weight": weight, "bias": saved[f"{part}.bias"]})
            taken.append(part)
    model.report += f"; {second.report}, taken {' '.join(taken)}"


@torch.no_grad()
def load_stage2(stage2, weights, rows, positions=True):
    """{name: tensor} of a ViT -> stage 2. positions: are those of its class token and registers, the first
    rows of pos_embed, still to be added? Else the tokens hold them, as where R = 1."""
    weights = dict(weights)
    placed = 0
    if hasattr(stage2, "pos_embed") != positions:                  # what had a position brings it along
        sign = 1 if positions else -1
        for name in ("cls_token", "reg_token"):
            if name in weights and placed < rows:
                own = weights["pos_embed"][:, placed:placed + weights[name].shape[1]]
                weights[name] = weights[name] + sign * own
                placed += own.shape[1]
    stage2.load_state_dict({key: weights[key] for key in stage2.state_dict()})
