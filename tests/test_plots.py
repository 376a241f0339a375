import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plots import (ACCENT, BAR, HEAT, HEIGHT, MARGIN, boxes, curves, dots, filter_figure, frame, grid, heat, histogram,
                   limits, number, outline, photo, row, scatter, text_width, ticks, wrap)

NAN = float("nan")


def pixels(image):
    return np.asarray(image).astype(int)


def near(image, color, tolerance=40):
    return np.abs(pixels(image) - color).max(-1) <= tolerance


def test_zero_line_is_at_zero():
    """zero_line changes one column of pixels only, and it is the one the axes give to the value 0."""
    values = [-1.0, -0.5, 0.4, 3.0]  # 0 is a quarter of the way; the edges are the same without the line
    with_line, without = (histogram(values, bins=8, zero_line=z) for z in (True, False))
    columns = np.flatnonzero((np.abs(pixels(with_line) - pixels(without)) > 40).any((0, 2)))  # 40: ringing
    _, to_px, _ = frame(limits([-1, 3]), (0, 1.2), "", "", "count", whole=True)
    assert len(columns) <= 4 and abs(columns.mean() + 0.5 - to_px(0, 0)[0]) <= 1
    assert abs(to_px(0, 0)[0] - 0.75 * to_px(-1, 0)[0] - 0.25 * to_px(3, 0)[0]) < 1e-9


def test_bars_are_as_high_as_their_counts():
    """Heights in pixels are as 1 : 2 : 4, and an empty bin has no bar."""
    image = histogram([0.5] + [1.5] * 2 + [3.5] * 4, bins=4)
    _, to_px, _ = frame(limits([0, 4]), (0, 4.8), "", "", "count", whole=True)
    heights = [near(image, BAR, 3)[:, round(to_px(v, 0)[0])].sum() for v in (0.3, 1.3, 2.3, 3.3)]
    unit = to_px(0, 0)[1] - to_px(0, 1)[1]
    assert np.allclose(heights, [unit, 2 * unit, 0, 4 * unit], atol=4)  # soft edges
    assert abs(heights[1] - heights[0] - unit) <= 1 and abs(heights[3] - heights[1] - 2 * unit) <= 1


def test_mean_line_is_at_the_mean():
    """The column with the most accent colour is the mean's, outliers and NaN aside."""
    values = [1.0, 2.0, 6.0, NAN]
    columns = near(histogram(values, bins=6), ACCENT, 60).sum(0)
    _, to_px, _ = frame(limits([0, 6]), (0, 1.2), "", "", "count", whole=True)
    assert abs(columns.argmax() - to_px(3, 0)[0]) <= 1.5


def test_scatter_puts_dots_where_the_axes_say():
    """The only dot is centred on its value; a pair with NaN is not drawn."""
    image = scatter([0, 1, 0.25], [0, 1, NAN], identity=False)
    _, to_px, _ = frame(limits([0, 1]), limits([0, 1]), "", "", "")
    blue = pixels(image)[..., 2] - pixels(image)[..., 0] > 50
    left = np.argwhere(blue[:, :round(to_px(0.5, 0)[0])]).mean(0) + 0.5
    assert np.allclose(left[::-1], to_px(0, 0), atol=1)
    assert not blue[:, round(to_px(0.2, 0)[0]):round(to_px(0.8, 0)[0])].any()


def test_identity_line_is_the_diagonal_of_a_square():
    """With identity both axes have one scale and one length."""
    _, to_px, (left, top, end, bottom) = frame((-1, 3), (-1, 3), "a title", "x", "y", square=True)
    assert end - left == bottom - top
    (x0, y0), (x1, y1) = to_px(0, 0), to_px(2, 2)
    assert x1 - x0 == pytest.approx(y0 - y1)


def test_nan_leaves_a_gap_in_a_curve():
    """No line over the NaN, a line on both sides, and a point between two gaps is a dot."""
    x, y = np.arange(21), np.where(np.isin(np.arange(21), [8, 9, 10, 12]), NAN, 1.0)
    image = near(curves({"": (x, y)}), ACCENT)
    _, to_px, _ = frame(limits(x), limits([1]), "", "", "")
    across = image[round(to_px(0, 1)[1]) - 1]
    drawn = [bool(across[round(to_px(v, 1)[0])]) for v in (3, 6.5, 7.5, 9, 10.5, 11, 11.5, 12.5, 15)]
    assert drawn == [True, True, False, False, False, True, False, False, True]


