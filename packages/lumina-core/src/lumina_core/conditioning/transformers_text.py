"""Text conditioner with a pretrained language model of the library transformers: the output of one of its layers."""

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
    suppress_logs,
    verify_sha256,
)
from lumina_core.protocols import Conditioner
from lumina_core.types import Condition

FILE_PATTERNS = ("*.json", "*.model", "*.txt", "*.jinja", "model*.safetensors")
INSTALL_EXTRA = "lumina-core[transformers]"
MAX_BATCH_SIZE = 32
"""Largest number of texts in one batch of the language model."""
_HIDDEN_SIZE_KEYS = ("hidden_size", "d_model", "n_embd", "dim")
_NON_NUMERIC_OPTIONS = {"device", "unload_after_use", "sha256", "source", "tokenizer", "subfolder", "revision"}


def read_hidden_size(folder: Path) -> int:
    """Read the width of a network's layers from its config.json, without the library.

    Raises:
        ConfigError: the file states no width.
    """
    config = read_text_config(folder)
    for name in _HIDDEN_SIZE_KEYS:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ConfigError(f"{folder / 'config.json'} states no width of a language model. Set the option `hidden_size`.")


def read_text_config(folder: Path) -> dict[str, Any]:
    """Read the config of a network, or of its text network if it has several."""
    content = read_config(folder)
    text_config = content.get("text_config")
    return dict(text_config) if isinstance(text_config, dict) else content


class TextTokenizer:
    """A pretrained tokenizer: text -> at most `max_length` token ids."""

    def __init__(self, folder: Path, max_length: int) -> None:
        library = require("transformers", INSTALL_EXTRA, "core.transformers")
        self.max_length = max_length
        with _suppress_output(library), _convert_errors(folder):
            self._tokenizer = library.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, truncation_side="right", local_files_only=True
            )

    @property
    def pad_id(self) -> int:
        """Token id of padding; any id will do, since padding is masked."""
        return int(self._tokenizer.pad_token_id or 0)

    def apply_template(self, text: str, prefix: str, apply_chat_template: bool) -> str:
        """Put the prefix before a text, and both into the tokenizer's chat template if requested.

        Raises:
            ConfigError: the tokenizer has no template.
        """
        if not apply_chat_template:
            return prefix + text
        if not self._tokenizer.chat_template:
            raise ConfigError("apply_chat_template: got true, expected false: this tokenizer has no template.")
        templated: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prefix + text}], tokenize=False, add_generation_prompt=True
        )
        return templated

    def token_ids(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return token ids, at least one.

        Args:
            add_special_tokens: whether to add the tokenizer's special tokens; a chat template has its own.
        """
        ids = self._tokenize(text, add_special_tokens, truncation=True, max_length=self.max_length)
        return ids or [self._fallback_id()]

    def truncated_text(self, text: str, add_special_tokens: bool = True) -> str:
        """Return the end of a text behind the last token that `token_ids` returns."""
        all_ids, read_ids = self._tokenize(text, add_special_tokens), self.token_ids(text, add_special_tokens)
        if len(all_ids) <= len(read_ids):
            return ""
        differing = (k for k, (a, b) in enumerate(zip(all_ids, read_ids, strict=False)) if a != b)
        remainder: str = self._tokenizer.decode(all_ids[next(differing, len(read_ids)) :], skip_special_tokens=True)
        return remainder

    def _tokenize(self, text: str, add_special_tokens: bool, **truncation: Any) -> list[int]:
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=add_special_tokens, verbose=False, **truncation
        ).input_ids
        return ids

    def _fallback_id(self) -> int:
        # some tokenizers return no id for the empty text; a context needs one entry, or its mean is 0/0
        special_ids = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id, 0)
        return int(next(number for number in special_ids if number is not None))


class TruncatedEncoder(nn.Module):
    """A language model up to one of its layers: token ids -> the output of that layer.

    Layers are counted as transformers counts `hidden_states`: 0 is the embedding, the last one is after the final norm.
    Layers above are removed if the network is a plain list of layers.
    """

    def __init__(self, network: Any, hidden_state_index: int, name: str) -> None:
        super().__init__()
        num_layers = int(network.config.num_hidden_layers)
        index = num_layers + 1 + hidden_state_index if hidden_state_index < 0 else hidden_state_index
        if not 0 <= index <= num_layers:
            raise ConfigError(
                f"hidden_state_index: got {hidden_state_index}, expected {-num_layers - 1} to {num_layers} for {name}."
            )
        self.network, self.index = network, index
        self.returns_last_hidden_state = index == num_layers or _truncate_layers(network, index)
        self.takes_position_ids = "position_ids" in inspect.signature(network.forward).parameters
        network.config.use_cache = False

    @property
    def hidden_size(self) -> int:
        """Width of the output."""
        return int(self.network.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the network."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode token ids (B, M) with their mask (B, M) bool to (B, M, hidden_size), without gradient or autocast."""
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "output_hidden_states": not self.returns_last_hidden_state,
        }
        if self.takes_position_ids and not bool(mask[:, 0].all()):
            # padded on the left: count from the first real token, as without padding
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            output = self.network(**inputs)
        last: Tensor = output.last_hidden_state
        return last if self.returns_last_hidden_state else output.hidden_states[self.index]


