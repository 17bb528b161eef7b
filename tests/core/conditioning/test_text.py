"""Text conditioner: any script, the empty caption as null condition, independence of the batch."""

from __future__ import annotations

import pytest
import torch

from lumina_core.conditioning.text import TextConditioner
from lumina_core.errors import CheckpointError, ConfigError

CAPTIONS = [f"{size} {colour} {thing}" for size in ("small", "large") for colour in ("red", "blue", "green", "yellow")
            for thing in ("heart", "star", "house", "tree", "cat", "car", "apple", "rocket")]  # fmt: skip
UNUSUAL = ["", "❤️‍🔥", "红心", "сердце", "قلب", "हृदय", "\x00\t\n", "a" * 5000, "Ｆｕｌｌ ｗｉｄｔｈ", "𓀀𓁐"]


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
def fitted():
    made = encoder()
    made.fit(CAPTIONS)
    return made


@pytest.mark.parametrize("text", UNUSUAL)
def test_any_text_has_a_context_of_fixed_length(fitted, text):
    condition = fitted.encode([text])
    assert condition.context.shape == (1, 3, 8)
    assert condition.pooled.shape == (1, 16)
    assert condition.context_mask is None
    assert bool(condition.context.isfinite().all())


def test_the_null_condition_is_that_of_the_empty_caption(fitted):
    null, empty = fitted.null_condition(2), fitted.encode([""])
    assert torch.equal(null.context, empty.context.expand(2, -1, -1))
    assert torch.equal(null.pooled, empty.pooled.expand(2, -1))


def test_a_condition_does_not_depend_on_the_batch(fitted):
    texts = ["red heart", "a very large blue house with a green tree", *UNUSUAL[1:7], *CAPTIONS[:30]]
    together = fitted.encode(texts)
    for place, text in enumerate(texts):
        alone = fitted.encode([text])
        assert together.context[place].detach().numpy() == pytest.approx(alone.context[0].detach().numpy(), abs=1e-5)
        assert together.pooled[place].detach().numpy() == pytest.approx(alone.pooled[0].detach().numpy(), abs=1e-5)


def test_different_captions_differ_even_in_scripts_without_training_data(fitted):
    summaries = fitted.encode(["red heart", "blue heart", "红心", "蓝心", "сердце"]).pooled.detach()
    assert float(torch.pdist(summaries).min()) > 1e-3


def test_a_long_caption_is_truncated(fitted):
    long = "red heart " * 50
    assert len(fitted.token_ids(long)) == 12
    assert torch.equal(fitted.encode([long]).pooled, fitted.encode([long + "blue house"]).pooled)


def test_unknown_characters_are_bytes(fitted):
    # the beginning, perhaps a space, and the three bytes of a sign that no caption holds
    assert 4 <= len(fitted.token_ids("红")) <= 5
    assert len(fitted.token_ids("红红红")) == len(fitted.token_ids("红")) + 6
    assert len(fitted.token_ids("heart")) <= 1 + 1 + 5


def test_equal_captions_give_equal_vocabularies(fitted):
    again = encoder()
    again.fit(CAPTIONS)
    assert torch.equal(again.vocabulary, fitted.vocabulary)


def test_the_vocabulary_is_saved_with_the_weights(fitted):
    other = encoder(num_latents=3)
    other.load_state_dict(fitted.state_dict())
    assert other.token_ids("red heart") == fitted.token_ids("red heart")
    assert torch.equal(other.encode(["red heart"]).context, fitted.encode(["red heart"]).context)


def test_a_vocabulary_larger_than_vocab_size_is_refused(fitted):
    small = encoder(vocab_size=300)
    small.config = small.config.model_copy(update={"vocab_size": 200})
    small.vocabulary = fitted.vocabulary
    with pytest.raises(CheckpointError, match=r"vocab_size: got .*expected at least"):
        small.encode(["red heart"])


def test_a_missing_vocabulary_is_reported():
    with pytest.raises(CheckpointError, match="no vocabulary yet"):
        encoder().encode(["red heart"])


def test_an_invalid_vocabulary_is_reported():
    broken = encoder()
    broken.vocabulary = torch.arange(100, dtype=torch.uint8)
    with pytest.raises(CheckpointError):
        broken.encode(["red heart"])


def test_predicted_targets_have_target_dim(fitted):
    assert fitted.predict_targets(fitted.encode(["red heart", "tree"])).shape == (2, 3, 5)
    without_targets = encoder(target_dim=0)
    with pytest.raises(ConfigError, match="target_dim: got 0"):
        without_targets.predict_targets(fitted.encode(["tree"]))


def test_a_hidden_size_that_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="hidden_size: got 16, expected a multiple of 3 heads"):
        encoder(num_heads=3)


def test_tables_and_output_layers_are_not_for_muon(fitted):
    names = {name for name, parameter in fitted.named_parameters() if parameter.ndim == 2}
    assert names - fitted.no_muon() == {
        name for name in names if name.startswith(("layers.", "expand.", "position_embedding"))
    }
