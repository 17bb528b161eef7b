"""What every registered part is tried on. A part that is not here is tried with its defaults alone, and fails where it
needs more: so no new part is forgotten. A line is (kind, name): one try or several, or a function of an empty folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tiny_audio_models
import tiny_image_encoders
import torch
from contracts.sample_data import (
    Try,
    class_folder,
    mixture,
    parquet_shards,
    picture_folder,
    saved_data_set,
    sound_folder,
    sound_shards,
    sound_table,
    tar_shards,
)
from making import CAPTIONS
from torch import Tensor

from lumina_3d.views.cameras import orbit
from lumina_3d.views.conditioner import ViewInputs
from lumina_3d.views.store import object_files, write_shard
from lumina_core.testing import Sample


def smooth(channels: int = 3, side: int = 16, count: int = 2) -> Tensor:
    """Smooth images in [-1, 1]."""
    across = torch.linspace(-3, 3, side)
    waves = [torch.sin(across[:, None] * k + across[None] * (3 - k)) for k in (1, 2, 3)]
    items = [torch.stack([waves[(c + item) % 3] / (1 + item // 3) for c in range(channels)]) for item in range(count)]
    return torch.stack(items)


def clouds(count: int = 2, points: int = 16) -> Tensor:
    """Point clouds (count, 3, points) in [-1, 1]."""
    return torch.rand(count, 3, points, generator=torch.Generator().manual_seed(0)) * 2 - 1


def views(count: int = 2) -> Tensor:
    """Views (count, 4, 3, 16, 16) in [-1, 1]."""
    return torch.rand(count, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def view_inputs() -> list[ViewInputs]:
    """Cameras of two views, with a given picture, with two, and with none."""
    cameras, pictures = orbit(4), views()[0].unbind(1)
    return [ViewInputs(tuple(cameras[:2]), pictures[:n], tuple(cameras[2 : 2 + n])) for n in (1, 2, 0)]


def stored_views(folder: Path) -> Try:
    """Two rendered objects in a tar file."""
    rgba = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    objects = {name: object_files(rgba, orbit(5), name, {}) for name in ("chair", "lamp")}
    write_shard(folder / "views.tar", objects)
    return Try({"folder": str(folder), "num_views": (2,), "num_given": (1,)}, Sample("views", {"fields": ("caption",)}))


def cloud_folder(folder: Path) -> Try:
    """Clouds of two classes as NPZ."""
    for name, cloud in zip(("chair", "lamp"), clouds(), strict=True):
        (folder / name).mkdir()
        np.savez(folder / name / "a.npz", points=cloud.T.numpy())
    return Try({"folder": str(folder), "count": 8}, Sample("points", {"fields": ("caption",)}))


def clip_metric(folder: Path) -> Try:
    """A tiny CLIP with random weights."""
    fields = [{"caption": "a cat"}, {"caption": "dog"}]
    return Try(
        {"feature_extractor": {"type": "image.clip", "source": str(tiny_image_encoders.clip(folder))}},
        Sample(smooth(), {"fields": fields}),
    )


def language_model(folder: Path) -> Sequence[Try]:
    """A tiny decoder and a tiny T5 with random weights."""
    import language_models

    captions = ["a red cat", "the", "a blue dog of the house"]
    decoder, encoder = language_models.decoder(folder / "decoder"), language_models.encoder(folder / "encoder")
    options = {"dtype": "float32", "max_length": 16}
    return [
        Try({"source": str(decoder), **options}, captions),
        Try(
            {"source": str(encoder), **options, "hidden_state_index": -1, "padding_side": "left", "mean_pooled": False},
            captions,
        ),
    ]


def clap_text(folder: Path) -> list[Try]:
    """The text towers of a CLAP of transformers, and of Microsoft's."""
    import language_models

    source = str(tiny_audio_models.clap(folder / "clap"))
    (folder / "words").mkdir()
    language_models.words(folder / "words", front="<bos>", end="<eos>")
    own = {"source": str(folder / "words"), "bert": SMALL_BERT}
    captions = ["a red cat", "the", "a blue dog of the house"]
    return [
        Try({"source": source, "dtype": "float32", "max_length": 12, "use_attention_mask": True}, captions),
        Try({**own, "max_length": 6}, captions),
    ]


