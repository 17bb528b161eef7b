from __future__ import annotations

import pytest
import torch

from lumina_core.metrics.distribution import Gaussian, fit_gaussian, frechet_distance


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_gaussians_on_one_axis_are_as_far_apart_as_means_and_deviations():
    one = Gaussian(torch.tensor([1.0]).double(), torch.tensor([[2.0]]).double())
    other = Gaussian(torch.tensor([4.0]).double(), torch.tensor([[-0.5]]).double())
    assert frechet_distance(one, other) == pytest.approx((4 - 1) ** 2 + (2 - 0.5) ** 2)


def test_covariances_that_commute_have_the_closed_form_of_their_eigenvalues():
    axes = torch.linalg.qr(drawn(0, 5, 5)).Q
    a, b = torch.tensor([1.0, 2, 3, 4, 0]).double(), torch.tensor([5.0, 0, 1, 2, 2]).double()
    one, other = (Gaussian(torch.zeros(5).double(), axes * v.sqrt()) for v in (a, b))
    assert frechet_distance(one, other) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), abs=1e-10)


def test_covariances_that_do_not_commute_agree_with_the_matrix_root():
    a, b = fit_gaussian(drawn(1, 40, 4) @ drawn(2, 4, 4)), fit_gaussian(drawn(3, 50, 4) + 1)
    first, second = a.cov_factor @ a.cov_factor.T, b.cov_factor @ b.cov_factor.T
    trace = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    wanted = (a.mean - b.mean).square().sum() + first.trace() + second.trace() - 2 * trace
    assert frechet_distance(a, b) == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize("count", [8, 200], ids=["fewer rows than numbers", "more rows"])
def test_a_set_is_at_no_distance_from_itself(count):
    rows = 100 + drawn(4, count, 32)
    assert frechet_distance(fit_gaussian(rows), fit_gaussian(rows.flip(0))) == pytest.approx(0, abs=1e-9)


def test_few_rows_and_many_give_the_covariance_of_the_same_rows():
    few = drawn(5, 6, 12)
    spread = fit_gaussian(few).cov_factor
    assert torch.allclose(spread @ spread.T, few.T.cov())
    many = drawn(6, 60, 12)
    assert torch.allclose(fit_gaussian(many).cov_factor @ fit_gaussian(many).cov_factor.T, many.T.cov())


def test_one_row_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        fit_gaussian(torch.zeros(1, 3))
