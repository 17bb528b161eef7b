"""Pretrained language models of the library transformers: their tokenizers, and the output of one of their layers."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lumina_core.conditioning.ops import mean_pool, select
from lumina_core.errors import CheckpointError, ConfigError, LuminaError
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

HIDDEN_SIZE_KEYS = ("hidden_size", "d_model", "n_embd", "dim")
"""What the width of a layer is called in the settings of one family or another."""
INSTALL_EXTRA = "lumina-core[transformers]"


def read_hidden_size(folder: Path) -> int:
    """Width of a network's layers, from its config.json, without the library.

    Raises:
        ConfigError: the settings say no width.
    """
    config = read_text_config(folder)
    for name in HIDDEN_SIZE_KEYS:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ConfigError(f"{folder / 'config.json'} says no width; is it a language model? Give `hidden_size` yourself")


def read_text_config(folder: Path) -> dict[str, Any]:
    """The settings of the part of a network that reads text."""
    content = read_config(folder)
    text_config = content.get("text_config")
    return dict(text_config) if isinstance(text_config, dict) else content


class TextTokenizer:
    """A tokenizer: texts into piece numbers, at most `length` of them."""

    def __init__(self, folder: Path, max_length: int) -> None:
        library = require("transformers", INSTALL_EXTRA, "core.transformers")
        self.max_length = max_length
        with _silence_transformers(library), _convert_errors(folder):
            self._tokenizer = library.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, truncation_side="right", local_files_only=True
            )

    @property
    def pad_id(self) -> int:
        """A piece for places that nobody looks at; any will do."""
        return int(self._tokenizer.pad_token_id or 0)

    def apply_template(self, text: str, prefix: str, apply_chat_template: bool) -> str:
        """A text with its prefix, in the tokenizer's chat template where that is asked for.

        Raises:
            ConfigError: the tokenizer has no template.
        """
        if not apply_chat_template:
            return prefix + text
        if not self._tokenizer.chat_template:
            raise ConfigError(
                "core.transformers: `apply_chat_template` asks for a template, and this tokenizer has none"
            )
        templated: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prefix + text}], tokenize=False, add_generation_prompt=True
        )
        return templated

    def token_ids(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Piece numbers, special ones among them, never none.

        Args:
            plain: put the tokenizer's special pieces around it; a chat template brings them itself.
        """
        return self._tokenize(text, add_special_tokens, truncation=True, max_length=self.max_length) or [
            self._fallback_id()
        ]

    def truncated_text(self, text: str, add_special_tokens: bool = True) -> str:
        """What of a text lies behind the last piece that is read."""
        all_ids, kept_ids = self._tokenize(text, add_special_tokens), self.token_ids(text, add_special_tokens)
        if len(all_ids) <= len(kept_ids):
            return ""
        common_length = next(
            (k for k, (a, b) in enumerate(zip(all_ids, kept_ids, strict=False)) if a != b), len(kept_ids)
        )
        remainder: str = self._tokenizer.decode(all_ids[common_length:], skip_special_tokens=True)
        return remainder

    def _tokenize(self, text: str, add_special_tokens: bool, **truncation: Any) -> list[int]:
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=add_special_tokens, verbose=False, **truncation
        ).input_ids
        return ids

    def _fallback_id(self) -> int:
        # tokenizers without any mark make nothing of the empty text; a memory needs one real entry, or its mean is 0/0
        special_ids = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id, 0)
        return int(next(number for number in special_ids if number is not None))


