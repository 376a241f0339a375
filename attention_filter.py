"""The attention filter: which patches of which photographs deserve a second look?

    score     s[i, t] = mean over heads of the class token's attention to patch t of image i, last block
    select    the K = T / R^2 highest scores over all N images together, which may all be of one image
    refine    token t of the low resolution -> its R x R patches of the high resolution
    gather    these tokens, and the pixels of these patches
    compose   patch j -> place j of a new image, in raster order, best first: the R^2 patches of a token
              follow each other in that order and are no longer a square

Murray et al. 2024, "A Vision Transformer with Adaptive Cross-Image and Cross-Resolution Attention", section
3.1. B patients, N images of a patient, T = rows * columns patch tokens of an image, H heads, D width, K
tokens kept, R high over low resolution, P patch side in pixels, C channels. Pure functions without
parameters; none is differentiable in the scores, and none makes the CPU wait for the GPU. Differs: the text
keeps T tokens, its released code T / R^2, as here. Of equal scores the first image's and then the lowest
token's wins, on every device (left open there). Absent images are never chosen (refused there).
"""
import torch


def score(maps, present=None):
    """(B, N, H, T) class maps -> (B, N, T); images that are not present (B, N) score -inf. Of softmax-free
    attention, whose weights have a sign, the absolute values count."""
    scores = maps.detach().abs()
    scores = scores.mean(2)                                        # over the heads
    if present is not None:
        scores = scores.masked_fill(~present[:, :, None], float("-inf"))
    return scores


def select(scores, k):
    """(B, N, T) -> image, token: (B, K) each, where the k highest scores of a patient are, best first.
    ValueError unless 0 < k <= N T."""
    N, T = scores.shape[1:]
    if not 0 < k <= N * T:
        raise ValueError(f"cannot keep {k} of {N} x {T} tokens")
    scores = scores.flatten(1)                                     # (B, N T)
    ids = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return ids // T, ids % T


def refine(token, grid, r):
    """(B, K) tokens of a (rows, columns) grid -> (B, K, R R) patches of a grid R times as fine, by rows."""
    columns = grid[1]
    token = token[:, :, None, None]
    offset = torch.arange(r, device=token.device)
    row = token // columns * r + offset[:, None]                   # (B, K, R, 1)
    column = token % columns * r + offset                          # (B, K, 1, R)
    patch = row * columns * r + column                             # (B, K, R, R)
    return patch.flatten(2)


def gather_tokens(tokens, image, token):
    """tokens (B, N, T, D); image, token (B, K) -> (B, K, D)."""
    sample = torch.arange(len(tokens), device=tokens.device)[:, None]
    return tokens[sample, image, token]


def gather_patches(images, image, patch, size):
    """images (B, N, C, height, width); image, patch (B, K) -> (B, K, C, P, P). size: (P, P)."""
    sample = torch.arange(len(images), device=images.device)[:, None]
    columns = images.shape[4] // size[1]
    images = images.unflatten(4, (columns, size[1]))               # (B, N, C, height, columns, P)
    images = images.unflatten(3, (-1, size[0]))                    # (B, N, C, rows, P, columns, P)
    return images[sample, image, :, patch // columns, :, patch % columns]  # PyTorch puts (B, K) first


def compose(patches, grid):
    """(B, T, C, P, P) -> (B, C, rows P, columns P), patch j at row j // columns, column j % columns."""
    patches = patches.unflatten(1, grid)                           # (B, rows, columns, C, P, P)
    image = patches.permute(0, 3, 1, 4, 2, 5)                      # (B, C, rows, P, columns, P)
    image = image.flatten(4, 5)
    return image.flatten(2, 3)


if __name__ == "__main__":
    print("the K = 16 patches that are kept (1) of three images of 8 x 8, R = 2, by random attention")
    maps = torch.randn(1, 3, 4, 64).softmax(-1)                    # (B, N, H, T)
    image, token = select(score(maps), k=16)
    kept = torch.zeros(3, 64, dtype=torch.int)
    kept[image, token] = 1
    for row in kept.view(3, 8, 8).transpose(0, 1).tolist():        # of all three images
        texts = ["".join(map(str, patches)) for patches in row]
        print("   ".join(texts))
