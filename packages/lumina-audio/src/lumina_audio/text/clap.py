"""Conditioner with the text tower of CLAP: that of LAION from transformers, or that of Microsoft with own weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumina_core.conditioning.ops import mean_pool, select
from lumina_core.conditioning.transformers_text import TextTokenizer
from lumina_core.config import Config as Settings
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.pretrained import (
    FrozenModule,
    PretrainedConfig,
    digest,
    read_config,
    require,
    resolve_path,
    verify_sha256,
)
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition

INSTALL_EXTRA = "lumina-audio[published]"
FILE_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")
_LOCATION_OPTIONS = {"device", "sha256", "source", "subfolder", "revision"}


class BertConfig(Settings):
    """Sizes of the text tower of Microsoft's CLAP; the defaults are bert-base-uncased, projected as in CLAP 2022."""

    vocab_size: int = Field(30522, ge=1, description="tokens of the vocabulary")
    max_position_embeddings: int = Field(512, ge=1, description="largest number of tokens of a text")
    hidden_size: int = Field(768, ge=2, description="width of the layers")
    num_layers: int = Field(12, ge=1, description="number of layers")
    num_heads: int = Field(12, ge=1, description="attention heads")
    intermediate_size: int = Field(3072, ge=1, description="width of the feed-forward layers")
    projection_dim: int = Field(1024, ge=1, description="width of the output")
    layer_norm_eps: float = Field(1e-12, gt=0, description="epsilon of the norms")


class ClapTextTower(nn.Module):
    """Text tower of Microsoft's CLAP: BERT (arXiv 1810.04805) and a projection of each token, without a mask.

    Parameter names and the missing mask are those of lumina_music/models/encoders/CLAP/clap.py (TextEncoder) and its
    use in encoders/modules.py.

    Raises:
        PluginError: transformers is not installed.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        transformers = require("transformers", INSTALL_EXTRA, "the text tower of CLAP")
        sizes = transformers.BertConfig(
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **config.model_dump(exclude={"num_layers", "num_heads", "projection_dim"}),
        )
        self.base = transformers.BertModel(sizes, add_pooling_layer=False)
        self.projection = ClapProjection(config.hidden_size, config.projection_dim)
        # buffers that no checkpoint has: on the CPU even if the model is built on the meta device
        position_ids = torch.arange(config.max_position_embeddings, device="cpu")[None]
        self.base.embeddings.register_buffer("position_ids", position_ids, persistent=False)
        self.base.embeddings.register_buffer("token_type_ids", torch.zeros_like(position_ids), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map token ids (B, M) to projected tokens (B, M, projection_dim)."""
        out: Tensor = self.projection(self.base(input_ids=input_ids).last_hidden_state)
        return out


class ClapProjection(nn.Module):
    """LayerNorm(a + linear2(gelu(a))) with a = linear1(x)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_dim, out_dim, bias=False)
        self.linear2 = nn.Linear(out_dim, out_dim, bias=False)
        self.layer_norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_dim) to (..., out_dim)."""
        linear = self.linear1(x)
        out: Tensor = self.layer_norm(linear + self.linear2(F.gelu(linear)))
        return out


