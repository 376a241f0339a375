"""MultiViT: look at every photograph of a patient, keep the most telling patches, and look again at those.

    stage 1     z_i = ViT1(x_i) for each of the N images, y_i = heads1(z_i[cls])
    filter      the K = T / R^2 tokens with the most class attention, over all images (attention_filter.py)
    stage 2     y = heads2(ViT2(E)[cls]), where E has as many tokens as one image:
      partial     E = Embed2(composite image)                 pixels pass from stage 1 to stage 2, no gradient
      multi, R=1  E = [cls ; kept tokens]                     tokens pass, and gradients with them
      multi, R>1  E = Merge([cls ; kept tokens] || Embed2(composite))    with R^2 copies of each kept token
                  cls = Fuse(class tokens of the N images)
    loss        loss of stage 2 + mean over the images of the loss of stage 1

It is compared with
      baseline    stage 1 alone, one image per sample; a patient's predictions are averaged
      joint       one ViT on all N T tokens, O((N T)^2) and not O(N T^2): the introduction argues against it

Murray et al. 2024, sections 3.1 and 3.2. B patients, N images, C channels, T patches of an image, H heads, D
width, K tokens kept, R high over low resolution; [a ; b] joins along the tokens, a || b along D. Fuse and
Merge are Linear layers. Differs: they start as means, not at random. In the text stage 2 has a class token
of its own (cls_token="stage2"); the code that made the numbers fuses those of stage 1 ("fused", ahead here
too, see docs/results.md). Squared errors are in units of the targets' variance. Images that a patient lacks
are never selected, and their class tokens are zero. The released code calls Partial `multi`, Multi `full`.
"""
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention_filter import compose, gather_patches, gather_tokens, refine, score, select
from vit import ViT, ViTConfig, init_weights

MODES = ("baseline", "joint", "partial", "multi")
CLS_TOKENS = ("fused", "stage2")


@dataclass(frozen=True)
class MultiViTConfig:
    vit: ViTConfig
    mode: str = "multi"              # one of MODES
    n: int = 3                       # N, images of a sample
    r: int = 1                       # R, resolution multiplier
    cls_token: str = "fused"         # multi only; "stage2": a learned one, those of stage 1 are discarded
    hidden: tuple = (256, 128)       # hidden units of the first head, the second, ...; the last for the rest

    def __post_init__(self):
        from plumbing.checks import check_multivit
        check_multivit(self, MODES, CLS_TOKENS)


