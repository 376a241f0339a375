import numpy as np

from evaluation.canvas import MARGIN
from evaluation.picture_rows import (
    HEAT, MARK, color_bar, draw_boxes, draw_heat, filter_figure, outline_patches, side_by_side, stack,
)


DARK, LIGHT = np.round(np.array(HEAT)[[0, -1]] / 2)                # over a black photograph


def pixels(image):
    return np.asarray(image).astype(int)


def test_heat_is_hottest_in_the_hottest_cell():
    """Over a black image the lightest pixel lies in the largest weight's cell."""
    weights = np.random.default_rng(0).random((7, 5)) + 1
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    weights[row, column] *= 1.5
    light = pixels(draw_heat(np.zeros((140, 150, 3), np.uint8), weights, weights.max())).sum(-1)
    y, x = np.unravel_index(light.argmax(), light.shape)
    assert (y // 20, x // 30) == (row, column)


def test_heat_is_dark_up_to_chance_and_light_from_the_top_on():
    """A ramp of multiples of chance becomes a ramp of luminance, whatever else there is on it: the scale is given."""
    ramp = np.linspace(0, 4, 64)[None].repeat(4, 0)
    image = pixels(draw_heat(np.zeros((40, 640), np.uint8), ramp, top=3))
    light = image[20] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > -1.5).all() and (image[20, :150] == DARK).all() and (image[20, 490:] == LIGHT).all()
    for weights in (np.ones((4, 4)), np.full((4, 4), 0.3)):
        assert (pixels(draw_heat(np.zeros((32, 32), np.uint8), weights)) == DARK).all()


def test_the_bar_goes_from_chance_to_the_top():
    bar = pixels(color_bar(5.25))
    assert (bar[8, 0] == HEAT[0]).all() and (bar[8, -1] == HEAT[-1]).all() and (bar[30:] < 100).any()


def test_pieces_of_a_sheet_are_found_again():
    """Where they are and what they show goes with the sheet, through rows and stacks."""
    photos = [np.full((60, 90, 3), 40 * i, np.uint8) for i in (1, 2, 3)]
    sheet = stack([side_by_side(photos[:2], ["a", "b"], 60, "title"), side_by_side(photos[2:], ["c"], 60)])
    for (left, top, width, height, caption), shade, letter in zip(sheet.info["pieces"], (40, 80, 120), "abc"):
        assert caption == letter and (pixels(sheet.crop((left, top, left + width, top + height))) == shade).all()
    assert len(sheet.info["pieces"]) == 3


def test_heat_is_half_of_the_picture():
    """The other half is the photograph: over its negative the same heat gives what is missing to grey."""
    dice = np.random.default_rng(0)
    image, weights = dice.integers(0, 256, (20, 30, 3), np.uint8), 3 * dice.random((4, 6))
    heat = pixels(draw_heat(0 * image, weights))
    for photo in (image, 255 - image):
        assert np.abs(pixels(draw_heat(photo, weights)) - heat - photo / 2).max() <= 1


