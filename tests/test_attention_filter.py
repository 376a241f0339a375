"""attention_filter.py against the slowest obvious loops."""
import pytest
import torch

from attention_filter import compose, gather_patches, gather_tokens, refine, score, select
from tests.golden import unit


# -----------------------------------------------------------------------------
# the reference: the paper's components one after the other, in the words of its section 3.1, every number looked at by itself


def loop_score(maps):
    """Attention Scorer: maps[b][i][h][t] -> scores[b][i][t], the mean over the heads."""
    B, N, H, T = maps.shape
    scores = torch.zeros(B, N, T)
    for b in range(B):
        for i in range(N):
            for t in range(T):
                total = 0.0
                for h in range(H):
                    total = total + maps[b, i, h, t]
                scores[b, i, t] = total / H
    return scores


def loop_select(scores, k):
    """Mapping Generator: -> for each patient the k pairs (image, token) that score highest, the best first."""
    B, N, T = scores.shape
    kept = []
    for b in range(B):
        pairs = [(i, t) for i in range(N) for t in range(T)]
        kept.append(sorted(pairs, key=lambda pair: -scores[b, pair[0], pair[1]].item())[:k])                 # stable
    return kept


def loop_refine(kept, grid, r):
    """High-resolution mapping: -> for each patient and slot the pair (image, patch of the finer grid)."""
    slots = []
    for pairs in kept:
        slots.append([])
        for i, t in pairs:
            row, column = t // grid[1], t % grid[1]
            for a in range(r):
                for b in range(r):
                    slots[-1].append((i, (row * r + a) * grid[1] * r + column * r + b))
    return slots


def loop_patches(slots, images_hr, grid, r, patch):
    """Patch Mapper: -> the composite images, to which every slot's patch is copied."""
    B, _, C = images_hr.shape[:3]
    composite = torch.zeros(B, C, grid[0] * patch, grid[1] * patch, dtype=images_hr.dtype)
    for b in range(B):
        for slot, (i, fine) in enumerate(slots[b]):
            y, x = fine // (grid[1] * r) * patch, fine % (grid[1] * r) * patch
            to_y, to_x = slot // grid[1] * patch, slot % grid[1] * patch
            composite[b, :, to_y:to_y + patch, to_x:to_x + patch] = images_hr[b, i, :, y:y + patch, x:x + patch]
    return composite


def loop_tokens(kept, tokens, r):
    """Token Mapper: -> (B, T, D), every kept token R^2 times in a row."""
    out = torch.zeros(len(kept), len(kept[0]) * r * r, tokens.shape[-1])
    for b in range(len(kept)):
        for rank, (i, t) in enumerate(kept[b]):
            for j in range(r * r):
                out[b, rank * r * r + j] = tokens[b, i, t]
    return out


