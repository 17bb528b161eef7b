from __future__ import annotations

import pytest
import torch

from lumina_core.config import with_defaults
from lumina_core.errors import ConfigError
from lumina_core.metrics.distribution import FrechetDistance, Gaussian, fit_gaussian, frechet_distance
from lumina_core.protocols import EvalInputs, EvalItem, FeatureExtractor


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_distance_of_one_dimensional_gaussians_has_its_closed_form():
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
def test_the_distance_of_a_set_to_itself_is_zero(count):
    rows = 100 + drawn(4, count, 32)
    assert frechet_distance(fit_gaussian(rows), fit_gaussian(rows.flip(0))) == pytest.approx(0, abs=1e-9)


def test_both_factors_of_the_covariance_agree():
    few = drawn(5, 6, 12)
    spread = fit_gaussian(few).cov_factor
    assert torch.allclose(spread @ spread.T, few.T.cov())
    many = drawn(6, 60, 12)
    assert torch.allclose(fit_gaussian(many).cov_factor @ fit_gaussian(many).cov_factor.T, many.T.cov())


def test_one_row_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        fit_gaussian(torch.zeros(1, 3))


class StubFeatures(FeatureExtractor):
    name = key = "stub"

    def __call__(self, items):
        raise NotImplementedError


def test_real_features_at_the_same_address_are_not_mistaken_for_the_previous_ones():
    generated, base = torch.randn(60, 4), torch.randn(120, 4)
    base[1::2] += 5
    items, rows = [EvalItem({}, 0)] * 60, torch.arange(60)
    first, second = (EvalInputs(generated, real, items, rows) for real in (base[:60], base[::2]))
    assert first.real.data_ptr() == second.real.data_ptr()
    reused, fresh = (
        FrechetDistance(FrechetDistance.Config(feature_extractor={"type": "test.stub"}), StubFeatures())
        for _ in range(2)
    )
    reused.compute(first)
    assert reused.compute(second) == fresh.compute(second)


def test_a_registered_default_changes_the_features_and_nothing_else():
    derived = with_defaults(FrechetDistance, {"feature_extractor": {"type": "test.stub"}, "min_samples": 7})
    config = derived.Config.read({}, "test")
    assert config.feature_extractor.type == "test.stub" and config.min_samples == 7
    nested = derived.Config.read({"feature_extractor": {"side": 3}}, "test").feature_extractor
    assert (nested.type, nested.options) == ("test.stub", {"side": 3})
    assert (
        derived.Config.read({"feature_extractor": {"type": "other.one"}}, "test").feature_extractor.type == "other.one"
    )
    with pytest.raises(ConfigError, match="greater than or equal to 2"):
        derived.Config.read({"min_samples": 1}, "test")
    with pytest.raises(ConfigError, match="'feature_extractor' is missing"):
        FrechetDistance.Config.read({}, "test")
    with pytest.raises(ConfigError, match="got 'min_sample'; did you mean 'min_samples'"):
        with_defaults(FrechetDistance, {"min_sample": 7})
