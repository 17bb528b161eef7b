"""Models that others published: their folders, names, sizes and settings, both ways."""
