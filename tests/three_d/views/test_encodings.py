"""Cameras in the network: nothing changes with the world or the order of views, and one view is a picture model."""

import numpy as np
import pytest
import torch
from torch import nn

from lumina_3d.views.camera_encoding import CameraBatch, coordinates
from lumina_3d.views.cameras import Camera, look_at, orbit, project
from lumina_3d.views.conditioner import ViewConditioner, ViewInputs
from lumina_3d.views.position_encoding import projection_matrices
from lumina_core.conditioning.ops import stack
from lumina_core.errors import ConfigError
from lumina_core.model import build_model
from lumina_core.plugins.loader import load_plugins
from lumina_core.recipe import Recipe
from lumina_core.testing import check_component
from lumina_core.types import stack_tokens

SIDE = 32
CAMERAS = orbit(3, 20, 2.2, 40)


def make_model(encoding="3d.prope", camera="3d.coordinates", axes=(8, 4, 4)):
    """Build a small model of views with random weights everywhere."""
    position = {"type": encoding, "axes_dim": list(axes)}
    if encoding == "3d.urope":
        position |= {"rows": 4, "columns": 4}
    recipe = Recipe.read(
        {
            "schema_version": 2,
            "task": {"type": "3d.views", "image_size": SIDE},
            "autoencoder": {"type": "3d.per_view"},
            "tokenizer": {"type": "3d.view_patchify", "patch_size": 8},
            "conditioners": [
                {"field": "label", "type": "core.class_label", "num_classes": 3, "hidden_size": 16},
                {"field": "cameras", "type": "3d.views", "image_size": SIDE, "camera": {"type": camera}},
            ],
            "backbone": {
                "type": "core.next_dit", "hidden_size": 64, "num_layers": 2, "num_heads": 4,
                "position_encoding": position,
            },
            "head": {"type": "core.velocity"},
            "objective": {"type": "core.flow_matching"},
        },
        "test",
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(recipe).eval()
    for parameter in model.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    return model


def velocity(model, cameras, x, picture=None, picture_camera=None, positions=None):
    given = ((), ()) if picture is None else ((picture,), (picture_camera,))
    inputs = ViewInputs(tuple(cameras), *given, positions)
    condition = model.encode_condition({"label": [1], "cameras": [inputs]}, 1)
    tokens = model.tokenizer.patchify(x)
    with torch.no_grad():
        out = model.velocity(tokens, torch.tensor([0.4]), condition)
    return model.tokenizer.unpatchify(tokens.with_values(out))


def rigid(seed):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    transform = np.eye(4)
    transform[:3, :3] = rotation * np.sign(np.linalg.det(rotation))
    transform[:3, 3] = rng.normal(size=3)
    return transform


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 4, 3, SIDE, SIDE, generator=generator), torch.randn(4, SIDE, SIDE, generator=generator)


@pytest.mark.parametrize("encoding", ["3d.prope", "3d.urope"])
def test_a_change_of_world_coordinates_changes_nothing(encoding, data):
    model, (x, picture) = make_model(encoding), data
    before = velocity(model, CAMERAS, x, picture, look_at(30, 5, 2.2, 40))
    world = rigid(3)
    moved = [camera.moved(world) for camera in CAMERAS]
    after = velocity(model, moved, x, picture, look_at(30, 5, 2.2, 40).moved(world))
    assert (before - after).abs().max() < 1e-4
    other = velocity(model, orbit(3, 20, 2.2, 40, start=40), x, picture, look_at(30, 5, 2.2, 40))
    assert (before - other).abs().max() > 1e-3


def test_rays_in_the_frame_of_the_reference_ignore_the_world(data):
    model, (x, picture) = make_model("core.axial_rope", "3d.plucker"), data
    before = velocity(model, CAMERAS, x, picture, CAMERAS[1])
    world = rigid(4)
    after = velocity(model, [c.moved(world) for c in CAMERAS], x, picture, CAMERAS[1].moved(world))
    assert (before - after).abs().max() < 1e-4


@pytest.mark.parametrize("encoding", ["3d.prope", "3d.urope"])
def test_permuted_views_give_permuted_views(encoding, data):
    model, (x, picture) = make_model(encoding), data
    order = [2, 0, 1]
    before = velocity(model, CAMERAS, x, picture, CAMERAS[1])
    after = velocity(model, [CAMERAS[k] for k in order], x[:, :, order], picture, CAMERAS[1])
    assert (before[:, :, order] - after).abs().max() < 1e-4


