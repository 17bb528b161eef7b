"""Model folders: a loaded model gives the same results, and errors are reported in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from core.toy import Words
from making import registry_of
from safetensors.torch import save_file

import lumina_core
from lumina_core.errors import CheckpointError, PluginError
from lumina_core.model_dir import (
    describe_mismatch,
    load_model,
    matching_weights,
    pin_pretrained,
    read_model_config,
    read_weights,
    resolve_model_dir,
    save_model,
)
from lumina_core.recipe import read_recipe
from lumina_core.sampling.pipeline import Pipeline


@pytest.fixture
def folder(toy_folder, tmp_path) -> Path:
    return Path(shutil.copytree(toy_folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def registry():
    return registry_of("toy")


def edit(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")


def reason(folder: Path, registry) -> str:
    with pytest.raises(CheckpointError) as error:
        load_model(folder, registry)
    return str(error.value)


def test_a_saved_and_loaded_model_gives_the_same_results(folder, registry, tmp_path):
    first = load_model(folder, registry)
    save_model(first, tmp_path / "copy", registry)
    second = load_model(tmp_path / "copy", registry)
    assert first.recipe == second.recipe
    for (name, before), (also, after) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert name == also and torch.equal(before, after)
    numbers = [Pipeline(model, registry)(word="red cat", seed=3)[0].data for model in (first, second)]
    assert torch.equal(*numbers)


def test_the_config_records_the_distributions_and_versions_of_the_plugins(folder):
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 2
    assert content["plugins"] == {"lumina-toy": "0.1.0", "lumina-core": lumina_core.__version__}


@pytest.mark.parametrize(("stored", "requested", "expected"), [
    (torch.float16, None, torch.float32),
    (torch.bfloat16, None, torch.bfloat16),
    (torch.bfloat16, torch.float32, torch.float32),
    (None, torch.bfloat16, torch.bfloat16),
])  # fmt: skip
def test_weights_have_the_requested_dtype_or_the_stored_one_except_float16(
    folder, registry, tmp_path, stored, requested, expected
):
    model = load_model(folder, registry)
    save_model(model, tmp_path / "half", registry, stored)
    reloaded = load_model(tmp_path / "half", registry, dtype=requested)
    for before, after in zip(model.parameters(), reloaded.parameters(), strict=True):
        assert after.dtype == expected and torch.equal(before.to(stored or before.dtype).to(expected), after)
    small = (tmp_path / "half" / "model.safetensors").stat().st_size < (folder / "model.safetensors").stat().st_size
    assert small == (stored is not None)


def test_weights_are_on_the_requested_device(folder, registry):
    # a device without memory stands for any other than the CPU
    model = load_model(folder, registry, torch.device("meta"), torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_a_large_model_is_written_in_shards(folder, registry, tmp_path):
    model = load_model(folder, registry)
    save_model(model, tmp_path / "cut", registry, max_shard_bytes=20_000)
    assert len(list((tmp_path / "cut").glob("model-*-of-*.safetensors"))) > 1
    reloaded = load_model(tmp_path / "cut", registry)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reloaded.parameters(), strict=True))


def test_weights_of_another_dtype_than_the_config_states_are_refused_unless_a_dtype_is_requested(folder, registry):
    edit(folder, dtype="bfloat16")
    assert "dtype: got bfloat16, expected float32, the dtype of its weights" in reason(folder, registry)
    assert next(load_model(folder, registry, dtype=torch.float32).parameters()).dtype == torch.float32


def test_paths_in_the_config_are_relative_to_the_folder_and_names_on_the_hub_stay(folder):
    (folder / "words").mkdir()
    recipe = json.loads((folder / "config.json").read_text(encoding="utf-8"))["recipe"]
    options = {"source": "words", "tokenizer": "./elsewhere", "inner": {"type": "toy.b", "source": "hub/name"}}
    edit(folder, recipe={**recipe, "dataset": {"type": "toy.a", **options}})
    dataset = read_model_config(folder)[0].dataset
    assert dataset is not None
    here = folder.resolve()
    assert dataset.options["source"] == str(here / "words")
    assert dataset.options["tokenizer"] == str(here / "elsewhere")
    assert dataset.options["inner"]["source"] == "hub/name"


def test_averaged_weights_are_preferred(folder, registry):
    averaged = {n: t * 0 if t.is_floating_point() else t for n, t in read_weights(folder / "model.safetensors").items()}
    save_file(averaged, folder / "ema.safetensors")
    assert not any(weight.any() for weight in load_model(folder, registry).parameters())


def test_the_newest_checkpoint_of_a_training_is_loaded(tmp_path):
    for step in ("step-000100", "step-000200"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    assert resolve_model_dir(tmp_path).name == "step-000200"


def test_a_failed_save_keeps_the_old_model(folder, registry, monkeypatch):
    model = load_model(folder, registry)
    before = (folder / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumina_core.model_dir.write_weights", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*No space left"):
        save_model(model, folder, registry)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [f.name for f in folder.parent.iterdir()] == ["model"]


def test_a_missing_folder(tmp_path, registry):
    assert "none', expected a model folder or the name of an installed model" in reason(tmp_path / "none", registry)


def test_a_folder_without_config(tmp_path, registry):
    assert "got no config.json, expected a complete model folder" in reason(tmp_path, registry)


def test_a_folder_without_weights(folder, registry):
    (folder / "model.safetensors").unlink()
    assert "got no model.safetensors, expected a complete model folder" in reason(folder, registry)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(folder, registry, share):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
    assert "got a truncated or invalid file" in reason(folder, registry)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema_version": 2}', '{"schema_version": 2, "recipe": 3}', "[" * 5000]
)
def test_an_invalid_config(folder, registry, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    assert "cannot be read as the config of a model" in reason(folder, registry)


@pytest.mark.parametrize("schema", [3, 99, "1.5", None])
def test_a_newer_schema_is_reported_whatever_else_the_config_holds(folder, registry, schema):
    (folder / "config.json").write_text(json.dumps({"schema_version": schema, "model": "other"}), encoding="utf-8")
    assert f"got schema version {schema}, expected 2. Install a newer lumina-core" in reason(folder, registry)


@pytest.mark.parametrize("content", [{"lumina": 1, "recipe": {"task": {"use": "toy.numbers"}}}, {"schema_version": 1}])
def test_a_folder_of_schema_1_is_refused(folder, registry, content):
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert "got schema version 1 (`lumina: 1`, components named by `use:`), expected 2" in reason(folder, registry)


def test_a_pickle_is_never_loaded(folder, registry, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    pickled = pickle.dumps(Trap())
    (folder / "model.safetensors").write_bytes(pickled)
    assert "got a truncated or invalid file" in reason(folder, registry)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "got pytorch_model.bin, expected model.safetensors. Pickled weights are never loaded" in reason(
        folder, registry
    )
    assert not (tmp_path / "executed").exists()


def test_weights_of_other_shapes_are_named(folder, registry):
    edit(folder, recipe=_wider(folder))
    message = reason(folder, registry)
    assert "does not fit its recipe: " in message and "expected" in message and " more" in message


def test_missing_and_unexpected_weights_are_named(folder, registry):
    weights = read_weights(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("head."))
    weights["head.surprise"] = weights.pop(name)
    save_file(weights, folder / "model.safetensors")
    message = reason(folder, registry)
    assert f"missing: {name}" in message and "unexpected: head.surprise" in message


def test_an_invalid_vocabulary_is_reported_when_it_is_used(folder, registry):
    weights = read_weights(folder / "model.safetensors")
    weights["conditioners.word.vocabulary"] = torch.arange(100, dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="the vocabulary among the weights cannot be read"):
        Pipeline(load_model(folder, registry), registry)(word="cat")


def test_a_missing_plugin_is_named_with_the_versions_that_the_model_was_saved_with(folder):
    with pytest.raises(PluginError) as error:
        load_model(folder, registry_of())
    message = str(error.value)
    assert "no plugin called 'toy' is installed. Install its package" in message
    assert "was saved with lumina-toy 0.1.0, lumina-core" in message
    assert message.endswith(". Install the same versions: pip install 'lumina-toy==0.1.0')")


def test_an_unknown_option_is_reported_with_the_file(folder, registry):
    recipe = json.loads((folder / "config.json").read_text(encoding="utf-8"))["recipe"]
    recipe["backbone"]["num_layer"] = 2
    edit(folder, recipe=recipe)
    message = reason(folder, registry)
    assert "config.json" in message and "unknown key 'num_layer'; did you mean 'num_layers'?" in message


def test_weights_that_match_by_name_and_shape_are_taken_from_another_model(folder, registry):
    model = load_model(folder, registry)
    weights = {**model.state_dict(), "head.other": torch.zeros(1)}
    name = next(name for name in weights if name.startswith("backbone."))
    weights[name] = torch.zeros(1, 1, 1, 1)
    taken = matching_weights(model, weights)
    assert name not in taken and "head.other" not in taken and len(taken) == len(weights) - 2
    assert describe_mismatch(model, model.state_dict()) == ""


def _wider(folder: Path) -> dict:
    recipe = json.loads((folder / "config.json").read_text(encoding="utf-8"))["recipe"]
    recipe["backbone"]["hidden_size"] = 64
    recipe["backbone"]["rope_axes_dim"] = [32, 0, 0]
    return recipe


@pytest.mark.needs("lumina_image")
def test_an_installed_model_is_loaded_by_its_name_and_the_default_registry():
    model = lumina_core.load_model("image.emoji")
    assert model.recipe.task.type == "image.text_to_image" and not model.training


def test_pretrained_weights_are_pinned_by_their_hash_when_a_model_is_saved(folder, registry, tmp_path):
    class Pretrained(Words):
        class Config(Words.Config):
            source: str = ""
            sha256: str | None = None

        def __init__(self, config):
            super().__init__(config)
            self.config = config

        def pin_hashes(self):
            return {"sha256": f"hash of {self.config.source}"}

    registry.add_component("conditioner", "mine.pretrained", Pretrained)
    model = load_model(folder, registry)
    specs = [{"field": "a", "type": "mine.pretrained", "source": str(tmp_path)}]
    specs += [{"field": "b", "type": "mine.pretrained", "source": "a/hub"}]
    recipe = read_recipe({**model.recipe.to_dict(), "conditioners": specs}, "recipe")
    pinned = [spec.options.get("sha256") for spec in pin_pretrained(recipe, registry).conditioners]
    assert pinned == [f"hash of {tmp_path}", None]
