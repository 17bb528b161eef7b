"""The index of a source: built once, loaded while settings and data are unchanged."""

from __future__ import annotations

import pytest

from lumina_core.data.captions import read_captions
from lumina_core.data.index import load_or_build_index
from lumina_core.data.source import Item, SkippedItem, Source
from lumina_core.errors import UnusableError


class Words(Source):
    """Words as items; counts how often it is counted and scanned."""

    title, advice = "words", "Add words"

    def __init__(self, *words):
        self.words, self.num_counts, self.num_scans = words, 0, 0

    def count(self):
        self.num_counts += 1
        return len(self.words)

    def scan(self):
        self.num_scans += 1
        yield SkippedItem("first", "skipped by the source")
        for number, word in enumerate(self.words):
            yield Item(word, (number, 7), word.encode())

    def fetch(self, ref):
        return self.words[ref[0]].encode()

    def captions(self, ref):
        return read_captions(self.words[ref[0]])

    def state(self):
        return list(self.words)


def measure(content, decode):
    if content == b"bad":
        raise UnusableError("it is bad")
    return len(content), int(decode)


def test_an_unchanged_index_is_loaded_without_counting_or_scanning(tmp_path):
    built = load_or_build_index(Words("one", "bad", "three"), measure, {}, 10, tmp_path)
    source = Words("one", "bad", "three")
    loaded = load_or_build_index(source, measure, {}, 10, tmp_path)
    assert (source.num_counts, source.num_scans) == (0, 0)
    for index in (built, loaded):
        assert [index.name(n) for n in range(len(index))] == ["one", "three"]
        assert [index.ref(n) for n in range(2)] == [(0, 7), (2, 7)]
        assert [index.size(n) for n in range(2)] == [(3, 1), (5, 1)]
        assert index.skipped == [("first", "skipped by the source"), ("bad", "it is bad")]


@pytest.mark.parametrize(
    ("words", "bounds", "validate_first"), [(("one", "four"), {}, 10), (("one",), {"limit": 3}, 10), (("one",), {}, 0)]
)
def test_other_data_or_settings_rebuild_the_index(tmp_path, words, bounds, validate_first):
    load_or_build_index(Words("one"), measure, {}, 10, tmp_path)
    source = Words(*words)
    index = load_or_build_index(source, measure, bounds, validate_first, tmp_path)
    assert source.num_scans == 1 and len(index) == len(words)


def test_only_the_headers_of_a_large_source_are_read():
    small, large = (load_or_build_index(Words("one", "two"), measure, {}, limit, None) for limit in (2, 1))
    assert small.size(0) == (3, 1) and large.size(0) == (3, 0)


def test_a_damaged_index_is_rebuilt(tmp_path):
    load_or_build_index(Words("one"), measure, {}, 10, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:30])
    source = Words("one")
    assert len(load_or_build_index(source, measure, {}, 10, tmp_path)) == 1 and source.num_scans == 1
