"""Contract check of camera encodings for `lumina_core.testing`."""

from __future__ import annotations

import torch

from lumina_3d.views.camera_encoding import CameraBatch, CameraEncoding
from lumina_3d.views.cameras import Camera, orbit
from lumina_core.testing import Contract, expect


def check_camera(encoding: CameraEncoding) -> None:
    """Check every clause of the contract of camera encodings.

    Raises:
        ContractError: a clause does not hold.
    """
    contract = Contract("lumina_3d.views.camera_encoding.CameraEncoding", encoding)
    orbits = [orbit(3, 20.0, 2.0, 40.0), orbit(3, -5.0, 3.0, 25.0, start=17.0)]
    features = encoding.features(CameraBatch.of(orbits), 1, 4, 2)
    with contract.clause("(B, V) cameras -> (B, V * rows * columns, dim), finite"):
        expect(tuple(features.shape) == (2, 24, encoding.dim), f"got shape {tuple(features.shape)}")
        expect(bool(features.isfinite().all()), "got NaN or infinite features")
    with contract.clause("an item does not depend on its batch"):
        alone = encoding.features(CameraBatch.of(orbits[1:]), 1, 4, 2)
        expect(torch.allclose(alone, features[1:], atol=1e-6), "got other features in a batch of one")
    with contract.clause("an unknown camera has features of zeros"):
        unknown = [Camera(camera.pose, camera.fov, known=False) for camera in orbits[0]]
        values = encoding.features(CameraBatch.of([unknown]), 0, 4, 2)
        expect(not bool(values.any()), "got numbers other than 0")
