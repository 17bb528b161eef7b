"""Pretrained language models of the library transformers: their tokenizers, and the output of one of their layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.outside import described, hushed, needed

WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
"""What the width of a layer is called in the settings of one family or another."""
INSTALL = "lumina-core[transformers]"


def width_of(folder: Path) -> int:
    """Width of a network's layers, from its config.json, without the library.

    Raises:
        ConfigError: the settings say no width.
    """
    settings = read_config(folder)
    for name in WIDTHS:
        if isinstance(settings.get(name), int):
            return int(settings[name])
    raise ConfigError(f"{folder / 'config.json'} says no width; is it a language model? Give `width` yourself")


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of the part of a network that reads text."""
    content = described(folder)
    inner = content.get("text_config")
    return dict(inner) if isinstance(inner, dict) else content


class Reader:
    """A tokenizer: texts into piece numbers, at most `length` of them."""

    def __init__(self, folder: Path, length: int) -> None:
        library = needed("transformers", INSTALL, "core.transformers")
        self.length = length
        with _quiet(library), _explained(folder):
            self._tokenizer = library.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, truncation_side="right", local_files_only=True
            )

    @property
    def filler(self) -> int:
        """A piece for places that nobody looks at; any will do."""
        return int(self._tokenizer.pad_token_id or 0)

    def worded(self, text: str, prefix: str, chat: bool) -> str:
        """A text with its prefix, in the tokenizer's chat template where that is asked for.

        Raises:
            ConfigError: the tokenizer has no template.
        """
        if not chat:
            return prefix + text
        if not self._tokenizer.chat_template:
            raise ConfigError("core.transformers: `chat` asks for a template, and this tokenizer has none")
        said: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prefix + text}], tokenize=False, add_generation_prompt=True
        )
        return said

    def numbers(self, text: str, plain: bool = True) -> list[int]:
        """Piece numbers, special ones among them, never none.

        Args:
            plain: put the tokenizer's special pieces around it; a chat template brings them itself.
        """
        return self._asked(text, plain, truncation=True, max_length=self.length) or [self._alone()]

    def unread(self, text: str, plain: bool = True) -> str:
        """What of a text lies behind the last piece that is read."""
        whole, read = self._asked(text, plain), self.numbers(text, plain)
        if len(whole) <= len(read):
            return ""
        same = next((k for k, (a, b) in enumerate(zip(whole, read, strict=False)) if a != b), len(read))
        rest: str = self._tokenizer.decode(whole[same:], skip_special_tokens=True)
        return rest

    def _asked(self, text: str, plain: bool, **cut: Any) -> list[int]:
        numbers: list[int] = self._tokenizer(text, add_special_tokens=plain, verbose=False, **cut).input_ids
        return numbers

    def _alone(self) -> int:
        # tokenizers without any mark make nothing of the empty text; a memory needs one real entry, or its mean is 0/0
        known = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id, 0)
        return int(next(number for number in known if number is not None))


class Layers(nn.Module):
    """A network up to one of its layers: piece numbers in, that layer's output out.

    Layers are counted as transformers counts its `hidden_states`: 0 is the embedding, the last is after the final norm.
    """

    def __init__(self, network: Any, layer: int, name: str) -> None:
        super().__init__()
        depth = int(network.config.num_hidden_layers)
        place = depth + 1 + layer if layer < 0 else layer
        if not 0 <= place <= depth:
            raise ConfigError(f"core.transformers: {name} has {depth} layers; `layer` {layer} is none of them")
        self.network, self.place = network, place
        self.last = place == depth or _cut(network, place)
        self.placed = "position_ids" in inspect.signature(network.forward).parameters
        network.config.use_cache = False

    @property
    def width(self) -> int:
        """Of what comes out."""
        return int(self.network.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the network."""
        found: torch.dtype = self.network.dtype
        return found

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """ids (B, M) and which are real (B, M) bool -> (B, M, width), without gradient and outside any autocast."""
        asked: dict[str, Any] = {"input_ids": ids, "attention_mask": real.long(), "output_hidden_states": not self.last}
        if self.placed and not bool(real[:, 0].all()):
            # filled up on the left: count from the first real piece, as if the text stood alone
            asked["position_ids"] = (real.long().cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            answer = self.network(**asked)
        read: Tensor = answer.last_hidden_state if self.last else answer.hidden_states[self.place]
        return read


def _cut(network: Any, place: int) -> bool:
    """Take off the layers above `place` and the final norm, where the network is a plain row of layers."""
    layers = getattr(network, "layers", None)
    if not (isinstance(layers, nn.ModuleList) and hasattr(network, "norm") and place):
        return False
    if len(layers) != network.config.num_hidden_layers:
        return False
    network.layers, network.norm = layers[:place], nn.Identity()
    network.config.num_hidden_layers = place
    return True


def load_network(folder: Path, layer: int, dtype: torch.dtype, bits: str) -> Layers:
    """The network of a folder, safetensors only and without any code from the folder.

    Args:
        layer: whose output is wanted; see `Layers`.
        bits: none, int8 (torchao) or int4 (bitsandbytes).

    Raises:
        CheckpointError: it cannot be read, or lacks weights.
    """
    library = needed("transformers", INSTALL, "core.transformers")
    with _quiet(library), _explained(folder):
        settings = library.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        network, report = _class_for(library, settings).from_pretrained(
            folder, config=settings, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    lacking = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if lacking:
        raise CheckpointError(f"{folder} lacks {lacking[0]} (and {len(lacking) - 1} more); fetch the weights again")
    network = network.get_encoder() if settings.is_encoder_decoder else network
    return quantized(Layers(getattr(network, "language_model", network), layer, str(folder)), bits)


def _class_for(library: Any, settings: Any) -> Any:
    names = library.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    return library.AutoModelForTextEncoding if settings.model_type in names else library.AutoModel


def quantized(network: Layers, bits: str) -> Layers:
    """The same network with the weights of its linear layers in 8 bits (torchao) or 4 (bitsandbytes, nf4).

    Raises:
        PluginError: the library for it is not installed.
    """
    if bits == "int8":
        library = needed("torchao.quantization", "lumina-core[quantize]", "`quantize: int8`")
        library.quantize_(network, library.Int8WeightOnlyConfig())
    if bits == "int4":
        library = needed("bitsandbytes", "lumina-core[quantize]", "`quantize: int4`")
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                # its kernels take blocks of 64: what does not fit stays as it is
                if type(child) is nn.Linear and not (child.in_features % 64 or child.out_features % 64):
                    setattr(parent, name, _four_bits(library, child))
    return network


def _four_bits(library: Any, layer: nn.Linear) -> nn.Module:
    dtype, bias = layer.weight.dtype, layer.bias is not None
    small: nn.Module = library.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=bias, quant_type="nf4", compute_dtype=dtype
    )
    small.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    small.bias = layer.bias
    return small.to(layer.weight.device)


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """The library neither draws a bar nor warns; what went before comes back."""
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with hushed():
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
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
