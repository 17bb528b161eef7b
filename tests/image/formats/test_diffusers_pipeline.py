"""A folder of diffusers makes here what diffusers' own pipeline makes of it, in one process, step by step.

And the faults of that pipeline (huggingface/diffusers issue 13634, numbered as there) are not here.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from lumina_core.conditioning.ops import mean_pool
from lumina_core.sampling.inputs import PrecomputedInputs
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.types import Condition

FOLDER = Path(__file__).parents[2] / "tiny_pipeline"
THEIRS = "isotropic=true,scale_down=true"
EMBEDDINGS, LATENTS, PICTURE = 1e-4, 3e-4, 2e-4


@pytest.fixture(scope="module")
def theirs():
    made = diffusers.LuminaPipeline.from_pretrained(FOLDER)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_pretrained(FOLDER)


def latents(pipeline, size, seeds):
    """The noise that these seeds stand for, as a latent."""
    places = pipeline.model.tokenizer.empty(len(seeds), (size[1] // 8, size[0] // 8))
    drawn = [torch.randn(places.values.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return pipeline.model.tokenizer.unpatchify(places.with_values(torch.stack(drawn)))


def pictures(answers):
    return torch.stack([answer.data for answer in answers]).div(2).add(0.5).clamp(0, 1)


def compare(theirs, pipeline, prompts, negatives, size, **options):
    """Errors of latents at each step, and of the pictures, for the same noise."""
    steps, ours = [], []
    usual = {"size": size, "steps": options.get("steps", 3), "guidance_scale": options.get("guidance_scale", 4.0)}
    wanted = theirs(
        prompts, negative_prompt=negatives, width=size[0], height=size[1], num_inference_steps=usual["steps"],
        guidance_scale=usual["guidance_scale"], latents=latents(pipeline, size, range(len(prompts))), output_type="pt",
        callback_on_step_end=lambda pipe, step, time, kept: steps.append(kept["latents"].clone()) or kept,
        clean_caption=False, **options.get("call", {}),
    ).images  # fmt: skip
    usual |= options.get("request", {})
    pairs = enumerate(zip(prompts, negatives, strict=True))
    requests = [
        pipeline.make_request(prompt=prompt, negative_prompt=negative, seed=seed, **usual)
        for seed, (prompt, negative) in pairs
    ]
    answers = pipeline(requests, callback=lambda state: ours.append(state.x_t.clone()))
    places = pipeline.model.tokenizer.empty(len(prompts), (size[1] // 8, size[0] // 8))
    walked = torch.stack([pipeline.model.tokenizer.unpatchify(places.with_values(values)) for values in ours])
    return (walked - torch.stack(steps)).abs().max(), (pictures(answers) - wanted).abs().max()


@pytest.mark.parametrize(
    ("prompts", "negatives", "size", "options"),
    [
        (["a photo of a red cat"], [""], (64, 64), {}),
        (["an old man walking in the city at night", "a lake"], ["", "blue"], (64, 96), {"steps": 4}),
        (["a lake"], [""], (48, 80), {"guidance_scale": 1.0}),
        (
            ["the blue sky"],
            [""],
            (96, 96),
            {"call": {"scaling_watershed": 0.5}, "request": {"rope_scaling": f"watershed:watershed=0.5,{THEIRS}"}},
        ),
        (
            ["the blue sky"],
            [""],
            (96, 64),
            {"call": {"proportional_attn": False}, "request": {"base_sequence_length": 0}},
        ),
    ],
)
def test_latents_at_each_step_and_pictures_are_theirs(theirs, pipeline, prompts, negatives, size, options):
    walked, made = compare(theirs, pipeline, prompts, negatives, size, **options)
    assert walked <= LATENTS and made <= PICTURE


def test_a_folder_that_pads_on_the_left_and_shifts_its_steps_is_theirs_too(tmp_path):
    folder = tmp_path / "left"
    shutil.copytree(FOLDER, folder)
    steps = "scheduler/scheduler_config.json"
    changes = {"tokenizer/tokenizer_config.json": {"padding_side": "left"}, steps: {"shift": 3.0}}
    for name, change in changes.items():
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, **change}), encoding="utf-8")
    left = diffusers.LuminaPipeline.from_pretrained(folder)
    left.set_progress_bar_config(disable=True)
    prompts = ["an old man walking in the city at night", "a lake"]
    walked, made = compare(left, Pipeline.from_pretrained(folder), prompts, ["", "blue"], (64, 96))
    assert walked <= LATENTS and made <= PICTURE


def test_the_command_makes_their_picture_of_their_folder(theirs, pipeline, lumina, tmp_path):
    import numpy
    from PIL import Image

    done = lumina("image", "a lake", "--model", FOLDER, "--out", tmp_path / "lake.png", "--steps", 3, "--seed", 5)
    assert (done.status, done.err) == (0, "")
    noise = latents(pipeline, (64, 64), [5])
    wanted = theirs("a lake", num_inference_steps=3, latents=noise, output_type="np").images[0]
    levels = numpy.asarray(Image.open(tmp_path / "lake.png")).astype(float)
    assert abs(levels - wanted * 255).max() <= 0.51


def test_embeddings_are_theirs_where_they_are_real(theirs, pipeline):
    texts = ["a photo of a red cat", "", "an old man walking in the city at night"]
    embeds, mask, _, _ = theirs.encode_prompt(texts, do_classifier_free_guidance=False)
    condition = pipeline.model.conditioners_by_field["caption"].encode(texts)
    assert torch.equal(condition.context_mask, mask.bool())
    assert (condition.context - embeds)[mask.bool()].abs().max() <= EMBEDDINGS


def test_a_folder_under_the_older_name_of_its_class_opens_too(pipeline, tmp_path):
    """Fault 1: there the older name cannot be built any more."""
    folder = tmp_path / "older"
    shutil.copytree(FOLDER, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "LuminaText2ImgPipeline"}))
    first, second = (s(prompt="a lake", steps=1)[0].data for s in (pipeline, Pipeline.from_pretrained(folder)))
    assert torch.equal(first, second)


def test_several_pictures_a_prompt_keep_their_masks_and_made_embeddings_are_expanded(pipeline):
    """Fault 2: there the masks of [p1, p1, p2, p2] come as [p1, p2, p1, p2], and embeddings are not expanded."""
    prompts = ["an old man walking in the city at night", "a lake"]
    requests = [pipeline.make_request(prompt=p, steps=2, seed=10 * row, count=2) for row, p in enumerate(prompts)]
    together = pictures(pipeline(requests))
    for row, prompt in enumerate(prompts):
        alone = pictures(pipeline(prompt=prompt, steps=2, seed=10 * row, count=2))
        torch.testing.assert_close(together[2 * row : 2 * row + 2], alone, atol=1e-5, rtol=0)
    condition = pipeline.model.encode_condition({"caption": prompts}, 2)
    torch.testing.assert_close(
        pictures(pipeline(requests, inputs=PrecomputedInputs(condition))), together, atol=1e-5, rtol=0
    )


def test_made_embeddings_without_a_summary_get_the_published_one(pipeline):
    condition = pipeline.model.encode_condition({"caption": ["a lake"]}, 1)
    torch.testing.assert_close(condition.pooled, mean_pool(condition.context, condition.context_mask))
    bare = Condition(condition.context, condition.context_mask)
    first, second = (pipeline(inputs=PrecomputedInputs(c), steps=1)[0].data for c in (condition, bare))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_the_length_that_is_asked_for_is_the_length_that_is_read(pipeline):
    """Fault 3: there max_sequence_length is taken and forgotten."""
    speaker = pipeline.model.conditioners_by_field["caption"]
    shorter = type(speaker)(speaker.config.model_copy(update={"max_length": 4}))
    assert shorter.encode(["an old man walking in the city at night"]).context_mask.sum() == 4


def test_a_negative_longer_than_the_prompt_is_read_whole(pipeline):
    """Fault 4: there it is cut where the prompt ends."""
    short, long = "a lake", " ".join(["an old man walking in the city at night"] * 4)
    speaker = pipeline.model.conditioners_by_field["caption"]
    assert speaker.encode([long]).context_mask.sum() > speaker.encode([short]).context.shape[1]
    cut = type(speaker)(speaker.config.model_copy(update={"max_length": 8})).encode([long])
    whole = pipeline(prompt=short, negative_prompt=long, steps=1)[0].data
    assert not torch.allclose(
        whole, pipeline(prompt=short, steps=1, inputs=PrecomputedInputs(uncond=cut))[0].data, atol=1e-4
    )
    kept = pipeline.model.encode_condition({"caption": [long]}, 1)
    torch.testing.assert_close(
        whole,
        pipeline(prompt=short, steps=1, inputs=PrecomputedInputs(uncond=kept))[0].data,
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parts_in_different_formats_work_together(pipeline, dtype):
    """Fault 5: there embeddings keep the text encoder's format, whatever the network has."""
    mixed = Pipeline.from_pretrained(FOLDER, dtype=dtype, text_device="cpu", offload=True)
    assert mixed.model.conditioners_by_field["caption"].encoder.network().dtype == torch.float32
    made = pictures(mixed(prompt="a lake", steps=2))
    assert (made - pictures(pipeline(prompt="a lake", steps=2))).abs().mean() < 0.02