class TruncatedEncoder(nn.Module):
    """A network up to one of its layers: piece numbers in, that layer's output out.

    Layers are counted as transformers counts its `hidden_states`: 0 is the embedding, the last is after the final norm.
    """

    def __init__(self, network: Any, hidden_state_index: int, name: str) -> None:
        super().__init__()
        num_layers = int(network.config.num_hidden_layers)
        index = num_layers + 1 + hidden_state_index if hidden_state_index < 0 else hidden_state_index
        if not 0 <= index <= num_layers:
            raise ConfigError(
                f"core.transformers: {name} has {num_layers} layers; `hidden_state_index` {hidden_state_index} is none of them"
            )
        self.network, self.index = network, index
        self.returns_last_hidden_state = index == num_layers or _truncate_layers(network, index)
        self.takes_position_ids = "position_ids" in inspect.signature(network.forward).parameters
        network.config.use_cache = False

    @property
    def hidden_size(self) -> int:
        """Of what comes out."""
        return int(self.network.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the network."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, M) and which are real (B, M) bool -> (B, M, width), without gradient and outside any autocast."""
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "output_hidden_states": not self.returns_last_hidden_state,
        }
        if self.takes_position_ids and not bool(mask[:, 0].all()):
            # filled up on the left: count from the first real piece, as if the text stood alone
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            output = self.network(**inputs)
        hidden_states: Tensor = (
            output.last_hidden_state if self.returns_last_hidden_state else output.hidden_states[self.index]
        )
        return hidden_states


def _truncate_layers(network: Any, num_layers: int) -> bool:
    """Take off the layers above `place` and the final norm, where the network is a plain row of layers."""
    layers = getattr(network, "layers", None)
    if not (isinstance(layers, nn.ModuleList) and hasattr(network, "norm") and num_layers):
        return False
    if len(layers) != network.config.num_hidden_layers:
        return False
    network.layers, network.norm = layers[:num_layers], nn.Identity()
    network.config.num_hidden_layers = num_layers
    return True


def load_encoder(folder: Path, hidden_state_index: int, dtype: torch.dtype, quantize: str) -> TruncatedEncoder:
    """The network of a folder, safetensors only and without any code from the folder.

    Args:
        layer: whose output is wanted; see `Layers`.
        bits: none, int8 (torchao) or int4 (bitsandbytes).

    Raises:
        CheckpointError: it cannot be read, or lacks weights.
    """
    library = require("transformers", INSTALL_EXTRA, "core.transformers")
    with _silence_transformers(library), _convert_errors(folder):
        config = library.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        network, report = _auto_class(library, config).from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise CheckpointError(f"{folder} lacks {missing[0]} (and {len(missing) - 1} more); fetch the weights again")
    network = network.get_encoder() if config.is_encoder_decoder else network
    return quantize_linears(
        TruncatedEncoder(getattr(network, "language_model", network), hidden_state_index, str(folder)), quantize
    )


def _auto_class(library: Any, config: Any) -> Any:
    names = library.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    return library.AutoModelForTextEncoding if config.model_type in names else library.AutoModel


def quantize_linears(network: TruncatedEncoder, quantize: str) -> TruncatedEncoder:
    """The same network with the weights of its linear layers in 8 bits (torchao) or 4 (bitsandbytes, nf4).

    Raises:
        PluginError: the library for it is not installed.
    """
    if quantize == "int8":
        library = require("torchao.quantization", "lumina-core[quantize]", "`quantize: int8`")
        library.quantize_(network, library.Int8WeightOnlyConfig())
    if quantize == "int4":
        library = require("bitsandbytes", "lumina-core[quantize]", "`quantize: int4`")
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                # its kernels take blocks of 64: what does not fit stays as it is
                if type(child) is nn.Linear and not (child.in_features % 64 or child.out_features % 64):
                    setattr(parent, name, _linear_4bit(library, child))
    return network


def _linear_4bit(library: Any, layer: nn.Linear) -> nn.Module:
    dtype, bias = layer.weight.dtype, layer.bias is not None
    quantized: nn.Module = library.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=bias, quant_type="nf4", compute_dtype=dtype
    )
    quantized.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    quantized.bias = layer.bias
    return quantized.to(layer.weight.device)


@contextmanager
def _silence_transformers(library: Any) -> Iterator[None]:
    """The library neither draws a bar nor warns; what went before comes back."""
    logs = library.utils.logging
    level, progress_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        with silence_logs():
            yield
    finally:
        logs.set_verbosity(level)
        if progress_bars:
            logs.enable_progress_bar()


