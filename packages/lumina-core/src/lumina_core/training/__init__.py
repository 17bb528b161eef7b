"""Training: examples to batches, batches to steps, steps to a model; one process or many."""
