"""Measures of views against cases that are known."""

import json
from types import SimpleNamespace

import pytest
import torch
import trimesh

from lumina_3d.views.camera_encoding import CameraBatch
from lumina_3d.views.cameras import orbit
from lumina_3d.views.metrics import (
    ViewPixels,
    ViewScores,
    carve_hull,
    gradient_energy,
    hull_consistency,
    nearest_render,
    psnr,
    silhouette_iou,
    silhouettes,
)
from lumina_3d.views.scenes import render_views, to_views
from lumina_core.errors import ShapeError


def test_silhouette_iou_of_shifted_squares():
    first = torch.zeros(8, 8, dtype=torch.bool)
    first[2:6, 2:6] = True
    assert float(silhouette_iou(first, first.roll(1, 1))) == pytest.approx(12 / 20)
    assert float(silhouette_iou(first & False, first & False)) == 1


def test_psnr_of_a_constant_difference():
    black, grey = -torch.ones(4, 8, 8), -torch.ones(4, 8, 8) + 0.2
    assert float(psnr(black, grey)) == pytest.approx(20)  # 0.1 of the range


def test_blur_lowers_the_gradient_energy():
    sharp = torch.rand(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    assert float(gradient_energy(blurred)) < 0.3 * float(gradient_energy(sharp))


@pytest.fixture(scope="module")
def box():
    pytest.importorskip("embreex")
    mesh, cameras = trimesh.creation.box((0.9, 0.5, 0.3)), orbit(8, 25, 2, 40)
    views = to_views(render_views(mesh, cameras, 64)).movedim(1, 0)[None]
    return views, CameraBatch.of([cameras])


def test_the_hull_of_true_views_is_the_object(box):
    views, cameras = box
    masks = silhouettes(views)
    hull = carve_hull(masks, cameras)
    side = 2 * 0.52 / 48
    # a hull is larger: no camera stands below the box
    assert 0.95 < float(hull.sum()) * side**3 / (0.9 * 0.5 * 0.3) < 1.7
    center = ((torch.arange(48) + 0.5) / 48 * 2 - 1).abs() * 0.52
    inside = [center < half - side for half in (0.45, 0.25, 0.15)]
    assert bool(hull[0][inside[0]][:, inside[1]][:, :, inside[2]].all())
    assert float(hull_consistency(masks, cameras).min()) > 0.93


def test_a_view_of_another_object_breaks_the_consistency(box):
    views, cameras = box
    masks = silhouettes(views).clone()
    masks[:, 3] = masks[:, 3].roll(12, -1)
    assert float(hull_consistency(masks, cameras).mean()) < 0.85


def test_the_pose_of_a_view_is_read_back(box):
    views, _ = box
    noisy = views[:, [5, 2]] + 0.1 * torch.randn(1, 2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    near = nearest_render(noisy, views)[0] % 4  # a box looks the same from the other side
    assert near.tolist() == [1, 2]


def test_views_are_evaluated_by_the_command(lumina, tiny_views):
    pytest.importorskip("embreex")
    done = lumina("evaluate", tiny_views, "--json", "--samples", 2, "--steps", 1)
    assert done.status == 0, done.err
    scores = json.loads(done.out.strip().splitlines()[-1])["scores"]
    assert list(scores) == ["3d.view_scores"]  # the metrics of point clouds are for other data
    assert 0 <= scores["3d.view_scores"]["IoU"]["value"] < 0.9 and scores["3d.view_scores"]["PSNR"]["value"] < 25


def test_scores_of_true_views_and_of_other_shapes():
    metric, true = ViewScores(ViewScores.Config(), ViewPixels(ViewPixels.Config())), -torch.ones(2, 4, 3, 8, 8)
    true[:, 3, :, 2:6, 2:6] = 1
    other = true.clone()
    other[1] = true[1].roll(1, -1)
    real, generated = (metric.feature_extractor(list(views)) for views in (true, other))
    inputs = SimpleNamespace(generated=generated, real=real.flip(0), target_index=torch.tensor([1, 0]))
    scores = metric.compute(inputs)
    assert scores["IoU"].tolist() == pytest.approx([1, 12 / 20]) and scores["PSNR"].tolist() == pytest.approx(
        [100, 100]
    )
    with pytest.raises(ShapeError, match="RGBA"):
        metric.feature_extractor([torch.zeros(4, 3, 8, 8), torch.zeros(4, 2, 8, 8)])
