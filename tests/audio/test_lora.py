"""A LoRA of a sound model: trained on a folder of sounds, and added on the command line."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from making import make_model, registry_of

from lumina_core import Recipe, Trainer

pytest.importorskip("peft")


def test_a_lora_of_a_folder_of_sounds_changes_what_the_command_generates(lumina, tmp_path):
    registry = registry_of("audio")
    base = make_model("audio.tiny", tmp_path / "base", registry)
    (tmp_path / "sounds").mkdir()
    for name, hertz in (("low", 200), ("high", 2000)):
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", wave, 16000)
        (tmp_path / "sounds" / f"{name}.txt").write_text(f"a {name} tone\n", encoding="utf-8")
    settings = (
        *("adapter.rank=2", "steps=2", "global_batch_size=2", "lr=1e-1", "warmup_steps=0", "ema_decay=0.1"),
        "cache_latents=false",
    )
    overrides = [f"dataset.folder={tmp_path / 'sounds'}", *(f"training.{one}" for one in settings)]
    recipe = Recipe.load("audio.lora", overrides, registry)
    trainer = Trainer(recipe, tmp_path / "run", device="cpu", init=[base], registry=registry)
    folder = trainer.train()
    assert folder == tmp_path / "run" / "lora"
    waves = []
    for name, options in (("plain", ()), ("zero", ("--lora", f"{folder}:0")), ("full", ("--lora", folder))):
        path = tmp_path / f"{name}.wav"
        done = lumina("audio", "a low tone", "--model", base, "--steps", 1, "--out", path, *options)
        assert done.status == 0, done.err
        waves.append(soundfile.read(path)[0])
    plain, zero, full = waves
    changed = np.abs(full - plain).mean()
    assert changed > 1e-4 and np.abs(zero - plain).mean() < 0.1 * changed
