"""Pictures in tar files, as WebDataset packs them: a.jpg beside a.txt or a.json."""

from __future__ import annotations

from pydantic import Field

from lumina_core.sources.shards import Shards
from lumina_core.sources.tar import TarSource
from lumina_image.datasets.picture_set import PictureSet
from lumina_image.datasets.shard_cutting import ShardCutting
from lumina_image.pictures import SUFFIXES


class TarDataset(PictureSet):
    """WebDataset shards, uncompressed, read in any order: the offset of every picture is found once and kept.

    Nothing is unpacked, so no name inside a shard is ever a path on this machine.
    """

    class Config(ShardCutting):
        """Which tar files."""

        shards: str = Field("**/*.tar", description="which files in it are shards")

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, "image.tar")
        source = TarSource(shards, config.shards, SUFFIXES, config.caption_weights)
        super().__init__("image.tar", config, source, shards.kept_in(config.index))
