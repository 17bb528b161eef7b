"""A data set out of a folder of sounds with captions beside them."""

from __future__ import annotations

from pydantic import Field

from lumina_audio.audio_io import AUDIO_SUFFIXES
from lumina_audio.datasets.audio_dataset import AudioCropConfig, AudioDataset
from lumina_core.data.source import FolderSource, list_folder, require_dir

EMPTY_FOLDER_ADVICE = (
    "Put sounds there (wav, flac, ogg, mp3 ...), each with a .txt of the same name, or a captions.jsonl with lines "
    'like {"file": "a.wav", "caption": "a dog barks"}'
)


class FolderDataset(AudioDataset):
    """Sounds of one folder and what lies under it; any rates, mono and stereo side by side.

    Captions come from `captions.jsonl` ({"file": ..., "caption": one, a list, or texts by source}) where there is one,
    else from a `.txt` beside each sound (a caption a line), or a `.json` ({"caption": ...}).
    """

    class Config(AudioCropConfig):
        """Where the sounds are and how they are cut."""

        folder: str = Field(min_length=1, description="the folder, absolute or from where the command is run")

    def __init__(self, config: Config) -> None:
        self.config = config
        root = require_dir(config.folder, "audio.folder")
        items = list(list_folder(root, AUDIO_SUFFIXES, config.caption_weights))
        super().__init__("audio.folder", config, FolderSource(root, items, EMPTY_FOLDER_ADVICE))
