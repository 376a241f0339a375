"""A picture for every mechanism, drawn from what the code computes, for docs/ideas.md.

    python -m experiments.draw           all but three: a few seconds
    python -m experiments.draw probe     only this one

The images are simulated, and the networks have random weights. filter.png, lt_vit_maps.png and q2l_maps.png
are figures of trained runs, whose commands stand in ideas.md.
"""
import os
from os.path import abspath, dirname, join

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

DOCS = join(dirname(dirname(abspath(__file__))), "docs")
SIDE = 192                                                         # px of a film and of most pictures
COLORS = ACCENT, PALETTE[1]                                        # of two kinds of tokens

# -----------------------------------------------------------------------------
# parts of pictures


def chest_film(patient=6):
    """-> a simulated film of a patient, (SIDE, SIDE) uint8."""
    return list(chest_patient(0, patient)[2].values())[0]


def cut(image, count):
    """(side, side) -> (count * count, P, P), its patches row by row."""
    P = len(image) // count
    return image.reshape(count, P, count, P).swapaxes(1, 2).reshape(-1, P, P)


def matrix(values, cell=3):
    """(rows, columns) -> a picture: a square of `cell` px per number; the top 1 % look alike."""
    low, high = np.quantile(values, (0, 0.99))
    colors = heat_colors((np.asarray(values) - low) / (high - low))
    return ImageOps.scale(Image.fromarray(np.uint8(colors)), cell, Image.Resampling.NEAREST)


