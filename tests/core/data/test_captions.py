"""Captions by source: every input form, and sampling by weight."""

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
    for value, texts in [
        (" a  red\nfox ", ["a red fox"]),
        (["one", "", 3, "two"], ["one", "two"]),
        ({"llava": "a fox", "blip2": ["fox", "red fox"], "human": None}, ["a fox", "fox", "red fox"]),
    ]:
        assert list(all_texts(read_captions(value))) == texts


def test_a_source_is_drawn_by_its_weight_whatever_its_number_of_texts():
    value = {"llava": [f"long {n}" for n in range(9)], "blip2": "short"}
    even = shares(read_captions(value))
    assert even["short"] == pytest.approx(0.5, abs=0.04)
    assert shares(read_captions(value, {"llava": 3}))["short"] == pytest.approx(0.25, abs=0.04)
    assert set(shares(read_captions(value, {"llava": 0}), 50)) == {"short"}


def test_weights_of_a_record_override_those_of_the_data_set():
    record = {"captions": {"a": "x", "b": "y"}, "caption_weights": {"a": 0}}
    assert set(shares(read_record(record, {"a": 5, "b": 1}), 30)) == {"y"}


@pytest.mark.parametrize(
    ("record", "message"),
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
def test_a_record_without_a_usable_caption_is_refused_with_the_reason(record, message):
    with pytest.raises(UnusableError, match=message):
        read_record(record)


@pytest.mark.parametrize(
    ("read", "data", "message"),
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
def test_an_unreadable_caption_file_is_refused_with_the_reason(read, data, message):
    with pytest.raises(UnusableError, match=message):
        read(data)


def test_captions_are_lines_of_text_or_one_of_three_json_fields():
    assert list(all_texts(read_lines("\ufeffeins\n\nzwei\n".encode()))) == ["eins", "zwei"]
    for field in ("captions", "caption", "text"):
        assert list(all_texts(read_json(f'{{"{field}": ["a"], "width": 3}}'.encode()))) == ["a"]
