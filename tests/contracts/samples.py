"""What every registered part is tried on. A part that is not here is tried with its defaults alone, and fails where it
needs more: so no new part is forgotten. A line is (kind, name): one try or several, or a function of an empty folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import hearing_models
import seeing_models
import torch
from contracts.sample_data import (
    Try,
    class_folder,
    mixture,
    parquet_shards,
    picture_folder,
    saved_data_set,
    sound_folder,
    sound_manifest,
    sound_shards,
    tar_shards,
)
from making import CAPTIONS
from torch import Tensor

from lumina_core.testing import Sample


def smooth(channels: int = 3, side: int = 16, count: int = 2) -> Tensor:
    """Pictures as they are: neighbours alike, in [-1, 1]."""
    across = torch.linspace(-3, 3, side)
    waves = [torch.sin(across[:, None] * k + across[None] * (3 - k)) for k in (1, 2, 3)]
    items = [torch.stack([waves[(c + item) % 3] / (1 + item // 3) for c in range(channels)]) for item in range(count)]
    return torch.stack(items)


def clip_metric(folder: Path) -> Try:
    """A tiny CLIP, drawn at random."""
    said = [{"caption": "a cat"}, {"caption": "dog"}]
    return Try(
        {"features": {"use": "image.clip", "source": str(seeing_models.clip(folder))}}, Sample(smooth(), {"said": said})
    )


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


def clap_text(folder: Path) -> list[Try]:
    """The text towers of a CLAP of transformers, and of Microsoft's."""
    import language_models

    source = str(hearing_models.clap(folder / "clap"))
    (folder / "words").mkdir()
    language_models.words(folder / "words", front="<bos>", end="<eos>")
    own = {"source": str(folder / "words"), "bert": SMALL_BERT}
    captions = ["a red cat", "the", "a blue dog of the house"]
    return [
        Try({"source": source, "dtype": "float32", "length": 12, "masked": True}, captions),
        Try({**own, "length": 6}, captions),
    ]


def dual_text(folder: Path) -> Try:
    """Both encoders of the paper, tiny."""
    import language_models

    _, own = clap_text(folder)
    second = {"use": "core.transformers", "source": str(language_models.encoder(folder / "t5")), "dtype": "float32"}
    pair = [{"use": "audio.clap_text", **own.options}, {**second, "layer": -1, "length": 8, "full": True}]
    return Try({"conditioner": pair}, ["a red cat", "the cat then a dog", "<a blue dog& end>"])


def published_vae(folder: Path) -> Try:
    """The VAE of the tiny published model; drawn at random, it says nothing of a spread."""
    source = TINY_PIPELINE / "vae"
    return Try({"source": str(source), "dtype": "float32"}, Sample(smooth(), {"trained": False}))


def sound_autoencoder(folder: Path) -> Try:
    """A small one, with random weights and a vocoder that has none."""
    from audio.sounds_made import chord

    vae = {"width": 32, "growth": (1, 1), "blocks": 1, "channels": 8}
    vocoder = {"use": "audio.griffin_lim", "rounds": 2}
    return Try({"vae": vae, "vocoder": vocoder}, Sample(chord(4096), {"trained": False}))


def tones(count: int = 2) -> Tensor:
    """Sounds of one length, each of another pitch."""
    from audio.sounds_made import tone

    return torch.stack([tone(220.0 * 1.3**place) for place in range(count)])


def clap_metric_of_sounds(folder: Path) -> Try:
    """A tiny CLAP, drawn at random."""
    features = {"use": "audio.clap", "source": str(hearing_models.clap(folder))}
    return Try({"features": features}, Sample(tones(), {"said": [{"caption": "a low tone"}, {"caption": "high"}]}))


def panns_both_ways(folder: Path) -> Sequence[Try]:
    """What it keeps, and what it answers."""
    weights = str(hearing_models.panns(folder / "panns.pth")[0])
    return [Try({"weights": weights, "gives": gives}, tones()) for gives in ("embedding", "classes")]


