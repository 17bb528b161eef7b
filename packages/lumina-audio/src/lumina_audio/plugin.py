"""What lumina-audio brings. Imported at every start: keep it light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_core import hookimpl

if TYPE_CHECKING:
    from lumina_core.plugins.registry import (
        CommandRegistrations,
        ComponentRegistrations,
        ComponentTypeRegistrations,
        ModelRegistrations,
        RecipeRegistrations,
    )


@hookimpl
def lumina_register_component_types(component_types: ComponentTypeRegistrations) -> None:
    """A kind of our own: what turns a spectrogram into sound."""
    component_types.add(
        "vocoder",
        "lumina_audio.vocoders.protocol:Vocoder",
        "lumina_audio.vocoders.contract_check:check_vocoder",
        "mel spectrogram -> waveform",
    )


@hookimpl
def lumina_register_components(components: ComponentRegistrations) -> None:
    """The parts for sound."""
    components.feature_extractor(
        "audio.log_mel", "lumina_audio.metrics.mel_features:LogMelStatistics", "mean and deviation of each log-mel band"
    )
    components.feature_extractor(
        "audio.log_mel_frames", "lumina_audio.metrics.mel_features:LogMelFrames", "the log-mel in spans of time"
    )
    components.feature_extractor(
        "audio.efficientnet_lite0", "lumina_audio.metrics.mel_features:MelEfficientNetLite0", "log-mel as a picture"
    )
    components.feature_extractor(
        "audio.instrument_classifier",
        "lumina_audio.metrics.instrument_classifier:InstrumentClassifierFeatures",
        "names instruments, trained here",
    )
    components.feature_extractor(
        "audio.pitch", "lumina_audio.metrics.pitch:PitchFeatures", "how high a sound is, no network"
    )
    components.feature_extractor(
        "audio.vggish", "lumina_audio.metrics.vggish:VGGishFeatures", "the network of FAD, from a file"
    )
    components.feature_extractor(
        "audio.panns", "lumina_audio.metrics.panns:PannsFeatures", "the sounds of AudioSet, from a file"
    )
    components.feature_extractor(
        "audio.clap", "lumina_audio.metrics.clap:ClapFeatures", "sounds and texts in one space, from a folder"
    )
    components.metric(
        "audio.instrument_retrieval",
        "lumina_audio.metrics.instrument_retrieval:InstrumentRetrieval",
        "is the nearest of its kind",
    )
    components.metric(
        "audio.spectral_retrieval",
        "lumina_audio.metrics.instrument_retrieval:SpectralRetrieval",
        "the same without a network",
    )
    components.metric("audio.pitch", "lumina_audio.metrics.pitch:PitchAccuracy", "is it as high as the prompt says")
    components.metric(
        "audio.frechet",
        "lumina_audio.metrics.distribution:FrechetDistance",
        "Frechet distance of features (FD, or FAD)",
    )
    components.metric(
        "audio.kernel", "lumina_audio.metrics.distribution:KernelDistance", "kernel distance of features (KD)"
    )
    components.metric(
        "audio.precision_recall", "lumina_audio.metrics.distribution:PrecisionRecall", "k-nearest-neighbour manifolds"
    )
    components.metric("audio.class_kl", "lumina_audio.metrics.class_kl:ClassKL", "KL of a classifier")
    components.metric("audio.clap_score", "lumina_audio.metrics.clap:ClapScore", "sound and caption by CLAP")
    components.conditioner(
        "audio.clap_text", "lumina_audio.text.clap:ClapTextEncoder", "CLAP's text tower, piece by piece"
    )
    components.conditioner(
        "audio.dual_text", "lumina_audio.text.dual_encoder:DualTextEncoder", "two encoders, one memory"
    )
    components.tokenizer(
        "audio.patchify", "lumina_audio.tokenizer:FramePatchify", "frames of a spectrogram, at (time, 0, 0)"
    )
    components.autoencoder(
        "audio.mel", "lumina_audio.autoencoders.mel_autoencoder:MelAutoencoder", "spectrograms in 1-D latents, vocoded"
    )
    components.dataset(
        "audio.effects", "lumina_audio.datasets.effects:EffectsDataset", "built in: named noises and drums"
    )
    components.dataset("audio.folder", "lumina_audio.datasets.folder:FolderDataset", "a folder of sounds with captions")
    components.autoencoder(
        "audio.mel_latent",
        "lumina_audio.autoencoders.mel_latent:MelSpectrogramLatent",
        "no latent: the log-mel spectrogram itself",
    )
    components.dataset(
        "audio.instruments",
        "lumina_audio.datasets.instruments.dataset:InstrumentsDataset",
        "built in: General MIDI, with true captions",
    )
    components.dataset(
        "audio.table", "lumina_audio.datasets.table_dataset:TableDataset", "a table, like AudioCaps' and MusicCaps'"
    )
    components.dataset("audio.tar", "lumina_audio.datasets.tar_shards:TarDataset", "tar files as WebDataset packs them")
    components.task("audio.text_to_audio", "lumina_audio.task:TextToAudio", "A sound from a sentence.", command="audio")
    components.vocoder(
        "audio.bigvgan", "lumina_audio.vocoders.bigvgan:BigVGAN", "BigVGAN's generator, published ones too"
    )
    components.vocoder(
        "audio.griffin_lim", "lumina_audio.vocoders.griffin_lim:GriffinLim", "no weights: phases are sought"
    )
    components.vocoder(
        "audio.vocos", "lumina_audio.vocoders.vocos:Vocos", "light: one inverse Fourier transform a frame"
    )
    _register_release_components(components)


def _register_release_components(components: ComponentRegistrations) -> None:
    """What the released sound models (Lumina-T2Music, Lumina-T2Audio) do in a way of their own."""
    module = "lumina_audio.formats.components"
    components.backbone(
        "audio.flag_dit", f"{module}:DiscreteTimeFlagDiT", "Flag-DiT as the released sound models have it"
    )
    components.path("audio.cfm_path", f"{module}:CFMPath", "straight lines that leave a trace of noise, as theirs")
    components.time_sampler(
        "audio.discrete_times", f"{module}:DiscreteTimeSampler", "draw: whole thousandths, as they were trained"
    )
    components.schedule(
        "audio.float32_schedule", f"{module}:Float32Schedule", "grid: equal steps rounded to float32, as theirs"
    )
    components.checkpoint_format(
        "audio.lumina_music", "lumina_audio.formats.lumina_music:LuminaMusicFormat", "Lumina-T2Music, Lumina-T2Audio"
    )


@hookimpl
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
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
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """To look at any sound."""
    commands.add("spectrogram", "lumina_audio.plot:spectrogram", "Plot the spectrogram of an audio file.")


@hookimpl
def lumina_register_models(models: ModelRegistrations) -> None:
    """Trained here, shipped in the package."""
    models.add(
        "audio.instruments",
        "lumina_audio:models/instruments",
        "instruments from words, two seconds at 16 kHz",
        task="audio.text_to_audio",
    )
