"""Real furniture: the shipped pack, its axes and families, and packs that cannot be read."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from lumina_3d.points.furniture import Furniture, read_pack
from lumina_core.errors import ConfigError


def furniture(**options) -> Furniture:
    return Furniture(Furniture.Config(**options))


def test_the_shipped_pack_has_175_finite_clouds_with_names_and_creators():
    points, models = read_pack(None)
    assert points.shape == (175, 2048, 3) and np.isfinite(points).all()
    assert {model["catalog"] for model in models} == {"BlendSwap-CC-0"}
    assert all(model["name"] and model["creator"] for model in models)
    extent = points.astype(float).max(axis=1) - points.astype(float).min(axis=1)
    # points that are drawn by area leave out some corners
    assert (extent.max(axis=1) < 1.01).all() and (extent.max(axis=1) > 0.8).all()


def test_chairs_stand_upright_and_face_the_front():
    chairs = furniture(families=("chair",))
    clouds = [chairs.cloud(index).numpy() for index in range(len(chairs))]
    # the back of a chair is its highest part, and lies behind: at negative x
    behind = [cloud[0, cloud[2] > np.quantile(cloud[2], 0.9)].mean() < cloud[0].mean() for cloud in clouds]
    assert np.mean(behind) > 0.85, behind


def test_an_example_has_the_requested_points_and_is_the_same_for_the_same_seed():
    data = furniture(count=100)
    example, again = data.get(3, random.Random(1)), data.get(3, random.Random(1))
    assert example["points"].shape == (3, 100) and example["points"].equal(again["points"])
    assert data.size(3, random.Random(1)) == (100,)
    assert example["caption"] in data.values("caption")


def test_items_of_the_evaluation_set_are_whole_clouds_with_the_name_of_their_family():
    items = furniture(families=("sofa", "table")).eval_set()
    assert len(items) == 11 and list(items.indices("test")) == list(range(11))
    for index in range(len(items)):
        fields = items.fields(index, None)
        assert fields["caption"] == items.groups(index)["family"] in ("sofa", "table")
        cloud = items.reference(index)
        assert cloud.shape == (3, fields["count"]) and abs(float(cloud.abs().max()) - 1) < 1e-5


@pytest.mark.parametrize("families", [("vase",), ("chiar",)])
def test_a_family_without_models_is_refused_with_those_that_have_some(families):
    with pytest.raises(ConfigError, match=rf"got {families[0]}, expected some of chair, bed, shelf"):
        furniture(families=families)


@pytest.mark.parametrize("defect", ["absent", "names", "shape"])
def test_a_folder_without_a_pack_is_refused(tmp_path, defect):
    if defect != "absent":
        shape = (2, 8, 3) if defect == "names" else (1, 8, 2)
        np.savez(tmp_path / "furniture.npz", points=np.zeros(shape, dtype=np.float16))
        models = [{"name": "Chair", "family": "chair", "creator": "", "catalog": ""}]
        (tmp_path / "furniture.json").write_text(json.dumps({"models": models}))
    with pytest.raises(ConfigError, match=r"^folder: got"):
        furniture(folder=tmp_path)
