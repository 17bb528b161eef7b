"""What lumina-image brings. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.offers import Commands, Models, Parts, Recipes


@hookimpl
def lumina_register_parts(parts: Parts) -> None:
    """The parts for pictures."""
    parts.tokenizer("image.patches", "lumina_image.patches:Patches", "square patches, row by row")
    parts.autoencoder("image.pixels", "lumina_image.autoencoder:Pixels", "no latent: the pixels themselves")
    parts.autoencoder("image.small", "lumina_image.autoencoder:SmallAutoencoder", "a small convolutional one to train")
    parts.autoencoder("image.kl", "lumina_image.kl:KLAutoencoder", "published VAEs: AutoencoderKL of diffusers")
    parts.autoencoder("image.thumbnail", "lumina_image.thumbnail:Thumbnail", "averaged squares: the coarse look alone")
    parts.dataset(
        "image.classes", "lumina_image.datasets.folder:ClassFolderDataset", "a folder of pictures for each class"
    )
    parts.dataset(
        "image.datasets", "lumina_image.datasets.hub:HubDataset", "data sets of the library `datasets`, and its hub"
    )
    parts.dataset("image.emoji", "lumina_image.emoji:EmojiDataset", "built in: Noto emoji, named in 18 languages")
    parts.dataset("image.folder", "lumina_image.datasets.folder:FolderDataset", "a folder of pictures with captions")
    parts.dataset(
        "image.parquet", "lumina_image.datasets.parquet_shards:ParquetDataset", "Parquet files with pictures in them"
    )
    parts.dataset("image.tar", "lumina_image.datasets.tar_shards:TarDataset", "tar files as WebDataset packs them")
    parts.features("image.coarse", "lumina_image.metrics.looks:Coarse", "16x16 averages of the pixels, no network")
    parts.features("image.efficientnet_lite0", "lumina_image.metrics.networks:EfficientNetLite0", "a network, offline")
    parts.features("image.inception", "lumina_image.metrics.networks:Inception", "the network of FID")
    parts.features("image.clip", "lumina_image.metrics.clip:Clip", "pictures and texts in one space, from a folder")
    parts.metric("image.retrieval", "lumina_image.metrics.retrieval:Retrieval", "is the right one the nearest real one")
    parts.metric("image.feature_retrieval", "lumina_image.metrics.retrieval:FeatureRetrieval", "the same by a network")
    parts.metric("image.frechet", "lumina_image.metrics.sets:Frechet", "Frechet distance of features (FD, or FID)")
    parts.metric("image.kernel", "lumina_image.metrics.sets:Kernel", "kernel distance of features (KD, or KID)")
    parts.metric("image.precision_recall", "lumina_image.metrics.sets:PrecisionRecall", "k-nearest-neighbour manifolds")
    parts.metric("image.similarity", "lumina_image.metrics.clip:Similarity", "picture and caption by CLIP")
    parts.layout(
        "image.alpha_vllm", "lumina_image.published.original:OriginalFolder", "consolidated*.pth or .safetensors"
    )
    parts.layout(
        "image.diffusers", "lumina_image.published.diffusers:DiffusersFolder", "a folder of diffusers' Lumina-Next"
    )
    parts.task("image.text_to_image", "lumina_image.task:TextToImage", "A picture from a sentence.", command="image")
    parts.task("image.class_to_image", "lumina_image.task:ClassToImage", "A picture of a class.", command="class")


@hookimpl
def lumina_register_recipes(recipes: Recipes) -> None:
    """Trainable as they are, with what the package ships."""
    recipes.add("image.emoji", "lumina_image:recipes/emoji.yaml", "the built-in model: pictures from words")
    recipes.add(
        "image.emoji_words", "lumina_image:recipes/emoji_words.yaml", "its first half: what words look like, coarsely"
    )
    recipes.add("image.emoji_latents", "lumina_image:recipes/emoji_latents.yaml", "an autoencoder for the emoji, alone")
    recipes.add("image.tiny", "lumina_image:recipes/tiny.yaml", "a very small model that trains in a minute on a CPU")
    recipes.add(
        "image.600m_imagenet", "lumina_image:recipes/600m_imagenet.yaml", "the paper's 600M size, one of 1000 classes"
    )
    recipes.add("image.2b", "lumina_image:recipes/2b.yaml", "the paper's 2B size, as many key as query heads")
    recipes.add("image.2b_gqa", "lumina_image:recipes/2b_gqa.yaml", "the paper's 2B size as released, shared key heads")
    recipes.add("image.3b", "lumina_image:recipes/3b.yaml", "the paper's 3B size")
    recipes.add("image.7b", "lumina_image:recipes/7b.yaml", "the paper's 7B size")


@hookimpl
def lumina_register_models(models: Models) -> None:
    """Trained here, shipped in the package."""
    models.add(
        "image.emoji",
        "lumina_image:models/emoji",
        "emoji from words in 18 languages, 64 px",
        task="image.text_to_image",
        usual=True,
    )


@hookimpl
def lumina_register_commands(commands: Commands) -> None:
    """What one asks before a training with pictures of many shapes."""
    commands.add(
        "buckets", "lumina_image.datasets.buckets_command:buckets", "Show what sizes a recipe's pictures are cut to."
    )
