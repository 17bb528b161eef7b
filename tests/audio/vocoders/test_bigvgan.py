"""BigVGAN: filters, activations, and published folders."""

from __future__ import annotations

import math

import pytest
import torch
import yaml
from safetensors.torch import save_file

from lumina_audio.vocoders.bigvgan import (
    Activation1d,
    BigVGAN,
    Snake,
    half_band_filter,
    is_bigvgan_dir,
    kaiser_sinc_filter,
    read_options,
)
from lumina_core.errors import CheckpointError, ConfigError

PUBLISHED = {
    "resblock": "1", "num_mels": 5, "upsample_initial_channel": 8, "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]], "activation": "snakebeta", "snake_logscale": True, "batch_size": 3,
}  # fmt: skip


def published(folder, **settings):
    """A folder of a tiny generator with the old weight norm on, and its plain form."""
    folder.mkdir()
    settings = {**PUBLISHED, **settings}
    (folder / "args.yml").write_text(yaml.safe_dump(settings))
    torch.manual_seed(0)
    config = BigVGAN.Config.read(options_of(folder), "test")
    vocoder = BigVGAN(config)
    state = {}
    for name, tensor in vocoder.generator.state_dict().items():
        tensor = torch.randn_like(tensor) * 0.3
        vocoder.generator.state_dict()[name].copy_(tensor)
        if name.endswith(".weight"):
            # any length of the direction: the other number says how long the row is
            lengths = tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
            state[f"{name}_g"], state[f"{name}_v"] = lengths, tensor * 3.7
        else:
            state[name] = tensor
            if name.endswith(".alpha"):
                state[name.replace("act.alpha", "upsample.filter")] = half_band_filter().view(1, 1, -1)
                state[name.replace("act.alpha", "downsample.lowpass.filter")] = half_band_filter().view(1, 1, -1)
    torch.save({"generator": state}, folder / "best_netG.pt")
    return vocoder


def options_of(folder):
    (folder / "best_netG.pt").touch()
    return read_options(folder)


def test_filter_passes_half_of_the_band():
    taps = kaiser_sinc_filter(0.25, 0.3, 12).double()
    assert taps.sum() == pytest.approx(1)
    assert torch.equal(taps, taps.flip(0))
    # its answer at a frequency in cycles a sample: all at 0, half (6 dB) at the cutoff, nothing at the top
    time = torch.arange(12) - 5.5
    gain = [float((taps * torch.cos(2 * math.pi * f * time)).sum()) for f in (0.0, 0.25, 0.5)]
    assert gain == pytest.approx([1, 0.5, 0], abs=0.02)


@pytest.mark.parametrize(("beta", "logscale"), [(False, False), (True, True)])
def test_snake_equals_its_formula(beta, logscale):
    snake = Snake(1, beta, logscale)
    with torch.no_grad():
        snake.alpha.fill_(math.log(2) if logscale else 2)
        if beta:
            snake.beta.fill_(math.log(4))
    x = torch.tensor([[[0.0, 0.5, -1.0]]])
    with torch.no_grad():
        got = snake(x)[0, 0].tolist()
    assert got == pytest.approx([v + math.sin(2 * v) ** 2 / (4 if beta else 2) for v in (0, 0.5, -1)])


def test_overtones_are_not_aliased():
    """A tone at 0.3 cycles: its square's 0.6 would fold to 0.4."""
    tone = torch.cos(2 * math.pi * 0.3 * torch.arange(400))[None, None]
    snake = Snake(1, False, False)
    with torch.no_grad():
        naive, smooth = snake(tone), Activation1d(snake)(tone)

    def at(x, f):
        wave = torch.exp(-2j * math.pi * f * torch.arange(400))
        return float((x[0, 0] * wave)[50:-50].mean().abs())

    assert at(naive, 0.4) > 0.1
    assert at(smooth, 0.4) < 0.3 * at(naive, 0.4)
    assert at(smooth, 0.3) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("block", ["1", "2"])
@pytest.mark.parametrize("activation", ["snake", "snakebeta"])
def test_published_folder_equals_the_generator_without_weight_norm(tmp_path, block, activation):
    plain = published(tmp_path / "bigvnat", resblock=block, activation=activation)
    assert is_bigvgan_dir(tmp_path / "bigvnat")
    found = BigVGAN(BigVGAN.Config(source=str(tmp_path / "bigvnat")))
    assert (found.n_mels, found.hop_length, found.sample_rate) == (5, 4, 16000)
    assert not found.state_dict()
    mel = torch.randn(2, 5, 7)
    with torch.no_grad():
        got = found(mel)
        torch.testing.assert_close(got, plain(mel))
    assert got.shape == (2, 1, 28)
    assert got.abs().max() <= 1


def test_later_releases_are_read(tmp_path):
    plain = published(tmp_path / "v2", use_tanh_at_final=False, use_bias_at_final=False, sampling_rate=44100)
    found = BigVGAN(BigVGAN.Config(source=str(tmp_path / "v2")))
    assert found.sample_rate == 44100
    assert not any("conv_post.bias" in name for name in plain.state_dict())
    mel = 20 * torch.randn(1, 5, 9)
    with torch.no_grad():
        got = found(mel)
        torch.testing.assert_close(got, plain(mel), atol=1e-3, rtol=0)  # loud input: rounding grows
    assert got.abs().max() == 1


def broken(change, folder):
    path = folder / "best_netG.pt"
    content = torch.load(path)
    change(content)
    torch.save(content, path)


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["generator"].pop("conv_pre.bias"), "missing: conv_pre.bias"),
        (lambda c: c["generator"].pop("ups.0.0.weight_g"), "without ups.0.0.weight_g"),
        (lambda c: c["generator"].update(more=torch.zeros(1)), "unexpected: more"),
        (
            lambda c: c["generator"].update({"conv_pre.bias": torch.zeros(3)}),
            "conv_pre.bias is (3,), expected (8,)",
        ),
        (
            lambda c: c["generator"].update({"activation_post.upsample.filter": torch.zeros(1, 1, 12)}),
            "expected the half-band filter",
        ),
        (lambda c: c.update(weights=c.pop("generator")), "got dict under 'weights'"),
        (lambda c: c.update(more=Trap()), "Code in a pickle"),
    ],
)
def test_damaged_checkpoint_is_refused(tmp_path, change, word):
    published(tmp_path / "v")
    broken(change, tmp_path / "v")
    with pytest.raises(CheckpointError, match=r"best_netG\.pt") as error:
        BigVGAN(BigVGAN.Config(source=str(tmp_path / "v")))(torch.randn(1, 5, 4))
    assert word in str(error.value)


def test_invalid_configs_are_refused(tmp_path):
    (tmp_path / "args.yml").write_text("model: x\n")
    with pytest.raises(CheckpointError, match="num_mels is missing"):
        BigVGAN(BigVGAN.Config(source=str(tmp_path)))
    with pytest.raises(CheckpointError, match="expected an existing folder"):
        BigVGAN(BigVGAN.Config(source=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="upsample_rates and upsample_kernel_sizes of different lengths"):
        BigVGAN(BigVGAN.Config(upsample_rates=(2, 2)))


def test_safetensors_are_read(tmp_path):
    plain = published(tmp_path / "v")
    (tmp_path / "v" / "best_netG.pt").unlink()
    save_file(plain.generator.state_dict(), tmp_path / "v" / "model.safetensors")
    mel = torch.randn(1, 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(BigVGAN(BigVGAN.Config(source=str(tmp_path / "v")))(mel), plain(mel))
