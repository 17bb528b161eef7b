"""A LoRA of a published model: trained on its folder, and written with names that fit the weights of diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from making import registry_of
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from lumina_core import Pipeline, Recipe, Trainer
from lumina_core.adapters.files import read_lora, write_lora
from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, LoadedCheckpoint, read_tensor
from lumina_core.model_dir import find_format, load_model

FOLDER = Path(__file__).parents[1] / "tiny_pipeline"


@pytest.fixture(scope="module")
def registry():
    return registry_of("image")


@pytest.fixture(scope="module")
def run(tmp_path_factory, registry):
    """The training of `image.2b_lora` on a folder of diffusers."""
    folder = tmp_path_factory.mktemp("published")
    for color in ("red", "blue"):
        (folder / "data").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), color).save(folder / "data" / f"{color}.png")
        (folder / "data" / f"{color}.txt").write_text(f"{color}\n", encoding="utf-8")
    settings = (
        *("adapter.rank=4", "adapter.alpha=8", "steps=3", "global_batch_size=2", "lr=1e-2", "compile=false"),
        *("warmup_steps=0", "ema_decay=0.5", "mixed_precision=bfloat16"),
    )
    overrides = [f"dataset.folder={folder / 'data'}", "dataset.image_size=32", *(f"training.{one}" for one in settings)]
    recipe = Recipe.load("image.2b_lora", overrides, registry)
    trainer = Trainer(recipe, folder / "run", device="cpu", init=[FOLDER], registry=registry)
    assert any("conditioners" in message and f"as in {FOLDER}" in message for message in trainer.messages)
    trainer.train()
    return folder / "run"


def test_the_lora_of_a_published_model_is_loaded_for_it_and_changes_its_images(run, registry):
    pipe = Pipeline.from_pretrained(FOLDER, registry=registry)
    options = {"prompt": "red", "size": "32x32", "steps": 2, "seed": 1, "output_type": "latent"}
    before = pipe(**options)[0].data
    pipe.load_lora(run)
    after = pipe(**options)[0].data
    pipe.fuse()
    assert (after - before).abs().max() > 1e-4
    assert torch.allclose(pipe(**options)[0].data, after, atol=1e-3)


@pytest.mark.parametrize(
    ("file_format", "target", "prefix", "suffixes"),
    [
        ("diffusers", "image.diffusers", "transformer.", (".lora_A.weight", ".lora_B.weight")),
        ("comfyui", "image.alpha_vllm", "diffusion_model.", (".lora_A.weight", ".lora_B.weight")),
    ],
)
def test_the_names_are_those_of_the_weights_in_the_same_layout(
    run, registry, tmp_path, file_format, target, prefix, suffixes
):
    model = load_model(FOLDER, registry)
    write_lora(read_lora(run, model, registry), tmp_path / "lora.safetensors", model, registry, file_format)
    pipe = Pipeline(model, registry)
    before = converted(pipe.model, target, registry)
    pipe.load_lora(tmp_path / "lora.safetensors")
    pipe.fuse()
    after = converted(pipe.model, target, registry)
    tensors = load_file(tmp_path / "lora.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    down, up = suffixes
    layers = {name.removesuffix(down).removeprefix(prefix): a for name, a in tensors.items() if name.endswith(down)}
    assert changed == {f"{layer}.weight" for layer in layers}
    for layer, a in layers.items():
        expected = before[f"{layer}.weight"].double() + 8 / 4 * (tensors[f"{prefix}{layer}{up}"] @ a).double()
        assert torch.allclose(after[f"{layer}.weight"].double(), expected, atol=1e-5)


def converted(model, target, registry):
    """The weights of a model in another layout."""
    weights = {name: InMemoryTensor(tensor) for name, tensor in model.state_dict().items()}
    checkpoint = LoadedCheckpoint(model.recipe.to_dict(), weights)
    plan = find_format(registry, target).export(checkpoint)
    return {name: read_tensor(one) for group in plan.weights.values() for name, one in group.items()}
