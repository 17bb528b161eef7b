"""Sounds in tar files, as WebDataset packs them: a.flac beside a.txt or a.json."""

from __future__ import annotations

from pydantic import Field

from lumina_audio.audio_io import AUDIO_SUFFIXES
from lumina_audio.datasets.audio_dataset import AudioCropConfig, AudioDataset
from lumina_core.data.source import Shards
from lumina_core.data.tar import TarSource


class TarDataset(AudioDataset):
    """WebDataset shards, uncompressed, read in any order: the offset of every sound is found once and kept."""

    class Config(AudioCropConfig):
        """Which tar files, and how their sounds are cut."""

        folder: str = Field(min_length=1, description="the folder that holds the shards")
        shards: str = Field("**/*.tar", description="which files in it are shards")
        index: str | None = Field(
            None, description="folder for the index of what the shards hold; none: `.lumina-index` beside them"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, "audio.tar")
        source = TarSource(shards, AUDIO_SUFFIXES, config.caption_weights)
        super().__init__("audio.tar", config, source, shards.index_dir(config.index))
