"""Lists of words as patterns: nothing is lost at commas and line ends, and nothing empty comes in."""
import re

import pytest

from plumbing import words


def test_commas_and_line_ends_divide_words_and_blanks_do_not():
    pattern = re.compile(words.any_of("""
        to ?do, a{1,2}b
        wei(ß|ss) nicht
    """))
    for text in ("todo", "to do", "ab", "aab", "weiß nicht", "weiss nicht"):
        assert pattern.fullmatch(text), text
    for text in ("", "do", "nicht", "a", "todo, ab"):
        assert not pattern.fullmatch(text), text


@pytest.mark.parametrize("name", """UNKNOWN NO_FINDING NEGATIVE POSITIVE UNITS MONTHS SITE_COLUMN LITTER DRAWN SHOWN
                         SPLIT_WORDS SPLIT_COLUMN NO_EVENT NOT_YET NOT_KNOWN""".split())
def test_no_list_has_an_empty_word(name):
    """As a comma at the end would make: then every blank, or every name, would be one of the words."""
    pattern = re.compile(getattr(words, name))
    assert not pattern.fullmatch("") and "||" not in pattern.pattern


def test_no_word_says_yes_and_no():
    assert not set(words.YES) & set(words.NO)
    for word in ("yes", "malignant", "cancer", "covid-19"):
        assert words.POSITIVE.fullmatch(word) and not words.NEGATIVE.fullmatch(word)
