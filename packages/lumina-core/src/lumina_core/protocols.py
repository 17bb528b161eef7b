"""Contracts of all component types: base classes with defaults, and protocols for plain functions and networks.

A component derives from the base class of its type, if there is one (`BASE_CLASSES`), so that optional methods always
exist. Protocols are fulfilled by any class with the same methods.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from lumina_core.config import Config
from lumina_core.errors import ConfigError, suggest
from lumina_core.io import atomic_file
from lumina_core.types import (
    BackboneOutput,
    Batch,
    Condition,
    GenerationOutput,
    InitData,
    Loss,
    RegionalPrompts,
    RopeContext,
    Size,
    Tokens,
    VariationInput,
)

if TYPE_CHECKING:  # requests are checked without torch, which takes seconds to import
    import torch
    from torch import Tensor

    from lumina_core.checkpoint.lazy_tensors import ExportPlan, LoadedCheckpoint

Velocity = Callable[["Tensor", float], "Tensor"]
"""(x (B, ...), t) -> dx/dt (B, ...), pointing to data. `t` is a Python float in 0..1, the same for the whole batch.

During sampling `t` is rounded to float32, the dtype in which the network reads it.
"""

NoiseFn = Callable[[], "Tensor"]
"""Draw standard normal noise of x's shape, each item's from its own generator."""

Predict = Callable[[Tokens, "Tensor | None", Condition], "Tensor"]
"""(noisy tokens, time (B,) or None, condition) -> output of the head."""

Example = Mapping[str, Any]
"""One example by field name: `image` a tensor, `caption` a string, ..."""


class Component:
    """Base class of components that may have weights.

    The two methods return names of parameters relative to the component, such as `layers.0.weight`.
    """

    def no_weight_decay(self) -> set[str]:
        """Return parameters that are trained without weight decay; vectors and scalars never have any."""
        return set()

    def no_muon(self) -> set[str]:
        """Return matrices that AdamW trains even if `training.optimizer` is `muon`: tables, input and output layers."""
        return set()


class Tokenizer(ABC):
    """Base class of tokenizers: latent <-> tokens, an exact rearrangement without weights.

    Attributes:
        width: D, numbers per token.
        patch_size: latent samples per token along each axis, for a tokenizer of even patches. Initial data whose size
            is no multiple of it is padded. None: patches are not even.
    """

    width: int
    patch_size: tuple[int, ...] | None = None

    @abstractmethod
    def patchify(self, latent: Tensor) -> Tokens:
        """Convert a latent (B, C, ...) to tokens (B, N, D)."""

    @abstractmethod
    def unpatchify(self, tokens: Tokens) -> Tensor:
        """Convert tokens of one size back to the latent; the exact inverse of `patchify`."""

    @abstractmethod
    def empty(self, batch: int, size: Size) -> Tokens:
        """Make tokens of zeros with the positions of a latent of this size.

        Raises:
            ShapeError: the size cannot be cut into tokens.
        """


class Autoencoder(Component, ABC):
    """Base class of autoencoders: data in [-1, 1] <-> a latent of zero mean and unit variance.

    Scale and shift belong to the autoencoder. One that can be trained alone also has `loss`, see `SupportsLoss`.

    Attributes:
        channels: C of the latent.
        downsample_factor: data samples per latent sample, along each axis.
        fixed_task_options: task options that the data of this autoencoder fix, such as a sample rate. A recipe may
            leave them out, and must not contradict them.
    """

    channels: int
    downsample_factor: tuple[int, ...]
    fixed_task_options: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def encode(self, data: Tensor) -> Tensor:
        """Encode data (B, channels of the data, ...) to a latent (B, C, ...)."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Decode a latent to data, not clamped."""

    def check_available(self) -> None:
        """Raise CheckpointError if pretrained weights are missing; reads none of them."""

    def pin_hashes(self) -> Mapping[str, Any]:
        """Return options that pin pretrained weights in a saved recipe (`sha256`); empty without such weights."""
        return {}


