"""What lumina-image brings. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.registry import (
        CommandRegistrations,
        ComponentRegistrations,
        ModelRegistrations,
        RecipeRegistrations,
    )


@hookimpl
def lumina_register_components(components: ComponentRegistrations) -> None:
    """The parts for pictures."""
    components.tokenizer("image.patchify", "lumina_image.patchify:Patchify", "square patches, row by row")
    components.autoencoder(
        "image.identity", "lumina_image.autoencoders.pixel:IdentityAutoencoder", "no latent: the pixels themselves"
    )
    components.autoencoder(
        "image.small", "lumina_image.autoencoders.small:SmallAutoencoder", "a small convolutional one to train"
    )
    components.autoencoder(
        "image.kl", "lumina_image.autoencoders.kl:KLAutoencoder", "published VAEs: AutoencoderKL of diffusers"
    )
    components.autoencoder(
        "image.thumbnail",
        "lumina_image.autoencoders.pixel:ThumbnailAutoencoder",
        "averaged squares: the coarse look alone",
    )
    components.dataset(
        "image.class_folder", "lumina_image.datasets.folder:ClassFolderDataset", "a folder of pictures for each class"
    )
    components.dataset(
        "image.hf_datasets",
        "lumina_image.datasets.hf_datasets:HuggingFaceDataset",
        "data sets of the library `datasets`, and its hub",
    )
    components.dataset(
        "image.emoji", "lumina_image.datasets.emoji:EmojiDataset", "built in: Noto emoji, named in 18 languages"
    )
    components.dataset(
        "image.folder", "lumina_image.datasets.folder:FolderDataset", "a folder of pictures with captions"
    )
    components.dataset(
        "image.parquet", "lumina_image.datasets.parquet_shards:ParquetDataset", "Parquet files with pictures in them"
    )
    components.dataset("image.tar", "lumina_image.datasets.tar_shards:TarDataset", "tar files as WebDataset packs them")
    components.feature_extractor(
        "image.pixel_features",
        "lumina_image.metrics.features:PixelFeatures",
        "16x16 averages of the pixels, no network",
    )
    components.feature_extractor(
        "image.efficientnet_lite0", "lumina_image.metrics.features:EfficientNetLite0", "a network, offline"
    )
    components.feature_extractor("image.inception", "lumina_image.metrics.features:Inception", "the network of FID")
    components.feature_extractor(
        "image.clip", "lumina_image.metrics.clip:ClipFeatures", "pictures and texts in one space, from a folder"
    )
    network = {"feature_extractor": {"type": "image.efficientnet_lite0"}}
    components.metric(
        "image.retrieval", "lumina_image.metrics.retrieval:Retrieval", "is the target the nearest real image, by pixels"
    )
    components.metric(
        "image.feature_retrieval", "lumina_image.metrics.retrieval:Retrieval", "the same by a network", defaults=network
    )
    distribution = "lumina_core.metrics.distribution"
    components.metric(
        "image.frechet_distance",
        f"{distribution}:FrechetDistance",
        "Frechet distance of features (FD)",
        defaults=network,
    )
    components.metric(
        "image.kernel_distance", f"{distribution}:KernelDistance", "kernel distance of features (KD)", defaults=network
    )
    components.metric(
        "image.precision_recall", f"{distribution}:PrecisionRecall", "k-nearest-neighbour manifolds", defaults=network
    )
    components.metric(
        "image.clip_score",
        "lumina_core.metrics.dual_encoder:TextSimilarity",
        "similarity of image and caption by CLIP",
        defaults={"feature_extractor": {"type": "image.clip"}},
    )
    components.checkpoint_format(
        "image.alpha_vllm", "lumina_image.formats.alpha_vllm:AlphaVLLMFormat", "consolidated*.pth or .safetensors"
    )
    components.checkpoint_format(
        "image.diffusers", "lumina_image.formats.diffusers:DiffusersFormat", "a folder of diffusers' Lumina-Next"
    )
    components.task(
        "image.text_to_image", "lumina_image.task:TextToImage", "A picture from a sentence.", command="image"
    )
    components.task("image.class_to_image", "lumina_image.task:ClassToImage", "A picture of a class.", command="class")


@hookimpl
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
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
def lumina_register_models(models: ModelRegistrations) -> None:
    """Trained here, shipped in the package."""
    models.add(
        "image.emoji",
        "lumina_image:models/emoji",
        "emoji from words in 18 languages, 64 px",
        task="image.text_to_image",
        default=True,
    )


@hookimpl
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """What one asks before a training with pictures of many shapes."""
    commands.add(
        "buckets", "lumina_image.datasets.buckets_command:buckets", "Show what sizes a recipe's pictures are cut to."
    )
