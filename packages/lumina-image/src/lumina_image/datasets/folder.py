"""Data sets out of folders: pictures with captions beside them, or pictures in a folder for each class."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lumina_core.errors import ConfigError
from lumina_core.sources.captions import Captions, Pool
from lumina_core.sources.listing import Listed, existing, list_classes, list_folder
from lumina_image.datasets.picture_set import Cutting, PictureSet
from lumina_image.pictures import SUFFIXES

BESIDE = (
    "Put pictures there (png, jpg, webp ...), each with a .txt of the same name, or a captions.jsonl with lines like "
    '{"file": "a.png", "caption": "a red fox"}'
)
CLASSES = "Put a folder for each class there, named as the class is called, with pictures (png, jpg, webp ...) in it"


class FolderDataset(PictureSet):
    """Pictures of one folder and what lies under it.

    Captions come from `captions.jsonl` ({"file": ..., "caption": one, a list, or texts by source}) where there is one,
    else from a `.txt` beside each picture (a caption a line), or a `.json` ({"caption": ...}).
    """

    class Config(Cutting):
        """Where the pictures are and how they are cut."""

        folder: str = Field(min_length=1, description="the folder, absolute or from where the command is run")

    def __init__(self, config: Config) -> None:
        self.config = config
        root = existing(config.folder, "image.folder")
        super().__init__(
            "image.folder", config, Listed(root, list(list_folder(root, SUFFIXES, config.caption_weights)), BESIDE)
        )


class ClassFolderDataset(PictureSet):
    """A folder for each class, as torchvision's ImageFolder has it: its number is the label, its name a caption."""

    class Config(Cutting):
        """Where the folders are, and how the classes are called."""

        folder: str = Field(min_length=1, description="the folder that holds a folder for each class")
        names: dict[str, str | tuple[str, ...]] = Field(
            {},
            description="captions of a class by its folder's name: {n01440764: [tench, a fish]}; else the name itself",
        )
        template: str = Field("{}", description="how a caption is made of a class's name: `a photo of a {}`")

    def __init__(self, config: Config) -> None:
        self.config = config
        if "{}" not in config.template:
            raise ConfigError(f"image.classes: template '{config.template}' has no {{}} for the name of the class")
        root = existing(config.folder, "image.classes")
        self.classes = sorted(one.name for one in root.iterdir() if _is_class(one))
        said = {name: self._captions(name) for name in self.classes}
        listed = Listed(root, list(list_classes(root, SUFFIXES, said)), CLASSES, len(self.classes))
        super().__init__("image.classes", config, listed)

    def _captions(self, name: str) -> Captions:
        given = self.config.names.get(name, name.replace("_", " "))
        texts = (given,) if isinstance(given, str) else given or (name,)
        return (Pool("", tuple(self.config.template.replace("{}", text) for text in texts)),)


def _is_class(folder: Path) -> bool:
    # a link may lead anywhere, and what begins with a dot is no class
    return folder.is_dir() and not folder.is_symlink() and not folder.name.startswith(".")
