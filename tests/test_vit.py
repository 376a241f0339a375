import math

import pytest
import torch

from attention import KINDS
from plumbing.flags import parse
from plumbing.sizes import PIXELS, SIZES, sides
from tests.golden import unit, values
from vit import Block, PatchEmbed, ViT, ViTConfig

TINY = ViTConfig(image=(16, 24), patch=(8, 8), dim=24, depth=2, heads=3, mlp=40)                      # 6 patches


def random_vit(config=TINY, tasks=None, seed=0):
    """A float64 ViT all of whose parameters are random, biases and layer scales too."""
    torch.manual_seed(seed)
    model = ViT(config, tasks).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_images(B=2, C=3, height=16, width=24, seed=1):
    return torch.randn(B, C, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_vit(t, images, heads, eps):
    """{timm's names: tensor}, (B, C, height, width) -> tokens after the final norm, and the last block's (B, H, 1 + T, 1 + T).

    The reference of all loading tests: nothing from vit.py, patches and heads one at a time, softmax written out."""
    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)

    t = {key: tensor.double() for key, tensor in t.items()}
    kernel = t["patch_embed.proj.weight"]
    D, P, Q = len(kernel), *kernel.shape[2:]
    depth = max(int(key.split(".")[1]) for key in t if key.startswith("blocks.")) + 1
    all_tokens, all_weights = [], []
    for image in images.double():
        rows = [t["cls_token"][0, 0] + t["pos_embed"][0, 0], *t.get("reg_token", torch.zeros(1, 0, D))[0]]
        for row in range(0, image.shape[1], P):
            for column in range(0, image.shape[2], Q):
                patch = image[:, row:row + P, column:column + Q].flatten()
                rows.append(kernel.flatten(1) @ patch + t["patch_embed.proj.bias"])
                rows[-1] = rows[-1] + t["pos_embed"][0, len(rows) - 1 - t.get("reg_token", torch.zeros(1, 0)).shape[1]]
        x = torch.stack(rows)
        for i in range(depth):
            q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(D, -1)
            parts, weights = [], []
            for h in range(heads):
                s = slice(h * D // heads, (h + 1) * D // heads)
                weights.append((q[:, s] @ k[:, s].T / math.sqrt(D // heads)).exp())
                weights[-1] = weights[-1] / weights[-1].sum(-1, keepdim=True)
                parts.append(weights[-1] @ v[:, s])
            y = linear(torch.cat(parts, -1), f"blocks.{i}.attn.proj")
            x = x + y * t.get(f"blocks.{i}.ls1.gamma", 1)
            y = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
            y = linear(y * (1 + torch.erf(y / math.sqrt(2))) / 2, f"blocks.{i}.mlp.fc2")
            x = x + y * t.get(f"blocks.{i}.ls2.gamma", 1)
        all_tokens.append(norm(x, "norm"))
        all_weights.append(torch.stack(weights))
    return torch.stack(all_tokens), torch.stack(all_weights)


# -----------------------------------------------------------------------------
# against the slow obvious loop


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"layer_scale": True, "registers": 3}, {"qkv_bias": False, "eps": 0.1, "patch": (8, 4)}],
                         ids=["plain", "dinov2", "no_bias"])
def test_vit_equals_the_plain_one(changes):
    """Tokens, class map and logits are those of a ViT written with loops, on an image that is not square."""
    config = ViTConfig(**{**vars(TINY), **changes})
    model, images = random_vit(config, {"grade": 5, "area": 1}), random_images()
    tokens, weights = plain_vit(model.state_dict(), images, heads=3, eps=config.eps)
    assert torch.allclose(model.encode(model.embed(images)), tokens, atol=1e-10)
    out = model(images)
    assert out["map"].shape == (2, 3, config.tokens)               # the registers are no patches
    assert torch.allclose(out["map"], weights[:, :, 0, 1 + config.registers:], atol=1e-10)
    for task, outputs in (("grade", 5), ("area", 1)):
        assert out["logits"][task].shape == (2, outputs)
        assert torch.allclose(out["logits"][task], model.head[task](tokens[:, 0]), atol=1e-10)


@torch.no_grad()
def test_patch_embedding_is_one_linear_layer():
    """A convolution as wide as its stride multiplies every patch with the same matrix, row by row of patches."""
    embed, images = PatchEmbed(TINY).double(), random_images()
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8)               # (B, C, rows, columns, P, P)
    expected = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) @ embed.proj.weight.flatten(1).T + embed.proj.bias
    assert torch.allclose(embed(images), expected, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_padded_tokens_change_nothing(kind):
    """encode() with a mask equals encode() of the real tokens alone."""
    model = random_vit(ViTConfig(**{**vars(TINY), "attention": kind}))
    tokens = random_images(C=9, height=1)[:, :, 0]                 # (2, 9, 24)
    mask = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    x, _, class_map = model.run_blocks(tokens, want_map=True, mask=mask)
    alone, _, alone_map = model.run_blocks(tokens[1:, :5], want_map=True)
    assert torch.allclose(x[0], model.encode(tokens[:1])[0], atol=1e-10)
    assert torch.allclose(x[1, :5], alone[0], atol=1e-10) and torch.allclose(class_map[1, :, :4], alone_map[0], atol=1e-10)


@torch.no_grad()
def test_uint8_images_are_normalized_inside():
    """uint8 in gives what (x / 255 - mean) / std in gives; float images are taken as they are."""
    config = ViTConfig(**{**vars(TINY), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)})
    model = random_vit(config)
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([(images[:, c] / 255 - config.mean[c]) / config.std[c] for c in range(3)], 1).double()
    assert torch.allclose(model(images)["map"], model(by_hand)["map"], atol=1e-6)
    assert not torch.allclose(model(images)["map"], model(images.double())["map"], atol=1e-3)