def test_the_network_can_be_asked_by_itself(pipeline):
    """Fault 6: there calling the network without further arguments raises."""
    model = pipeline.model
    tokens = model.tokenizer.empty(1, (8, 8))
    condition = model.encode_condition({"caption": ["a lake"]}, 1)
    assert model.predict(tokens, torch.tensor([0.5]), condition).shape == tokens.values.shape


def test_a_smaller_canvas_keeps_its_positions_unless_it_is_told_to_shrink_them(pipeline):
    """Fault 7: there the factor is below 1 on small canvases, and it has no definition."""
    options = {"prompt": "a lake", "size": (32, 32), "steps": 1}
    plain = pipeline(**options, rope_scaling="none")[0].data
    assert torch.equal(pipeline(**options, rope_scaling="interpolation:isotropic=true")[0].data, plain)
    assert not torch.allclose(
        pipeline(**options, rope_scaling="interpolation:isotropic=true,scale_down=true")[0].data, plain
    )


def test_guidance_works_on_the_channels_that_the_recipe_says(pipeline):
    """Fault 8: there three of four channels are guided, always."""
    usual = pipeline.model.recipe
    assert usual.sampling.guidance_channels == 3
    first = pipeline(prompt="a lake", steps=1)[0].data
    try:
        every = usual.sampling.model_copy(update={"guidance_channels": None})
        pipeline.model.recipe = usual.model_copy(update={"sampling": every})
        assert not torch.allclose(pipeline(prompt="a lake", steps=1)[0].data, first, atol=1e-4)
    finally:
        pipeline.model.recipe = usual


