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
    "A1_", "A2_", "A2b_", "A3_", "A4_", "A5_", "A6_", "A7_", "A8_", "A9_", "A10_", "B1_", "B2_", "B2b_", "B_keymap",
    "C1_", "C1b_", "C2_", "C3_", "C4_", "C5_", "D1_", "D2_", "D3_", "F1_", "F2_",
    "E1_", "E1b_", "E2_", "E2b_", "E3_", "E4_", "E5_", "manifest_nextdit", "manifest_imagenet", "manifest_music",
)  # fmt: skip
"""Files that must pass, and not only be unsupported."""


def lines(capsys, *paths):
    status = goldens.main([str(path) for path in paths])
    return status, capsys.readouterr().out.splitlines()


def changed(source, folder, change, **config):
    """A copy of a file with some of its tensors or settings changed."""
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        config_ = {**json.loads(file.metadata()["config"]), **config}
    change(tensors)
    save_file(tensors, folder / source.name, {"config": json.dumps(config_)})
    return folder / source.name


def one(begin):
    return next(path for path in SMALL if path.name.startswith(begin))


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_golden_passes_within_its_tolerance(path, capsys):
    status, (line,) = lines(capsys, path)
    case, file, error, tolerance, verdict = line.split()
    assert (status, verdict, file) == (0, "ok", path.name)
    assert float(error) <= float(tolerance)
    begin = path.name.split("_")[0]
    assert case == {"B": "map"}.get(begin, begin)


@pytest.mark.goldens
@pytest.mark.skipif(not ALL, reason="the reference tensors are not next to the project")
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_golden_of_the_project_fails(path, capsys):
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
        ("A10", "output.size256_patch16_ratio4p0", 1),
        ("B2b", "output.sample", 1e-3),
        ("B2b", "weights.layers.1.attn1.to_q.weight", 1.0),
        ("B2b", "weights.layers.0.norm1_context.weight", 1.0),
        ("C2", "output.loss", 1e-3),
        ("C3", "output.GVP.d_alpha", 1e-3),
        ("C5", None, 1e-4),
        ("E3", "output.wav", 1e-4),
        ("E3", "weights.resblocks.1.convs2.2.weight_g", 1.0),
        ("E5", "output.pred", 1e-3),
        ("E5", "output.x_noisy", 1e-3),
        ("E5", "weights.blocks.1.adaLN_modulation.1.bias", 1.0),
        ("A2b", "output.out", float("nan")),
        ("A9", "output.loss", float("nan")),
        ("A9", "output.grad.x_embedder.bias", float("nan")),
        ("C2", "output.xt", float("nan")),
        ("C3", "output.VP.ut", float("nan")),
    ],
)
def test_a_planted_error_fails_with_a_nonzero_exit_status(tmp_path, capsys, begin, name, amount):
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


@pytest.mark.parametrize(
    "change", [lambda m: m.popitem(), lambda m: m.update(pad_token=["pad"])], ids=["less", "other"]
)
def test_a_foreign_key_map_fails(tmp_path, capsys, change):
    content = json.loads(one("B_keymap").read_text(encoding="utf-8"))
    change(content["map"])
    (tmp_path / "B_keymap.json").write_text(json.dumps(content))
    status, (line,) = lines(capsys, tmp_path / "B_keymap.json")
    assert (status, line.split()[-1]) == (1, "FAIL")


def test_missing_and_broken_files_fail_and_the_others_are_compared(tmp_path, capsys):
    (tmp_path / "A1_broken.safetensors").write_bytes(b"no tensors")
    (tmp_path / "manifest_broken.json").write_text("{")
    status, printed = lines(capsys, *sorted(tmp_path.iterdir()), tmp_path / "A1_missing.safetensors", one("C5"))
    assert status == 1
    assert [line.split()[-1] for line in printed] == ["FAIL", "FAIL", "FAIL", "ok"]


def test_a_file_that_lacks_a_tensor_fails(tmp_path, capsys):
    status, (line,) = lines(capsys, changed(one("A2b"), tmp_path, lambda tensors: tensors.pop("input.t")))
    assert (status, line.split()[-1]) == (1, "FAIL")


def test_the_method_is_read_from_the_file_and_not_from_the_case(tmp_path, capsys):
    status, (line,) = lines(capsys, changed(one("A2b"), tmp_path, lambda tensors: None, case="A5h"))
    assert (status, line.split()[0], line.split()[-1]) == (0, "A5h", "ok")


@pytest.mark.parametrize("key", ["scale_factor", "norm_eps"])
def test_the_constructor_arguments_of_the_file_are_used(tmp_path, capsys, key):
    with safe_open(one("A2b"), "pt") as file:
        constructor = json.loads(file.metadata()["config"])["constructor"]
    other = changed(one("A2b"), tmp_path, lambda tensors: None, constructor={**constructor, key: 2.0})
    status, (line,) = lines(capsys, other)
    assert (status, line.split()[-1]) == (1, "FAIL")


def test_losses_of_a_list_alone_are_read(tmp_path, capsys):
    def only_the_list(tensors):
        for name in [name for name in tensors if "list" not in name]:
            del tensors[name]

    status, (line,) = lines(capsys, changed(one("C2"), tmp_path, only_the_list))
    assert (status, line.split()[-1]) == (0, "ok")


def test_a_reversed_schedule_runs_from_its_late_end_to_its_early_one(tmp_path, capsys):
    def by_hand(tensors):
        tensors["output.g0"] = torch.tensor([1.0, 0.6, 0.2])
        tensors["output.g1"] = torch.tensor([1.0, 0.75, 1 / 3])  # 2 t / (1 + t)

    grids = [{"name": f"g{k}", "num_steps": 3, "t0": 0.2, "use_sd3": True} for k in range(2)]
    grids[1]["time_shifting_factor"] = 2
    status, (line,) = lines(capsys, changed(one("C5"), tmp_path, by_hand, grids=grids))
    assert (status, line.split()[-1]) == (0, "ok")


@pytest.mark.parametrize("text", ["VPCPlan()", "VPCPlan(0.1, 20)", "VPCPlan(sigma_max=20.0)"])
def test_a_path_is_identified_by_its_class_and_arguments(tmp_path, capsys, text):
    path = changed(one("C3"), tmp_path, lambda tensors: None, plans={"VP": text})
    assert lines(capsys, path)[0] == 0
    path = changed(one("C3"), tmp_path, lambda tensors: None, plans={"VP": "VPCPlan(0.2, 20)"})
    assert lines(capsys, path)[0] == 1


def test_an_unknown_case_is_unsupported_and_no_failure(tmp_path, capsys):
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
