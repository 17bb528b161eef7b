"""Errors that a user can cause and correct, and the suggestion of the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib import metadata


class LuminaError(Exception):
    """Base class of all errors that a user can correct: `<setting>: got <value>, expected <what>. <How to fix it.>`"""


class ReportedError(LuminaError):
    """An error that another process of a training reports; the command line prints nothing."""


class ConfigError(LuminaError):
    """A recipe, a request or an option has an unknown key or an invalid value."""


class PluginError(LuminaError):
    """A component is unknown, or its plugin is not installed or broken."""


class ShapeError(LuminaError):
    """A tensor or a size has a shape that a component cannot process."""


class CheckpointError(LuminaError):
    """A model folder or a file of weights is missing, incomplete, of another format, or does not fit its recipe."""


class UnusableError(LuminaError):
    """One item of a data set (a file, a line, a member of a shard) cannot be used."""


_SYNONYMS: dict[str, str] = {
    "steps": "num_inference_steps sampling_steps num_steps max_steps max_train_steps train_steps n_steps iterations "
    "iters epochs num_epochs num_train_epochs max_train_epochs",
    "guidance_scale": "guidance cfg cfg_scale guidance_strength scale unconditional_guidance_scale",
    "negative_prompt": "negative neg_prompt uncond_prompt",
    "prompt": "text caption txt",
    "prompts": "prompt_file prompts_file from_file",
    "size": "width height resolution res dimensions shape",
    "image_size": "side width height resolution res img_size input_size size",
    "count": "num_images num_images_per_prompt n_samples num_samples batch_size images batch n_iter number",
    "global_batch_size": "batch_size batch bs train_batch_size per_device_train_batch_size",
    "solver": "sampler scheduler ode_solver method",
    "schedule": "timesteps sigmas noise_schedule schedule_type",
    "init_image": "image init input source_image init_img img2img reference_image",
    "init_audio": "audio sound init input source_audio wav",
    "mask": "mask_image inpaint_mask",
    "strength": "denoising_strength denoise image_strength",
    "out": "output output_dir output_path outdir out_dir save save_path outfile",
    "duration": "length seconds audio_length_in_s audio_end_in_s",
    "model": "checkpoint ckpt ckpt_path pretrained pretrained_model_name_or_path model_path weights",
    "dtype": "torch_dtype precision half fp16 bf16",
    "mixed_precision": "precision dtype amp",
    "device": "cuda gpu",
    "lr": "learning_rate rate base_lr blr unet_lr",
    "max_norm": "max_grad_norm clip_grad grad_clip gradient_clip_val gradient_clipping",
    "ema_decay": "ema ema_rate model_ema_decay",
    "warmup_steps": "warmup lr_warmup_steps warmup_epochs",
    "lr_decay": "lr_scheduler lr_scheduler_type sched scheduler",
    "optimizer": "opt optim optimizer_type",
    "checkpoint_interval": "save_every save_steps save_interval save_every_n_steps checkpointing_steps ckpt_every",
    "sample_interval": "sample_every sample_every_n_steps validation_steps eval_steps",
    "sample_requests": "samples validation_prompts validation_prompt sample_prompts",
    "num_workers": "workers dataloader_num_workers max_data_loader_n_workers",
    "gradient_accumulation_steps": "accumulation grad_accum accumulate_grad_batches gradient_accumulation",
    "cond_dropout": "dropout caption_dropout caption_dropout_rate class_dropout_prob unconditional_prob",
    "keep_latest_k": "save_total_limit checkpoints_total_limit keep",
    "num_layers": "depth layers n_layers num_hidden_layers",
    "hidden_size": "width dim embed_dim hidden_dim d_model",
    "num_heads": "heads n_heads num_attention_heads",
    "num_classes": "classes num_class",
    "patch_size": "patch",
    "folder": "data data_dir data_path dataset_path train_data_dir image_dir root path",
    "table": "manifest csv metadata",
    "caption_column": "text_column caption_key",
    "type": "use class_name target",
    "resume": "resume_from_checkpoint",
    "init": "init_from finetune pretrained",
    "sample_rate": "sampling_rate sr",
}
"""Words of diffusers, timm, kohya-ss and other programs by our name; a word may stand for several of our names."""


def suggest(word: str, names: Iterable[str], cutoff: float = 0.66) -> str:
    """Return the end of an error message with the name that was probably meant, empty if none is near.

    A name that other programs have for a setting (`_SYNONYMS`) counts before similar letters.

    Args:
        word: the unknown word.
        names: the known names.
        cutoff: least similarity, 0 to 1 (equal), as `difflib` measures it.
    """
    choices = sorted(names)
    by_plain_name = {_plain(name): name for name in reversed(choices)}
    plain = _plain(word)
    found = by_plain_name.get(plain)
    if found is None:
        meanings = (name for name, words in _SYNONYMS.items() if plain in words.split())
        found = next((by_plain_name[name] for name in meanings if name in by_plain_name), None)
    if found is None:
        found = next(iter(difflib.get_close_matches(word, choices, n=1, cutoff=cutoff)), None)
    return f"; did you mean '{found}'?" if found else ""


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()


def install_command(extra: str) -> str:
    """Return the command that installs what an extra of a package needs: `pip install 'peft>=0.17'`.

    It names the packages of others, so that it works with a clone of this project and without its publication.

    Args:
        extra: package and extra, `lumina-core[lora]`.
    """
    package, _, name = extra.removesuffix("]").partition("[")
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        lines = []
    marker = re.compile(rf"extra\s*==\s*['\"]{re.escape(name)}['\"]")
    needed = [line.partition(";")[0].strip() for line in lines if marker.search(line)]
    if not needed:
        return f"pip install -e 'packages/{extra}' (in a clone of the project)"
    return f"pip install {' '.join(repr(requirement) for requirement in needed)}"


def printable(text: str) -> str:
    """Return a text for one line of a terminal: control characters are escaped, bytes that are no UTF-8 replaced.

    Names of files, configs and plugins can hold any character, also a line break or the color code of a terminal.
    """
    escaped = re.sub(
        "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]",
        lambda match: match[0].encode("unicode_escape").decode("ascii"),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", escaped)


def replace_surrogates(text: str) -> str:
    """Replace surrogates without a partner, which UTF-8 cannot encode: halves of emoji, and bytes that are no UTF-8."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
