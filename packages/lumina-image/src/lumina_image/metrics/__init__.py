"""Feature extractors and metrics of images."""
