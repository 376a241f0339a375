"""attention_filter.py against the slowest obvious loops."""
import pytest
import torch

from attention_filter import compose, gather_patches, gather_tokens, refine, score, select
from tests.golden import unit


def loop_filter(scores, images_hr, grid, r, patch):
    """One patient: rank, refine, copy pixels, one patch after the other. -> kept [(image, token)], composite."""
    N, T = scores.shape
    rows, columns = grid
    ranked = sorted(((i, t) for i in range(N) for t in range(T)), key=lambda pair: -scores[pair[0], pair[1]].item())  # stable
    kept = ranked[:T // r ** 2]
    composite = torch.zeros(images_hr.shape[1], rows * patch, columns * patch, dtype=images_hr.dtype)
    slot = 0
    for i, t in kept:
        for a in range(r):
            for b in range(r):
                y, x = (t // columns * r + a) * patch, (t % columns * r + b) * patch
                to_y, to_x = slot // columns * patch, slot % columns * patch
                composite[:, to_y:to_y + patch, to_x:to_x + patch] = images_hr[i, :, y:y + patch, x:x + patch]
                slot += 1
    return kept, composite


@pytest.mark.parametrize("r", (1, 2, 4))
@pytest.mark.parametrize("grid", ((8, 8), (4, 12)))
def test_filter_equals_the_loop_over_patients_patches_and_pixels(grid, r):
    """select, refine, gather and compose do what three nested loops do, also with ties and a grid that is not square."""
    B, N, T, P = 3, 3, grid[0] * grid[1], 2
    torch.manual_seed(0)
    scores = torch.randint(40, (B, N, T)) / 40                     # many ties
    images_hr = torch.randint(256, (B, N, 3, r * grid[0] * P, r * grid[1] * P), dtype=torch.uint8)
    image, token = select(scores, T // r ** 2)
    fine = refine(token, grid, r).flatten(1)
    composite = compose(gather_patches(images_hr, image.repeat_interleave(r * r, 1), fine, (P, P)), grid)
    for b in range(B):
        kept, expected = loop_filter(scores[b], images_hr[b], grid, r, P)
        assert kept == list(zip(image[b].tolist(), token[b].tolist()))
        assert torch.equal(composite[b], expected)


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