@contextmanager
def _convert_errors(folder: Path) -> Iterator[None]:
    """Whatever the library says of a folder, in a line of ours."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder} cannot be read as a language model or its tokenizer ({type(error).__name__}: {reason}); "
            "wanted config.json, safetensors and tokenizer.json of a model that transformers knows"
        ) from error


FILE_PATTERNS = ("*.json", "*.model", "*.txt", "*.jinja", "model*.safetensors")
MAX_BATCH_SIZE = 32
"""Texts that are read together at most."""
_NON_NUMERIC_OPTIONS = {"device", "unload_after_use", "sha256"}
"""Options that change no number of what is said."""


class TransformersConditioner(nn.Module, Conditioner):
    """Reads texts with a pretrained network of the library transformers, loaded when the first text is read.

    The defaults are Lumina-Next's (lumina_next_t2i_mini/sample.py): Gemma-2B, the output of the layer before the last,
    at most 256 pieces with <bos> first, padded on the right to a multiple of 8; the summary is the mean of the memory's
    real entries; silence is the empty text, as in its caption dropout. Entries under the mask are zero. Padding is put
    there by us, so that a tokenizer needs no padding piece.

    The network is no part of the model's weights: it is named by `source` and, once saved, held to its sha256.
    """

    cacheable = True

    class Config(PretrainedConfig):
        """Which network, and what is read of it. `width` spares looking into the source when a model is built."""

        source: str = Field("google/gemma-2b", description="folder with config.json and safetensors, or a hub name")
        tokenizer: str | None = Field(None, description="folder or hub name of the tokenizer; None: the source")
        hidden_state_index: int = Field(
            -2, description="whose output: -1 the last one's after its norm, -2 the one before, 0 none's"
        )
        max_length: int = Field(
            256, ge=1, le=131072, description="pieces read; the rest of a longer text is cut off, and said"
        )
        padding_side: Literal["right", "left"] = Field("right", description="where shorter texts are filled up")
        pad_to_multiple_of: int = Field(8, ge=1, description="the memory's length is rounded up to a multiple of it")
        pad_to_max_length: bool = Field(False, description="always fill up to `length`")
        use_attention_mask: bool = Field(
            True, description="False: padding counts as real, as in the published music model"
        )
        prefix: str = Field("", description="put before every text that is not empty")
        apply_chat_template: bool = Field(
            False, description="put every text that is not empty into the tokenizer's chat template"
        )
        mean_pooled: bool = Field(True, description="the mean of the memory as summary")
        hidden_size: int | None = Field(None, ge=1, description="of a memory entry; None: as the source says")
        quantize: Literal["none", "int8", "int4"] = Field(
            "none", description="weights in so few bits (pip install 'lumina-core[quantize]')"
        )
        unload_after_use: bool = Field(False, description="give the network's memory back after each reading")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cross_attention_dim = config.hidden_size or read_hidden_size(self._model_dir())
        self.pooled_dim = self.cross_attention_dim if config.mean_pooled else 0
        self.encoder = FrozenModule(self._load, config.device)
        self._tokenizer: TextTokenizer | None = None
        self._use_float32 = False  # float16 has overflowed: another format from now on

    def encode(self, values: Sequence[str]) -> Condition:
        """Texts -> memory (B, M, width) with its mask, and their mean as summary.

        Raises:
            CheckpointError: the source is not there, is cut short, or is not what `sha256` says.
            PluginError: transformers is not installed.
        """
        rows = [self._token_ids(value) for value in values]
        length = self._padded_length(max(map(len, rows)))
        batches = [
            self._encode_batch(rows[k : k + MAX_BATCH_SIZE], length) for k in range(0, len(rows), MAX_BATCH_SIZE)
        ]
        if self.config.unload_after_use:
            self.encoder.unload()
        anchor = self.encoder.device_anchor  # it is moved with the model: say it there, in the model's number format
        context, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
        context_mask = None if bool(mask.all()) else mask.to(anchor.device)
        mean = mean_pool(context.float(), mask.to(context.device)) if self.config.mean_pooled else None
        return Condition(context.to(anchor), context_mask, None if mean is None else mean.to(anchor))

    def null_condition(self, batch: int) -> Condition:
        """Silence is the empty text, without prefix or template."""
        condition = self.encode([""])
        return select(condition, torch.zeros(batch, dtype=torch.int64))

    def truncated_text(self, text: str) -> str:
        """The end of a text that is longer than `length` pieces, which `encode` cuts off; empty for most."""
        return self._load_tokenizer().truncated_text(
            self._apply_template(text), add_special_tokens=not (self.config.apply_chat_template and text)
        )

    def fingerprint(self) -> str:
        """What decides the numbers that are said of a text: the files and the options."""
        options = self.config.model_dump(
            exclude=_NON_NUMERIC_OPTIONS | {"source", "tokenizer", "subfolder", "revision"}
        )
        content = json.dumps({**options, "files": digest(*self._dirs())}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def pin_hashes(self) -> dict[str, Any]:
        """Options that hold a saved model to the files that it was made with."""
        return {"sha256": digest(*self._dirs())}

    def check_available(self) -> None:
        """Look whether the source is there, without reading its weights."""
        self._model_dir()
        self._load_tokenizer()

    def _apply_template(self, text: str) -> str:
        return (
            self._load_tokenizer().apply_template(text, self.config.prefix, self.config.apply_chat_template)
            if text
            else text
        )

    def _token_ids(self, text: str) -> list[int]:
        return self._load_tokenizer().token_ids(
            self._apply_template(text), add_special_tokens=not (self.config.apply_chat_template and text)
        )

    def _padded_length(self, length: int) -> int:
        if self.config.pad_to_max_length:
            return self.config.max_length
        return -(-length // self.config.pad_to_multiple_of) * self.config.pad_to_multiple_of

    def _encode_batch(self, rows: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
        """Memory (B, length, width), zero where nothing is real, and which entries are (B, length)."""
        network = self.encoder.network()
        ids, mask = (tensor.to(self.encoder.device) for tensor in self._pad(rows, length))
        context = network(ids, mask)
        if not bool(torch.isfinite(context[mask]).all()):
            self._switch_to_float32(network.dtype)
            return self._encode_batch(rows, length)
        context = context * mask.to(context)[..., None] if self.config.use_attention_mask else context
        return context, mask

    def _pad(self, rows: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
        pad_id, right = self._load_tokenizer().pad_id, self.config.padding_side == "right"
        ids = torch.full((len(rows), length), pad_id)
        mask = torch.full((len(rows), length), not self.config.use_attention_mask)
        for index, row in enumerate(rows):
            span = slice(0, len(row)) if right else slice(length - len(row), length)
            ids[index, span] = torch.tensor(row)
            mask[index, span] = True
        return ids, mask

    def _switch_to_float32(self, dtype: torch.dtype) -> None:
        if dtype != torch.float16 or self._use_float32:
            raise LuminaError(
                f"{self.config.source} answered what is no number; its weights are broken, or fit no text"
            )
        warnings.warn(f"{self.config.source} overflows in float16; read in float32 instead", stacklevel=4)
        self._use_float32 = True
        self.encoder.unload()

    def _load(self, device: torch.device) -> nn.Module:
        folder = self._model_dir()
        verify_sha256(self.config, *self._dirs())
        dtype = torch.float32 if self._use_float32 else self.config.resolve_dtype(folder, device)
        network = load_encoder(folder, self.config.hidden_state_index, dtype, self.config.quantize)
        if network.hidden_size != self.cross_attention_dim:
            raise ConfigError(
                f"core.transformers: {self.config.source} is {network.hidden_size} wide, and `hidden_size` says {self.cross_attention_dim}"
            )
        return network

    def _load_tokenizer(self) -> TextTokenizer:
        if self._tokenizer is None:
            self._tokenizer = TextTokenizer(self._tokenizer_dir(), self.config.max_length)
        return self._tokenizer

    def _model_dir(self) -> Path:
        return resolve_path(self.config, FILE_PATTERNS)

    def _tokenizer_dir(self) -> Path:
        if self.config.tokenizer is None:
            return self._model_dir()
        source = {"source": self.config.tokenizer, "subfolder": ""}
        return resolve_path(self.config.model_copy(update=source), FILE_PATTERNS[:-1], "tokenizer_config.json")

    def _dirs(self) -> tuple[Path, Path]:
        return self._model_dir(), self._tokenizer_dir()