def published_music(folder: Path) -> list[Try]:
    """Tiny models of music and of sounds as they are released."""
    import published_sound

    return [Try(sample=published_sound.write(folder / kind, kind)) for kind in ("music", "audio")]


def published_original(folder: Path) -> Try:
    """A tiny model as the paper's authors publish it."""
    from published_folders import SIZES, tensors, write_original

    return Try(sample=write_original(folder / "original", tensors(SIZES)))


TINY_PIPELINE = Path(__file__).parents[1] / "tiny_pipeline"
SMALL_BERT = {"vocabulary": 14, "places": 20, "width": 16, "depth": 1, "heads": 2, "hidden": 24, "projected": 16}
SMALL_TEXT = {"vocabulary": 320, "width": 16, "hidden": 16, "slots": 2, "memory": 16, "foretold": 0, "length": 8}
ASKED = {"prompt": "red heart", "size": (16, 8), "negative": "blue"}

SAMPLES: dict[tuple[str, str], Try | Sequence[Try] | Callable[[Path], Try | Sequence[Try]]] = {
    ("autoencoder", "audio.mel"): sound_autoencoder,
    ("autoencoder", "audio.bands"): Try(
        {"mel": {"bands": 8}, "vocoder": {"use": "audio.griffin_lim", "bands": 8, "rounds": 2}},
        Sample(tones(), {"trained": False}),
    ),
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
    ("conditioner", "audio.clap_text"): clap_text,
    ("conditioner", "audio.dual_text"): dual_text,
    ("conditioner", "core.label"): Try({"classes": 5, "width": 16}, [0, 4, 1]),
    ("conditioner", "core.number"): [
        Try({"high": 10, "width": 16}, [0, 2.5, None, 10]),
        Try({"low": 20, "high": 8000, "scale": "logarithm", "width": 16}, [20.0, 440.0]),
    ],
    ("conditioner", "core.text"): Try(SMALL_TEXT, CAPTIONS[:20]),
    ("conditioner", "core.transformers"): language_model,
    ("dataset", "audio.effects"): Try(sample=Sample("sound", {"fields": ("caption", "label")})),
    ("dataset", "audio.folder"): sound_folder,
    ("dataset", "audio.instruments"): Try(sample=Sample("sound", {"fields": ("caption", "label")})),
    ("dataset", "audio.manifest"): sound_manifest,
    ("dataset", "audio.tar"): sound_shards,
    ("dataset", "core.mixture"): mixture,
    ("dataset", "image.classes"): class_folder,
    ("dataset", "image.datasets"): saved_data_set,
    ("dataset", "image.emoji"): Try({"side": 16}, Sample("picture", {"fields": ("caption", "label")})),
    ("dataset", "image.folder"): picture_folder,
    ("dataset", "image.parquet"): parquet_shards,
    ("dataset", "image.tar"): tar_shards,
    ("extrapolation", "core.watershed"): [Try(), Try({"isotropic": True, "trained": 3})],
    ("features", "audio.clap"): lambda folder: Try({"source": str(hearing_models.clap(folder))}, tones()),
    ("features", "audio.classifier"): [Try(sample=tones()), Try({"gives": "classes"}, tones())],
    ("features", "audio.efficientnet_lite0"): Try({"side": 32}, tones()),
    ("features", "audio.log_mel"): Try(sample=tones()),
    ("features", "audio.log_mel_frames"): Try({"spans": 3}, tones()),
    ("features", "audio.panns"): panns_both_ways,
    ("features", "audio.pitch"): Try(sample=tones()),
    ("features", "audio.vggish"): lambda folder: Try(
        {"weights": str(hearing_models.vggish(folder / "vggish.pth"))}, tones()
    ),
    ("features", "image.coarse"): Try(sample=smooth()),
    ("features", "image.clip"): lambda folder: Try({"source": str(seeing_models.clip(folder))}, smooth()),
    ("features", "image.efficientnet_lite0"): Try({"side": 32}, smooth()),
    ("features", "image.inception"): lambda folder: Try(
        {"weights": str(seeing_models.inception(folder / "inception.pth"))}, smooth()
    ),
    ("head", "core.velocity"): [Try(), Try({"shift": True, "learn_sigma": True})],
    ("layout", "audio.lumina_music"): published_music,
    ("layout", "image.alpha_vllm"): published_original,
    ("layout", "image.diffusers"): Try(sample=TINY_PIPELINE),
    ("metric", "audio.class_divergence"): Try(sample=tones()),
    ("metric", "audio.frechet"): Try({"features": {"use": "audio.log_mel"}, "fewest": 4}, tones()),
    ("metric", "audio.instrument_retrieval"): Try({"features": {"use": "audio.log_mel"}}, tones()),
    ("metric", "audio.kernel"): Try({"features": {"use": "audio.log_mel"}}, tones(6)),
    ("metric", "audio.pitch"): Try(sample=Sample(tones(), {"said": [{"pitch": 57}, {"pitch": None}]})),
    ("metric", "audio.precision_recall"): Try({"features": {"use": "audio.log_mel"}}, tones(6)),
    ("metric", "audio.similarity"): clap_metric_of_sounds,
    ("metric", "audio.spectral_retrieval"): Try(sample=tones()),
    ("metric", "image.feature_retrieval"): Try({"features": {"use": "image.coarse"}}, smooth()),
    ("metric", "image.frechet"): Try({"features": {"use": "image.coarse"}, "fewest": 4}, smooth()),
    ("metric", "image.kernel"): Try({"features": {"use": "image.coarse"}}, smooth(count=6)),
    ("metric", "image.precision_recall"): Try({"features": {"use": "image.coarse"}}, smooth(count=6)),
    ("metric", "image.retrieval"): Try(sample=smooth()),
    ("metric", "image.similarity"): clip_metric,
    ("objective", "core.flow_matching"): [Try(), *(Try({"prediction": p}) for p in ("data", "noise", "score"))],
    ("solver", "core.adams"): Try(sample=2),
    ("solver", "core.euler"): Try(sample=1),
    ("solver", "core.heun"): Try(sample=2),
    ("solver", "core.heun3"): Try(sample=3),
    ("solver", "core.midpoint"): Try(sample=2),
    ("solver", "core.rk4"): Try(sample=4),
    ("solver", "core.rk4_38"): Try(sample=4),
    ("task", "audio.text_to_audio"): [
        Try(sample={"prompt": "a trumpet", "seconds": 0.004, "negative": "a drum"}),
        Try({"rate": 1000, "seconds": 0.03}, {"prompt": "x"}),
    ],
    ("task", "image.class_to_image"): Try(sample={"label": 3, "size": (16, 8)}),
    ("task", "image.text_to_image"): [Try(sample=ASKED), Try({"side": 8}, {"prompt": "x"})],
    ("times", "core.fitted_grid"): Try({"values": (0, 0.1, 0.3, 1)}),
    ("times", "core.given_grid"): Try({"values": (0, 0.25, 1)}),
    ("times", "core.shifted"): Try({"shift": 4}),
    ("times", "core.within"): [Try(), Try({"start": 0.2, "stop": 0.6, "times": {"use": "core.logit_normal"}})],
    ("tokenizer", "audio.frames"): Try({"frame": 2, "channels": 4}, torch.randn(2, 4, 6)),
    ("tokenizer", "image.patches"): [
        Try({"patch": 2}, torch.zeros(2, 4, 4, 6)),
        Try({"patch": 1}, torch.zeros(2, 1, 3, 2)),
    ],
    ("vocoder", "audio.bigvgan"): [
        Try({"bands": 6, "width": 8, "rates": (2, 2), "kernels": (4, 4)}),
        Try({"bands": 6, "width": 8, "rates": (4,), "kernels": (8,), "block": "2", "logarithm": "decimal"}),
    ],
}
