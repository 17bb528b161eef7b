"""Feature extractors and metrics of audio."""
