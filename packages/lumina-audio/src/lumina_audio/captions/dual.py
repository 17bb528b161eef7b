"""The paper's pair of text encoders: one reads the words, the other the structured caption; one memory, end to end."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.captions.rules import Ask, structure
from lumina_audio.captions.structured import plain
from lumina_core.conditions import join, pooled, select
from lumina_core.config import Config as Settings
from lumina_core.config import Use
from lumina_core.errors import ConfigError
from lumina_core.parts import Conditioner
from lumina_core.types import Condition


class DualText(nn.Module):
    """Text -> what two conditioners say of it, one memory behind the other; the summary is the mean of both.

    As published (Lumina-Next, appendix on audio; lumina_music/models/encoders/modules.py, FrozenCLAPFLANEmbedder): the
    first, CLAP's tower, reads the text as it is, the second, T5, its structured caption. Where one's entries are
    narrower than `width`, a linear layer of the model's own widens them: that is our own proposal, the published pair
    is equally wide.
    """

    costly = True
    ask: Ask | None = None
    """Asked for structured captions first, for instance a language model; None: rules alone."""

    class Config(Settings):
        """The two, and what the second reads."""

        conditioner: tuple[Use, ...] = Field(
            (Use(use="audio.clap_text"), Use(use="core.transformers", source="google/flan-t5-large", layer=-1)),
            min_length=2, max_length=2, description="the two conditioners, each with a memory",
        )  # fmt: skip
        structured: bool = Field(True, description="the second reads the structured caption; False: the same words")
        width: int | None = Field(None, ge=1, description="of a memory entry; None: the wider one's")

    def __init__(self, config: Config, conditioner: Sequence[Conditioner]) -> None:
        super().__init__()
        self.config = config
        self._pair = tuple(conditioner)
        widths = [one.memory_width for one in self._pair]
        if not all(widths):
            raise ConfigError("audio.dual_text: both conditioners need a memory; one of them makes none")
        self.memory_width = self.summary_width = config.width or max(widths)
        # members only where they have weights, so that they are kept with the model and moved with it
        self.first, self.second = (one if isinstance(one, nn.Module) else None for one in self._pair)
        self.widen = nn.ModuleList(
            nn.Identity() if width == self.memory_width else nn.Linear(width, self.memory_width) for width in widths
        )

    def encode(self, values: Sequence[str]) -> Condition:
        """Texts, plain or structured -> memory (B, M1 + M2, width), its mask, and the mean of its real entries.

        Raises:
            ConfigError: a text has the marks of a structured caption, and something in it is wrong.
        """
        first, second = zip(*map(self._worded, values), strict=True)
        return self._joined(self._pair[0].encode(first), self._pair[1].encode(second))

    def nothing(self, batch: int) -> Condition:
        """Silence is the empty text for both."""
        said = self._joined(*(one.nothing(1) for one in self._pair))
        return select(said, torch.zeros(batch, dtype=torch.int64))

    def unread(self, text: str) -> str:
        """The end that the first of the two cuts off, or else the second."""
        said = ((one, told) for one, told in zip(self._pair, self._worded(text), strict=True) if hasattr(one, "unread"))
        return next((end for one, told in said if (end := one.unread(told))), "")

    def fingerprint(self) -> str:
        """What decides the numbers that are said of a text."""
        whole = hashlib.sha256(self.config.model_dump_json(include={"structured", "width"}).encode())
        for one in self._pair:
            whole.update(one.fingerprint().encode() if hasattr(one, "fingerprint") else repr(one).encode())
        for tensor in self.widen.state_dict().values():
            whole.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()

    def exchanged(self, change: Callable[[Conditioner], Conditioner]) -> DualText:
        """The same with others in the place of the two; what widens them is shared, and learns on."""
        other = copy.copy(self)
        other._pair = tuple(map(change, self._pair))
        return other

    def ready(self) -> None:
        """Look whether what both borrow is there."""
        for one in self._pair:
            if hasattr(one, "ready"):
                one.ready()

    def _worded(self, text: str) -> tuple[str, str]:
        """What each of the two reads."""
        if not (self.config.structured and text):
            return text, text
        return plain(text), structure(text, self.ask)

    def _joined(self, *said: Condition) -> Condition:
        memories = [
            Condition(widen(_memory(one)), one.memory_mask) for widen, one in zip(self.widen, said, strict=True)
        ]
        both = join(memories)
        memory, mask = _memory(both), both.memory_mask
        real = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device) if mask is None else mask
        return Condition(memory, mask, pooled(memory, real))


def _memory(condition: Condition) -> Tensor:
    if condition.memory is None:
        raise ConfigError("audio.dual_text: a conditioner answered without a memory")
    return condition.memory
