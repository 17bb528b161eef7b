"""Three dimensions for Lumina: point clouds of any count, several views of one object, parametric shapes."""

from __future__ import annotations

__version__ = "0.1.0"
