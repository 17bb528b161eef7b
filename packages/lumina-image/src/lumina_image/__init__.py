"""Images for Lumina: tokenizer, autoencoders, data sets, metrics, and the tasks text-to-image and class-to-image."""

from __future__ import annotations

__version__ = "0.1.0"
