"""plumbing/pictures.py: both resolutions of a picture come from one decode and one crop, whatever kind of file it is."""
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from plumbing.arrays import NO_CROP
from plumbing.headers import read_header
from plumbing.pictures import open_picture, read_image, read_numbers
from tests.photographs import CELLS, ramp, save, texture


def test_high_resolution_holds_what_low_does_not(tmp_path):
    """The bug of MultiViT's released code: the high resolution must not be the enlarged low one."""
    stripes = np.zeros((96, 96), np.uint8)
    stripes[:, ::2] = 255                                          # 48 cycles a side: 96 px show them, 48 px average them away
    low, high = read_image(save(tmp_path / "a.png", stripes), (48, 48), 2, 1)
    assert low.std() < 2 and high.std() > 100
    assert np.abs(high - low.repeat(2, 1).repeat(2, 2).astype(float)).mean() > 100


@pytest.mark.parametrize("r", (2, 3, 4))
@pytest.mark.parametrize("channels", (1, 3))
def test_low_is_the_mean_of_high(tmp_path, r, channels):
    """Every low-resolution pixel is the mean of its R x R high-resolution ones, to rounding (Pillow's thirds: 5/9)."""
    low, high = read_image(save(tmp_path / "a.jpg", texture(333, 257)), (24, 40), r, channels, (0.03, 0.1, 0.07, 0.0))
    assert low.shape == (channels, 24, 40) and high.shape == (channels, 24 * r, 40 * r) and low.dtype == high.dtype == np.uint8
    assert np.abs(low - high.reshape(channels, 24, r, 40, r).mean((2, 4))).max() <= 0.56


def test_one_resolution_has_no_second():
    """R = 1 gives None for the high resolution, with the same first."""
    low, high = read_image(texture(60, 40), (20, 20))
    assert high is None and low.shape == (3, 20, 20)


@pytest.mark.parametrize("name", ("a.jpg", "a.png"))
def test_one_decode_and_one_crop(tmp_path, monkeypatch, name):
    """A picture is opened, decoded and resized once for both resolutions."""
    path, calls = save(tmp_path / name, texture(200, 150)), []
    for owner, function in ((Image, "open"), (ImageFile.ImageFile, "load_end"), (Image.Image, "resize")):
        def counted(*args, real=getattr(owner, function), function=function, **options):
            calls.append(function)
            return real(*args, **options)
        monkeypatch.setattr(owner, function, counted)
    read_image(path, (32, 32), 2, crop=(0.1, 0.0, 0.05, 0.02))
    assert calls.count("open") == 1 and calls.count("resize") == 1 and calls.count("load_end") <= 1


CROPS = (NO_CROP, (0.1, 0.1, 0.1, 0.1), (0.1, 0.0, 0.0, 0.0), (0.0, 0.0, 0.1, 0.0), (0.0, 0.1, 0.0, 0.0), (0.0, 0.0, 0.0, 0.1))


@pytest.mark.parametrize("width, height", ((1000, 450), (450, 1000), (500, 500), (6016, 480)))
@pytest.mark.parametrize("ending", ("png", "jpg"))
def test_a_crop_keeps_most_of_both_sides(tmp_path, width, height, ending):
    """Positions read back from a ramp: the region is the crop's, 80 to 100 % of either side, the same in both resolutions."""
    path = save(tmp_path / f"a.{ending}", ramp(width, height), **({"quality": 98, "subsampling": 0} if ending == "jpg" else {}))
    for crop in CROPS:
        left, top, right, bottom = crop
        for array in read_image(path, (48, 64), 2, 3, crop):
            for axis, (start, end) in enumerate(((left, 1 - right), (top, 1 - bottom))):
                line = array[axis].mean(axis).astype(float) / 255  # along the axis, from start to end
                n = len(line)
                slope, first = np.polyfit((np.arange(n) + 0.5) / n, line, 1)
                assert abs(first - start) < 0.012 and abs(first + slope - end) < 0.012
                assert 0.79 < slope < 1.01


