"""Pictures for Lumina: patches, autoencoders, data sets with captions, and the task text to image."""

from __future__ import annotations

__version__ = "0.1.0"
