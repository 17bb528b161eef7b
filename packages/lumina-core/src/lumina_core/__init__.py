"""lumina-core: the Next-DiT backbone, flow matching, the plugin door. This face imports neither torch nor pydantic."""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("lumina")
"""Marks a plugin's functions as answers to lumina's hooks."""
