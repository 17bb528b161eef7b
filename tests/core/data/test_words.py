"""Notes about words of a prompt that no training caption has."""

from __future__ import annotations

from lumina_core.data.words import count_words, read_words, unknown_words_note, write_words

KNOWN = count_words(["a trumpet plays", "a trumpet", "a violin plays a rising scale", "two drums"])


def test_words_are_counted_and_saved(tmp_path):
    assert KNOWN[:2] == ["a", "trumpet"]
    write_words(tmp_path, KNOWN)
    assert read_words(tmp_path) == KNOWN and read_words(tmp_path / "none") == []


def test_an_unknown_word_is_named_with_the_nearest_or_with_examples():
    assert unknown_words_note("A trumpet plays with the violins; drum", KNOWN) == ""
    assert "'trompete' (nearest: 'trumpet')" in unknown_words_note("eine Trompete", KNOWN)
    note = unknown_words_note("a castle", KNOWN)
    assert "'castle'" in note and "nearest" not in note and "trumpet" in note


def test_scripts_without_spaces_and_short_words_are_not_looked_up():
    assert unknown_words_note("太陽 と 月 is up 城堡", KNOWN) == ""
