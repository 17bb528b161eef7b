"""KLAutoencoder: equality with diffusers, scale of latents, float16 overflow, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from lumina_core.errors import CheckpointError, ConfigError, PluginError, ShapeError
from lumina_image.autoencoders.kl import KLAutoencoder

FOLDER = Path(__file__).parents[2] / "tiny_pipeline" / "vae"
SCALE = 0.13025


def autoencoder(folder=FOLDER, **options):
    return KLAutoencoder(KLAutoencoder.Config.read({"source": str(folder), **options}, "test"))


@pytest.fixture(scope="module")
def theirs():
    return diffusers.AutoencoderKL.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def changed(tmp_path, **settings):
    """The same weights with other settings."""
    folder = tmp_path / "vae"
    shutil.copytree(FOLDER, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **settings}))
    return folder


def test_a_latent_is_the_scaled_mean_of_the_posterior_and_decodes_back(theirs, pictures):
    ours = autoencoder()
    with torch.no_grad():
        mean = theirs.encode(pictures).latent_dist.mean
        back = theirs.decode(mean).sample
    latent = ours.encode(pictures)
    torch.testing.assert_close(latent, mean * SCALE, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.decode(latent), back, atol=1e-5, rtol=0)
    assert (ours.channels, ours.downsample_factor) == (4, (8, 8)) and latent.shape == (2, 4, 4, 6)


def test_a_posterior_sample_has_its_standard_deviation_and_is_determined_by_the_image(theirs, pictures):
    ours = autoencoder(posterior="sample")
    first, second = ours.encode(pictures), ours.encode(pictures.flip(0)).flip(0)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    with torch.no_grad():
        posterior = theirs.encode(pictures).latent_dist
    drawn = (first / SCALE - posterior.mean) / posterior.std
    assert drawn.std().item() == pytest.approx(1, abs=0.15) and drawn.mean().abs() < 0.2
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    ("settings", "options", "mean", "deviation"),
    [
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, {}, 0.25, 2.0),
        ({"scaling_factor": 0.5}, {"scaling_factor": 2.0}, 0.0, 0.5),
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, {"shift_factor": 0.0}, 0.0, 2.0),
        ({"scaling_factor": None}, {}, 0.0, 1 / 0.18215),
    ],
)
def test_scale_and_shift_are_the_source_s_unless_they_are_given(
    theirs, pictures, tmp_path, settings, options, mean, deviation
):
    ours = autoencoder(changed(tmp_path, **settings), **options)
    with torch.no_grad():
        raw = theirs.encode(pictures).latent_dist.mean
    torch.testing.assert_close(ours.encode(pictures), (raw - mean) / deviation)
    torch.testing.assert_close(ours.decode(ours.encode(pictures)), theirs.decode(raw).sample, atol=1e-5, rtol=0)


def test_latents_with_channel_statistics_are_normalised(theirs, pictures, tmp_path):
    means, deviations = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    ours = autoencoder(changed(tmp_path, latents_mean=means, latents_std=deviations))
    with torch.no_grad():
        raw = theirs.encode(pictures).latent_dist.mean
    wanted = (raw - torch.tensor(means).view(4, 1, 1)) * SCALE / torch.tensor(deviations).view(4, 1, 1)
    torch.testing.assert_close(ours.encode(pictures), wanted)


def test_one_that_must_be_upcast_is_never_run_in_float16():
    ours = autoencoder(dtype="float16")
    assert torch.isfinite(ours.decode(torch.zeros(1, 4, 2, 2))).all()
    assert ours.pretrained.network().dtype == torch.float32


def test_float16_that_overflows_all_the_same_is_done_again_in_float32(theirs, tmp_path):
    folder = changed(tmp_path, force_upcast=False)
    loud = diffusers.AutoencoderKL.from_pretrained(folder)
    with torch.no_grad():
        loud.post_quant_conv.weight.mul_(1e6)
    loud.save_pretrained(folder)
    latent = torch.ones(1, 4, 2, 2)
    with pytest.warns(UserWarning, match="overflows in float16"):
        assert torch.equal(autoencoder(folder, dtype="float16").decode(latent), autoencoder(folder).decode(latent))


@pytest.mark.parametrize("options", [{"slicing": True}, {"tiling": True}, {"dtype": "bfloat16"}])
def test_tiling_and_slicing_change_little(options):
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain, spared = autoencoder().decode(latent), autoencoder(**options).decode(latent)
    assert (plain - spared).abs().max() < 0.1 and spared.dtype == torch.float32


def test_large_images_are_tiled_by_default(monkeypatch):
    latents = [torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0)) for side in (4, 8)]
    whole, tiled, ours = autoencoder(tiling=False), autoencoder(tiling=True), autoencoder()
    stride = ours.downsample_factor[0]
    monkeypatch.setattr("lumina_image.autoencoders.kl.TILING_THRESHOLD", (8 * stride) ** 2 - 1)
    assert torch.equal(ours.decode(latents[0]), whole.decode(latents[0]))
    assert torch.equal(ours.decode(latents[1]), tiled.decode(latents[1]))
    monkeypatch.setattr("lumina_image.autoencoders.kl.TILING_THRESHOLD", (8 * stride) ** 2)
    assert torch.equal(ours.decode(latents[1]), whole.decode(latents[1]))


def test_autocast_does_not_change_its_dtype(pictures):
    ours = autoencoder()
    plain = ours.encode(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours.encode(pictures), plain)


def test_it_is_built_on_the_meta_device_and_has_no_weights_in_the_state_dict(pictures):
    with torch.device("meta"):
        ours = autoencoder()
    assert torch.isfinite(ours.encode(pictures)).all()
    assert list(ours.state_dict()) == list(ours.parameters()) == []


def test_an_unsupported_side_is_refused():
    with pytest.raises(ShapeError, match=r"got 36x48 .* expected multiples of 8"):
        autoencoder().encode(torch.zeros(1, 3, 36, 48))


def test_a_source_that_has_changed_is_refused(tmp_path):
    known = autoencoder().pin_hashes()
    assert torch.isfinite(autoencoder(**known).decode(torch.zeros(1, 4, 2, 2))).all()
    with pytest.raises(CheckpointError, match="files have changed since the model was saved"):
        autoencoder(changed(tmp_path, scaling_factor=0.5), **known).decode(torch.zeros(1, 4, 2, 2))


def test_an_unreadable_source_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"got 'nobody/no-such-vae', which is neither a folder nor .* set `source` to its folder"
    ):
        autoencoder("nobody/no-such-vae")
    with pytest.raises(CheckpointError, match=r"got _class_name VQModel, expected AutoencoderKL"):
        autoencoder(changed(tmp_path, _class_name="VQModel"))
    with pytest.raises(ConfigError, match="has latent_channels 4 and downsample_factor 8, expected 16 and 8"):
        autoencoder(latent_channels=16).decode(torch.zeros(1, 16, 2, 2))
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    shutil.copy(FOLDER / "config.json", tmp_path / "vae")
    with pytest.raises(CheckpointError, match="got a truncated or invalid file"):
        autoencoder(tmp_path / "vae").decode(torch.zeros(1, 4, 2, 2))


def test_a_missing_library_is_reported_with_its_installation(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(PluginError, match=r"pip install"):
        autoencoder().decode(torch.zeros(1, 4, 2, 2))
