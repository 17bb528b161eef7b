"""Miniature folders of released sound models, made by hand: the same files, names and pickles, drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lumina_audio.autoencoders.vae import VAE, VAEConfig
from lumina_audio.text.clap import BertConfig, ClapTextTower
from lumina_audio.vocoders.bigvgan import Generator, GeneratorConfig, half_band_filter

UNET = {"in_channels": 4, "context_dim": 16, "hidden_size": 32, "num_heads": 4, "depth": 2, "max_len": 100}
VAE_PARAMS = {"embed_dim": 4, "monitor": "val/rec_loss", "ckpt_path": "/path/to/ckpt/maa2/maa2.ckpt", "ddconfig": {
    "double_z": True, "in_channels": 80, "out_ch": 80, "z_channels": 4, "kernel_size": 5, "ch": 32, "ch_mult": [1, 2],
    "num_res_blocks": 1, "attn_layers": [3], "down_layers": [0], "dropout": 0.0,
}}  # fmt: skip
VOCODER = {
    "resblock": "1", "num_mels": 80, "upsample_initial_channel": 16, "upsample_rates": [4, 4, 4, 4],
    "upsample_kernel_sizes": [8, 8, 8, 8], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
    "activation": "snakebeta", "snake_logscale": True, "batch_size": 3, "resolutions": [[1024, 120, 600]],
}  # fmt: skip
BERT = {
    "vocab_size": 14, "max_position_embeddings": 512, "hidden_size": 64, "num_layers": 1, "num_heads": 1,
    "intermediate_size": 24, "projection_dim": 16,
}  # fmt: skip
SCALE = 0.5


def network(unet: dict[str, Any] = UNET) -> dict[str, Tensor]:
    """What FlagDiTv2 saves, written down from its constructor."""
    dim, text, channels = unet["hidden_size"], unet["context_dim"], unet["in_channels"]
    hidden = 256 * -(-(8 * dim // 3) // 256)
    shapes: dict[str, tuple[int, ...]] = {
        "proj_in.weight": (dim, channels), "proj_in.bias": (dim,), "t_embedder.mlp.0.weight": (dim, 256),
        "t_embedder.mlp.0.bias": (dim,), "t_embedder.mlp.2.weight": (dim, dim), "t_embedder.mlp.2.bias": (dim,),
        "cap_embedder.0.weight": (text,), "cap_embedder.0.bias": (text,), "cap_embedder.1.weight": (dim, text),
        "cap_embedder.1.bias": (dim,), "final_layer.linear.weight": (channels, dim),
        "final_layer.linear.bias": (channels,), "final_layer.adaLN_modulation.1.weight": (2 * dim, dim),
        "final_layer.adaLN_modulation.1.bias": (2 * dim,),
    }  # fmt: skip
    block = {
        "attention.gate": (unet["num_heads"],), "attention.wk_y.weight": (dim, text),
        "attention.wv_y.weight": (dim, text), **{f"attention.w{n}.weight": (dim, dim) for n in "qkvo"},
        "feed_forward.w1.weight": (hidden, dim), "feed_forward.w2.weight": (dim, hidden),
        "feed_forward.w3.weight": (hidden, dim), "attention_norm.weight": (dim,), "ffn_norm.weight": (dim,),
        "attention_y_norm.weight": (text,), "adaLN_modulation.1.weight": (6 * dim, dim),
        "adaLN_modulation.1.bias": (6 * dim,),
    }  # fmt: skip
    for number in range(unet["depth"]):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return {name: _random_images(shape) for name, shape in shapes.items()}


def autoencoder() -> dict[str, Tensor]:
    return _random(VAE(VAEConfig(latent_channels=4, z_channels=4, ch=32, ch_mult=(1, 2), num_res_blocks=1), 80))


def tower() -> dict[str, Tensor]:
    """The text tower of CLAP as in checkpoints, with unused tensors."""
    state = {f"caption_encoder.{name}": tensor for name, tensor in _random(ClapTextTower(BertConfig(**BERT))).items()}
    state["caption_encoder.base.embeddings.position_ids"] = torch.arange(512)[None]
    state["caption_encoder.base.pooler.dense.weight"] = torch.zeros(64, 64)
    return state


def generator(options: dict[str, Any] = VOCODER) -> dict[str, Tensor]:
    """BigVGAN's state with its old weight norm on."""
    shape = GeneratorConfig(
        n_mels=options["num_mels"],
        upsample_initial_channel=options["upsample_initial_channel"],
        upsample_rates=options["upsample_rates"],
        upsample_kernel_sizes=options["upsample_kernel_sizes"],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
    )
    state: dict[str, Tensor] = {}
    for name, tensor in _random(Generator(shape)).items():
        if name.endswith(".weight"):
            lengths = tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
            state |= {f"{name}_g": 0.3 * lengths, f"{name}_v": tensor}
        else:
            state[name] = 0.1 * tensor
        if name.endswith("act.alpha"):
            state[name.replace("act.alpha", "upsample.filter")] = half_band_filter().view(1, 1, -1)
    return state