# -----------------------------------------------------------------------------
# dropout, stochastic depth


@torch.no_grad()
def test_dropout_and_drop_path_are_off_in_eval():
    """A model that drops half of everything is, in eval, the one that drops nothing; in training it is not."""
    model, images = random_vit(), random_images()
    dropping = ViT(ViTConfig(**{**vars(TINY), "dropout": 0.5, "drop_path": 0.5})).double()
    dropping.load_state_dict(model.state_dict())
    tokens = lambda model: model.encode(model.embed(images))
    assert torch.equal(tokens(dropping.eval()), tokens(model)) and not torch.allclose(tokens(dropping.train()), tokens(model))


@torch.no_grad()
def test_dropout_is_where_hugging_face_has_it():
    """After the embedding, and on what attention and MLP add; half of the numbers are 0, the others doubled."""
    model, ones = ViT(ViTConfig(**{**vars(TINY), "dropout": 0.5})).train(), torch.ones(2, 50, 50)
    torch.manual_seed(0)
    added = model.blocks[0].ls1(ones)
    assert set(added.flatten().tolist()) == {0.0, 2.0} and abs(added.mean() - 1) < 0.1
    embedded, whole = model.embed(random_images().float()), model.eval().embed(random_images().float())
    assert torch.allclose(embedded[embedded != 0], 2 * whole[embedded != 0]) and 0.3 < (embedded == 0).float().mean() < 0.7


