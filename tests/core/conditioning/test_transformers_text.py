"""Text by pretrained language models: the very numbers of the library, whatever stands beside a text in its batch."""

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
    """The real entries of an item's memory."""
    mask = condition.context_mask
    return condition.context[row] if mask is None else condition.context[row][mask[row]]


@pytest.mark.parametrize("layer", [-1, -2, 0, 1, 3])
def test_a_decoder_says_what_the_library_says_at_that_layer(decoder, layer):
    network = transformers.AutoModel.from_pretrained(decoder)
    ids = torch.tensor([[1, 4, 5, 7]])  # <bos> a red cat
    with torch.no_grad():
        wanted = network(ids, output_hidden_states=True).hidden_states[layer][0]
    said = reader(decoder, hidden_state_index=layer).encode(["a red cat"])
    torch.testing.assert_close(real(said), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(said.pooled[0], wanted.mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layer", [-1, -2])
def test_an_encoder_says_what_the_library_says(encoder, layer):
    network = transformers.T5EncoderModel.from_pretrained(encoder)
    with torch.no_grad():
        wanted = network(torch.tensor([[4, 5, 7, 2]]), output_hidden_states=True).hidden_states[layer][0]
    torch.testing.assert_close(
        real(reader(encoder, hidden_state_index=layer).encode(["a red cat"])), wanted, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_batch_says_what_each_text_says_alone(request, family, padding):
    one = reader(request.getfixturevalue(family), padding_side=padding)
    together = one.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = one.encode([text])
        torch.testing.assert_close(real(together, row), real(alone), atol=5e-5, rtol=0)
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=5e-5, rtol=0)
    assert not together.context[~together.context_mask].any()


@pytest.mark.parametrize(
    "options",
    [{"pad_to_multiple_of": 1}, {"pad_to_multiple_of": 32}, {"pad_to_max_length": True}, {"padding_side": "left"}],
)
def test_how_far_a_text_is_filled_up_changes_nothing_that_is_real(decoder, options):
    usual, other = reader(decoder).encode(TEXTS), reader(decoder, **options).encode(TEXTS)
    for row in range(3):
        torch.testing.assert_close(real(usual, row), real(other, row), atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "length"),
    [({}, 24), ({"pad_to_multiple_of": 5}, 20), ({"pad_to_multiple_of": 1}, 17), ({"pad_to_max_length": True}, 256)],
)
def test_the_memory_is_as_long_as_asked(decoder, options, length):
    said = reader(decoder, **options).encode(TEXTS)
    assert said.context.shape == (3, length, 16)
    assert said.context_mask.sum(1).tolist() == [4, 1, 17]


def test_padding_that_counts_as_real_is_not_masked(encoder):
    said = reader(encoder, use_attention_mask=False, pad_to_max_length=True, max_length=12).encode(TEXTS[:2])
    assert said.context_mask is None and said.context.shape[1] == 12
    assert said.context[1, 5].any()


def test_a_tokenizer_without_padding_piece_says_the_same(decoder, tmp_path):
    folder = made.decoder(tmp_path / "bare", pad_token=None)
    assert transformers.AutoTokenizer.from_pretrained(folder).pad_token is None
    usual, bare = reader(decoder).encode(TEXTS), reader(folder).encode(TEXTS)
    assert torch.equal(usual.context, bare.context) and torch.equal(usual.context_mask, bare.context_mask)


def test_silence_is_the_empty_text_without_prefix_and_has_one_real_entry(decoder, tmp_path):
    bare = made.decoder(tmp_path / "bare")
    made.words(bare)  # no piece around a text: the empty one has none at all
    for one in (reader(decoder), reader(decoder, prefix="the sun"), reader(bare)):
        silence = one.null_condition(2)
        assert silence.context_mask.sum(1).tolist() == [1, 1]
        assert torch.isfinite(silence.pooled).all()
        assert torch.equal(silence.context[:1], one.encode([""]).context)
    assert torch.equal(
        reader(decoder, prefix="the sun").null_condition(1).context, reader(decoder).null_condition(1).context
    )


def test_a_prefix_is_read_before_every_text(decoder):
    assert torch.equal(real(reader(decoder, prefix="the ").encode(["sun"])), real(reader(decoder).encode(["the sun"])))


def test_a_chat_template_goes_around_every_text_and_brings_its_own_marks(tmp_path):
    template = "{% for m in messages %}<bos>the {{ m['content'] }}{% endfor %} and"
    folder = made.decoder(tmp_path / "chat", chat_template=template)
    said = reader(folder, apply_chat_template=True).encode(["sun"])
    assert torch.equal(real(said), real(reader(folder).encode(["the sun and"])))


def test_a_chat_template_that_is_not_there_is_told(decoder):
    with pytest.raises(ConfigError, match="apply_chat_template: got true, expected false"):
        reader(decoder, apply_chat_template=True).encode(["sun"])


def test_a_text_longer_than_the_limit_is_cut_and_the_rest_is_said(decoder, encoder):
    one = reader(decoder, max_length=4)
    assert one.truncated_text("a red cat") == ""
    assert one.truncated_text("a red cat and the sun") == "and the sun"
    assert torch.equal(one.encode(["a red cat and the sun"]).context, one.encode(["a red cat"]).context)
    assert (
        reader(encoder, max_length=4).truncated_text("a red cat and the sun") == "and the sun"
    )  # <eos> is kept behind the cut


def test_the_network_is_no_part_of_the_weights_and_is_loaded_when_the_first_text_comes(decoder):
    with torch.device("meta"):
        one = reader(decoder)
    assert list(one.state_dict()) == list(one.parameters()) == []
    assert not one.encoder.is_loaded
    assert one.encode(["a cat"]).context.device.type == "cpu"
    assert one.encoder.is_loaded and list(one.state_dict()) == list(one.parameters()) == []


def test_it_speaks_in_the_format_of_the_model_and_reads_in_its_own(decoder):
    one = reader(decoder).to(torch.bfloat16)
    said = one.encode(["a cat"])
    assert (said.context.dtype, said.pooled.dtype) == (torch.bfloat16, torch.bfloat16)
    assert one.encoder.network().dtype == torch.float32
    assert torch.equal(said.context, reader(decoder).encode(["a cat"]).context.bfloat16())


def test_its_memory_is_given_back_after_reading_where_that_is_asked(decoder):
    one = reader(decoder, unload_after_use=True)
    first = one.encode(["a cat"])
    assert not one.encoder.is_loaded
    assert torch.equal(one.encode(["a cat"]).context, first.context)


def test_float16_that_overflows_is_read_in_float32_with_a_warning(decoder, tmp_path):
    loud = tmp_path / "loud"
    network = transformers.AutoModel.from_pretrained(decoder)
    with torch.no_grad():
        network.layers[0].mlp.down_proj.weight.mul_(1e5)
        network.embed_tokens.weight.mul_(10)
    network.save_pretrained(loud)
    made.words(loud, front="<bos>")
    with pytest.warns(UserWarning, match="overflows in float16"):
        said = reader(loud, dtype="float16").encode(["a red cat"])
    assert torch.equal(said.context, reader(loud).encode(["a red cat"]).context)


@pytest.mark.parametrize(("bits", "error"), [("int8", 0.1), ("int4", 0.6)])
def test_weights_in_few_bits_say_nearly_the_same(tmp_path, bits, error):
    pytest.importorskip({"int8": "torchao", "int4": "bitsandbytes"}[bits])
    wide = made.decoder(tmp_path / "wide", width=64)
    plain, small = reader(wide), reader(wide, quantize=bits)
    first, second = plain.encode(["a red cat"]).context, small.encode(["a red cat"]).context
    assert 0 < (first - second).norm() / first.norm() < error


@pytest.mark.parametrize(
    ("options", "module", "line"),
    [
        ({}, "transformers", "pip install 'lumina-core[transformers]'"),
        ({"quantize": "int8"}, "torchao.quantization", "pip install 'lumina-core[quantize]'"),
        ({"quantize": "int4"}, "bitsandbytes", "pip install 'lumina-core[quantize]'"),
    ],
)
def test_a_library_that_is_missing_is_told_with_the_line_that_installs_it(decoder, monkeypatch, options, module, line):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(PluginError) as told:
        reader(decoder, **options).encode(["a cat"])
    assert line in str(told.value)


def test_a_source_that_has_changed_is_refused_and_a_whole_one_is_read(decoder, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(decoder, folder)
    known = reader(folder).pin_hashes()
    assert reader(folder, **known).encode(["a cat"]).context.any()
    network = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        network.embed_tokens.weight[4, 0] += 1e-3
    network.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="files have changed since the model was saved"):
        reader(folder, **known).encode(["a cat"])


def test_a_fingerprint_follows_the_files_and_what_changes_the_numbers(decoder, tmp_path):
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


def test_a_gated_or_absent_hub_name_says_how_to_give_a_folder(monkeypatch):
    import huggingface_hub

    def gated(*_, **__):
        response = type("Response", (), {"headers": {}, "request": None, "status_code": 403})()
        raise huggingface_hub.errors.GatedRepoError("403", response=response)

    one = reader("nobody/no-such-model", hidden_size=16)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError,
        match=r"got 'nobody/no-such-model', which is neither a folder nor .* set `source` to its folder",
    ):
        one.encode(["a cat"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(CheckpointError, match=r"is gated. Accept its terms .* or .* set `source` to its folder"):
        one.encode(["a cat"])


def test_what_is_wrong_with_a_folder_is_one_clear_line(decoder, tmp_path):
    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(decoder, folder)
        change(folder)
        with pytest.raises(CheckpointError) as told:
            reader(folder).encode(["a cat"])
        assert "\n" not in str(told.value)
        return str(told.value)

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
    assert "cannot be read as a language model or its tokenizer" in broken("silent", no_tokenizer)
    assert "missing layers.3." in broken("fewer", fewer_weights)
    with pytest.raises(CheckpointError, match=r"there is no folder \./nowhere"):
        reader("./nowhere")


def test_a_layer_or_a_width_that_the_source_has_not_is_told(decoder):
    with pytest.raises(ConfigError, match="hidden_state_index: got 7, expected -4 to 3"):
        reader(decoder, hidden_state_index=7).encode(["a cat"])
    with pytest.raises(ConfigError, match="hidden_size: got 2048, expected 16"):
        reader(decoder, hidden_size=2048).encode(["a cat"])
