"""Registration with timm: `import lumina_recog.timm`, then `timm.create_model("nextdit_base_patch16")`."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features_fx import register_notrace_function, register_notrace_module

from lumina_core.models.layers import Linear
from lumina_core.models.next_dit import NextDiTBackbone
from lumina_recog.classifier import NextDiTClassifier
from lumina_recog.patchify import tokenize

__all__ = ["nextdit_base_patch16", "nextdit_small_patch8", "nextdit_tiny_patch8"]

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


default_cfgs = generate_default_cfgs(
    {
        "nextdit_tiny_patch8.untrained": _cfg(64),
        "nextdit_small_patch8.untrained": _cfg(128),
        "nextdit_base_patch16.untrained": _cfg(224),
    }
)


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    indices = kwargs.pop("out_indices", 3)
    model: NextDiTClassifier = build_model_with_cfg(
        NextDiTClassifier,
        variant,
        pretrained,
        feature_cfg={"out_indices": indices, "feature_cls": "getter"},
        **kwargs,
    )
    return model


@register_model
def nextdit_tiny_patch8(pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    """Next-DiT tiny (5.4M), patches of 8 pixels, learned pooling: the size of the built-in model."""
    sizes = {"patch_size": 8, "embed_dim": 192, "depth": 12, "num_heads": 3, "global_pool": "map"}
    return _create("nextdit_tiny_patch8", pretrained, **{**sizes, **kwargs})


@register_model
def nextdit_small_patch8(pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    """Next-DiT small (21M), patches of 8 pixels."""
    sizes = {"patch_size": 8, "embed_dim": 384, "depth": 12, "num_heads": 6}
    return _create("nextdit_small_patch8", pretrained, **{**sizes, **kwargs})


@register_model
def nextdit_base_patch16(pretrained: bool = False, **kwargs: Any) -> NextDiTClassifier:
    """Next-DiT base (86M), patches of 16 pixels: the size of the paper."""
    sizes = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return _create("nextdit_base_patch16", pretrained, **{**sizes, **kwargs})
