"""Regional prompts: cells and boxes, their weights, and errors."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import registry_of
from PIL import Image

from lumina_core.errors import ConfigError
from lumina_core.sampling.pipeline import Pipeline
from lumina_image.request import TextToImageRequest
from lumina_image.task import grid_region_weights, region_weights


@given(st.integers(1, 4), st.integers(1, 4), st.integers(4, 9), st.integers(4, 9))
def test_every_token_lies_in_exactly_one_cell_and_cells_are_blocks(down, across, rows, columns):
    shares = grid_region_weights(rows, columns, down, across)
    assert shares.shape == (down * across, rows * columns)
    assert torch.equal(shares.sum(dim=0), torch.ones(rows * columns))
    for cell in shares.view(-1, rows, columns):
        assert torch.equal(cell, cell.amax(dim=1)[:, None] * cell.amax(dim=0)[None])


def test_cells_are_numbered_row_by_row():
    assert grid_region_weights(2, 4, 2, 2).argmax(dim=0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_published_numbers_give_the_second_region_two_cells_and_the_third_none():
    published = grid_region_weights(2, 2, 2, 2, published_order=True)
    assert published.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert torch.equal(grid_region_weights(1, 6, 1, 3, published_order=True), grid_region_weights(1, 6, 1, 3))
    assert grid_region_weights(1, 7, 1, 3, published_order=True).sum(dim=0).tolist() == [1] * 6 + [0]


def test_more_cells_than_tokens_are_refused():
    with pytest.raises(ConfigError, match="got 1x3, expected at most 4x2"):
        grid_region_weights(4, 2, 1, 3)


def read_request(**options):
    return TextToImageRequest.read({"prompt": "the whole", **options}, "request")


def test_pixels_without_box_belong_to_the_prompt_and_overlapping_boxes_are_averaged():
    shares = region_weights(read_request(region=["0,0,3,2: a", "1,0,3,2: b"]), (2, 5))
    assert shares[:, 0].tolist() == [[0, 0, 0, 0, 1], [1, 0.5, 0.5, 0, 0], [0, 0.5, 0.5, 1, 0]]
    assert torch.equal(shares.sum(dim=0), torch.ones(2, 5))


def test_a_region_is_read_from_words_and_from_python_alike():
    wanted = read_request(region="1,2,3,4: flag: Japan").region
    assert wanted[0].box == (1, 2, 3, 4) and wanted[0].prompt == "flag: Japan"
    for form in ([((1, 2, 3, 4), "flag: Japan")], [{"box": [1, 2, 3, 4], "prompt": "flag: Japan"}], wanted):
        assert read_request(region=form).region == wanted


@pytest.mark.parametrize("box", ["0,0,6,2", "-1,0,2,2", "0,1,2,2", "0,0,0,2", "0,0,-1,2"])
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(ConfigError, match="expected a box within the image of 5x2"):
        region_weights(read_request(region=f"{box}: a"), (2, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "a red heart"}, "expected 'x,y,w,h: text'"),
        ({"region": "1,2,3: a"}, "expected 'x,y,w,h: text'"),
        ({"region": "0,0,1,1: "}, "at least 1 character"),
        ({"region_grid": "2x2", "region": ["a", "b"]}, "got 2 regions, expected 4"),
        ({"region_grid": "1x1", "region": "0,0,1,1: a"}, "without boxes"),
        ({"region_grid": "2"}, "ROWSxCOLUMNS"),
        ({"region_order": "published"}, "got no region_grid"),
    ],
)
def test_wrong_regions_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        read_request(**options)


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    from lumina_core.model_dir import load_model

    registry = registry_of("image")
    return Pipeline(load_model(tiny_folder, registry), registry)


def one(pipeline, **options):
    return pipeline(**{"prompt": "a red heart", "seed": 1, "steps": 2, **options})[0].data


def test_regions_with_the_prompt_of_the_image_change_nothing(pipeline):
    same = ["0,0,10,32: a red heart", "5,5,20,20: a red heart"]
    torch.testing.assert_close(one(pipeline, region=same), one(pipeline), atol=1e-4, rtol=0)


def test_a_region_reaches_its_own_side_first(pipeline):
    """After one evaluation with one layer of attention to the words, tokens outside have felt nothing of it but
    through the tokens inside: the change is larger in the box."""
    changed = (
        one(pipeline, region="0,0,16,32: green cat", steps=1, solver="euler") - one(pipeline, steps=1, solver="euler")
    ).abs()
    assert float(changed[:, :, :16].mean()) > 2 * float(changed[:, :, 16:].mean()) > 0


def test_cells_are_boxes_of_equal_size(pipeline):
    texts = ["red cat", "blue dog", "green sun", "black moon"]
    corners = ((0, 0), (16, 0), (0, 16), (16, 16))
    boxes = [((x, y, 16, 16), text) for (x, y), text in zip(corners, texts, strict=True)]
    torch.testing.assert_close(
        one(pipeline, region_grid="2x2", region=texts), one(pipeline, region=boxes), atol=1e-4, rtol=0
    )
    assert (
        float(
            (one(pipeline, region_grid="2x2", region_order="published", region=texts) - one(pipeline, region=boxes))
            .abs()
            .max()
        )
        > 1e-3
    )


def test_requests_with_and_without_regions_share_a_batch(pipeline):
    read_request = [
        pipeline.make_request(prompt="a red heart", seed=1, steps=2, region="0,0,16,32: green cat"),
        pipeline.make_request(prompt="a house", seed=2, steps=2, count=2),
        pipeline.make_request(
            prompt="the moon", seed=4, steps=2, region=["0,0,16,16: sun", "8,8,8,8: a cat of another colour"]
        ),
    ]
    together = [answer.data for answer in pipeline(read_request)]
    alone = [answer.data for request in read_request for answer in pipeline([request])]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_the_command_takes_region_after_region_and_writes_them_down(ask, tmp_path):
    out = tmp_path / "r.png"
    done = ask(
        "a house", "--region", "0,0,16,32: red cat", "--region", "16,0,16,32: the sun", "--out", out, "--steps", 1
    )
    assert (done.status, done.err) == (0, "")
    with Image.open(out) as picture:
        regions = json.loads(picture.text["lumina"])["region"]
    assert regions == [{"prompt": "red cat", "box": [0, 0, 16, 32]}, {"prompt": "the sun", "box": [16, 0, 16, 32]}]


def test_a_region_outside_is_one_line_and_nothing_is_written(ask, tmp_path):
    done = ask("a house", "--region", "20,0,16,32: red cat", "--out", tmp_path / "r.png")
    assert done.status == 2 and done.err.count("\n") == 1 and "within the image of 32x32" in done.err
    assert list(tmp_path.iterdir()) == []
