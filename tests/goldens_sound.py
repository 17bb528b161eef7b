"""Golden cases of the released sound models: their backbone, path, sampling and vocoder, and the full sizes' names."""

from __future__ import annotations

import math
import re
from typing import Any, cast

import torch
from goldens_model import numbers, unread
from goldens_ode import along
from goldens_read import TARGET, Golden, Unsupported, largest, reduced, worst
from torch import Tensor, nn

from lumina_audio.autoencoders.vae import VAE, VAEConfig
from lumina_audio.formats.components import (
    NUM_TIMESTEPS,
    CFMPath,
    DiscreteTimeFlagDiT,
    Float32Schedule,
    from_timestep,
    to_timestep,
)
from lumina_audio.formats.networks import FlagDiTAdapter, VAEAdapter
from lumina_audio.mel import MelConfig
from lumina_audio.vocoders.bigvgan import Generator, GeneratorConfig, options_from_published, remove_weight_norm
from lumina_core.conditioning.ops import mean_pool
from lumina_core.flow.loss import FlowMatching
from lumina_core.flow.path import sample_x_t, velocity_target
from lumina_core.flow.schedules import UniformTimeSampler
from lumina_core.flow.solvers import euler
from lumina_core.models.heads import VelocityHead
from lumina_core.sampling.velocity import cfg
from lumina_core.tokenizers import Patchify1D
from lumina_core.types import Batch, Condition, Tokens


class SoundNetwork(nn.Module):
    """Backbone and head of a released model, and its sounds as tokens."""

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        adapter = FlagDiTAdapter()
        config = adapter.config_from(golden.config["constructor"], "golden")
        network = config.native_network()
        self.backbone, self.head = (
            cast("DiscreteTimeFlagDiT", network["backbone"]),
            cast("VelocityHead", network["head"]),
        )
        self.load_state_dict(numbers(adapter.from_foreign(unread(golden.group("weights")), config, "golden")))
        TARGET.place(self)
        self.frames = Patchify1D(Patchify1D.Config(patch_size=1, channels=config.in_channels))

    def forward(self, tokens: Tokens, time: Tensor | None, condition: Condition) -> Tensor:
        narrow = tokens.with_values(tokens.values.to(TARGET.dtype))
        output: Tensor = self.head(self.backbone(narrow, time, reduced(condition)), narrow).float()
        return output

    @torch.no_grad()
    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """x (B, C, T) and our time (B,) -> (B, C, T)."""
        tokens = self.frames.patchify(x)
        return self.frames.unpatchify(tokens.with_values(self(tokens, time, condition)))


def make_condition(context: Tensor) -> Condition:
    """Every entry counts, padding too: their caption mask is all ones."""
    return Condition(context, None, mean_pool(context, torch.ones(context.shape[:2], dtype=torch.bool)))


def forward(golden: Golden) -> float:
    """Compare FlagDiT.forward at integer times."""
    time = from_timestep(golden.tensors["input.t"])
    got = SoundNetwork(golden).answer(golden.tensors["input.x"], time, make_condition(golden.tensors["input.context"]))
    return worst([(got, golden.tensors["output.out"])])


def sampled(golden: Golden) -> float:
    """Compare CFM.sample and CFM.sample_cfg: every intermediate state, and the times passed to the network."""
    network = SoundNetwork(golden)
    encoded = make_condition(golden.tensors["input.cond"])
    null_condition = make_condition(
        golden.tensors.get("input.uncond", golden.tensors["input.cond"])
    )  # not evaluated at scale 1
    errors = []
    for run in golden.config["runs"]:
        network_times: list[float] = []
        scale = float(run["cfg_scale"])

        def velocity(x: Tensor, t: float, network_times: list[float] = network_times, scale: float = scale) -> Tensor:
            time = torch.full((len(x),), t)
            network_times.append(float(to_timestep(time)[0]))
            conditional = network.answer(x, time, encoded)
            return conditional if scale == 1 else cfg(conditional, network.answer(x, time, null_condition), scale)

        grid = Float32Schedule(Float32Schedule.Config())(run["timesteps"] - 1)
        states = along(velocity, golden.tensors["input.x0"], grid, euler)
        expected = golden.group(f"output.{run['name']}")
        pairs = [(states, expected["trajectory"]), (states[-1], expected["last"])]
        times = torch.tensor(network_times).long()
        errors.append(worst([*pairs, (times, expected["network_t"])]))
    return largest(errors)


