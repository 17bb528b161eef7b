"""Registration with timm: `import lumina_recog.timm`, then `timm.create_model("nextdit_base_patch16")`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features_fx import register_notrace_function, register_notrace_module

from lumina_core.models.layers import Linear
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_recog.classifier import ARCHITECTURES, NextDiTClassifier, adapt_weights
from lumina_recog.patchify import tokenize

__all__ = ["nextdit_base_patch16", "nextdit_mini_patch8", "nextdit_small_patch8", "nextdit_tiny_patch8"]

register_notrace_function(tokenize)  # type: ignore[no-untyped-call]
register_notrace_module(NextDiTBackbone)
register_notrace_module(Linear)


def _cfg(input_size: int, **kwargs: Any) -> dict[str, Any]:
    side = (3, input_size, input_size)
    return {
        "num_classes": 1000, "input_size": side, "min_input_size": (3, 1, 1), "pool_size": None, "crop_pct": 1.0,
        "interpolation": "bicubic", "fixed_input_size": False, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
        "first_conv": "backbone.embed", "classifier": "head.linear", "license": "apache-2.0", **kwargs,
    }  # fmt: skip


_EMOJI = Path(__file__).parent / "models" / "emoji"


def _emoji_cfg() -> dict[str, Any]:
    classes = json.loads((_EMOJI / "config.json").read_text(encoding="utf-8"))["recipe"]["task"]["classes"]
    file = str(_EMOJI / "model.safetensors")
    return _cfg(64, num_classes=len(classes), label_names=classes, file=file)


default_cfgs = generate_default_cfgs(
    {
        "nextdit_mini_patch8.emoji": _emoji_cfg(),
        "nextdit_tiny_patch8.untrained": _cfg(64),
        "nextdit_small_patch8.untrained": _cfg(128),
        "nextdit_base_patch16.untrained": _cfg(224),
    }
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> Any:
    indices, img_size = kwargs.pop("out_indices", 3), kwargs.pop("img_size", None)
    model: Any = build_model_with_cfg(
        NextDiTClassifier,
        variant,
        pretrained,
        feature_cfg={"out_indices": indices, "feature_cls": "getter"},
        pretrained_filter_fn=adapt_weights,
        **{**ARCHITECTURES[variant], **kwargs},
    )
    if img_size is not None:  # the model takes any size; timm's data pipeline asks for the usual one
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        model.pretrained_cfg["input_size"] = (model.pretrained_cfg["input_size"][0], height, width)
    return model


@register_model
def nextdit_mini_patch8(pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    """Next-DiT mini (2.4M), patches of 8 pixels, at most 144 of them: the built-in model; tag `emoji`."""
    return _create("nextdit_mini_patch8", pretrained, **kwargs)  # type: ignore[no-any-return]


@register_model
def nextdit_tiny_patch8(pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    """Next-DiT tiny (5.4M), patches of 8 pixels, learned pooling."""
    return _create("nextdit_tiny_patch8", pretrained, **kwargs)  # type: ignore[no-any-return]


@register_model
def nextdit_small_patch8(pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    """Next-DiT small (21M), patches of 8 pixels."""
    return _create("nextdit_small_patch8", pretrained, **kwargs)  # type: ignore[no-any-return]


@register_model
def nextdit_base_patch16(pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    """Next-DiT base (86M), patches of 16 pixels: the size of the paper."""
    return _create("nextdit_base_patch16", pretrained, **kwargs)  # type: ignore[no-any-return]
