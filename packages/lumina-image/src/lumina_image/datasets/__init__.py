"""Image data sets with captions: folders, shards, tables and the built-in emoji; bucket sizes."""
