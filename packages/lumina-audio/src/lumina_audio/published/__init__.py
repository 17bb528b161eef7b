"""Sound models that others published: their folders, names, sizes and conventions, turned into ours at the edge."""
