"""Parquet shards: images as bytes or paths, forms of caption columns, and the cache of row groups."""

from __future__ import annotations

import os
import pickle
import random

import pytest

pytest.importorskip("pyarrow", reason="lumina-image[shards] is not installed")

import pyarrow as pa
import pyarrow.parquet as pq
from image.image_files import encode_image, skip_reasons

from lumina_core.errors import ConfigError, PluginError
from lumina_core.training.dataloader import make_sampler
from lumina_image.datasets import parquet_shards
from lumina_image.datasets.parquet_shards import ParquetDataset


def write(path, columns, rows=4, **schema):
    pq.write_table(pa.table(columns, **schema), path, row_group_size=rows)


def numbered(count, begin=0):
    numbers = range(begin, begin + count)
    return {"image": [encode_image((n, 0, 0)) for n in numbers], "caption": [f"number {n}" for n in numbers]}


def shards(path, **options):
    return ParquetDataset(ParquetDataset.Config.read({"folder": str(path), "image_size": 8, **options}, "test"))


def reds(data):
    read = [data.get(index, random.Random(0)) for index in range(len(data))]
    return {one["caption"]: round((float(one["image"][0, 0, 0]) + 1) * 127.5) for one in read}


def test_images_of_several_files_and_row_groups_are_read_in_any_order(tmp_path):
    write(tmp_path / "a.parquet", numbered(10))
    write(tmp_path / "b.parquet", numbered(3, begin=10))
    data = shards(tmp_path)
    assert reds(data) == {f"number {n}": n for n in range(13)}
    assert data.values("file")[9] == "a.parquet:2:1" and data.read_groups() == [4, 4, 2, 3]
    assert data.values("caption") == [f"number {n}" for n in range(13)]
    assert reds(pickle.loads(pickle.dumps(data))) == reds(data)


def test_images_are_bytes_with_a_path_or_paths_inside_the_folder(tmp_path):
    (tmp_path / "in.png").write_bytes(encode_image((7, 0, 0)))
    held = [{"bytes": encode_image((5, 0, 0)), "path": "gone.png"}, {"bytes": None, "path": "in.png"}]
    write(tmp_path / "a.parquet", {"image": held, "text": ["five", "seven"]})
    assert reds(shards(tmp_path)) == {"five": 5, "seven": 7}
    paths = ["in.png", "../out.png", "/etc/passwd", "absent.png", ""]
    write(tmp_path / "a.parquet", {"file_name": paths, "text": ["seven"] * 5})
    data = shards(tmp_path)
    assert reds(data) == {"seven": 7}
    reasons = " ".join(skip_reasons(data).values())
    assert reasons.count("leads outside the folder") == 2
    assert "missing" in reasons and "neither bytes nor a path" in reasons


def test_captions_by_source_come_from_columns_lists_structs_and_maps(tmp_path):
    columns = {"image": [encode_image()] * 2, "llava": ["a long one", None], "blip2": [["short", "tiny"], ["only"]]}
    write(tmp_path / "a.parquet", columns)
    data = shards(tmp_path, caption_columns=["llava", "blip2"], caption_weights={"blip2": 0.5})
    assert data.values("caption") == ["a long one", "short", "tiny", "only"]
    kind = pa.map_(pa.string(), pa.list_(pa.string()))
    pairs = pa.array([[("llava", ["a long one"]), ("blip2", ["short"])]], kind)
    for captions in (pairs, pa.array([{"llava": "a long one", "blip2": "short"}])):
        weights = pa.array([[("llava", 0.0)]], pa.map_(pa.string(), pa.float64()))
        write(tmp_path / "a.parquet", {"image": [encode_image()], "captions": captions, "caption_weights": weights})
        data = shards(tmp_path)
        assert {data.get(0, random.Random(n))["caption"] for n in range(9)} == {"short"}


