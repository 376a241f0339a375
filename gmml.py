"""GMML: pre-training without labels. Groups of patches are corrupted, and a ViT rebuilds their pixels.

    x_c  = x outside the groups; noise, zeros, or what another image has there inside        (B, C, *image)
    z    = LN(mean of the tokens after four blocks of ViT(x_c))      all tokens are encoded, unlike in MAE
    x'   = Deconv(GELU(W3 GELU(W2 GELU(W1 z))))                      every token -> P x P pixels
    loss = mean of |x' - x| over the pixels inside the groups, in normalized units

A group is a rectangle of patches, so that meaningful parts of an object vanish and cannot be filled in from
neighbouring pixels. Rectangles are drawn until their share of the image is reached: the corner uniform over
the grid, each side uniform from one patch to 0.3 of the image's, cut off at the border; they may overlap.

Atito, Awais, Kittler 2022, "GMML is all you need", arXiv 2205.14986; LT-ViT (section 3.2) starts from it.
From their released recipe: corrupted share uniform in 0.5 .. 0.75, or 0.3 where another image shows through;
half the images with noise, half with another image; blocks 6, 8, 10, 12 of 12; the decoder; AdamW 5e-4 x
batch / 256, weight decay 0.04 rising to 0.4, batch 64 per GPU, 800 epochs, strong crops and color jitter.
LT-ViT has a ViT-S/16 and 4 GPUs.
Differs: the four blocks are evenly spaced and end with the last, whatever the depth. Every image counts alike
in the loss, however much of it is corrupted. The other image is the one before in the batch; a lone image
gets noise instead. Evaluation draws the same numbers for every batch. Weight decay and augmentation are those
of train.py. The decoder starts with PyTorch's weights, and the default learning rate is 5e-3: with theirs,
std 0.02 and 5e-4, a network of width 64 rebuilds patches of uniform grey (docs/results.md).

B images, T patches, P patch side, D width, M rectangles drawn. The class token is encoded, and not rebuilt.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vit import ViT, ViTConfig

CORRUPTIONS = ("noise", "zeros", "alien")


@dataclass(frozen=True)
class GMMLConfig:
    vit: ViTConfig
    corrupt: tuple = ("noise", "alien")  # some of CORRUPTIONS; each image gets one of these
    share: tuple = (0.5, 0.75)           # of the patches, uniform between these
    alien_share: float = 0.3             # of the patches, where another image shows through
    side: float = 0.3                    # longest side of a group, as a share of the image's

    def __post_init__(self):
        known = set(self.corrupt) & set(CORRUPTIONS)
        if not self.corrupt or len(known) < len(self.corrupt):
            raise ValueError(f"corrupt {','.join(self.corrupt)}: need some of {', '.join(CORRUPTIONS)}, "
                             "each once")
        if not self.vit.image:
            raise ValueError("GMML rebuilds pictures or volumes; bags of vectors have no places")


# -----------------------------------------------------------------------------
# which patches


def draw_groups(count, grid, side, device=None):
    """-> corner, size: for each axis (count, M, 1), in patches, of M rectangles: in practice enough for a
    share of 0.75."""
    longest = [max(1, int(side * length)) for length in grid]
    mean_area = math.prod([(1 + length) / 2 for length in longest])
    M = math.ceil(4 * math.prod(grid) / mean_area)
    corner = []
    size = []
    for length, most in zip(grid, longest):
        corner.append(torch.randint(length, (count, M, 1), device=device))
        size.append(torch.randint(1, most + 1, (count, M, 1), device=device))
    return corner, size


def cover(corner, size, grid, share):
    """-> (B, *grid) bool: of each image as many rectangles as it takes to reach its share (B,) of the
    patches."""
    inside = torch.ones(1, 1, 1, dtype=torch.bool, device=share.device)
    for first, side, length in zip(corner, size, grid):            # an outer product, axis by axis
        place = torch.arange(length, device=share.device)
        within = (place >= first) & (place < first + side)         # (B, M, length)
        inside = (inside[..., None] & within[:, :, None]).flatten(2)  # in the end (B, M, T)
    union = inside.cummax(1).values
    before = F.pad(union.float().mean(2), (1, 0))[:, :-1]          # (B, M), share covered before each one
    kept = inside & (before < share[:, None])[..., None]
    return kept.any(1).unflatten(1, grid)


def to_pixels(patches, patch):
    """(B, *grid) -> (B, 1, *image): every patch becomes P x P pixels."""
    for axis, P in enumerate(patch, 1):
        patches = patches.repeat_interleave(P, axis)
    return patches[:, None]


# -----------------------------------------------------------------------------
# what replaces them


def corrupt(images, config: GMMLConfig):
    """Normalized images (B, C, *image) -> the same with groups of patches replaced, and where these are,
    (B, 1, *image) bool. Everything is drawn on the device of the images."""
    B = len(images)
    device = images.device
    vit = config.vit
    kinds = config.corrupt
    chosen = torch.randint(len(kinds), (B,), device=device)        # number of a kind, for each image
    low, high = config.share
    share = low + (high - low) * torch.rand(B, device=device)
    if "alien" in kinds:
        share = share.masked_fill(chosen == kinds.index("alien"), config.alien_share)
    corner, size = draw_groups(B, vit.grid, config.side, device)
    mask = to_pixels(cover(corner, size, vit.grid, share), vit.patch)
    fill = {"noise": torch.randn_like(images), "zeros": torch.zeros_like(images), "alien": images.roll(1, 0)}
    if B == 1:                                                     # there is no other image
        fill["alien"] = fill["noise"]
    result = images
    for number, kind in enumerate(kinds):
        here = mask.flatten(1) & (chosen == number)[:, None]
        result = torch.where(here.view_as(mask), fill[kind], result)
    return result, mask


def rebuild_loss(rebuilt, images, mask):
    """-> (B,): mean absolute difference of the pixels inside the mask (B, 1, *image)."""
    differences = (rebuilt.float() - images).abs().mean(1, keepdim=True)
    return (differences * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)


class GMML(nn.Module):
    """forward(image) -> dict:

    logits     {"reconstruction": (B, 1)}, the loss of each image
    corrupted, rebuilt   (B, C, *image), pixels of 0 .. 255, in evaluation; rebuilt only where corrupted"""
    Config = GMMLConfig
    inputs = ("image",)
    axes = (2, 3)
    own_loss = "reconstruction"      # learned without targets: logits hold the loss, see plumbing/models.py
    defaults = {"lr": 5e-3}
    check_flags = ViT.check_flags

    def __init__(self, config: GMMLConfig, tasks=None):
        super().__init__()
        self.config = config
        vit = config.vit
        self.vit = ViT(vit)
        D = vit.dim
        deconv = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[len(vit.image)]
        layers = []
        for _ in range(3):
            layers += [nn.Linear(D, D), nn.GELU()]
        self.decoder = nn.Sequential(*layers)                      # with PyTorch's initial weights, see above
        self.decoder_pixels = deconv(D, vit.channels, vit.patch, stride=vit.patch)

    def encode(self, images):
        """(B, C, *image) -> (B, T, D): the norm of the mean of the patch tokens after four blocks."""
        vit = self.vit
        blocks = vit.blocks
        step = max(1, len(blocks) // 6)
        numbers = range(len(blocks), 0, -step)[:4]                 # of 12 blocks: after 12, 10, 8 and 6
        x = vit.embed(images)
        taken = []
        for number, block in enumerate(blocks, 1):
            x, _ = block(x)
            if number in numbers:
                taken.append(x)
        z = vit.norm(torch.stack(taken).mean(0))
        return z[:, -vit.config.tokens:]                           # without class token and registers

    def decode(self, z):
        """(B, T, D) -> (B, C, *image)."""
        z = self.decoder(z).transpose(1, 2)                        # (B, D, T)
        return self.decoder_pixels(z.unflatten(2, self.config.vit.grid))

    def forward(self, image):
        images = self.vit.normalize(image)
        if self.training:
            corrupted, mask = corrupt(images, self.config)
        else:
            with torch.random.fork_rng(devices=()):                # the same for every batch and device
                torch.default_generator.manual_seed(0)
                corrupted, mask = [x.to(images.device) for x in corrupt(images.cpu(), self.config)]
        rebuilt = self.decode(self.encode(corrupted))
        loss = rebuild_loss(rebuilt, images, mask)
        out = {"logits": {self.own_loss: loss[:, None]}}
        if not self.training:                                      # pictures of it
            out["corrupted"] = self.show(corrupted)
            out["rebuilt"] = self.show(torch.where(mask, rebuilt, images))
        return out

    def show(self, x):
        """Normalized images -> pixels of 0 .. 255."""
        normalize = self.vit.normalize
        return ((x * normalize.std + normalize.mean) * 255).clamp(0, 255)

    @staticmethod
    def add_flags(group):
        group.add_argument("--corrupt", default="noise,alien", help=f"any of {','.join(CORRUPTIONS)}: the "
                           "groups of an image hold one of these; alien: another image")
        ViT.add_flags(group)
        group.set_defaults(dropout=0.0)                            # as in the recipe

    @classmethod
    def from_args(cls, args, tasks):
        vit = ViT.from_args(args)
        model = cls(GMMLConfig(vit.config, tuple(args.corrupt.split(","))))
        model.vit = vit
        model.report = vit.report
        return model


if __name__ == "__main__":
    grid = (12, 12)
    corner, size = draw_groups(1, grid, side=0.3)
    mask = cover(corner, size, grid, share=torch.tensor([0.5]))
    print("the patches of an image that are corrupted (1), in groups, until they are half of it:")
    for row in mask[0].int().tolist():
        print(*row)
    print(mask.sum().item(), "of", mask.numel())