def write(folder: Path, kind: str = "music", settings: bool = True, **change: Any) -> Path:
    """Write a folder as on the hub; `change` replaces state, vae, vocoder or its options; None omits one."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "state": state(kind),
        "vae": autoencoder(),
        "vocoder": generator(),
        "vocoder_options": VOCODER,
    } | change
    for name in (f"{kind}_generation", "maa2", "bigvnat", "configs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if parts["state"] is not None:
        torch.save(training(parts["state"]), folder / f"{kind}_generation" / "119.ckpt")
    if parts["vae"] is not None:
        torch.save({"state_dict": parts["vae"], "epoch": 3}, folder / "maa2" / "maa2.ckpt")
    if parts["vocoder"] is not None:
        torch.save({"generator": parts["vocoder"], "steps": 5}, folder / "bigvnat" / "best_netG.pt")
        (folder / "bigvnat" / "args.yml").write_text(yaml.safe_dump(parts["vocoder_options"]))
    if settings:
        (folder / "configs" / f"lumina-text2{kind}.yaml").write_text(yaml.safe_dump(yaml_of(kind)))
    return folder


def state(kind: str = "music") -> dict[str, Tensor]:
    """The weights of a training checkpoint: the network, its scale, and values for training only."""
    made = {f"model.diffusion_model.{name}": tensor for name, tensor in network().items()}
    if kind == "audio":
        made |= {f"cond_stage_model.{name}": tensor for name, tensor in tower().items()}
    return {**made, "scale_factor": torch.tensor(SCALE), "betas": torch.zeros(1000), "logvar": torch.zeros(1000)}


def training(weights: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint in the layout of Lightning: weights, other tensors and settings."""
    moments = {number: {"exp_avg": torch.full((3,), 7.0)} for number in range(3)}
    return {
        "epoch": 119, "global_step": 5, "pytorch-lightning_version": "1.8.6", "state_dict": weights,
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 3e-6, "params": [0, 1, 2]}]}],
        "callbacks": {"ModelCheckpoint": {"best_model_path": "/somewhere", "best_model_score": torch.tensor(0.1)}},
    }  # fmt: skip


def yaml_of(kind: str) -> dict[str, Any]:
    """The repository's settings, which name places that must not be followed."""
    modules = "models.encoders.modules"
    conditioner: dict[str, Any] = {"target": f"{modules}.FrozenFLANEmbedder"}
    if kind == "audio":
        place = {"weights_path": "/path/to/ckpt/CLAP/CLAP_weights_2022.pth"}
        conditioner = {"target": f"{modules}.FrozenCLAPFLANEmbedder", "params": place}
    return {
        "model": {
            "base_learning_rate": 3.0e-06, "target": "models.diffusion.ddpm_audio.CFM",
            "params": {
                "timesteps": 1000, "scale_by_std": True, "cond_stage_config": conditioner,
                "unet_config": {"target": "models.diffusion.flag_large_dit.FlagDiTv2", "params": UNET},
                "first_stage_config": {"target": "models.autoencoder1d.AutoencoderKL", "params": VAE_PARAMS},
            },
        },
        "test_dataset": {"target": "data.TestManifest"},
    }  # fmt: skip


def _random(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: _random_images(tuple(tensor.shape)) for name, tensor in module.state_dict().items()}


def _random_images(shape: tuple[int, ...]) -> Tensor:
    noise = torch.randn(shape)
    return noise / max(1, torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) > 1 else 1 + 0.3 * noise
