"""plumbing/grey.py: one window for all images of a run, and what each of the ways to say it gives."""
import warnings

import numpy as np
import pytest

from plumbing.grey import Values, find_window, fit_window, parse_window, sample, to_grey


FILM = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (64, 1))   # 12 bits in 16


@pytest.mark.parametrize("text, window", (
    ("auto", "auto"), ("own", "own"), ("40,400", [(-160, 239)]), ("-600,1500", [(-1350, 149)]), ("0:4095", [(0, 4095)]),
    ("0:1,-5.5:7e3", [(0, 1), (-5.5, 7000)])))
def test_a_window_in_words(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ("", "40", "40,400,3", "lung", "5:1", "nan:1", "0:inf", "40,1", "1:2:3"))
def test_what_is_no_window_is_refused(text):
    with pytest.raises(ValueError, match="^--window .*need auto, own, CENTER,WIDTH"):
        parse_window(text)


def test_numbers_become_grey_and_are_cut_off_outside():
    """Also where the slope is negative, and where the lowest number is white."""
    numbers = np.array([[-200, -100, 0, 100, 300]], np.int16)
    assert to_grey(Values(numbers), [(-100, 100)]).tolist() == [[0, 0, 127, 255, 255]]
    assert to_grey(Values(numbers, slope=-1.0), [(-100, 100)]).tolist() == [[255, 255, 127, 0, 0]]
    assert to_grey(Values(numbers, intercept=100.0), [(-100, 100)]).tolist() == [[0, 127, 255, 255, 255]]
    assert to_grey(Values(numbers, inverted=True), [(-100, 100)]).tolist() == [[255, 255, 128, 0, 0]]
    assert to_grey(Values(numbers, window=(0, 100))).tolist() == [[0, 0, 0, 255, 255]]


def test_8_bits_are_taken_as_they_are():
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for choice in ("auto", "own", [(0, 3)]):
        np.testing.assert_array_equal(to_grey(Values(numbers), choice), numbers)
        is_auto = choice == "auto"                                 # then by the window that the file states
        np.testing.assert_array_equal(to_grey(Values(numbers, window=(0, 5)), choice), numbers * (51 if is_auto else 1))
    np.testing.assert_array_equal(to_grey(Values(numbers, slope=-1.0)), 255 - numbers)       # where the lowest means the most


def test_true_is_white_and_false_is_black():
    """Also in an image that is all true, whatever the run's window."""
    for choice in ("auto", "own", [(-1000, 400)]):
        assert to_grey(Values(np.array([[True, True]])), choice).tolist() == [[255, 255]]
        assert to_grey(Values(np.array([[True, False]])), choice).tolist() == [[255, 0]]


def test_numbers_of_16_bits_with_a_point():
    """float16 cannot hold 65535, an end of other types: no warning comes of asking."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_grey(Values(np.float16([[0, 1, 2]]))).tolist() == [[0, 127, 255]]


@pytest.mark.parametrize("marker", (65535, 60000))
def test_a_burnt_in_marker_does_not_make_a_film_dark(marker):
    """A tenth of the pixels at the end of the type, or a few of any number; from its own range the film would be dark."""
    film = FILM.copy()
    film[:6 if marker == 65535 else 1, :10] = marker
    plain, marked = (to_grey(Values(pixels)).astype(int) for pixels in (FILM, film))
    assert np.abs(plain[8:] - marked[8:]).max() <= 3 and plain.max() == 255
    assert to_grey(Values(film), "own")[8:].max() < 20


@pytest.mark.parametrize("type, marker, share", (
    ("uint16", 32767, 0.02), ("uint16", 63536, 0.3), ("float32", -9999, 0.3), ("float32", 1e30, 0.01), ("int32", -1_000_000, 0.05)))
def test_a_number_far_from_all_others_is_a_marker(type, marker, share):
    """Whatever its share is: the others keep their brightness. A black background is none."""
    film = FILM.astype(type)
    film.flat[:int(share * film.size)] = marker
    rest = slice(int(share * 64) + 1, None)
    assert np.abs(to_grey(Values(FILM)).astype(int)[rest] - to_grey(Values(film))[rest]).max() <= 4
    with_background = np.where(FILM < 2000, 0, FILM + 4000)
    assert sample(Values(with_background), 10_000).min() == 0


def test_padding_that_a_file_states_does_not_count():
    """PixelPaddingValue of a CT: -2000 beside air of -1000."""
    film = FILM.astype(np.int16) - 1000
    film[:20] = -2000
    assert find_window(Values(film, padding=-2000), "auto")[0] >= -1000 and find_window(Values(film), "auto")[0] == -2000


def test_a_window_is_fitted_to_all_images_together():
    """Two films of other brightness keep the difference; per channel of a volume there is a window."""
    dark, light = Values(FILM // 2), Values(FILM)
    window = fit_window([[sample(dark, 1000)], [sample(light, 1000)]])
    [(low, high)] = parse_window(window)
    assert low == 0 and 3900 < high < 4096
    means = [to_grey(film, parse_window(window)).mean() for film in (dark, light)]
    assert means[1] / means[0] == pytest.approx(2, rel=0.05)
    windows = parse_window(fit_window([[np.arange(100.0), np.arange(100.0) * 1000]]))
    assert windows[1][1] == pytest.approx(1000 * windows[0][1], rel=1e-5)
    assert find_window(light, [(0, 1), (0, 4095)], channel=1) == (0, 4095)


def test_a_marker_in_12_bits_of_16_does_not_count():
    """4095 is written into a film of at most 1,000: the window is that of the film; without it too."""
    film = np.linspace(0, 1000, 4096).reshape(64, 64).astype(np.uint16)
    [(low, high)] = parse_window(fit_window([[sample(Values(film), 4096)]]))
    film[:10, :10] = 4095
    [(_, marked)] = parse_window(fit_window([[sample(Values(film), 4096)]]))
    assert low == pytest.approx(5, abs=1) and high == pytest.approx(995, abs=1) and marked == pytest.approx(high, abs=3)


def test_slabs_give_the_same_as_everything_at_once(monkeypatch):
    whole = to_grey(Values(FILM), [(100, 3000)])
    monkeypatch.setattr("plumbing.grey.SLAB", 100)
    np.testing.assert_array_equal(to_grey(Values(FILM), [(100, 3000)]), whole)
