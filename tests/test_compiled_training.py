"""Ten steps of each recipe, compiled and eager, have equal losses and gradients: one here, all by `nox -s fuzz`."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from lumina_core.errors import LuminaError
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.training.trainer import Trainer

STEPS = 10
SMALL = (
    "training.steps=10", "training.global_batch_size=2", "training.warmup_steps=0", "training.sample_requests=[]",
    "training.cache_latents=false", "training.seed=1", "training.stages=[]",
)  # fmt: skip
ALL = bool(os.environ.get("LUMINA_FUZZ"))
FIRST = ["image.tiny"]

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")


def recipes():
    return list(load_plugins().recipes()) if ALL else FIRST


def shrink(backbone):
    """Make a DiT narrow: heads of 32 numbers, over as many axes as before."""
    axes = backbone.get("rope_axes_dim")
    if not backbone["type"].startswith("core.") or not axes:
        return {}
    used = [index for index, size in enumerate(axes) if size]
    share = 32 // len(used) // 2 * 2
    sizes = [share if index in used else 0 for index in range(3)]
    sizes[used[0]] += 32 - sum(sizes)
    return {
        "hidden_size": 64,
        "num_heads": 2,
        "rope_axes_dim": sizes,
        **({"num_kv_heads": 1} if "num_kv_heads" in backbone else {}),
    }


def small_recipe(name, precision, **training):
    """Return a narrow recipe of two blocks, compiled with plain products, as `auto` trains on a CPU."""
    values = Recipe.load(name, SMALL).to_dict(False)
    if values["backbone"] is None:
        pytest.skip("trains no backbone")
    values["backbone"] |= {"num_layers": 2, "attn_backend": "matmul", **shrink(values["backbone"])}
    values["training"] |= {"mixed_precision": precision, **training}
    if values["dataset"] is None:
        pytest.skip("has no data set of its own")
    return Recipe.read(values, name)


def run(recipe, out):
    """Return losses and norms of the gradients of all steps, and the gradients."""
    gradients = []
    with Trainer(recipe, out, device="cpu") as trainer:
        step = trainer.optimizers.step

        def record():
            used = [weight.grad for weight in trainer.model.parameters() if weight.grad is not None]
            gradients.append(torch.cat([gradient.flatten() for gradient in used]))
            step()

        trainer.optimizers.step = record
        metrics = [trainer.train_step(batch) for batch in trainer.batches()]
        assert trainer._loss_module.is_compiled == recipe.training.compile  # no fallback to eager
    return torch.tensor([[one.loss, one.grad_norm] for one in metrics]), gradients


@pytest.mark.parametrize("precision", ["float32", "bfloat16"] if ALL else ["bfloat16"])
@pytest.mark.parametrize("name", recipes())
def test_compiled_and_eager_training_agree(name, precision, tmp_path):
    try:
        eager, eager_gradients = run(small_recipe(name, precision, compile=False), tmp_path / "eager")
        compiled, compiled_gradients = run(small_recipe(name, precision, compile=True), tmp_path / "compiled")
    except LuminaError as error:
        if any(word in str(error) for word in ("source", "dataset", "memory", "folder", "base_model", "pip install")):
            pytest.skip(f"needs files of its own: {error}")
        raise
    assert eager.isfinite().all() and len(eager) == STEPS
    torch.testing.assert_close(compiled, eager, rtol=0.05 if precision == "bfloat16" else 1e-3, atol=1e-3)
    for one, other in zip(eager_gradients, compiled_gradients, strict=True):
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) > (0.98 if precision == "bfloat16" else 0.9999)
