"""Muon: orthogonalized updates."""

from __future__ import annotations

import pytest
import torch

from lumina_core.training.optim import Muon, zeropower_via_newtonschulz


@pytest.mark.parametrize("shape", [(8, 8), (4, 24), (24, 4), (30, 31)])
def test_singular_values_come_near_one(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * 100
    values = torch.linalg.svdvals(zeropower_via_newtonschulz(matrices))
    # the quintic does not converge to 1, it scatters around it: Jordan et al. give 0.7 to 1.2
    assert float(values.min()) > 0.3 if shape in [(8, 8), (30, 31)] else float(values.min()) > 0.6
    assert float(values.max()) < 1.3


def test_orthogonalization_preserves_singular_vectors():
    matrix = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ zeropower_via_newtonschulz(matrix[None])[0] @ v.T
    assert float((rotated - torch.diag(rotated.diagonal())).abs().max()) < 1e-4


def test_a_batch_of_matrices_is_orthogonalized_one_by_one():
    matrices = torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([zeropower_via_newtonschulz(matrices[k : k + 1]) for k in range(4)])
    assert zeropower_via_newtonschulz(matrices).numpy() == pytest.approx(alone.numpy(), abs=1e-5)


def test_the_norm_of_the_gradient_does_not_matter():
    matrices = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(3))
    assert zeropower_via_newtonschulz(1000 * matrices).numpy() == pytest.approx(
        zeropower_via_newtonschulz(matrices).numpy(), abs=1e-4
    )


def test_a_zero_gradient_moves_nothing_and_is_no_nan():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.zeros(3, 4)
    Muon([weight], 0.1).step()
    assert torch.equal(weight.detach(), torch.ones(3, 4))


@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (64, 256)])
def test_an_update_has_the_root_mean_square_that_adamw_would_have(shape):
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    Muon([weight], 1.0).step()
    # Moonlight (arXiv 2502.16982): 0.2, the usual size of AdamW's
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=0.15)
    assert float((weight.detach() * weight.grad).sum()) < 0


def test_weight_decay_is_multiplied_by_the_learning_rate():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.zeros(3, 4)
    Muon([weight], 0.1, weight_decay=0.5).step()
    assert weight.detach().numpy() == pytest.approx(0.95)


def test_one_optimizer_updates_several_shapes_and_skips_weights_without_gradient():
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (3, 2), (2, 3), (4, 4))]
    for weight in weights[:3]:
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
    Muon(weights, 0.1).step()
    assert all(bool(weight.detach().any()) for weight in weights[:3])
    assert not bool(weights[3].detach().any())


def test_a_convolution_is_updated_as_the_matrix_of_its_output_channels():
    kernel, matrix = torch.nn.Parameter(torch.ones(6, 4, 3, 3)), torch.nn.Parameter(torch.ones(6, 36))
    kernel.grad = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(6))
    matrix.grad = kernel.grad.flatten(1).clone()
    Muon([kernel], 0.1, weight_decay=0.5).step()
    Muon([matrix], 0.1, weight_decay=0.5).step()
    assert torch.equal(kernel.detach().flatten(1), matrix.detach())
