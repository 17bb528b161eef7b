"""Golden cases of the released sound models: their backbone, path, sampling and vocoder, and the full sizes' names."""

from __future__ import annotations

import math
import re
from typing import Any, cast

import torch
from goldens_model import numbers, unread
from goldens_ode import along
from goldens_read import Golden, Unsupported, largest, worst
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
from lumina_audio.tokenizer import FramePatchify
from lumina_audio.vocoders.bigvgan import Generator, GeneratorConfig, options_from_published, remove_weight_norm
from lumina_core.conditioning.ops import mean_pool
from lumina_core.flow.guidance import cfg
from lumina_core.flow.loss import FlowMatching
from lumina_core.flow.path import sample_x_t, velocity_target
from lumina_core.flow.time_samplers import UniformTimeSampler
from lumina_core.flow.solvers import euler
from lumina_core.models.heads import VelocityHead
from lumina_core.types import Batch, Condition, Tokens


class SoundNetwork(nn.Module):
    """Backbone and head of a released model, and its sounds as tokens."""

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        adapter = FlagDiTAdapter()
        said = adapter.config_from(golden.config["constructor"], "golden")
        network = said.native_network()
        self.backbone, self.head = (
            cast("DiscreteTimeFlagDiT", network["backbone"]),
            cast("VelocityHead", network["head"]),
        )
        self.load_state_dict(numbers(adapter.from_foreign(unread(golden.group("weights")), said, "golden")))
        self.frames = FramePatchify(FramePatchify.Config(channels=said.in_channels))

    def forward(self, tokens: Tokens, time: Tensor | None, condition: Condition) -> Tensor:
        return self.head(self.backbone(tokens, time, condition), tokens)

    @torch.no_grad()
    def answer(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """x (B, C, T) and our time (B,) -> (B, C, T)."""
        tokens = self.frames.patchify(x)
        return self.frames.unpatchify(tokens.with_values(self(tokens, time, condition)))


def said_of(context: Tensor) -> Condition:
    """Every entry counts, padding too: their caption mask is all ones."""
    return Condition(context, None, mean_pool(context, torch.ones(context.shape[:2], dtype=torch.bool)))


def forward(golden: Golden) -> float:
    """FlagDiT.forward, told whole times."""
    time = from_timestep(golden.tensors["input.t"])
    got = SoundNetwork(golden).answer(golden.tensors["input.x"], time, said_of(golden.tensors["input.context"]))
    return worst([(got, golden.tensors["output.out"])])


def sampled(golden: Golden) -> float:
    """CFM.sample and CFM.sample_cfg: every state on the way, and the times that the network is told."""
    network = SoundNetwork(golden)
    said = said_of(golden.tensors["input.cond"])
    silence = said_of(golden.tensors.get("input.uncond", golden.tensors["input.cond"]))  # not asked at scale 1
    errors = []
    for run in golden.config["runs"]:
        told: list[float] = []
        scale = float(run["cfg_scale"])

        def velocity(x: Tensor, t: float, told: list[float] = told, scale: float = scale) -> Tensor:
            time = torch.full((len(x),), t)
            told.append(float(to_timestep(time)[0]))
            conditional = network.answer(x, time, said)
            return conditional if scale == 1 else cfg(conditional, network.answer(x, time, silence), scale)

        grid = Float32Schedule(Float32Schedule.Config())(run["timesteps"] - 1)
        states = along(velocity, golden.tensors["input.x0"], grid, euler)
        wanted = golden.group(f"output.{run['name']}")
        pairs = [(states, wanted["trajectory"]), (states[-1], wanted["last"])]
        times = torch.tensor(told).long()
        errors.append(worst([*pairs, (times, wanted["network_t"])]))
    return largest(errors)


def losses(golden: Golden) -> float:
    """CFM.p_losses: the noisy latent, what is wanted of it, what is answered, and the loss."""
    if (
        golden.config.get("loss_type", "l2") != "l2"
        or golden.config.get("num_timesteps", NUM_TIMESTEPS) != NUM_TIMESTEPS
    ):
        raise Unsupported
    network, path = SoundNetwork(golden), CFMPath(CFMPath.Config(sigma_min=golden.config["sigma_min"]))
    noise, data, whole = (golden.tensors[f"input.{name}"] for name in ("x0", "x1", "t"))
    time, said = from_timestep(whole), said_of(golden.tensors["input.cond"])
    x = sample_x_t(path, noise, data, time)
    objective = FlowMatching(FlowMatching.Config(), path, UniformTimeSampler(UniformTimeSampler.Config()))
    batch = Batch(network.frames.patchify(data), said)
    with torch.no_grad():
        items = objective.per_sample_loss(network, batch, time, network.frames.patchify(noise).values)
    known = {
        "x_noisy": x, "target": velocity_target(path, noise, data, time), "pred": network.answer(x, time, said),
        "loss": items.mean()[None],
    }  # fmt: skip
    wanted = golden.group("output")
    if not wanted or not wanted.keys() <= known.keys():
        raise Unsupported
    return worst([(known[name].reshape(tensor.shape), tensor) for name, tensor in wanted.items()])


def autoencoder(golden: Golden) -> float:
    """AutoencoderKL of spectrograms: what it encodes to, its divergence, and what it decodes to."""
    constructor = golden.config["constructor"]
    adapter = VAEAdapter(constructor["ddconfig"]["in_channels"])
    config = adapter.config_from(constructor, "golden")
    vae = VAE(config, adapter.n_mels)
    vae.load_state_dict(numbers(adapter.from_foreign(unread(golden.group("weights")), config, "golden")))
    x, z = golden.tensors["input.x"], golden.tensors["input.z"]
    with torch.no_grad():
        mean, log_variance = vae.encode(x)
        known = {
            "mean": mean, "logvar": log_variance, "std": (log_variance / 2).exp(), "encoder_h": vae.encoder(x),
            "kl": (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2)) / 2,
            "decoded_z": vae.decode(z), "reconstruction_of_mean": vae.decode(mean),
        }  # fmt: skip
    wanted = golden.group("output")
    if not wanted or not wanted.keys() <= known.keys():
        raise Unsupported
    return worst([(known[name], tensor) for name, tensor in wanted.items()])


def vocoder(golden: Golden) -> float:
    """BigVGAN.forward, its weight norm taken off."""
    shape = GeneratorConfig.read(options_from_published(golden.config["constructor"]["h"], "golden"), "golden")
    network = Generator(shape)
    network.load_state_dict(numbers(remove_weight_norm(unread(golden.group("weights")), shape, "golden")))
    with torch.no_grad():
        return worst([(network(golden.tensors["input.mel"]), golden.tensors["output.wav"])])


def manifest(content: dict[str, Any]) -> float:
    """0 where names, shapes and counts are those of the full-size model that the manifest speaks of, else 1."""
    said = re.search(r"FlagDiT(?:v2)?\(([^)]*)\)", content["what"])
    if said is not None:
        pairs = (pair.split("=") for pair in said[1].split(","))
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
