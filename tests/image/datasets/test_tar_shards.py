"""Tar shards: images are read in any order; damaged ones are skipped and named."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import tarfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image.image_files import encode_image, giant_header, skip_reasons, tar_members, write_tar
from torch.utils.data import DataLoader

from lumina_core.data.tar import TarSource
from lumina_core.errors import ConfigError, UnusableError
from lumina_core.training.dataloader import StepDataset, make_sampler
from lumina_image.datasets.image_dataset import TarDataset
from lumina_image.image_io import FORMATS


def shards(path, **options):
    return TarDataset(TarDataset.Config.read({"folder": str(path), "image_size": 16, **options}, "test"))


def reds(data):
    """The number that each picture's red says, by its caption."""
    read = [data.get(index, random.Random(0)) for index in range(len(data))]
    return {one["caption"]: round((float(one["image"][0, 0, 0]) + 1) * 127.5) for one in read}


def test_images_of_several_shards_are_read_in_any_order(tmp_path):
    (tmp_path / "deep").mkdir()
    write_tar(tmp_path / "a.tar", tar_members(3))
    write_tar(tmp_path / "deep" / "b.tar", tar_members(2, begin=3))
    data = shards(tmp_path)
    assert reds(data) == {f"number {n}": n for n in range(5)}
    assert data.values("file") == [f"a.tar/{n:03}.png" for n in range(3)] + ["deep/b.tar/003.png", "deep/b.tar/004.png"]
    assert data.values("caption") == [f"number {n}" for n in range(5)] and data.skipped == []
    assert len(shards(tmp_path, shards="*.tar")) == 3


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_tar_and_long_names_are_read(tmp_path, form):
    deep = "/".join(["folder"] * (8 if form == tarfile.USTAR_FORMAT else 30))
    write_tar(tmp_path / "a.tar", {f"{deep}/x.jpg": encode_image(form="JPEG"), f"{deep}/x.txt": "far down"}, form)
    assert shards(tmp_path).values("caption") == ["far down"]


def test_captions_come_from_json_or_text_and_a_key_ends_at_its_first_dot(tmp_path):
    members = {
        "a.json": {"captions": {"llava": "by llava", "blip2": "by blip2"}}, "a.png": encode_image(),
        "b.png": encode_image(), "b.json": {"width": 40}, "b.txt": "beside the numbers",
        "c.seg.png": b"no picture", "c.png": encode_image(), "c.txt": "plain",
        "d.cls": "3", "d.txt": "no picture of it",
    }  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    data = shards(tmp_path, caption_weights={"llava": 0})
    assert data.values("caption") == ["by blip2", "beside the numbers", "plain"]
    assert data.skipped == []


