"""Folders, shards and tables of images as other programs leave them: every image is used or named with a reason."""

from __future__ import annotations

import ast
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import pytest
from image.image_files import BLUE, GREEN, encode_image, skip_reasons, tar_members, write_tar

from lumina_core.data.source import FolderListing
from lumina_core.errors import ConfigError
from lumina_image.datasets.image_dataset import ClassFolderDataset, FolderDataset, TarDataset
from lumina_image.image_io import FORMATS


def put(path, data="a card"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def items(path, *names):
    for name in names:
        put(path / name, encode_image())
        put((path / name).with_suffix(".txt"), f"caption of {name}")
    return path


def folder(path, dataset=FolderDataset, **options):
    return dataset(dataset.Config.read({"folder": str(path), "image_size": 16, **options}, "test"))


def test_hidden_names_are_no_data_at_any_depth(tmp_path):
    items(
        tmp_path, "a/1.png", "a/.ipynb_checkpoints/1-checkpoint.png", "a/deep/.thumbnails/x/1.png", ".Trash-1000/2.png"
    )
    items(tmp_path, "a/._1.png", "__MACOSX/a/1.png", "b/2.png")
    assert folder(tmp_path).values("file") == ["a/1.png", "b/2.png"]
    classes = folder(tmp_path, ClassFolderDataset)
    assert classes.classes == ["a", "b"] and len(classes) == 2 and not classes.skipped


def test_a_hidden_root_is_data(tmp_path):
    assert len(folder(items(tmp_path / ".cache" / "set", "a.png"))) == 1


def test_the_files_that_a_mac_packs_next_to_each_member_part_nothing(tmp_path):
    members = {f"./{name}": data for name, data in tar_members(3).items()}
    double = {f"./._{name[2:]}": b"\x00\x05\x16\x07" for name in members}
    mixed = {n: d for pair in zip(double.items(), members.items(), strict=True) for n, d in pair}
    write_tar(tmp_path / "mac.tar", mixed)
    write_tar(tmp_path / ".Trash.tar", tar_members(1))
    assert len(folder(tmp_path, TarDataset)) == 3 and not skip_reasons(folder(tmp_path, TarDataset))


def test_archives_joined_in_one_file_are_read_to_the_end(tmp_path):
    for first in (0, 3):
        write_tar(tmp_path / f"{first}.part", tar_members(3, begin=first))
    joined = (tmp_path / "0.part").read_bytes() + (tmp_path / "3.part").read_bytes()
    put(tmp_path / "both.tar", joined)
    data = folder(tmp_path, TarDataset)
    assert data.values("caption") == [f"number {n}" for n in range(6)]
    assert data.get(5, random.Random(0))["caption"] == "number 5"
    put(tmp_path / "both.tar", joined + b"what is this" * 100)
    assert "bytes behind the end" in folder(tmp_path, TarDataset).skipped[-1].reason


def test_other_suffixes_are_read_or_named(tmp_path):
    put(tmp_path / "saved.jfif", encode_image(form="JPEG"))
    put(tmp_path / "phone.HEIC", b"\0\0\0\x20ftypheic")
    put(tmp_path / "lossy.avif", encode_image(form="AVIF") if "AVIF" in FORMATS else b"\0\0\0\x20ftypavif")
    put(tmp_path / "odd.xyz", b"?")
    for name in ("saved", "phone", "lossy", "odd"):
        put(tmp_path / f"{name}.txt")
    put(tmp_path / "notes.txt", "no image beside it")
    data, count = folder(tmp_path), 2 if "AVIF" in FORMATS else 1
    assert len(data) == count and {"phone.HEIC", "odd.xyz"} <= set(skip_reasons(data))
    members = {"a.jfif": encode_image(form="JPEG"), "a.txt": "x", "b.heic": b"ftyp", "b.txt": "x"}
    write_tar(tmp_path / "s.tar", members)
    shards = folder(tmp_path, TarDataset)
    assert len(shards) == 1 and "not read" in skip_reasons(shards)["s.tar/b.heic"]
    put(tmp_path / "c.tar.gz", b"\x1f\x8b")
    assert "unpack" in skip_reasons(folder(tmp_path, TarDataset))["c.tar.gz"]
    put(tmp_path / "kinds" / "cat" / "1.heic")
    put(tmp_path / "kinds" / "cat" / "1.png", encode_image())
    put(tmp_path / "kinds" / "stray.png", encode_image())
    (tmp_path / "kinds" / "linked").symlink_to(tmp_path)
    assert set(skip_reasons(folder(tmp_path / "kinds", ClassFolderDataset))) == {"cat/1.heic", "stray.png", "linked"}


def test_files_that_captions_jsonl_does_not_name_are_counted(tmp_path):
    items(tmp_path, *(f"{n}.png" for n in range(20)))
    rows = [json.dumps({"file": f"{n}.png", "caption": "x"}) for n in range(3)]
    put(tmp_path / "captions.jsonl", "\n".join(rows))
    data = folder(tmp_path)
    assert len(data) == 3 and "17 of the files" in skip_reasons(data)["captions.jsonl"]
    put(tmp_path / "captions.jsonl", "")
    with pytest.raises(ConfigError, match=r"captions.jsonl \(empty.*20 of the files"):
        folder(tmp_path)


@pytest.mark.parametrize("form", ["lines", "pretty", "one line", "around", "carriage returns"])
def test_captions_jsonl_may_be_an_array(tmp_path, form):
    rows = [{"file": str(tmp_path / "0.png"), "caption": ["a", "b"]}, {"file_name": ".\\1.png", "text": "x"}]
    items(tmp_path, "0.png", "1.png")
    text = {
        "lines": "\ufeff" + "\n\n".join(map(json.dumps, rows)),
        "pretty": json.dumps(rows, indent=1),
        "one line": json.dumps(rows),
        "around": json.dumps({"count": 2, "data": rows}, indent=1),
        "carriage returns": "\r".join(map(json.dumps, rows)),
    }[form]
    put(tmp_path / "captions.jsonl", text)
    data = folder(tmp_path)
    assert data.values("file") == ["0.png", "1.png"] and not data.skipped


def test_links_are_named_or_followed(tmp_path):
    items(tmp_path / "elsewhere", "x.png")
    items(tmp_path / "data", "a.png")
    (tmp_path / "data" / "more").symlink_to("../elsewhere")
    assert "link to a folder" in skip_reasons(folder(tmp_path / "data"))["more"]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in {"d/a.png": encode_image(), "d/a.txt": b"a card", "d/b.png": encode_image(BLUE)}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        links = [("d/b.txt", tarfile.LNKTYPE, "d/a.txt"), ("d/c.png", tarfile.SYMTYPE, "a.png")]
        links += [("d/c.txt", tarfile.SYMTYPE, "../d/a.txt"), ("d/e.png", tarfile.SYMTYPE, "/etc/passwd")]
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    data = folder(tmp_path, TarDataset)
    assert data.values("caption") == ["a card"] and len(data) == 3
    assert "a link to /etc/passwd" in skip_reasons(data)["s.tar/d/e.png"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process of another user")
def test_a_folder_that_cannot_be_read_is_named():
    # not in `tmp_path`, which belongs to the user of the tests alone
    root = Path(tempfile.mkdtemp())
    try:
        items(root, "a.png", "locked/b.png")
        root.chmod(0o755)
        (root / "locked").chmod(0)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            if os.getuid() == 0:  # who may read every folder
                os.setuid(65534)
            listing = FolderListing(root)
            os.write(writer, repr((listing.files, [(one.name, one.reason) for one in listing.skipped])).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            files, skipped = ast.literal_eval(answer.read().decode())
        assert os.waitpid(pid, 0)[1] == 0
        assert [name for name in files if name.endswith(".png")] == ["a.png"]
        assert skipped == [("locked", "the folder cannot be read: Permission denied")]
    finally:
        (root / "locked").chmod(0o755)
        shutil.rmtree(root)


def test_captions_are_found_in_any_unicode_form_and_with_capital_suffixes(tmp_path):
    put(tmp_path / unicodedata.normalize("NFD", "café.png"), encode_image())
    put(tmp_path / unicodedata.normalize("NFC", "café.txt"))
    put(tmp_path / "IMG_1.JPG", encode_image(form="JPEG"))
    put(tmp_path / "IMG_1.TXT")
    put(tmp_path / "fox.png", encode_image(GREEN))
    put(tmp_path / "fox.caption")
    put(tmp_path / "Cat.png", encode_image())
    put(tmp_path / "cat.txt")
    put(tmp_path / "dog.png", encode_image())
    put(tmp_path / "dog.png.txt")
    data = folder(tmp_path)
    assert len(data) == 3
    assert "rename cat.txt" in skip_reasons(data)["Cat.txt"] and "rename dog.png.txt" in skip_reasons(data)["dog.txt"]
    rows = [{"file": unicodedata.normalize("NFC", "café.png"), "caption": "x"}, {"file": "img_1.jpg", "caption": "x"}]
    put(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, rows)))
    assert len(folder(tmp_path)) == 1 and "did you mean IMG_1.JPG" in skip_reasons(folder(tmp_path))["img_1.jpg"]


def test_names_with_dots_in_a_shard_are_images_of_their_own(tmp_path):
    image = encode_image()
    write_tar(
        tmp_path / "dots.tar", {f"at_{x}.{s}": d for x in ("0.5", "0.75") for s, d in (("png", image), ("txt", x))}
    )
    assert folder(tmp_path, TarDataset).values("caption") == ["0.5", "0.75"]
    write_tar(tmp_path / "dots.tar", {"a.1.png": image, "a.2.png": image, "a.txt": "one"})
    data = folder(tmp_path, TarDataset)
    assert len(data) == 1 and "ends at its first dot" in skip_reasons(data)["dots.tar/a.2.png"]
    write_tar(tmp_path / "dots.tar", {"a.png": image, "b.png": image, "a.txt": "A", "b.txt": "B"})
    with pytest.raises(ConfigError, match="stands elsewhere in the shard"):
        folder(tmp_path, TarDataset)


def test_half_an_emoji_in_a_caption_is_replaced(tmp_path):
    items(tmp_path, "0.png", "1.png")
    rows = ['{"file": "0.png", "caption": "a fox \\ud83e"}', '{"file": "1\\ud83e.png", "caption": "a fox"}']
    put(tmp_path / "captions.jsonl", "\n".join(rows))
    data = folder(tmp_path)
    assert data.values("caption") == ["a fox \ufffd"] and len(data.skipped) == 2
    assert data.summary().encode("utf-8")


def test_a_caption_ends_at_cr_and_lf_only(tmp_path):
    for number, sign in enumerate("\u2028\x85\x0c\x1c"):
        put(tmp_path / f"{number}.png", encode_image())
        put(tmp_path / f"{number}.txt", f"a red fox{sign}in the snow\n")
    assert folder(tmp_path).values("caption") == ["a red fox in the snow"]
    put(tmp_path / "0.txt", "one\rtwo\r\nthree\n")
    assert folder(tmp_path).values("caption")[:3] == ["one", "two", "three"]


def test_control_characters_of_names_are_escaped(tmp_path):
    items(tmp_path, "good.png")
    put(tmp_path / "bro\nken\x1b[31m.png", b"no image")
    put(tmp_path / "bro\nken\x1b[31m.txt")
    summary = folder(tmp_path).summary()
    assert "bro\\nken\\x1b[31m.png" in summary and summary.isprintable()


def test_a_file_of_another_format_is_named(tmp_path):
    items(tmp_path, "good.png")
    contents = {
        "lfs": b"version https://git-lfs.github.com/spec/v1\n",
        "web": b"\n<!doctype HTML>",
        "heic": b"\0\0\0\x20ftypheic",
    }
    for name, data in contents.items():
        put(tmp_path / f"{name}.png", data)
        put(tmp_path / f"{name}.txt")
    reasons = skip_reasons(folder(tmp_path))
    assert "Git LFS" in reasons["lfs.png"] and "web page" in reasons["web.png"] and "HEIC" in reasons["heic.png"]
    put(tmp_path / "good.txt", contents["lfs"])
    with pytest.raises(ConfigError, match="no caption: a pointer of Git LFS"):
        folder(tmp_path)
    put(tmp_path / "captions.jsonl", contents["lfs"])
    with pytest.raises(ConfigError, match=r"captions\.jsonl: got a pointer of Git LFS"):
        folder(tmp_path)


def test_the_folder_may_begin_with_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    items(tmp_path / "data", "a.png")
    assert len(FolderDataset(FolderDataset.Config.read({"folder": "~/data"}, "test"))) == 1
