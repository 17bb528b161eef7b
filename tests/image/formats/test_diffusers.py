"""Exports load strictly in diffusers and compute the same numbers, and models of diffusers do here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from goldens_model import Network, numbers
from making import registry_of
from published_checkpoints import SIZES, read_json, tensors, write_original

from lumina_core.conditioning.ops import mean_pool
from lumina_core.convert import ConvertOptions, execute, plan_conversion
from lumina_core.model_dir import detect_format, find_format, open_model_dir
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.tokenizers import Patchify2D
from lumina_core.types import Condition
from lumina_image.formats.recipes import published_config

library = pytest.importorskip("diffusers.models.transformers.lumina_nextdit2d")
pipelines = pytest.importorskip("diffusers.pipelines.lumina.pipeline_lumina")
embeddings = pytest.importorskip("diffusers.models.embeddings")

REGISTRY = registry_of("image")


def inputs(batch=2):
    draw = torch.Generator().manual_seed(1)
    picture, text = torch.randn(batch, 4, 6, 8, generator=draw), torch.randn(batch, 5, 12, generator=draw)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])[:batch]
    return picture, torch.tensor([0.2, 0.7])[:batch], text, mask


def theirs(model):
    picture, time, text, mask = inputs()
    width = SIZES["dim"] // SIZES["n_heads"]
    table = embeddings.get_2d_rotary_pos_embed_lumina(width, 384, 384, linear_factor=1.0, ntk_factor=1.0)
    with torch.no_grad():
        answer = model(picture, time, text, mask, table, cross_attention_kwargs={}).sample
    return answer[:, :4]


def ours(folder):
    opened = find_format(REGISTRY, detect_format(folder, REGISTRY)).load(folder)
    arguments = published_config(opened, "test")
    network = Network(arguments.model_dump())
    network.load_state_dict(numbers(opened.weights))
    picture, time, text, mask = inputs()
    patches = Patchify2D(Patchify2D.Config())
    tokens = patches.patchify(picture)
    with torch.no_grad():
        answer = network(tokens, time, Condition(text, mask.bool(), mean_pool(text, mask.bool())))
    return patches.unpatchify(tokens.with_values(answer))


@pytest.mark.parametrize(
    "changes", [{}, {"n_kv_heads": None, "learn_sigma": False}, {"qk_norm": False, "n_kv_heads": 1}]
)
def test_what_we_write_loads_strictly_there_and_gives_the_same_numbers(tmp_path, changes):
    folder = write_original(tmp_path / "1", tensors({**SIZES, **changes}))
    execute(plan_conversion(folder, REGISTRY, ConvertOptions(format="image.diffusers")), tmp_path / "2", 100_000)
    model, report = library.LuminaNextDiT2DModel.from_pretrained(
        tmp_path / "2" / "transformer", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values()), report
    assert (theirs(model.eval()) - ours(tmp_path / "2")).abs().max() < 2e-5
    assert torch.equal(ours(tmp_path / "2"), ours(folder))


def test_what_they_wrote_is_read_and_gives_the_same_numbers(tmp_path):
    torch.manual_seed(0)
    model = library.LuminaNextDiT2DModel(
        sample_size=16, hidden_size=32, num_layers=2, num_attention_heads=4, num_kv_heads=4, multiple_of=16,
        cross_attention_dim=12, norm_eps=1e-4,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
        for layer in model.layers:  # published models have one query for both
            layer.attn2.to_q.load_state_dict(layer.attn1.to_q.state_dict())
            layer.attn2.norm_q.load_state_dict(layer.attn1.norm_q.state_dict())
    model.save_pretrained(tmp_path / "1", max_shard_size="60KB")
    assert (theirs(model.eval()) - ours(tmp_path / "1")).abs().max() < 2e-5
    recipe = open_model_dir(tmp_path / "1", REGISTRY).recipe
    assert recipe.task.options["image_size"] == 128
    execute(plan_conversion(tmp_path / "1", REGISTRY), tmp_path / "2")
    execute(plan_conversion(tmp_path / "2", REGISTRY, ConvertOptions(format="image.diffusers")), tmp_path / "3")
    again = library.LuminaNextDiT2DModel.from_pretrained(tmp_path / "3" / "transformer")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    text = {key: value for key, value in again.config.items() if not key.startswith("_")}
    assert text == {key: value for key, value in model.config.items() if not key.startswith("_")}


TINY = Path(__file__).parents[2] / "tiny_pipeline"


def test_a_whole_folder_makes_the_same_picture_as_it_is_and_as_a_folder_of_ours_and_there_again(tmp_path):
    execute(plan_conversion(TINY, REGISTRY, ConvertOptions(bundle=True)), tmp_path / "ours")
    execute(plan_conversion(tmp_path / "ours", REGISTRY, ConvertOptions(format="image.diffusers")), tmp_path / "theirs")
    first, *others = (
        Pipeline.from_pretrained(folder)(prompt="a red cat", negative_prompt="blue", steps=2, size=(48, 64))[0]
        for folder in (TINY, tmp_path / "ours", tmp_path / "theirs")
    )
    assert all(torch.equal(first.data, other.data) for other in others)
    assert first.metadata["settings"] == {
        "steps": 2, "solver": "core.euler", "schedule": "core.diffusers_schedule", "guidance_scale": 4.0,
        "rope_scaling": "core.interpolation", "base_sequence_length": 16,
    }  # fmt: skip
    held = read_json(tmp_path / "ours" / "config.json")["recipe"]
    assert len(held["autoencoder"]["sha256"]) == len(held["conditioners"][0]["sha256"]) == 64
    assert type(pipelines.LuminaPipeline.from_pretrained(tmp_path / "theirs")).__name__ == "LuminaPipeline"


def test_settings_of_a_whole_folder_come_back_as_they_were(tmp_path):
    execute(plan_conversion(TINY, REGISTRY, ConvertOptions(bundle=True)), tmp_path / "ours")
    execute(plan_conversion(tmp_path / "ours", REGISTRY, ConvertOptions(format="image.diffusers")), tmp_path / "theirs")
    for name in ("transformer/config.json", "scheduler/scheduler_config.json"):
        assert read_json(tmp_path / "theirs" / name) == read_json(TINY / name)
    index = read_json(TINY / "model_index.json")
    assert read_json(tmp_path / "theirs" / "model_index.json") == {
        k: v for k, v in index.items() if k != "_diffusers_version"
    }


def test_a_published_folder_is_described_like_one_of_ours(lumina):
    report = lumina("models", TINY)
    assert report.out.splitlines()[0] == "checkpoint format image.diffusers"
    assert "  autoencoder  image.kl" in report.out.splitlines()
