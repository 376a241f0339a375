"""Both stages of a MultiViT from the weights of a ViT, or from those of another MultiViT."""
import torch

from plumbing.architecture import run_config
from plumbing.checkpoints import read_checkpoint, read_config
from plumbing.variants import placed_rows
from vit import ViT


def start_stages(model, vit, args):
    """Copy them into a MultiViT, whose report then says what was taken. vit: --pretrained, read as a ViT; of
    a MultiViT its stage 1, to which the rest is added here."""
    model.stage1.load_state_dict(vit.state_dict())
    model.report = vit.report
    if not hasattr(model, "stage2"):
        return
    config = run_config(read_config(args.pretrained))
    if config.get("mode") not in ("partial", "multi"):             # no run with a stage 2
        load_stage2(model.stage2, vit)
        return
    saved = read_checkpoint(args.pretrained)[0]
    second = ViT.from_args(args, stage=2)
    load_stage2(model.stage2, second, "stage2.pos_embed" in saved)
    taken = ["stage2"]
    for part in ("fuse", "merge"):
        layer = getattr(model, part, None)
        weight = saved.get(f"{part}.weight")
        if layer is not None and weight is not None and layer.weight.shape == weight.shape:
            layer.load_state_dict({"weight": weight, "bias": saved[f"{part}.bias"]})
            taken.append(part)
    model.report += f"; {second.report}, taken {' '.join(taken)}"


@torch.no_grad()
def load_stage2(stage2, vit, positions=True):
    """Weights of a ViT -> stage 2. positions: are those of its class token and registers, the first rows of
    pos_embed, still to be added? Else the tokens hold them, as where R = 1."""
    weights = vit.state_dict()
    rows = placed_rows(vit.config)
    placed = 0
    if (stage2.patch_embed is not None) != positions:              # what had a position brings it along
        sign = 1 if positions else -1
        for name in ("cls_token", "reg_token"):
            if name in weights and placed < rows:
                own = weights["pos_embed"][:, placed:placed + weights[name].shape[1]]
                weights[name] = weights[name] + sign * own
                placed += own.shape[1]
    stage2.load_state_dict({key: weights[key] for key in stage2.state_dict()})
