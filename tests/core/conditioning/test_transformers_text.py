"""Text by pretrained language models: equal to the library, independent of the batch."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

transformers = pytest.importorskip("transformers")

import language_models as made

from lumina_core.conditioning.transformers_text import TransformersConditioner
from lumina_core.errors import CheckpointError, ConfigError, PluginError

TEXTS = ["a red cat", "", "the blue house of the sun and the dog and a cat of the blue sun"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return made.decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return made.encoder(tmp_path_factory.mktemp("encoder"))


def reader(folder, **options):
    options = {"source": str(folder), **options}
    return TransformersConditioner(TransformersConditioner.Config.read(options, "test"))


def real(condition, row=0):
    """The real entries of the context of an item."""
    mask = condition.context_mask
    return condition.context[row] if mask is None else condition.context[row][mask[row]]


@pytest.mark.parametrize("layer", [-1, -2, 0, 1, 3])
def test_a_decoder_equals_the_library_at_every_layer(decoder, layer):
    network = transformers.AutoModel.from_pretrained(decoder)
    ids = torch.tensor([[1, 4, 5, 7]])  # <bos> a red cat
    with torch.no_grad():
        expected = network(ids, output_hidden_states=True).hidden_states[layer][0]
    condition = reader(decoder, hidden_state_index=layer).encode(["a red cat"])
    torch.testing.assert_close(real(condition), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(condition.pooled[0], expected.mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layer", [-1, -2])
def test_an_encoder_equals_the_library(encoder, layer):
    network = transformers.T5EncoderModel.from_pretrained(encoder)
    with torch.no_grad():
        expected = network(torch.tensor([[4, 5, 7, 2]]), output_hidden_states=True).hidden_states[layer][0]
    torch.testing.assert_close(
        real(reader(encoder, hidden_state_index=layer).encode(["a red cat"])), expected, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_condition_does_not_depend_on_the_batch(request, family, padding):
    conditioner = reader(request.getfixturevalue(family), padding_side=padding)
    together = conditioner.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = conditioner.encode([text])
        torch.testing.assert_close(real(together, row), real(alone), atol=5e-5, rtol=0)
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=5e-5, rtol=0)
    assert not together.context[~together.context_mask].any()


@pytest.mark.parametrize(
    "options",
    [{"pad_to_multiple_of": 1}, {"pad_to_multiple_of": 32}, {"pad_to_max_length": True}, {"padding_side": "left"}],
)
def test_padding_does_not_change_real_entries(decoder, options):
    usual, other = reader(decoder).encode(TEXTS), reader(decoder, **options).encode(TEXTS)
    for row in range(3):
        torch.testing.assert_close(real(usual, row), real(other, row), atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "length"),
    [({}, 24), ({"pad_to_multiple_of": 5}, 20), ({"pad_to_multiple_of": 1}, 17), ({"pad_to_max_length": True}, 256)],
)
def test_the_context_has_the_padded_length(decoder, options, length):
    condition = reader(decoder, **options).encode(TEXTS)
    assert condition.context.shape == (3, length, 16)
    assert condition.context_mask.sum(1).tolist() == [4, 1, 17]


def test_padding_that_counts_as_real_is_not_masked(encoder):
    condition = reader(encoder, use_attention_mask=False, pad_to_max_length=True, max_length=12).encode(TEXTS[:2])
    assert condition.context_mask is None and condition.context.shape[1] == 12
    assert condition.context[1, 5].any()


def test_a_tokenizer_needs_no_padding_token(decoder, tmp_path):
    folder = made.decoder(tmp_path / "bare", pad_token=None)
    assert transformers.AutoTokenizer.from_pretrained(folder).pad_token is None
    usual, bare = reader(decoder).encode(TEXTS), reader(folder).encode(TEXTS)
    assert torch.equal(usual.context, bare.context) and torch.equal(usual.context_mask, bare.context_mask)


def test_the_null_condition_is_that_of_the_empty_text_without_prefix(decoder, tmp_path):
    bare = made.decoder(tmp_path / "bare")
    made.words(bare)  # no piece around a text: the empty conditioner has none at all
    for conditioner in (reader(decoder), reader(decoder, prefix="the sun"), reader(bare)):
        null = conditioner.null_condition(2)
        assert null.context_mask.sum(1).tolist() == [1, 1]
        assert torch.isfinite(null.pooled).all()
        assert torch.equal(null.context[:1], conditioner.encode([""]).context)
    assert torch.equal(
        reader(decoder, prefix="the sun").null_condition(1).context, reader(decoder).null_condition(1).context
    )


def test_a_prefix_is_put_before_every_text(decoder):
    assert torch.equal(real(reader(decoder, prefix="the ").encode(["sun"])), real(reader(decoder).encode(["the sun"])))


def test_a_chat_template_has_its_own_special_tokens(tmp_path):
    template = "{% for m in messages %}<bos>the {{ m['content'] }}{% endfor %} and"
    folder = made.decoder(tmp_path / "chat", chat_template=template)
    condition = reader(folder, apply_chat_template=True).encode(["sun"])
    assert torch.equal(real(condition), real(reader(folder).encode(["the sun and"])))


def test_a_missing_chat_template_is_reported(decoder):
    with pytest.raises(ConfigError, match="apply_chat_template: got true, expected false"):
        reader(decoder, apply_chat_template=True).encode(["sun"])


def test_a_long_text_is_truncated_and_its_end_returned(decoder, encoder):
    conditioner = reader(decoder, max_length=4)
    assert conditioner.truncated_text("a red cat") == ""
    assert conditioner.truncated_text("a red cat and the sun") == "and the sun"
    assert torch.equal(conditioner.encode(["a red cat and the sun"]).context, conditioner.encode(["a red cat"]).context)
    assert (
        reader(encoder, max_length=4).truncated_text("a red cat and the sun") == "and the sun"
    )  # with <eos> at the end


def test_the_network_is_not_in_the_state_dict_and_is_loaded_with_the_first_text(decoder):
    with torch.device("meta"):
        conditioner = reader(decoder)
    assert list(conditioner.state_dict()) == list(conditioner.parameters()) == []
    assert not conditioner.encoder.is_loaded
    assert conditioner.encode(["a cat"]).context.device.type == "cpu"
    assert conditioner.encoder.is_loaded and list(conditioner.state_dict()) == list(conditioner.parameters()) == []


def test_conditions_have_the_dtype_of_the_model_and_the_network_its_own(decoder):
    conditioner = reader(decoder).to(torch.bfloat16)
    condition = conditioner.encode(["a cat"])
    assert (condition.context.dtype, condition.pooled.dtype) == (torch.bfloat16, torch.bfloat16)
    assert conditioner.encoder.network().dtype == torch.float32
    assert torch.equal(condition.context, reader(decoder).encode(["a cat"]).context.bfloat16())


def test_the_network_is_unloaded_after_use_if_requested(decoder):
    conditioner = reader(decoder, unload_after_use=True)
    first = conditioner.encode(["a cat"])
    assert not conditioner.encoder.is_loaded
    assert torch.equal(conditioner.encode(["a cat"]).context, first.context)


def test_float32_replaces_float16_on_overflow_with_a_warning(decoder, tmp_path):
    loud = tmp_path / "loud"
    network = transformers.AutoModel.from_pretrained(decoder)
    with torch.no_grad():
        network.layers[0].mlp.down_proj.weight.mul_(1e5)
        network.embed_tokens.weight.mul_(10)
    network.save_pretrained(loud)
    made.words(loud, front="<bos>")
    with pytest.warns(UserWarning, match="overflows in float16"):
        condition = reader(loud, dtype="float16").encode(["a red cat"])
    assert torch.equal(condition.context, reader(loud).encode(["a red cat"]).context)


@pytest.mark.parametrize(("bits", "error"), [("int8", 0.1), ("int4", 0.6)])
def test_quantized_weights_give_similar_conditions(tmp_path, bits, error):
    pytest.importorskip({"int8": "torchao", "int4": "bitsandbytes"}[bits])
    wide = made.decoder(tmp_path / "wide", width=64)
    plain, small = reader(wide), reader(wide, quantize=bits)
    first, second = plain.encode(["a red cat"]).context, small.encode(["a red cat"]).context
    assert 0 < (first - second).norm() / first.norm() < error


@pytest.mark.parametrize(
    ("options", "module", "line"),
    [
        ({}, "transformers", "pip install"),
        ({"quantize": "int8"}, "torchao.quantization", "pip install"),
        ({"quantize": "int4"}, "bitsandbytes", "pip install"),
    ],
)
def test_a_missing_library_is_reported_with_the_command_that_installs_it(decoder, monkeypatch, options, module, line):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(PluginError) as error:
        reader(decoder, **options).encode(["a cat"])
    assert line in str(error.value)


def test_a_changed_source_is_refused(decoder, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(decoder, folder)
    hashes = reader(folder).pin_hashes()
    assert reader(folder, **hashes).encode(["a cat"]).context.any()
    network = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        network.embed_tokens.weight[4, 0] += 1e-3
    network.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="files have changed since the model was saved"):
        reader(folder, **hashes).encode(["a cat"])


def test_a_fingerprint_changes_with_the_files_and_numeric_options(decoder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(decoder, copy)
    usual = reader(decoder).fingerprint()
    assert reader(copy, device="cpu", unload_after_use=True).fingerprint() == usual
    assert usual not in {
        reader(decoder, hidden_state_index=-1).fingerprint(),
        reader(decoder, prefix="a").fingerprint(),
    }
    made.words(copy, end="<eos>")
    assert reader(copy).fingerprint() != usual


def test_a_gated_or_absent_hub_name_is_reported_with_the_option_for_a_folder(monkeypatch):
    import huggingface_hub

    def gated(*_, **__):
        response = type("Response", (), {"headers": {}, "request": None, "status_code": 403})()
        raise huggingface_hub.errors.GatedRepoError("403", response=response)

    conditioner = reader("absent/no-such-model", hidden_size=16)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError,
        match=r"got 'absent/no-such-model', which is neither a folder nor .* set `source` to its folder",
    ):
        conditioner.encode(["a cat"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(CheckpointError, match=r"is gated. Accept its terms .* or .* set `source` to its folder"):
        conditioner.encode(["a cat"])


def test_a_damaged_folder_is_reported_in_one_line(decoder, tmp_path):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(decoder, folder)
        change(folder)
        with pytest.raises(CheckpointError) as error:
            reader(folder).encode(["a cat"])
        assert "\n" not in str(error.value)
        return str(error.value)

    def cut_short(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    def pickled(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    def another_family(folder):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({**content, "model_type": "no such", "auto_map": {"AutoModel": "x.y"}})
        )

    def no_tokenizer(folder):
        for path in folder.glob("tokenizer*"):
            path.unlink()

    def fewer_weights(folder):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "num_hidden_layers": 4}))

    assert "got a truncated or invalid file" in broken("cut", cut_short)
    assert "Other formats are never loaded" in broken("pickled", pickled)
    assert "cannot be read as a language model" in broken("family", another_family)
    assert "cannot be read as a language model or its tokenizer" in broken("no_tokenizer", no_tokenizer)
    assert "missing layers.3." in broken("fewer", fewer_weights)
    with pytest.raises(CheckpointError, match=r"there is no folder \./nowhere"):
        reader("./nowhere")


def test_a_layer_or_width_that_the_source_does_not_have_is_refused(decoder):
    with pytest.raises(ConfigError, match="hidden_state_index: got 7, expected -4 to 3"):
        reader(decoder, hidden_state_index=7).encode(["a cat"])
    with pytest.raises(ConfigError, match="hidden_size: got 2048, expected 16"):
        reader(decoder, hidden_size=2048).encode(["a cat"])
