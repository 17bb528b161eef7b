"""Recognition of images of any size and shape with Next-DiT."""

from __future__ import annotations

__version__ = "0.1.0"
