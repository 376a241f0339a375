"""CrossViT: one image cut into small and into large patches, two Vision Transformers that exchange their class tokens.

    X_b = ViT blocks(X_b)                               for both branches b; o is the other one
    u   = [f_b(cls_b) ; patches_o]                      my class token among the other branch's patches
    y   = u[0] + softmax(q K^T / sqrt(d)) V             q from LN(u[0]) alone, K and V from LN(u): linear in T
    X_b = [g_b(y) ; patches_b]                          only the class token has changed; K times these four lines
    logits = mean over b of head_b(LN(cls_b))           Chen et al. 2021, arXiv 2103.14899, section 3.3
and the fusions that the paper compares this with (Table 6).

B samples, P patch side in pixels, T patches, D width, H heads of a branch; K encoders of N and M blocks; r ratio of the MLP.
Branch 0 is S (small patches, narrow, N blocks), branch 1 is L (large, wide, M blocks). A pair is always (S, L).
Differs: f and g, projections in the paper, are LayerNorm, GELU, Linear in the released code and here. There, the first of
several cross attentions returns the class token alone, so the next ones see one key (Table 7 row D was measured so): kept.
The other fusions were not released; here they have the published FLOPs: `class` and `pairwise` project S into the width
of L and back, `all` projects both branches. The paper's "interpolate" is bilinear here, a guess.
Parameter names are the released ones, but for the heads, of which there is one a task.
Run: python crossvit.py
"""
import re
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from attention import Attention
from plumbing.architecture import read_image_size
from plumbing.checkpoints import read_checkpoint
from plumbing.weights import PREFIX, check_size, from_dict, load_weights, resize_pos_embed, spread_channels
from vit import Block, PatchEmbed, ViTConfig, init_weights

FUSIONS = ("cross", "none", "class", "pairwise", "all")
VARIANTS = {  # name: stem, D of S and L, H, N and M, r (Table 1), patches per side of S and L: 240 and 224 px, 408/384, 504/480
    "Ti": ("linear", (96, 192), 3, (1, 4), 4, (20, 14)),
    "S": ("linear", (192, 384), 6, (1, 4), 4, (20, 14)),
    "B": ("linear", (384, 768), 12, (1, 4), 4, (20, 14)),
    "9": ("linear", (128, 256), 4, (1, 3), 3, (20, 14)),
    "15": ("linear", (192, 384), 6, (1, 5), 3, (20, 14)),
    "18": ("linear", (224, 448), 7, (1, 6), 3, (20, 14)),
    "9+": ("conv", (128, 256), 4, (1, 3), 3, (20, 14)),            # + is the paper's dagger
    "15+": ("conv", (192, 384), 6, (1, 5), 3, (20, 14)),
    "18+": ("conv", (224, 448), 7, (1, 6), 3, (20, 14)),
    "15+@384": ("conv", (192, 384), 6, (1, 5), 3, (34, 24)),
    "18+@384": ("conv", (224, 448), 7, (1, 6), 3, (34, 24)),
    "18+@480": ("conv", (224, 448), 7, (1, 6), 3, (42, 30)),
}
STEMS = {12: ((7, 4, 3), (3, 3, 0), (3, 1, 1)), 16: ((7, 4, 3), (3, 2, 1), (3, 2, 1))}   # P: kernel, stride, padding of 3 conv


