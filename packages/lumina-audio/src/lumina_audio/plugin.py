"""Registration of lumina-audio. `lumina --help` imports it, so it imports nothing heavy."""

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
    """Register the component type `vocoder`."""
    component_types.add(
        "vocoder",
        "lumina_audio.vocoders.protocol:Vocoder",
        "lumina_audio.vocoders.contract_check:check_vocoder",
        "mel spectrogram -> waveform",
    )


@hookimpl
def lumina_register_components(components: ComponentRegistrations) -> None:
    """Register task, models, data sets and metrics."""
    package = "lumina_audio"
    components.task("audio.text_to_audio", f"{package}.task:TextToAudio", "Sounds of a prompt.", command="audio")
    components.tokenizer(
        "audio.patchify",
        "lumina_core.tokenizers:Patchify1D",
        "patches of consecutive frames",
        defaults={"patch_size": 1, "channels": 20},
    )

    module = f"{package}.autoencoders"
    components.autoencoder("audio.mel", f"{module}.mel_autoencoder:MelAutoencoder", "mel spectrogram, VAE and vocoder")
    components.autoencoder(
        "audio.mel_latent", f"{module}.mel_latent:MelSpectrogramLatent", "mel spectrogram as the latent, and vocoder"
    )

    module = f"{package}.vocoders"
    components.vocoder("audio.bigvgan", f"{module}.bigvgan:BigVGAN", "generator of BigVGAN, also of published folders")
    components.vocoder("audio.griffin_lim", f"{module}.griffin_lim:GriffinLim", "phase reconstruction without weights")
    components.vocoder(
        "audio.sines_and_noise",
        f"{module}.sines_and_noise:SinesAndNoise",
        "sines with integrated phases and noise: in tune, and fast on a CPU",
    )
    components.vocoder("audio.vocos", f"{module}.vocos:Vocos", "ConvNeXt blocks and one inverse STFT: fast on a CPU")

    module = f"{package}.text"
    components.conditioner("audio.clap_text", f"{module}.clap:ClapTextEncoder", "text tower of CLAP, token by token")
    components.conditioner("audio.dual_text", f"{module}.dual_encoder:DualTextEncoder", "contexts of two text encoders")

    module = f"{package}.datasets"
    components.dataset("audio.folder", f"{module}.audio_dataset:FolderDataset", "folder of audio files with captions")
    components.dataset("audio.tar", f"{module}.audio_dataset:TarDataset", "tar files of WebDataset")
    components.dataset("audio.table", f"{module}.table_dataset:TableDataset", "csv, tsv or jsonl: AudioCaps, MusicCaps")
    components.dataset("audio.effects", f"{module}.effects:EffectsDataset", "built in: sound effects with captions")
    components.dataset(
        "audio.instruments",
        f"{module}.instruments.dataset:InstrumentsDataset",
        "built in: General MIDI instruments with captions",
    )

    module = f"{package}.metrics"
    for name, target, summary in (
        ("log_mel", "features:LogMelStatistics", "mean and deviation of log-mel bands"),
        ("log_mel_frames", "features:LogMelFrames", "mean log-mel spectra of time segments"),
        ("efficientnet_lite0", "features:MelEfficientNetLite0", "log-mel spectrogram as an image"),
        ("instrument_classifier", "instruments:InstrumentClassifierFeatures", "classifier of General MIDI programs"),
        ("pitch", "pitch:PitchFeatures", "pitch by SWIPE'"),
        ("yin", "tuning:YinFeatures", "pitch by YIN"),
        ("vggish", "published_networks:VGGishFeatures", "network of the FAD, from a file"),
        ("panns", "published_networks:PannsFeatures", "classifier of AudioSet, from a file"),
        ("clap", "clap:ClapFeatures", "audio and texts in one space"),
    ):
        components.feature_extractor(f"audio.{name}", f"{module}.{target}", summary)
    network = {"feature_extractor": {"type": "audio.efficientnet_lite0"}}
    for name, target, summary in (
        ("frechet", "FrechetDistance", "Frechet distance (FD, or FAD)"),
        ("kernel", "KernelDistance", "kernel distance (KD)"),
        ("precision_recall", "PrecisionRecall", "precision and recall"),
    ):
        components.metric(f"audio.{name}", f"lumina_core.metrics.distribution:{target}", summary, defaults=network)
    components.metric(
        "audio.clap_score",
        "lumina_core.metrics.dual_encoder:TextSimilarity",
        "cosine of audio and caption",
        defaults={"feature_extractor": {"type": "audio.clap"}},
    )
    components.metric("audio.class_kl", f"{module}.instruments:ClassKL", "divergence of class probabilities")
    components.metric("audio.instrument_retrieval", f"{module}.instruments:InstrumentRetrieval", "nearest real clip")
    components.metric(
        "audio.spectral_retrieval",
        f"{module}.instruments:InstrumentRetrieval",
        "same, without a network",
        defaults={"feature_extractor": {"type": "audio.log_mel_frames"}},
    )
    components.metric("audio.pitch", f"{module}.pitch:PitchAccuracy", "pitch compared with the prompt")

    # what differs in the released models Lumina-T2Music and Lumina-T2Audio
    module = f"{package}.formats.components"
    components.backbone("audio.flag_dit", f"{module}:DiscreteTimeFlagDiT", "Flag-DiT of the released audio models")
    components.path("audio.cfm_path", f"{module}:CFMPath", "linear path that ends with noise of sigma_min")
    components.time_sampler(
        "audio.discrete_times", f"{module}:DiscreteTimeSampler", "times that are multiples of 0.001"
    )
    components.schedule("audio.float32_schedule", f"{module}:Float32Schedule", "equal steps rounded to float32")
    components.checkpoint_format(
        "audio.lumina_music", f"{package}.formats.lumina_music:LuminaMusicFormat", "Lumina-T2Music, Lumina-T2Audio"
    )


@hookimpl
def lumina_register_recipes(recipes: RecipeRegistrations) -> None:
    """Register the recipes of the package."""
    for name, summary in {
        "instruments": "built-in model: instruments from prompts",
        "instruments_words": "text encoder of the built-in model",
        "instruments_vae": "autoencoder of the built-in model",
        "instruments_vocoder": "vocoder of the built-in model",
        "tiny": "very small model that trains in a minute on a CPU",
        "lora": "LoRA of the sounds in a folder",
        "sounds": "model of the sounds in a folder, started from the built-in one",
        "music": "Lumina-T2Music in its released size",
        "effects": "Lumina-T2Audio in its released size",
        "base": "Next-DiT for audio of the paper, with two text encoders",
    }.items():
        recipes.add(f"audio.{name}", f"lumina_audio:recipes/{name}.yaml", summary)


@hookimpl
def lumina_register_commands(commands: CommandRegistrations) -> None:
    """Register the command `lumina spectrogram`."""
    commands.add("spectrogram", "lumina_audio.plot:spectrogram", "Plot the spectrogram of an audio file.")


@hookimpl
def lumina_register_models(models: ModelRegistrations) -> None:
    """Register the built-in model."""
    models.add(
        "audio.instruments",
        "lumina_audio:models/instruments",
        "instruments from prompts, two seconds at 16 kHz",
        task="audio.text_to_audio",
    )
