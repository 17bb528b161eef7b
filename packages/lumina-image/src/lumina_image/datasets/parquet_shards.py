"""Pictures in Parquet files, as bytes or as paths beside them; read by row group, a few of which are held in memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lumina_core.errors import PluginError
from lumina_core.sources.captions import Captions
from lumina_core.sources.shards import Shards
from lumina_core.sources.source import Found, Held, Place, Skipped
from lumina_core.sources.unusable import UnusableError
from lumina_image.datasets.columns import Columns, ColumnSettings
from lumina_image.datasets.picture_set import PictureSet
from lumina_image.datasets.shard_cutting import ShardCutting
from lumina_image.pictures import PictureError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 64
"""Rows at a time while everything is looked through."""

PART = "image.parquet"


class ParquetDataset(PictureSet):
    """Parquet shards, read in an order that goes through a few row groups at a time (see `stretches`)."""

    class Config(ShardCutting, ColumnSettings):
        """Which files, and which of their columns."""

        shards: str = Field("**/*.parquet", description="which files in it are shards")
        held_bytes: int = Field(
            2**28, ge=0, description="row groups held in memory by each process that reads, in bytes"
        )

    def __init__(self, config: Config) -> None:
        self.config = config
        shards = Shards(config.folder, config.shards, PART)
        super().__init__(PART, config, ParquetSource(shards, config), shards.kept_in(config.index))


class ParquetSource:
    """Places are (shard, row group, row in it)."""

    together = 2
    advice = "Put .parquet files there with a column of pictures and one of captions"

    def __init__(self, shards: Shards, config: ParquetDataset.Config) -> None:
        self.title, self._shards, self._config = str(shards.root), shards, config
        self._broken: dict[int, str] = {}
        self._rows: dict[int, int] = {}
        present: dict[int, list[str]] = {}
        for shard in range(len(shards.names)):
            try:
                file = self._file(shard)
                present[shard], self._rows[shard] = file.schema_arrow.names, file.metadata.num_rows
            except _errors() as error:
                self._broken[shard] = _brief(error)
        self._columns = {shard: Columns(config, names, PART, shards.names[shard]) for shard, names in present.items()}
        self._held: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Without what is held: a worker process holds its own."""
        return {**self.__dict__, "_held": OrderedDict()}

    def count(self) -> int:
        """How many rows there are."""
        return sum(self._rows.values())

    def scan(self) -> Iterator[Found | Skipped]:
        """Row by row; a row group that cannot be read costs itself only."""
        yield from self._shards.skipped
        for shard, name in enumerate(self._shards.names):
            if shard in self._broken:
                yield Skipped(name, f"damaged or cut off: {self._broken[shard]}")
                continue
            file = self._file(shard)
            for group in range(file.num_row_groups):
                try:
                    yield from self._group(file, shard, group)
                except _errors() as error:
                    yield Skipped(f"{name} row group {group}", f"damaged: {_brief(error)}")

    def held(self, place: Place) -> Held:
        """Its bytes or its file."""
        columns = self._columns[place[0]]
        return columns.held(self._row(place, (columns.picture,)), self._shards.root)

    def captions(self, place: Place) -> Captions:
        """Those of its row."""
        columns = self._columns[place[0]]
        return columns.pools(self._row(place, columns.said), self._config.caption_weights)

    def more(self, place: Place) -> Mapping[str, Any]:
        """The further columns of its row."""
        fields = self._columns[place[0]].fields
        return self._row(place, fields) if fields else {}

    def values(self, field: str) -> Sequence[Any] | None:
        """Every value of a further column, in the order of their first rows."""
        if field not in self._config.fields:
            return None
        found: dict[Any, None] = {}
        for shard in self._columns:
            for batch in self._file(shard).iter_batches(columns=[field]):
                found |= dict.fromkeys(batch.column(0).to_pylist())
        return list(found)

    def home(self) -> Path:
        """The folder."""
        return self._shards.root

    def settings(self) -> Mapping[str, Any]:
        """The pattern, the columns, and the weights, which decide what is without a caption."""
        columns = [self._config.picture, *self._config.captions, "", *self._config.fields]
        return {"parquet": self._config.shards, "columns": columns, "weights": dict(self._config.caption_weights)}

    def state(self) -> Any:
        """That of the shards."""
        return self._shards.state()

    def _file(self, shard: int) -> pq.ParquetFile:
        return _pyarrow().ParquetFile(self._shards.path(shard))

    def _group(self, file: pq.ParquetFile, shard: int, group: int) -> Iterator[Found | Skipped]:
        columns = self._columns[shard]
        row = 0
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=list(columns.read), use_threads=False):
            for values in batch.to_pylist():
                name, place = f"{self._shards.names[shard]}:{group}:{row}", (shard, group, row)
                row += 1
                try:
                    columns.pools(values, self._config.caption_weights)
                    yield Found(name, place, columns.held(values, self._shards.root))
                except UnusableError as error:
                    yield Skipped(name, str(error))

    def _row(self, place: Place, columns: Sequence[str]) -> dict[str, Any]:
        shard, group, row = place
        try:
            found: dict[str, Any] = self._table(shard, group).select(list(columns)).slice(row, 1).to_pylist()[0]
        except _errors() as error:
            raise PictureError(f"cannot be read: {_brief(error)}") from error
        return found

    def _table(self, shard: int, group: int) -> pa.Table:
        """A row group, held as long as there is room; the one used longest ago goes first."""
        if self._process != os.getpid():  # what was held before a fork is not shared for long, and would count twice
            self._held, self._process = OrderedDict(), os.getpid()
        if (shard, group) not in self._held:
            columns = list(self._columns[shard].read)
            self._held[shard, group] = self._file(shard).read_row_group(group, columns=columns, use_threads=False)
        self._held.move_to_end((shard, group))
        while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > self._config.held_bytes:
            self._held.popitem(last=False)
        return self._held[shard, group]


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as module
    except ImportError as error:
        raise PluginError(f"{PART} needs pyarrow; install it with: pip install 'lumina-image[shards]'") from error
    return module


def _errors() -> tuple[type[Exception], ...]:
    _pyarrow()
    from pyarrow import ArrowException

    # a damaged file makes Arrow stumble in its own words and in Python's
    return (ArrowException, OSError, ValueError, LookupError, TypeError)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
