"""LT-ViT: one token per label joins a Vision Transformer before its last blocks and looks at the image through them.

    [X_Q X_K X_V ; Y_Q Y_K Y_V] = [X ; Y] W_QKV                                   Marikkar et al. 2023, eq. 1
    [X ; Y] = FFN([attn(X_Q, X_K, X_V) ; attn(Y_Q, [X_K ; Y_K], [X_V ; Y_V])])    eq. 2, in each of the last N2 blocks
    logit_k = w_k . y_k + b_k                                                     for label k, as in Query2Label

X are the image tokens, Y the label tokens, one softmax runs over all keys of a query, and every weight but Y, w and b
is the ViT's own. What may look at what is `label_attention`, with the AUC of the paper's Table 3 (CheXpert, 5 labels):
    one-way         labels see image and labels, the image sees itself alone: its tokens stay those of the plain ViT   88.90
    full            everything sees everything, much as in C-Tran                                                      88.47
    no-label-self   labels see the image only, not even themselves                                                     88.44
    (the class token of the plain ViT: 87.36)
Recipe of the paper: ViT-S/16 pretrained with GMML on NIH, 224 px, binary cross entropy averaged over labels, Adam,
batch 64, rate 1e-5 (CheXpert) or 2.5e-6 (NIH), N2 = 4.

B samples, T patches, D width, H heads, d width of a head, L labels (c in the paper), N2 label_layers.
Differs: there is no released code. Residuals and LayerNorms, left out of eq. 2, are those of the ViT, its final norm
included. The class token stays among X and is not read out. Label tokens have no position embedding. Softmax only: it is a
function of one query and the keys it sees. Sequence norm and SimA normalize every key over all tokens of a sequence, and with
one-way the image and the labels see different ones: one key would need two norms. Refused, as are bags: masks do not get here.
Run: python lt_vit.py
"""
from dataclasses import dataclass

import torch
from torch import nn

from attention import softmax_attention
from plumbing.weights import from_dict
from vit import ViT, ViTConfig, init_weights

LABEL_ATTENTION = {  # Table 3: do image queries see label keys, do label queries
    "one-way": (False, True),
    "full": (True, True),
    "no-label-self": (False, False),
}


@dataclass(frozen=True)
class LTViTConfig:
    vit: ViTConfig
    label_layers: int = 4               # N2, the last blocks, which carry label tokens; the paper's best of 2, 4 .. 12
    label_attention: str = "one-way"    # a key of LABEL_ATTENTION
    shared_head: bool = False           # one weight vector for all labels instead of one each

    def __post_init__(self):
        if isinstance(self.vit, dict):
            object.__setattr__(self, "vit", from_dict(ViTConfig, self.vit, "vit"))
        if self.label_attention not in LABEL_ATTENTION:
            raise ValueError(f"label_attention {self.label_attention!r} is not known; use {', '.join(LABEL_ATTENTION)}")
        if self.label_layers not in range(1, self.vit.depth + 1):
            raise ValueError(f"label_layers {self.label_layers}: label tokens join before the last 1 .. {self.vit.depth} "
                             f"blocks of a ViT of depth {self.vit.depth}")
        if self.vit.attention != "softmax":
            raise ValueError(f"LT-ViT needs softmax attention, not {self.vit.attention!r}, which normalizes over all tokens at once")
        if not self.vit.image:
            raise ValueError("LT-ViT sees pictures or volumes, not bags of vectors")


# -----------------------------------------------------------------------------
# a block with label tokens


