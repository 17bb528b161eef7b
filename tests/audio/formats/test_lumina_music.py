"""Folders of Lumina-T2Music and Lumina-T2Audio: loading, conversion, generation, export, and damaged folders."""

from __future__ import annotations

import itertools
import json
import wave

import lumina_music_release as ours
import pytest
import torch
import yaml
from lumina_music_release import SCALE, VOCODER, write
from making import registry_of

from lumina_audio.autoencoders.vae import VAE, VAEConfig
from lumina_audio.formats.lumina_music import LuminaMusicFormat
from lumina_audio.formats.networks import FlagDiTAdapter
from lumina_audio.vocoders.bigvgan import BigVGAN
from lumina_core.checkpoint.lazy_tensors import InMemoryTensor, read_tensor
from lumina_core.convert import ConvertOptions, execute, plan_conversion
from lumina_core.errors import CheckpointError
from lumina_core.models.flag_dit import FlagDiTBackbone
from lumina_core.sampling.inputs import PrecomputedInputs
from lumina_core.sampling.pipeline import Pipeline
from lumina_core.types import Condition, Tokens

pytest.importorskip("transformers")
REGISTRY = registry_of("audio")
FORMAT = LuminaMusicFormat()


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    import language_models

    folder = write(tmp_path_factory.mktemp("music") / "Lumina-T2Music")
    language_models.encoder(folder / "flan-t5-large")
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    import language_models

    folder = write(tmp_path_factory.mktemp("audio") / "Lumina-T2Audio", "audio")
    language_models.encoder(folder / "t5-v1_1-large")
    language_models.words(folder / "bert", front="<bos>", end="<eos>")
    (folder / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


def test_every_component_of_the_music_folder_is_loaded(music):
    model = FORMAT.load(music)
    assert FORMAT.matches(music)
    torch.manual_seed(0)
    made = ours.state()
    wanted = torch.cat([made[f"model.diffusion_model.blocks.1.attention.w{n}.weight"] for n in "qkv"])
    assert torch.equal(read_tensor(model.weights["backbone.blocks.1.attention.qkv.weight"]), wanted)
    # a latent is multiplied by the scale: its variance here is one over the square
    assert read_tensor(model.weights["autoencoder.variance"]) + 1e-5 == pytest.approx(torch.full((4,), SCALE**-2))
    recipe = dict(model.recipe)
    assert recipe["conditioners"][0]["source"] == str(music / "flan-t5-large")
    assert recipe["sampling"]["guidance_scale"] == 5.0
    notes = "\n".join(model.notes)
    for place in ("119.ckpt", "maa2.ckpt", "bigvnat", "lumina-text2music.yaml", "flan-t5-large"):
        assert place in notes


def test_sizes_are_inferred_from_the_tensors_without_a_yaml_config(music, tmp_path):
    bare = write(tmp_path / "bare", settings=False)
    with_yaml, without = (dict(FORMAT.load(folder).recipe) for folder in (music, bare))
    assert {k: v for k, v in with_yaml.items() if k != "conditioners"} == {
        k: v for k, v in without.items() if k != "conditioners"
    }
    assert without["conditioners"][0]["source"] == "google/flan-t5-large"


@pytest.mark.parametrize("kind", ["music", "audio"])
def test_a_converted_folder_generates_the_same_sounds(lumina, request, tmp_path, kind):
    folder = request.getfixturevalue(kind)
    done = lumina("convert", folder, tmp_path / "ours")
    assert done.status == 0, done.err
    sounds = {}
    for name, place in (("published", folder), ("ours", tmp_path / "ours")):
        out = tmp_path / f"{name}.wav"
        done = lumina(
            "audio", "a red cat then a blue dog", "--model", place, "--duration", "0.256", "--steps", "3", "--out", out
        )
        assert done.status == 0, done.err
        with wave.open(str(out)) as file:
            sounds[name] = file.readframes(file.getnframes())
    session = [Pipeline.from_pretrained(place) for place in (folder, tmp_path / "ours")]
    tensors = [one.model.state_dict() for one in session]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert sounds["published"] == sounds["ours"]
    assert len(sounds["ours"]) > 4096


def test_an_unknown_tag_of_a_structured_prompt_is_one_line(lumina, audio, tmp_path):
    done = lumina("audio", "<rain& never>", "--model", audio, "--duration", "0.256", "--out", tmp_path / "x.wav")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert "got 'never', expected one of start, mid, end, all" in done.err


def test_notes_name_the_file_of_each_component(lumina, music, tmp_path):
    assert "vocoder: " in lumina("models", music).out
    report = json.loads(lumina("models", music, "--json").out)
    assert report["checkpoint_format"] == "audio.lumina_music"
    assert any(note.startswith("autoencoder: ") for note in report["notes"])
    bare = write(tmp_path / "bare", vocoder=None)
    assert "none, Griffin-Lim is used" in lumina("convert", bare, tmp_path / "x", "--dry-run").err


@pytest.mark.parametrize("kind", ["music", "audio"])
def test_an_exported_folder_holds_the_same_model(request, tmp_path, kind):
    folder = request.getfixturevalue(kind)
    for source, target, to in ((folder, "ours", None), (tmp_path / "ours", "theirs", "audio.lumina_music")):
        execute(plan_conversion(source, REGISTRY, ConvertOptions(format=to)), tmp_path / target)
    first, again = FORMAT.load(folder), FORMAT.load(tmp_path / "theirs")
    assert first.weights.keys() == again.weights.keys()
    assert all(torch.equal(read_tensor(first.weights[n]), read_tensor(again.weights[n])) for n in first.weights)
    assert first.recipe["backbone"] == again.recipe["backbone"]
    assert first.recipe["autoencoder"]["vae"] == again.recipe["autoencoder"]["vae"]


def test_a_model_with_another_path_is_not_exported(tmp_path, music):
    execute(
        plan_conversion(music, REGISTRY, ConvertOptions(overrides=("objective.path.type=core.linear",))),
        tmp_path / "ours",
    )
    with pytest.raises(CheckpointError, match=r"objective\.path: got core\.linear, expected audio\.cfm_path"):
        plan_conversion(tmp_path / "ours", REGISTRY, ConvertOptions(format="audio.lumina_music"))


def test_the_autoencoder_in_the_checkpoint_comes_before_maa2(tmp_path):
    inside = {f"first_stage_model.{name}": tensor + 1 for name, tensor in ours.autoencoder().items()}
    folder = write(tmp_path / "f", state={**ours.state(), **inside, "first_stage_model.loss.x": torch.zeros(1)})
    name = "encoder.conv_in.bias"
    got = read_tensor(FORMAT.load(folder).weights[f"autoencoder.vae.{name}"])
    assert torch.equal(got, inside[f"first_stage_model.{name}"])


def test_clap_is_read_from_its_own_file_if_the_checkpoint_has_none(tmp_path):
    folder = write(tmp_path / "f", "audio", state=ours.state("music"))
    with pytest.raises(CheckpointError, match="got no text tower, expected CLAP"):
        FORMAT.load(folder)
    (folder / "CLAP").mkdir()
    torch.save({"model": ours.tower()}, folder / "CLAP" / "CLAP_weights_2022.pth")
    weights = FORMAT.load(folder).weights
    assert "conditioners.caption.first.tower.projection.linear1.weight" in weights


class Trap:
    def __reduce__(self):
        return exec, ("open('sprung', 'w')",)


def without(*names):
    return {name: tensor for name, tensor in ours.state().items() if name not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": None}, ["got no checkpoint music_generation"]),
        ({"vae": None}, ["got no autoencoder", "Get maa2"]),
        ({"state": without("scale_factor")}, ["119.ckpt: got no number scale_factor"]),
        ({"state": {"other": torch.zeros(1)}}, ["expected the checkpoint of a released audio model"]),
        (
            {"state": without("model.diffusion_model.blocks.1.ffn_norm.weight")},
            ["network", "missing: blocks.1.ffn_norm.weight"],
        ),
        (
            {"state": {**ours.state(), "model.diffusion_model.proj_in.bias": torch.zeros(3)}},
            ["proj_in.bias is (3,), expected (32,)"],
        ),
        ({"vae": {"encoder.conv_in.weight": torch.zeros(32, 80, 5)}}, ["maa2.ckpt", "autoencoder", "missing: "]),
        ({"vocoder_options": {**VOCODER, "sampling_rate": 22050}}, ["sampling rate: got 22050, expected 16000"]),
        ({"vocoder_options": {**VOCODER, "upsample_initial_channel": 32}}, ["config of the vocoder"]),
        ({"state": {**ours.state(), "x": Trap()}}, ["Code in a pickle"]),
        ({"vae": {"x": Trap()}}, ["maa2.ckpt", "Code in a pickle"]),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_line_and_runs_no_code(tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as error:
        FORMAT.load(write(tmp_path / "f", **change))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "sprung").exists()


def test_paths_in_the_config_are_never_followed(tmp_path):
    """The YAML names a file that is there, outside; only its name is looked for, inside."""
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    torch.save({"state_dict": ours.autoencoder()}, outside / "stolen.ckpt")
    folder = write(tmp_path / "f", vae=None)
    for place in (str(outside / "stolen.ckpt"), "../elsewhere/stolen.ckpt", "..\\elsewhere\\stolen.ckpt", ".."):
        settings = ours.yaml_of("music")
        settings["model"]["params"]["first_stage_config"]["params"]["ckpt_path"] = place
        (folder / "configs" / "lumina-text2music.yaml").write_text(yaml.safe_dump(settings))
        with pytest.raises(CheckpointError, match="got no autoencoder"):
            FORMAT.load(folder)
    torch.save({"state_dict": ours.autoencoder()}, folder / "stolen.ckpt")
    settings["model"]["params"]["first_stage_config"]["params"]["ckpt_path"] = str(outside / "stolen.ckpt")
    (folder / "configs" / "lumina-text2music.yaml").write_text(yaml.safe_dump(settings))
    assert str(folder / "stolen.ckpt") in "".join(FORMAT.load(folder).notes)


def test_other_folders_do_not_match(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {params: {x: 1}}\n")
    (tmp_path / "b.ckpt").touch()
    assert not FORMAT.matches(tmp_path)
    (tmp_path / "music_generation").mkdir()
    assert not FORMAT.matches(tmp_path / "music_generation")


@torch.no_grad()
def by_hand(folder, noise, steps, guidance, text):
    """Steps of the released demo (demo_music.py, CFM.sample_cfg, decode_first_stage, VocoderBigVGAN)."""
    import transformers

    state = torch.load(folder / "music_generation" / "119.ckpt")["state_dict"]
    adapter = FlagDiTAdapter()
    config = adapter.config_from(ours.UNET, "test")
    sizes = config.native_options()["backbone"] | {"token_dim": 4, "cross_attention_dim": 16, "pooled_dim": 16}
    sizes.pop("rope_scaling_factor")
    network = FlagDiTBackbone(FlagDiTBackbone.Config.read(sizes, "test"))
    foreign = {n[22:]: InMemoryTensor(t) for n, t in state.items() if n.startswith("model.diffusion_model.")}
    named = adapter.from_foreign(foreign, config, "test")
    own = {name: piece.load() for name, piece in named.items()}
    network.load_state_dict({n[9:]: t for n, t in own.items() if n.startswith("backbone.")})
    t5 = transformers.T5EncoderModel.from_pretrained(folder / "flan-t5-large").eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder / "flan-t5-large")

    def velocity(x, time, words):
        ids = tokens([words], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        read = t5(input_ids=ids).last_hidden_state
        places = torch.zeros(1, x.shape[2], 3)
        hidden = network(Tokens(x.transpose(1, 2), places, ((x.shape[2],),)), time, Condition(read, None, read.mean(1)))
        normed = torch.nn.functional.layer_norm(hidden.hidden_states, (32,), eps=1e-6)
        modulation = torch.nn.functional.silu(hidden.modulation) @ own["head.modulation.weight"].T
        shift, scale = (modulation + own["head.modulation.bias"])[:, None].chunk(2, dim=-1)
        moved = normed * (1 + scale) + shift
        return (moved @ own["head.linear.weight"].T + own["head.linear.bias"]).transpose(1, 2)

    times, x = torch.linspace(0, 1, steps + 1), noise
    for t, u in itertools.pairwise(times):
        whole = (t * 1000).long()[None]
        uncond, cond = velocity(x, whole, ""), velocity(x, whole, text)
        x = x + (u - t) * (uncond + guidance * (cond - uncond))
    vae = VAE(VAEConfig(latent_channels=4, z_channels=4, ch=32, ch_mult=(1, 2), num_res_blocks=1), 80)
    vae.load_state_dict(torch.load(folder / "maa2" / "maa2.ckpt")["state_dict"])
    return BigVGAN(BigVGAN.Config(source=str(folder / "bigvnat"))).generator.network()(vae.decode(x / SCALE))


def test_a_generated_sound_equals_that_of_the_released_code(music):
    noise = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(3))
    wanted = by_hand(music, noise, 25, 5.0, "a red cat")
    session = Pipeline.from_pretrained(music)
    (answer,) = session(prompt="a red cat", duration=0.256, steps=25, inputs=PrecomputedInputs(noise=noise))
    assert wanted.std() > 0.01
    torch.testing.assert_close(answer.data, wanted[0], atol=1e-3, rtol=1e-3)