def test_a_power_law_is_straight_on_log_axes():
    """Equal ratios are equal distances, in x and in y; values that have no logarithm are left out."""
    _, to_px, _ = frame((1, 1e4), (1e-3, 1e3), "", "", "", log_x=True, log_y=True)
    points = np.array([to_px(10.0**k, 10.0 ** (k - 2)) for k in range(5)])
    assert np.allclose(np.diff(points, 2, axis=0), 0, atol=1e-6)
    clean = curves({"a": ([1, 10, 100], [1, NAN, 3])}, log_x=True, log_y=True)
    for x, y in (([1, 10, 100], [1, -2, 3]), ([1, 0, 100], [1, 2, 3])):
        assert curves({"a": (x, y)}, log_x=True, log_y=True).tobytes() == clean.tobytes()


def test_names_of_curves_do_not_overlap():
    """Ten curves that end in one point still have ten lines of text, inside the page."""
    image = pixels(curves({f"run {i}": ([0, 1], [0, 1]) for i in range(10)}))
    _, _, (_, _, end, _) = frame((0, 1), (0, 1), "", "", "")
    inked = (image[:, round(end) + 16:] < 200).any((1, 2))
    assert np.count_nonzero(np.diff(inked.astype(int)) == 1) == 10
    assert (image[[0, -1]] == 255).all() and (image[:, [0, -1]] == 255).all()


@pytest.mark.parametrize("low, high, texts", [
    (-0.0003, 0.0007, ["-0.0002", "0", "0.0002", "0.0004", "0.0006"]),
    (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    (0, 1e5, ["0", "20,000", "40,000", "60,000", "80,000", "100,000"]),
    (-1e6, 1e6, ["-1.0e6", "-5e5", "0", "5e5", "1.0e6"]),
    (0.5, 1.5, ["0.6", "0.8", "1.0", "1.2", "1.4"])])
def test_ticks_are_round(low, high, texts):
    """The labels a person would choose."""
    assert list(ticks(low, high).values()) == texts


def test_ticks_are_few_inside_and_distinct():
    """For any range: 2 to 8 ticks, within it, no two with the same text."""
    dice = np.random.default_rng(0)
    for _ in range(300):
        low = dice.normal() * 10 ** dice.uniform(-6, 6)
        high = low + 10 ** dice.uniform(-6, 6) + abs(low) * 1e-3
        for log in (False, True) if low > 0 else (False,):
            found = ticks(low, high, log)
            assert 2 <= len(found) <= 8 and len(set(found.values())) == len(found), (low, high, log, found)
            assert all(low - 1e-9 * (high - low) <= v <= high + 1e-9 * (high - low) for v in found)
    assert all(float(name).is_integer() for name in ticks(0, 1.2, whole=True).values())


def test_number_is_short():
    """As many digits as tell neighbours apart."""
    for value, step, text in ((0.5, 0.5, "0.5"), (12, 1, "12"), (2e-5, 1e-5, "2e-5"), (3e7, 1e7, "3e7"), (0, 1, "0")):
        assert number(value, step) == text


def test_wrapped_lines_fit_and_keep_every_letter():
    """No line is wider than asked, also for one long word; nothing is lost; letters are those of the font."""
    text = "Error of the second stage against " + "supercalifragilistic" * 4
    lines = wrap(text, 150, 15)
    assert all(text_width(line, 15) <= 150 for line in lines) and len(lines) > 3
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("P\u00f6lsterl \u2212 3 \u00d7 \u4e2d", 500, 15) == ["Polsterl - 3 x ?"]


@pytest.mark.parametrize("draw", [
    lambda v: histogram(v, "t", "x"), lambda v: histogram(v, zero_line=False),
    lambda v: scatter(v, v, "t", "x", "y"), lambda v: scatter(v, v, identity=False),
    lambda v: curves({"a": (v, v)}, "t", "x", "y", identity=True),
    lambda v: curves({"a": (v, v)}, log_x=True, log_y=True)])
def test_charts_take_anything(draw):
    """None, one, equal, tiny, huge and non-finite values: a page whose margin is white, so that nothing is cut."""
    for values in ([], [NAN], [3.0], [0, 0], [-0.0003, 0.0007], [1e5, 1e5 + 1], [1e12, -1e12], [np.inf, 1, 2]):
        image = draw(values)
        assert image.height == HEIGHT and (pixels(image)[[0, 1, -2, -1]] == 255).all()
        assert (pixels(image)[:, [0, 1, -2, -1]] == 255).all() and (pixels(image) < 200).any()


def test_heat_is_hottest_in_the_hottest_cell():
    """Over a black image the lightest pixel lies in the largest weight's cell, for maps of any size and scale."""
    dice = np.random.default_rng(0)
    for scale in (1e-6, 1, 1e6):
        weights = dice.random((7, 5)) * scale
        row_, column = np.unravel_index(weights.argmax(), weights.shape)
        weights[row_, column] *= 1.5
        light = pixels(heat(np.zeros((140, 150, 3), np.uint8), weights, alpha=1)).sum(-1)
        y, x = np.unravel_index(light.argmax(), light.shape)
        assert (y // 20, x // 30) == (row_, column)


def test_heat_colours_are_ordered_by_lightness():
    """A ramp of weights becomes a ramp of luminance; scaling and shifting the weights changes nothing."""
    ramp = np.arange(64.0)[None].repeat(4, 0)
    image = heat(np.zeros((40, 640), np.uint8), ramp, alpha=1)
    light = pixels(image)[20] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light[5:-5]) > -1.5).all() and light[-1] > light[0] + 150
    assert np.abs(pixels(heat(np.zeros((40, 640), np.uint8), 8 * ramp + 3, alpha=1)) - pixels(image)).max() <= 1


