"""plumbing/headers.py: what a file holds is known before it is decoded, and a broken one before the first step."""
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from plumbing import headers
from plumbing.cohort import Cohort, Reading
from plumbing.headers import axes_in, axes_of, check_kinds, read_header, look_at_all
from plumbing.pictures import read_image
from tests.photographs import CELLS, save, texture


ARRAYS = (                                                         # shape, type, --image's sides, axes
    ((40, 40), "uint8", None, 2), ((40, 40), "int16", None, 2), ((40, 40), "float32", None, 0), ((40, 40), "float32", 2, 2),
    ((40, 40, 3), "uint8", None, 2), ((3, 40, 40), "float32", None, 2), ((40, 40, 1), "uint16", None, 2), ((1, 40, 40), "uint8", None, 2),
    ((40, 40, 3), "uint8", 3, 3), ((40, 30, 20), "uint8", None, 3), ((3, 4, 6), "uint8", None, 3), ((2, 8, 8, 8), "uint8", None, 3))


@pytest.mark.parametrize("ending", (".npy", ".npz", ".pt"))
@pytest.mark.parametrize("shape, type, wanted, axes", ARRAYS)
def test_arrays_are_pictures_volumes_or_bags(tmp_path, shape, type, wanted, axes, ending):
    path, array = str(tmp_path / f"a{ending}"), np.ones(shape, type)
    if ending == ".pt":
        torch.save(torch.tensor(array), path)
    elif ending == ".npz":
        np.savez_compressed(path, array)
    else:
        np.save(path, array)
    header = read_header(path)
    assert header.shape == shape and header.type == type and axes_in(header, wanted) == axes
    assert axes_of(Cohort("c", [], ["p"], [path], {}, reading=Reading(axes=wanted))) == axes


def test_what_a_picture_says(tmp_path):
    """Upright sides, bits, colors of 16 bits, alpha, pages."""
    exif = Image.Exif()
    exif[274] = 6
    header = read_header(save(tmp_path / "a.jpg", texture(30, 20), exif=exif))
    assert (header.format, header.shape, header.type) == ("JPEG", (30, 20), "uint8") and not header.is_deep
    assert read_header(save(tmp_path / "a.png", texture(30, 20), exif=exif)).shape == (30, 20)
    header = read_header(save(tmp_path / "b.png", CELLS.astype(np.uint16) * 17))
    assert header.type == "uint16" and header.is_deep and not header.pages
    np.save(tmp_path / "d.npy", np.zeros((9, 9, 4), np.uint8))
    assert read_header(str(tmp_path / "d.npy")).alpha
    assert read_header(save(tmp_path / "c.png", Image.fromarray(CELLS).convert("RGBA"))).alpha
    pages = [Image.fromarray(CELLS)] * 3
    assert read_header(save(tmp_path / "d.tif", pages[0], save_all=True, append_images=pages[1:])).pages


