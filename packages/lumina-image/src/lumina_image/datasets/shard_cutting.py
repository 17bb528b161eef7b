"""What every data set of shards of pictures is asked."""

from __future__ import annotations

from pydantic import Field

from lumina_image.datasets.picture_set import Cutting


class ShardCutting(Cutting):
    """Where the shards are, and how their pictures are cut."""

    folder: str = Field(min_length=1, description="the folder that holds the shards")
    index: str | None = Field(
        None, description="folder for the index of what the shards hold; none: `.lumina-index` beside them"
    )
