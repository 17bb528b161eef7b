"""`lumina train` and `lumina check`: training of a recipe, and a dry run of it."""

from __future__ import annotations

from pathlib import Path

import click

from lumina_core.errors import printable

SET_OPTION = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Setting of the recipe, training.steps=2000; repeatable.",
)


@click.command(epilog="Example:  lumina train image.emoji --out runs/emoji --set training.steps=2000")
@click.argument("recipe")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of checkpoints, metrics.csv, samples and the trained model.",
)
@SET_OPTION
@click.option(
    "--resume", is_flag=True, help="Continue from the latest checkpoint in --out; the recipe must be the same."
)
@click.option(
    "--auto-resume",
    is_flag=True,
    help="As --resume, but begin if --out has no checkpoint: for jobs that are restarted.",
)
@click.option(
    "--init",
    multiple=True,
    metavar="MODEL",
    help="Model to copy weights from by name and shape, a folder or a name; repeatable, the last one wins. "
    "Of an adapter: the model that it is trained on.",
)
@click.option("--device", help="Device: cpu, cuda, cuda:1, mps.  [default: the best one available]")
@click.option(
    "--track",
    type=click.Choice(("wandb", "trackio")),
    multiple=True,
    help="Log the metrics there too; they are always in metrics.csv and TensorBoard. Repeatable.",
)
@click.option(
    "--profile", type=click.IntRange(min=1), metavar="STEPS", help="Profile so many steps, after the first three."
)
@click.option("--quiet", is_flag=True, help="No progress bar, and no lines of progress.")
def train(
    recipe: str,
    out: Path,
    settings: tuple[str, ...],
    resume: bool,
    auto_resume: bool,
    init: tuple[str, ...],
    device: str | None,
    track: tuple[str, ...],
    profile: int | None,
    quiet: bool,
) -> None:
    """Train RECIPE: the name of an installed recipe (see `lumina models`) or a YAML file.

    Several processes: torchrun --nproc-per-node 2 -m lumina_core train RECIPE --out DIR
    """
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.recipe import Recipe
    from lumina_core.training.callbacks import ProgressBar, print_line
    from lumina_core.training.tracking import ProfileCallback, TrackerCallback
    from lumina_core.training.trainer import Trainer

    registry = load_plugins()
    callbacks = [
        *([] if quiet else [ProgressBar()]),
        *map(TrackerCallback, track),
        *([] if profile is None else [ProfileCallback(profile)]),
    ]
    trainer = Trainer(
        Recipe.load(recipe, settings, registry),
        out,
        None,
        callbacks,
        device,
        "auto" if auto_resume else resume,
        init,
        registry=registry,
    )
    for message in trainer.messages if trainer.process.is_main else ():
        print_line(message)
    model_dir = trainer.train()
    if trainer.process.is_main:
        print_line(f"the {'model' if trainer.recipe.training.adapter is None else 'adapter'} is in {model_dir}")


@click.command(epilog="Example:  lumina check image.emoji --set backbone.hidden_size=384")
@click.argument("recipe")
@SET_OPTION
def check(recipe: str, settings: tuple[str, ...]) -> None:
    """Check RECIPE without training: components, shapes, parameter counts, memory, one step."""
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.recipe import Recipe
    from lumina_core.training.dry_run import dry_run

    registry = load_plugins()
    report = dry_run(Recipe.load(recipe, settings, registry), registry)
    for component_type, name in report.components:
        click.echo(printable(f"{component_type:12} {name}"))
    for name, count in report.parameters.items():
        click.echo(printable(f"{name:24} {count:>13,} parameters"))
    click.echo(f"{'trained':24} {report.trainable_parameters:>13,}")
    for line in report.truncation_notes:
        click.echo(printable(f"Note: {line}"), err=True)
    click.echo(f"examples {report.examples}, each {report.data_shape} -> tokens {report.token_shape}")
    click.echo(
        f"memory about {report.memory_bytes / 2**30:.2f} GiB; "
        f"one step of a small batch: loss {report.loss:.4f}, {report.step_seconds:.2f} s"
    )
