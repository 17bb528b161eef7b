"""What lumina-image brings. Imported at every start: keep it light."""

from __future__ import annotations

from typing import Any

from lumina_core import hookimpl


@hookimpl
def lumina_register_parts(parts: Any) -> None:
    """The parts for pictures."""
    parts.tokenizer("image.patches", "lumina_image.patches:Patches", "square patches, row by row")
    parts.autoencoder("image.pixels", "lumina_image.autoencoder:Pixels", "no latent: the pixels themselves")
    parts.autoencoder("image.small", "lumina_image.autoencoder:SmallAutoencoder", "a small convolutional one to train")
    parts.dataset("image.emoji", "lumina_image.emoji:EmojiDataset", "built in: Noto emoji, named in 18 languages")
    parts.dataset("image.folder", "lumina_image.folder:FolderDataset", "a folder of pictures with captions")
