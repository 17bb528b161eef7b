"""Foreign checkpoint formats of image models."""