def test_outline_touches_only_the_border_of_its_cells():
    """Every border pixel of the cells is coloured and nothing else, also where 5 does not divide 48."""
    image = np.full((48, 64, 3), 7, np.uint8)
    done = pixels(outline_patches(image, [0, 6, 7, 24], (5, 5)))
    expect = image.astype(int)
    for cell in (0, 6, 7, 24):
        y0, y1 = round(cell // 5 * 9.6), round((cell // 5 + 1) * 9.6)
        x0, x1 = round(cell % 5 * 12.8), round((cell % 5 + 1) * 12.8)
        inside = expect[y0 + 1:y1 - 1, x0 + 1:x1 - 1].copy()
        expect[y0:y1, x0:x1] = MARK
        expect[y0 + 1:y1 - 1, x0 + 1:x1 - 1] = inside
    assert (done == expect).all() and (image == 7).all()


def test_boxes_are_shares_of_the_picture():
    """The frame's first and last pixels are those just inside x0, y0 and x1, y1."""
    changed = pixels(draw_boxes(np.zeros((40, 50), np.uint8), [(0.2, 0.125, 0.6, 0.625)], 1)).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (5, 24, 10, 29) and not changed[6:24, 11:29].any()


def test_pictures_side_by_side_stay_whole():
    """Pictures of the row's height are pasted unchanged, in order, with even margins; others keep their aspect."""
    dice = np.random.default_rng(0)
    a, b = dice.integers(0, 256, (100, 80, 3), np.uint8), dice.integers(0, 256, (100, 120, 3), np.uint8)
    sheet = pixels(side_by_side([a, b], ["left", "a caption of several words, too long for one line"], height=100))
    assert (sheet[MARGIN:MARGIN + 100, MARGIN:MARGIN + 80] == a).all()
    assert (sheet[MARGIN:MARGIN + 100, 2 * MARGIN + 80:2 * MARGIN + 200] == b).all()
    assert sheet.shape[1] == 200 + 3 * MARGIN and (sheet[:, [0, -1]] == 255).all() and (sheet[[0, -1]] == 255).all()
    assert side_by_side([np.zeros((50, 100), np.uint8)], [""], height=200).width == 400 + 2 * MARGIN


def test_stacked_rows_are_found_again():
    """Every row is found again at the left edge, above the next, one margin apart; titles are not covered."""
    rows = [side_by_side([np.full((60, 90 + 30 * i), 50 * i, np.uint8)], [""], height=60, title=f"gypsy {i}") for i in range(3)]
    sheet, y = pixels(stack(rows)), 0
    for part in rows:
        inner = pixels(part)[:-MARGIN]
        assert (sheet[y:y + len(inner), :part.width] == inner).all()
        y += part.height - MARGIN
    assert sheet.shape[:2] == (y + MARGIN, rows[-1].width)


def test_filter_figure_frames_what_was_kept():
    """Photographs and the composite stand in one row, and nothing for one that is absent; only kept patches are framed."""
    photos, composite = [np.full((240, 240, 3), v, np.uint8) for v in (90, 120)], np.full((40, 40, 3), 33, np.uint8)
    sheet = filter_figure(photos, [(0, 0)], (4, 4), [composite])
    assert "second stage" in sheet.info["pieces"][-1][-1]
    sheet = pixels(sheet)
    at = [sheet[MARGIN:MARGIN + 240, x:x + 240] for x in (MARGIN, 240 + 2 * MARGIN)]
    last = sheet[MARGIN:MARGIN + 240, -MARGIN - 240:-MARGIN]
    assert (at[0][:60, :60] != 90).any() and (at[0][60:] == 90).all() and (at[1] == 120).all()
    assert sheet.shape[1] == 3 * 240 + 60 + 5 * MARGIN and (last == 33).all()


def test_kept_patches_are_framed_by_rank():
    """The first is the lightest."""
    photo = np.zeros((240, 240, 3), np.uint8)
    sheet = pixels(filter_figure([photo], [(0, 0), (1, 2), (0, 3)], (4, 4), []))
    assert (sheet[MARGIN, MARGIN + 5] == HEAT[-1]).all()
    assert sheet[MARGIN, MARGIN + 5].sum() > sheet[MARGIN, MARGIN + 185].sum()


def test_same_call_same_bytes():
    """A figure depends on its arguments alone, and drawing leaves the arguments as they were."""
    image, weights = np.arange(48 * 48, dtype=np.uint32).astype(np.uint8).reshape(48, 48), np.eye(4)
    for draw in (lambda: draw_heat(image, weights), lambda: outline_patches(image, [3], (4, 4)),
                 lambda: filter_figure([image], [(0, 1)], (4, 4), [image], "t")):
        before = image.copy(), weights.copy()
        assert draw().tobytes() == draw().tobytes()
        assert (image == before[0]).all() and (weights == before[1]).all()
