from evaluation.canvas import Page, text_width, wrap


def test_wrapped_lines_fit_and_keep_every_letter():
    """No line is wider than asked, also for one long word; nothing is lost; letters are those of the font."""
    text = "Error of the second stage against " + "supercalifragilistic" * 4
    lines = wrap(text, 150, 15)
    assert all(text_width(line, 15) <= 150 for line in lines) and len(lines) > 3
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("P\u00f6lsterl \u2212 3 \u00d7 \u4e2d", 500, 15) == ["Polsterl - 3 x ?"]


def test_a_page_is_as_large_as_asked():
    """Fractions of a pixel are rounded up; the page is white where nothing is drawn."""
    page = Page(30.2, 20)
    page.box(0, 0, 10, 20, (0, 0, 0))
    image = page.done()
    assert image.size == (31, 20) and image.getpixel((3, 10)) == (0, 0, 0) and image.getpixel((20, 10)) == (255, 255, 255)
