"""The contracts of the parts that make a model. Protocols only: whatever fits works, nothing is inherited."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lumina_core.config import Config
from lumina_core.types import Batch, Canvas, Condition, Extent, Hidden, Known, Loss, Regions, Tokens, Varied
from lumina_core.weights.pieces import Draft, Unbuilt

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), time (B,)) -> dx/dt (B, ...), pointing to data.

One with a method `at(time: float)` is told the time as a number before it is asked: it need not wait for a device.
"""

Predict = Callable[[Tokens, Tensor | None, Condition], Tensor]
"""(noisy tokens, time (B,) or None, condition) -> what the head answers."""

Example = Mapping[str, Any]
"""One example by its field names: `picture` a tensor, `caption` a string, and so on."""


class Tokenizer(Protocol):
    """Rearranges a latent into tokens and back without losing or inventing a number; has no weights.

    One that cuts evenly says by `pitch: tuple[int, ...]` how many latent samples a token spans along each axis: data to
    begin from is then filled up to what can be cut.
    """

    @property
    def width(self) -> int:
        """D, how many numbers a token holds."""
        ...

    def tokens(self, latent: Tensor) -> Tokens:
        """(B, C, ...) -> tokens (B, N, D)."""
        ...

    def latent(self, tokens: Tokens) -> Tensor:
        """The exact inverse, for tokens of one extent."""
        ...

    def blank(self, batch: int, extent: Extent) -> Tokens:
        """Zeros in the right places, for a latent of this extent."""
        ...


class Autoencoder(Protocol):
    """Data in [-1, 1] <-> a latent of zero mean and unit variance; owns every magic scale.

    It may say `decides`, options of the task that its data fix, by their names (a rate of samples): a task that knows
    them is given them, and one that says otherwise is refused.
    """

    @property
    def channels(self) -> int:
        """C of the latent."""
        ...

    @property
    def stride(self) -> tuple[int, ...]:
        """Data samples a latent sample stands for, along each axis."""
        ...

    def encode(self, data: Tensor) -> Tensor:
        """(B, channels of data, ...) -> latent (B, C, ...)."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Latent -> data, not clamped."""
        ...


class Conditioner(Protocol):
    """What the user says -> Condition. Owns its own silence.

    One that is slow to ask (a large pretrained network) says so by an attribute `costly = True`: frozen in a training,
    it is asked once for each value. One that asks others and learns itself may have `exchanged(change) -> Conditioner`,
    the same with `change(other)` in the place of each, so that these are asked once. One that cuts long values may
    have `unread(value) -> str`: the end it cuts off.
    """

    memory_width: int
    """W' of the memory it makes; 0 for none."""
    summary_width: int
    """S of the summary it makes; 0 for none."""

    def encode(self, values: Sequence[Any]) -> Condition:
        """One value an item -> the condition of a batch."""
        ...

    def nothing(self, batch: int) -> Condition:
        """The condition of having said nothing, for guidance and for dropping."""
        ...


class Learner(Protocol):
    """A part that must see the values of a data set once before training (a vocabulary, a scale)."""

    def learn(self, values: Sequence[Any]) -> None:
        """Look through the values; called once, on a fresh run."""
        ...


class Backbone(Protocol):
    """The only network that mixes tokens."""

    def __call__(self, tokens: Tokens, time: Tensor | None, condition: Condition, *, prepared: Any = None) -> Hidden:
        """Tokens (B, N, D), time (B,) in 0..1 -> hidden; `prepared` spares what does not change in a request."""
        ...

    def prepare(self, tokens: Tokens, condition: Condition) -> Any:
        """All that neither time nor the tokens' values change: rotary tables, masks, caption keys and values."""
        ...


class Extrapolation(Protocol):
    """Rotary frequencies for a canvas larger than trained.

    One that also changes how sharp attention is may have `sharpness(canvas) -> float`, a factor of its scale.
    """

    timed: bool
    """Whether the time matters; where it does not, it is asked once a request, otherwise once a step."""
    trained: tuple[int, ...] | None
    """Sizes of the data trained at, where its options say them: one for all sides, or one a side."""

    def __call__(self, rates: Sequence[Tensor], canvas: Canvas, time: float) -> tuple[Tensor, ...]:
        """The trained frequencies of each axis (float64) -> those to use at this time (0 noise, 1 data)."""
        ...


class Head(Protocol):
    """Reads the backbone into an answer: velocity (B, N, D), classes (B, K)."""

    def __call__(self, hidden: Hidden, tokens: Tokens) -> Tensor: ...


class Path_(Protocol):
    """The road from noise (t = 0) to data (t = 1): x_t = alpha(t) data + sigma(t) noise."""

    def alpha(self, time: Tensor) -> Tensor: ...

    def sigma(self, time: Tensor) -> Tensor: ...

    def alpha_slope(self, time: Tensor) -> Tensor: ...

    def sigma_slope(self, time: Tensor) -> Tensor: ...


