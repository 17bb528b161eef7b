"""Low-rank adapters (LoRA, DoRA) of a model: training, files, use."""
