"""Data sets of pictures with captions: folders, shards and tables, looked through alike; sizes by aspect ratio."""