def test_heat_without_a_pattern():
    """A constant map, one with rounding noise, and one of NaN are all the lowest colour; one NaN is a cold cell."""
    image = np.zeros((32, 32), np.uint8)
    for weights in (np.full((4, 4), 0.1), 0.1 + 1e-9 * np.eye(4), np.full((4, 4), NAN), np.zeros((1, 1))):
        assert (pixels(heat(image, weights, alpha=1)) == HEAT[0]).all()
    weights = np.ones((4, 4))
    weights[1, 2] = NAN
    weights[3, 0] = 0
    light = pixels(heat(image, weights, alpha=1)).sum(-1)
    assert light[12, 20] < light[20, 20] and not np.isnan(light).any()


def test_heat_blends_by_alpha():
    """alpha 0 is the image; 1 does not depend on it."""
    dice = np.random.default_rng(0)
    image, weights = dice.integers(0, 256, (20, 30, 3), np.uint8), dice.random((4, 6))
    assert (pixels(heat(image, weights, alpha=0)) == image).all()
    assert heat(image, weights, 1).tobytes() == heat(255 - image, weights, 1).tobytes()


def test_outline_touches_only_the_border_of_its_cells():
    """Every border pixel of the cells is coloured and nothing else, also where 5 does not divide 48."""
    image = np.full((48, 64, 3), 7, np.uint8)
    done = pixels(outline(image, [0, 6, 7, 24], (5, 5), color=(250, 0, 0)))
    expect = image.astype(int)
    for cell in (0, 6, 7, 24):
        y0, y1 = round(cell // 5 * 9.6), round((cell // 5 + 1) * 9.6)
        x0, x1 = round(cell % 5 * 12.8), round((cell % 5 + 1) * 12.8)
        inside = expect[y0 + 1:y1 - 1, x0 + 1:x1 - 1].copy()
        expect[y0:y1, x0:x1] = 250, 0, 0
        expect[y0 + 1:y1 - 1, x0 + 1:x1 - 1] = inside
    assert (done == expect).all() and (image == 7).all()


def test_outline_numbers_stay_in_their_cell():
    """Ranks of one and two figures change pixels of their own cells only."""
    image = np.zeros((96, 96), np.uint8)
    without, numbered = outline(image, [1, 11], (4, 4)), outline(image, [1, 11], (4, 4), numbers=[1, 23])
    changed = (pixels(numbered) != pixels(without)).any(-1)
    assert changed[:24, 24:48].any() and changed[48:72, 72:].any()
    changed[:24, 24:48] = changed[48:72, 72:] = False
    assert not changed.any()


def test_boxes_are_in_pixels():
    """The frame's first and last pixels are x0, y0 and x1 - 1, y1 - 1."""
    changed = pixels(boxes(np.zeros((40, 50), np.uint8), [(10, 5, 30, 25)])).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (5, 24, 10, 29) and not changed[6:24, 11:29].any()


def test_row_keeps_pictures_whole():
    """Pictures of the row's height are pasted unchanged, in order, with even margins; others keep their aspect."""
    dice = np.random.default_rng(0)
    a, b = dice.integers(0, 256, (100, 80, 3), np.uint8), dice.integers(0, 256, (100, 120, 3), np.uint8)
    sheet = pixels(row([a, b], ["left", "a caption of several words, too long for one line"], height=100))
    assert (sheet[MARGIN:MARGIN + 100, MARGIN:MARGIN + 80] == a).all()
    assert (sheet[MARGIN:MARGIN + 100, 2 * MARGIN + 80:2 * MARGIN + 200] == b).all()
    assert sheet.shape[1] == 200 + 3 * MARGIN and (sheet[:, [0, -1]] == 255).all() and (sheet[[0, -1]] == 255).all()
    assert row([np.zeros((50, 100), np.uint8)], height=200).width == 400 + 2 * MARGIN


def test_grid_stacks_rows():
    """Every row is found again at the left edge, above the next, one margin apart; titles are not covered."""
    rows = [row([np.full((60, 90 + 30 * i), 50 * i, np.uint8)], height=60, title=f"gypsy {i}") for i in range(3)]
    sheet, y = pixels(grid(rows)), 0
    for part in rows:
        inner = pixels(part)[:-MARGIN]
        assert (sheet[y:y + len(inner), :part.width] == inner).all()
        y += part.height - MARGIN
    assert sheet.shape[:2] == (y + MARGIN, rows[-1].width)


def test_filter_figure_frames_what_was_kept():
    """Photographs, an empty frame, the composite stand in one row; only kept patches are framed."""
    photos, composite = [np.full((80, 80, 3), v, np.uint8) for v in (90, 120)], np.full((40, 40, 3), 33, np.uint8)
    sheet = pixels(filter_figure([*photos, None], [[0], [], []], (4, 4), composite, height=80))
    at = [sheet[MARGIN:MARGIN + 80, x:x + 80] for x in (MARGIN + i * (80 + MARGIN) for i in range(3))]
    last = sheet[MARGIN:MARGIN + 80, -MARGIN - 80:-MARGIN]
    assert (at[0][:20, :20] != 90).any() and (at[0][20:] == 90).all() and (at[1] == 120).all()
    assert (at[2][40, 40] > 220).all() and (last == 33).all()


def test_same_call_same_bytes():
    """A figure depends on its arguments alone, and drawing leaves the arguments as they were."""
    image, weights = np.arange(48 * 48, dtype=np.uint32).astype(np.uint8).reshape(48, 48), np.eye(4)
    for draw in (lambda: histogram([1, 2, 2]), lambda: scatter([1, 2], [2, 1]), lambda: curves({"a": ([1, 2], [2, 1])}),
                 lambda: heat(image, weights), lambda: outline(image, [3], (4, 4), numbers=[1]),
                 lambda: filter_figure([image], [[1]], (4, 4), image, "t")):
        before = image.copy(), weights.copy()
        assert draw().tobytes() == draw().tobytes()
        assert (image == before[0]).all() and (weights == before[1]).all()


@pytest.mark.parametrize("call, words", [
    (lambda i: photo(i.astype(float)), "uint8"),
    (lambda i: photo(i[None]), "uint8"),
    (lambda i: photo(i[0, 0]), "uint8"),
    (lambda i: heat(i, np.ones(4)), "rows, cols"),
    (lambda i: outline(i, [16], (4, 4)), "0 to 15"),
    (lambda i: outline(i, [1, 2], (4, 4), numbers=[1]), "1 numbers for 2"),
    (lambda i: boxes(i, [(5, 5, 5, 9)]), "x0 < x1"),
    (lambda i: scatter([1, 2], [1]), "one length"),
    (lambda i: curves({"a": ([1], [1, 2])}), "one length"),
    (lambda i: row([]), "one at least"),
    (lambda i: row([i], ["a", "b"]), "2 captions"),
    (lambda i: grid([]), "one row"),
    (lambda i: filter_figure([i], [], (4, 4), i), "0 lists"),
    (lambda i: filter_figure([None], [[1]], (4, 4), i), "absent")])
def test_wrong_arguments_are_named_in_one_line(call, words):
    """ValueError, one line, with what was given and what is needed."""
    with pytest.raises(ValueError, match=words) as error:
        call(np.zeros((16, 16, 3), np.uint8))
    assert "\n" not in str(error.value)


def test_demo_writes_a_sheet():
    """python plots.py prints the path of a picture."""
    here = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "plots.py"], cwd=here, capture_output=True, text=True, check=True)
    with Image.open(out.stdout.split()[0]) as sheet:
        assert sheet.width > 1000


def test_dots_stand_where_their_values_are():
    """A dot further right for more, one line a name from the top, a mean between; NaN is left out, nothing at all is said."""
    image = np.asarray(dots({"a": [0.0], "b": [1.0, 0.5], "c": [np.nan]}, xlabel="x")).astype(int)
    blue = (image[..., 2] - image[..., 0]) > 60
    rows = np.flatnonzero(blue.any(1))
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 5) + 1)
    assert len(lines) == 2 and np.flatnonzero(blue[lines[0]].any(0)).max() < np.flatnonzero(blue[lines[1]].any(0)).min()
    assert dots({"a": [np.nan]}).size == dots({"a": [1.0]}).size and dots({}).width > 0
