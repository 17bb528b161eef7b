"""Data sets of sound: folders, manifests and shards, and what is alike in all of them."""
