"""Registration of the components of lumina-image. `lumina --help` imports it: keep it light."""

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
    """Register components for images."""
    components.tokenizer("image.patchify", "lumina_core.tokenizers:Patchify2D", "square patches, row by row")
    package = "lumina_image.autoencoders"
    identity = "lumina_core.tokenizers:IdentityAutoencoder"
    components.autoencoder("image.identity", identity, "none: the latent is the image")
    components.autoencoder("image.thumbnail", f"{package}.pixel:ThumbnailAutoencoder", "averaged blocks of pixels")
    components.autoencoder("image.small", f"{package}.small:SmallAutoencoder", "small and convolutional, to train")
    components.autoencoder("image.kl", f"{package}.kl:KLAutoencoder", "published VAEs: AutoencoderKL of diffusers")
    package = "lumina_image.datasets"
    components.dataset("image.emoji", f"{package}.emoji:EmojiDataset", "built in: Noto emoji, named in 18 languages")
    components.dataset("image.folder", f"{package}.image_dataset:FolderDataset", "folder of images with captions")
    components.dataset(
        "image.class_folder", f"{package}.image_dataset:ClassFolderDataset", "folder of images per class"
    )
    components.dataset("image.tar", f"{package}.image_dataset:TarDataset", "tar files of WebDataset")
    components.dataset("image.parquet", f"{package}.parquet_shards:ParquetDataset", "Parquet files with images")
    components.dataset(
        "image.hf_datasets",
        f"{package}.hf_datasets:HuggingFaceDataset",
        "data sets of the library `datasets` or its hub",
    )
    package = "lumina_image.metrics"
    components.feature_extractor(
        "image.pixel_features", f"{package}.features:PixelFeatures", "16x16 averages of pixels"
    )
    components.feature_extractor("image.inception", f"{package}.features:Inception", "Inception-v3, the network of FID")
    components.feature_extractor("image.clip", f"{package}.clip:ClipFeatures", "images and texts in one space")
    components.feature_extractor(
        "image.efficientnet_lite0", f"{package}.features:EfficientNetLite0", "ImageNet features, without download"
    )
    components.metric("image.retrieval", f"{package}.retrieval:Retrieval", "retrieval of the target by pixels")
    network = {"feature_extractor": {"type": "image.efficientnet_lite0"}}
    for name, target, summary in (
        ("feature_retrieval", f"{package}.retrieval:Retrieval", "retrieval of the target by a network"),
        ("frechet_distance", "lumina_core.metrics.distribution:FrechetDistance", "Frechet distance of features (FD)"),
        ("kernel_distance", "lumina_core.metrics.distribution:KernelDistance", "kernel distance of features (KD)"),
        ("precision_recall", "lumina_core.metrics.distribution:PrecisionRecall", "k-nearest-neighbor manifolds"),
    ):
        components.metric(f"image.{name}", target, summary, defaults=network)
    components.metric(
        "image.clip_score",
        "lumina_core.metrics.dual_encoder:TextSimilarity",
        "similarity of image and caption by CLIP",
        defaults={"feature_extractor": {"type": "image.clip"}},
    )
    package = "lumina_image.formats"
    components.checkpoint_format("image.alpha_vllm", f"{package}.alpha_vllm:AlphaVLLMFormat", "consolidated*.pth")
    components.checkpoint_format("image.diffusers", f"{package}.diffusers:DiffusersFormat", "diffusers' Lumina-Next")
    components.task("image.text_to_image", "lumina_image.task:TextToImage", "Images of a prompt.", command="image")
    components.task("image.class_to_image", "lumina_image.task:ClassToImage", "Images of a class.", command="class")


@hookimpl
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
    """Register the recipes of the package."""
    for name, summary in (
        ("emoji", "the built-in model: emoji of a prompt"),
        ("emoji_words", "pretraining of its text encoder on thumbnails"),
        ("emoji_latent", "the built-in model in a latent: emoji of a prompt, in two styles"),
        ("emoji_latent_autoencoder", "training of its autoencoder"),
        ("emoji_latent_words", "pretraining of its text encoder on latents"),
        ("tiny", "a very small model that trains in a minute on a CPU"),
        ("lora", "a LoRA of a style or subject, from a folder of images"),
        ("2b_lora", "a LoRA of the paper's text-to-image model, on one GPU"),
        ("classes", "a class-conditional model from a folder of images per class"),
        ("600m_imagenet", "the paper's 600M size, class-conditional"),
        ("2b", "the paper's 2B size, full attention"),
        ("2b_gqa", "the paper's 2B size as released, grouped queries"),
        ("2b_stages", "the paper's 2B size, trained on images of 256, 512, then 1024 pixels"),
        ("3b", "the paper's 3B size"),
        ("7b", "the paper's 7B size"),
    ):
        recipes.add(f"image.{name}", f"lumina_image:recipes/{name}.yaml", summary)


@hookimpl
def lumina_register_models(models: ModelRegistrations) -> None:
    """Register the models of the package."""
    models.add(
        "image.emoji_latent",
        "lumina_image:models/emoji_latent",
        "emoji of prompts in 18 languages, 64 px, drawn in a latent",
        task="image.text_to_image",
        default=True,
    )
    summary = "emoji of prompts in 18 languages, 64 px, drawn in pixels: an older model"
    models.add("image.emoji", "lumina_image:models/emoji", summary, task="image.text_to_image")


@hookimpl
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """Register further commands."""
    target = "lumina_image.datasets.buckets_command:buckets"
    commands.add("buckets", target, "Show the sizes to which the images of a recipe are cropped.")
