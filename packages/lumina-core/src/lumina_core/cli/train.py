"""`lumina train` and `lumina check`: training of a recipe, and a dry run of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from lumina_core.cli.main import torchrun_processes
from lumina_core.errors import printable

if TYPE_CHECKING:
    from lumina_core.plugins.registry import Registry
    from lumina_core.recipe import Recipe
    from lumina_core.training.callbacks import TrainCallback

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
    from lumina_core.io import user_path
    from lumina_core.locate import check_model, check_run_dir
    from lumina_core.plugins.loader import load_plugins

    registry = load_plugins()
    # before torch is imported, which takes seconds
    out = user_path(out)
    resume_mode: bool | Literal["auto"] = "auto" if auto_resume else resume
    if "RANK" not in os.environ:  # other processes of torchrun may write there already
        check_run_dir(out, resume_mode)
    with torchrun_processes(device):
        for model in init:
            check_model(model)
        loaded = _load_recipe(recipe, settings, registry)
        from lumina_core.training.callbacks import ProgressBar, print_line
        from lumina_core.training.trainer import Trainer

        callbacks: list[TrainCallback] = [] if quiet else [ProgressBar()]
        if track or profile is not None:
            from lumina_core.training.tracking import ProfileCallback, TrackerCallback

            callbacks += map(TrackerCallback, track)
            callbacks += [] if profile is None else [ProfileCallback(profile)]
        trainer = Trainer(
            loaded,
            out,
            None,
            callbacks,
            device,
            resume_mode,
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
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compute what N GPUs hold with each kind of parallelism instead; needs no data and no pretrained weights.",
)
@click.option("--memory", default="80GB", show_default=True, metavar="SIZE", help="Memory of a GPU, with --devices.")
def check(recipe: str, settings: tuple[str, ...], devices: int | None, memory: str) -> None:
    """Check RECIPE without training: components, shapes, parameter counts, memory, one step."""
    from lumina_core.plugins.loader import load_plugins

    registry = load_plugins()
    loaded = _load_recipe(recipe, settings, registry, needs_data=devices is None)
    if devices is not None:
        _print_plans(loaded, registry, devices, memory)
        return
    from lumina_core.training.dry_run import dry_run

    report = dry_run(loaded, registry)
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


def _load_recipe(name: str, settings: tuple[str, ...], registry: Registry, needs_data: bool = True) -> Recipe:
    """Load a recipe, and check that the folders of its data exist, without torch."""
    from lumina_core.recipe import Recipe, check_data_dirs

    recipe = Recipe.load(name, settings, registry)
    if needs_data:
        check_data_dirs(recipe)
    return recipe


def _print_plans(recipe: Recipe, registry: Registry, devices: int, memory: str) -> None:
    """Print a table of the memory of each way to train a recipe on some devices, and the way to take."""
    from lumina_core.training.memory import parse_bytes, plan_devices, recommended_plan

    model, plans = plan_devices(recipe, registry, devices, parse_bytes(memory))
    share = max(recipe.training.global_batch_size // devices, 1)
    click.echo(
        f"GB of a device: weights {model.weights / 1e9:.1f}, gradients {model.gradients / 1e9:.1f}, optimizer "
        f"{model.optimizer / 1e9:.1f}, averages {model.ema / 1e9:.1f} in all; {devices} x {memory}"
    )
    click.echo("parallel  recompute  weights  gradients  optimizer  averages  activations (1 item)  most items")
    for plan in plans:
        one = plan.one_item
        cells = (one.weights, one.gradients, one.optimizer, one.ema, one.activations)
        widths = (7, 9, 9, 8, 20)
        columns = "  ".join(f"{value / 1e9:{width}.1f}" for value, width in zip(cells, widths, strict=True))
        most = str(plan.items) if plan.items else "does not fit"
        click.echo(f"{plan.parallel:8}  {'yes' if plan.checkpointing else 'no':9}  {columns}  {most:>10}")
    best = recommended_plan(plans, share)
    if best is None:
        click.echo("nothing fits: take more or larger GPUs, or smaller data")
        return
    items = min(best.items, share)
    steps = -(-share // items)
    recompute = "" if recipe.backbone is None else f"backbone.gradient_checkpointing={str(best.checkpointing).lower()} "
    click.echo(
        f"take: training.parallel={best.parallel} {recompute}training.gradient_accumulation_steps={steps} for "
        f"global_batch_size {recipe.training.global_batch_size}: {items} items in a micro-batch"
    )
    click.echo("Frozen encoders and autoencoders are not counted; the step runs without torch.compile.")
