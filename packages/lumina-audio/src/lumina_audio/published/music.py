"""The layout of Lumina-T2Music and Lumina-T2Audio: Flag-DiT, the spectrograms' autoencoder maa2 and BigVGAN."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from lumina_audio.published import reading, recipes
from lumina_audio.published.found import Found, knows, look
from lumina_audio.published.names import from_published, to_published
from lumina_audio.published.states import AUTOENCODER, CLAP, NETWORK, SCALE, open_state, scale_of, under
from lumina_audio.published.writing import clap_of, settings_of, vae_of, vocoder_of
from lumina_core.errors import CheckpointError
from lumina_core.weights.pieces import Draft, Held, Piece, Unbuilt, Weights, read

NAME = "audio.lumina_music"
PICKLES = "their code reads pickles: torch.save({'state_dict': ...}) of each file, the vocoder's under 'generator'"


class LuminaMusicFolder:
    """A folder as on the hub: `music_generation` (or `audio_generation`), `maa2`, `bigvnat`, perhaps `CLAP`, T5, YAML.

    Checkpoints are pickles of a training: their tensors alone are read, no class beside them is imported. Where no YAML
    lies beside, sizes are told by the tensors. The autoencoder inside the checkpoint comes before `maa2`, as in their
    code; without vocoder Griffin-Lim takes its place. Text encoders are named: T5 from a folder beside or the hub.
    """

    def knows(self, folder: Path) -> bool:
        """Whether there is a generator's checkpoint, or a YAML that speaks of one."""
        return knows(folder)

    def open(self, folder: Path) -> Unbuilt:
        """The model in the folder.

        Raises:
            CheckpointError: the generator or the autoencoder is missing, parts do not fit, or code is in a file.
        """
        found = look(folder)
        if found.generator is None:
            raise CheckpointError(f"{folder} has no checkpoint such as music_generation or audio_generation; fetch it")
        state, where = open_state(found.generator), str(found.generator)
        arguments = reading.arguments(found, under(state, NETWORK), where)
        vae, autoencoder = reading.autoencoder(found, state)
        shape, vocoder = reading.vocoder(found)
        if vae.channels != arguments.in_channels:
            raise CheckpointError(
                f"{where} moves {arguments.in_channels} channels, and the autoencoder beside it has {vae.channels}; "
                "fetch those that belong together"
            )
        conditioner, tower = reading.conditioner(found, state, arguments)
        kind = recipes.AUDIO if tower else recipes.MUSIC
        weights = {**from_published(under(state, NETWORK)), **tower}
        weights |= {f"autoencoder.vae.{name}": piece for name, piece in autoencoder.items()}
        weights |= {f"autoencoder.vocoder.generator.{name}": piece for name, piece in vocoder.items()}
        scale = scale_of(state, where)
        weights["autoencoder.mean"] = Held(torch.zeros(vae.channels))
        weights["autoencoder.variance"] = Held(recipes.variance_of(scale, vae.channels))
        made = recipes.recipe(kind, arguments, vae, shape, conditioner)
        origin = {"layout": NAME, "kind": kind}
        return Unbuilt(made, weights, {SCALE: state[SCALE]}, origin, notes=_told(found, state))

    def draft(self, model: Unbuilt) -> Draft:
        """The parts under their published names, as safetensors where the release has pickles, and the YAML.

        Raises:
            CheckpointError: a part or an option of the model has no place in this layout.
        """
        kind, arguments = recipes.kind_of(model, NAME), recipes.arguments_of(model, NAME)
        network = {n: p for n, p in model.weights.items() if n.startswith(("backbone.", "head."))}
        state = {f"{NETWORK}{name}": piece for name, piece in to_published(network).items()}
        state |= {f"{CLAP}{name}": piece for name, piece in clap_of(model).items()}
        weights: dict[str, Weights] = {
            f"{kind}_generation/lumina": {**state, SCALE: _scale(model)}, "maa2/maa2": vae_of(model),
        }  # fmt: skip
        files = {f"configs/lumina-text2{kind}.yaml": settings_of(kind, arguments, model)}
        said, vocoder = vocoder_of(model, NAME)
        if said is not None:
            weights["bigvnat/best_netG"] = vocoder
            files["bigvnat/args.yml"] = yaml.safe_dump(said, sort_keys=False).encode()
        notes = (
            "their code reads pickles: torch.save({'state_dict': ...}) of each file, the vocoder's under 'generator'",
        )
        return Draft(weights, files, whole=True, notes=notes)


def _scale(model: Unbuilt) -> Piece:
    """The scale that came with the model, where it still is the model's."""
    mean, variance = (read(model.weights[f"autoencoder.{name}"], torch.float32) for name in ("mean", "variance"))
    if SCALE in model.kept:
        came = float(read(model.kept[SCALE], torch.float32))
        if not bool(mean.any()) and torch.equal(recipes.variance_of(came, len(mean)), variance):
            return model.kept[SCALE]
    return Held(recipes.scale_back(mean, variance, NAME))


def _told(found: Found, state: Weights) -> tuple[str, ...]:
    """Which parts were found, and where."""
    inside = any(name.startswith(AUTOENCODER) for name in state)
    parts = {
        "settings": found.settings or "none, sizes are told by the tensors",
        "generator": found.generator,
        "autoencoder": f"in {found.generator}" if inside else found.vae,
        "vocoder": found.vocoder or "none: Griffin-Lim takes its place (fetch bigvnat for better sound)",
        "T5": found.readers.get(
            "t5", "none here: named by its place on the hub; a folder of it laid into this one would be found"
        ),
    }
    return tuple(f"{part}: {place}" for part, place in parts.items())
