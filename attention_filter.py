"""The attention filter: which patches of which photographs deserve a second look?

    score     s[i, t] = mean over heads of the class token's attention to patch t of image i, last block
    select    the K = T / R^2 highest scores over all N images together; one image may win them all
    refine    token t of the low resolution -> its R x R patches of the high resolution
    gather    those tokens and those pixels
    compose   patch j -> place j of a new image, in raster order, best first: the R^2 patches of one token are
              neighbours in that order, not a square

Murray et al. 2024, "A Vision Transformer with Adaptive Cross-Image and Cross-Resolution Attention", section
3.1. B patients, N images of a patient, T = rows * columns patch tokens of an image, H heads, D width, K
tokens kept, R high over low resolution, P patch side in pixels, C channels. Pure functions without
parameters; nothing here is differentiable in the scores, and nothing waits for the GPU. Differs: ties go to
the first image, then to the lowest token, on every device (the released code leaves them open); absent
images are never chosen (it refuses such patients). Run: python attention_filter.py
"""
import torch


def score(maps, present=None):
    """(B, N, H, T) class maps -> (B, N, T) importance; images that are not present (B, N) score -inf.

    Softmax maps are shares of 1. The weights of softmax-free attention have a sign: what counts is their
    size."""
    scores = maps.detach().abs()
    scores = scores.mean(2)                                        # over the heads
    if present is not None:
        scores = scores.masked_fill(~present[:, :, None], float("-inf"))
    return scores


def select(scores, k):
    """(B, N, T) -> image, token: (B, K) each, the k highest scores of a patient, best first."""
    N, T = scores.shape[1:]
    if not 0 < k <= N * T:
        raise ValueError(f"cannot keep {k} of {N} x {T} tokens")
    scores = scores.flatten(1)                                     # (B, N T)
    ids = scores.argsort(dim=1, descending=True, stable=True)
    ids_keep = ids[:, :k]
    return ids_keep // T, ids_keep % T


def refine(token, grid, r):
    """(B, K) tokens of a (rows, columns) grid -> (B, K, R R) patches of the (R rows, R columns) grid, row
    by row."""
    rows, columns = grid
    offset = torch.arange(r, device=token.device)
    row = token // columns * r                                     # of the first of the R x R patches
    column = token % columns * r
    row = row[:, :, None, None]
    column = column[:, :, None, None]
    rows_of_patches = row + offset[:, None]                        # (B, K, R, 1)
    patch = rows_of_patches * columns * r + column + offset        # (B, K, R, R)
    return patch.flatten(2)


def gather_tokens(tokens, image, token):
    """(B, N, T, D), and (B, K) twice -> (B, K, D)."""
    sample = torch.arange(len(tokens), device=tokens.device)[:, None]
    return tokens[sample, image, token]


def gather_patches(images, image, patch, size):
    """(B, N, C, height, width), and (B, K) twice -> (B, K, C, P, P); size: (P, P), patches counted row by
    row.

    What lies side by side in memory is one row of pixels of one patch, P numbers: the images are a long
    list of such lines, in the order sample, image, channel, y, column of patches, and the patches are so
    many entries of the list."""
    B, N, C, height, width = images.shape
    P, columns = size[0], width // size[1]
    sample = torch.arange(B, device=images.device)[:, None]
    device = images.device
    channel = torch.arange(C, device=device)
    y = torch.arange(P, device=device)
    picture = sample * N + image                                   # (B, K), counted over the batch
    plane = picture[:, :, None] * C + channel                      # (B, K, C)
    top = patch // columns * P                                     # y of the patch's first row, (B, K)
    row = top[:, :, None, None] + y                                # (B, K, 1, P)
    line = plane[..., None] * height + row                         # (B, K, C, P)
    column = patch % columns
    line = line * columns + column[:, :, None, None]
    lines = images.reshape(-1, size[1])
    pixels = lines.index_select(0, line.flatten())
    return pixels.view(*line.shape, size[1])


def compose(patches, grid):
    """(B, T, C, P, P) -> (B, C, rows P, columns P), patch j at row j // columns, column j % columns."""
    rows, columns = grid
    patches = patches.unflatten(1, (rows, columns))                # (B, rows, columns, C, P, P)
    image = patches.permute(0, 3, 1, 4, 2, 5)                      # (B, C, rows, P, columns, P)
    image = image.flatten(4, 5)
    return image.flatten(2, 3)


def kept_text(image, token, n, grid):
    """The selection of one patient, (K,) twice -> lines of text, one grid per image, # where a patch was
    kept."""
    rows, columns = grid
    pairs = zip(image.tolist(), token.tolist())
    kept = set(pairs)
    lines = []
    for row in range(rows):
        pictures = []
        for i in range(n):
            text = ""
            for column in range(columns):
                is_kept = (i, row * columns + column) in kept
                text += "#" if is_kept else "."
            pictures.append(text)
        lines.append("   ".join(pictures))
    return "\n".join(lines)


if __name__ == "__main__":
    torch.manual_seed(0)
    B, N, H, G, P, R = 1, 3, 4, 8, 8, 2
    maps = torch.randn(B, N, H, G * G).mul(2).softmax(-1)
    side = R * G * P
    images_hr = torch.randint(256, (B, N, 3, side, side), dtype=torch.uint8)
    scores = score(maps)
    image, token = select(scores, G * G // R ** 2)
    fine = refine(token, (G, G), R)
    image_of_patch = image.repeat_interleave(R * R, 1)
    fine_of_patch = fine.flatten(1)
    patches = gather_patches(images_hr, image_of_patch, fine_of_patch, (P, P))
    composite = compose(patches, (G, G))
    print(f"select   {N} images x {G * G} tokens -> {image.shape[1]} kept")
    print(f"refine   {tuple(token.shape)} -> {tuple(fine.shape)}")
    print(f"compose  {tuple(patches.shape)} -> {tuple(composite.shape)}")
    text = kept_text(image[0], token[0], N, (G, G))
    print("kept, image by image:")
    print(text)