@pytest.mark.parametrize("encoding", ["3d.prope", "3d.urope"])
def test_view_positions_do_not_matter_with_cameras(encoding, data):
    model, (x, _) = make_model(encoding), data
    first, second = (velocity(model, CAMERAS, x, positions=p) for p in ((0, 1, 2), (11, 3, 7)))
    assert (first - second).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("encoding", "camera"),
    [
        ("3d.prope", "3d.coordinates"),
        ("3d.urope", "3d.coordinates"),
        ("core.axial_rope", "3d.relative_angles"),
        ("core.axial_rope", "3d.plucker"),
    ],
)
def test_one_view_is_the_same_with_and_without_a_camera(encoding, camera, data):
    model, (x, _) = make_model(encoding, camera), data
    single = x[:, :, :1]
    with_camera = velocity(model, [look_at(77, 40, 3, 30)], single)
    tokens = model.tokenizer.patchify(single)
    with torch.no_grad():
        plain = model.velocity(tokens, torch.tensor([0.4]), model.encode_condition({"label": [1]}, 1))
    assert (with_camera - model.tokenizer.unpatchify(tokens.with_values(plain))).abs().max() < 1e-5


def test_unknown_cameras_are_plain_rotary_positions(data):
    model, rotary, (x, _) = make_model("3d.prope"), make_model("core.axial_rope"), data
    rotary.load_state_dict(model.state_dict())
    unknown = [Camera(camera.pose, camera.fov, known=False) for camera in CAMERAS]
    assert (velocity(model, unknown, x) - velocity(rotary, unknown, x)).abs().max() < 1e-5
    assert (velocity(model, unknown, x) - velocity(model, CAMERAS, x)).abs().max() > 1e-3


@pytest.mark.parametrize("encoding", ["3d.prope", "3d.urope"])
def test_items_of_a_padded_batch_equal_single_ones(encoding, data):
    model, (x, picture) = make_model(encoding), data
    inputs = [ViewInputs(tuple(CAMERAS), (picture,), (CAMERAS[1],)), ViewInputs(tuple(CAMERAS[:2]))]
    tokens = [model.tokenizer.patchify(x), model.tokenizer.patchify(x[:, :, :2])]
    conditions = [model.encode_condition({"label": [1], "cameras": [one]}, 1) for one in inputs]
    t = torch.tensor([0.4])
    with torch.no_grad():
        singles = [model.velocity(a, t, b)[0] for a, b in zip(tokens, conditions, strict=True)]
        both = model.velocity(stack_tokens(tokens), t.expand(2), stack(conditions))
    for row, single in zip(both, singles, strict=True):
        assert (row[: len(single)] - single).abs().max() < 1e-5 * float(single.abs().max())


def test_projection_matrices_map_points_to_the_picture():
    camera = look_at(40, 25, 2.4, 37)
    table = coordinates(CameraBatch.of([[camera]]), 1, 1)
    matrix, inverse = projection_matrices(table, 1.0)
    point = np.array([0.1, -0.3, 0.2])
    x, y, z, _ = matrix[0, 0].double().numpy() @ [*point, 1]
    pixel, _ = project(camera, point[None], 2, 2)
    assert [1 - y / -z, 1 + x / -z] == pytest.approx(list(pixel[0]), abs=1e-5)
    assert (matrix @ inverse)[0, 0].numpy() == pytest.approx(np.eye(4), abs=1e-5)


@pytest.mark.parametrize("name", ["3d.coordinates", "3d.relative_angles", "3d.plucker"])
def test_camera_encodings_keep_their_contract(name):
    check_component(load_plugins(), "camera", name)


def test_relative_angles_have_a_value_for_an_unknown_elevation():
    conditioner = load_plugins().find("camera", "3d.relative_angles")
    known, unknown = (conditioner(conditioner.Config(elevation_known=flag)) for flag in (True, False))
    cameras = CameraBatch.of([CAMERAS])
    difference = known.features(cameras, 0, 1, 1) - unknown.features(cameras, 0, 1, 1)
    assert difference[..., -3:].abs().min() > 0 and not bool(difference[..., :-3].any())


def test_given_pictures_of_another_size_are_refused():
    model = make_model()
    with pytest.raises(ConfigError, match="given picture: got 16x16"):
        model.encode_condition({"cameras": [ViewInputs(tuple(CAMERAS), (torch.zeros(4, 16, 16),), (CAMERAS[0],))]}, 1)


def test_the_conditioner_refuses_other_values_and_counts():
    conditioner = make_model().conditioners_by_field["cameras"]
    assert isinstance(conditioner, ViewConditioner)
    with pytest.raises(ConfigError, match="expected ViewInputs"):
        conditioner.encode(["front"])
    with pytest.raises(ConfigError, match="1 pictures and 0 cameras"):
        ViewInputs(tuple(CAMERAS), (torch.zeros(4, SIDE, SIDE),))
    with pytest.raises(ConfigError, match="expected at least one"):
        ViewInputs(())
    null = conditioner.null_condition(2).reference
    assert null is not None and null.values.shape == (2, 0, 256)
