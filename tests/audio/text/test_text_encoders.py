"""Text towers of CLAP and the dual text encoder, with tiny random networks."""

from __future__ import annotations

import contextlib

import pytest
import torch
from making import registry_of
from tiny_audio_models import clap

from lumina_audio.text.clap import BertConfig, ClapTextEncoder, ClapTextTower
from lumina_audio.text.structured_caption import to_structured_caption
from lumina_core.checkpoint.lazy_tensors import init_empty_weights
from lumina_core.config import ComponentSpec
from lumina_core.errors import CheckpointError, ConfigError
from lumina_core.model import build_component
from lumina_core.training.cache import Cache, cache_conditioners

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 14, "max_position_embeddings": 20, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
    "intermediate_size": 24, "projection_dim": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    import language_models

    folder = tmp_path_factory.mktemp("encoders")
    (folder / "words").mkdir()
    language_models.words(folder / "words", front="<bos>", end="<eos>")
    return {"t5": language_models.encoder(folder / "t5"), "clap": clap(folder / "clap"), "words": folder / "words"}


def dual(folders, **options):
    torch.manual_seed(0)
    first = {"type": "audio.clap_text", "source": str(folders["words"]), "bert": SIZES, "max_length": 6}
    second = {
        "type": "core.transformers", "source": str(folders["t5"]), "dtype": "float32", "hidden_state_index": -1,
        "max_length": 5,
        "pad_to_max_length": True, "use_attention_mask": False,
    }  # fmt: skip
    use = ComponentSpec(type="audio.dual_text", conditioner=[{**first, **options.pop("first", {})}, second], **options)
    return build_component(registry_of("audio"), "conditioner", use)


@pytest.mark.parametrize("empty", [False, True], ids=["built", "built empty"])
def test_tower_is_bert_with_a_projection(empty):
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, initializer_range=0.3, layer_norm_eps=1e-12,
    )  # fmt: skip
    bert = transformers.BertModel(settings, add_pooling_layer=False).eval()
    weights = {f"base.{name}": tensor for name, tensor in bert.state_dict().items()}
    weights |= {f"projection.{name}": torch.randn(16, 16) for name in ("linear1.weight", "linear2.weight")}
    weights |= {"projection.layer_norm.weight": torch.ones(16), "projection.layer_norm.bias": torch.zeros(16)}
    with init_empty_weights() if empty else contextlib.nullcontext():
        tower = ClapTextTower(BertConfig(**SIZES))
    tower.load_state_dict(weights, assign=True)
    tower.to("cpu").train()  # no dropout even in training mode
    ids = torch.randint(14, (2, 7))
    with torch.no_grad():
        expected = bert(input_ids=ids).last_hidden_state
        linear = expected @ weights["projection.linear1.weight"].T
        residual = linear + torch.nn.functional.gelu(linear) @ weights["projection.linear2.weight"].T
        torch.testing.assert_close(tower(ids), torch.nn.functional.layer_norm(residual, (16,)))


def test_clap_of_transformers_is_projected_token_by_token(folders):
    message = ClapTextEncoder(
        ClapTextEncoder.Config(source=str(folders["clap"]), max_length=15, dtype="float32", use_attention_mask=True)
    )
    condition = message.encode(["cat", "a red cat"])
    network = transformers.ClapTextModelWithProjection.from_pretrained(folders["clap"]).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folders["clap"])(["a red cat"], return_tensors="pt")
    length = tokens.input_ids.shape[1]
    with torch.no_grad():
        expected = network.text_projection(network.text_model(**tokens).last_hidden_state)
    assert condition.context.shape == (2, 15, 8)
    assert (message.cross_attention_dim, message.pooled_dim) == (8, 8)
    torch.testing.assert_close(condition.context[1, :length], expected[0], atol=1e-5, rtol=1e-4)
    assert condition.context_mask.sum(dim=1).tolist()[1] == length
    assert not condition.context[~condition.context_mask].any()
    assert not message.state_dict()