class Conditioner(Component, ABC):
    """Base class of conditioners: values of one field -> Condition.

    One that learns from the values of the data set (a vocabulary) also has `fit`, see `SupportsFit`; one that makes
    reference tokens from data has `set_codec`, see `SupportsReferences`.

    Attributes:
        cross_attention_dim: width of the context; 0 for none.
        pooled_dim: width of the pooled vector; 0 for none.
        token_condition_dim: width of the token condition, which has one vector per token of the data; 0 for none.
        cacheable: whether a training caches conditions by value while the conditioner is frozen. For large pretrained
            networks; a cheap conditioner is faster with a whole batch.
    """

    cross_attention_dim: int = 0
    pooled_dim: int = 0
    token_condition_dim: int = 0
    cacheable: bool = False

    @abstractmethod
    def encode(self, values: Sequence[Any]) -> Condition:
        """Encode one value per item to the condition of a batch.

        Raises:
            ConfigError: a value is invalid.
        """

    @abstractmethod
    def null_condition(self, batch: int) -> Condition:
        """Return the condition of no input, for classifier-free guidance and for dropped conditions."""

    def truncated_text(self, value: Any) -> str:
        """Return the end of a text that `encode` cuts off; empty for most."""
        return ""

    def predict_targets(self, condition: Condition) -> Tensor | None:
        """Predict coarse data (B, M, D) from a condition, for pretraining without a backbone; None: not supported."""
        return None

    def map_children(self, fn: Callable[[Conditioner], Conditioner]) -> Conditioner:
        """Return this conditioner with `fn` applied to each conditioner inside it; itself if there are none."""
        return self

    def fingerprint(self) -> str | None:
        """Return a digest of all that decides the conditions (files, options); None: no cache on disk."""
        return None

    def check_available(self) -> None:
        """Raise CheckpointError if pretrained weights are missing; reads none of them."""

    def pin_hashes(self) -> Mapping[str, Any]:
        """Return options that pin pretrained weights in a saved recipe (`sha256`); empty without such weights."""
        return {}


@runtime_checkable
class SupportsConfig(Protocol):
    """A component that keeps its config."""

    config: Any


def options_of(component: object) -> dict[str, Any]:
    """Return the options of a component by name; empty if it keeps no config."""
    if isinstance(component, SupportsConfig) and isinstance(component.config, Config):
        return dict(component.config)
    return {}


def name_of(component: object) -> str:
    """Return the name of a function or class, or of the class of an object."""
    return str(getattr(component, "__name__", type(component).__name__))


@runtime_checkable
class SupportsFit(Protocol):
    """A conditioner that reads the values of the data set once before training, to build a vocabulary for example."""

    def fit(self, values: Sequence[Any]) -> None:
        """Read all values; called once, at the start of a new training."""
        ...


@runtime_checkable
class SupportsReferences(Protocol):
    """A conditioner that makes reference tokens from data, by the model's own autoencoder and tokenizer."""

    def set_codec(self, autoencoder: Autoencoder, tokenizer: Tokenizer) -> None:
        """Store the model's components; called once, when the model is built. Their weights stay the model's."""
        ...