def matrices(title, factors):
    """A row of matrices to scale, {caption: (rows, columns)}."""
    pictures = []
    captions = []
    for caption, values in factors.items():
        picture = matrix(values)
        sheet = Image.new("RGB", (max(picture.width, 110), SIDE), "white")
        sheet.paste(picture, ((sheet.width - picture.width) // 2, (SIDE - picture.height) // 2))
        pictures.append(sheet)
        captions.append(f"{caption}: {len(values)} x {len(values[0])}")
    return side_by_side(pictures, captions, SIDE, title)


# -----------------------------------------------------------------------------
# the mechanisms


def attention():
    """Q, K and V are the same here: the 64 patches of a film, each as 4 x 4 gray levels."""
    small = Image.fromarray(chest_film()).resize((32, 32), Image.Resampling.BOX)
    q = torch.tensor(cut(np.asarray(small), 8)).flatten(1).float()
    q = (q - q.mean()) / (2 * q.std())                             # (64, 16): T = 64, d = 16
    softmax = {
        "Q": q,
        "K'": q.T,
        "softmax(Q K')": (q @ q.T / 16 ** 0.5).softmax(-1),
        "V": q,
        "O": softmax_formula(q, q, q),
    }
    normal = (q - q.mean(0)) / q.std(0, correction=0)
    ones = torch.ones(3, 1, 16)
    seqnorm = {
        "K'": normal.T,
        "V": normal,
        "K'V": normal.T @ normal,
        "Q": normal,
        "O": seqnorm_formula(q, q, q, ones, 0 * ones),
    }
    share = F.normalize(q, p=1, dim=0)
    sima = {
        "K'": share.T,
        "V": q,
        "K'V": share.T @ q,
        "Q": share,
        "O": sima_formula(q, q, q),
    }
    return stack([
        matrices("Softmax: (Q K') V. Every token meets every other, T x T numbers", softmax),
        matrices("Sequence norm: Q (K'V), normalized over the tokens. d x d numbers", seqnorm),
        matrices("SimA: Q (K'V), with Q and K divided by their sums over the tokens", sima),
    ])


def vit():
    """An image, its patches, and the tokens that ViT.embed makes of them."""
    film = chest_film()
    patches = Image.new("RGB", (SIDE, SIDE), "white")
    for i, patch in enumerate(cut(film, 6)):
        row, column = divmod(i, 6)
        patch = Image.fromarray(patch).resize((28, 28))
        patches.paste(patch, (2 + 32 * column, 2 + 32 * row))
    config = ViTConfig(
        image=(SIDE, SIDE),
        patch=(32, 32),
        channels=1,
        dim=24,
        heads=4,
        mean=(0.5,),
        std=(0.5,),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        x = ViT(config).embed(torch.tensor(film)[None, None])[0]   # (1 + T, D)
    tokens = Image.new("RGB", (220, SIDE), "white")
    tokens.paste(matrix(x[:1], 5), (50, 0))
    tokens.paste(matrix(x[1:], 5), (50, 12))
    return side_by_side(
        [film, arrow(SIDE), patches, arrow(SIDE), tokens],
        ["an image", "", "36 patches", "", "37 tokens: the class token, and one per patch"],
        SIDE,
    )


def crossvit():
    """Both grids on one film; from each class token a line to the patches that it looks at."""
    config = variant("9", (240, 240))
    page = Page(680, 330)
    page.line([(290, 90), (420, 190)], COLORS[0], 3)
    page.line([(390, 90), (260, 190)], COLORS[1], 3)
    for b, left, token in ((0, 20, 290), (1, 420, 390)):
        rows, columns = config.grids[b]
        page.box(token - 8, 82, token + 8, 98, COLORS[b])
        page.text(left, 268, f"{rows} x {columns} patches of {config.patch[b]} px,", 16)
        page.text(left, 290, f"class token {config.dims[b]} wide", 16, COLORS[b])
    sheet = page.done()
    for b, left in enumerate((20, 420)):
        film = Image.fromarray(chest_film()).resize((240, 240))
        film = outline_patches(film, range(config.branches[b].tokens), config.grids[b])
        sheet.paste(film, (left, 20))
    return sheet


def lt_vit():
    """What may look at what: queries are rows, keys are columns, six image tokens and three label tokens."""
    pictures = []
    for image_sees, label_sees in LABEL_ATTENTION.values():
        page = Page(SIDE, SIDE)
        for query, key in np.ndindex(9, 9):
            sees_labels = image_sees
            color = COLORS[0]
            if query >= 6:
                sees_labels = label_sees
                color = COLORS[1]
            if key >= 6 and not sees_labels:
                color = PALE
            x = 16 + 18 * key
            y = 16 + 18 * query
            page.box(x, y, x + 16, y + 16, color)
        pictures.append(page.done())
    return side_by_side(pictures, list(LABEL_ATTENTION), SIDE)


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
    volume = list(brain_patient(0, 0)[2].values())[0]              # uint8 (24, 24, 24)
    torch.manual_seed(0)
    model = ResNet(DAFTConfig(image=(24, 24, 24), tabular=1), {"stage": 3}).eval()
    factors = []
    with torch.no_grad():
        x = model.stem(model.normalize(torch.tensor(volume)[None, None]))
        for block in model.blocks[:-1]:
            x = block(x)
        for age in (60, 80, 90):
            alpha, _ = model.blocks[-1].daft.affine(x, torch.tensor([[(age - 73) / 7]]))
            factors.append(alpha[0].numpy())
    low = np.min(factors)
    high = np.max(factors)
    caption = f"alpha of its 16 feature maps, {low:.1f} to {high:.1f}, at ages 60, 80 and 90"
    volume_slice = Image.fromarray(volume[12]).resize((SIDE, SIDE))
    factors = matrix(np.repeat(factors, 2, axis=0), 32)
    return side_by_side([volume_slice, factors], ["a slice of a volume", caption], SIDE)


def probe():
    """The mean brightness of a film's patches as one feature of its tokens, and the same stretched."""
    film = Image.fromarray(chest_film())
    feature = torch.tensor(np.asarray(film.resize((14, 14), Image.Resampling.BOX))).float().flatten()
    x = torch.cat([feature.mean()[None], feature])[None, :, None]  # (1, 1 + T, 1)
    pictures = [film.resize((224, 224)), matrix(feature.view(14, 14), 16)]
    for stretched in (resize_list(x, (16, 16)), resize_grid(x, (14, 14), (16, 16))):
        pictures.append(matrix(stretched[0, 1:].view(16, 16), 14))
    captions = ["a film", "14 x 14 tokens, one feature", "resized: as a list", "resized-2d: as a grid"]
    return side_by_side(pictures, captions, 224)


PICTURES = {
    "attention": attention,
    "vit": vit,
    "crossvit": crossvit,
    "lt_vit": lt_vit,
    "gmml": gmml,
    "daft": daft,
    "probe": probe,
}


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("name", nargs="*", help=f"some of {', '.join(PICTURES)}; default: all")
    parser.add_argument("--out", default=DOCS, help="folder of the pictures")
    args = parser.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    for name in args.name or PICTURES:
        if name not in PICTURES:
            raise ValueError(f"no picture {name!r}; there are {', '.join(PICTURES)}")
        path = join(args.out, name + ".png")
        PICTURES[name]().save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    run_main(main)