def losses(golden: Golden) -> float:
    """Compare CFM.p_losses: the noisy latent, the target, the prediction, and the loss."""
    if (
        golden.config.get("loss_type", "l2") != "l2"
        or golden.config.get("num_timesteps", NUM_TIMESTEPS) != NUM_TIMESTEPS
    ):
        raise Unsupported
    network, path = SoundNetwork(golden), CFMPath(CFMPath.Config(sigma_min=golden.config["sigma_min"]))
    noise, data, steps = (golden.tensors[f"input.{name}"] for name in ("x0", "x1", "t"))
    time, encoded = from_timestep(steps), make_condition(golden.tensors["input.cond"])
    x = sample_x_t(path, noise, data, time)
    objective = FlowMatching(FlowMatching.Config(), path, UniformTimeSampler(UniformTimeSampler.Config()))
    batch = Batch(network.frames.patchify(data), encoded)
    with torch.no_grad():
        items = objective.per_sample_loss(network, batch, time, network.frames.patchify(noise).values)
    computed = {
        "x_noisy": x, "target": velocity_target(path, noise, data, time), "pred": network.answer(x, time, encoded),
        "loss": items.mean()[None],
    }  # fmt: skip
    expected = golden.group("output")
    if not expected or not expected.keys() <= computed.keys():
        raise Unsupported
    return worst([(computed[name].reshape(tensor.shape), tensor) for name, tensor in expected.items()])


def autoencoder(golden: Golden) -> float:
    """AutoencoderKL of spectrograms: what it encodes to, its divergence, and what it decodes to."""
    constructor = golden.config["constructor"]
    adapter = VAEAdapter(constructor["ddconfig"]["in_channels"])
    config = adapter.config_from(constructor, "golden")
    vae = VAE(config, adapter.n_mels)
    vae.load_state_dict(numbers(adapter.from_foreign(unread(golden.group("weights")), config, "golden")))
    TARGET.place(vae)
    x, z = (golden.tensors[f"input.{name}"].to(TARGET.dtype) for name in ("x", "z"))
    with torch.no_grad():
        mean, log_variance = vae.encode(x)
        computed = {
            "mean": mean, "logvar": log_variance, "std": (log_variance / 2).exp(), "encoder_h": vae.encoder(x),
            "kl": (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2)) / 2,
            "decoded_z": vae.decode(z), "reconstruction_of_mean": vae.decode(mean),
        }  # fmt: skip
    expected = golden.group("output")
    if not expected or not expected.keys() <= computed.keys():
        raise Unsupported
    return worst([(computed[name], tensor) for name, tensor in expected.items()])


def vocoder(golden: Golden) -> float:
    """BigVGAN.forward, its weight norm taken off."""
    shape = GeneratorConfig.read(options_from_published(golden.config["constructor"]["h"], "golden"), "golden")
    network = Generator(shape)
    network.load_state_dict(numbers(remove_weight_norm(unread(golden.group("weights")), shape, "golden")))
    TARGET.place(network)
    with torch.no_grad():
        return worst([(network(golden.tensors["input.mel"].to(TARGET.dtype)), golden.tensors["output.wav"])])


def manifest(content: dict[str, Any]) -> float:
    """0 where names, shapes and counts are those of the full-size model that the manifest speaks of, else 1."""
    match = re.search(r"FlagDiT(?:v2)?\(([^)]*)\)", content["what"])
    if match is not None:
        pairs = (pair.split("=") for pair in match[1].split(","))
        adapter = FlagDiTAdapter()
        found = adapter.foreign_shapes(adapter.config_from({k.strip(): int(v) for k, v in pairs}, "manifest"))
    elif "AutoencoderKL" in content["what"]:
        with torch.device("meta"):
            state = VAE(VAEConfig(), MelConfig().n_mels).state_dict()
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    else:
        raise Unsupported
    count = sum(math.prod(shape) for shape in found.values())
    same = {name: list(shape) for name, shape in found.items()} == content["shapes"]
    return float(not same or count != content["parameters"] or len(found) != content["tensors"])
