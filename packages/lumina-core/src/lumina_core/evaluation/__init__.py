"""Evaluation of generative models on prompts with known real examples; `evaluate.evaluate` is the entry point."""