@runtime_checkable
class SupportsLoss(Protocol):
    """An autoencoder that can be trained alone, by the objective `core.reconstruction`."""

    def loss(self, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Return the loss of data (B, channels, ...) in [-1, 1], with one random generator per item."""
        ...


class Backbone(Protocol):
    """Network over tokens, the only component in which tokens interact."""

    def __call__(
        self, tokens: Tokens, t: Tensor | None, condition: Condition, *, precomputed: Any = None
    ) -> BackboneOutput:
        """Compute hidden states (B, N, C) of tokens (B, N, D) at time (B,) in 0..1.

        Args:
            tokens: noisy tokens; clean ones without time.
            t: time, or None for a backbone without time.
            condition: of the batch.
            precomputed: result of `precompute` for the same positions and condition; None: computed here.
        """
        ...

    def precompute(self, tokens: Tokens, condition: Condition) -> Any:
        """Compute what depends on neither time nor the tokens' values: rotary tables, masks, keys of the context."""
        ...


class AttentionTransform:
    """Position-dependent transforms inside one self-attention; each method here is the identity.

    A position encoding returns subclasses. Rotary embedding transforms queries and keys; an encoding of camera poses
    (PRoPE) transforms values and outputs too. All tensors are (B, N, heads, head_dim).

    Attributes:
        query_groups: number of equal runs of consecutive queries for which the keys differ (views whose tokens see a
            key at another position each); `key` then returns (B, query_groups, N, heads, head_dim). 1: no groups.
    """

    query_groups: int = 1

    def query(self, q: Tensor, overwrite: bool = False) -> Tensor:
        """Transform queries; `overwrite`: q is not used elsewhere and may be written to."""
        return q

    def key(self, k: Tensor) -> Tensor:
        """Transform keys."""
        return k

    def cross_query(self, q: Tensor, encoded: Tensor) -> Tensor:
        """Return the queries of the cross-attention, from queries before and after `query`: by default the latter."""
        return encoded

    def value(self, v: Tensor) -> Tensor:
        """Transform values."""
        return v

    def output(self, out: Tensor) -> Tensor:
        """Transform the weighted sums of values."""
        return out


class PositionEncoding(Protocol):
    """Positions -> transforms of queries, keys, values and outputs of self-attention."""

    theta: float
    """Base of the frequencies, for rope scaling."""

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the trained frequencies of the three axes, which rope scaling changes; their last axis counts them."""
        ...

    def __call__(self, positions: Tensor, freqs: Sequence[Tensor]) -> Sequence[AttentionTransform]:
        """Encode positions (B, N, 3) with frequencies in the form of `frequencies`.

        An axis of `freqs` may have two leading dimensions (B, 1) if frequencies differ by item.

        Returns:
            One transform for all blocks, or one per block.
        """
        ...


class RopeScaling(ABC):
    """Base class of methods that change rotary frequencies for sizes larger than in training.

    Attributes:
        time_dependent: True: called once a step; False: called once a request.
        train_size: size of the training data if the options give it: one for all sides, or one per side.
    """

    time_dependent: bool = False
    train_size: tuple[int, ...] | None = None

    @abstractmethod
    def __call__(self, freqs: Sequence[Tensor], rope_context: RopeContext, t: float) -> tuple[Tensor, ...]:
        """Map the trained frequencies of each axis (float64) to those at time t (0 noise, 1 data)."""

    def attn_scale(self, rope_context: RopeContext) -> float:
        """Return a factor of the scale of self-attention, larger than 1 for sharper attention."""
        return 1.0


class Head(Protocol):
    """Hidden states -> output of the network: velocity (B, N, D), class logits (B, K)."""

    def __call__(self, hidden: BackboneOutput, tokens: Tokens) -> Tensor: ...


@runtime_checkable
class BoundedPath(Protocol):
    """A path whose coefficients are infinite at t = 1, so that times stay below it (SiT, arXiv 2401.08740)."""

    train_eps: float
    """Times for training end at 1 - train_eps."""
    sample_eps: float
    """Conversions of predictions use coefficients of at most 1 - sample_eps."""


class ProbPath(Protocol):
    """Probability path from noise (t = 0) to data (t = 1): x_t = alpha(t) data + sigma(t) noise."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...

    def d_alpha(self, t: Tensor) -> Tensor: ...

    def d_sigma(self, t: Tensor) -> Tensor: ...


class TimeSampler(Protocol):
    """Times for training."""

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(B,) in 0..1; one generator an item, so that a sample's time depends on the sample alone."""
        ...


class TimeSchedule(Protocol):
    """Times for sampling."""

    def __call__(self, steps: int) -> Tensor:
        """(steps + 1,) float64, rising, from exactly 0 to exactly 1."""
        ...


@runtime_checkable
class SupportsSteps(Protocol):
    """A schedule with a number of steps of its own."""

    steps: int


class Coupling(Protocol):
    """Coupling of noise and data: which noise each example, or each item of a set, is paired with."""

    def __call__(self, noise: Tensor, tokens: Tokens) -> Tensor:
        """Pair noise (B, N, D) with clean tokens: a permutation of the noise of real tokens; padding stays zero."""
        ...


class Objective(Protocol):
    """Training objective: loss of a batch; where it generates, also the velocity that a prediction stands for."""

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the loss of a batch.

        Args:
            predict: network; (tokens, time (B,) or None, condition) -> output of the head.
            batch: clean tokens, condition, target.
            generators: one per item, the only source of random numbers, so that a draw does not depend on neighbours.
        """
        ...

    def velocity(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Convert a prediction at x (B, N, D) and time (B,) to a velocity (B, N, D).

        Raises:
            ConfigError: a model with this objective does not generate.
        """
        ...


@runtime_checkable
class SupportsPath(Protocol):
    """Objective with a probability path."""

    path: ProbPath


@runtime_checkable
class SupportsAutoencoderLoss(Protocol):
    """Objective that trains the autoencoder alone, on data instead of tokens."""

    def autoencoder_loss(self, autoencoder: Any, data: Tensor, generators: Sequence[torch.Generator]) -> Loss:
        """Compute the mean loss of data (B, channels, ...) of one size, with one generator per item."""
        ...


@runtime_checkable
class SupportsNegatives(Protocol):
    """Objective that compares with examples beyond the batch."""

    def set_negatives(self, values: Tensor) -> None:
        """Store clean tokens (M, N, D) of the data set; called once before training."""
        ...


class SolverStep(Protocol):
    """One solver step from time t to time u: a plain function, accepted wherever a `Solver` is."""

    def __call__(self, velocity: Velocity, x: Tensor, t: float, u: float) -> Tensor: ...


class Solver:
    """Base class of solvers that carry a state from step to step or choose their own steps.

    A subclass defines `step`, and `init` if it has a state; one that chooses its own steps defines `solve` instead. It
    keeps no state itself, so that one solver can serve several requests at a time.

    Attributes:
        order: order of convergence; None: not stated.
        adaptive: whether it chooses its own steps. It then reads only the first and the last time of a schedule.
        stochastic: whether its steps draw noise.
    """

    order: int | None = None
    adaptive: bool = False
    stochastic: bool = False

    def init(self, sample_noise: NoiseFn | None) -> Any:
        """Return the state for the first step.

        Args:
            sample_noise: noise source; None: there is none.
        """
        return None

    def step(self, velocity: Velocity, x: Tensor, t: float, u: float, state: Any) -> tuple[Tensor, Any]:
        """Return x at time u, and the state for the next step."""
        raise NotImplementedError

    def solve(
        self,
        velocity: Velocity,
        x: Tensor,
        times: Sequence[float],
        on_step: Callable[[float, Tensor], Tensor | None],
        sample_noise: NoiseFn | None,
    ) -> Tensor:
        """Return x at the last of the times.

        Args:
            velocity: the velocity field.
            x: (B, ...) at the first time.
            times: rising from noise to data, or falling from data to noise.
            on_step: called with (time, x) after every step. If it returns a tensor, the solver continues from that x.
            sample_noise: noise source; None: there is none.
        """
        state = self.init(sample_noise)
        for t, u in pairwise(times):
            x, state = self.step(velocity, x, t, u, state)
            replaced = on_step(u, x)
            x = x if replaced is None else replaced
        return x


class Guidance(Protocol):
    """Combination of two velocities (B, N, D) into one, for `sampling.guidance` of a recipe or a request.

    A plain function without state. It works item by item, returns exactly `cond` for scale 1 (where it is not called),
    and `cond` if both velocities are equal. If guidance applies to some channels only (`guidance_channels`), it
    receives those channels.
    """

    def __call__(self, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
        """Combine the velocities.

        Args:
            cond: velocity under the condition.
            uncond: velocity under the null condition, the negative prompt, or of the guide model.
            scale: guidance scale, 0 or more.
        """
        ...


class Dataset(ABC):
    """Examples by index: base class of data sets.

    A subclass defines `__len__` and `get`; the other methods have defaults. Random numbers come from `rng` alone, so
    that an example depends on its index and seed, not on the number of workers or ranks.
    `lumina_core.data.dataset.as_dataset` wraps a plain PyTorch data set of dicts.
    """

    variable_size: bool = False
    """Whether examples differ in size. If true, a batch holds examples of one `size` where possible."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def get(self, index: int, rng: random.Random) -> Example:
        """Return one example by field name; tensors of data lie in [-1, 1], without batch axis."""

    def values(self, field: str) -> Sequence[Any]:
        """Return every value of a field, each once, in a fixed order (for vocabularies and caches).

        Raises:
            ConfigError: the values of this field cannot be listed.
        """
        raise ConfigError(
            f"{type(self).__name__}.values: got '{field}', expected a field whose values can be listed. "
            "Implement `values` in the data set."
        )

    def class_names(self, field: str) -> Sequence[str]:
        """Return the names of the classes whose indices a field has, in their order; empty: it has no classes."""
        return ()

    def weight(self, index: int) -> float:
        """Return the relative frequency of an example, > 0. The default is 1: every example is equally frequent."""
        return 1.0

    def size(self, index: int, rng: random.Random) -> Size:
        """Return the size of the data that `get` returns for the same index and a copy of `rng`, without reading it.

        A grid has (rows, columns) or (length,); a set of N points has (N,). The default is (): not available, which
        is only allowed if `variable_size` is false or the examples may share a batch.
        """
        return ()

    def sizes(self) -> Sequence[Size]:
        """Return every size that examples can have, checked against the model before training. Empty: not available."""
        return ()

    def read_groups(self) -> Sequence[int]:
        """Return the lengths of consecutive runs of examples that are cheap to read together (a row group).

        The sampler shuffles within a few groups at a time. Empty: any order costs the same.
        """
        return ()

    def first_indices(self) -> list[int]:
        """Return the index of the first example of each data set that this one is made of; they are checked first."""
        return [0]

    def eval_set(self) -> EvalSet | None:
        """Return the evaluation set of this data set. None: every example is an evaluation item (`DatasetEvalSet`)."""
        return None


class Task:
    """Base class of tasks: requests, results and files of a model. Derive from `GenerationTask` or `PredictionTask`.

    An optional method has a default here, so a caller never has to look whether a task has it.

    Attributes:
        Request: config with the fields that a user can set.
        data_field: field of an example that holds the data.
        examples: arguments of the task's command, one line each, for its help text; () for a default one.
    """

    Request: type[Config]
    data_field: str
    examples: Sequence[str] = ()

    def train_size(self) -> Size | None:
        """Return the data size of training, without batch and channels; None if the training data has several."""
        return None

    def format_size(self, size: Size) -> str:
        """Format a data size for a message."""
        return "x".join(map(str, size))

    def notes(self, request: Any) -> list[str]:
        """Return warnings about a request, one sentence each."""
        return []


class GenerationTask(Task):
    """Base class of tasks that generate data: request -> conditions, size and initial data; result -> file.

    Required: `Request`, `data_field`, `size`, `conditions`, `encode` (or `save`) and `save_grid`.

    Attributes:
        suffixes: suffixes of the files that `encode` and `save` write, with the dot, the default first.
        pads_to_valid_size: whether every size can be requested. The model then generates the next larger size that it
            supports, and the result is cropped.
        sidecars: further files per result, by name: (suffix, help text). `write_sidecar` writes one.
        size_field: field of the request that sets the size, for messages.
        editing_fields: fields of the request that the help text of the command lists under "Editing".
        output_types: output types that `to_output` supports, the default first.
        Output: return type of a call of a pipeline.
    """

    suffixes: Sequence[str] = ()
    pads_to_valid_size: bool = False
    size_field: str = "size"
    sidecars: ClassVar[Mapping[str, tuple[str, str]]] = {}
    editing_fields: Sequence[str] = ()
    output_types: Sequence[str] = ("tensor", "np")
    Output: type[GenerationOutput] = GenerationOutput

    def size(self, request: Any) -> Size:
        """Return the size of the data that a request asks for, without batch and channels."""
        raise NotImplementedError

    def conditions(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """Return the values of each conditioner by its field, one per item."""
        raise NotImplementedError

    def negative_conditions(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """Return negative prompts by field; a conditioner without one takes its null condition."""
        return {}

    def init_data(self, request: Any) -> InitData | None:
        """Return the data that a result begins from (image-to-image, inpainting); None for noise alone."""
        return None

    def variation(self, request: Any) -> VariationInput | None:
        """Return the data that a result is a variation of; None for no variation."""
        return None

    def regions(self, request: Any) -> RegionalPrompts | None:
        """Return the prompts of regions; None if one prompt applies everywhere."""
        return None

    def request_for(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return request fields that describe an example, by the example's fields: evaluation needs it.

        Raises:
            ConfigError: the fields do not describe the example, or this task has no such description.
        """
        raise ConfigError(
            f"task {type(self).__name__}: got no method request_for, expected one that describes an example. "
            "Evaluation needs it."
        )

    def to_output(self, item: Tensor, output_type: str) -> Any:
        """Convert one result (channels, ...) in about [-1, 1] to an output type.

        Args:
            item: the result, float32 on the CPU.
            output_type: "tensor" returns the item, "np" a numpy array; a task can add others ("pil").

        Raises:
            ConfigError: the task has no such output type.
        """
        if output_type == "tensor":
            return item
        if output_type == "np":
            return item.numpy()
        raise ConfigError(
            f"output_type: got {output_type!r}, expected one of {', '.join((*self.output_types, 'latent'))}"
            f"{suggest(output_type, (*self.output_types, 'latent'))}."
        )

    def encode(self, item: Tensor, format: str, metadata: Mapping[str, Any]) -> bytes:
        """Encode one result (channels, ...) in about [-1, 1] as the content of a file.

        Args:
            item: the result.
            format: suffix of the file, with or without the dot; "" for the default.
            metadata: the request and the settings, stored in the file.

        Raises:
            ConfigError: the task does not write this format.
        """
        raise NotImplementedError

    def save(self, item: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write one result as a file, atomically. The default writes what `encode` returns."""
        content = self.encode(item, path.suffix, metadata)
        with atomic_file(path) as partial:
            partial.write_bytes(content)

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """Write several results as one overview file in `folder`, and return its path."""
        raise NotImplementedError

    @classmethod
    def check_sidecar(cls, sidecar: str, paths: Sequence[Path], overwrite: bool) -> None:
        """Raise an error, before anything is generated, if one file of `sidecars` cannot be written here.

        Args:
            sidecar: its name.
            paths: the file of each result, which is new or may be replaced.
            overwrite: whether what else is written with it may be replaced.
        """

    def write_sidecar(self, sidecar: str, item: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write one file of `sidecars` for a result, atomically."""
        raise NotImplementedError


class PredictionTask(Task):
    """Base class of tasks that predict from data (classification): request -> data, prediction -> answer.

    Attributes:
        Request: config with the fields that a user can set.
        data_field: field of an example that holds the data.
        target_field: field of an example with the target: a class index or a tensor.
    """

    target_field: str = "label"

    def data(self, request: Any) -> Tensor:
        """Return the data (channels, ...) in [-1, 1] of a request."""
        raise NotImplementedError

    def conditions(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """Return the values of each conditioner by its field, one per item."""
        return {}

    def answer(self, prediction: Tensor, request: Any) -> Any:
        """Return the answer to a request, from the head's output for it (logits (K,))."""
        raise NotImplementedError

    def predict_items(self, backbone: Any, head: Any, items: Sequence[Tokens]) -> Tensor | None:
        """Return the head's outputs for items of several sizes, one Tokens of batch size 1 each.

        The default returns None: items are padded to the longest and masked. A task can pack them instead.
        """
        return None

    def evaluate(
        self,
        predict: Callable[[Sequence[Tensor]], Tensor],
        dataset: Dataset,
        *,
        num_samples: int,
        seed: int,
        batch_size: int,
        out: Path | None,
        progress: Callable[[str, int, int], None],
    ) -> Mapping[str, Any]:
        """Score predictions on a data set with targets, for `lumina evaluate`.

        Args:
            predict: data (channels, ...) of any sizes -> the head's outputs, float32 on the CPU.
            dataset: examples with `data_field` and `target_field`.
            num_samples: largest number of examples.
            seed: seed of their choice.
            batch_size: data per call of `predict`.
            out: folder for tables and plots; None: none are written.
            progress: called with a title, a number of done items, and their total.

        Returns:
            `scores` by name, and whatever else belongs into the report, as JSON takes it.

        Raises:
            ConfigError: the task has no evaluation, or the data set does not fit.
        """
        raise ConfigError(f"task {type(self).__name__}: got no method evaluate, expected one. Evaluation needs it.")


class CheckpointFormat(ABC):
    """Base class of foreign model folders; built without arguments. Reading never runs code of a folder."""

    @abstractmethod
    def matches(self, folder: Path) -> bool:
        """Return whether a folder has this format, by the names of its files and small JSON files alone."""

    @abstractmethod
    def load(self, folder: Path) -> LoadedCheckpoint:
        """Open the model in a folder; weights are read later, tensor by tensor.

        Raises:
            CheckpointError: the model is of another family or incomplete; the message names tensors.
        """

    @abstractmethod
    def export(self, model: LoadedCheckpoint) -> ExportPlan:
        """Plan a folder of this format, the exact inverse of `load`.

        Raises:
            CheckpointError: the format cannot hold something of this model; the message names it.
        """

    def lora_names(self, name: str) -> tuple[str, ...]:
        """Return the names of a tensor in LoRA files for models of this format; empty: there are no such files.

        Args:
            name: name of the tensor in the layout of the paper's code, `layers.0.attention.wq.weight`.
        """
        return ()


@runtime_checkable
class ScalableBackbone(Protocol):
    """A backbone whose attention can be changed for a request: rope scaling, scale, context drop and block cache."""

    def rope_context(self, tokens: Tokens, train_tokens: Tokens | None) -> RopeContext:
        """Return how far the tokens extend compared with those of training."""
        ...

    def frequencies(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """Return the trained rotary frequencies of the three axes."""
        ...

    def precompute(
        self,
        tokens: Tokens,
        condition: Condition,
        freqs: Sequence[Tensor] | None = None,
        scale: float | Tensor | None = None,
    ) -> Any:
        """Precompute as a backbone does, with other rotary frequencies and another scale of the self-attention."""
        ...

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        ...

    def make_token_pool(self, tokens: Tokens, condition: Condition, window: tuple[int, int, int]) -> Any:
        """Divide the tokens into windows."""
        ...

    def with_context_drop(
        self, precomputed: Any, pool: Any, freqs: Sequence[Tensor] | None = None, scale: float | Tensor | None = None
    ) -> Any:
        """Return `precomputed` prepared for blocks that average keys and values."""
        ...

    def set_dropped_blocks(self, precomputed: Any, dropped_blocks: tuple[bool, ...]) -> Any:
        """Return `precomputed` with a flag per block: whether it averages keys and values."""
        ...

    def with_block_cache(self, precomputed: Any, policy: BlockCache) -> Any:
        """Return `precomputed` with a new block cache, `precomputed.block_cache`, which counts its evaluations."""
        ...

    def update_rope(self, precomputed: Any, tokens: Tokens, condition: Condition, freqs: Sequence[Tensor]) -> Any:
        """Return `precomputed` with other rotary frequencies."""
        ...


class BlockCache(Protocol):
    """Policy that decides when the blocks of a backbone run again, instead of reusing their last residual."""

    def should_recompute(self, change: Tensor, num_skipped: Tensor) -> Tensor:
        """Return which items are recomputed, (B,) bool; each depends on its own numbers alone.

        Args:
            change: (B,) float, sum of the relative changes of the blocks' input since they last ran.
            num_skipped: (B,) float, evaluations since then.
        """
        ...


class ContextDrop(Protocol):
    """Choice of blocks that average their keys and values over space, by time."""

    window: tuple[int, int, int]
    """Size of a window along the axes, in token units."""

    def dropped_blocks(self, num_layers: int, t: float) -> tuple[bool, ...]:
        """Return for each block whether it averages at time t (0 noise, 1 data)."""
        ...


@dataclass(frozen=True)
class EvalItem:
    """One prompt of an evaluation.

    Attributes:
        fields: fields of the example (caption, label, ...), without its data; the task makes a request of them.
        target_index: index of the real example that the fields describe.
        groups: groups of the item by key, {"language": "en", "group": "Flags"}; scores are also reported per group.
    """

    fields: Mapping[str, Any]
    target_index: int
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalInputs:
    """Input of a metric: features of M generated and N real examples.

    Attributes:
        generated: (M, D) features of the generated examples, one row an item.
        real: (N, D) features of the real examples; `EvalItem.target_index` is a row of them.
        items: the M items.
        reference_index: (P,) rows of `real` that belong to the split, ascending.
        families: for each of the N real examples the name of its family (variants of one thing); None: no families.
    """

    generated: Tensor
    real: Tensor
    items: Sequence[EvalItem]
    reference_index: Tensor
    families: Sequence[str] | None = None

    def subset(self, indices: Sequence[int], reference_index: Tensor | None = None) -> EvalInputs:
        """Select items by index; `reference_index` replaces the present one unless it is None."""
        import torch

        reference_rows = self.reference_index if reference_index is None else reference_index
        rows = self.generated[torch.as_tensor(indices, dtype=torch.int64)]
        return replace(
            self, generated=rows, items=[self.items[index] for index in indices], reference_index=reference_rows
        )

    @property
    def target_index(self) -> Tensor:
        """(M,) row of `real` that each item describes."""
        import torch

        return torch.tensor([item.target_index for item in self.items], dtype=torch.int64)


class EvalSet(ABC):
    """Real examples and the fields that describe each of them: base class of evaluation sets.

    A subclass defines `__len__`, `reference` and `fields`; the other members have defaults.
    """

    languages: Sequence[str] = ()
    """Languages of the fields, the default one first. Empty: one language, without a name."""
    splits: Sequence[str] = ("all",)
    """Names of the splits, the default one first."""
    families: Sequence[str] | None = None
    """For each real example the name of its family (variants of one thing). None: no families."""

    @abstractmethod
    def __len__(self) -> int:
        """Return N, the number of real examples."""

    @abstractmethod
    def reference(self, index: int) -> Tensor:
        """Return a real example in the form of generated data, (channels, ...) in [-1, 1]."""

    @abstractmethod
    def fields(self, index: int, language: str | None) -> Mapping[str, Any]:
        """Return the fields of an example except its data. A language of None is the default one."""

    def indices(self, split: str) -> Sequence[int]:
        """Return the indices of the real examples in a split."""
        return range(len(self))

    def groups(self, index: int) -> Mapping[str, str]:
        """Return the groups of an example by key, {"category": "flag"}; scores are also reported per group."""
        return {}

    def digest(self) -> str:
        """Return a SHA-256 of all real examples: the key under which their features are cached."""
        hasher = hashlib.sha256()
        for index in range(len(self)):
            data = self.reference(index)
            hasher.update(str(tuple(data.shape)).encode() + data.contiguous().numpy().tobytes())
        return hasher.hexdigest()


class FeatureExtractor(ABC):
    """Function from data to features: base class. Each item alone determines its row.

    Attributes:
        name: name of the features, reported with every score: `EfficientNet-Lite0`.
        key: cache key; it changes whenever the features do (other network, weights or size).
    """

    name: str
    key: str
    libraries: Sequence[str] = ()
    """Distributions whose versions are reported with the scores."""
    samples_per_row: int = 1
    """Number of samples of equal width in one row (frames of a sound, say); distribution metrics split the rows."""
    frechet_name: str = "FD"
    """Name of the Frechet distance of these features: FAD for those of VGGish."""
    classes: Sequence[str] = ()
    """Names of the columns if the features are the logits of a classifier."""
    data_field: str = ""
    """Field of an example whose data it reads, where models of one plugin generate several: points. Empty: any."""

    @abstractmethod
    def __call__(self, items: Sequence[Tensor]) -> Tensor:
        """Map B items (channels, ...) in about [-1, 1] to features (B, D) on the CPU.

        Raises:
            ShapeError: the items are not data of this modality.
        """


class TextFeatureExtractor(FeatureExtractor):
    """Feature extractor that also embeds texts, in the same space and of unit length."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Map M texts to features (M, D) of unit length on the CPU."""


class Metric(ABC):
    """Score of generated examples, computed from features alone: base class."""

    name: str = ""
    """Prefix of the score in tables. Empty: the score's own name is enough."""
    min_samples: int = 1
    """Smallest number of items that a score is computed of."""
    feature_extractor: FeatureExtractor

    @abstractmethod
    def compute(self, inputs: EvalInputs) -> Mapping[str, Tensor | float]:
        """Compute the scores by name.

        Returns:
            A tensor (M,) is a score per item, reported as its mean, NaN where it does not apply to an item; a float is
            a score of all items.
        """

    def notes(self, inputs: EvalInputs) -> list[str]:
        """Return remarks on the scores, reported with them; empty by default."""
        return []


BASE_CLASSES: Mapping[str, type] = MappingProxyType(
    {
        "tokenizer": Tokenizer,
        "autoencoder": Autoencoder,
        "conditioner": Conditioner,
        "checkpoint_format": CheckpointFormat,
        "dataset": Dataset,
        "task": Task,
        "solver": Solver,
        "metric": Metric,
        "feature_extractor": FeatureExtractor,
        "rope_scaling": RopeScaling,
    }
)
"""Base class that every component of a type derives from, so that optional methods always exist."""
