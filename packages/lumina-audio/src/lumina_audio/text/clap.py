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

from lumina_audio.text.bert import BertConfig, ClapTextTower
from lumina_core.conditioning.ops import mean_pool, select
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.pretrained import (
    FrozenModule,
    PretrainedConfig,
    digest,
    read_config,
    require,
    resolve_path,
    silence_logs,
    verify_sha256,
)
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition

INSTALL_EXTRA = "lumina-audio[published]"
FILE_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")
_LOCATION_OPTIONS = {"device", "sha256", "source", "subfolder", "revision"}


class ClapTextEncoder(nn.Module, Conditioner):
    """Every piece of a text as CLAP's tower projects it, filled up to `length` pieces; the summary is their mean.

    The defaults are those of Lumina-T2Audio's FrozenCLAPEmbedder: 77 pieces, padding counts as real. With `bert` the
    tower is Microsoft's and its weights are the model's own, as published checkpoints hold them; the source then is
    where its tokenizer lies. Without, the source is a CLAP of transformers, named and not kept.
    """

    cacheable = True

    class Config(PretrainedConfig):
        """Which tower, and how much of a text it reads."""

        source: str = Field("laion/clap-htsat-unfused", description="folder or hub name; with `bert` of its tokenizer")
        bert: BertConfig | None = Field(None, description="sizes of a tower whose weights are the model's own")
        max_length: int = Field(
            77, ge=2, le=512, description="pieces read; the rest of a longer text is cut off, and said"
        )
        use_attention_mask: bool = Field(False, description="True: padding is no part of what is said")
        mean_pooled: bool = Field(True, description="the mean of the memory as summary")
        hidden_size: int | None = Field(None, ge=1, description="of a memory entry; None: as the source says")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cross_attention_dim = self._resolve_hidden_size()
        self.pooled_dim = self.cross_attention_dim if config.mean_pooled else 0
        self.tower: nn.Module = (
            FrozenModule(self._load, config.device) if config.bert is None else ClapTextTower(config.bert)
        )
        if config.bert is not None:
            self.tower.requires_grad_(False)  # a frozen encoder, as published
        self._tokenizer: Any = None

    def encode(self, values: Sequence[str]) -> Condition:
        """Texts -> memory (B, length, width), and its mean as summary.

        Raises:
            CheckpointError: the source is not there, or is no CLAP.
            PluginError: transformers is not installed.
        """
        tokens = self._load_tokenizer()(
            list(values), truncation=True, max_length=self.config.max_length, padding="max_length", return_tensors="pt"
        )
        input_ids, attention_mask = tokens["input_ids"], tokens["attention_mask"].bool()
        if not self.config.use_attention_mask:
            attention_mask = torch.ones_like(attention_mask)
        context = self._encode_ids(input_ids, attention_mask)
        attention_mask = attention_mask.to(context.device)
        mask = None if bool(attention_mask.all()) else attention_mask
        pooled_mean = mean_pool(context.float(), attention_mask).to(context) if self.config.mean_pooled else None
        return Condition(context * attention_mask.to(context)[..., None], mask, pooled_mean)

    def null_condition(self, batch: int) -> Condition:
        """Silence is the empty text."""
        return select(self.encode([""]), torch.zeros(batch, dtype=torch.int64))

    def truncated_text(self, text: str) -> str:
        """The end of a text that is longer than `length` pieces; empty for most."""
        tokenizer = self._load_tokenizer()
        full_ids, read_ids = (
            tokenizer(text, verbose=False, **options).input_ids for options in ({}, self._truncation_options())
        )
        if len(full_ids) <= len(read_ids):
            return ""
        prefix_length = next(
            (k for k, (a, b) in enumerate(zip(full_ids, read_ids, strict=False)) if a != b), len(read_ids)
        )
        return str(tokenizer.decode(full_ids[prefix_length:], skip_special_tokens=True))

    def fingerprint(self) -> str:
        """What decides the numbers that are said of a text: the options, the files, and weights of its own."""
        options = self.config.model_dump(mode="json", exclude=_LOCATION_OPTIONS)
        hasher = hashlib.sha256(json.dumps({**options, "files": digest(self._folder())}, sort_keys=True).encode())
        for tensor in self.tower.state_dict().values():
            hasher.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def pin_hashes(self) -> dict[str, Any]:
        """Options that hold a saved model to the files that it was made with."""
        return {"sha256": digest(self._folder())}

    def check_available(self) -> None:
        """Look whether the source is there, without reading its weights."""
        self._load_tokenizer()

    def _encode_ids(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if isinstance(self.tower, FrozenModule):
            network = self.tower.network()
            input_ids, attention_mask = input_ids.to(self.tower.device), attention_mask.to(self.tower.device)
            with torch.no_grad(), torch.autocast(input_ids.device.type, enabled=False):
                hidden_states = network.text_model(
                    input_ids=input_ids, attention_mask=attention_mask.long()
                ).last_hidden_state
                projected: Tensor = network.text_projection(hidden_states)
            return projected.to(self.tower.device_anchor)
        parameter = next(self.tower.parameters())
        with torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
            output: Tensor = self.tower(input_ids.to(parameter.device))
        return output

    def _resolve_hidden_size(self) -> int:
        if self.config.bert is not None:
            return self.config.bert.projection_dim
        if self.config.hidden_size is not None:
            return self.config.hidden_size
        projection_dim = read_config(self._folder()).get("projection_dim")
        if not isinstance(projection_dim, int):
            raise ConfigError(f"audio.clap_text: {self.config.source} says no projection_dim; is it a CLAP?")
        return projection_dim

    def _load(self, device: torch.device) -> nn.Module:
        folder = self._folder()
        verify_sha256(self.config, folder)
        library = require("transformers", INSTALL_EXTRA, "audio.clap_text")
        network, loading_info = self._load_from_folder(
            library.ClapTextModelWithProjection.from_pretrained, folder, dtype=self.config.resolve_dtype(folder, device),
            use_safetensors=True, output_loading_info=True,
        )  # fmt: skip
        if loading_info["missing_keys"]:
            missing_key = min(loading_info["missing_keys"])
            raise CheckpointError(f"{folder} holds no text tower of a CLAP of transformers: {missing_key} is missing")
        model: nn.Module = network
        return model

    def _load_tokenizer(self) -> Any:
        if self._tokenizer is None:
            library = require("transformers", INSTALL_EXTRA, "audio.clap_text")
            self._tokenizer = self._load_from_folder(
                library.AutoTokenizer.from_pretrained, self._folder(), trust_remote_code=False
            )
        return self._tokenizer

    def _load_from_folder(self, load: Callable[..., Any], folder: Path, **options: Any) -> Any:
        """What the library makes of a folder, without its progress bar; its refusals in a line of ours."""
        hf_logging = require("transformers", INSTALL_EXTRA, "audio.clap_text").utils.logging
        progress_enabled = hf_logging.is_progress_bar_enabled()
        hf_logging.disable_progress_bar()
        try:
            with silence_logs():
                return load(folder, local_files_only=True, **options)
        except Exception as error:  # whatever the library says of a folder
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{folder} cannot be read by transformers ({type(error).__name__}: {reason}); "
                "wanted the text tower of a CLAP, and its tokenizer"
            ) from error
        finally:
            if progress_enabled:
                hf_logging.enable_progress_bar()

    def _truncation_options(self) -> dict[str, Any]:
        return {"truncation": True, "max_length": self.config.max_length}

    def _folder(self) -> Path:
        required_file = "config.json" if self.config.bert is None else "tokenizer_config.json"
        return resolve_path(self.config, FILE_PATTERNS, required_file)