def _truncate_layers(network: Any, num_layers: int) -> bool:
    """Remove the layers from `num_layers` on and the final norm; False if the network is no plain list of layers."""
    children = dict(network.named_children())
    layers = children.get("layers")
    if not (isinstance(layers, nn.ModuleList) and "norm" in children and num_layers):
        return False
    if len(layers) != network.config.num_hidden_layers:
        return False
    network.layers, network.norm = layers[:num_layers], nn.Identity()
    network.config.num_hidden_layers = num_layers
    return True


def load_encoder(folder: Path, hidden_state_index: int, dtype: torch.dtype, quantize: str) -> TruncatedEncoder:
    """Load the network of a folder, from safetensors only and without any code of the folder.

    Args:
        hidden_state_index: layer whose output is returned, see `TruncatedEncoder`; negative from the end.
        quantize: none, int8 (torchao) or int4 (bitsandbytes).

    Raises:
        CheckpointError: the folder cannot be read, or weights are missing.
    """
    library = require("transformers", INSTALL_EXTRA, "core.transformers")
    with _suppress_output(library), _convert_errors(folder):
        config = library.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        names = library.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        auto_class = library.AutoModelForTextEncoding if config.model_type in names else library.AutoModel
        network, report = auto_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise CheckpointError(
            f"{folder}: missing {missing[0]} and {len(missing) - 1} more. Download the weights again."
        )
    network = network.get_encoder() if config.is_encoder_decoder else network
    text_network = getattr(network, "language_model", network)  # of a model of several modalities
    return quantize_linears(TruncatedEncoder(text_network, hidden_state_index, str(folder)), quantize)


def quantize_linears(network: TruncatedEncoder, quantize: str) -> TruncatedEncoder:
    """Quantize the weights of linear layers in place: 8 bits (torchao) or 4 bits (bitsandbytes, nf4).

    Raises:
        PluginError: the library is not installed.
    """
    if quantize == "int8":
        library = require("torchao.quantization", "lumina-core[quantize]", "`quantize: int8`")
        library.quantize_(network, library.Int8WeightOnlyConfig())
    if quantize == "int4":
        library = require("bitsandbytes", "lumina-core[quantize]", "`quantize: int4`")
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                # its kernels take blocks of 64; other layers stay
                if type(child) is nn.Linear and not (child.in_features % 64 or child.out_features % 64):
                    setattr(parent, name, _linear_4bit(library, child))
    return network


def _linear_4bit(library: Any, layer: nn.Linear) -> nn.Module:
    quantized: nn.Module = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        quant_type="nf4",
        compute_dtype=layer.weight.dtype,
    )
    quantized.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    quantized.bias = layer.bias
    return quantized.to(layer.weight.device)


@contextmanager
def _suppress_output(library: Any) -> Iterator[None]:
    """Suppress warnings and progress bars of the library; its settings are restored afterwards."""
    logs = library.utils.logging
    level, progress_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        with suppress_logs():
            yield
    finally:
        logs.set_verbosity(level)
        if progress_bars:
            logs.enable_progress_bar()


