"""What lumina-audio brings. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.offers import Commands, Kinds, Models, Parts, Recipes


@hookimpl
def lumina_register_kinds(kinds: Kinds) -> None:
    """A kind of our own: what turns a spectrogram into sound."""
    kinds.add(
        "vocoder",
        "lumina_audio.vocoders.contract:Vocoder",
        "lumina_audio.vocoders.check:check_vocoder",
        "mel spectrogram -> waveform",
    )


@hookimpl
def lumina_register_parts(parts: Parts) -> None:
    """The parts for sound."""
    parts.features("audio.log_mel", "lumina_audio.metrics.mels:LogMel", "mean and deviation of each log-mel band")
    parts.features("audio.log_mel_frames", "lumina_audio.metrics.mels:LogMelFrames", "the log-mel in spans of time")
    parts.features("audio.efficientnet_lite0", "lumina_audio.metrics.mels:EfficientNetLite0", "log-mel as a picture")
    parts.features("audio.classifier", "lumina_audio.metrics.classifier:Classifier", "names instruments, trained here")
    parts.features("audio.pitch", "lumina_audio.metrics.pitches:Pitch", "how high a sound is, no network")
    parts.features("audio.vggish", "lumina_audio.metrics.vggish:VGGish", "the network of FAD, from a file")
    parts.features("audio.panns", "lumina_audio.metrics.panns:Panns", "the sounds of AudioSet, from a file")
    parts.features("audio.clap", "lumina_audio.metrics.clap:Clap", "sounds and texts in one space, from a folder")
    parts.metric(
        "audio.instrument_retrieval", "lumina_audio.metrics.retrieval:InstrumentRetrieval", "is the nearest of its kind"
    )
    parts.metric(
        "audio.spectral_retrieval", "lumina_audio.metrics.retrieval:SpectralRetrieval", "the same without a network"
    )
    parts.metric("audio.pitch", "lumina_audio.metrics.pitches:PitchAccuracy", "is it as high as the prompt says")
    parts.metric("audio.frechet", "lumina_audio.metrics.sets:Frechet", "Frechet distance of features (FD, or FAD)")
    parts.metric("audio.kernel", "lumina_audio.metrics.sets:Kernel", "kernel distance of features (KD)")
    parts.metric("audio.precision_recall", "lumina_audio.metrics.sets:PrecisionRecall", "k-nearest-neighbour manifolds")
    parts.metric("audio.class_divergence", "lumina_audio.metrics.divergence:ClassDivergence", "KL of a classifier")
    parts.metric("audio.similarity", "lumina_audio.metrics.clap:Similarity", "sound and caption by CLAP")
    parts.conditioner("audio.clap_text", "lumina_audio.captions.clap:ClapText", "CLAP's text tower, piece by piece")
    parts.conditioner("audio.dual_text", "lumina_audio.captions.dual:DualText", "two encoders, one memory")
    parts.tokenizer("audio.frames", "lumina_audio.frames:Frames", "frames of a spectrogram, at (time, 0, 0)")
    parts.autoencoder("audio.mel", "lumina_audio.autoencoder:MelAutoencoder", "spectrograms in 1-D latents, vocoded")
    parts.dataset("audio.effects", "lumina_audio.datasets.effects:EffectsDataset", "built in: named noises and drums")
    parts.dataset("audio.folder", "lumina_audio.datasets.folder:FolderDataset", "a folder of sounds with captions")
    parts.autoencoder("audio.bands", "lumina_audio.bands:Bands", "no latent: the log-mel spectrogram itself")
    parts.dataset(
        "audio.instruments", "lumina_audio.instruments:InstrumentsDataset", "built in: General MIDI, with true captions"
    )
    parts.dataset(
        "audio.manifest", "lumina_audio.datasets.manifest:ManifestDataset", "a table, like AudioCaps' and MusicCaps'"
    )
    parts.dataset("audio.tar", "lumina_audio.datasets.tar_shards:TarDataset", "tar files as WebDataset packs them")
    parts.task("audio.text_to_audio", "lumina_audio.task:TextToAudio", "A sound from a sentence.", command="audio")
    parts.vocoder("audio.bigvgan", "lumina_audio.vocoders.bigvgan:BigVGAN", "BigVGAN's generator, published ones too")
    parts.vocoder("audio.griffin_lim", "lumina_audio.vocoders.griffin_lim:GriffinLim", "no weights: phases are sought")
    parts.vocoder("audio.vocos", "lumina_audio.vocoders.vocos:Vocos", "light: one inverse Fourier transform a frame")
    _published(parts)


def _published(parts: Parts) -> None:
    """What the released sound models (Lumina-T2Music, Lumina-T2Audio) do in a way of their own."""
    here = "lumina_audio.published.conventions"
    parts.backbone("audio.flag_dit", f"{here}:WholeTimeFlagDiT", "Flag-DiT as the released sound models have it")
    parts.path("audio.trace", f"{here}:TracePath", "straight lines that leave a trace of noise, as theirs")
    parts.times("audio.thousandths", f"{here}:Thousandths", "draw: whole thousandths, as they were trained")
    parts.times("audio.float32_grid", f"{here}:Float32Grid", "grid: equal steps rounded to float32, as theirs")
    parts.layout(
        "audio.lumina_music", "lumina_audio.published.music:LuminaMusicFolder", "Lumina-T2Music, Lumina-T2Audio"
    )


@hookimpl
def lumina_register_recipes(recipes: Recipes) -> None:
    """Trainable as they are, with what the package ships."""
    recipes.add(
        "audio.instruments", "lumina_audio:recipes/instruments.yaml", "the built-in model: instruments from words"
    )
    recipes.add(
        "audio.instruments_words",
        "lumina_audio:recipes/instruments_words.yaml",
        "its words: what they sound like, coarsely",
    )
    recipes.add(
        "audio.instruments_vae", "lumina_audio:recipes/instruments_vae.yaml", "its autoencoder: spectrograms to latents"
    )
    recipes.add(
        "audio.instruments_vocoder", "lumina_audio:recipes/instruments_vocoder.yaml", "its vocoder: latents to sound"
    )
    recipes.add("audio.tiny", "lumina_audio:recipes/tiny.yaml", "a very small model that trains in a minute on a CPU")
    recipes.add("audio.music", "lumina_audio:recipes/music.yaml", "Lumina-T2Music's sizes, as released")
    recipes.add("audio.effects", "lumina_audio:recipes/effects.yaml", "Lumina-T2Audio's sizes, as released")
    recipes.add("audio.base", "lumina_audio:recipes/base.yaml", "the paper's Next-DiT for sound, with its two encoders")


@hookimpl
def lumina_register_commands(commands: Commands) -> None:
    """To look at any sound."""
    commands.add(
        "spectrogram", "lumina_audio.spectrogram_command:spectrogram", "Draw a picture of a sound: pitch over time."
    )


@hookimpl
def lumina_register_models(models: Models) -> None:
    """Trained here, shipped in the package."""
    models.add(
        "audio.instruments",
        "lumina_audio:models/instruments",
        "instruments from words, two seconds at 16 kHz",
        task="audio.text_to_audio",
    )
