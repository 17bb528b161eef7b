"""The built-in effects: whole, as their card says, and called by the words of their names."""

from __future__ import annotations

import hashlib
import random
import re
from importlib.resources import files

import pytest

from lumina_audio.datasets.effects import EffectsDataset, captions, records
from lumina_core.errors import ConfigError


def effects(**options: object) -> EffectsDataset:
    return EffectsDataset(EffectsDataset.Config.read(options, "test"))


def test_data_files_match_the_hashes_of_the_card():
    folder = files("lumina_audio") / "data" / "effects"
    card = (folder / "card.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (\d+) \| `([0-9a-f]{64})` \|$", card, flags=re.MULTILINE)
    assert {name for name, _, _ in rows} == {path.name for path in folder.iterdir()} - {"card.md"}
    for name, size, digest in rows:
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (int(size), digest)
    assert sum(int(size) for _, size, _ in rows) < 3_000_000


def test_clips_are_audible_and_do_not_overlap():
    data = effects()
    assert len(data) == 165
    for index, record in enumerate(records()):
        sound = data.get(index, random.Random(0))["audio"]
        assert sound.shape == (1, 32768)
        assert float(sound.abs().max()) > 0.3
        assert float(sound[0, record["samples"] :].abs().sum()) == 0


def test_captions_are_the_words_of_the_file_name():
    index = {record["name"]: index for index, record in enumerate(records())}
    assert "drum cymbal open" in captions(index["drum_cymbal_open"])
    assert "the sound of electronic beep" in captions(index["elec_beep"])
    assert set(captions(index["misc_crow"])) == {"crow", "the sound of crow", "a sound effect: crow"}
    listed = effects().values("caption")
    assert all(caption in listed for index in range(165) for caption in captions(index))
    with pytest.raises(ConfigError, match="got the field 'file'"):
        effects().values("file")
