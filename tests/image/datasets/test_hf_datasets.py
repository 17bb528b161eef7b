"""Data sets of the library `datasets`: saved ones, folders of files, and missing names."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("datasets", reason="lumina-image[shards] is not installed")

import datasets
from image.image_files import encode_image, skip_reasons

from lumina_core.errors import ConfigError, PluginError
from lumina_image.datasets import hf_datasets
from lumina_image.datasets.hf_datasets import HuggingFaceDataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def saved(path, rows=3, **more):
    columns = {
        "image": [{"bytes": encode_image((n, 0, 0)), "path": None} for n in range(rows)],
        "text": [f"number {n}" for n in range(rows)],
        **more,
    }
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    data.save_to_disk(str(path))
    return data


def opened(source, **options):
    return HuggingFaceDataset(
        HuggingFaceDataset.Config.read({"source": str(source), "image_size": 8, **options}, "test")
    )


def reds(data):
    read = [data.get(index, random.Random(0)) for index in range(len(data))]
    return {one["caption"]: round((float(one["image"][0, 0, 0]) + 1) * 127.5) for one in read}


def test_a_saved_data_set_is_read_in_any_order_and_looked_through_once(tmp_path, monkeypatch):
    saved(tmp_path / "own")
    assert reds(opened(tmp_path / "own")) == {f"number {n}": n for n in range(3)}
    monkeypatch.setattr(hf_datasets.HuggingFaceSource, "scan", lambda self: pytest.fail("looked through again"))
    data = opened(tmp_path / "own")
    assert data.values("file") == ["row 0", "row 1", "row 2"] and data.values("caption")[2] == "number 2"


def test_damaged_and_uncaptioned_rows_are_skipped_and_named(tmp_path):
    held = [
        {"bytes": encode_image(), "path": None},
        {"bytes": b"noise", "path": None},
        {"bytes": encode_image(), "path": None},
    ]
    data = datasets.Dataset.from_dict({"image": held, "caption": ["good", "bad", ""]})
    data.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "own"))
    assert set(skip_reasons(opened(tmp_path / "own"))) == {"row 1", "row 2"}


def test_the_names_of_classes_are_captions_and_their_numbers_a_field(tmp_path):
    data = saved(tmp_path / "first", label=[1, 0, 1]).remove_columns("text")
    named = data.cast_column("label", datasets.ClassLabel(names=["dog", "tabby_cat"]))
    named.save_to_disk(str(tmp_path / "own"))
    found = opened(tmp_path / "own", extra_columns=["label"])
    assert [found.get(n, random.Random(0))["caption"] for n in range(3)] == ["tabby cat", "dog", "tabby cat"]
    assert found.get(0, random.Random(0))["label"] == 1 and list(found.values("label")) == [0, 1]


def test_folders_of_images_and_of_parquet_files_are_loaded(tmp_path):
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    (tmp_path / "pictures" / "train" / "a.png").write_bytes(encode_image((9, 0, 0)))
    (tmp_path / "pictures" / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "nine"}\n')
    assert reds(opened(tmp_path / "pictures")) == {"nine": 9}
    (tmp_path / "files").mkdir()
    saved(tmp_path / "own").to_parquet(str(tmp_path / "files" / "train.parquet"))
    assert len(reds(opened(tmp_path / "files", index_dir=str(tmp_path / "index")))) == 3
    assert len(list((tmp_path / "index").iterdir())) == 1


def test_a_wrong_split_or_column_names_the_right_ones(tmp_path):
    datasets.DatasetDict({"train": saved(tmp_path / "one")}).save_to_disk(str(tmp_path / "own"))
    assert len(opened(tmp_path / "own")) == 3
    with pytest.raises(ConfigError, match=r"got 'trian', expected a split of .*; did you mean 'train'"):
        opened(tmp_path / "own", split="trian")
    with pytest.raises(ConfigError, match="got no column 'txet'; did you mean 'text'"):
        opened(tmp_path / "own", caption_columns=["txet"])


def test_a_missing_data_set_is_refused_with_advice_for_offline_use(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'nobody/nothing', expected a readable data set .*HF_HUB_OFFLINE=1"):
        opened("nobody/nothing")


def test_a_data_set_without_captions_and_a_damaged_one_are_one_clear_line(tmp_path):
    empty = saved(tmp_path / "first").remove_columns("text").add_column("text", ["", " ", None])
    empty.save_to_disk(str(tmp_path / "silent"))
    with pytest.raises(ConfigError, match=r"image\.hf_datasets: nothing to train on.*3 skipped: row 0 \(no caption"):
        opened(tmp_path / "silent")
    saved(tmp_path / "own")
    next((tmp_path / "own").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(ConfigError, match=r"expected a readable data set \(.*Use a folder of save_to_disk"):
        opened(tmp_path / "own")


def test_a_missing_library_is_reported_with_its_installation(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(PluginError, match=r"pip install"):
        opened("any")
