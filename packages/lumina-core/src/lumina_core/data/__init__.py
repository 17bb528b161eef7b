"""Data sets from folders and shards of any modality: sources, captions, index, mixtures."""