def loop_filter(maps, tokens, images_hr, grid, r, patch):
    """(B, N, H, T), (B, N, T, D), (B, N, C, R rows P, R columns P) -> scores, kept, the tokens and the composites of stage 2."""
    scores = loop_score(maps)
    kept = loop_select(scores, grid[0] * grid[1] // r ** 2)
    return scores, kept, loop_tokens(kept, tokens, r), loop_patches(loop_refine(kept, grid, r), images_hr, grid, r, patch)


@pytest.mark.parametrize("r", (1, 2, 4))
@pytest.mark.parametrize("grid", ((8, 8), (4, 12)))
def test_filter_equals_the_loop_over_patients_tokens_and_patches(grid, r):
    """Score, select, refine, gather and compose do bit for bit what the loops do, also with ties and a grid that is not square."""
    B, N, T, P = 3, 3, grid[0] * grid[1], 2
    torch.manual_seed(0)
    maps, tokens = torch.randint(40, (B, N, 2, T)) / 64, torch.rand(B, N, T, 5)               # many ties, and sums without rounding
    images_hr = torch.randint(256, (B, N, 3, r * grid[0] * P, r * grid[1] * P), dtype=torch.uint8)
    scores, kept, loop_tokens, composites = loop_filter(maps, tokens, images_hr, grid, r, P)
    image, token = select(score(maps), T // r ** 2)
    fine = refine(token, grid, r).flatten(1)
    assert torch.equal(score(maps), scores) and kept == [list(zip(i.tolist(), t.tolist())) for i, t in zip(image, token)]
    assert torch.equal(gather_tokens(tokens, image, token).repeat_interleave(r * r, 1), loop_tokens)
    assert torch.equal(compose(gather_patches(images_hr, image.repeat_interleave(r * r, 1), fine, (P, P)), grid), composites)


@pytest.mark.parametrize("size", ((2, 3), (4, 1)))
def test_gathered_patches_carry_gradients_and_need_no_contiguous_images(size):
    """Patches of unequal sides, of every second pixel of a larger picture, and the gradient of a patch goes to its pixels alone."""
    images = torch.rand(2, 3, 2, 8, 24)[..., ::2].requires_grad_()
    image, patch = torch.tensor([[2, 0], [1, 1]]), torch.tensor([[5, 1], [0, 7]])
    patches = gather_patches(images, image, patch, size)
    patches.sum().backward()
    expected, columns = torch.zeros_like(images), 12 // size[1]
    for b in range(2):
        for k in range(2):
            y, x = patch[b, k] // columns * size[0], patch[b, k] % columns * size[1]
            here = (b, image[b, k], slice(None), slice(y, y + size[0]), slice(x, x + size[1]))
            expected[here] += 1
            assert torch.equal(patches[b, k], images[here])
    assert torch.equal(images.grad, expected)


def test_mapping_fixture_of_the_released_code():
    """Scores from the hash rule: the sixteen tokens the released code keeps, in its order, and their high-resolution patches."""
    image, token = select(unit((2, 64), 5)[None], 16)
    assert list(zip(image[0].tolist(), token[0].tolist())) == [
        (0, 11), (1, 22), (0, 18), (0, 57), (1, 25), (0, 45), (0, 60), (1, 48), (1, 51), (1, 31), (0, 19), (0, 20), (0, 14),
        (0, 13), (0, 15), (1, 9)]
    fine = refine(token, (8, 8), 2)[0]
    assert fine[0].tolist() == [38, 39, 54, 55] and fine[1].tolist() == [76, 77, 92, 93]
    assert fine[9].tolist() == [110, 111, 126, 127] and fine[15].tolist() == [34, 35, 50, 51]


def test_high_resolution_patches_stand_where_the_paper_puts_them():
    """Slot 4 r + 2 a + b of the composite holds the pixels of row 2 row + a, column 2 column + b of the high resolution."""
    G, P, R = 4, 3, 2
    images_hr = torch.arange(2 * R * R * G * G * P * P).view(1, 2, 1, R * G * P, R * G * P)
    image, token = select(unit((1, 2, G * G), 3), G * G // R ** 2)
    fine = refine(token, (G, G), R).flatten(1)
    patches = gather_patches(images_hr, image.repeat_interleave(R * R, 1), fine, (P, P))
    for rank, (i, t) in enumerate(zip(image[0].tolist(), token[0].tolist())):
        for a in range(R):
            for b in range(R):
                y, x = (t // G * R + a) * P, (t % G * R + b) * P
                assert torch.equal(patches[0, rank * R * R + a * R + b], images_hr[0, i, :, y:y + P, x:x + P])


def test_refine_by_one_is_the_identity():
    """R = 1 leaves every token its own patch."""
    token = torch.randint(64, (2, 5))
    assert torch.equal(refine(token, (8, 8), 1)[..., 0], token)


def test_permuting_the_images_permutes_image_and_nothing_else():
    """The filter has no favourite photograph."""
    scores = torch.rand(2, 3, 16)
    order = torch.tensor([2, 0, 1])
    image, token = select(scores, 7)
    image_p, token_p = select(scores[:, order], 7)
    assert torch.equal(order[image_p], image) and torch.equal(token_p, token)


def test_ties_go_to_the_first_image_and_the_lowest_token():
    """Equal scores are kept in the order of images and tokens."""
    image, token = select(torch.zeros(1, 2, 4), 5)
    assert image.tolist() == [[0, 0, 0, 0, 1]] and token.tolist() == [[0, 1, 2, 3, 0]]


def test_absent_images_are_never_chosen():
    """An image that is not there scores -inf, whatever its map says."""
    maps = torch.rand(2, 3, 4, 16)
    present = torch.tensor([[True, False, True], [True, False, False]])
    image, _ = select(score(maps, present), 16)
    assert set(image[0].tolist()) <= {0, 2} and set(image[1].tolist()) == {0}


def test_score_is_the_mean_over_heads_and_carries_no_gradient():
    """(B, N, H, T) -> (B, N, T), detached: ranking is not differentiable."""
    maps = torch.rand(2, 3, 4, 16, requires_grad=True)
    assert torch.equal(score(maps), maps.detach().mean(2)) and not score(maps).requires_grad


def test_gather_tokens_equals_indexing():
    """Row k of patient b is token[b, k] of image[b, k]."""
    tokens, image, token = torch.rand(2, 3, 16, 8), torch.randint(3, (2, 5)), torch.randint(16, (2, 5))
    kept = gather_tokens(tokens, image, token)
    assert all(torch.equal(kept[b, k], tokens[b, image[b, k], token[b, k]]) for b in range(2) for k in range(5))


@pytest.mark.parametrize("k", (0, 33))
def test_keeping_none_or_too_many_is_refused(k):
    """0 < k <= N T, and the message says the numbers."""
    with pytest.raises(ValueError, match=f"cannot keep {k} of 2 x 16 tokens"):
        select(torch.zeros(1, 2, 16), k)


def test_nothing_is_read_back_from_the_device():
    """Every function runs on the meta device, where reading a value back is an error: no host sync on a GPU either."""
    maps = torch.empty(16, 3, 16, 144, device="meta")
    images_hr = torch.empty(16, 3, 3, 768, 768, device="meta", dtype=torch.uint8)
    image, token = select(score(maps, torch.ones(16, 3, device="meta", dtype=torch.bool)), 36)
    fine = refine(token, (12, 12), 2).flatten(1)
    composite = compose(gather_patches(images_hr, image.repeat_interleave(4, 1), fine, (32, 32)), (12, 12))
    assert composite.shape == (16, 3, 384, 384)
