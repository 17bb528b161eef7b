"""Measure a model of views on held-out shapes of the parametric families: silhouettes, PSNR, sharpness, poses, hulls.

    python benchmarks/views.py --model 3d.views --per-family 1 --out views.json
    python benchmarks/views.py --per-family 3 --more     # also other counts of views, and more given
    python benchmarks/views.py --first 1 --pictures sheets

One picture is given, and views at 45 to 315 degrees from it are compared with true renders, as are copies
of the given picture and the mean picture of the class at the same pose. The regression twin is the model's prediction
of the data from pure noise in one evaluation: noise says nothing, so that what the loss asks for there is the mean of
all views that fit the given picture. Colours are right where the median colour of the first view of a prompt such as
"a red sofa" is nearest to the named one of six. Needs embreex.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lumina_3d.families.captions import full_caption
from lumina_3d.families.shapes import COLORS, FAMILIES, make_shape
from lumina_3d.views.camera_encoding import CameraBatch
from lumina_3d.views.cameras import Camera
from lumina_3d.views.metrics import (
    gradient_energy,
    hull_consistency,
    nearest_render,
    psnr,
    silhouette_iou,
    silhouettes,
)
from lumina_3d.views.request import ViewsRequest
from lumina_3d.views.scenes import held_out_rig, random_rig, render_views, to_views
from lumina_core import Pipeline

STEP = 5
"""Degrees between the true renders among which poses are read back."""
TARGETS = tuple(range(45, 360, 45))
FOUR, SIX, FIFTEEN = (90, 180, 270, 315), (45, 90, 135, 225, 270, 315), tuple(range(20, 320, 20))
REGRESSION = {"steps": 1, "solver": "core.euler", "guidance_scale": 1.0}
COLOR_NAMES, COLORED = ("red", "yellow", "green", "blue", "purple", "white"), ("sofa", "vase", "mug", "car")
SYMMETRIC = {"table", "lamp", "shelf", "mug", "vase"}


def main() -> None:
    """Generate, measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="3d.views", help="name or folder")
    parser.add_argument("--per-family", type=int, default=1, help="shapes of each family")
    parser.add_argument("--split", default="test", choices=("test", "held_out"), help="held_out: unseen attributes")
    parser.add_argument("--unseen-rig", action="store_true", help="pairs of FOV and radius that training left out")
    parser.add_argument("--guidance-scale", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--schedule", default=None, help="schedule of times, for example uniform")
    parser.add_argument("--first", type=int, default=0, help="number of the first shape of each family")
    parser.add_argument("--pictures", type=Path, default=None, help="folder of given.png, truth.png and text.png")
    parser.add_argument("--more", action="store_true", help="rows of 1, 4 and 15 views, two given pictures, and text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = Pipeline.from_pretrained(args.model, task="3d.views")
    names = ("guidance_scale", "steps", "schedule")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    scenes = [
        make_scene(name, number, args.split, args.unseen_rig)
        for number in range(args.first, args.first + args.per_family)
        for name in FAMILIES
    ]
    truth = torch.stack([scene["renders"][[turn // STEP for turn in TARGETS]] for scene in scenes])
    given = torch.stack([scene["renders"][0] for scene in scenes])
    generated, regressed, from_text, seconds = [], [], [], []
    for scene in scenes:
        cameras = [scene["cameras"][turn // STEP] for turn in TARGETS]
        begin = time.perf_counter()
        generated.append(generate(pipe, scene, cameras, (0,), **options))
        seconds.append(time.perf_counter() - begin)
        regressed.append(generate(pipe, scene, cameras, (0,), **REGRESSION))
        from_text.append(generate(pipe, scene, [scene["cameras"][0], *cameras], prompt=scene["caption"], **options))
    views = torch.stack(generated)
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        write_sheet(torch.cat([given[:, None], views], dim=1), args.pictures / "given.png")
        write_sheet(torch.cat([given[:, None], truth], dim=1), args.pictures / "truth.png")
        write_sheet(torch.stack(from_text), args.pictures / "text.png")
    rows = {
        "model, one given picture": scores(views, truth),
        "regression twin": scores(torch.stack(regressed), truth),
        "copy of the given picture": scores(given[:, None].expand_as(truth), truth),
        "mean of the class at the pose": scores(class_means(scenes, truth), truth),
    }
    orbit = CameraBatch.of([[scene["cameras"][turn // STEP] for turn in (0, *TARGETS)] for scene in scenes])
    rows["model, one given picture"]["hull"] = hull(torch.cat([given[:, None], views], 1), orbit)
    rows["model, text alone"] = {"hull": hull(torch.stack(from_text), orbit), "colours": colors(pipe, **options)}
    rows["truth"] = {"hull": hull(torch.cat([given[:, None], truth], 1), orbit)}
    rows["model, one given picture"] |= poses(scenes, views)
    if args.more:
        rows |= more_rows(pipe, scenes, views, **options)
    result = {"shapes": len(scenes), "seconds of 7 views": float(np.median(seconds)), "rows": rows}
    for name, row in rows.items():
        print(f"{name:32}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(f"{len(scenes)} shapes, {result['seconds of 7 views']:.2f} s for 7 views")
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def make_scene(family: str, number: int, split: str, unseen_rig: bool) -> dict:
    """Render a shape every 5 degrees at an elevation of 20, from a random start."""
    shape = make_shape(family, number, split)
    rng = np.random.default_rng((8, number, FAMILIES.index(family)))
    rig, start = (held_out_rig if unseen_rig else random_rig)(rng), float(rng.uniform(0, 360))
    cameras = [rig.camera(start + turn, 20.0) for turn in range(0, 360, STEP)]
    renders = to_views(render_views(shape.mesh, cameras, 64)).movedim(1, 0)
    return {"family": family, "cameras": cameras, "renders": renders, "caption": full_caption(shape)}


def generate(pipe: Pipeline, scene: dict, cameras: list[Camera], given: tuple[int, ...] = (), **fields) -> Tensor:
    """Return views (V, 4, 64, 64); `given` are the turns of the given pictures from the first, in degrees."""
    if given:
        at = [scene["cameras"][turn // STEP] for turn in given]
        fields |= {"image": [scene["renders"][turn // STEP] for turn in given]}
        fields |= {"image_azimuth": [c.azimuth for c in at], "image_elevation": [c.elevation for c in at]}
        fields |= {"fov": at[0].fov, "radius": at[0].radius}
    request = ViewsRequest.read({**fields, "cameras": cameras, "seed": 1}, "request")
    return pipe([request])[0].data.movedim(1, 0)


def more_rows(pipe: Pipeline, scenes: list[dict], seven: Tensor, **options) -> dict[str, dict[str, float]]:
    """Return scores of other counts of views, of two given pictures, of a given picture with text, and by family."""

    def row(turns: tuple[int, ...], per_request: int, given: tuple[int, ...] = (0,), text: bool = False) -> dict:
        views = []
        for scene in scenes:
            cameras = [scene["cameras"][turn // STEP] for turn in turns]
            fields = options | ({"prompt": scene["caption"]} if text else {})
            parts = [cameras[start : start + per_request] for start in range(0, len(turns), per_request)]
            views.append(torch.cat([generate(pipe, scene, part, given, **fields) for part in parts]))
        return scores(torch.stack(views), truth(turns))

    def truth(turns: tuple[int, ...]) -> Tensor:
        return torch.stack([scene["renders"][[turn // STEP for turn in turns]] for scene in scenes])

    rows = {
        "four of the seven": scores(seven[:, [TARGETS.index(turn) for turn in FOUR]], truth(FOUR)),
        "these four at once": row(FOUR, 4),
        "these four one by one": row(FOUR, 1),
        "fifteen at once": row(FIFTEEN, 15),
        "two given pictures, six views": row(SIX, 6, given=(0, 180)),
        "one given picture and text": row(TARGETS, 7, text=True),
    }
    for family in FAMILIES:
        chosen = [index for index, scene in enumerate(scenes) if scene["family"] == family]
        rows[f"seven views, {family}"] = scores(seven[chosen], truth(TARGETS)[chosen])
    return rows


def scores(views: Tensor, truth: Tensor) -> dict[str, float]:
    """Return silhouette IoU, PSNR in dB, and gradient energy over that of the truth."""
    return {
        "iou": float(silhouette_iou(silhouettes(views), silhouettes(truth)).mean()),
        "psnr": float(psnr(views, truth).mean()),
        "sharpness": float(gradient_energy(views).mean() / gradient_energy(truth).mean()),
    }


def write_sheet(views: Tensor, path: Path) -> None:
    """Write views (S, V, 4, H, W) over white: a row for each scene."""
    rows = ((views[:, :, :3].clamp(-1, 1) + 1) * 127.5).byte().permute(0, 3, 1, 4, 2)
    Image.fromarray(rows.flatten(2, 3).flatten(0, 1).numpy()).save(path)


def class_means(scenes: list[dict], truth: Tensor) -> Tensor:
    """Return for each scene the mean true view of the other scenes of its class; its own if there is no other."""
    means = []
    for index, scene in enumerate(scenes):
        others = [k for k, other in enumerate(scenes) if other["family"] == scene["family"] and k != index]
        means.append(truth[others or [index]].mean(dim=0))
    return torch.stack(means)


def hull(views: Tensor, cameras: CameraBatch) -> float:
    """Return the mean IoU of silhouettes with those of the hull carved from them."""
    return float(hull_consistency(silhouettes(views), cameras).mean())


def colors(pipe: Pipeline, **fields) -> float:
    """Return the share of 24 prompts whose first view has the named colour."""
    palette, right = np.array([COLORS[name] for name in COLOR_NAMES]), 0
    prompts = [(index, f"a {name} {family}") for index, name in enumerate(COLOR_NAMES) for family in COLORED]
    for seed, (index, prompt) in enumerate(prompts):
        view = np.asarray(pipe(prompt, seed=seed, **fields).views[0][0]).astype(float)
        opaque = view[view[..., 3] > 200][:, :3]
        right += len(opaque) > 0 and int(np.abs(palette - np.median(opaque, axis=0)).sum(axis=1).argmin()) == index
    return right / len(prompts)


def poses(scenes: list[dict], views: Tensor) -> dict[str, float]:
    """Return the share of views of asymmetric objects whose nearest true render is at most 5 degrees away."""
    rows = [index for index, scene in enumerate(scenes) if scene["family"] not in SYMMETRIC]
    near = nearest_render(views[rows], torch.stack([scenes[index]["renders"] for index in rows])) * STEP
    error = (near - torch.tensor(TARGETS) + 180) % 360 - 180
    return {"pose within 5 degrees": float((error.abs() <= STEP).float().mean())}


if __name__ == "__main__":
    main()
