"""A picture for every mechanism, drawn from what the code computes, for docs/ideas.md.

    python -m experiments.draw           all but three: a few seconds

The images are simulated, and the networks have random weights. filter.png, lt_vit_maps.png and q2l_maps.png
are figures of trained runs, whose commands stand in ideas.md.
"""
import os
from os.path import join

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from attention import seqnorm_formula, sima_formula, softmax_formula
from crossvit import variant
from daft import DAFTConfig, ResNet
from evaluation.canvas import ACCENT, PALE, PALETTE, Page
from evaluation.picture_rows import arrow, heat_colors, outline_patches, side_by_side, stack
from gmml import CORRUPTIONS, GMMLConfig, corrupt
from lt_vit import LABEL_ATTENTION
from plumbing.command import Parser, run_main
from plumbing.simulate_brain import brain_patient
from plumbing.simulate_chest import chest_patient
from probe import resize_grid, resize_list
from vit import ViT, ViTConfig

DOCS = "docs"
SIDE = 192                                                         # px of a film and of most pictures
COLORS = ACCENT, PALETTE[1]                                        # of two kinds of tokens

# -----------------------------------------------------------------------------
# parts of pictures


def chest_film(patient=6):
    """-> a simulated film of a patient, (SIDE, SIDE) uint8."""
    return list(chest_patient(0, patient)[2].values())[0]


