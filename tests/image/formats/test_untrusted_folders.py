"""Model folders of others: only weights are copied, NaN is refused, and a broken format is named."""

from __future__ import annotations

import json
import os
import warnings

import pytest
import torch
from making import make_model, registry_of
from published_checkpoints import SIZES, tensors, write_original
from safetensors.torch import load_file, save_file

from lumina_core.convert import ConvertOptions, execute, plan_conversion
from lumina_core.errors import CheckpointError
from lumina_core.model_dir import detect_format, load_model, open_model_dir

REGISTRY = registry_of("image")
BROKEN_FORMAT = """
from lumina_core import hookimpl
@hookimpl
def lumina_register_components(components):
    components.checkpoint_format("bad.format", "bad_plugin:Format", "broken")
class Format:
    def matches(self, folder):
        raise KeyError("no such file")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model("image.tiny", tmp_path_factory.mktemp("tiny") / "model", REGISTRY)


@pytest.fixture
def copy(model, tmp_path):
    """A copy of the model, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def set_weight(folder, name, value):
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / "model.safetensors")


def some_weights(model):
    names = load_file(model / "model.safetensors")
    kinds = ("gate", "context_kv", "norm", "embed", "modulation")
    return [next(name for name in names if kind in name) for kind in kinds if any(kind in name for name in names)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_their_name(model, copy, tmp_path, lumina, value):
    for name in some_weights(model):
        for file in model.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        set_weight(copy, name, value)
        for dtype in (None, torch.bfloat16):
            with pytest.raises(CheckpointError, match=rf"the weight {name} holds NaN or Inf"):
                load_model(copy, REGISTRY, dtype=dtype)
    done = lumina("image", "a cat", "--model", copy, "--out", tmp_path / "cat.png")
    assert done.status == 1 and "holds NaN or Inf" in done.err and not (tmp_path / "cat.png").exists()


def test_large_finite_weights_are_accepted(copy):
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if weights[name].numel() > 100)
    weights[name].fill_(3e38)  # their sum is infinite
    save_file(weights, copy / "model.safetensors")
    load_model(copy, REGISTRY)


def test_a_conversion_refuses_nan(tmp_path):
    state = tensors(SIZES)
    state["x_embedder.weight"].view(-1)[0] = float("nan")
    folder = write_original(tmp_path / "published", state)
    with pytest.raises(CheckpointError, match="holds NaN or Inf"):
        execute(plan_conversion(folder, REGISTRY), tmp_path / "ours")
    assert os.listdir(tmp_path) == ["published"]


def secret_folder(folder):
    """A folder of a user with one file that looks like weights."""
    folder.mkdir(parents=True)
    (folder / "id_rsa").write_text("PRIVATE KEY")
    (folder / "credentials.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_outside_of_the_source_is_copied_only_if_the_user_names_it(tmp_path):
    folder = write_original(tmp_path / "published", tensors(SIZES))
    home = secret_folder(tmp_path / "home")
    ours = tmp_path / "ours"
    execute(plan_conversion(folder, REGISTRY, ConvertOptions(overrides=(f"autoencoder.source={home}",))), ours)
    bundle = ConvertOptions(format="lumina", bundle=True)
    with pytest.raises(CheckpointError, match=r"names the folder .*home, which lies outside"):
        plan_conversion(ours, REGISTRY, bundle)
    with pytest.raises(CheckpointError, match=r"names the folder .*home, which lies outside"):
        plan_conversion(ours, REGISTRY, ConvertOptions(format="image.diffusers"))
    named = ConvertOptions(format="lumina", bundle=True, overrides=(f"autoencoder.source={home}",))
    execute(plan_conversion(ours, REGISTRY, named), tmp_path / "bundled")
    assert [path.name for path in (tmp_path / "bundled" / "home").iterdir()] == ["config.json"]


def test_links_that_lead_out_of_a_copied_folder_are_not_followed(tmp_path):
    folder = write_original(tmp_path / "published", tensors(SIZES))
    home = secret_folder(tmp_path / "home")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "vae" / "model.safetensors").symlink_to(home / "id_rsa")
    (folder / "vae" / "deep").symlink_to(home)
    (folder / "vae" / "same.safetensors").symlink_to("config.json")
    execute(plan_conversion(folder, REGISTRY, ConvertOptions(bundle=True)), tmp_path / "ours")
    assert sorted(path.name for path in (tmp_path / "ours" / "vae").rglob("*")) == ["config.json", "same.safetensors"]


def test_a_command_names_every_file_that_it_copies(tmp_path, lumina):
    folder = write_original(tmp_path / "published", tensors(SIZES))
    secret_folder(folder / "vae")
    done = lumina("convert", folder, tmp_path / "ours", "--bundle", "--json")
    assert (done.status, json.loads(done.out)["copied"]) == (0, ["vae/config.json"])
    done = lumina("convert", folder, tmp_path / "again", "--bundle")
    assert "  vae/config.json" in done.out.splitlines() and "id_rsa" not in done.out


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_destination_that_is_no_folder_is_refused_also_with_overwrite(tmp_path, lumina, kind):
    folder = write_original(tmp_path / "published", tensors(SIZES))
    target = tmp_path / "target"
    target.write_text("mine") if kind == "file" else os.mkfifo(target)
    mode = target.stat().st_mode
    done = lumina("convert", folder, target, "--overwrite")
    assert done.status == 2 and "only a folder is replaced" in done.err and target.stat().st_mode == mode


def test_a_format_that_fails_is_named_and_passed_over(tmp_path, install, lumina, model):
    install("lumina-bad", "bad = bad_plugin", {"bad_plugin": BROKEN_FORMAT})
    folder = write_original(tmp_path / "published", tensors(SIZES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formats of installed packages of ours are asked first, and may match before
        assert lumina("convert", folder, tmp_path / "ours").status == 0
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    save_file({"w": torch.zeros(1)}, foreign / "unknown.safetensors")
    for command in (("convert", foreign, tmp_path / "theirs"), ("models", foreign)):
        with pytest.warns(UserWarning, match=r"bad\.format of the plugin 'bad' failed .*KeyError"):
            done = lumina(*command)
        assert done.status == 1 and "KeyError" not in done.err
    assert lumina("models", model).status == 0  # our own format asks no plugin


def test_the_newest_readable_checkpoint_of_a_training_is_opened(model, tmp_path):
    for step in (9, 10, 100000000):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        for file in model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    assert open_model_dir(tmp_path, REGISTRY).folder.name == "step-100000000"
    (tmp_path / "checkpoints" / "step-100000000" / "model.safetensors").write_bytes(b"half")
    loaded = open_model_dir(tmp_path, REGISTRY)
    assert (loaded.folder.name, loaded.notes) == (
        "step-00000010",
        ("step-100000000 is damaged; opened step-00000010 instead",),
    )
    with pytest.warns(UserWarning, match="step-100000000 is damaged"):
        load_model(tmp_path, REGISTRY)
    assert detect_format(tmp_path, REGISTRY) is None
