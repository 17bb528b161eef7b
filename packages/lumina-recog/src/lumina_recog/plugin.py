"""Registration of the components of lumina-recog. `lumina --help` imports it: keep it light."""

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
    """Register components for recognition."""
    components.tokenizer("recog.patchify", "lumina_recog.patchify:Patchify", "patches of images of any size")
    components.autoencoder("recog.identity", "lumina_core.tokenizers:IdentityAutoencoder", "none: the image itself")
    components.head("recog.classification", "lumina_recog.heads:ClassificationHead", "pooling and a linear classifier")
    components.objective(
        "recog.classification",
        "lumina_recog.objective:ClassificationObjective",
        "cross-entropy with mixup, CutMix, position jitter and distillation",
    )
    package = "lumina_recog.datasets"
    components.dataset("recog.emoji", f"{package}.emoji:EmojiDataset", "built in: emoji in two drawing styles")
    components.dataset("recog.folder", f"{package}.image_dataset:FolderDataset", "folder of images per class")
    components.dataset("recog.tar", f"{package}.image_dataset:TarDataset", "tar files of WebDataset with class indices")
    components.dataset("recog.timm", f"{package}.image_dataset:TimmDataset", "timm's readers: folder, tar, datasets")
    components.feature_extractor(
        "recog.features", "lumina_recog.features:ClassifierFeatures", "features of a classifier of this package"
    )
    components.checkpoint_format("recog.timm", "lumina_recog.formats.timm_folder:TimmFormat", "timm's local-dir")
    components.task("recog.classify", "lumina_recog.task:Classify", "Class of an image of any size.")


@hookimpl
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
    """Register the recipes of the package."""
    for name, summary in (
        ("emoji", "the built-in model: groups and subgroups of emoji at any size"),
        ("emoji_tiny", "Next-DiT tiny on emoji from scratch, for a GPU"),
        ("emoji_style", "the same of Noto alone, to measure a new style and new concepts"),
        ("emoji_tune", "any-resolution tuning of an emoji model"),
        ("mnist", "digits of a class folder, 28 px"),
        ("imagenet_300", "the paper's recipe: Next-DiT base, 300 epochs at 224 px"),
        ("imagenet_100", "the paper's recipe in 100 epochs"),
        ("imagenet_deit3", "a recipe after DeiT III: 400 epochs, 3-Augment, binary cross-entropy"),
        ("imagenet_any_resolution", "the paper's tuning: 30 epochs of random sizes and shapes"),
    ):
        recipes.add(f"recog.{name}", f"lumina_recog:recipes/{name}.yaml", summary)


@hookimpl
def lumina_register_models(models: ModelRegistrations) -> None:
    """Register the models of the package."""
    models.add(
        "recog.emoji",
        "lumina_recog:models/emoji",
        "groups and subgroups of emoji, 24 to 512 px",
        task="recog.classify",
    )


@hookimpl
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """Register further commands."""
    commands.add("classify", "lumina_recog.cli:classify", "Name what images show.")
