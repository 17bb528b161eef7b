"""lumina convert: convert a model folder to another checkpoint format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lumina_core.adapters.source import find_file, is_lora
from lumina_core.cli.console import echo_json, progress_bar
from lumina_core.errors import ConfigError, printable
from lumina_core.io import user_path

DTYPES = ("float32", "bfloat16", "float16")


@click.command(epilog="Example:  lumina convert downloads/Lumina-Next-SFT models/next --dtype bfloat16")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--format", metavar="NAME", help="Checkpoint format to write.  [default: lumina, unless SRC has it]")
@click.option("--base", metavar="MODEL", help="Of a LoRA: its model, folder or name.  [default: as the LoRA says]")
@click.option("--dtype", type=click.Choice(DTYPES), help="Dtype of the weights.  [default: as stored]")
@click.option("--bundle", is_flag=True, help="Copy pretrained folders (text encoder, autoencoder) into DST.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Recipe key to change; can be repeated.")
@click.option(
    "--max-shard-size", type=click.IntRange(min=1), default=5000, metavar="MB", help="Largest file.  [default: 5000]"
)
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
def convert(source: str, destination: Path, **options: Any) -> None:
    """Convert the model SRC (a folder or a name) to the format of this project, or to another --format.

    `lumina plugins` lists the formats. DST is written completely or not at all.

    SRC may be a LoRA, a .safetensors file or a folder of peft: --format is then peft (the default), kohya, comfyui or
    diffusers.
    """
    from lumina_core.locate import check_destination, check_model, find_model
    from lumina_core.plugins.loader import load_plugins

    registry, base, destination = load_plugins(), options.pop("base"), user_path(destination)
    check_model(base)
    if is_lora(user_path(source)):
        find_file(user_path(source))
        check_destination(user_path(source), destination, options["overwrite"])
        _convert_lora(user_path(source), destination, base, options)
        return
    if base is not None:
        raise ConfigError(f"--base: got {base} for the model {source}, expected a LoRA. Remove the option.")
    with find_model(source, registry) as folder:
        check_destination(folder, destination, options["overwrite"])
        _convert_model(folder, destination, options)


def _convert_model(source: Path, destination: Path, options: dict[str, Any]) -> None:
    import torch

    from lumina_core.convert import ConvertOptions, execute, plan_conversion
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.pretrained import pretrained_files

    dtypes = {name: getattr(torch, name) for name in DTYPES}
    convert_options = ConvertOptions(
        options["format"], dtypes.get(options["dtype"]), options["overrides"], options["bundle"]
    )
    plan = plan_conversion(source, load_plugins(), convert_options)
    export_plan, dry_run = plan.export_plan, options["dry_run"]
    for note in export_plan.notes:
        click.echo(printable(f"Note: {note}"), err=True)
    if not dry_run:
        with progress_bar("converting", plan.num_bytes, in_bytes=True) as advance:
            execute(plan, destination, options["max_shard_size"] * 10**6, advance)
    copied = [
        f"{name}/{file.as_posix()}" for name, path in export_plan.folders.items() for file in pretrained_files(path)
    ]
    files = sorted([*export_plan.files, *(f"{name}.safetensors" for name in export_plan.weights)])
    if options["as_json"]:
        content = {
            "from": plan.source_format,
            "to": plan.target_format,
            "tensors": plan.num_tensors,
            "bytes": plan.num_bytes,
            "files": files,
            "copied": copied,
            "folders": {name: str(folder) for name, folder in export_plan.folders.items()},
            "written": None if dry_run else str(destination),
            "notes": list(export_plan.notes),
        }
        echo_json(content)
        return
    size = f"{plan.num_tensors} tensors, {plan.num_bytes / 1e6:,.1f} MB"
    click.echo(f"{plan.source_format} -> {plan.target_format}: {size}")
    for name in [*files, *copied]:
        click.echo(printable(f"  {name}"))
    click.echo("nothing was written (--dry-run)" if dry_run else f"the model is in {destination}")


def _convert_lora(source: Path, destination: Path, base: str | None, options: dict[str, Any]) -> None:
    from lumina_core.adapters.files import read_lora, stated_base, write_lora
    from lumina_core.model_dir import load_model
    from lumina_core.plugins.loader import load_plugins

    for name in ("dtype", "bundle", "overrides"):
        if options[name]:
            option = "set" if name == "overrides" else name
            raise ConfigError(f"--{option}: got it for the LoRA {source}, expected a model. Remove the option.")
    registry = load_plugins()
    base = base or stated_base(source)
    if not base:
        raise ConfigError(f"--base: got none, and {source} names no model. Give the model that the LoRA is for.")
    model = load_model(base, registry)
    lora = read_lora(source, model, registry)
    file_format, dry_run = options["format"] or "peft", options["dry_run"]
    if not dry_run:
        write_lora(lora, destination, model, registry, file_format)
    if options["as_json"]:
        content = {"to": file_format, "base": base, "layers": len(lora.layers)}
        content["written"] = None if dry_run else str(destination)
        echo_json(content)
        return
    click.echo(printable(f"a LoRA of {len(lora.layers)} layers of {base} -> {file_format}"))
    click.echo("nothing was written (--dry-run)" if dry_run else f"the LoRA is in {destination}")