def test_a_prompt_is_read_as_it_is_written(theirs, pipeline):
    """Fault 9: there prompts are lowered and stripped where helpers are missing, negative ones never."""
    text = "  A Photo of a Red CAT"
    condition = pipeline.model.conditioners_by_field["caption"].encode([text])
    ids = theirs.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = theirs.text_encoder(ids, output_hidden_states=True).hidden_states[-2][0]
    torch.testing.assert_close(condition.context[0][: len(wanted)], wanted, atol=EMBEDDINGS, rtol=0)
    assert (
        condition.context.shape[1]
        != pipeline.model.conditioners_by_field["caption"].encode([text.lower().strip()]).context.shape[1]
    )


def test_no_weight_is_without_use_and_memory_can_be_spared_in_training(pipeline):
    """Fault 10: there a pad token is never filled nor used, and blocks cannot be computed again to save memory."""
    assert not any("pad" in name for name, _ in pipeline.model.named_parameters())
    assert hasattr(pipeline.model.backbone.config, "gradient_checkpointing")


def test_the_text_encoder_of_the_folder_can_be_quantised(pipeline):
    """Fault 10 as well: the documented example there loads the class of another encoder."""
    pytest.importorskip("torchao")
    speaker = pipeline.model.conditioners_by_field["caption"]
    small = type(speaker)(speaker.config.model_copy(update={"quantize": "int8"}))
    first, second = (s.encode(["a lake"]).context for s in (speaker, small))
    assert 0 < (first - second).norm() / first.norm() < 0.1


def test_silence_under_another_length_changes_nothing(pipeline):
    condition = pipeline.model.null_condition(1)
    longer = replace(
        condition,
        context=torch.cat([condition.context, torch.ones_like(condition.context)], 1),
        context_mask=torch.cat([condition.context_mask, torch.zeros_like(condition.context_mask)], 1),
    )
    first, second = (
        pipeline(prompt="a lake", steps=1, inputs=PrecomputedInputs(uncond=s))[0].data for s in (condition, longer)
    )
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
