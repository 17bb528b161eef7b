"""Every prompt that the pages and the help show gives a good result with the built-in models.

Images: the emoji that the prompt names is among the five nearest of all 3786, by coarse pixels, for one of two seeds.
Sounds: not silent, and an instrument that the prompt names is among the five most probable of the 128 programs.
"""

from __future__ import annotations

import ast
import functools
import re
import shlex

import pytest
import torch
from reading_pages import PAGES, blocks

from lumina_core import Pipeline
from lumina_core.plugins.loader import load_plugins
from lumina_image.datasets.emoji import EmojiEvalSet
from lumina_image.metrics.features import PixelFeatures

COMMANDS = {"image": "image.text_to_image", "audio": "audio.text_to_audio"}
OTHER_INPUTS = (
    "--model",
    "--lora",
    "--init-image",
    "--init-audio",
    "--variation-of",
    "--region",
    "--device",
    "--prompts",
)
"""Options with which the result depends on more than the prompt and the built-in model."""
OTHER_ARGUMENTS = {"init_image", "variation_of", "inputs", "duration"}
SEEDS = (0, 1)
ARTICLES = ("a ", "an ", "the ")


def command_prompts(command: str) -> set[str]:
    """The prompts of `lumina COMMAND` in the pages and in the help text of the command."""
    texts = [block.text for page in PAGES for block in blocks(page, "", "sh", "bash", "console", "shell")]
    task = load_plugins().find("task", COMMANDS[command])
    texts += [f"lumina {command} {line}" for line in task.examples or ('"a red heart" --out heart.png --seed 1',)]
    prompts = set()
    for line in re.sub(r"\\\n\s*", "", "\n".join(texts)).splitlines():
        if line.strip().removeprefix("$ ").startswith(f"lumina {command} "):
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            if not set(OTHER_INPUTS) & set(words) and not words[2].startswith("-"):
                prompts.add(words[2])
    return prompts


def python_prompts() -> set[str]:
    """The prompts of `pipe("...")` in blocks of Python of pages that open the built-in model of images."""
    prompts = set()
    for page in PAGES:
        code = [block.text for block in blocks(page, "python")]
        if not any('from_pretrained("image.emoji' in text for text in code) or page.name == "fine-tune.md":
            continue
        for node in (node for text in code for node in ast.walk(ast.parse(text))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "pipe"
            if not is_call or not node.args or {keyword.arg for keyword in node.keywords} & OTHER_ARGUMENTS:
                continue
            values = node.args[0].elts if isinstance(node.args[0], ast.List) else node.args[:1]
            prompts |= {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    return prompts


def plain(text: str) -> str:
    text = text.casefold().strip()
    return next((text.removeprefix(article) for article in ARTICLES if text.startswith(article)), text)


@functools.lru_cache(maxsize=1)
def real_emoji():
    from lumina_image.datasets import emoji_data

    eval_set = EmojiEvalSet(64, ("en",))
    records = emoji_data.load_records()
    names: dict[str, set[int]] = {}
    for index, record in enumerate(records):
        for captions in record["captions"].values():
            for text in (captions["name"], *captions.get("keywords", ())):
                names.setdefault(plain(str(text)), set()).add(index)
    features = PixelFeatures(PixelFeatures.Config())([eval_set.reference(index) for index in range(len(eval_set))])
    return names, features


@functools.lru_cache(maxsize=2)
def pipeline(name: str) -> Pipeline:
    return Pipeline.from_pretrained(name)


@pytest.mark.parametrize("prompt", sorted(command_prompts("image") | python_prompts()))
def test_an_example_of_images_shows_what_it_names(prompt):
    names, real = real_emoji()
    words = plain(prompt).split()
    targets = names.get(plain(prompt)) or names.get(" ".join(words[-2:])) or names.get(words[-1], set())
    assert targets, f"no emoji is called {prompt!r}: change the example"
    images = pipeline("image.emoji")(prompt, seed=list(SEEDS), steps=10, output_type="tensor")
    features = PixelFeatures(PixelFeatures.Config())([result.data for result in images.results])
    distances = (features[:, None] - real[None]).square().sum(-1)
    nearest = distances.argsort(dim=1)[:, :5]
    assert any(targets & set(row.tolist()) for row in nearest), f"{prompt!r} shows something else: change the example"


@pytest.mark.parametrize("prompt", sorted(command_prompts("audio")))
def test_an_example_of_sounds_is_heard_and_is_the_instrument_that_it_names(prompt):
    from lumina_audio.metrics.instruments import InstrumentClassifierFeatures

    config = InstrumentClassifierFeatures.Config(output="classes")
    classifier = InstrumentClassifierFeatures(config)
    output = pipeline("audio.instruments")(prompt, seed=list(SEEDS), output_type="tensor")
    waves = [result.data for result in output.results]
    assert all(float(wave.square().mean().sqrt()) > 0.01 for wave in waves), f"{prompt!r} is silent: change the example"
    words = set(re.findall(r"[a-z]+", prompt.casefold()))
    names = [set(re.findall(r"[a-z]{4,}", name.casefold())) for name in classifier.classes]
    named = {index for index, name in enumerate(names) if words & name}
    assert named, f"no instrument of {prompt!r} is known: change the example"
    top = torch.topk(classifier(waves), 5, dim=1).indices.tolist()
    assert any(named & set(row) for row in top), f"{prompt!r} is another instrument: change the example"
