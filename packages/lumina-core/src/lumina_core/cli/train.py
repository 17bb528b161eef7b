"""lumina train and lumina check: a recipe to a model, and its dry run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(epilog="Example:  lumina train image.emoji --out runs/emoji --set training.steps=2000")
@click.argument("recipe")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run: checkpoints, log, samples."
)
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=C", help="Change one key of the recipe; can be repeated."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out, with the same numbers.")
@click.option(
    "--init",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Begin from the weights of another model; of several, one after another.",
)
@click.option("--device", help="cpu, cuda, mps ...  [default: the best there is]")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(
    recipe: str,
    out: Path,
    settings: tuple[str, ...],
    resume: bool,
    init: tuple[Path, ...],
    device: str | None,
    quiet: bool,
) -> None:
    """Train RECIPE: the name of an installed one (see `lumina models`) or a YAML file.

    Several processes: torchrun --nproc-per-node 2 -m lumina_core train RECIPE --out DIR
    """
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.recipe import Recipe
    from lumina_core.training.trainer import TrainArgs
    from lumina_core.training.trainer import train as run

    registry = load_plugins()
    finished = run(Recipe.load(recipe, settings), registry, TrainArgs(out, resume, init, device, quiet))
    click.echo(f"the model is in {finished}")


@click.command(epilog="Example:  lumina check image.emoji --set backbone.hidden_size=384")
@click.argument("recipe")
@click.option(
    "--set", "settings", multiple=True, metavar="A.B=C", help="Change one key of the recipe; can be repeated."
)
def check(recipe: str, settings: tuple[str, ...]) -> None:
    """Try RECIPE without training: parts, shapes, parameter counts, memory, one batch through."""
    from lumina_core.plugins.loader import load_plugins
    from lumina_core.recipe import Recipe
    from lumina_core.training.dry_run import dry_run

    registry = load_plugins()
    report = dry_run(Recipe.load(recipe, settings), registry)
    for component_type, name in report.components:
        click.echo(f"{component_type:12} {name}")
    for name, count in report.parameters.items():
        click.echo(f"{name:24} {count:>13,} parameters")
    click.echo(f"{'trained':24} {report.trainable_parameters:>13,}")
    for line in report.truncation_notes:
        click.echo(f"Note: {line}", err=True)
    click.echo(f"examples {report.examples}, each {report.data_shape} -> tokens {report.token_shape}")
    click.echo(
        f"memory about {report.memory_bytes / 2**30:.2f} GiB; "
        f"one small batch: loss {report.loss:.4f}, {report.step_seconds:.2f} s"
    )