class Draw(Protocol):
    """Times for training."""

    def __call__(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(B,) in 0..1; one generator an item, so that a sample's time depends on the sample alone."""
        ...


class Grid(Protocol):
    """Times for sampling."""

    def __call__(self, steps: int) -> Tensor:
        """(steps + 1,) float64, rising, from exactly 0 to exactly 1."""
        ...


class Objective(Protocol):
    """Batch -> Loss, given a way to predict; and back from a prediction to a velocity for sampling."""

    def loss(self, predict: Predict, batch: Batch, generators: Sequence[torch.Generator]) -> Loss:
        """One generator an item, so that what is drawn depends on the sample, not on its neighbours."""
        ...

    def velocity(self, prediction: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """What the model answered at x (B, N, D) and time (B,) as a velocity (B, N, D)."""
        ...


class Solver(Protocol):
    """One step along a velocity from time t to time u; a plain function.

    One that remembers is a `CarryingSolver` instead, one that chooses its own steps a `FreeSolver`, see `flow.solver`.
    """

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, u: Tensor) -> Tensor: ...


class Guidance(Protocol):
    """Velocities -> one velocity; a plain function."""

    def __call__(self, conditional: Tensor, silent: Tensor, scale: float) -> Tensor: ...


class Dataset(Protocol):
    """Examples by index. Whatever is drawn at random is drawn from `draw`, so that it depends on the sample alone.

    One whose data come in several sizes has `extent(index, draw) -> Extent`, the sizes that the example will have with
    a fresh copy of the same draw: batches are then made of one extent as far as that goes; and `extents()`, a list of
    all that there can be, which are compared with what the model can do before a run begins. One that reads some
    examples cheaply together has `stretches() -> list[int]`, how many in a row, one stretch after another: the order
    then goes through a few stretches at a time.
    """

    def __len__(self) -> int: ...

    def example(self, index: int, draw: random.Random) -> Example: ...

    def values(self, field: str) -> Sequence[Any]:
        """Every value that the field can have, each once, in a fixed order (for vocabularies and caches)."""
        ...

    def weight(self, index: int) -> float:
        """How often this example is drawn, compared with the others; 1 for all where nothing speaks against it."""
        ...


class Task(Protocol):
    """What a user asks for and is handed.

    It may also say: `fills_up = True`, where every size can be asked for: the model makes the next that it can, and the
    rest is cut off. `suffixes`, of the files that it writes, the usual one first (or `suffix`, the only one).
    `told(extent) -> str`, a size in words. `notes(request) -> list[str]`, what one should know of a request.
    `examples`, lines of its command after the command's name, for the help. `besides`, kinds of file that can lie
    beside a result ({"spectrogram": (".png", "what the help says")}), and `beside(kind, item, path, record)`, which
    writes one, never half.
    """

    Request: type[Config]
    data_field: str
    """The field of an example that is generated."""

    def extent(self, request: Any) -> Extent:
        """The sizes of the data asked for, without batch and channels."""
        ...

    def conditions(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """For each conditioner the values asked for, one an item."""
        ...

    def known(self, request: Any) -> Known | None:
        """What one result begins from that is there already; None: from noise. A task may lack this method."""
        ...

    def varied(self, request: Any) -> Varied | None:
        """Data that one result is a variation of: it begins from its noise. None: of none. May be lacking."""
        ...

    def regions(self, request: Any) -> Regions | None:
        """What is said of parts of a result; None: all of it is said of the whole. A task may lack this method."""
        ...

    def trained(self) -> Extent | None:
        """The sizes of the data that the model learnt from; None where they differ. A task may lack this method."""
        ...

    def silences(self, request: Any) -> Mapping[str, Sequence[Any]]:
        """For each conditioner what to stay away from (negative prompts); absent: the conditioner's own nothing."""
        ...

    def save(self, item: Tensor, path: Path, record: Mapping[str, Any]) -> None:
        """One item of data as a file with the request in its metadata; never half-written."""
        ...

    def save_grid(self, items: Sequence[Tensor], folder: Path, name: str) -> Path:
        """Several items at a glance, as one file in `folder`; gives its path."""
        ...


class Layout(Protocol):
    """A form of model folder that others made; a class built without arguments. Reading runs no code of a folder."""

    def knows(self, folder: Path) -> bool:
        """Whether a folder looks like this layout, from names of files and small settings alone."""
        ...

    def open(self, folder: Path) -> Unbuilt:
        """The model in such a folder.

        Raises:
            CheckpointError: of another family, incomplete, or tensors are missing or surplus; the message names them.
        """
        ...

    def draft(self, model: Unbuilt) -> Draft:
        """A model of ours in this layout, the exact inverse of `open`.

        Raises:
            CheckpointError: the layout has no place for something of this model; the message says what.
        """
        ...
