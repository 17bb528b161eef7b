"""The reference tensors of the published code pass, and a checker that could not fail would be noticed."""

from __future__ import annotations

import json
from pathlib import Path

import goldens
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
SMALL = sorted((HERE / "goldens_data").iterdir())
ALL = sorted(path for end in ("safetensors", "json") for path in (HERE.parents[1] / "shared/goldens").glob(f"*.{end}"))
BARS = (
    "A1_", "A2_", "A2b_", "A3_", "A4_", "A5_", "A9_", "C2_", "C3_", "C5_",
    "manifest_nextdit_2b_gqa_original", "manifest_nextdit_2b_original", "manifest_imagenet",
)  # fmt: skip
"""Files that must pass, and not only be unsupported."""


def lines(capsys, *paths):
    status = goldens.main([str(path) for path in paths])
    return status, capsys.readouterr().out.splitlines()


def changed(source, folder, change, **config):
    """A copy of a file with some of its tensors or settings changed."""
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        said = {**json.loads(file.metadata()["config"]), **config}
    change(tensors)
    save_file(tensors, folder / source.name, {"config": json.dumps(said)})
    return folder / source.name


def one(begin):
    return next(path for path in SMALL if path.name.startswith(begin))


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_golden_passes_within_its_tolerance(path, capsys):
    status, (line,) = lines(capsys, path)
    case, file, error, tolerance, verdict = line.split()
    assert (status, verdict, file) == (0, "ok", path.name)
    assert float(error) <= float(tolerance)
    assert case == path.name.split("_")[0]


@pytest.mark.goldens
@pytest.mark.skipif(not ALL, reason="the reference tensors are not beside the project")
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_golden_beside_the_project_fails(path, capsys):
    status, (line,) = lines(capsys, path)
    assert status == 0, line
    assert line.endswith(" ok") if path.name.startswith(BARS) else line.endswith((" ok", " unsupported"))


@pytest.mark.parametrize(
    ("begin", "name", "amount"),
    [
        ("A2b", "output.out", 1e-3),
        ("A2b", "weights.layers.1.feed_forward.w2.weight", 1.0),
        ("A5", "output.out", 1e-2),
        ("A9", "output.grad.layers.0.attention.wq.weight", 1e-2),
        ("A9", "output.loss", 1e-3),
        ("C2", "output.loss", 1e-3),
        ("C3", "output.GVP.d_alpha", 1e-3),
        ("C5", None, 1e-4),
        ("A2b", "output.out", float("nan")),
    ],
)
def test_an_error_planted_in_a_file_fails_and_the_exit_says_so(tmp_path, capsys, begin, name, amount):
    def plant(tensors):
        tensors[name or next(n for n in tensors if n.startswith("output."))].view(-1)[0] += amount

    status, printed = lines(capsys, one("C5"), changed(one(begin), tmp_path, plant), one("C2"))
    assert status == 1
    assert [line.split()[-1] for line in printed] == ["ok", "FAIL", "ok"]


def test_an_output_of_another_shape_fails(tmp_path, capsys):
    def cut(tensors):
        tensors["output.out"] = tensors["output.out"][..., :-1].contiguous()

    status, (line,) = lines(capsys, changed(one("A2b"), tmp_path, cut))
    assert (status, line.split()[-1]) == (1, "FAIL")


def test_a_manifest_with_one_number_changed_fails(tmp_path, capsys):
    content = json.loads(one("manifest").read_text(encoding="utf-8"))
    content["parameters"] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    status, (line,) = lines(capsys, tmp_path / "manifest.json")
    assert (status, line.split()[-1]) == (1, "FAIL")


def test_a_case_that_nobody_knows_is_unsupported_and_no_failure(tmp_path, capsys):
    status, (line,) = lines(capsys, changed(one("C2"), tmp_path, lambda tensors: None, case="Z9"))
    assert (status, line.split()) == (0, ["Z9", one("C2").name, "-", "-", "unsupported"])


def test_without_files_the_usage_is_shown(capsys):
    status, printed = lines(capsys)
    assert status == 2
    assert "goldens.py FILE" in printed[0]


def test_other_sizes_and_seeds_of_a_case_are_read_too(tmp_path, capsys):
    """A file that is not among the ones at hand: fewer items than stored."""

    def fewer(tensors):
        for name in ("input.x", "input.t", "input.cap_feats", "input.cap_mask", "output.out"):
            tensors[name] = tensors[name][:1].clone()

    status, (line,) = lines(capsys, changed(one("A2b"), tmp_path, fewer, case="A2h"))
    assert (status, line.split()[-1]) == (0, "ok")
    assert torch.is_grad_enabled()
