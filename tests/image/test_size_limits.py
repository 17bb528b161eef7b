"""Sizes beyond training: generated, generated with a note, or refused with the limits."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lumina_core.sampling import pipeline
from lumina_core.sampling import resolve as sizes
from lumina_core.sampling.pipeline import Pipeline


def test_a_size_above_the_trained_one_has_a_note_and_the_trained_one_has_none(ask, tmp_path):
    done = ask("a house", "--size", "128x32", "--steps", 1, "--out", tmp_path / "p.png")
    assert done.status == 0 and "128x32 is 4 times the tokens of training; results are best at 32x32" in done.err
    assert ask("a house", "--size", "32", "--steps", 1, "--out", tmp_path / "q.png").err == ""
    assert "1.5 times" in ask("a house", "--size", "48x32", "--steps", 1, "--out", tmp_path / "q.png").err
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (128, 32)


@pytest.mark.parametrize(("scaled", "advised"), [((), True), (("--rope-scaling", "ntk"), False)])
def test_much_larger_than_trained_is_done_with_a_note(ask, tmp_path, scaled, advised):
    done = ask("a house", "--size", "96x96", "--steps", 1, "--out", tmp_path / "p.png", *scaled)
    assert done.status == 0 and "96x96 is 9 times the tokens" in done.err
    assert ("set rope_scaling" in done.err) is advised


def test_absurdly_larger_is_refused_in_one_line_with_the_figures(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "available_memory", lambda device: 2**40)
    done = ask("a house", "--size", "4096x4096", "--out", tmp_path / "p.png")
    assert done.status == 2 and done.err.startswith("Error: --size: got 4096x4096") and done.err.count("\n") == 1
    assert "16384 times the" in done.err and "--max-token-ratio 16384" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_size_beyond_memory_has_no_advice_to_raise_the_limit(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "available_memory", lambda device: 3 * 10**9)
    done = ask("a house", "--size", "4096x4096", "--out", tmp_path / "p.png")
    assert done.status == 2 and done.err.count("\n") == 1 and "expected at most 3 GB. Request less" in done.err
    assert "max-token-ratio" not in done.err and list(tmp_path.iterdir()) == []


def test_only_so_many_are_made_together_as_half_of_the_memory_holds(ask, tiny_folder, tmp_path, monkeypatch):
    made, usual = [], pipeline.generate_items

    def recorded(model, plan, items, *rest, **more):
        made.append(len(items))
        return usual(model, plan, items, *rest, **more)

    monkeypatch.setattr(pipeline, "generate_items", recorded)
    arguments = ("a house", "--count", 5, "--steps", 1, "--out", tmp_path / "p.png")
    model, needed = Pipeline.from_pretrained(tiny_folder).model, []
    monkeypatch.setattr(sizes, "available_memory", lambda device: needed[0] if needed else 2**40)
    ask(*arguments)
    needed.append(5 * sizes.estimate_memory(model, 16, (32, 32)))  # two of five fit into the half of it
    ask(*arguments)
    needed[0] //= 4
    ask(*arguments)
    assert made == [5, 2, 2, 1, 1, 1, 1, 1, 1]


def test_the_bound_can_be_lifted_and_lowered(ask, tmp_path):
    tight = ask("a house", "--size", "64x64", "--max-token-ratio", 3, "--steps", 1, "--out", tmp_path / "p.png")
    assert tight.status == 2 and "--max-token-ratio 4" in tight.err
    loose = ask(
        "a house", "--size", "64x64", "--max-token-ratio", 4, "--steps", 1, "--out", tmp_path / "p.png", "--json"
    )
    assert loose.status == 0 and json.loads(loose.out)["max_token_ratio"] == 4
