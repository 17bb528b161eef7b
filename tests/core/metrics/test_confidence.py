from __future__ import annotations

import pytest
import torch

from lumina_core.metrics.confidence import bootstrap_ci, jackknife_ci, jackknife_splits


def test_the_error_of_a_mean_is_its_deviation_over_the_root_of_the_number():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    found = bootstrap_ci(values, torch.arange(400))
    assert found.error == pytest.approx(float(values.std()) / 20, rel=0.1)
    assert found.low < float(values.mean()) < found.high


def test_repeated_values_of_a_cluster_do_not_narrow_the_interval():
    values = torch.randint(0, 2, (100,), generator=torch.Generator().manual_seed(1)).double()
    once, often = bootstrap_ci(values, torch.arange(100)), bootstrap_ci(values.repeat(4), torch.arange(100).repeat(4))
    assert often.error == pytest.approx(once.error, rel=0.1)


def test_the_same_seed_gives_the_same_bounds():
    values = torch.rand(30)
    assert bootstrap_ci(values, torch.arange(30), 5) == bootstrap_ci(values, torch.arange(30), 5)


def test_the_jackknife_error_of_a_mean_is_its_standard_error():
    values = torch.randn(500, generator=torch.Generator().manual_seed(2))
    found = [float(values[kept].mean()) for kept in jackknife_splits(torch.arange(500))]
    assert jackknife_ci(found, float(values.mean())).error == pytest.approx(float(values.std()) / 500**0.5, rel=0.5)


def test_every_cluster_is_left_out_once_as_a_whole():
    clusters = torch.tensor([7, 7, 3, 9, 3])
    left_out = [set(range(5)) - set(kept) for kept in jackknife_splits(clusters)]
    assert sorted(map(sorted, left_out)) == [[0, 1], [2, 4], [3]]
