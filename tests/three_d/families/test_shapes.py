"""Parametric families: meshes, attributes, splits and captions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lumina_3d.families.captions import CLASS_NAMES, all_words, full_caption, random_caption, vocabulary_text
from lumina_3d.families.mesh import Mesh, MeshBuilder
from lumina_3d.families.shapes import ATTRIBUTES, COLORS, FAMILIES, HELD_OUT, is_held_out, make_shape
from lumina_core.conditioning.text import TextConditioner
from lumina_core.errors import ConfigError

GREY = (100, 100, 100)


def volume(mesh: Mesh) -> float:
    """Volume by the divergence theorem: negative if faces point inwards."""
    corners = mesh.vertices[mesh.faces]
    return float((np.cross(corners[:, 0], corners[:, 1]) * corners[:, 2]).sum() / 6)


def build(add) -> Mesh:
    builder = MeshBuilder()
    add(builder)
    return builder.build()


HALF_CIRCLE = np.linspace(-1.5, 1.5, 60)


@pytest.mark.parametrize(
    ("add", "expected"),
    [
        (lambda mesh: mesh.box((1, 2, 3), (1, 2, 3), GREY, pitch=0.3), 6),
        (lambda mesh: mesh.rod((0, 0, 0), (1, 1, 1), 0.5, GREY, segments=200), math.pi / 4 * math.sqrt(3)),
        (lambda mesh: mesh.lathe([(0, 0), (1, 0), (1, 2), (0, 2)], GREY, segments=200), 2 * math.pi),
        (lambda mesh: mesh.extrude([(0, 0), (2, 0), (2, 1), (0, 1)], 3, GREY), 6),
        (lambda mesh: mesh.wing((0, 0, 0), (0, 2, 0), (1, 1), 0.1, GREY), 0.15),
        (lambda mesh: mesh.wing((0, 0, 0), (0, -2, 0), (1, 1), 0.1, GREY), 0.15),
        (lambda mesh: mesh.ellipsoid((0, 0, 5), (1, 2, 3), GREY, segments=100), 8 * math.pi),
        (
            lambda mesh: mesh.tube(
                np.stack([0 * HALF_CIRCLE, np.cos(HALF_CIRCLE), np.sin(HALF_CIRCLE)], axis=1), 0.1, (1, 0, 0), GREY, 60
            ),
            0.03 * math.pi,
        ),
    ],
)
def test_a_solid_has_its_volume_and_its_faces_point_outwards(add, expected) -> None:
    mesh = build(add)
    # the tube is open at its ends, which are missing in the integral
    assert volume(mesh) == pytest.approx(expected, rel=0.12 if expected < 0.2 else 0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_is_centered_with_longest_side_one(family) -> None:
    for index in range(8):
        mesh = make_shape(family, index).mesh
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        assert (high - low).max() == pytest.approx(1)
        assert low + high == pytest.approx(0, abs=1e-9)
        assert len(mesh.face_colors) == len(mesh.faces)
        assert mesh.faces.max() < len(mesh.vertices)


def test_points_are_drawn_by_area() -> None:
    mesh = build(lambda builder: builder.box((0, 0, 0), (1, 1, 4), GREY))
    points, faces = mesh.sample(20000, np.random.default_rng(0))
    on_caps = (np.abs(np.abs(points[:, 2]) - 2) < 1e-9).mean()
    assert on_caps == pytest.approx(2 / 18, abs=0.01)
    corners = mesh.vertices[mesh.faces[faces]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert np.abs(((points - corners[:, 0]) * normals).sum(axis=1)).max() < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_training_never_has_the_held_out_combination(family) -> None:
    for split in ("train", "test"):
        shapes = [make_shape(family, index, split) for index in range(100)]
        assert not any(is_held_out(family, shape.attributes) for shape in shapes)
        for name, values in ATTRIBUTES[family].items():
            assert {shape.attributes[name] for shape in shapes} == set(values)
    held_out = [make_shape(family, index, "held_out") for index in range(5)]
    assert all(dict(HELD_OUT[family]).items() <= dict(shape.attributes).items() for shape in held_out)


def test_equal_arguments_give_equal_shapes_and_other_splits_other_ones() -> None:
    first, again = make_shape("chair", 3).mesh, make_shape("chair", 3).mesh
    assert np.array_equal(first.vertices, again.vertices)
    other = make_shape("chair", 3, "test").mesh
    assert first.vertices.shape != other.vertices.shape or not np.array_equal(first.vertices, other.vertices)


def test_attributes_can_be_set_and_unknown_ones_are_refused() -> None:
    assert make_shape("mug", 0, attributes={"handle": "no", "height": "tall"}).attributes["handle"] == "no"
    with pytest.raises(ConfigError, match="attributes of mug"):
        make_shape("mug", 0, attributes={"handle": "maybe"})
    with pytest.raises(ConfigError, match="chair"):
        make_shape("chairs", 0)


def test_captions_name_the_attributes() -> None:
    shape = make_shape("table", 0, attributes={"height": "low", "top": "round", "legs": "pedestal"})
    assert full_caption(shape, with_color=False) == "a low round table on a pedestal"
    assert full_caption(shape).split()[3] in shape.colors
    office = make_shape("chair", 0, attributes={"legs": "wheels"})
    captions = {random_caption(office, np.random.default_rng(seed)) for seed in range(200)}
    assert any("office chair" in caption for caption in captions)
    assert any(caption in {names[0] for names in CLASS_NAMES.values()} for caption in captions)


def test_classes_have_names_in_many_languages() -> None:
    assert len(CLASS_NAMES) >= 8
    assert all(len(set(names)) == len(FAMILIES) for names in CLASS_NAMES.values())
    assert set(CLASS_NAMES["hi"]) <= set(all_words())


@pytest.mark.parametrize("vocab_size", [800, 900])
def test_colours_and_classes_are_single_pieces_of_the_vocabulary(vocab_size) -> None:
    text = TextConditioner(TextConditioner.Config(vocab_size=vocab_size))
    text.fit(vocabulary_text(make_shape(FAMILIES[index % 10], index // 10) for index in range(300)))
    words = [*COLORS, *CLASS_NAMES["en"], "tall", "round"]
    split = {word: len(text.token_ids(f"a {word}")) - 2 for word in words}  # the first token, and "a"
    assert split == dict.fromkeys(words, 1)
