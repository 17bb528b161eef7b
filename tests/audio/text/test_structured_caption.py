"""Structured captions: round trip, errors, and rules for plain text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_audio.text.structured_caption import (
    TIME_TAGS,
    Event,
    extract_events,
    format_structured,
    is_structured,
    parse_structured,
    to_structured_caption,
)
from lumina_core.errors import ConfigError

PUBLISHED = "<running water& all>@<birds chirping& start>@<cow footsteps& mid>@<birds flying away& end>"


def test_published_example_is_parsed_and_formatted():
    found = parse_structured(PUBLISHED)
    assert [(event.description, event.tag) for event in found] == [
        ("running water", "all"), ("birds chirping", "start"), ("cow footsteps", "mid"), ("birds flying away", "end"),
    ]  # fmt: skip
    assert format_structured(found) == PUBLISHED
    assert (
        format_structured(parse_structured(" <a dog & ALL> @ <salt & pepper&end>. "))
        == "<a dog& all>@<salt & pepper& end>"
    )


words = st.text(st.characters(exclude_characters="<>\n", exclude_categories=["C", "Z"]), min_size=1)


@given(st.lists(st.builds(Event, words, st.sampled_from(TIME_TAGS)), min_size=1, max_size=6).map(tuple))
def test_parse_inverts_format(found):
    assert parse_structured(format_structured(found)) == found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("<rain& begin>", "tag of a structured caption: got 'begin', expected one of start, mid, end, all"),
        ("<rain& strat>", "did you mean 'start'"),
        ("<rain>", "without a tag"),
        ("<& all>", "expected text without <, >"),
        ("<rain& all>@", "structured caption: got"),
        ("<rain& all> and wind", "structured caption: got"),
        ("rain", "structured caption: got"),
        ("", "structured caption: got"),
    ],
)
def test_malformed_caption_is_refused_in_one_line(text, word):
    with pytest.raises(ConfigError) as error:
        parse_structured(text)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A large bell rings out multiple times", "<A large bell rings out multiple times& all>"),
        ("a dog barks followed by a door slamming shut", "<a dog barks& start>@<a door slamming shut& end>"),
        (
            "a car passes, then a dog barks, then rain falls",
            "<a car passes& start>@<a dog barks& mid>@<rain falls& end>",
        ),
        ("a dog barks before a man speaks", "<a dog barks& start>@<a man speaks& end>"),
        ("a man speaks after a dog barks", "<a dog barks& start>@<a man speaks& end>"),
        ("a crowd cheers while a band plays", "<a crowd cheers& all>@<a band plays& all>"),
        ("rain falls in the background and a woman laughs at the end", "<rain falls& all>@<a woman laughs& end>"),
        ("at first a piano plays, finally a choir sings", "<a piano plays& start>@<a choir sings& end>"),
        ("waves break throughout, and gulls cry in the middle", "<waves break& all>@<gulls cry& mid>"),
        ("rock and roll with drums", "<rock and roll with drums& all>"),
        (
            "cellphone ringing a variety of tones followed by a loud explosion and fire crackling "
            "as a truck engine runs idle",
            "<cellphone ringing a variety of tones& start>@<a loud explosion& end>@<fire crackling& end>"
            "@<a truck engine runs idle& end>",
        ),
    ],
)
def test_events_are_extracted_by_cue_words(text, expected):
    assert format_structured(extract_events(text)) == expected


def test_marks_in_plain_text_are_ignored():
    assert parse_structured(format_structured(extract_events("a <b> & c @ d")))[0].description == "a b c d"
    with pytest.raises(ConfigError, match="got no words"):
        extract_events(" @ ")


def test_structured_caption_stays_and_a_valid_answer_of_the_model_is_used():
    assert to_structured_caption(PUBLISHED) == PUBLISHED
    assert to_structured_caption("rain", model=lambda text: f" <{text} on a roof& mid>. ") == "<rain on a roof& mid>"
    assert to_structured_caption("rain", model=lambda text: "Sorry, I cannot.") == "<rain& all>"
    assert is_structured(PUBLISHED) and not is_structured("rain & wind")
    with pytest.raises(ConfigError, match="got 'always'"):
        to_structured_caption("<rain& always>")


@given(st.text())
def test_any_text_gives_a_caption_or_a_one_line_error(text):
    try:
        found = to_structured_caption(text)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert format_structured(parse_structured(found)) == found
