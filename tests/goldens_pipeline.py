"""Golden cases of a whole folder of diffusers: what it makes of a sentence, step by step, and what we make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from goldens_read import TARGET, Golden, largest, weighted, worst
from safetensors import safe_open
from torch import Tensor

from lumina_core.conditioning.ops import condition_to
from lumina_core.flow.schedules import DiffusersSchedule
from lumina_core.sampling.inputs import PrecomputedInputs
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.types import Condition

TOLERANCE = 2e-4
"""Of the picture; what has another one in the notes is weighed to it."""
EMBEDDINGS, LATENTS, TIMES = 2.0, 2 / 3, 20.0
"""1e-4, 3e-4 and 1e-5."""


def pipeline(golden: Golden) -> float:
    """The largest weighed error over every run of the file."""
    golden = replace(golden, tensors={name: tensor.cpu() for name, tensor in golden.tensors.items()})
    with torch.device("cpu"):  # a pipeline moves what it computes with, and its noise comes from the CPU
        return _pipeline(golden)


def _pipeline(golden: Golden) -> float:
    pipe = Pipeline.from_pretrained(folder_of(golden), device=TARGET.device, dtype=TARGET.dtype)
    errors = [error for run in golden.config["runs"] for error in _run(pipe, golden, run)]
    return largest([*errors, *_autoencoder(pipe, golden)])


def folder_of(golden: Golden) -> Path:
    """Return the folder that the file was made with, next to the file."""
    name = Path(golden.config["pipeline_dir"])
    places = [golden.place.parent / name.name, golden.place.parent / name, golden.place.parents[1] / name]
    found = [place for place in places if (place / "model_index.json").is_file()]
    if not found:
        raise FileNotFoundError(f"{golden.place} was made with {name}, which is not next to it")
    return found[0]


def reference_of(folder: Path) -> Path:
    """The file of reference tensors that was made with a folder."""
    for path in sorted(folder.parent.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
        if Path(config.get("pipeline_dir", "")).name == folder.name:
            return path
    raise FileNotFoundError(f"no file of reference tensors next to {folder} was made with it")


def _run(pipe: Pipeline, golden: Golden, run: dict[str, Any]) -> Iterator[float]:
    name, latents = run["name"], golden.tensors[f"input.{run['name']}.latents"]
    expected = golden.group(f"output.{name}")
    encoded, null_condition, errors = _conditions(pipe, golden, run)
    yield from errors
    steps: list[Tensor] = []
    answers = pipe(
        [_request(pipe, run)] * len(latents),
        callback=lambda state: steps.append(state.x_t.cpu()),
        inputs=PrecomputedInputs(
            condition_to(encoded, pipe.model.device),
            None if null_condition is None else condition_to(null_condition, pipe.model.device),
            latents.to(pipe.model.device),
        ),
    )
    places = pipe.model.tokenizer.empty(len(latents), tuple(latents.shape[-2:]))
    ours = [pipe.model.tokenizer.unpatchify(places.with_values(values)) for values in steps]
    yield weighted(LATENTS, worst([(torch.stack(ours), expected["latents_per_step"])]))
    decoded = torch.stack([answer.data for answer in answers])
    yield worst([(decoded / 2, expected["decoded"] / 2), ((decoded / 2 + 0.5).clamp(0, 1), expected["image"])])
    yield weighted(TIMES, worst([(_grid(pipe)(len(steps)), 1 - expected["sigmas"].double())]))


def _request(pipe: Pipeline, run: dict[str, Any]) -> Any:
    watershed = float(run.get("scaling_watershed", 1.0))
    settings = {
        "prompt": "given",
        "size": (run["width"], run["height"]) if run.get("width") else None,
        "steps": run.get("num_inference_steps", 30),
        "guidance_scale": max(1.0, run.get("guidance_scale", 4.0)),
        "rope_scaling": f"watershed:watershed={watershed},isotropic=true,scale_down=true",
        "base_sequence_length": None if run.get("proportional_attn", True) else 0,
    }
    return pipe.make_request(**{key: value for key, value in settings.items() if value is not None})


def _conditions(pipe: Pipeline, golden: Golden, run: dict[str, Any]) -> tuple[Condition, Condition | None, list[float]]:
    """What our encoder makes of the prompts, and how far that is from what was recorded."""
    theirs, speaker = golden.group(f"input.{run['name']}"), pipe.model.conditioners_by_field["caption"]
    # NOTES 4.11: without its helpers diffusers lowers and strips prompts, and never negative ones
    encoded = speaker.encode([text.lower().strip() for text in run["prompt"]])
    errors = [_distance(encoded, theirs["prompt_embeds"], theirs["prompt_attention_mask"].bool())]
    if "negative_prompt_embeds" not in theirs:
        return encoded, None, errors
    # there a negative prompt is cut where the padded prompt ends; ours reads it whole
    limit = theirs["prompt_embeds"].shape[1]
    cut = type(speaker)(speaker.config.model_copy(update={"max_length": limit, "pad_to_max_length": True}))
    null_condition = cut.encode(run["negative_prompt"])
    errors.append(
        _distance(null_condition, theirs["negative_prompt_embeds"], theirs["negative_prompt_attention_mask"].bool())
    )
    return encoded, null_condition, errors


def _distance(condition: Condition, expected: Tensor, real: Tensor) -> float:
    condition = condition_to(condition, torch.device("cpu"))
    memory, mask = condition.context, condition.context_mask
    mask = torch.ones_like(real) if mask is None else mask
    if mask.shape != real.shape or not torch.equal(mask, real):
        return float("inf")
    return weighted(EMBEDDINGS, worst([(memory[mask], expected[real])]))


def _grid(pipe: Pipeline) -> DiffusersSchedule:
    return DiffusersSchedule(DiffusersSchedule.Config.read(pipe.model.recipe.sampling.schedule.options, "golden"))


def _autoencoder(pipe: Pipeline, golden: Golden) -> list[float]:
    if "input.vae.image" not in golden.tensors:
        return []
    network, picture = (
        pipe.model.autoencoder.pretrained.network(),
        golden.tensors["input.vae.image"].to(pipe.model.device),
    )
    with torch.no_grad():
        posterior = network.encode(picture).latent_dist
    latent = pipe.model.autoencoder.encode(picture)
    mean, logvar = golden.tensors["output.vae.mean"], golden.tensors["output.vae.logvar"]
    return [worst([(latent, mean * network.config.scaling_factor), (posterior.mean, mean), (posterior.logvar, logvar)])]
