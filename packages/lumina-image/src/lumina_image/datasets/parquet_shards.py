"""Pictures in Parquet files, as bytes or as paths beside them; read by row group, a few of which are held in memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lumina_core.data.captions import Captions
from lumina_core.data.source import FileOrBytes, Item, ItemRef, Shards, SkippedItem, Source
from lumina_core.errors import PluginError, UnusableError
from lumina_image.datasets.image_dataset import ImageDataset, ShardConfig
from lumina_image.datasets.row_parsing import ColumnConfig, RowParser
from lumina_image.image_io import ImageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCAN_BATCH_SIZE = 64
"""Rows at a time while everything is looked through."""

COMPONENT = "image.parquet"


class ParquetDataset(ImageDataset):
    """Parquet shards, read in an order that goes through a few row groups at a time (see `stretches`)."""

    class Config(ShardConfig, ColumnConfig):
        """Which files, and which of their columns."""

        shards: str = Field("**/*.parquet", description="which files in it are shards")
        row_group_cache_bytes: int = Field(
            2**28, ge=0, description="row groups held in memory by each process that reads, in bytes"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, COMPONENT)
        super().__init__(COMPONENT, config, ParquetSource(shards, config), shards.index_dir(config.index_dir))


class ParquetSource(Source):
    """Places are (shard, row group, row in it)."""

    group_dims = 2
    advice = "Put .parquet files there with a column of pictures and one of captions"

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
        """Without what is held: a worker process holds its own."""
        return {**self.__dict__, "_row_group_cache": OrderedDict()}

    def count(self) -> int:
        """How many rows there are."""
        return sum(self._row_counts.values())

    def scan(self) -> Iterator[Item | SkippedItem]:
        """Row by row; a row group that cannot be read costs itself only."""
        yield from self._shards.skipped
        for shard, name in enumerate(self._shards.names):
            if shard in self._damaged:
                yield SkippedItem(name, f"damaged or cut off: {self._damaged[shard]}")
                continue
            file = self._open_shard(shard)
            for group in range(file.num_row_groups):
                try:
                    yield from self._scan_row_group(file, shard, group)
                except _arrow_errors() as error:
                    yield SkippedItem(f"{name} row group {group}", f"damaged: {_error_text(error)}")

    def fetch(self, ref: ItemRef) -> FileOrBytes:
        """Its bytes or its file."""
        parser = self._parsers[ref[0]]
        return parser.image_source(self._read_row(ref, (parser.image_column,)), self._shards.root)

    def captions(self, ref: ItemRef) -> Captions:
        """Those of its row."""
        parser = self._parsers[ref[0]]
        return parser.caption_sources(self._read_row(ref, parser.text_columns), self._config.caption_weights)

    def extra_fields(self, ref: ItemRef) -> Mapping[str, Any]:
        """The further columns of its row."""
        fields = self._parsers[ref[0]].extra_columns
        return self._read_row(ref, fields) if fields else {}

    def values(self, field: str) -> Sequence[Any] | None:
        """Every value of a further column, in the order of their first rows."""
        if field not in self._config.extra_columns:
            return None
        unique_values: dict[Any, None] = {}
        for shard in self._parsers:
            for batch in self._open_shard(shard).iter_batches(columns=[field]):
                unique_values |= dict.fromkeys(batch.column(0).to_pylist())
        return list(unique_values)

    def settings(self) -> Mapping[str, Any]:
        """The pattern, the columns, and the weights, which decide what is without a caption."""
        columns = [self._config.image_column, *self._config.caption_columns, "", *self._config.extra_columns]
        return {"parquet": self._config.shards, "columns": columns, "weights": dict(self._config.caption_weights)}

    def state(self) -> Any:
        """That of the shards."""
        return self._shards.state()

    def _open_shard(self, shard: int) -> pq.ParquetFile:
        return _import_pyarrow().ParquetFile(self._shards.path(shard))

    def _scan_row_group(self, file: pq.ParquetFile, shard: int, group: int) -> Iterator[Item | SkippedItem]:
        parser = self._parsers[shard]
        row = 0
        for batch in file.iter_batches(
            SCAN_BATCH_SIZE, row_groups=[group], columns=list(parser.all_columns), use_threads=False
        ):
            for values in batch.to_pylist():
                name, ref = f"{self._shards.names[shard]}:{group}:{row}", (shard, group, row)
                row += 1
                try:
                    parser.caption_sources(values, self._config.caption_weights)
                    yield Item(name, ref, parser.image_source(values, self._shards.root))
                except UnusableError as error:
                    yield SkippedItem(name, str(error))

    def _read_row(self, ref: ItemRef, columns: Sequence[str]) -> dict[str, Any]:
        shard, group, row = ref
        try:
            values: dict[str, Any] = (
                self._load_row_group(shard, group).select(list(columns)).slice(row, 1).to_pylist()[0]
            )
        except _arrow_errors() as error:
            raise ImageError(f"cannot be read: {_error_text(error)}") from error
        return values

    def _load_row_group(self, shard: int, group: int) -> pa.Table:
        """A row group, held as long as there is room; the one used longest ago goes first."""
        if self._pid != os.getpid():  # what was held before a fork is not shared for long, and would count twice
            self._row_group_cache, self._pid = OrderedDict(), os.getpid()
        if (shard, group) not in self._row_group_cache:
            columns = list(self._parsers[shard].all_columns)
            self._row_group_cache[shard, group] = self._open_shard(shard).read_row_group(
                group, columns=columns, use_threads=False
            )
        self._row_group_cache.move_to_end((shard, group))
        while (
            len(self._row_group_cache) > 1
            and sum(table.nbytes for table in self._row_group_cache.values()) > self._config.row_group_cache_bytes
        ):
            self._row_group_cache.popitem(last=False)
        return self._row_group_cache[shard, group]


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet as module
    except ImportError as error:
        raise PluginError(f"{COMPONENT} needs pyarrow; install it with: pip install 'lumina-image[shards]'") from error
    return module


def _arrow_errors() -> tuple[type[Exception], ...]:
    _import_pyarrow()
    from pyarrow import ArrowException

    # a damaged file makes Arrow stumble in its own words and in Python's
    return (ArrowException, OSError, ValueError, LookupError, TypeError)


def _error_text(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