def shrink(image, side):
    """A film -> (side, side), each value the mean of a square of it."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return torch.tensor(np.asarray(small)).float()


def enlarge(colors, cell):
    """(rows, columns, 3) -> a picture with a square of `cell` px per color."""
    return ImageOps.scale(Image.fromarray(np.uint8(colors)), cell, Image.Resampling.NEAREST)


def matrix(values, cell=3):
    """(rows, columns) -> a picture of the numbers; the top 1 % look alike."""
    low, high = np.quantile(values, (0, 0.99))
    return enlarge(heat_colors((np.asarray(values) - low) / (high - low)), cell)


def matrices(title, factors):
    """A row of matrices to scale, {caption: (rows, columns)}."""
    columns = {}
    for name, values in factors.items():
        picture = matrix(values)
        white = max(0, 128 - picture.width) // 2, (SIDE - picture.height) // 2     # px, for the caption
        columns[f"{name}: {len(values)} x {len(values[0])}"] = ImageOps.expand(picture, white, "white")
    return side_by_side(columns.values(), columns, SIDE, title)


# -----------------------------------------------------------------------------
# the mechanisms


def linear_cost(q, k, v, output, names):
    """-> the matrices of Q (K'V), in the order in which they are made. names: theirs, once normalized."""
    return dict(zip(names.split(), (k.T, v, k.T @ v, q, output)))


def attention():
    """Q, K and V are the same here: the 64 patches of a film, each as 4 x 4 gray levels."""
    patches = shrink(chest_film(), 32).view(8, 4, 8, 4).transpose(1, 2).reshape(64, 16)
    q = (patches - patches.mean()) / (2 * patches.std())           # T = 64, d = 16
    normal = (q - q.mean(0)) / q.std(0, correction=0)
    share = F.normalize(q, p=1, dim=0)
    ones = torch.ones(3, 1, 16)
    quadratic = {
        "Q": q,
        "K'": q.T,
        "softmax": (q @ q.T / 16 ** 0.5).softmax(-1),
        "V": q,
        "O": softmax_formula(q, q, q),
    }
    seqnorm = seqnorm_formula(q, q, q, ones, 0 * ones)
    seqnorm = linear_cost(normal, normal, normal, seqnorm, "K~' V~ K~'V~ Q~ O")
    sima = linear_cost(share, share, q, sima_formula(q, q, q), "K^' V K^'V Q^ O")
    return stack([
        matrices("softmax(Q K' / 4) V: every token meets every other, T x T numbers", quadratic),
        matrices("Sequence norm, Q~ (K~'V~) / T: normalized over the tokens, d x d numbers", seqnorm),
        matrices("SimA, Q^ (K^'V): Q and K divided by their sums over the tokens", sima),
    ])


def vit():
    """An image, its patches, and the tokens that ViT.embed makes of them."""
    film = chest_film()
    config = ViTConfig(
        image=film.shape,
        patch=(32, 32),
        channels=1,
        dim=24,
        heads=4,
        mean=(0.5,),
        std=(0.5,),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        tokens = ViT(config).embed(torch.tensor(film)[None, None])[0]    # (1 + T, D)
    patches = outline_patches(film, range(36), config.grid, ["white"] * 36)
    table = ImageOps.expand(matrix(tokens, 5), (50, 0), "white")
    return side_by_side(
        [film, arrow(SIDE), patches, arrow(SIDE), table],
        ["an image", "", "36 patches", "", "37 tokens: class token (top row), and one per patch"],
        SIDE,
    )


def crossvit():
    """Both grids on one film; from each class token, a dot, a line to the patches that it attends to."""
    film = Image.fromarray(chest_film()).resize((240, 240))
    pictures = []
    captions = []
    for branch in variant("9", film.size).branches:
        rows, columns = branch.grid
        pictures.append(outline_patches(film, range(branch.tokens), branch.grid))
        captions.append(f"{rows} x {columns} patches of {branch.patch[0]} px, class token {branch.dim} wide")
    page = Page(240, 240)
    for x, end, anchor, color in ((12, 238, "la", COLORS[0]), (228, 2, "ra", COLORS[1])):
        page.text(x, 36, "class token", 16, color, anchor)
        page.line([(x, 70), (end, 170)], color, 3)
        page.dot(x, 70, 8, color)
    pictures.insert(1, page.done())
    captions.insert(1, "each class token attends to the other's patches")
    return side_by_side(pictures, captions)


def lt_vit():
    """What may look at what: queries are rows, keys are columns, six image tokens and three label tokens."""
    pictures = []
    for image_sees, label_sees in LABEL_ATTENTION.values():
        colors = np.empty((9, 9, 3))
        colors[:6] = COLORS[0]
        colors[6:] = COLORS[1]
        if not image_sees:
            colors[:6, 6:] = PALE
        if not label_sees:
            colors[6:, 6:] = PALE
        pictures.append(outline_patches(enlarge(colors, 20), range(81), (9, 9), ["white"] * 81))
    return side_by_side(
        pictures,
        ["one-way: labels see all, the image sees itself", "full: all see all",
         "no-label-self: labels see the image only"],
        SIDE,
    )


def gmml():
    """A film, and the groups of patches that each kind of corruption replaces in it."""
    films = torch.tensor(np.stack([chest_film(), chest_film(patient=8)]))
    images = films[:, None] / 127.5 - 1                            # normalized, (2, 1, SIDE, SIDE)
    vit = ViTConfig(image=(SIDE, SIDE), patch=(16, 16), channels=1, mean=(0.5,), std=(0.5,))
    pictures = [chest_film()]
    for kind in CORRUPTIONS:
        torch.manual_seed(0)
        corrupted, _ = corrupt(images, GMMLConfig(vit, (kind,)))
        pictures.append(((corrupted[0, 0] + 1) * 127.5).clamp(0, 255).byte().numpy())
    return side_by_side(pictures, ["a film", *CORRUPTIONS], SIDE)


def daft():
    """The factors alpha of one volume's feature maps, with three ages in its table; random weights."""
    [volume] = brain_patient(0, 0)[2].values()                     # uint8 (24, 24, 24)
    torch.manual_seed(0)
    model = ResNet(DAFTConfig(image=volume.shape, tabular=1), {"stage": 3}).eval()
    ages = torch.tensor([[60], [80], [90]])
    with torch.no_grad():
        x = model.stem(model.normalize(torch.tensor(volume)[None, None]))
        for block in model.blocks[:-1]:
            x = block(x)
        alpha, _ = model.blocks[-1].daft.affine(x.expand(3, -1, -1, -1, -1), (ages - 73) / 7)
    caption = f"alpha of its 16 feature maps, {alpha.min():.1f} to {alpha.max():.1f}, at ages 60, 80 and 90"
    return side_by_side(
        [Image.fromarray(volume[12]), matrix(alpha.repeat_interleave(2, dim=0), 32)],
        ["a slice of a volume", caption],
        SIDE,
    )


def probe():
    """The mean brightness of a film's patches as one feature of its tokens, and the same stretched."""
    feature = shrink(chest_film(), 14).flatten()
    x = torch.cat([feature.mean()[None], feature])[None, :, None]  # (1, 1 + T, 1)
    pictures = [chest_film(), matrix(feature.view(14, 14), 16)]
    for stretched in (resize_list(x, (16, 16)), resize_grid(x, (14, 14), (16, 16))):
        pictures.append(matrix(stretched[0, 1:].view(16, 16), 14))
    return side_by_side(
        pictures,
        ["a film", "14 x 14 tokens, one feature", "resized: as a list", "resized-2d: as a grid"],
        224,
    )


PICTURES = attention, vit, crossvit, lt_vit, gmml, daft, probe


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--out", default=DOCS, help="folder of the pictures")
    args = parser.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    for draw in PICTURES:
        path = join(args.out, f"{draw.__name__}.png")
        draw().save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    run_main(main)