@dataclass(frozen=True)
class CrossViTConfig:
    """Architecture only; asdict() of it is what config.json stores. Pairs are (S, L)."""
    grids: tuple = ((20, 20), (14, 14))    # (rows, columns) of patches
    patch: tuple = (12, 16)                # P, px
    channels: int = 3
    dims: tuple = (192, 384)               # D
    depths: tuple = (1, 5)                 # N, M: blocks of an encoder
    encoders: int = 3                      # K
    heads: int = 6                         # H, in both branches
    mlp: int = 3                           # r, hidden units of the MLP / D
    stem: str = "linear"                   # or conv: three convolutions cut the patches, not one
    fusion: str = "cross"                  # one of FUSIONS
    cross_depth: int = 1                   # the paper's L, cross attentions in a row
    attention: str = "softmax"             # of the self-attention, one of attention.KINDS
    dropout: float = 0.0
    drop_path: float = 0.0                 # stochastic depth, rising to this rate in the last encoder
    mean: tuple = (0.485, 0.456, 0.406)    # of ImageNet
    std: tuple = (0.229, 0.224, 0.225)

    def __post_init__(self):
        object.__setattr__(self, "grids", tuple(map(tuple, self.grids)))
        for name in ("patch", "dims", "depths", "mean", "std"):    # lists, when read from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        pairs, counts = (self.grids, *self.grids, self.patch, self.dims, self.depths), (self.encoders, self.mlp, self.cross_depth)
        if any(len(pair) != 2 for pair in pairs) or any(not isinstance(n, int) or not 0 < n < 100 for n in counts):
            raise ValueError(f"grids, patch, dims and depths are pairs, encoders, mlp and cross_depth in 1 .. 99; not so in {self}")
        if self.fusion not in FUSIONS or self.cross_depth > 1 and self.fusion != "cross":
            raise ValueError(f"fusion {self.fusion!r}, depth {self.cross_depth}: use {', '.join(FUSIONS)}; depth needs cross")
        if self.stem not in ("linear", "conv") or self.stem == "conv" and not set(self.patch) <= set(STEMS):
            raise ValueError(f"stem {self.stem!r} with patches of {self.patch} px: use linear, or conv with 12 or 16 px")
        self.branches                                              # where ViTConfig checks the rest

    @property
    def branches(self):
        """(S, L): what each branch is as a ViT."""
        return tuple(ViTConfig(
            image=tuple(g * P for g in grid), patch=(P, P), channels=self.channels, dim=D, depth=depth, heads=self.heads,
            mlp=self.mlp * D, attention=self.attention, dropout=self.dropout, mean=self.mean, std=self.std)
            for grid, P, D, depth in zip(self.grids, self.patch, self.dims, self.depths))

    @property
    def image(self):
        """(height, width) in px of the images that forward() takes: S's."""
        return self.branches[0].image


def variant(name, image=None, **changes):
    """-> CrossViTConfig of one of VARIANTS; image: (height, width) in px; changes: other fields."""
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} is not known; use one of {', '.join(VARIANTS)}")
    stem, dims, heads, depths, mlp, sides = VARIANTS[name]
    config = CrossViTConfig([(side, side) for side in sides], dims=dims, depths=depths, heads=heads, mlp=mlp, stem=stem)
    config = replace(config, **changes)
    return at_size(config, image) if image else config


