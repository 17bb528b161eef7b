"""Miniature checkpoints as they are published, made by hand: every tensor drawn at random in the published shape."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from making import registry_of
from safetensors.torch import save_file
from torch import Tensor

from lumina_core.checkpoint.lazy_tensors import read_tensor
from lumina_core.convert import ConvertOptions, execute, plan_conversion
from lumina_core.errors import CheckpointError

SIZES: dict[str, Any] = {
    "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 16, "cap_feat_dim": 12, "qk_norm": True,
    "learn_sigma": True,
}  # fmt: skip
PATCH, CHANNELS = 2, 4


def tensors(sizes: dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """What the published code would save of a text-to-image NextDiT, written down from its constructor."""
    dim, layers, heads, kv, text = (sizes[k] for k in ("dim", "n_layers", "n_heads", "n_kv_heads", "cap_feat_dim"))
    keys = dim // heads * (kv or heads)
    hidden = sizes["multiple_of"] * -(-(8 * dim // 3) // sizes["multiple_of"])
    out = PATCH**2 * CHANNELS * (2 if sizes["learn_sigma"] else 1)
    shapes: dict[str, tuple[int, ...]] = {
        "pad_token": (dim,), "x_embedder.weight": (dim, PATCH**2 * CHANNELS), "x_embedder.bias": (dim,),
        "t_embedder.mlp.0.weight": (dim, 256), "t_embedder.mlp.0.bias": (dim,),
        "t_embedder.mlp.2.weight": (dim, dim), "t_embedder.mlp.2.bias": (dim,),
        "cap_embedder.0.weight": (text,), "cap_embedder.0.bias": (text,),
        "cap_embedder.1.weight": (dim, text), "cap_embedder.1.bias": (dim,),
        "final_layer.adaLN_modulation.1.weight": (dim, dim), "final_layer.adaLN_modulation.1.bias": (dim,),
        "final_layer.linear.weight": (out, dim), "final_layer.linear.bias": (out,),
    }  # fmt: skip
    norms = {"q_norm": dim, "k_norm": keys, "ky_norm": keys} if sizes["qk_norm"] else {}
    for layer in range(layers):
        block = {
            "attention.wq.weight": (dim, dim), "attention.wk.weight": (keys, dim), "attention.wv.weight": (keys, dim),
            "attention.wk_y.weight": (keys, text), "attention.wv_y.weight": (keys, text),
            "attention.wo.weight": (dim, dim), "attention.gate": (heads,),
            "feed_forward.w1.weight": (hidden, dim), "feed_forward.w2.weight": (dim, hidden),
            "feed_forward.w3.weight": (hidden, dim),
            "adaLN_modulation.1.weight": (4 * dim, dim), "adaLN_modulation.1.bias": (4 * dim,),
            "attention_norm1.weight": (dim,), "attention_norm2.weight": (dim,), "attention_y_norm.weight": (text,),
            "ffn_norm1.weight": (dim,), "ffn_norm2.weight": (dim,),
            **{f"attention.{n}.{k}": (width,) for n, width in norms.items() for k in ("weight", "bias")},
        }  # fmt: skip
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
    return random_tensors(shapes, dtype, seed)


def class_conditional_tensors(classes: int = 5, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What the published code would save of a class-conditional DiT_Llama, with query norms and 32 heads."""
    dim, hidden = 128, 512
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.weight": (dim, 16), "x_embedder.bias": (dim,),
        "t_embedder.mlp.0.weight": (dim, 256), "t_embedder.mlp.0.bias": (dim,),
        "t_embedder.mlp.2.weight": (dim, dim), "t_embedder.mlp.2.bias": (dim,),
        "y_embedder.embedding_table.weight": (classes + 1, dim),
        "final_layer.adaLN_modulation.1.weight": (2 * dim, dim), "final_layer.adaLN_modulation.1.bias": (2 * dim,),
        "final_layer.linear.weight": (32, dim), "final_layer.linear.bias": (32,),
    }  # fmt: skip
    block = {
        **{f"attention.{name}.weight": (dim, dim) for name in ("wq", "wk", "wv", "wo")},
        **{f"attention.{n}.{k}": (dim,) for n in ("q_norm", "k_norm") for k in ("weight", "bias")},
        "feed_forward.w1.weight": (hidden, dim), "feed_forward.w2.weight": (dim, hidden),
        "feed_forward.w3.weight": (hidden, dim), "attention_norm.weight": (dim,), "ffn_norm.weight": (dim,),
        "adaLN_modulation.1.weight": (4 * dim, dim), "adaLN_modulation.1.bias": (4 * dim,),
    }  # fmt: skip
    return random_tensors({**shapes, **{f"layers.0.{name}": shape for name, shape in block.items()}}, dtype)


def random_tensors(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        made[name] = (noise / shape[-1] ** 0.5 if len(shape) > 1 else 1 + 0.3 * noise).to(dtype)
    return made


def make_model_args(**more: Any) -> Namespace:
    return Namespace(**{"model": "NextDiT_mini_patch2", "image_size": 64, "vae": "sdxl", "qk_norm": True, **more})


def write_original(
    folder: Path, state: dict[str, Tensor], model_args: Namespace | None = None, name: str = "consolidated.00-of-01.pth"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save = save_file if name.endswith(".safetensors") else torch.save
    save(state, folder / name)
    torch.save(model_args or make_model_args(), folder / "model_args.pth")
    return folder


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


REGISTRY = registry_of("image")


def converted(source: Path, destination: Path, most: int = 5 * 10**9, **options: Any) -> Path:
    execute(plan_conversion(source, REGISTRY, ConvertOptions(**options)), destination, most)
    return destination


def equal_weights(pieces, state) -> bool:
    return pieces.keys() == state.keys() and all(
        pieces[name].dtype == tensor.dtype and torch.equal(read_tensor(pieces[name]), tensor)
        for name, tensor in state.items()
    )


def conversion_error(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        execute(plan_conversion(folder, REGISTRY, ConvertOptions(**options)), folder.parent / "never")
    assert [path.name for path in folder.parent.iterdir() if "never" in path.name] == []
    assert "\n" not in str(error.value)
    return str(error.value)
