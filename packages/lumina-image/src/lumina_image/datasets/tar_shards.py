"""Pictures in tar files, as WebDataset packs them: a.jpg beside a.txt or a.json."""

from __future__ import annotations

from pydantic import Field

from lumina_core.data.source import Shards
from lumina_core.data.tar import TarSource
from lumina_image.datasets.image_dataset import ImageDataset, ShardConfig
from lumina_image.image_io import SUFFIXES


class TarDataset(ImageDataset):
    """WebDataset shards, uncompressed, read in any order: the offset of every picture is found once and kept.

    Nothing is unpacked, so no name inside a shard is ever a path on this machine.
    """

    class Config(ShardConfig):
        """Which tar files."""

        shards: str = Field("**/*.tar", description="which files in it are shards")

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, "image.tar")
        source = TarSource(shards, SUFFIXES, config.caption_weights)
        super().__init__("image.tar", config, source, shards.index_dir(config.index_dir))
