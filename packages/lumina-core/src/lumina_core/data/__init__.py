"""Examples out of folders and shards, whatever they are of: what is found, skipped, and said of each."""
