"""Heads on a frozen Vision Transformer, and the small CNN that they are compared with.

    x = tokens of the frozen ViT after its final norm, class token first; x' is x with the last axes swapped
    class      logits = W x_cls + b                                               Model1:   1,538 parameters
    tokens     logits = W2 flatten(relu(W1 x' + b1)) + b2                         Model2: 443,906 parameters
    resized    the same after x' is stretched from 1 + T = 197 to 257 columns     Model3: 459,266 parameters
    (counts for D = 768, T = 196, 256 hidden units and 2 classes)

O. Mindlina, "Vision Transformer for classification on medical images", 2024. W1 mixes tokens and is the same
for all D features. It knows which patch is where; the class token alone has lost that. The article's backbone
is google/vit-base-patch16-224-in21k; its heads are trained with Adam (--optimizer Adam), learning rate 1e-3,
on batches with equally many films of each class (--balanced, the default for these models).

Model3 means to imitate an input of 256 px, but the ViT still sees 224: stretching adds no detail. `resized`
is the article's way, linear along the list of tokens: it blends the class token with the first patch, and
the end of each row of patches with the start of the next. `resized-2d` stretches the 14 x 14 grid to 16 x
16 instead and leaves the class token alone.

The frozen ViT sees every image once. Its tokens are kept on disk (plumbing/features.py) and read from there
in every epoch; there is no augmentation. They are made one image at a time, because a matrix product of
another size may round differently: so an image's tokens never depend on the other images of its batch.

Differs: the article takes "the best checkpoint" and has only test films to choose it by. The best of many
epochs on the test films is partly luck, more so the fewer films there are, and its result is too good.
train.py chooses by validation patients and evaluates the test patients once. The article's picture of its
CNN of 348,050 parameters is lost, and hundreds of layouts have that many; this plain one matches the count.
B images, T patches, D width, C channels.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vit import Normalize, ViT, ViTConfig, make_heads


@dataclass(frozen=True)
class ProbeConfig:
    vit: ViTConfig                   # the backbone
    head: str = "tokens"             # a key of HEADS
    hidden: int = 256                # units after W1
    grid: tuple = (16, 16)           # rows, columns that the resized heads see: 256 px at P = 16

    def __post_init__(self):
        from plumbing.checks import check_choices
        check_choices(self, {"head": HEADS})


@dataclass(frozen=True)
class CNNConfig:
    image: tuple = (256, 256)        # px
    channels: int = 3                # C
    mean: tuple = (0.5, 0.5, 0.5)    # of the normalization, as in vit.py
    std: tuple = (0.5, 0.5, 0.5)

    def __post_init__(self):
        if min(self.image) < 27:
            raise ValueError(f"image {self.image} px: three poolings by 3 need at least 27 px a side")


# -----------------------------------------------------------------------------
# stretching tokens


def resize_list(x, grid):
    """(B, 1 + T, D) -> (B, 1 + rows columns, D), linear along the list of tokens, class token included."""
    tokens = 1 + grid[0] * grid[1]
    return F.interpolate(x.transpose(1, 2), tokens, mode="linear").transpose(1, 2)


def resize_grid(x, old, new):
    """(B, 1 + T, D) on the grid `old` -> on `new`, bilinear; the class token is kept."""
    patches = x[:, 1:].transpose(1, 2).unflatten(2, old)           # (B, D, rows, columns)
    patches = F.interpolate(patches, new, mode="bilinear")
    patches = patches.flatten(2).transpose(1, 2)
    return torch.cat([x[:, :1], patches], 1)


# -----------------------------------------------------------------------------
# heads: (B, 1 + T, D) -> logits {task: (B, outputs)}


class Model1(nn.Module):
    """One Linear layer on the class token."""

    def __init__(self, config: ProbeConfig, tasks):
        super().__init__()
        self.ln = make_heads(config.vit.dim, tasks)

    def forward(self, x):
        return {task: ln(x[:, 0]) for task, ln in self.ln.items()}


class Model2(nn.Module):
    """A Linear layer over the tokens, the same for every feature; ReLU; a Linear layer over everything."""

    def __init__(self, config: ProbeConfig, tasks, tokens=None):
        super().__init__()
        self.ln1 = nn.Linear(tokens or 1 + config.vit.tokens, config.hidden)
        self.ln2 = make_heads(config.vit.dim * config.hidden, tasks)

    def forward(self, x):
        x = F.relu(self.ln1(x.transpose(1, 2))).flatten(1)         # (B, D, hidden) -> (B, D hidden)
        return {task: ln2(x) for task, ln2 in self.ln2.items()}


class Model3(nn.Module):
    """Model2 on tokens stretched to another grid."""

    def __init__(self, config: ProbeConfig, tasks):
        super().__init__()
        self.config = config
        self.large = Model2(config, tasks, 1 + config.grid[0] * config.grid[1])

    def forward(self, x):
        if self.config.head == "resized":
            x = resize_list(x, self.config.grid)
        else:
            x = resize_grid(x, self.config.vit.grid, self.config.grid)
        return self.large(x)


HEADS = {"class": Model1, "tokens": Model2, "resized": Model3, "resized-2d": Model3}


class Probe(nn.Module):
    """One of HEADS on a frozen ViT. forward(features) -> dict: logits {task: (B, outputs)}.

    features: (B, 1 + T, D) of tokens(), or images (B, C, *config.vit.image), for which forward calls it.
    tasks: {name: outputs}."""
    Config = ProbeConfig
    inputs = ("features",)
    defaults = {"augment": "none", "balanced": True}               # a probe sees every image once

    def __init__(self, config: ProbeConfig, tasks, vit=None):
        super().__init__()
        self.config = config
        self.vit = vit or ViT(config.vit)
        self.vit.requires_grad_(False).eval()
        self.head = HEADS[config.head](config, tasks)

    def train(self, mode=True):
        """The ViT stays as it is in evaluation: no dropout."""
        super().train(mode)
        self.vit.eval()
        return self

    @torch.no_grad()
    def tokens(self, images):
        """(B, C, h, w) -> float32 (B, 1 + T, D), one image at a time: what the ViT's head would read,
        mostly the class token, and the patches."""
        parts = []
        with torch.autocast(images.device.type, enabled=False):
            for image in images.contiguous().split(1):             # other strides give other last bits
                x, y, _ = self.vit.run_blocks(self.vit.embed(image))
                parts.append(torch.cat([y[:, None], x[:, self.config.vit.prefix:]], 1))
        return torch.cat(parts)

    def forward(self, features):
        if features.dim() == 4:
            features = self.tokens(features)
        return {"logits": self.head(features)}

    @staticmethod
    def add_flags(group):
        add = group.add_argument
        add("--pretrained", help="the ViT to freeze: a file, or Hub id ORG/NAME[@revision], folder, run, "
            "each also with :FILE")
        add("--mean", help="of the images that --pretrained has seen, 0..1; default: the checkpoint's")
        add("--std", help="their standard deviation; default: the checkpoint's")
        add("--heads", type=int, help="H of --pretrained, where no config.json says it; default: a guess")
        add("--head", choices=HEADS, default="tokens", help="what reads the tokens of the frozen ViT")

    @staticmethod
    def check_flags(args):
        if not args.pretrained:
            raise ValueError("--model probe needs --pretrained, the weights of the ViT to freeze")

    @classmethod
    def from_args(cls, args, tasks):
        from plumbing.sizes import sides
        vit = ViT.from_pretrained(args.pretrained, sides(args.image), args.channels,
                                  mean=args.mean, std=args.std, heads=args.heads)
        model = cls(ProbeConfig(vit.config, args.head), tasks, vit)
        model.report = f"{vit.report}; all of it frozen"
        return model


# -----------------------------------------------------------------------------
# what they are compared with


class CNN(nn.Module):
    """Three times convolution, batch norm, ReLU, pooling; then three Linear layers. 348,050 parameters at
    3 x 256 x 256 px and 2 classes.

    forward(image) -> dict: logits {task: (B, outputs)}; uint8 images are normalized here. tasks: {name:
    outputs}."""
    Config = CNNConfig
    inputs = ("image",)
    defaults = {"image": "256", "balanced": True}

    def __init__(self, config: CNNConfig, tasks):
        super().__init__()
        self.config = config
        layers = []
        for C, D in ((config.channels, 8), (8, 32), (32, 32)):
            layers += [nn.Conv2d(C, D, 3, padding=1), nn.BatchNorm2d(D), nn.ReLU(), nn.MaxPool2d(3)]
        self.convs = nn.Sequential(*layers)
        rows, columns = (side // 27 for side in config.image)
        self.fc = nn.Sequential(nn.Linear(32 * rows * columns, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.head = make_heads(32, tasks)
        self.normalize = Normalize(config.mean, config.std, axes=2)

    def forward(self, image):
        x = self.convs(self.normalize(image))                      # (B, 32, 9, 9)
        x = self.fc(x.flatten(1))                                  # (B, 32)
        return {"logits": {task: head(x) for task, head in self.head.items()}}

    @staticmethod
    def add_flags(group):
        """None of its own."""

    @classmethod
    def from_args(cls, args, tasks):
        from plumbing.sizes import sides
        half = (0.5,) * args.channels
        return cls(CNNConfig(sides(args.image), args.channels, half, half), tasks)


if __name__ == "__main__":
    from plumbing.sizes import count
    vit = ViTConfig(dim=768, heads=12, mlp=3072)
    models = {head: HEADS[head](ProbeConfig(vit, head), {"pneumonia": 2}) for head in HEADS}
    models["cnn"] = CNN(CNNConfig(), {"pneumonia": 2})
    for name, model in models.items():
        print(f"{name:10} {count(model):7,} parameters")
