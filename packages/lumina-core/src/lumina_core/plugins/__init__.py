"""Plugin API: hooks, the registry that they fill, and the loader that isolates plugins."""
