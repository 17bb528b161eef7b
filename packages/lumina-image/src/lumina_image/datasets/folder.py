"""Data sets out of folders: pictures with captions beside them, or pictures in a folder for each class."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lumina_core.data.captions import Captions, CaptionSource
from lumina_core.data.source import FolderSource, list_classes, list_folder, require_dir
from lumina_core.errors import ConfigError
from lumina_image.datasets.image_dataset import CropConfig, ImageDataset
from lumina_image.image_io import SUFFIXES

FOLDER_ADVICE = (
    "Put pictures there (png, jpg, webp ...), each with a .txt of the same name, or a captions.jsonl with lines like "
    '{"file": "a.png", "caption": "a red fox"}'
)
CLASS_FOLDER_ADVICE = (
    "Put a folder for each class there, named as the class is called, with pictures (png, jpg, webp ...) in it"
)


class FolderDataset(ImageDataset):
    """Pictures of one folder and what lies under it.

    Captions come from `captions.jsonl` ({"file": ..., "caption": one, a list, or texts by source}) where there is one,
    else from a `.txt` beside each picture (a caption a line), or a `.json` ({"caption": ...}).
    """

    class Config(CropConfig):
        """Where the pictures are and how they are cut."""

        folder: str = Field(min_length=1, description="the folder, absolute or from where the command is run")

    def __init__(self, config: Config) -> None:
        self.config = config
        root = require_dir(config.folder, "image.folder")
        super().__init__(
            "image.folder",
            config,
            FolderSource(root, list(list_folder(root, SUFFIXES, config.caption_weights)), FOLDER_ADVICE),
        )


class ClassFolderDataset(ImageDataset):
    """A folder for each class, as torchvision's ImageFolder has it: its number is the label, its name a caption."""

    class Config(CropConfig):
        """Where the folders are, and how the classes are called."""

        folder: str = Field(min_length=1, description="the folder that holds a folder for each class")
        class_captions: dict[str, str | tuple[str, ...]] = Field(
            {},
            description="captions of a class by its folder's name: {n01440764: [tench, a fish]}; else the name itself",
        )
        template: str = Field("{}", description="how a caption is made of a class's name: `a photo of a {}`")

    def __init__(self, config: Config) -> None:
        self.config = config
        if "{}" not in config.template:
            raise ConfigError(f"image.class_folder: template '{config.template}' has no {{}} for the name of the class")
        root = require_dir(config.folder, "image.class_folder")
        self.classes = sorted(path.name for path in root.iterdir() if _is_class_folder(path))
        captions = {name: self._class_captions(name) for name in self.classes}
        source = FolderSource(
            root, list(list_classes(root, SUFFIXES, captions)), CLASS_FOLDER_ADVICE, len(self.classes)
        )
        super().__init__("image.class_folder", config, source)

    def _class_captions(self, name: str) -> Captions:
        configured = self.config.class_captions.get(name, name.replace("_", " "))
        texts = (configured,) if isinstance(configured, str) else configured or (name,)
        return (CaptionSource("", tuple(self.config.template.replace("{}", text) for text in texts)),)


def _is_class_folder(folder: Path) -> bool:
    # a link may lead anywhere, and what begins with a dot is no class
    return folder.is_dir() and not folder.is_symlink() and not folder.name.startswith(".")