@contextmanager
def _convert_errors(folder: Path) -> Iterator[None]:
    """Raise CheckpointError for any error of the library."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder} cannot be read as a language model or its tokenizer ({type(error).__name__}: {reason}). It "
            "needs config.json, safetensors and tokenizer.json of a model that transformers supports."
        ) from error


class TransformersConditioner(nn.Module, Conditioner):
    """Encode texts with a pretrained language model, which is loaded with the first text.

    The defaults are those of Lumina-Next (lumina_next_t2i_mini/sample.py): Gemma-2B, the output of the second to last
    layer, at most 256 tokens with <bos> first, padded on the right to a multiple of 8. The pooled vector is the mean of
    the real entries of the context; the null condition is the empty text, as in its caption dropout. Masked entries are
    zero. Padding is added here, so that a tokenizer needs no padding token.

    The network is not part of the model's weights: `source` names it, and a saved model pins its sha256.
    """

    cacheable = True

    class Config(PretrainedConfig):
        """Source of the network and its output; `hidden_size` avoids reading the source when a model is built."""

        source: str = Field("google/gemma-2b", description="folder with config.json and safetensors, or a hub name")
        tokenizer: str | None = Field(None, description="folder or hub name of the tokenizer; None: the source")
        hidden_state_index: int = Field(
            -2, description="layer of the output: -1 the last after its norm, -2 the one before, 0 the embedding"
        )
        max_length: int = Field(256, ge=1, le=131072, description="tokens; the end of a longer text is cut off")
        padding_side: Literal["right", "left"] = Field("right", description="side of padding")
        pad_to_multiple_of: int = Field(8, ge=1, description="the length of the context is a multiple of it")
        pad_to_max_length: bool = Field(False, description="pad every text to `max_length`")
        use_attention_mask: bool = Field(
            True, description="False: padding counts as real, as in the published music model"
        )
        prefix: str = Field("", description="text before every text that is not empty")
        apply_chat_template: bool = Field(False, description="apply the tokenizer's chat template")
        mean_pooled: bool = Field(True, description="the pooled vector is the mean of the context")
        hidden_size: int | None = Field(None, ge=1, description="width of the context; None: as the source states")
        quantize: Literal["none", "int8", "int4"] = Field(
            "none", description="bits of the weights of linear layers, by torchao or bitsandbytes"
        )
        unload_after_use: bool = Field(False, description="free the network's memory after each batch of texts")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cross_attention_dim = config.hidden_size or read_hidden_size(self._model_dir())
        self.pooled_dim = self.cross_attention_dim if config.mean_pooled else 0
        self.encoder = FrozenModule(self._load, config.device)
        self._tokenizer: TextTokenizer | None = None
        self._use_float32 = False  # set when float16 has overflowed

    def encode(self, values: Sequence[str]) -> Condition:
        """Encode texts to a context (B, M, hidden_size) with its mask, and their mean as pooled vector.

        Raises:
            CheckpointError: the source is missing or damaged, or has another sha256.
            PluginError: transformers is not installed.
        """
        rows = [self._token_ids(value) for value in values]
        length = self._padded_length(max(map(len, rows)))
        batches = [
            self._encode_batch(rows[k : k + MAX_BATCH_SIZE], length) for k in range(0, len(rows), MAX_BATCH_SIZE)
        ]
        if self.config.unload_after_use:
            self.encoder.unload()
        anchor = self.encoder.device_anchor  # has the model's device and dtype
        context, mask = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        context_mask = None if bool(mask.all()) else mask.to(anchor.device)
        mean = mean_pool(context.float(), mask.to(context.device)) if self.config.mean_pooled else None
        return Condition(context.to(anchor), context_mask, None if mean is None else mean.to(anchor))

    def null_condition(self, batch: int) -> Condition:
        """Return the condition of the empty text, without prefix or template."""
        return select(self.encode([""]), torch.zeros(batch, dtype=torch.int64))

    def truncated_text(self, value: str) -> str:
        """Return the end of a text that is longer than `max_length` tokens; empty for most."""
        return self._load_tokenizer().truncated_text(*self._templated(value))

    def fingerprint(self) -> str:
        """Return a digest of all that decides the conditions: the files and the options."""
        options = self.config.model_dump(exclude=_NON_NUMERIC_OPTIONS)
        content = json.dumps({**options, "files": digest(*self._dirs())}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def pin_hashes(self) -> dict[str, Any]:
        """Return the sha256 of the files."""
        return {"sha256": digest(*self._dirs())}

    def check_available(self) -> None:
        """Raise CheckpointError if the source or its tokenizer is missing; reads no weights."""
        self._model_dir()
        self._load_tokenizer()

    def _templated(self, text: str) -> tuple[str, bool]:
        """Return a text with prefix and template, and whether the tokenizer adds its special tokens."""
        if not text:
            return text, True
        config = self.config
        templated = self._load_tokenizer().apply_template(text, config.prefix, config.apply_chat_template)
        return templated, not config.apply_chat_template

    def _token_ids(self, text: str) -> list[int]:
        return self._load_tokenizer().token_ids(*self._templated(text))

    def _padded_length(self, length: int) -> int:
        if self.config.pad_to_max_length:
            return self.config.max_length
        return -(-length // self.config.pad_to_multiple_of) * self.config.pad_to_multiple_of

    def _encode_batch(self, rows: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
        """Return the context (B, length, hidden_size), zero under the mask, and the mask (B, length)."""
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
            raise LuminaError(f"source: the output of {self.config.source} is not finite. Use other weights or texts.")
        warnings.warn(f"{self.config.source} overflows in float16; it is used in float32 instead", stacklevel=4)
        self._use_float32 = True
        self.encoder.unload()

    def _load(self, device: torch.device) -> nn.Module:
        folder = self._model_dir()
        verify_sha256(self.config, *self._dirs())
        dtype = torch.float32 if self._use_float32 else self.config.resolve_dtype(folder, device)
        network = load_encoder(folder, self.config.hidden_state_index, dtype, self.config.quantize)
        if network.hidden_size != self.cross_attention_dim:
            raise ConfigError(
                f"core.transformers: hidden_size: got {self.cross_attention_dim}, expected {network.hidden_size}, the "
                f"width of {self.config.source}."
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
