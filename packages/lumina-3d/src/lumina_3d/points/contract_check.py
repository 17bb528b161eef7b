"""Contract check of features of coordinates for `lumina_core.testing`."""

from __future__ import annotations

import torch

from lumina_3d.points.coordinates import CoordinateFeatures
from lumina_core.testing import Contract, expect


def check_coordinate_features(features: CoordinateFeatures) -> None:
    """Check every clause of the contract of features of coordinates.

    Raises:
        ContractError: a clause does not hold.
    """
    contract = Contract("lumina_3d.points.coordinates.CoordinateFeatures", features)
    points = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    t, ratio = torch.tensor([0.2, 0.9]), torch.tensor([1.0, 16.0])
    with contract.clause("(B, N, 3) -> (B, N, width(3)), finite"):
        for times, ratios in ((None, None), (t, None), (None, ratio), (t, ratio)):
            values = features(points, times, ratios)
            expect(tuple(values.shape) == (2, 5, features.width(3)), f"got shape {tuple(values.shape)}")
            expect(bool(values.isfinite().all()), "got NaN or infinite features")
    values = features(points, t, ratio)
    with contract.clause("every point and every cloud is computed alone"):
        expect(torch.equal(features(points.flip(1), t, ratio).flip(1), values), "points depend on their order")
        expect(torch.allclose(features(points[:1], t[:1], ratio[:1]), values[:1]), "clouds depend on the batch")
    with contract.clause("a ratio of 1 is the trained count"):
        expect(torch.allclose(features(points, t, torch.ones(2)), features(points, t, None)), "got other features")
