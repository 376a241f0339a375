"""LT-ViT: one token per label joins a Vision Transformer for its last blocks, where it attends to the image.

    [X_Q X_K X_V ; Y_Q Y_K Y_V] = [X ; Y] W_QKV                                 Marikkar et al. 2023, eq. 1
    [X ; Y] = FFN([attn(X_Q, X_K, X_V) ; attn(Y_Q, [X_K ; Y_K], [X_V ; Y_V])])  eq. 2, in the last N2 blocks
    logit_k = w_k . y_k + b_k                                                   label k, as in Query2Label

X are the image tokens and Y the label tokens. One softmax runs over all keys of a query, and all weights but
Y, w and b are the ViT's own. `label_attention` says who attends to whom; AUROC in %, Table 3 (CheXpert, 5
labels; the class token of the plain ViT: 87.36):
    one-way        88.90  labels see image and labels; the image sees itself alone, as in the plain ViT
    full           88.47  everything sees everything, much as in C-Tran (Lanchantin et al. 2021)
    no-label-self  88.44  labels see the image only, not even themselves
B samples, T patches, S image tokens, D width, H heads, d width of a head, L labels (c in the paper).
Differs: there is no released code. Residuals and LayerNorms, left out of eq. 2, are the ViT's, its final
norm included. The class token stays among X but is not read: no loss trains its attention in the last block,
and it has no map. Label tokens have no position embedding. seqnorm and sima work with `full` only: they
normalize over one sequence, which is then [X ; Y]; with the other two, image and label queries see different
sequences.
"""
from dataclasses import dataclass

import torch
from torch import nn

from attention import softmax_attention, softmax_weights
from vit import ViT, ViTConfig, init_weights

LABEL_ATTENTION = {  # do image queries see label keys? do label queries?
    "one-way": (False, True),
    "full": (True, True),
    "no-label-self": (False, False),
}


@dataclass(frozen=True)
class LTViTConfig:
    vit: ViTConfig
    label_layers: int = 4               # N2, blocks that carry label tokens; the paper's best of 2, 4 .. 12
    label_attention: str = "one-way"    # a key of LABEL_ATTENTION
    shared_head: bool = False           # one weight vector for all labels instead of one each

    def __post_init__(self):
        from plumbing.checks import check_lt_vit
        check_lt_vit(self, LABEL_ATTENTION)


def label_attention(attn, x, y, kind):
    """Eq. 1 and the attn of eq. 2 with the weights of `attn`: x (B, S, D), y (B, L, D) -> the same shapes,
    and the labels' attention, mean over heads, to patches and, if seen, labels: (B, L, T) or (B, L, T + L).
    With softmax x and y never share a matrix product, so that the one-way x equals attn(x) in every bit."""
    if attn.kind != "softmax":                                     # full: normalized over [X ; Y]
        S = x.shape[1]
        q, k, v = attn.project(torch.cat([x, y], 1))               # (B, H, S + L, d)
        q, k = q.contiguous(), k.contiguous()                      # sums round by the order in memory
        z = attn.join(attn.attend(q, k, v))
        label_map = attn.key_weights(q, k, slice(S, None)).mean(1)[:, :, attn.prefix:]
        return z[:, :S], z[:, S:], label_map
    image_sees_labels, labels_see_labels = LABEL_ATTENTION[kind]
    x_q, x_k, x_v = attn.project(x)                                # (B, H, S, d) each
    x_q, x_k = attn.rotate(x_q), attn.rotate(x_k)                  # labels have no position
    y_q, y_k, y_v = attn.project(y)                                # (B, H, L, d)
    image = x_k, x_v
    both = torch.cat([x_k, y_k], 2), torch.cat([x_v, y_v], 2)      # (B, H, S + L, d)
    k, v = both if image_sees_labels else image
    x = softmax_attention(x_q, k, v)
    k, v = both if labels_see_labels else image
    y = softmax_attention(y_q, k, v)
    label_map = softmax_weights(y_q, k).mean(1)[:, :, attn.prefix:]
    return attn.join(x), attn.join(y), label_map