class MultiViT(nn.Module):
    """forward(images, present, images_hr) -> dict:

    logits    {task: (B, outputs)} of stage 2 (partial, multi), or of the only stage
    stage1    {task: (B, N, outputs)} (partial, multi)
    map       (B, N, H, T), the class token's attention in the first or only stage; (B, H, T) in baseline
    image, token   (B, K) each, what the filter kept, best first (partial, multi)
    composite (B, C, height, width), in the pixel type of the input (partial, multi with R > 1)"""
    Config = MultiViTConfig
    inputs = ("images", "present")
    chunk = None                     # images that stage 1 sees at a time; None: the whole batch

    def __init__(self, config: MultiViTConfig, tasks):
        super().__init__()
        self.config = config
        vit, mode, N, R = config.vit, config.mode, config.n, config.r
        if mode == "baseline":
            self.inputs = ("image",)
        elif R > 1:
            self.inputs = ("images", "present", "images_hr")
        self.stage1 = ViT(vit)
        self.heads1 = make_mlp_heads(config, tasks)
        self.pixels_pass = mode == "partial" or R > 1              # in a composite, to stage 2
        if mode in ("partial", "multi"):
            if not self.pixels_pass:                               # kept tokens have left their places
                vit = replace(vit, rotary=None, pre_norm=False)
            self.stage2 = ViT(vit)                                 # shares no weights with stage 1
            self.heads2 = make_mlp_heads(config, tasks)
            if not self.pixels_pass:                               # stage 2 embeds nothing
                self.stage2.patch_embed = self.stage2.pos_embed = None
        if mode == "multi" and R > 1:
            self.merge = nn.Linear(2 * vit.dim, vit.dim)           # the paper's Token Concatenator
        self.fused = int(mode == "multi" and config.cls_token == "fused" and vit.class_token)
        if self.fused:                                             # how many class tokens stage 1 passes
            self.fuse = nn.Linear(N * vit.dim, vit.dim)            # in the released code's Token Mapper
            self.stage2.cls_token.requires_grad_(R > 1)            # unused with R = 1, and kept, as there
        self.apply(init_weights)
        if hasattr(self, "merge"):
            start_as_mean(self.merge, 2)
        if self.fused:
            start_as_mean(self.fuse, N)

    def forward(self, images, present=None, images_hr=None):
        if self.config.mode == "joint":
            return self.joint(images, present)
        if self.config.mode == "baseline":
            images = images[:, None]                               # N = 1
        tokens, read, maps = self.first_look(images)
        stage1 = {}
        for task, head in self.heads1.items():
            if self.config.vit.pool == "class":                    # sliced anew for each head, which fixes
                read = tokens[:, :, 0]                             # the order in which gradients are summed
            stage1[task] = head(read)
        if self.config.mode == "baseline":
            return {"logits": {task: y[:, 0] for task, y in stage1.items()}, "map": maps[:, 0]}
        if self.config.r == 1:
            images_hr = images
        image, token, composite = self.filter(maps, present, images_hr)
        _, y, _ = self.stage2.run_blocks(self.stage2_input(tokens, present, image, token, composite))
        logits = {task: head(y) for task, head in self.heads2.items()}
        out = {"logits": logits, "stage1": stage1, "map": maps, "image": image, "token": token}
        if composite is not None:
            out["composite"] = composite
        return out

    def first_look(self, images):
        """(B, N, C, height, width) -> tokens of stage 1 (B, N, 1 + T, D), what its heads read (B, N, D), map
        (B, N, H, T). A chunk is computed again for its gradient, so that memory never holds more than one."""
        def look(part):
            return self.stage1.run_blocks(self.stage1.embed(part), want_map=True)

        B, N = images.shape[:2]
        chunk = self.chunk or B * N
        parts = []
        for part in images.flatten(0, 1).split(chunk):
            if chunk < B * N and torch.is_grad_enabled():
                parts.append(checkpoint(look, part, use_reentrant=False))
            else:
                parts.append(look(part))
        return [torch.cat(pieces).unflatten(0, (B, N)) for pieces in zip(*parts)]

    def filter(self, maps, present, images_hr):
        """Class maps -> image, token (B, K); composite (B, C, height, width), None where no pixels pass."""
        vit, R = self.config.vit, self.config.r
        image, token = select(score(maps, present), vit.tokens // R ** 2)
        if not self.pixels_pass:
            return image, token, None
        fine = refine(token, vit.grid, R).flatten(1)               # (B, T)
        patches = gather_patches(images_hr, image.repeat_interleave(R * R, 1), fine, vit.patch)
        return image, token, compose(patches, vit.grid)

    def stage2_input(self, tokens, present, image, token, composite):
        """What stage 1 and the filter pass on -> E, (B, 1 + T, D). own: registers of stage 2, and its class
        token unless those of stage 1 are fused into the first of the passed."""
        R, prefix, fused = self.config.r, self.config.vit.prefix, self.fused
        if self.config.mode == "partial":
            return self.stage2.embed(composite)
        kept = gather_tokens(tokens[:, :, prefix:], image, token)  # (B, K, D)
        passed = kept.repeat_interleave(R * R, 1)                  # (B, T, D)
        if fused:
            cls = tokens[:, :, 0]                                  # (B, N, D)
            if present is not None:
                cls = cls * present[:, :, None]
            passed = torch.cat([self.fuse(cls.flatten(1))[:, None], passed], 1)    # (B, 1 + T, D)
        if R == 1:
            from plumbing.variants import first_tokens
            own = first_tokens(self.stage2, len(passed))[fused:]
        else:
            embedded = self.stage2.embed(composite)                # (B, 1 + T, D)
            own = [embedded[:, fused:prefix]]
            partners = torch.cat([embedded[:, :fused], embedded[:, prefix:]], 1)
            passed = self.merge(torch.cat([passed, partners], -1))
        return torch.cat([passed[:, :fused], *own, passed[:, fused:]], 1)

    def joint(self, images, present):
        """One class token and the patches of all images as one sequence of 1 + N T tokens."""
        B, N = images.shape[:2]
        prefix = self.config.vit.prefix
        tokens = self.stage1.embed(images.flatten(0, 1)).unflatten(0, (B, N))
        x = torch.cat([tokens[:, 0, :prefix], tokens[:, :, prefix:].flatten(1, 2)], 1)
        if present is not None:                                    # (B, N) -> (B, 1 + N T)
            present = present.repeat_interleave(self.config.vit.tokens, 1)
            present = torch.cat([present.new_ones(B, prefix), present], 1)
        _, y, class_map = self.stage1.run_blocks(x, want_map=True, mask=present)
        logits = {task: head(y) for task, head in self.heads1.items()}
        return {"logits": logits, "map": class_map.unflatten(-1, (N, -1)).transpose(1, 2)}

    @staticmethod
    def add_flags(group):
        add = group.add_argument
        add("--mode", choices=MODES, default="multi", help="the paper's configurations, and joint")
        add("--n", type=int, default=3, help="N, photographs of a patient seen together")
        add("--r", type=int, default=1, help="R, resolution of stage 2 over that of stage 1")
        add("--cls-token", choices=CLS_TOKENS, default="fused", help="class token that enters stage 2: fused "
            "from those of stage 1 (released code), or stage2, one of its own (the paper's text)")
        add("--hidden", default="256,128", help="units of the heads' hidden layers, task by task")
        add("--chunk", type=int, help="photographs in stage 1 at a time, to save memory; default: all")
        ViT.add_flags(group)

    @staticmethod
    def check_flags(args):
        ViT.check_flags(args)
        if not all(map(str.isdigit, args.hidden.split(","))):
            raise ValueError(f"--hidden {args.hidden}: need whole numbers from 1, e.g. 256,128")
        if args.cls_token != "fused" and args.mode != "multi":
            raise ValueError(f"--cls-token {args.cls_token} is of --mode multi, not of {args.mode}")
        if args.chunk and args.mode == "joint":
            raise ValueError("--chunk: --mode joint has no stage 1, it sees all photographs at once")

    @staticmethod
    def by_patient(args):                                          # a sample holds all photographs
        return args.mode != "baseline"

    @classmethod
    def from_args(cls, args, tasks):
        hidden = tuple(map(int, args.hidden.split(",")))
        vit = ViT.from_args(args)
        model = cls(MultiViTConfig(vit.config, args.mode, args.n, args.r, args.cls_token, hidden), tasks)
        model.chunk = args.chunk
        if args.pretrained:
            from plumbing.stages import start_stages
            start_stages(model, vit, args)
        return model


def make_mlp_heads(config, tasks):
    """An MLP for each task."""
    D, hidden, heads = config.vit.dim, config.hidden, nn.ModuleDict()
    for i, (task, outputs) in enumerate(tasks.items()):
        width = hidden[min(i, len(hidden) - 1)]
        heads[task] = nn.Sequential(nn.Linear(D, width), nn.ReLU(), nn.Linear(width, outputs))
    return heads


@torch.no_grad()
def start_as_mean(linear, parts):
    """Weights of a Linear on `parts` concatenated vectors: their mean, which stage 2 can read at once."""
    linear.weight.zero_()
    for square in linear.weight.chunk(parts, 1):                   # (D, D)
        square.fill_diagonal_(1 / parts)


if __name__ == "__main__":
    from plumbing.sizes import count
    vit = ViTConfig(image=(64, 64), patch=(8, 8), dim=64, depth=4, heads=4, mlp=256)
    images, images_hr = torch.zeros(1, 3, 3, 64, 64), torch.zeros(1, 3, 3, 128, 128)
    batch = {"image": images[:, 0], "images": images, "images_hr": images_hr, "present": None}
    for mode, r in (("baseline", 1), ("joint", 1), ("partial", 2), ("multi", 1), ("multi", 2)):
        model = MultiViT(MultiViTConfig(vit, mode, 3, r), {"pasi": 1})
        out = model(*(batch[name] for name in model.inputs))
        print(f"{mode:8} R={r} {count(model):7,} parameters, {', '.join(model.inputs)}: {', '.join(out)}")