def test_further_columns_are_fields_of_an_example(tmp_path):
    write(tmp_path / "a.parquet", {**numbered(4), "label": [3, 1, 3, 2]})
    data = shards(tmp_path, extra_columns=["label"])
    assert data.get(1, random.Random(0))["label"] == 1 and data.values("label") == [3, 1, 2]
    with pytest.raises(ConfigError, match="not of 'label'"):
        shards(tmp_path).values("label")


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"x": [b""], "caption": ["a"]},
            {},
            r"got the columns x, caption, expected one of image, picture",
        ),
        ({"image": [b""]}, {}, r"expected one of captions, caption, .* Set dataset\.caption_columns"),
        ({"image": [b""], "caption": ["a"]}, {"image_column": "imgae"}, "got no column 'imgae'; did you mean 'image'"),
        (
            {"image": [b""], "caption": ["a"]},
            {"caption_columns": ["captoin"]},
            "no column 'captoin'; did you mean 'caption'",
        ),
        ({"image": [b""], "caption": ["a"]}, {"extra_columns": ["label"]}, "got no column 'label'"),
    ],
)
def test_a_missing_column_is_one_line(tmp_path, columns, options, message):
    write(tmp_path / "a.parquet", columns)
    with pytest.raises(ConfigError, match=message):
        shards(tmp_path, **options)


def test_a_damaged_file_costs_itself_and_is_named(tmp_path):
    write(tmp_path / "a.parquet", numbered(3))
    write(tmp_path / "b.parquet", numbered(3, begin=3))
    os.truncate(tmp_path / "b.parquet", 300)
    (tmp_path / "c.parquet").touch()
    data = shards(tmp_path)
    assert len(data) == 3 and set(skip_reasons(data)) == {"b.parquet", "c.parquet"}
    assert all(reason.startswith("damaged or truncated: ") for reason in skip_reasons(data).values())


def test_a_damaged_row_group_costs_itself_and_is_named(tmp_path):
    noise = [random.Random(n).randbytes(300) for n in range(8)]
    write(tmp_path / "a.parquet", {"image": [encode_image(), *noise[:3], *noise[4:]], "caption": ["x"] * 8})
    whole = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    begin = whole.dictionary_page_offset or whole.data_page_offset
    data[begin : begin + 40] = b"\xff" * 40
    (tmp_path / "a.parquet").write_bytes(data)
    reasons = skip_reasons(shards(tmp_path))
    assert reasons["a.parquet row group 1"].startswith("damaged: ")
    assert reasons["a.parquet:0:1"].startswith("not an image")


def test_files_without_a_usable_row_are_refused_with_advice(tmp_path):
    with pytest.raises(ConfigError, match=r"image\.parquet: nothing to train on: .*Put \.parquet files there"):
        shards(tmp_path)
    write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())})
    with pytest.raises(ConfigError, match="nothing to train on"):
        shards(tmp_path)


def test_a_row_group_is_read_once_for_neighbouring_rows(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", numbered(40))
    data = shards(tmp_path)
    monkeypatch.setattr("lumina_core.training.dataloader.SHUFFLE_BUFFER", 8)
    read = []
    plain = parquet_shards.ParquetSource._open_shard

    def counted(self, shard):
        read.append(shard)
        return plain(self, shard)

    monkeypatch.setattr(parquet_shards.ParquetSource, "_open_shard", counted)
    data._source._config = data.config.model_copy(update={"held_bytes": 5000})
    order = make_sampler(data, 0)
    for step in range(10):
        for draw in order.step_keys(step, 4):
            data.get(draw.index, draw.python_rng())
    assert len(read) <= 20  # of any order it would be near 40


def test_the_index_is_stored_and_rebuilt_for_other_columns(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", {**numbered(3), "other": ["x", "y", "z"]})
    shards(tmp_path)
    monkeypatch.setattr(parquet_shards.ParquetSource, "scan", lambda self: iter(()))
    assert len(shards(tmp_path)) == 3
    with pytest.raises(ConfigError, match="nothing to train on"):
        shards(tmp_path, caption_columns=["other"])


def test_missing_pyarrow_is_reported_with_its_installation(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", numbered(1))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(PluginError, match=r"pip install"):
        shards(tmp_path)
