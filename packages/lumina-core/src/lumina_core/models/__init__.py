"""Backbones: transformers on tokens with positions, independent of the modality of the tokens."""
