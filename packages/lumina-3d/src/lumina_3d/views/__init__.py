"""Several views of one object: cameras, rendering, tokens, task and data sets."""
