"""Pictures in data sets of the Hugging Face library `datasets`: a folder, a saved data set, or a name on its hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lumina_core.config import suggest_or_list
from lumina_core.data.captions import Captions
from lumina_core.data.source import INDEX_DIR, FileOrBytes, Item, ItemRef, SkippedItem, Source
from lumina_core.errors import ConfigError, PluginError, UnusableError
from lumina_image.datasets.image_dataset import CropConfig, ImageDataset
from lumina_image.datasets.row_parsing import ColumnConfig, RowParser
from lumina_image.image_io import ImageError

COMPONENT = "image.hf_datasets"


class HuggingFaceDataset(ImageDataset):
    """A data set of the library `datasets`, mapped from disk and read in any order.

    The library's own streaming is not used: its place in a stream cannot be found again bit for bit after a break.
    """

    class Config(CropConfig, ColumnConfig):
        """Which data set, and which of its columns."""

        source: str = Field(
            min_length=1, description="a folder that `save_to_disk` wrote, a folder of files, or a name on the hub"
        )
        subset: str | None = Field(None, description="configuration of the data set, where it has several")
        split: str = Field("train", min_length=1, description="which split")
        index_dir: str | None = Field(
            None, description="folder for the index of what was found; none: beside the library's own files"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        source = HuggingFaceSource(config)
        super().__init__(COMPONENT, config, source, Path(config.index_dir) if config.index_dir else source.index_dir())


class HuggingFaceSource(Source):
    """Places are (row,)."""

    advice = "Choose another split or data set"

    def __init__(self, config: HuggingFaceDataset.Config) -> None:
        self.title, self._config = f"{config.source} ({config.split})", config
        self._data = _load_dataset(config)
        self._parser = RowParser(config, self._data.column_names, COMPONENT, config.source)
        self._class_names: dict[str, Sequence[str]] = {}
        for column, feature in self._data.features.items():
            if hasattr(feature, "decode") and column == self._parser.image_column:
                self._data = self._data.cast_column(column, type(feature)(decode=False))
            if hasattr(feature, "int2str"):
                self._class_names[column] = feature.names
        self._text_data = self._data.select_columns(list(self._parser.text_columns))

    def count(self) -> int:
        """How many rows there are."""
        return len(self._data)

    def scan(self) -> Iterator[Item | SkippedItem]:
        """Row by row."""
        for index in range(len(self._data)):
            try:
                self.captions((index,))
                yield Item(f"row {index}", (index,), self.fetch((index,)))
            except UnusableError as error:
                yield SkippedItem(f"row {index}", str(error))

    def fetch(self, ref: ItemRef) -> FileOrBytes:
        """Its bytes or its file, which the library vouches for."""
        return self._parser.image_source(_read_row(self._data, ref[0]), None)

    def captions(self, ref: ItemRef) -> Captions:
        """Those of its row; the number of a class as its name."""
        row = dict(_read_row(self._text_data, ref[0]))
        for column in self._parser.caption_columns:
            if column in self._class_names and isinstance(row[column], int):
                row[column] = self._class_names[column][row[column]].replace("_", " ") if row[column] >= 0 else None
        return self._parser.caption_sources(row, self._config.caption_weights)

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """The further columns of its row."""
        return self._parser.extra_fields(_read_row(self._text_data, ref[0])) if self._config.extra_columns else {}

    def values(self, field: str) -> Sequence[Any] | None:
        """Every value of a further column; of a column of classes the numbers of all."""
        if field not in self._config.extra_columns:
            return None
        return range(len(self._class_names[field])) if field in self._class_names else list(self._data.unique(field))

    def index_dir(self) -> Path | None:
        """Beside the library's files; nowhere for one that is in memory."""
        files = self._data.cache_files
        return Path(files[0]["filename"]).parent / INDEX_DIR if files else None

    def settings(self) -> Mapping[str, Any]:
        """The split, the columns, and the weights, which decide what is without a caption."""
        config = self._config
        columns = [config.image_column, *config.caption_columns, "", *config.extra_columns]
        return {
            "datasets": [config.source, config.subset, config.split],
            "columns": columns,
            "weights": config.caption_weights,
        }

    def state(self) -> Any:
        """Rows, and the library's files with their times of change."""
        files = [Path(file_info["filename"]) for file_info in self._data.cache_files]
        return [len(self._data), [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]


def _load_dataset(config: HuggingFaceDataset.Config) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PluginError(f"{COMPONENT} needs datasets; install it with: pip install 'lumina-image[shards]'") from error
    folder = Path(config.source)
    try:
        if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return _select_split(datasets.load_from_disk(str(folder)), config)
        return datasets.load_dataset(config.source, config.subset, split=config.split)
    except ConfigError:
        raise
    except Exception as error:  # the library raises its own, those of its hub, of Arrow and of the files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(
            f"{COMPONENT}: '{config.source}' cannot be read ({reason}); give a folder that save_to_disk wrote or that "
            "holds files, or fetch it first: without a network, or with HF_HUB_OFFLINE=1, only what is here is found"
        ) from error


def _select_split(loaded: Any, config: HuggingFaceDataset.Config) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    if config.split not in loaded:
        raise ConfigError(
            f"{COMPONENT}: '{config.source}' has no split '{config.split}'{suggest_or_list(config.split, loaded)}"
        )
    return loaded[config.split]


def _read_row(data: Any, index: int) -> Mapping[str, Any]:
    try:
        row: Mapping[str, Any] = data[index]
    except Exception as error:  # Arrow's errors, and those of decoding a row's other columns
        raise ImageError(f"cannot be read: {' '.join(str(error).split())[:120]}") from error
    return row
