"""Commands `lumina cameras` and `lumina render`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lumina_core.errors import ConfigError
from lumina_core.io import check_output_file

if TYPE_CHECKING:
    from lumina_3d.views.cameras import Camera

CONVENTIONS = ("opengl", "opencv", "colmap", "zero123")


@click.command(epilog="Example:  lumina cameras --views 8 --elevation 20 --out cameras.json --draw cameras.png")
@click.option("--views", type=click.IntRange(1, 4096), default=8, help="Number of cameras.  [default: 8]")
@click.option("--elevation", type=float, default=20.0, help="Elevation in degrees.  [default: 20]")
@click.option("--start", type=float, default=0.0, help="Azimuth of the first camera in degrees.  [default: 0]")
@click.option("--fov", type=float, default=40.0, help="Vertical field of view in degrees.  [default: 40]")
@click.option("--radius", type=float, default=None, help="Distance to the centre.  [default: by the FOV]")
@click.option(
    "--size", type=click.IntRange(1, 65536), default=64, help="Side of the pictures in pixels.  [default: 64]"
)
@click.option("--read", "source", type=click.Path(path_type=Path), help="transforms.json to read instead of an orbit.")
@click.option(
    "--convention", type=click.Choice(("opengl", "opencv")), default="opengl", help="Of --read.  [default: opengl]"
)
@click.option(
    "--to", "target", type=click.Choice(CONVENTIONS), default="opengl", help="Of the output.  [default: opengl]"
)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write: transforms.json, or --to's matrices.")
@click.option("--draw", type=click.Path(path_type=Path), help="PNG file to draw the cameras to, from above and aside.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.  [default: off]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cameras(
    views: int,
    elevation: float,
    start: float,
    fov: float,
    radius: float | None,
    size: int,
    source: Path | None,
    convention: str,
    target: str,
    out: Path | None,
    draw: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show the cameras of an orbit or of a file, and the convention; convert and draw them."""
    from lumina_3d.views.cameras import CONVENTION, orbit
    from lumina_3d.views.drawing import draw_cameras
    from lumina_3d.views.scenes import radius_for
    from lumina_3d.views.transforms import read_transforms
    from lumina_core.io import atomic_file

    for name in ("convention",) if source is None else ("views", "elevation", "start", "fov", "radius"):
        if _is_given(name):
            where = "without --read" if source is None else "with --read"
            raise ConfigError(f"--{name}: got it {where}, where it has no effect. Leave it out.")
    for path, suffix, option in ((out, ".json", "--out"), (draw, ".png", "--draw")):
        if path is not None:
            check_output_file(path, suffix, option, overwrite)
    if not 0 < fov < 180:
        raise ConfigError(f"--fov: got {fov:g}, expected degrees between 0 and 180")
    listed = (
        orbit(views, elevation, radius_for(fov) if radius is None else radius, fov, start)
        if source is None
        else read_transforms(source, convention)
    )
    content = _converted(listed, target, size)
    drawn = None if draw is None else draw_cameras(listed)
    if out is not None:
        with atomic_file(out) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    if drawn is not None and draw is not None:
        with atomic_file(draw) as partial:
            drawn.save(partial, format="PNG")
    if as_json:
        click.echo(json.dumps({"convention": CONVENTION, target: content}))
        return
    click.echo(CONVENTION)
    click.echo(f"{'view':>4} {'azimuth':>8} {'elevation':>9} {'radius':>7} {'fov':>6}   position")
    for index, camera in enumerate(listed):
        x, y, z = camera.position
        click.echo(
            f"{index:>4} {camera.azimuth:>8.2f} {camera.elevation:>9.2f} {camera.radius:>7.3f} {camera.fov:>6.2f}   "
            f"{x:.3f} {y:.3f} {z:.3f}"
        )
    click.echo("".join(f"{path}\n" for path in (out, draw) if path is not None), nl=False)


def _is_given(option: str) -> bool:
    """Return whether the command line gives an option."""
    return click.get_current_context().get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def _converted(cameras: Sequence[Camera], target: str, size: int) -> dict[str, Any]:
    """Return transforms.json, or the cameras in another convention."""
    from lumina_3d.views.cameras import intrinsics, to_colmap, to_opencv, to_zero123
    from lumina_3d.views.transforms import transforms_json

    if target == "opengl":
        return transforms_json(cameras, size)
    if target == "zero123":
        angles = [to_zero123(camera, cameras[0]) for camera in cameras]
        return {"relative to": "view 0", "polar, azimuth (radians), radius": [list(row) for row in angles]}
    matrices = [intrinsics(camera, size, size).tolist() for camera in cameras]
    if target == "opencv":
        return {"world_to_camera": [to_opencv(camera).tolist() for camera in cameras], "intrinsics": matrices}
    poses = [to_colmap(camera) for camera in cameras]
    return {"images": [{"qvec": list(q), "tvec": list(t)} for q, t in poses], "intrinsics": matrices}


@click.command(epilog="Example:  lumina render chair.obj table.glb --views 16 --size 256 --out shards")
@click.argument("meshes", nargs=-1, type=click.Path(path_type=Path))
@click.option("--family", "families", multiple=True, metavar="NAME", help="Parametric family, or all; repeatable.")
@click.option("--objects", type=click.IntRange(1), default=10, help="Shapes of each family.  [default: 10]")
@click.option("--views", type=click.IntRange(1, 1024), default=16, help="Pictures of an object.  [default: 16]")
@click.option("--size", type=click.IntRange(8, 4096), default=64, help="Side of a picture in pixels.  [default: 64]")
@click.option("--samples", type=click.IntRange(1, 8), default=2, help="Rays per pixel and axis.  [default: 2]")
@click.option("--random/--orbit", "is_random", default=True, help="Random cameras, or an orbit.  [default: random]")
@click.option("--elevation", type=float, default=20.0, help="Elevation of --orbit in degrees.  [default: 20]")
@click.option("--depth", is_flag=True, help="Store depth and normals too.  [default: off]")
@click.option("--per-shard", type=click.IntRange(1), default=256, help="Objects per tar file.  [default: 256]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of shapes and cameras.  [default: 0]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write tar files to.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def render(
    meshes: tuple[Path, ...],
    families: tuple[str, ...],
    objects: int,
    views: int,
    size: int,
    samples: int,
    is_random: bool,
    elevation: float,
    depth: bool,
    per_shard: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Render MESHES (files, or folders of them) or parametric families to tar files, with cameras and captions.

    The data set 3d.stored_views reads them. A mesh is centred, its longest side scaled to 1. A file chair.txt beside
    chair.obj holds its caption; without one it is the file's name.
    """
    from lumina_3d.views.builder import build_shards

    for name, is_used, other in (("elevation", not is_random, "--orbit"), ("objects", bool(families), "--family")):
        if not is_used and _is_given(name):
            raise ConfigError(f"--{name}: got it without {other}, where it has no effect. Leave it out.")
    report = build_shards(
        meshes, families, objects, views, size, samples, is_random, elevation, depth, per_shard, seed, out
    )
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, reason in report["skipped"].items():
        click.echo(f"skipped {name}: {reason}", err=True)
    for name, textures in report["missing_textures"].items():
        click.echo(f"{name}: the files {', '.join(textures)} are missing; it has the colours of its faces", err=True)
    click.echo(
        f"{report['objects']} objects, {report['pictures']} pictures in {len(report['shards'])} tar files: {out}"
    )