@torch.no_grad()
def test_drop_path_leaves_out_whole_samples():
    """In training a residual is 0 for some samples and scaled up for the others, so that its mean stays."""
    block = Block(TINY, drop_path=0.25).train()
    torch.manual_seed(0)
    kept = block.ls1(torch.ones(20_000, 2, 3))
    assert set(kept.flatten().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(kept, kept[:, :1, :1].expand_as(kept)) and abs(kept.mean().item() - 1) < 0.02


def test_weights_are_drawn_as_in_deit():
    """Std 0.02 of every matrix, token and position, no bias."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(dim=96, depth=1, heads=3, mlp=192), {"y": 50})
    for name in ("cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight", "head.y.weight"):
        assert model.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.2), name
    assert not model.blocks[0].mlp.fc1.bias.any() and not model.head["y"].bias.any()


def test_drop_path_rises_with_depth():
    """From 0 in the first block to the rate in the last, also for a single block."""
    for depth, rates in ((5, [0, 0.05, 0.1, 0.15, 0.2]), (1, [0])):
        model = ViT(ViTConfig(**{**vars(TINY), "depth": depth, "drop_path": 0.2}))
        assert [block.ls1.drop_path for block in model.blocks] == pytest.approx(rates)
        assert [block.ls2.drop_path for block in model.blocks] == pytest.approx(rates)


# -----------------------------------------------------------------------------
# volumes

BOX = ViTConfig(image=(4, 8, 12), patch=(2, 4, 4), channels=2, dim=24, depth=2, heads=3, mlp=40, mean=(.4, .6), std=(.2, .3))    # 2 x 2 x 3


def test_a_volume_is_cut_into_boxes():
    """Token by token what the loop over depth, rows and columns gives; 12 tokens, numbered in that order; a map as long."""
    model = random_vit(BOX, {"y": 1})
    volumes = torch.randint(256, (2, 2, 4, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    kernel, bias, pos = model.patch_embed.proj.weight.flatten(1), model.patch_embed.proj.bias, model.pos_embed[0]
    tokens = model.embed(volumes)
    assert tokens.shape == (2, 13, 24) and BOX.grid == (2, 2, 3) and BOX.tokens == 12
    for b, volume in enumerate(volumes.double()):
        for c in range(2):
            volume[c] = (volume[c] / 255 - BOX.mean[c]) / BOX.std[c]
        t = 0
        for z in range(0, 4, 2):
            for y in range(0, 8, 4):
                for x in range(0, 12, 4):
                    t += 1
                    assert torch.allclose(tokens[b, t], kernel @ volume[:, z:z + 2, y:y + 4, x:x + 4].flatten() + bias + pos[t], atol=1e-5)
    assert model(volumes)["map"].shape == (2, 3, 12)


def test_a_volume_one_slab_deep_is_a_picture():
    """Depth of one patch and of one voxel: the same numbers as the ViT of pictures with that kernel."""
    flat, deep = random_vit(TINY, {"y": 2}), random_vit(ViTConfig(**{**vars(TINY), "image": (1, 16, 24), "patch": (1, 8, 8)}), {"y": 2})
    weights = flat.state_dict()
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].unsqueeze(2)
    deep.load_state_dict(weights)
    images = random_images()
    assert torch.allclose(flat(images)["logits"]["y"], deep(images.unsqueeze(2))["logits"]["y"], atol=1e-12)


# -----------------------------------------------------------------------------
# bags of vectors

BAG = ViTConfig(image=(), patch=(), channels=5, dim=24, depth=3, heads=3, mlp=40, registers=2, mean=(), std=())


def bags(lengths, width=5):
    """-> list of (S, width), and the same padded with large numbers to (B, longest, width), with its mask."""
    generator = torch.Generator().manual_seed(0)
    each = [torch.randn(S, width, dtype=torch.float64, generator=generator) for S in lengths]
    batch, mask = torch.full((len(each), max(lengths), width), 1e3, dtype=torch.float64), torch.zeros(len(each), max(lengths), dtype=torch.bool)
    for i, bag in enumerate(each):
        batch[i, :len(bag)], mask[i, :len(bag)] = bag, True
    return each, batch, mask


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_bags_equals_the_bags_one_by_one(kind):
    """What stands in the padding reaches no logit and no map, through all blocks; a bag may hold a single vector."""
    model = random_vit(ViTConfig(**{**vars(BAG), "attention": kind}), {"y": 2})
    each, batch, mask = bags((7, 30, 1, 19))
    together = model(batch, mask)
    assert model.inputs == ("bag", "bag_mask") and together["map"].shape == (4, 3, 30)
    for i, bag in enumerate(each):
        alone = model(bag[None])
        assert torch.allclose(together["logits"]["y"][i], alone["logits"]["y"][0], atol=1e-10)
        assert torch.allclose(together["map"][i, :, :len(bag)], alone["map"][0], atol=1e-10)
        assert not together["map"][i, :, len(bag):].any() or kind != "softmax"


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_has_no_order(kind):
    """Vectors in another order give the same logits, and the map in that order."""
    model = random_vit(ViTConfig(**{**vars(BAG), "attention": kind}), {"y": 2})
    (bag,), order = bags((11,))[0], torch.randperm(11, generator=torch.Generator().manual_seed(1))
    one, other = model(bag[None]), model(bag[None, order])
    assert torch.allclose(one["logits"]["y"], other["logits"]["y"]) and torch.allclose(one["map"][..., order], other["map"])


def test_a_vector_becomes_a_token_by_one_linear_layer():
    """No position, no normalization; the class token keeps its row of pos_embed, so that every ViT has the same parameters."""
    model = random_vit(BAG)
    _, batch, _ = bags((6,))
    tokens = model.embed(batch)
    assert tokens.shape == (1, 1 + 2 + 6, 24) and BAG.tokens == 0 and BAG.mean == () and model.pos_embed.shape == (1, 1, 24)
    assert torch.allclose(tokens[0, 3:], batch[0] @ model.patch_embed.proj.weight.T + model.patch_embed.proj.bias)
    assert torch.equal(tokens[0, 0], (model.cls_token + model.pos_embed)[0, 0])


# -----------------------------------------------------------------------------
# published constants, what a config refuses


def parameters(config, tasks=None):
    with torch.device("meta"):                                     # shapes without memory
        return sum(p.numel() for p in ViT(config, tasks).parameters())


@pytest.mark.parametrize("size, published", [("tiny", 5_717_416), ("small", 22_050_664), ("base", 86_567_656)])
def test_parameter_counts_are_the_published_ones(size, published):
    """DeiT, Table 1: 5 M, 22 M, 86 M at 224 px, patch 16, 1000 classes."""
    assert parameters(ViTConfig(**SIZES[size]), {"imagenet": 1000}) == published


def test_large_vit_has_the_backbone_of_multivit():
    """ViT-L/32 at 384 px, without pooler and head."""
    assert parameters(ViTConfig(image=(384, 384), patch=(32, 32), **SIZES["large"])) == 305_607_680


def test_softmax_free_vit_has_the_size_of_the_paper():
    """Width 1024, 8 layers of 8 heads of 64; slides 512 and 2 layers. Sequence norm costs layers x 512 x 6 parameters, SimA none."""
    def count(size, **changes):
        return [parameters(ViTConfig(**SIZES[size], **changes, attention=kind), {"y": 1}) for kind in ("softmax", "seqnorm", "sima")]
    assert count("vit2d") == [34_605_057, 34_629_633, 34_605_057]
    assert count("vit2d", image=(1024, 1024)) == [38_598_657, 38_623_233, 38_598_657]
    assert count("vit_wsi", image=(), patch=(), channels=2048) == [4_204_545, 4_210_689, 4_204_545]
    flat = ViTConfig(**SIZES["vit2d"])                             # 3-D: other patches, 16 x 16 x 8 positions instead of 14 x 14
    image, patch = (sides(text) for text in PIXELS["vit3d"])
    deep = ViTConfig(**SIZES["vit3d"], image=image, patch=patch, channels=1, mean=(0.5,), std=(0.5,))
    assert flat.image == (224, 224) and flat.patch == (16, 16) and PIXELS["vit2d"] == ("224", "16")
    assert deep.tokens == 2048 and parameters(deep) - parameters(flat) == 1024 * (16 * 16 * 4 - 3 * 16 * 16 + 2048 - 196)


# -----------------------------------------------------------------------------
# flags


def flags(*more):
    return parse(["--model", "vit", "--data", "chest", *more])


def test_a_size_from_the_paper_brings_its_image_and_patch():
    """Unless the flags say otherwise; all other sizes leave the image to the common default, and have patches of 8 px."""
    for size, image, patch in (("vit2d", "224", "16"), ("vit3d", "32x256x256", "4x16x16"), ("vit_wsi", "64", "8"), ("tiny", "64", "8")):
        args = flags("--size", size)
        assert (args.image, args.patch) == (image, patch)
    args = flags("--size", "vit2d", "--image", "96", "--patch", "12")
    assert (args.image, args.patch) == ("96", "12")
    assert flags().size == "micro"


def test_flags_become_a_config():
    """What --size, --image, --patch, --attention, --dropout and --drop-path say, 0.5 for every channel's mean and std; a bag, whose
    vectors are taken as they come, has neither."""
    args = flags("--size", "mini", "--attention", "sima", "--dropout", "0.2", "--drop-path", "0.3")
    args.image, args.patch, args.channels = "32x16", "8x4", 1
    assert ViT.from_args(args).config == ViTConfig(image=(32, 16), patch=(8, 4), channels=1, **SIZES["mini"], attention="sima",
                                                   dropout=0.2, drop_path=0.3, mean=(0.5,), std=(0.5,))
    args.image, args.patch, args.channels = "", "", 7
    model = ViT.from_args(args, {"y": 2})
    assert model.config.image == model.config.patch == model.config.mean == model.config.std == ()
    assert model.inputs == ("bag", "bag_mask") and model(torch.zeros(1, 3, 7))["logits"]["y"].shape == (1, 2)


@pytest.mark.parametrize("changes", ({}, {"registers": 2}))
def test_an_image_of_another_size_is_refused(changes):
    """A patch without a position, or with that of another place, would be a silent error."""
    model = ViT(ViTConfig(image=(16, 16), patch=(4, 4), dim=8, depth=1, heads=2, mlp=8, **changes), {"y": 2})
    assert model(torch.zeros(1, 3, 16, 16))["logits"]["y"].shape == (1, 2)
    for side in (12, 20):
        with pytest.raises(RuntimeError, match="must match"):
            model(torch.zeros(1, 3, side, side))


def test_a_checkpoint_fixes_its_size():
    """--size is refused beside it, and --heads without it, before anything is read."""
    with pytest.raises(ValueError, match="--size tiny is fixed by --pretrained org/name; leave it out"):
        flags("--pretrained", "org/name", "--size", "tiny")
    with pytest.raises(ValueError, match="--heads 4 is for --pretrained"):
        flags("--heads", "4")


def test_a_vit_can_be_filled_by_the_golden_rule():
    """The rule of tests/golden.py covers every parameter, and depends on nothing but names and shapes."""
    model = ViT(TINY).double()
    model.load_state_dict(values({key: tensor.shape for key, tensor in model.state_dict().items()}))
    assert torch.equal(model.cls_token, 0.5 * unit((1, 1, 24), sorted(model.state_dict()).index("cls_token")))


@pytest.mark.parametrize("changes, message", [
    ({"image": (20, 24)}, r"image \(20, 24\) px is not a multiple of the patch \(8, 8\) px"),
    ({"image": (16, 24), "patch": (8,)}, r"image \(16, 24\) px is not a multiple of the patch \(8,\) px"),
    ({"image": (16,), "patch": (8,)}, r"image \(16,\): need 2 axes \(pictures\), 3 \(volumes\)"),
    ({"heads": 5}, "width 24 does not divide into 5 heads"),
    ({"depth": 0}, "depth 0: need 1 <= x < 1000"), ({"depth": 1000}, "depth 1000: need 1 <= x"), ({"mlp": -1}, "mlp -1: need 1 <= x"),
    ({"image": (0, 0)}, r"image \(0, 0\): need 1 <= x"), ({"channels": 1}, "need 1 each"), ({"std": (1, 1, 0)}, "stds above 0"),
    ({"attention": "cosine"}, "'cosine' is not known")])
def test_impossible_architectures_are_refused_in_one_line(changes, message):
    """ValueError with the user's numbers and what is needed, when the model is made and not when it runs."""
    with pytest.raises(ValueError, match=message) as error:
        ViT(ViTConfig(**{**vars(TINY), **changes}))
    assert "\n" not in str(error.value)
