"""MultiViT: look at every photograph of a patient, keep the most telling patches of all of them, look again at those.

    stage 1     z_i = ViT1(x_i) for each of the N images, y_i = heads1(z_i[cls])
    filter      the K = T / R^2 tokens with the most class attention, over all images (attention_filter.py)
    stage 2     y = heads2(ViT2(E)[cls]), with as many tokens as one image has:
      partial     E = Embed2(composite image)                        pixels pass from stage 1 to stage 2, no gradient
      multi, R=1  E = [cls ; kept tokens]                            tokens pass, and gradients with them
      multi, R>1  E = Merge([cls ; kept tokens] || Embed2(composite))    each kept token stands R^2 times
                  cls = Fuse(class tokens of the N images)
    loss        of stage 2 + mean over the images of the loss of stage 1

and what it is compared with:
      baseline    stage 1 alone, one image a sample, a patient's predictions are averaged
      joint       one ViT over the tokens of all N images: O((N T)^2) attention where MultiViT has O(N T^2)

Murray et al. 2024, sections 3.1 and 3.2 (`joint` is the composite its introduction argues against).
B patients, N images, C channels, T patches of an image, H heads, D width, K tokens kept, R high over low resolution.
Differs: the paper's text discards the class tokens of stage 1, the code that made its numbers fuses them with a Linear
layer; so does this (cls_token="fused"), which did better here (README, Results), and cls_token="stage2" is the text: a
class token of stage 2's own. Patients may have fewer than N images: an absent one is never selected, and its class token
is zero. The paper's Baseline, Partial and Multi are called `simple`, `multi` and `full` in the released code.
Run: python multivit.py
"""
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention_filter import compose, gather_patches, gather_tokens, kept_text, refine, score, select
from plumbing.weights import from_dict
from vit import ViT, ViTConfig, init_weights

MODES = ("baseline", "joint", "partial", "multi")
CLS_TOKENS = ("fused", "stage2")


@dataclass(frozen=True)
class MultiViTConfig:
    vit: ViTConfig
    mode: str = "multi"              # one of MODES
    n: int = 3                       # N, images of a sample
    r: int = 1                       # R, resolution multiplier
    cls_token: str = "fused"         # multi only: from those of stage 1, or "stage2", one of its own
    hidden: tuple = (256, 128)       # units of the heads' hidden layer, task by task, the last for all further tasks

    def __post_init__(self):
        if isinstance(self.vit, dict):
            object.__setattr__(self, "vit", from_dict(ViTConfig, self.vit, "vit"))
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.mode not in MODES or self.cls_token not in CLS_TOKENS:
            raise ValueError(f"mode {self.mode!r}, cls_token {self.cls_token!r}: use one of {MODES} and of {CLS_TOKENS}")
        if self.n < 1 or self.r < 1 or not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"n {self.n}, r {self.r}, hidden {self.hidden}: need whole numbers from 1")
        if self.mode in ("baseline", "joint") and self.r > 1:
            raise ValueError(f"mode {self.mode} has one resolution, --r {self.r} does not apply")
        if self.vit.tokens % self.r ** 2:
            fit = [r for r in range(1, self.vit.tokens + 1) if self.vit.tokens % r ** 2 == 0]
            raise ValueError(f"--r {self.r} does not divide the patch grid {self.vit.grid} ({self.vit.image} px at patch "
                             f"{self.vit.patch}); use {' or '.join(map(str, fit))}")


