"""Tiny pretrained networks that look at pictures, as their makers publish them; drawn at random."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch


def clip(folder: Path) -> Path:
    """A very small CLIP, with tokenizer and preprocessor."""
    import transformers

    torch.manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = {w: n for n, w in enumerate([*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 12, "eos_token_id": len(words) - 1}
    vision = {**small, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPTokenizer(words, [], model_max_length=12).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


def inception(file: Path) -> Path:
    """Random weights of the form of Inception's."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    network = fidelity.FeatureExtractorInceptionV3
    with (
        mock.patch.object(fidelity, "load_state_dict_from_url", lambda *a, **k: {}),
        mock.patch.object(network, "load_state_dict", lambda self, state: None),
    ):
        torch.save(network("inception", ["2048"]).state_dict(), file)
    return file