def test_the_index_is_stored_with_the_shards_and_rebuilt_when_they_change(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", tar_members(3))
    first = shards(tmp_path)
    (kept,) = (tmp_path / ".lumina-index").iterdir()
    assert kept.suffix == ".safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(TarSource, "scan", lambda self: pytest.fail("looked through again"))
        assert reds(shards(tmp_path)) == reds(first)
    os.truncate(kept, 40)
    assert reds(shards(tmp_path)) == reds(first)
    write_tar(tmp_path / "a.tar", tar_members(4, begin=7))
    assert list(reds(shards(tmp_path)).values()) == [7, 8, 9, 10]
    assert len(list((tmp_path / ".lumina-index").iterdir())) == 1


def test_the_index_can_be_stored_elsewhere_or_not_at_all(tmp_path, caplog):
    data, other = tmp_path / "data", tmp_path / "other"
    data.mkdir()
    write_tar(data / "a.tar", tar_members(2))
    assert len(shards(data, index_dir=str(other / "index"))) == 2
    assert os.listdir(data) == ["a.tar"] and len(os.listdir(other / "index")) == 1
    (tmp_path / "file").touch()
    assert len(shards(data, index_dir=str(tmp_path / "file"))) == 2
    assert "every start scans all items again" in caplog.text


UNKNOWN = f"not an image in a known format ({', '.join(FORMATS)})"


def test_the_index_contains_skipped_images(tmp_path):
    write_tar(tmp_path / "a.tar", {**tar_members(1), "bad.png": b"no", "bad.txt": "x"})
    assert skip_reasons(shards(tmp_path)) == skip_reasons(shards(tmp_path)) == {"a.tar/bad.png": UNKNOWN}


def test_damaged_giant_and_uncaptioned_members_are_skipped_and_named(tmp_path):
    giant_header(tmp_path / "giant.png")
    members = {
        **tar_members(1), "cut.png": encode_image()[:-30], "cut.txt": "cut",
        "giant.png": (tmp_path / "giant.png").read_bytes(), "giant.txt": "huge",
        "silent.png": encode_image(), "latin.png": encode_image(), "latin.txt": b"caf\xe9",
        "../out.png": encode_image(), "/abs.png": encode_image(),
    }  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    data = shards(tmp_path)
    reasons = skip_reasons(data)
    assert len(data) == 1 and len(reasons) == 6
    assert reasons["a.tar/cut.png"].startswith("damaged") and reasons["a.tar/giant.png"].startswith("too large: ")
    assert reasons["a.tar/silent.png"] == "no caption: no .txt or .json with its name"
    assert reasons["a.tar/latin.png"] == "no caption: the file is not UTF-8 text"
    assert reasons["a.tar/../out.png"] == reasons["a.tar//abs.png"] == "leads outside the shard"


def test_links_and_devices_in_a_shard_are_passed_over(tmp_path):
    write_tar(tmp_path / "a.tar", tar_members(1))
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert len(shards(tmp_path)) == 1


@given(share=st.floats(0, 0.999))
def test_a_truncated_shard_yields_its_complete_images_and_is_reported(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    write_tar(folder / "whole.tar", tar_members(1))
    write_tar(folder / "z.tar", tar_members(3, begin=1))
    end = 3 * 2 * 1024  # where the last member ends
    os.truncate(folder / "z.tar", int(share * end))
    data = shards(folder)
    assert 1 <= len(data) <= 4 and reds(data) == {f"number {n}": n for n in range(len(data))}
    assert any(name == "z.tar" and "cut off" in reason for name, reason in skip_reasons(data).items())


def test_a_compressed_shard_is_refused_with_advice(tmp_path):
    write_tar(tmp_path / "a.tar", tar_members(1))
    (tmp_path / "a.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(ConfigError, match=r"a\.tar \(damaged .*a compressed shard must be unpacked first"):
        shards(tmp_path)


@pytest.mark.parametrize("fill", ["nothing", "an empty file", "noise", "no pictures"])
def test_shards_without_images_are_refused_with_advice(tmp_path, fill):
    if fill == "an empty file":
        (tmp_path / "a.tar").touch()
    if fill == "noise":
        (tmp_path / "a.tar").write_bytes(random.Random(0).randbytes(4096))
    if fill == "no pictures":
        write_tar(tmp_path / "a.tar", {"a.txt": "words"})
    with pytest.raises(ConfigError, match=r"image\.tar: nothing to train on: .*Put uncompressed \.tar shards there"):
        shards(tmp_path)


def test_a_pattern_or_a_link_never_leads_out(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    write_tar(outside / "a.tar", tar_members(1))
    (inside / "a.tar").symlink_to(outside / "a.tar")
    with pytest.raises(ConfigError, match="leads outside the folder"):
        shards(inside, shards="../outside/*.tar")
    with pytest.raises(ConfigError, match=r"a\.tar \(leads outside the folder\)"):
        shards(inside)
    with pytest.raises(ConfigError, match="no folder"):
        shards(tmp_path / "absent")


def test_an_image_of_a_shard_truncated_after_indexing_is_replaced(tmp_path):
    write_tar(tmp_path / "a.tar", tar_members(3))
    data = shards(tmp_path)
    os.truncate(tmp_path / "a.tar", 4096)
    assert data.get(2, random.Random(0))["caption"] == "number 0"
    assert skip_reasons(data) == {"a.tar/002.png": "cut off: the shard ends before it does"}
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ConfigError, match="can be read any more"):
        data.get(0, random.Random(0))
    with pytest.raises(UnusableError, match="No such file"):
        data._source.fetch((0, 0, 1, 0, 1, 0))
    for place in ((0, -5, 1, 0, 1, 0), (0, 0, 2**62, 0, 1, 0)):
        with pytest.raises(UnusableError, match="Delete the index; it is rebuilt"):
            data._source.fetch(place)


def test_worker_processes_read_the_same_batches_and_a_run_goes_on_in_the_middle(tmp_path):
    write_tar(tmp_path / "a.tar", {**tar_members(9, size=(64, 32)), **tar_members(9, begin=9, size=(32, 64))})
    data = shards(tmp_path, image_size=32, buckets={"step": 8})

    def batches(workers, start):
        examples = StepDataset(data, "image", ["caption"])
        order = make_sampler(data, 3)
        steps = [order.step_keys(step, 4) for step in range(start, 6)]
        return list(DataLoader(examples, sampler=steps, batch_size=None, num_workers=workers))

    alone = batches(0, 0)
    for other in (batches(2, 0), [*alone[:4], *batches(0, 4)]):
        assert [raw.values for raw in other] == [raw.values for raw in alone]
        for raw, wanted in zip(other, alone, strict=True):
            assert all(map(torch.equal, raw.data, wanted.data))
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again.get(3, random.Random(1))["image"], data.get(3, random.Random(1))["image"])
    assert again.get(0, random.Random(0))["image"].shape[0] == 3