@pytest.mark.parametrize("size, r", (((384, 384), 2), ((224, 224), 1), ((100, 60), 2), ((33, 57), 3)))
@pytest.mark.parametrize("crop", CROPS[:2])
def test_draft_is_never_smaller_than_the_high_resolution(tmp_path, monkeypatch, size, r, crop):
    """JPEG's own downscaling leaves at least as many pixels in the crop as the larger picture has, either way up."""
    resized, real = [], Image.Image.resize

    def resize(self, size, resample=None, box=None, reducing_gap=None):
        resized.append((self.size, size, box))
        return real(self, size, resample, box, reducing_gap)

    for width, height in ((2000, 1500), (1500, 2000), (970, 1600)):
        for orientation in (1, 6):
            exif = Image.Exif()
            exif[274] = orientation
            path = save(tmp_path / "a.jpg", Image.new("RGB", (width, height), "gray"), exif=exif)
            with monkeypatch.context() as patch:
                patch.setattr(Image.Image, "resize", resize)
                read_image(path, size, r, crop=crop)
            decoded, asked, box = resized.pop()
            assert asked == (r * size[1], r * size[0])
            real_size = (width, height) if orientation == 1 else (height, width)
            kept = (box[2] - box[0], box[3] - box[1])
            for axis in (0, 1):                                    # a side is smaller only where the file's own is
                assert kept[axis] >= min(asked[axis], 0.999 * (real_size[axis] * (1 - crop[axis] - crop[axis + 2]))) - 1e-6
    if size == (100, 60):                                          # and no larger than it needs to be: an eighth
        save(tmp_path / "b.jpg", Image.new("RGB", (4000, 3000)))
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "resize", resize)
            read_image(str(tmp_path / "b.jpg"), (100, 100), 2)
        assert resized.pop()[0] == (500, 375)


@pytest.mark.parametrize("width, height", ((1000, 750), (500, 700), (50, 40)))
@pytest.mark.parametrize("ending", ("jpg", "png"))
def test_close_to_the_plain_way(tmp_path, width, height, ending):
    """The same pictures as open, crop and one antialiased resize for each resolution, but for a gray level or two."""
    path, crop = save(tmp_path / f"a.{ending}", texture(width, height)), (0.05, 0.1, 0.0, 0.08)
    low, high = read_image(path, (64, 64), 2, 3, crop)
    box = (crop[0] * width, crop[1] * height, (1 - crop[2]) * width, (1 - crop[3]) * height)
    for array, side in ((low, 64), (high, 128)):
        plain = np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1)
        assert np.abs(array.astype(float) - plain).mean() < 1.5


# -----------------------------------------------------------------------------
# kinds of files