class LabelHead(nn.Module):
    """(B, L, D) -> (B, L): every label has a weight vector of its own (GroupWiseLinear in Query2Label)."""

    def __init__(self, labels, dim):
        super().__init__()
        self.W = nn.Parameter(torch.empty(1, labels, dim))
        self.b = nn.Parameter(torch.zeros(1, labels))
        nn.init.trunc_normal_(self.W, std=0.02)

    def forward(self, y):
        return (self.W * y).sum(-1) + self.b


class LTViT(nn.Module):
    """forward(image) -> dict:

    logits     {task: (B, outputs)}, one label token per output, tasks in their order
    label_map  (B, L, T), the labels' attention to the patches in the last block, mean over heads
    mean_label_map   the same, mean over the last N2 blocks: it points better, since patch tokens of
               earlier blocks have mixed less with the rest of the image (docs/results.md)"""
    Config = LTViTConfig
    inputs = ("image",)
    axes = (2, 3)
    check_flags = ViT.check_flags

    def __init__(self, config: LTViTConfig, tasks):
        super().__init__()
        if not tasks:
            raise ValueError("LT-ViT needs a task: it has one token per label")
        self.config, self.tasks = config, dict(tasks)
        L, D = sum(tasks.values()), config.vit.dim
        self.vit = ViT(config.vit)
        self.label_tokens = nn.Parameter(torch.empty(1, L, D))
        nn.init.trunc_normal_(self.label_tokens, std=0.02)
        if config.shared_head:
            self.label_head = nn.Linear(D, 1)
            init_weights(self.label_head)
        else:
            self.label_head = LabelHead(L, D)

    def encode(self, x):
        """x (B, S, D) of vit.embed() -> image tokens x, label tokens y (B, L, D), both after the norm, and
        the labels' maps in the last N2 blocks, (N2, B, L, T)."""
        vit, kind, N2 = self.vit, self.config.label_attention, self.config.label_layers
        for block in vit.blocks[:-N2]:
            x, _ = block(x)
        y = self.label_tokens.expand(len(x), -1, -1)
        maps = []
        for block in vit.blocks[-N2:]:
            dx, dy, label_map = label_attention(block.attn, block.norm1(x), block.norm1(y), kind)
            x = x + block.ls1(dx)
            y = y + block.ls1(dy)
            x = x + block.ls2(block.mlp(block.norm2(x)))
            y = y + block.ls2(block.mlp(block.norm2(y)))
            maps.append(label_map)
        maps = torch.stack(maps)[..., :vit.config.tokens]          # the patches; labels may follow
        return vit.norm(x), vit.norm(y), maps

    def forward(self, image):
        _, y, maps = self.encode(self.vit.embed(image))
        logits = self.label_head(y).flatten(1).split(list(self.tasks.values()), -1)
        logits = dict(zip(self.tasks, logits))
        return {"logits": logits, "label_map": maps[-1], "mean_label_map": maps.mean(0)}

    @staticmethod
    def add_flags(group):
        add = group.add_argument
        add("--label-layers", type=int, help="N2, last blocks with label tokens; default 4, at most half")
        add("--label-attention", choices=LABEL_ATTENTION, default="one-way", help="the paper's Table 3")
        add("--shared-head", action="store_true", help="one head for all labels, not one for each")
        ViT.add_flags(group)

    @classmethod
    def from_args(cls, args, tasks):
        vit = ViT.from_args(args)
        if args.label_layers is None:
            args.label_layers = min(4, max(1, vit.config.depth // 2))
        model = cls(LTViTConfig(vit.config, args.label_layers, args.label_attention, args.shared_head), tasks)
        model.vit, model.report = vit, vit.report
        return model


if __name__ == "__main__":
    image = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)
    for kind in LABEL_ATTENTION:
        model = LTViT(LTViTConfig(ViTConfig(), label_attention=kind), {"labels": 14}).eval()
        tokens = model.vit.embed(image)
        x, _, maps = model.encode(tokens)
        same = torch.equal(x, model.vit.encode(tokens))
        print(f"{kind:13} label maps {tuple(maps.shape)}; image tokens equal the plain ViT's: {same}")