def test_what_is_cut_off_is_seen(tmp_path):
    """JPEG and PNG whose end is missing, a table of zero bytes; what follows the end of a whole one does no harm."""
    for name in ("a.jpg", "a.png"):
        content = open(save(tmp_path / name, texture(60, 60)), "rb").read()
        (tmp_path / f"cut_{name}").write_bytes(content[:len(content) // 2])
        with pytest.raises(ValueError, match="cut_a.*not a readable image"):
            read_header(str(tmp_path / f"cut_{name}"))
        (tmp_path / f"more_{name}").write_bytes(content + bytes(500))
        assert read_header(str(tmp_path / f"more_{name}")).shape == (60, 60)


def test_a_pipe_is_not_read(tmp_path):
    """Reading it would never end."""
    for name in ("a.png", "a.npy", "a.dcm"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="no regular file"):
            read_header(str(tmp_path / name))


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    """Each scan makes the decoder go over all pixels again."""
    path = save(tmp_path / "a.jpg", texture(40, 40), progressive=True)
    content = open(path, "rb").read()
    start = content.rindex(b"\xff\xda")
    assert read_header(path).shape == (40, 40)
    with open(path, "wb") as file:
        file.write(content[:start] + content[start:-2] * 200 + content[-2:])
    with pytest.raises(ValueError, match="a JPEG of .* scans, more than 100"):
        read_header(path)


@pytest.mark.parametrize("group", (headers.GROUP, 1))
def test_all_files_are_looked_at_and_are_of_one_kind(group, tmp_path, monkeypatch):
    """By one thread all of them together, and by two threads."""
    monkeypatch.setattr(headers, "GROUP", group)
    np.save(tmp_path / "a.npy", np.zeros((9, 8, 7), np.uint8))
    paths = [save(tmp_path / "b.png", CELLS), str(tmp_path / "a.npy")]
    cohort = Cohort("c", [], ["p", "q"], paths, {})
    looked = look_at_all(cohort)
    assert list(looked) == [0, 1]
    with pytest.raises(ValueError, match=r"c holds pictures \(.*b.png\) and volumes \(.*a.npy\); need images of one kind"):
        check_kinds(cohort, looked)
    np.save(tmp_path / "c.npy", np.zeros((9, 8))), np.save(tmp_path / "d.npy", np.zeros((9, 7)))
    bags = replace(cohort, paths=[str(tmp_path / "c.npy"), str(tmp_path / "d.npy")])
    with pytest.raises(ValueError, match=r"bags of vectors of 8 numbers \(.*c.npy\) and bags of vectors of 7 numbers"):
        check_kinds(bags, look_at_all(bags))
    os.truncate(paths[0], 10)
    with pytest.raises(ValueError, match="b.png: not a readable image"):
        look_at_all(cohort)


@pytest.mark.parametrize("ending, options", (
    (".tif", {}), (".tif", {"compression": "tiff_deflate"}), (".tif", {"compression": "jpeg"}), (".bmp", {}), (".webp", {}), (".ppm", {}), (".jpg", {}), (".png", {})))
def test_a_file_that_was_cut_off_is_found_before_it_is_decoded(tmp_path, ending, options):
    """Of every format; the whole file is fine."""
    path = str(tmp_path / f"a{ending}")
    Image.fromarray(texture(100, 120)).save(path, **options)
    assert read_header(path).shape[:2] == Image.open(path).size[::-1]
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[:len(content) * 2 // 3])
    with pytest.raises(ValueError, match=f"a{ending}: not a readable image"):
        read_header(path)


def test_an_array_without_plain_numbers_is_refused_by_its_header(tmp_path):
    """Complex ones, and none at all, as a bag without vectors."""
    for array, kind in ((np.ones((40, 40), complex), "complex128"), (np.ones((0, 8)), "float64")):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match=f"holds {kind} .*, need numbers, at least one"):
            read_header(str(tmp_path / "a.npy"))


def tiled_tiff(pixels, side):
    """uint8 (H, W), multiples of `side` -> the bytes of a TIFF of such tiles, which Pillow does not write."""
    height, width = pixels.shape
    tiles = [pixels[y:y + side, x:x + side].tobytes() for y in range(0, height, side) for x in range(0, width, side)]
    count, size = len(tiles), side * side
    lists = 8 + count * size                                       # where the offsets and the lengths of the tiles stand
    offsets = struct.pack(f"<{count}I", *(8 + i * size for i in range(count)))
    lengths = struct.pack(f"<{count}I", *[size] * count)
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 322: side, 323: side}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries += [struct.pack("<HHII", 324, 4, count, lists), struct.pack("<HHII", 325, 4, count, lists + len(offsets))]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", lists + 2 * len(offsets)) + b"".join(tiles) + offsets + lengths + directory


def test_a_tiled_tiff_is_read_tile_by_tile(tmp_path):
    """Every pixel in its place; a tile that lies behind the end of the file is missed."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48), np.uint8)
    content = tiled_tiff(pixels, 16)
    (tmp_path / "a.tif").write_bytes(content)
    assert read_header(str(tmp_path / "a.tif")).shape == (32, 48)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif"), (32, 48), channels=1)[0][0], pixels)
    beyond = content.replace(struct.pack("<I", 8 + 5 * 256), struct.pack("<I", 8 + 50 * 256))
    (tmp_path / "a.tif").write_bytes(beyond)
    with pytest.raises(ValueError, match="a.tif: not a readable image"):
        read_header(str(tmp_path / "a.tif"))