def at_size(config, image):
    """The config for images of (height, width) px. L sees 14/15 of S's pixels, rounded up to whole patches, in integers:
    240 -> 224, 408 -> 384, 504 -> 480 as in the paper."""
    P, Q = config.patch
    if any(side < P or side % P for side in image):
        near = [tuple(max(side // P + more, 1) * P for side in image) for more in (0, 1)]
        raise ValueError(f"image {tuple(image)} px is not a multiple of CrossViT's small patch, {P} px; use {near[0]} or {near[1]}")
    if tuple(image) == config.image:
        return config
    return replace(config, grids=([side // P for side in image], [-(-14 * side // (15 * Q)) for side in image]))


# -----------------------------------------------------------------------------
# the fusions of Table 6; cls (B, 1, D_b) and patches (B, T_b, D_b) are pairs and come back as pairs
# f[b]: from branch b into the width of the other (`all`: into the width of L), g[b]: back


def class_fusion(cls, patches, f, g):
    """Both class tokens become their sum, taken in the width of L."""
    c = f[0](cls[0]) + cls[1]                                      # (B, 1, D_L)
    return (g[0](c), c), patches


def pairwise_fusion(cls, patches, f, g, grids):
    """The same, and each patch is added to what the other branch has at its place in the image."""
    S, L = f[0](patches[0]), patches[1]                            # both of width D_L
    cls, _ = class_fusion(cls, patches, f, g)
    return cls, (g[0](S + resize(L, grids[1], grids[0])), L + resize(S, grids[0], grids[1]))


def all_fusion(cls, patches, f, g, attend):
    """Self-attention over all tokens of both branches, in the width of L: quadratic in T_S + T_L."""
    y, _ = attend(torch.cat([f[b](x) for b in (1, 0) for x in (cls[b], patches[b])], 1))     # (B, 1 + T_L + 1 + T_S, D_L)
    cls_L, L, cls_S, S = y.split([1, patches[1].shape[1], 1, patches[0].shape[1]], 1)
    return (g[0](cls_S), g[1](cls_L)), (g[0](S), g[1](L))


def cross_fusion(cls, patches, f, g, attend):
    """Each class token attends to the other branch's patches, in the other's width; both see the tokens before fusion.

    Also returns the weights, (B, H, T_S) and (B, H, T_L): what each branch's patches got from the other's class token."""
    new, weights = [], []
    for b, o in ((0, 1), (1, 0)):
        y, row = attend[b][0](torch.cat([f[b](cls[b]), patches[o]], 1))          # (B, 1, D_o), (B, H, T_o)
        for again in attend[b][1:]:
            y, _ = again(y)                                        # note: one token attends to itself, as released
        new.append(g[b](y))                                        # (B, 1, D_b)
        weights.insert(0, row)
    return new, patches, weights


def resize(x, old, new):
    """(B, T, D) on the grid `old` -> on the grid `new`."""
    x = x.transpose(1, 2).unflatten(2, old)                        # (B, D, rows, columns)
    return F.interpolate(x, size=new, mode="bilinear").flatten(2).transpose(1, 2)


# -----------------------------------------------------------------------------
# modules


class CrossAttention(nn.Module):
    """(B, 1 + T, D) -> (B, 1, D): token 0 asks, all answer; and its weights of the others, (B, H, T).

    One query needs no keys and values: q (W_k x + b_k) = (W_k' q) x + q b_k, and the weights sum to 1, so that
    sum w (W_v x + b_v) = W_v (sum w x) + b_v. That leaves T D H products for T D^2 (attn is the same to the last digits)."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.wq, self.wk, self.wv, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x, want_map=True):                           # called as attention.Attention is
        q, b_k = (y.unflatten(-1, (self.heads, -1)) for y in (self.wq(x[:, 0]), self.wk.bias))    # (B, H, d), (H, d)
        w_k, w_v = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.wk, self.wv))  # (H, d, D)
        q = q * q.shape[-1] ** -0.5
        scores = torch.einsum("bhd,hdD->bhD", q, w_k) @ x.mT + (q * b_k).sum(-1, keepdim=True)    # (B, H, 1 + T)
        weights = scores.softmax(-1)
        y = torch.einsum("bhD,hdD->bhd", weights @ x, w_v)
        return self.proj(y.flatten(1)[:, None] + self.wv.bias), weights[:, :, 1:]


class Attend(nn.Module):
    """x -> x + attn(LN(x)) for those tokens that attn answers for, and its map: a ViT block without the MLP."""

    def __init__(self, attn, vit: ViTConfig, drop_path):
        super().__init__()
        self.norm1 = nn.LayerNorm(vit.dim, eps=vit.eps)
        self.attn = attn
        self.dropout, self.drop_path = vit.dropout, drop_path

    def forward(self, x):
        y, map = self.attn(self.norm1(x), want_map=True)
        keep = F.dropout(y.new_ones(len(y), 1, 1), self.drop_path, self.training)            # stochastic depth
        return x[:, :y.shape[1]] + F.dropout(y, self.dropout, self.training) * keep, map


class Encoder(nn.Module):
    """A pair of tokens (B, 1 + T_b, D_b) -> cls, patches, maps: N blocks in S, M in L, then one fusion.

    drop_path: the rate of each block, the last is also that of the fusion."""

    def __init__(self, config: CrossViTConfig, drop_path):
        super().__init__()
        self.fuse, self.grids, self.cross_depth = config.fusion, config.grids, config.cross_depth
        S, L = config.branches
        self.blocks = nn.ModuleList([nn.ModuleList([Block(vit, drop_path[i]) for i in range(vit.depth)]) for vit in (S, L)])
        pairs = {"none": (), "cross": ((S, L), (L, S)), "all": ((S, L), (L, L))}.get(config.fusion, ((S, L),))    # from, into
        project = lambda a, b: nn.Sequential(nn.LayerNorm(a.dim, eps=a.eps), nn.GELU(), nn.Linear(a.dim, b.dim))
        self.projs = nn.ModuleList([project(a, b) for a, b in pairs])            # f
        self.revert_projs = nn.ModuleList([project(b, a) for a, b in pairs])     # g
        if config.fusion == "all":
            self.fusion = Attend(Attention(L.dim, L.heads, kind=L.attention), L, drop_path[-1])
        if config.fusion == "cross":
            attend = lambda o: Attend(CrossAttention(o.dim, o.heads), o, drop_path[-1])
            self.fusion = nn.ModuleList([attend(o) if config.cross_depth == 1 else
                                         nn.ModuleList([attend(o) for _ in range(config.cross_depth)]) for o in (L, S)])

    def forward(self, tokens, want_map=False):
        f, g, halves, maps = self.projs, self.revert_projs, [], {"map": []}
        for blocks, x in zip(self.blocks, tokens):
            for block in blocks[:-1]:
                x = block(x)
            x = blocks[-1](x, want_map=want_map)
            x, map = x if want_map else (x, None)
            halves.append(x.split([1, x.shape[1] - 1], 1))
            maps["map"].append(map)
        cls, patches = zip(*halves)
        if self.fuse == "class":
            cls, patches = class_fusion(cls, patches, f, g)
        elif self.fuse == "pairwise":
            cls, patches = pairwise_fusion(cls, patches, f, g, self.grids)
        elif self.fuse == "all":
            cls, patches = all_fusion(cls, patches, f, g, self.fusion)
        elif self.fuse == "cross":
            attend = self.fusion if self.cross_depth > 1 else [[one] for one in self.fusion]
            cls, patches, maps["cross_map"] = cross_fusion(cls, patches, f, g, attend)
        return cls, patches, maps


def patch_embed(vit: ViTConfig, stem):
    """One convolution, or three with ReLU between them."""
    embed = PatchEmbed(vit)
    if stem == "conv":
        dims = (vit.channels, vit.dim // 4, vit.dim // 2, vit.dim)
        a, b, c = (nn.Conv2d(*dims[i:i + 2], *shape) for i, shape in enumerate(STEMS[vit.patch[0]]))
        embed.proj = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c)
    return embed


class CrossViT(nn.Module):
    """forward(image) -> dict; tasks: {name: outputs}, for each a Linear head on the class token of either branch.

    logits         {task: (B, outputs)}, the mean of both branches
    branch_logits  {task: (B, 2, outputs)}, S and L apart (Table 6: does one branch do all the work?)
    map            (B, H, T_S) and (B, H, T_L): class token to the patches of its own branch, self-attention, last block
    cross_map      the same, from the class token of the other branch, last cross attention: figure 4 (fusion cross only)"""
    inputs = ("image",)

    def __init__(self, config: CrossViTConfig, tasks=None):
        super().__init__()
        self.config = config
        self.vits = vits = config.branches
        self.patch_embed = nn.ModuleList([patch_embed(vit, config.stem) for vit in vits])
        self.cls_token = nn.ParameterList([torch.zeros(1, 1, vit.dim) for vit in vits])
        self.pos_embed = nn.ParameterList([torch.zeros(1, 1 + vit.tokens, vit.dim) for vit in vits])
        steps = max(config.depths) + (config.cross_depth if config.cross_depth > 1 else 0)      # note: as released
        rates = [config.drop_path * i / max(1, config.encoders * steps - 1) for i in range(config.encoders * steps)]
        self.blocks = nn.ModuleList([Encoder(config, rates[k * steps:(k + 1) * steps]) for k in range(config.encoders)])
        self.norm = nn.ModuleList([nn.LayerNorm(vit.dim, eps=vit.eps) for vit in vits])
        self.head = nn.ModuleList([
            nn.ModuleDict({task: nn.Linear(vit.dim, outputs) for task, outputs in (tasks or {}).items()}) for vit in vits])
        self.drop = nn.Dropout(config.dropout)
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        self.apply(init_weights)
        for token in (*self.cls_token, *self.pos_embed):
            nn.init.trunc_normal_(token, std=0.02)

    def embed(self, image):
        """(B, C, height, width) at S's size -> a pair of tokens (B, 1 + T_b, D_b); L's image is S's, resized."""
        if image.shape[-2:] != self.vits[0].image:
            raise ValueError(f"image of {tuple(image.shape[-2:])} px, this CrossViT takes {self.vits[0].image}")
        if image.dtype == torch.uint8:
            image = (image / 255 - self.mean) / self.std
        tokens = []
        for b, vit in enumerate(self.vits):
            x = image if image.shape[-2:] == vit.image else F.interpolate(image, size=vit.image, mode="bicubic")
            x = torch.cat([self.cls_token[b].expand(len(x), -1, -1), self.patch_embed[b](x)], 1)
            tokens.append(self.drop(x + self.pos_embed[b]))
        return tokens

    def forward(self, image):
        tokens = self.embed(image)
        for encoder in self.blocks:
            last = encoder is self.blocks[-1]
            cls, patches, maps = encoder(tokens, want_map=last)
            tokens = None if last else [torch.cat(halves, 1) for halves in zip(cls, patches)]
        cls = [norm(x[:, 0]) for norm, x in zip(self.norm, cls)]   # (B, D)
        branch_logits = {task: torch.stack([head[task](x) for head, x in zip(self.head, cls)], 1) for task in self.head[0]}
        return {"logits": {task: both.mean(1) for task, both in branch_logits.items()}, "branch_logits": branch_logits, **maps}

    @classmethod
    def from_pretrained(cls, name, image=None, channels=None, tasks=None, **changes):
        """-> CrossViT with the weights of `name`, a file of IBM/CrossViT, timm or ours, as ViT.from_pretrained.

        image: (height, width) in px, both position embeddings are resized; channels: the kernels are summed or spread;
        changes: other fields of CrossViTConfig. What was loaded, resized and new stands in `.report`."""
        tensors, config, _ = read_checkpoint(name)
        tensors = our_names(tensors, *(tasks if tasks and len(tasks) == 1 else ()))
        config, notes = read_config(name, tensors, config, changes.get("heads")), []
        resized = at_size(config, image) if image else config
        for b, (old, new) in enumerate(zip(config.grids, resized.grids)):
            if old != new and (key := f"pos_embed.{b}") in tensors and tensors[key].shape[1:2] == (1 + old[0] * old[1],):
                tensors[key] = resize_pos_embed(tensors[key], old, new)
                notes.append(f"resized {key} {old[0]}x{old[1]} -> {new[0]}x{new[1]}")
        if channels and channels != config.channels:
            for key in [key for key in tensors if re.fullmatch(r"patch_embed\.[01]\.proj(\.0)?\.weight", key)]:
                tensors[key] = spread_channels(tensors[key], channels)
            notes.append(f"patch_embed from {config.channels} to {channels} channels")
            mean, std = ((sum(x) / len(x),) * channels for x in (config.mean, config.std))
            resized = replace(resized, channels=channels, mean=mean, std=std)
        check_size(lambda: cls(resized), tensors, name)
        model = cls(replace(resized, **changes), tasks)
        new = ("head.", *(["seq_scale", "seq_shift"] if model.config.attention == "seqnorm" else []))
        model.report = load_weights(model, tensors, name, new, notes)
        return model


# -----------------------------------------------------------------------------
# names and architecture of the released files


def our_names(tensors, task=None):
    """IBM's names, or timm's with their pos_embed_0, -> ours; the one head they have becomes that of `task`, if given."""
    names = {key: re.sub(r"^(pos_embed|cls_token)_(?=[01]$)", r"\1.", PREFIX.sub("", key)) for key in tensors}
    if task:
        names = {key: re.sub(r"^head\.[01]\.(?=(weight|bias)$)", lambda m: f"{m[0]}{task}.", name) for key, name in names.items()}
    return {names[key]: tensor for key, tensor in tensors.items()}


def released_names(tensors, timm=False):
    """Our names -> IBM's, or timm's; ValueError when there is more than one task."""
    tasks = {key.split(".")[2] for key in tensors if key.startswith("head.")}
    if len(tasks) > 1:
        raise ValueError(f"the released CrossViT has one head a branch, this model has the tasks {', '.join(sorted(tasks))}")
    names = {key: re.sub(r"^(head\.[01])\.[^.]+(?=\.\w+$)", r"\1", key) for key in tensors}
    if timm:
        names = {key: re.sub(r"^(pos_embed|cls_token)\.", r"\1_", name) for key, name in names.items()}
    return {names[key]: tensor for key, tensor in tensors.items()}


def read_config(name, tensors, config, heads=None):
    """Tensors under our names and config.json ({} where absent) -> CrossViTConfig; sizes come from the tensors."""
    if "crossvit" in config:                                       # written by train.py
        return from_dict(CrossViTConfig, config["crossvit"], name)

    def size(key, axis):
        if key not in tensors or tensors[key].dim() <= axis:
            raise ValueError(f"{name} is not a CrossViT this code knows: {key} is missing or has the wrong number of axes "
                             f"(the file has {', '.join(list(tensors)[:4])} ...)")
        return tensors[key].shape[axis]

    def count(start):
        return 1 + max((int(m[1]) for key in tensors if (m := re.match(re.escape(start) + r"(\d+)\.", key))), default=-1)

    conv = "patch_embed.0.proj.0.weight" in tensors                # whose kernels do not tell P
    kernels = [f"patch_embed.{b}.proj{'.0' * conv}.weight" for b in (0, 1)]
    patch = [P if conv else size(key, 3) for P, key in zip((12, 16), kernels)]
    dims = tuple(size(f"pos_embed.{b}", 2) for b in (0, 1))
    images = [read_image_size(name, size(f"pos_embed.{b}", 1) - 1, (P, P), None) for b, P in enumerate(patch)]
    channels, mlp = size(kernels[0], 1), size("blocks.0.blocks.0.0.mlp.fc1.weight", 0) // dims[0]
    heads = heads or {dims: heads for _, dims, heads, *_ in VARIANTS.values()}.get(dims)
    if not heads:
        raise ValueError(f"{name}: widths {dims} are of no known variant, and the number of heads is not in the file; give heads=")
    timm = config.get("pretrained_cfg", config)
    mean, std = (timm.get(x) or getattr(CrossViTConfig, x) if channels == 3 else (0.5,) * channels for x in ("mean", "std"))
    return CrossViTConfig(
        grids=[[side // P for side in image] for image, P in zip(images, patch)], patch=patch, channels=channels, dims=dims,
        depths=[count(f"blocks.0.blocks.{b}.") for b in (0, 1)], encoders=count("blocks."), heads=heads, mlp=mlp,
        stem="conv" if conv else "linear", fusion="cross" if count("blocks.0.fusion.") else "none",
        cross_depth=max(1, count("blocks.0.fusion.0.")), mean=mean, std=std)


if __name__ == "__main__":
    print("variant     S: px / patch -> tokens x D     L: px / patch -> tokens x D     params, 1000 classes")
    for name in VARIANTS:
        with torch.device("meta"):                                 # shapes without numbers
            model = CrossViT(variant(name), {"label": 1000})
        vits = (f"{vit.image[0]} / {vit.patch[0]} -> {1 + vit.tokens:4} x {vit.dim:3}" for vit in model.config.branches)
        print(f"{name:11} {'           '.join(vits)}           {sum(p.numel() for p in model.parameters()):11,}")
    model = CrossViT(variant("Ti"), {"grade": 5}).eval()
    with torch.no_grad():
        out = model(torch.zeros(1, 3, 240, 240, dtype=torch.uint8))
    print(f"\nTi          (1, 3, 240, 240) -> logits {tuple(out['logits']['grade'].shape)}, of both branches "
          f"{tuple(out['branch_logits']['grade'].shape)}, cross_map {', '.join(str(tuple(map.shape)) for map in out['cross_map'])}")
