"""Judging a model: asks it for known examples again, and measures what comes. `run` is the way in."""
