"""Dual encoders of data and texts (CLIP, CLAP) from the library transformers, and the similarity score of both."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.metrics.base import MetricConfig
from lumina_core.pretrained import PretrainedConfig, digest, require, resolve_path, verify_sha256
from lumina_core.protocols import EvalInputs, FeatureExtractor, Metric, TextFeatureExtractor

INSTALL_TARGET = "lumina-core[transformers]"
FILE_PATTERNS = ("*.json", "*.txt", "*.safetensors")
CHUNK_SIZE = 32
"""Items or texts in one pass through the network."""


class DualEncoder(TextFeatureExtractor):
    """Data and texts in one space, of unit length: base class. A subclass defines `__call__` and the attributes.

    Attributes:
        title: name of the network: "CLIP".
        component: name of the component, for messages.
        model_class: class of transformers.
        processor_class: class of transformers that prepares data.
        projection_attr: attribute that such a model must have.
    """

    libraries: Sequence[str] = ("transformers",)
    title: str
    component: str
    model_class: str
    processor_class: str
    projection_attr: str

    class Config(PretrainedConfig):
        """Source of the weights."""

    def __init__(self, config: Config) -> None:
        self.config = config
        folder = resolve_path(config, FILE_PATTERNS)
        verify_sha256(config, folder)
        self.name = f"{self.title} {Path(config.source).name}"
        self.key = f"{self.title} {digest(folder)}"
        self._device = torch.device(config.device or "cpu")
        dtype = config.resolve_dtype(folder, self._device)
        self._model, self._tokenizer, self._processor = _load(type(self), folder, self._device, dtype)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Map texts, truncated to the length of the model, to (M, D) float32 of unit length."""
        rows = []
        for start in range(0, len(texts), CHUNK_SIZE):
            chunk = list(texts[start : start + CHUNK_SIZE])
            token_ids = self._tokenizer(
                chunk, padding=True, truncation=True, return_tensors="pt", max_length=self.max_text_length
            )
            inputs = {name: ids.to(self._device) for name, ids in token_ids.items() if name != "token_type_ids"}
            outputs = self._model.text_model(**inputs)
            rows.append(self.normalize(self._model.text_projection(outputs.pooler_output)))
        return torch.cat(rows).clone()

    @property
    def max_text_length(self) -> int:
        """Largest number of tokens of a text."""
        length: int = self._model.config.text_config.max_position_embeddings
        return length

    def normalize(self, projected: Tensor) -> Tensor:
        """Scale rows (B, D) to unit length, as float32 on the CPU."""
        return F.normalize(projected.float(), dim=1).cpu()


@functools.lru_cache(maxsize=1)  # several metrics by one network share it
def _load(encoder: type[DualEncoder], folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    library = require("transformers", INSTALL_TARGET, encoder.component)
    with _checkpoint_errors(encoder.title, folder):
        model = getattr(library, encoder.model_class).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        tokenizer = library.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        processor = getattr(library, encoder.processor_class).from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    if not hasattr(model, encoder.projection_attr):
        raise CheckpointError(f"{folder} holds no {encoder.title}")
    return model.eval().requires_grad_(False).to(device), tokenizer, processor


@contextlib.contextmanager
def _checkpoint_errors(title: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{folder} cannot be read as {title} ({reason}); expected weights, tokenizer and preprocessor"
        ) from error


class TextSimilarity(Metric):
    """Cosine between an example and its caption (the CLIP score of arXiv 2104.08718, not scaled).

    `similarity` is that of generated examples; `similarity_of_real`, of the real examples with the same captions, is
    the value to expect of features that were trained on other data.
    """

    Config = MetricConfig

    def __init__(self, config: MetricConfig, feature_extractor: FeatureExtractor) -> None:
        if not isinstance(feature_extractor, TextFeatureExtractor):
            raise ConfigError(
                f"feature_extractor: got {config.feature_extractor.type}, expected features that also embed texts, "
                "such as CLIP's or CLAP's"
            )
        self.config = config
        self.feature_extractor: TextFeatureExtractor = feature_extractor

    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute the cosines (M,)."""
        captions = [item.fields.get("caption") for item in inputs.items]
        if not all(isinstance(caption, str) for caption in captions):
            raise ConfigError("dataset: got examples without a caption, expected one for each: a similarity needs it")
        # many items share a caption
        row_of = {str(caption): row for row, caption in enumerate(dict.fromkeys(captions))}
        texts = self.feature_extractor.encode_texts(list(row_of))[[row_of[str(caption)] for caption in captions]]
        return {
            "similarity": (inputs.generated * texts).sum(1),
            "similarity_of_real": (inputs.real[inputs.target_index] * texts).sum(1),
        }
