"""Evaluation of generative models on prompts with real examples; `evaluate.evaluate` is the entry point."""
