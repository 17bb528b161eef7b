"""Given pictures: alpha, white and grey backgrounds of one object give the same data."""

import numpy as np
import pytest
from PIL import Image

from lumina_3d.families.shapes import make_shape
from lumina_3d.views.cameras import look_at
from lumina_3d.views.picture_input import parse_picture, remove_background, resize_rgba
from lumina_3d.views.scenes import from_views, render_views, to_views

pytest.importorskip("embreex")


@pytest.fixture(scope="module")
def rendered():
    return render_views(make_shape("chair", 1).mesh, [look_at(30, 20, 2, 40)], 64)[0]


def over(rgba, color):
    background = Image.new("RGBA", rgba.shape[1::-1], color)
    return Image.alpha_composite(background, Image.fromarray(rgba)).convert("RGB")


@pytest.mark.parametrize("color", [(255, 255, 255), (128, 128, 128), (40, 90, 60)])
def test_a_plain_background_is_removed(rendered, color):
    picture = parse_picture(over(rendered, color))
    assert picture.background == "removed"
    difference = (picture.data(64) - parse_picture(Image.fromarray(rendered)).data(64)).abs()
    assert float(difference.mean()) < 0.02  # of a range of 2
    assert np.mean((picture.rgba[..., 3] > 127) != (rendered[..., 3] > 127)) < 0.02


def test_a_background_with_noise_is_removed(rendered):
    noise = np.random.default_rng(0).normal(0, 3, (64, 64, 3))
    noisy = (np.asarray(over(rendered, (200, 200, 205))) + noise).clip(0, 255).astype(np.uint8)
    alpha = parse_picture(noisy).rgba[..., 3]
    assert np.mean((alpha > 127) != (rendered[..., 3] > 127)) < 0.02


def test_a_background_of_several_colours_is_kept():
    gradient = np.broadcast_to(np.linspace(0, 255, 32)[:, None, None], (32, 32, 3)).astype(np.uint8)
    assert remove_background(gradient) is None
    assert parse_picture(gradient).background == "kept"


def test_a_hole_that_is_closed_is_background():
    picture = np.full((32, 32, 3), 250, dtype=np.uint8)
    picture[8:24, 8:24] = (200, 0, 0)
    picture[12:20, 12:20] = 250
    rgba = remove_background(picture)
    assert rgba is not None and rgba[16, 16, 3] == 0 and tuple(rgba[9, 9]) == (200, 0, 0, 255)


def test_pictures_of_other_shapes_are_padded_and_keep_their_colour():
    wide = np.zeros((40, 80, 4), dtype=np.uint8)
    wide[:, 20:60] = (10, 200, 30, 255)
    small = resize_rgba(wide, 16)
    assert small.shape == (16, 16, 4)
    assert tuple(small[8, 8]) == (10, 200, 30, 255) and not small[0].any()


def test_grey_files_and_files_of_16_bits(tmp_path):
    grey = np.full((20, 20), 250, dtype=np.uint8)
    grey[5:15, 5:15] = 90
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert parse_picture(tmp_path / "grey.png").rgba[10, 10].tolist() == [90, 90, 90, 255]
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits per channel"):
        parse_picture(tmp_path / "deep.png")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "array"])
def test_pictures_of_every_mode_lose_their_background(mode):
    rgb = Image.new("RGB", (40, 30), "white")
    rgb.paste((90, 90, 90), (10, 5, 30, 25))
    value = np.asarray(rgb.convert("L")) if mode == "array" else rgb.convert("RGBA" if mode == "LA" else mode)
    picture = parse_picture(value.convert("LA") if mode == "LA" else value)
    assert picture.background == "removed"
    assert (picture.rgba[..., 3] > 127).mean() == pytest.approx(400 / 1200, abs=1e-9)


def test_an_alpha_channel_without_transparent_pixels_is_no_background(rendered):
    rgba = np.asarray(over(rendered, "white").convert("RGBA")).copy()
    rgba[..., 3] = 254
    assert parse_picture(Image.fromarray(rgba)).background == "removed"


@pytest.mark.parametrize("color", [(255, 255, 255), None])
def test_large_pictures_are_reduced_and_give_the_same_view(rendered, color):
    small = Image.fromarray(rendered) if color is None else over(rendered, color)
    large = small.resize((3072, 3072), Image.Resampling.NEAREST)
    picture = parse_picture(large)
    assert picture.rgba.shape == (512, 512, 4)
    assert float((picture.data(64) - parse_picture(small).data(64)).abs().mean()) < 0.02


def test_data_and_pictures_are_inverse(rendered):
    assert np.abs(from_views(to_views(rendered[None]))[0].astype(int) - rendered).max() <= 1
