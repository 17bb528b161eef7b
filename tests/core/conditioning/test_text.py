"""The text encoder: any script, silence as the empty caption, and neighbours that change nothing."""

from __future__ import annotations

import pytest
import torch

from lumina_core.conditioning.text import TextConditioner
from lumina_core.errors import CheckpointError, ConfigError

CAPTIONS = [f"{size} {colour} {thing}" for size in ("small", "large") for colour in ("red", "blue", "green", "yellow")
            for thing in ("heart", "star", "house", "tree", "cat", "car", "apple", "rocket")]  # fmt: skip
STRANGE = ["", "❤️‍🔥", "红心", "сердце", "قلب", "हृदय", "\x00\t\n", "a" * 5000, "Ｆｕｌｌ ｗｉｄｔｈ", "𓀀𓁐"]


def encoder(**settings):
    usual = {
        "vocab_size": 400,
        "hidden_size": 16,
        "num_heads": 2,
        "expand_dim": 24,
        "num_latents": 3,
        "context_dim": 8,
        "target_dim": 5,
        "max_length": 12,
    }
    torch.manual_seed(0)
    return TextConditioner(TextConditioner.Config(**{**usual, **settings})).eval()


@pytest.fixture(scope="module")
def taught():
    made = encoder()
    made.fit(CAPTIONS)
    return made


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_is_read_into_the_same_number_of_finite_entries(taught, text):
    said = taught.encode([text])
    assert said.context.shape == (1, 3, 8)
    assert said.pooled.shape == (1, 16)
    assert said.context_mask is None
    assert bool(said.context.isfinite().all())


def test_silence_is_the_empty_caption(taught):
    silence, empty = taught.null_condition(2), taught.encode([""])
    assert torch.equal(silence.context, empty.context.expand(2, -1, -1))
    assert torch.equal(silence.pooled, empty.pooled.expand(2, -1))


def test_a_caption_says_the_same_in_every_company(taught):
    texts = ["red heart", "a very large blue house with a green tree", *STRANGE[1:7], *CAPTIONS[:30]]
    together = taught.encode(texts)
    for place, text in enumerate(texts):
        alone = taught.encode([text])
        assert together.context[place].detach().numpy() == pytest.approx(alone.context[0].detach().numpy(), abs=1e-5)
        assert together.pooled[place].detach().numpy() == pytest.approx(alone.pooled[0].detach().numpy(), abs=1e-5)


def test_different_captions_say_different_things_also_in_scripts_that_were_never_seen(taught):
    summaries = taught.encode(["red heart", "blue heart", "红心", "蓝心", "сердце"]).pooled.detach()
    assert float(torch.pdist(summaries).min()) > 1e-3


def test_a_long_caption_is_read_up_to_its_length(taught):
    long = "red heart " * 50
    assert len(taught.token_ids(long)) == 12
    assert torch.equal(taught.encode([long]).pooled, taught.encode([long + "blue house"]).pooled)


def test_pieces_that_were_never_seen_are_bytes(taught):
    # the beginning, perhaps a space, and the three bytes of a sign that no caption holds
    assert 4 <= len(taught.token_ids("红")) <= 5
    assert len(taught.token_ids("红红红")) == len(taught.token_ids("红")) + 6
    assert len(taught.token_ids("heart")) <= 1 + 1 + 5


def test_the_same_captions_teach_the_same_vocabulary(taught):
    again = encoder()
    again.fit(CAPTIONS)
    assert torch.equal(again.vocabulary, taught.vocabulary)


def test_the_vocabulary_travels_with_the_weights(taught):
    other = encoder(num_latents=3)
    other.load_state_dict(taught.state_dict())
    assert other.token_ids("red heart") == taught.token_ids("red heart")
    assert torch.equal(other.encode(["red heart"]).context, taught.encode(["red heart"]).context)


def test_a_vocabulary_larger_than_the_room_for_it_is_refused(taught):
    small = encoder(vocab_size=300)
    small.config = small.config.model_copy(update={"vocab_size": 200})
    small.vocabulary = taught.vocabulary
    with pytest.raises(CheckpointError, match="vocab_size: got .*expected at least"):
        small.encode(["red heart"])


def test_without_a_vocabulary_nothing_is_read():
    with pytest.raises(CheckpointError, match="no vocabulary yet"):
        encoder().encode(["red heart"])


def test_a_vocabulary_that_is_no_vocabulary_is_refused():
    broken = encoder()
    broken.vocabulary = torch.arange(100, dtype=torch.uint8)
    with pytest.raises(CheckpointError):
        broken.encode(["red heart"])


def test_slots_foretell_as_many_numbers_as_asked(taught):
    assert taught.predict_targets(taught.encode(["red heart", "tree"])).shape == (2, 3, 5)
    dumb = encoder(target_dim=0)
    with pytest.raises(ConfigError, match="target_dim: got 0"):
        dumb.predict_targets(taught.encode(["tree"]))


def test_a_width_that_cannot_be_cut_into_heads_is_refused():
    with pytest.raises(ConfigError, match="hidden_size: got 16, expected a multiple of 3 heads"):
        encoder(num_heads=3)


def test_tables_and_output_layers_are_not_for_muon(taught):
    names = {name for name, parameter in taught.named_parameters() if parameter.ndim == 2}
    assert names - taught.no_muon() == {
        name for name in names if name.startswith(("layers.", "expand.", "position_embedding"))
    }
