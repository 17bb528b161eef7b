"""Conditioner that joins the contexts of two text encoders, of which the second reads a structured caption."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.text.structured_caption import is_structured, plain_text, to_structured_caption
from lumina_core.conditioning.ops import join, mean_pool, select
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition

DEFAULT_ENCODERS = (
    ComponentSpec(type="audio.clap_text"),
    ComponentSpec(type="core.transformers", source="google/flan-t5-large", hidden_state_index=-1),
)


class DualTextEncoder(nn.Module, Conditioner):
    """Conditioner whose context is that of two conditioners, one after the other; pooled is the mean of both.

    As published (Lumina-Next, appendix on audio; lumina_music/models/encoders/modules.py, FrozenCLAPFLANEmbedder): the
    first, the text tower of CLAP, reads the text, and the second, T5, its structured caption. A context narrower than
    `hidden_size` is widened by a trainable linear layer; this is our own, the published contexts are equally wide.
    """

    cacheable = True

    class Config(Settings):
        """Both conditioners, and the text of the second."""

        conditioner: tuple[ComponentSpec, ...] = Field(
            DEFAULT_ENCODERS, min_length=2, max_length=2, description="two conditioners, each with a context"
        )
        use_structured_caption: bool = Field(True, description="the second reads the structured caption")
        hidden_size: int | None = Field(None, ge=1, description="width of the context; null: the wider of both")

    def __init__(self, config: Config, conditioner: Sequence[Conditioner]) -> None:
        super().__init__()
        self.config = config
        self._encoders = tuple(conditioner)
        dims = [encoder.cross_attention_dim for encoder in self._encoders]
        if not all(dims):
            raise ConfigError("audio.dual_text: got a conditioner without context, expected two with one")
        self.cross_attention_dim = self.pooled_dim = config.hidden_size or max(dims)
        # members only if they are modules, so that they are saved and moved with the model
        self.first, self.second = (encoder if isinstance(encoder, nn.Module) else None for encoder in self._encoders)
        self.projections = nn.ModuleList(
            nn.Identity() if dim == self.cross_attention_dim else nn.Linear(dim, self.cross_attention_dim)
            for dim in dims
        )

    def encode(self, values: Sequence[str]) -> Condition:
        """Encode plain or structured texts to a context (B, M1 + M2, width) with its mask, and its mean as pooled.

        Raises:
            ConfigError: a structured caption is malformed.
        """
        first, second = zip(*map(self._encoder_texts, values), strict=True)
        return self._concatenate(self._encoders[0].encode(first), self._encoders[1].encode(second))

    def null_condition(self, batch: int) -> Condition:
        """Join the null conditions of both."""
        condition = self._concatenate(*(encoder.null_condition(1) for encoder in self._encoders))
        return select(condition, torch.zeros(batch, dtype=torch.int64))

    def truncated_text(self, value: str) -> str:
        """Return the end of a text that the first conditioner truncates, or else the second."""
        pairs = zip(self._encoders, self._encoder_texts(value), strict=True)
        return next((end for encoder, text in pairs if (end := encoder.truncated_text(text))), "")

    def fingerprint(self) -> str:
        """Return a digest of options, both conditioners and own weights."""
        hasher = hashlib.sha256(self.config.model_dump_json(include={"use_structured_caption", "hidden_size"}).encode())
        for encoder in self._encoders:
            hasher.update((encoder.fingerprint() or repr(encoder)).encode())
        for tensor in self.projections.state_dict().values():
            hasher.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def map_children(self, fn: Callable[[Conditioner], Conditioner]) -> DualTextEncoder:
        """Return a copy with `fn` applied to both conditioners; the trainable projections are shared."""
        clone = copy.copy(self)
        clone._encoders = tuple(map(fn, self._encoders))
        return clone

    def check_available(self) -> None:
        """Raise CheckpointError if pretrained weights of either conditioner are missing."""
        for encoder in self._encoders:
            encoder.check_available()

    def _encoder_texts(self, text: str) -> tuple[str, str]:
        if not (self.config.use_structured_caption and text):
            return text, text
        try:
            return plain_text(text), to_structured_caption(text)
        except ConfigError:
            if is_structured(text):
                raise
            return text, text  # no words, such as "...": read as it is written

    def _concatenate(self, *conditions: Condition) -> Condition:
        projected = [
            Condition(projection(condition.context), condition.context_mask)
            for projection, condition in zip(self.projections, conditions, strict=True)
        ]
        joined = join(projected)
        assert joined.context is not None
        mask: Tensor = torch.ones(joined.context.shape[:2], dtype=torch.bool, device=joined.context.device)
        pooled = mean_pool(joined.context, mask if joined.context_mask is None else joined.context_mask)
        return Condition(joined.context, joined.context_mask, pooled)
