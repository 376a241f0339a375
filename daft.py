"""DAFT: what a patient's table says scales and shifts what a network sees in his image, and what it sees
has a say in that.

    u = [GAP(F) ; t]                        the mean of each feature map beside the table         Pölsterl et al. 2021
    [a_alpha ; a_beta] = W2 relu(W1 u)      no biases; m = int((4 n + P) / 7) hidden units
    F'[c] = sigma(a_alpha[c]) F[c] + a_beta[c]        sigma: identity, tanh or sigmoid

FiLM (Perez et al. 2018) is the same with u = t. The network is a 3-D ResNet: conv, pool, four residual
blocks of n, 2n, 4n and 8n maps, global average pool (GAP), Linear. DAFT sits in its last block, at one of
five places:

    y = relu(bn1(conv1(x)))  . . . . .      0 before the block, 1 before the shortcut, 2 before conv1 (the paper's), 3 before
    x = relu(bn2(conv2(y)) + shortcut(x))   the first relu (bn1 then has no affine of its own), 4 before conv2

FUSIONS lists what the paper compares it with. alpha is not 1 + something: at the start it is near 0.04, and
the path that DAFT stands in is almost erased; a sample whose m hidden units are all dead keeps alpha = beta
= 0. identity_init starts at F' = F instead. DAFTViT puts the same map before the last block of a ViT, whose
tokens are its feature maps.

B samples, C maps, P columns of the table, n width, m hidden units, h (B, 8 n) the image's features, t (B,
P) the table. Differs: written from the equations alone. Images are normalized by a mean and std, not each
by its own minimum and maximum; photographs (two axes) work as volumes do; several tasks share everything
but their last Linear. Run: python daft.py
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vit import Normalize, ViT, ViTConfig, make_heads, sides

FUSIONS = {  # name: what the last Linear sees; the balanced accuracy and c-index of the paper's Table 2
    "linear": "t",                                                 # .552 .719
    "image": "h",                                                  # .504 .599, the ResNet alone
    "linear-features": "[h ; t], h of a frozen ResNet",            # .559 .693
    "concat-1fc": "[h ; t]",                                       # .587 .729
    "concat-2fc": "relu(W [h ; t] + b)",                           # .576 .725
    "1fc-concat-1fc": "[h ; relu(W t + b)]",                       # .591 .723
    "duanmu": "h, maps multiplied by W..W relu(W t)",              # .578 .706, before every block
    "film": "h, of maps changed by t",                             # .601 .712
    "daft": "h, of maps changed by [GAP ; t]",                     # .622 .748
}
LOCATIONS = (0, 1, 2, 3, 4)                                        # balanced accuracy .598 .616 .622 .622 .612, Table 3
ACTIVATIONS = {"identity": nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
LAYERS = {2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), 3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)}


@dataclass(frozen=True)
class DAFTConfig:
    image: tuple = (64, 64, 64)      # px, one entry an axis
    channels: int = 1
    width: int = 4                   # n, maps of the first block
    tabular: int = 15                # P; 0 for the image alone
    fusion: str = "daft"             # a key of FUSIONS
    location: int = 2                # of DAFT or FiLM in the last block
    scale: bool = True               # False: alpha = 1
    shift: bool = True               # False: beta = 0
    activation: str = "identity"     # sigma, a key of ACTIVATIONS
    identity_init: bool = False      # alpha = 1 + sigma(a), and W2 starts at zero
    mean: tuple = (0.5,)             # of the normalization, in units of 0..1, one entry a channel
    std: tuple = (0.5,)

    def __post_init__(self):
        for name in ("image", "mean", "std"):                      # lists, when read from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion {self.fusion!r} is not known; use {', '.join(FUSIONS)}")
        if self.location not in LOCATIONS or self.activation not in ACTIVATIONS:
            raise ValueError(f"location {self.location}, activation {self.activation!r}: need one of {LOCATIONS} and "
                             f"one of {', '.join(ACTIVATIONS)}")
        if not self.scale and not self.shift or self.identity_init and self.activation == "sigmoid":
            raise ValueError("DAFT needs scale or shift, and sigmoid cannot start at the identity")
        if len(self.image) not in LAYERS or any(not isinstance(side, int) or side < 2 for side in self.image):
            raise ValueError(f"image {self.image}: need two or three sides of at least 2 px")
        if (self.tabular > 0) == (self.fusion == "image"):
            raise ValueError(f"fusion {self.fusion!r} with {self.tabular} columns of a table: every fusion but image needs some")
        if not len(self.mean) == len(self.std) == self.channels or not all(std > 0 for std in self.std):
            raise ValueError(f"{self.channels} channels need as many means and stds above 0, not {self.mean}, {self.std}")


# -----------------------------------------------------------------------------
# the paper's block


class DAFT(nn.Module):
    """x (B, C, ...), t (B, P) -> (B, C, ...). looked: channels of the image that u holds, C for DAFT, 0 for
    FiLM; hidden: m."""

    def __init__(self, channels, looked, tabular, hidden, scale=True, shift=True, activation="identity", identity_init=False):
        super().__init__()
        self.looked, self.scale, self.shift, self.start = looked, scale, shift, float(identity_init)
        self.W1 = nn.Linear(looked + tabular, hidden, bias=False)
        self.W2 = nn.Linear(hidden, (scale + shift) * channels, bias=False)
        self.sigma = ACTIVATIONS[activation]()
        if identity_init:
            nn.init.zeros_(self.W2.weight)

    def affine(self, x, t):
        """-> alpha, beta: (B, C) each; the number 1 or 0 where it is switched off."""
        u = torch.cat([x.flatten(2).mean(2), t], 1) if self.looked else t
        a = self.W2(F.relu(self.W1(u)))
        alpha, beta = a.chunk(2, 1) if self.scale and self.shift else (a, a)
        return self.start + self.sigma(alpha) if self.scale else 1.0, beta if self.shift else 0.0

    def forward(self, x, t):
        alpha, beta = (a.view(*a.shape, *[1] * (x.dim() - 2)) if torch.is_tensor(a) else a for a in self.affine(x, t))
        return alpha * x + beta


class ResBlock(nn.Module):
    """(B, C, sides), t (B, P) -> (B, O, sides / stride); daft stands at `location`, where it is not
    None."""

    def __init__(self, axes, channels, out, stride=1, daft=None, location=None):
        super().__init__()
        Conv, Norm, _ = LAYERS[axes]
        self.daft, self.location = daft, location if daft else None
        self.conv1 = Conv(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = Norm(out, affine=self.location != 3)            # at 3 DAFT scales and shifts in its place
        self.conv2 = Conv(out, out, 3, padding=1, bias=False)
        self.bn2 = Norm(out)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(Conv(channels, out, 1, stride, bias=False), Norm(out))

    def forward(self, x, t=None):
        x = self.at(0, x, t)
        y = self.bn1(self.conv1(self.at(2, x, t)))
        y = F.relu(self.at(3, y, t))
        y = self.bn2(self.conv2(self.at(4, y, t)))
        return F.relu(y + self.shortcut(self.at(1, x, t)))

    def at(self, location, x, t):
        return self.daft(x, t) if location == self.location else x


# -----------------------------------------------------------------------------
# the networks


class ResNet(nn.Module):
    """forward(image, tabular) -> dict: logits {task: (B, outputs)}, features (B, 8 n) of the image (not of
    `linear`).

    `inputs` says what forward takes: image, tabular, or both. image: uint8, or float as normalized."""
    Config = DAFTConfig
    axes = (2, 3)
    defaults = {"lr": 5e-3, "batch_size": 32, "image": None}       # image: volumes as they are
    report = "weights drawn at random"

    def __init__(self, config: DAFTConfig, tasks):
        super().__init__()
        self.config, n, P, axes = config, config.width, config.tabular, len(config.image)
        self.inputs = {"linear": ("tabular",), "image": ("image",)}.get(config.fusion, ("image", "tabular"))
        h, m = 8 * n, max(1, int((4 * n + P) / 7))                 # m is of 4 n wherever DAFT is
        if config.fusion != "linear":
            Conv, Norm, Pool = LAYERS[axes]
            self.stem = nn.Sequential(Conv(config.channels, n, 3, padding=1, bias=False), Norm(n), nn.ReLU(), Pool(2))
            C = h if config.location > 2 else 4 * n                # maps where DAFT stands
            daft = None
            if config.fusion in ("film", "daft"):
                daft = DAFT(C, C if config.fusion == "daft" else 0, P, m, config.scale, config.shift, config.activation,
                            config.identity_init)
            self.blocks = nn.ModuleList([ResBlock(axes, n, n), ResBlock(axes, n, 2 * n, 2), ResBlock(axes, 2 * n, 4 * n, 2),
                                         ResBlock(axes, 4 * n, h, 2, daft, config.location)])
        if config.fusion == "duanmu":                              # factors of the maps before block 1, and each of the next from the last
            self.factors = nn.ModuleList([nn.Sequential(nn.Linear(P, 8, bias=False), nn.ReLU(), nn.Linear(8, n, bias=False)),
                                          *(nn.Linear(a, b, bias=False) for a, b in ((n, n), (n, 2 * n), (2 * n, 4 * n)))])
        if config.fusion in ("concat-2fc", "1fc-concat-1fc"):
            self.hidden = nn.Linear(h + P if config.fusion == "concat-2fc" else P, m)
        seen = {"linear": P, "linear-features": h + P, "concat-1fc": h + P, "concat-2fc": m, "1fc-concat-1fc": h + m}.get(config.fusion, h)
        self.head = make_heads(seen, tasks)
        self.normalize = Normalize(config.mean, config.std, axes)
        if config.fusion == "linear-features":
            self.stem.requires_grad_(False), self.blocks.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if self.config.fusion == "linear-features":                # frozen batch norms neither look at the batch nor learn from it
            self.stem.eval(), self.blocks.eval()
        return self

    def features(self, image, tabular=None):
        """(B, channels, sides) -> h (B, 8 n)."""
        # note: contiguous, since on channels-last pictures oneDNN's AVX2 kernels write past the end (torch 2.13)
        x = self.stem(self.normalize(image).contiguous())
        a = tabular
        for i, block in enumerate(self.blocks):
            if self.config.fusion == "duanmu":
                a = self.factors[i](a)                             # (B, maps)
                x = x * a.view(*a.shape, *[1] * (x.dim() - 2))
            x = block(x, tabular)
        return x.flatten(2).mean(2)

    def forward(self, *inputs):
        batch, fusion = dict(zip(self.inputs, inputs)), self.config.fusion
        h, t = self.features(**batch) if "image" in batch else None, batch.get("tabular")
        z = t if fusion == "linear" else h
        if fusion in ("concat-1fc", "concat-2fc", "linear-features"):
            z = torch.cat([h, t], 1)
        if fusion == "concat-2fc":
            z = F.relu(self.hidden(z))
        if fusion == "1fc-concat-1fc":
            z = torch.cat([h, F.relu(self.hidden(t))], 1)
        return {"logits": {task: head(z) for task, head in self.head.items()}, "features": h}

    @staticmethod
    def add_flags(group):
        group.add_argument("--pretrained", help="run of --model daft whose image network to start from")
        group.add_argument(
            "--fusion", choices=FUSIONS, default="daft",
            help="how image and table meet, the paper's Table 2")
        group.add_argument(
            "--tabular",
            help="columns of the table seen beside the image: COLUMN[:number|category],...; default: "
                 "those that the simulated table offers")
        group.add_argument(
            "--location", type=int, choices=LOCATIONS, default=2,
            help="where daft or film stands in the last block")
        group.add_argument("--activation", choices=ACTIVATIONS, default="identity", help="of the scale")
        group.add_argument(
            "--without", choices=("scale", "shift"),
            help="alpha = 1, or beta = 0 (the paper's Table 3)")
        group.add_argument(
            "--identity-init", action="store_true",
            help="alpha = 1 + ..., and starts as 1")
        group.add_argument(
            "--width", type=int,
            help="n, maps of the first block; default 4 (paper), or the checkpoint's")
        group.add_argument(
            "--train-blocks", type=int,
            help="train only the last k of the four blocks; default: all")

    @staticmethod
    def check_flags(args):
        if args.fusion == "image" and args.tabular:
            raise ValueError("--fusion image sees no table; leave --tabular out")
        if args.fusion == "linear-features" and not args.pretrained:
            raise ValueError("--fusion linear-features needs --pretrained RUN, of --fusion image, whose features it takes")
        if args.pretrained and args.width is not None:
            raise ValueError(f"--width is fixed by --pretrained {args.pretrained}; leave it out")
        if not args.pretrained:
            args.width = args.width or 4

    @staticmethod
    def needs_columns(args):
        return args.fusion != "image"

    @classmethod
    def from_args(cls, args, tasks, columns=()):
        image, channels, width, tensors = sides(args.image), args.channels, args.width, {}
        if args.pretrained:
            from plumbing.weights import read_checkpoint

            tensors, saved, _ = read_checkpoint(args.pretrained)
            if "daft" not in saved:
                raise ValueError(f"--pretrained {args.pretrained}: not a run of --model daft")
            saved = saved["daft"]
            image, channels, width = image or saved["image"], channels or saved["channels"], saved["width"]
        half = (0.5,) * channels
        config = DAFTConfig(image=image, channels=channels, width=width, tabular=sum(column.width for column in columns),
                            fusion=args.fusion, location=args.location, scale=args.without != "scale",
                            shift=args.without != "shift", activation=args.activation,
                            identity_init=args.identity_init, mean=half, std=half)
        model = cls(config, tasks)
        tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(("stem.", "blocks.")) and ".daft." not in key}
        if tensors:
            from plumbing.weights import load_weights

            model.report = load_weights(model, tensors, args.pretrained, ("head.", "hidden.", "factors.", ".daft."))
        return model


@dataclass(frozen=True)
class DAFTViTConfig:
    vit: ViTConfig
    tabular: int                     # P


class DAFTViT(nn.Module):
    """forward(image, tabular) -> dict as ViT's. F are all tokens before the last block, and DAFT starts at
    F' = F, so that pretrained weights start as what they are; m = int((D + P) / 7)."""
    Config = DAFTViTConfig
    inputs = ("image", "tabular")
    axes = (2, 3)

    def __init__(self, config: DAFTViTConfig, tasks=None, vit=None):
        super().__init__()
        self.config, D, P = config, config.vit.dim, config.tabular
        self.vit = vit or ViT(config.vit, tasks)
        self.daft = DAFT(D, D, P, max(1, int((D + P) / 7)), identity_init=True)

    def forward(self, image, tabular):
        vit, tokens = self.vit, self.vit.embed(image)
        for block in vit.blocks[:-1]:
            tokens = block(tokens)
        tokens = self.daft(tokens.transpose(1, 2), tabular).transpose(1, 2)          # features are channels, tokens are places
        tokens, map = vit.blocks[-1](tokens, want_map=True)
        token = vit.norm(tokens[:, 0])
        return {"logits": {task: head(token) for task, head in vit.head.items()}, "map": map[:, :, vit.config.registers:]}

    @staticmethod
    def add_flags(group):
        group.add_argument(
            "--tabular",
            help="columns of the table seen beside the image, through DAFT: "
                 "COLUMN[:number|category],...")

    @classmethod
    def from_args(cls, args, tasks, columns=()):
        vit = ViT.from_args(args, tasks)
        model = cls(DAFTViTConfig(vit.config, sum(column.width for column in columns)), vit=vit)
        model.report = vit.report
        return model


if __name__ == "__main__":
    torch.manual_seed(0)
    batch = {"image": torch.randint(256, (2, 1, 64, 64, 64), dtype=torch.uint8), "tabular": torch.randn(2, 15)}
    for fusion, seen in FUSIONS.items():
        model = ResNet(DAFTConfig(fusion=fusion, tabular=15 * (fusion != "image")), {"diagnosis": 3}).eval()
        with torch.no_grad():
            out = model(*(batch[name] for name in model.inputs))
        shapes = " + ".join(str(tuple(batch[name].shape)) for name in model.inputs)
        print(f"{fusion:15} {sum(p.numel() for p in model.parameters()):6,} params   {shapes:29} -> diagnosis "
              f"{tuple(out['logits']['diagnosis'].shape)}   last Linear sees {seen}")