def middles(array):
    """The four squares' gray levels, as they lie."""
    h, w = array.shape[1:]
    return array[0, [h // 4, 3 * h // 4]][:, [w // 4, 3 * w // 4]].astype(int).ravel().tolist()


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("mode, ending", (("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("CMYK", "jpg"),
                                          ("L", "jpg"), ("I;16", "png"), ("I;16", "tif"), ("F", "tif"), ("RGB", "webp"), ("RGB", "bmp"),
                                          ("L", "pgm")))
def test_modes(tmp_path, mode, ending, channels):
    """Every mode becomes gray or RGB of the same levels; 16 bits and floats are stretched, not cut off."""
    if mode in ("I;16", "F"):
        picture = Image.fromarray(CELLS.astype(np.uint16) * 17 if mode == "I;16" else CELLS.astype(np.float32) / 7)
    else:
        picture = Image.fromarray(CELLS).convert("RGB" if mode == "CMYK" else mode).convert(mode)
    assert picture.mode == mode
    path = save(tmp_path / f"a.{ending}", picture)
    low, high = read_image(path, (16, 16), 2, channels)
    expected = [0, 85, 170, 255] if mode in ("I;16", "F") else [0, 80, 160, 240]
    for array in (low, high):
        assert array.dtype == np.uint8 and len(array) == channels and np.abs(np.subtract(middles(array), expected)).max() <= 2
        assert np.ptp(array.astype(int), axis=0).max() <= 2        # gray stays gray


def test_one_bit_constant_and_tiny_pictures(tmp_path):
    """1-bit is black and white; a flat 16-bit picture is black, no division by zero; one pixel fills the picture."""
    low, _ = read_image(save(tmp_path / "a.png", Image.fromarray(CELLS > 100)), (16, 16), channels=1)
    assert middles(low) == [0, 0, 255, 255]
    low, _ = read_image(save(tmp_path / "b.png", np.full((8, 8), 900, np.uint16)), (16, 16), channels=1)
    assert low.max() == 0
    low, high = read_image(save(tmp_path / "c.png", Image.new("RGB", (1, 1), (9, 8, 7))), (4, 4), 2, crop=(0.1,) * 4)
    assert (high == np.array([9, 8, 7]).reshape(3, 1, 1)).all() and low.shape == (3, 4, 4)


@pytest.mark.parametrize("orientation, expected", ((1, [0, 80, 160, 240]), (2, [80, 0, 240, 160]), (3, [240, 160, 80, 0]),
                                                   (6, [160, 0, 240, 80]), (8, [80, 240, 0, 160])))
@pytest.mark.parametrize("ending", ("jpg", "png"))
def test_a_turned_photograph_is_turned_back(tmp_path, orientation, expected, ending):
    """The orientation that a phone notes is applied before the crop."""
    exif = Image.Exif()
    exif[274] = orientation
    low, _ = read_image(save(tmp_path / f"a.{ending}", CELLS, exif=exif), (16, 16), channels=1)
    assert np.abs(np.subtract(middles(low), expected)).max() <= 2


@pytest.mark.parametrize("compression", (None, "tiff_lzw"))
@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_a_turned_tiff_is_turned_back(tmp_path, dtype, compression):
    """Also where Pillow could map the plain pixels of its rows, which are no squares, into memory."""
    pixels = np.arange(64 * 32, dtype=dtype).reshape(64, 32)
    tags = Image.Exif()
    tags[274] = 6
    path = save(tmp_path / "a.tif", Image.fromarray(pixels), exif=tags, compression=compression)
    with open_picture(path) as picture:
        assert picture.getexif()[274] == 6
        assert np.array_equal(ImageOps.exif_transpose(picture), np.rot90(pixels, -1))
    assert read_header(path).sides == (32, 64)


@pytest.mark.parametrize("ending", ("png", "webp", "tif", "mpo"))
def test_the_first_of_several_frames(tmp_path, ending):
    """Animations, stacks and the double pictures of phones give their first frame."""
    frames = [Image.fromarray(CELLS).convert("RGB"), Image.new("RGB", (32, 32), "white")]
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:], **options)
    if ending == "mpo":
        os.rename(path, path := str(tmp_path / "a.jpg"))           # as phones call them
    assert np.abs(np.subtract(middles(read_image(path, (16, 16))[0]), [0, 80, 160, 240])).max() <= 2


def test_arrays_are_pictures_too():
    """Rows of MedMNIST, gray or in color, at any size."""
    for array in (CELLS, np.stack([CELLS] * 3, -1)):
        for channels in (1, 3):
            low, high = read_image(array, (32, 32), 2, channels)
            assert np.abs(np.subtract(middles(high), [0, 80, 160, 240])).max() <= 1 and high.shape == (channels, 64, 64)
            assert low.shape == (channels, 32, 32)


def broken(folder):
    """{name: path} of files that are no pictures."""
    jpeg, png = save(folder / "whole.jpg", texture(300, 200)), save(folder / "whole.png", texture(300, 200))
    files = {"cut.jpg": open(jpeg, "rb").read()[:4000], "cut.png": open(png, "rb").read()[:4000], "empty.jpg": b"",
             "text.jpg": b"hello\nthere\n", "head.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
             "vector.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in [*files, "absent.png"]}


@pytest.mark.parametrize("name", ("cut.jpg", "cut.png", "empty.jpg", "text.jpg", "head.png", "vector.jpg", "absent.png"))
def test_what_is_no_picture_is_named_in_one_line(tmp_path, name):
    """Cut short, empty, text, another format: ValueError, the file and the reason in one line."""
    path = broken(tmp_path)[name]
    with pytest.raises(ValueError) as error:
        read_image(path, (16, 16), 2)
    assert str(error.value).startswith(f"{path}: not a readable image (") and "\n" not in str(error.value)


@pytest.mark.parametrize("side", (30, 50))
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, side):
    """Pillow's limit stops at once, also where Pillow itself would only warn; the limit is Pillow's own, not ours."""
    path = save(tmp_path / "bomb.png", Image.new("1", (side, side)))
    assert Image.MAX_IMAGE_PIXELS == 1024 ** 3 // 12 and not ImageFile.LOAD_TRUNCATED_IMAGES
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)            # 30 x 30 is over it, 50 x 50 is over twice of it
    with pytest.raises(ValueError, match=r"bomb.png: not a readable image \(Image size .* exceeds limit of \d+ pixels"):
        read_image(path, (16, 16))


# -----------------------------------------------------------------------------
# what authors of files do


