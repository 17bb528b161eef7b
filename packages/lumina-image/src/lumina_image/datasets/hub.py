"""Pictures in data sets of the Hugging Face library `datasets`: a folder, a saved data set, or a name on its hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lumina_core.config import nearest
from lumina_core.errors import ConfigError, PluginError
from lumina_core.sources.captions import Captions
from lumina_core.sources.shards import INDEX
from lumina_core.sources.source import Found, Held, Place, Skipped
from lumina_core.sources.unusable import UnusableError
from lumina_image.datasets.columns import Columns, ColumnSettings
from lumina_image.datasets.picture_set import Cutting, PictureSet
from lumina_image.pictures import PictureError

PART = "image.datasets"


class HubDataset(PictureSet):
    """A data set of the library `datasets`, mapped from disk and read in any order.

    The library's own streaming is not used: its place in a stream cannot be found again bit for bit after a break.
    """

    class Config(Cutting, ColumnSettings):
        """Which data set, and which of its columns."""

        source: str = Field(
            min_length=1, description="a folder that `save_to_disk` wrote, a folder of files, or a name on the hub"
        )
        subset: str | None = Field(None, description="configuration of the data set, where it has several")
        split: str = Field("train", min_length=1, description="which split")
        index: str | None = Field(
            None, description="folder for the index of what was found; none: beside the library's own files"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        source = HubSource(config)
        super().__init__(PART, config, source, Path(config.index) if config.index else source.home())


class HubSource:
    """Places are (row,)."""

    together = 0
    advice = "Choose another split or data set"

    def __init__(self, config: HubDataset.Config) -> None:
        self.title, self._config = f"{config.source} ({config.split})", config
        self._data = _loaded(config)
        self._columns = Columns(config, self._data.column_names, PART, config.source)
        self._names: dict[str, Sequence[str]] = {}
        for column, feature in self._data.features.items():
            if hasattr(feature, "decode") and column == self._columns.picture:
                self._data = self._data.cast_column(column, type(feature)(decode=False))
            if hasattr(feature, "int2str"):
                self._names[column] = feature.names
        self._said = self._data.select_columns(list(self._columns.said))

    def count(self) -> int:
        """How many rows there are."""
        return len(self._data)

    def scan(self) -> Iterator[Found | Skipped]:
        """Row by row."""
        for number in range(len(self._data)):
            try:
                self.captions((number,))
                yield Found(f"row {number}", (number,), self.held((number,)))
            except UnusableError as error:
                yield Skipped(f"row {number}", str(error))

    def held(self, place: Place) -> Held:
        """Its bytes or its file, which the library vouches for."""
        return self._columns.held(_row(self._data, place[0]), None)

    def captions(self, place: Place) -> Captions:
        """Those of its row; the number of a class as its name."""
        row = dict(_row(self._said, place[0]))
        for column in self._columns.captions:
            if column in self._names and isinstance(row[column], int):
                row[column] = self._names[column][row[column]].replace("_", " ") if row[column] >= 0 else None
        return self._columns.pools(row, self._config.caption_weights)

    def more(self, place: Place) -> Mapping[str, Any]:
        """The further columns of its row."""
        return self._columns.more(_row(self._said, place[0])) if self._config.fields else {}

    def values(self, field: str) -> Sequence[Any] | None:
        """Every value of a further column; of a column of classes the numbers of all."""
        if field not in self._config.fields:
            return None
        return range(len(self._names[field])) if field in self._names else list(self._data.unique(field))

    def home(self) -> Path | None:
        """Beside the library's files; nowhere for one that is in memory."""
        files = self._data.cache_files
        return Path(files[0]["filename"]).parent / INDEX if files else None

    def settings(self) -> Mapping[str, Any]:
        """The split, the columns, and the weights, which decide what is without a caption."""
        asked = self._config
        columns = [asked.picture, *asked.captions, "", *asked.fields]
        return {
            "datasets": [asked.source, asked.subset, asked.split],
            "columns": columns,
            "weights": asked.caption_weights,
        }

    def state(self) -> Any:
        """Rows, and the library's files with their times of change."""
        files = [Path(one["filename"]) for one in self._data.cache_files]
        return [len(self._data), [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]


def _loaded(config: HubDataset.Config) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PluginError(f"{PART} needs datasets; install it with: pip install 'lumina-image[shards]'") from error
    folder = Path(config.source)
    try:
        if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return _split(datasets.load_from_disk(str(folder)), config)
        return datasets.load_dataset(config.source, config.subset, split=config.split)
    except ConfigError:
        raise
    except Exception as error:  # the library raises its own, those of its hub, of Arrow and of the files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(
            f"{PART}: '{config.source}' cannot be read ({reason}); give a folder that save_to_disk wrote or that "
            "holds files, or fetch it first: without a network, or with HF_HUB_OFFLINE=1, only what is here is found"
        ) from error


def _split(found: Any, config: HubDataset.Config) -> Any:
    if not isinstance(found, dict):
        return found
    if config.split not in found:
        raise ConfigError(f"{PART}: '{config.source}' has no split '{config.split}'{nearest(config.split, found)}")
    return found[config.split]


def _row(data: Any, number: int) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = data[number]
    except Exception as error:  # Arrow's errors, and those of decoding a row's other columns
        raise PictureError(f"cannot be read: {' '.join(str(error).split())[:120]}") from error
    return found
