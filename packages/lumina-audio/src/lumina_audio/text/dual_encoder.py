"""The paper's pair of text encoders: one reads the words, the other the structured caption; one memory, end to end."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.text.structured_caption import StructureModel, plain_text, to_structured_caption
from lumina_core.conditioning.ops import join, mean_pool, select
from lumina_core.config import ComponentSpec
from lumina_core.config import Config as Settings
from lumina_core.errors import ConfigError
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition


class DualTextEncoder(nn.Module, Conditioner):
    """Text -> what two conditioners say of it, one memory behind the other; the summary is the mean of both.

    As published (Lumina-Next, appendix on audio; lumina_music/models/encoders/modules.py, FrozenCLAPFLANEmbedder): the
    first, CLAP's tower, reads the text as it is, the second, T5, its structured caption. Where one's entries are
    narrower than `width`, a linear layer of the model's own widens them: that is our own proposal, the published pair
    is equally wide.
    """

    cacheable = True
    ask: StructureModel | None = None
    """Asked for structured captions first, for instance a language model; None: rules alone."""

    class Config(Settings):
        """The two, and what the second reads."""

        conditioner: tuple[ComponentSpec, ...] = Field(
            (ComponentSpec(type="audio.clap_text"), ComponentSpec(type="core.transformers", source="google/flan-t5-large", hidden_state_index=-1)),
            min_length=2, max_length=2, description="the two conditioners, each with a memory",
        )  # fmt: skip
        use_structured_caption: bool = Field(
            True, description="the second reads the structured caption; False: the same words"
        )
        hidden_size: int | None = Field(None, ge=1, description="of a memory entry; None: the wider one's")

    def __init__(self, config: Config, conditioner: Sequence[Conditioner]) -> None:
        super().__init__()
        self.config = config
        self._encoders = tuple(conditioner)
        dims = [encoder.cross_attention_dim for encoder in self._encoders]
        if not all(dims):
            raise ConfigError("audio.dual_text: both conditioners need a memory; one of them makes none")
        self.cross_attention_dim = self.pooled_dim = config.hidden_size or max(dims)
        # members only where they have weights, so that they are kept with the model and moved with it
        self.first, self.second = (encoder if isinstance(encoder, nn.Module) else None for encoder in self._encoders)
        self.projections = nn.ModuleList(
            nn.Identity() if dim == self.cross_attention_dim else nn.Linear(dim, self.cross_attention_dim)
            for dim in dims
        )

    def encode(self, values: Sequence[str]) -> Condition:
        """Texts, plain or structured -> memory (B, M1 + M2, width), its mask, and the mean of its real entries.

        Raises:
            ConfigError: a text has the marks of a structured caption, and something in it is wrong.
        """
        first, second = zip(*map(self._encoder_texts, values), strict=True)
        return self._concatenate(self._encoders[0].encode(first), self._encoders[1].encode(second))

    def null_condition(self, batch: int) -> Condition:
        """Silence is the empty text for both."""
        condition = self._concatenate(*(encoder.null_condition(1) for encoder in self._encoders))
        return select(condition, torch.zeros(batch, dtype=torch.int64))

    def truncated_text(self, text: str) -> str:
        """The end that the first of the two cuts off, or else the second."""
        pairs = zip(self._encoders, self._encoder_texts(text), strict=True)
        return next((end for encoder, encoder_text in pairs if (end := encoder.truncated_text(encoder_text))), "")

    def fingerprint(self) -> str:
        """What decides the numbers that are said of a text."""
        hasher = hashlib.sha256(self.config.model_dump_json(include={"use_structured_caption", "hidden_size"}).encode())
        for encoder in self._encoders:
            hasher.update((encoder.fingerprint() or repr(encoder)).encode())
        for tensor in self.projections.state_dict().values():
            hasher.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def map_children(self, fn: Callable[[Conditioner], Conditioner]) -> DualTextEncoder:
        """The same with others in the place of the two; what widens them is shared, and learns on."""
        clone = copy.copy(self)
        clone._encoders = tuple(map(fn, self._encoders))
        return clone

    def check_available(self) -> None:
        """Look whether what both borrow is there."""
        for encoder in self._encoders:
            encoder.check_available()

    def _encoder_texts(self, text: str) -> tuple[str, str]:
        """What each of the two reads."""
        if not (self.config.use_structured_caption and text):
            return text, text
        return plain_text(text), to_structured_caption(text, self.ask)

    def _concatenate(self, *conditions: Condition) -> Condition:
        projected = [
            Condition(projection(_require_context(condition)), condition.context_mask)
            for projection, condition in zip(self.projections, conditions, strict=True)
        ]
        joined = join(projected)
        context, mask = _require_context(joined), joined.context_mask
        token_mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device) if mask is None else mask
        return Condition(context, mask, mean_pool(context, token_mask))


def _require_context(condition: Condition) -> Tensor:
    if condition.context is None:
        raise ConfigError("audio.dual_text: a conditioner answered without a memory")
    return condition.context
