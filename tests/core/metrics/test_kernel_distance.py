from __future__ import annotations

import pytest
import torch

from lumina_core.metrics.distribution import kernel_distance


def drawn(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def test_the_distance_equals_the_sums_over_all_pairs():
    made, real = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    within = 1.0  # (0 * 1 + 1)^3, the only pair of the made ones
    among = ((1 * 2 + 1) ** 3 + (1 * 3 + 1) ** 3 + (2 * 3 + 1) ** 3) / 3
    across = (3 * 1 + 2**3 + 3**3 + 4**3) / 6
    assert kernel_distance(made, real) == pytest.approx(within + among - 2 * across)


def test_the_distance_is_unbiased_for_few_rows():
    found = [kernel_distance(drawn(seed, 20), drawn(1000 + seed, 40)) for seed in range(200)]
    error = torch.tensor(found).std() / len(found) ** 0.5
    assert abs(sum(found) / len(found)) < 4 * error


def test_rows_beyond_a_chunk_count():
    made = drawn(0, 2100)
    assert kernel_distance(made, made + 1) == pytest.approx(kernel_distance(made.flip(0), made + 1))


def test_a_set_of_one_row_is_refused():
    with pytest.raises(ValueError, match="expected at least 2 of each"):
        kernel_distance(torch.zeros(1, 2), torch.zeros(5, 2))