class ClapTextEncoder(nn.Module, Conditioner):
    """Conditioner whose context has one projected vector per token, padded to `max_length`; pooled is their mean.

    The defaults are those of FrozenCLAPEmbedder of Lumina-T2Audio: 77 tokens, padding counts as text. With `bert`, the
    tower is that of Microsoft's CLAP, its weights are part of the model (as in the published checkpoints), and `source`
    holds the tokenizer only. Without `bert`, `source` is a CLAP of transformers that is loaded on first use.
    """

    cacheable = True

    class Config(PretrainedConfig):
        """Text tower and length of texts."""

        source: str = Field(
            "laion/clap-htsat-unfused", description="folder or hub name of CLAP; with `bert`, of the tokenizer"
        )
        bert: BertConfig | None = Field(None, description="sizes of a tower whose weights are part of the model")
        max_length: int = Field(77, ge=2, le=512, description="tokens of a text; a longer text is truncated")
        use_attention_mask: bool = Field(False, description="mask padding; false: padding counts as text")
        mean_pooled: bool = Field(True, description="mean of the context as pooled condition")
        hidden_size: int | None = Field(None, ge=1, description="width of the context; null: that of the source")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cross_attention_dim = self._resolve_hidden_size()
        self.pooled_dim = self.cross_attention_dim if config.mean_pooled else 0
        self.tower: nn.Module = (
            FrozenModule(self._load, config.device) if config.bert is None else ClapTextTower(config.bert)
        )
        if config.bert is not None:
            self.tower.requires_grad_(False)  # frozen, as published
        self._tokenizer: TextTokenizer | None = None

    def encode(self, values: Sequence[str]) -> Condition:
        """Encode texts to a context (B, max_length, width), and its mean as pooled condition.

        Raises:
            CheckpointError: the source is missing, or is no CLAP.
            PluginError: transformers is not installed.
        """
        tokenizer = self._load_tokenizer()
        input_ids = torch.full((len(values), self.config.max_length), tokenizer.pad_id)
        attention_mask = torch.full(input_ids.shape, not self.config.use_attention_mask)
        for row, text in enumerate(values):
            token_ids = torch.tensor(tokenizer.token_ids(text))
            input_ids[row, : len(token_ids)] = token_ids
            attention_mask[row, : len(token_ids)] = True
        context = self._encode_ids(input_ids, attention_mask)
        attention_mask = attention_mask.to(context.device)
        mask = None if bool(attention_mask.all()) else attention_mask
        pooled = mean_pool(context.float(), attention_mask).to(context) if self.config.mean_pooled else None
        return Condition(context * attention_mask.to(context)[..., None], mask, pooled)

    def null_condition(self, batch: int) -> Condition:
        """Encode the empty text."""
        return select(self.encode([""]), torch.zeros(batch, dtype=torch.int64))

    def truncated_text(self, value: str) -> str:
        """Return the end of a text beyond `max_length` tokens; empty for most."""
        return self._load_tokenizer().truncated_text(value)

    def fingerprint(self) -> str:
        """Return a digest of options, files and own weights."""
        options = self.config.model_dump(mode="json", exclude=_LOCATION_OPTIONS)
        hasher = hashlib.sha256(json.dumps({**options, "files": digest(self._folder())}, sort_keys=True).encode())
        for tensor in self.tower.state_dict().values():
            hasher.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def pin_hashes(self) -> dict[str, Any]:
        """Return the option that pins the files of the source."""
        return {"sha256": digest(self._folder())}

    def check_available(self) -> None:
        """Raise CheckpointError if the source or its tokenizer is missing; weights are not read."""
        self._load_tokenizer()

    def _encode_ids(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        device = self.tower.device if isinstance(self.tower, FrozenModule) else next(self.tower.parameters()).device
        input_ids, attention_mask = input_ids.to(device), attention_mask.long().to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            if not isinstance(self.tower, FrozenModule):
                output: Tensor = self.tower(input_ids)
                return output
            network = self.tower.network()
            hidden_states = network.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            projected: Tensor = network.text_projection(hidden_states)
        return projected.to(self.tower.device_anchor)

    def _resolve_hidden_size(self) -> int:
        if self.config.bert is not None:
            return self.config.bert.projection_dim
        if self.config.hidden_size is not None:
            return self.config.hidden_size
        projection_dim = read_config(self._folder()).get("projection_dim")
        if not isinstance(projection_dim, int):
            raise ConfigError(f"{self.config.source}: got no projection_dim in config.json, expected a CLAP")
        return projection_dim

    def _load(self, device: torch.device) -> nn.Module:
        folder = self._folder()
        verify_sha256(self.config, folder)
        library = require("transformers", INSTALL_EXTRA, "audio.clap_text")
        dtype = self.config.resolve_dtype(folder, device)
        try:
            network, report = library.ClapTextModelWithProjection.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises errors of many types
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{folder}: expected the text tower of a CLAP ({reason})") from error
        if report["missing_keys"]:
            raise CheckpointError(
                f"{folder}: expected the text tower of a CLAP, {min(report['missing_keys'])} is missing"
            )
        model: nn.Module = network
        return model

    def _load_tokenizer(self) -> TextTokenizer:
        if self._tokenizer is None:
            self._tokenizer = TextTokenizer(self._folder(), self.config.max_length)
        return self._tokenizer

    def _folder(self) -> Path:
        required_file = "config.json" if self.config.bert is None else "tokenizer_config.json"
        return resolve_path(self.config, FILE_PATTERNS, required_file)