def dual_text(folder: Path) -> Try:
    """Both encoders of the paper, tiny."""
    import language_models

    _, own = clap_text(folder)
    second = {"type": "core.transformers", "source": str(language_models.encoder(folder / "t5")), "dtype": "float32"}
    pair = [
        {"type": "audio.clap_text", **own.options},
        {**second, "hidden_state_index": -1, "max_length": 8, "pad_to_max_length": True},
    ]
    return Try({"conditioner": pair}, ["a red cat", "the cat then a dog", "<a blue dog& end>"])


def published_vae(folder: Path) -> Try:
    """The VAE of the tiny published model; its weights are random, so that its standard deviation is meaningless."""
    source = TINY_PIPELINE / "vae"
    return Try({"source": str(source), "dtype": "float32"}, Sample(smooth(), {"is_trained": False}))


def sound_autoencoder(folder: Path) -> Try:
    """A small sound autoencoder with random weights and a vocoder without weights."""
    from audio.tones import chord

    vae = {"ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1, "latent_channels": 8}
    vocoder = {"type": "audio.griffin_lim", "n_iter": 2}
    return Try({"vae": vae, "vocoder": vocoder}, Sample(chord(4096), {"is_trained": False}))


def tones(count: int = 2) -> Tensor:
    """Sounds of one length, each of another pitch."""
    from audio.tones import tone

    return torch.stack([tone(220.0 * 1.3**place) for place in range(count)])


def clap_metric_of_sounds(folder: Path) -> Try:
    """A tiny CLAP with random weights."""
    features = {"type": "audio.clap", "source": str(tiny_audio_models.clap(folder))}
    return Try(
        {"feature_extractor": features}, Sample(tones(), {"fields": [{"caption": "a low tone"}, {"caption": "high"}]})
    )


def panns_both_ways(folder: Path) -> Sequence[Try]:
    """Inputs that a cache stores, and the outputs that it returns."""
    weights = str(tiny_audio_models.panns(folder / "panns.pth")[0])
    return [Try({"weights": weights, "output": gives}, tones()) for gives in ("embedding", "classes")]


def published_music(folder: Path) -> list[Try]:
    """Tiny music and sound models in the released layout."""
    import lumina_music_release

    return [Try(sample=lumina_music_release.write(folder / kind, kind)) for kind in ("music", "audio")]


def published_original(folder: Path) -> Try:
    """A tiny model in the layout of the paper's authors."""
    from published_checkpoints import SIZES, tensors, write_original

    return Try(sample=write_original(folder / "original", tensors(SIZES)))


TINY_PIPELINE = Path(__file__).parents[1] / "tiny_pipeline"
SMALL_BERT = {
    "vocab_size": 14, "max_position_embeddings": 20, "hidden_size": 16, "num_layers": 1, "num_heads": 2,
    "intermediate_size": 24, "projection_dim": 16,
}  # fmt: skip
SMALL_TEXT = {
    "vocab_size": 320,
    "hidden_size": 16,
    "expand_dim": 16,
    "num_latents": 2,
    "context_dim": 16,
    "target_dim": 0,
    "max_length": 8,
}
REQUEST = {"prompt": "red heart", "size": (16, 8), "negative_prompt": "blue"}


def labelled_folder(folder: Path) -> Try:
    """A folder per class."""
    from recog.images import class_folder

    return Try({"folder": str(class_folder(folder)), "image_sizes": [[8, 12]]}, Sample("image", {"fields": ("label",)}))


def labelled_root(folder: Path) -> Try:
    """The same folder, read by timm."""
    from recog.images import class_folder

    return Try({"root": str(class_folder(folder)), "image_sizes": [[8, 12]]}, Sample("image"))


def labelled_tar(folder: Path) -> Try:
    """Two pictures in a tar file, each with its class index."""
    from image.image_files import encode_image, write_tar

    write_tar(folder / "0.tar", {"a.png": encode_image(), "a.txt": "1", "b.png": encode_image("blue"), "b.txt": "0"})
    return Try({"folder": str(folder), "image_sizes": [[8, 8]]}, Sample("image"))


def recog_model(folder: Path) -> Path:
    """A tiny classifier with random weights."""
    from recog.images import save_classifier

    return save_classifier(folder / "model")


def recog_timm_folder(folder: Path) -> Try:
    """A tiny classifier in timm's folder format."""
    from lumina_core.convert import ConvertOptions, execute, plan_conversion
    from lumina_core.plugins.loader import load_plugins

    plan = plan_conversion(recog_model(folder), load_plugins(), ConvertOptions("recog.timm"))
    execute(plan, folder / "timm")
    return Try(sample=folder / "timm")


SAMPLES: dict[tuple[str, str], Try | Sequence[Try] | Callable[[Path], Try | Sequence[Try]]] = {
    ("autoencoder", "audio.mel"): sound_autoencoder,
    ("autoencoder", "audio.mel_latent"): Try(
        {"mel": {"n_mels": 8}, "vocoder": {"type": "audio.griffin_lim", "n_mels": 8, "n_iter": 2}},
        Sample(tones(), {"is_trained": False}),
    ),
    ("autoencoder", "image.kl"): published_vae,
    ("autoencoder", "image.identity"): Try(sample=smooth()),
    ("autoencoder", "image.small"): Try({"base_channels": 8}, Sample(smooth(), {"is_trained": False})),
    ("autoencoder", "image.thumbnail"): Try(sample=smooth()),
    ("backbone", "core.flag_dit"): [
        Try(),
        Try({"position_ids": "time", "num_kv_heads": 1}),
        Try({"time_conditioned": False}),
    ],
    ("backbone", "core.next_dit"): [
        Try({"rope_axes_dim": (4, 2, 2)}),
        Try({"rope_axes_dim": (4, 4, 0), "num_kv_heads": 1, "pooled_embed": "add", "pooled_dim": 16}),
        Try({"rope_axes_dim": (4, 4, 0), "time_conditioned": False}),
    ],
    ("conditioner", "audio.clap_text"): clap_text,
    ("conditioner", "audio.dual_text"): dual_text,
    ("conditioner", "core.class_label"): Try({"num_classes": 5, "hidden_size": 16}, [0, 4, 1]),
    ("conditioner", "core.scalar"): [
        Try({"max": 10, "hidden_size": 16}, [0, 2.5, None, 10]),
        Try({"min": 20, "max": 8000, "scale": "log", "hidden_size": 16}, [20.0, 440.0]),
    ],
    ("conditioner", "core.text"): Try(SMALL_TEXT, CAPTIONS[:20]),
    ("conditioner", "core.transformers"): language_model,
    ("dataset", "audio.effects"): Try(sample=Sample("audio", {"fields": ("caption", "label")})),
    ("dataset", "audio.folder"): sound_folder,
    ("dataset", "audio.instruments"): Try(sample=Sample("audio", {"fields": ("caption", "label")})),
    ("dataset", "audio.table"): sound_table,
    ("dataset", "audio.tar"): sound_shards,
    ("dataset", "core.mixture"): mixture,
    ("dataset", "image.class_folder"): class_folder,
    ("dataset", "image.hf_datasets"): saved_data_set,
    ("dataset", "image.emoji"): Try({"image_size": 16}, Sample("image", {"fields": ("caption", "label")})),
    ("dataset", "image.folder"): picture_folder,
    ("dataset", "image.parquet"): parquet_shards,
    ("dataset", "image.tar"): tar_shards,
    ("rope_scaling", "core.watershed"): [Try(), Try({"isotropic": True, "train_size": 3})],
    ("feature_extractor", "audio.clap"): lambda folder: Try({"source": str(tiny_audio_models.clap(folder))}, tones()),
    ("feature_extractor", "audio.instrument_classifier"): [Try(sample=tones()), Try({"output": "classes"}, tones())],
    ("feature_extractor", "audio.efficientnet_lite0"): Try({"image_size": 32}, tones()),
    ("feature_extractor", "audio.log_mel"): Try(sample=tones()),
    ("feature_extractor", "audio.log_mel_frames"): Try({"num_segments": 3}, tones()),
    ("feature_extractor", "audio.panns"): panns_both_ways,
    ("feature_extractor", "audio.pitch"): Try(sample=tones()),
    ("feature_extractor", "audio.yin"): Try(sample=tones()),
    ("feature_extractor", "audio.vggish"): lambda folder: Try(
        {"weights": str(tiny_audio_models.vggish(folder / "vggish.pth"))}, tones()
    ),
    ("feature_extractor", "image.pixel_features"): Try(sample=smooth()),
    ("feature_extractor", "image.clip"): lambda folder: Try(
        {"source": str(tiny_image_encoders.clip(folder))}, smooth()
    ),
    ("feature_extractor", "image.efficientnet_lite0"): Try({"image_size": 32}, smooth()),
    ("feature_extractor", "image.inception"): lambda folder: Try(
        {"weights": str(tiny_image_encoders.inception(folder / "inception.pth"))}, smooth()
    ),
    ("autoencoder", "3d.scaled_coordinates"): Try(sample=clouds()),
    ("backbone", "3d.point_next_dit"): Try({"hidden_size": 16, "num_layers": 2, "num_heads": 2, "multiple_of": 8}),
    ("conditioner", "3d.partial_cloud"): Try(
        {"max_count": 4}, Sample([clouds()[0].T, clouds()[1, :, :3].T, None], {"data": clouds(3)})
    ),
    ("dataset", "3d.cloud_folder"): cloud_folder,
    ("dataset", "3d.family_clouds"): Try({"per_family": 2, "count": 16}, Sample("points", {"fields": ("caption",)})),
    ("feature_extractor", "3d.point_coordinates"): [
        Try({"count": 16}, clouds()),
        Try({"count": 8, "protocol": "pointflow"}, clouds()),
    ],
    ("feature_extractor", "3d.view_pixels"): Try(sample=torch.rand(2, 4, 3, 8, 8) * 2 - 1),
    ("metric", "3d.view_scores"): Try(sample=torch.rand(2, 4, 3, 8, 8) * 2 - 1),
    ("metric", "3d.point_sets"): Try({"feature_extractor": {"count": 16}, "distances": ("cd", "emd")}, clouds(6)),
    ("metric", "3d.point_density"): Try({"feature_extractor": {"count": 16}}, clouds()),
    ("metric", "3d.point_attributes"): Try(
        {"feature_extractor": {"count": 64}},
        Sample(clouds(2, 64), {"fields": [{"family": "mug", "attributes": {"handle": "yes"}}, {"family": None}]}),
    ),
    ("metric", "3d.point_class"): Try(
        {"feature_extractor": {"count": 16}}, Sample(clouds(), {"fields": [{"label": 0}, {"label": 1}]})
    ),
    ("task", "3d.class_to_points"): Try(sample={"label": "table", "count": 12}),
    ("task", "3d.text_to_points"): [
        Try(sample={"prompt": "a chair", "count": 12, "negative_prompt": "a table"}),
        Try(sample={"prompt": "a chair", "count": 12, "partial": clouds()[0].T[:4]}),
    ],
    ("autoencoder", "3d.per_view"): Try(sample=views()),
    ("conditioner", "3d.views"): Try(
        {"image_size": 16, "camera": {"type": "3d.plucker"}},
        Sample(view_inputs(), {"data": torch.rand(3, 256, 8) * 2 - 1}),
    ),
    ("dataset", "3d.family_views"): Try(
        {"per_family": 1, "families": ("mug", "chair"), "pictures_per_shape": 7},
        Sample("views", {"fields": ("caption",)}),
    ),
    ("dataset", "3d.stored_views"): stored_views,
    ("position_encoding", "3d.prope"): [Try({"axes_dim": (4, 2, 2)}), Try({"axes_dim": (0, 4, 4), "camera_dim": 4})],
    ("position_encoding", "3d.urope"): Try({"axes_dim": (4, 2, 2), "rows": 5, "columns": 1, "depths": (-0.1, 0.1)}),
    ("task", "3d.views"): Try(sample={"prompt": "a chair", "views": 2}),
    ("tokenizer", "3d.view_patchify"): Try(sample=torch.rand(2, 4, 3, 16, 8)),
    ("tokenizer", "3d.point_set"): [Try(sample=clouds()), Try({"num_anchors": 4}, clouds())],
    ("coupling", "core.optimal_transport"): [Try(), Try({"scope": "set"})],
    ("head", "core.classification"): Try({"num_classes": 5}),
    ("head", "core.velocity"): [Try(), Try({"shift": True, "learn_sigma": True})],
    ("checkpoint_format", "audio.lumina_music"): published_music,
    ("checkpoint_format", "image.alpha_vllm"): published_original,
    ("checkpoint_format", "image.diffusers"): Try(sample=TINY_PIPELINE),
    ("metric", "audio.class_kl"): Try(sample=tones()),
    ("metric", "audio.frechet"): Try({"feature_extractor": {"type": "audio.log_mel"}, "min_samples": 4}, tones()),
    ("metric", "audio.instrument_retrieval"): Try({"feature_extractor": {"type": "audio.log_mel"}}, tones()),
    ("metric", "audio.kernel"): Try({"feature_extractor": {"type": "audio.log_mel"}}, tones(6)),
    ("metric", "audio.pitch"): Try(sample=Sample(tones(), {"fields": [{"pitch": 57}, {"pitch": None}]})),
    ("metric", "audio.precision_recall"): Try({"feature_extractor": {"type": "audio.log_mel"}}, tones(6)),
    ("metric", "audio.clap_score"): clap_metric_of_sounds,
    ("metric", "audio.spectral_retrieval"): Try(sample=tones()),
    ("metric", "image.feature_retrieval"): Try({"feature_extractor": {"type": "image.pixel_features"}}, smooth()),
    ("metric", "image.frechet_distance"): Try(
        {"feature_extractor": {"type": "image.pixel_features"}, "min_samples": 4}, smooth()
    ),
    ("metric", "image.kernel_distance"): Try({"feature_extractor": {"type": "image.pixel_features"}}, smooth(count=6)),
    ("metric", "image.precision_recall"): Try({"feature_extractor": {"type": "image.pixel_features"}}, smooth(count=6)),
    ("metric", "image.retrieval"): Try(sample=smooth()),
    ("metric", "image.clip_score"): clip_metric,
    ("objective", "core.flow_matching"): [Try(), *(Try({"prediction": p}) for p in ("data", "noise", "score"))],
    ("solver", "core.adams"): Try(sample=2),
    ("solver", "core.euler"): Try(sample=1),
    ("solver", "core.heun"): Try(sample=2),
    ("solver", "core.heun3"): Try(sample=3),
    ("solver", "core.midpoint"): Try(sample=2),
    ("solver", "core.rk4"): Try(sample=4),
    ("solver", "core.rk4_38"): Try(sample=4),
    ("task", "audio.text_to_audio"): [
        Try(sample={"prompt": "a trumpet", "duration": 0.004, "negative_prompt": "a drum"}),
        Try({"sample_rate": 1000, "duration": 0.03}, {"prompt": "x"}),
    ],
    ("task", "image.class_to_image"): Try(sample={"label": 3, "size": (16, 8)}),
    ("task", "image.text_to_image"): [Try(sample=REQUEST), Try({"image_size": 8}, {"prompt": "x"})],
    ("task", "recog.classify"): [
        Try(sample={"image": smooth()[0]}),
        Try(sample={"image": smooth(side=7)[1], "top": 2}),
    ],
    ("tokenizer", "recog.patchify"): [Try({"patch_size": 4}, smooth()), Try({"patch_size": 8}, smooth())],
    ("autoencoder", "recog.identity"): Try(sample=smooth()),
    ("head", "recog.classification"): [
        Try({"num_classes": 5}),
        Try({"num_classes": 5, "pooling": "attention", "num_heads": 2}),
    ],
    ("dataset", "recog.emoji"): Try({"image_sizes": [[16, 24]]}, Sample("image", {"fields": ("label",)})),
    ("dataset", "recog.folder"): labelled_folder,
    ("dataset", "recog.tar"): labelled_tar,
    ("dataset", "recog.timm"): labelled_root,
    ("feature_extractor", "recog.features"): lambda folder: Try({"model": str(recog_model(folder))}, smooth()),
    ("checkpoint_format", "recog.timm"): recog_timm_folder,
    ("schedule", "core.fitted_schedule"): Try({"values": (0, 0.1, 0.3, 1)}),
    ("schedule", "core.custom_schedule"): Try({"values": (0, 0.25, 1)}),
    ("time_sampler", "core.shifted_uniform"): Try({"shift": 4}),
    ("time_sampler", "core.clamped"): [
        Try(),
        Try({"start": 0.2, "stop": 0.6, "time_sampler": {"type": "core.logit_normal"}}),
    ],
    ("tokenizer", "audio.patchify"): Try({"patch_size": 2, "channels": 4}, torch.randn(2, 4, 6)),
    ("tokenizer", "image.patchify"): [
        Try({"patch_size": 2}, torch.zeros(2, 4, 4, 6)),
        Try({"patch_size": 1}, torch.zeros(2, 1, 3, 2)),
    ],
    ("vocoder", "audio.bigvgan"): [
        Try({"n_mels": 6, "upsample_initial_channel": 8, "upsample_rates": (2, 2), "upsample_kernel_sizes": (4, 4)}),
        Try(
            {
                "n_mels": 6,
                "upsample_initial_channel": 8,
                "upsample_rates": (4,),
                "upsample_kernel_sizes": (8,),
                "resblock": "2",
                "log_base": "decimal",
            }
        ),
    ],
}