def test_white_is_zero(tmp_path):
    """A 16-bit TIFF whose lowest number is white, which Pillow does not turn round, and an 8-bit one, which it does."""
    for type, factor in ((np.uint16, 17), (np.uint8, 1)):
        path = save(tmp_path / "a.tif", CELLS.astype(type) * type(factor))
        content = bytearray(open(path, "rb").read())
        entry = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00")   # tag 262, SHORT, one number, 1
        content[entry + 8] = 0
        with open(path, "wb") as file:
            file.write(content)
        low, _ = read_image(path, (16, 16), channels=1, window=[(0, 255 * 17)])
        assert np.abs(np.subtract(middles(low), [255, 175, 95, 15])).max() <= 1


@pytest.mark.parametrize("mode", ("RGBA", "LA", "P"))
def test_what_is_transparent_is_black(tmp_path, mode):
    """Whatever colors lie below; what is opaque stays, and half is half."""
    pixels = np.stack([np.full((32, 32), 200, np.uint8)] * 4, axis=-1)
    pixels[..., 3] = CELLS // 240 * 255
    picture = Image.fromarray(pixels)
    options = {}
    if mode == "P":
        picture = Image.fromarray(CELLS // 80 * 80).convert("P")
        options = {"transparency": 0}
    path = save(tmp_path / "a.png", picture.convert(mode), **options)
    expected = [0, 80, 160, 240] if mode == "P" else [0, 0, 0, 200]
    assert middles(read_image(path, (16, 16), channels=1)[0]) == expected


def png16(path, pixels, kind, transparent=()):
    """(H, W, C) uint16 -> a PNG of 16 bits; kind: 0 for grey, 2 for RGB, 4 for grey and alpha; transparent: numbers of one color."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    color = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + color + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return str(path)


@pytest.mark.parametrize("kind, color", ((0, [1]), (2, [1, 2, 3])))
def test_one_transparent_color_of_16_bits_is_refused(tmp_path, kind, color):
    """Pillow forgets it where it is grey, and takes other colors for it."""
    pixels = np.stack([CELLS.astype(np.uint16) * 257] * len(color), axis=-1)
    path = png16(tmp_path / "a.png", pixels, kind, color)
    for reader in (read_header, lambda path: read_image(path, (16, 16))):
        with pytest.raises(ValueError, match="a.png: .*one of its 16-bit colors is transparent"):
            reader(path)


@pytest.mark.parametrize("kind, channels", ((2, 3), (4, 2)))
def test_colors_of_16_bits_are_their_upper_8_or_refused(tmp_path, kind, channels):
    """Of all 16 bits the upper ones; 12 bits in 16 would be black, and are refused by the first look, too."""
    pixels = np.stack([CELLS.astype(np.uint16) * 257] * channels, axis=-1)
    if kind == 4:
        pixels[..., 1] = 65535
    assert middles(read_image(png16(tmp_path / "a.png", pixels, kind), (16, 16))[0]) == [0, 80, 160, 240]
    pixels[..., :3 if kind == 2 else 1] //= 16
    path = png16(tmp_path / "b.png", pixels, kind)
    for reader in (read_header, lambda path: read_image(path, (16, 16))):
        with pytest.raises(ValueError, match="b.png: .*16-bit colors of which at most 12 bits are used; convert it"):
            reader(path)
    pixels[0, 0] = 65535                                                    # a marker that is burnt in
    with pytest.raises(ValueError, match="16-bit colors of which at most 12 bits are used"):
        read_header(png16(tmp_path / "c.png", pixels, kind))
    pixels[:] = np.where(pixels > 1000, 65535, 0)                           # black and white
    assert read_header(png16(tmp_path / "d.png", pixels, kind)).colors


def test_colors_of_16_bits_in_files_that_are_loaded_to_be_looked_at(tmp_path):
    """A PPM, and a PNG with bytes behind its end: their colors are known before that."""
    pixels = np.stack([CELLS.astype(np.uint16) * 257] * 3, axis=-1)
    for divisor in (1, 16):
        numbers = (pixels // divisor).astype(np.uint16)
        (tmp_path / "a.ppm").write_bytes(b"P6 %d %d 65535\n" % CELLS.shape[::-1] + numbers.astype(">u2").tobytes())
        with open(png16(tmp_path / "b.png", numbers, 2), "ab") as file:
            file.write(b"0" * 99)
        for path in (str(tmp_path / "a.ppm"), str(tmp_path / "b.png")):
            if divisor == 1:
                assert read_header(path).colors and middles(read_image(path, (16, 16))[0]) == [0, 80, 160, 240]
                continue
            for reader in (read_header, lambda path: read_image(path, (16, 16))):
                with pytest.raises(ValueError, match="16-bit colors of which at most 12 bits are used"):
                    reader(path)


def test_pages_of_several_kinds_are_no_volume(tmp_path):
    """8 beside 16 bits, whichever comes first; black is zero beside white is zero."""
    grey, deep = Image.fromarray(np.full((4, 4), 7, np.uint8)), Image.fromarray(np.full((4, 4), 700, np.uint16))
    black_is_zero, white_is_zero = (struct.pack("<HHII", 262, 3, 1, value) for value in (1, 0))
    for pages in ((grey, deep), (deep, grey), (deep, deep)):
        path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
        if pages[0] is pages[1]:
            first, second, third = open(path, "rb").read().split(black_is_zero)
            open(path, "wb").write(first + black_is_zero + second + white_is_zero + third)
        with pytest.raises(ValueError, match="a.tif: .*its pages differ in bits, or in what is white"):
            read_numbers(path)


def test_pages_of_several_sizes_are_no_volume(tmp_path):
    """The file is named."""
    Image.new("L", (9, 9)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (5, 5))])
    with pytest.raises(ValueError, match="a.tif: not a readable image .all input arrays must have the same shape"):
        read_numbers(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("planes, bits, sign", ((3, 16, 1), (1, 8, 2)))
def test_numbers_that_pillow_takes_for_others_are_refused(tmp_path, planes, bits, sign):
    """16-bit colors plane by plane are mixed up, signed numbers of 8 bits lose their sign: all in silence."""
    size = 64 * bits // 8
    tags = ((256, 8), (257, 8), (258, bits), (262, 1 + planes // 3), (273, 8), (277, planes), (278, 8), (279, size), (284, 1 + planes // 3), (339, sign))
    content, lists = bytes(range(64)) * (planes * bits // 8), 8 + planes * size + 2 + 12 * len(tags) + 4
    directory, far = struct.pack("<H", len(tags)), b""
    for tag, value in tags:
        several = tag in (258, 273, 279, 339) and planes > 1
        values = [value + i * size * (tag == 273) for i in range(planes if several else 1)]
        directory += struct.pack("<HHII", tag, 4, len(values), lists + len(far) if several else value)
        far += struct.pack(f"<{len(values)}I", *values) if several else b""
    path = str(tmp_path / "a.tif")
    open(path, "wb").write(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + bytes(4) + far)
    for reader in (read_header, read_numbers, lambda path: read_image(path, (16, 16))):
        with pytest.raises(ValueError, match="a.tif: not a readable image .Pillow misreads signed numbers of 8 bits, and 16-bit colors plane by plane"):
            reader(path)


def test_unsigned_numbers_of_32_bits_are_not_signed(tmp_path):
    """In a TIFF, half of whose numbers are above 2 ** 31; Pillow gives negative ones."""
    path = save(tmp_path / "a.tif", Image.fromarray((CELLS.astype(np.int64) * 17_000_000).astype(np.uint32).view(np.int32)))
    content = open(path, "rb").read()
    assert content.count(struct.pack("<HHIHH", 339, 3, 1, 2, 0)) == 1                # the tag that says signed
    open(path, "wb").write(content.replace(struct.pack("<HHIHH", 339, 3, 1, 2, 0), struct.pack("<HHIHH", 339, 3, 1, 1, 0)))
    low, _ = read_image(path, (16, 16), channels=1)
    assert middles(low) == [0, 85, 170, 255] and read_numbers(path).array.max() == 240 * 17_000_000


def test_what_is_no_picture_is_refused_with_what_is_read(tmp_path):
    """A GIF under another name, a page of an error, a pointer of Git LFS, an empty file."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", format="GIF")
    (tmp_path / "b.png").write_text("<!DOCTYPE html>")
    (tmp_path / "c.png").write_text("")
    none_of = "it is none of the JPEG, PNG, BMP, TIFF, WEBP, PPM files that Pillow reads"
    for name, problem in (("a.png", none_of), ("b.png", none_of), ("c.png", "the file is empty")):
        with pytest.raises(ValueError, match=f"{name}: not a readable image .{problem}.$"):
            read_image(str(tmp_path / name), (8, 8))
