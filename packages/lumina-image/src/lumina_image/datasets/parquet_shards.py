"""Images in Parquet files, as bytes or relative paths, read by row group with a cache of row groups."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lumina_core.data.captions import Captions
from lumina_core.data.source import FileOrBytes, Item, ItemRef, Shards, SkippedItem, Source
from lumina_core.errors import PluginError, UnusableError, install_command
from lumina_image.datasets.image_dataset import ImageDataset, ShardConfig
from lumina_image.datasets.row_parsing import ColumnConfig, RowParser
from lumina_image.image_io import ImageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCAN_BATCH_SIZE = 64
"""Rows per batch of the scan."""

COMPONENT = "image.parquet"


class ParquetDataset(ImageDataset):
    """Images in Parquet files; the order of an epoch reads a few row groups at a time (see `Dataset.read_groups`)."""

    class Config(ShardConfig, ColumnConfig):
        """Parquet files, columns and cropping."""

        shards: str = Field("**/*.parquet", description="pattern of the Parquet files in the folder")
        row_group_cache_bytes: int = Field(
            2**28, ge=0, description="size in bytes of the cache of row groups of each reading process"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, COMPONENT)
        super().__init__(COMPONENT, config, ParquetSource(shards, config), shards.index_dir(config.index_dir))


class ParquetSource(Source):
    """Rows of Parquet files; references are (shard, row group, row in the group)."""

    group_dims = 2
    advice = "Put .parquet files there with a column of images and a column of captions"

    def __init__(self, shards: Shards, config: ParquetDataset.Config) -> None:
        self.title, self._shards, self._config = str(shards.root), shards, config
        self._damaged: dict[int, str] = {}
        self._row_counts: dict[int, int] = {}
        column_names: dict[int, list[str]] = {}
        for shard in range(len(shards.names)):
            try:
                file = self._open_shard(shard)
                column_names[shard], self._row_counts[shard] = file.schema_arrow.names, file.metadata.num_rows
            except _arrow_errors() as error:
                self._damaged[shard] = _error_text(error)
        self._parsers = {
            shard: RowParser(config, names, COMPONENT, shards.names[shard]) for shard, names in column_names.items()
        }
        self._row_group_cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the cache: each worker process has its own."""
        return {**self.__dict__, "_row_group_cache": OrderedDict()}

    def count(self) -> int:
        """Return the number of rows."""
        return sum(self._row_counts.values())

    def scan(self) -> Iterator[Item | SkippedItem]:
        """Iterate over the rows; unreadable files and row groups are skipped."""
        yield from self._shards.skipped
        for shard, name in enumerate(self._shards.names):
            if shard in self._damaged:
                yield SkippedItem(name, f"damaged or truncated: {self._damaged[shard]}")
                continue
            file = self._open_shard(shard)
            for group in range(file.num_row_groups):
                try:
                    yield from self._scan_row_group(file, shard, group)
                except _arrow_errors() as error:
                    yield SkippedItem(f"{name} row group {group}", f"damaged: {_error_text(error)}")

    def fetch(self, ref: ItemRef) -> FileOrBytes:
        """Return the bytes or the file of an image."""
        parser = self._parsers[ref[0]]
        return parser.image_source(self._read_row(ref, (parser.image_column,)), self._shards.root)

    def captions(self, ref: ItemRef) -> Captions:
        """Return the captions of a row."""
        parser = self._parsers[ref[0]]
        return parser.caption_sources(self._read_row(ref, parser.text_columns), self._config.caption_weights)

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """Return the further fields of a row."""
        fields = self._parsers[ref[0]].extra_columns
        return self._read_row(ref, fields) if fields else {}

    def values(self, field: str) -> Sequence[Any] | None:
        """Return the values of a further column without duplicates, in their order."""
        if field not in self._config.extra_columns:
            return None
        unique_values: dict[Any, None] = {}
        for shard in self._parsers:
            for batch in self._open_shard(shard).iter_batches(columns=[field]):
                unique_values |= dict.fromkeys(batch.column(0).to_pylist())
        return list(unique_values)

    def settings(self) -> Mapping[str, Any]:
        """Return pattern, columns and caption weights; a row without weighted captions is skipped."""
        config = self._config
        weights = dict(config.caption_weights)
        return {"parquet": config.shards, "columns": config.index_settings(), "weights": weights}

    def state(self) -> Any:
        """Return the state of the files."""
        return self._shards.state()

    def _open_shard(self, shard: int) -> pq.ParquetFile:
        return _import_pyarrow().ParquetFile(self._shards.path(shard))

    def _scan_row_group(self, file: pq.ParquetFile, shard: int, group: int) -> Iterator[Item | SkippedItem]:
        parser, columns = self._parsers[shard], list(self._parsers[shard].all_columns)
        batches = file.iter_batches(SCAN_BATCH_SIZE, row_groups=[group], columns=columns, use_threads=False)
        for row, values in enumerate(values for batch in batches for values in batch.to_pylist()):
            name = f"{self._shards.names[shard]}:{group}:{row}"
            try:
                parser.caption_sources(values, self._config.caption_weights)
                yield Item(name, (shard, group, row), parser.image_source(values, self._shards.root))
            except UnusableError as error:
                yield SkippedItem(name, str(error))

    def _read_row(self, ref: ItemRef, columns: Sequence[str]) -> dict[str, Any]:
        shard, group, row = ref
        try:
            table = self._load_row_group(shard, group).select(list(columns))
            values: dict[str, Any] = table.slice(row, 1).to_pylist()[0]
        except _arrow_errors() as error:
            raise ImageError(f"cannot be read: {_error_text(error)}") from error
        return values

    def _load_row_group(self, shard: int, group: int) -> pa.Table:
        """Read a row group through a cache that evicts the least recently used."""
        if self._pid != os.getpid():  # a fork: the cache of the parent process would count twice
            self._row_group_cache, self._pid = OrderedDict(), os.getpid()
        cache, key = self._row_group_cache, (shard, group)
        if key not in cache:
            columns = list(self._parsers[shard].all_columns)
            cache[key] = self._open_shard(shard).read_row_group(group, columns=columns, use_threads=False)
        cache.move_to_end(key)
        while len(cache) > 1 and sum(table.nbytes for table in cache.values()) > self._config.row_group_cache_bytes:
            cache.popitem(last=False)
        return cache[key]


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet as module
    except ImportError as error:
        raise PluginError(f"{COMPONENT} needs pyarrow: {install_command('lumina-image[shards]')}") from error
    return module


def _arrow_errors() -> tuple[type[Exception], ...]:
    _import_pyarrow()
    from pyarrow import ArrowException

    # Arrow raises its own and Python's errors for damaged files
    return (ArrowException, OSError, ValueError, LookupError, TypeError)


def _error_text(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