class MultiViT(nn.Module):
    """forward(images, present, images_hr) -> dict:

    logits    {task: (B, outputs)} of stage 2, or of the only stage
    stage1    {task: (B, N, outputs)} (partial, multi)
    map       (B, N, H, T), class attention of stage 1
    image, token   (B, K) each, what the filter kept, best first (partial, multi)
    composite (B, C, height, width), in the pixel type of the input (partial, multi with R > 1)"""

    def __init__(self, config: MultiViTConfig, tasks):
        super().__init__()
        self.config = config
        self.chunk = None                                          # images that stage 1 sees at a time; None: all of the batch at once
        D, two_stages = config.vit.dim, config.mode in ("partial", "multi")
        self.inputs = {"baseline": ("image",), "joint": ("images", "present")}.get(config.mode, ("images", "present", "images_hr"))
        if two_stages and config.r == 1:
            self.inputs = self.inputs[:2]
        self.stage1 = ViT(config.vit)
        self.heads1 = self.make_heads(tasks)
        if two_stages:
            self.stage2 = ViT(config.vit)                          # shares no weight with stage 1
            self.heads2 = self.make_heads(tasks)
        if config.mode == "multi":
            if config.r == 1:                                      # nothing is embedded: stage 2 starts from tokens
                del self.stage2.patch_embed, self.stage2.pos_embed
            else:
                self.merge = nn.Linear(2 * D, D)                   # the paper's Token Concatenator
            if config.cls_token == "fused":
                self.fuse = nn.Linear(config.n * D, D)             # in the released code's Token Mapper
                self.stage2.cls_token.requires_grad_(config.r > 1) # of no use with R = 1; kept, as there
        self.apply(init_weights)
        with torch.no_grad():                                      # both start as a mean: vectors that stage 2 can read
            for name, parts in (("merge", 2), ("fuse", config.n)):
                if hasattr(self, name):
                    getattr(self, name).weight.copy_(torch.eye(D).repeat(1, parts) / parts)

    def make_heads(self, tasks):
        """One MLP a task and stage, on the class token."""
        D, hidden = self.config.vit.dim, self.config.hidden
        widths = [hidden[min(i, len(hidden) - 1)] for i in range(len(tasks))]
        return nn.ModuleDict({task: nn.Sequential(nn.Linear(D, width), nn.ReLU(), nn.Linear(width, outputs))
                              for (task, outputs), width in zip(tasks.items(), widths)})

    def load_donor(self, donor: ViT):
        """Both stages start from the donor's weights, each with a copy of its own."""
        weights = {key: value for key, value in donor.state_dict().items() if not key.startswith("head.")}
        self.stage1.load_state_dict(weights)
        if hasattr(self, "stage2"):
            if not hasattr(self.stage2, "pos_embed"):              # the class token the donor knows has its position added
                weights = {**weights, "cls_token": weights["cls_token"] + weights["pos_embed"][:, :1]}
            self.stage2.load_state_dict({key: weights[key] for key in self.stage2.state_dict()})

    def forward(self, images, present=None, images_hr=None):
        if self.config.mode == "baseline":
            images = images[:, None]
        if self.config.mode == "joint":
            return self.joint(images, present)
        B, N = images.shape[:2]
        tokens, map = self.first_look(images.flatten(0, 1))
        tokens, map = tokens.unflatten(0, (B, N)), map.unflatten(0, (B, N))    # (B, N, 1 + T, D), (B, N, H, T)
        stage1 = {task: head(tokens[:, :, 0]) for task, head in self.heads1.items()}
        if self.config.mode == "baseline":
            return {"logits": {task: y[:, 0] for task, y in stage1.items()}, "map": map}
        image, token, composite = self.filter(map, present, images if self.config.r == 1 else images_hr)
        x = self.stage2.encode(self.stage2_input(tokens, present, image, token, composite))
        out = {"logits": {task: head(x[:, 0]) for task, head in self.heads2.items()}, "stage1": stage1,
               "map": map, "image": image, "token": token}
        return out if composite is None else {**out, "composite": composite}

    def first_look(self, images):
        """(B N, C, side, side) -> tokens and map of stage 1. In chunks, each is computed again when its gradient is asked for: the step
        then never holds more of stage 1 than one chunk, and what comes out is the same."""
        def look(part):
            return self.stage1.encode(self.stage1.embed(part), want_map=True)

        if self.chunk is None or self.chunk >= len(images):
            return look(images)
        if not torch.is_grad_enabled():
            parts = [look(part) for part in images.split(self.chunk)]
        else:
            parts = [checkpoint(look, part, use_reentrant=False) for part in images.split(self.chunk)]
        return [torch.cat(part) for part in zip(*parts)]

    def filter(self, map, present, pixels):
        """Class maps -> image, token (B, K) and the composite image (B, C, height, width), None where no pixel passes."""
        vit, R = self.config.vit, self.config.r
        image, token = select(score(map, present), vit.tokens // R ** 2)
        if self.config.mode == "multi" and R == 1:
            return image, token, None
        fine = refine(token, vit.grid, R).flatten(1)               # (B, T)
        return image, token, compose(gather_patches(pixels, image.repeat_interleave(R * R, 1), fine, vit.patch), vit.grid)

    def stage2_input(self, tokens, present, image, token, composite):
        """What stage 1 and the filter hand over -> E, (B, 1 + T, D)."""
        embedded = None if composite is None else self.stage2.embed(composite)  # (B, 1 + T, D)
        if self.config.mode == "partial":
            return embedded
        kept = gather_tokens(tokens[:, :, 1:], image, token).repeat_interleave(self.config.r ** 2, 1)   # (B, T, D)
        if self.config.cls_token == "fused":
            cls = tokens[:, :, 0] if present is None else tokens[:, :, 0] * present[:, :, None]
            cls = self.fuse(cls.flatten(1))[:, None]               # (B, 1, D)
            kept = torch.cat([cls, kept], 1)
            return kept if embedded is None else self.merge(torch.cat([kept, embedded], -1))
        if embedded is None:
            return torch.cat([self.stage2.cls_token.expand(len(kept), -1, -1), kept], 1)
        return torch.cat([embedded[:, :1], self.merge(torch.cat([kept, embedded[:, 1:]], -1))], 1)

    def joint(self, images, present):
        """One class token and the patches of all images in one sequence of 1 + N T tokens."""
        B, N = images.shape[:2]
        tokens = self.stage1.embed(images.flatten(0, 1)).unflatten(0, (B, N))
        x = torch.cat([tokens[:, 0, :1], tokens[:, :, 1:].flatten(1, 2)], 1)
        if present is not None:
            present = torch.cat([present.new_ones(B, 1), present.repeat_interleave(self.config.vit.tokens, 1)], 1)
        x, map = self.stage1.encode(x, want_map=True, mask=present)
        return {"logits": {task: head(x[:, 0]) for task, head in self.heads1.items()},
                "map": map.unflatten(-1, (N, -1)).transpose(1, 2)}


if __name__ == "__main__":
    torch.manual_seed(0)
    vit = ViTConfig(image=(64, 64), patch=(8, 8), dim=64, depth=4, heads=4, mlp=256)
    images, images_hr = (torch.randint(256, (1, 3, 3, side, side), dtype=torch.uint8) for side in (64, 128))
    for mode, r in (("baseline", 1), ("joint", 1), ("partial", 2), ("multi", 1), ("multi", 2)):
        model = MultiViT(MultiViTConfig(vit, mode, 3, r), {"pasi": 1, "pga": 6}).eval()
        batch = {"image": images[:, 0], "images": images, "present": torch.ones(1, 3, dtype=torch.bool), "images_hr": images_hr}
        with torch.no_grad():
            out = model(*(batch[name] for name in model.inputs))
        print(f"{mode:8} R={r} {sum(p.numel() for p in model.parameters()) / 1e3:6.0f} k params   {', '.join(model.inputs)} -> "
              + ", ".join(f"{key} {tuple(value.shape)}" for key, value in out.items() if torch.is_tensor(value)))
    print("kept by the last one, image by image (untrained):")
    print(kept_text(out["image"][0], out["token"][0], 3, vit.grid))
