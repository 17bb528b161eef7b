"""Checkpoints of released sound models: tensors by part, read without running anything that lies beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from lumina_core.errors import CheckpointError
from lumina_core.weights.pickled import open_pickled
from lumina_core.weights.pieces import Piece, Weights, read
from lumina_core.weights.tensorfiles import open_file

NETWORK, AUTOENCODER, CLAP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.caption_encoder."
SCALE = "scale_factor"
INERT = (
    *(f"pytorch_lightning.callbacks.{name}" for name in (
        "model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping", "lr_monitor.LearningRateMonitor",
        "progress.TQDMProgressBar", "timer.Timer",
    )),
    "pytorch_lightning.utilities.parsing.AttributeDict",
    *(f"omegaconf.{name}" for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata", "nodes.AnyNode",
        "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.BooleanNode",
    )),
    "typing.Any", "collections.defaultdict", "__builtin__.dict", "__builtin__.list", "builtins.dict", "builtins.list",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip
"""Classes that trainings leave beside the weights: an empty object stands for each, nothing is imported."""


def open_state(path: Path) -> dict[str, Piece]:
    """The tensors of a checkpoint, whatever lies beside them.

    Raises:
        CheckpointError: it is cut short, holds code, or no tensors by name.
    """
    return open_file(path) if path.suffix == ".safetensors" else open_pickled(path, "state_dict", INERT)


def under(state: Weights, prefix: str) -> dict[str, Piece]:
    """The tensors of one part, without its prefix."""
    return {name[len(prefix) :]: piece for name, piece in state.items() if name.startswith(prefix)}


def scale_of(state: Weights, where: str) -> float:
    """What a latent is multiplied by; a number above 0.

    Raises:
        CheckpointError: it is missing or out of range.
    """
    piece = state.get(SCALE)
    if piece is None or math.prod(piece.shape) != 1:
        raise CheckpointError(
            f"{where} has no {SCALE}, which says how large latents are; fetch the released checkpoint"
        )
    scale = float(read(piece, torch.float32))
    if not 0 < scale < 100:
        raise CheckpointError(f"{where}: {SCALE} is {scale:g}; wanted a number above 0")
    return scale


def compare(part: str, found: Weights, wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise CheckpointError with what is missing, surplus or of another shape in a part."""
    said = [f"{name} is missing" for name in wanted if name not in found]
    said += [f"{name} is surplus" for name in found if name not in wanted]
    said += [
        f"{name} is {found[name].shape}, wanted {shape}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    if said:
        more = f" and {len(said) - 3} more" if len(said) > 3 else ""
        raise CheckpointError(f"{where} does not hold the {part} that its sizes ask for: {'; '.join(said[:3])}{more}")
