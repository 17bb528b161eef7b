"""Data sets for recognition."""