def query_map(q, k):
    """(B, H, L, d), (B, H, S, d) -> (B, L, S): what each query gives each key, a share of 1, mean over heads."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).mean(1)


def label_attention(attn, x, y, kind, want_map=False):
    """Eq. 1 and the attn of eq. 2, with the weights of `attn`: x (B, S, D), y (B, L, D) -> two of the same shapes.

    x and y never share a matrix product, so that the one-way x equals attn(x) in every bit. want_map=True also returns
    the class token's attention (B, H, ...) and the labels' (B, L, ...), over all the keys they see but the class token."""
    image_sees_labels, labels_see_labels = LABEL_ATTENTION[kind]
    (xq, xk, xv), (yq, yk, yv) = attn.project(x), attn.project(y)  # (B, H, S, d), (B, H, L, d)
    image, both = (xk, xv), (torch.cat([xk, yk], 2), torch.cat([xv, yv], 2))    # both: (B, H, S + L, d)
    k, v = both if image_sees_labels else image
    x, map = softmax_attention(xq, k, v), attn.class_map(xq, k) if want_map else None
    k, v = both if labels_see_labels else image
    y, label_map = softmax_attention(yq, k, v), query_map(yq, k)[:, :, 1:] if want_map else None
    x, y = (attn.proj(z.transpose(1, 2).flatten(2)) for z in (x, y))
    return (x, y, map, label_map) if want_map else (x, y)


def label_block(block, x, y, kind, want_map=False):
    """Eq. 2 within the residuals and norms of a ViT block; arguments and results as of label_attention."""
    u, v, *maps = label_attention(block.attn, block.norm1(x), block.norm1(y), kind, want_map)
    x, y = x + block.residual(block.ls1, u), y + block.residual(block.ls1, v)
    x, y = (z + block.residual(block.ls2, block.mlp(block.norm2(z))) for z in (x, y))
    return x, y, *maps


class LabelHead(nn.Module):
    """(B, L, D) -> (B, L): every label has a weight vector of its own (GroupWiseLinear in Query2Label)."""

    def __init__(self, labels, dim):
        super().__init__()
        self.W = nn.Parameter(torch.empty(1, labels, dim))
        self.b = nn.Parameter(torch.zeros(1, labels))
        nn.init.trunc_normal_(self.W, std=0.02)

    def forward(self, y):
        return (self.W * y).sum(-1) + self.b


# -----------------------------------------------------------------------------
# the model


class LTViT(nn.Module):
    """forward(image) -> dict:

    logits     {task: (B, outputs)}, one label token per output, tasks in their order
    map        (B, H, T), the class token's attention in the last block
    label_map  (B, L, T), the labels' attention to the patches there, mean over heads; the rest of 1 is other tokens'
    mean_map, mean_label_map   the same two, mean over the last N2 blocks. A label token reads the image in each of them, and
               the earlier ones see patches that have mixed less with the rest of the image: these maps point better"""
    inputs = ("image",)

    def __init__(self, config: LTViTConfig, tasks):
        super().__init__()
        if not tasks:
            raise ValueError("LT-ViT needs a task: it has one token per label")
        self.config, self.tasks = config, dict(tasks)
        L, D = sum(tasks.values()), config.vit.dim
        self.vit = ViT(config.vit)
        self.label_tokens = nn.Parameter(torch.empty(1, L, D))
        nn.init.trunc_normal_(self.label_tokens, std=0.02)
        self.label_head = nn.Linear(D, 1).apply(init_weights) if config.shared_head else LabelHead(L, D)

    def encode(self, tokens):
        """(B, 1 + T, D) from vit.embed -> image tokens x, label tokens y (B, L, D), both after the norm, and the class token's
        and the labels' maps of the last N2 blocks, (N2, B, H, T) and (N2, B, L, T)."""
        vit, kind, N2 = self.vit, self.config.label_attention, self.config.label_layers
        x, y = tokens, self.label_tokens.expand(len(tokens), -1, -1)
        for block in vit.blocks[:-N2]:
            x = block(x)
        maps, label_maps = [], []
        for block in vit.blocks[-N2:]:
            x, y, map, label_map = label_block(block, x, y, kind, want_map=True)
            maps.append(map), label_maps.append(label_map)
        R, T = vit.config.registers, vit.config.tokens             # keep the patches: after registers, before labels
        return vit.norm(x), vit.norm(y), torch.stack(maps)[..., R:R + T], torch.stack(label_maps)[..., R:R + T]

    def forward(self, image):
        _, y, maps, label_maps = self.encode(self.vit.embed(image))
        logits = self.label_head(y).flatten(1).split(list(self.tasks.values()), -1)
        return {"logits": dict(zip(self.tasks, logits)), "map": maps[-1], "label_map": label_maps[-1],
                "mean_map": maps.mean(0), "mean_label_map": label_maps.mean(0)}

    @classmethod
    def from_pretrained(cls, name, image=None, channels=None, tasks=None, changes=None, **fields):
        """-> LTViT on the weights of `name`, with image, channels and changes (a dict) as ViT.from_pretrained takes them.

        fields: those of LTViTConfig but vit. Label tokens and head are new, and `.report` says so."""
        vit = ViT.from_pretrained(name, image, channels, **(changes or {}))
        model = cls(LTViTConfig(vit.config, **fields), tasks)
        model.vit, model.report = vit, f"{vit.report}, new label_tokens label_head"
        return model


if __name__ == "__main__":
    torch.manual_seed(0)
    image = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)
    for kind in LABEL_ATTENTION:
        model = LTViT(LTViTConfig(ViTConfig(), label_attention=kind), {"labels": 14}).eval()
        with torch.no_grad():
            out, tokens = model(image), model.vit.embed(image)
            same = torch.equal(model.encode(tokens)[0], model.vit.encode(tokens))
        print(f"{kind:13} {sum(p.numel() for p in model.parameters()):,} params   {tuple(image.shape)} -> labels "
              f"{tuple(out['logits']['labels'].shape)}, label map {tuple(out['label_map'].shape)}, image tokens "
              f"{'equal the plain ViT' if same else 'have seen the labels'}")