def test_padding_counts_as_text_and_long_texts_are_truncated(folders):
    message = ClapTextEncoder(ClapTextEncoder.Config(source=str(folders["words"]), bert=SIZES, max_length=6))
    condition = message.encode(["a cat", ""])
    assert condition.context.shape == (2, 6, 16)
    assert condition.context_mask is None
    torch.testing.assert_close(condition.pooled, condition.context.mean(dim=1))
    torch.testing.assert_close(
        message.null_condition(3).context[2], condition.context[1]
    )  # other batches round otherwise
    assert message.truncated_text("a red cat of the house and a dog").endswith("dog")
    assert message.truncated_text("a red cat") == ""
    assert not any(weight.requires_grad for weight in message.parameters())


def test_contexts_are_joined_and_the_second_encoder_reads_the_structured_caption(folders):
    pair = dual(folders)
    audible = {}
    for name in ("first", "second"):
        speaker = getattr(pair, name)
        run_audio = speaker.encode
        speaker.encode = lambda values, name=name, run_audio=run_audio: run_audio(
            audible.setdefault(name, list(values))
        )
    condition = pair.encode(["a red cat then a blue dog"])
    assert audible == {
        "first": ["a red cat then a blue dog"], "second": ["<a red cat& start>@<a blue dog& end>"],
    }  # fmt: skip
    assert condition.context.shape == (1, 11, 16)
    torch.testing.assert_close(condition.pooled, condition.context.mean(dim=1))
    assert (pair.cross_attention_dim, pair.pooled_dim) == (16, 16)
    assert {name.partition(".")[0] for name in pair.state_dict()} == {"first"}


def test_first_encoder_reads_a_structured_caption_as_plain_text(folders):
    pair = dual(folders)
    written, message = pair.encode(["<a red cat& start>@<a dog& end>"]), pair.encode(["a red cat, a dog"])
    assert torch.equal(written.context[:, :6], message.context[:, :6])


def test_null_condition_is_the_empty_text(folders):
    pair = dual(folders)
    assert torch.equal(pair.null_condition(2).context[1], pair.encode([""]).context[0])


def test_narrower_context_is_widened_by_a_linear_layer(folders):
    pair = dual(folders, first={"bert": None, "source": str(folders["clap"]), "dtype": "float32"})
    assert pair.encode(["a cat"]).context.shape == (1, 11, 16)
    assert {name for name, _ in pair.named_parameters()} == {"projections.0.weight", "projections.0.bias"}


def test_frozen_encoders_are_cached_while_the_projections_train(folders):
    pair = dual(folders, first={"bert": None, "source": str(folders["clap"]), "dtype": "float32"})
    texts, arguments = ["a cat", "rain and wind", "a cat"], []
    for one in pair._encoders:
        one.encode = lambda values, encode=one.encode: (arguments.extend(values), encode(values))[1]
    again = cache_conditioners({"caption": pair}, Cache(10**6))["caption"]
    with torch.no_grad():
        plain, _ = pair.encode(texts), arguments.clear()
        for _ in range(2):
            torch.testing.assert_close(again.encode(texts).context, plain.context)
        assert sorted(arguments) == sorted([*texts[:2], *map(to_structured_caption, texts[:2])])
        before = again.encode(["a cat"]).context
        pair.projections[0].bias.add_(1.0)
        assert not torch.equal(again.encode(["a cat"]).context, before)


def test_fingerprint_depends_on_weights_and_options(folders):
    one, again, other = dual(folders), dual(folders), dual(folders, use_structured_caption=False)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    with torch.no_grad():
        next(again.first.tower.parameters()).add_(1)
    assert one.fingerprint() != again.fingerprint()


def test_wrong_tag_or_source_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="got 'never', expected one of"):
        dual(folders).encode(["<a cat& never>"])
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        ClapTextEncoder(ClapTextEncoder.Config(source=str(tmp_path)))
    with pytest.raises(CheckpointError, match="expected the text tower of a CLAP"):
        message = ClapTextEncoder(ClapTextEncoder.Config(source=str(folders["t5"]), hidden_size=8, dtype="float32"))
        message.encode(["a cat"])
