"""Captions by their sources: in every form they may come, and drawn as often as the weights say."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lumina_core.data.captions import (
    MAX_CAPTION_BYTES,
    all_texts,
    read_captions,
    read_json,
    read_lines,
    read_record,
    sample_caption,
)
from lumina_core.errors import UnusableError


def shares(captions, draws=4000):
    counts = Counter(sample_caption(captions, random.Random(n)) for n in range(draws))
    return {text: count / draws for text, count in counts.items()}


def test_a_text_a_list_and_texts_by_source_are_captions():
    for said, texts in [
        (" a  red\nfox ", ["a red fox"]),
        (["one", "", 3, "two"], ["one", "two"]),
        ({"llava": "a fox", "blip2": ["fox", "red fox"], "human": None}, ["a fox", "fox", "red fox"]),
    ]:
        assert list(all_texts(read_captions(said))) == texts


def test_a_source_is_heard_by_its_weight_however_much_it_says():
    said = {"llava": [f"long {n}" for n in range(9)], "blip2": "short"}
    even = shares(read_captions(said))
    assert even["short"] == pytest.approx(0.5, abs=0.04)
    assert shares(read_captions(said, {"llava": 3}))["short"] == pytest.approx(0.25, abs=0.04)
    assert set(shares(read_captions(said, {"llava": 0}), 50)) == {"short"}


def test_the_weights_of_a_picture_win_over_those_of_the_data_set():
    record = {"captions": {"a": "x", "b": "y"}, "caption_weights": {"a": 0}}
    assert set(shares(read_record(record, {"a": 5, "b": 1}), 30)) == {"y"}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "not a text, a list of texts"),
        ({"caption": 3}, "not a text, a list of texts"),
        ({"caption": ["", " "]}, "not a text, a list of texts"),
        ({"captions": {"a": "x"}, "caption_weights": {"a": 0}}, "of its sources, a, none has a weight above 0"),
        ({"captions": {"a": "x"}, "caption_weights": {"a": "much"}}, "weight of 'a' is 'much', expected a number"),
        ({"captions": {"a": "x"}, "caption_weights": {"a": -1}}, "weight of 'a' is '-1'"),
        ({"captions": {"a": "x"}, "caption_weights": {"a": float("nan")}}, "weight of 'a' is 'nan'"),
        ({"captions": {"a": "x"}, "caption_weights": [1]}, '"caption_weights" are not numbers by source'),
    ],
)
def test_a_record_without_a_caption_to_draw_says_why(record, said):
    with pytest.raises(UnusableError, match=said):
        read_record(record)


@pytest.mark.parametrize(
    ("read", "data", "said"),
    [
        (read_lines, b"\xff\xfe", "not UTF-8"),
        (read_lines, b"\n \n", "no caption"),
        (read_lines, b"x" * (MAX_CAPTION_BYTES + 1), "more than"),
        (read_json, b"{", "not JSON"),
        (read_json, b"[" * 100_000, "not JSON"),
        (read_json, b'"text"', "no JSON object"),
        (read_json, b"\xff", "not JSON"),
    ],
)
def test_a_file_of_captions_that_cannot_be_read_says_why(read, data, said):
    with pytest.raises(UnusableError, match=said):
        read(data)


def test_each_line_is_a_caption_and_json_says_them_in_one_of_three_fields():
    assert list(all_texts(read_lines("\ufeffeins\n\nzwei\n".encode()))) == ["eins", "zwei"]
    for field in ("captions", "caption", "text"):
        assert list(all_texts(read_json(f'{{"{field}": ["a"], "width": 3}}'.encode()))) == ["a"]
