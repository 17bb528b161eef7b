"""Task views."""

from __future__ import annotations

from pydantic import Field

from lumina_3d.views.request import ViewsRequest
from lumina_core.config import Config as Settings
from lumina_core.protocols import GenerationTask
from lumina_core.types import Size


class Views(GenerationTask):
    """Task of models of several views."""

    Request = ViewsRequest
    data_field = "views"

    class Config(Settings):
        """Size of the training views."""

        image_size: int = Field(64, ge=8, description="side of a view in pixels")
        num_views: int = Field(4, ge=1, description="largest number of generated views in training")

    def __init__(self, config: Config) -> None:
        self.config = config

    def train_size(self) -> Size:
        """Return (views, rows, columns)."""
        return self.config.num_views, self.config.image_size, self.config.image_size
