"""Images in data sets of the library `datasets`: a folder, a saved data set, or a name on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lumina_core.config import suggest_or_list
from lumina_core.data.captions import Captions
from lumina_core.data.source import INDEX_DIR, FileOrBytes, Item, ItemRef, SkippedItem, Source
from lumina_core.errors import ConfigError, PluginError, UnusableError, install_command
from lumina_core.io import user_path
from lumina_image.datasets.image_dataset import CropConfig, ImageDataset
from lumina_image.datasets.row_parsing import ColumnConfig, RowParser
from lumina_image.image_io import ImageError

COMPONENT = "image.hf_datasets"


class HuggingFaceDataset(ImageDataset):
    """Data set of the library `datasets`, memory-mapped and read in any order.

    Its streaming is not used: a position in a stream cannot be restored exactly when training resumes.
    """

    class Config(CropConfig, ColumnConfig):
        """Data set, columns and cropping."""

        source: str = Field(
            min_length=1, description="folder written by `save_to_disk`, folder of files, or name on the hub"
        )
        subset: str | None = Field(None, description="configuration of the data set, if it has several")
        split: str = Field("train", min_length=1, description="split of the data set")
        index_dir: str | None = Field(
            None, description="folder of the index; null: `.lumina-index` in the folder of the library's files"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        source = HuggingFaceSource(config)
        index_dir = user_path(config.index_dir) if config.index_dir else source.index_dir()
        super().__init__(COMPONENT, config, source, index_dir)

    def class_names(self, field: str) -> Sequence[str]:
        """Return the names of a class column."""
        source = self._source
        return source.names_of(field) if isinstance(source, HuggingFaceSource) else ()


class HuggingFaceSource(Source):
    """Rows of a data set; references are (row,)."""

    advice = "Choose another split or data set"

    def __init__(self, config: HuggingFaceDataset.Config) -> None:
        self.title, self._config = f"{config.source} ({config.split})", config
        library = _import_datasets()
        self._data = _load_dataset(library, config)
        self._parser = RowParser(config, self._data.column_names, COMPONENT, config.source)
        self._class_names: dict[str, Sequence[str]] = {}
        for column, feature in self._data.features.items():
            if isinstance(feature, library.Image) and column == self._parser.image_column:
                self._data = self._data.cast_column(column, library.Image(decode=False))
            if isinstance(feature, library.ClassLabel):
                self._class_names[column] = feature.names
        self._text_data = self._data.select_columns(list(self._parser.text_columns))

    def count(self) -> int:
        """Return the number of rows."""
        return len(self._data)

    def scan(self) -> Iterator[Item | SkippedItem]:
        """Iterate over the rows."""
        for index in range(len(self._data)):
            try:
                self.captions((index,))
                yield Item(f"row {index}", (index,), self.fetch((index,)))
            except UnusableError as error:
                yield SkippedItem(f"row {index}", str(error))

    def fetch(self, ref: ItemRef) -> FileOrBytes:
        """Return the bytes or the file of an image; the library determines the paths."""
        return self._parser.image_source(_read_row(self._data, ref[0]), None)

    def captions(self, ref: ItemRef) -> Captions:
        """Return the captions of a row; a class index is replaced by the name of the class."""
        row = dict(_read_row(self._text_data, ref[0]))
        for column in self._parser.caption_columns:
            if column in self._class_names and isinstance(row[column], int):
                row[column] = self._class_names[column][row[column]].replace("_", " ") if row[column] >= 0 else None
        return self._parser.caption_sources(row, self._config.caption_weights)

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """Return the further fields of a row."""
        return self._parser.extra_fields(_read_row(self._text_data, ref[0])) if self._config.extra_columns else {}

    def values(self, field: str) -> Sequence[Any] | None:
        """Return the values of a further column; of a class column the indices of all classes."""
        if field not in self._config.extra_columns:
            return None
        return range(len(self._class_names[field])) if field in self._class_names else list(self._data.unique(field))

    def names_of(self, field: str) -> Sequence[str]:
        """Return the names of the classes of a column; empty if it has none."""
        return self._class_names.get(field, ()) if field in self._config.extra_columns else ()

    def index_dir(self) -> Path | None:
        """Return the folder of the index with the library's files; None for a data set in memory."""
        files = self._data.cache_files
        return Path(files[0]["filename"]).parent / INDEX_DIR if files else None

    def settings(self) -> Mapping[str, Any]:
        """Return split, columns and caption weights; a row without weighted captions is skipped."""
        config = self._config
        return {
            "datasets": [config.source, config.subset, config.split],
            "columns": config.index_settings(),
            "weights": config.caption_weights,
        }

    def state(self) -> Any:
        """Return the number of rows, and the library's files with size and modification time."""
        files = [Path(file_info["filename"]) for file_info in self._data.cache_files]
        return [len(self._data), [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PluginError(f"{COMPONENT} needs datasets: {install_command('lumina-image[shards]')}") from error
    return datasets


def _load_dataset(library: Any, config: HuggingFaceDataset.Config) -> Any:
    folder = user_path(config.source)
    try:
        if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return _select_split(library.load_from_disk(str(folder)), config)
        return library.load_dataset(config.source, config.subset, split=config.split)
    except ConfigError:
        raise
    except Exception as error:  # errors of the library, its hub, Arrow and the files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(
            f"{COMPONENT}: source: got '{config.source}', expected a readable data set ({reason}). Use a folder of "
            "save_to_disk or of files, or download it: without network, or with HF_HUB_OFFLINE=1, the hub is not used."
        ) from error


def _select_split(loaded: Any, config: HuggingFaceDataset.Config) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    if config.split not in loaded:
        raise ConfigError(
            f"{COMPONENT}: split: got '{config.split}', expected a split of '{config.source}'"
            f"{suggest_or_list(config.split, loaded)}"
        )
    return loaded[config.split]


def _read_row(data: Any, index: int) -> Mapping[str, Any]:
    try:
        row: Mapping[str, Any] = data[index]
    except Exception as error:  # errors of Arrow, and of decoding other columns
        raise ImageError(f"cannot be read: {' '.join(str(error).split())[:120]}") from error
    return row
