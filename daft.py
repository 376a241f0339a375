"""DAFT: a patient's table, together with the image, scales and shifts the feature maps of a network.

    u = [GAP(F) ; t]                        mean of each feature map (global average pool), and the table
    [a_alpha ; a_beta] = W2 relu(W1 u)      no biases, m hidden units               Pölsterl et al. 2021
    F'[c] = sigma(a_alpha[c]) F[c] + a_beta[c]        sigma: identity, tanh or sigmoid

FiLM (Perez et al. 2018) is the same with u = t. The network is a 3-D ResNet: conv, pool, four residual
blocks of n, 2n, 4n and 8n maps, GAP, Linear. DAFT stands in its last block, at one of five places:

    y = relu(bn1(conv1(x)))                 0 before the block, 1 before the shortcut, 2 before conv1 (the
    x = relu(bn2(conv2(y)) + shortcut(x))   paper's), 3 before the first relu (bn1 then has no affine of its
                                            own), 4 before conv2

FUSIONS lists what the paper compares it with. alpha is not 1 + something: it starts near 0, which almost
erases the path that DAFT stands in, and where all m hidden units of a sample are 0, alpha = beta = 0.
identity_init starts at F' = F instead. DAFTViT puts the same transform before the last block of a ViT.

B samples, C maps, P columns of the table, n width, m = int((4 n + P) / 7) hidden units, h (B, 8 n) the
image's features, t (B, P). Differs: written from the equations alone. A fixed mean and std normalize the
images, not minimum and maximum of each; it works on pictures too; tasks share all but the last Linear.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vit import Normalize, ViT, ViTConfig, make_heads

LOCATIONS = (0, 1, 2, 3, 4)          # balanced accuracy .598 .616 .622 .622 .612 in the paper's Table 3
ACTIVATIONS = {"identity": nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
LAYERS = {2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), 3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)}

# -----------------------------------------------------------------------------
# the rows of Table 2: what the last Linear sees, from h and t


def table_alone(net, h, t):
    return t


def features_alone(net, h, t):
    """h, which with duanmu, film and daft depends on the table already."""
    return h


def concat_1fc(net, h, t):
    return torch.cat([h, t], 1)


def concat_2fc(net, h, t):
    return F.relu(net.hidden(torch.cat([h, t], 1)))


def one_fc_concat_1fc(net, h, t):
    return torch.cat([h, F.relu(net.hidden(t))], 1)


FUSIONS = {  # in the paper's Table 2: balanced accuracy; c-index, the pairs of patients in the right order
    "linear": table_alone,           # .552 .719
    "image": features_alone,         # .504 .599, the ResNet alone
    "linear-features": concat_1fc,   # .559 .693, h of a frozen ResNet
    "concat-1fc": concat_1fc,        # .587 .729
    "concat-2fc": concat_2fc,        # .576 .725
    "1fc-concat-1fc": one_fc_concat_1fc,  # .591 .723
    "duanmu": features_alone,        # .578 .706, maps multiplied by W..W relu(W t) before every block
    "film": features_alone,          # .601 .712, maps in the last block scaled and shifted by t
    "daft": features_alone,          # .622 .748, the same by [GAP ; t]
}


@dataclass(frozen=True)
class DAFTConfig:
    image: tuple = (64, 64, 64)      # px, one entry for each axis
    channels: int = 1
    width: int = 4                   # n, maps of the first block
    tabular: int = 15                # P; 0 for the image alone
    fusion: str = "daft"             # a key of FUSIONS
    location: int = 2                # of DAFT or FiLM in the last block
    scale: bool = True               # False: alpha = 1
    shift: bool = True               # False: beta = 0
    activation: str = "identity"     # sigma, a key of ACTIVATIONS
    identity_init: bool = False      # alpha = 1 + sigma(a), and W2 starts at zero
    mean: tuple = (0.5,)             # of the normalization, in units of 0..1, one entry per channel
    std: tuple = (0.5,)

    def __post_init__(self):
        from plumbing.checks import check_daft
        check_daft(self, FUSIONS, LOCATIONS, ACTIVATIONS)


# -----------------------------------------------------------------------------
# the paper's block


def over_space(a, x):
    """(B, C) -> (B, C, 1, ...) with as many axes as x: one number for each map."""
    return a.view(a.shape + (1,) * (x.dim() - 2))


class DAFT(nn.Module):
    """x (B, C, ...), t (B, P) -> (B, C, ...). u holds the means of `pooled` maps: C, or 0 for FiLM."""

    def __init__(self, channels, pooled, tabular, hidden,
                 scale=True, shift=True, activation="identity", identity_init=False):
        super().__init__()
        self.pooled, self.scale, self.shift = pooled, scale, shift
        self.start = float(identity_init)                          # what sigma(a_alpha) is added to
        self.W1 = nn.Linear(pooled + tabular, hidden, bias=False)
        self.W2 = nn.Linear(hidden, (scale + shift) * channels, bias=False)  # for both, or one of the two
        self.sigma = ACTIVATIONS[activation]()
        if identity_init:
            nn.init.zeros_(self.W2.weight)

    def affine(self, x, t, mask=None):
        """-> alpha, beta: (B, C) each. mask (B, T): False for padding."""
        u = t
        if self.pooled:
            mean = x.flatten(2).mean(2)
            if mask is not None:
                mean = (x * mask[:, None]).sum(2) / mask.sum(1, keepdim=True)
            u = torch.cat([mean, t], 1)                            # (B, C + P)
        a = self.W2(F.relu(self.W1(u)))
        if not self.scale:
            return torch.ones_like(a), a
        if not self.shift:
            return self.start + self.sigma(a), torch.zeros_like(a)
        a_alpha, a_beta = a.chunk(2, 1)
        return self.start + self.sigma(a_alpha), a_beta

    def forward(self, x, t, mask=None):
        alpha, beta = self.affine(x, t, mask)
        return over_space(alpha, x) * x + over_space(beta, x)


class ResBlock(nn.Module):
    """(B, C, sides), t (B, P) -> (B, O, sides / stride); daft, if there is one, stands at `location`."""

    def __init__(self, axes, channels, out, stride=1, daft=None, location=None):
        super().__init__()
        Conv, Norm, _ = LAYERS[axes]
        self.daft = daft
        self.location = location if daft else None
        self.conv1 = Conv(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = Norm(out, affine=self.location != 3)            # at 3 DAFT scales and shifts instead
        self.conv2 = Conv(out, out, 3, padding=1, bias=False)
        self.bn2 = Norm(out)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(Conv(channels, out, 1, stride, bias=False), Norm(out))

    def forward(self, x, t=None):
        x = self.daft_at(0, x, t)
        y = self.bn1(self.conv1(self.daft_at(2, x, t)))
        y = F.relu(self.daft_at(3, y, t))
        y = self.bn2(self.conv2(self.daft_at(4, y, t)))
        return F.relu(y + self.shortcut(self.daft_at(1, x, t)))

    def daft_at(self, location, x, t):
        return self.daft(x, t) if location == self.location else x


# -----------------------------------------------------------------------------
# the networks


class ResNet(nn.Module):
    """forward(image, tabular) -> dict: logits {task: (B, outputs)}, features (B, 8 n), None for `linear`.
    `inputs` says what forward takes: image, tabular, or both. image: uint8, or float as normalized."""
    Config = DAFTConfig
    inputs = ("image", "tabular")
    axes = (2, 3)
    defaults = {"lr": 5e-3, "batch_size": 32, "image": None}       # image: volumes keep their size

    def __init__(self, config: DAFTConfig, tasks):
        super().__init__()
        self.config = config
        n, P, fusion = config.width, config.tabular, config.fusion
        h, m = 8 * n, max(1, int((4 * n + P) / 7))
        self.inputs = {"linear": ("tabular",), "image": ("image",)}.get(fusion, self.inputs)
        if fusion != "linear":
            self.make_blocks(config, m)
        widths = {"linear": P, "linear-features": h + P, "concat-1fc": h + P, "concat-2fc": m,
                  "1fc-concat-1fc": h + m}                         # of what FUSIONS gives; others: h
        if fusion == "duanmu":                                     # a factor per map, before each block
            first = nn.Sequential(nn.Linear(P, 8, bias=False), nn.ReLU(), nn.Linear(8, n, bias=False))
            self.factors = nn.ModuleList([first])
            for old, new in ((n, n), (n, 2 * n), (2 * n, 4 * n)):  # made from the factors before
                self.factors.append(nn.Linear(old, new, bias=False))
        if fusion in ("concat-2fc", "1fc-concat-1fc"):
            self.hidden = nn.Linear(h + P if fusion == "concat-2fc" else P, m)
        self.head = make_heads(widths.get(fusion, h), tasks)
        self.normalize = Normalize(config.mean, config.std, len(config.image))
        if fusion == "linear-features":
            self.stem.requires_grad_(False)
            self.blocks.requires_grad_(False)

    def make_blocks(self, config, m):
        n, axes = config.width, len(config.image)
        Conv, Norm, Pool = LAYERS[axes]
        conv = Conv(config.channels, n, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, Norm(n), nn.ReLU(), Pool(2))
        daft = None
        if config.fusion in ("film", "daft"):
            C = 8 * n if config.location > 2 else 4 * n            # maps where it stands
            pooled = C if config.fusion == "daft" else 0
            daft = DAFT(C, pooled, config.tabular, m, config.scale, config.shift, config.activation,
                        config.identity_init)
        self.blocks = nn.ModuleList([
            ResBlock(axes, n, n), ResBlock(axes, n, 2 * n, 2), ResBlock(axes, 2 * n, 4 * n, 2),
            ResBlock(axes, 4 * n, 8 * n, 2, daft, config.location)])

    def train(self, mode=True):
        super().train(mode)
        if self.config.fusion == "linear-features":                # frozen, batch norm too
            self.stem.eval()
            self.blocks.eval()
        return self

    def features(self, image, t):
        """(B, channels, sides) -> h (B, 8 n)."""
        # note: on channels-last pictures oneDNN's AVX2 kernels write past the end (torch 2.13)
        x = self.stem(self.normalize(image).contiguous())
        factor = t
        for i, block in enumerate(self.blocks):
            if self.config.fusion == "duanmu":
                factor = self.factors[i](factor)                   # (B, maps of x)
                x = x * over_space(factor, x)
            x = block(x, t)
        return x.flatten(2).mean(2)

    def forward(self, *inputs):
        batch = dict(zip(self.inputs, inputs))
        t, h = batch.get("tabular"), None
        if "image" in batch:
            h = self.features(batch["image"], t)
        z = FUSIONS[self.config.fusion](self, h, t)
        return {"logits": {task: head(z) for task, head in self.head.items()}, "features": h}

    @staticmethod
    def add_flags(group):
        add = group.add_argument
        add("--pretrained", help="run of --model daft whose image network to start from")
        add("--fusion", choices=FUSIONS, default="daft", help="a row of the paper's Table 2")
        add("--tabular", help="columns that it sees, COLUMN[:number|category],...; default: the cohort's")
        add("--location", type=int, choices=LOCATIONS, default=2, help="of daft or film in the last block")
        add("--activation", choices=ACTIVATIONS, default="identity", help="sigma, of the scale")
        add("--without", choices=("scale", "shift"), help="alpha = 1, or beta = 0 (Table 3)")
        add("--identity-init", action="store_true", help="alpha = 1 + ..., and starts as 1")
        add("--width", type=int, help="n, maps of the first block; default 4")
        add("--train-blocks", type=int, help="freeze all 4 blocks but the last k; default: none")

    @staticmethod
    def check_flags(args):
        from plumbing.sizes import refuse_flags
        own = args.location, args.activation, args.without, args.identity_init
        if args.fusion not in ("film", "daft") and own != (2, "identity", None, False):
            raise ValueError("--location, --activation, --without and --identity-init are of --fusion daft "
                             f"and film, not of {args.fusion}")
        if args.fusion == "linear-features" and not args.pretrained:
            raise ValueError("--fusion linear-features needs --pretrained RUN, of --fusion image, "
                             "whose features it takes")
        if args.pretrained:
            refuse_flags(args, "width")
        else:
            args.width = args.width or 4

    @staticmethod
    def needs_columns(args):
        return args.fusion != "image"

    @classmethod
    def from_args(cls, args, tasks, columns=()):
        from plumbing.sizes import sides
        from plumbing.weights import load_weights, read_checkpoint, run_config
        saved = {"width": args.width}
        if args.pretrained:
            tensors, config, _, _ = read_checkpoint(args.pretrained)
            saved = run_config(config)
            weights = {name: tensor for name, tensor in tensors.items()
                       if name.startswith(("stem.", "blocks.")) and ".daft." not in name}
            if "width" not in saved or not weights:
                raise ValueError(f"--pretrained {args.pretrained}: not a run of --model daft with a ResNet")
        channels = args.channels or saved["channels"]
        half = (0.5,) * channels
        model = cls(DAFTConfig(
            image=sides(args.image) or tuple(saved["image"]), channels=channels, width=saved["width"],
            tabular=sum(column.width for column in columns), fusion=args.fusion, location=args.location,
            scale=args.without != "scale", shift=args.without != "shift", activation=args.activation,
            identity_init=args.identity_init, mean=half, std=half), tasks)
        if args.pretrained:
            new = ("head.", "hidden.", "factors.", ".daft.")       # may be absent from the file
            model.report = load_weights(model, weights, args.pretrained, new)
        return model


@dataclass(frozen=True)
class DAFTViTConfig:
    vit: ViTConfig
    tabular: int                     # P


class DAFTViT(nn.Module):
    """forward(image, tabular) -> dict as ViT's. F are all tokens before the last block; DAFT starts at
    F' = F, so that a pretrained ViT is what it was; m = int((D + P) / 7)."""
    Config = DAFTViTConfig
    inputs = ("image", "tabular")
    axes = (0, 2, 3)

    def __init__(self, config: DAFTViTConfig, tasks=None, vit=None):
        super().__init__()
        self.config = config
        if not config.vit.image:
            self.inputs = ("bag", "tabular", "bag_mask")
        D, P = config.vit.dim, config.tabular
        self.vit = vit or ViT(config.vit, tasks)
        self.daft = DAFT(D, D, P, max(1, int((D + P) / 7)), identity_init=True)

    def forward(self, image, tabular, mask=None):
        vit = self.vit
        if mask is not None:                                       # class token and registers are no padding
            mask = F.pad(mask, (vit.config.prefix, 0), value=True)
        tokens = vit.embed(image)
        for block in vit.blocks[:-1]:
            tokens, _ = block(tokens, mask)
        maps = tokens.transpose(1, 2)                              # features are maps, tokens are places
        tokens = self.daft(maps, tabular, mask).transpose(1, 2)
        tokens, class_map = vit.blocks[-1](tokens, mask, want_map=True)
        y = vit.pool(tokens, vit.norm(tokens), mask)
        logits = {task: head(y) for task, head in vit.head.items()}
        return {"logits": logits, "map": class_map}

    @staticmethod
    def add_flags(group):
        group.add_argument("--tabular", help="columns seen with the image: COLUMN[:number|category],...")

    @classmethod
    def from_args(cls, args, tasks, columns):
        vit = ViT.from_args(args, tasks)
        model = cls(DAFTViTConfig(vit.config, sum(column.width for column in columns)), vit=vit)
        model.report = vit.report
        return model


if __name__ == "__main__":
    from plumbing.sizes import count
    for fusion in FUSIONS:
        tabular = 0 if fusion == "image" else 15
        model = ResNet(DAFTConfig(fusion=fusion, tabular=tabular), {"diagnosis": 3})
        print(f"{fusion:15} {count(model):6,} parameters:", *model.inputs)
