"""CLAP's text towers and the paper's pair of encoders, with tiny networks drawn at random."""

from __future__ import annotations

import pytest
import torch
from hearing_models import clap
from making import registry_of

from lumina_audio.captions.bert import BertSizes, Tower
from lumina_audio.captions.clap import ClapText
from lumina_audio.captions.rules import structure
from lumina_core.config import Use
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.model import build
from lumina_core.train.features import remembered

transformers = pytest.importorskip("transformers")

SIZES = {"vocabulary": 14, "places": 20, "width": 16, "depth": 2, "heads": 2, "hidden": 24, "projected": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    import language_models

    place = tmp_path_factory.mktemp("encoders")
    (place / "words").mkdir()
    language_models.words(place / "words", front="<bos>", end="<eos>")
    return {"t5": language_models.encoder(place / "t5"), "clap": clap(place / "clap"), "words": place / "words"}


def dual(folders, **options):
    torch.manual_seed(0)
    first = {"use": "audio.clap_text", "source": str(folders["words"]), "bert": SIZES, "length": 6}
    second = {
        "use": "core.transformers", "source": str(folders["t5"]), "dtype": "float32", "layer": -1, "length": 5,
        "full": True, "masked": False,
    }  # fmt: skip
    use = Use(use="audio.dual_text", conditioner=[{**first, **options.pop("first", {})}, second], **options)
    return build(registry_of("audio"), "conditioner", use)


def test_the_tower_is_bert_of_transformers_with_a_projection():
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, initializer_range=0.3,
    )  # fmt: skip
    theirs = transformers.BertModel(settings, add_pooling_layer=False).eval()
    tower = Tower(BertSizes(**SIZES))
    tower.base.load_state_dict(theirs.state_dict())
    ids = torch.randint(14, (2, 7))
    with torch.no_grad():
        wanted = theirs(input_ids=ids).last_hidden_state
        torch.testing.assert_close(tower.base(ids), wanted)
        straight = tower.projection.linear1(wanted)
        bent = straight + tower.projection.linear2(torch.nn.functional.gelu(straight))
        torch.testing.assert_close(tower(ids), torch.nn.functional.layer_norm(bent, (16,)))


def test_a_clap_of_transformers_is_projected_piece_by_piece(folders):
    said = ClapText(ClapText.Config(source=str(folders["clap"]), length=15, dtype="float32", masked=True))
    condition = said.encode(["cat", "a red cat"])
    network = transformers.ClapTextModelWithProjection.from_pretrained(folders["clap"]).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folders["clap"])(["a red cat"], return_tensors="pt")
    length = tokens.input_ids.shape[1]
    with torch.no_grad():
        wanted = network.text_projection(network.text_model(**tokens).last_hidden_state)
    assert condition.memory.shape == (2, 15, 8)
    assert (said.memory_width, said.summary_width) == (8, 8)
    torch.testing.assert_close(condition.memory[1, :length], wanted[0], atol=1e-5, rtol=1e-4)
    assert condition.memory_mask.sum(dim=1).tolist()[1] == length
    assert not condition.memory[~condition.memory_mask].any()
    assert not said.state_dict()


def test_padding_counts_as_published(folders):
    said = ClapText(ClapText.Config(source=str(folders["words"]), bert=SIZES, length=6))
    condition = said.encode(["a cat", ""])
    assert condition.memory.shape == (2, 6, 16)
    assert condition.memory_mask is None
    torch.testing.assert_close(condition.summary, condition.memory.mean(dim=1))
    torch.testing.assert_close(said.nothing(3).memory[2], condition.memory[1])  # other batches round otherwise
    assert said.unread("a red cat of the house and a dog").endswith("dog")
    assert said.unread("a red cat") == ""
    assert not any(weight.requires_grad for weight in said.parameters())


def test_the_pair_is_one_memory_and_the_second_reads_the_structure(folders):
    pair = dual(folders)
    heard = {}
    for name in ("first", "second"):
        speaker = getattr(pair, name)
        ask = speaker.encode
        speaker.encode = lambda values, name=name, ask=ask: ask(heard.setdefault(name, list(values)))
    condition = pair.encode(["a red cat then a blue dog"])
    assert heard == {
        "first": ["a red cat then a blue dog"], "second": ["<a red cat& start>@<a blue dog& end>"],
    }  # fmt: skip
    assert condition.memory.shape == (1, 11, 16)
    torch.testing.assert_close(condition.summary, condition.memory.mean(dim=1))
    assert (pair.memory_width, pair.summary_width) == (16, 16)
    assert {name.partition(".")[0] for name in pair.state_dict()} == {"first"}


def test_a_structured_prompt_is_read_as_bare_words_by_the_first(folders):
    pair = dual(folders)
    written, said = pair.encode(["<a red cat& start>@<a dog& end>"]), pair.encode(["a red cat, a dog"])
    assert torch.equal(written.memory[:, :6], said.memory[:, :6])


def test_a_language_model_may_be_asked_for_the_structure(folders):
    pair = dual(folders)
    plain = pair.encode(["a cat"])
    pair.ask = lambda text: f"<{text} of the house& mid>"
    asked = pair.encode(["a cat"])
    assert torch.equal(asked.memory[:, :6], plain.memory[:, :6])
    assert not torch.equal(asked.memory[:, 6:], plain.memory[:, 6:])


def test_silence_is_the_empty_text_for_both(folders):
    pair = dual(folders)
    assert torch.equal(pair.nothing(2).memory[1], pair.encode([""]).memory[0])


def test_a_narrower_one_is_widened_by_weights_of_the_model(folders):
    pair = dual(folders, first={"bert": None, "source": str(folders["clap"]), "dtype": "float32"})
    assert pair.encode(["a cat"]).memory.shape == (1, 11, 16)
    assert {name for name, _ in pair.named_parameters()} == {"widen.0.weight", "widen.0.bias"}


def test_the_two_are_asked_once_a_text_while_what_widens_them_learns(folders):
    pair = dual(folders, first={"bert": None, "source": str(folders["clap"]), "dtype": "float32"})
    texts, asked = ["a cat", "rain and wind", "a cat"], []
    for one in pair._pair:
        one.encode = lambda values, encode=one.encode: (asked.extend(values), encode(values))[1]
    again = remembered({"caption": pair}, 10**6)["caption"]
    with torch.no_grad():
        plain, _ = pair.encode(texts), asked.clear()
        for _ in range(2):
            torch.testing.assert_close(again.encode(texts).memory, plain.memory)
        assert sorted(asked) == sorted([*texts[:2], *map(structure, texts[:2])])
        before = again.encode(["a cat"]).memory
        pair.widen[0].bias.add_(1.0)
        assert not torch.equal(again.encode(["a cat"]).memory, before)


def test_other_words_other_weights_and_other_options_are_told_apart(folders):
    one, again, other = dual(folders), dual(folders), dual(folders, structured=False)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    with torch.no_grad():
        next(again.first.tower.parameters()).add_(1)
    assert one.fingerprint() != again.fingerprint()


def test_a_wrong_tag_or_source_is_told(folders, tmp_path):
    with pytest.raises(ConfigError, match="unknown tag 'never'"):
        dual(folders).encode(["<a cat& never>"])
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        ClapText(ClapText.Config(source=str(tmp_path)))
    with pytest.raises(CheckpointError, match="holds no text tower of a CLAP"):
        said = ClapText(ClapText.Config(source=str(folders["t5"]), width=8, dtype="float32"))
        said.encode(["a cat"])
