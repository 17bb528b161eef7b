"""Previews of intermediate results in a folder next to the result."""

from __future__ import annotations

import json


def test_previews_are_written_at_the_interval_to_a_folder_next_to_the_result(lumina, toy, toy_folder, tmp_path):
    out = tmp_path / "made.json"
    arguments = ("numbers", "red cat", "--steps", 5, "--model", toy_folder, "--out", out, "--json")
    done = lumina(*arguments, "--preview", 2)
    assert done.status == 0
    assert sorted(path.name for path in (tmp_path / "made-steps").iterdir()) == ["002.json", "004.json"]
    assert [item["preview"] for item in json.loads(done.out)["items"]] == [str(tmp_path / "made-steps")]
    expected = out.read_bytes()
    assert lumina(*arguments, "--overwrite").status == 0
    assert out.read_bytes() == expected


def test_several_results_have_a_folder_each(lumina, toy, toy_folder, tmp_path):
    lumina(
        "numbers", "red cat", "--count", 2, "--steps", 2, "--preview", 1, "--model", toy_folder,
        "--out", tmp_path / "made.json",
    )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "made-0-steps",
        "made-0.json",
        "made-1-steps",
        "made-1.json",
    ]


def test_a_preview_every_0_steps_is_refused(lumina, toy, toy_folder, tmp_path):
    done = lumina("numbers", "red cat", "--preview", 0, "--model", toy_folder, "--out", tmp_path / "made.json")
    assert done.status == 2 and "preview" in done.err
