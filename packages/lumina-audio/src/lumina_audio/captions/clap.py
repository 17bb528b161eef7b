"""Text -> Condition by the text tower of a CLAP: LAION's in transformers' folders, Microsoft's with the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_audio.captions.bert import BertSizes, Tower
from lumina_core.conditions import pooled, select
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.outside import Borrowed, Borrowing, described, digest, hushed, located, needed, verified
from lumina_core.types import Condition

INSTALL = "lumina-audio[published]"
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_OF_PLACE = {"device", "sha256", "source", "subfolder", "revision"}


class ClapText(nn.Module):
    """Every piece of a text as CLAP's tower projects it, filled up to `length` pieces; the summary is their mean.

    The defaults are those of Lumina-T2Audio's FrozenCLAPEmbedder: 77 pieces, padding counts as real. With `bert` the
    tower is Microsoft's and its weights are the model's own, as published checkpoints hold them; the source then is
    where its tokenizer lies. Without, the source is a CLAP of transformers, named and not kept.
    """

    costly = True

    class Config(Borrowing):
        """Which tower, and how much of a text it reads."""

        source: str = Field("laion/clap-htsat-unfused", description="folder or hub name; with `bert` of its tokenizer")
        bert: BertSizes | None = Field(None, description="sizes of a tower whose weights are the model's own")
        length: int = Field(77, ge=2, le=512, description="pieces read; the rest of a longer text is cut off, and said")
        masked: bool = Field(False, description="True: padding is no part of what is said")
        summary: bool = Field(True, description="the mean of the memory as summary")
        width: int | None = Field(None, ge=1, description="of a memory entry; None: as the source says")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.memory_width = self._width()
        self.summary_width = self.memory_width if config.summary else 0
        self.tower: nn.Module = Borrowed(self._load, config.device) if config.bert is None else Tower(config.bert)
        if config.bert is not None:
            self.tower.requires_grad_(False)  # a frozen encoder, as published
        self._reader: Any = None

    def encode(self, values: Sequence[str]) -> Condition:
        """Texts -> memory (B, length, width), and its mean as summary.

        Raises:
            CheckpointError: the source is not there, or is no CLAP.
            PluginError: transformers is not installed.
        """
        said = self._tokens()(
            list(values), truncation=True, max_length=self.config.length, padding="max_length", return_tensors="pt"
        )
        ids, real = said["input_ids"], said["attention_mask"].bool()
        if not self.config.masked:
            real = torch.ones_like(real)
        memory = self._read(ids, real)
        real = real.to(memory.device)
        mask = None if bool(real.all()) else real
        summary = pooled(memory.float(), real).to(memory) if self.config.summary else None
        return Condition(memory * real.to(memory)[..., None], mask, summary)

    def nothing(self, batch: int) -> Condition:
        """Silence is the empty text."""
        return select(self.encode([""]), torch.zeros(batch, dtype=torch.int64))

    def unread(self, text: str) -> str:
        """The end of a text that is longer than `length` pieces; empty for most."""
        tokenizer = self._tokens()
        whole, read = (tokenizer(text, verbose=False, **cut).input_ids for cut in ({}, self._cut()))
        if len(whole) <= len(read):
            return ""
        same = next((k for k, (a, b) in enumerate(zip(whole, read, strict=False)) if a != b), len(read))
        return str(tokenizer.decode(whole[same:], skip_special_tokens=True))

    def fingerprint(self) -> str:
        """What decides the numbers that are said of a text: the options, the files, and weights of its own."""
        options = self.config.model_dump(mode="json", exclude=_OF_PLACE)
        whole = hashlib.sha256(json.dumps({**options, "files": digest(self._folder())}, sort_keys=True).encode())
        for tensor in self.tower.state_dict().values():
            whole.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()

    def referenced(self) -> dict[str, Any]:
        """Options that hold a saved model to the files that it was made with."""
        return {"sha256": digest(self._folder())}

    def ready(self) -> None:
        """Look whether the source is there, without reading its weights."""
        self._tokens()

    def _read(self, ids: Tensor, real: Tensor) -> Tensor:
        if isinstance(self.tower, Borrowed):
            network = self.tower.network()
            ids, real = ids.to(self.tower.device), real.to(self.tower.device)
            with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
                read = network.text_model(input_ids=ids, attention_mask=real.long()).last_hidden_state
                projected: Tensor = network.text_projection(read)
            return projected.to(self.tower.place)
        place = next(self.tower.parameters())
        with torch.no_grad(), torch.autocast(place.device.type, enabled=False):
            own: Tensor = self.tower(ids.to(place.device))
        return own

    def _width(self) -> int:
        if self.config.bert is not None:
            return self.config.bert.projected
        if self.config.width is not None:
            return self.config.width
        said = described(self._folder()).get("projection_dim")
        if not isinstance(said, int):
            raise ConfigError(f"audio.clap_text: {self.config.source} says no projection_dim; is it a CLAP?")
        return said

    def _load(self, device: torch.device) -> nn.Module:
        folder = self._folder()
        verified(self.config, folder)
        library = needed("transformers", INSTALL, "audio.clap_text")
        network, report = self._asked(
            library.ClapTextModelWithProjection.from_pretrained, folder, dtype=self.config.chosen(folder, device),
            use_safetensors=True, output_loading_info=True,
        )  # fmt: skip
        if report["missing_keys"]:
            lacking = min(report["missing_keys"])
            raise CheckpointError(f"{folder} holds no text tower of a CLAP of transformers: {lacking} is missing")
        made: nn.Module = network
        return made

    def _tokens(self) -> Any:
        if self._reader is None:
            library = needed("transformers", INSTALL, "audio.clap_text")
            self._reader = self._asked(library.AutoTokenizer.from_pretrained, self._folder(), trust_remote_code=False)
        return self._reader

    def _asked(self, load: Callable[..., Any], folder: Path, **options: Any) -> Any:
        """What the library makes of a folder, without its progress bar; its refusals in a line of ours."""
        log = needed("transformers", INSTALL, "audio.clap_text").utils.logging
        bars = log.is_progress_bar_enabled()
        log.disable_progress_bar()
        try:
            with hushed():
                return load(folder, local_files_only=True, **options)
        except Exception as error:  # whatever the library says of a folder
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{folder} cannot be read by transformers ({type(error).__name__}: {reason}); "
                "wanted the text tower of a CLAP, and its tokenizer"
            ) from error
        finally:
            if bars:
                log.enable_progress_bar()

    def _cut(self) -> dict[str, Any]:
        return {"truncation": True, "max_length": self.config.length}

    def _folder(self) -> Path:
        proof = "config.json" if self.config.bert is None else "tokenizer_config.json"
        return located(self.config, FILES, proof)
