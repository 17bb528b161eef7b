"""What every registered part is tried on. A part that is not here is tried with its defaults alone, and fails where it
needs more: so no new part is forgotten. A line is (kind, name): one try or several, or a function of an empty folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from making import CAPTIONS
from PIL import Image
from torch import Tensor

from lumina_core.testing import Sample


@dataclass(frozen=True)
class Try:
    """Options as in a recipe, and the sample; `Sample` where a check takes more than one thing."""

    options: Mapping[str, Any] = field(default_factory=dict)
    sample: Any = None


def smooth(channels: int = 3, side: int = 16) -> Tensor:
    """Pictures as they are: neighbours alike, in [-1, 1]."""
    across = torch.linspace(-3, 3, side)
    waves = [torch.sin(across[:, None] * k + across[None] * (3 - k)) for k in (1, 2, 3)]
    return torch.stack([torch.stack([waves[(c + item) % 3] for c in range(channels)]) for item in range(2)])


def picture_folder(folder: Path) -> Try:
    """Two pictures with captions beside them."""
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (12, 16), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{colour} square\n", encoding="utf-8")
    return Try({"folder": str(folder), "side": 8}, Sample("picture", {"fields": ("caption", "file")}))


def language_model(folder: Path) -> Sequence[Try]:
    """A tiny decoder and a tiny T5, drawn at random."""
    import language_models

    captions = ["a red cat", "the", "a blue dog of the house"]
    decoder, encoder = language_models.decoder(folder / "decoder"), language_models.encoder(folder / "encoder")
    options = {"dtype": "float32", "length": 16}
    return [
        Try({"source": str(decoder), **options}, captions),
        Try({"source": str(encoder), **options, "layer": -1, "padding": "left", "summary": False}, captions),
    ]


def published_vae(folder: Path) -> Try:
    """The VAE of the tiny published model; drawn at random, it says nothing of a spread."""
    source = Path(__file__).parents[1] / "tiny_pipeline" / "vae"
    return Try({"source": str(source), "dtype": "float32"}, Sample(smooth(), {"trained": False}))


SMALL_TEXT = {"vocabulary": 320, "width": 16, "hidden": 16, "slots": 2, "memory": 16, "foretold": 0, "length": 8}
ASKED = {"prompt": "red heart", "size": (16, 8), "negative": "blue"}

SAMPLES: dict[tuple[str, str], Try | Sequence[Try] | Callable[[Path], Try | Sequence[Try]]] = {
    ("autoencoder", "image.kl"): published_vae,
    ("autoencoder", "image.pixels"): Try(sample=smooth()),
    ("autoencoder", "image.small"): Try({"width": 8}, Sample(smooth(), {"trained": False})),
    ("autoencoder", "image.thumbnail"): Try(sample=smooth()),
    ("backbone", "core.flag_dit"): [Try(), Try({"place": "time", "kv_heads": 1}), Try({"timed": False})],
    ("backbone", "core.next_dit"): [
        Try({"axes": (4, 2, 2)}),
        Try({"axes": (4, 4, 0), "kv_heads": 1, "summary": "plain", "summary_width": 16}),
        Try({"axes": (4, 4, 0), "timed": False}),
    ],
    ("conditioner", "core.label"): Try({"classes": 5, "width": 16}, [0, 4, 1]),
    ("conditioner", "core.text"): Try(SMALL_TEXT, CAPTIONS[:20]),
    ("conditioner", "core.transformers"): language_model,
    ("dataset", "image.emoji"): Try({"side": 16}, Sample("picture", {"fields": ("caption", "label")})),
    ("dataset", "image.folder"): picture_folder,
    ("extrapolation", "core.watershed"): [Try(), Try({"isotropic": True, "trained": 3})],
    ("features", "image.coarse"): Try(sample=smooth()),
    ("head", "core.velocity"): [Try(), Try({"shift": True, "learn_sigma": True})],
    ("metric", "image.retrieval"): Try(sample=smooth()),
    ("objective", "core.flow_matching"): [Try(), *(Try({"prediction": p}) for p in ("data", "noise", "score"))],
    ("solver", "core.euler"): Try(sample=1),
    ("solver", "core.heun"): Try(sample=2),
    ("solver", "core.midpoint"): Try(sample=2),
    ("solver", "core.rk4"): Try(sample=4),
    ("solver", "core.rk4_38"): Try(sample=4),
    ("task", "image.text_to_image"): [Try(sample=ASKED), Try({"side": 8}, {"prompt": "x"})],
    ("times", "core.given_grid"): Try({"values": (0, 0.25, 1)}),
    ("times", "core.shifted"): Try({"shift": 4}),
    ("times", "core.within"): [Try(), Try({"start": 0.2, "stop": 0.6, "times": {"use": "core.logit_normal"}})],
    ("tokenizer", "image.patches"): [
        Try({"patch": 2}, torch.zeros(2, 4, 4, 6)),
        Try({"patch": 1}, torch.zeros(2, 1, 3, 2)),
    ],
}
