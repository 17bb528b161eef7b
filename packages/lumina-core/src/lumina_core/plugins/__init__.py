"""The door through which every part comes: hooks, the registry they fill, and the loader that isolates plugins."""
