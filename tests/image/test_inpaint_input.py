"""Image-to-image, inpainting and outpainting: strength, masks, positions and errors."""

from __future__ import annotations

import json
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from making import registry_of
from PIL import Image

from lumina_core.errors import ConfigError
from lumina_core.sampling.generate import generate_batch
from lumina_core.sampling.pipeline import Pipeline
from lumina_image.inpaint_input import feather_mask, init_data
from lumina_image.request import TextToImageRequest


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    from lumina_core.model_dir import load_model

    registry = registry_of("image")
    return Pipeline(load_model(tiny_folder, registry), registry)


def noisy(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask_of(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is so large."""
    parts = [
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(bytes(100)),
        b"IEND",
    ]
    framed = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def saved(answer, tmp_path) -> np.ndarray:
    return pixels(answer.save(tmp_path / "made.png"))


def one(pipeline, **settings):
    return pipeline(prompt="a red heart", seed=1, **{"steps": 5, **settings})[0]


def test_strength_0_returns_the_image_without_evaluations(pipeline, tmp_path):
    picture = noisy(40, 24)
    made = one(pipeline, init_image=picture, strength=0)
    assert made.metadata["nfe"] == 0
    assert np.array_equal(saved(made, tmp_path), np.asarray(picture))


def test_a_strength_of_1_is_text_to_image_with_the_same_noise(pipeline):
    made = one(pipeline, init_image=noisy(32, 32), strength=1)
    assert torch.equal(made.data, one(pipeline).data)


def test_evaluations_grow_with_strength_and_the_image_matters_below_1(pipeline):
    made = [one(pipeline, init_image=noisy(32, 32), strength=strength) for strength in (0.3, 0.6, 0.9)]
    assert [answer.metadata["nfe"] for answer in made] == [4, 6, 10]
    other = one(pipeline, init_image=noisy(32, 32, 7), strength=0.6)
    assert float((other.data - made[1].data).abs().max()) > 0.01


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4", "adams", "sde"])
@pytest.mark.parametrize("strength", [1, 0.7])
def test_black_pixels_of_the_mask_are_preserved_exactly_with_every_solver(pipeline, tmp_path, solver, strength):
    picture, box = noisy(32, 40), (8, 3, 21, 30)
    made = one(pipeline, init_image=picture, mask=mask_of(32, 40, box), solver=solver, strength=strength)
    changed = saved(made, tmp_path) != np.asarray(picture)
    inside = np.asarray(mask_of(32, 40, box)) == 255
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.5


def test_the_redrawn_region_depends_on_the_preserved_one(pipeline):
    mask = mask_of(32, 32, (0, 0, 16, 32))
    one_side, other_side = (one(pipeline, init_image=noisy(32, 32, seed), mask=mask).data for seed in (1, 2))
    assert float((one_side - other_side)[:, :, :16].abs().max()) > 1e-3


def test_an_image_of_any_size_is_padded_to_patches_and_cropped(pipeline, tmp_path):
    picture, mask = noisy(37, 21), mask_of(37, 21, (0, 0, 10, 10))
    made = saved(one(pipeline, init_image=picture, mask=mask), tmp_path)
    assert made.shape == (21, 37, 3)
    assert np.array_equal(made[10:], np.asarray(picture)[10:])


def test_only_pixels_within_the_feather_change_outside_the_mask(pipeline, tmp_path):
    picture, mask = noisy(32, 32), mask_of(32, 32, (8, 8, 16, 16))
    changed = (saved(one(pipeline, init_image=picture, mask=mask, feather=3), tmp_path) != np.asarray(picture)).any(
        axis=2
    )
    around = np.asarray(mask_of(32, 32, (5, 5, 19, 19))) == 255
    assert not changed[~around].any()
    assert changed[5:19, 5:8].mean() > 0.5


def test_a_feather_falls_by_equal_steps():
    redrawn = torch.zeros(1, 8)
    redrawn[0, 0] = 1
    assert feather_mask(redrawn, 3)[0].tolist() == [1, 0.75, 0.5, 0.25, 0, 0, 0, 0]
    assert torch.equal(feather_mask(redrawn, 0), redrawn)


def test_outpainting_preserves_the_image_at_its_position(pipeline, tmp_path):
    picture = noisy(24, 16)
    made = saved(one(pipeline, init_image=picture, outpaint=(3, 5, 10, 2)), tmp_path)
    assert made.shape == (16 + 7, 24 + 13, 3)
    assert np.array_equal(made[5:21, 3:27], np.asarray(picture))
    placed = one(pipeline, init_image=picture, size=(37, 23), paste_at=(3, 5))
    assert np.array_equal(saved(placed, tmp_path), made)


def test_another_size_without_position_resizes_the_image(pipeline):
    assert one(pipeline, init_image=noisy(64, 48), size=(32, 24), strength=0).data.shape == (3, 24, 32)


def test_a_batch_equals_its_requests_one_by_one(pipeline):
    settings = [
        pipeline.make_request(
            prompt=word, seed=seed, init_image=noisy(32, 32, seed), mask=mask_of(32, 32, (0, 0, 9 * seed, 32))
        )
        for seed, word in ((1, "a red heart"), (2, "a cat"))
    ]
    together = [answer.data for answer in pipeline(settings)]
    alone = [pipeline([request])[0].data for request in settings]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_several_results_of_an_image_differ_in_the_redrawn_region_only(pipeline):
    made = pipeline(
        prompt="a cat", init_image=noisy(32, 32), mask=mask_of(32, 32, (0, 0, 8, 8)), count=2, steps=3
    )  # fmt: skip
    differs = (made[0].data != made[1].data).any(dim=0)
    assert bool(differs[:8, :8].all()) and not bool(differs[8:].any())


def test_requests_with_and_without_an_initial_image_are_separate_batches(pipeline):
    requests = [pipeline.make_request(prompt="x"), pipeline.make_request(prompt="x", init_image=noisy(32, 32))]
    with pytest.raises(ConfigError, match="strength: got several values in one batch"):
        generate_batch(pipeline.model, pipeline.registry, requests)
    together = pipeline(requests)
    for request, result in zip(requests, together, strict=True):
        torch.testing.assert_close(result.data, pipeline(request)[0].data, atol=1e-4, rtol=0)


def test_a_file_an_array_a_tensor_and_bytes_are_the_same_image(pipeline, tmp_path):
    picture = noisy(32, 24)
    picture.save(tmp_path / "p.png")
    data = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 127.5 - 1
    handed = [tmp_path / "p.png", str(tmp_path / "p.png"), (tmp_path / "p.png").read_bytes(), np.asarray(picture), data]
    digests = {
        json.dumps(pipeline.make_request(prompt="x", init_image=h).model_dump(mode="json")["init_image"]["sha256"])
        for h in handed
    }
    assert len(digests) == 1
    mask = np.zeros((24, 32), bool)
    mask[:, :5] = True
    kept = [
        init_data(pipeline.make_request(prompt="x", init_image=picture, mask=m)).keep_mask
        for m in (mask, torch.from_numpy(mask))
    ]
    assert torch.equal(kept[0], kept[1]) and kept[0][:, :5].sum() == 0 and kept[0][:, 5:].min() == 1


def test_the_command_reads_files_and_records_their_names(ask, tmp_path):
    noisy(32, 32).save(tmp_path / "photo.png")
    mask_of(32, 32, (0, 0, 8, 8)).save(tmp_path / "hole.png")
    files = ("--init-image", tmp_path / "photo.png", "--mask", tmp_path / "hole.png")
    done = ask("a cat", *files, "--out", tmp_path / "out.png", "--steps", 3)
    assert (done.status, done.err) == (0, "")
    with Image.open(tmp_path / "out.png") as picture:
        record = json.loads(picture.text["lumina"])
    assert (record["init_image"]["name"], record["mask"]["name"], record["strength"]) == ("photo.png", "hole.png", 1.0)
    assert str(tmp_path) not in json.dumps(record)
    assert np.array_equal(pixels(tmp_path / "out.png")[8:], pixels(tmp_path / "photo.png")[8:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strength", "0.5"), "strength: got no init_image"),
        (("--mask", "small.png"), "mask: got no init_image"),
        (("--init-image", "photo.png", "--strength", "1.5"), "less than or equal to 1"),
        (("--init-image", "photo.png", "--strength", "-0.1"), "greater than or equal to 0"),
        (("--init-image", "photo.png", "--strength", "nan"), "strength"),
        (
            ("--init-image", "photo.png", "--mask", "small.png"),
            "mask: got a size of 16x16, expected 32x32 as of init_image",
        ),
        (("--init-image", "damaged.png"), "damaged.png cannot be used as an image: damaged"),
        (("--init-image", "text.png"), "not an image in a known format"),
        (("--init-image", "bomb.png"), "cannot be used as an image: too large: more than 64000000 pixels"),
        (("--init-image", "nowhere.png"), "No such file"),
        (("--init-image", "."), "folder"),
        (("--init-image", "pipe.png"), "not a plain file"),
        (("--init-image", "photo.png", "--feather", "3"), "feather: got no region to redraw"),
        (("--init-image", "photo.png", "--outpaint", "1,2"), "LEFT,TOP,RIGHT,BOTTOM"),
        (("--init-image", "photo.png", "--outpaint=-1"), "expected 0 or more pixels on each side"),
        (("--init-image", "photo.png", "--outpaint", "5000"), "up to 4096"),
        (("--init-image", "photo.png", "--outpaint", "8", "--size", "64x64"), "expected outpaint alone"),
        (("--init-image", "photo.png", "--paste-at", "1,1"), "expected the size of the result"),
        (("--init-image", "photo.png", "--size", "40x40", "--paste-at", "9,0"), "expected a position within 40x40"),
    ],
)
def test_a_wrong_request_is_one_line_and_no_file(ask, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    noisy(32, 32).save("photo.png")
    noisy(16, 16).save("small.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "photo.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("hello")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "bomb.png").write_bytes(bomb(60000, 60000))
    done = ask("a cat", "--out", "out.png", *options)
    assert done.status == 2 and message in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("shade", "message"), [(255, "white everywhere"), (0, "black everywhere: nothing is redrawn")])
def test_a_mask_of_one_color_is_noted(ask, tmp_path, shade, message):
    noisy(32, 32).save(tmp_path / "photo.png")
    Image.new("L", (32, 32), shade).save(tmp_path / "mask.png")
    settings = ("--init-image", tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "--steps", 1)
    done = ask("a cat", *settings, "--out", tmp_path / "out.png")
    assert done.status == 0 and message in done.err and done.err.count("\n") == 1


def test_nan_is_refused_and_uint8_is_not_rescaled():
    holed = torch.full((3, 8, 8), float("nan"))
    for field, value in {"init_image": holed, "mask": holed[0]}.items():
        settings = {"prompt": "x", "init_image": noisy(8, 8), field: value}
        with pytest.raises(ConfigError, match=rf"NaN or infinite of {value.numel()}"):
            TextToImageRequest.read(settings, "request")
    levels = torch.from_numpy(np.asarray(noisy(8, 6)).copy())
    request = TextToImageRequest(prompt="x", init_image=levels.permute(2, 0, 1), mask=levels[:, :, 0])
    assert np.array_equal(np.asarray(request.init_image.image), levels)
    assert np.array_equal(np.asarray(request.mask.image)[:, :, 0], levels[:, :, 0])


def test_a_request_prints_and_compares_without_its_pixels():
    request = TextToImageRequest.read({"prompt": "x", "init_image": noisy(8, 8)}, "request")
    assert len(repr(request)) < 700
