"""The attention filter: which patches of which photographs deserve a second look?

    score     s[i, t] = mean over heads of the class token's attention to patch t of image i, in the last block
    select    the K = T / R^2 highest scores over all N images together; one image may win them all
    refine    token t of the low resolution -> its R x R patches of the high resolution
    gather    those tokens and those pixels
    compose   patch j -> place j of a new image, in raster order, best first: the R^2 patches of one token are
              neighbours in that order, not a square

Murray et al. 2024, "A Vision Transformer with Adaptive Cross-Image and Cross-Resolution Attention", section 3.1.
B patients, N images of a patient, T = rows * columns patch tokens of an image, H heads, D width, K tokens kept,
R high over low resolution, P patch side in pixels, C channels.
Pure functions without parameters; nothing here is differentiable in the scores, and nothing waits for the GPU.
Differs: ties go to the first image, then to the lowest token, on every device (the released code leaves them open);
absent images are never chosen (it refuses such patients).
Run: python attention_filter.py
"""
import torch


def score(maps, present=None):
    """(B, N, H, T) class maps -> (B, N, T) importance; images that are not present (B, N) score -inf.

    Softmax maps are shares of 1. The weights of softmax-free attention have a sign: what counts is their size."""
    scores = maps.detach().abs().mean(2)
    return scores if present is None else scores.masked_fill(~present[:, :, None], float("-inf"))


def select(scores, k):
    """(B, N, T) -> image, token: (B, K) each, the k highest scores of a patient, best first."""
    N, T = scores.shape[1:]
    if not 0 < k <= N * T:
        raise ValueError(f"cannot keep {k} of {N} x {T} tokens")
    ids_keep = scores.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :k]
    return ids_keep // T, ids_keep % T


def refine(token, grid, r):
    """(B, K) tokens of a (rows, columns) grid -> (B, K, R R) patches of the (R rows, R columns) grid, row by row."""
    step = torch.arange(r, device=token.device)
    row = (token // grid[1] * r)[..., None, None] + step[:, None]  # (B, K, R, 1)
    column = (token % grid[1] * r)[..., None, None] + step         # (B, K, 1, R)
    return (row * grid[1] * r + column).flatten(2)


def gather_tokens(tokens, image, token):
    """(B, N, T, D), and (B, K) twice -> (B, K, D)."""
    return tokens[batch_index(image), image, token]


def gather_patches(images, image, patch, size):
    """(B, N, C, height, width), and (B, K) twice -> (B, K, C, P, P); size: (P, P), patches counted row by row.

    What lies side by side in memory is one row of pixels of one patch, P numbers: the images are a long list of those, in the
    order sample, image, channel, y, column of patches, and the patches are so many entries of that list."""
    N, C, Y, columns = *images.shape[1:4], images.shape[4] // size[1]
    channel, y = (torch.arange(n, device=images.device) for n in (C, size[0]))
    at = ((batch_index(image) * N + image)[..., None] * C + channel)[..., None]     # (B, K, C, 1)
    at = at * Y + (patch // columns * size[0])[..., None, None] + y                 # (B, K, C, P)
    at = at * columns + (patch % columns)[..., None, None]
    return images.reshape(-1, size[1]).index_select(0, at.flatten()).view(*at.shape, size[1])


def compose(patches, grid):
    """(B, T, C, P, P) -> (B, C, rows P, columns P), patch j at row j // columns, column j % columns."""
    return patches.unflatten(1, grid).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def batch_index(index):
    """(B, K) -> (B, 1), the number of the sample, to index beside it."""
    return torch.arange(len(index), device=index.device)[:, None]


def kept_text(image, token, n, grid):
    """The selection of one patient, (K,) twice -> lines of text, a grid an image, # where a patch was kept."""
    rows, columns = grid
    kept = {(i, t) for i, t in zip(image.tolist(), token.tolist())}
    return "\n".join("   ".join("".join(".#"[(i, row * columns + column) in kept] for column in range(columns))
                                for i in range(n)) for row in range(rows))


if __name__ == "__main__":
    torch.manual_seed(0)
    B, N, H, G, P, R = 1, 3, 4, 8, 8, 2
    maps = torch.randn(B, N, H, G * G).mul(2).softmax(-1)
    images_hr = torch.randint(256, (B, N, 3, R * G * P, R * G * P), dtype=torch.uint8)
    image, token = select(score(maps), G * G // R ** 2)
    fine = refine(token, (G, G), R)
    patches = gather_patches(images_hr, image.repeat_interleave(R * R, 1), fine.flatten(1), (P, P))
    composite = compose(patches, (G, G))
    print(f"select   {N} images x {G * G} tokens -> {image.shape[1]} kept")
    print(f"refine   {tuple(token.shape)} -> {tuple(fine.shape)}")
    print(f"compose  {tuple(patches.shape)} -> {tuple(composite.shape)}")
    print("kept, image by image:")
    print(kept_text(image[0], token[0], N, (G, G)))
