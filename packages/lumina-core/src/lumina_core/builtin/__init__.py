"""The core as its own first plugin."""
