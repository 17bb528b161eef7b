"""Emoji in a prompt are replaced by their English names; other text stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_image.task import replace_emoji


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("❤️", "red heart"),
        ("❤", "red heart"),
        ("🦊", "fox"),
        ("a 🦊 in the rain", "a fox in the rain"),
        ("🦊🐻", "fox bear"),
        ("a🦊b", "a fox b"),
        ("👍🏽", "thumbs up: medium skin tone"),
        ("🇯🇵", "flag: Japan"),
        ("👩‍🚀", "woman astronaut"),
        ("👨‍👩‍👧", "family: man, woman, girl"),
        ("3️⃣", "keycap: 3"),
    ],
)
def test_an_emoji_is_replaced_by_the_name_of_the_longest_sequence(text, read):
    assert replace_emoji(text) == read


@pytest.mark.parametrize(
    "text",
    ["a red heart", "ein rotes Herz", "红心", "قلب أحمر", "लाल दिल", "3 * 4 # 5", "  two  blanks ", "", "naïve café"],
)
def test_text_without_emoji_is_unchanged_in_any_script(text):
    assert replace_emoji(text) == text


@pytest.mark.parametrize("text", ["\u200d", "\ufe0f", "\u200d\ufe0f\u200d", "🏽", "🇯", "\U000e0067"])
def test_joiners_without_an_emoji_are_harmless(text):
    assert "\u200d" not in replace_emoji(text) and "\ufe0f" not in replace_emoji(text)


@settings(max_examples=60)
@given(st.text(max_size=30))
def test_replacement_is_idempotent_for_any_text(text):
    once = replace_emoji(text)
    assert replace_emoji(once) == once
