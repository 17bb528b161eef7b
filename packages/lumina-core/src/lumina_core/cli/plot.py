"""`lumina plot`: the metrics of trainings as an image."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(epilog="Example:  lumina plot runs/emoji runs/other --out both.png")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="PNG file to write.  [default: metrics.png in RUN]"
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --out if it exists.  [default: off]")
@click.option("--window", type=click.IntRange(min=1), metavar="N", help="Steps averaged.  [default: a fiftieth of all]")
def plot(runs: tuple[Path, ...], out: Path | None, overwrite: bool, window: int | None) -> None:
    """Plot loss, gradient norm, learning rate and throughput of RUN, the folder of a training.

    Several runs are drawn in one plot. It also works while a training runs. Needs lumina-core[plot].
    """
    from lumina_core.cli.generate import output_paths
    from lumina_core.training.plot import plot_runs, read_metrics

    read_metrics(runs[0])  # a folder that is no run is named before a file is
    folder = runs[0].parent if runs[0].is_file() else runs[0]
    (path,) = output_paths(out or folder / "metrics.png", 1, False, (".png",), overwrite=overwrite or out is None)
    plot_runs(runs, path, window)
    click.echo(str(path))
