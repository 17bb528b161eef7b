"""Explanation of an answer: which patches of an image raise the score of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina_core.models.dit import DiTBackbone
from lumina_core.types import BackboneOutput, Condition, Tokens
from lumina_recog.heads import ClassificationHead

EXPLAINED_LAYER = -1
"""Block whose output `explain_image` reads; measured by the pointing test, see docs/results/recognition.md."""

Score = Callable[[Tensor], Tensor]
"""Logits (1, K) -> the score that is explained, (1,)."""


def relevance_map(
    backbone: DiTBackbone, head: ClassificationHead, tokens: Tokens, score: Score, layer: int = -1
) -> tuple[Tensor, Tensor]:
    """Compute a map of relevance over the patches of one image: gradient times hidden state, of one block.

    Grad-CAM for tokens (arXiv 1610.02391): the hidden states after a block, times the gradient of the score with
    respect to them, summed over the channels; negative values are cut off. Hidden states are centered first, since what
    all patches share tells nothing about a place. The logits are those of a plain forward pass: nothing is changed.

    Args:
        backbone: without time.
        head: classification head.
        tokens: of one image.
        score: what is explained, for example one logit.
        layer: block whose output is read, counted from 0, negative from the end.

    Returns:
        The map (rows, columns), with the sum 1 (uniform if nothing raises the score); and the logits (K,).
    """
    index = range(backbone.num_layers)[layer]
    states: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
        # a leaf: gradients end here, and the values are the same
        states.append(output.detach().requires_grad_(True))
        return states[0]

    handle = backbone.blocks[index].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            hidden: BackboneOutput = backbone(tokens, None, Condition())
            logits = head(hidden, tokens)
            (gradient,) = torch.autograd.grad(score(logits).sum(), states[0])
    finally:
        handle.remove()
    centered = states[0] - states[0].mean(dim=1, keepdim=True)
    relevance = (gradient * centered).sum(dim=-1)[0].clamp(min=0).float().detach()
    total = relevance.sum()
    relevance = relevance / total if float(total) > 0 else torch.full_like(relevance, 1 / len(relevance))
    rows = int(tokens.positions[0, :, 1].max()) + 1
    return relevance.view(rows, -1), logits[0].detach()


def overlay(image: Tensor, relevance: Tensor) -> Tensor:
    """Draw a map over an image: places without relevance are faded, the strongest ones are red.

    Args:
        image: (3, H, W) in [-1, 1].
        relevance: (rows, columns), not negative.

    Returns:
        (3, H, W) in [-1, 1].
    """
    # the last row and column of patches may reach beyond the image
    scaled = F.interpolate(relevance[None, None], image.shape[1:], mode="bilinear")[0]
    strength = scaled / scaled.max().clamp(min=1e-12)
    gray = image.mean(dim=0, keepdim=True) * 0.4 + 0.6
    red = torch.tensor([1.0, -0.7, -0.7])[:, None, None]
    base = gray * (1 - strength) + image * strength
    return base * (1 - 0.45 * strength) + red * 0.45 * strength


def explain_image(model: Any, image: Tensor, layer: int = EXPLAINED_LAYER) -> Tensor:
    """Return the map (rows, columns) of what speaks for the group (or class) that a model names for an image.

    Args:
        model: a classifier of this package, as `lumina_core.load_model` returns it.
        image: (3, H, W) in [-1, 1].
        layer: block whose output is read.
    """
    tokens = model.tokenizer.patchify(image[None].to(model.device))
    tokens = tokens.with_values(tokens.values.to(model.dtype))  # as predict_data computes them
    _, groups = model.task.groups(model.head.config.num_classes)

    def score(logits: Tensor) -> Tensor:
        if not groups:
            return logits.max(dim=1).values
        probabilities: Tensor = model.task.group_probabilities(logits)
        return probabilities.log().max(dim=1).values

    relevance, _ = relevance_map(model.backbone, model.head, tokens, score, layer)
    return relevance.cpu()
