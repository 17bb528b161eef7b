"""Tiny pretrained language models in folders, as their makers publish them; drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "red", "blue", "cat", "dog", "house", "of", "the", "and", "sun"]
MARKS = ["<pad>", "<bos>", "<eos>", "<unk>"]


def decoder(folder: Path, *, width: int = 16, **tokenizer: Any) -> Path:
    """A decoder of three layers and a tokenizer that puts <bos> first."""
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(
        vocab_size=len(MARKS) + len(WORDS), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=2 / width**0.5,
    )  # fmt: skip
    transformers.LlamaModel(settings).save_pretrained(folder)
    words(folder, front="<bos>", **tokenizer)
    return folder


def encoder(folder: Path) -> Path:
    """T5 with its decoder, of which only the encoder is used; its tokenizer adds <eos>."""
    torch.manual_seed(0)
    settings = transformers.T5Config(
        vocab_size=len(MARKS) + len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
        initializer_factor=3.0, decoder_start_token_id=0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(settings).save_pretrained(folder)
    words(folder, end="<eos>")
    return folder


def words(folder: Path, front: str = "", end: str = "", **more: Any) -> None:
    """A tokenizer of whole words; `more` goes to the library, and None takes a mark away."""
    numbers = {word: place for place, word in enumerate([*MARKS, *WORDS])}
    plain = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [f"{front} $A {end}".strip(), [(mark, numbers[mark]) for mark in (front, end) if mark]]
    if around[1]:
        plain.post_processor = processors.TemplateProcessing(single=around[0], special_tokens=around[1])
    marks = {"pad_token": "<pad>", "bos_token": front or None, "eos_token": "<eos>", "unk_token": "<unk>", **more}
    named = {name: mark for name, mark in marks.items() if mark is not None}
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **named).save_pretrained(folder)
