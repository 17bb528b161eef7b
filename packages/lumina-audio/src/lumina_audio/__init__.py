"""Sound and music for Lumina: frames, mel spectrograms, autoencoder, vocoders, tasks, data, and a built-in model."""

from __future__ import annotations

__version__ = "0.1.0"
